//! Numbers and times as people of a language read them.

use super::language::Language;
use super::texts::Texts;
use crate::clock::Timestamp;
use crate::format;
use crate::mirror::inspect::When;
use std::time::Duration;

/// Characters of a digest that tell it apart from others.
const DIGEST_CHARACTERS: usize = 12;

/// The text for what is not known.
const NOTHING: &str = "–";

/// Shows to somebody, at a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Show {
    pub(super) language: Language,
    pub(super) now: Timestamp,
}

/// A moment for a page: for machines, and how long ago it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Moment {
    /// RFC 3339; empty where there is none.
    pub(super) at: String,
    pub(super) ago: String,
}

impl Show {
    pub(super) fn texts(self) -> &'static Texts {
        self.language.texts()
    }

    /// A length of time in its two largest units: `3 h 12 min`.
    pub(super) fn lasted(self, time: Duration) -> String {
        let seconds = time.as_secs();
        let units = match self.language {
            Language::English => ["d", "h", "min", "s"],
            Language::Chinese => ["天", "小时", "分钟", "秒"],
        };
        let [day, hour, minute, second] = units;
        let (days, hours) = (seconds / 86400, seconds / 3600 % 24);
        let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
        match (days, hours, minutes) {
            (0, 0, 0) => format!("{rest} {second}"),
            (0, 0, _) => format!("{minutes} {minute}"),
            (0, _, _) => format!("{hours} {hour} {minutes} {minute}"),
            (_, _, _) => format!("{days} {day} {hours} {hour}"),
        }
    }

    /// A moment in the past.
    pub(super) fn moment(self, when: Option<When>) -> Moment {
        let Some(when) = when else {
            return Moment {
                at: String::new(),
                ago: NOTHING.to_owned(),
            };
        };
        let since = self.now.since(when.0);
        let ago = self.lasted(since);
        Moment {
            at: when.to_string(),
            // Seconds would change at each look, and with them all that is sent to those who look.
            ago: match (since < Duration::from_mins(1), self.language) {
                (true, _) => self.texts().just_now.to_owned(),
                (false, Language::English) => format!("{ago} ago"),
                (false, Language::Chinese) => format!("{ago}前"),
            },
        }
    }
}

/// `78.1%`
pub(super) fn ratio(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| NOTHING.to_owned(), |it| format!("{:.1}%", it * 100.0))
}

/// `1,234,567`
pub(super) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes: `21.0 MB`.
pub(super) fn size(bytes: u64) -> String {
    format::size(bytes)
}

/// A short time: `13 ms`.
pub(super) fn latency(seconds: Option<f64>) -> String {
    match seconds {
        None => NOTHING.to_owned(),
        Some(it) if it < 1.0 => format!("{:.0} ms", it * 1000.0),
        Some(it) => format!("{it:.1} s"),
    }
}

/// The part of a digest that people compare.
pub(super) fn digest(digest: &str) -> String {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    hex.chars().take(DIGEST_CHARACTERS).collect()
}

/// A number, if there is one.
pub(super) fn optional(count: Option<u64>) -> String {
    count.map_or_else(|| NOTHING.to_owned(), self::count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        let show = |language| Show {
            language,
            now: Timestamp(1_000_000),
        };
        let (english, chinese) = (show(Language::English), show(Language::Chinese));
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!((count(0), count(999)), ("0".into(), "999".into()));
        assert_eq!(ratio(Some(0.7814)), "78.1%");
        assert_eq!(ratio(None), "–");
        assert_eq!(english.lasted(Duration::from_secs(59)), "59 s");
        assert_eq!(
            english.lasted(Duration::from_secs(3 * 3600 + 61)),
            "3 h 1 min"
        );
        assert_eq!(chinese.lasted(Duration::from_hours(25)), "1 天 1 小时");
        assert_eq!(latency(Some(0.0134)), "13 ms");
        assert_eq!(digest("sha256:0123456789abcdef"), "0123456789ab");
        let moment = english.moment(Some(When(Timestamp(880_000))));
        assert_eq!(moment.at, "1970-01-01T00:14:40Z");
        assert_eq!(moment.ago, "2 min ago");
        assert_eq!(
            chinese.moment(Some(When(Timestamp(880_000)))).ago,
            "2 分钟前"
        );
    }
}

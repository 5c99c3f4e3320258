//! Conditions of statements: a closed list, each of which can be told for any request.

use super::resource::glob;
use crate::clock::Timestamp;
use crate::net::Network;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;

const DAY_SECONDS: u64 = 24 * 3600;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
/// 1 January 1970 was a Thursday.
const EPOCH_DAY: u64 = 3;

/// The circumstances of a request.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The client's address.
    pub source: IpAddr,
    /// The tag that the request names; `None` for a digest, a list, or where there is no image.
    pub tag: Option<&'a str>,
    /// When it was made.
    pub now: Timestamp,
}

/// When a statement holds. What is not said is not asked; all that is said must hold, and of several values one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Networks that the client is in.
    pub source_ip: Vec<Network>,
    /// Patterns of the tag.
    pub tag: Vec<String>,
    /// Windows of time.
    pub time: Vec<Window>,
    /// The client has shown a certificate that was accepted.
    pub certificate: Option<bool>,
    /// Patterns of claims of the client's token or certificate.
    pub claim: BTreeMap<String, Vec<String>>,
}

/// A part of each day, of some days of the week.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Days of the week, from Monday.
    days: [bool; 7],
    /// Minutes of the day; where `to` is not after `from`, the window goes on past midnight, and counts for the day on
    /// which it began.
    from: u16,
    to: u16,
    /// East of Greenwich, in minutes.
    offset: i16,
    text: String,
}

impl Condition {
    /// True if it holds. A condition on the tag says nothing of requests that name none: `without_tag` is what they get.
    #[must_use]
    pub fn holds(&self, who: &super::Principal, at: &Context<'_>, without_tag: bool) -> bool {
        let source = at.source.to_canonical();
        let one_of = |patterns: &[String], value: &str| patterns.iter().any(|it| glob(it, value));
        (self.source_ip.is_empty() || self.source_ip.iter().any(|it| it.contains(source)))
            && (self.tag.is_empty() || at.tag.map_or(without_tag, |tag| one_of(&self.tag, tag)))
            && (self.time.is_empty() || self.time.iter().any(|it| it.contains(at.now)))
            && self.certificate.is_none_or(|it| it == who.certificate)
            && self.claim.iter().all(|(name, patterns)| {
                let value = who.claims.get(name);
                value.is_some_and(|value| one_of(patterns, value))
            })
    }

    /// True if nothing is asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Window {
    /// True if this moment is in it.
    #[must_use]
    pub fn contains(&self, now: Timestamp) -> bool {
        let seconds = (now.0 / 1000).saturating_add_signed(i64::from(self.offset) * 60);
        let (day, minute) = (seconds / DAY_SECONDS, seconds % DAY_SECONDS / 60);
        let is_on = |day: u64| {
            let weekday = usize::try_from((day + EPOCH_DAY) % 7).unwrap_or_default();
            self.days.get(weekday).copied().unwrap_or_default()
        };
        let (from, to) = (u64::from(self.from), u64::from(self.to));
        if from < to {
            is_on(day) && (from..to).contains(&minute)
        } else {
            (minute >= from && is_on(day)) || (minute < to && is_on(day + 6))
        }
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Window {
    type Err = String;

    /// `[DAYS] HH:MM-HH:MM [OFFSET]`: days such as `mon-fri` or `sat,sun`, and `+08:00`; UTC without an offset.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no window of time like \"mon-fri 08:00-18:00 +08:00\"");
        let mut words = text.split_ascii_whitespace().peekable();
        let begins_with_days = words
            .peek()
            .is_some_and(|word| word.starts_with(|c: char| c.is_ascii_alphabetic()));
        let days = match words.next_if(|_| begins_with_days) {
            Some(days) => days_of(days).ok_or_else(wrong)?,
            None => [true; 7],
        };
        let hours = words.next().and_then(|word| word.split_once('-'));
        let (from, to) = hours.ok_or_else(wrong)?;
        let (from, to) = (minutes(from), minutes(to));
        let (from, to) = (from.ok_or_else(wrong)?, to.ok_or_else(wrong)?);
        let offset = match words.next() {
            Some(offset) => offset_of(offset).ok_or_else(wrong)?,
            None => 0,
        };
        if words.next().is_some() || from == 24 * 60 || from == to {
            return Err(wrong());
        }
        Ok(Self {
            days,
            from,
            to,
            offset,
            text: text.to_owned(),
        })
    }
}

/// Days of the week: `mon-fri`, `sat,sun`; a range may go past Sunday.
fn days_of(text: &str) -> Option<[bool; 7]> {
    let day = |name: &str| DAYS.iter().position(|day| day.eq_ignore_ascii_case(name));
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        let count = (last + 7 - first) % 7;
        for at in first..=first + count {
            *days.get_mut(at % 7)? = true;
        }
    }
    Some(days)
}

/// Minutes of the day: `08:30`; `24:00` is its end.
fn minutes(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let two = |digits: &str| {
        (digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit()))
            .then(|| digits.parse::<u16>().ok())?
    };
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    (minutes < 60 && hours * 60 + minutes <= 24 * 60).then_some(hours * 60 + minutes)
}

fn offset_of(text: &str) -> Option<i16> {
    if text == "UTC" || text == "Z" {
        return Some(0);
    }
    let minutes = i16::try_from(minutes(text.get(1..)?)?).ok()?;
    match text.get(..1)? {
        "+" => Some(minutes),
        "-" => Some(-minutes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Principal;

    fn context(source: &str, tag: Option<&'static str>, seconds: u64) -> Context<'static> {
        Context {
            source: source.parse().expect("an address"),
            tag,
            now: Timestamp(seconds * 1000),
        }
    }

    #[test]
    fn every_condition_must_hold_and_one_of_its_values() {
        let condition = Condition {
            source_ip: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
            tag: vec!["pr-*".to_owned()],
            certificate: Some(true),
            claim: BTreeMap::from([("sub".to_owned(), vec!["repo:acme/*".to_owned()])]),
            ..Condition::default()
        };
        let who = Principal {
            certificate: true,
            claims: BTreeMap::from([("sub".to_owned(), "repo:acme/app".to_owned())]),
            ..Principal::anonymous()
        };
        let holds =
            |who: &Principal, source, tag| condition.holds(who, &context(source, tag, 0), false);
        assert!(holds(&who, "10.1.2.3", Some("pr-1")));
        assert!(holds(&who, "::ffff:10.1.2.3", Some("pr-1")));
        assert!(holds(&who, "fd00::1", Some("pr-1")));
        assert!(!holds(&who, "11.1.2.3", Some("pr-1")));
        assert!(!holds(&who, "10.1.2.3", Some("main")));
        assert!(!holds(&who, "10.1.2.3", None));
        assert!(condition.holds(&who, &context("10.1.2.3", None, 0), true));
        assert!(!holds(
            &Principal {
                certificate: false,
                ..who.clone()
            },
            "10.1.2.3",
            Some("pr-1")
        ));
        assert!(!holds(
            &Principal {
                claims: BTreeMap::new(),
                ..who
            },
            "10.1.2.3",
            Some("pr-1")
        ));
    }

    #[test]
    fn windows_know_days_midnight_and_offsets() {
        // Thursday, 1 January 1970, 00:00 UTC.
        let hour = 3600;
        let day = 24 * hour;
        let table: &[(&str, &[u64], &[u64])] = &[
            (
                "08:00-18:00",
                &[8 * hour, 18 * hour - 1],
                &[8 * hour - 1, 18 * hour],
            ),
            (
                "mon-fri 08:00-18:00",
                &[8 * hour, day + 8 * hour],
                &[2 * day + 8 * hour],
            ),
            (
                "sat,sun 00:00-24:00",
                &[2 * day, 4 * day - 1],
                &[2 * day - 1, 4 * day],
            ),
            (
                "thu 22:00-06:00",
                &[22 * hour, day + 6 * hour - 1],
                &[5 * hour, 2 * day],
            ),
            ("fri-mon 00:00-24:00", &[day, 4 * day], &[0, 5 * day]),
            ("08:00-18:00 +08:00", &[0, 10 * hour - 1], &[10 * hour]),
            (
                "fri 00:00-24:00 +08:00",
                &[16 * hour],
                &[15 * hour, day + 16 * hour],
            ),
            (
                "thu 00:00-24:00 -01:30",
                &[2 * hour, day + hour],
                &[day + 2 * hour],
            ),
        ];
        for (text, inside, outside) in table {
            let window: Window = text.parse().expect(text);
            for at in *inside {
                assert!(window.contains(Timestamp(at * 1000)), "{text} at {at}");
            }
            for at in *outside {
                assert!(!window.contains(Timestamp(at * 1000)), "{text} at {at}");
            }
        }
    }

    #[test]
    fn other_windows_are_refused() {
        for text in [
            "",
            "8:00-18:00",
            "08:00",
            "08:00-08:00",
            "24:00-01:00",
            "08:00-25:00",
            "monday 08:00-18:00",
            "08:00-18:00 CET",
            "08:00-18:00 +08:00 x",
        ] {
            text.parse::<Window>().expect_err(text);
        }
    }
}

//! From what was written to what was meant: one pure function for each kind of value. The errors say
//! why, not where.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use url::Url;

use super::error::Shown;
use super::raw::{Leaf, Value};
use crate::mirror::FillOnRange;
use crate::store::Amount;
use crate::upstream::Strategy;

/// Any text but the empty one.
pub(super) fn text(value: &Value) -> Result<String, String> {
    match value {
        Value::Text(text) if text.is_empty() => Err("must not be empty".to_owned()),
        Value::Text(text) => Ok(text.clone()),
        Value::Integer(_) | Value::Boolean(_) | Value::List(_) | Value::Table(_) | Value::Other => {
            Err("must be text in quotes".to_owned())
        }
    }
}

/// A file or directory; whether it exists is found out where it is used.
pub(super) fn path(value: &Value) -> Result<PathBuf, String> {
    text(value).map(PathBuf::from)
}

/// `true` or `false`; as text too, for the environment has nothing else.
pub(super) fn boolean(value: &Value) -> Result<bool, String> {
    match value {
        Value::Boolean(value) => Ok(*value),
        Value::Text(text) if text == "true" => Ok(true),
        Value::Text(text) if text == "false" => Ok(false),
        Value::Text(_) | Value::Integer(_) | Value::List(_) | Value::Table(_) | Value::Other => {
            Err("must be true or false".to_owned())
        }
    }
}

/// Connections for one blob.
pub(super) fn parallel(value: &Value) -> Result<usize, String> {
    number(value, PARALLEL_MAX)
}

/// Requests to one upstream at the same time.
pub(super) fn max_connections(value: &Value) -> Result<usize, String> {
    number(value, CONNECTIONS_MAX)
}

/// A whole number.
pub(super) fn number(value: &Value, max: usize) -> Result<usize, String> {
    let number = match value {
        Value::Integer(number) => usize::try_from(*number).ok(),
        Value::Text(text) => text.parse().ok(),
        Value::Boolean(_) | Value::List(_) | Value::Table(_) | Value::Other => None,
    };
    number
        .filter(|number| (1..=max).contains(number))
        .ok_or_else(|| format!("must be a whole number from 1 to {max}"))
}

/// Which endpoint is asked first.
pub(super) fn strategy(value: &Value) -> Result<Strategy, String> {
    match value {
        Value::Text(text) if text == "ordered" => Ok(Strategy::Ordered),
        Value::Text(text) if text == "fastest" => Ok(Strategy::Fastest),
        Value::Text(_)
        | Value::Integer(_)
        | Value::Boolean(_)
        | Value::List(_)
        | Value::Table(_)
        | Value::Other => Err("must be \"ordered\" or \"fastest\"".to_owned()),
    }
}

/// A program and its arguments.
pub(super) fn command(value: &Value) -> Result<Vec<String>, String> {
    let wrong = || "must be an array of a program and its arguments, like [\"program\"]".to_owned();
    let Value::List(items) = value else {
        return Err(wrong());
    };
    let word = |item: &Leaf| match &item.value {
        Value::Text(word) => Ok(word.clone()),
        Value::Integer(_) | Value::Boolean(_) | Value::List(_) | Value::Table(_) | Value::Other => {
            Err(wrong())
        }
    };
    let words: Vec<String> = items.iter().map(word).collect::<Result<_, _>>()?;
    match words.first() {
        Some(program) if !program.is_empty() => Ok(words),
        Some(_) | None => Err(wrong()),
    }
}

/// An IP address.
pub(super) fn ip_address(value: &Value) -> Result<IpAddr, String> {
    let text = text(value)?;
    text.parse()
        .map_err(|_| format!("{} is not an IP address", Shown(&text)))
}

/// Bytes of one request of several for a blob.
pub(super) fn segment_size(value: &Value) -> Result<u64, String> {
    match size(value)? {
        size if size < SEGMENT_SIZE_MIN => {
            Err("must be at least 1MiB: smaller requests cost more than they give".to_owned())
        }
        size => Ok(size),
    }
}

/// A number of bytes: `100GB` (decimal), `64MiB` (binary) or plain bytes.
pub(super) fn size(value: &Value) -> Result<u64, String> {
    let (written, bytes) = match value {
        Value::Integer(number) => (number.to_string(), u64::try_from(*number).ok()),
        Value::Text(text) => (Shown(text).to_string(), size_of_text(text)),
        Value::Boolean(_) | Value::List(_) | Value::Table(_) | Value::Other => {
            return Err("must be a size like \"100GB\" or \"64MiB\"".to_owned());
        }
    };
    match bytes {
        Some(0) => Err("must be more than 0".to_owned()),
        Some(bytes) if bytes <= SIZE_MAX => Ok(bytes),
        Some(_) => Err(format!("{written} is larger than any disk")),
        None => Err(format!(
            "{written} is not a size like \"100GB\", \"64MiB\" or a number of bytes"
        )),
    }
}

/// What the store may take: a size, or a part of the file system.
pub(super) fn max_size(value: &Value) -> Result<Amount, String> {
    amount(value, 1..=100)
}

/// What the store leaves free: likewise, or nothing.
pub(super) fn min_free(value: &Value) -> Result<Amount, String> {
    match value {
        Value::Integer(0) => Ok(Amount::Bytes(0)),
        Value::Text(text) if size_of_text(text) == Some(0) => Ok(Amount::Bytes(0)),
        Value::Text(_)
        | Value::Integer(_)
        | Value::Boolean(_)
        | Value::List(_)
        | Value::Table(_)
        | Value::Other => amount(value, 0..=99),
    }
}

/// How long what nobody uses is kept; `None`: as long as there is room.
pub(super) fn max_age(value: &Value) -> Result<Option<Duration>, String> {
    match value {
        Value::Text(text) if text == OFF => Ok(None),
        Value::Text(_)
        | Value::Integer(_)
        | Value::Boolean(_)
        | Value::List(_)
        | Value::Table(_)
        | Value::Other => match duration(value).map_err(|why| format!("{why}, or \"{OFF}\""))? {
            age if age < MAX_AGE_MIN => Err(format!("must be at least 1h, or \"{OFF}\"")),
            age => Ok(Some(age)),
        },
    }
}

/// A use is noted to the minute, and a pull takes some of them.
const MAX_AGE_MIN: Duration = Duration::from_hours(1);

/// What comes of a blob of which a part was asked for.
pub(super) fn fill_on_range(value: &Value) -> Result<FillOnRange, String> {
    const MEANT: &str = "must be \"always\", \"never\" or like \"over 25%\"";
    let Value::Text(text) = value else {
        return Err(MEANT.to_owned());
    };
    let words: Vec<_> = text.split_whitespace().collect();
    match *words.as_slice() {
        ["always"] => Ok(FillOnRange::Always),
        ["never"] => Ok(FillOnRange::Never),
        ["over", part] => percent(part, &(0..=99))
            .map(FillOnRange::Over)
            .ok_or_else(|| format!("{} is not a whole percentage from 0% to 99%", Shown(part))),
        _ => Err(format!("{} {MEANT}", Shown(text))),
    }
}

/// Whole percents.
fn percent(text: &str, allowed: &RangeInclusive<u8>) -> Option<u8> {
    // `parse` alone would take a leading `+`.
    let digits = text.trim().strip_suffix('%')?.trim_end();
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let percent = digits.parse::<u8>().ok();
    percent.filter(|percent| plain && allowed.contains(percent))
}

/// A number of bytes, or whole percents of the file system.
fn amount(value: &Value, percents: RangeInclusive<u8>) -> Result<Amount, String> {
    if let Some(number) = bare(value).filter(|number| *number < BARE_BYTES_MIN) {
        return Err(format!("{number} has no unit; write \"{number}GB\""));
    }
    let Value::Text(text) = value else {
        return size(value).map(Amount::Bytes);
    };
    if !text.trim().ends_with('%') {
        return size(value).map(Amount::Bytes);
    }
    percent(text, &percents)
        .map(Amount::Percent)
        .ok_or_else(|| {
            let (text, least, most) = (Shown(text), percents.start(), percents.end());
            format!("{text} is not a whole percentage from {least}% to {most}%")
        })
}

/// A number of bytes without a unit, but not nothing.
fn bare(value: &Value) -> Option<u64> {
    let number = match value {
        Value::Integer(number) => u64::try_from(*number).ok(),
        Value::Text(text) => text.trim().parse().ok(),
        Value::Boolean(_) | Value::List(_) | Value::Table(_) | Value::Other => None,
    };
    number.filter(|number| *number > 0)
}

fn size_of_text(text: &str) -> Option<u64> {
    let bytes = text.trim().parse::<ByteSize>().ok()?;
    // Without a unit only whole bytes make sense: "1.5" is a forgotten unit.
    let unit = text.chars().any(|c| c.is_ascii_alphabetic());
    (unit || !text.contains('.')).then_some(bytes.as_u64())
}

/// A length of time that may be zero: `30s`, `5m`, `7d`, `1h 30m`.
pub(super) fn duration(value: &Value) -> Result<Duration, String> {
    let text = match value {
        Value::Text(text) => text.trim(),
        Value::Integer(number) if *number != 0 => {
            return Err(format!("{number} has no unit; write \"{number}s\""));
        }
        Value::Integer(_) => "0s",
        Value::Boolean(_) | Value::List(_) | Value::Table(_) | Value::Other => {
            return Err("must be a duration like \"30s\", \"5m\" or \"7d\"".to_owned());
        }
    };
    let duration = humantime::parse_duration(text).map_err(|_| {
        let text = Shown(text);
        format!("{text} is not a duration like \"30s\", \"5m\" or \"7d\"")
    })?;
    if duration > DURATION_MAX {
        return Err(format!("{} is more than a hundred years", Shown(text)));
    }
    Ok(duration)
}

/// In which time the store is hashed again; `off`: it is not.
pub(super) fn scrub(value: &Value) -> Result<Option<Duration>, String> {
    if matches!(value, Value::Text(text) if text.trim() == OFF) {
        return Ok(None);
    }
    let period = duration(value).map_err(|why| format!("{why}, or \"{OFF}\""))?;
    if period < SCRUB_MIN {
        return Err(format!(
            "must be at least {}h, or \"{OFF}\"",
            SCRUB_MIN.as_secs() / 3600
        ));
    }
    Ok(Some(period))
}

/// A time limit: zero would let nothing through.
pub(super) fn time_limit(value: &Value) -> Result<Duration, String> {
    match duration(value)? {
        Duration::ZERO => Err("must be more than 0".to_owned()),
        limit => Ok(limit),
    }
}

/// A wait that can be doubled several times and still make sense.
pub(super) fn retry_delay(value: &Value) -> Result<Duration, String> {
    let delay = time_limit(value)?;
    if delay > RETRY_DELAY_MAX {
        let most = RETRY_DELAY_MAX.as_secs();
        return Err(format!(
            "must be at most {most}s: it is doubled with each retry"
        ));
    }
    Ok(delay)
}

/// The limit to the first response header, which has a limit itself.
pub(super) fn header_timeout(value: &Value) -> Result<Duration, String> {
    let limit = time_limit(value)?;
    if limit > HEADER_TIMEOUT_MAX {
        return Err(format!(
            "must be at most {}s: containerd gives up a request after 30s without a header, \
             and must hear from roadstead before that",
            HEADER_TIMEOUT_MAX.as_secs()
        ));
    }
    Ok(limit)
}

/// Where to listen: `IP:PORT`, `localhost:PORT` (127.0.0.1) or `:PORT` (every IPv4 address).
pub(super) fn address(value: &Value) -> Result<SocketAddr, String> {
    let text = text(value)?;
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let parts = text.rsplit_once(':').and_then(|(host, port)| {
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse::<u16>().ok().filter(|_| digits)?;
        match host {
            "" => Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)),
            "localhost" => Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)),
            _ => None,
        }
    });
    parts.ok_or_else(|| {
        let text = Shown(&text);
        format!("{text} is not an address like \"127.0.0.1:5000\", \"[::]:5000\" or \":5000\"")
    })
}

/// The base URL of a registry.
pub(super) fn endpoint_url(value: &Value) -> Result<Url, String> {
    url(value, "; use username and password_file")
}

/// The base URL of a cloud's service.
pub(super) fn service_url(value: &Value) -> Result<Url, String> {
    url(value, "")
}

/// An HTTP URL; `instead` says where a user name belongs.
fn url(value: &Value, instead: &str) -> Result<Url, String> {
    let text = text(value)?;
    let shown = Shown(&text);
    let not_http = || format!("{shown} is not an http:// or https:// URL");
    let lower = text.to_ascii_lowercase();
    if !lower.starts_with("http://") && !lower.starts_with("https://") {
        return Err(not_http());
    }
    let url = Url::parse(&text).map_err(|why| format!("{}: {why}", not_http()))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!(
            "{shown} must not hold a user name or password{instead}"
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(format!("{shown} must not have a query or a fragment"));
    }
    Ok(url)
}

/// Some minutes at the fiftyfold, after which nobody waits any more.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(10);

/// Registries throttle or ban a client long before this many connections help.
const PARALLEL_MAX: usize = 64;

/// Far above what a registry lets one address have.
const CONNECTIONS_MAX: usize = 1024;

/// Below this, asking takes longer than the bytes do.
const SEGMENT_SIZE_MIN: u64 = 1024 * 1024;
/// Fewer bytes, less than a block of a file system, are a forgotten unit: `--cache-size 10` means 10 GB.
const BARE_BYTES_MIN: u64 = 4096;

/// File offsets are signed, and so are TOML's numbers.
const SIZE_MAX: u64 = i64::MAX.unsigned_abs();

/// So that adding it to a clock cannot overflow. Nothing is meant to last longer.
const DURATION_MAX: Duration = Duration::from_hours(100 * 366 * 24);

/// Under containerd's `ResponseHeaderTimeout` of 30 s, with time left to answer (invariant 9).
const HEADER_TIMEOUT_MAX: Duration = Duration::from_secs(25);

/// What turns something off that has a length of time.
pub(super) const OFF: &str = "off";
/// The shortest time for a scrub of the whole store: no disk should do nothing else.
const SCRUB_MIN: Duration = Duration::from_hours(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn sizes_in_every_form() {
        for (text, bytes) in [
            ("100GB", 100_000_000_000),
            ("100 GB", 100_000_000_000),
            ("64MiB", 64 << 20),
            ("1.5GiB", 3 << 29),
            ("50g", 50_000_000_000),
            ("4096", 4096),
            ("1B", 1),
            (" 2KiB ", 2048),
        ] {
            assert_eq!(size(&written(text)), Ok(bytes), "{text}");
        }
        assert_eq!(size(&Value::Integer(4096)), Ok(4096));
    }

    #[test]
    fn sizes_that_are_nonsense() {
        for text in [
            "",
            "GB",
            "-1GB",
            "1.5",
            "1e9",
            "ten",
            "10 bananas",
            "1GB2",
            "0",
            "0GB",
            "0.1B",
            "20EB",
            "99999999999999999999",
            "1..5GB",
            "١GB",
        ] {
            assert!(size(&written(text)).is_err(), "{text}");
        }
        for value in [
            Value::Integer(-1),
            Value::Integer(0),
            Value::Boolean(true),
            Value::Other,
        ] {
            assert!(size(&value).is_err());
        }
    }

    #[test]
    fn parts_of_the_file_system() {
        for (text, percent) in [("80%", 80), ("1%", 1), ("100%", 100), (" 7 % ", 7)] {
            assert_eq!(
                max_size(&written(text)),
                Ok(Amount::Percent(percent)),
                "{text}"
            );
        }
        for text in [
            "0%", "101%", "-1%", "+5%", "1.5%", "%", "x%", "80%%", "80% GB", "300%",
        ] {
            assert!(max_size(&written(text)).is_err(), "{text}");
        }
        assert_eq!(max_size(&written("4KiB")), Ok(Amount::Bytes(4096)));
        assert_eq!(min_free(&written("0%")), Ok(Amount::Percent(0)));
        assert_eq!(min_free(&written("10%")), Ok(Amount::Percent(10)));
        for nothing in [Value::Integer(0), written("0"), written("0GB")] {
            assert_eq!(min_free(&nothing), Ok(Amount::Bytes(0)));
            assert!(max_size(&nothing).is_err());
        }
        let why = min_free(&written("100%")).unwrap_err();
        assert!(why.contains("from 0% to 99%"), "{why}");
    }

    #[test]
    fn durations_in_every_form() {
        for (text, seconds) in [
            ("30s", 30),
            ("5m", 300),
            ("7d", 604_800),
            ("1h 30m", 5400),
            ("1h30m", 5400),
            ("0s", 0),
        ] {
            assert_eq!(
                duration(&written(text)),
                Ok(Duration::from_secs(seconds)),
                "{text}"
            );
        }
        assert_eq!(duration(&written("250ms")), Ok(Duration::from_millis(250)));
        assert_eq!(duration(&Value::Integer(0)), Ok(Duration::ZERO));
    }

    #[test]
    fn a_scrub_has_a_time_or_is_off() {
        assert_eq!(scrub(&written("off")), Ok(None));
        let month = Duration::from_hours(30 * 24);
        assert_eq!(scrub(&written("30d")), Ok(Some(month)));
        for (text, words) in [
            ("30m", "at least 1h"),
            ("0s", "\"off\""),
            ("never", "or \"off\""),
        ] {
            let why = scrub(&written(text)).unwrap_err();
            assert!(why.contains(words), "{text}: {why}");
        }
    }

    #[test]
    fn durations_that_are_nonsense() {
        for text in [
            "",
            "30",
            "-5s",
            "s",
            "five minutes",
            "5 parsecs",
            "1000years",
            "99999999999999999999s",
        ] {
            assert!(duration(&written(text)).is_err(), "{text}");
        }
        assert_eq!(
            duration(&Value::Integer(30)),
            Err("30 has no unit; write \"30s\"".to_owned())
        );
        assert!(time_limit(&written("0s")).is_err());
    }

    #[test]
    fn the_header_limit_stays_under_containerds() {
        assert_eq!(header_timeout(&written("25s")), Ok(Duration::from_secs(25)));
        let why = header_timeout(&written("25001ms")).unwrap_err();
        assert!(why.contains("containerd"), "{why}");
    }

    #[test]
    fn addresses_in_every_form() {
        for (text, address_) in [
            ("127.0.0.1:5000", "127.0.0.1:5000"),
            ("[::1]:5000", "[::1]:5000"),
            ("localhost:5000", "127.0.0.1:5000"),
            (":5000", "0.0.0.0:5000"),
            ("0.0.0.0:0", "0.0.0.0:0"),
        ] {
            assert_eq!(address(&written(text)).unwrap().to_string(), address_);
        }
        for text in [
            "",
            "5000",
            "127.0.0.1",
            "example.org:5000",
            ":65536",
            ":+5",
            ":",
            "::1:5000",
        ] {
            assert!(address(&written(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn endpoint_urls() {
        for text in [
            "https://ghcr.io",
            "http://127.0.0.1:5001/prefix/",
            "HTTPS://[::1]:5000",
        ] {
            assert!(endpoint_url(&written(text)).is_ok(), "{text}");
        }
        for text in [
            "",
            "ghcr.io",
            "ftp://x",
            "https://",
            "http://x?y",
            "http://x#y",
            "http:x",
            "http://x:99999",
        ] {
            assert!(endpoint_url(&written(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_refused_and_not_repeated() {
        for text in [
            "https://me:hunter2@ghcr.io",
            "htps://me:hunter2@ghcr.io",
            "https://me:hunter2@gh cr.io",
        ] {
            let why = endpoint_url(&written(text)).unwrap_err();
            assert!(!why.contains("hunter2"), "{why}");
        }
    }

    #[test]
    fn connections() {
        assert_eq!(parallel(&Value::Integer(64)), Ok(64));
        assert_eq!(parallel(&written("8")), Ok(8));
        for value in [
            Value::Integer(0),
            Value::Integer(65),
            Value::Integer(-1),
            written("x"),
            Value::Other,
        ] {
            assert!(parallel(&value).is_err());
        }
    }
}

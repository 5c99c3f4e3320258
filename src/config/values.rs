//! Kinds of values: what may be written, what it means, and the words for what makes no sense.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde_json::{Value as Json, json};
use toml::de::DeValue;
use url::Url;

use super::error::Shown;
use super::table::{About, Scalar};
use crate::access::{AdminAccess, Enforcement};
use crate::hosted::{Fall, ImmutableMode};
use crate::mirror::{Failure, FillOnRange, Pattern, Revalidate, Ttl};
use crate::oci::UpstreamName;
use crate::server::{Asks, ClientAuth};
use crate::store::Amount;
use crate::telemetry::{LogFormat, logging};
use crate::tier::When;
use crate::upstream::{Network, Strategy, Visibility};

/// Some minutes at the fiftyfold, after which nobody waits any more.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(10);
/// Below this, asking takes longer than the bytes do.
const SEGMENT_SIZE_MIN: u64 = 1024 * 1024;
/// Hardly a layer is smaller: a cache of fewer bytes is a forgotten unit.
const CACHE_SIZE_MIN: u64 = 1_000_000;
/// Fewer bytes, less than a block of a file system, are a forgotten unit: `10` means 10 GB.
const BARE_BYTES_MIN: u64 = 4096;
/// File offsets are signed, and so are TOML's numbers.
const SIZE_MAX: u64 = i64::MAX.unsigned_abs();
/// So that adding it to a clock cannot overflow. Nothing is meant to last longer.
const DURATION_MAX: Duration = Duration::from_hours(100 * 366 * 24);
/// Under containerd's `ResponseHeaderTimeout` of 30 s, with time left to answer (invariant 9).
const HEADER_TIMEOUT_MAX: Duration = Duration::from_secs(25);
/// The shortest time for a scrub of the whole store: no disk should do nothing else.
const SCRUB_MIN: Duration = Duration::from_hours(1);
/// A use is noted to the minute, and a pull takes some of them.
const MAX_AGE_MIN: Duration = Duration::from_hours(1);
/// Turns off something that has a length of time.
pub(super) const OFF: &str = "off";
/// `ttl` of a tag that is never asked again.
pub(super) const FOREVER: &str = "forever";

const SIZE_PATTERN: &str =
    r"\s*[0-9]+(\.[0-9]+)?\s*([kKmMgGtTpPeE]([iI]?[bB])?|[kKmMgGtTpPeE][iI]|[bB])?\s*";
const PERCENT_PATTERN: &str = r"\s*[0-9]{1,3}\s*%\s*";
const DURATION_PATTERN: &str = r"\s*(0|([0-9]+(\.[0-9]+)?\s*(ns|us|ms|s|m|h|d|w|M|y|nsec|nanos|usec|msec|millis|secs?|seconds?|mins?|minutes?|hrs?|hours?|days?|wks?|weeks?|months?|yrs?|years?)\s*)+)\s*";

/// Text that is one of these, for one value each.
macro_rules! choice {
    ($(#[$meta:meta])* $kind:ident: $value:ty { $($name:literal => $meant:expr),+ $(,)? }) => {
        $(#[$meta])*
        pub(super) enum $kind {}

        impl $kind {
            /// Each text with its value.
            pub(super) const ALL: &'static [(&'static str, $value)] = &[$(($name, $meant)),+];

            /// The text of a value.
            pub(super) fn name(value: $value) -> &'static str {
                let mut all = Self::ALL.iter();
                all.find(|(_, meant)| *meant == value).map_or("", |(name, _)| name)
            }
        }

        impl Scalar for $kind {
            type Value = $value;

            fn parse(written: &DeValue<'_>) -> Result<$value, String> {
                let name = written.as_str();
                let chosen = Self::ALL.iter().find(|(known, _)| name == Some(*known));
                chosen.map(|(_, meant)| *meant).ok_or_else(|| {
                    format!("must be {}", [$(concat!("\"", $name, "\"")),+].join(" or "))
                })
            }
            fn schema() -> Json {
                json!({ "enum": [$($name),+] })
            }
        }
    };
}

choice! {
    /// The format of log lines.
    LogFormats: LogFormat { "text" => LogFormat::Text, "json" => LogFormat::Json }
}
choice! {
    /// The order of endpoints.
    Strategies: Strategy { "ordered" => Strategy::Ordered, "fastest" => Strategy::Fastest }
}
choice! {
    /// The cases in which clients are sent to the bucket.
    Redirects: When { "never" => When::Never, "busy" => When::Busy, "always" => When::Always }
}
choice! {
    /// The wait of a client while a tag is checked.
    Revalidations: Revalidate { "blocking" => Revalidate::Blocking, "background" => Revalidate::Background }
}

choice! {
    /// Content of an upstream for anonymous clients.
    Visibilities: Visibility { "public" => Visibility::Public, "rules" => Visibility::Rules, "upstream" => Visibility::Upstream, "anyone" => Visibility::Anyone }
}
choice! {
    /// Treatment of requests that the rules of access deny.
    Enforcements: Enforcement { "enforce" => Enforcement::Enforce, "warn" => Enforcement::Warn }
}

choice! {
    /// Who may pull from a hosted namespace.
    Visible: crate::hosted::Visibility { "public" => crate::hosted::Visibility::Public, "private" => crate::hosted::Visibility::Private }
}
choice! {
    /// The way in which a hosted tag stays.
    ImmutableModes: ImmutableMode { "no-move" => ImmutableMode::NoMove, "no-move-no-delete" => ImmutableMode::NoMoveNoDelete }
}
choice! {
    /// When an upstream is asked behind an overlay.
    Falls: Fall { "never" => Fall::Never, "repository" => Fall::Repository, "tag" => Fall::Tag }
}

choice! {
    /// Identification that a listener asks clients for.
    ListenerAccess: Asks { "rules" => Asks::Everybody, "open" => Asks::Nobody }
}
choice! {
    /// Treatment of clients without a certificate.
    ClientAuths: ClientAuth { "required" => ClientAuth::Required, "optional" => ClientAuth::Optional }
}
choice! {
    /// The admin API without credentials.
    AdminAccesses: AdminAccess { "local" => AdminAccess::Local, "identity" => AdminAccess::Identity }
}

/// Kinds of values that are read by a function, with a JSON Schema.
macro_rules! kinds {
    ($($(#[$meta:meta])+ $kind:ident: $value:ty = $parse:expr, $schema:tt;)+) => {$(
        $(#[$meta])+
        pub(super) enum $kind {}

        impl Scalar for $kind {
            type Value = $value;

            fn parse(written: &DeValue<'_>) -> Result<$value, String> {
                $parse(written)
            }
            fn schema() -> Json {
                json!($schema)
            }
        }
    )+};
}

kinds! {
    /// Any text but the empty one.
    Text: String = text, { "type": "string", "minLength": 1 };
    /// A log level, or directives.
    LogLevel: String = |written| text(written).and_then(|text| logging::checked(&text)),
        { "type": "string", "minLength": 1 };
    /// A file or directory; whether it exists is found out where it is used.
    Path: PathBuf = |written| text(written).map(PathBuf::from), { "type": "string", "minLength": 1 };
    /// `true` or `false`; as text too, for the environment has nothing else.
    Flag: bool = flag, { "type": "boolean" };
    /// A number of bytes: `100GB` (decimal), `64MiB` (binary) or plain bytes.
    Size: u64 = size, { "type": ["string", "integer"], "pattern": whole(SIZE_PATTERN), "minimum": 1 };
    /// The bytes of a cache.
    CacheShare: u64 = |written| size(written).and_then(cache_size),
        { "type": ["string", "integer"], "pattern": whole(SIZE_PATTERN), "minimum": CACHE_SIZE_MIN };
    /// The bytes of one request of several for a blob.
    SegmentSize: u64 = segment_size,
        { "type": ["string", "integer"], "pattern": whole(SIZE_PATTERN), "minimum": SEGMENT_SIZE_MIN };
    /// Bytes a second: a size, or 0 for none.
    Rate: u64 = size_or_zero, { "type": ["string", "integer"], "pattern": whole(SIZE_PATTERN), "minimum": 0 };
    /// A size of the store: bytes, or a part of the file system.
    MaxSize: Amount = max_size, {
        "type": ["string", "integer"], "minimum": CACHE_SIZE_MIN,
        "pattern": whole(&format!("{SIZE_PATTERN}|{PERCENT_PATTERN}"))
    };
    /// A size that may be nothing.
    MinFree: Amount = min_free, {
        "type": ["string", "integer"], "minimum": 0,
        "pattern": whole(&format!("{SIZE_PATTERN}|{PERCENT_PATTERN}"))
    };
    /// A length of time that may be zero: `30s`, `5m`, `7d`, `1h 30m`.
    Time: Duration = duration,
        { "type": ["string", "integer"], "pattern": whole(DURATION_PATTERN), "minimum": 0, "maximum": 0 };
    /// A time limit: zero would let nothing through.
    TimeLimit: Duration = time_limit, { "type": "string", "pattern": whole(DURATION_PATTERN) };
    /// A wait that can be doubled several times and still make sense.
    RetryDelay: Duration = retry_delay, { "type": "string", "pattern": whole(DURATION_PATTERN) };
    /// The limit to the first response header, which has a limit itself.
    HeaderTimeout: Duration = header_timeout, { "type": "string", "pattern": whole(DURATION_PATTERN) };
    /// The time that unused content is kept; `None`: as long as there is room.
    MaxAge: Option<Duration> = |written| or_off(written, MAX_AGE_MIN),
        { "type": "string", "pattern": whole(&format!("{OFF}|{DURATION_PATTERN}")) };
    /// In which time the store is hashed again; `None`: it is not.
    Scrub: Option<Duration> = |written| or_off(written, SCRUB_MIN),
        { "type": "string", "pattern": whole(&format!("{OFF}|{DURATION_PATTERN}")) };
    /// The time that a tag is fresh.
    Ttls: Ttl = ttl, {
        "type": ["string", "integer"], "minimum": 0, "maximum": 0,
        "pattern": whole(&format!("{FOREVER}|{DURATION_PATTERN}"))
    };
    /// The fate of a blob of which a part was asked for.
    FillOnRanges: FillOnRange = fill_on_range,
        { "type": "string", "pattern": r"^\s*(always|never|over\s+[0-9]{1,2}\s*%)\s*$" };
    /// An address to listen at: `IP:PORT`, `localhost:PORT` (127.0.0.1) or `:PORT` (every IPv4 address).
    Address: SocketAddr = address,
        { "type": "string", "pattern": r"^(localhost|[0-9.]*|\[[0-9a-fA-F:.%]+\]):[0-9]{1,5}$" };
    /// The base URL of a registry.
    EndpointUrl: Url = |written| url(written, "; use username and password_file"),
        { "type": "string", "pattern": "^[hH][tT][tT][pP][sS]?://[^?#]+$" };
    /// The base URL of a cloud's service.
    ServiceUrl: Url = |written| url(written, ""), { "type": "string", "pattern": "^[hH][tT][tT][pP][sS]?://[^?#]+$" };
    /// A `Host` name; its grammar is that of an upstream's name (RFC 9110 section 7.2).
    Host: UpstreamName = host, { "type": "string", "minLength": 1 };
    /// An IP address.
    Ip: IpAddr = ip_address, { "type": "string", "pattern": "^[0-9a-fA-F:.]+$" };
    /// A network, or an address.
    Networks: Network = |written| text(written).and_then(|text| text.parse()),
        { "type": "string", "pattern": "^[0-9a-fA-F:.]+(/[0-9]{1,3})?$" };
    /// A pattern of images or tags.
    Match: Pattern = pattern, { "type": "string", "minLength": 1 };
    /// A failure of an upstream.
    Failures: Failure = failure, { "enum": ["unreachable", "5xx", "429", "denied"] };
    /// A program and its arguments.
    Command: Vec<String> = command, { "type": "array", "items": { "type": "string" }, "minItems": 1 };
}

/// A whole number from 1 to this.
pub(super) enum UpTo<const MAX: usize> {}

impl<const MAX: usize> Scalar for UpTo<MAX> {
    type Value = usize;

    fn parse(written: &DeValue<'_>) -> Result<usize, String> {
        let number = match written.as_str() {
            Some(text) => text.parse().ok(),
            None => integer(written).and_then(|number| usize::try_from(number).ok()),
        };
        number
            .filter(|number| (1..=MAX).contains(number))
            .ok_or_else(|| format!("must be a whole number from 1 to {MAX}"))
    }
    fn schema() -> Json {
        json!({ "type": "integer", "minimum": 1, "maximum": MAX })
    }
}

impl Failures {
    /// The failures that `stale_on` may list.
    pub(super) const ALL: &'static [(&'static str, Failure)] = &[
        ("unreachable", Failure::Unreachable),
        ("5xx", Failure::ServerError),
        ("429", Failure::RateLimited),
        ("denied", Failure::Denied),
    ];

    fn names() -> String {
        let names: Vec<&str> = Self::ALL.iter().map(|(name, _)| *name).collect();
        format!("\"{}\"", names.join("\", \""))
    }
}

impl About for Failures {
    fn about_list() -> String {
        format!("must be an array of {}", Self::names())
    }
}

impl About for Networks {
    fn about_list() -> String {
        "must be an array like [\"10.0.0.0/8\"]".to_owned()
    }
}

impl About for Host {
    fn about_list() -> String {
        "must be an array like [\"…\"]".to_owned()
    }
}

fn integer(written: &DeValue<'_>) -> Option<i64> {
    let number = written.as_integer()?;
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

fn whole(pattern: &str) -> String {
    format!("^({pattern})$")
}

pub(super) fn text(written: &DeValue<'_>) -> Result<String, String> {
    match written.as_str() {
        Some("") => Err("must not be empty".to_owned()),
        Some(text) => Ok(text.to_owned()),
        None => Err("must be text in quotes".to_owned()),
    }
}

fn flag(written: &DeValue<'_>) -> Result<bool, String> {
    match (written.as_bool(), written.as_str()) {
        (Some(value), _) => Ok(value),
        (_, Some("true")) => Ok(true),
        (_, Some("false")) => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

fn command(written: &DeValue<'_>) -> Result<Vec<String>, String> {
    let words = written.as_array().and_then(|items| {
        let words = items.iter().map(|item| item.get_ref().as_str());
        words.collect::<Option<Vec<&str>>>()
    });
    match words.as_deref() {
        Some([program, arguments @ ..]) if !program.is_empty() => {
            let words = std::iter::once(program).chain(arguments);
            Ok(words.map(|word| (*word).to_owned()).collect())
        }
        _ => Err("must be an array of a program and its arguments, like [\"program\"]".to_owned()),
    }
}

fn ip_address(written: &DeValue<'_>) -> Result<IpAddr, String> {
    let text = text(written)?;
    text.parse()
        .map_err(|_| format!("{} is not an IP address", Shown(&text)))
}

fn host(written: &DeValue<'_>) -> Result<UpstreamName, String> {
    let text = text(written)?;
    let wrong = || {
        let shown = Shown(&text);
        format!("{shown} is not a host name or address with an optional port")
    };
    UpstreamName::parse(&text).map_err(|_| wrong())
}

fn pattern(written: &DeValue<'_>) -> Result<Pattern, String> {
    let text = text(written)?;
    Pattern::parse(&text).map_err(|why| format!("{} {why}", Shown(&text)))
}

fn failure(written: &DeValue<'_>) -> Result<Failure, String> {
    let name = text(written)?;
    let found = Failures::ALL.iter().find(|(known, _)| *known == name);
    found
        .map(|(_, failure)| *failure)
        .ok_or_else(|| format!("{} is none of {}", Shown(&name), Failures::names()))
}

fn segment_size(written: &DeValue<'_>) -> Result<u64, String> {
    match size(written)? {
        size if size < SEGMENT_SIZE_MIN => {
            Err("must be at least 1MiB: smaller requests cost more than they give".to_owned())
        }
        size => Ok(size),
    }
}

fn size(written: &DeValue<'_>) -> Result<u64, String> {
    match size_or_zero(written)? {
        0 => Err("must be more than 0".to_owned()),
        bytes => Ok(bytes),
    }
}

fn size_or_zero(written: &DeValue<'_>) -> Result<u64, String> {
    let (shown, bytes) = match (written.as_str(), written.as_integer()) {
        (Some(text), _) => (Shown(text).to_string(), size_of_text(text)),
        (None, Some(number)) => (
            number.as_str().to_owned(),
            integer(written).and_then(|number| u64::try_from(number).ok()),
        ),
        (None, None) => return Err("must be a size like \"100GB\" or \"64MiB\"".to_owned()),
    };
    match bytes {
        Some(bytes) if bytes <= SIZE_MAX => Ok(bytes),
        Some(_) => Err(format!("{shown} is larger than any disk")),
        None => Err(format!(
            "{shown} is not a size like \"100GB\", \"64MiB\" or a number of bytes"
        )),
    }
}

fn size_of_text(text: &str) -> Option<u64> {
    let bytes = text.trim().parse::<ByteSize>().ok()?;
    // Without a unit only whole bytes make sense: "1.5" is a forgotten unit.
    let unit = text.chars().any(|c| c.is_ascii_alphabetic());
    (unit || !text.contains('.')).then_some(bytes.as_u64())
}

/// Refuses a cache in which nothing fits.
fn cache_size(bytes: u64) -> Result<u64, String> {
    if bytes >= CACHE_SIZE_MIN {
        return Ok(bytes);
    }
    Err(format!(
        "{bytes} bytes are too few for any image; write a unit, like \"50GB\", and at least 1MB"
    ))
}

fn max_size(written: &DeValue<'_>) -> Result<Amount, String> {
    match amount(written, 1..=100, size)? {
        Amount::Bytes(bytes) => cache_size(bytes).map(Amount::Bytes),
        part @ Amount::Percent(_) => Ok(part),
    }
}

fn min_free(written: &DeValue<'_>) -> Result<Amount, String> {
    match amount(written, 0..=99, size_or_zero)? {
        Amount::Bytes(bytes) if (1..BARE_BYTES_MIN).contains(&bytes) => {
            Err(format!("{bytes} has no unit; write \"{bytes}GB\""))
        }
        amount @ (Amount::Bytes(_) | Amount::Percent(_)) => Ok(amount),
    }
}

/// A number of bytes, or whole percents of the file system.
fn amount(
    written: &DeValue<'_>,
    percents: RangeInclusive<u8>,
    size: fn(&DeValue<'_>) -> Result<u64, String>,
) -> Result<Amount, String> {
    let part = written.as_str().filter(|text| text.trim().ends_with('%'));
    let Some(text) = part else {
        return size(written).map(Amount::Bytes);
    };
    percent(text, &percents)
        .map(Amount::Percent)
        .ok_or_else(|| {
            let (text, least, most) = (Shown(text), percents.start(), percents.end());
            format!("{text} is not a whole percentage from {least}% to {most}%")
        })
}

/// Whole percents.
fn percent(text: &str, allowed: &RangeInclusive<u8>) -> Option<u8> {
    // `parse` alone would take a leading `+`.
    let digits = text.trim().strip_suffix('%')?.trim_end();
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let percent = digits.parse::<u8>().ok();
    percent.filter(|percent| plain && allowed.contains(percent))
}

fn fill_on_range(written: &DeValue<'_>) -> Result<FillOnRange, String> {
    const MEANT: &str = "must be \"always\", \"never\" or like \"over 25%\"";
    let Some(text) = written.as_str() else {
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

fn duration(written: &DeValue<'_>) -> Result<Duration, String> {
    let text = match (written.as_str(), integer(written)) {
        (Some(text), _) => text.trim(),
        (None, Some(0)) => "0s",
        (None, Some(number)) => {
            return Err(format!("{number} has no unit; write \"{number}s\""));
        }
        (None, None) => {
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

/// A length of time that has a least one, or `off`.
fn or_off(written: &DeValue<'_>, least: Duration) -> Result<Option<Duration>, String> {
    if written.as_str().is_some_and(|text| text.trim() == OFF) {
        return Ok(None);
    }
    let time = duration(written).map_err(|why| format!("{why}, or \"{OFF}\""))?;
    if time < least {
        let hours = least.as_secs() / 3600;
        return Err(format!("must be at least {hours}h, or \"{OFF}\""));
    }
    Ok(Some(time))
}

fn ttl(written: &DeValue<'_>) -> Result<Ttl, String> {
    if written.as_str() == Some(FOREVER) {
        return Ok(Ttl::Forever);
    }
    duration(written).map(Ttl::For)
}

fn time_limit(written: &DeValue<'_>) -> Result<Duration, String> {
    match duration(written)? {
        Duration::ZERO => Err("must be more than 0".to_owned()),
        limit => Ok(limit),
    }
}

fn retry_delay(written: &DeValue<'_>) -> Result<Duration, String> {
    let delay = time_limit(written)?;
    if delay > RETRY_DELAY_MAX {
        let most = RETRY_DELAY_MAX.as_secs();
        return Err(format!(
            "must be at most {most}s: it is doubled with each retry"
        ));
    }
    Ok(delay)
}

fn header_timeout(written: &DeValue<'_>) -> Result<Duration, String> {
    let limit = time_limit(written)?;
    if limit > HEADER_TIMEOUT_MAX {
        return Err(format!(
            "must be at most {}s: containerd gives up a request after 30s without a header, \
             and must hear from roadstead before that",
            HEADER_TIMEOUT_MAX.as_secs()
        ));
    }
    Ok(limit)
}

fn address(written: &DeValue<'_>) -> Result<SocketAddr, String> {
    let text = text(written)?;
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

/// An HTTP URL; `instead` says where a user name belongs.
fn url(written: &DeValue<'_>, instead: &str) -> Result<Url, String> {
    let text = text(written)?;
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

#[cfg(test)]
mod tests;

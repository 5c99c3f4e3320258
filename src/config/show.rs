//! The effective configuration as TOML that can be read back, with secrets masked.

mod access;
mod cluster;
mod hosted;
mod server;
mod telemetry;
mod tier;
mod upstreams;

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::Config;
use super::values::{self, Failures, LogFormats, Revalidations};
use crate::mirror::{self, FillOnRange};
use crate::store::Amount;

/// The text of `roadstead check`.
pub(super) fn to_toml(config: &Config) -> String {
    let mut out = String::new();
    server::show(&mut out, &config.server);
    access::show(&mut out, &config.access);
    if let Some(audit) = &config.audit {
        table(&mut out, "audit");
        line(&mut out, "path", &shown(&audit.path));
        line(&mut out, "max_size", &size(audit.max_size));
        line(&mut out, "keep", &audit.keep.to_string());
    }
    table(&mut out, "state");
    line(&mut out, "dir", &shown(&config.state.dir));
    table(&mut out, "cache");
    line(&mut out, "dir", &shown(&config.cache.dir));
    line(&mut out, "max_size", &amount(config.cache.max_size));
    line(&mut out, "min_free", &amount(config.cache.min_free));
    let max_age = config.cache.max_age.map(duration);
    let off = || quoted(values::OFF);
    line(&mut out, "max_age", &max_age.unwrap_or_else(off));
    let fill_on_range = match config.fill_on_range {
        FillOnRange::Always => quoted("always"),
        FillOnRange::Never => quoted("never"),
        FillOnRange::Over(percent) => quoted(&format!("over {percent}%")),
    };
    line(&mut out, "fill_on_range", &fill_on_range);
    let scrub = config.cache.scrub.map(duration);
    line(&mut out, "scrub", &scrub.unwrap_or_else(off));
    for pin in &config.tags.pins {
        table(&mut out, "[cache.pin]");
        line(&mut out, "match", &quoted(pin.as_str()));
    }
    table(&mut out, "tags");
    show_policy(&mut out, &config.tags.defaults);
    for rule in &config.tags.rules {
        table(&mut out, "[tags.rule]");
        line(&mut out, "match", &quoted(rule.pattern.as_str()));
        show_policy(&mut out, &rule.policy);
    }
    table(&mut out, "log");
    let format = LogFormats::name(config.log_format);
    line(&mut out, "format", &quoted(format));
    line(&mut out, "level", &quoted(&config.log_level));
    telemetry::show(&mut out, config.otlp.as_deref());
    hosted::show(&mut out, config.hosted.as_deref());
    cluster::show(&mut out, config.cluster.as_deref());
    tier::show(&mut out, config.tier.as_deref());
    for upstream in &config.upstreams {
        upstreams::show(&mut out, upstream);
        let shares = config.cache.shares.iter();
        for share in shares.filter(|share| share.upstream == upstream.name) {
            if let Some(bytes) = share.max_size {
                line(&mut out, "max_size", &size(bytes));
            }
            if let Some(age) = share.max_age {
                line(&mut out, "max_age", &duration(age));
            }
        }
    }
    out
}

/// A path.
fn shown(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

fn show_policy(out: &mut String, policy: &mirror::Policy) {
    let ttl = match policy.ttl {
        mirror::Ttl::For(ttl) => duration(ttl),
        mirror::Ttl::Forever => quoted(values::FOREVER),
    };
    line(out, "ttl", &ttl);
    let revalidate = Revalidations::name(policy.revalidate);
    line(out, "revalidate", &quoted(revalidate));
    line(out, "stale_if_error", &duration(policy.stale_if_error));
    let causes = Failures::ALL.iter();
    let causes = causes.filter(|(_, failure)| policy.stale_on.contains(*failure));
    let causes: Vec<_> = causes.map(|(name, _)| quoted(name)).collect();
    line(out, "stale_on", &format!("[{}]", causes.join(", ")));
    line(out, "keep_deleted", &policy.keep_deleted.to_string());
    line(out, "negative_ttl", &duration(policy.negative_ttl));
}

fn table(out: &mut String, name: &str) {
    let gap = if out.is_empty() { "" } else { "\n" };
    // Writing to a String cannot fail.
    writeln!(out, "{gap}[{name}]").ok();
}

fn line(out: &mut String, key: &str, value: &str) {
    writeln!(out, "{key} = {value}").ok();
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn list(texts: impl Iterator<Item = impl AsRef<str>>) -> String {
    let texts: Vec<_> = texts.map(|text| quoted(text.as_ref())).collect();
    format!("[{}]", texts.join(", "))
}

fn amount(amount: Amount) -> String {
    match amount {
        Amount::Bytes(bytes) => size(bytes),
        Amount::Percent(percent) => quoted(&format!("{percent}%")),
    }
}

/// In the largest unit that says it exactly.
fn size(bytes: u64) -> String {
    let exact = SIZE_UNITS
        .iter()
        .find(|(_, unit)| bytes != 0 && bytes.is_multiple_of(*unit));
    exact.map_or_else(
        || bytes.to_string(),
        |(name, unit)| quoted(&format!("{}{name}", bytes / unit)),
    )
}

/// In the largest unit that says it exactly.
fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if duration.subsec_nanos() != 0 {
        return quoted(&humantime::format_duration(duration).to_string());
    }
    let exact = TIME_UNITS
        .iter()
        .find(|(_, unit)| seconds != 0 && seconds.is_multiple_of(*unit));
    let (name, unit) = exact.unwrap_or(&("s", 1));
    quoted(&format!("{}{name}", seconds / unit))
}

/// The text that stands for a secret.
const MASK: &str = "***";

const SIZE_UNITS: &[(&str, u64)] = &[
    ("TiB", bytesize::TIB),
    ("TB", bytesize::TB),
    ("GiB", bytesize::GIB),
    ("GB", bytesize::GB),
    ("MiB", bytesize::MIB),
    ("MB", bytesize::MB),
    ("KiB", bytesize::KIB),
    ("KB", bytesize::KB),
];

const TIME_UNITS: &[(&str, u64)] = &[("d", 24 * 3600), ("h", 3600), ("m", 60), ("s", 1)];

//! `[telemetry]` as it is shown.

use super::upstreams::proxy;
use super::{MASK, duration, line, quoted, shown, table};
use crate::otlp::Config;
use crate::upstream::ProxyConfig;

/// Nothing where there is no such table.
pub(super) fn show(out: &mut String, config: Option<&Config>) {
    let Some(config) = config else {
        return;
    };
    table(out, "telemetry.otlp");
    let endpoint = config.endpoint.as_str();
    line(out, "endpoint", &quoted(endpoint.trim_end_matches('/')));
    if !config.headers.is_empty() {
        let masked = |name: &str| format!("{} = {}", quoted(name), quoted(MASK));
        let headers: Vec<_> = config.headers.names().map(masked).collect();
        line(out, "headers", &format!("{{ {} }}", headers.join(", ")));
    }
    if let Some(file) = &config.headers_file {
        line(out, "headers_file", &shown(file));
    }
    if let Some(file) = &config.ca_file {
        line(out, "ca_file", &shown(file));
    }
    if config.proxy != ProxyConfig::Direct {
        line(out, "proxy", &proxy(&config.proxy));
    }
    line(out, "sample", &config.sample.to_string());
    line(out, "timeout", &duration(config.timeout));
}

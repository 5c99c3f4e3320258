//! `[cluster]` as it is shown.

use super::{line, quoted, shown, table};
use crate::cluster::{Config, Keys};

/// Nothing where there is no such table.
pub(super) fn show(out: &mut String, config: Option<&Config>) {
    let Some(config) = config else {
        return;
    };
    table(out, "cluster");
    line(out, "listen", &quoted(&config.listen.to_string()));
    let seeds: Vec<String> = config
        .seeds
        .iter()
        .map(|it| quoted(&it.to_string()))
        .collect();
    line(out, "peers", &format!("[{}]", seeds.join(", ")));
    match &config.keys {
        Keys::Secret(file) => line(out, "secret_file", &shown(file)),
        Keys::Authority { ca, cert, key } => {
            line(out, "ca", &shown(ca));
            line(out, "cert", &shown(cert));
            line(out, "key", &shown(key));
        }
    }
    if let Some(zone) = &config.zone {
        line(out, "zone", &quoted(zone));
    }
    line(out, "streams_max", &config.streams_max.to_string());
}

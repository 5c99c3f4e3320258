//! `[hosted]` as it is shown.

use super::{amount, duration, line, list, quoted, size, table};
use crate::config::values::{Falls, ImmutableModes, Visible};
use crate::hosted::Config;

/// Nothing where there is no such table.
pub(super) fn show(out: &mut String, config: Option<&Config>) {
    let Some(config) = config else {
        return;
    };
    table(out, "hosted");
    line(out, "enabled", &config.enabled.to_string());
    line(out, "hosts", &list(config.hosts.iter()));
    line(out, "create_on_push", &config.create_on_push.to_string());
    line(out, "max_size", &amount(config.max_size));
    line(out, "undelete", &duration(config.undelete));
    line(out, "gc_grace", &duration(config.gc_grace));
    line(out, "upload_expiry", &duration(config.upload_expiry));
    for namespace in &config.namespaces {
        table(out, "[hosted.namespace]");
        line(out, "name", &quoted(&namespace.name));
        line(
            out,
            "visibility",
            &quoted(Visible::name(namespace.visibility)),
        );
        if let Some(quota) = namespace.quota {
            line(out, "quota", &size(quota));
        }
        line(out, "sparse", &namespace.sparse.to_string());
    }
    for rule in &config.immutable {
        table(out, "[hosted.immutable]");
        line(out, "repository", &quoted(&rule.repository));
        line(out, "tag", &quoted(&rule.tag));
        line(out, "mode", &quoted(ImmutableModes::name(rule.mode)));
    }
    for rule in &config.expire {
        table(out, "[hosted.expire]");
        line(out, "repository", &quoted(&rule.repository));
        line(out, "tag", &quoted(&rule.tag));
        if let Some(keep) = rule.keep_newest {
            line(out, "keep_newest", &keep.to_string());
        }
        if let Some(age) = rule.older_than {
            line(out, "older_than", &duration(age));
        }
    }
    for overlay in &config.overlays {
        table(out, "[hosted.overlay]");
        line(out, "name", &quoted(&overlay.name));
        line(out, "hosted", &quoted(&overlay.hosted));
        line(out, "fall", &quoted(Falls::name(overlay.fall)));
    }
}

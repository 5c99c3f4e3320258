//! `object-store`: the state of the bucket, as the server sees it.

use super::finding::Finding;
use super::service::Service;
use crate::commands::cache::screen::clean;
use crate::format::{plural, size};
use crate::server::TierStatus;
use crate::tier::Config;

/// Checks the object store; nothing where there is none.
pub(super) async fn check(config: Option<&Config>, service: &Service) -> Option<Finding> {
    let config = config?;
    let id = "object-store";
    if !service.runs() {
        return Some(Finding::skipped(id, "no server answers"));
    }
    let status: TierStatus = match service.json("/api/v1/tier").await {
        Ok(status) => status,
        Err(why) => {
            let advice = "restart the server: it runs without this table";
            return Some(Finding::fail(id, why, advice));
        }
    };
    let waits = format!(
        "{}: {} ({}) to be written",
        clean(&status.bucket),
        plural(status.pending_blobs as u64, "blob"),
        size(status.pending_bytes)
    );
    let advice = "docs/bucket.md says what each state means";
    Some(match (status.state.as_str(), status.trouble) {
        ("ok", _) if config.secret_file.is_none() => {
            let advice = "set tier.secret_file: without it tags, and which repository has what, are not kept there";
            Finding::warn(id, waits, advice)
        }
        ("ok", _) => Finding::ok(id, waits),
        ("refused", Some(why)) => {
            let why = format!("{waits}; it does not let us write: {}", clean(&why));
            Finding::fail(id, why, "see that the keys may read, write and list there")
        }
        (_, why) => {
            let why = why
                .map(|why| format!(": {}", clean(&why)))
                .unwrap_or_default();
            Finding::warn(id, format!("{waits}; it has not answered{why}"), advice)
        }
    })
}

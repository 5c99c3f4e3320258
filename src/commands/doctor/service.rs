//! `service`, `clients`: a server that runs, as its admin listener tells of it.

use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::Deserialize;

use super::admin::Admin;
use super::finding::Finding;
use crate::clock::{Clock as _, SystemClock};
use crate::commands::cache::screen::span;
use crate::format::{VERSION, plural};
use crate::mirror::inspect::{Status, When};

/// A server that was started so lately has not had a client yet.
const YOUNG_SECONDS: u64 = 3600;
/// A file's time is compared with whole seconds.
const GRACE_SECONDS: u64 = 2;

/// The answers of a server.
#[derive(Debug)]
pub(super) struct Service {
    admin: Option<Admin>,
    /// The answer of `/readyz`; the reason where there is none.
    ready: Result<(u16, String), String>,
    /// The reason where the admin API does not tell.
    pub(super) status: Result<Status, String>,
}

/// The clients that a server has seen.
#[derive(Debug, Deserialize)]
struct Clients {
    clients: Vec<Client>,
}

#[derive(Debug, Deserialize)]
struct Client {
    last_seen: When,
}

impl Service {
    /// Asks the server, if one is there.
    pub(super) async fn ask(admin: Result<Admin, String>) -> Self {
        let admin = match admin {
            Ok(admin) => admin,
            Err(why) => {
                return Self {
                    admin: None,
                    ready: Err(why.clone()),
                    status: Err(why),
                };
            }
        };
        let (ready, status) = tokio::join!(admin.get("/readyz"), admin.json("/api/v1/status"));
        let ready = ready.map(|answer| {
            let text = String::from_utf8_lossy(&answer.body);
            (answer.status.as_u16(), text.trim().to_owned())
        });
        Self {
            admin: Some(admin),
            ready,
            status,
        }
    }

    /// GET of JSON of its admin API.
    ///
    /// # Errors
    /// One line.
    pub(super) async fn json<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<T, String> {
        match &self.admin {
            Some(admin) => admin.json(path).await,
            None => Err("there is no admin listener to ask".to_owned()),
        }
    }

    /// True if a roadstead answers.
    pub(super) fn runs(&self) -> bool {
        let is_ready_word = |(_, text): &(u16, String)| {
            ["ok", "draining"].contains(&text.as_str()) || text.starts_with("degraded")
        };
        self.status.is_ok() || self.ready.as_ref().is_ok_and(is_ready_word)
    }

    /// Its health, its version, and its configuration. `file`: the configuration's.
    pub(super) async fn check(&self, file: Option<&Path>) -> Finding {
        let id = "service";
        let Some(admin) = &self.admin else {
            let why = self.ready.as_ref().err().cloned().unwrap_or_default();
            return Finding::skipped(id, why);
        };
        let (status, text) = match &self.ready {
            Ok(ready) => ready,
            Err(why) => {
                let summary = format!("no roadstead answers at {}: {why}", admin.name);
                return Finding::skipped(id, summary);
            }
        };
        if *status != 200 {
            let summary = format!("{} answers {status} at /readyz: {text}", admin.name);
            let advice = "it starts or drains, or is another program: look into its log, or name the admin listener with --admin";
            return Finding::fail(id, summary, advice);
        }
        if text != "ok" {
            let advice =
                "look into its log, and docs/runbooks: it serves, and stores nothing or not all";
            return Finding::warn(id, text.clone(), advice);
        }
        let told = match &self.status {
            Ok(told) => told,
            Err(why) => {
                let advice =
                    "ROADSTEAD_TOKEN has the token of an operator, where [access] asks for one";
                return Finding::warn(id, format!("healthy, but {why}"), advice);
            }
        };
        if told.version != VERSION {
            let summary = format!(
                "the server runs {}, and this program is {VERSION}",
                told.version
            );
            let advice = "restart the server, or use its own program";
            return Finding::warn(id, summary, advice);
        }
        if let Some(finding) = configuration(admin, file).await {
            return finding;
        }
        let uptime = std::time::Duration::from_secs(told.uptime_seconds.unwrap_or_default());
        let summary = format!("healthy, version {VERSION}, up {}", span(uptime));
        Finding::ok(id, summary)
    }

    /// Something was pulled lately.
    pub(super) async fn clients(&self) -> Finding {
        let id = "clients";
        let (Some(admin), Ok(told)) = (&self.admin, &self.status) else {
            return Finding::skipped(id, "no server tells of them");
        };
        let asked: Result<Clients, String> = admin.json("/api/v1/clients").await;
        let pulls = told.traffic.pulls;
        if let Ok(Clients { clients }) = asked {
            let last = clients.iter().map(|it| it.last_seen.0).max();
            if let Some(last) = last {
                let ago = span(SystemClock.now().since(last));
                let number = u64::try_from(clients.len()).unwrap_or(u64::MAX);
                let summary = format!("{}, the last seen {ago} ago", plural(number, "client"));
                return Finding::ok(id, summary);
            }
        }
        if pulls > 0 {
            let summary = format!("{} since the start", plural(pulls, "request"));
            return Finding::ok(id, summary);
        }
        if told.uptime_seconds.unwrap_or_default() < YOUNG_SECONDS {
            return Finding::skipped(
                id,
                "nobody has pulled yet, and the start is not an hour ago",
            );
        }
        let advice = "run `roadstead doctor --from-client --server URL` on a node: it finds what goes past the mirror";
        Finding::warn(id, "nobody has pulled since the start", advice)
    }
}

/// A configuration that is not in use yet, or cannot be.
async fn configuration(admin: &Admin, file: Option<&Path>) -> Option<Finding> {
    let answer = admin.get("/metrics").await.ok()?;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let id = "service";
    if gauge(&text, "roadstead_config_reload_success") == Some(0) {
        let summary = "the configuration that was last read has errors: the one before is in use";
        let advice = "see the check `configuration`, then `roadstead reload`";
        return Some(Finding::warn(id, summary, advice));
    }
    if gauge(&text, "roadstead_config_restart_required") == Some(1) {
        let summary = "keys have changed that are used after a restart only";
        let advice = "restart the server; `roadstead reload` names the keys";
        return Some(Finding::warn(id, summary, advice));
    }
    let read = gauge(&text, "roadstead_config_reload_success_timestamp_seconds")?;
    let changed = std::fs::metadata(file?).and_then(|it| it.modified()).ok()?;
    let changed = changed.duration_since(UNIX_EPOCH).ok()?.as_secs();
    let file = file?.display();
    (changed > read.saturating_add(GRACE_SECONDS)).then(|| {
        let summary = format!("{file} was changed after the server read its configuration");
        Finding::warn(
            id,
            summary,
            "`roadstead reload` takes it over, and names what needs a restart",
        )
    })
}

/// The value of a family without labels.
fn gauge(metrics: &str, name: &str) -> Option<u64> {
    let line = metrics.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?;
        rest.strip_prefix(' ')
    })?;
    let value: f64 = line.trim().parse().ok()?;
    // Seconds since 1970 are far below 2^53.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to what fits, and whole"
    )]
    Some(value.clamp(0.0, 1e15) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_is_found_by_its_whole_name() {
        let text = "# TYPE a_b gauge\na_b_c 1.7e9\na_b 1\n";
        assert_eq!(gauge(text, "a_b"), Some(1));
        assert_eq!(gauge(text, "a_b_c"), Some(1_700_000_000));
        assert_eq!(gauge(text, "a"), None);
    }
}

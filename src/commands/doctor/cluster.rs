//! `cluster-keys`, `cluster-names`, `cluster`: the keys of a node, the names of the others, and who of them answers.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::certificates::{SOON, validity};
use super::finding::Finding;
use super::service::Service;
use crate::clock::{Clock as _, SystemClock};
use crate::cluster::{Config, Identity, Keys, Seed};
use crate::commands::cache::screen::span;
use crate::format::plural;
use crate::net::near;
use crate::server::ClusterReport;

/// Time for a look-up, as the server takes.
const LOOK_UP_MAX: Duration = Duration::from_secs(4);

/// Time for a connection to the own listener.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// Checks a node; nothing where there is no cluster.
pub(super) async fn check(config: Option<&Config>, service: &Service) -> Vec<Finding> {
    let Some(config) = config else {
        return Vec::new();
    };
    let (names, members) = tokio::join!(names(&config.seeds), members(config, service));
    vec![keys(&config.keys), names, members]
}

/// The files can be read, and nobody else can; certificates are valid now.
fn keys(keys: &Keys) -> Finding {
    let id = "cluster-keys";
    if let Err(why) = Identity::read(keys) {
        let advice = "every node needs the same secret, or a certificate of the same authority (docs/cluster.md)";
        return Finding::fail(id, why, advice);
    }
    match keys {
        Keys::Secret(path) => match mode(path) {
            Some(mode) if mode & 0o007 != 0 => {
                let summary = format!(
                    "{}: every user of this machine may use it (mode {mode:o})",
                    path.display()
                );
                let advice = "chmod 600, and chown to the user that roadstead runs as: with it one reads everything that the nodes can pull";
                Finding::warn(id, summary, advice)
            }
            Some(_) | None => Finding::ok(id, format!("{}: a secret", path.display())),
        },
        Keys::Authority { ca, cert, .. } => {
            let mut least = None;
            for path in [ca, cert] {
                let left = match valid(path) {
                    Ok(left) => left,
                    Err(why) => {
                        let advice = "renew it on each node, one after the other; or set the clock";
                        return Finding::fail(id, why, advice);
                    }
                };
                least = least.min(Some(left)).or(Some(left));
            }
            let left = least.unwrap_or_default();
            let summary = format!("{}, {} left", cert.display(), span(left));
            if left < SOON {
                return Finding::warn(
                    id,
                    summary,
                    "renew it: nodes refuse each other when it has expired",
                );
            }
            Finding::ok(id, summary)
        }
    }
}

fn mode(path: &Path) -> Option<u32> {
    Some(std::fs::metadata(path).ok()?.permissions().mode() & 0o7777)
}

/// Time for which the certificates of a file are valid.
fn valid(path: &Path) -> Result<Duration, String> {
    let now = SystemClock.now();
    let shown = path.display();
    let (begin, end) = validity(path).ok_or_else(|| format!("{shown}: no certificate"))?;
    if begin > now {
        return Err(format!("{shown} begins in {}", span(begin.since(now))));
    }
    if end <= now {
        return Err(format!("{shown} expired {} ago", span(now.since(end))));
    }
    Ok(end.since(now))
}

/// Every name can be looked up.
async fn names(seeds: &[Seed]) -> Finding {
    let id = "cluster-names";
    let looked_up = join_all(seeds.iter().map(|seed| async move {
        let found = tokio::net::lookup_host((seed.host.as_str(), seed.port));
        match timeout(LOOK_UP_MAX, found).await {
            Ok(Ok(found)) => Ok(found.count() as u64),
            Ok(Err(error)) => Err(format!("{seed}: {error}")),
            Err(_elapsed) => Err(format!("{seed}: the name server does not answer")),
        }
    }));
    let (found, failed): (Vec<_>, Vec<_>) = looked_up.await.into_iter().partition(Result::is_ok);
    let failed: Vec<String> = failed.into_iter().filter_map(Result::err).collect();
    if !failed.is_empty() {
        let advice = "in Kubernetes: is the Service headless, with publishNotReadyAddresses? Elsewhere: correct cluster.peers or cluster.dns";
        return Finding::fail(id, failed.join("; "), advice);
    }
    let addresses: u64 = found.into_iter().filter_map(Result::ok).sum();
    let addresses = match addresses {
        1 => "1 address".to_owned(),
        many => format!("{many} addresses"),
    };
    Finding::ok(id, format!("{addresses} of nodes"))
}

/// The own listener and the other nodes answer, and run the same version.
async fn members(config: &Config, service: &Service) -> Finding {
    let id = "cluster";
    if !service.runs() {
        return Finding::skipped(id, "no server answers");
    }
    let listen = near(config.listen);
    let connected = timeout(CONNECT_MAX, TcpStream::connect(listen)).await;
    if !matches!(connected, Ok(Ok(_))) && config.listen.port() != 0 {
        let summary = format!("nobody listens at {listen} (cluster.listen)");
        return Finding::fail(
            id,
            summary,
            "restart the server: it runs without this table",
        );
    }
    let report: ClusterReport = match service.json("/api/v1/cluster").await {
        Ok(report) => report,
        Err(why) => {
            let advice = "restart the server if [cluster] is new; ROADSTEAD_TOKEN has the token of an operator, where [access] asks for one";
            return Finding::fail(id, why, advice);
        }
    };
    judge(id, &report)
}

fn judge(id: &str, report: &ClusterReport) -> Finding {
    let is_there = |state: &str| matches!(state, "this" | "up" | "leaving");
    let (there, down): (Vec<_>, Vec<_>) =
        (report.members.iter()).partition(|it| is_there(&it.state));
    if !down.is_empty() {
        let lines = down.iter().map(|it| {
            let why = it.trouble.as_deref().unwrap_or("no answer yet");
            format!("{}: {why}", it.address)
        });
        let advice = lines.collect::<Vec<_>>().join("\n")
            + "\nopen the port from every node to every node, and compare `sha256sum` of the secrets";
        let number = plural(down.len() as u64, "node");
        let others = there.iter().filter(|it| it.state != "this").count();
        let summary = format!("{number} of {} silent", report.members.len());
        if others == 0 {
            return Finding::fail(id, summary + ": this one is alone", advice);
        }
        return Finding::warn(id, summary, advice);
    }
    let mut versions: Vec<&str> = there
        .iter()
        .filter_map(|it| it.version.as_deref())
        .collect();
    versions.sort_unstable();
    versions.dedup();
    if versions.len() > 1 {
        let summary = format!("nodes run different versions: {}", versions.join(", "));
        let advice = "upgrade the others: versions that follow each other understand each other, others do not";
        return Finding::warn(id, summary, advice);
    }
    if report.is_leaving {
        let advice = "`roadstead cluster drain --undo`, unless it is about to be stopped";
        return Finding::warn(id, "this node owns nothing: it was drained", advice);
    }
    let number = plural(there.len() as u64, "node");
    let version = versions.first().unwrap_or(&"?");
    Finding::ok(id, format!("{number}, all answer, version {version}"))
}

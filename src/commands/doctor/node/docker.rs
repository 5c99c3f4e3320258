//! dockerd: `registry-mirrors` of daemon.json, which are for Docker Hub alone.

use std::net::IpAddr;

use serde::Deserialize;

use super::surroundings::{Image, Surroundings};
use super::verdict::Verdict;
use crate::commands::client_config::mirror::HUB;

const FILE: &str = "/etc/docker/daemon.json";
const RELOAD: &str = "systemctl reload docker, and see `docker info`";

/// The keys of daemon.json that lead to mirrors.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Daemon {
    registry_mirrors: Option<Vec<String>>,
    insecure_registries: Option<Vec<String>>,
}

/// The verdict on dockerd; `None`: it is not on this node.
pub(super) fn look(surroundings: &Surroundings, image: Option<&Image>) -> Option<Verdict> {
    let node = &surroundings.node;
    if !node.has(FILE) && !node.has_program(&["dockerd"]) {
        return None;
    }
    let mut verdict = Verdict::default();
    let mirror = &surroundings.mirror;
    let url = mirror.url();
    let write = format!("roadstead client-config docker --server {url} --write");
    let daemon = match node.read(FILE) {
        Ok(Some(text)) => match serde_json::from_str::<Daemon>(&text) {
            Ok(daemon) => daemon,
            Err(error) => {
                let advice = "correct it: dockerd does not start with it";
                verdict.fault(format!("{FILE} cannot be read: {error}"), advice);
                return Some(verdict);
            }
        },
        Ok(None) => Daemon::default(),
        Err(why) => {
            verdict.fault(why, "run doctor as root");
            return Some(verdict);
        }
    };
    let by_name = image.is_some_and(|image| image.is_by_mirror);
    if !by_name {
        mirrors(&mut verdict, surroundings, &daemon, &write);
    }
    if let Some(image) = image.filter(|it| !it.is_by_mirror)
        && image.name.upstream.as_str() != HUB
    {
        verdict.fault(
            format!(
                "dockerd mirrors {HUB} alone, and {} is of {}",
                image.name, image.name.upstream
            ),
            format!(
                "pull it by the mirror's name: {}/{}",
                mirror.authority(),
                image.name
            ),
        );
    }
    if !mirror.has_tls() && !mirror.is_loopback() && !is_insecure(&daemon, &mirror.authority()) {
        let what = format!("insecure-registries lacks {}", mirror.authority());
        let advice = format!("images named by the mirror fail over plain HTTP: {write}");
        if by_name {
            verdict.fault(what, advice);
        } else {
            verdict.hint(what, advice);
        }
    }
    let ca = format!("/etc/docker/certs.d/{}/ca.crt", mirror.authority());
    if !surroundings.is_trusted && !node.has(&ca) {
        let what =
            format!("the mirror's certificate is of an unknown authority, and {ca} is missing");
        verdict.fault(what, format!("{write} --ca FILE"));
    }
    if node.is_stale(FILE, "dockerd") {
        let what = format!("{FILE} was changed after dockerd was started");
        verdict.hint(what, format!("if it was not reloaded since: {RELOAD}"));
    }
    Some(verdict)
}

/// The mirror is among `registry-mirrors`, before all others.
fn mirrors(verdict: &mut Verdict, surroundings: &Surroundings, daemon: &Daemon, write: &str) {
    let url = surroundings.mirror.url();
    let mirrors = daemon.registry_mirrors.as_deref().unwrap_or_default();
    let place = mirrors
        .iter()
        .position(|it| it.trim_end_matches('/') == url);
    match place {
        Some(0) => verdict.fact(format!("registry-mirrors of {FILE} begins with {url}")),
        Some(_) => verdict.hint(
            format!("registry-mirrors of {FILE} has other mirrors before {url}"),
            format!("{write}: dockerd asks them in their order"),
        ),
        None if mirrors.is_empty() => verdict.fault(
            format!("registry-mirrors of {FILE} is missing: pulls go to Docker Hub"),
            format!("{write}; then {RELOAD}"),
        ),
        None => verdict.fault(
            format!(
                "registry-mirrors of {FILE} has {}, and not {url}",
                mirrors.join(", ")
            ),
            format!("{write}; then {RELOAD}"),
        ),
    }
}

/// True if dockerd speaks plain HTTP with it: by its name, or by a network that it is in.
fn is_insecure(daemon: &Daemon, authority: &str) -> bool {
    let entries = daemon.insecure_registries.as_deref().unwrap_or_default();
    let host = authority
        .rsplit_once(':')
        .map_or(authority, |(host, _)| host);
    let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    entries.iter().any(|entry| {
        let network = entry.parse::<crate::net::Network>().ok();
        let is_in = address
            .zip(network)
            .is_some_and(|(address, network)| network.contains(address));
        entry == authority || is_in
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn insecure_registries_are_names_and_networks() {
        let of = |entries: &str| Daemon {
            insecure_registries: Some(entries.split(' ').map(str::to_owned).collect()),
            ..Daemon::default()
        };
        assert!(is_insecure(&of("a:1 mirror:5000"), "mirror:5000"));
        assert!(is_insecure(&of("10.0.0.0/8"), "10.1.2.3:5000"));
        assert!(!is_insecure(&of("10.0.0.0/8"), "mirror:5000"));
        assert!(!is_insecure(&of("mirror"), "mirror:5000"));
    }
}

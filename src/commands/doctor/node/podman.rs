//! Podman, Buildah and Skopeo: the mirrors of registries.conf and of registries.conf.d.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::surroundings::{Image, Surroundings};
use super::verdict::Verdict;
use crate::commands::client_config::mirror::HUB;

const FOLDER: &str = "/etc/containers";
const PROGRAMS: [&str; 3] = ["podman", "buildah", "skopeo"];

/// A file of registries, in version 2 of its format.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Conf {
    registry: Vec<Registry>,
}

/// The rule for names that begin with a prefix.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Registry {
    prefix: Option<String>,
    location: Option<String>,
    insecure: bool,
    blocked: bool,
    mirror: Vec<Place>,
}

/// A mirror of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Place {
    location: String,
    insecure: bool,
    pull_from_mirror: Option<String>,
}

/// The verdict on Podman; `None`: it is not on this node.
pub(super) fn look(surroundings: &Surroundings, image: Option<&Image>) -> Option<Verdict> {
    let node = &surroundings.node;
    let dropped = format!("{FOLDER}/registries.conf.d");
    let main = format!("{FOLDER}/registries.conf");
    let is_there = node.has(&main) || !node.names(&dropped).is_empty();
    if !is_there && !node.has_program(&PROGRAMS) {
        return None;
    }
    let mut verdict = Verdict::default();
    if image.is_some_and(|image| image.is_by_mirror) {
        verdict.fact("the image is named by the mirror: no file leads there");
        return Some(verdict);
    }
    let mut names = node.names(&dropped);
    names.retain(|name| name.rsplit_once('.').is_some_and(|(_, end)| end == "conf"));
    let further = names.iter().map(|name| format!("{dropped}/{name}"));
    let mut known = BTreeMap::new();
    for path in std::iter::once(main).chain(further) {
        let text = match node.read(&path) {
            Ok(Some(text)) => text,
            Ok(None) => continue,
            Err(why) => {
                verdict.fault(why, "run doctor as the user that pulls");
                continue;
            }
        };
        match toml::from_str::<Conf>(&text) {
            Ok(conf) => known.extend(conf.registry.into_iter().filter_map(|it| {
                let prefix = it.prefix.clone().or_else(|| it.location.clone())?;
                Some((prefix, (path.clone(), it)))
            })),
            Err(error) => {
                let why = error
                    .message()
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                let advice = "correct it: no image can be pulled with it";
                verdict.fault(format!("{path} cannot be read: {why}"), advice);
            }
        }
    }
    for registry in &surroundings.registries {
        let name = match image {
            Some(image) => format!("{}/{}", image.name.upstream, image.name.repository),
            None => registry.clone(),
        };
        rule(&mut verdict, surroundings, &known, registry, &name);
    }
    certificate(&mut verdict, surroundings);
    Some(verdict)
}

/// The rule with the longest prefix leads to the mirror. `name`: an image's, or a registry's alone.
fn rule(
    verdict: &mut Verdict,
    surroundings: &Surroundings,
    known: &BTreeMap<String, (String, Registry)>,
    registry: &str,
    name: &str,
) {
    let mirror = &surroundings.mirror;
    let authority = mirror.authority();
    let write = format!(
        "roadstead client-config podman --server {} --write",
        mirror.url()
    );
    let rules = known.iter().filter(|(prefix, _)| is_below(name, prefix));
    let Some((_, (path, rule))) = rules.max_by_key(|(prefix, _)| prefix.len()) else {
        let what = format!("{FOLDER}/registries.conf(.d) has no [[registry]] for {registry}");
        verdict.fault(what, write);
        return;
    };
    if rule.blocked {
        verdict.fault(
            format!("{path}: {registry} is blocked"),
            "remove blocked = true",
        );
        return;
    }
    let wanted = format!("{authority}/{registry}");
    // Without a registry's name behind it, the mirror takes requests for its default upstream.
    let leads =
        |location: &str| is_below(location, &wanted) || (registry == HUB && location == authority);
    let place = rule.mirror.iter().position(|it| leads(&it.location));
    let insecure = match place.and_then(|place| rule.mirror.get(place)) {
        Some(ours) => {
            if place > Some(0) {
                verdict.hint(
                    format!("{path}: {registry} has other mirrors before {wanted}"),
                    "put it first: mirrors are asked in their order",
                );
            }
            if let Some(kind) = ours.pull_from_mirror.as_deref().filter(|it| *it != "all") {
                verdict.hint(
                    format!(
                        "{path}: pull-from-mirror of {wanted} is {kind:?}: other names go past it"
                    ),
                    "remove it",
                );
            }
            ours.insecure
        }
        None if rule.location.as_deref().is_some_and(leads) => rule.insecure,
        None => {
            verdict.fault(format!("{path}: {registry} has no mirror {wanted}"), write);
            return;
        }
    };
    if !mirror.has_tls() && !insecure {
        let what =
            format!("{path}: {wanted} lacks insecure = true, and the mirror speaks plain HTTP");
        verdict.fault(what, write);
        return;
    }
    verdict.fact(format!("{path} leads {registry} to {wanted}"));
}

/// The mirror's certificate is believed.
fn certificate(verdict: &mut Verdict, surroundings: &Surroundings) {
    if surroundings.is_trusted {
        return;
    }
    let authority = surroundings.mirror.authority();
    let folders = [FOLDER, "/etc/docker"].map(|it| format!("{it}/certs.d/{authority}"));
    let has_ca = folders.iter().any(|folder| {
        let names = surroundings.node.names(folder);
        names
            .iter()
            .any(|name| name.rsplit_once('.').is_some_and(|(_, end)| end == "crt"))
    });
    if !has_ca {
        let [folder, _] = &folders;
        verdict.fault(
            format!("the mirror's certificate is of an unknown authority, and {folder}/ca.crt is missing"),
            format!(
                "roadstead client-config podman --server {} --ca FILE --write",
                surroundings.mirror.url()
            ),
        );
    }
}

/// True if a name is a prefix's own, or lies below it.
fn is_below(name: &str, prefix: &str) -> bool {
    if let Some(domain) = prefix.strip_prefix("*.") {
        let host = name.split('/').next().unwrap_or_default();
        return host
            .strip_suffix(domain)
            .is_some_and(|it| it.ends_with('.'));
    }
    name.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_where_a_name_does() {
        for (name, prefix, expected) in [
            ("docker.io", "docker.io", true),
            ("docker.io/library/a", "docker.io", true),
            ("docker.io/library/a", "docker.io/library", true),
            ("docker.io/library2/a", "docker.io/library", false),
            ("docker.iox", "docker.io", false),
            ("a.example.com/x", "*.example.com", true),
            ("example.com/x", "*.example.com", false),
        ] {
            assert_eq!(is_below(name, prefix), expected, "{name} {prefix}");
        }
    }
}

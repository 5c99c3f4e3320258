//! containerd: `config_path` of config.toml, and a hosts.toml for each registry.

use toml_edit::{DocumentMut, Item, TableLike};

use super::surroundings::{Image, Surroundings};
use super::verdict::Verdict;
use crate::commands::client_config::cri;

const FILE: &str = "/etc/containerd/config.toml";

/// The verdict on containerd; `None`: it is not on this node.
pub(super) fn look(surroundings: &Surroundings, image: Option<&Image>) -> Option<Verdict> {
    let node = &surroundings.node;
    if !node.has(FILE) && !node.has_program(&["containerd"]) {
        return None;
    }
    let mut verdict = Verdict::default();
    if image.is_some_and(|image| image.is_by_mirror) {
        verdict.fact("the image is named by the mirror: no file leads there");
        return Some(verdict);
    }
    let url = surroundings.mirror.url();
    let write = format!("roadstead client-config containerd --server {url} --write");
    let folders = match node.read(FILE) {
        Ok(Some(text)) => match cri::config_paths(&text) {
            Ok(folders) => folders,
            Err(fault) => {
                verdict.fault(fault.of(FILE), "correct it, then restart containerd");
                return Some(verdict);
            }
        },
        Ok(None) => Vec::new(),
        Err(why) => {
            verdict.fault(why, "run doctor as root");
            return Some(verdict);
        }
    };
    if folders.is_empty() {
        let what = format!("{FILE} has no config_path, so that no hosts.toml is read");
        verdict.fault(what, format!("{write}; then systemctl restart containerd"));
        return Some(verdict);
    }
    if folders.len() > 1 {
        verdict.hint(
            format!("config_path names {} directories", folders.len()),
            "containerd 2.1 takes them for one name, and finds nothing: name one",
        );
    }
    for registry in &surroundings.registries {
        host(&mut verdict, surroundings, &folders, registry, &write);
    }
    if node.is_stale(FILE, "containerd") {
        let what = format!("{FILE} was changed after containerd was started");
        verdict.fault(what, "systemctl restart containerd");
    }
    Some(verdict)
}

/// The hosts.toml of a registry leads to the mirror.
fn host(
    verdict: &mut Verdict,
    surroundings: &Surroundings,
    folders: &[String],
    registry: &str,
    write: &str,
) {
    let node = &surroundings.node;
    let mut paths = folders.iter().flat_map(|folder| {
        let names = [registry, "_default"];
        names.map(|name| format!("{}/{name}/hosts.toml", folder.trim_end_matches('/')))
    });
    let found = paths.find_map(|path| {
        let text = node.read(&path).ok().flatten()?;
        Some((path, text))
    });
    let Some((path, text)) = found else {
        let what = format!("{registry} has no hosts.toml in {}", folders.join(", "));
        verdict.fault(what, write);
        return;
    };
    let Ok(document) = text.parse::<DocumentMut>() else {
        let advice = "correct it: containerd ignores it";
        verdict.fault(format!("{path} is no TOML"), advice);
        return;
    };
    let hosts = document.get("host").and_then(Item::as_table_like);
    let hosts = hosts.into_iter().flat_map(TableLike::iter);
    let hosts: Vec<(&str, &Item)> = hosts.collect();
    let url = surroundings.mirror.url();
    let mut numbered = hosts.iter().enumerate();
    let ours = numbered.find(|(_, (host, _))| host.trim_end_matches('/') == url);
    let Some((place, (_, ours))) = ours else {
        let others: Vec<&str> = hosts.iter().map(|(url, _)| *url).collect();
        let others = match others.join(", ") {
            others if others.is_empty() => "no host".to_owned(),
            others => others,
        };
        verdict.fault(format!("{path} has {others}, and not {url}"), write);
        return;
    };
    if place > 0 {
        verdict.hint(
            format!("{path} has other hosts before {url}"),
            "put the mirror's table first: hosts are asked in their order",
        );
    }
    table(verdict, surroundings, &path, ours, write);
    verdict.fact(format!("{path} leads to {url}"));
}

/// The mirror's own table lets it resolve and pull, and its certificate be believed.
fn table(verdict: &mut Verdict, surroundings: &Surroundings, path: &str, ours: &Item, write: &str) {
    let capabilities = ours.get("capabilities").and_then(Item::as_array);
    let lacks = capabilities.is_some_and(|given| {
        let has = |word: &str| given.iter().any(|it| it.as_str() == Some(word));
        !has("pull") || !has("resolve")
    });
    if lacks {
        let what = format!("{path}: the mirror lacks the capabilities \"pull\" and \"resolve\"");
        verdict.fault(what, write);
    }
    let skips = ours.get("skip_verify").and_then(Item::as_bool);
    if surroundings.is_trusted || skips == Some(true) {
        return;
    }
    let write = format!("{write} --ca FILE");
    match ours.get("ca").map(|ca| ca.as_str().unwrap_or_default()) {
        None => verdict.fault(
            format!(
                "{path}: the mirror's certificate is of an unknown authority, and there is no ca"
            ),
            write,
        ),
        Some(file) if !file.is_empty() && !surroundings.node.has(file) => verdict.fault(
            format!("{path}: ca names {file}, which is not there"),
            write,
        ),
        Some(_) => {}
    }
}

//! containerd's config.toml: the key that has its CRI plugin read hosts.toml.

use toml_edit::{DocumentMut, Item, Table, TableLike};

use super::fault::{Fault, Merged, joined};
use super::hosts::{changed, parse, quoted};

/// The directory of hosts.toml.
pub(in crate::commands) const CERTS: &str = "/etc/containerd/certs.d";
/// What `containerd config default` of 2.x writes: some versions take it for one name, and find nothing.
const PAIR: &str = "/etc/containerd/certs.d:/etc/docker/certs.d";
/// The CRI plugin in files of version 2: containerd 1.x, and 2.x, which reads them as well.
const PLUGIN_2: &str = "io.containerd.grpc.v1.cri";
/// The plugin of images in files of version 3 and later: containerd 2.x.
const PLUGIN_3: &str = "io.containerd.cri.v1.images";

/// The file where there is none. Both containerd 1.x and 2.x read this version.
pub(super) fn fresh() -> String {
    format!("version = 2\n\n{}", lines(PLUGIN_2))
}

/// The file with `config_path`.
pub(super) fn merge(text: &str) -> Result<Merged, Fault> {
    let mut document = parse(text)?;
    if document.as_table().is_empty() {
        return Ok(joined(text, &fresh()).into());
    }
    if is_disabled(&document) {
        let note = "the CRI plugin is disabled here, so config_path was left out: Kubernetes cannot use this containerd; ctr --hosts-dir and nerdctl can";
        return Ok(Merged {
            text: text.to_owned(),
            notes: vec![note.to_owned()],
        });
    }
    let plugin = plugin(&document)?;
    let registry = registry(&document, plugin);
    let is_set = |key: &str| registry.and_then(|it| it.get(key)).is_some_and(has_some);
    if let Some(old) = ["mirrors", "configs"].into_iter().find(|key| is_set(key)) {
        let why = format!(
            "[plugins.\"{plugin}\".registry.{old}] excludes config_path, and containerd does not start with both: move what it says into hosts.toml, remove it, and add\n{}",
            lines(plugin)
        );
        return Err(Fault::new(why));
    }
    let given = registry.and_then(|it| it.get("config_path"));
    match given.map(|it| it.as_str().unwrap_or("?")) {
        Some(CERTS) => return Ok(text.to_owned().into()),
        None if document.contains_key("imports") => {
            let note = format!(
                "it has imports, one of which may say config_path; if none does, add\n{}",
                lines(plugin)
            );
            return Ok(Merged {
                text: text.to_owned(),
                notes: vec![note],
            });
        }
        None | Some("" | PAIR) => {}
        Some(other) => {
            let why = format!(
                "config_path is {}, where other hosts.toml may be: move them to {CERTS}, and write config_path = {}",
                quoted(other),
                quoted(CERTS)
            );
            return Err(Fault::new(why));
        }
    }
    set(&mut document, plugin)?;
    Ok(document.to_string().into())
}

/// The directories in which containerd looks for hosts.toml; none: it does not.
///
/// # Errors
/// The file cannot be read as containerd reads it.
pub(in crate::commands) fn config_paths(text: &str) -> Result<Vec<String>, Fault> {
    let document = parse(text)?;
    let plugin = plugin(&document)?;
    let given = registry(&document, plugin).and_then(|it| it.get("config_path"));
    let given = given.and_then(Item::as_str).unwrap_or_default();
    let folders = given.split(':').filter(|folder| !folder.is_empty());
    Ok(folders.map(str::to_owned).collect())
}

/// The file without our value of `config_path`.
pub(super) fn remove(text: &str) -> Result<String, Fault> {
    let mut document = parse(text)?;
    for plugin in [PLUGIN_2, PLUGIN_3] {
        let registry = document
            .get_mut("plugins")
            .and_then(|it| it.get_mut(plugin));
        let registry = registry.and_then(|it| it.get_mut("registry"));
        if let Some(registry) = registry.and_then(Item::as_table_like_mut)
            && registry.get("config_path").and_then(Item::as_str) == Some(CERTS)
        {
            registry.remove("config_path");
        }
    }
    Ok(changed(text, &document))
}

/// The lines that are added.
fn lines(plugin: &str) -> String {
    format!(
        "[plugins.\"{plugin}\".registry]\nconfig_path = {}\n",
        quoted(CERTS)
    )
}

fn is_disabled(document: &DocumentMut) -> bool {
    let disabled = document.get("disabled_plugins").and_then(Item::as_array);
    disabled.is_some_and(|disabled| {
        let mut names = disabled.iter().filter_map(toml_edit::Value::as_str);
        names.any(|name| ["cri", PLUGIN_2, PLUGIN_3].contains(&name))
    })
}

/// The plugin by the file's version.
fn plugin(document: &DocumentMut) -> Result<&'static str, Fault> {
    match document.get("version").and_then(Item::as_integer) {
        Some(2) => Ok(PLUGIN_2),
        Some(3..) => Ok(PLUGIN_3),
        Some(_) | None => Err(Fault::new(format!(
            "has no `version = 2` or later, so that its plugins have other names: migrate it (`containerd config migrate`), or add\nversion = 2\n{}",
            lines(PLUGIN_2)
        ))),
    }
}

fn registry<'a>(document: &'a DocumentMut, plugin: &str) -> Option<&'a dyn TableLike> {
    let plugins = document.get("plugins")?;
    plugins.get(plugin)?.get("registry")?.as_table_like()
}

/// True if a table has anything in it: what `containerd config default` writes has empty ones.
fn has_some(item: &Item) -> bool {
    let table = item.as_table_like();
    table.is_none_or(|table| table.iter().any(|(_, it)| !it.is_none()))
}

fn set(document: &mut DocumentMut, plugin: &str) -> Result<(), Fault> {
    let mut at: &mut dyn TableLike = document.as_table_mut();
    for (key, implicit) in [("plugins", true), (plugin, true), ("registry", false)] {
        let item = at.entry(key).or_insert_with(|| {
            let mut table = Table::new();
            table.set_implicit(implicit);
            Item::Table(table)
        });
        at = item.as_table_like_mut().ok_or_else(|| {
            Fault::new(format!(
                "{key:?} is no table: correct it first, nothing was changed"
            ))
        })?;
    }
    match at.get_mut("config_path").and_then(Item::as_value_mut) {
        Some(value) => {
            let decor = value.decor().clone();
            *value = CERTS.into();
            *value.decor_mut() = decor;
        }
        None => {
            at.insert("config_path", Item::Value(CERTS.into()));
        }
    }
    Ok(())
}

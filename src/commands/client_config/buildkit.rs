//! buildkitd.toml: a mirror for each registry, and a table for the mirror itself.

use std::fmt::Write as _;

use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, TableLike, Value};

use super::fault::{Fault, Merged, joined};
use super::hosts::{changed, parse, quoted};

/// The entries that are ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Buildkitd {
    /// The mirror's address.
    pub(super) authority: String,
    /// The registries.
    pub(super) upstreams: Vec<String>,
    /// True for plain HTTP.
    pub(super) http: bool,
    /// The file of its authority, as buildkitd or buildx sees it.
    pub(super) ca: Option<String>,
}

impl Buildkitd {
    /// The file where there is none.
    pub(super) fn fresh(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail, here and below.
        for upstream in &self.upstreams {
            let (name, mirror) = (quoted(upstream), quoted(&self.mirror(upstream)));
            writeln!(text, "[registry.{name}]\n  mirrors = [{mirror}]").ok();
        }
        if self.http || self.ca.is_some() {
            write!(text, "\n[registry.{}]\n", quoted(&self.authority)).ok();
        }
        if self.http {
            text.push_str("  http = true\n");
        }
        if let Some(ca) = &self.ca {
            writeln!(text, "  ca = [{}]", quoted(ca)).ok();
        }
        text
    }

    /// The file with our entries: the mirror before others of the same registry.
    pub(super) fn merge(&self, text: &str) -> Result<Merged, Fault> {
        let mut document = parse(text)?;
        if document.as_table().is_empty() {
            return Ok(joined(text, &self.fresh()).into());
        }
        for upstream in &self.upstreams {
            let mirror = self.mirror(upstream);
            let table = table(&mut document, upstream)?;
            let mirrors = table.entry("mirrors").or_insert_with(|| array(&[]));
            let mirrors = mirrors
                .as_array_mut()
                .ok_or_else(|| wrong(upstream, "mirrors"))?;
            if !mirrors.iter().any(|it| it.as_str() == Some(&mirror)) {
                insert_first(mirrors, &mirror);
            }
        }
        if self.http || self.ca.is_some() {
            let own = table(&mut document, &self.authority)?;
            if self.http && own.get("http").and_then(Item::as_bool) != Some(true) {
                own.insert("http", Item::Value(true.into()));
            }
            if let Some(ca) = &self.ca {
                let authorities = own.entry("ca").or_insert_with(|| array(&[]));
                let authorities = authorities.as_array_mut();
                let authorities = authorities.ok_or_else(|| wrong(&self.authority, "ca"))?;
                if !authorities.iter().any(|it| it.as_str() == Some(ca)) {
                    authorities.push(ca);
                }
            }
        }
        Ok(changed(text, &document).into())
    }

    /// The file without our entries; tables that are empty then go, too.
    pub(super) fn remove(&self, text: &str) -> Result<String, Fault> {
        let mut document = parse(text)?;
        for upstream in &self.upstreams {
            let mirror = self.mirror(upstream);
            clean(&mut document, upstream, |table| {
                take(table, "mirrors", |it| it == mirror);
            });
        }
        clean(&mut document, &self.authority, |own| {
            if self.http && own.get("http").and_then(Item::as_bool) == Some(true) {
                own.remove("http");
            }
            take(own, "ca", |it| self.ca.as_deref().is_none_or(|ca| ca == it));
        });
        Ok(changed(text, &document))
    }

    fn mirror(&self, upstream: &str) -> String {
        format!("{}/{upstream}", self.authority)
    }
}

/// The table of a registry, made where there is none.
fn table<'a>(document: &'a mut DocumentMut, name: &str) -> Result<&'a mut dyn TableLike, Fault> {
    let registries = document.entry("registry").or_insert_with(|| {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    });
    // A table in a line of braces takes others in such lines alone.
    let is_inline = registries.is_inline_table();
    let registries = registries.as_table_like_mut();
    let registries =
        registries.ok_or_else(|| Fault::new("\"registry\" is no table: correct it first"))?;
    let own = registries.entry(name).or_insert_with(|| {
        if is_inline {
            Item::Value(Value::InlineTable(InlineTable::new()))
        } else {
            Item::Table(Table::new())
        }
    });
    let own = own.as_table_like_mut();
    own.ok_or_else(|| Fault::new(format!("registry.{name:?} is no table: correct it first")))
}

/// Changes the table of a registry, and removes it if that empties it.
fn clean(document: &mut DocumentMut, name: &str, change: impl FnOnce(&mut dyn TableLike)) {
    let registries = document
        .get_mut("registry")
        .and_then(Item::as_table_like_mut);
    let Some(registries) = registries else {
        return;
    };
    let Some(own) = registries.get_mut(name).and_then(Item::as_table_like_mut) else {
        return;
    };
    change(own);
    if own.is_empty() {
        registries.remove(name);
    }
    if registries.is_empty() {
        document.remove("registry");
    }
}

/// Takes elements out of a list, and the list if that empties it.
fn take(table: &mut dyn TableLike, key: &str, is_ours: impl Fn(&str) -> bool) {
    let Some(list) = table.get_mut(key).and_then(Item::as_array_mut) else {
        return;
    };
    let first = list.get(0).map(|it| it.decor().clone());
    list.retain(|it| !it.as_str().is_some_and(&is_ours));
    // The element that is the first now has the space of a second one before it.
    if let (Some(head), Some(decor)) = (list.get_mut(0), first) {
        *head.decor_mut() = decor;
    }
    if list.is_empty() {
        table.remove(key);
    }
}

fn insert_first(list: &mut Array, entry: &str) {
    // The first element has no space before it where the second has one.
    let gap = list.get(0).map(|it| it.decor().clone());
    list.insert(0, entry);
    if let Some(gap) = gap.filter(|gap| gap.prefix().is_some_and(|it| it.as_str() != Some(""))) {
        if let Some(first) = list.get_mut(0) {
            *first.decor_mut() = gap;
        }
    } else if let Some(second) = list.get_mut(1) {
        second.decor_mut().set_prefix(" ");
    }
}

fn array(values: &[&str]) -> Item {
    let list: Array = values.iter().copied().collect();
    Item::Value(Value::Array(list))
}

fn wrong(registry: &str, key: &str) -> Fault {
    Fault::new(format!(
        "{key} of registry.{registry:?} is no list: correct it first, nothing was changed"
    ))
}

//! containerd's hosts.toml: one table for the mirror, before those of other hosts, since containerd asks them in the
//! order of the file.

use std::fmt::Write as _;

use toml_edit::{Array, DocumentMut, Item, TableLike, Value};

use super::fault::{Fault, Merged};

const CAPABILITIES: [&str; 2] = ["pull", "resolve"];

/// The table that is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    /// The mirror's URL.
    pub(super) url: String,
    /// The file of its authority, as containerd sees it.
    pub(super) ca: Option<String>,
}

impl Host {
    /// The file where there is none. Without `server` containerd goes on to the registry itself.
    pub(super) fn fresh(&self) -> String {
        let url = quoted(&self.url);
        let mut text = format!("[host.{url}]\ncapabilities = [\"pull\", \"resolve\"]\n");
        if let Some(ca) = &self.ca {
            // Writing to a String cannot fail.
            writeln!(text, "ca = {}", quoted(ca)).ok();
        }
        text
    }

    /// The file with our table.
    pub(super) fn merge(&self, text: &str) -> Result<Merged, Fault> {
        let mut document = parse(text)?;
        let host = document.get_mut("host");
        let host = host.and_then(Item::as_table_like_mut);
        if let Some(ours) = host.and_then(|host| host.get_mut(&self.url)) {
            let ours = ours.as_table_like_mut();
            let ours = ours.ok_or_else(|| self.by_hand("has no table for the mirror"))?;
            self.set(ours);
            return Ok(changed(text, &document).into());
        }
        let first = first_host(text);
        if first.is_none() && document.contains_key("host") {
            return Err(self.by_hand("has its hosts in a form that cannot be added to"));
        }
        let merged = self.inserted(text, first.unwrap_or(text.len()));
        // A table in another form, such as `host = {}`, takes no table behind it.
        let adds = parse(&merged).is_ok_and(|mut merged| {
            without(&mut merged, &self.url);
            values(&merged) == values(&document)
        });
        if !adds {
            return Err(self.by_hand("has its hosts in a form that cannot be added to"));
        }
        Ok(merged.into())
    }

    /// The file without our table.
    pub(super) fn remove(&self, text: &str) -> Result<String, Fault> {
        let mut document = parse(text)?;
        without(&mut document, &self.url);
        Ok(changed(text, &document))
    }

    /// The keys of our table; others that the user has added stay.
    fn set(&self, ours: &mut dyn TableLike) {
        let given = ours.get("capabilities").and_then(Item::as_array);
        let has =
            |it: &&str| given.is_some_and(|given| given.iter().any(|v| v.as_str() == Some(it)));
        // Without the key containerd takes all of them.
        let is_whole = CAPABILITIES.iter().all(has) || !ours.contains_key("capabilities");
        if !is_whole {
            let capabilities: Array = CAPABILITIES.into_iter().collect();
            ours.insert("capabilities", Item::Value(Value::Array(capabilities)));
        }
        if let Some(ca) = &self.ca
            && ours.get("ca").and_then(Item::as_str) != Some(ca)
        {
            ours.insert("ca", Item::Value(ca.as_str().into()));
        }
    }

    /// The text with our table at this place.
    fn inserted(&self, text: &str, at: usize) -> String {
        let (before, after) = text.split_at_checked(at).unwrap_or((text, ""));
        let mut merged = before.to_owned();
        if !merged.is_empty() && !merged.ends_with('\n') {
            merged.push('\n');
        }
        if !merged.is_empty() && !merged.ends_with("\n\n") {
            merged.push('\n');
        }
        merged.push_str(&self.fresh());
        if !after.is_empty() {
            merged.push('\n');
            merged.push_str(after);
        }
        merged
    }

    fn by_hand(&self, why: &str) -> Fault {
        let table = self.fresh();
        Fault::new(format!(
            "{why}: write this before its other hosts:\n{table}"
        ))
    }
}

/// The place of the first table of a host.
fn first_host(text: &str) -> Option<usize> {
    let mut at = 0;
    text.split_inclusive('\n').find_map(|line| {
        let start = at;
        at += line.len();
        let header: String = line.chars().filter(|c| !c.is_whitespace()).collect();
        let is_host = header.starts_with("[host.") || header.starts_with("[host]");
        is_host.then_some(start)
    })
}

/// True if nothing is said in it.
pub(super) fn is_empty(text: &str) -> bool {
    parse(text).is_ok_and(|document| document.as_table().is_empty())
}

/// A TOML document that can be changed without a change of what else is in it.
pub(super) fn parse(text: &str) -> Result<DocumentMut, Fault> {
    text.parse::<DocumentMut>().map_err(|error| {
        let why = error.message().lines().next().unwrap_or("a syntax error");
        let why = format!("is no TOML: {why}; correct it first, nothing was changed");
        Fault::at(text, error.span().as_ref(), why)
    })
}

/// A text as TOML writes it.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// The text of a document, which is as it was where no value has changed: white space within a header is not kept.
pub(super) fn changed(text: &str, document: &DocumentMut) -> String {
    let changed = document.to_string();
    let before: Option<toml::Table> = text.parse().ok();
    if before.is_some() && before == values(document) {
        return text.to_owned();
    }
    changed
}

fn without(document: &mut DocumentMut, url: &str) {
    let Some(host) = document.get_mut("host").and_then(Item::as_table_like_mut) else {
        return;
    };
    host.remove(url);
    // A line `[host]` of the user's own means something: no fallback to the registry.
    let is_ours = document
        .get("host")
        .and_then(Item::as_table)
        .is_some_and(|host| host.is_empty() && host.is_implicit());
    if is_ours {
        document.remove("host");
    }
}

/// The values alone.
fn values(document: &DocumentMut) -> Option<toml::Table> {
    document.to_string().parse().ok()
}

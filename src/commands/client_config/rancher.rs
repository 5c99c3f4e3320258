//! registries.yaml of k3s and RKE2: a block of ours, behind what else is in the file.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::fault::{Fault, Merged, joined};

/// The entries that are ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registries {
    /// The mirror's URL.
    pub(super) url: String,
    /// The mirror's address, for the table of its authority.
    pub(super) authority: String,
    /// The registries.
    pub(super) upstreams: Vec<String>,
    /// The file of its authority.
    pub(super) ca: Option<String>,
}

/// The file, as far as it decides where ours goes.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
#[expect(
    clippy::zero_sized_map_values,
    reason = "a map is what YAML has; only its keys count"
)]
struct Given(BTreeMap<String, IgnoredAny>);

impl Registries {
    /// The file where there is none.
    pub(super) fn fresh(&self) -> String {
        let mut text = "mirrors:\n".to_owned();
        // Writing to a String cannot fail, here and below.
        for upstream in &self.upstreams {
            let (name, url) = (key(upstream), &self.url);
            write!(text, "  {name}:\n    endpoint:\n      - \"{url}\"\n").ok();
        }
        if let Some(ca) = &self.ca {
            let name = key(&self.authority);
            write!(text, "configs:\n  {name}:\n    tls:\n      ca_file: {ca}\n").ok();
        }
        text
    }

    /// The file with our block at its end, where nothing in it is of the same name.
    pub(super) fn merge(&self, text: &str) -> Result<Merged, Fault> {
        let given = parse(text)?;
        let fresh = self.fresh();
        if given.0.is_empty() {
            return Ok(joined(text, &fresh).into());
        }
        if text.starts_with(&fresh) || text.contains(&format!("\n{fresh}")) {
            return Ok(text.to_owned().into());
        }
        let clash = ["mirrors", "configs"]
            .into_iter()
            .find(|key| fresh.contains(&format!("{key}:\n")) && given.0.contains_key(*key));
        if let Some(clash) = clash {
            let line = text.lines().position(|line| line.starts_with(clash));
            let why =
                format!("has {clash:?} of its own, which is not merged: add this to it\n{fresh}");
            return Err(Fault::in_line(line.map(|line| line + 1), why));
        }
        let merged = joined(text, &fresh);
        // A document in braces, or one that `---` or `...` ends, takes nothing behind it.
        match parse(&merged) {
            Ok(both) if both.0.len() > given.0.len() => Ok(merged.into()),
            Ok(_) | Err(_) => Err(Fault::new(format!(
                "cannot be added to: write this into it\n{fresh}"
            ))),
        }
    }
}

/// A key, quoted where YAML would read something else.
pub(super) fn key(name: &str) -> String {
    if name.contains([':', '[', '*']) {
        format!("\"{name}\"")
    } else {
        name.to_owned()
    }
}

fn parse(text: &str) -> Result<Given, Fault> {
    let is_blank = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    if text.lines().all(is_blank) {
        return Ok(Given::default());
    }
    serde_saphyr::from_str(text).map_err(|error| {
        let line = error
            .location()
            .and_then(|at| usize::try_from(at.line()).ok());
        let why = error.without_snippet().to_string();
        let why = why.lines().next().unwrap_or("a syntax error");
        Fault::in_line(
            line,
            format!("is no YAML mapping: {why}; correct it first, nothing was changed"),
        )
    })
}

//! The variables of the process.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::error::Problem;
use super::origin::Origin;

/// The prefix of our variables.
pub(super) const PREFIX: &str = "ROADSTEAD_";

/// The process's environment, as far as configuration may look at it.
pub(super) struct Environment(BTreeMap<String, OsString>);

impl Environment {
    /// Takes every variable: `password_env` may name any of them.
    pub(super) fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let named = variables
            .into_iter()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value));
        Self(named.collect())
    }

    /// The text of a variable.
    ///
    /// # Errors
    /// The reason that there is none.
    pub(super) fn text(&self, name: &str) -> Result<String, String> {
        let value = self.0.get(name).ok_or("is not set")?;
        let text = value.to_str().ok_or("is not UTF-8 text")?;
        Ok(text.to_owned())
    }

    /// The text of a variable that other programs read too, such as `HTTPS_PROXY`. A blank one counts
    /// as not set.
    ///
    /// # Errors
    /// That it is not text.
    pub(super) fn vendors(&self, name: &str) -> Result<Option<String>, Problem> {
        if !self.0.contains_key(name) {
            return Ok(None);
        }
        let text = self.text(name);
        let text = text.map_err(|why| Problem::new(&environment(name), "", why))?;
        let text = text.trim();
        Ok((!text.is_empty()).then(|| text.to_owned()))
    }

    /// Our variables, with and without the prefix.
    pub(super) fn ours(&self) -> impl Iterator<Item = (&str, &str)> {
        let names = self.0.keys().map(String::as_str);
        names.filter_map(|name| Some((name, name.strip_prefix(PREFIX)?)))
    }
}

pub(super) fn environment(variable: &str) -> Origin {
    Origin::Environment(variable.to_owned())
}

//! What is wrong with a configuration, and where.

use std::fmt;

use super::raw::Origin;

/// Why a configuration cannot be used: one line that names the place (file and line, variable or
/// flag), the key, and the reason. It never contains a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub(super) String);

/// An error whose place is not yet a line.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) origin: Origin,
    /// Empty when no key can be named.
    pub(super) key: String,
    pub(super) why: String,
    /// A second place that belongs to it.
    pub(super) also: Option<Origin>,
}

/// The file's name and text, to turn bytes into lines.
#[derive(Default)]
pub(super) struct Source {
    pub(super) name: String,
    pub(super) text: String,
}

impl Problem {
    pub(super) fn new(origin: &Origin, key: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            origin: origin.clone(),
            key: key.into(),
            why: why.into(),
            also: None,
        }
    }

    /// Names a second place.
    pub(super) fn and(mut self, also: &Origin) -> Self {
        self.also = Some(also.clone());
        self
    }

    /// The line that the user reads.
    pub(super) fn render(&self, source: &Source) -> ConfigError {
        let mut line = source.place(&self.origin);
        for part in [&self.key, &self.why] {
            if !part.is_empty() {
                line = format!("{line}: {part}");
            }
        }
        if let Some(also) = &self.also {
            line = format!("{line} (see {})", source.place(also));
        }
        ConfigError(line)
    }
}

impl Source {
    /// Where a value came from, as the user would name it.
    fn place(&self, origin: &Origin) -> String {
        match origin {
            Origin::Default => "default".to_owned(),
            Origin::File(offset) => format!("{}:{}", self.name, self.line(*offset)),
            Origin::Environment(name) => name.clone(),
            Origin::Flag(name) => (*name).to_owned(),
        }
    }

    /// The number of the line that holds a byte, from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        let before = self.text.bytes().take(offset);
        1 + before.filter(|byte| *byte == b'\n').count()
    }
}

/// A value in an error message: quoted, on one line, not endlessly long.
pub(super) struct Shown<'a>(pub(super) &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = without_user_info(self.0);
        let mut chars = text.chars();
        let head: String = chars.by_ref().take(SHOWN_CHARS_MAX).collect();
        let tail = if chars.next().is_some() { "…" } else { "" };
        write!(f, "{head:?}{tail}")
    }
}

/// Hides what stands between the scheme and the last `@`: it is most likely a password.
fn without_user_info(text: &str) -> String {
    let Some((user_info, host)) = text.rsplit_once('@') else {
        return text.to_owned();
    };
    let scheme = user_info.find("//").and_then(|at| user_info.get(..at + 2));
    format!("{}***@{host}", scheme.unwrap_or_default())
}

/// Enough to recognise a value by, short enough for one line of a terminal.
const SHOWN_CHARS_MAX: usize = 120;

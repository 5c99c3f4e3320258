//! Errors of a configuration, and their places.

use std::fmt;

use super::origin::Origin;
use crate::stamp::Stamp;

/// Enough to recognise a value by, short enough for one line of a terminal.
const SHOWN_CHARS_MAX: usize = 120;
/// Names of keys have at most half as many.
const NAME_CHARS_MAX: usize = 64;
/// More errors than this come of one: the wrong file, most likely.
const ERRORS_MAX: usize = 50;

/// The reason that a configuration cannot be used: everything that is wrong with it, a line for each, in the order of the file.
/// Each line names the place (file and line, variable or flag), the key, and the reason. None contains a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub(super) Vec<String>);

impl ConfigError {
    /// One line for each error.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.0
    }

    /// The errors of this file.
    pub(super) fn of(mut problems: Vec<Problem>, source: &Source) -> Self {
        problems.sort_by(|a, b| a.origin.cmp(&b.origin));
        let mut lines: Vec<String> = Vec::new();
        for problem in &problems {
            let line = problem.render(source);
            if !lines.contains(&line) {
                lines.push(line);
            }
            if lines.len() == ERRORS_MAX {
                lines.push(format!("and more than these {ERRORS_MAX} errors"));
                break;
            }
        }
        Self(lines)
    }
}

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
    /// The file's, from before it was read. `None` where there is no file.
    pub(super) stamp: Option<Stamp>,
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
    fn render(&self, source: &Source) -> String {
        let mut line = source.place(&self.origin);
        for part in [&self.key, &self.why] {
            if !part.is_empty() {
                line = format!("{line}: {part}");
            }
        }
        if let Some(also) = &self.also {
            line = format!("{line} (see {})", source.place(also));
        }
        line
    }
}

impl Source {
    /// The place of a value, as the user would name it.
    fn place(&self, origin: &Origin) -> String {
        match origin {
            Origin::Default => "default".to_owned(),
            Origin::File(offset) => format!("{}:{}", self.name, self.line(*offset)),
            Origin::Environment(name) => name.clone(),
            Origin::Flag(name) => (*name).to_owned(),
        }
    }

    /// A note on a place, which it names.
    pub(super) fn note(&self, origin: &Origin, note: &str) -> String {
        match origin {
            // The note names it.
            Origin::Environment(_) => note.to_owned(),
            Origin::Default | Origin::File(_) | Origin::Flag(_) => {
                format!("{}: {note}", self.place(origin))
            }
        }
    }

    /// The number of the line that holds a byte, from 1.
    fn line(&self, offset: usize) -> usize {
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

/// The known name that was most likely meant: the one that takes the fewest typing errors, if they are few for its
/// length.
pub(super) fn suggestion<'k>(
    written: &str,
    known: impl IntoIterator<Item = &'k str>,
) -> Option<&'k str> {
    // A name that is longer than any of ours is not looked at, for it costs the product of both lengths.
    let written: String = written
        .to_lowercase()
        .chars()
        .take(NAME_CHARS_MAX)
        .collect();
    let distance = |known: &'k str| (strsim::damerau_levenshtein(&written, known), known);
    let (errors, nearest) = known.into_iter().map(distance).min_by_key(|it| it.0)?;
    (errors * 3 <= nearest.chars().count().max(3)).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_meant_if_it_is_near() {
        let known = ["listen", "admin_listen", "tls", "max_size", "max_age"];
        for (written, meant) in [
            ("lisen", Some("listen")),
            ("Listen", Some("listen")),
            ("tsl", Some("tls")),
            ("maxsize", Some("max_size")),
            ("max_sise", Some("max_size")),
            ("colour", None),
            ("ca", None),
            ("", None),
        ] {
            assert_eq!(suggestion(written, known), meant, "{written}");
        }
        assert_eq!(suggestion(&"x".repeat(1 << 20), known), None);
    }
}

//! The reason that a file is left as it is.

use std::fmt;
use std::ops::Range;

/// A fault of a file: the line, and one text that says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::commands) struct Fault {
    line: Option<usize>,
    why: String,
}

impl Fault {
    /// A fault of the whole file.
    pub(super) fn new(why: impl Into<String>) -> Self {
        Self {
            line: None,
            why: why.into(),
        }
    }

    /// A fault at this place of a text.
    pub(super) fn at(text: &str, span: Option<&Range<usize>>, why: impl Into<String>) -> Self {
        let before = span.and_then(|span| text.get(..span.start));
        Self {
            line: before.map(|before| before.matches('\n').count() + 1),
            why: why.into(),
        }
    }

    /// A fault in a line, the first of which is 1.
    pub(super) fn in_line(line: Option<usize>, why: impl Into<String>) -> Self {
        Self {
            line,
            why: why.into(),
        }
    }

    /// The whole of it: file, line, reason.
    pub(in crate::commands) fn of(&self, path: &str) -> String {
        match self.line {
            Some(line) => format!("{path}:{line}: {}", self.why),
            None => format!("{path}: {}", self.why),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.why),
            None => f.write_str(&self.why),
        }
    }
}

/// A file's text with what is ours, and what is to be said of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Merged {
    /// The whole new text.
    pub(super) text: String,
    /// Facts that the user should know, a line each.
    pub(super) notes: Vec<String>,
}

impl From<String> for Merged {
    fn from(text: String) -> Self {
        Self {
            text,
            notes: Vec::new(),
        }
    }
}

/// A text and a block behind it, which begins on a line of its own.
pub(super) fn joined(text: &str, block: &str) -> String {
    let gap = if text.is_empty() || text.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    format!("{text}{gap}{block}")
}

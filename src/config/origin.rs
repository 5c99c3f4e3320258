//! Layers of a configuration, and which one a value came from.

use std::ops::Range;

/// The source of a value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// Built in.
    Default,
    /// The file, at this byte.
    File(usize),
    /// This variable.
    Environment(String),
    /// This flag.
    Flag(&'static str),
}

/// The origins of a document that is laid over a file: the parser's spans for what is in the file, and spans behind
/// its end for what is not.
#[derive(Debug)]
pub(super) struct Origins {
    file_len: usize,
    others: Vec<Origin>,
}

impl Origin {
    /// The layer's rank; values of one layer do not override each other.
    pub(super) fn layer(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::File(_) => 1,
            Self::Environment(_) => 2,
            Self::Flag(_) => 3,
        }
    }
}

impl Origins {
    pub(super) fn new(file: &str) -> Self {
        Self {
            file_len: file.len(),
            others: Vec::new(),
        }
    }

    /// A span that stands for this origin.
    pub(super) fn span(&mut self, origin: Origin) -> Range<usize> {
        self.others.push(origin);
        let at = self.file_len + self.others.len();
        at..at
    }

    /// The origin of a span that begins here.
    pub(super) fn of(&self, start: usize) -> Origin {
        let behind = start.checked_sub(self.file_len + 1);
        let other = behind.and_then(|at| self.others.get(at));
        other.cloned().unwrap_or(Origin::File(start))
    }
}

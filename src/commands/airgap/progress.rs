//! Output for users of an export or import: how far it is, and a line for each image.

use serde::Serialize;

use crate::commands::output::{self, Output};
use crate::commands::progress::Progress;
use crate::format;

/// Shows an export or import.
pub(in crate::commands) struct Reporter {
    output: Output,
    /// True if standard output is for something else.
    aside: bool,
    /// Bytes of all that is to be written or brought.
    pub(in crate::commands) progress: Progress,
}

impl Reporter {
    pub(in crate::commands) fn new(output: Output, aside: bool) -> Self {
        Self {
            output,
            aside,
            progress: Progress::new(output),
        }
    }

    /// Something that is done.
    pub(in crate::commands) fn line(&self, text: &str) {
        if self.output == Output::Human {
            let text = format::harmless(text);
            self.progress.show(|| {
                if self.aside {
                    output::note(&text);
                } else {
                    output::say(&text);
                }
            });
        }
    }

    /// An object for scripts.
    pub(in crate::commands) fn json(&self, value: &impl Serialize) {
        match (self.output, self.aside) {
            (Output::Json, false) => output::say_json(value),
            (Output::Json, true) => output::complain(&format::json(value).unwrap_or_default()),
            (Output::Human | Output::Silent, _) => {}
        }
    }

    /// Something that the user should know.
    pub(in crate::commands) fn note(&self, text: &str) {
        if self.output != Output::Silent {
            self.progress.show(|| output::note(&format::harmless(text)));
        }
    }

    /// Something that failed.
    pub(in crate::commands) fn failed(&self, text: &str) {
        if self.output != Output::Silent {
            self.progress
                .show(|| output::complain(&format::harmless(text)));
        }
    }
}

//! What the user sees: a bar on a terminal, and a line for each image.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::commands::output::{self, Output};
use crate::format;

/// Shows an export or import.
pub(super) struct Reporter {
    output: Output,
    /// Whether standard output is for something else.
    aside: bool,
    bar: Option<ProgressBar>,
}

impl Reporter {
    pub(super) fn new(output: Output, aside: bool) -> Self {
        let bar = (output == Output::Human && output::is_watched()).then(|| {
            let style = ProgressStyle::with_template(BAR);
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(0).with_style(style.progress_chars("=> "));
            bar.enable_steady_tick(TICK);
            bar
        });
        Self { output, aside, bar }
    }

    /// So many bytes more are to come.
    pub(super) fn expect(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc_length(bytes);
        }
    }

    /// So many have come.
    pub(super) fn advance(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    /// So many count no more.
    pub(super) fn take_back(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.dec(bytes);
        }
    }

    /// What is being done.
    pub(super) fn doing(&self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format::harmless(what).into_owned());
        }
    }

    /// Something that is done.
    pub(super) fn line(&self, text: &str) {
        if self.output == Output::Human {
            let text = format::harmless(text);
            self.show(|| {
                if self.aside {
                    output::note(&text);
                } else {
                    output::say(&text);
                }
            });
        }
    }

    /// The same for scripts.
    pub(super) fn json(&self, value: &impl Serialize) {
        match (self.output, self.aside) {
            (Output::Json, false) => output::say_json(value),
            (Output::Json, true) => output::complain(&format::json(value).unwrap_or_default()),
            (Output::Human | Output::Silent, _) => {}
        }
    }

    /// Something that the user should know.
    pub(super) fn note(&self, text: &str) {
        if self.output != Output::Silent {
            self.show(|| output::note(&format::harmless(text)));
        }
    }

    /// Something that failed.
    pub(super) fn failed(&self, text: &str) {
        if self.output != Output::Silent {
            self.show(|| output::complain(&format::harmless(text)));
        }
    }

    fn show(&self, write: impl FnOnce()) {
        match &self.bar {
            // The bar must stand below what is written.
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

const BAR: &str =
    "[{bar:30}] {decimal_bytes:>9}/{decimal_total_bytes:9} {decimal_bytes_per_sec:>12}  {wide_msg}";
/// Shows that something is alive, while no byte comes.
const TICK: Duration = Duration::from_millis(200);

//! What the user sees: a bar on a terminal, and a line for each image.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::format;

/// How it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// A bar if standard output and error are a terminal, and lines.
    Human,
    /// Nothing.
    Silent,
}

/// Shows an export or import.
pub(super) struct Reporter {
    output: Output,
    bar: Option<ProgressBar>,
}

impl Reporter {
    pub(super) fn new(output: Output) -> Self {
        let is_terminal = io::stdout().is_terminal() && io::stderr().is_terminal();
        let bar = (output == Output::Human && is_terminal).then(|| {
            let style = ProgressStyle::with_template(BAR);
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(0).with_style(style.progress_chars("=> "));
            bar.enable_steady_tick(TICK);
            bar
        });
        Self { output, bar }
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
        self.show(|| {
            // Whoever reads our output may have gone; the exit code says it too.
            writeln!(io::stdout(), "{}", format::harmless(text)).ok();
        });
    }

    /// Something that the user should know.
    pub(super) fn note(&self, text: &str) {
        self.show(|| {
            writeln!(io::stderr(), "{}", format::harmless(text)).ok();
        });
    }

    fn show(&self, write: impl FnOnce()) {
        match (self.output, &self.bar) {
            // The bar must stand below what is written.
            (Output::Human, Some(bar)) => bar.suspend(write),
            (Output::Human, None) => write(),
            (Output::Silent, _) => {}
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

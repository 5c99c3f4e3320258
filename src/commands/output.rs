//! Printing: the answer on standard output, everything else on standard error.
//!
//! An answer that cannot be written is an error of the command, whatever else it did: a script that asks for a list
//! must not take half of one for the whole. Where a pipe's reader has gone nobody is told, as by other programs.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::OnceLock;

use serde::Serialize;

use crate::format;

/// The exit code of a program that SIGPIPE ends, as a shell reports it.
pub const EXIT_PIPE: u8 = 141;

/// The form of a command's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Lines and tables, and a bar meanwhile on a terminal.
    Human,
    /// JSON, an object on each line.
    Json,
    /// Nothing.
    Silent,
}

/// When colours are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Colour {
    /// On a terminal, unless `NO_COLOR` is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl From<Colour> for clap::ColorChoice {
    fn from(colour: Colour) -> Self {
        match colour {
            Colour::Auto => Self::Auto,
            Colour::Always => Self::Always,
            Colour::Never => Self::Never,
        }
    }
}

/// The style of the whole process: its standard output is one, too.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// When colours are used.
    pub colour: Colour,
    /// No notes and no progress.
    pub quiet: bool,
}

/// Set once, by the command line.
static STYLE: OnceLock<Style> = OnceLock::new();

/// The reason that standard output takes no more.
static FAILURE: OnceLock<(io::ErrorKind, String)> = OnceLock::new();

impl Output {
    /// For people, or JSON.
    #[must_use]
    pub fn of(json: bool) -> Self {
        if json { Self::Json } else { Self::Human }
    }
}

/// Says how this process prints. Only the first call counts.
pub fn set_style(style: Style) {
    STYLE.set(style).ok();
}

/// True if notes and progress are left out.
#[must_use]
pub fn is_quiet() -> bool {
    STYLE.get().is_some_and(|style| style.quiet)
}

/// True if standard output is coloured.
#[must_use]
pub fn has_colours() -> bool {
    match STYLE.get().map(|style| style.colour).unwrap_or_default() {
        Colour::Always => true,
        Colour::Never => false,
        // https://no-color.org: set and not empty.
        Colour::Auto => {
            io::stdout().is_terminal()
                && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        }
    }
}

/// True if a person watches: a bar would be seen, and would not end in a file.
#[must_use]
pub fn is_watched() -> bool {
    io::stderr().is_terminal() && !is_quiet()
}

/// A line of the answer.
pub fn say(line: &str) {
    let mut line = format::shown(line).into_owned();
    line.push('\n');
    write(&line);
}

/// A line of the answer, an object.
pub fn say_json(value: &impl Serialize) {
    match format::json(value) {
        Ok(line) => say(&line),
        Err(error) => fail(io::ErrorKind::InvalidData, error.to_string()),
    }
}

/// Text of the answer as it is. Nothing more is written once that has failed.
pub fn write(text: &str) {
    if FAILURE.get().is_some() {
        return;
    }
    // The end of the command asks for the failure.
    write_bytes(text.as_bytes()).ok();
}

/// Bytes of the answer as they are.
///
/// # Errors
/// The operating system's; the command's end tells of it, too.
pub fn write_bytes(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    // Flushed, since the end of the process cannot tell of an error any more.
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    if let Err(error) = &written {
        fail(error.kind(), error.to_string());
    }
    written
}

/// A line for the user beside the answer.
pub fn note(line: &str) {
    if !is_quiet() {
        complain(line);
    }
}

/// A line for the user that is shown in any case.
pub fn complain(line: &str) {
    // There is nowhere else to complain.
    writeln!(io::stderr(), "{}", format::shown(line)).ok();
}

/// True if the rest of an answer need not be asked for.
#[must_use]
pub fn is_refused() -> bool {
    FAILURE.get().is_some()
}

/// The reason that the answer could not be written, if it could not; true if it is a pipe whose reader has gone.
#[must_use]
pub fn failure() -> Option<(&'static str, bool)> {
    let (kind, why) = FAILURE.get()?;
    Some((why, *kind == io::ErrorKind::BrokenPipe))
}

fn fail(kind: io::ErrorKind, why: String) {
    // The first failure is the cause of all others.
    FAILURE.set((kind, why)).ok();
}

//! Finds, reads and parses the configuration file.

use std::fmt;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::error::{ConfigError, Problem, Source};
use super::origin::Origin;
use super::{Config, Loaded, Overrides};
use crate::stamp::Stamp;

/// A file of ten thousand upstreams is far below this; what is above it is not a configuration.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The parser's words for a key or table that is there twice.
const DUPLICATE: &str = "duplicate key";

/// A configuration file that has been read, once: what comes through a pipe is gone then.
pub struct ConfigFile(pub(super) Source);

impl ConfigFile {
    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// The configuration of this file, the environment of this process, and these flags.
    ///
    /// # Errors
    /// [`ConfigError`]: it cannot be parsed, or a value makes no sense.
    pub fn load(&self, flags: &Overrides) -> Result<Loaded, ConfigError> {
        Config::resolve_layers(flags, std::env::vars_os(), &self.0)
    }
}

impl fmt::Debug for ConfigFile {
    /// Without the text, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ConfigFile").field(&self.0.name).finish()
    }
}

/// Reads the file that was asked for, or the first of the candidates that exists; without any, an
/// empty one.
pub(super) fn find(asked: Option<&Path>, candidates: &[PathBuf]) -> Result<Source, ConfigError> {
    if let Some(path) = asked {
        return read(path).map_err(|why| unreadable(path, &why));
    }
    for path in candidates {
        match read(path) {
            Ok(source) => return Ok(source),
            Err(why) if why.kind() == ErrorKind::NotFound => {}
            Err(why) => return Err(unreadable(path, &why)),
        }
    }
    Ok(Source::default())
}

/// Parses a file's text, as far as it is TOML, and says everything that is not.
pub(super) fn parse(source: &Source) -> (DeTable<'_>, Vec<Problem>) {
    let (table, errors) = DeTable::parse_recoverable(&source.text);
    let problems = errors.iter().map(|error| {
        let start = error.span().unwrap_or_default().start;
        explain(source, error.message(), start)
    });
    (table.into_inner(), problems.collect())
}

fn read(path: &Path) -> std::io::Result<Source> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    let stamp = Stamp::of(&file.metadata()?);
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let why = format!("it is larger than {FILE_BYTES_MAX} bytes");
        return Err(std::io::Error::new(ErrorKind::FileTooLarge, why));
    }
    let text = String::from_utf8(bytes).map_err(|_| {
        std::io::Error::new(ErrorKind::InvalidData, "it is not UTF-8 text".to_owned())
    })?;
    Ok(Source {
        name: path.display().to_string(),
        text,
        stamp: Some(stamp),
    })
}

fn unreadable(path: &Path, why: &std::io::Error) -> ConfigError {
    ConfigError(vec![format!("{}: cannot be read: {why}", path.display())])
}

/// Turns the parser's message into ours. The parser's own `Display` would print the source line, which may hold a
/// password.
fn explain(source: &Source, message: &str, start: usize) -> Problem {
    let origin = Origin::File(start);
    let key = key_near(&source.text, start);
    if message == DUPLICATE {
        let problem = Problem::new(&origin, key, "is given twice");
        return match first_line_like(source, start) {
            Some(first) => problem.and(&first),
            None => problem,
        };
    }
    let mut why = message.replace('\n', ", ");
    // A bare key has letters, digits, `_` and `-` alone; ports and addresses have more.
    if key
        .strip_prefix("upstream.")
        .is_some_and(|name| !name.contains(['"', '\'', '=']))
    {
        why = format!("{why}; write the name in quotes: [upstream.\"NAME\"]");
    }
    Problem::new(&origin, key, why)
}

/// True if the text can be understood in spite of this.
pub(super) fn is_harmless(problem: &Problem) -> bool {
    problem.why == "is given twice"
}

/// The key on the line of a byte, for a text that is not TOML: its table's header and what stands
/// before the `=`.
fn key_near(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = line_at(text, start);
    if let Some(header) = header(line) {
        return header.to_owned();
    }
    let table = text
        .get(..start)
        .unwrap_or_default()
        .lines()
        .rev()
        .find_map(header);
    let key = line.split_once('=').map_or("", |(key, _)| key.trim());
    match (table, key) {
        (Some(table), "") => table.to_owned(),
        (Some(table), key) => format!("{table}.{key}"),
        (None, key) => key.to_owned(),
    }
}

/// The earlier place of a header or key that is given twice.
fn first_line_like(source: &Source, offset: usize) -> Option<Origin> {
    let key = key_near(&source.text, offset);
    let mut start = 0;
    let mut first = None;
    for line in source.text.split_inclusive('\n') {
        if start + line.len() > offset {
            return first;
        }
        if line.trim_start().starts_with("[[") {
            // Another table of the same name, whose keys are not those of the one before.
            first = None;
        } else {
            let names_something = header(line).is_some() || line.contains('=');
            if first.is_none() && names_something && key_near(&source.text, start) == key {
                first = Some(Origin::File(start));
            }
        }
        start += line.len();
    }
    None
}

fn line_at(text: &str, start: usize) -> &str {
    text.get(start..)
        .and_then(|rest| rest.lines().next())
        .unwrap_or_default()
}

fn header(line: &str) -> Option<&str> {
    let inner = line.trim().strip_prefix('[')?;
    let (name, _) = inner.split_once(']')?;
    // The second bracket is that of a table in an array.
    Some(name.trim_start_matches('[').trim())
}

//! Finds, reads and parses the configuration file.

use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::error::{ConfigError, Problem, Source};
use super::raw::{File, Origin};

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

/// Parses a file's text; an empty text is an empty file.
pub(super) fn parse(source: &Source) -> Result<File, Problem> {
    toml::from_str(&source.text).map_err(|error| {
        let span = error.span().unwrap_or_default();
        explain(source, error.message(), &span)
    })
}

fn read(path: &Path) -> std::io::Result<Source> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
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
    })
}

fn unreadable(path: &Path, why: &std::io::Error) -> ConfigError {
    ConfigError(format!("{}: cannot be read: {why}", path.display()))
}

/// Turns the parser's message into ours. The parser's own `Display` would print the source line,
/// which may hold a password, and so would its words about a value of the wrong type.
fn explain(source: &Source, message: &str, span: &Range<usize>) -> Problem {
    let origin = Origin::File(span.start);
    if message == "duplicate key" {
        let key = key_near(&source.text, span.start);
        let first = first_line_like(source, span.start);
        let problem = Problem::new(&origin, key, "is given twice");
        return match first {
            Some(first) => problem.and(&first),
            None => problem,
        };
    }
    let (document, _) = DeTable::parse_recoverable(&source.text);
    let key = key_at(document.get_ref(), span, "");
    if message.starts_with("unknown field") {
        let expected = message.split_once(", ").map_or("", |(_, rest)| rest);
        let why = format!("unknown key, {expected}");
        return Problem::new(&origin, key.unwrap_or_default(), why);
    }
    if message.starts_with("invalid type") {
        let table = message.contains("expected struct") || message.contains("table of upstreams");
        let why = if table {
            "must be a table"
        } else {
            // Dates are all that is left: every other value is taken here and judged later.
            "cannot be a value of this kind"
        };
        return Problem::new(&origin, key.unwrap_or_default(), why);
    }
    let key = key_near(&source.text, span.start);
    Problem::new(&origin, key, message.replace('\n', ", "))
}

/// The path of the key that stands, or whose value stands, at exactly `span`.
fn key_at(table: &DeTable<'_>, span: &Range<usize>, path: &str) -> Option<String> {
    table.iter().find_map(|(key, value)| {
        let path = join(path, key.get_ref());
        if key.span() == *span || value.span() == *span {
            return Some(path);
        }
        value
            .get_ref()
            .as_table()
            .and_then(|inner| key_at(inner, span, &path))
    })
}

/// Appends a key to a path, quoted where TOML demands it.
fn join(path: &str, key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let key = if !key.is_empty() && key.chars().all(bare) {
        key.to_owned()
    } else {
        format!("{key:?}")
    };
    match path {
        "" => key,
        _ => format!("{path}.{key}"),
    }
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

/// A file of ten thousand upstreams is far below this; what is above it is not a configuration.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

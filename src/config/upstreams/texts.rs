//! Texts that may be written as they are, in a file, or in a variable; and files that are read later.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::config::error::Shown;
use crate::config::table::{Context, Field, Given, Keys, Outcome, Reported};
use crate::config::values;
use crate::upstream::{Secret, Text};

/// Tokens of cloud registries take a few KiB; what is larger is the wrong file.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// The three keys that may give a text: `password`, `password_file`, `password_env`.
pub(in crate::config) struct Source<'a> {
    /// The table that they are in.
    pub(in crate::config) keys: &'a Keys,
    /// Each name with what it holds.
    pub(in crate::config) ways: [(&'static str, &'a Field<values::Text>); 3],
}

/// A text that was read.
pub(in crate::config) struct Read {
    /// The text now.
    pub(in crate::config) now: Secret,
    /// The file that it is in.
    file: Option<PathBuf>,
}

/// The [`Source`] of three fields of a table.
macro_rules! source {
    ($table:expr, $itself:ident $file:ident $variable:ident) => {
        $crate::config::upstreams::texts::Source {
            keys: &$table.keys,
            ways: [
                (stringify!($itself), &$table.$itself),
                (stringify!($file), &$table.$file),
                (stringify!($variable), &$table.$variable),
            ],
        }
    };
}
pub(in crate::config) use source;

impl<'a> Source<'a> {
    /// The key of the text itself.
    fn base(&self) -> &'static str {
        self.ways[0].0
    }

    /// The names of the three.
    pub(in crate::config) fn names(&self) -> [&'static str; 3] {
        self.ways.map(|(name, _)| name)
    }

    /// The key that was used.
    pub(in crate::config) fn given(
        &self,
        context: &Context<'_>,
    ) -> Outcome<Option<(&'static str, &'a Given<String>)>> {
        let [itself, file, variable] = self.names();
        let chosen = self
            .keys
            .one_of(&[&[itself], &[file], &[variable]], context)?;
        let Some((chosen, _)) = chosen else {
            return Ok(None);
        };
        let mut ways = self.ways.iter();
        let way = ways.find(|(name, _)| *name == chosen);
        // One that has no value had a wrong one.
        let given = way.and_then(|(_, field)| field.as_ref());
        given.map(|given| Some((chosen, given))).ok_or(Reported)
    }

    /// The text, if one of the keys was given.
    pub(in crate::config) fn text(&self, context: &Context<'_>) -> Outcome<Option<Text>> {
        let Some((name, given)) = self.given(context)? else {
            return Ok(None);
        };
        self.read(name, given, context)
            .map(|read| Some(read.text()))
    }

    /// This text and another of which neither makes sense alone.
    pub(in crate::config) fn pair(
        &self,
        second: &Source<'_>,
        context: &Context<'_>,
    ) -> Outcome<Option<(Read, Read)>> {
        match (self.given(context)?, second.given(context)?) {
            (None, None) => Ok(None),
            (Some((_, only)), None) => {
                let [itself, file, variable] = second.names();
                Err(context.wrong(&only.place, format!("needs {itself}, {file} or {variable}")))
            }
            (None, Some((_, only))) => {
                Err(context.wrong(&only.place, format!("needs {}", self.base())))
            }
            (Some((name, given)), Some((other_name, other))) => {
                let first = self.read(name, given, context);
                let second = second.read(other_name, other, context);
                Ok(Some((first?, second?)))
            }
        }
    }

    /// A text, and the file that it is in. A file is read even if it is read again later, so that a
    /// wrong one is found at start.
    fn read(&self, name: &str, given: &Given<String>, context: &Context<'_>) -> Outcome<Read> {
        let [itself, file, _] = self.names();
        let read = || {
            let written = &given.value;
            let (text, file) = if name == itself {
                (written.clone(), None)
            } else if name == file {
                (named_file(written)?, Some(PathBuf::from(written)))
            } else {
                // Not by its name, which may be the secret itself, written in the wrong place.
                let text = context.environment.text(written);
                let why = |why| format!("the environment variable that it names {why}");
                (text.map_err(why)?, None)
            };
            if text.is_empty() {
                return Err(format!("the {itself} is empty"));
            }
            // Basic authentication ends the user name at the first colon (RFC 7617 section 2).
            if itself == "username" && text.contains(':') {
                return Err("must not contain a colon".to_owned());
            }
            let now = Secret::new(text);
            Ok(Read { now, file })
        };
        read().map_err(|why| context.wrong(&given.place, why))
    }
}

impl Read {
    /// The text or its file, for those who can read the file again.
    pub(in crate::config) fn text(self) -> Text {
        self.file.map_or(Text::Literal(self.now), Text::File)
    }
}

/// The text of the file that a key names.
fn named_file(name: &str) -> Result<String, String> {
    read_file(Path::new(name)).map_err(|why| {
        // A text that is no file's name may be the secret itself, written in the wrong place.
        if Path::new(name).exists() {
            format!("{} cannot be read: {why}", Shown(name))
        } else {
            format!("the file that it names cannot be read: {why}")
        }
    })
}

/// A small file's text, without the line end that editors put behind it.
fn read_file(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = open(path)?;
    let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
    if read.map_err(|why| why.to_string())? as u64 > FILE_BYTES_MAX {
        return Err(format!("it is larger than {FILE_BYTES_MAX} bytes"));
    }
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// The file that a key names, which must exist, but is only read where it is used.
pub(in crate::config) fn file(
    given: Option<&Given<PathBuf>>,
    context: &Context<'_>,
) -> Outcome<Option<PathBuf>> {
    let Some(Given { value, place }) = given else {
        return Ok(None);
    };
    can_be_read(value).map_err(|why| context.wrong(place, why))?;
    Ok(Some(value.clone()))
}

/// Checks that a file can be opened.
pub(in crate::config) fn can_be_read(path: &Path) -> Result<(), String> {
    let shown = path.to_string_lossy();
    match open(path) {
        Ok(_) => Ok(()),
        // A key that was put here as it is.
        Err(why) if shown.contains("-----") || shown.contains('\n') => {
            Err(format!("must be a file's name; it cannot be read: {why}"))
        }
        Err(why) => Err(format!("{} cannot be read: {why}", Shown(&shown))),
    }
}

fn open(path: &Path) -> Result<File, String> {
    // Opening a pipe waits for somebody who writes to it, and what is read again cannot be one.
    let found = std::fs::metadata(path).map_err(|why| why.to_string())?;
    if !found.is_file() {
        return Err("it is no regular file".to_owned());
    }
    File::open(path).map_err(|why| why.to_string())
}

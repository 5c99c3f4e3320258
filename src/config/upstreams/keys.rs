//! The keys of one table, read by name. Logins and proxies may stand in several kinds of tables.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::config::error::{Problem, Shown};
use crate::config::layers::Environment;
use crate::config::raw::{Leaf, Named, Origin, Upstream, Value};
use crate::config::values;
use crate::upstream::{Secret, Text};

/// The keys of a table that were given.
pub(super) struct Keys<'a> {
    given: Vec<(&'a str, &'a Leaf)>,
    /// The table's own path: `upstream."ghcr.io".endpoints`.
    path: String,
    /// Where the table begins.
    origin: Origin,
    /// What `*_env` keys look at.
    pub(super) environment: &'a Environment,
}

/// A key that was given.
pub(super) struct Given<'a> {
    pub(super) name: String,
    pub(super) leaf: &'a Leaf,
}

/// A text that was read.
pub(super) struct Read {
    /// What it is now.
    pub(super) now: Secret,
    /// The file that it is in.
    file: Option<PathBuf>,
}

impl<'a> Keys<'a> {
    /// The keys of an upstream; serde has refused unknown ones.
    pub(super) fn of_upstream(entry: &'a Named, environment: &'a Environment) -> Self {
        let keys = Upstream::KEYS.iter();
        Self {
            given: keys
                .filter_map(|name| Some((*name, entry.keys.leaf(name)?)))
                .collect(),
            path: format!("upstream.{:?}", entry.name),
            origin: entry.origin.clone(),
            environment,
        }
    }

    /// The keys of a table inside an upstream, not yet checked for unknown ones.
    pub(super) fn of_table(&self, name: &str, table: &'a [(String, Leaf)], at: &Origin) -> Self {
        Self {
            given: table.iter().map(|(key, leaf)| (&**key, leaf)).collect(),
            path: self.key(name),
            origin: at.clone(),
            environment: self.environment,
        }
    }

    /// Refuses every key that is none of these.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), Problem> {
        let unknown = self.given.iter().find(|(name, _)| !known.contains(name));
        unknown.map_or(Ok(()), |(name, leaf)| {
            let known = known.join("`, `");
            let why = format!("unknown key, expected one of `{known}`");
            Err(Problem::new(&leaf.origin, self.key(name), why))
        })
    }

    /// The table's own path.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The path of a key.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    /// What was written for a key.
    pub(super) fn leaf(&self, name: &str) -> Option<&'a Leaf> {
        let mut given = self.given.iter();
        given.find(|(key, _)| *key == name).map(|(_, leaf)| *leaf)
    }

    /// A key's value, if it was given.
    pub(super) fn value<T>(
        &self,
        name: &str,
        parse: impl Fn(&Value) -> Result<T, String>,
    ) -> Result<Option<T>, Problem> {
        let leaf = self.leaf(name);
        leaf.map(|leaf| parse(&leaf.value).map_err(|why| self.problem(name, leaf, why)))
            .transpose()
    }

    /// What is wrong with a key that was given.
    pub(super) fn problem(&self, name: &str, leaf: &Leaf, why: impl Into<String>) -> Problem {
        Problem::new(&leaf.origin, self.key(name), why)
    }

    /// What is wrong with the table as a whole; `name` may be empty.
    pub(super) fn incomplete(&self, name: &str, why: impl Into<String>) -> Problem {
        let key = match name {
            "" => self.path.clone(),
            _ => self.key(name),
        };
        Problem::new(&self.origin, key, why)
    }

    /// Of several ways to say something the one that was used. One in a stronger layer wins over
    /// another in a weaker; two in one layer are an error. A way may take several keys.
    pub(super) fn one_of(&self, ways: &[&[String]]) -> Result<Option<Given<'a>>, Problem> {
        let mut chosen: Option<Given<'a>> = None;
        for way in ways {
            let given = way.iter().rev().filter_map(|name| {
                let leaf = self.leaf(name)?;
                let name = name.clone();
                Some(Given { name, leaf })
            });
            let Some(this) = given.max_by_key(|given| given.leaf.origin.layer()) else {
                continue;
            };
            let layer = this.leaf.origin.layer();
            match &chosen {
                Some(other) if other.leaf.origin.layer() > layer => {}
                Some(other) if other.leaf.origin.layer() == layer => {
                    let why = format!("{} is given too; only one of them can be", other.name);
                    let problem = self.problem(&this.name, this.leaf, why);
                    return Err(problem.and(&other.leaf.origin));
                }
                Some(_) | None => chosen = Some(this),
            }
        }
        Ok(chosen)
    }

    /// The key that gives a text, of `base`, `base_file` and `base_env`.
    pub(super) fn source(&self, base: &str) -> Result<Option<Given<'a>>, Problem> {
        let [itself, file, variable] = sources(base);
        self.one_of(&[&[itself], &[file], &[variable]])
    }

    /// A text that may be written as `base`, be in the file of `base_file`, or in the environment.
    pub(super) fn text(&self, base: &str) -> Result<Option<Text>, Problem> {
        let source = self.source(base)?;
        let read = source.map(|source| self.read(base, &source)).transpose()?;
        Ok(read.map(Read::text))
    }

    /// Two texts of which neither makes sense alone.
    pub(super) fn pair(&self, first: &str, second: &str) -> Result<Option<(Read, Read)>, Problem> {
        match (self.source(first)?, self.source(second)?) {
            (None, None) => Ok(None),
            (Some(only), None) => {
                let why = format!("needs {second}, {second}_file or {second}_env");
                Err(self.problem(&only.name, only.leaf, why))
            }
            (None, Some(only)) => {
                Err(self.problem(&only.name, only.leaf, format!("needs {first}")))
            }
            (Some(a), Some(b)) => Ok(Some((self.read(first, &a)?, self.read(second, &b)?))),
        }
    }

    /// A text, and the file that it is in. A file is read even if it is read again later, so that a
    /// wrong one is found at start.
    fn read(&self, base: &str, source: &Given<'_>) -> Result<Read, Problem> {
        let read = || {
            let written = values::text(&source.leaf.value)?;
            let shown = Shown(&written);
            let (text, file) = match source.name.strip_prefix(base) {
                Some("_file") => {
                    let text = read_file(Path::new(&written));
                    let text = text.map_err(|why| {
                        // What is no file's name may be the secret itself, written in the wrong place.
                        if Path::new(&written).exists() {
                            format!("{shown} cannot be read: {why}")
                        } else {
                            format!("the file that it names cannot be read: {why}")
                        }
                    })?;
                    (text, Some(PathBuf::from(&written)))
                }
                Some("_env") => {
                    let text = self.environment.text(&written);
                    // Not by its name, which may be the secret itself, written in the wrong place.
                    let why = |why| format!("the environment variable that it names {why}");
                    (text.map_err(why)?, None)
                }
                _ => (written, None),
            };
            if text.is_empty() {
                return Err(format!("the {base} is empty"));
            }
            // Basic authentication ends the user name at the first colon (RFC 7617 section 2).
            if base == "username" && text.contains(':') {
                return Err("must not contain a colon".to_owned());
            }
            let now = Secret::new(text);
            Ok(Read { now, file })
        };
        read().map_err(|why| self.problem(&source.name, source.leaf, why))
    }
}

impl Read {
    /// Where it comes from, for those who can read the file again.
    pub(super) fn text(self) -> Text {
        self.file.map_or(Text::Literal(self.now), Text::File)
    }
}

/// The three keys that may give a text.
pub(super) fn sources(base: &str) -> [String; 3] {
    [
        base.to_owned(),
        format!("{base}_file"),
        format!("{base}_env"),
    ]
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

/// A path to a file that must exist, but is only read where it is used.
pub(super) fn file(value: &Value) -> Result<PathBuf, String> {
    let path = values::path(value)?;
    can_be_read(&path)?;
    Ok(path)
}

/// Whether a file can be opened.
pub(super) fn can_be_read(path: &Path) -> Result<(), String> {
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

/// Tokens of cloud registries take a few KiB; what is larger is the wrong file.
const FILE_BYTES_MAX: u64 = 64 * 1024;

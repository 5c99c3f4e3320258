//! Files that name images: plain lists, Kubernetes manifests, compose files. Which of them a file is
//! shows its content.

mod compose;
mod interpolate;
mod kubernetes;
mod yaml;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::oci::ImageName;
use yaml::{Node, Value};

/// The variables that compose files may name: a variable's value, unless it is not set.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The images of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Images {
    /// The images, in the order of the file, each once.
    pub names: Vec<ImageName>,
    /// Images that were left out on purpose, a line each for the user.
    pub notes: Vec<String>,
}

/// The reason that a file cannot be used: one line that names the file, and the line in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceError {
    /// As the user wrote it; `standard input` for `-`.
    file: String,
    /// The first line is 1.
    line: Option<u64>,
    why: String,
}

/// A fault in a text, before it is known which file that is.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    line: Option<u64>,
    why: String,
}

/// Reads the images that a file names; `-` is standard input.
///
/// # Errors
/// [`SourceError`]: it cannot be read, makes no sense, or names no image.
pub(super) fn read(path: &Path, variables: Variables<'_>) -> Result<Images, SourceError> {
    let is_input = path.as_os_str() == "-";
    let file = if is_input {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    };
    let text = if is_input {
        bounded(io::stdin().lock())
    } else {
        File::open(path).and_then(bounded)
    };
    text.map_err(|error| Fault::new(None, format!("cannot be read: {error}")))
        .and_then(|text| parse(&text, variables))
        .map_err(|Fault { line, why }| SourceError { file, line, why })
}

fn bounded(reader: impl Read) -> io::Result<String> {
    let mut text = String::new();
    reader.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        let why = format!("it has more than {FILE_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Ok(text)
}

fn parse(text: &str, variables: Variables<'_>) -> Result<Images, Fault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut images = Images::default();
    match first_line_of_yaml(text) {
        None => parse_list(text, &mut images)?,
        Some(line) => parse_yaml(text, line, variables, &mut images)?,
    }
    if images.names.is_empty() && images.notes.is_empty() {
        return Err(Fault::new(None, "names no image"));
    }
    Ok(images)
}

/// One image in a line, comments after `#`.
fn parse_list(text: &str, images: &mut Images) -> Result<(), Fault> {
    for (line, number) in text.lines().zip(1..) {
        let name = uncommented(line);
        if !name.is_empty() {
            images.add(name, number)?;
        }
    }
    Ok(())
}

fn parse_yaml(
    text: &str,
    first_line: u64,
    variables: Variables<'_>,
    images: &mut Images,
) -> Result<(), Fault> {
    for document in yaml::parse(text)? {
        match &document.value {
            Value::Null => {}
            Value::Map(members) if compose::is_compose(members) => {
                compose::images(members, variables, images)?;
            }
            Value::Map(_) => kubernetes::images(&document, images)?,
            Value::List(items) => add_items(&document, items, images)?,
            Value::Text(_) | Value::Other => {
                let line = text
                    .lines()
                    .nth(usize::try_from(first_line - 1).unwrap_or(0));
                let why = format!(
                    "{:?} is neither one image in a line, nor YAML of Kubernetes or compose",
                    uncommented(line.unwrap_or_default())
                );
                return Err(Fault::new(Some(first_line), why));
            }
        }
    }
    Ok(())
}

/// A YAML (or JSON) list: of names, or of Kubernetes objects.
fn add_items(document: &Node, items: &[Node], images: &mut Images) -> Result<(), Fault> {
    for item in items {
        if let Value::Text(name) = &item.value {
            images.add(name, item.line)?;
        }
    }
    kubernetes::images(document, images)
}

/// The first line that no list of images has; `None` for a list.
fn first_line_of_yaml(text: &str) -> Option<u64> {
    let is_yaml = |line: &str| {
        let line = uncommented(line);
        line.contains(char::is_whitespace)
            || line.ends_with(':')
            || line.starts_with(['{', '[', '-', '"', '\''])
    };
    let mut lines = text.lines().zip(1..);
    lines.find_map(|(line, number)| is_yaml(line).then_some(number))
}

/// The line without spaces around it and without a comment.
fn uncommented(line: &str) -> &str {
    let line = line.trim();
    if line.starts_with('#') {
        return "";
    }
    let comment = line.find(" #").or_else(|| line.find("\t#"));
    comment.map_or(line, |at| line.split_at(at).0.trim_end())
}

impl Images {
    fn add(&mut self, text: &str, line: u64) -> Result<(), Fault> {
        let name = ImageName::parse(text)
            .map_err(|error| Fault::new(Some(line), format!("image {text:?}: {error}")))?;
        self.add_name(name);
        Ok(())
    }

    /// Adds what is not there yet.
    pub fn add_name(&mut self, name: ImageName) {
        if !self.names.contains(&name) {
            self.names.push(name);
        }
    }
}

impl Fault {
    fn new(line: Option<u64>, why: impl Into<String>) -> Self {
        let why = why.into();
        Self { line, why }
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, why } = self;
        match line {
            Some(line) => write!(f, "{file}:{line}: {why}"),
            None => write!(f, "{file}: {why}"),
        }
    }
}

impl std::error::Error for SourceError {}

/// The objects of a cluster with some thousand pods, as `kubectl` prints them, have 20 MB.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

#[cfg(test)]
mod tests;

//! Reading a layout that anybody may have written: a directory, or a tar archive, whose files are never written
//! anywhere. Of an archive it is noted once where each file lies in it; one that is compressed, or comes through a pipe, is
//! a plain one in a nameless file first (`spool`).

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::AirgapError;
use super::below::Root;
use super::layout::{BLOBS, INDEX, INDEX_BYTES_MAX, Index, LAYOUT, blob_path, check_version};
use super::spool;
use crate::oci::Digest;

/// The name that means standard input.
const STANDARD: &str = "-";

/// More files are no layout: a thousand large images have some ten thousand.
const ENTRIES_MAX: usize = 1_000_000;

/// Bytes that are read at once.
pub(super) const READ_BYTES: usize = 256 * 1024;

/// A layout, open.
#[derive(Debug)]
pub(super) struct Layout {
    path: PathBuf,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Dir(Root),
    Tar {
        file: Arc<File>,
        /// Offset and length of each file that counts, by its name.
        entries: HashMap<String, (u64, u64)>,
    },
}

/// A file of a layout, open.
#[derive(Clone, Debug)]
pub(super) struct Part {
    file: Arc<File>,
    /// Its first byte in `file`.
    pub(super) start: u64,
    /// Its length.
    pub(super) size: u64,
}

impl Layout {
    /// Opens a layout, and sees that it is one.
    pub(super) fn open(path: &Path) -> Result<Self, AirgapError> {
        let shown = if path.as_os_str() == STANDARD {
            Path::new("standard input")
        } else {
            path
        };
        let failed = |why: &dyn std::fmt::Display| AirgapError::of(shown.display(), why);
        let is_input = path.as_os_str() == STANDARD;
        let is_dir = || fs::metadata(path).map(|metadata| metadata.is_dir());
        let place = if !is_input && is_dir().map_err(|error| failed(&error))? {
            Place::Dir(Root::open(path).map_err(|error| failed(&error))?)
        } else {
            let file = if is_input {
                spool::input()
            } else {
                let file = File::open(path);
                file.map_err(|error| error.to_string())
                    .and_then(spool::plain)
            };
            let file = file.map_err(|why| failed(&why))?;
            let entries = entries(&file).map_err(|why| failed(&why))?;
            let file = Arc::new(file);
            Place::Tar { file, entries }
        };
        let path = shown.to_path_buf();
        let layout = Self { path, place };
        layout.check()?;
        Ok(layout)
    }

    /// The images in it.
    pub(super) fn index(&self) -> Result<Index, AirgapError> {
        let Some(part) = self.part(INDEX)? else {
            return Err(self.fault(INDEX, "is missing"));
        };
        let bytes = part.read_all(INDEX_BYTES_MAX);
        let bytes = bytes.map_err(|error| self.fault(INDEX, error))?;
        serde_json::from_slice(&bytes).map_err(|error| self.fault(INDEX, error))
    }

    /// A blob or manifest, if it is there.
    pub(super) fn blob(&self, digest: &Digest) -> Result<Option<Part>, AirgapError> {
        self.part(&blob_path(digest))
    }

    /// An error of one of its files.
    pub(super) fn fault(&self, name: &str, why: impl std::fmt::Display) -> AirgapError {
        AirgapError::of(format!("{}: {name}", self.path.display()), why)
    }

    fn check(&self) -> Result<(), AirgapError> {
        let Some(part) = self.part(LAYOUT)? else {
            let docker = self.part("manifest.json")?.is_some();
            return Err(AirgapError::of(
                self.path.display(),
                if docker {
                    "this is what docker save writes, not an OCI image layout; \
                     `skopeo copy docker-archive:FILE oci-archive:FILE.tar:NAME` makes one of it"
                } else {
                    "this is no OCI image layout: it has no file oci-layout"
                },
            ));
        };
        let bytes = part.read_all(INDEX_BYTES_MAX);
        let bytes = bytes.map_err(|error| self.fault(LAYOUT, error))?;
        check_version(&bytes).map_err(|why| self.fault(LAYOUT, why))
    }

    /// A file by its name in the layout.
    fn part(&self, name: &str) -> Result<Option<Part>, AirgapError> {
        match &self.place {
            Place::Tar { file, entries } => Ok(entries.get(name).map(|(start, size)| Part {
                file: Arc::clone(file),
                start: *start,
                size: *size,
            })),
            Place::Dir(root) => {
                let failed = |error: io::Error| self.fault(name, error);
                let Some(file) = root.file(name).map_err(failed)? else {
                    return Ok(None);
                };
                let size = file.metadata().map_err(failed)?.len();
                Ok(Some(Part {
                    file: Arc::new(file),
                    start: 0,
                    size,
                }))
            }
        }
    }
}

impl Part {
    /// All of it, if it is no longer than `limit`.
    pub(super) fn read_all(&self, limit: usize) -> io::Result<Vec<u8>> {
        let size = usize::try_from(self.size).ok().filter(|it| *it <= limit);
        let Some(size) = size else {
            let why = format!("has {} bytes, at most {limit} make sense", self.size);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        };
        let mut bytes = vec![0; size];
        self.file.read_exact_at(&mut bytes, self.start)?;
        Ok(bytes)
    }

    /// The bytes at `at` within it, at most [`READ_BYTES`]; none at its end.
    pub(super) fn read_at(&self, at: u64) -> io::Result<Vec<u8>> {
        let left = usize::try_from(self.size.saturating_sub(at)).unwrap_or(READ_BYTES);
        let mut bytes = vec![0; left.min(READ_BYTES)];
        self.file.read_exact_at(&mut bytes, self.start + at)?;
        Ok(bytes)
    }
}

/// Offset and length of the files of an archive. Nothing of it is written anywhere, so that no name in it can do harm; one
/// that would, were it unpacked, is refused all the same, for whoever made it meant no good.
fn entries(file: &File) -> Result<HashMap<String, (u64, u64)>, String> {
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    if length == 0 {
        return Err("it is empty".to_owned());
    }
    let mut archive = tar::Archive::new(file);
    let mut found = HashMap::new();
    let entries = archive
        .entries_with_seek()
        .map_err(|error| describe(&error))?;
    for (number, entry) in entries.enumerate() {
        if number >= ENTRIES_MAX {
            return Err(format!("it has more than {ENTRIES_MAX} entries"));
        }
        let entry = entry.map_err(|error| describe(&error))?;
        let name = entry_name(&entry.path_bytes())?;
        let kind = entry.header().entry_type();
        if kind.is_dir() || !is_wanted(&name) {
            continue;
        }
        if !kind.is_file() {
            return Err(format!("{name}: is no plain file but a {kind:?}"));
        }
        let (start, size) = (entry.raw_file_position(), entry.size());
        if start.checked_add(size).is_none_or(|end| end > length) {
            return Err(format!(
                "{name}: is said to have {size} bytes, but the archive ends before; it was cut short"
            ));
        }
        // As tar does: of two, the later one.
        found.insert(name, (start, size));
    }
    Ok(found)
}

/// A name without `./` before it.
fn entry_name(bytes: &[u8]) -> Result<String, String> {
    let shown = String::from_utf8_lossy(bytes)
        .chars()
        .take(200)
        .collect::<String>();
    let name = std::str::from_utf8(bytes).map_err(|_| format!("{shown:?}: is no text"))?;
    let mut name = name;
    while let Some(rest) = name.strip_prefix("./") {
        name = rest.trim_start_matches('/');
    }
    if name.starts_with('/') || name.split('/').any(|part| part == "..") {
        return Err(format!("{shown:?}: leads out of the archive"));
    }
    Ok(name.to_owned())
}

/// True if a file belongs to a layout, or tells that it is something else.
fn is_wanted(name: &str) -> bool {
    matches!(name, LAYOUT | INDEX | "manifest.json")
        || name
            .strip_prefix(BLOBS)
            .is_some_and(|rest| rest.starts_with('/'))
}

fn describe(error: &io::Error) -> String {
    format!("it is no tar archive, or cut short: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_out_are_refused() {
        for (name, expected) in [
            ("oci-layout", Some("oci-layout")),
            ("./index.json", Some("index.json")),
            (".//blobs/sha256/a", Some("blobs/sha256/a")),
            ("blobs/../../etc/passwd", None),
            ("/etc/passwd", None),
            ("..", None),
            ("a..b", Some("a..b")),
        ] {
            assert_eq!(
                entry_name(name.as_bytes()).ok().as_deref(),
                expected,
                "{name}"
            );
        }
        assert!(entry_name(b"\xff").is_err());
    }
}

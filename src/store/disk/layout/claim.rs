//! The check that a directory is a cache's, or can become one: nobody else's is taken, looked into or changed.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

/// Names that a file system, or its snapshots, has in each directory of its own.
const NOBODYS: [&str; 2] = ["lost+found", ".snapshot"];

/// Names that a start that was cut short leaves before there is a `VERSION`.
const BEGUN: [&str; 2] = ["LOCK", "VERSION.new"];

/// A file that is moved to see whether it can be.
const PROBE: &str = ".moved";

/// Beginning of the names of the catalogue's files, where the state directory is the same: they are there first.
const STATE: &str = "catalogue.";

/// So many of what is in the way are named.
const NAMED_MAX: usize = 3;

/// The directories that a store consists of.
pub(super) const DIRECTORIES: [&str; 7] = [
    "blobs",
    "blobs/sha256",
    "blobs/sha512",
    "fills",
    "fills/sha256",
    "fills/sha512",
    "damaged",
];

/// Permissions of a cache's directory: its owner and his group, who reads.
pub(super) const DIRECTORY_MODE: u32 = 0o750;

/// Makes `root` if it is missing; refuses one that is somebody else's.
///
/// # Errors
/// The operating system's; `AlreadyExists` for a directory that is not empty and no cache.
pub(in crate::store) fn claim(root: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(root)?;
    if has_version(root)? {
        return Ok(());
    }
    let foreign = foreign(root)?;
    if foreign.is_empty() {
        return Ok(());
    }
    let why = format!(
        "it is not empty, and no cache: it has no file VERSION, but {}. Name a directory that is empty or not there; if it is a cache whose VERSION is lost, make it again, with the line 1",
        named(&foreign)
    );
    Err(io::Error::new(io::ErrorKind::AlreadyExists, why))
}

/// Sees that `root` is a cache.
///
/// # Errors
/// The operating system's; `NotFound` where there is none.
pub(in crate::store) fn see(root: &Path) -> io::Result<()> {
    if has_version(root)? {
        return Ok(());
    }
    let why = match foreign(root)?.as_slice() {
        [] => "there is no cache in it: it is empty".to_owned(),
        foreign => format!(
            "it is no cache: it has no file VERSION, but {}",
            named(foreign)
        ),
    };
    Err(io::Error::new(io::ErrorKind::NotFound, why))
}

/// Sees that a file can be moved from where blobs come to where they stay, and from there out of the way.
///
/// # Errors
/// `CrossesDevices`, naming both directories. Nothing else is one here.
pub(in crate::store) fn is_one_file_system(root: &Path) -> io::Result<()> {
    for algorithm in ["sha256", "sha512"] {
        let [fills, blobs, damaged] = [
            format!("fills/{algorithm}"),
            format!("blobs/{algorithm}"),
            "damaged".to_owned(),
        ]
        .map(|name| root.join(name));
        for (from, to) in [(&fills, &blobs), (&blobs, &damaged)] {
            let (probe, moved) = (from.join(PROBE), to.join(PROBE));
            let tried = File::create(&probe).and_then(|_| fs::rename(&probe, &moved));
            for left in [probe, moved] {
                // Where it could not even be made there is none.
                fs::remove_file(left).ok();
            }
            if tried.is_err_and(|error| error.kind() == io::ErrorKind::CrossesDevices) {
                let why = format!(
                    "{} and {} are on different file systems, but files are moved from one to the other: mount or link the cache directory as a whole",
                    from.display(),
                    to.display()
                );
                return Err(io::Error::new(io::ErrorKind::CrossesDevices, why));
            }
        }
    }
    Ok(())
}

pub(super) fn has_version(root: &Path) -> io::Result<bool> {
    match fs::metadata(root.join("VERSION")) {
        Ok(found) => Ok(found.is_file()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// True if a name is that of what nobody misses.
pub(super) fn is_nobodys(name: &str) -> bool {
    NOBODYS.contains(&name) || BEGUN.contains(&name)
}

/// Names in a directory that is no cache's.
fn foreign(root: &Path) -> io::Result<Vec<String>> {
    let mut foreign = Vec::new();
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let known = is_nobodys(&name);
        // Folders without anything in them are nobody's loss.
        let hollow = DIRECTORIES.contains(&name.as_str()) && is_hollow(&root.join(&name));
        if !known && !hollow && !name.starts_with(STATE) {
            foreign.push(name);
        }
    }
    foreign.sort();
    Ok(foreign)
}

/// True if it is a folder with nothing but such folders in it, down to a cache's depth.
fn is_hollow(path: &Path) -> bool {
    fn within(path: &Path, depth: usize) -> bool {
        fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
            && fs::read_dir(path).is_ok_and(|mut entries| {
                entries.all(|entry| {
                    depth > 0 && entry.is_ok_and(|entry| within(&entry.path(), depth - 1))
                })
            })
    }
    within(path, 2)
}

fn named(foreign: &[String]) -> String {
    let shown: Vec<String> = foreign
        .iter()
        .take(NAMED_MAX)
        .map(|name| format!("{name:?}"))
        .collect();
    let more = foreign.len().saturating_sub(NAMED_MAX);
    match more {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_empty_or_a_cache_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/b");
        assert!(see(&root).is_err());
        claim(&root).unwrap();
        for harmless in ["lost+found", ".snapshot", "blobs/sha256/aa", "fills"] {
            fs::create_dir_all(root.join(harmless)).unwrap();
        }
        claim(&root).unwrap();
        assert_eq!(see(&root).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::write(root.join("catalogue.db"), b"x").unwrap();
        claim(&root).unwrap();
        for foreign in ["fills/sha256", "damaged/mine", "photos", ".hidden"] {
            let path = root.join(foreign);
            fs::create_dir_all(path.join("x/y/z")).unwrap();
            let error = claim(&root).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{foreign}");
            assert!(see(&root).is_err());
            fs::remove_dir_all(path).unwrap();
        }
        claim(&root).unwrap();
    }
}

//! The files of a node.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::commands::client_config::files::Root;
use crate::commands::doctor::process;

/// The directories in which programs are.
const PROGRAMS: [&str; 6] = [
    "usr/bin",
    "usr/local/bin",
    "bin",
    "usr/sbin",
    "usr/local/sbin",
    "sbin",
];

/// The files below a root directory.
#[derive(Debug)]
pub(super) struct Node {
    root: Root,
    pub(super) path: PathBuf,
}

impl Node {
    /// Opens the root.
    ///
    /// # Errors
    /// One line.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let root = Root::open(path);
        let root = root.map_err(|error| format!("--root {}: {error}", path.display()))?;
        Ok(Self {
            root,
            path: path.to_owned(),
        })
    }

    /// True if these are the files of the machine that this process runs on.
    pub(super) fn is_own(&self) -> bool {
        self.path == Path::new("/")
    }

    /// Reads a file; `None`: there is none.
    ///
    /// # Errors
    /// One line: it cannot be read.
    pub(super) fn read(&self, path: &str) -> Result<Option<String>, String> {
        let place = self.root.place(path);
        let content = place.and_then(|place| place.read(place.name()));
        let content = content.map_err(|error| format!("{path} cannot be read: {error}"))?;
        Ok(content.map(|it| it.text))
    }

    /// True if a file is there.
    pub(super) fn has(&self, path: &str) -> bool {
        self.read(path).is_ok_and(|it| it.is_some())
    }

    /// True if one of these programs is there.
    pub(super) fn has_program(&self, names: &[&str]) -> bool {
        let mut names = names.iter();
        names.any(|name| PROGRAMS.iter().any(|dir| self.at(dir).join(name).exists()))
    }

    /// The names in a directory, sorted.
    pub(super) fn names(&self, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(self.at(dir)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// True if a file was changed after the program that reads it at its start was started.
    pub(super) fn is_stale(&self, path: &str, program: &str) -> bool {
        if !self.is_own() {
            return false;
        }
        let changed = fs::metadata(self.at(path))
            .and_then(|it| it.modified())
            .ok();
        let started: Option<SystemTime> =
            process::named(program).and_then(|it| process::started(&it));
        changed
            .zip(started)
            .is_some_and(|(changed, started)| changed > started)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.path.join(path.trim_start_matches('/'))
    }
}

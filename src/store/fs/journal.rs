//! Which blobs' files came and went since the index last caught up. The index is written twice a
//! second; after a crash the files named here are looked at, so that a start knows to the byte what
//! there is without looking at all.
//!
//! A digest is noted, durably, before its file gets its name or is deleted. There are two files: one
//! is written to while the index catches up with what is in the other, which is emptied then.

use std::collections::{BTreeSet, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::oci::Digest;

const NAMES: [&str; 2] = ["journal.0", "journal.1"];

/// More than this is not noted: the index cannot be written at all. About 20 MB; a start then learns
/// of the rest by the look through all files.
const LINES_MAX: usize = 250_000;

/// No journal is longer: what a start reads of one.
const READ_BYTES_MAX: u64 = 40 * 1024 * 1024;

/// The journal of a store.
#[derive(Debug)]
pub struct Journal {
    pages: Mutex<Pages>,
}

#[derive(Debug)]
struct Pages {
    current: usize,
    pages: [Page; 2],
}

#[derive(Debug)]
struct Page {
    file: File,
    lines: usize,
    /// The directories that lost a file.
    shrunk: HashSet<PathBuf>,
}

impl Journal {
    /// Opens the journal in `root`; what an earlier process noted there is returned, and stays until
    /// the index has caught up.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open(root: &Path) -> io::Result<(Self, BTreeSet<Digest>)> {
        let mut noted = BTreeSet::new();
        let [first, second] = NAMES.map(|name| Page::open(&root.join(name), &mut noted));
        let pages = Pages {
            current: 0,
            pages: [first?, second?],
        };
        let journal = Self {
            pages: Mutex::new(pages),
        };
        Ok((journal, noted))
    }

    /// Notes that the files of these digests are about to come or, out of `shrinking` directories, to
    /// go. To be called, like [`Journal::turn`], by whoever holds the right to change the files, who
    /// tells the index before giving that back. Blocks.
    ///
    /// # Errors
    /// The operating system's: then only a look through all files finds out what became of these.
    pub fn note<'a>(
        &self,
        digests: impl IntoIterator<Item = &'a Digest>,
        shrinking: impl IntoIterator<Item = PathBuf>,
    ) -> io::Result<()> {
        let mut pages = self.pages();
        let Some(page) = pages.current() else {
            return Ok(());
        };
        page.shrunk.extend(shrinking);
        if page.lines >= LINES_MAX {
            return Ok(());
        }
        // The first line break ends what an earlier note may have left unfinished.
        let mut text = String::from("\n");
        for digest in digests {
            text.push_str(&digest.to_string());
            text.push('\n');
            page.lines += 1;
        }
        page.file.write_all(text.as_bytes())?;
        page.file.sync_data()
    }

    /// What is noted from now on waits for the write of the index after next.
    pub fn turn(&self) {
        let mut pages = self.pages();
        let other = 1 - pages.current;
        // Else the write before failed, and what waited for it still does.
        if pages.pages.get(other).is_some_and(|page| page.lines == 0) {
            pages.current = other;
        }
    }

    /// The index has caught up with what was noted before the last turn.
    ///
    /// # Errors
    /// The operating system's; nothing is lost then but time.
    pub fn caught_up(&self) -> io::Result<()> {
        let mut pages = self.pages();
        let other = 1 - pages.current;
        let Some(page) = pages.pages.get_mut(other).filter(|page| page.lines > 0) else {
            return Ok(());
        };
        // A deleted file that a power loss brings back would be unknown for a while.
        for dir in page.shrunk.drain() {
            match File::open(&dir).and_then(|dir| dir.sync_all()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        page.file.set_len(0)?;
        page.lines = 0;
        Ok(())
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        // A panic half-way leaves a line too many.
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    fn current(&mut self) -> Option<&mut Page> {
        self.pages.get_mut(self.current)
    }
}

impl Page {
    fn open(path: &Path, noted: &mut BTreeSet<Digest>) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)?;
        let mut bytes = Vec::new();
        (&mut file).take(READ_BYTES_MAX).read_to_end(&mut bytes)?;
        let before = noted.len();
        // What is no digest was not finished, and so what it was noted for was not begun.
        let text = String::from_utf8_lossy(&bytes);
        noted.extend(text.lines().filter_map(|line| Digest::parse(line).ok()));
        Ok(Self {
            file,
            lines: noted.len() - before,
            shrunk: HashSet::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> Digest {
        Digest::Sha256([n; 32])
    }

    fn noted(root: &Path) -> Vec<Digest> {
        Journal::open(root).unwrap().1.into_iter().collect()
    }

    #[test]
    fn what_the_index_has_not_caught_up_with_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, found) = Journal::open(dir.path()).unwrap();
        assert!(found.is_empty());
        journal.note([&digest(1), &digest(2)], None).unwrap();
        journal.turn();
        journal.note([&digest(3)], None).unwrap();
        assert_eq!(noted(dir.path()), [digest(1), digest(2), digest(3)]);
        journal.caught_up().unwrap();
        assert_eq!(noted(dir.path()), [digest(3)]);
        journal.turn();
        journal.caught_up().unwrap();
        assert!(noted(dir.path()).is_empty());
    }

    #[test]
    fn a_write_of_the_index_that_failed_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(dir.path()).unwrap();
        journal.note([&digest(1)], None).unwrap();
        journal.turn();
        journal.note([&digest(2)], None).unwrap();
        // It failed. The next one turns again, and must not take the second for caught up.
        journal.turn();
        journal.note([&digest(3)], None).unwrap();
        journal.caught_up().unwrap();
        assert_eq!(noted(dir.path()), [digest(2), digest(3)]);
    }

    #[test]
    fn an_unfinished_line_costs_nothing_but_itself() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(dir.path()).unwrap();
        journal.note([&digest(1)], None).unwrap();
        let mut file = File::options()
            .append(true)
            .open(dir.path().join(NAMES[0]))
            .unwrap();
        file.write_all(b"sha256:0202\xff").unwrap();
        let (journal, found) = Journal::open(dir.path()).unwrap();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [digest(1)]);
        journal.note([&digest(3)], None).unwrap();
        assert_eq!(noted(dir.path()), [digest(1), digest(3)]);
    }

    #[test]
    fn what_was_found_at_the_start_stays_until_the_index_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(dir.path()).unwrap();
        journal.note([&digest(1)], None).unwrap();
        journal.turn();
        journal.note([&digest(2)], None).unwrap();
        let (journal, _) = Journal::open(dir.path()).unwrap();
        // Both files have something: no turn, until one is empty.
        for left in [vec![digest(1)], vec![]] {
            journal.turn();
            journal.caught_up().unwrap();
            assert_eq!(noted(dir.path()), left);
        }
    }
}

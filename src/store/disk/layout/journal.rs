//! The blobs whose files came and went since the index last caught up. The index is written twice a
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

use super::regular::open_unwaiting;
use crate::oci::Digest;
use crate::store::disk::{Disk, DiskOp as Op};

const NAMES: [&str; 2] = ["journal.0", "journal.1"];

/// More than this is not noted: the index cannot be written at all. About 20 MB; a start then learns
/// of the rest by the look through all files.
const LINES_MAX: usize = 250_000;

/// No journal is longer: what a start reads of one.
const READ_BYTES_MAX: u64 = 40 * 1024 * 1024;

/// The journal of a store.
#[derive(Debug)]
pub(in crate::store) struct Journal {
    pages: Mutex<Pages>,
    disk: Disk,
}

#[derive(Debug)]
struct Pages {
    current: usize,
    pages: [Page; 2],
}

#[derive(Debug)]
struct Page {
    path: PathBuf,
    /// Open to be written to; not yet, where the disk was read-only.
    file: Option<File>,
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
    pub(in crate::store) fn open(root: &Path, disk: &Disk) -> io::Result<(Self, BTreeSet<Digest>)> {
        let mut noted = BTreeSet::new();
        let [first, second] = NAMES.map(|name| Page::open(root.join(name), disk, &mut noted));
        let pages = Pages {
            current: 0,
            pages: [first?, second?],
        };
        let journal = Self {
            pages: Mutex::new(pages),
            disk: disk.clone(),
        };
        Ok((journal, noted))
    }

    /// Notes that the files of these digests are about to come or, out of `shrinking` directories, to
    /// go. To be called, like [`Journal::turn`], by whoever holds the right to change the files, who
    /// tells the index before giving that back. Blocks.
    ///
    /// # Errors
    /// The operating system's: then only a look through all files finds out what became of these.
    pub(in crate::store) fn note<'a>(
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
        let path = page.path.clone();
        let file = page.file(&self.disk)?;
        let write = |bytes: &[u8]| file.write_all(bytes);
        self.disk.write(Op::Write, &path, text.as_bytes(), write)?;
        self.disk.run(Op::Sync, &path, || file.sync_data())
    }

    /// Makes notes from now on wait for the write of the index after next.
    pub(in crate::store) fn turn(&self) {
        let mut pages = self.pages();
        let other = 1 - pages.current;
        // Else the write before failed, and what waited for it still does.
        if pages.pages.get(other).is_some_and(|page| page.lines == 0) {
            pages.current = other;
        }
    }

    /// The index has caught up with what was noted before the last turn. To be called by whoever calls
    /// [`Journal::turn`], after it.
    ///
    /// # Errors
    /// The operating system's; nothing is lost then but time.
    pub(in crate::store) fn caught_up(&self) -> io::Result<()> {
        let shrunk = match self.pages().waiting() {
            Some(page) => page.shrunk.clone(),
            None => return Ok(()),
        };
        // A deleted file that a power loss brings back would be unknown for a while. Not under the lock:
        // whoever commits or evicts a blob now need not wait for these.
        for dir in &shrunk {
            let sync = || match File::open(dir).and_then(|dir| dir.sync_all()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            };
            self.disk.run(Op::SyncDirectory, dir, sync)?;
        }
        let mut pages = self.pages();
        // Nobody writes to it before the next turn.
        let Some(page) = pages.waiting() else {
            return Ok(());
        };
        page.shrunk.clear();
        let path = page.path.clone();
        let file = page.file(&self.disk)?;
        self.disk.run(Op::Truncate, &path, || file.set_len(0))?;
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

    /// The one that waits for the index, if anything is in it.
    fn waiting(&mut self) -> Option<&mut Page> {
        let other = 1 - self.current;
        self.pages.get_mut(other).filter(|page| page.lines > 0)
    }
}

impl Page {
    fn open(path: PathBuf, disk: &Disk, noted: &mut BTreeSet<Digest>) -> io::Result<Self> {
        let mut bytes = Vec::new();
        let read = || match open_unwaiting(&path, OpenOptions::new().read(true)) {
            Ok(file) => file.take(READ_BYTES_MAX).read_to_end(&mut bytes).map(drop),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        disk.run(Op::Read, &path, read)?;
        let before = noted.len();
        // What is no digest was not finished, and so what it was noted for was not begun.
        let text = String::from_utf8_lossy(&bytes);
        noted.extend(text.lines().filter_map(|line| Digest::parse(line).ok()));
        Ok(Self {
            path,
            file: None,
            lines: noted.len() - before,
            shrunk: HashSet::new(),
        })
    }

    /// The file, made if it is missing.
    fn file(&mut self, disk: &Disk) -> io::Result<&mut File> {
        let file = if let Some(file) = self.file.take() {
            file
        } else {
            let open = || {
                OpenOptions::new()
                    .append(true)
                    .create(true)
                    .open(&self.path)
            };
            let file = disk.run(Op::Create, &self.path, open)?;
            if let Some(root) = self.path.parent() {
                // Its name must be there as long as what it notes.
                let sync = || File::open(root)?.sync_all();
                disk.run(Op::SyncDirectory, root, sync)?;
            }
            file
        };
        Ok(self.file.insert(file))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::disk::Injection;
    use crate::store::disk::health::Health;
    use crate::telemetry::Metrics;

    fn digest(n: u8) -> Digest {
        Digest::Sha256([n; 32])
    }

    fn open(root: &Path) -> (Journal, BTreeSet<Digest>) {
        let health = Health::new(Metrics::new(std::iter::empty()));
        let disk = Disk::new(Injection::default(), Arc::new(health));
        Journal::open(root, &disk).unwrap()
    }

    fn noted(root: &Path) -> Vec<Digest> {
        open(root).1.into_iter().collect()
    }

    #[test]
    fn what_the_index_has_not_caught_up_with_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, found) = open(dir.path());
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
        let (journal, _) = open(dir.path());
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
        let (journal, _) = open(dir.path());
        journal.note([&digest(1)], None).unwrap();
        let mut file = File::options()
            .append(true)
            .open(dir.path().join(NAMES[0]))
            .unwrap();
        file.write_all(b"sha256:0202\xff").unwrap();
        let (journal, found) = open(dir.path());
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [digest(1)]);
        journal.note([&digest(3)], None).unwrap();
        assert_eq!(noted(dir.path()), [digest(1), digest(3)]);
    }

    #[test]
    fn what_was_found_at_the_start_stays_until_the_index_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, _) = open(dir.path());
        journal.note([&digest(1)], None).unwrap();
        journal.turn();
        journal.note([&digest(2)], None).unwrap();
        let (journal, _) = open(dir.path());
        // Both files have something: no turn, until one is empty.
        for left in [vec![digest(1)], vec![]] {
            journal.turn();
            journal.caught_up().unwrap();
            assert_eq!(noted(dir.path()), left);
        }
    }
}

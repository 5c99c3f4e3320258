//! A cache that lies in another directory than it should: versions before the state directory had theirs where the
//! state is now. It is moved within a file system, and used where it is otherwise. Nothing is deleted.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::Lock;
use super::claim::{DIRECTORY_MODE, has_version};

/// Parts of a cache, in the order in which they are moved: `VERSION` last, without which there is no cache, so that
/// a move that was cut short goes on with the next start. The lock stays, and is nobody's then.
const ENTRIES: [&str; 9] = [
    "journal.0",
    "journal.1",
    "index.redb",
    "index.redb.unreadable",
    "scrub.json",
    "damaged",
    "fills",
    "blobs",
    "VERSION",
];

/// The place of a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) enum Place {
    /// It is where it should be, or there is none yet.
    Right,
    /// There, since just now.
    Moved,
    /// It is where it was before: why it could not be moved.
    Before(String),
    /// In both: the one where it should be is used.
    Both,
}

/// Says where the cache is that should be in `right` and may be in `before`, and with `may_move` moves it.
pub(in crate::store) fn find(right: &Path, before: &Path, may_move: bool) -> Place {
    let is_cache = |dir: &Path| has_version(dir).unwrap_or(false);
    let same = || match (right.canonicalize(), before.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        (Ok(_) | Err(_), _) => false,
    };
    if right == before || !is_cache(before) || same() {
        return Place::Right;
    }
    if is_cache(right) {
        return Place::Both;
    }
    if !may_move {
        return Place::Before("this command moves nothing".to_owned());
    }
    // What else is there is somebody's, and is told of when the directory is taken.
    let Ok(true) = is_free(right) else {
        return Place::Right;
    };
    match relocate(before, right) {
        Ok(()) => Place::Moved,
        Err(error) => Place::Before(error.to_string()),
    }
}

/// True if a directory is not there, or has nothing in it but parts of a cache that was being moved there.
fn is_free(dir: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        entries => entries?,
    };
    for entry in entries {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if !ENTRIES.contains(&&*name) && !super::claim::is_nobodys(&name) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn relocate(before: &Path, right: &Path) -> io::Result<()> {
    let _nobody_writes = Lock::take(before)?;
    let mut directory = DirBuilder::new();
    directory
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(right)?;
    let mut moved: Vec<(PathBuf, PathBuf)> = Vec::new();
    for name in ENTRIES {
        let (from, to) = (before.join(name), right.join(name));
        if fs::symlink_metadata(&from).is_err() {
            continue;
        }
        if let Err(error) = rename(&from, &to) {
            for (from, to) in moved.iter().rev() {
                // One that stays there is found by the next start, which goes on with the move.
                fs::rename(to, from).ok();
            }
            return Err(error);
        }
        moved.push((from, to));
    }
    File::open(right)?.sync_all()?;
    File::open(before)?.sync_all()
}

/// Never over what is there.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let is_empty = |dir: &Path| fs::read_dir(dir).is_ok_and(|mut found| found.next().is_none());
    if fs::symlink_metadata(to).is_ok() && !is_empty(to) {
        let why = format!("{} is there already", to.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
    }
    fs::rename(from, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(dir: &Path) {
        fs::create_dir_all(dir.join("blobs/sha256/aa")).unwrap();
        fs::write(dir.join("blobs/sha256/aa/blob"), "bytes").unwrap();
        fs::write(dir.join("index.redb"), "index").unwrap();
        fs::write(dir.join("VERSION"), "1\n").unwrap();
        fs::write(dir.join("catalogue.db"), "state").unwrap();
    }

    fn is_whole(dir: &Path) {
        let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
        assert_eq!(read("blobs/sha256/aa/blob"), "bytes");
        assert_eq!(
            (read("index.redb"), read("VERSION")),
            ("index".to_owned(), "1\n".to_owned())
        );
    }

    #[test]
    fn a_cache_at_the_old_place_is_moved_once_and_the_state_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("lib"), dir.path().join("cache/roadstead"));
        assert_eq!(find(&new, &old, true), Place::Right);
        cache(&old);
        assert_eq!(find(&old, &old, true), Place::Right);
        assert!(matches!(find(&new, &old, false), Place::Before(_)));
        is_whole(&old);
        assert_eq!(find(&new, &old, true), Place::Moved);
        is_whole(&new);
        assert!(old.join("catalogue.db").exists() && !old.join("blobs").exists());
        assert_eq!(find(&new, &old, true), Place::Right);
    }

    /// Cut short after each of its steps, it goes on.
    #[test]
    fn a_move_that_was_cut_short_goes_on() {
        for moved in ["index.redb", "blobs"] {
            let dir = tempfile::tempdir().unwrap();
            let (old, new) = (dir.path().join("old"), dir.path().join("new"));
            cache(&old);
            fs::create_dir(&new).unwrap();
            fs::rename(old.join(moved), new.join(moved)).unwrap();
            assert_eq!(find(&new, &old, true), Place::Moved);
            is_whole(&new);
        }
    }

    #[test]
    fn of_two_caches_the_configured_one_is_used_and_neither_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        cache(&old);
        cache(&new);
        assert_eq!(find(&new, &old, true), Place::Both);
        is_whole(&old);
        is_whole(&new);
    }

    #[test]
    fn what_cannot_be_moved_stays_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        cache(&old);
        // Somebody else's folder of the same name, with something in it.
        fs::create_dir_all(new.join("blobs/mine")).unwrap();
        assert!(
            matches!(find(&new, &old, true), Place::Before(why) if why.contains("there already"))
        );
        is_whole(&old);
        // A process has it.
        fs::remove_dir_all(&new).unwrap();
        let lock = Lock::take(&old).unwrap();
        assert!(
            matches!(find(&new, &old, true), Place::Before(why) if why.contains("another roadstead"))
        );
        drop(lock);
        is_whole(&old);
        // Not a place for a cache: said when it is taken.
        fs::create_dir_all(new.join("photos")).unwrap();
        assert_eq!(find(&new, &old, true), Place::Right);
        is_whole(&old);
    }

    #[test]
    fn on_another_file_system_it_is_used_where_it_is() {
        let (here, there) = (
            tempfile::tempdir().unwrap(),
            tempfile::tempdir_in("/dev/shm"),
        );
        let Ok(there) = there else { return };
        let device =
            |path: &Path| std::os::unix::fs::MetadataExt::dev(&fs::metadata(path).unwrap());
        if device(here.path()) == device(there.path()) {
            return;
        }
        let (old, new) = (here.path().join("old"), there.path().join("new"));
        cache(&old);
        assert!(matches!(find(&new, &old, true), Place::Before(_)));
        is_whole(&old);
        assert!(fs::read_dir(&new).unwrap().next().is_none());
    }
}

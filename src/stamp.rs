//! Marks by which a file that has changed is told from the one that was read.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The state of a file: one that is written anew has another time or size, and one that takes its place by a rename,
/// or by way of a link (as Kubernetes replaces a mounted file), has another inode. Take it before the file is read:
/// what changes meanwhile is then read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    /// Bytes.
    size: u64,
    /// Seconds and nanoseconds of the last change of the content.
    modified: (i64, i64),
    /// The same of the inode: a file that was made readable has changed, too.
    changed: (i64, i64),
}

impl Stamp {
    /// The stamp of a file that is open, or was looked at.
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Looks at a file, or at what a link leads to. `None`: there is none, or it cannot be looked at. Blocks.
    pub(crate) fn look(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().as_ref().map(Self::of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_in_its_place_has_another_stamp() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        #[expect(clippy::disallowed_methods, reason = "the test owns its files")]
        for (path, bytes) in [(&old, b"a"), (&new, b"b")] {
            fs::write(path, bytes).unwrap();
        }
        let before = Stamp::look(&old);
        assert!(before.is_some());
        assert_eq!(Stamp::look(&old), before);
        assert_eq!(fs::metadata(&old).ok().as_ref().map(Stamp::of), before);
        #[expect(clippy::disallowed_methods, reason = "the test owns its files")]
        fs::rename(&new, &old).unwrap();
        assert_ne!(Stamp::look(&old), before);
        assert_eq!(Stamp::look(&new), None);
    }
}

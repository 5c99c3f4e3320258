//! The files of fills: what has come of a blob, and how much of that is durably there.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Layout;
use super::regular::open_regular;
use crate::store::FillKey;
use crate::store::cas::coverage::Coverage;
use crate::store::disk::{DiskFile, DiskOp as Op};

/// A coverage record above this size is not ours.
const COVERAGE_RECORD_BYTES_MAX: u64 = 1024 * 1024;

/// What is recorded beside a partial file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct FillRecord {
    /// The size of the whole blob, if it was known.
    pub(in crate::store) total: Option<u64>,
    /// The ranges that are durably in the file.
    pub(in crate::store) coverage: Coverage,
}

impl Layout {
    /// Makes the partial file of a fill, or takes up the one that is there. Who reads another (see
    /// [`crate::store::fill::Reader`]) keeps it unchanged.
    ///
    /// # Errors
    /// The operating system's.
    pub(in crate::store) fn open_part(&self, key: &FillKey, take_up: bool) -> io::Result<DiskFile> {
        let path = self.part_path(key, "part");
        if !take_up {
            self.remove(&path)?;
        }
        // It is somebody's again.
        self.strays().remove(&path);
        let open = || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            open_regular(&path, &mut options)
        };
        let file = self.disk.run(Op::Create, &path, open)?;
        Ok(self.disk.file(file, path))
    }

    /// Deletes a partial file and its record. If that cannot be, it is done later.
    pub(in crate::store) fn remove_part(&self, key: &FillKey) {
        self.remove_or_remember(&self.part_path(key, "cov"));
        self.remove_or_remember(&self.part_path(key, "part"));
    }

    /// Records how far a partial file has come. The file is made durable first,
    /// so that the record never promises more than the disk has.
    ///
    /// # Errors
    /// The operating system's.
    pub(in crate::store) fn record_part(
        &self,
        key: &FillKey,
        part: &DiskFile,
        record: &FillRecord,
    ) -> io::Result<()> {
        part.sync()?;
        self.write_durably(&self.part_path(key, "cov"), &serde_json::to_vec(record)?)
    }

    /// The record of a partial file; `None` when there is no usable one.
    #[must_use]
    pub(in crate::store) fn part_record(&self, key: &FillKey) -> Option<FillRecord> {
        let path = self.part_path(key, "cov");
        let read = || {
            let file = open_regular(&path, OpenOptions::new().read(true))?;
            let mut record = Vec::new();
            file.take(COVERAGE_RECORD_BYTES_MAX + 1)
                .read_to_end(&mut record)?;
            Ok(record)
        };
        // That there is none is no error of the disk.
        if !path.is_file() {
            return None;
        }
        let record = self.disk.run(Op::Read, &path, read).ok()?;
        serde_json::from_slice(&record).ok()
    }

    /// Deletes the record of a partial file: what it promises is about to be untrue.
    ///
    /// # Errors
    /// The operating system's.
    pub(in crate::store) fn forget_part_record(&self, key: &FillKey) -> io::Result<()> {
        self.remove(&self.part_path(key, "cov"))
    }

    /// Gives a partial file, verified and made durable, its final name.
    ///
    /// # Errors
    /// The operating system's; the blob is not committed then.
    pub(in crate::store) fn publish_part(&self, key: &FillKey) -> io::Result<()> {
        self.publish(&self.part_path(key, "part"), key.digest())?;
        // After the rename: a crash in between leaves a record without a file, which is swept at the
        // next start. The other way round it would be a whole blob without a record.
        self.remove_or_remember(&self.part_path(key, "cov"));
        Ok(())
    }

    fn part_path(&self, key: &FillKey, extension: &str) -> PathBuf {
        let fills = self.fills(key.digest().algorithm().name());
        fills.join(format!("{}.{extension}", key.stem()))
    }
}

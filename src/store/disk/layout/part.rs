//! The files of fills: what has come of a blob, and how much of that is durably there.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::blob_files::BlobFiles;
use super::directory::Directory;
use super::regular::open_regular;
use crate::oci::Algorithm;
use crate::store::FillKey;
use crate::store::cas::coverage::Coverage;
use crate::store::disk::{DiskFile, DiskOp as Op};

/// A coverage record above this size is not ours.
const COVERAGE_RECORD_BYTES_MAX: u64 = 1024 * 1024;

/// The record beside a partial file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct FillRecord {
    /// The size of the whole blob, if it was known.
    pub(in crate::store) total: Option<u64>,
    /// The ranges that are durably in the file.
    pub(in crate::store) coverage: Coverage,
}

/// The partial files of fills.
#[derive(Debug)]
pub(in crate::store) struct PartFiles<'a>(pub(super) &'a Directory);

impl PartFiles<'_> {
    /// Makes the partial file of a fill, or takes up the one that is there. Who reads another (see
    /// [`crate::store::fill::Reader`]) keeps it unchanged.
    ///
    /// # Errors
    /// The operating system's.
    pub(in crate::store) fn open(&self, key: &FillKey, take_up: bool) -> io::Result<DiskFile> {
        let path = self.path(key, "part");
        let is_shared = self.0.shared().contains(&path);
        if !take_up {
            self.0.remove(&path)?;
        } else if is_shared {
            self.copy(&path)?;
        }
        if is_shared {
            self.0.shared().remove(&path);
        }
        // It is somebody's again.
        self.0.strays().remove(&path);
        let open = || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            open_regular(&path, &mut options)
        };
        let file = self.0.disk.run(Op::Create, &path, open)?;
        Ok(self.0.disk.file(file, path))
    }

    /// These files are read by the process that the store was taken over from: whoever takes one up writes to a copy.
    pub(in crate::store) fn share(&self, kept: &[(FillKey, u64)]) {
        let paths = kept.iter().map(|(key, _)| self.path(key, "part"));
        self.0.shared().extend(paths);
    }

    /// Puts a copy in the place of a file, which those who have it open keep.
    fn copy(&self, path: &Path) -> io::Result<()> {
        let copy = path.with_extension("copy");
        let copied = || fs::copy(path, &copy).map(drop);
        let copied = self.0.disk.run(Op::Write, &copy, copied);
        let copied = copied.and_then(|()| self.0.rename(&copy, path));
        if copied.is_err() {
            self.0.remove_or_remember(&copy);
        }
        copied
    }

    /// Deletes a partial file and its record. If that cannot be, it is done later.
    pub(in crate::store) fn remove(&self, key: &FillKey) {
        self.0.remove_or_remember(&self.path(key, "cov"));
        self.0.remove_or_remember(&self.path(key, "part"));
    }

    /// Records how far a partial file has come. The file is made durable first,
    /// so that the record never promises more than the disk has.
    ///
    /// # Errors
    /// The operating system's.
    pub(in crate::store) fn record(
        &self,
        key: &FillKey,
        part: &DiskFile,
        record: &FillRecord,
    ) -> io::Result<()> {
        part.sync()?;
        self.0
            .write_durably(&self.path(key, "cov"), &serde_json::to_vec(record)?)
    }

    /// The record of a partial file; `None` when there is no usable one.
    #[must_use]
    pub(in crate::store) fn recorded(&self, key: &FillKey) -> Option<FillRecord> {
        let path = self.path(key, "cov");
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
        let record = self.0.disk.run(Op::Read, &path, read).ok()?;
        serde_json::from_slice(&record).ok()
    }

    /// Deletes the record of a partial file: what it promises is about to be untrue.
    ///
    /// # Errors
    /// The operating system's.
    pub(in crate::store) fn forget_record(&self, key: &FillKey) -> io::Result<()> {
        self.0.remove(&self.path(key, "cov"))
    }

    /// Gives a partial file, verified and made durable, its final name.
    ///
    /// # Errors
    /// The operating system's; the blob is not committed then.
    pub(in crate::store) fn publish(&self, key: &FillKey) -> io::Result<()> {
        BlobFiles(self.0).publish(&self.path(key, "part"), key.digest())?;
        // After the rename: a crash in between leaves a record without a file, which is swept at the
        // next start. The other way round it would be a whole blob without a record.
        self.0.remove_or_remember(&self.path(key, "cov"));
        Ok(())
    }

    fn path(&self, key: &FillKey, extension: &str) -> PathBuf {
        let fills = self.0.fills(key.digest().algorithm().name());
        fills.join(format!("{}.{extension}", key.stem()))
    }

    /// Deletes what an earlier process left in `fills/`, but for partial files of which a record says
    /// what they have: they can be taken up again, and are cut to that. Returns those fills, and
    /// how many bytes they have. What cannot be deleted is deleted later.
    ///
    /// # Errors
    /// The operating system's, where the directory cannot be read.
    pub(in crate::store) fn sweep(&self) -> io::Result<Vec<(FillKey, u64)>> {
        let mut kept = HashMap::new();
        let mut found = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let fills = self.0.root.join("fills").join(algorithm.name());
            for file in self.0.disk.run(Op::Read, &fills, || fs::read_dir(&fills))? {
                let path = file?.path();
                let stem = path.file_stem().and_then(|stem| stem.to_str());
                let key = stem.and_then(|stem| FillKey::parse_stem(algorithm, stem));
                let extension = path.extension().and_then(|e| e.to_str());
                if extension == Some("part")
                    && let Some(key) = key
                    && let Some(length) = self.cut_to_record(&key, &path)
                {
                    kept.insert(key, length);
                }
                found.push((path, key));
            }
        }
        for (path, key) in found {
            let extension = path.extension().and_then(|e| e.to_str());
            let of_a_fill = matches!(extension, Some("part" | "cov"));
            if of_a_fill && key.is_some_and(|key| kept.contains_key(&key)) {
                continue;
            }
            self.0.remove_or_remember(&path);
        }
        Ok(kept.into_iter().collect())
    }

    /// Cuts a partial file to what its record says; how many bytes it has then, or nothing if there is
    /// nothing to go on from.
    fn cut_to_record(&self, key: &FillKey, path: &Path) -> Option<u64> {
        let mut coverage = self.recorded(key)?.coverage;
        let bytes = fs::metadata(path).ok()?.len();
        coverage.remove(bytes..u64::MAX);
        let length = coverage.end();
        if length == 0 {
            return None;
        }
        if length < bytes && !self.0.is_for_looking() {
            let open = || OpenOptions::new().write(true).open(path);
            let file = self.0.disk.run(Op::Write, path, open).ok()?;
            let cut = || file.set_len(length);
            self.0.disk.run(Op::Truncate, path, cut).ok()?;
        }
        // What lies in gaps takes nothing.
        Some(coverage.bytes())
    }
}

//! The way to the disk. Each operation of the store goes through here: where tests make it fail, and where
//! the store learns that its disk does.

pub(super) mod health;
pub(super) mod layout;
mod map;
pub(super) mod ownership;
pub(super) mod windows;
pub(super) mod work;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLockReadGuard};

use bytes::Bytes;
use rustix::io::Errno;
use tokio::sync::Semaphore;

use self::ownership::Ownership;
use crate::store::disk::health::Health;
use crate::store::disk::windows::BROUGHT_AT_ONCE_MAX;
use crate::store::disk::work::Work;
pub use crate::telemetry::metrics::DiskOp;

/// Decides which operations fail: for tests. Without one nothing is asked.
pub trait Faults: Send + Sync + std::fmt::Debug {
    /// Asked before each operation on `path`.
    ///
    /// # Errors
    /// The failure that it is to have.
    fn before(&self, op: DiskOp, path: &Path) -> Result<(), Fault>;

    /// An operation on `path` succeeded.
    fn after(&self, _op: DiskOp, _path: &Path) {}
}

/// The failure of an operation.
#[derive(Debug)]
pub struct Fault {
    /// The error that it fails with.
    pub error: io::Error,
    /// Number of bytes of a write that reach the file before that.
    pub written: usize,
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self { error, written: 0 }
    }
}

/// Decides which operations fail: none, unless a test says otherwise.
#[derive(Clone, Debug, Default)]
pub struct Injection(Option<Arc<dyn Faults>>);

impl Injection {
    /// These.
    #[must_use]
    pub fn of(faults: Arc<dyn Faults>) -> Self {
        Self(Some(faults))
    }
}

impl PartialEq for Injection {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }
}

impl Eq for Injection {}

/// The disk of a store. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    injection: Injection,
    health: Arc<Health>,
    work: Arc<Work>,
    bringing: Arc<Semaphore>,
    ownership: Arc<Ownership>,
    /// True if nothing may be changed, for commands that only look.
    is_for_looking: bool,
}

/// An open file of the store.
#[derive(Debug)]
pub(super) struct DiskFile {
    file: File,
    /// The name that it was opened under.
    path: PathBuf,
    disk: Disk,
}

impl Disk {
    pub(super) fn new(injection: Injection, health: Arc<Health>) -> Self {
        Self {
            injection,
            work: Arc::new(Work::new(Arc::clone(&health))),
            health,
            bringing: Arc::new(Semaphore::new(BROUGHT_AT_ONCE_MAX)),
            ownership: Arc::default(),
            is_for_looking: false,
        }
    }

    /// The same disk for whoever only looks: whatever would change it fails as on a read-only one.
    pub(super) fn for_looking(self) -> Self {
        Self {
            is_for_looking: true,
            ..self
        }
    }

    /// True if nothing may be changed.
    pub(super) fn is_for_looking(&self) -> bool {
        self.is_for_looking
    }

    /// The right to an operation, for as long as it takes. Whoever only looks changes nothing, nor does a process whose
    /// store is another's. That is no trouble of the disk's.
    fn allows(&self, op: DiskOp) -> io::Result<Option<RwLockReadGuard<'_, bool>>> {
        if matches!(op, DiskOp::Read | DiskOp::ReadIndex) {
            return Ok(None);
        }
        let permit = self.ownership.permit().filter(|_| !self.is_for_looking);
        permit.map(Some).ok_or(Errno::ROFS.into())
    }

    /// The right of this process to change anything.
    pub(super) fn ownership(&self) -> &Arc<Ownership> {
        &self.ownership
    }

    /// Its health.
    pub(super) fn health(&self) -> &Health {
        &self.health
    }

    /// The threads for work on it that blocks.
    pub(super) fn work(&self) -> &Arc<Work> {
        &self.work
    }

    /// Does one operation on `path`. If it fails, its health is told.
    pub(super) fn run<T>(
        &self,
        op: DiskOp,
        path: &Path,
        doing: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let _permit = self.allows(op)?;
        let done = match &self.injection.0 {
            None => doing(),
            Some(faults) => match faults.before(op, path) {
                Ok(()) => doing().inspect(|_| faults.after(op, path)),
                Err(fault) => Err(fault.error),
            },
        };
        work::comes_on();
        done.inspect_err(|error| self.health.failed(op, error))
    }

    /// The same for a write of `bytes`, of which a test may let some through.
    pub(super) fn write(
        &self,
        op: DiskOp,
        path: &Path,
        bytes: &[u8],
        doing: impl FnOnce(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let _permit = self.allows(op)?;
        let done = match &self.injection.0 {
            None => doing(bytes),
            Some(faults) => match faults.before(op, path) {
                Ok(()) => doing(bytes).inspect(|()| faults.after(op, path)),
                Err(fault) => {
                    let some = bytes.get(..fault.written).unwrap_or(bytes);
                    doing(some).and(Err(fault.error))
                }
            },
        };
        work::comes_on();
        done.inspect_err(|error| self.health.failed(op, error))
    }

    /// An open file, under the name that it was opened with.
    pub(super) fn file(&self, file: File, path: PathBuf) -> DiskFile {
        DiskFile {
            file,
            path,
            disk: self.clone(),
        }
    }
}

impl DiskFile {
    /// Its size in bytes.
    pub(super) fn length(&self) -> io::Result<u64> {
        let ask = || Ok(self.file.metadata()?.len());
        self.disk.run(DiskOp::Read, &self.path, ask)
    }

    /// True if it is this one of its file system's files.
    pub(super) fn is_inode(&self, device: u64, inode: u64) -> bool {
        let own = self.file.metadata();
        own.is_ok_and(|own| own.dev() == device && own.ino() == inode)
    }

    /// Reads at most `limit` bytes at `offset`, at least one; `UnexpectedEof` at the end of the file.
    pub(super) fn read_at(&self, offset: u64, limit: usize) -> io::Result<Vec<u8>> {
        let read = || read_at(&self.file, offset, limit);
        self.disk.run(DiskOp::Read, &self.path, read)
    }

    /// The same, if the kernel has them in memory: waits for no disk. `None`: it does not, or cannot tell.
    pub(super) fn read_cached(&self, offset: u64, limit: usize) -> io::Result<Option<Vec<u8>>> {
        let read = || read_cached(&self.file, offset, limit);
        self.disk.run(DiskOp::Read, &self.path, read)
    }

    /// A part of it, which lies within it, as memory that is for the kernel's eyes alone ([`map::bytes`]), and that
    /// the kernel has now. `None`: it cannot be mapped, or not be waited for; a read will tell why.
    pub(super) fn window(&self, range: &Range<u64>) -> io::Result<Option<Bytes>> {
        let bring = || {
            map::bring(&self.file, range)?;
            map::map(&self.file, range).map(map::bytes)
        };
        self.disk.run(DiskOp::Read, &self.path, || Ok(bring().ok()))
    }

    /// The same, if the kernel has it in memory already: waits for no disk.
    pub(super) fn window_cached(&self, range: &Range<u64>) -> io::Result<Option<Bytes>> {
        self.disk.run(DiskOp::Read, &self.path, || {
            Ok(self
                .is_cached(range)
                .then(|| map::map(&self.file, range).ok())
                .flatten()
                .map(map::bytes))
        })
    }

    /// True if [`DiskFile::window_cached`] would give this part now.
    pub(super) fn is_cached(&self, range: &Range<u64>) -> bool {
        map::is_cached(&self.file, range)
    }

    /// Reads in another way.
    pub(super) fn read_by<T>(&self, read: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
        self.disk.run(DiskOp::Read, &self.path, || read(&self.file))
    }

    /// The name that it was opened under.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The threads for work on its disk that blocks.
    pub(super) fn work(&self) -> &Arc<Work> {
        &self.disk.work
    }

    /// Permits to wait for windows of this disk's files.
    pub(super) fn bringing(&self) -> &Arc<Semaphore> {
        &self.disk.bringing
    }

    /// The file, for what neither reads nor changes it.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Writes all of `bytes` at `offset`.
    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let write = |bytes: &[u8]| self.file.write_all_at(bytes, offset);
        self.disk.write(DiskOp::Write, &self.path, bytes, write)
    }

    /// Cuts off what lies beyond `length`.
    pub(super) fn cut(&self, length: u64) -> io::Result<()> {
        let cut = || self.file.set_len(length);
        self.disk.run(DiskOp::Truncate, &self.path, cut)
    }

    /// Makes what was written durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        let sync = || self.file.sync_all();
        self.disk.run(DiskOp::Sync, &self.path, sync)
    }
}

fn read_at(file: &File, offset: u64, limit: usize) -> io::Result<Vec<u8>> {
    let mut buffer = Vec::with_capacity(limit);
    loop {
        // Reads into the vector's spare room: no time is spent on zeroing it first.
        match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut buffer), offset) {
            Ok(0) if limit > 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => return Ok(buffer),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn read_cached(file: &File, offset: u64, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = Vec::with_capacity(limit);
    match map::read_now(file, offset, &mut buffer) {
        Ok(0) if limit > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(_) => {
            // The allocator may have given more room than was asked for.
            buffer.truncate(limit);
            Ok(Some(buffer))
        }
        // It would wait, or the file system knows no such reads.
        Err(Errno::AGAIN | Errno::INTR | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

//! The index's file, as redb sees it: through the store's disk, so that its failures are seen; or as a
//! copy that can be written without the disk noticing, so that it can be read where nothing can be written.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

use crate::store::disk::{Disk, DiskOp};

/// A copy keeps what is written to it in blocks of this size: redb's pages.
const BLOCK_BYTES: usize = 4096;

/// The most blocks, 64 MiB: a repair writes what tells free pages from others, and one that needs
/// more than this would be better off with a disk.
const BLOCKS_MAX: usize = 16 * 1024;

/// The file, on its disk.
#[derive(Debug)]
pub(in crate::store) struct OnDisk {
    pub(in crate::store) file: FileBackend,
    pub(in crate::store) path: PathBuf,
    pub(in crate::store) disk: Disk,
}

impl StorageBackend for OnDisk {
    fn len(&self) -> io::Result<u64> {
        let ask = || self.file.len();
        self.disk.run(DiskOp::ReadIndex, &self.path, ask)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let read = || self.file.read(offset, out);
        self.disk.run(DiskOp::ReadIndex, &self.path, read)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let set = || self.file.set_len(len);
        self.disk.run(DiskOp::WriteIndex, &self.path, set)
    }

    fn sync_data(&self) -> io::Result<()> {
        let sync = || self.file.sync_data();
        self.disk.run(DiskOp::SyncIndex, &self.path, sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let write = |data: &[u8]| self.file.write(offset, data);
        self.disk.write(DiskOp::WriteIndex, &self.path, data, write)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

/// The file as it is, and in memory what redb would change of it to read it.
#[derive(Debug)]
pub(super) struct Copy {
    under: OnDisk,
    over: Mutex<Over>,
}

#[derive(Debug)]
struct Over {
    length: u64,
    /// Offset past which the file was cut off.
    beneath: u64,
    blocks: BTreeMap<u64, Box<[u8]>>,
}

impl Copy {
    pub(super) fn of(under: OnDisk) -> io::Result<Self> {
        let length = under.len()?;
        let over = Over {
            length,
            beneath: length,
            blocks: BTreeMap::new(),
        };
        Ok(Self {
            under,
            over: Mutex::new(over),
        })
    }

    fn over(&self) -> MutexGuard<'_, Over> {
        self.over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block as the file has it, zeros behind its end.
    fn beneath(&self, block: u64, end: u64) -> io::Result<Box<[u8]>> {
        let mut bytes = vec![0; BLOCK_BYTES].into_boxed_slice();
        let offset = block * BLOCK_BYTES as u64;
        let there = usize::try_from(end.saturating_sub(offset)).unwrap_or(BLOCK_BYTES);
        if let Some(there) = bytes.get_mut(..there.min(BLOCK_BYTES))
            && !there.is_empty()
        {
            self.under.read(offset, there)?;
        }
        Ok(bytes)
    }
}

impl StorageBackend for Copy {
    fn len(&self) -> io::Result<u64> {
        Ok(self.over().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let over = self.over();
        let end = offset.saturating_add(out.len() as u64);
        if end > over.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for part in parts(offset, out.len()) {
            let Some(to) = out.get_mut(part.here.clone()) else {
                continue;
            };
            let from_file;
            let block = if let Some(block) = over.blocks.get(&part.block) {
                block
            } else {
                from_file = self.beneath(part.block, over.beneath)?;
                &from_file
            };
            // Both have the part's length.
            if let Some(from) = block.get(part.there) {
                to.copy_from_slice(from);
            }
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut over = self.over();
        over.length = length;
        over.beneath = over.beneath.min(length);
        // What is cut off is zeros when it comes back.
        over.blocks
            .retain(|block, _| block * (BLOCK_BYTES as u64) < length);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut over = self.over();
        for part in parts(offset, data.len()) {
            if !over.blocks.contains_key(&part.block) {
                if over.blocks.len() >= BLOCKS_MAX {
                    return Err(io::ErrorKind::OutOfMemory.into());
                }
                let block = self.beneath(part.block, over.beneath)?;
                over.blocks.insert(part.block, block);
            }
            let block = over.blocks.get_mut(&part.block);
            let to = block.and_then(|block| block.get_mut(part.there));
            if let (Some(to), Some(from)) = (to, data.get(part.here)) {
                to.copy_from_slice(from);
            }
        }
        Ok(())
    }

    // Nobody else writes a file that cannot be written, and nobody sees this copy.
    fn try_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn try_lock_shared_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn unlock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }
}

/// The part of a span that lies in one block.
struct Part {
    block: u64,
    /// In the block.
    there: std::ops::Range<usize>,
    /// In the span.
    here: std::ops::Range<usize>,
}

fn parts(offset: u64, length: usize) -> impl Iterator<Item = Part> {
    let block_bytes = BLOCK_BYTES as u64;
    let mut done = 0;
    std::iter::from_fn(move || {
        if done >= length {
            return None;
        }
        let at = offset + done as u64;
        // Less than a block's size.
        let from = usize::try_from(at % block_bytes).ok()?;
        let bytes = (BLOCK_BYTES - from).min(length - done);
        let part = Part {
            block: at / block_bytes,
            there: from..from + bytes,
            here: done..done + bytes,
        };
        done += bytes;
        Some(part)
    })
}

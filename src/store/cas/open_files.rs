//! The files of stored blobs that are kept open for the next request of the same blob: opening one anew costs a hop to
//! the blocking pool and several look-ups, ten times what a small hit costs.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use rustix::process::{Resource, getrlimit};

use crate::oci::Digest;
use crate::store::disk::DiskFile;

/// The most files, however many descriptors there may be: each holds some KiB of the kernel's memory.
const OPEN_FILES_MAX: usize = 16_384;

/// The part of the descriptors that a second store counts on: a quarter of that is for its open blobs.
const SECOND_PART: u64 = 4;

/// The fewest files.
const OPEN_FILES_MIN: usize = 64;

/// The open files, those used last first.
#[derive(Debug)]
pub(in crate::store) struct OpenFiles(Mutex<LruCache<Digest, Arc<DiskFile>>>);

impl OpenFiles {
    /// None yet; room for as many as the limit on open files allows now: fewer for a `second` store beside another.
    pub(in crate::store) fn new(second: bool) -> Self {
        let limit = getrlimit(Resource::Nofile).current;
        let limit = if second {
            limit.map(|limit| limit / SECOND_PART)
        } else {
            limit
        };
        let max = files_max(limit);
        Self(Mutex::new(LruCache::new(max)))
    }

    /// The most files that it keeps.
    pub(in crate::store) fn max(&self) -> usize {
        self.lock().cap().get()
    }

    pub(in crate::store) fn lock(&self) -> MutexGuard<'_, LruCache<Digest, Arc<DiskFile>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A quarter of the descriptors (`None`: there is no limit): a half is for clients, the rest for upstreams, transfers
/// and blobs that are read and no longer kept here.
fn files_max(limit: Option<u64>) -> NonZeroUsize {
    let quarter = limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit / 4).unwrap_or(usize::MAX)
    });
    let max = quarter.clamp(OPEN_FILES_MIN, OPEN_FILES_MAX);
    NonZeroUsize::new(max).unwrap_or(NonZeroUsize::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_descriptors_is_for_open_blobs() {
        for (limit, files) in [
            (None, OPEN_FILES_MAX),
            (Some(1 << 20), OPEN_FILES_MAX),
            (Some(65_536), OPEN_FILES_MAX),
            (Some(4096), 1024),
            (Some(1024), 256),
            (Some(10), OPEN_FILES_MIN),
        ] {
            assert_eq!(files_max(limit).get(), files, "{limit:?}");
        }
    }
}

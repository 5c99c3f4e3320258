//! Blobs that cannot be read: misses from then on. Some of them are kept aside. Their bad sectors are not
//! given to new files that way, and somebody can look at what happened to them.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::oci::Digest;
use crate::store::Event;
use crate::store::contents::Contents;
use crate::store::disk::DiskFile;
use crate::store::disk::layout;
use crate::store::disk::work::{Kind, Task};

/// So many are kept: a disk with more bad blobs than this should be replaced, not studied.
const ASIDE_FILES_MAX: usize = 16;

/// And so many bytes: the largest layers there usually are.
const ASIDE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// But no more than this part of the store, in percent: it is there for what can be read.
const ASIDE_PERCENT_MAX: u64 = 5;

/// The blobs that were set aside, oldest first, with their sizes, which are reserved.
#[derive(Debug, Default)]
struct Aside(VecDeque<(Digest, u64)>);

/// The file that somebody looked at. What is wrong with it says nothing of one that has taken its place since.
#[derive(Clone, Debug, Default)]
pub struct LookedAt(pub(in crate::store) Option<Arc<DiskFile>>);

/// Sets blobs aside that cannot be read.
#[derive(Debug)]
pub struct Quarantine {
    contents: Arc<Contents>,
    aside: Mutex<Aside>,
    /// Blobs of a store that is permanent whose files are there, and wrong: nobody gets their bytes.
    rotten: Mutex<HashSet<Digest>>,
    has_rotten: AtomicBool,
}

/// Blobs that are known to be wrong: with more of them, nothing of the disk can be believed.
const ROTTEN_MAX: usize = 100_000;

impl Quarantine {
    pub(in crate::store) fn new(contents: &Arc<Contents>) -> Self {
        Self {
            contents: Arc::clone(contents),
            aside: Mutex::default(),
            rotten: Mutex::default(),
            has_rotten: AtomicBool::new(false),
        }
    }

    /// True if a blob's file is known not to be what its digest says.
    #[must_use]
    pub fn is_rotten(&self, digest: &Digest) -> bool {
        self.has_rotten.load(Ordering::Acquire) && self.rotten().contains(digest)
    }

    /// A blob's file is not what its digest says: nobody gets it until it is stored again.
    pub fn note_rotten(&self, digest: &Digest) {
        let mut rotten = self.rotten();
        if rotten.len() < ROTTEN_MAX {
            rotten.insert(*digest);
            self.has_rotten.store(true, Ordering::Release);
        }
    }

    /// A blob's file is another one.
    pub(in crate::store) fn note_sound(&self, digest: &Digest) {
        if self.has_rotten.load(Ordering::Acquire) {
            self.rotten().remove(digest);
        }
    }

    fn rotten(&self) -> MutexGuard<'_, HashSet<Digest>> {
        // Nothing in between can panic.
        self.rotten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stored blob turned out to be unreadable, or is not what it was: it is set aside, and fetched
    /// again by whoever asks next. Not if another file has taken the place of the one that was looked at.
    pub async fn damaged(self: &Arc<Self>, digest: &Digest, why: &str, looked_at: LookedAt) {
        let (this, digest, why) = (Arc::clone(self), *digest, why.to_owned());
        let contents = Arc::clone(&self.contents);
        let task = Task::of("set aside", &digest);
        let lost = self.contents.layout().work().run(Kind::Write, task, move || {
            let files = contents.files();
            // Another reader may have found out before, and the blob been fetched again since.
            let size = contents.ledger().order().size(&digest);
            // One that was read to its end has other content, and no other trouble.
            let is_wrong = looked_at.0.is_some();
            let (replaced, is_gone) = match (looked_at.0, size) {
                (Some(file), _) => (!contents.layout().blobs().is(&digest, &file), false),
                (None, Some(size)) => match contents.open_checked(&digest, size) {
                    Ok(_) => (true, false),
                    Err(error) => (false, error.kind() == io::ErrorKind::NotFound),
                },
                (None, None) => (true, false),
            };
            if replaced {
                return;
            }
            // One without a file is there again as soon as somebody pushes it, who must not hear that it is there.
            if contents.bounds.permanent && !is_gone {
                if is_wrong {
                    this.note_rotten(&digest);
                }
                tracing::error!(%digest, why, "a hosted blob is damaged, and nobody can be asked for it again; its file stays. Check the disk, and push the image again or restore a backup");
                return;
            }
            // Not in the condition: its lock would be held for the whole block.
            let forgotten = contents.ledger().stored_mut().forget(&digest);
            let Some(size) = forgotten else {
                return;
            };
            tracing::warn!(%digest, why, "a stored blob is damaged; it is set aside and will be fetched again. Check the disk");
            contents.note(&files, [&digest], [contents.layout().blobs().shard_path(&digest)]);
            contents.open_files().pop(&digest);
            contents.records.forget(&digest);
            contents.events.tell(Event::BlobDamaged { digest, size });
            this.set_aside(&digest);
            contents.report();
        });
        if let Err(error) = lost.await {
            tracing::error!(%error, "a damaged blob was not set aside");
        }
    }

    /// A stored blob could not be read, from `looked_at` if it could be opened: it is set aside if that is its
    /// own fault. A lack of descriptors or memory passes, and is no reason to lose it.
    pub(in crate::store) async fn unreadable(
        self: &Arc<Self>,
        digest: &Digest,
        error: &io::Error,
        looked_at: LookedAt,
    ) {
        if layout::means_damage(error) {
            self.damaged(digest, &error.to_string(), looked_at).await;
        } else if error.kind() == io::ErrorKind::TimedOut {
            // That the disk does not answer is told once.
            tracing::debug!(%digest, %error, "a stored blob cannot be read now");
        } else {
            tracing::warn!(%digest, %error, "a stored blob cannot be read now; it stays, and is tried again at the next request");
        }
    }

    /// Moves a blob's file out of the way, or deletes it. The ledger does not know it any more.
    pub(in crate::store) fn set_aside(&self, digest: &Digest) {
        if self.contents.bounds.permanent {
            return;
        }
        match self.contents.layout().blobs().set_aside(digest) {
            Ok(bytes) => self.keep_aside(*digest, bytes),
            Err(error) => {
                tracing::debug!(%digest, %error, "a damaged blob cannot be moved");
                self.contents.layout().blobs().give_up(digest);
            }
        }
    }

    /// Takes in what earlier runs have set aside.
    pub(in crate::store) fn load(&self) -> io::Result<()> {
        for (digest, bytes) in self.contents.layout().blobs().set_aside_before()? {
            let known = self.aside().0.iter().any(|(of, _)| *of == digest);
            if !known {
                self.keep_aside(digest, bytes);
            }
        }
        Ok(())
    }

    /// Bytes of all that were set aside.
    pub(in crate::store) fn bytes(&self) -> u64 {
        self.aside().0.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Deletes all that was set aside; says how many bytes came free. Blocks.
    pub(in crate::store) fn discard(&self) -> u64 {
        let aside = std::mem::take(&mut *self.aside());
        let mut freed = 0;
        for (digest, bytes) in aside.0 {
            self.contents.layout().blobs().remove_damaged(&digest);
            self.contents.ledger().release(bytes);
            freed += bytes;
        }
        freed
    }

    /// A file that is set aside counts, and goes when there are too many.
    fn keep_aside(&self, digest: Digest, bytes: u64) {
        let mut aside = self.aside();
        let mut gone = Vec::new();
        // One of the same name has just been written over.
        if let Some(at) = aside.0.iter().position(|(of, _)| *of == digest)
            && let Some((_, before)) = aside.0.remove(at)
        {
            self.contents.ledger().release(before);
        }
        if !self.reserve_aside(bytes) {
            return self.contents.layout().blobs().remove_damaged(&digest);
        }
        aside.0.push_back((digest, bytes));
        let most = self.aside_bytes_max();
        while aside.bytes() > most || aside.0.len() > ASIDE_FILES_MAX {
            gone.extend(aside.0.pop_front());
        }
        for (digest, bytes) in gone {
            self.contents.layout().blobs().remove_damaged(&digest);
            self.contents.ledger().release(bytes);
        }
    }

    /// True if there is room for it: never at the cost of a blob that can be read.
    fn reserve_aside(&self, bytes: u64) -> bool {
        let most = self.aside_bytes_max();
        let mut ledger = self.contents.ledger();
        let room = ledger.max().saturating_sub(ledger.bytes());
        bytes <= most.min(room) && ledger.admit(bytes).is_ok()
    }

    fn aside_bytes_max(&self) -> u64 {
        let part = self.contents.ledger().max() / 100 * ASIDE_PERCENT_MAX;
        part.min(ASIDE_BYTES_MAX)
    }

    fn aside(&self) -> MutexGuard<'_, Aside> {
        let aside = self.aside.lock();
        aside.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Aside {
    fn bytes(&self) -> u64 {
        self.0.iter().map(|(_, bytes)| bytes).sum()
    }
}

//! The destination of a fill's bytes: its file, and the verifier. Everything here blocks, and is done on
//! the blocking pool.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError,
};

use bytes::Bytes;

use crate::oci::{Digest, Hasher};
use crate::store::StoreError;
use crate::store::capacity::reservation::Room;
use crate::store::cas::Cas;
use crate::store::cas::coverage::Coverage;
use crate::store::cas::fill::READ_BYTES;
use crate::store::cas::fill_state::{Claim, Shared};
use crate::store::cas::record::{Recorder, Unrecorded};
use crate::store::disk::DiskFile;
use crate::store::disk::health;
use crate::store::disk::layout::FillRecord;

/// Bytes of the file that one write may read back for the verifier. Without a bound, the write that
/// closes a gap would hash all that other connections have written behind it, and its own
/// connection would stand still meanwhile. Four times what a write usually brings, so that the
/// verifier gains on several connections.
const CATCH_UP_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// In blocks of this size old bytes are compared with what is written over them.
const COMPARED_BYTES: usize = 4 * 1024;

/// The file of a fill, its room and its verifier.
#[derive(Debug)]
pub(in crate::store) struct Sink {
    // Dropped first: when the name is free for the next fill, the file is gone.
    pub(in crate::store) room: Room,
    pub(in crate::store) shared: Arc<Shared>,
    pub(in crate::store) file: Arc<DiskFile>,
    verifier: Mutex<Verifier>,
    /// Writes go on side by side; what changes the rules for them waits until they are done.
    writers: RwLock<()>,
    /// Changes when bytes that were asked to be written before are no longer wanted: whoever
    /// awaited a write may be gone, and the write still to come.
    turn: AtomicU64,
    pub(in crate::store) recorder: Recorder,
}

/// Hashes the contiguous prefix as it grows.
struct Verifier {
    hasher: Hasher,
    hashed: u64,
}

impl Sink {
    /// Makes room for `expected` bytes, if that is known, and opens the partial file.
    pub(in crate::store) fn prepare(
        cas: &Cas,
        shared: &Arc<Shared>,
        expected: Option<u64>,
    ) -> Result<Self, StoreError> {
        health::may_have(expected.unwrap_or(0))?;
        Self::open(Room::reserve(cas, shared.key, expected)?, shared)
    }

    /// Opens the partial file, and takes up what an earlier run recorded of it.
    pub(in crate::store) fn open(room: Room, shared: &Arc<Shared>) -> Result<Self, StoreError> {
        let (key, digest) = (shared.key, *shared.key.digest());
        let record = room.cas.contents().layout().parts().recorded(&key);
        let file = Arc::new(
            room.cas
                .contents()
                .layout()
                .parts()
                .open(&key, record.is_some())?,
        );
        drop(shared.file.set(Arc::clone(&file)));
        let sink = Self {
            room,
            shared: Arc::clone(shared),
            file,
            verifier: Mutex::new(Verifier::new(&digest)),
            writers: RwLock::default(),
            turn: AtomicU64::new(0),
            recorder: Recorder::default(),
        };
        let promised = record.map_or_else(Coverage::default, |record| record.coverage);
        let mut recorded = promised.clone();
        // What the file has lost cannot be taken up.
        recorded.remove(sink.file.length()?..u64::MAX);
        if let Err(error) = sink.hash_to(recorded.prefix()) {
            tracing::warn!(%digest, %error, "a partial download cannot be taken up; starting again");
            recorded = Coverage::default();
            sink.verifier().reset(&digest);
        }
        // The record stays as long as it is true: the next crash may come at once.
        if recorded != promised || recorded.bytes() == 0 {
            drop(sink.unrecord()?);
        }
        // What is not taken up may not stay behind the blob's end: it would never be hashed.
        sink.file.cut(recorded.end())?;
        let bytes = recorded.bytes();
        sink.room.holds(bytes);
        if bytes > 0 {
            sink.room.take(0)?;
            tracing::info!(%digest, bytes, "taking up a download that an earlier run left off");
            sink.shared.take_up(recorded);
            sink.shared.taken_up.store(true, Ordering::Relaxed);
        }
        Ok(sink)
    }

    /// Throws everything away.
    pub(in crate::store) fn restart(&self) -> io::Result<()> {
        let _alone = self.alone();
        let unrecorded = self.unrecord()?;
        self.shared.lose_all(&unrecorded);
        self.verifier().reset(self.shared.key.digest());
        self.file.cut(0)?;
        self.room.holds(0);
        Ok(())
    }

    /// The blob has `total` bytes: what is there of an earlier run behind them is not of this blob.
    pub(in crate::store) fn clip(&self, total: u64) -> io::Result<()> {
        let _alone = self.alone();
        if self.shared.clip(total) {
            let _unrecorded = self.unrecord()?;
            self.verifier().reset(self.shared.key.digest());
            self.file.cut(total)?;
            self.room.holds(self.shared.coverage().bytes());
        }
        Ok(())
    }

    /// Only `keep` counts as there from now on.
    pub(in crate::store) fn doubt(&self, keep: &Coverage) -> io::Result<()> {
        let _alone = self.alone();
        let unrecorded = self.unrecord()?;
        if !self.shared.doubt(keep, &unrecorded) {
            return Err(io::Error::other("its bytes were doubted too often"));
        }
        self.verifier().reset(self.shared.key.digest());
        Ok(())
    }

    /// Records how far the fill has come; `total` if it is known. A disk that does not take it has an
    /// older record, or none.
    pub(in crate::store) fn record(&self, total: Option<u64>) {
        self.recorder.record(|| {
            let coverage = self.shared.coverage();
            let record = FillRecord { total, coverage };
            let key = self.room.key;
            let layout = self.room.cas.contents().layout();
            if let Err(error) = layout.parts().record(&key, &self.file, &record) {
                tracing::debug!(digest = %key.digest(), %error, "how far a download has come is not recorded");
            }
        });
    }

    /// Removes the record, whose promise is about to be untrue; no other comes as long as the
    /// caller keeps what is returned.
    fn unrecord(&self) -> io::Result<Unrecorded<'_>> {
        let layout = self.room.cas.contents().layout();
        let forget = || layout.parts().forget_record(&self.room.key);
        self.recorder.unrecord(forget)
    }

    /// Leaves the fill off, if there is anything to go on from: the file stays, with a record.
    pub(in crate::store) fn leave_off(&self, total: Option<u64>) -> io::Result<()> {
        let _alone = self.alone();
        self.recorder.close();
        let coverage = self.shared.coverage();
        let length = coverage.end();
        if length == 0 {
            return Ok(());
        }
        self.file.cut(length)?;
        let (cas, key) = (&self.room.cas, self.room.key);
        let record = FillRecord { total, coverage };
        cas.contents()
            .layout()
            .parts()
            .record(&key, &self.file, &record)?;
        self.room.keep();
        let bytes = record.coverage.bytes();
        cas.capacity().suspend(key, self.room.hand_over(), bytes);
        Ok(())
    }

    /// Names what is wanted now, for a [`Sink::write`] to come.
    pub(in crate::store) fn turn(&self) -> u64 {
        self.turn.load(Ordering::Acquire)
    }

    /// Writes what nobody else has written or is writing, tells the readers by `wake`, and hashes
    /// what it can; says what was written. Nothing, if the turn has changed.
    pub(in crate::store) fn write(
        &self,
        turn: u64,
        offset: u64,
        chunks: &[Bytes],
        wake: impl FnOnce(),
    ) -> Result<Vec<Range<u64>>, StoreError> {
        let _among_others = self.among_others();
        if turn != self.turn() {
            return Ok(Vec::new());
        }
        let claim = self.shared.claim(offset, chunks);
        let bytes: u64 = claim
            .pieces
            .iter()
            .map(|(_, bytes)| bytes.len() as u64)
            .sum();
        let new = bytes.saturating_sub(claim.old.bytes());
        let put = self.room.take(new).and_then(|()| {
            let put = self.put(&claim).inspect_err(|_| self.room.untake(new));
            Ok(put?)
        });
        if let Err(error) = put {
            self.shared.give_up(&claim);
            return Err(error);
        }
        self.shared.written(&claim);
        self.room.wrote(new);
        self.recorder.wrote(bytes);
        wake();
        // After the readers were woken: hashing is not in their way.
        self.hash(&claim.pieces)?;
        let range = |(at, bytes): &(u64, Bytes)| *at..*at + bytes.len() as u64;
        Ok(claim.pieces.iter().map(range).collect())
    }

    fn put(&self, claim: &Claim) -> io::Result<()> {
        let differing = self.differing(claim)?;
        // Before the file loses what it had: if the rest fails, nobody can compare any more.
        self.shared.alter(&differing);
        for (at, bytes) in &claim.pieces {
            self.file.write_at(bytes, *at)?;
        }
        Ok(())
    }

    /// Ranges in which the claim's bytes are others than the old ones.
    fn differing(&self, claim: &Claim) -> io::Result<Coverage> {
        let mut differing = Coverage::default();
        for (at, bytes) in &claim.pieces {
            for range in claim.old.within(*at..*at + bytes.len() as u64) {
                let from = usize::try_from(range.start - at).unwrap_or(usize::MAX);
                let to = usize::try_from(range.end - at).unwrap_or(usize::MAX);
                let new = bytes.get(from..to).unwrap_or_default();
                self.compare(range.start, new, &mut differing)?;
            }
        }
        Ok(differing)
    }

    fn compare(&self, offset: u64, new: &[u8], differing: &mut Coverage) -> io::Result<()> {
        let (mut at, mut left) = (offset, new);
        while !left.is_empty() {
            let old = self.file.read_at(at, left.len().min(READ_BYTES))?;
            let (here, rest) = left.split_at(old.len().min(left.len()));
            for (new, old) in here.chunks(COMPARED_BYTES).zip(old.chunks(COMPARED_BYTES)) {
                let end = at + new.len() as u64;
                if new != old {
                    differing.insert(at..end);
                }
                at = end;
            }
            left = rest;
        }
        Ok(())
    }

    /// Takes in what was just written where it continues the hashed prefix, and some of what others
    /// wrote. When another write is at it, that one goes on: nobody waits for the verifier.
    fn hash(&self, pieces: &[(u64, Bytes)]) -> io::Result<()> {
        let mut verifier = match self.verifier.try_lock() {
            Ok(verifier) => verifier,
            Err(TryLockError::Poisoned(error)) => error.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(()),
        };
        for (at, bytes) in pieces {
            if *at == verifier.hashed {
                verifier.update(bytes);
            }
        }
        let limit = verifier.hashed.saturating_add(CATCH_UP_BYTES_MAX);
        loop {
            // The prefix grows while others write.
            let end = self.shared.prefix().min(limit);
            if verifier.hashed >= end {
                return Ok(());
            }
            self.read_back(&mut verifier, end)?;
        }
    }

    /// The digest of the first `end` bytes.
    pub(in crate::store) fn hash_to(&self, end: u64) -> io::Result<Digest> {
        let mut verifier = self.verifier();
        while verifier.hashed < end {
            self.read_back(&mut verifier, end)?;
        }
        Ok(verifier.hasher.clone().finish())
    }

    /// Takes in some of what is there before `end`.
    fn read_back(&self, verifier: &mut Verifier, end: u64) -> io::Result<()> {
        let Range { start, end } = verifier.hashed..end;
        let limit = usize::try_from(end - start)
            .unwrap_or(READ_BYTES)
            .min(READ_BYTES);
        let bytes = self.file.read_at(start, limit)?;
        verifier.update(&bytes);
        Ok(())
    }

    /// Number of bytes that the verifier has hashed.
    #[cfg(test)]
    pub(in crate::store) fn hashed(&self) -> u64 {
        self.verifier().hashed
    }

    fn verifier(&self) -> MutexGuard<'_, Verifier> {
        // A panic in hashing would leave a wrong state, which can only fail the digest check.
        self.verifier.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the writes that are under way; those to come that were asked for before are dropped.
    fn alone(&self) -> RwLockWriteGuard<'_, ()> {
        let alone = self.writers.write().unwrap_or_else(PoisonError::into_inner);
        self.turn.fetch_add(1, Ordering::AcqRel);
        alone
    }

    fn among_others(&self) -> RwLockReadGuard<'_, ()> {
        self.writers.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // Readers may go on for hours; from here on they use the file.
        self.shared.forget_recent();
    }
}

impl Verifier {
    fn new(digest: &Digest) -> Self {
        Self {
            hasher: Hasher::new(digest.algorithm()),
            hashed: 0,
        }
    }

    fn reset(&mut self, digest: &Digest) {
        *self = Self::new(digest);
    }

    fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.hashed += bytes.len() as u64;
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier")
            .field("hashed", &self.hashed)
            .finish_non_exhaustive()
    }
}

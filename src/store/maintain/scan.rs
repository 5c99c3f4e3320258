//! One look through all files after each start, beside everything else: files that the index does not
//! know are taken in, entries without a file are dropped. No file is opened.
//!
//! With an index in good order that finds nothing. When the index was lost it finds everything, and
//! until it is through, a blob that is asked for is looked for by its path first: nothing is fetched
//! again that is there.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::oci::Digest;
use crate::store::contents::Contents;
use crate::store::disk::layout::Shard;
use crate::store::disk::work::{Kind, Task};
use crate::store::metadata::schema::BlobRecord;

/// So many names, or entries, are compared under one lock: requests come in between.
const STEP: usize = 512;

/// The index is written when so many blobs have been taken in, so that they do not pile up before it.
const ADOPTED_WRITE_EACH: usize = 20_000;

/// After each step that took some time the look rests as long: it takes half of one core and of the
/// disk at most.
const REST_MIN: Duration = Duration::from_millis(1);

/// When a disk could not tell of all files, they are looked through again after this.
const AGAIN_AFTER: Duration = Duration::from_mins(10);

/// The look through all files.
#[derive(Debug)]
pub struct Scan {
    contents: Arc<Contents>,
    done: AtomicBool,
    pass: Mutex<Pass>,
}

/// The progress of a scan.
#[derive(Debug, Default)]
struct Pass {
    shards: Vec<Shard>,
    /// Of which not all could be looked at: they are looked through again.
    failed: Vec<Shard>,
    /// The blobs whose files were seen, by the numbers of their places.
    seen: Vec<u64>,
    /// Place at which it goes on with the entries, when it is through with the files.
    next_entry: usize,
    adopted: usize,
    missing: usize,
}

impl Scan {
    pub(in crate::store) fn new(contents: &Arc<Contents>) -> Self {
        Self {
            contents: Arc::clone(contents),
            done: AtomicBool::new(false),
            pass: Mutex::default(),
        }
    }

    /// These directories are to be looked through.
    pub(in crate::store) fn begin(&self, shards: Vec<Shard>) {
        self.pass().shards = shards;
    }

    fn pass(&self) -> MutexGuard<'_, Pass> {
        // What a panic leaves out is found by the next start.
        self.pass.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if all files have been looked through.
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }
}

impl Pass {
    fn see(&mut self, number: usize) {
        let (word, bit) = (number / 64, number % 64);
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        if let Some(bits) = self.seen.get_mut(word) {
            *bits |= 1 << bit;
        }
    }

    fn has_seen(&self, number: usize) -> bool {
        let bits = self.seen.get(number / 64).copied().unwrap_or_default();
        bits >> (number % 64) & 1 != 0
    }
}

impl Scan {
    /// The size of a blob, if it is stored: also of one that a lost index does not know yet.
    pub async fn find(self: &Arc<Self>, digest: &Digest) -> Option<u64> {
        let known = self.contents.contains(digest);
        if known.is_some() || self.done.load(Ordering::Acquire) {
            return known;
        }
        let (scan, wanted) = (Arc::clone(self), *digest);
        let task = Task::of("look for", digest);
        let looked = self
            .contents
            .layout()
            .work()
            .run(Kind::Read, task, move || scan.adopt(&wanted));
        if let Err(error) = looked.await.flatten() {
            tracing::warn!(%digest, %error, "cannot look for a stored blob");
        }
        self.contents.contains(digest)
    }

    /// Looks through the files until all of them have been looked at, or `stop`.
    pub(in crate::store) async fn run(self: &Arc<Self>, stop: &CancellationToken) {
        self.scan_once(stop).await;
        while !self.is_done() && !stop.is_cancelled() {
            drop(tokio::time::timeout(AGAIN_AFTER, stop.cancelled()).await);
            self.scan_once(stop).await;
        }
    }

    /// Looks through them once, resting in between.
    async fn scan_once(self: &Arc<Self>, stop: &CancellationToken) {
        let mut more = true;
        while more && !stop.is_cancelled() {
            let began = Instant::now();
            let scan = Arc::clone(self);
            let task = Task::new("look through the files");
            let stepped = self
                .contents
                .layout()
                .work()
                .run(Kind::Keep, task, move || scan.scan_step());
            more = stepped.await.unwrap_or_else(|error| {
                tracing::error!(%error, "the files were not looked through");
                false
            });
            // Who knows little of what there is wants to know it soon.
            if *self.contents.hidden() == 0 {
                let rest = began.elapsed().max(REST_MIN);
                drop(tokio::time::timeout(rest, stop.cancelled()).await);
            }
        }
    }

    /// Looks through the files until it is through or `end` has come. Blocks.
    pub(in crate::store) fn until(&self, end: Instant) {
        while Instant::now() < end && self.scan_step() {}
    }

    /// Looks through all files now: for who opens a store without running it. Blocks.
    pub fn all(&self) {
        while self.scan_step() {}
    }

    /// Files that are not known may take all the room there is, until it is known what they take.
    pub(in crate::store) fn assume_full(&self) {
        let free = {
            let ledger = self.contents.ledger();
            ledger.max().saturating_sub(ledger.bytes())
        };
        let most = free.min(self.contents.bounds.taken_on_disk());
        if self.contents.ledger().admit(most).is_ok() {
            *self.contents.hidden() = most;
        }
    }

    /// Does some of it; whether there is more. Blocks.
    fn scan_step(&self) -> bool {
        let mut pass = self.pass();
        // Asked under the lock: another may just have come to the end.
        if self.is_done() {
            return false;
        }
        if let Some(shard) = pass.shards.pop() {
            if let Err(error) = self.scan_shard(&shard, &mut pass) {
                tracing::warn!(?shard, %error, "cannot look at all files in a directory of stored blobs; it is tried again. Check the disk");
                pass.failed.push(shard);
            }
            return true;
        }
        if self.scan_entries(&mut pass) {
            return true;
        }
        self.end_scan(&mut pass);
        false
    }

    /// Goes on where it can; the first error, if there was one.
    fn scan_shard(&self, shard: &Shard, pass: &mut Pass) -> io::Result<()> {
        let mut digests = shard.digests()?;
        let mut failed = Ok(());
        loop {
            let step = digests.by_ref().take(STEP);
            let named = step.collect::<io::Result<Vec<Digest>>>()?;
            if named.is_empty() {
                return failed;
            }
            let mut unknown = Vec::new();
            {
                let ledger = self.contents.ledger();
                for digest in named {
                    match ledger.order().place(&digest) {
                        Some(place) => pass.see(place.number()),
                        None => unknown.push(digest),
                    }
                }
            }
            for digest in unknown {
                match self.adopt(&digest) {
                    Ok(adopted) => pass.adopted += usize::from(adopted),
                    Err(error) => failed = failed.and(Err(error)),
                }
                if let Some(place) = self.contents.ledger().order().place(&digest) {
                    pass.see(place.number());
                }
                if pass.adopted % ADOPTED_WRITE_EACH == ADOPTED_WRITE_EACH - 1 {
                    self.contents.records.flush();
                }
            }
        }
    }

    /// Some of the entries that no file was seen for; whether there are more.
    fn scan_entries(&self, pass: &mut Pass) -> bool {
        let Some(entries) = self.contents.ledger().order().step(pass.next_entry, STEP) else {
            return false;
        };
        pass.next_entry += STEP;
        for (place, digest) in entries {
            if pass.has_seen(place.number()) {
                continue;
            }
            // It may have come since.
            let _files = self.contents.files();
            match self.contents.layout().blobs().find(&digest) {
                Ok(None) => {
                    if self
                        .contents
                        .ledger()
                        .stored_mut()
                        .forget(&digest)
                        .is_some()
                    {
                        self.contents.open_files().pop(&digest);
                        self.contents.records.forget(&digest);
                        tracing::debug!(%digest, "the file of a stored blob is missing; it is fetched again when it is wanted");
                        pass.missing += 1;
                    }
                }
                Ok(Some(_)) => {}
                Err(error) => tracing::warn!(%digest, %error, "cannot look for a stored blob"),
            }
        }
        true
    }

    fn end_scan(&self, pass: &mut Pass) {
        if pass.adopted > 0 {
            self.contents.ledger().order_mut().arrange();
        }
        let hidden = std::mem::take(&mut *self.contents.hidden());
        self.contents.ledger().release(hidden);
        if pass.failed.is_empty() {
            self.contents.records.note_incomplete(false);
            self.done.store(true, Ordering::Release);
        }
        self.contents.report();
        let Pass {
            adopted, missing, ..
        } = *pass;
        *pass = Pass {
            shards: std::mem::take(&mut pass.failed),
            ..Pass::default()
        };
        if adopted + missing > 0 {
            tracing::warn!(
                adopted,
                missing,
                "the files have been looked through, and the index did not agree with them; it does now"
            );
        } else {
            tracing::info!("the files have been looked through");
        }
    }

    /// Takes in the file of a blob that is not known, if there is one; whether it did. Blocks.
    fn adopt(&self, digest: &Digest) -> io::Result<bool> {
        let _files = self.contents.files();
        // It may have come since, and may go before this returns.
        if self.contents.contains(digest).is_some() {
            return Ok(false);
        }
        let Some(found) = self.contents.layout().blobs().find(digest)? else {
            return Ok(false);
        };
        let record = BlobRecord {
            size: found.size,
            used: found.modified,
            uses: 1,
            owner: 0,
        };
        {
            let mut hidden = self.contents.hidden();
            let known = found.size.min(*hidden);
            *hidden -= known;
            let mut ledger = self.contents.ledger();
            ledger.release(known);
            ledger
                .stored_mut()
                .load(*digest, record.size, record.used, record.uses);
        }
        self.contents.records.note(digest, record);
        self.contents.report();
        Ok(true)
    }
}

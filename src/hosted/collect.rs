//! The garbage collector, and the expiry of uploads: a little at a time, beside everything else.

use std::collections::HashSet;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::events::EVENTS_MAX;
use super::{Hosted, HostedError};
use crate::catalogue::Hold;
use crate::catalogue::hosted::{ACTIVE_MAX, Act, Deleted, Done, Reviewed};
use crate::oci::Digest;

/// Time between two looks at what is due, at most and at least: a quarter of the grace.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY_MIN: Duration = Duration::from_millis(200);

/// Reviews in a row, before somebody else has a turn.
const ROUNDS_MAX: usize = 1_000;

/// Files without a row that are remembered: 40 bytes each. More are found by `verify`.
const STRAYS_MAX: usize = 10_000;

/// The right to remove files, until it is dropped.
#[derive(Debug)]
pub(super) struct MayRemove<'a> {
    // Declared first: the next one can have it when this is given up.
    _hold: Hold,
    _alone: tokio::sync::MutexGuard<'a, ()>,
}

/// Content that has gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Manifests that could be restored.
    pub manifests: u64,
    /// Blobs.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Hosted {
    /// Collects garbage, until `stop`.
    pub(super) async fn collect(&self, stop: &CancellationToken) {
        self.tell(self.drop_doomed().await.err());
        loop {
            let pause = self.config().gc_grace / 4;
            let pause = pause.clamp(LOOK_EVERY_MIN, LOOK_EVERY_MAX);
            if tokio::time::timeout(pause, stop.cancelled()).await.is_ok() {
                return;
            }
            if self.inner.store.trouble().is_some() || self.inner.catalogue.trouble().is_some() {
                continue;
            }
            if !self.inner.names.are_known() {
                self.open_names().await;
            }
            self.expire().await;
            self.count().await;
            let _alone = self.inner.collecting.lock().await;
            let collected = self.collect_due(stop).await;
            // Those that somebody read, or that a backup held.
            let dropped = self.drop_doomed().await;
            let trimmed = self.trim_events(EVENTS_MAX).await;
            let expired = self.expire_tags(stop).await;
            let failed = collected.and(dropped).and(trimmed).and(expired);
            self.tell(failed.err());
        }
    }

    /// Looks at all that is due.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn collect_due(&self, stop: &CancellationToken) -> Result<Collected, HostedError> {
        let mut collected = Collected::default();
        for _ in 0..ROUNDS_MAX {
            if stop.is_cancelled() {
                break;
            }
            let reviewed = self.review().await?;
            if reviewed.due == 0 {
                break;
            }
            for digest in &reviewed.ready {
                if let Some(bytes) = self.drop_blob(digest).await? {
                    collected.blobs += 1;
                    collected.bytes += bytes;
                }
            }
            tokio::task::yield_now().await;
        }
        Ok(collected)
    }

    /// Deleted content that could go now.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn garbage(&self) -> Result<Deleted, HostedError> {
        let now = self.inner.clock.now();
        let lease_ms = ms(self.config().upload_expiry);
        Ok(self.inner.catalogue.hosted_garbage(now, lease_ms).await?)
    }

    /// Lets go of deleted content, which could be restored otherwise, as far as nobody may count on it.
    ///
    /// # Errors
    /// [`HostedError`]: a backup is being made, for example.
    pub async fn let_go(&self, by: &str) -> Result<Collected, HostedError> {
        // Before anything is forgotten.
        drop(self.may_remove().await?);
        let _alone = self.inner.collecting.lock().await;
        let lease_ms = ms(self.config().upload_expiry);
        let mut manifests = 0;
        while let Done::LetGo(repositories) = self.act(Act::LetGo { lease_ms }, by).await? {
            for repository in &repositories {
                self.inner.caches.deleted(repository);
            }
            manifests += repositories.len() as u64;
        }
        let stop = CancellationToken::new();
        let before = self.collect_due(&stop).await?;
        self.act(Act::LetGoCondemned, by).await?;
        let after = self.collect_due(&stop).await?;
        Ok(Collected {
            manifests,
            blobs: before.blobs + after.blobs,
            bytes: before.bytes + after.bytes,
        })
    }

    async fn review(&self) -> Result<Reviewed, HostedError> {
        let config = self.config();
        let active: HashSet<String> = self
            .inner
            .sessions
            .repositories()
            .take(ACTIVE_MAX)
            .collect();
        let act = Act::Review {
            grace_ms: ms(config.gc_grace),
            lease_ms: ms(config.upload_expiry),
            active,
        };
        let done = self.act(act, "gc").await?;
        let Done::Reviewed(reviewed) = done else {
            return Ok(Reviewed::default());
        };
        for repository in &reviewed.changed {
            self.inner.caches.deleted(repository);
        }
        if reviewed.renamed {
            // One of the configuration may have waited for the name.
            self.open_names().await;
        }
        Ok(reviewed)
    }

    /// The right to remove files of blobs, unless a backup is being made; held from before a row goes until its file has
    /// gone (the proof is in `backup`).
    pub(super) async fn may_remove(&self) -> Result<MayRemove<'_>, HostedError> {
        let alone = self.inner.removing.lock().await;
        let dir = self.inner.catalogue.dir().to_owned();
        let taken = tokio::task::spawn_blocking(move || Hold::to_remove(&dir)).await;
        let taken = taken.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        match taken {
            Ok(hold) => Ok(MayRemove {
                _hold: hold,
                _alone: alone,
            }),
            Err(error) => Err(HostedError::Held(error.to_string())),
        }
    }

    /// Removes the file of a blob that has no row, now or as soon as it can be. The digest's lock is held.
    pub(super) async fn drop_stray(&self, digest: &Digest) {
        use crate::store::Removal;
        let is_gone = match self.may_remove().await {
            Ok(_may) => match self.inner.catalogue.hosts(digest).await {
                Ok(true) => true,
                Ok(false) => match self.inner.store.contents().remove(digest).await {
                    Removal::Removed(_) | Removal::Absent => true,
                    Removal::Open | Removal::Pinned => false,
                },
                Err(_) => false,
            },
            Err(_) => false,
        };
        if is_gone {
            return;
        }
        let mut strays = self.strays();
        if strays.len() < STRAYS_MAX {
            strays.push(*digest);
        } else {
            tracing::info!(%digest, "the file of a blob that was refused stays; `roadstead verify --repair` removes it");
        }
    }

    fn strays(&self) -> MutexGuard<'_, Vec<Digest>> {
        // Nothing in between can panic.
        let strays = self.inner.strays.lock();
        strays.unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a blob without a use, then deletes its file. Nobody publishes it meanwhile.
    async fn drop_blob(&self, digest: &Digest) -> Result<Option<u64>, HostedError> {
        let _locked = self.lock(digest).await;
        let _may = self.may_remove().await?;
        if self.act(Act::DropBlob(*digest), "gc").await? == Done::Changed {
            tracing::info!(%digest, "a hosted blob that nothing refers to is deleted");
            return self.drop_file(digest).await.map(Some);
        }
        Ok(None)
    }

    /// Deletes the file of a blob that was forgotten; bytes that came free. The digest's lock is held, and the right to
    /// remove.
    async fn drop_file(&self, digest: &Digest) -> Result<u64, HostedError> {
        use crate::store::Removal;
        // An index that was lost may not know it yet.
        self.inner.store.scan().find(digest).await;
        let bytes = match self.inner.store.contents().remove(digest).await {
            Removal::Removed(bytes) => bytes,
            Removal::Absent => 0,
            // Somebody reads it: the next time.
            Removal::Open | Removal::Pinned => return Ok(0),
        };
        self.act(Act::Dropped(*digest), "gc").await?;
        Ok(bytes)
    }

    /// Deletes the files of blobs that were forgotten before.
    async fn drop_doomed(&self) -> Result<(), HostedError> {
        for digest in self.inner.catalogue.hosted_doomed().await? {
            let _locked = self.lock(&digest).await;
            let _may = self.may_remove().await?;
            if !self.inner.catalogue.hosts(&digest).await? {
                self.drop_file(&digest).await?;
            }
        }
        let strays = std::mem::take(&mut *self.strays());
        for digest in strays {
            let _locked = self.lock(&digest).await;
            self.drop_stray(&digest).await;
        }
        Ok(())
    }

    /// Ends uploads to which nothing has come for too long.
    async fn expire(&self) {
        let expiry = self.config().upload_expiry;
        let then = self.inner.clock.now().before(expiry);
        for session in self.inner.sessions.idle_since(then) {
            // Whoever writes now is not idle.
            let Ok(_alone) = session.writer.clone().try_lock_owned() else {
                continue;
            };
            tracing::info!(upload = session.id, repository = %session.repository, bytes = session.length(), "an upload has expired");
            self.forget(&session).await;
        }
    }

    /// Counts what is here.
    async fn count(&self) {
        let metrics = self.inner.metrics.hosted();
        let (_blobs, bytes) = self.inner.store.contents().totals();
        metrics.holds(self.inner.sessions.len(), bytes);
        if let Ok(length) = self.inner.catalogue.hosted_queue().await {
            metrics.queue(length);
        }
    }

    /// Says once what is wrong.
    fn tell(&self, error: Option<HostedError>) {
        let error = error.map(|error| error.to_string());
        let told = self.inner.told.lock();
        let mut told = told.unwrap_or_else(PoisonError::into_inner);
        if *told != error {
            if let Some(error) = &error {
                tracing::warn!(
                    error,
                    "garbage of hosted repositories is not collected; it is tried again"
                );
            }
            *told = error;
        }
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

//! The garbage collector, and the expiry of uploads: a little at a time, beside everything else.

use std::collections::HashSet;
use std::sync::PoisonError;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::events::EVENTS_MAX;
use super::{Hosted, HostedError};
use crate::catalogue::hosted::{ACTIVE_MAX, Act, Done, Reviewed};
use crate::oci::Digest;

/// Time between two looks at what is due, at most and at least: a quarter of the grace.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY_MIN: Duration = Duration::from_millis(200);

/// Reviews in a row, before somebody else has a turn.
const ROUNDS_MAX: usize = 1_000;

impl Hosted {
    /// Collects garbage, until `stop`.
    pub(super) async fn collect(&self, stop: &CancellationToken) {
        self.drop_doomed().await;
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
            let collected = self.collect_due(stop).await;
            let trimmed = self.trim_events(EVENTS_MAX).await;
            let expired = self.expire_tags(stop).await;
            let failed = collected.and(trimmed).and(expired);
            self.tell(failed.err());
        }
    }

    /// Looks at all that is due.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn collect_due(&self, stop: &CancellationToken) -> Result<(), HostedError> {
        for _ in 0..ROUNDS_MAX {
            if stop.is_cancelled() {
                return Ok(());
            }
            let reviewed = self.review().await?;
            if reviewed.due == 0 {
                return Ok(());
            }
            for digest in &reviewed.ready {
                self.drop_blob(digest).await?;
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn review(&self) -> Result<Reviewed, HostedError> {
        let config = self.config();
        let ms = |it: Duration| u64::try_from(it.as_millis()).unwrap_or(u64::MAX);
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

    /// Forgets a blob without a use, then deletes its file. Nobody publishes it meanwhile.
    async fn drop_blob(&self, digest: &Digest) -> Result<(), HostedError> {
        let _locked = self.lock(digest).await;
        if self.act(Act::DropBlob(*digest), "gc").await? == Done::Changed {
            tracing::info!(%digest, "a hosted blob that nothing refers to is deleted");
            self.drop_file(digest).await?;
        }
        Ok(())
    }

    /// Deletes the file of a blob that was forgotten. The digest's lock is held.
    async fn drop_file(&self, digest: &Digest) -> Result<(), HostedError> {
        use crate::store::Removal;
        // An index that was lost may not know it yet.
        self.inner.store.scan().find(digest).await;
        match self.inner.store.contents().remove(digest).await {
            Removal::Removed(_) | Removal::Absent => {
                self.act(Act::Dropped(*digest), "gc").await.map(drop)
            }
            // Somebody reads it: after the next start.
            Removal::Open | Removal::Pinned => Ok(()),
        }
    }

    /// Deletes the files of blobs that were forgotten before.
    async fn drop_doomed(&self) {
        let Ok(doomed) = self.inner.catalogue.hosted_doomed().await else {
            return;
        };
        for digest in doomed {
            let _locked = self.lock(&digest).await;
            let is_hosted = self.inner.catalogue.hosts(&digest).await;
            if matches!(is_hosted, Ok(false))
                && let Err(error) = self.drop_file(&digest).await
            {
                self.tell(Some(error));
                return;
            }
        }
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

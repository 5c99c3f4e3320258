//! Tags that go by a rule (`hosted.expire`). The first rule that a tag matches decides about it alone. What goes is
//! decided by one function, for a run and for its preview; then it is made sure, in the transaction, that nothing was pushed or
//! deleted meanwhile that would have changed it.
//!
//! A run takes a bounded number of tags. A clock that goes wrong makes everything look old at once: after a leap forward the
//! rules wait for a day, so that there is time to see it; after one back they wait until the time of a run comes again. The
//! order of pushes does not come from a clock.

mod pace;
mod rules;

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::{Hosted, HostedError};
use crate::catalogue::hosted::{Act, Done, EXPIRED_MAX, Expiry, Found, Refused, TagPush};
use crate::clock::Timestamp;
use crate::oci::{Digest, Repository};
use pace::Pace;
use rules::Going;

/// Tags that one run takes at most: what is left goes with the runs after it, so that a wrong rule or clock is seen before all
/// is gone.
pub const RUN_TAGS_MAX: usize = 2_000;

/// Repositories on a page.
const PAGE_MAX: usize = 1_000;

/// Whoever acts, in the history of tags.
const BY: &str = "expire";

/// How far the rules have come.
#[derive(Debug, Default)]
pub(super) struct Paces(Mutex<Pace>);

/// A tag that goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The repository.
    pub repository: Repository,
    /// The tag.
    pub tag: String,
    /// The manifest that it names.
    pub digest: Digest,
    /// When it was pushed last.
    pub pushed: Timestamp,
    /// The rule.
    pub rule: String,
}

/// The next run, if nothing is pushed or deleted until then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// When it is due.
    pub at: Timestamp,
    /// Since the clock has leapt, no run is before this.
    pub held_until: Option<Timestamp>,
    /// Tags that it takes.
    pub tags: Vec<Planned>,
    /// There are more, for the runs after it.
    pub more: bool,
}

impl Hosted {
    /// Learns how far an earlier process has come.
    pub(super) async fn open_pace(&self) {
        let now = self.inner.clock.now();
        let noted = self.inner.catalogue.hosted_pace().await.ok().flatten();
        *self.pace() = Pace::opened(noted.as_deref(), now);
    }

    /// The rules have changed: there is time for a look at what they would do.
    pub(super) fn expire_later(&self) {
        let now = self.inner.clock.now();
        self.pace().wait_again(now);
    }

    /// Lets tags go, if that is due.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn expire_tags(&self, stop: &CancellationToken) -> Result<(), HostedError> {
        if self.config().expire.is_empty() {
            let now = self.inner.clock.now();
            self.pace().look(now);
            return Ok(());
        }
        let now = self.inner.clock.now();
        let (due, noted) = {
            let mut pace = self.pace();
            (pace.look(now), pace.noted())
        };
        if due.leapt {
            tracing::error!(
                now = now.0,
                "the clock is more than a day ahead of where it was: no tag expires for a day (hosted.expire); see that the time is right"
            );
        }
        if due.leapt || due.runs {
            self.act(Act::NotePace(noted), BY).await?;
        }
        if due.runs {
            self.expire_run(stop).await?;
        }
        Ok(())
    }

    /// Lets tags go now, as many as one run takes; their number.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn expire_run(&self, stop: &CancellationToken) -> Result<usize, HostedError> {
        let at = self.inner.clock.now();
        let mut taken = 0;
        let mut after = None;
        while let Some(repositories) = self.expiring(after.as_ref()).await? {
            for repository in &repositories {
                if stop.is_cancelled() || taken >= RUN_TAGS_MAX {
                    return Ok(taken);
                }
                if self.config().may_expire_in(repository) {
                    let room = RUN_TAGS_MAX.saturating_sub(taken);
                    taken += self.expire_in(repository, at, room).await?;
                }
            }
            after = repositories.last().cloned();
        }
        if taken > 0 {
            tracing::info!(tags = taken, "tags have expired (hosted.expire)");
        }
        Ok(taken)
    }

    /// The tags that the next run takes.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn expire_preview(&self) -> Result<Preview, HostedError> {
        let now = self.inner.clock.now();
        let (at, held_until) = {
            let pace = self.pace();
            (pace.next(now), pace.held_until(now))
        };
        let mut preview = Preview {
            at,
            held_until,
            tags: Vec::new(),
            more: false,
        };
        let mut after = None;
        while let Some(repositories) = self.expiring(after.as_ref()).await? {
            for repository in &repositories {
                let room = RUN_TAGS_MAX.saturating_sub(preview.tags.len());
                if room == 0 {
                    preview.more = true;
                    return Ok(preview);
                }
                let config = self.config();
                if !config.may_expire_in(repository) {
                    continue;
                }
                let (_, going) = self.going(repository, at, room).await?;
                preview.more |= going.more;
                let planned = going.tags.into_iter().map(|(rule, push)| Planned {
                    repository: repository.clone(),
                    tag: push.name,
                    digest: push.digest,
                    pushed: push.pushed,
                    rule: config.expire_rule(rule),
                });
                preview.tags.extend(planned);
            }
            after = repositories.last().cloned();
        }
        Ok(preview)
    }

    /// Repositories behind one; `None` behind the last, or where there are no rules.
    async fn expiring(
        &self,
        after: Option<&Repository>,
    ) -> Result<Option<Vec<Repository>>, HostedError> {
        if self.config().expire.is_empty() {
            return Ok(None);
        }
        let after = after.map(Repository::as_str);
        let page = self.inner.catalogue.hosted_repositories(after, PAGE_MAX);
        let page = page.await?;
        Ok((!page.is_empty()).then_some(page))
    }

    /// The tags of a repository that go, the oldest first, and the entry of the history of tags before.
    async fn going(
        &self,
        repository: &Repository,
        at: Timestamp,
        room: usize,
    ) -> Result<(i64, Going), HostedError> {
        let (config, of) = (self.config(), repository.clone());
        let decide =
            move |pushes: &mut dyn Iterator<Item = TagPush>| config.going(&of, pushes, at, room);
        let found = self
            .inner
            .catalogue
            .hosted_pushes(repository, decide)
            .await?;
        Ok(match found {
            Found::This(going) => going,
            // Deleted meanwhile.
            Found::NoRepository | Found::Deleted(_) | Found::Nothing => (0, Going::default()),
        })
    }

    /// Lets tags of a repository go.
    async fn expire_in(
        &self,
        repository: &Repository,
        at: Timestamp,
        room: usize,
    ) -> Result<usize, HostedError> {
        let (seen, mut going) = self.going(repository, at, room).await?;
        let config = self.config();
        let mut taken: i64 = 0;
        going.tags.sort_by_key(|(rule, _)| *rule);
        for same in going.tags.chunk_by(|one, other| one.0 == other.0) {
            for some in same.chunks(EXPIRED_MAX) {
                let rule = some.first().map_or(0, |(rule, _)| *rule);
                let tags = some.iter().map(|(_, push)| (push.name.clone(), push.seq));
                let expiry = Expiry {
                    repository: repository.clone(),
                    rule: config.expire_rule(rule),
                    tags: tags.collect(),
                    seen,
                    gone: taken,
                    until: self.undelete(),
                };
                let done = self.act(Act::Expire(Box::new(expiry)), BY).await;
                match done {
                    Ok(Done::Expired(some)) => taken = taken.saturating_add(some),
                    // Somebody has deleted a tag: what was decided may not be right any more. The next run decides anew.
                    Ok(_) | Err(HostedError::Refused(Refused::NoRepository)) => {
                        return Ok(usize::try_from(taken).unwrap_or_default());
                    }
                    Err(error) => return Err(error),
                }
                tokio::task::yield_now().await;
            }
        }
        Ok(usize::try_from(taken).unwrap_or_default())
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        let pace = self.inner.pace.0.lock();
        // Nothing in between can panic.
        pace.unwrap_or_else(PoisonError::into_inner)
    }
}

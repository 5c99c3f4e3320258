//! Changes, for those who follow: by number, from where they have come.

use std::time::Duration;

use tokio::sync::watch;

use super::config::matches;
use super::{Hosted, HostedError};
use crate::catalogue::hosted::{Act, Done, EventRow, Found, Refused, TagMove};
use crate::clock::Timestamp;
use crate::oci::{Repository, Tag};

/// Changes that are kept, whoever has read them: some 50 MB. The oldest go.
pub(super) const EVENTS_MAX: u64 = 200_000;

/// Transactions in a row in which old ones go, before somebody else has a turn.
const TRIMS_MAX: usize = 20;

/// Changes on a page, at most.
pub(super) const PAGE_MAX: usize = 1_000;

/// Changes that are looked at for one page, where few of them are wanted.
const LOOKED_MAX: usize = 20_000;

/// Those who wait for changes at the same time: each has one of the 64 connections of the admin listener, which others need.
const FOLLOWERS_MAX: usize = 16;

/// Time after which somebody who waits looks by himself, whether something was said or not.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Time for which more is waited for: many pushes a second do not have everybody who follows look as often.
const LINGER: Duration = Duration::from_millis(100);

/// Says that something may have changed.
#[derive(Debug)]
pub(super) struct News {
    sender: watch::Sender<()>,
    followers: tokio::sync::Semaphore,
}

/// The right to wait for changes.
#[derive(Debug)]
pub struct Follower<'a> {
    receiver: watch::Receiver<()>,
    _place: tokio::sync::SemaphorePermit<'a>,
}

/// Some changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventPage {
    /// They, the oldest first.
    pub events: Vec<EventRow>,
    /// Where the next page begins.
    pub next: i64,
    /// The number of the last that was made.
    pub last: i64,
    /// Changes that were asked for and are not kept any more.
    pub missed: u64,
}

/// Somebody who follows, and whose place is written down.
#[derive(Debug)]
pub struct Consumer {
    hosted: Hosted,
    name: &'static str,
    receiver: watch::Receiver<()>,
    seq: i64,
}

impl Default for News {
    fn default() -> Self {
        Self {
            sender: watch::channel(()).0,
            followers: tokio::sync::Semaphore::new(FOLLOWERS_MAX),
        }
    }
}

impl News {
    pub(super) fn come(&self) {
        self.sender.send_replace(());
    }
}

impl Follower<'_> {
    /// Waits until something may have changed.
    pub async fn wait(&mut self) {
        wait(&mut self.receiver).await;
    }
}

async fn wait(receiver: &mut watch::Receiver<()>) {
    // The sender lives as long as whoever is asked.
    drop(tokio::time::timeout(LOOK_EVERY, receiver.changed()).await);
    tokio::time::sleep(LINGER).await;
}

impl Hosted {
    /// Changes behind a number, of repositories of this pattern or all. `None` for the number: from the first that is kept.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn events(
        &self,
        after: Option<i64>,
        pattern: Option<&str>,
        limit: usize,
    ) -> Result<EventPage, HostedError> {
        let limit = limit.clamp(1, PAGE_MAX);
        let mut page = EventPage {
            next: after.unwrap_or_default(),
            ..EventPage::default()
        };
        let mut looked = 0;
        while page.events.len() < limit && looked < LOOKED_MAX {
            let found = self.inner.catalogue.hosted_events(page.next, PAGE_MAX);
            let found = found.await?;
            page.last = found.last;
            if found.before_first > page.next {
                if after.is_some() {
                    let gone = found.before_first.saturating_sub(page.next);
                    page.missed += u64::try_from(gone).unwrap_or_default();
                }
                page.next = found.before_first;
            }
            if found.events.is_empty() {
                break;
            }
            for event in found.events {
                if page.events.len() >= limit {
                    break;
                }
                looked += 1;
                page.next = event.seq;
                if pattern.is_none_or(|pattern| matches(pattern, &event.repository)) {
                    page.events.push(event);
                }
            }
        }
        Ok(page)
    }

    /// The number of the last change before a time.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn events_before(&self, at: Timestamp) -> Result<i64, HostedError> {
        Ok(self.inner.catalogue.hosted_events_before(at).await?)
    }

    /// The number of the last change.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn last_event(&self) -> Result<i64, HostedError> {
        Ok(self.inner.catalogue.hosted_event_bounds().await?.1)
    }

    /// The right to wait for changes. Taken before they are looked for, so that none is slept over.
    ///
    /// # Errors
    /// [`HostedError::TooMany`].
    pub fn follower(&self) -> Result<Follower<'_>, HostedError> {
        let place = self.inner.news.followers.try_acquire();
        Ok(Follower {
            receiver: self.inner.news.sender.subscribe(),
            _place: place.map_err(|_full| HostedError::TooManyFollowers(FOLLOWERS_MAX))?,
        })
    }

    /// Follows as somebody whose place is written down. Whoever comes for the first time begins with what changes from now on.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn consumer(&self, name: &'static str) -> Result<Consumer, HostedError> {
        let receiver = self.inner.news.sender.subscribe();
        let noted = self.inner.catalogue.hosted_cursor(name).await?;
        let seq = if let Some((seq, _missed)) = noted {
            seq
        } else {
            let seq = self.last_event().await?;
            self.note_cursor(name, seq, 0).await?;
            seq
        };
        Ok(Consumer {
            hosted: self.clone(),
            name,
            receiver,
            seq,
        })
    }

    async fn note_cursor(
        &self,
        consumer: &'static str,
        seq: i64,
        missed: u64,
    ) -> Result<(), HostedError> {
        let act = Act::Advance {
            consumer,
            seq,
            missed,
        };
        // Not by `act`: nobody is woken for it.
        let act = crate::catalogue::hosted::HostedAct {
            act,
            at: self.inner.clock.now(),
            by: consumer.to_owned(),
        };
        self.inner.catalogue.act(act).await??;
        Ok(())
    }

    /// Drops the oldest changes, where there are more than these.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn trim_events(&self, keep: u64) -> Result<(), HostedError> {
        let keep = i64::try_from(keep).unwrap_or(i64::MAX);
        for _ in 0..TRIMS_MAX {
            let (before_first, last) = self.inner.catalogue.hosted_event_bounds().await?;
            if last.saturating_sub(before_first) <= keep {
                break;
            }
            if self.act(Act::Trim(keep), "gc").await? != Done::Changed {
                break;
            }
        }
        Ok(())
    }

    /// The history of a tag, the latest first, before the entry of this number.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn tag_history(
        &self,
        repository: &Repository,
        tag: &Tag,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<TagMove>, HostedError> {
        let catalogue = &self.inner.catalogue;
        let limit = limit.clamp(1, PAGE_MAX);
        let found = catalogue.hosted_history(repository, tag, before, limit);
        match found.await? {
            Found::NoRepository => Err(Refused::NoRepository.into()),
            Found::Deleted(refused) => Err(refused.into()),
            Found::Nothing => Ok(Vec::new()),
            Found::This(moves) => Ok(moves),
        }
    }
}

impl Consumer {
    /// The last change that it has.
    #[must_use]
    pub fn seq(&self) -> i64 {
        self.seq
    }

    /// Skips changes of which it knows that it has had them, though that was not written down.
    pub fn skip_to(&mut self, seq: i64) {
        self.seq = self.seq.max(seq);
    }

    /// The next changes, at most so many; none if there are none.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn next(&mut self, limit: usize) -> Result<EventPage, HostedError> {
        self.receiver.mark_unchanged();
        let page = self.hosted.events(Some(self.seq), None, limit).await?;
        if page.last < self.seq {
            // A catalogue from before, which somebody has put in the place of the other.
            self.seq = page.last;
            return Ok(EventPage {
                events: Vec::new(),
                next: page.last,
                ..page
            });
        }
        Ok(page)
    }

    /// Writes down that it has come to the end of a page.
    ///
    /// # Errors
    /// [`HostedError`]; then the same page comes again.
    pub async fn done(&mut self, page: &EventPage) -> Result<(), HostedError> {
        self.hosted
            .note_cursor(self.name, page.next, page.missed)
            .await?;
        self.seq = page.next;
        Ok(())
    }

    /// Waits until something may have changed.
    pub async fn wait(&mut self) {
        wait(&mut self.receiver).await;
    }
}

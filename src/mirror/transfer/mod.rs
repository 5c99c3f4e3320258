//! The fetchers: from upstream into a fill, whatever happens on the way.
//!
//! | file | what |
//! | --- | --- |
//! | `job` | one fill's work: its connections, and when they try again |
//! | `attempt` | one request: what is asked for, what may be answered, how it is written |
//! | `body` | bytes as they come, gathered for writing |
//! | `means` | what a fill's work is given |
//! | `wish` | the part of a blob that is wanted first (pure) |
//! | `lazy` | fills of which only parts are read |
//! | `plan` | which bytes are to be fetched next (pure) |
//! | `range_workers` | connections for readers that wait elsewhere |
//! | `budget` | how often and after what wait something is tried again |
//! | `origin` | `BlobSource`: the upstream's endpoints, and what is asked before them |
//! | `sources` | which of a fill's sources are asked, in which order |
//! | `word` | what an object store knows of the upstream's word |
//! | `reliability` | how far each of them can be relied on |
//! | `fallback` | the way on when bytes are wrong |
//! | `span` | the fill in a trace |
//! | `provenance` | whose bytes they are, and the endpoint to fall back to when they are wrong (pure) |
//!
//! A big blob is fetched in pieces on several connections, the lowest offset first. A connection that
//! breaks or stalls gives back what it has not fetched, and a free one resumes it at the byte reached. Bytes that turn
//! out wrong are fetched again from another endpoint.

mod attempt;
mod body;
mod budget;
mod fallback;
mod job;
mod lazy;
mod means;
mod origin;
mod plan;
mod provenance;
mod range_workers;
mod reliability;
mod sources;
mod span;
#[cfg(test)]
mod tests;
mod wish;
mod word;

use std::sync::{Arc, OnceLock};

use super::core::{Core, Upstreams};
use super::fills::{Fills, Lead, OTHER_SOURCES_MAX};
use super::not_stored::NotStored;
use super::{MirrorError, Source};
use crate::oci::manifest::ChildKind;
use crate::oci::{ByteRange, Digest};
use crate::store::{HandOver, Link, Partial, Verified};
use crate::telemetry::trace::Value;
use crate::upstream::OnBehalf;
pub(super) use budget::{Budget, retry_after};
use fallback::Fallback;
use job::{Ends, Fetched, Job};
use means::Means;
pub use origin::{BlobName, BlobRead, BlobSource, ReadBody, ReadRange, SourceKind};
use sources::Sources;
use span::FillSpan;
pub use wish::FillOnRange;
use wish::{First, Wanted};

/// Fetches blobs into their fills.
#[derive(Debug)]
pub(super) struct Transfers {
    means: Means,
    upstreams: Upstreams,
    not_stored: Arc<NotStored>,
}

impl Transfers {
    pub(super) fn new(
        core: &Core,
        fill_on_range: FillOnRange,
        fills: &Arc<Fills>,
        not_stored: &Arc<NotStored>,
        sources: Vec<Arc<dyn BlobSource>>,
    ) -> Self {
        Self {
            means: Means::new(core, fill_on_range, fills, sources),
            upstreams: core.upstreams.clone(),
            not_stored: Arc::clone(not_stored),
        }
    }

    /// Fetches a blob into its fill, whoever still reads it. What is asked for first comes first.
    pub(super) async fn fetch(
        self: Arc<Self>,
        lead: Lead,
        source: Source,
        digest: Digest,
        asked: Option<ByteRange>,
    ) {
        // Freed when this function ends, after the fill has.
        let Lead {
            opening,
            fill,
            place,
            work,
            span,
            promoted,
            fed_by,
        } = lead;
        let span = span.map(|span| FillSpan::new(span, &source, &digest));
        drop(fill);
        let link = self.means.store.metadata().link(&source, &digest).await;
        let expected = link.and_then(|link| link.size);
        let given = link.is_some_and(|link| link.covers(ChildKind::Blob) && link.is_given());
        let partial = match self.means.store.begin(opening, expected).await {
            Ok(partial) => partial,
            Err(Some((opening, error))) => {
                let error = error.into();
                self.not_stored.note(&source, &digest, &error);
                return opening.fail(error);
            }
            Err(None) => return,
        };
        self.means.metrics.fills_in_flight(1);
        let ends = Ends {
            given_up: place.given_up().clone(),
            promoted,
            fed_by,
        };
        let wanted = Wanted {
            expected,
            given,
            first: First::of(asked, expected),
        };
        let filled = self.fill(partial, &source, wanted, ends);
        // Boxed: it is the largest thing that a task holds.
        let behalf = OnBehalf::current().as_part_of(work);
        let behalf = match &span {
            Some(span) => behalf.with_trace(Some(span.trace())),
            None => behalf,
        };
        behalf.scope(Box::pin(filled)).await;
        if let Some(span) = span {
            // Before that it would seem to be followed.
            span.end(place.fill()).await;
        }
        self.means.metrics.fills_in_flight(-1);
    }

    /// Fetches, checks and keeps; or tells the readers why not.
    async fn fill(
        &self,
        partial: Partial<MirrorError>,
        source: &Source,
        wanted: Wanted,
        ends: Ends,
    ) {
        let digest = *partial.digest();
        let expected = wanted.expected;
        let means = &self.means;
        // It ends with the upstream that it begins with, whatever is configured meanwhile.
        let upstream = match self.upstreams.of(source) {
            Ok(upstream) => upstream,
            Err(error) => return partial.fail(error),
        };
        let others: [OnceLock<Source>; OTHER_SOURCES_MAX] = Default::default();
        let mut job = Job::new(means, &upstream, source, &digest, wanted, ends);
        Sources(&job).enlist().await;
        let mut partial = partial;
        loop {
            let fetched = job.fetch(&partial).await;
            if let Ok(Fetched::Suspended { total }) = fetched {
                return self.suspend(partial, job.source, total).await;
            }
            if let Err(error) = fetched {
                if let Some(other) = self.other_source(&job, &partial, &error)
                    && let Some(place) = others.get(job.others_used)
                {
                    job = job.go_on_from(place.get_or_init(|| other), &digest);
                    continue;
                }
                match self.without(&job, partial, error, expected).await {
                    Some(same) => partial = same,
                    None => return,
                }
                continue;
            }
            match partial.verify().await {
                Ok(verified) => {
                    Fallback(&job).confirmed();
                    let is_copy = job.is_copy();
                    return self.keep(verified, job.source, digest, is_copy).await;
                }
                Err((wrong, error)) => match Fallback(&job).invalidate(&wrong, error).await {
                    Ok(()) => partial = wrong,
                    Err(error) => {
                        self.doubt_size(job.source, &digest, expected, &error).await;
                        return wrong.fail(error);
                    }
                },
            }
        }
    }

    /// Another repository that the fill can go on from after this error.
    fn other_source(
        &self,
        job: &Job<'_>,
        partial: &Partial<MirrorError>,
        error: &MirrorError,
    ) -> Option<Source> {
        let is_of_the_repository =
            passing(error) || matches!(error, MirrorError::BlobUnknown | MirrorError::NameUnknown);
        if !is_of_the_repository || self.leaves_off(error).is_some() {
            return None;
        }
        let other = job.other_source(partial)?;
        tracing::warn!(
            upstream = %other.upstream, repository = %job.source.repository, digest = %job.digest, %error,
            bytes = partial.prefix(), next = %other.repository,
            "a blob cannot be fetched to its end from this repository; going on from another one that has it"
        );
        Some(other)
    }

    /// Ends a fill that cannot be gone on with, in the way that leaves most of it to the next one; or falls back to an
    /// endpoint that may have all of it.
    async fn without(
        &self,
        job: &Job<'_>,
        partial: Partial<MirrorError>,
        error: MirrorError,
        expected: Option<u64>,
    ) -> Option<Partial<MirrorError>> {
        let (source, digest) = (job.source, job.digest);
        if self.means.store.contains(&digest).is_some() && partial.is_left_alone() {
            tracing::debug!(upstream = %source.upstream, %digest, %error, "not fetched to the end: another upstream's transfer was faster");
            partial.fail(error);
            return None;
        }
        if let Some(why) = self.leaves_off(&error) {
            partial.suspend(why).await;
            return None;
        }
        if matches!(error, MirrorError::NotStored { .. }) {
            // Its readers go on without it.
            self.not_stored.note(source, &digest, &error);
            partial.fail(error);
            return None;
        }
        let Err(error) = Fallback(job).without_the_last(&partial, error).await else {
            return Some(partial);
        };
        tracing::warn!(
            upstream = %source.upstream, repository = %source.repository, %digest, %error,
            bytes = partial.prefix(), readers = partial.readers(),
            "a blob was not fetched; its readers are cut off, and the next request tries again"
        );
        self.doubt_size(source, &digest, expected, &error).await;
        if passing(&error) && !job.in_doubt() {
            // The next request goes on where this one ended.
            partial.suspend(error).await;
        } else {
            partial.fail(error);
        }
        None
    }

    /// The word for the readers of a fill that is left off, whatever can be had of it.
    fn leaves_off(&self, error: &MirrorError) -> Option<MirrorError> {
        if let Some(refused) = HandOver(self.means.store.contents()).refusal() {
            // They go on without it, and the process that has the store takes it up.
            return Some(refused.into());
        }
        let ends = matches!(error, MirrorError::ShuttingDown | MirrorError::Limited(_));
        ends.then(|| error.clone())
    }

    /// Leaves a fill of which only parts were read to the next one.
    async fn suspend(&self, partial: Partial<MirrorError>, source: &Source, total: u64) {
        let digest = *partial.digest();
        // Or the next one to read a part would have to ask for the size first.
        let link = Link::of(ChildKind::Blob, Some(total)).given();
        let metadata = self.means.store.metadata();
        metadata.record_links(source, vec![(digest, link)]).await;
        tracing::debug!(%digest, bytes = partial.coverage().bytes(), "suspended");
        let why = MirrorError::Busy("a download of which only parts were read has ended");
        partial.suspend(why).await;
    }

    /// Makes a checked blob durable. Its readers have all of it already.
    async fn keep(
        &self,
        verified: Verified<MirrorError>,
        source: &Source,
        digest: Digest,
        is_copy: bool,
    ) {
        // First: who finds it stored needs the link.
        let link = Link::of(ChildKind::Blob, Some(verified.size())).given();
        self.means
            .store
            .metadata()
            .record_links(source, vec![(digest, link)])
            .await;
        OnBehalf::traced(|trace| trace.set("roadstead.blob.size", verified.size()));
        let span = OnBehalf::span("store commit");
        let committed = verified.commit().await;
        if let Err(error) = committed {
            if let Some(span) = &span {
                span.trace().fail(Value::fixed("store"), &error.to_string());
            }
            self.not_stored.note(source, &digest, &error.into());
        } else if is_copy {
            self.means.store.quotas().copied(&digest, true);
        }
    }

    /// Upstream or the manifest that said the size is wrong: next time the digest alone shall tell.
    async fn doubt_size(
        &self,
        source: &Source,
        digest: &Digest,
        expected: Option<u64>,
        error: &MirrorError,
    ) {
        if expected.is_some() && matches!(error, MirrorError::WrongContent { .. }) {
            self.means
                .store
                .metadata()
                .forget_size(source, digest)
                .await;
        }
    }
}

/// True if what was fetched before it is as good as before.
const fn passing(error: &MirrorError) -> bool {
    matches!(
        error,
        MirrorError::Upstream(_)
            | MirrorError::Timeout(_)
            | MirrorError::RateLimited { .. }
            | MirrorError::Busy(_)
            | MirrorError::Unauthorized
            | MirrorError::Challenged(_)
            | MirrorError::Denied
    )
}

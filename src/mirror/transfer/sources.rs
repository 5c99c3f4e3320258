//! The sources of one fill: which there are, which of them is asked next, and when none of them may be waited for.

use std::ops::Range;

use super::job::Job;
use super::origin::{Origin, SourceKind};
use super::word::Word;
use crate::mirror::MirrorError;
use crate::store::FillKey;
use crate::telemetry::FillSource;
use crate::upstream::FetchError;

/// The sources of a fill.
pub(super) struct Sources<'a, 'j>(pub(super) &'a Job<'j>);

impl Sources<'_, '_> {
    /// Finds the sources beside the upstream that have the blob. They are asked only where the upstream's word says
    /// that its repository has it, and how large it is: without that nobody may be served what they have. Another node
    /// makes sure of that itself, and needs to be told the size alone.
    pub(super) async fn enlist(&self) {
        let Self(job) = self;
        let nodes = !job.ends.promoted.is_cancelled();
        if self.enlist_holders(nodes).await || !job.origins.has_others(nodes) {
            return;
        }
        let expected = job.state().total;
        let by_nodes = nodes && job.origins.has_nodes();
        let upstreams = &job.means.upstreams;
        let is_for_all = !upstreams.decides_for_each(&job.source.upstream);
        let word = if job.origins.blob.given_size.is_none() && !by_nodes && is_for_all {
            let word = job.unless_over(job.origins.word()).await;
            word.unwrap_or(Word::Nobody)
        } else {
            Word::Unknown
        };
        let said = match job.origins.blob.given_size {
            None if word == Word::Nobody => return,
            None if let Word::Given(size) = word => {
                if expected.is_some_and(|expected| expected != size) {
                    return;
                }
                Some(size)
            }
            None if expected.is_none() || !by_nodes => {
                // What is asked here may be what the node that is asked waits for.
                let stat = self.while_nodes_may_be_asked(job.origins.stat(nodes));
                let stat = job.unless_over(stat).await;
                match stat {
                    Ok(Ok(Some(size))) if expected.is_none_or(|expected| expected == size) => {
                        Some(size)
                    }
                    // The upstream is asked for the blob in a moment, and says why not.
                    _ => return,
                }
            }
            given => given,
        };
        let Some(size) = said.or(expected) else {
            return;
        };
        let others = job.origins.others_with(size, nodes, said.is_some());
        if let Ok(others) = job.unless_over(others).await {
            let mut state = job.state();
            state.said_by_node = expected.is_none() && nodes && job.origins.has_nodes();
            state.total = Some(size);
            state.given = said;
            state.reliability.others = others;
        }
    }

    /// Finds nodes that have all of the blob already. True if there are some: nobody else is asked then, unless they fail.
    async fn enlist_holders(&self, nodes: bool) -> bool {
        let Self(job) = self;
        let expected = job.state().total;
        let Ok(held) = job.unless_over(job.origins.holders(!nodes)).await else {
            return false;
        };
        let said = held.first().map(|(_, size)| *size);
        let Some(size) = expected.or(said) else {
            return false;
        };
        let mut others: Vec<Origin> = held
            .iter()
            .filter_map(|(origin, said)| (*said == size).then_some(*origin))
            .collect();
        if others.is_empty() {
            return false;
        }
        others.extend(job.origins.others_with(size, nodes, false).await);
        let mut state = job.state();
        state.said_by_node = expected.is_none();
        state.total = Some(size);
        state.reliability.others = others;
        true
    }

    /// The origins to ask for a piece, best first: a node that offers its beginning, then those for all pieces.
    pub(super) fn order_at(
        &self,
        key: &FillKey,
        piece: &Range<u64>,
        total: Option<u64>,
    ) -> Vec<Origin> {
        let Self(job) = self;
        let order = job.order(piece.start > 0 || piece.end < total.unwrap_or(u64::MAX));
        if total.is_none() || job.in_doubt() {
            return order;
        }
        let offered = job.offered(key).into_iter();
        let holders = offered.filter(|(_, part)| part.contains(&piece.start));
        let holders = holders.map(|(holder, _)| holder);
        holders.chain(order).collect()
    }

    /// Waits for something that other nodes are asked for, as long as they may be.
    async fn while_nodes_may_be_asked<T>(
        &self,
        wait: impl Future<Output = Result<T, FetchError>>,
    ) -> Result<T, FetchError> {
        let Self(job) = self;
        if job.ends.promoted.is_cancelled() {
            return wait.await;
        }
        tokio::select! {
            biased;
            () = job.ends.promoted.cancelled() => Err(promoted()),
            done = wait => done,
        }
    }

    /// A node and the upstream say different sizes: the upstream is right. True if nobody was told another one yet.
    pub(super) fn node_was_wrong(&self, total: u64) -> bool {
        let Self(job) = self;
        job.origins.distrust_nodes();
        let mut state = job.state();
        state.said_by_node = false;
        state.reliability.others.clear();
        if !state.started {
            state.total = Some(total);
        }
        !state.started
    }

    /// Counts bytes that an origin gave and that were missing.
    pub(super) fn count(&self, origin: Origin, bytes: u64) {
        let Self(job) = self;
        let source = match job.origins.kind(origin) {
            SourceKind::Node | SourceKind::Holder => FillSource::Peer,
            SourceKind::Tier => FillSource::Tier,
            SourceKind::Upstream => FillSource::Upstream,
        };
        let upstreams = job.means.metrics.upstreams();
        upstreams.filled(job.source.upstream.as_str(), source, bytes);
    }

    /// Waits for an origin, unless the fill is over, or the origin is a node and none may be waited for any more.
    pub(super) async fn unless_promoted<T>(
        &self,
        origin: Origin,
        wait: impl Future<Output = Result<T, FetchError>>,
    ) -> Result<Result<T, FetchError>, MirrorError> {
        let Self(job) = self;
        if job.origins.kind(origin) != SourceKind::Node {
            return job.unless_over(wait).await;
        }
        let wait = async {
            tokio::select! {
                biased;
                () = job.ends.promoted.cancelled() => Err(promoted()),
                done = wait => done,
            }
        };
        job.unless_over(wait).await
    }
}

/// Nodes are waited for no longer.
fn promoted() -> FetchError {
    FetchError::Broken("another node waits for the blob here".to_owned())
}

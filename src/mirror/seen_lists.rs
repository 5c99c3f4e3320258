//! Lists that upstream gave, for the time when it cannot give them.
//!
//! A list is asked of upstream each time; what is kept here is served only where a tag would be served stale,
//! by the same rules. It is memory alone: after a restart the first answer is upstream's.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;

use super::lists::Listed;
use super::negative::List;
use super::{Policy, Source, Ttl};
use crate::clock::Timestamp;
use crate::oci::link::NextPage;
use crate::oci::list;
use crate::telemetry::Outcome;

/// Memory for lists as they are without any parameter, in bytes: Docker Hub's longest list of tags has some megabytes,
/// a usual one kilobytes.
const WHOLE_BYTES_MAX: u64 = 24 * 1024 * 1024;

/// And for what parameters make of them, of which clients can think of any number: that must not take the others'
/// place. That nothing refers to a digest is among these, as there are as many digests.
const PARTS_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Bytes that an entry takes beside its texts.
const ENTRY_BYTES: usize = 400;

/// After upstream could not answer, what was seen is served for this long without asking again.
const STALE_RETRY: Duration = Duration::from_secs(5);

/// The lists that were seen.
#[derive(Debug)]
pub(super) struct SeenLists {
    whole: Lists,
    parts: Lists,
}

type Lists = Cache<(Source, List), Arc<Seen>>;

/// A list, and when it was seen.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) listed: Listed,
    at: Timestamp,
    /// When upstream failed to give it anew.
    failed: Option<Timestamp>,
}

impl Default for SeenLists {
    fn default() -> Self {
        let weigh = |(source, list): &(Source, List), seen: &Arc<Seen>| {
            let name = source.upstream.as_str().len() + source.repository.as_str().len();
            let next = seen.listed.next.as_ref().map_or(0, weight);
            let all = ENTRY_BYTES + name + list.weight() + next + seen.listed.bytes.len();
            u32::try_from(all).unwrap_or(u32::MAX)
        };
        let lists = |bytes| Cache::builder().max_capacity(bytes).weigher(weigh).build();
        Self {
            whole: lists(WHOLE_BYTES_MAX),
            parts: lists(PARTS_BYTES_MAX),
        }
    }
}

impl SeenLists {
    pub(super) fn get(&self, source: &Source, list: &List) -> Option<Arc<Seen>> {
        let key = (source.clone(), list.clone());
        self.whole.get(&key).or_else(|| self.parts.get(&key))
    }

    fn insert(&self, source: &Source, list: List, seen: Arc<Seen>) {
        let is_whole = list.query().is_empty() && !seen.listed.empty;
        let (into, other) = if is_whole {
            (&self.whole, &self.parts)
        } else {
            (&self.parts, &self.whole)
        };
        let key = (source.clone(), list);
        other.invalidate(&key);
        into.insert(key, seen);
        // By itself the cache evicts now and then, and with lists of megabytes holds many times its room until then.
        for lists in [&self.whole, &self.parts] {
            lists.run_pending_tasks();
        }
    }

    /// Remembers what upstream gave just now.
    pub(super) fn note(&self, source: &Source, list: &List, listed: Listed, at: Timestamp) {
        // A page from the start behind which there is none is all of it, whatever its length was to be.
        let whole = match list {
            List::Tags(query) if !query.is_empty() => Some(List::Tags(Vec::new())),
            List::Tags(_) | List::Referrers(..) => None,
        };
        let from_start = list.query().iter().all(|(name, _)| name == "n");
        let whole = whole.filter(|_| from_start && listed.next.is_none());
        let seen = Arc::new(Seen {
            listed,
            at,
            failed: None,
        });
        for list in whole.into_iter().chain(std::iter::once(list.clone())) {
            self.insert(source, list, Arc::clone(&seen));
        }
    }

    /// Remembers that upstream could not give it again.
    pub(super) fn failed(&self, source: &Source, list: &List, seen: &Seen, at: Timestamp) {
        let seen = Seen {
            failed: Some(at),
            ..seen.clone()
        };
        self.insert(source, list.clone(), Arc::new(seen));
    }

    /// Forgets a list: upstream says that there is none.
    pub(super) fn forget(&self, source: &Source, list: &List) {
        let key = (source.clone(), list.clone());
        self.whole.invalidate(&key);
        self.parts.invalidate(&key);
    }

    /// The list as it is known without upstream: what was seen of it, or what follows from all of it.
    pub(super) fn recall(&self, source: &Source, list: &List) -> Option<Arc<Seen>> {
        if let Some(seen) = self.get(source, list) {
            return Some(seen);
        }
        let whole = match list {
            List::Tags(_) => List::Tags(Vec::new()),
            List::Referrers(digest, _) => List::Referrers(*digest, Vec::new()),
        };
        let seen = self.get(source, &whole)?;
        if seen.listed.next.is_some() {
            return None;
        }
        let listed = match list {
            List::Tags(query) => part_of(source, &seen.listed, query)?,
            List::Referrers(_, query) => filtered(&seen.listed, query)?,
        };
        Some(Arc::new(Seen {
            listed,
            ..Seen::clone(&seen)
        }))
    }
}

impl Seen {
    /// True if it may be served although upstream cannot confirm it.
    pub(super) fn may_be_stale(&self, policy: &Policy, now: Timestamp) -> bool {
        match policy.ttl {
            Ttl::Forever => true,
            Ttl::For(ttl) => now.since(self.at) < ttl.saturating_add(policy.stale_if_error),
        }
    }

    /// The list that is served at once: nothing, because there was nothing a moment ago; or what was seen, because
    /// upstream failed a moment ago.
    pub(super) fn at_once(&self, policy: &Policy, now: Timestamp) -> Option<Listed> {
        let within = |since: Timestamp, limit| since <= now && now.since(since) < limit;
        if self.listed.empty && within(self.at, policy.negative_ttl) {
            return Some(Listed {
                outcome: Outcome::Hit,
                ..self.listed.clone()
            });
        }
        let failed = self.failed.is_some_and(|at| within(at, STALE_RETRY));
        (failed && self.may_be_stale(policy, now)).then(|| self.listed.as_stale())
    }
}

/// Memory for a link to the next page, in bytes.
fn weight(next: &NextPage) -> usize {
    let query = next.query.iter();
    query
        .map(|(name, value)| name.len() + value.len() + 48)
        .sum()
}

/// A page of a list of tags that is known as a whole; `None` where upstream alone knows what was asked for.
fn part_of(source: &Source, whole: &Listed, query: &[(String, String)]) -> Option<Listed> {
    let (mut limit, mut last) = (usize::MAX, None);
    for (name, value) in query {
        match name.as_str() {
            "n" => limit = value.parse().ok()?,
            "last" => last = Some(value.as_str()),
            _ => return None,
        }
    }
    let mut tags = list::fit_tags(&whole.bytes);
    if let Some(last) = last {
        match tags.iter().position(|tag| tag == last) {
            Some(place) => drop(tags.drain(..=place)),
            None => tags.retain(|tag| tag.as_str() > last),
        }
    }
    let more = tags.len() > limit;
    tags.truncate(limit);
    let next = tags.last().filter(|_| more).map(|last| NextPage {
        query: vec![
            ("n".to_owned(), limit.to_string()),
            ("last".to_owned(), last.clone()),
        ],
    });
    Some(Listed {
        bytes: list::tags_body(source.repository.as_str(), &tags).into(),
        next,
        ..whole.clone()
    })
}

/// Of all referrers those of one artifact type; `None` where something else was asked for.
fn filtered(whole: &Listed, query: &[(String, String)]) -> Option<Listed> {
    let [(name, wanted)] = query else {
        return None;
    };
    if name != "artifactType" {
        return None;
    }
    let found = list::referrers(&whole.bytes, Some(wanted)).ok()?;
    Some(Listed {
        bytes: found.filtered?.into(),
        filtered: true,
        empty: found.count == 0,
        ..whole.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Repository, UpstreamName};
    use bytes::Bytes;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Bytes of a list that somebody still has, counted.
    struct Counted(Vec<u8>, Arc<AtomicU64>);

    impl AsRef<[u8]> for Counted {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            self.1.fetch_sub(self.0.len() as u64, Ordering::Relaxed);
        }
    }

    #[test]
    fn lists_that_come_at_once_take_no_more_than_their_room() {
        const LIST_BYTES: u64 = 4 * 1024 * 1024;
        let (seen, held) = (SeenLists::default(), Arc::new(AtomicU64::new(0)));
        for number in 0..40 {
            held.fetch_add(LIST_BYTES, Ordering::Relaxed);
            let bytes = vec![b' '; usize::try_from(LIST_BYTES).unwrap()];
            let source = Source {
                upstream: UpstreamName::parse("docker.io").unwrap(),
                repository: Repository::parse(&format!("library/app{number}")).unwrap(),
            };
            let listed = Listed {
                bytes: Bytes::from_owner(Counted(bytes, Arc::clone(&held))),
                next: None,
                filtered: false,
                empty: false,
                outcome: Outcome::Bypass,
                warnings: Vec::new(),
            };
            let query = vec![("n".to_owned(), "100000".to_owned())];
            seen.note(&source, &List::Tags(query), listed, Timestamp(0));
            let now = held.load(Ordering::Relaxed);
            assert!(
                now <= WHOLE_BYTES_MAX + PARTS_BYTES_MAX + LIST_BYTES,
                "{now} bytes after {number}"
            );
        }
    }
}

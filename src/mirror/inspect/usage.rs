//! The usage of the store: blobs counted by the repositories that have them.
//!
//! A blob that one repository alone has is that one's exclusively; one that several have is shared; one
//! that none is known to have (its links were forgotten) is unlinked. So each blob counts once, and the
//! sums add up to what the store takes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::When;
use super::status::ratio;
use crate::clock::{Clock, Timestamp};
use crate::mirror::Source;
use crate::mirror::core::{Core, Tasks};
use crate::oci::{Digest, UpstreamName};
use crate::store::{LinkEntry, Store};

/// Blobs looked at in one pass over the links: some 25 MB. A store with more takes several passes.
pub(super) const PASS_BLOBS_MAX: usize = 250_000;

/// Repositories that are told apart; what is in more is in the totals alone.
const REPOSITORIES_MAX: usize = 100_000;

/// Age of the figures that `status` shows: it is asked often, and they take a look at all links.
const RECENT: Duration = Duration::from_mins(1);

/// Time that `status` waits for them.
const DEDUP_WAIT_MAX: Duration = Duration::from_secs(2);

/// The usage of the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// When it was looked at.
    pub at: When,
    /// The upstreams, largest first.
    pub upstreams: Vec<UpstreamUsage>,
    /// The repositories, largest first.
    pub repositories: Vec<RepositoryUsage>,
    /// Number of repositories beyond those listed.
    pub repositories_left_off: usize,
    /// The whole store.
    pub totals: UsageTotals,
    /// Bytes saved by keeping content once.
    pub dedup: Dedup,
}

/// The usage of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamUsage {
    /// Its name.
    pub upstream: String,
    /// Blobs and manifests that its repositories have, each counted once.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The bytes of those that no other upstream has.
    pub exclusive_bytes: u64,
    /// The bytes of the others.
    pub shared_bytes: u64,
}

/// The usage of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryUsage {
    /// The upstream.
    pub upstream: String,
    /// Its name there.
    pub repository: String,
    /// Blobs and manifests that it has.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The bytes of those that no other repository has.
    pub exclusive_bytes: u64,
    /// The bytes of the others.
    pub shared_bytes: u64,
}

/// Sizes of the store; `exclusive`, `shared`, `unlinked`, `reserved` and `index` add up to `used`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageTotals {
    /// Repositories that have something.
    pub repositories: u64,
    /// Stored blobs and manifests.
    pub blobs: u64,
    /// Bytes of what one repository alone has.
    pub exclusive_bytes: u64,
    /// Bytes of what several have, each blob counted once.
    pub shared_bytes: u64,
    /// Bytes of what no repository is known to have.
    pub unlinked_bytes: u64,
    /// Partial files, and what is reserved for transfers and the index.
    pub reserved_bytes: u64,
    /// The index.
    pub index_bytes: u64,
    /// All of it.
    pub used_bytes: u64,
}

/// Bytes saved by keeping content once: blobs counted for each repository that has them, by blobs
/// counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Dedup {
    /// Bytes that it would take to keep each repository by itself.
    pub linked_bytes: u64,
    /// Bytes that the same takes here.
    pub stored_bytes: u64,
    /// The one by the other; absent while there is nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
}

/// The parts of a digest by which blobs are told apart within a pass: those of SHA-512 are cut.
type Key = [u8; 32];

pub(super) fn key(digest: &Digest) -> Key {
    let mut key = Key::default();
    for (to, from) in key.iter_mut().zip(digest.bytes()) {
        *to = *from;
    }
    key
}

/// The repositories that have a blob.
#[derive(Debug)]
struct Owners {
    size: u64,
    /// The first repository, if there is one.
    first: Option<u32>,
    /// True if there are more.
    shared: bool,
    /// The upstream counted last; links come sorted.
    upstream: Option<u32>,
    /// True if there are several.
    upstreams: bool,
}

#[derive(Debug, Default)]
struct Sums {
    blobs: u64,
    bytes: u64,
    exclusive: u64,
}

/// The sums over all passes.
#[derive(Debug, Default)]
struct Tally {
    /// Repositories by their places in `repositories`.
    places: HashMap<Source, Option<u32>>,
    repositories: Vec<(Source, Sums)>,
    upstream_places: BTreeMap<UpstreamName, u32>,
    upstreams: Vec<(UpstreamName, Sums)>,
    totals: UsageTotals,
    linked: u64,
}

/// Looks at who takes how much.
#[derive(Debug)]
pub struct UsageSurvey {
    store: Store,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    /// The last look, for who does not need the newest.
    last: tokio::sync::Mutex<Option<(Timestamp, Arc<Usage>)>>,
}

impl UsageSurvey {
    pub(in crate::mirror) fn new(core: &Core) -> Self {
        Self {
            store: core.store.clone(),
            clock: Arc::clone(&core.clock),
            tasks: core.tasks.clone(),
            last: tokio::sync::Mutex::default(),
        }
    }

    /// The usage of one upstream or all, with at most `limit` repositories.
    pub async fn of(&self, upstream: Option<&UpstreamName>, limit: usize) -> Usage {
        let usage = self.look_at(Duration::ZERO).await;
        let mut usage = Usage::clone(&usage);
        if let Some(wanted) = upstream {
            let wanted = wanted.as_str();
            usage.upstreams.retain(|it| it.upstream == wanted);
            usage.repositories.retain(|it| it.upstream == wanted);
        }
        let left_off = usage.repositories.len().saturating_sub(limit);
        usage.repositories.truncate(limit);
        usage.repositories_left_off += left_off;
        usage
    }

    /// Bytes saved by keeping content once, at most [`RECENT`] old. In a store so large that it takes
    /// long to find out, nothing now, and more to who asks again.
    pub(super) async fn recent_dedup(self: &Arc<Self>) -> Dedup {
        let survey = Arc::clone(self);
        // It goes on when nobody waits any more.
        let looking = self.tasks.spawn(async move {
            tokio::select! {
                usage = survey.look_at(RECENT) => Some(usage.dedup),
                () = survey.tasks.stopping().cancelled() => None,
            }
        });
        let looked = tokio::time::timeout(DEDUP_WAIT_MAX, looking).await;
        looked
            .ok()
            .and_then(Result::ok)
            .flatten()
            .unwrap_or_default()
    }

    /// Goes through the index, one asker at a time, unless somebody did within `age`.
    async fn look_at(&self, age: Duration) -> Arc<Usage> {
        let mut last = self.last.lock().await;
        if let Some((at, usage)) = &*last
            && *at <= self.clock.now()
            && self.clock.now().since(*at) < age
        {
            return Arc::clone(usage);
        }
        self.store.pages().settle().await;
        let mut tally = Tally::default();
        let mut after: Option<Digest> = None;
        loop {
            let mut pass: HashMap<Key, Owners> = HashMap::new();
            while pass.len() < PASS_BLOBS_MAX {
                let blobs = self
                    .store
                    .pages()
                    .stored_blobs(self.store.contents(), after.as_ref())
                    .await;
                let Some((digest, _)) = blobs.last() else {
                    break;
                };
                after = Some(*digest);
                pass.extend(
                    blobs
                        .iter()
                        .map(|(digest, size)| (key(digest), Owners::none(*size))),
                );
            }
            if pass.is_empty() {
                break;
            }
            let mut link: Option<LinkEntry> = None;
            loop {
                let links = self.store.pages().link_page(None, link.as_ref()).await;
                let Some(last) = links.last() else { break };
                link = Some(last.clone());
                for entry in &links {
                    if let Some(owners) = pass.get_mut(&key(&entry.digest)) {
                        tally.link(&entry.source, owners);
                    }
                }
            }
            for owners in pass.into_values() {
                tally.blob(&owners);
            }
        }
        let figures = self.store.contents().figures_async().await;
        let now = self.clock.now();
        let usage = Arc::new(tally.finish(now, figures.reserved, figures.index));
        *last = Some((now, Arc::clone(&usage)));
        usage
    }
}

impl Owners {
    fn none(size: u64) -> Self {
        Self {
            size,
            first: None,
            shared: false,
            upstream: None,
            upstreams: false,
        }
    }
}

impl Tally {
    /// A repository has a stored blob.
    fn link(&mut self, source: &Source, owners: &mut Owners) {
        self.linked = self.linked.saturating_add(owners.size);
        let upstream = self.upstream_place(&source.upstream);
        if owners.upstream != Some(upstream) {
            owners.upstreams = owners.upstream.is_some();
            owners.upstream = Some(upstream);
            if let Some((_, sums)) = self.upstreams.get_mut(upstream as usize) {
                sums.count(owners.size);
            }
        }
        let place = self.place(source);
        if let Some((_, sums)) = place.and_then(|at| self.repositories.get_mut(at as usize)) {
            sums.count(owners.size);
        }
        // One that is not told apart is somebody, too.
        owners.shared = owners.first.is_some();
        owners.first = owners.first.or(place).or(Some(u32::MAX));
    }

    /// All links of a blob have been seen.
    fn blob(&mut self, owners: &Owners) {
        let size = owners.size;
        self.totals.blobs += 1;
        let Some(first) = owners.first else {
            self.totals.unlinked_bytes += size;
            return;
        };
        if owners.shared {
            self.totals.shared_bytes += size;
        } else {
            self.totals.exclusive_bytes += size;
            if let Some((_, sums)) = self.repositories.get_mut(first as usize) {
                sums.exclusive += size;
            }
        }
        if let Some(upstream) = owners.upstream.filter(|_| !owners.upstreams)
            && let Some((_, sums)) = self.upstreams.get_mut(upstream as usize)
        {
            sums.exclusive += size;
        }
    }

    fn place(&mut self, source: &Source) -> Option<u32> {
        if let Some(place) = self.places.get(source) {
            return *place;
        }
        if self.places.len() >= REPOSITORIES_MAX {
            return None;
        }
        let place = u32::try_from(self.repositories.len()).ok();
        self.repositories.push((source.clone(), Sums::default()));
        self.places.insert(source.clone(), place);
        place
    }

    /// There are as many as are configured, and were.
    fn upstream_place(&mut self, upstream: &UpstreamName) -> u32 {
        if let Some(place) = self.upstream_places.get(upstream) {
            return *place;
        }
        let place = u32::try_from(self.upstreams.len()).unwrap_or(u32::MAX);
        self.upstreams.push((upstream.clone(), Sums::default()));
        self.upstream_places.insert(upstream.clone(), place);
        place
    }

    fn finish(self, now: Timestamp, reserved: u64, index: u64) -> Usage {
        let mut totals = self.totals;
        totals.repositories = self.repositories.len() as u64;
        totals.reserved_bytes = reserved;
        totals.index_bytes = index;
        let linked_once = totals.exclusive_bytes + totals.shared_bytes;
        totals.used_bytes = linked_once + totals.unlinked_bytes + reserved + index;
        let upstreams = self
            .upstreams
            .into_iter()
            .map(|(name, sums)| UpstreamUsage {
                upstream: name.to_string(),
                blobs: sums.blobs,
                bytes: sums.bytes,
                exclusive_bytes: sums.exclusive,
                shared_bytes: sums.bytes - sums.exclusive,
            });
        let repositories = self.repositories.into_iter();
        let repositories = repositories.map(|(source, sums)| RepositoryUsage {
            upstream: source.upstream.to_string(),
            repository: source.repository.to_string(),
            blobs: sums.blobs,
            bytes: sums.bytes,
            exclusive_bytes: sums.exclusive,
            shared_bytes: sums.bytes - sums.exclusive,
        });
        let mut upstreams: Vec<_> = upstreams.collect();
        upstreams.sort_by(|a, b| b.bytes.cmp(&a.bytes).then(a.upstream.cmp(&b.upstream)));
        let mut repositories: Vec<_> = repositories.collect();
        repositories.sort_by(|a, b| {
            let names = (&a.upstream, &a.repository).cmp(&(&b.upstream, &b.repository));
            b.bytes.cmp(&a.bytes).then(names)
        });
        Usage {
            at: When(now),
            upstreams,
            repositories,
            repositories_left_off: 0,
            totals,
            dedup: Dedup {
                linked_bytes: self.linked,
                stored_bytes: linked_once,
                ratio: ratio(self.linked, linked_once),
            },
        }
    }
}

impl Sums {
    fn count(&mut self, size: u64) {
        self.blobs += 1;
        self.bytes = self.bytes.saturating_add(size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Repository;

    fn source(upstream: &str, repository: &str) -> Source {
        Source {
            upstream: UpstreamName::parse(upstream).unwrap(),
            repository: Repository::parse(repository).unwrap(),
        }
    }

    #[test]
    fn each_blob_counts_once_in_the_totals() {
        let mut tally = Tally::default();
        let owned = [
            (100, vec![("a.io", "x")]),
            (20, vec![("a.io", "x"), ("a.io", "y")]),
            (3, vec![("a.io", "x"), ("b.io", "x")]),
            (7, vec![]),
        ];
        for (size, repositories) in owned {
            let mut owners = Owners::none(size);
            for (upstream, repository) in repositories {
                tally.link(&source(upstream, repository), &mut owners);
            }
            tally.blob(&owners);
        }
        let usage = tally.finish(Timestamp(0), 1000, 5000);
        let totals = usage.totals;
        assert_eq!(totals.blobs, 4);
        assert_eq!(
            (
                totals.exclusive_bytes,
                totals.shared_bytes,
                totals.unlinked_bytes
            ),
            (100, 23, 7)
        );
        assert_eq!(totals.used_bytes, 6130);
        let x = &usage.repositories[0];
        assert_eq!((x.repository.as_str(), x.upstream.as_str()), ("x", "a.io"));
        assert_eq!((x.bytes, x.exclusive_bytes, x.shared_bytes), (123, 100, 23));
        let a = &usage.upstreams[0];
        assert_eq!((a.blobs, a.bytes, a.exclusive_bytes), (3, 123, 120));
        let b = &usage.upstreams[1];
        assert_eq!((b.bytes, b.exclusive_bytes), (3, 0));
        assert_eq!(
            (usage.dedup.linked_bytes, usage.dedup.stored_bytes),
            (146, 123)
        );
    }
}

//! Manifests in memory and on disk, with the types that repositories have them with.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use moka::sync::Cache;

use super::Source;
use crate::clock::Timestamp;
use crate::oci::Digest;
use crate::oci::manifest::{Inspection, MANIFEST_BYTES_MAX, ManifestError, inspect};
use crate::store::{Store, TagRecord};

/// Manifests kept in memory, in bytes, with what is known of them.
const HOT_MANIFEST_BYTES: u64 = 64 * 1024 * 1024;

/// Room for a manifest of at most this size may be made later: some hundred of these are a few MiB.
const EVICTED_LATER_BYTES_MAX: usize = 16 * 1024;

/// Memory for what upstreams' headers said of manifests that do not say themselves what they are, in bytes.
const SAID_TYPES_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// Interval at which the store is told of what a manifest names. What it hears holds for minutes.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// A manifest in memory.
#[derive(Debug)]
pub(super) struct Manifest {
    pub(super) digest: Digest,
    pub(super) media_type: Arc<str>,
    /// True if an upstream's header said the type: it counts for whom it was said to, see
    /// [`LocalManifests::as_said_to`].
    pub(super) by_header: bool,
    pub(super) bytes: Bytes,
    /// The digests that it names: whoever is given it will ask for those.
    pub(super) children: Arc<[Digest]>,
    /// When the store was last told so.
    pub(super) told: Told,
}

/// Bytes that a manifest in memory takes beside its bytes, its type and what it names.
const ENTRY_BYTES: usize = 300;

impl Manifest {
    /// Bytes that it takes in memory.
    fn weight(&self) -> u32 {
        let children = size_of_val::<[Digest]>(&self.children);
        let bytes = ENTRY_BYTES + self.bytes.len() + self.media_type.len() + children;
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }
}

/// When something was last said, so that it is not said too often.
#[derive(Debug, Default)]
pub(super) struct Told(AtomicU64);

impl Told {
    /// True if it is time to say it again; then it counts as said.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        let last = Timestamp(self.0.load(Ordering::Relaxed));
        let due = now < last || now.since(last) >= TELL_EVERY;
        if due {
            self.0.store(now.0, Ordering::Relaxed);
        }
        due
    }
}

/// The manifests that are here.
#[derive(Debug)]
pub(super) struct LocalManifests {
    store: Store,
    hot: Cache<Digest, Arc<Manifest>, foldhash::fast::RandomState>,
    /// The types of manifests that do not say it themselves, as each repository's upstream said.
    said_types: Cache<(Source, Digest), Arc<str>>,
}

impl LocalManifests {
    pub(super) fn new(store: &Store) -> Self {
        Self {
            store: store.clone(),
            hot: Cache::builder()
                .max_capacity(HOT_MANIFEST_BYTES)
                .weigher(|_: &Digest, manifest: &Arc<Manifest>| manifest.weight())
                // It is asked for every hit.
                .build_with_hasher(foldhash::fast::RandomState::default()),
            said_types: Cache::builder()
                .max_capacity(SAID_TYPES_BYTES_MAX)
                .weigher(weigh_said_type)
                .build(),
        }
    }

    /// A manifest from memory, which counts as no use of it.
    pub(super) fn peek(&self, digest: &Digest) -> Option<Arc<Manifest>> {
        self.hot.get(digest)
    }

    /// Keeps a manifest in memory.
    pub(super) fn keep(&self, manifest: &Arc<Manifest>) {
        self.hot.insert(manifest.digest, Arc::clone(manifest));
        if manifest.bytes.len() > EVICTED_LATER_BYTES_MAX {
            // By itself the cache evicts now and then, and with manifests of megabytes holds many times its room until
            // then.
            self.hot.run_pending_tasks();
        }
    }

    /// Lets go of a manifest in memory: what is on disk stays.
    pub(super) fn forget(&self, digest: &Digest) {
        self.hot.invalidate(digest);
    }

    /// A manifest from memory, which counts as a use of it.
    pub(super) fn in_memory(&self, digest: &Digest) -> Option<Arc<Manifest>> {
        let manifest = self.hot.get(digest)?;
        self.store.contents().touch(digest);
        Some(manifest)
    }

    /// A manifest from memory or disk. What does not hash to its name is
    /// removed, and fetched again by whoever wants it.
    pub(super) async fn read(&self, digest: &Digest) -> Option<Arc<Manifest>> {
        if let Some(manifest) = self.in_memory(digest) {
            return Some(manifest);
        }
        let blob = self.store.blob(digest).await?;
        let looked_at = blob.looked_at();
        let bytes = blob.read_all(MANIFEST_BYTES_MAX).await?;
        let found = Digest::of(digest.algorithm(), &bytes);
        if found != *digest {
            let why = format!("its content hashes to {found}");
            self.store
                .quarantine()
                .damaged(digest, &why, looked_at)
                .await;
            return None;
        }
        // The type is a function of the bytes. What was noted beside them is of whoever stored them first.
        let inspection = match inspect(None, &bytes) {
            Ok(inspection) => inspection,
            Err(ManifestError::UnknownKind) => {
                let noted = self.store.metadata().media_type(digest).await;
                inspect(noted.as_deref(), &bytes).ok()?
            }
            Err(
                ManifestError::NotJson | ManifestError::Ambiguous | ManifestError::ImpossibleType,
            ) => return None,
        };
        let manifest = Arc::new(Manifest {
            digest: *digest,
            media_type: inspection.media_type.as_str().into(),
            by_header: inspection.by_header,
            bytes,
            children: children(&inspection),
            told: Told::default(),
        });
        self.keep(&manifest);
        Some(manifest)
    }

    /// A manifest from memory or disk, with the type that this repository has it with.
    pub(super) async fn read_for(&self, source: &Source, digest: &Digest) -> Option<Arc<Manifest>> {
        self.as_said_to(source, self.read(digest).await?)
    }

    /// The manifest that a tag named, from memory or disk.
    pub(super) async fn named(&self, source: &Source, record: &TagRecord) -> Option<Arc<Manifest>> {
        let manifest = self.read(&record.digest).await?;
        if manifest.by_header {
            // The tag's record outlives the process.
            self.note_said_type(source, &record.digest, &record.media_type);
        }
        self.as_said_to(source, manifest)
    }

    /// The manifest as this repository has it: where the bytes do not say of what type they are, it is what the
    /// repository's own upstream said. `None` where it has not said anything yet.
    pub(super) fn as_said_to(
        &self,
        source: &Source,
        manifest: Arc<Manifest>,
    ) -> Option<Arc<Manifest>> {
        if !manifest.by_header {
            return Some(manifest);
        }
        let said = self.said_types.get(&(source.clone(), manifest.digest))?;
        Some(Arc::new(Manifest {
            digest: manifest.digest,
            media_type: said,
            by_header: true,
            bytes: manifest.bytes.clone(),
            children: Arc::clone(&manifest.children),
            told: Told::default(),
        }))
    }

    /// Keeps what an upstream's header said first of a manifest, for the repository.
    pub(super) fn note_said_type(&self, source: &Source, digest: &Digest, media_type: &str) {
        let key = (source.clone(), *digest);
        if !self.said_types.contains_key(&key) {
            self.said_types.insert(key, media_type.into());
        }
    }
}

/// The digests that a manifest names.
pub(super) fn children(inspection: &Inspection) -> Arc<[Digest]> {
    let children = inspection.children.iter().filter(|child| !child.foreign);
    children.map(|child| child.digest).collect()
}

/// Bytes that an entry of `said_types` takes: its texts, and the map, times and digest beside them.
fn weigh_said_type((source, _): &(Source, Digest), said: &Arc<str>) -> u32 {
    let name = source.upstream.as_str().len() + source.repository.as_str().len();
    u32::try_from(name + said.len() + 300).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::oci::{Algorithm, Repository, UpstreamName};
    use crate::store;
    use crate::telemetry::Metrics;
    use std::path::Path;
    use std::sync::atomic::AtomicU64;

    fn source(repository: &str) -> Source {
        Source {
            upstream: UpstreamName::parse("docker.io").unwrap(),
            repository: Repository::parse(repository).unwrap(),
        }
    }

    fn store(dir: &Path) -> Store {
        let config = store::Config::of(dir.to_path_buf(), store::Amount::Bytes(100_000_000));
        let metrics = Metrics::new(std::iter::empty());
        Store::open(&config, Arc::new(SystemClock), metrics).unwrap()
    }

    #[tokio::test]
    async fn a_headers_first_word_counts_for_its_repository_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let local = LocalManifests::new(&store);
        let bytes = Bytes::from_static(b"{}");
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        local.keep(&Arc::new(Manifest {
            digest,
            media_type: "application/first".into(),
            by_header: true,
            bytes,
            children: Arc::from([]),
            told: Told::default(),
        }));
        let (own, other) = (source("library/app"), source("library/other"));
        let seen_by = |source: &Source| {
            let manifest = local.as_said_to(source, local.peek(&digest)?)?;
            Some(manifest.media_type.to_string())
        };
        assert_eq!(seen_by(&own), None, "nobody has said it to this repository");
        local.note_said_type(&own, &digest, "application/a");
        local.note_said_type(&own, &digest, "application/b");
        assert_eq!(seen_by(&own).as_deref(), Some("application/a"));
        assert_eq!(seen_by(&other), None);
        local.forget(&digest);
        assert!(local.peek(&digest).is_none());
    }
    /// Bytes of a manifest that somebody still has, counted.
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
    fn manifests_that_come_at_once_take_no_more_than_their_room() {
        const MANIFEST_BYTES: u64 = 4 * 1024 * 1024;
        let dir = tempfile::tempdir().unwrap();
        let (local, held) = (LocalManifests::new(&store(dir.path())), AtomicU64::new(0));
        let held = Arc::new(held);
        for number in 0..40_u8 {
            held.fetch_add(MANIFEST_BYTES, Ordering::Relaxed);
            let bytes = vec![number; usize::try_from(MANIFEST_BYTES).unwrap()];
            local.keep(&Arc::new(Manifest {
                digest: Digest::of(Algorithm::Sha256, &[number]),
                media_type: "application/any".into(),
                by_header: false,
                bytes: Bytes::from_owner(Counted(bytes, Arc::clone(&held))),
                children: Arc::from([]),
                told: Told::default(),
            }));
            // What is evicted is dropped at once, unless a thread of another test is just looking into a cache of its own:
            // all caches of a process share one collector.
            let since = tokio::time::Instant::now();
            while held.load(Ordering::Relaxed) > HOT_MANIFEST_BYTES + MANIFEST_BYTES {
                assert!(
                    since.elapsed() < Duration::from_secs(10),
                    "{} bytes after {number}",
                    held.load(Ordering::Relaxed)
                );
                std::thread::yield_now();
                local.hot.run_pending_tasks();
            }
        }
    }
}

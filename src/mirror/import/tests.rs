use std::pin::pin;

use futures_util::{FutureExt as _, stream};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::catalogue::{self, Catalogue};
use crate::clock::{ManualClock, Timestamp};
use crate::mirror::{Config, FillOnRange, Parts, Policy};
use crate::oci::{Algorithm, Directory};
use crate::store::{self, Store};
use crate::telemetry::Metrics;
use crate::upstream::{self, EndpointConfig, Upstream};

/// A mirror of `docker.io`, which is not there, and an image that is not imported yet.
struct Bench {
    dir: TempDir,
    store: Store,
    mirror: Mirror,
    blobs: Vec<(Digest, Bytes)>,
    manifest: (Digest, Bytes),
}

fn hashed(bytes: impl Into<Bytes>) -> (Digest, Bytes) {
    let bytes = bytes.into();
    (Digest::of(Algorithm::Sha256, &bytes), bytes)
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(Timestamp(1_790_000_000_000)));
        let metrics = Metrics::new(std::iter::empty());
        let config = store::Config {
            dir: dir.path().join("cache"),
            max_size: store::Amount::Bytes(100_000_000),
            min_free: store::Amount::Bytes(0),
            meter: store::Meter::default(),
            injection: store::Injection::default(),
            scrub: None,
            max_age: None,
            shares: Vec::new(),
        };
        let store = Store::open(&config, Arc::clone(&clock) as _, metrics.clone()).unwrap();
        let nowhere = EndpointConfig::at("http://127.0.0.1:9".parse().unwrap());
        let hub = upstream::Config::of(UpstreamName::parse("docker.io").unwrap(), vec![nowhere]);
        let mirror = Mirror::new(Parts {
            policies: Config::of(Policy::default()).into(),
            fill_on_range: FillOnRange::default(),
            directory: Directory::new(Vec::new()),
            upstreams: vec![Upstream::new(&hub, metrics.clone()).unwrap()],
            store: store.clone(),
            catalogue: Catalogue::open(
                &catalogue::Config::of(dir.path().join("state")),
                metrics.clone(),
            ),
            clock,
            metrics,
        });
        let blobs = vec![hashed("{}"), hashed(vec![1; 3000]), hashed(vec![2; 4000])];
        let described = |(digest, bytes): &(Digest, Bytes)| {
            json!({"mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": digest.to_string(), "size": bytes.len()})
        };
        let layers: Vec<_> = blobs[1..].iter().map(described).collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
            "config": described(&blobs[0]), "layers": layers});
        Self {
            manifest: hashed(manifest.to_string()),
            dir,
            store,
            mirror,
            blobs,
        }
    }

    async fn bring(&self, digest: &Digest, bytes: &Bytes) -> ImportOutcome {
        let body = stream::iter([Ok(bytes.clone())]);
        let size = bytes.len() as u64;
        let brought = self.mirror.import_blob(digest, size, body).await;
        brought.unwrap()
    }

    async fn bring_all(&self) {
        for (digest, bytes) in &self.blobs {
            self.bring(digest, bytes).await;
        }
        let (digest, bytes) = &self.manifest;
        let brought = self.mirror.import_manifest(digest, None, bytes.clone());
        brought.await.unwrap();
    }

    fn name() -> ImageName {
        ImageName::parse("app:1").unwrap()
    }

    /// Puts a file where a lost index would have had it.
    #[expect(
        clippy::disallowed_methods,
        reason = "behind the store's back: that is what is tested"
    )]
    fn leave(&self, digest: &Digest, bytes: &Bytes) {
        let text = digest.to_string();
        let (algorithm, hex) = text.split_once(':').unwrap();
        let shard = self.dir.path().join("cache/blobs").join(algorithm);
        let shard = shard.join(&hex[..2]);
        std::fs::create_dir_all(&shard).unwrap();
        std::fs::write(shard.join(hex), bytes).unwrap();
    }
}

#[tokio::test]
async fn a_name_is_given_before_an_operators_removal_or_after_it_and_then_what_went_is_missed() {
    // A layer that was found and not brought again used to go while its image got its name.
    let bench = Bench::new();
    bench.bring_all().await;
    let (name, root) = (Bench::name(), bench.manifest.0);
    let removing = bench.mirror.inner.operator.removal.hold().await;
    let mut naming = pin!(bench.mirror.import_image(&name, &root, false));
    // All that it could wait for besides comes off the disk.
    let waited = tokio::time::timeout(Duration::from_millis(200), &mut naming).await;
    assert!(
        waited.is_err(),
        "what is being removed is not known: {waited:?}"
    );
    let gone = bench.blobs[1].0;
    assert!(matches!(
        bench.store.contents().remove(&gone).await,
        store::Removal::Removed(3000)
    ));
    drop(removing);
    match naming.await {
        Err(ImportError::Incomplete(missing)) => assert_eq!(missing, [gone]),
        other => panic!("{other:?}"),
    }
    let Reference::Tag(tag) = name.reference.clone() else {
        panic!("{name}")
    };
    let source = Source {
        upstream: name.upstream.clone(),
        repository: name.repository.clone(),
    };
    assert!(bench.store.metadata().tags(&source, &tag).await.is_empty());
    bench.bring(&gone, &bench.blobs[1].1).await;
    let image = bench
        .mirror
        .import_image(&name, &root, false)
        .await
        .unwrap();
    assert_eq!((image.manifests, image.blobs), (1, 3));
    assert!(
        bench
            .mirror
            .inner
            .operator
            .removal
            .hold()
            .now_or_never()
            .is_some()
    );
}

#[tokio::test]
async fn a_manifest_that_is_in_memory_only_is_missed() {
    let bench = Bench::new();
    bench.bring_all().await;
    let root = bench.manifest.0;
    assert!(
        bench
            .mirror
            .inner
            .operator
            .imports
            .local
            .read(&root)
            .await
            .is_some()
    );
    bench.store.contents().remove(&root).await;
    let named = bench
        .mirror
        .import_image(&Bench::name(), &root, false)
        .await;
    match named {
        Err(ImportError::Incomplete(missing)) => assert_eq!(missing, [root]),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn files_that_a_lost_index_does_not_know_need_not_be_brought() {
    let bench = Bench::new();
    for (digest, bytes) in bench.blobs.iter().chain([&bench.manifest]) {
        bench.leave(digest, bytes);
        assert_eq!(bench.store.contains(digest), None, "nobody has looked yet");
    }
    // Each in its own way: by the question, by what is brought all the same, by the walk.
    let (digest, bytes) = &bench.blobs[0];
    let size = bench.mirror.import_has(digest).await;
    assert_eq!(size, Some(bytes.len() as u64));
    let (digest, bytes) = &bench.blobs[1];
    assert_eq!(bench.bring(digest, bytes).await, ImportOutcome::There);
    let (digest, bytes) = &bench.manifest;
    let brought = bench.mirror.import_manifest(digest, None, bytes.clone());
    assert_eq!(brought.await.unwrap(), ImportOutcome::There);
    let image = bench
        .mirror
        .import_image(&Bench::name(), digest, false)
        .await;
    assert_eq!(image.unwrap().blobs, 3);
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

//! A bench for unit tests of the mirror's components.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use serde_json::json;
use tempfile::TempDir;

use super::{Config, FillOnRange, ImportOutcome, Mirror, Parts, Policy, UpstreamSet};
use crate::catalogue::{self, Catalogue};
use crate::clock::{Clock, ManualClock, Timestamp};
use crate::oci::{Algorithm, Digest, Directory, ImageName, UpstreamName};
use crate::store::{self, Store};
use crate::telemetry::Metrics;
use crate::upstream::{self, EndpointConfig, Upstream};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

const NOW: Timestamp = Timestamp(1_790_000_000_000);

/// A mirror of `docker.io`, which is not there, and an image that is not imported yet.
#[derive(Debug)]
pub(super) struct Bench {
    pub(super) dir: TempDir,
    pub(super) store: Store,
    pub(super) catalogue: Catalogue,
    pub(super) mirror: Mirror,
    pub(super) blobs: Vec<(Digest, Bytes)>,
    pub(super) manifest: (Digest, Bytes),
}

pub(super) fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::new(NOW))
}

/// The configuration of a store in a test's directory.
pub(super) fn cache(dir: &TempDir) -> store::Config {
    let dir = dir.path().join("cache");
    store::Config::of(dir, store::Amount::Bytes(100_000_000))
}

fn hashed(bytes: impl Into<Bytes>) -> (Digest, Bytes) {
    let bytes = bytes.into();
    (Digest::of(Algorithm::Sha256, &bytes), bytes)
}

impl Bench {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let metrics = Metrics::new(std::iter::empty());
        let state = catalogue::Config::of(dir.path().join("state"));
        let catalogue = Catalogue::open(&state, metrics.clone());
        let store = Store::open(&cache(&dir), clock(), metrics).unwrap();
        Self::on(dir, store, catalogue)
    }

    /// On a store and a catalogue that are open.
    pub(super) fn on(dir: TempDir, store: Store, catalogue: Catalogue) -> Self {
        let metrics = Metrics::new(std::iter::empty());
        let nowhere = EndpointConfig::at("http://127.0.0.1:9".parse().unwrap());
        let hub = upstream::Config::of(UpstreamName::parse("docker.io").unwrap(), vec![nowhere]);
        let mirror = Mirror::new(Parts {
            policies: Config::of(Policy::default()).into(),
            fill_on_range: FillOnRange::default(),
            upstreams: UpstreamSet {
                directory: Directory::new(Vec::new()),
                upstreams: vec![Upstream::new(&hub, metrics.clone()).unwrap()],
                public_views: Vec::new(),
                client_views: Vec::new(),
            },
            store: store.clone(),
            catalogue: catalogue.clone(),
            clock: clock(),
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
            catalogue,
            mirror,
            blobs,
        }
    }

    pub(super) async fn bring(&self, digest: &Digest, bytes: &Bytes) -> ImportOutcome {
        let body = stream::iter([Ok(bytes.clone())]);
        let size = bytes.len() as u64;
        let brought = self
            .mirror
            .operator()
            .imports()
            .blob(digest, size, body)
            .await;
        brought.unwrap()
    }

    pub(super) async fn bring_all(&self) {
        for (digest, bytes) in &self.blobs {
            self.bring(digest, bytes).await;
        }
        let (digest, bytes) = &self.manifest;
        let brought = self
            .mirror
            .operator()
            .imports()
            .manifest(digest, None, bytes.clone());
        brought.await.unwrap();
    }

    pub(super) fn name() -> ImageName {
        ImageName::parse("app:1").unwrap()
    }
}

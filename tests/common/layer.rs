//! A mirror of one registry, with an image of one layer that has not been pulled.

use super::images::{self, Blob};
use super::{Dialect, FakeRegistry, Image, Mirror, MirrorBuilder};

/// `team/app:v1` at the registry, and where its layer is had from the mirror.
#[derive(Debug)]
pub struct Layer {
    pub registry: FakeRegistry,
    pub mirror: Mirror,
    pub image: Image,
    pub blob: Blob,
    pub path: String,
}

impl Layer {
    /// Makes an image from `seed`, and starts the mirror that `build` sets up for its registry.
    pub async fn new(
        seed: u64,
        size: usize,
        build: impl FnOnce(&FakeRegistry) -> MirrorBuilder,
    ) -> Self {
        let image = images::image(seed, &[size], Dialect::Oci);
        let registry = FakeRegistry::start().await;
        registry.put_image("team/app", Some("v1"), &image);
        let mirror = build(&registry).start().await;
        let blob = image.layers[0].clone();
        let path = format!("/v2/team/app/blobs/{}", blob.digest);
        Self {
            registry,
            mirror,
            image,
            blob,
            path,
        }
    }

    /// Pulls the manifest, so that the layer's size is known beforehand.
    pub async fn announce(&self) {
        let manifest = self.mirror.get("/v2/team/app/manifests/v1").await;
        manifest.assert_bytes(200, &self.image.manifest.bytes);
    }

    /// The manifest pulled if it is to be known, and the registry's counters without that.
    pub async fn known(self, known: bool) -> Self {
        if known {
            self.announce().await;
            self.registry.reset();
        }
        self
    }

    /// Bytes of the layer that the registry has sent.
    pub fn sent(&self) -> usize {
        usize::try_from(self.registry.counters().sent(&self.blob.digest)).unwrap()
    }
}

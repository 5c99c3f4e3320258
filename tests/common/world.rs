//! A mirror of two upstreams, with an image in each.

use super::images::{self, Blob};
use super::{Dialect, FakeRegistry, Image, Mirror, MirrorBuilder};

/// Two upstreams: `docker.io` (default) and `ghcr.io` (also under the host name `ghcr.mirror.corp`).
#[derive(Debug)]
pub struct World {
    pub hub: FakeRegistry,
    pub ghcr: FakeRegistry,
    pub mirror: Mirror,
    pub image: Image,
    pub app: Image,
}

impl World {
    /// Starts all three.
    pub async fn new() -> Self {
        let hub = FakeRegistry::start().await;
        let ghcr = FakeRegistry::start().await;
        let image = images::image(1, &[5000, 70_000], Dialect::Docker);
        let app = images::image(2, &[4000], Dialect::Oci);
        hub.put_image("library/nginx", Some("1.27"), &image);
        ghcr.put_image("org/app", Some("v1"), &app);
        let mirror = MirrorBuilder::of(&hub)
            .upstream("ghcr.io", &ghcr, |upstream| {
                upstream.hosts = vec!["ghcr.mirror.corp".to_owned()];
            })
            .start()
            .await;
        Self {
            hub,
            ghcr,
            mirror,
            image,
            app,
        }
    }

    /// The larger layer of `image`.
    pub fn layer(&self) -> &Blob {
        &self.image.layers[1]
    }

    /// What both upstreams were asked.
    pub fn upstream_requests(&self) -> usize {
        self.hub.counters().records.len() + self.ghcr.counters().records.len()
    }
}

//! Two upstreams meet in one digest: nothing of one that has not been checked reaches the other's clients.

mod fills;
mod links;
mod sizes;

use std::time::Duration;

use crate::common::client::Answer;
use crate::common::images::Blob;
use crate::common::{FakeRegistry, Mirror, MirrorBuilder};

/// What the client of a registry that answers at once is given, long before it would give up.
const AT_ONCE: Duration = Duration::from_secs(20);

/// Two upstreams: `docker.io`, which is right, and `ghcr.io`, of which a test says what is wrong with it.
struct Two {
    right: FakeRegistry,
    other: FakeRegistry,
    mirror: Mirror,
}

impl Two {
    async fn new() -> Self {
        Self::with(|builder| builder).await
    }

    async fn with(change: impl FnOnce(MirrorBuilder) -> MirrorBuilder) -> Self {
        let right = FakeRegistry::start().await;
        let other = FakeRegistry::start().await;
        let builder = MirrorBuilder::of(&right).upstream("ghcr.io", &other, |_| {});
        let mirror = change(builder).start().await;
        Self {
            right,
            other,
            mirror,
        }
    }

    /// Where the client of the right one finds a blob.
    fn right_path(blob: &Blob) -> String {
        format!("/v2/team/app/blobs/{}", blob.digest)
    }

    /// Where the client of the other one finds it.
    fn other_path(blob: &Blob) -> String {
        format!("/v2/ghcr.io/org/app/blobs/{}", blob.digest)
    }

    /// GET as the right one's client, which must be answered although the other one is not done.
    async fn at_once(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let asked = tokio::time::timeout(AT_ONCE, self.mirror.get_with(path, headers)).await;
        asked.expect("a client waited for another upstream than its own")
    }
}

//! A real object store, which `tests/buckets/run` starts: `BUCKET_URL`, `BUCKET_ENDPOINT`, `BUCKET_KEY_ID` and `BUCKET_KEY`
//! say where it is.

use std::time::Duration;

use http::Method;
use roadstead::tier::When;
use roadstead::upstream::{Secret, StorageLogin, Text};

use super::{Shared, TAG, blob_path, config, pull, start};
use crate::common::bucket::FakeBucket;
use crate::common::images::{self, Blob, Dialect, Image};
use crate::common::{Client, FakeRegistry, Mirror};

const MIB: usize = 1 << 20;

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: tests/buckets/run sets it"))
}

/// The store of the environment, under a prefix that no other run has.
async fn real(shared: &Shared, prefix: &str) -> roadstead::tier::Config {
    let nowhere = FakeBucket::start().await;
    let mut tier = config(&nowhere, shared);
    let literal = |text: String| Text::Literal(Secret::new(text));
    tier.place.bucket = variable("BUCKET_NAME");
    tier.place.prefix = format!("{prefix}-{}", std::process::id());
    tier.access.endpoint = Some(variable("BUCKET_ENDPOINT").parse().unwrap());
    tier.login = StorageLogin::Pair {
        id: literal(variable("BUCKET_KEY_ID")),
        secret: literal(variable("BUCKET_KEY")),
        session_token: None,
    };
    tier
}

/// Waits until all that is stored is in the bucket.
async fn is_written(mirror: &Mirror) {
    let facts = async {
        loop {
            let status = mirror.admin.get("/api/v1/tier").await;
            let status: serde_json::Value = serde_json::from_slice(&status.body).unwrap();
            let waits = ["pending_facts", "pending_blobs", "pending_bytes"];
            if status["state"] == "ok" && waits.iter().all(|it| status[it] == 0) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    crate::common::within("all facts in the bucket", facts).await;
    // What was taken out of the queue last is on its way.
    tokio::time::sleep(Duration::from_secs(1)).await;
}

fn image(registry: &FakeRegistry, seed: u64, layers: &[usize]) -> Image {
    let image = images::image(seed, layers, Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    image
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an object store: tests/buckets/run"]
async fn a_real_store_holds_what_one_node_has_fetched_and_gives_it_to_another() {
    let (registry, shared) = (FakeRegistry::start().await, Shared::new());
    let tier = real(&shared, "whole").await;
    // Small, at once, and in parts.
    let image = image(&registry, 951, &[10, 20 * MIB, 70 * MIB]);
    let first = start(&registry, tier.clone()).await;
    pull(&first, &image).await;
    is_written(&first).await;
    first.stop().await;
    registry.go_down().await;
    let second = start(&registry, tier).await;
    pull(&second, &image).await;
    let metrics = second.metrics().await;
    let labels = [("source", "tier"), ("upstream", "docker.io")];
    assert!(metrics.sum("roadstead_fill_bytes_total", &labels) >= 90.0 * 1_048_576.0);
    let errors = metrics.sum("roadstead_tier_errors_total", &[("op", "get")]);
    assert_eq!(errors, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an object store: tests/buckets/run"]
async fn a_real_store_takes_a_signed_url_from_a_client_without_keys() {
    let (registry, shared) = (FakeRegistry::start().await, Shared::new());
    let mut tier = real(&shared, "signed").await;
    let blob = Blob::noise(952, 17 * MIB);
    registry.put_blob("team/app", &blob);
    let first = start(&registry, tier.clone()).await;
    let answer = first.get(&blob_path(&blob.digest)).await;
    answer.assert_bytes(200, &blob.bytes);
    is_written(&first).await;
    first.stop().await;
    tier.redirect.when = When::Always;
    let second = start(&registry, tier).await;
    let host = [("host", "mirror.corp")];
    let answer = second.get_with(&blob_path(&blob.digest), &host).await;
    assert_eq!(answer.status, 307);
    let url: url::Url = answer.header("location").parse().unwrap();
    let address = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    let client = Client(address.parse().unwrap());
    let target = format!("{}?{}", url.path(), url.query().unwrap());
    let host = [("host", address.as_str())];
    let answer = client.ask(Method::GET, &target, &host).await;
    answer.assert_bytes(200, &blob.bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an object store: tests/buckets/run"]
async fn two_nodes_write_to_a_real_store_at_once() {
    let (registry, shared) = (FakeRegistry::start().await, Shared::new());
    let tier = real(&shared, "both").await;
    let image = image(&registry, 953, &[MIB, 2 * MIB]);
    let first = start(&registry, tier.clone()).await;
    let second = start(&registry, tier.clone()).await;
    tokio::join!(pull(&first, &image), pull(&second, &image));
    is_written(&first).await;
    is_written(&second).await;
    registry.go_down().await;
    let third = start(&registry, tier).await;
    pull(&third, &image).await;
    let answer = third.get(TAG).await;
    answer.assert_bytes(200, &image.manifest.bytes);
}

//! An object store beside the cache: read before upstreams, written after the commit, never believed.

mod engine;
mod evicted;
mod parts;
mod redirect;
mod stores;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use roadstead::tier::{Access, Config, Place, Redirect, Scheme, When, Write};
use roadstead::upstream::{ProxyConfig, Secret, StorageLogin, Text, Visibility};
use tempfile::TempDir;

use crate::common::bucket::{Asked, BUCKET, FakeBucket, Trouble};
use crate::common::images::{self, Dialect, Image};
use crate::common::{Ending, FakeRegistry, Mirror, MirrorBuilder, within};

const MIB: usize = 1 << 20;

/// A secret that the nodes of a test share.
struct Shared(TempDir);

impl Shared {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let shared = Self(dir);
        std::fs::write(shared.file(), "0123456789abcdef".repeat(4)).unwrap();
        shared
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("secret")
    }
}

fn config(bucket: &FakeBucket, shared: &Shared) -> Config {
    let text = |text: &str| Text::Literal(Secret::new(text.to_owned()));
    Config {
        place: Place {
            scheme: Scheme::S3,
            bucket: BUCKET.to_owned(),
            prefix: "cache".to_owned(),
        },
        access: Access {
            endpoint: Some(bucket.url().parse().unwrap()),
            region: None,
            virtual_hosted: false,
            account: None,
            ca_file: None,
            proxy: ProxyConfig::Direct,
        },
        login: StorageLogin::Pair {
            id: text("key"),
            secret: text("secret"),
            session_token: None,
        },
        secret_file: Some(shared.file()),
        write: Write {
            enabled: true,
            storage_class: None,
            encryption: None,
            renew: None,
        },
        redirect: Redirect {
            when: When::Never,
            endpoint: None,
            networks: Vec::new(),
        },
    }
}

async fn start(registry: &FakeRegistry, tier: Config) -> Mirror {
    let builder = MirrorBuilder::of(registry);
    let builder = builder.with(|config| config.tier = Some(Box::new(tier)));
    builder.start().await
}

fn key(digest: &str) -> String {
    let (algorithm, hex) = digest.split_once(':').unwrap();
    format!("cache/blobs/{algorithm}/{}/{hex}", &hex[..2])
}

fn blob_path(digest: &str) -> String {
    format!("/v2/team/app/blobs/{digest}")
}

fn image(registry: &FakeRegistry, seed: u64, layer: usize) -> Image {
    let image = images::image(seed, &[layer], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    image
}

const TAG: &str = "/v2/team/app/manifests/v1";

/// Pulls an image as clients do: all of it must be exact.
async fn pull(mirror: &Mirror, image: &Image) {
    let answer = mirror.get(TAG).await;
    answer.assert_bytes(200, &image.manifest.bytes);
    for blob in image.blobs() {
        let answer = mirror.get(&blob_path(&blob.digest)).await;
        answer.assert_bytes(200, &blob.bytes);
    }
}

/// Waits until the bucket has an image, with its tag and its links.
async fn is_written(bucket: &FakeBucket, image: &Image) {
    let mut keys: Vec<String> = image.blobs().map(|blob| key(&blob.digest)).collect();
    keys.push(key(&image.manifest.digest));
    let facts = keys.len() + 1;
    bucket
        .wait_for("the image in the bucket", |objects| {
            let is_fact =
                |key: &&String| key.starts_with("cache/tags") || key.starts_with("cache/links");
            keys.iter().all(|key| objects.contains_key(key))
                && objects.keys().filter(is_fact).count() >= facts
        })
        .await;
}

fn of_blob(digest: &str) -> impl Fn(&Asked) -> bool + Send + 'static {
    let key = key(digest);
    move |asked| asked.key == key && asked.method == Method::GET
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_has_fetched_another_reads_from_the_bucket() {
    let (registry, bucket, shared) = (
        FakeRegistry::start().await,
        FakeBucket::start().await,
        Shared::new(),
    );
    let image = image(&registry, 901, 3 * MIB);
    let first = start(&registry, config(&bucket, &shared)).await;
    pull(&first, &image).await;
    is_written(&bucket, &image).await;
    let objects = bucket.objects();
    for blob in image.blobs() {
        assert_eq!(objects[&key(&blob.digest)], blob.bytes, "as it is");
    }
    registry.reset();
    let second = start(&registry, config(&bucket, &shared)).await;
    let layer = image.blobs().next().unwrap();
    let answer = second.get(&blob_path(&layer.digest)).await;
    answer.assert_bytes(200, &layer.bytes);
    assert!(
        answer.header("cache-status").ends_with("detail=tier"),
        "{}",
        answer.header("cache-status")
    );
    pull(&second, &image).await;
    let counters = registry.counters();
    for blob in image.blobs() {
        assert_eq!(counters.blob_gets(&blob.digest), 0, "{counters:?}");
        assert_eq!(counters.blob_heads(&blob.digest), 0, "the link is there");
    }
    assert_eq!(counters.manifest_gets("v1"), 0);
    assert_eq!(counters.manifest_gets(&image.manifest.digest), 0);
    let metrics = second.metrics().await;
    let labels = [("source", "tier"), ("upstream", "docker.io")];
    assert!(metrics.sum("roadstead_fill_bytes_total", &labels) >= 3.0 * 1_048_576.0);
    assert!(bucket.asked().iter().all(|asked| asked.signed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_node_serves_from_the_bucket_while_the_registry_is_away() {
    let (registry, bucket, shared) = (
        FakeRegistry::start().await,
        FakeBucket::start().await,
        Shared::new(),
    );
    let image = image(&registry, 902, MIB);
    let first = start(&registry, config(&bucket, &shared)).await;
    pull(&first, &image).await;
    is_written(&bucket, &image).await;
    first.stop().await;
    registry.go_down().await;
    let second = start(&registry, config(&bucket, &shared)).await;
    let head = second
        .head(&blob_path(&image.blobs().next().unwrap().digest))
        .await;
    assert_eq!(head.status, 200);
    pull(&second, &image).await;
    let by_digest = format!("/v2/team/app/manifests/{}", image.manifest.digest);
    let answer = second.get(&by_digest).await;
    answer.assert_bytes(200, &image.manifest.bytes);
    // Later than its time it is stale, and says so.
    second.clock.advance(crate::common::mirror::TTL * 2);
    let third = start(&registry, config(&bucket, &shared)).await;
    third.clock.advance(crate::common::mirror::TTL * 2);
    let answer = third.get(TAG).await;
    answer.assert_bytes(200, &image.manifest.bytes);
    assert!(answer.header("warning").starts_with("110"));
    // And too late it is nothing.
    let fourth = start(&registry, config(&bucket, &shared)).await;
    fourth
        .clock
        .advance(crate::common::mirror::STALE_IF_ERROR * 2);
    assert_ne!(fourth.get(TAG).await.status, 200);
}

/// Clients of one fleet accept this, and of another that: as for a node that has heard it itself, an answer that one of them got
/// serves the others while the registry is away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_in_the_bucket_serves_clients_that_accept_other_formats() {
    let (registry, bucket, shared) = (
        FakeRegistry::start().await,
        FakeBucket::start().await,
        Shared::new(),
    );
    let image = image(&registry, 937, 1000);
    let oci = "application/vnd.oci.image.manifest.v1+json";
    let all = format!("application/vnd.docker.distribution.manifest.v2+json, {oci}, */*");
    let first = start(&registry, config(&bucket, &shared)).await;
    for accept in [oci, "*/*"] {
        let answer = first.get_with(TAG, &[("accept", accept)]).await;
        answer.assert_bytes(200, &image.manifest.bytes);
    }
    for blob in image.blobs() {
        let answer = first.get(&blob_path(&blob.digest)).await;
        answer.assert_bytes(200, &blob.bytes);
    }
    is_written(&bucket, &image).await;
    first.stop().await;
    registry.go_down().await;
    for accept in [oci, "*/*", &all] {
        let second = start(&registry, config(&bucket, &shared)).await;
        let answer = second.get_with(TAG, &[("accept", accept)]).await;
        answer.assert_bytes(200, &image.manifest.bytes);
        second.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_writes_to_the_bucket_moves_no_tag_and_opens_nothing() {
    let (registry, bucket, shared) = (
        FakeRegistry::start().await,
        FakeBucket::start().await,
        Shared::new(),
    );
    let image = image(&registry, 903, 1000);
    let first = start(&registry, config(&bucket, &shared)).await;
    pull(&first, &image).await;
    is_written(&bucket, &image).await;
    first.stop().await;
    let objects = bucket.objects();
    let blob = image.blobs().next().unwrap();
    for (key, object) in objects {
        // Under other names they prove nothing, whoever has sealed them.
        bucket.put(&key.replace("team/app", "team/other"), object.clone());
        bucket.put(&key.replace("app/v1", "app/latest"), object.clone());
        let text = String::from_utf8_lossy(&object);
        if key.starts_with("cache/tags") || key.starts_with("cache/links") {
            let forged = text
                .replace("\"v1\"", "\"v2\"")
                .replace("team/app", "team/next");
            let key = key.replace("/v1", "/v2").replace("team/app", "team/next");
            bucket.put(&key, forged.into_bytes().into());
        }
    }
    registry.go_down().await;
    let second = start(&registry, config(&bucket, &shared)).await;
    for path in [
        "/v2/team/app/manifests/latest".to_owned(),
        "/v2/team/other/manifests/v1".to_owned(),
        "/v2/team/next/manifests/v2".to_owned(),
        format!("/v2/team/other/blobs/{}", blob.digest),
        format!("/v2/team/next/blobs/{}", blob.digest),
        format!("/v2/team/other/manifests/{}", image.manifest.digest),
    ] {
        let answer = second.get(&path).await;
        assert!(answer.status >= 500, "{path}: {}", answer.status);
        let head = second.head(&path).await;
        assert!(head.status >= 500, "{path}: {}", head.status);
    }
    pull(&second, &image).await;
    // Whoever has another secret believes none of it.
    let other = Shared::new();
    std::fs::write(other.file(), "fedcba9876543210".repeat(4)).unwrap();
    let third = start(&registry, config(&bucket, &other)).await;
    assert!(third.get(TAG).await.status >= 500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_in_the_bucket_reach_nobody_and_are_written_over() {
    let (registry, bucket, shared) = (
        FakeRegistry::start().await,
        FakeBucket::start().await,
        Shared::new(),
    );
    let image = image(&registry, 904, 2 * MIB);
    let first = start(&registry, config(&bucket, &shared)).await;
    pull(&first, &image).await;
    is_written(&bucket, &image).await;
    first.stop().await;
    let layer = image.blobs().last().unwrap().clone();
    for digest in [&layer.digest, &image.manifest.digest] {
        let mut wrong = bucket.objects()[&key(digest)].to_vec();
        let middle = wrong.len() / 2;
        wrong[middle] ^= 1;
        bucket.put(&key(digest), wrong.into());
    }
    let second = start(&registry, config(&bucket, &shared)).await;
    // Whoever was given some of them is cut off, and finds the right ones.
    let answer = second.get(&blob_path(&layer.digest)).await;
    assert!(answer.ending == Ending::Broken || answer.body == layer.bytes);
    pull(&second, &image).await;
    let right = layer.bytes.clone();
    let wanted = key(&layer.digest);
    bucket
        .wait_for("the right bytes", move |objects| {
            objects.get(&wanted) == Some(&right)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_fails_in_any_way_is_a_miss() {
    let troubles = [
        Trouble::Status(503, "SlowDown"),
        Trouble::Status(500, "InternalError"),
        Trouble::Status(403, "AccessDenied"),
        Trouble::Status(404, "NoSuchKey"),
        Trouble::CutAt(0),
        Trouble::CutAt(100_000),
        Trouble::WrongBytes,
        Trouble::NoRange,
        Trouble::Endless(500),
        Trouble::Endless(404),
        Trouble::Stall,
    ];
    for (number, trouble) in troubles.into_iter().enumerate() {
        let (registry, bucket, shared) = (
            FakeRegistry::start().await,
            FakeBucket::start().await,
            Shared::new(),
        );
        let image = image(&registry, 910 + number as u64, MIB);
        let first = start(&registry, config(&bucket, &shared)).await;
        pull(&first, &image).await;
        is_written(&bucket, &image).await;
        first.stop().await;
        bucket.trouble(
            |asked| asked.key.contains("blobs/"),
            trouble.clone(),
            usize::MAX,
        );
        let second = start(&registry, config(&bucket, &shared)).await;
        let begun = Instant::now();
        let answer = second.get(TAG).await;
        answer.assert_bytes(200, &image.manifest.bytes);
        for blob in image.blobs() {
            let mut answer = second.get(&blob_path(&blob.digest)).await;
            if trouble == Trouble::WrongBytes && answer.ending == Ending::Broken {
                answer = second.get(&blob_path(&blob.digest)).await;
            }
            answer.assert_bytes(200, &blob.bytes);
        }
        // Silence is waited for once, and then it is left alone.
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{trouble:?}: {:?}",
            begun.elapsed()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_trickles_is_left_for_the_registrys() {
    let (registry, bucket, shared) = (
        FakeRegistry::start().await,
        FakeBucket::start().await,
        Shared::new(),
    );
    let image = image(&registry, 920, MIB);
    let first = start(&registry, config(&bucket, &shared)).await;
    pull(&first, &image).await;
    is_written(&bucket, &image).await;
    let layer = image.blobs().last().unwrap();
    let each = Duration::from_millis(200);
    bucket.trouble(of_blob(&layer.digest), Trouble::Trickle(each), usize::MAX);
    let second = start(&registry, config(&bucket, &shared)).await;
    let answer = within("the blob", second.get(&blob_path(&layer.digest))).await;
    answer.assert_bytes(200, &layer.bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_is_down_delays_no_start_and_is_written_once_it_is_up() {
    let (registry, bucket, shared) = (
        FakeRegistry::start().await,
        FakeBucket::down(),
        Shared::new(),
    );
    let image = image(&registry, 921, 1000);
    let mirror = start(&registry, config(&bucket, &shared)).await;
    pull(&mirror, &image).await;
    let metrics = mirror.metrics().await;
    assert!(metrics.sum("roadstead_tier_errors_total", &[]) > 0.0);
    // The next start finds what this one has not written.
    let mirror = mirror.restart().await;
    bucket.comes_up();
    is_written(&bucket, &image).await;
    mirror
        .wait_for_metrics("nothing that waits", |metrics| {
            metrics.sum("roadstead_tier_pending_bytes", &[]) == 0.0
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_registry_tells_each_client_for_itself_is_in_no_bucket() {
    let (registry, bucket, shared) = (
        FakeRegistry::start().await,
        FakeBucket::start().await,
        Shared::new(),
    );
    let image = image(&registry, 924, 1000);
    let tier = config(&bucket, &shared);
    let builder = MirrorBuilder::new()
        .upstream("docker.io", &registry, |upstream| {
            upstream.default = true;
            upstream.visibility = Visibility::Upstream;
        })
        .with(|config| config.tier = Some(Box::new(tier)));
    let mirror = builder.start().await;
    pull(&mirror, &image).await;
    let layer = key(&image.blobs().next().unwrap().digest);
    bucket
        .wait_for("the blob", |objects| objects.contains_key(&layer))
        .await;
    let others = bucket.objects().into_keys();
    let others: Vec<String> = others.filter(|key| !key.contains("/blobs/")).collect();
    assert_eq!(others, ["cache/probe"], "bytes alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_may_only_be_read_is_read() {
    let (registry, bucket, shared) = (
        FakeRegistry::start().await,
        FakeBucket::start().await,
        Shared::new(),
    );
    let image = image(&registry, 925, 1000);
    let first = start(&registry, config(&bucket, &shared)).await;
    pull(&first, &image).await;
    is_written(&bucket, &image).await;
    let refused = |asked: &Asked| asked.method == Method::PUT;
    bucket.trouble(refused, Trouble::Status(403, "AccessDenied"), usize::MAX);
    let second = start(&registry, config(&bucket, &shared)).await;
    registry.reset();
    pull(&second, &image).await;
    let counters = registry.counters();
    assert_eq!(counters.blob_gets(&image.blobs().next().unwrap().digest), 0);
    // One that is told not to write does not try.
    let before = bucket.count(|asked| asked.method == Method::PUT);
    let mut read_only = config(&bucket, &shared);
    read_only.write.enabled = false;
    bucket.heal();
    let third = start(&registry, read_only).await;
    pull(&third, &image).await;
    third.stop().await;
    second.stop().await;
    let after = bucket.count(|asked| asked.method == Method::PUT);
    assert!(
        after <= before + 2,
        "{before} and {after}: what the second tried meanwhile"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_that_write_at_once_write_the_same() {
    let (registry, bucket, shared) = (
        FakeRegistry::start().await,
        FakeBucket::start().await,
        Shared::new(),
    );
    let image = image(&registry, 926, MIB);
    let first = start(&registry, config(&bucket, &shared)).await;
    let second = start(&registry, config(&bucket, &shared)).await;
    tokio::join!(pull(&first, &image), pull(&second, &image));
    is_written(&bucket, &image).await;
    let objects = bucket.objects();
    for blob in image.blobs() {
        assert_eq!(objects[&key(&blob.digest)], blob.bytes);
    }
    let _all: Bytes = objects[&key(&image.manifest.digest)].clone();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_a_cluster_write_each_thing_once_and_say_how_much_waits() {
    let (registry, bucket, shared) = (
        FakeRegistry::start().await,
        FakeBucket::start().await,
        Shared::new(),
    );
    let nodes = crate::cluster::nodes::Nodes::with_all(&registry, 3, |all| {
        all.tier = Some(Box::new(config(&bucket, &shared)));
    })
    .await;
    let image = image(&registry, 935, 2 * MIB);
    for node in &nodes.nodes {
        pull(node, &image).await;
    }
    is_written(&bucket, &image).await;
    for digest in image.blobs().map(|blob| &blob.digest) {
        let written = bucket.count(|it| it.key == key(digest) && it.method == Method::PUT);
        assert_eq!(written, 1, "{digest}");
        assert_eq!(registry.counters().blob_gets(digest), 1);
    }
    let status = nodes.nodes[0].admin.get("/api/v1/tier").await;
    assert_eq!(status.status, 200);
    let status: serde_json::Value = serde_json::from_slice(&status.body).unwrap();
    assert_eq!(status["bucket"], "s3://images/cache");
    assert_eq!(status["state"], "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_that_the_registry_has_deleted_does_not_come_back_from_the_bucket() {
    let (registry, bucket, shared) = (
        FakeRegistry::start().await,
        FakeBucket::start().await,
        Shared::new(),
    );
    let image = image(&registry, 936, 1000);
    let first = start(&registry, config(&bucket, &shared)).await;
    pull(&first, &image).await;
    is_written(&bucket, &image).await;
    registry.delete_tag("team/app", "v1");
    first.clock.advance(crate::common::mirror::TTL * 2);
    assert_eq!(first.get(TAG).await.status, 404);
    bucket
        .wait_for("the tag gone", |objects| {
            let mut tags = objects
                .iter()
                .filter(|(key, _)| key.starts_with("cache/tags"));
            tags.all(|(_, fact)| String::from_utf8_lossy(fact).contains("\"records\":[]"))
        })
        .await;
    registry.go_down().await;
    let second = start(&registry, config(&bucket, &shared)).await;
    assert!(second.get(TAG).await.status >= 500);
}

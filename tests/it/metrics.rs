//! What the operator sees: the names and labels of the contract, and values
//! that move as they should.

use crate::common::images::{self, Blob};
use crate::common::{Dialect, FakeRegistry, Fault, Image, Kind, Mirror, MirrorBuilder, Rule};
use std::time::Duration;
use tokio::task::JoinSet;

struct World {
    registry: FakeRegistry,
    mirror: Mirror,
    image: Image,
}

async fn world() -> World {
    let registry = FakeRegistry::start().await;
    let image = images::image(91, &[300_000], Dialect::Oci);
    registry.put_image("team/secret-project", Some("rel-7"), &image);
    let mirror = Mirror::of(&registry).await;
    World {
        registry,
        mirror,
        image,
    }
}

impl World {
    fn blob(&self) -> String {
        format!(
            "/v2/team/secret-project/blobs/{}",
            self.image.layers[0].digest
        )
    }

    async fn pull(&self) {
        let tag = "/v2/team/secret-project/manifests/rel-7";
        assert_eq!(self.mirror.get(tag).await.status, 200);
        assert_eq!(self.mirror.get(&self.blob()).await.status, 200);
        self.mirror.wait_for_fills().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contracts_names_exist_from_the_start() {
    let world = world().await;
    let names = [
        "roadstead_requests_total",
        "roadstead_client_bytes_total",
        "roadstead_upstream_bytes_total",
        "roadstead_fills_in_flight",
        "roadstead_readers_in_flight",
        "roadstead_cache_bytes",
        "roadstead_cache_max_bytes",
        "roadstead_cache_blobs",
        "roadstead_evicted_bytes_total",
        "roadstead_build_info",
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_start_time_seconds",
    ];
    let samples = world.mirror.metrics().await;
    for name in names {
        assert!(samples.has(name), "{name}");
    }
    // What never moved is not there by the hundred, but the counters are, from zero.
    assert!(!samples.has("roadstead_first_byte_seconds_bucket"));
    let zero = [
        ("kind", "blob"),
        ("upstream", "docker.io"),
        ("outcome", "limited"),
    ];
    let found = samples.0.iter().any(|sample| {
        let has =
            |(name, value): &(&str, &str)| sample.labels.get(*name).is_some_and(|it| it == value);
        sample.name == "roadstead_requests_total" && zero.iter().all(has)
    });
    assert!(found, "counters of an upstream begin at zero");
    world.pull().await;
    let samples = world.mirror.metrics().await;
    for name in [
        "roadstead_upstream_requests_total",
        "roadstead_first_byte_seconds_bucket",
    ] {
        assert!(samples.has(name), "{name}");
    }
    let answer = world.mirror.admin.get("/metrics").await;
    assert!(answer.header("content-type").starts_with("text/plain"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_are_closed() {
    let world = world().await;
    world.pull().await;
    world
        .mirror
        .get("/v2/team/secret-project/manifests/nope")
        .await;
    world
        .mirror
        .get("/v2/quay.example/secret-project/manifests/nope")
        .await;
    world
        .mirror
        .get("/v2/x/manifests/nope?ns=evil.example")
        .await;
    let text = world.mirror.admin.get("/metrics").await.text();
    for private in [
        "secret-project",
        "rel-7",
        "sha256",
        "evil.example",
        "quay.example",
        "nope",
    ] {
        assert!(!text.contains(private), "{private} is in the metrics");
    }
    let kinds = ["manifest", "blob", "tags", "referrers", "upload", "other"];
    let outcomes = [
        "hit",
        "miss",
        "collapsed",
        "stale",
        "partial",
        "bypass",
        "not_found",
        "denied",
        "limited",
        "rejected",
        "error",
    ];
    for sample in world.mirror.metrics().await.0 {
        let labels = &sample.labels;
        assert!(
            labels
                .get("kind")
                .is_none_or(|kind| kinds.contains(&kind.as_str())),
            "{sample:?}"
        );
        let known = labels
            .get("outcome")
            .is_none_or(|outcome| outcomes.contains(&outcome.as_str()));
        assert!(known, "{sample:?}");
        let upstream = labels.get("upstream").map_or("", String::as_str);
        assert!(matches!(upstream, "" | "docker.io"), "{sample:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_move() {
    let world = world().await;
    let blob = &[("kind", "blob"), ("upstream", "docker.io")][..];
    let outcome = |kind: &'static str, outcome: &'static str| {
        vec![
            ("kind", kind),
            ("upstream", "docker.io"),
            ("outcome", outcome),
        ]
    };
    world.pull().await;
    world.pull().await;
    world
        .mirror
        .get("/v2/team/secret-project/manifests/none")
        .await;
    let both = 2.0 * 300_000.0;
    world
        .mirror
        .wait_for_metrics("two pulls to be counted", |samples| {
            samples.sum("roadstead_client_bytes_total", blob) >= both
                && samples.sum(
                    "roadstead_requests_total",
                    &outcome("manifest", "not_found"),
                ) >= 1.0
        })
        .await;
    let samples = world.mirror.metrics().await;
    let requests = |kind, what| {
        samples
            .sum("roadstead_requests_total", &outcome(kind, what))
            .to_string()
    };
    assert_eq!(requests("blob", "miss"), "1");
    assert_eq!(requests("blob", "hit"), "1");
    assert_eq!(requests("manifest", "miss"), "1");
    assert_eq!(requests("manifest", "hit"), "1");
    assert_eq!(requests("manifest", "not_found"), "1");
    assert_eq!(requests("manifest", "error"), "0", "a misspelt name");
    assert_eq!(
        samples
            .sum("roadstead_client_bytes_total", blob)
            .to_string(),
        both.to_string()
    );
    let upstream = samples.sum(
        "roadstead_upstream_bytes_total",
        &[("upstream", "docker.io")],
    );
    assert!((300_000.0..320_000.0).contains(&upstream), "{upstream}");
    let answered = [
        ("upstream", "docker.io"),
        ("kind", "blob"),
        ("status", "200"),
    ];
    let count = samples.sum("roadstead_upstream_requests_total", &answered);
    assert_eq!(count.to_string(), "1");
    let first_bytes = [("kind", "blob"), ("outcome", "hit")];
    let count = samples.sum("roadstead_first_byte_seconds_count", &first_bytes);
    assert_eq!(count.to_string(), "1");
    assert!(samples.sum("roadstead_cache_bytes", &[]) >= 300_000.0);
    assert!(samples.sum("roadstead_cache_blobs", &[]) >= 1.0);
}

/// A misspelt name, a private repository and a limit are nobody's failure, and woke people as if they were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_asks_wrongly_is_no_error() {
    let registry = FakeRegistry::start().await;
    let image = images::image(92, &[300_000], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    let mirror = MirrorBuilder::of(&registry)
        .with(|config| config.tags.defaults.negative_ttl = Duration::from_mins(1))
        .start()
        .await;
    let blob = format!("/v2/team/app/blobs/{}", image.layers[0].digest);
    assert_eq!(mirror.get(&blob).await.status, 200);
    mirror.wait_for_fills().await;
    let tag = |name: &str| format!("/v2/team/app/manifests/{name}");
    let missing = format!("/v2/team/app/blobs/sha256:{}", "0".repeat(64));
    let found = [
        (tag("none"), 404, "fwd=miss; fwd-status=404"),
        (tag("none"), 404, "hit; detail=negative"),
        (missing.clone(), 404, "fwd=miss; fwd-status=404"),
        (missing, 404, "hit; detail=negative"),
        (
            "/v2/x/y/manifests/v1?ns=evil.example".to_owned(),
            404,
            "hit; detail=negative",
        ),
        (
            "/v2/UPPER/case/manifests/v1".to_owned(),
            400,
            "detail=invalid",
        ),
    ];
    for (path, status, said) in &found {
        let answer = mirror.get(path).await;
        let expected = format!("roadstead; {said}");
        assert_eq!(
            (answer.status, answer.header("cache-status")),
            (*status, &*expected),
            "{path}"
        );
    }
    assert_eq!(
        mirror
            .get_with(&blob, &[("Range", "bytes=300000-")])
            .await
            .status,
        416
    );
    let upstream = [
        (401, 403, "denied"),
        (403, 403, "denied"),
        (429, 429, "limited"),
        (500, 502, "error"),
    ];
    for (status, told, outcome) in upstream {
        registry.fault(Rule::all(Kind::Manifest), Fault::Status(status));
        let before = outcomes(&mirror, "manifest", outcome).await;
        let answer = mirror.get(&tag(&format!("t{status}"))).await;
        assert_eq!(answer.status, told);
        let expected = format!("roadstead; fwd=miss; fwd-status={status}");
        assert_eq!(answer.header("cache-status"), expected);
        let after = outcomes(&mirror, "manifest", outcome).await;
        assert_eq!(after - before, 1, "{status} is {outcome}");
        registry.heal();
    }
    assert_outcomes(&mirror).await;
    let status = mirror.admin.get("/api/v1/status").await.text();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let traffic = &status["traffic"];
    assert_eq!(traffic["not_found"], 4);
    assert_eq!(traffic["refused"], 4);
    assert_eq!(traffic["errors"], 1);
}

async fn assert_outcomes(mirror: &Mirror) {
    for (kind, outcome, count) in [
        ("manifest", "not_found", 2),
        ("manifest", "denied", 2),
        ("manifest", "limited", 1),
        ("manifest", "error", 1),
        ("blob", "not_found", 2),
        ("blob", "rejected", 1),
        ("blob", "error", 0),
    ] {
        assert_eq!(
            outcomes(mirror, kind, outcome).await,
            count,
            "{kind} {outcome}"
        );
    }
}

async fn outcomes(mirror: &Mirror, kind: &str, outcome: &str) -> u64 {
    let labels = [
        ("kind", kind),
        ("upstream", "docker.io"),
        ("outcome", outcome),
    ];
    let samples = mirror.metrics().await;
    let count = samples.sum("roadstead_requests_total", &labels);
    count.to_string().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstreams_limit_is_shown() {
    let world = world().await;
    world.registry.options(|options| {
        options.extra_headers = vec![
            ("ratelimit-limit", "100;w=21600".to_owned()),
            ("ratelimit-remaining", "76;w=21600".to_owned()),
        ];
    });
    world.pull().await;
    let samples = world.mirror.metrics().await;

    let remaining = samples.sum(
        "roadstead_upstream_ratelimit_remaining",
        &[("upstream", "docker.io")],
    );
    assert_eq!(remaining.to_string(), "76");
}

/// A gauge that creeps up is a leak of readers, fills or both, however requests end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_leaks() {
    let world = world().await;
    let blobs: Vec<Blob> = (0..10)
        .map(|seed| Blob::noise(900 + seed, 200_000))
        .collect();
    for (blob, at) in blobs.iter().zip(0..) {
        world.registry.put_blob("team/app", blob);
        if at % 2 == 0 {
            let rule = Rule::all(Kind::Blob).of(&blob.digest);
            world.registry.fault(rule, Fault::Cut(at * 10_000));
        }
    }
    let mut clients = JoinSet::new();
    for blob in blobs {
        for number in 0..4 {
            let (client, path) = (
                world.mirror.client,
                format!("/v2/team/app/blobs/{}", blob.digest),
            );
            clients.spawn(async move {
                if number == 0 {
                    client.head(&path).await;
                } else if number == 1 {
                    client.get_with(&path, &[("Range", "bytes=10-")]).await;
                } else {
                    client.get(&path).await;
                }
            });
        }
    }
    // One that goes away in the middle, and one that never reads.
    let mut leaves = world.mirror.open(&world.blob()).await;
    leaves.piece().await;
    drop(leaves);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    world
        .mirror
        .wait_for_metrics("readers and fills to end", |samples| {
            samples.sum("roadstead_readers_in_flight", &[]) == 0.0
                && samples.sum("roadstead_fills_in_flight", &[]) == 0.0
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gauges_show_what_is_under_way() {
    let world = world().await;
    let gate = world.registry.gate(&world.image.layers[0].digest);
    gate.release(128 * 1024);
    let mut readers = Vec::new();
    for _ in 0..3 {
        let mut reader = world.mirror.open(&world.blob()).await;
        reader.exactly(10).await;
        readers.push(reader);
    }
    let samples = world.mirror.metrics().await;
    assert_eq!(
        samples.sum("roadstead_readers_in_flight", &[]).to_string(),
        "3"
    );
    assert_eq!(
        samples.sum("roadstead_fills_in_flight", &[]).to_string(),
        "1"
    );
    gate.open();
    for mut reader in readers {
        reader.rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_told_on_the_admin_port_alone() {
    let world = world().await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(world.mirror.admin.get(path).await.status, 200, "{path}");
    }
    assert_eq!(world.mirror.admin.get("/nothing").await.status, 404);
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(
            world.mirror.get(path).await.status,
            404,
            "{path} on the client port"
        );
    }
    // Upstream being away is no reason to be taken out of service.
    world.registry.go_down().await;
    assert_eq!(world.mirror.admin.get("/readyz").await.status, 200);
}

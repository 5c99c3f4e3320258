//! The admin API: what an operator sees, removes and pins.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test says what it expects by failing, and owns its files and tasks"
)]

mod common;

use std::time::Duration;

use common::images::{Manifest, image, image_of, index};
use common::{Answer, Blob, Dialect, FakeRegistry, Image, Mirror, MirrorBuilder, World};
use http::Method;
use roadstead::mirror::Pattern;
use roadstead::store::Amount;
use serde_json::{Value, json};

const MIB: usize = 1 << 20;
/// What a command sends with what changes something.
const ADMIN: (&str, &str) = ("x-roadstead-admin", "1");

/// A question to the admin API and its answer.
async fn ask(mirror: &Mirror, method: Method, path: &str) -> (u16, Value) {
    let answer: Answer = mirror.admin.ask(method, path, &[ADMIN]).await;
    assert_eq!(answer.header("content-type"), "application/json", "{path}");
    let body = serde_json::from_slice(&answer.body);
    (
        answer.status,
        body.unwrap_or_else(|_| panic!("{path}: {}", answer.text())),
    )
}

async fn get(mirror: &Mirror, path: &str) -> Value {
    let (status, body) = ask(mirror, Method::GET, path).await;
    assert_eq!(status, 200, "{path}: {body}");
    body
}

async fn change(mirror: &Mirror, method: Method, path: &str) -> Value {
    let (status, body) = ask(mirror, method, path).await;
    assert_eq!(status, 200, "{path}: {body}");
    body
}

/// Pulls as containerd does.
async fn pull(mirror: &Mirror, upstream: &str, repository: &str, reference: &str, image: &Image) {
    let path = |kind: &str, what: &str| format!("/v2/{repository}/{kind}/{what}?ns={upstream}");
    let manifest = mirror.get(&path("manifests", reference)).await;
    assert_eq!(manifest.status, 200, "{}", manifest.text());
    if manifest.body != image.manifest.bytes {
        let manifest = mirror.get(&path("manifests", &image.manifest.digest)).await;
        manifest.assert_bytes(200, &image.manifest.bytes);
    }
    for blob in image.blobs() {
        let answer = mirror.get(&path("blobs", &blob.digest)).await;
        answer.assert_bytes(200, &blob.bytes);
    }
    mirror.wait_for_fills().await;
}

fn bytes_of(image: &Image) -> u64 {
    let blobs: usize = image.blobs().map(|blob| blob.bytes.len()).sum();
    (image.manifest.bytes.len() + blobs) as u64
}

/// Two images of one repository and one of another upstream, all with the same base layer.
struct Shared {
    hub: FakeRegistry,
    mirror: Mirror,
    base: Blob,
    one: Image,
    two: Image,
    other: Image,
}

async fn shared() -> Shared {
    let (hub, ghcr) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let base = Blob::noise(1, 300_000);
    let with_base = |seed, size| {
        image_of(
            seed,
            vec![base.clone(), Blob::noise(seed, size)],
            Dialect::Oci,
        )
    };
    let (one, two, other) = (
        with_base(11, 1000),
        with_base(12, 20_000),
        with_base(13, 7000),
    );
    hub.put_image("library/app", Some("1"), &one);
    hub.put_image("library/app", Some("2"), &two);
    ghcr.put_image("org/other", Some("v1"), &other);
    let mirror = MirrorBuilder::of(&hub)
        .upstream("ghcr.io", &ghcr, |_| {})
        .start()
        .await;
    pull(&mirror, "docker.io", "library/app", "1", &one).await;
    pull(&mirror, "docker.io", "library/app", "2", &two).await;
    pull(&mirror, "ghcr.io", "org/other", "v1", &other).await;
    Shared {
        hub,
        mirror,
        base,
        one,
        two,
        other,
    }
}

#[tokio::test]
async fn status_says_what_was_saved_and_how_upstreams_are() {
    let world = World::new().await;
    for _ in 0..3 {
        pull(
            &world.mirror,
            "docker.io",
            "library/nginx",
            "1.27",
            &world.image,
        )
        .await;
    }
    let status = get(&world.mirror, "/api/v1/status").await;
    let fetched = bytes_of(&world.image);
    let traffic = &status["traffic"];
    assert_eq!(
        (&traffic["pulls"], &traffic["hits"]),
        (&json!(12), &json!(8))
    );
    assert_eq!(traffic["client_bytes"], fetched * 3);
    assert_eq!(traffic["upstream_bytes"], fetched);
    assert_eq!(traffic["saved_bytes"], fetched * 2);
    assert!((traffic["byte_hit_ratio"].as_f64().unwrap() - 2.0 / 3.0).abs() < 1e-9);
    let cache = &status["cache"];
    let metrics = world.mirror.metrics().await;
    assert_eq!(cache["blob_bytes"], fetched);
    assert_eq!(cache["blobs"], 4);
    assert_eq!(cache["max_bytes"], 1_u64 << 30);
    let used = metrics.sum("roadstead_cache_bytes", &[]);
    assert!((cache["used_bytes"].as_f64().unwrap() - used).abs() < 0.5);
    assert_eq!(
        (&status["running"], &status["health"]),
        (&json!(true), &json!("ok"))
    );
    let hub = &status["upstreams"][0];
    assert_eq!(hub["name"], "docker.io");
    assert_eq!(hub["endpoints"][0]["up"], true);
    assert!(hub["endpoints"][0]["latency_seconds"].is_f64());
    assert_eq!(hub["traffic"]["hits"], 8);
    assert_eq!(status["upstreams"][1]["traffic"]["pulls"], 0);
    assert_eq!(status["dedup"]["ratio"], 1.0);
    world.mirror.clock.advance(Duration::from_mins(61));
    let status = get(&world.mirror, "/api/v1/status").await;
    assert_eq!(status["uptime_seconds"], 3660);
}

#[tokio::test]
async fn status_shows_transfers_under_way() {
    let world = World::new().await;
    let layer = world.layer().clone();
    let gate = world.hub.gate(&layer.digest);
    assert_eq!(
        world
            .mirror
            .get("/v2/library/nginx/manifests/1.27")
            .await
            .status,
        200
    );
    gate.release(5000);
    let path = format!("/v2/library/nginx/blobs/{}", layer.digest);
    let mut reader = world.mirror.open(&path).await;
    reader.exactly(4000).await;
    let status = get(&world.mirror, "/api/v1/status").await;
    let fill = &status["fills"][0];
    assert_eq!(fill["digest"], layer.digest);
    assert_eq!(fill["repository"], "docker.io/library/nginx");
    assert_eq!(fill["total_bytes"], layer.bytes.len());
    assert_eq!(fill["readers"], 1);
    let covered = fill["covered_bytes"].as_u64().unwrap();
    assert!((4000..=5000).contains(&covered), "{covered}");
    let seen = get(&world.mirror, "/api/v1/inspect?image=nginx:1.27").await;
    let part = &seen["manifests"][0]["parts"][2];
    assert_eq!(
        (&part["presence"], &part["kind"]),
        (&json!("partial"), &json!("layer"))
    );
    gate.open();
    reader.rest().await;
}

#[tokio::test]
async fn images_are_listed_page_by_page_with_tags_and_without() {
    let Shared {
        mirror,
        hub,
        one,
        two,
        other,
        ..
    } = shared().await;
    // The tag moves on; what it named before is known by its digest.
    let newer = image(14, &[500], Dialect::Oci);
    hub.put_image("library/app", Some("1"), &newer);
    mirror.clock.advance(Duration::from_mins(2));
    pull(&mirror, "docker.io", "library/app", "1", &newer).await;
    let expected = vec![
        (
            "docker.io/library/app:1".to_owned(),
            newer.manifest.digest.clone(),
        ),
        (
            "docker.io/library/app:2".to_owned(),
            two.manifest.digest.clone(),
        ),
        (
            format!("docker.io/library/app@{}", one.manifest.digest),
            one.manifest.digest.clone(),
        ),
        (
            "ghcr.io/org/other:v1".to_owned(),
            other.manifest.digest.clone(),
        ),
    ];
    let names = |page: &Value| -> Vec<(String, String)> {
        let images = page["images"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        images
            .map(|it| (text(&it["image"]), text(&it["digest"])))
            .collect()
    };
    let whole = get(&mirror, "/api/v1/images").await;
    assert_eq!(names(&whole), expected);
    assert_eq!(whole["next"], Value::Null);
    for limit in 1..=4 {
        let mut found = Vec::new();
        let mut after = String::new();
        loop {
            let page = get(&mirror, &format!("/api/v1/images?limit={limit}{after}")).await;
            found.extend(names(&page));
            assert!(found.len() <= expected.len());
            let Some(next) = page["next"].as_str() else {
                break;
            };
            after = format!("&after={next}");
        }
        assert_eq!(found, expected, "in pages of {limit}");
    }
    let listed = &whole["images"][1];
    assert_eq!(listed["platforms"][0]["platform"], "linux/amd64");
    assert_eq!(listed["presence"], "stored");
    assert_eq!(listed["stored_bytes"], bytes_of(&two));
    assert_eq!(listed["size_bytes"], bytes_of(&two));
    assert_eq!(listed["checked_at"], "2026-09-21T14:13:20Z");
    for (filter, count) in [
        ("docker.io", 3),
        ("ghcr.io/org", 1),
        ("app", 3),
        ("app:2", 1),
        ("x.io", 0),
        ("app:3", 0),
    ] {
        let page = get(&mirror, &format!("/api/v1/images?match={filter}")).await;
        assert_eq!(names(&page).len(), count, "{filter}");
    }
}

#[tokio::test]
async fn an_image_is_shown_with_what_of_it_is_stored() {
    let hub = FakeRegistry::start().await;
    let amd = image(1, &[1000, 2000], Dialect::Oci);
    let arm = image(2, &[2000], Dialect::Oci);
    for image in [&amd, &arm] {
        hub.put_image("library/tool", None, image);
    }
    let list: Manifest = index(&[(&amd, "amd64"), (&arm, "arm64")], Dialect::Oci);
    hub.put_manifest("library/tool", Some("1"), &list);
    let mirror = Mirror::of(&hub).await;
    pull(&mirror, "docker.io", "library/tool", "1", &amd).await;

    let used = get(&mirror, "/api/v1/images").await["images"][0]["used_at"].clone();
    mirror.clock.advance(Duration::from_mins(30));
    let seen = get(&mirror, "/api/v1/inspect?image=tool:1").await;
    assert_eq!(seen["image"], "docker.io/library/tool:1");
    let root = &seen["manifests"][0];
    assert_eq!(
        (&root["kind"], &root["digest"]),
        (&json!("index"), &json!(list.digest))
    );
    let [first, second] = root["parts"].as_array().unwrap().as_slice() else {
        panic!("{root}")
    };
    assert_eq!(
        (&first["platform"], &first["presence"]),
        (&json!("linux/amd64"), &json!("stored"))
    );
    assert_eq!(first["parts"][0]["config"]["architecture"], "amd64");
    assert_eq!(first["parts"][2]["size_bytes"], 2000);
    assert_eq!(first["parts"][2]["presence"], "stored");
    assert_eq!(
        (&second["platform"], &second["presence"]),
        (&json!("linux/arm64"), &json!("absent"))
    );
    assert_eq!(second["size_bytes"], arm.manifest.bytes.len());
    let tag = &seen["tags"][0];
    assert_eq!(tag["checked_at"], "2026-09-21T14:13:20Z");
    assert_eq!(tag["fresh_until"], "2026-09-21T14:14:20Z");
    assert_eq!(tag["stale_until"], "2026-09-21T15:14:20Z");
    let listed = get(&mirror, "/api/v1/images").await["images"][0].clone();
    let presences: Vec<_> = listed["platforms"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["presence"])
        .collect();
    assert_eq!(presences, ["stored", "absent"]);
    assert_eq!(listed["used_at"], used, "looking is no use");

    let (status, body) = ask(&mirror, Method::GET, "/api/v1/inspect?image=nothing:1").await;
    assert_eq!(status, 404);
    let told = body["error"].as_str().unwrap();
    assert!(
        told.contains("docker.io/library/nothing:1 is not in the cache"),
        "{told}"
    );
}

#[tokio::test]
async fn usage_adds_up_to_what_the_store_takes() {
    let Shared {
        mirror,
        base,
        one,
        two,
        other,
        ..
    } = shared().await;
    let usage = get(&mirror, "/api/v1/usage").await;
    let base = base.bytes.len() as u64;
    let app = bytes_of(&one) + bytes_of(&two) - base;
    let rows: Vec<Value> = usage["repositories"].as_array().unwrap().clone();
    let numbers = |row: &Value| {
        ["bytes", "exclusive_bytes", "shared_bytes"].map(|key| row[key].as_u64().unwrap())
    };
    assert_eq!(rows[0]["repository"], "library/app");
    assert_eq!(numbers(&rows[0]), [app, app - base, base]);
    assert_eq!(
        numbers(&rows[1]),
        [bytes_of(&other), bytes_of(&other) - base, base]
    );
    assert_eq!(numbers(&usage["upstreams"][0]), numbers(&rows[0]));
    let totals = &usage["totals"];
    let total = |key: &str| totals[key].as_u64().unwrap();
    assert_eq!(total("shared_bytes"), base);
    assert_eq!(total("exclusive_bytes"), app + bytes_of(&other) - 2 * base);
    assert_eq!((total("unlinked_bytes"), total("blobs")), (0, 10));
    let parts = [
        "exclusive_bytes",
        "shared_bytes",
        "unlinked_bytes",
        "reserved_bytes",
        "index_bytes",
    ];
    let sum: u64 = parts.map(total).iter().sum();
    assert_eq!(sum, total("used_bytes"));
    let files: u64 = [&one, &two, &other]
        .iter()
        .map(|it| bytes_of(it))
        .sum::<u64>()
        - 2 * base;
    assert_eq!(total("exclusive_bytes") + total("shared_bytes"), files);
    let metrics = mirror.metrics().await;
    let told = metrics.sum("roadstead_cache_bytes", &[]);
    assert!((total("used_bytes") as f64 - told).abs() < 0.5, "{told}");
    let dedup = &usage["dedup"];
    assert_eq!(dedup["linked_bytes"], files + base);
    assert_eq!(dedup["stored_bytes"], files);
    let part = get(&mirror, "/api/v1/usage?upstream=ghcr.io&limit=1").await;
    assert_eq!(part["repositories"].as_array().unwrap().len(), 1);
    assert_eq!(part["upstreams"].as_array().unwrap().len(), 1);
    assert_eq!(part["totals"], *totals);
}

#[tokio::test]
async fn removing_a_tag_frees_what_no_other_image_has() {
    let Shared {
        hub,
        mirror,
        base,
        one,
        two,
        ..
    } = shared().await;
    let before = get(&mirror, "/api/v1/status").await["cache"]["blob_bytes"]
        .as_u64()
        .unwrap();
    let exclusive = bytes_of(&one) - base.bytes.len() as u64;
    let path = "/api/v1/images?image=app:1";
    let told = change(&mirror, Method::DELETE, &format!("{path}&dry_run=true")).await;
    assert_eq!(told["freed_bytes"], exclusive);
    let status = get(&mirror, "/api/v1/status").await;
    assert_eq!(status["cache"]["blob_bytes"], before, "nothing was done");

    let done = change(&mirror, Method::DELETE, path).await;
    assert_eq!(done["freed_bytes"], exclusive);
    assert_eq!(
        (&done["removed_blobs"], &done["forgotten_tags"]),
        (&json!(3), &json!(["1"]))
    );
    assert_eq!(done["kept"]["shared_blobs"], 1);
    assert_eq!(done["kept"]["shared_bytes"], base.bytes.len());
    let status = get(&mirror, "/api/v1/status").await;
    assert_eq!(status["cache"]["blob_bytes"], before - exclusive);
    assert!(!mirror.blob_path(&one.config.digest).exists());
    let metrics = mirror.metrics().await;
    let removed = metrics.sum("roadstead_evicted_bytes_total", &[("reason", "removed")]);
    assert!((removed - exclusive as f64).abs() < 0.5);

    let (status, _) = ask(&mirror, Method::DELETE, path).await;
    assert_eq!(status, 404, "it is gone");
    // The other image is whole, and the removed one is fetched again.
    let asked = hub.counters().records.len();
    pull(&mirror, "docker.io", "library/app", "2", &two).await;
    assert_eq!(hub.counters().records.len(), asked);
    pull(&mirror, "docker.io", "library/app", "1", &one).await;
    assert_eq!(hub.counters().blob_gets(&one.config.digest), 2);
    assert_eq!(hub.counters().blob_gets(&base.digest), 1);
}

#[tokio::test]
async fn what_somebody_reads_is_not_removed() {
    let world = World::new().await;
    // Larger than what lies in the sockets.
    let big = image(7, &[4 * MIB], Dialect::Oci);
    world.hub.put_image("library/big", Some("1"), &big);
    pull(&world.mirror, "docker.io", "library/big", "1", &big).await;
    let layer = &big.layers[0];
    let mut reader = world
        .mirror
        .open(&format!("/v2/library/big/blobs/{}", layer.digest))
        .await;
    let begin = reader.exactly(1000).await;
    let done = change(&world.mirror, Method::DELETE, "/api/v1/images?image=big:1").await;
    assert_eq!(
        (&done["removed_blobs"], &done["kept"]["open_blobs"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(begin, layer.bytes[..1000]);
    reader.assert_rest_equals(&layer.bytes[1000..]).await;
    assert!(world.mirror.blob_path(&layer.digest).exists());
}

#[tokio::test]
async fn a_whole_repository_is_removed_but_for_its_pinned_images() {
    let Shared {
        mirror,
        base,
        one,
        two,
        other,
        ..
    } = shared().await;
    change(&mirror, Method::PUT, "/api/v1/pins?image=app:2").await;
    let (status, body) = ask(&mirror, Method::DELETE, "/api/v1/images?image=app:2").await;
    assert_eq!(status, 409);
    assert!(
        body["error"].as_str().unwrap().contains("unpin it first"),
        "{body}"
    );
    let done = change(&mirror, Method::DELETE, "/api/v1/images?image=app&all=true").await;
    assert_eq!(done["image"], "docker.io/library/app");
    assert_eq!(done["forgotten_tags"], json!(["1"]));
    assert_eq!(
        done["freed_bytes"],
        bytes_of(&one) - base.bytes.len() as u64
    );
    change(&mirror, Method::DELETE, "/api/v1/pins?image=app:2").await;
    change(&mirror, Method::DELETE, "/api/v1/images?image=app&all=true").await;
    let status = get(&mirror, "/api/v1/status").await;
    assert_eq!(status["cache"]["blob_bytes"], bytes_of(&other));
    assert!(!mirror.blob_path(&two.manifest.digest).exists());
    assert_eq!(
        get(&mirror, "/api/v1/images?match=app").await["images"],
        json!([])
    );
    let (status, _) = ask(&mirror, Method::DELETE, "/api/v1/images?image=app&all=true").await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn garbage_is_what_no_manifest_names() {
    let Shared {
        hub, mirror, one, ..
    } = shared().await;
    // Pulled without its manifest, as some tools do.
    let loose = Blob::noise(99, 5000);
    hub.put_blob("library/loose", &loose);
    let path = format!("/v2/library/loose/blobs/{}", loose.digest);
    mirror.get(&path).await.assert_bytes(200, &loose.bytes);
    mirror.wait_for_fills().await;
    let none = change(&mirror, Method::POST, "/api/v1/gc").await;
    assert_eq!(none["removed_blobs"], 0, "it was used a moment ago: {none}");
    mirror.clock.advance(Duration::from_mins(11));
    let told = change(&mirror, Method::POST, "/api/v1/gc?dry_run=true").await;
    assert_eq!(
        (&told["removed_blobs"], &told["freed_bytes"]),
        (&json!(1), &json!(5000))
    );
    assert!(mirror.blob_path(&loose.digest).exists());
    let done = change(&mirror, Method::POST, "/api/v1/gc").await;
    assert_eq!(
        (&done["removed_blobs"], &done["freed_bytes"]),
        (&json!(1), &json!(5000))
    );
    assert_eq!(
        (&done["stale_links"], &done["empty_repositories"]),
        (&json!(1), &json!(1))
    );
    assert!(!mirror.blob_path(&loose.digest).exists());
    assert!(
        one.blobs()
            .all(|blob| mirror.blob_path(&blob.digest).exists())
    );
    let again = change(&mirror, Method::POST, "/api/v1/gc").await;
    assert_eq!(
        (&again["removed_blobs"], &again["stale_links"]),
        (&json!(0), &json!(0))
    );
}

#[tokio::test]
async fn after_the_index_was_lost_garbage_collection_spares_what_manifests_name() {
    let Shared {
        mirror,
        one,
        two,
        other,
        ..
    } = shared().await;
    let mirror = mirror
        .restart_after(|dir| std::fs::remove_file(dir.join("index.redb")).unwrap())
        .await;
    mirror.clock.advance(Duration::from_hours(24));
    let done = change(&mirror, Method::POST, "/api/v1/gc").await;
    assert_eq!(done["removed_blobs"], 0, "{done}");
    for image in [&one, &two, &other] {
        assert!(
            image
                .blobs()
                .all(|blob| mirror.blob_path(&blob.digest).exists())
        );
    }
}

/// Pulls images of 3 MiB, one after the other, through a store of 16 MiB.
async fn crowd(hub: &FakeRegistry, mirror: &Mirror, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let image = image(seed, &[3 * MIB], Dialect::Oci);
        hub.put_image("library/crowd", Some(&seed.to_string()), &image);
        pull(
            mirror,
            "docker.io",
            "library/crowd",
            &seed.to_string(),
            &image,
        )
        .await;
        mirror.clock.advance(Duration::from_mins(1));
    }
}

#[tokio::test]
async fn pinned_images_outlive_evictions_and_restarts() {
    let hub = FakeRegistry::start().await;
    let (kept, ruled) = (
        image(1, &[MIB, MIB], Dialect::Oci),
        image(2, &[MIB], Dialect::Oci),
    );
    hub.put_image("library/kept", Some("1"), &kept);
    hub.put_image("library/ruled", Some("lts"), &ruled);
    let mirror = MirrorBuilder::of(&hub)
        .with(|config| {
            config.cache.max_size = Amount::Bytes(16 << 20);
            config.tags.pins = vec![Pattern::parse("docker.io/library/rul*:lts").unwrap()];
        })
        .start()
        .await;
    pull(&mirror, "docker.io", "library/kept", "1", &kept).await;
    pull(&mirror, "docker.io", "library/ruled", "lts", &ruled).await;
    let pin = change(&mirror, Method::PUT, "/api/v1/pins?image=kept:1").await;
    assert_eq!(
        (&pin["blobs"], &pin["stored_bytes"]),
        (&json!(4), &json!(bytes_of(&kept)))
    );
    mirror.clock.advance(Duration::from_mins(5));
    crowd(&hub, &mirror, 100..108).await;
    let is_there = |mirror: &Mirror, image: &Image| {
        image
            .blobs()
            .all(|blob| mirror.blob_path(&blob.digest).exists())
    };
    assert!(
        mirror
            .metrics()
            .await
            .sum("roadstead_evicted_bytes_total", &[("reason", "size")])
            > 1.0
    );
    assert!(is_there(&mirror, &kept) && is_there(&mirror, &ruled));

    let mirror = mirror.restart().await;
    crowd(&hub, &mirror, 110..118).await;
    assert!(is_there(&mirror, &kept) && is_there(&mirror, &ruled));
    let pins = get(&mirror, "/api/v1/pins").await;
    let told: Vec<_> = pins["pins"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pin| (&pin["image"], &pin["by_rule"]))
        .collect();
    assert_eq!(
        told,
        [
            (&json!("docker.io/library/kept:1"), &json!(false)),
            (&json!("docker.io/library/ruled:lts"), &json!(true)),
        ]
    );
    let status = get(&mirror, "/api/v1/status").await;
    assert_eq!(
        status["cache"]["pinned_bytes"],
        bytes_of(&kept) + bytes_of(&ruled)
    );
    let (status, body) = ask(&mirror, Method::DELETE, "/api/v1/pins?image=ruled:lts").await;
    assert_eq!(status, 409, "{body}");
    change(&mirror, Method::DELETE, "/api/v1/pins?image=kept:1").await;
    crowd(&hub, &mirror, 120..128).await;
    assert!(!is_there(&mirror, &kept) && is_there(&mirror, &ruled));
}

#[tokio::test]
async fn a_pinned_tag_takes_its_pin_along_when_it_moves() {
    let Shared {
        hub,
        mirror,
        base,
        one,
        ..
    } = shared().await;
    change(&mirror, Method::PUT, "/api/v1/pins?image=app:1").await;
    let newer = image(21, &[9000], Dialect::Oci);
    hub.put_image("library/app", Some("1"), &newer);
    mirror.clock.advance(Duration::from_mins(2));
    pull(&mirror, "docker.io", "library/app", "1", &newer).await;
    // A task of the mirror notices.
    let deadline = tokio::time::Instant::now() + common::WAIT_MAX;
    loop {
        let pins = get(&mirror, "/api/v1/pins").await;
        if pins["pins"][0]["stored_bytes"] == bytes_of(&newer) {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{pins}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let old = format!("/api/v1/images?image=app@{}", one.manifest.digest);
    let done = change(&mirror, Method::DELETE, &old).await;
    assert_eq!(
        done["freed_bytes"],
        bytes_of(&one) - base.bytes.len() as u64
    );
    assert_eq!(done["kept"]["pinned_blobs"], 0);
}

#[tokio::test]
async fn when_pins_take_everything_other_blobs_pass_through() {
    let hub = FakeRegistry::start().await;
    let (kept, other) = (
        image(1, &[6 * MIB, 5 * MIB], Dialect::Oci),
        image(2, &[4 * MIB], Dialect::Oci),
    );
    hub.put_image("library/kept", Some("1"), &kept);
    hub.put_image("library/other", Some("1"), &other);
    let mirror = MirrorBuilder::of(&hub)
        .with(|config| config.cache.max_size = Amount::Bytes(16 << 20))
        .start()
        .await;
    pull(&mirror, "docker.io", "library/kept", "1", &kept).await;
    change(&mirror, Method::PUT, "/api/v1/pins?image=kept:1").await;
    assert_eq!(
        mirror.get("/v2/library/other/manifests/1").await.status,
        200
    );
    let layer = &other.layers[0];
    let answer = mirror
        .get(&format!("/v2/library/other/blobs/{}", layer.digest))
        .await;
    answer.assert_bytes(200, &layer.bytes);
    assert_eq!(answer.header("cache-status"), "roadstead; fwd=bypass");
    assert!(
        kept.blobs()
            .all(|blob| mirror.blob_path(&blob.digest).exists())
    );
}

#[tokio::test]
async fn web_pages_and_other_names_are_refused_and_scrapers_are_not() {
    let world = World::new().await;
    let admin = &world.mirror.admin;
    let gc = |headers: &'static [(&str, &str)]| admin.ask(Method::POST, "/api/v1/gc", headers);
    for headers in [
        [ADMIN, ("origin", "https://evil.example")],
        [ADMIN, ("sec-fetch-site", "cross-site")],
        [ADMIN, ("host", "evil.example:5001")],
        [("content-type", "text/plain"), ("accept", "*/*")],
    ] {
        let answer = admin.ask(Method::POST, "/api/v1/gc", &headers).await;
        assert_eq!(answer.status, 403, "{headers:?}: {}", answer.text());
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        assert!(body["error"].is_string());
    }
    assert_eq!(
        gc(&[("content-type", "application/json")]).await.status,
        200
    );
    assert_eq!(gc(&[ADMIN]).await.status, 200);
    let rebound = [("host", "evil.example"), ("origin", "http://evil.example")];
    assert_eq!(admin.get_with("/api/v1/status", &rebound).await.status, 403);
    for path in ["/metrics", "/healthz", "/readyz"] {
        let named = [("host", "roadstead.monitoring.svc:5001")];
        assert_eq!(admin.get_with(path, &named).await.status, 200, "{path}");
    }
    for (method, path, status) in [
        (Method::POST, "/api/v1/gc?dryrun=true", 400),
        (Method::DELETE, "/api/v1/images", 400),
        (Method::DELETE, "/api/v1/images?image=UPPER%20CASE", 400),
        (Method::GET, "/api/v1/images?limit=many", 400),
        (Method::GET, "/api/v1/gc", 405),
        (Method::GET, "/api/v2/status", 404),
        (Method::PUT, "/api/v1/pins?image=nothing:1", 404),
    ] {
        let (found, body) = ask(&world.mirror, method, path).await;
        assert_eq!(found, status, "{path}: {body}");
    }
}

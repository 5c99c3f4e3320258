//! The admin API: what an operator sees, removes and pins.

mod change;
mod page;
mod pins;

use std::time::Duration;

use crate::common::images::{Manifest, image, image_of, index};
use crate::common::{
    ADMIN, Answer, Blob, Dialect, FakeRegistry, Image, Mirror, MirrorBuilder, World, within,
};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MIB: usize = 1 << 20;

/// It said \"ok\" while it was going away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_drains_says_so() {
    let registry = FakeRegistry::start().await;
    let blob = Blob::noise(7, 300_000);
    registry.put_blob("library/app", &blob);
    let gate = registry.gate(&blob.digest);
    gate.release(100_000);
    let mirror = MirrorBuilder::of(&registry)
        .with(|config| config.server.drain_timeout = Duration::from_mins(1))
        .start()
        .await;
    let path = format!("/v2/library/app/blobs/{}", blob.digest);
    let mut reader = mirror.open(&path).await;
    reader.exactly(1000).await;
    assert_eq!(get(&mirror, "/api/v1/status").await["health"], "ok");
    let admin = mirror.admin;
    let stopping = tokio::spawn(mirror.stop());
    let deadline = tokio::time::Instant::now() + crate::common::WAIT_MAX;
    while admin.get("/readyz").await.status != 503 {
        assert!(tokio::time::Instant::now() < deadline, "it never drains");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let status = admin.get("/api/v1/status").await.text();
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["health"], "draining");
    gate.open();
    reader.assert_rest_equals(&blob.bytes[1000..]).await;
    within("the end", stopping).await.unwrap();
}

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

/// The answer, once a number in it is that of `roadstead_cache_bytes`: the index grows behind the scenes.
async fn agreed(mirror: &Mirror, path: &str, pointer: &str) -> Value {
    let deadline = tokio::time::Instant::now() + crate::common::WAIT_MAX;
    loop {
        let body = get(mirror, path).await;
        let told = mirror.metrics().await.sum("roadstead_cache_bytes", &[]);
        let used = body.pointer(pointer).unwrap().as_f64().unwrap();
        if (used - told).abs() < 0.5 {
            return body;
        }
        assert!(tokio::time::Instant::now() < deadline, "{used} and {told}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
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
    let status = agreed(&world.mirror, "/api/v1/status", "/cache/used_bytes").await;
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
    assert_eq!(cache["blob_bytes"], fetched);
    assert_eq!(cache["blobs"], 4);
    assert_eq!(cache["max_bytes"], 1_u64 << 30);
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
    let image = image(31, &[5000, 4 * MIB], Dialect::Oci);
    world.hub.put_image("library/big", Some("1"), &image);
    let layer = image.layers[1].clone();
    let gate = world.hub.gate(&layer.digest);
    assert_eq!(
        world.mirror.get("/v2/library/big/manifests/1").await.status,
        200
    );
    gate.release(2 * MIB);
    let path = format!("/v2/library/big/blobs/{}", layer.digest);
    let mut reader = world.mirror.open(&path).await;
    reader.exactly(MIB).await;
    let status = get(&world.mirror, "/api/v1/status").await;
    let fill = &status["fills"][0];
    assert_eq!(fill["digest"], layer.digest);
    assert_eq!(fill["repository"], "docker.io/library/big");
    assert_eq!(fill["total_bytes"], layer.bytes.len());
    assert_eq!(fill["readers"], 1);
    let covered = fill["covered_bytes"].as_u64().unwrap();
    assert!(
        (MIB as u64..=2 * MIB as u64).contains(&covered),
        "{covered}"
    );
    let seen = get(&world.mirror, "/api/v1/inspect?image=big:1").await;
    let part = &seen["manifests"][0]["parts"][2];
    assert_eq!(
        (&part["presence"], &part["kind"]),
        (&json!("partial"), &json!("layer"))
    );
    gate.open();
    reader.rest().await;
}

#[track_caller]
fn assert_whole(listed: &Value, image: &Image) {
    assert_eq!(listed["platforms"][0]["platform"], "linux/amd64");
    assert_eq!(listed["presence"], "stored");
    assert_eq!(listed["stored_bytes"], bytes_of(image));
    assert_eq!(listed["size_bytes"], bytes_of(image));
    assert_eq!(listed["checked_at"], "2026-09-21T14:13:20Z");
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
    assert_whole(&whole["images"][1], &two);
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
    let usage = agreed(&mirror, "/api/v1/usage", "/totals/used_bytes").await;
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
    let dedup = &usage["dedup"];
    assert_eq!(dedup["linked_bytes"], files + base);
    assert_eq!(dedup["stored_bytes"], files);
    let part = get(&mirror, "/api/v1/usage?upstream=ghcr.io&limit=1").await;
    assert_eq!(part["repositories"].as_array().unwrap().len(), 1);
    assert_eq!(part["upstreams"].as_array().unwrap().len(), 1);
    assert_eq!(part["totals"]["shared_bytes"], totals["shared_bytes"]);
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

/// The paths of imports, and all of the API's but one, said 405 without `Allow`, which RFC 9110 section 15.5.6 demands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_method_comes_with_those_that_are_taken() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let digest = format!("sha256:{}", "0".repeat(64));
    for (path, allow) in [
        ("/healthz".to_owned(), "GET, HEAD"),
        ("/api/v1/status".to_owned(), "GET, HEAD"),
        ("/api/v1/images".to_owned(), "GET, HEAD, DELETE"),
        ("/api/v1/usage".to_owned(), "GET, HEAD"),
        ("/api/v1/inspect".to_owned(), "GET, HEAD"),
        ("/api/v1/pins".to_owned(), "GET, HEAD, PUT, DELETE"),
        ("/api/v1/gc".to_owned(), "POST"),
        ("/api/v1/refresh".to_owned(), "POST"),
        ("/api/v1/verify".to_owned(), "POST"),
        ("/api/v1/import/images".to_owned(), "POST"),
        (format!("/api/v1/import/blobs/{digest}"), "GET, HEAD, PUT"),
        (format!("/api/v1/import/manifests/{digest}"), "PUT"),
    ] {
        let answer = mirror.admin.ask(Method::PATCH, &path, &[ADMIN]).await;
        assert_eq!(answer.status, 405, "{path}: {}", answer.text());
        assert_eq!(answer.header("allow"), allow, "{path}");
    }
    let path = format!("/api/v1/import/blobs/{digest}");
    assert_eq!(mirror.admin.head(&path).await.status, 404);
}

/// The connection was closed under a client that was still sending, which then had no answer at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_is_refused_at_once_hears_why_all_the_same() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let digest = format!("sha256:{}", "0".repeat(64));
    let body = vec![b'x'; 24 * MIB];
    for (target, status) in [
        ("PUT /api/v1/import/blobs/sha256:no".to_owned(), "400"),
        (format!("POST /api/v1/import/blobs/{digest}"), "405"),
        (format!("PUT /api/v1/import/manifests/{digest}"), "400"),
    ] {
        let mut connection = TcpStream::connect(mirror.admin.0).await.unwrap();
        let head = format!(
            "{target} HTTP/1.1\r\nhost: localhost\r\nx-roadstead-admin: 1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        connection.write_all(head.as_bytes()).await.unwrap();
        let sent = within("the body to be taken", connection.write_all(&body)).await;
        assert!(sent.is_ok(), "{target}: {sent:?}");
        let mut answer = String::new();
        let read = within("the answer", connection.read_to_string(&mut answer)).await;
        assert!(read.is_ok(), "{target}: {read:?}");
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{target}: {answer}"
        );
    }
}

/// Over HTTP/2 the answer to HEAD had a body, which ends the stream with a protocol error (RFC 9113 section 8.1.1).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_over_http_2_is_answered_without_a_body() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let stream = TcpStream::connect(mirror.admin.0).await.unwrap();
    let connection = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = connection.await.unwrap();
    let connection = tokio::spawn(connection);
    for path in ["/metrics", "/readyz", "/api/v1/status", "/api/v1/nothing"] {
        let uri = format!("http://{}{path}", mirror.admin.0);
        let request = Request::head(uri).body(Empty::<Bytes>::new()).unwrap();
        let answer = within("an answer", sender.send_request(request)).await;
        let answer = answer.unwrap();
        let length = answer.headers()["content-length"].to_str().unwrap();
        assert!(length.parse::<u64>().unwrap() > 0, "{path}");
        let body = within("the end", answer.into_body().collect()).await;
        assert!(body.unwrap().to_bytes().is_empty(), "{path}");
    }
    connection.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_and_their_pulls_are_told() {
    let registry = FakeRegistry::start().await;
    let app = image(77, &[3000, 4000], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &app);
    let mirror = MirrorBuilder::of(&registry).start().await;
    let agent = [("user-agent", "containerd/2.0")];
    let manifest = mirror
        .client
        .get_with("/v2/team/app/manifests/v1", &agent)
        .await;
    manifest.assert_bytes(200, &app.manifest.bytes);
    for _ in 0..2 {
        let path = format!("/v2/team/app/blobs/{}", app.layers[0].digest);
        let blob = mirror.client.get_with(&path, &agent).await;
        blob.assert_bytes(200, &app.layers[0].bytes);
    }
    // A request has ended a moment after its last byte has arrived.
    let pull = within("three requests", async {
        loop {
            let pulls = get(&mirror, "/api/v1/pulls").await;
            if pulls["pulls"][0]["requests"] == 3 {
                return pulls["pulls"][0].clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(pull["image"], "docker.io/team/app:v1");
    assert_eq!(pull["digest"], app.manifest.digest);
    assert_eq!(pull["client"], "127.0.0.1");
    assert_eq!(pull["user_agent"], "containerd/2.0");
    let layer = app.layers[0].bytes.len();
    assert_eq!(pull["cache_bytes"], layer);
    assert_eq!(pull["upstream_bytes"], layer + app.manifest.bytes.len());
    assert!(pull["ended_at"].is_null(), "{pull}");
    let clients = get(&mirror, "/api/v1/clients?limit=5").await;
    assert_eq!(clients["clients"].as_array().unwrap().len(), 1);
    assert_eq!(clients["clients"][0]["requests"], 3);
    let refused = ask(&mirror, Method::POST, "/api/v1/clients").await;
    assert_eq!(refused.0, 405);
}

//! Clients that ask for more than others, and what the others notice of it: nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::common::images::{self, Blob};
use crate::common::{Dialect, FakeRegistry, Fault, Kind, Mirror, MirrorBuilder, Rule, within};
use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpSocket;
use tokio::sync::Semaphore;
use tokio::time::Instant;

const GREEDY: &str = "127.0.0.2:0";
const OTHER: &str = "127.0.0.3:0";

/// Longer than anything waits for somebody who has asked for less.
const SOON: Duration = Duration::from_secs(5);

/// The same beside some thousand streams of which each frame costs time, in a debug build, on a machine that does other
/// things as well: what counts there is that nobody is refused.
const AT_ALL: Duration = Duration::from_mins(1);

/// An HTTP/2 connection from an address of one's own.
#[derive(Clone)]
struct Connection(SendRequest<Empty<Bytes>>);

impl Connection {
    async fn open(mirror: &Mirror, from: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(from.parse::<SocketAddr>().unwrap()).unwrap();
        let stream = within("a connection", socket.connect(mirror.address())).await;
        let io = TokioIo::new(stream.unwrap());
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(async move {
            let _ended: Result<(), hyper::Error> = connection.await;
        });
        Self(sender)
    }

    async fn several(mirror: &Mirror, from: &str, count: usize) -> Vec<Self> {
        join_all((0..count).map(|_| Self::open(mirror, from))).await
    }

    /// Dropping it before it has ended resets the stream.
    async fn ask(&self, method: Method, path: &str) -> (u16, HeaderMap, Bytes) {
        let mut sender = self.0.clone();
        let request = Request::builder().method(method);
        let request = request.uri(format!("http://mirror.example{path}"));
        let request = request.body(Empty::new()).unwrap();
        sender.ready().await.unwrap();
        let response = sender.send_request(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (head.status.as_u16(), head.headers, body)
    }

    async fn get(&self, path: &str) -> (u16, HeaderMap, Bytes) {
        self.ask(Method::GET, path).await
    }
}

/// Two upstreams: one that does not answer before it is let, and one that is well.
async fn world() -> (FakeRegistry, Arc<Semaphore>, FakeRegistry, Mirror) {
    let slow = FakeRegistry::start().await;
    let gate = Arc::new(Semaphore::new(0));
    for kind in [Kind::Manifest, Kind::Blob, Kind::Tags, Kind::Referrers] {
        slow.fault(Rule::all(kind), Fault::Wait(Arc::clone(&gate)));
    }
    let well = FakeRegistry::start().await;
    let mirror = MirrorBuilder::of(&well)
        .upstream("slow.example", &slow, |upstream| {
            upstream.header_timeout = Duration::from_secs(20);
        })
        .start()
        .await;
    (slow, gate, well, mirror)
}

/// What the others want, and that they get it soon.
async fn others_notice_nothing(well: &FakeRegistry, mirror: &Mirror, seed: u64, soon: Duration) {
    let image = images::image(seed, &[100_000], Dialect::Oci);
    let tag = format!("v{seed}");
    well.put_image("team/app", Some(&tag), &image);
    let other = Connection::open(mirror, OTHER).await;
    let began = Instant::now();
    let (status, _, body) = other.get(&format!("/v2/team/app/manifests/{tag}")).await;
    assert_eq!((status, &body), (200, &image.manifest.bytes));
    let layer = &image.layers[0];
    let (status, _, body) = other
        .get(&format!("/v2/team/app/blobs/{}", layer.digest))
        .await;
    assert_eq!((status, &body), (200, &layer.bytes));
    let unknown = Blob::noise(seed + 1000, 10);
    well.put_blob("team/app", &unknown);
    let path = format!("/v2/team/app/blobs/{}", unknown.digest);
    assert_eq!(other.ask(Method::HEAD, &path).await.0, 200);
    assert_eq!(
        other
            .get(&format!("/v2/team/app/tags/list?n={seed}"))
            .await
            .0,
        200
    );
    let referrers = format!("/v2/team/app/referrers/{}", image.manifest.digest);
    assert_eq!(other.get(&referrers).await.0, 200);
    let took = began.elapsed();
    assert!(took < soon, "others waited {took:?}");
}

/// So many answers of each status; whoever is refused is told when to come back.
fn statuses(answers: &[(u16, HeaderMap, Bytes)]) -> BTreeMap<u16, usize> {
    let mut counts = BTreeMap::new();
    for (status, headers, body) in answers {
        *counts.entry(*status).or_default() += 1;
        if *status == 429 {
            let wait: u64 = headers["retry-after"].to_str().unwrap().parse().unwrap();
            assert!(wait >= 1);
            let envelope: serde_json::Value = serde_json::from_slice(body).unwrap();
            assert_eq!(envelope["errors"][0]["code"], "TOOMANYREQUESTS");
        }
    }
    counts
}

/// One HTTP/2 connection that asked and reset its streams filled the table of 4,096 questions in 1.8 s, when an upstream
/// was slow; then every other upstream's clients heard 503.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_that_are_reset_before_they_are_sent_are_dropped() {
    let (slow, gate, well, mirror) = world().await;
    let greedy = Connection::open(&mirror, GREEDY).await;
    // All of `max_connections` are in use.
    let held: Vec<_> = (0..64)
        .map(|tag| format!("/v2/slow.example/a/b/manifests/held-{tag}"))
        .collect();
    let mut held = join_all(held.iter().map(|path| greedy.get(path)));
    let sent = slow.wait_for("all connections to be in use", |seen| {
        seen.records.len() >= 64
    });
    tokio::select! {
        _ = &mut held => panic!("an upstream that does not answer"),
        () = sent => {}
    }
    // Fewer on each than would close it: what is taken back as fast as that has a limit of its own.
    let leavers = Connection::several(&mirror, GREEDY, 6).await;
    for batch in 0..60 {
        let leaver = &leavers[batch % leavers.len()];
        let paths: Vec<_> = (0..15)
            .map(|n| {
                let n = batch * 15 + n;
                match n % 4 {
                    0 => format!("/v2/slow.example/a/b/manifests/t{n}"),
                    1 => format!("/v2/slow.example/a/b/tags/list?n={n}"),
                    2 => format!("/v2/slow.example/a/b/referrers/sha256:{n:064x}"),
                    _ => format!("/v2/slow.example/a/b/blobs/sha256:{n:064x}"),
                }
            })
            .collect();
        let asked = join_all(paths.iter().map(|path| leaver.get(path)));
        // Long enough that they have arrived, and then they are reset.
        let ended = tokio::time::timeout(Duration::from_millis(15), asked).await;
        assert!(ended.is_err());
        assert_eq!(leaver.get("/v2/").await.0, 200);
    }
    others_notice_nothing(&well, &mirror, 1, SOON).await;
    // A transfer that was given up before it was sent has no place and no file.
    mirror.wait_for_fills().await;
    let before = slow.counters().records.len();
    assert!(
        before <= 70,
        "{before} requests, of which 64 wait for their answers"
    );
    gate.add_permits(1);
    held.await;
    // What follows is what would have waited before it.
    assert_eq!(
        greedy.get("/v2/slow.example/a/b/manifests/last").await.0,
        404
    );
    let after = slow.counters().records.len();
    assert!(
        after <= before + 10,
        "{after} requests: what nobody waited for was sent"
    );
}

/// Asks a slow upstream for all of `paths` at once, over so many connections of one address, until `refused` of them
/// have met `limit`. Others notice nothing; then the upstream answers. How many answers had which status.
async fn flood(
    connections: usize,
    paths: &[String],
    limit: &str,
    refused: f64,
) -> BTreeMap<u16, usize> {
    let (_slow, gate, well, mirror) = world().await;
    let greedy = Connection::several(&mirror, GREEDY, connections).await;
    let asked = paths
        .iter()
        .enumerate()
        .map(|(n, path)| greedy[n % connections].get(path));
    let asked = async { join_all(asked).await };
    let others = async {
        mirror
            .wait_for_metrics("the greedy to be refused", |samples| {
                samples.sum("roadstead_limited_total", &[("limit", limit)]) >= refused
            })
            .await;
        others_notice_nothing(&well, &mirror, 1, AT_ALL).await;
        assert_eq!(greedy[0].get("/v2/").await.0, 200);
        gate.add_permits(1);
    };
    let (answers, ()) = tokio::join!(asked, others);
    let counts = statuses(&answers);
    assert!(
        counts
            .keys()
            .all(|status| matches!(status, 404 | 429 | 504)),
        "{counts:?}"
    );
    counts
}

/// 525 GETs of different blobs filled the table of 512 transfers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_hundred_blobs_of_a_slow_upstream_keep_nobody_else_from_theirs() {
    let paths: Vec<_> = (0..600)
        .map(|n| format!("/v2/slow.example/a/b/blobs/sha256:{n:064x}"))
        .collect();
    let counts = flood(6, &paths, "transfers", 80.0).await;
    let refused = counts.get(&429).copied().unwrap_or_default();
    assert!(refused >= 88, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_thousand_tags_of_a_slow_upstream_keep_nobody_else_from_theirs() {
    let paths: Vec<_> = (0..4320)
        .map(|n| format!("/v2/slow.example/a/b/manifests/t{n}"))
        .collect();
    let counts = flood(36, &paths, "questions", 200.0).await;
    assert!(counts.contains_key(&429), "{counts:?}");
}

/// Behind a load balancer or an address translation everybody has one address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_may_have_everything_while_nobody_else_waits() {
    let well = FakeRegistry::start().await;
    let mirror = MirrorBuilder::new()
        .upstream("docker.io", &well, |upstream| {
            upstream.default = true;
            upstream.header_timeout = Duration::from_secs(20);
        })
        .start()
        .await;
    let blobs: Vec<_> = (0..80).map(|seed| Blob::noise(seed, 1000)).collect();
    for blob in &blobs {
        well.put_blob("team/app", blob);
    }
    let image = images::image(7, &[1000], Dialect::Oci);
    for tag in 0..120 {
        well.put_image("team/app", Some(&format!("t{tag}")), &image);
    }
    let connections = Connection::several(&mirror, GREEDY, 9).await;
    let blob_paths = blobs
        .iter()
        .map(|blob| format!("/v2/team/app/blobs/{}", blob.digest));
    let tag_paths = (0..120).map(|tag| format!("/v2/team/app/manifests/t{tag}"));
    let paths: Vec<_> = blob_paths.chain(tag_paths).collect();
    let asked = paths
        .iter()
        .enumerate()
        .map(|(n, path)| connections[n % 9].get(path));
    let counts = statuses(&join_all(asked).await);
    assert_eq!(counts, BTreeMap::from([(200, 200)]));
    let metrics = mirror.metrics().await;
    assert!(metrics.sum("roadstead_limited_total", &[]) < 1.0);
}

/// One client's transfers held all connections to an upstream for as long as they took.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_holds_all_connections_of_an_upstream_shares_them_when_others_come() {
    const BYTES: usize = 400_000;
    let registry = FakeRegistry::start().await;
    let mirror = MirrorBuilder::new()
        .upstream("docker.io", &registry, |upstream| {
            upstream.default = true;
            upstream.max_connections = 4;
            upstream.idle_timeout = Duration::from_mins(1);
            upstream.header_timeout = Duration::from_secs(20);
        })
        .start()
        .await;
    let blobs: Vec<_> = (0..6).map(|seed| Blob::noise(seed, BYTES)).collect();
    let gates: Vec<_> = blobs
        .iter()
        .map(|blob| registry.gate(&blob.digest))
        .collect();
    let greedy = Connection::open(&mirror, GREEDY).await;
    let paths: Vec<_> = blobs
        .iter()
        .map(|blob| {
            registry.put_blob("team/app", blob);
            format!("/v2/team/app/blobs/{}", blob.digest)
        })
        .collect();
    let asked = async { join_all(paths.iter().map(|path| greedy.get(path))).await };
    let others = async {
        for gate in &gates {
            gate.release(BYTES / 4);
        }
        registry
            .wait_for("four bodies", |seen| seen.records.len() >= 4)
            .await;
        others_notice_nothing(&registry, &mirror, 1, SOON).await;
        gates.iter().for_each(crate::common::Gate::open);
    };
    let (answers, ()) = tokio::join!(asked, others);
    for ((status, _, body), blob) in answers.iter().zip(&blobs) {
        assert_eq!(*status, 200);
        assert!(*body == blob.bytes, "what gave way was gone on with");
    }
}

/// Sixteen hops that one client made up, and the next mirror's 508 was everybody's who had joined it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_way_of_one_client_is_nothing_to_the_others() {
    let registry = FakeRegistry::start().await;
    let image = images::image(5, &[200_000], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    let gate = Arc::new(Semaphore::new(0));
    let second = Mirror::of(&registry).await;
    let first = MirrorBuilder::new()
        .upstream_at("docker.io", &second.url(), |upstream| {
            upstream.default = true;
        })
        .start()
        .await;
    for (path, expected) in [
        (
            "/v2/team/app/manifests/v1".to_owned(),
            &image.manifest.bytes,
        ),
        (
            format!("/v2/team/app/blobs/{}", image.layers[0].digest),
            &image.layers[0].bytes,
        ),
    ] {
        let kind = if path.contains("blobs") {
            Kind::Blob
        } else {
            Kind::Manifest
        };
        registry.heal();
        registry.reset();
        registry.fault(Rule::gets(kind), Fault::Wait(Arc::clone(&gate)));
        let via: Vec<_> = (0..16).map(|n| format!("1.1 roadstead-{n:016x}")).collect();
        let via = via.join(", ");
        let headers = [("via", via.as_str())];
        let mut leader = Box::pin(first.get_with(&path, &headers));
        let sent = registry.wait_for("the question", |seen| !seen.records.is_empty());
        tokio::select! {
            answer = &mut leader => panic!("{} {}", answer.status, answer.text()),
            () = sent => {}
        }
        let followers = join_all((0..5).map(|_| first.get(&path)));
        let release = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            gate.add_permits(1);
        };
        let (leader, followers, ()) = tokio::join!(leader, followers, release);
        leader.assert_bytes(200, expected);
        for follower in followers {
            follower.assert_bytes(200, expected);
        }
        gate.forget_permits(1);
    }
    // Seventeen are one client's own trouble.
    let via = vec!["1.1 proxy"; 17].join(", ");
    let answer = first
        .get_with("/v2/team/app/manifests/v1", &[("via", &via)])
        .await;
    assert_eq!(answer.status, 508);
    let via = "1.1 squid.example, 1.1 roadstead-00000000000000aa";
    let path = "/v2/team/app/tags/list";
    assert_eq!(first.get_with(path, &[("via", via)]).await.status, 200);
    let records = registry.counters().records;
    let last = records.last().unwrap().header("via").to_owned();
    assert!(
        last.starts_with("1.1 roadstead-00000000000000aa, 1.1 roadstead-")
            && !last.contains("squid"),
        "{last}"
    );
}

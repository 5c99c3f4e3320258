//! Traces: spans of pulls at a collector, and W3C Trace Context from the client to the upstream.

mod export;

use roadstead::otlp;
use roadstead::telemetry::trace::Ratio;

use crate::common::collector::{Collector, Span};
use crate::common::images::{self, Blob};
use crate::common::{Answer, Auth, Dialect, FakeRegistry, Image, Mirror, MirrorBuilder};

const INTERNAL: i32 = 1;
const SERVER: i32 = 2;
const CLIENT: i32 = 3;

/// Traces of clients, and the span that such a client has.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const OTHER: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00f067aa0ba902b7";

fn traceparent(trace: &str, flags: &str) -> String {
    format!("00-{trace}-{PARENT}-{flags}")
}

/// A mirror that traces this part of what its clients do not.
fn traced(registry: &FakeRegistry, collector: &Collector, sample: f64) -> MirrorBuilder {
    let url = collector.url().parse().unwrap();
    MirrorBuilder::of(registry).with(|config| {
        config.otlp = Some(Box::new(otlp::Config {
            sample: Ratio::of(sample).unwrap(),
            ..otlp::Config::at(url)
        }));
    })
}

async fn registry() -> (FakeRegistry, Image) {
    let registry = FakeRegistry::start().await;
    let image = images::image(71, &[9000], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    (registry, image)
}

fn manifest() -> String {
    "/v2/team/app/manifests/v1".to_owned()
}

fn blob(blob: &Blob) -> String {
    format!("/v2/team/app/blobs/{}", blob.digest)
}

async fn pull(mirror: &Mirror, path: &str, trace: &str, flags: &str) {
    let parent = traceparent(trace, flags);
    let answer = mirror.get_with(path, &[("traceparent", &parent)]).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// The one span of this kind and name.
#[track_caller]
fn one<'s>(spans: &'s [Span], kind: i32, name: &str) -> &'s Span {
    let fits = |span: &&Span| span.kind == kind && span.name == name;
    let found: Vec<&Span> = spans.iter().filter(fits).collect();
    assert_eq!(found.len(), 1, "{name} in {spans:#?}");
    found[0]
}

const GET_MANIFEST: &str = "GET /v2/{name}/manifests/{reference}";
const GET_BLOB: &str = "GET /v2/{name}/blobs/{digest}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_pull_is_one_trace_from_the_client_to_the_upstream() {
    let (registry, image) = registry().await;
    registry.options(|options| options.auth = Auth::anonymous_token());
    let collector = Collector::start();
    let mirror = traced(&registry, &collector, 0.0).start().await;
    let parent = traceparent(TRACE, "01");
    let headers = [
        ("traceparent", parent.as_str()),
        ("tracestate", "vendor=1"),
        ("user-agent", "docker/1"),
        ("host", "mirror.corp:5000"),
    ];
    let path = format!("{}?ns=docker.io", manifest());
    let answer = mirror.get_with(&path, &headers).await;
    answer.assert_bytes(200, &image.manifest.bytes);
    let spans = collector.spans_of(TRACE, 5).await;

    let server = one(&spans, SERVER, GET_MANIFEST);
    says_what_was_asked(server, &answer, &image);
    asked_for(&spans, &server.id, &registry, &image);
    for span in &spans {
        for (key, value) in &span.attributes {
            let text = format!("{value:?}");
            let is_query = text.contains("ns=") || text.contains("scope=");
            assert!(!is_query, "{key}: {text}");
        }
    }

    // Each request to the registry and its token server belonged to the span that is about it.
    let mut told: Vec<String> = registry
        .counters()
        .records
        .iter()
        .map(|record| {
            assert_eq!(record.header("tracestate"), "vendor=1");
            record.header("traceparent").to_owned()
        })
        .collect();
    let clients = spans.iter().filter(|span| span.kind == CLIENT);
    let mut expected: Vec<String> = clients.map(Span::traceparent).collect();
    told.sort();
    expected.sort();
    assert_eq!(told, expected);
    let (_, path) = &collector.seen().requests[0];
    assert_eq!(path, "/v1/traces");
}

/// The span of the client's request.
fn says_what_was_asked(server: &Span, answer: &Answer, image: &Image) {
    assert_eq!(server.parent, PARENT);
    assert_eq!(
        (&*server.service, &*server.state),
        ("roadstead", "vendor=1")
    );
    let cache_status = answer.header("cache-status");
    let id = answer.header("x-request-id");
    for (key, value) in [
        ("http.request.method", "GET"),
        ("http.route", "/v2/{name}/manifests/{reference}"),
        ("url.path", "/v2/team/app/manifests/v1"),
        ("url.scheme", "http"),
        ("server.address", "mirror.corp"),
        ("client.address", "127.0.0.1"),
        ("network.protocol.version", "1.1"),
        ("user_agent.original", "docker/1"),
        ("roadstead.upstream", "docker.io"),
        ("roadstead.repository", "team/app"),
        ("roadstead.reference", "v1"),
        ("roadstead.digest", &image.manifest.digest),
        ("roadstead.outcome", "miss"),
        ("roadstead.cache_status", cache_status),
        ("roadstead.request_id", id),
        ("roadstead.ended", "complete"),
        ("error.type", ""),
    ] {
        assert_eq!(server.text(key), value, "{key}");
    }
    let length = i64::try_from(image.manifest.bytes.len()).unwrap();
    for (key, value) in [
        ("http.response.status_code", 200),
        ("server.port", 5000),
        ("http.response.body.size", length),
        ("roadstead.bytes.upstream", length),
        ("roadstead.bytes.cache", 0),
    ] {
        assert_eq!(server.number(key), Some(value), "{key}");
    }
    assert!(!server.is_error && server.nanoseconds > 0);
}

/// The spans of the requests to the upstream, and of what was made of them.
fn asked_for(spans: &[Span], server: &str, registry: &FakeRegistry, image: &Image) {
    let length = i64::try_from(image.manifest.bytes.len()).unwrap();
    let token = one(spans, CLIENT, "GET token");
    let commit = one(spans, INTERNAL, "store commit");
    let asked: Vec<&Span> = spans
        .iter()
        .filter(|span| span.name == "GET manifest")
        .collect();
    let statuses: Vec<_> = asked
        .iter()
        .map(|span| span.number("http.response.status_code").unwrap())
        .collect();
    assert_eq!(statuses, [401, 200], "the challenge, and the manifest");
    for span in [token, commit].into_iter().chain(asked.iter().copied()) {
        assert_eq!(span.parent, server, "{span:?}");
        assert!(!span.is_error, "{span:?}");
    }
    let (host, port) = (registry.authority(), token.number("server.port").unwrap());
    assert_eq!(host, format!("{}:{port}", token.text("server.address")));
    assert_eq!(asked[1].text("url.path"), "/v2/team/app/manifests/v1");
    assert_eq!(asked[1].text("roadstead.upstream"), "docker.io");
    assert_eq!(asked[1].number("http.response.body.size"), Some(length));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fill_is_one_span_and_its_readers_are_linked_to_it() {
    let (registry, _) = registry().await;
    let large = Blob::noise(72, 1 << 20);
    registry.put_blob("team/app", &large);
    let collector = Collector::start();
    let mirror = traced(&registry, &collector, 0.0).start().await;
    let gate = registry.gate(&large.digest);
    gate.release(200_000);
    let open = async |trace: &str| {
        let parent = traceparent(trace, "01");
        let headers = [("traceparent", parent.as_str())];
        mirror.client.open(&blob(&large), &headers).await
    };
    let mut first = open(TRACE).await;
    first.exactly(1000).await;
    let mut second = open(OTHER).await;
    assert_eq!(
        second.headers["cache-status"],
        "roadstead; fwd=miss; collapsed"
    );
    second.exactly(1000).await;
    gate.open();
    first.assert_rest_equals(&large.bytes[1000..]).await;
    second.assert_rest_equals(&large.bytes[1000..]).await;

    let spans = collector.spans_of(TRACE, 4).await;
    let reader = one(&spans, SERVER, GET_BLOB);
    let fill = one(&spans, INTERNAL, "fill");
    assert_eq!(fill.parent, reader.id);
    assert_eq!(fill.text("roadstead.digest"), large.digest);
    assert_eq!(fill.number("roadstead.blob.size"), Some(1 << 20));
    for (kind, name) in [(CLIENT, "GET blob"), (INTERNAL, "store commit")] {
        assert_eq!(one(&spans, kind, name).parent, fill.id, "{name}");
    }
    let upstream = one(&spans, CLIENT, "GET blob");
    assert_eq!(upstream.number("http.response.body.size"), Some(1 << 20));
    let others = collector.spans_of(OTHER, 1).await;
    let [other] = others.as_slice() else {
        panic!("a second fill: {others:#?}")
    };
    let linked = [(TRACE.to_owned(), fill.id.clone())];
    assert_eq!(reader.links, linked);
    assert_eq!(other.links, linked);
    for span in [reader, other] {
        let bytes = |key: &str| span.number(key).unwrap();
        let (cache, upstream) = ("roadstead.bytes.cache", "roadstead.bytes.upstream");
        assert_eq!(bytes(cache) + bytes(upstream), 1 << 20, "{span:?}");
        assert!(bytes(upstream) >= (1 << 20) - 200_000, "{span:?}");
    }
    assert_eq!(other.text("roadstead.outcome"), "collapsed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warm_pull_has_no_span_of_an_upstream() {
    let (registry, image) = registry().await;
    let collector = Collector::start();
    let mirror = traced(&registry, &collector, 0.0).start().await;
    let layer = &image.layers[0];
    for path in [manifest(), blob(layer)] {
        assert_eq!(mirror.get(&path).await.status, 200);
    }
    mirror.wait_for_fills().await;
    pull(&mirror, &blob(layer), TRACE, "01").await;
    pull(&mirror, &manifest(), TRACE, "01").await;
    let spans = collector.spans_of(TRACE, 2).await;
    assert_eq!(spans.len(), 2, "{spans:#?}");
    let length = i64::try_from(layer.bytes.len()).unwrap();
    let server = one(&spans, SERVER, GET_BLOB);
    assert_eq!(server.text("roadstead.cache_status"), "roadstead; hit");
    assert_eq!(server.number("roadstead.bytes.cache"), Some(length));
    assert_eq!(server.number("roadstead.bytes.upstream"), Some(0));
    assert_eq!(server.links, []);
    let all = collector.seen().spans;
    assert_eq!(all.len(), 2, "what no client traces is not: {all:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_traceparent_begins_a_new_trace() {
    let (registry, _) = registry().await;
    let collector = Collector::start();
    let mirror = traced(&registry, &collector, 1.0).start().await;
    let bad = format!("00-{}-{PARENT}-01", TRACE.to_uppercase());
    let headers = [("traceparent", bad.as_str()), ("tracestate", "vendor=1")];
    let answer = mirror.get_with(&manifest(), &headers).await;
    assert_eq!(answer.status, 200);
    let is_there = |span: &Span| span.kind == SERVER;
    let seen = collector
        .wait_for("a span", |seen| seen.spans.iter().any(is_there))
        .await;
    let server = one(&seen.spans, SERVER, GET_MANIFEST);
    assert_eq!((&*server.parent, &*server.state), ("", ""));
    assert_ne!(server.trace, TRACE);
    let records = registry.counters().records;
    let told = records[0].header("traceparent");
    assert!(told.contains(&server.trace), "{told}");
    assert_eq!(records[0].header("tracestate"), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_record_is_not_recorded() {
    let (registry, image) = registry().await;
    let collector = Collector::start();
    let mirror = traced(&registry, &collector, 1.0).start().await;
    pull(&mirror, &manifest(), OTHER, "00").await;
    let records = registry.counters().records;
    assert_eq!(
        records[0].header("traceparent"),
        traceparent(OTHER, "00"),
        "it goes along as it came"
    );
    pull(&mirror, &blob(&image.layers[0]), TRACE, "01").await;
    collector.spans_of(TRACE, 3).await;
    let seen = collector.seen();
    assert_eq!(seen.of(OTHER), [], "the first one is exported first");
}

/// Object storage and content delivery networks are nobody's to trace, and their URLs are secrets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_an_upstream_redirects_hears_nothing_of_the_trace() {
    let (registry, image) = registry().await;
    let cdn = FakeRegistry::start_on("127.0.0.2").await;
    let layer = &image.layers[0];
    cdn.put_blob("team/app", layer);
    registry.options(|options| options.redirect_blobs = Some(cdn.url()));
    let collector = Collector::start();
    let mirror = traced(&registry, &collector, 0.0).start().await;
    pull(&mirror, &blob(layer), TRACE, "01").await;
    let spans = collector.spans_of(TRACE, 5).await;
    let records = cdn.counters().records;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].header("traceparent"), "");
    let at_cdn = |span: &&Span| span.text("server.address") == "127.0.0.2";
    let found: Vec<&Span> = spans.iter().filter(at_cdn).collect();
    let [span] = found.as_slice() else {
        panic!("{spans:#?}")
    };
    assert_eq!(span.number("http.response.status_code"), Some(200));
    assert_eq!(span.text("url.path"), "");
    let text = format!("{span:?}");
    assert!(!text.contains("/cdn/"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_fails_is_an_error_in_the_trace() {
    let (registry, _) = registry().await;
    registry.go_down().await;
    let collector = Collector::start();
    let mirror = traced(&registry, &collector, 0.0).start().await;
    let parent = traceparent(TRACE, "01");
    let answer = mirror
        .get_with(&manifest(), &[("traceparent", &parent)])
        .await;
    assert_eq!(answer.status, 502);
    let is_there = |span: &Span| span.kind == SERVER;
    let seen = collector
        .wait_for("a span", |seen| seen.spans.iter().any(is_there))
        .await;
    let server = one(&seen.spans, SERVER, GET_MANIFEST);
    assert!(server.is_error);
    assert_eq!(server.text("error.type"), "502");
    let tried = seen.spans.iter().find(|span| span.kind == CLIENT).unwrap();
    assert!(tried.is_error);
    assert_eq!(tried.text("error.type"), "connect");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_collector_no_trace_goes_along() {
    let (registry, image) = registry().await;
    let mirror = Mirror::of(&registry).await;
    pull(&mirror, &manifest(), TRACE, "01").await;
    pull(&mirror, &blob(&image.layers[0]), TRACE, "01").await;
    let records = registry.counters().records;
    assert!(records.len() >= 2);
    for record in records {
        assert_eq!(record.header("traceparent"), "", "{record:?}");
    }
}

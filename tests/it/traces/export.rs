//! The export: whatever the collector does, pulls go on.

use std::io::Read as _;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::common::collector::Reply;
use crate::common::{ADMIN, Client};
use crate::process::Process;
use crate::tls::pki::Authority;
use http::Method;

async fn dropped(mirror: &Mirror, reason: &str) -> f64 {
    let samples = mirror.metrics().await;
    samples.sum("roadstead_traces_dropped_total", &[("reason", reason)])
}

/// Exports again once the collector takes them: the spans of a new pull arrive.
async fn recovers(mirror: &Mirror, collector: &Collector) {
    pull(mirror, &manifest(), OTHER, "01").await;
    collector.spans_of(OTHER, 1).await;
    mirror
        .wait_for_metrics("spans that count as exported", |samples| {
            samples.sum("roadstead_traces_exported_total", &[]) > 0.0
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_down_costs_spans_alone() {
    let (registry, _) = registry().await;
    let collector = Collector::down();
    let mirror = traced(&registry, &collector, 0.0).start().await;
    pull(&mirror, &manifest(), TRACE, "01").await;
    mirror
        .wait_for_metrics("spans to be dropped", |samples| {
            let reason = [("reason", "unreachable")];
            samples.sum("roadstead_traces_dropped_total", &reason) >= 3.0
        })
        .await;
    let samples = mirror.metrics().await;
    assert_eq!(samples.sum("roadstead_traces_exported_total", &[]), 0.0);
    collector.comes_up();
    recovers(&mirror, &collector).await;
    assert_eq!(collector.seen().of(TRACE), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_refuses_is_asked_again_with_other_spans() {
    let (registry, _) = registry().await;
    let collector = Collector::start();
    collector.replies(Reply::Status(500, Some(1)));
    let mirror = traced(&registry, &collector, 0.0).start().await;
    pull(&mirror, &manifest(), TRACE, "01").await;
    mirror
        .wait_for_metrics("spans to be dropped", |samples| {
            let reason = [("reason", "refused")];
            samples.sum("roadstead_traces_dropped_total", &reason) >= 3.0
        })
        .await;
    collector.replies(Reply::Take);
    recovers(&mirror, &collector).await;
    assert_eq!(collector.seen().of(TRACE), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_busy_gets_the_same_spans_later() {
    let (registry, _) = registry().await;
    let collector = Collector::start();
    collector.replies(Reply::Status(429, Some(1)));
    let mirror = traced(&registry, &collector, 0.0).start().await;
    pull(&mirror, &manifest(), TRACE, "01").await;
    collector
        .wait_for("the first attempt", |seen| !seen.requests.is_empty())
        .await;
    pull(&mirror, &manifest(), OTHER, "01").await;
    collector.replies(Reply::Take);
    let spans = collector.spans_of(TRACE, 3).await;
    one(&spans, SERVER, GET_MANIFEST);
    collector.spans_of(OTHER, 1).await;
    for reason in ["full", "limit", "refused", "unreachable"] {
        assert_eq!(dropped(&mirror, reason).await, 0.0, "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_silent_holds_nobody_up() {
    let (registry, image) = registry().await;
    let collector = Collector::start();
    collector.replies(Reply::Hang);
    let mirror = traced(&registry, &collector, 1.0)
        .with(|config| {
            let otlp = config.otlp.as_mut().unwrap();
            otlp.timeout = Duration::from_millis(300);
        })
        .start()
        .await;
    pull(&mirror, &manifest(), TRACE, "01").await;
    collector
        .wait_for("an attempt", |seen| !seen.requests.is_empty())
        .await;
    for _ in 0..100 {
        assert_eq!(mirror.get(&blob(&image.layers[0])).await.status, 200);
    }
    collector.replies(Reply::Take);
    recovers(&mirror, &collector).await;
    collector.replies(Reply::Hang);
    pull(&mirror, &manifest(), TRACE, "01").await;
    // It ends, though nobody takes the last spans.
    mirror.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_over_https_is_trusted_by_the_authority_of_ca_file_alone() {
    let (registry, _) = registry().await;
    let dir = TempDir::new().unwrap();
    let authority = Authority::new("collectors");
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, authority.pem()).unwrap();
    let collector = Collector::secure(authority.host(&["127.0.0.1"]).acceptor());
    let strict = traced(&registry, &collector, 0.0).start().await;
    pull(&strict, &manifest(), TRACE, "01").await;
    strict
        .wait_for_metrics("spans to be dropped", |samples| {
            let reason = [("reason", "unreachable")];
            samples.sum("roadstead_traces_dropped_total", &reason) >= 3.0
        })
        .await;
    assert!(collector.seen().requests.is_empty());
    let mirror = traced(&registry, &collector, 0.0)
        .with(|config| config.otlp.as_mut().unwrap().ca_file = Some(ca_file))
        .start()
        .await;
    pull(&mirror, &manifest(), OTHER, "01").await;
    let spans = collector.spans_of(OTHER, 3).await;
    one(&spans, SERVER, GET_MANIFEST);
    assert_eq!(collector.seen().of(TRACE), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_that_are_rejected_are_counted() {
    let (registry, _) = registry().await;
    let collector = Collector::start();
    collector.replies(Reply::Reject(2));
    let mirror = traced(&registry, &collector, 0.0).start().await;
    pull(&mirror, &manifest(), TRACE, "01").await;
    let spans = collector.spans_of(TRACE, 3).await;
    mirror
        .wait_for_metrics("the answer to be read", |samples| {
            samples.sum("roadstead_traces_exported_total", &[]) > 0.0
        })
        .await;
    let samples = mirror.metrics().await;
    let exported = samples.sum("roadstead_traces_exported_total", &[]);
    let rejected = dropped(&mirror, "refused").await;
    assert_eq!(rejected % 2.0, 0.0, "two of each request");
    assert!(spans.len() >= 3 && rejected > 0.0 && exported + rejected >= 3.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_spans_are_exported_before_the_end() {
    let (registry, _) = registry().await;
    let collector = Collector::start();
    let mirror = traced(&registry, &collector, 0.0).start().await;
    pull(&mirror, &manifest(), TRACE, "01").await;
    mirror.stop().await;
    let spans = collector.seen().of(TRACE);
    one(&spans, SERVER, GET_MANIFEST);
}

/// The real program with a file that can be written again.
struct Server {
    process: Process,
    client: Client,
    admin: Client,
}

impl Server {
    fn start(registry: &FakeRegistry, text: &str) -> Self {
        let dir = TempDir::new().unwrap();
        write(&dir, registry, text);
        let mut process = Process::start(dir, &["serve", "--config", "config.toml"]);
        let (client, admin, _output) = process.ready();
        Self {
            process,
            client,
            admin,
        }
    }

    async fn reload(&self, registry: &FakeRegistry, text: &str) -> Vec<String> {
        write(&self.process.dir, registry, text);
        let answer = self
            .admin
            .ask(Method::POST, "/api/v1/reload", &[ADMIN])
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let answer: Value = serde_json::from_str(&answer.text()).unwrap();
        assert_eq!(answer["after_restart"], serde_json::json!([]));
        let changes = answer["applied"].as_array().unwrap();
        let keys = changes.iter().map(|it| it["key"].as_str().unwrap());
        keys.map(str::to_owned).collect()
    }

    async fn pull(&self, trace: &str) {
        let parent = traceparent(trace, "01");
        let headers = [("traceparent", parent.as_str())];
        let answer = self.client.get_with(&manifest(), &headers).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// Ends it, and gives all that it has logged.
    fn end(mut self) -> String {
        self.process.signal(Signal::TERM);
        assert!(self.process.wait().success());
        let mut log = String::new();
        let mut errors = self.process.child.stderr.take().unwrap();
        errors.read_to_string(&mut log).unwrap();
        log
    }
}

fn write(dir: &TempDir, registry: &FakeRegistry, text: &str) {
    let (root, url) = (dir.path().display(), registry.url());
    // Asked each time.
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n[tags]\nttl = \"0s\"\n\
         [upstream.\"docker.io\"]\nendpoints = [{url:?}]\n[state]\ndir = \"{root}/state\"\n\
         [cache]\ndir = \"{root}/cache\"\n{text}"
    );
    std::fs::write(dir.path().join("config.toml"), text).unwrap();
}

fn otlp(collector: &Collector, more: &str) -> String {
    let url = collector.url();
    format!("[telemetry.otlp]\nendpoint = {url:?}\n{more}\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_begins_changes_and_ends_the_export() {
    let (registry, _) = registry().await;
    let (first, second) = (Collector::start(), Collector::start());
    let server = Server::start(&registry, "");
    let trace = |number: u8| format!("{number:032x}");
    server.pull(&trace(1)).await;
    let began = server.reload(&registry, &otlp(&first, "")).await;
    assert!(
        began.contains(&"telemetry.otlp.endpoint".to_owned()),
        "{began:?}"
    );
    server.pull(&trace(2)).await;
    first.spans_of(&trace(2), 2).await;
    let secret = otlp(&second, "headers = { x-token = \"hunter2\" }");
    server.reload(&registry, &secret).await;
    server.pull(&trace(3)).await;
    second.spans_of(&trace(3), 2).await;
    // A secret alone has changed, and is not told.
    let other = otlp(&second, "headers = { x-token = \"hunter3\" }");
    let changed = server.reload(&registry, &other).await;
    assert_eq!(changed, ["telemetry.otlp.headers"]);
    server.pull(&trace(4)).await;
    second.spans_of(&trace(4), 2).await;
    let tokens = |token: &str| {
        let requests = second.seen().requests;
        let has = |headers: &http::HeaderMap| headers["x-token"] == token;
        requests.iter().filter(|(headers, _)| has(headers)).count()
    };
    assert!(tokens("hunter2") > 0 && tokens("hunter3") > 0);
    registry.reset();
    server.reload(&registry, "").await;
    server.pull(&trace(5)).await;
    let records = registry.counters().records;
    assert_eq!(records.last().unwrap().header("traceparent"), "");
    let log = server.end();
    assert!(!log.contains("hunter"), "{log}");
    for (collector, expected) in [(&first, vec![2]), (&second, vec![3, 4])] {
        let spans = collector.seen().spans;
        let traces = spans.iter().map(|span| span.trace.clone());
        let traces: std::collections::BTreeSet<String> = traces.collect();
        let expected = expected.into_iter().map(trace).collect();
        assert_eq!(traces, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_reach_the_collector_and_nobody_else() {
    let (registry, _) = registry().await;
    let collector = Collector::start();
    let server = {
        let more = "headers = { Authorization = \"Bearer hunter2\" }\nheaders_file = \"more\"\n\
            [log]\nlevel = \"trace,hyper=trace\"";
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("more"), "# more\nX-Tenant: hunter4\n").unwrap();
        write(&dir, &registry, &otlp(&collector, more));
        let mut process = Process::start(dir, &["serve", "--config", "config.toml"]);
        let (client, admin, _output) = process.ready();
        Server {
            process,
            client,
            admin,
        }
    };
    let mut log = server.process.dir.path().to_owned();
    log.push("config.toml");
    let check = std::process::Command::new(env!("CARGO_BIN_EXE_roadstead"))
        .args(["check", "--config"])
        .arg(&log)
        .current_dir(server.process.dir.path())
        .output()
        .unwrap();
    let printed = String::from_utf8(check.stdout).unwrap();
    assert!(printed.contains("[telemetry.otlp]"), "{printed}");
    assert!(!printed.contains("hunter"), "{printed}");

    // Read by another thread, or the pipe would be full.
    let mut server = server;
    let mut errors = server.process.child.stderr.take().unwrap();
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        errors.read_to_string(&mut text).unwrap();
        text
    });
    server.pull(TRACE).await;
    collector.spans_of(TRACE, 2).await;
    // The file is read for each request: a token in it may be renewed.
    let file = server.process.dir.path().join("more");
    std::fs::write(file, "X-Tenant: hunter5\n").unwrap();
    server.pull(OTHER).await;
    let seen = collector
        .wait_for("both tokens", |seen| {
            let has = |text: &str| {
                let mut requests = seen.requests.iter();
                requests.any(|(headers, _)| headers["x-tenant"] == text)
            };
            has("hunter4") && has("hunter5")
        })
        .await;
    for (headers, _) in &seen.requests {
        assert_eq!(headers["authorization"], "Bearer hunter2");
        assert_eq!(headers["content-type"], "application/x-protobuf");
    }
    for record in registry.counters().records {
        let text = format!("{record:?}");
        assert!(!text.contains("hunter"), "{text}");
    }
    server.process.signal(Signal::TERM);
    assert!(server.process.wait().success());
    let log = reading.join().unwrap();
    assert!(log.contains(&format!("trace_id={TRACE}")), "{log}");
    assert!(!log.contains("hunter"), "a secret in the log");
}

//! What the mirror writes to or reads from may stand still for ever: nobody waits for it, and the process
//! ends all the same.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test says what it expects by failing, and owns its files and tasks"
)]

mod common;
#[path = "shutdown/process.rs"]
mod process;

use std::io::{BufRead as _, BufReader};
use std::time::Duration;

use common::{FakeRegistry, within};
use process::Process;
use rustix::process::Signal;
use tokio::time::Instant;

/// The value of a metric without labels.
fn metric(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_once(' ')?.1.parse().ok()
}

/// A stalled `docker logs`, journald or pager: after a pipe's 64 KiB the first write stood still, and with it
/// everything, `/healthz` too, and SIGTERM was without effect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standard_error_that_nobody_reads_is_not_waited_for() {
    let registry = FakeRegistry::start().await;
    for format in ["text", "json"] {
        let dir = tempfile::tempdir().unwrap();
        let mut process = Process::serve_in(dir, &registry.url(), &["--log-format", format]);
        let (client, admin, _output) = process.ready();
        // Three megabytes of access lines: more than pipe and queue hold.
        let long = "x".repeat(500);
        for round in 0..4000 {
            let path = format!("/v2/{round}{long}");
            let answer = within("an answer", client.get(&path)).await;
            assert_eq!(answer.status, 404, "request {round}");
        }
        assert_eq!(within("health", admin.get("/healthz")).await.status, 200);
        let metrics = within("metrics", admin.get("/metrics")).await.text();
        let dropped = metric(&metrics, "roadstead_log_lines_dropped_total").unwrap();
        assert!((100..4000).contains(&dropped), "{dropped} lines dropped");

        // Somebody reads again: how many are missing is said once.
        let mut lines = BufReader::new(process.child.stderr.take().unwrap()).lines();
        let said = tokio::task::spawn_blocking(move || {
            let line = lines.find(|line| line.as_ref().unwrap().contains("dropped"));
            (line.unwrap().unwrap(), lines)
        });
        let (line, mut lines) = within("the line", said).await.unwrap();
        assert!(line.contains(&dropped.to_string()), "{line}");
        assert_eq!(client.get("/v2/again").await.status, 404);
        let said = tokio::task::spawn_blocking(move || {
            let line = lines.find(|line| line.as_ref().unwrap().contains("again"));
            (line.unwrap().unwrap(), lines)
        });
        let (_, lines) = within("the next line", said).await.unwrap();
        process.signal(Signal::TERM);
        assert_eq!(process.wait().code(), Some(0));
        let rest: Vec<_> = lines.map(Result::unwrap).collect();
        assert!(
            !rest.iter().any(|line| line.contains("dropped")),
            "{rest:?}"
        );
        assert!(rest.last().unwrap().contains("stopped"), "{rest:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_ends_though_nobody_reads_what_it_says() {
    let registry = FakeRegistry::start().await;
    for signals in [&[Signal::TERM][..], &[Signal::INT, Signal::INT]] {
        let mut process = Process::serve(&registry.url());
        let (client, _, _output) = process.ready();
        let long = "x".repeat(500);
        for round in 0..300 {
            let path = format!("/v2/{round}{long}");
            assert_eq!(within("an answer", client.get(&path)).await.status, 404);
        }
        let began = Instant::now();
        for signal in signals {
            process.signal(*signal);
        }
        let status = process.wait();
        assert!(status.code().is_some(), "{status:?}");
        assert!(began.elapsed() < Duration::from_secs(10));
    }
}

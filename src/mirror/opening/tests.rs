use std::sync::{Mutex, mpsc};
use std::time::Duration;

use super::*;
use crate::catalogue::Gate;
use crate::clock::Timestamp;
use crate::mirror::testing::{Bench, cache, clock};
use crate::oci::{Digest, Reference, Repository, UpstreamName};

fn metrics() -> Metrics {
    Metrics::new(std::iter::empty())
}

/// Until the next start nothing was evicted, and nobody was told.
#[tokio::test]
async fn pins_that_are_read_late_are_kept_then_and_all_else_may_go() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = catalogue::Config::of(dir.path().join("state"));
    let pin = HandPin {
        source: Source {
            upstream: UpstreamName::parse("docker.io").unwrap(),
            repository: Repository::parse("library/app").unwrap(),
        },
        reference: Reference::Tag(Tag::parse("1").unwrap()),
        since: Timestamp(5),
        digests: vec![Digest::Sha256([1; 32])],
    };
    let catalogue = Catalogue::open(&state, metrics());
    let change = Change::Pin(pin.clone());
    catalogue.commit(change).await.unwrap();
    catalogue.close().await;
    let (disk, answers) = mpsc::channel::<()>();
    let answers = Mutex::new(answers);
    state.gate = Gate::of_reads(move || {
        // Until the test lets go of the other end.
        answers.lock().unwrap().recv().ok();
    });
    let opened = Opened::open(OpenMode::Write, cache(&dir), state, clock(), metrics());
    let Opened { store, catalogue } = opened.await.unwrap();
    assert!(store.pins().keeps_everything());
    assert_eq!(store.pins().all(), []);
    let bench = Bench::on(dir, store.clone(), catalogue);
    bench.mirror.operator().pins().watch();
    drop(disk);
    let kept = async {
        while store.pins().keeps_everything() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), kept)
        .await
        .unwrap();
    assert_eq!(store.pins().all(), [pinned(&pin)]);
}

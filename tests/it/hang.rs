//! What the mirror writes to or reads from may stand still for ever: nobody waits for it, and the process
//! ends all the same.

use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::common::images::{self, Blob};
use crate::common::{Dialect, FakeRegistry, Image, Mirror, MirrorBuilder, within};
use crate::process::Process;
use roadstead::store::{DiskOp, Fault, Faults, Injection};
use rustix::process::Signal;
use tokio::time::Instant;

const HIT: &str = "roadstead; hit";
const STORED: &str = "roadstead; fwd=miss; stored";
const BYPASS: &str = "roadstead; fwd=bypass";

/// A disk of which some operations do not return until a test lets them.
#[derive(Debug, Default)]
struct Hanging {
    /// Whether an operation on a path hangs.
    which: Mutex<Option<(Vec<DiskOp>, String)>>,
    released: Condvar,
}

impl Hanging {
    fn hang(&self, ops: &[DiskOp], path: &str) {
        *self.which.lock().unwrap() = Some((ops.to_vec(), path.to_owned()));
    }

    fn release(&self) {
        *self.which.lock().unwrap() = None;
        self.released.notify_all();
    }
}

impl Faults for Hanging {
    fn before(&self, op: DiskOp, path: &Path) -> Result<(), Fault> {
        let path = path.to_str().unwrap();
        let hangs = |which: &mut Option<(Vec<DiskOp>, String)>| {
            let which = which.as_ref();
            which.is_some_and(|(ops, part)| ops.contains(&op) && path.contains(part))
        };
        let which = self.which.lock().unwrap();
        drop(self.released.wait_while(which, hangs).unwrap());
        Ok(())
    }
}

/// Lets what hangs go, also where the test fails: a runtime waits for its threads.
struct Release(Arc<Hanging>);

impl Drop for Release {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// A mirror that has an image in its store, of whose files none is open.
async fn stored() -> (FakeRegistry, Mirror, Release, Image) {
    let registry = FakeRegistry::start().await;
    let image = images::image(900, &[700_000, 600_000, 500_000], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    let disk = Arc::new(Hanging::default());
    let injection = Injection::of(Arc::clone(&disk) as Arc<dyn Faults>);
    let mirror = MirrorBuilder::of(&registry)
        .with(|config| config.cache.injection = injection)
        .start()
        .await;
    assert_eq!(mirror.get("/v2/team/app/manifests/v1").await.status, 200);
    for layer in &image.layers {
        let answer = mirror.get(&path(layer)).await;
        answer.assert_bytes(200, &layer.bytes);
    }
    mirror.wait_for_fills().await;
    let mirror = mirror.restart().await;
    // In memory again.
    assert_eq!(mirror.get("/v2/team/app/manifests/v1").await.status, 200);
    (registry, mirror, Release(disk), image)
}

fn path(blob: &Blob) -> String {
    format!("/v2/team/app/blobs/{}", blob.digest)
}

/// A blob is answered, soon, with its bytes.
async fn answered(mirror: &Mirror, blob: &Blob, cache_status: &str, wait_max: Duration) {
    let began = Instant::now();
    let answer = within("a blob", mirror.get(&path(blob))).await;
    answer.assert_bytes(200, &blob.bytes);
    assert_eq!(answer.header("cache-status"), cache_status);
    assert!(began.elapsed() < wait_max, "{:?}", began.elapsed());
}

const SOON: Duration = Duration::from_secs(5);
/// What hangs is given up after 8 or 12 s.
const GIVEN_UP: Duration = Duration::from_secs(22);

/// What is no plain file was opened and read all the same: a pipe held its thread for ever, and anything else was an
/// error 503 for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_plain_file_is_a_miss_and_fetched_again() {
    let (registry, mirror, _release, image) = stored().await;
    let blob = &image.layers[0];
    let elsewhere = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(elsewhere.path(), &blob.bytes).unwrap();
    let mut mirror = mirror;
    for kind in ["pipe", "link", "folder", "socket", "file for a folder"] {
        let at = mirror.blob_path(&blob.digest);
        let before = registry.counters().blob_gets(&blob.digest);
        mirror = mirror
            .restart_after(|_| match kind {
                "file for a folder" => {
                    let shard = at.parent().unwrap();
                    std::fs::remove_dir_all(shard).unwrap();
                    std::fs::write(shard, "in the way").unwrap();
                }
                kind => {
                    std::fs::remove_file(&at).unwrap();
                    match kind {
                        "pipe" => {
                            let made = std::process::Command::new("mkfifo").arg(&at).status();
                            assert!(made.unwrap().success());
                        }
                        "link" => std::os::unix::fs::symlink(elsewhere.path(), &at).unwrap(),
                        "folder" => std::fs::create_dir_all(at.join("with/something")).unwrap(),
                        _ => {
                            // A socket's name has no room for a path as long as this one.
                            let made = tempfile::tempdir().unwrap();
                            let short = made.path().join("s");
                            drop(UnixListener::bind(&short).unwrap());
                            std::fs::rename(short, &at).unwrap();
                        }
                    }
                }
            })
            .await;
        answered(&mirror, blob, STORED, SOON).await;
        mirror.wait_for_fills().await;
        assert!(at.symlink_metadata().unwrap().is_file(), "{kind}");
        answered(&mirror, blob, HIT, SOON).await;
        assert_eq!(
            registry.counters().blob_gets(&blob.digest),
            before + 1,
            "{kind}"
        );
        assert_eq!(mirror.readyz().await, "ok\n", "{kind}");
    }
    mirror.stop().await;
}

/// One file that does not come back took a thread from each who asked for it, until none were left for anybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_cannot_be_read_to_its_end_holds_up_nobody_else() {
    let (_registry, mirror, release, image) = stored().await;
    let hung = &image.layers[0];
    let hex = hung.digest.strip_prefix("sha256:").unwrap();
    release.0.hang(&[DiskOp::Read], hex);
    let asking: Vec<_> = (0..40)
        .map(|_| {
            let (client, path) = (mirror.client, path(hung));
            tokio::spawn(async move { client.get(&path).await })
        })
        .collect();
    // Meanwhile.
    answered(&mirror, &image.layers[1], HIT, SOON).await;
    let manifest = within("a tag", mirror.get("/v2/team/app/manifests/v1")).await;
    manifest.assert_bytes(200, &image.manifest.bytes);
    for answer in asking {
        let answer = within("what hangs", answer).await.unwrap();
        answer.assert_bytes(200, &hung.bytes);
        assert_eq!(answer.header("cache-status"), BYPASS);
    }
    // From now on it is known.
    let said = mirror.readyz().await;
    assert!(
        said.starts_with("degraded: the disk does not answer"),
        "{said}"
    );
    answered(&mirror, hung, BYPASS, SOON).await;
    let metrics = mirror.metrics().await;
    assert!(metrics.sum("roadstead_store_degraded", &[]) > 0.0);
    release.0.release();
    mirror
        .wait_for_metrics("the disk to answer", |metrics| {
            metrics.sum("roadstead_store_degraded", &[]) == 0.0
        })
        .await;
    answered(&mirror, hung, HIT, SOON).await;
    assert_eq!(mirror.readyz().await, "ok\n");
    mirror.stop().await;
}

/// The whole disk: what is in memory is answered, and all else comes from upstream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_hangs_is_passed_by() {
    let (registry, mirror, release, image) = stored().await;
    let new = Blob::noise(901, 400_000);
    registry.put_blob("team/app", &new);
    let other = images::image(902, &[1000], Dialect::Oci);
    registry.put_image("team/app", Some("v2"), &other);
    release.0.hang(&DiskOp::ALL, "");
    let began = Instant::now();
    let (old_path, new_path) = (path(&image.layers[0]), path(&new));
    let (one, two, three) = tokio::join!(
        mirror.get(&old_path),
        mirror.get(&new_path),
        mirror.get("/v2/team/app/manifests/v2"),
    );
    one.assert_bytes(200, &image.layers[0].bytes);
    two.assert_bytes(200, &new.bytes);
    three.assert_bytes(200, &other.manifest.bytes);
    assert!(began.elapsed() < GIVEN_UP, "{:?}", began.elapsed());
    let said = mirror.readyz().await;
    assert!(
        said.starts_with("degraded: the disk does not answer"),
        "{said}"
    );
    answered(&mirror, &new, BYPASS, SOON).await;
    let manifest = within("a tag", mirror.get("/v2/team/app/manifests/v1")).await;
    manifest.assert_bytes(200, &image.manifest.bytes);
    let metrics = within("metrics", mirror.admin.get("/metrics")).await;
    assert_eq!(metrics.status, 200);
    release.0.release();
    mirror
        .wait_for_metrics("the disk to answer", |metrics| {
            metrics.sum("roadstead_store_degraded", &[]) == 0.0
        })
        .await;
    answered(&mirror, &image.layers[2], HIT, SOON).await;
    mirror.stop().await;
}

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

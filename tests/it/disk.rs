//! A disk that is full, read-only or failing: clients get exact bytes, the operator is told, and the store
//! comes back by itself.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::images::{self, Blob};
use crate::common::{Dialect, FakeRegistry, Image, Mirror, MirrorBuilder, WAIT_MAX, within};
use roadstead::store::{DiskOp, Fault, Faults, Injection};

const MIB: usize = 1 << 20;
const BYPASS: &str = "roadstead; fwd=bypass";
const STORED: &str = "roadstead; fwd=miss; stored";
const HIT: &str = "roadstead; hit";

/// The errors of a disk (errno(3)).
const NO_SPACE: i32 = 28;
const READ_ONLY: i32 = 30;
const BAD: i32 = 5;

/// A disk on which some operations fail for as long as a test wants it.
#[derive(Debug, Default)]
struct Disk(Mutex<Option<Failing>>);

#[derive(Debug)]
struct Failing {
    ops: Vec<DiskOp>,
    /// What a path must have in it.
    path: &'static str,
    errno: i32,
    /// So many work before.
    after: usize,
    /// And so many fail.
    times: usize,
}

impl Disk {
    fn fails(&self, ops: &[DiskOp], path: &'static str, errno: i32) {
        self.fails_times(0, usize::MAX, ops, path, errno);
    }

    fn fails_times(
        &self,
        after: usize,
        times: usize,
        ops: &[DiskOp],
        path: &'static str,
        errno: i32,
    ) {
        *self.0.lock().unwrap() = Some(Failing {
            ops: ops.to_vec(),
            path,
            errno,
            after,
            times,
        });
    }

    /// Nothing can be changed.
    fn is_read_only(&self) {
        let reads = |op: &DiskOp| matches!(op, DiskOp::Read | DiskOp::ReadIndex);
        let ops: Vec<_> = DiskOp::ALL.into_iter().filter(|op| !reads(op)).collect();
        self.fails(&ops, "", READ_ONLY);
    }

    fn heals(&self) {
        *self.0.lock().unwrap() = None;
    }
}

impl Faults for Disk {
    fn before(&self, op: DiskOp, path: &Path) -> Result<(), Fault> {
        let mut failing = self.0.lock().unwrap();
        let Some(failing) = failing.as_mut() else {
            return Ok(());
        };
        if !failing.ops.contains(&op) || !path.to_str().unwrap().contains(failing.path) {
            return Ok(());
        }
        if failing.after > 0 {
            failing.after -= 1;
            return Ok(());
        }
        if failing.times == 0 {
            return Ok(());
        }
        failing.times -= 1;
        let error = io::Error::from_raw_os_error(failing.errno);
        Err(Fault {
            error,
            written: 1000,
        })
    }
}

struct World {
    registry: FakeRegistry,
    mirror: Mirror,
    disk: Arc<Disk>,
    image: Image,
}

/// A mirror that knows an image of three layers, and has none of them.
async fn world() -> World {
    world_of(&[4 * MIB, MIB, MIB / 2]).await
}

async fn world_of(layers: &[usize]) -> World {
    let registry = FakeRegistry::start().await;
    let image = images::image(700, layers, Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    let disk = Arc::new(Disk::default());
    let injection = Injection::of(Arc::clone(&disk) as Arc<dyn Faults>);
    let mirror = MirrorBuilder::of(&registry)
        .with(|config| config.cache.injection = injection)
        .start()
        .await;
    assert_eq!(mirror.get("/v2/team/app/manifests/v1").await.status, 200);
    World {
        registry,
        mirror,
        disk,
        image,
    }
}

fn path(blob: &Blob) -> String {
    format!("/v2/team/app/blobs/{}", blob.digest)
}

impl World {
    fn layer(&self, at: usize) -> &Blob {
        &self.image.layers[at]
    }

    async fn get(&self, layer: usize, cache_status: &str) {
        let blob = self.layer(layer);
        let answer = self.mirror.get(&path(blob)).await;
        answer.assert_bytes(200, &blob.bytes);
        assert_eq!(answer.header("cache-status"), cache_status);
        self.mirror.wait_for_fills().await;
    }

    async fn is_degraded(&self, why: &str) {
        let said = self.mirror.readyz().await;
        assert!(
            said.starts_with("degraded: ") && said.contains(why),
            "{said}"
        );
        let metrics = self.mirror.metrics().await;
        assert_eq!(
            metrics.sum("roadstead_store_degraded", &[]).to_string(),
            "1"
        );
    }

    async fn errors(&self, op: &str) -> u64 {
        let metrics = self.mirror.metrics().await;
        let errors = metrics.sum("roadstead_store_errors_total", &[("op", op)]);
        errors.to_string().parse().unwrap()
    }

    async fn recovers(&self) {
        self.disk.heals();
        let deadline = tokio::time::Instant::now() + WAIT_MAX;
        while self.mirror.readyz().await != "ok\n" {
            assert!(tokio::time::Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let metrics = self.mirror.metrics().await;
        assert_eq!(
            metrics.sum("roadstead_store_degraded", &[]).to_string(),
            "0"
        );
    }

    fn is_stored(&self, layer: usize) -> bool {
        self.mirror.blob_path(&self.layer(layer).digest).exists()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_up_under_a_fill_disturbs_none_of_its_readers() {
    let world = world().await;
    let blob = world.layer(0).clone();
    let gate = world.registry.gate(&blob.digest);
    gate.release(2 * MIB);
    let mut readers = Vec::new();
    for _ in 0..3 {
        let mut reader = world.mirror.open(&path(&blob)).await;
        let begun = within("the first half", reader.exactly(MIB)).await;
        assert!(begun == blob.bytes[..MIB]);
        readers.push(reader);
    }
    world.disk.fails(&[DiskOp::Write], "fills", NO_SPACE);
    gate.open();
    for mut reader in readers {
        within("the rest", reader.assert_rest_equals(&blob.bytes[MIB..])).await;
    }
    world.mirror.wait_for_fills().await;
    assert!(!world.is_stored(0));
    world.is_degraded("cannot write").await;
    // Nobody waits for a disk that fails: it is not even asked.
    let before = world.errors("write").await;
    for _ in 0..3 {
        world.get(1, BYPASS).await;
    }
    assert!(
        world.errors("write").await <= before + 1,
        "but for the store's own tries"
    );
    world.recovers().await;
    world.get(0, STORED).await;
    world.get(0, HIT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_read_only_from_the_start_serves_what_it_has() {
    let world = world().await;
    world.get(1, STORED).await;
    world.disk.is_read_only();
    let World {
        registry,
        mirror,
        disk,
        image,
    } = world;
    // What is written last is lost: so it is written before.
    disk.heals();
    let stopping = Arc::clone(&disk);
    let mirror = mirror.restart_after(move |_| stopping.is_read_only()).await;
    let world = World {
        registry,
        mirror,
        disk,
        image,
    };
    world.is_degraded("Read-only").await;
    let heads = world.registry.counters().records.len();
    world.get(1, HIT).await;
    let asked = world.registry.counters().records.len() - heads;
    assert_eq!(asked, 0, "the index can be read");
    world.get(2, BYPASS).await;
    let tag = world.mirror.get("/v2/team/app/manifests/v1").await;
    assert_eq!(tag.status, 200);
    world.recovers().await;
    world.get(2, STORED).await;
    world.get(2, HIT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_cannot_be_made_durable_is_served_and_not_kept() {
    for op in [DiskOp::Sync, DiskOp::Rename, DiskOp::SyncDirectory] {
        let world = world().await;
        world.disk.fails(&[op], "", BAD);
        world.get(0, STORED).await;
        assert!(!world.is_stored(0), "{op:?}");
        world.is_degraded("cannot").await;
        world.get(0, BYPASS).await;
        world.recovers().await;
        let parts = world.mirror.store().join("fills/sha256");
        assert_eq!(std::fs::read_dir(parts).unwrap().count(), 0, "{op:?}");
        world.get(0, STORED).await;
        world.get(0, HIT).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_cannot_be_committed_is_written_later() {
    let world = world().await;
    world.disk.fails(&[DiskOp::SyncIndex], "", BAD);
    world.get(0, STORED).await;
    let failing = world
        .mirror
        .wait_for_metrics("a commit to fail", |metrics| {
            metrics.sum("roadstead_store_degraded", &[]) > 0.0
        });
    failing.await;
    world.is_degraded("index").await;
    assert!(world.is_stored(0), "blobs are stored all the same");
    world.get(0, HIT).await;
    world.get(1, STORED).await;
    world.recovers().await;
    let World {
        mirror,
        image,
        registry,
        ..
    } = world;
    let mirror = mirror.restart().await;
    let asked = registry.counters().records.len();
    for layer in &image.layers[..2] {
        let answer = mirror.get(&path(layer)).await;
        answer.assert_bytes(200, &layer.bytes);
        assert_eq!(answer.header("cache-status"), HIT);
    }
    let asked = registry.counters().records.len() - asked;
    assert_eq!(asked, 0, "what could not be committed then is in the index");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stored_blob_that_cannot_be_read_on_is_set_aside_and_its_client_served() {
    for ranged in [false, true] {
        // More than can be given at once, twice.
        let world = world_of(&[9 * MIB]).await;
        world.get(0, STORED).await;
        let blob = world.layer(0).clone();
        // One sector, or the whole disk: what was given is hashed once more with what comes from
        // upstream, where that is to be the whole blob.
        let times = if ranged { usize::MAX } else { 1 };
        world
            .disk
            .fails_times(3, times, &[DiskOp::Read], "sha256", BAD);
        if ranged {
            let range = [("Range", "bytes=100000-")];
            let answer = world.mirror.get_with(&path(&blob), &range).await;
            answer.assert_bytes(206, &blob.bytes[100_000..]);
        } else {
            let answer = world.mirror.get(&path(&blob)).await;
            answer.assert_bytes(200, &blob.bytes);
        }
        world.disk.heals();
        assert!(!world.is_stored(0));
        let aside = std::fs::read_dir(world.mirror.store().join("damaged")).unwrap();
        assert_eq!(aside.count(), 1);
        assert_eq!(
            world.mirror.readyz().await,
            "ok\n",
            "one bad file is no bad disk"
        );
        world.get(0, STORED).await;
        world.get(0, HIT).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stored_blob_that_was_cut_short_while_open_reaches_its_clients_whole() {
    let world = world().await;
    world.get(0, STORED).await;
    world.get(0, HIT).await;
    let blob = world.layer(0).clone();
    let file = std::fs::File::options()
        .write(true)
        .open(world.mirror.blob_path(&blob.digest))
        .unwrap();
    file.set_len(3 * MIB as u64).unwrap();
    let answer = world.mirror.get(&path(&blob)).await;
    answer.assert_bytes(200, &blob.bytes);
    world.get(0, STORED).await;
    world.get(0, HIT).await;
}

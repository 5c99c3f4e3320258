//! What is stored was hashed in full: its size is no matter of opinion.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use roadstead::store::{DiskOp, Fault, Faults, Injection};
use serde_json::json;

use super::Two;
use crate::common::images::{Blob, Manifest, OCI_MANIFEST};

const BLOB_BYTES: usize = 4 << 20;

/// Counts what is read of stored blobs.
#[derive(Debug, Default)]
struct Reads(AtomicUsize);

impl Faults for Reads {
    fn before(&self, op: DiskOp, path: &Path) -> Result<(), Fault> {
        let stored = path.components().any(|part| part.as_os_str() == "blobs");
        if op == DiskOp::Read && stored {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// A manifest that gives this blob this size.
fn saying(blob: &Blob, size: usize, seed: u64) -> Manifest {
    let descriptor = |size: usize| json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": blob.digest, "size": size});
    Manifest::of(
        OCI_MANIFEST,
        &json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(size),
                "layers": [descriptor(size)], "annotations": {"seed": seed.to_string()}}),
    )
}

/// Each request of one byte read all of the file, since a manifest had said another size.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_size_in_a_manifest_has_nothing_hashed() {
    let reads = Arc::new(Reads::default());
    let injection = Injection::of(Arc::clone(&reads) as Arc<dyn Faults>);
    let two = Two::with(|builder| builder.with(|config| config.cache.injection = injection)).await;
    let blob = Blob::noise(930, BLOB_BYTES);
    for (registry, repository) in [(&two.right, "team/app"), (&two.other, "org/app")] {
        registry.put_blob(repository, &blob);
    }
    let right = Two::right_path(&blob);
    two.mirror.get(&right).await.assert_bytes(200, &blob.bytes);
    two.mirror.wait_for_fills().await;
    for (seed, wrong) in [(1, 10), (2, BLOB_BYTES + 1), (3, 0), (4, 1 << 40)] {
        let manifest = saying(&blob, wrong, seed);
        two.right.put_manifest("team/app", Some("v1"), &manifest);
        two.other.put_manifest("org/app", Some("v1"), &manifest);
        two.mirror.clock.advance(crate::common::mirror::TTL * 2);
        for base in ["/v2/team/app", "/v2/ghcr.io/org/app"] {
            let answer = two.mirror.get(&format!("{base}/manifests/v1")).await;
            answer.assert_bytes(200, &manifest.bytes);
        }
        let before = reads.0.load(Ordering::Relaxed);
        for path in [&right, &Two::other_path(&blob)] {
            let head = two.mirror.head(path).await;
            assert_eq!(head.header("content-length"), BLOB_BYTES.to_string());
            let asks = (0..16).map(|at| {
                let (client, path) = (two.mirror.client, path.clone());
                tokio::spawn(async move {
                    let range = format!("bytes={at}-{at}");
                    client.get_with(&path, &[("range", &range)]).await
                })
            });
            for (at, asked) in asks.collect::<Vec<_>>().into_iter().enumerate() {
                let answer = asked.await.unwrap();
                answer.assert_bytes(206, &blob.bytes[at..=at]);
            }
        }
        let read = reads.0.load(Ordering::Relaxed) - before;
        // A request looks at the file's length, and reads its byte, perhaps not out of memory.
        assert!(
            read <= 4 * 32,
            "{read} reads of a stored blob for 32 bytes, said to have {wrong}"
        );
    }
    assert_eq!(two.right.counters().blob_gets(&blob.digest), 1);
    assert_eq!(two.other.counters().blob_gets(&blob.digest), 0);
}

/// A size that one upstream's manifest says is nothing to a transfer from another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_size_of_one_upstream_bounds_no_transfer_of_another() {
    let two = Two::new().await;
    let blob = Blob::noise(931, 1 << 20);
    two.right.put_blob("team/app", &blob);
    let manifest = saying(&blob, 10, 1);
    two.other.put_manifest("org/app", Some("v1"), &manifest);
    two.mirror.get("/v2/ghcr.io/org/app/manifests/v1").await;
    let path = Two::right_path(&blob);
    let head = two.mirror.head(&path).await;
    assert_eq!(head.header("content-length"), "1048576");
    let range = [("range", "bytes=-10")];
    let end = two.mirror.get_with(&path, &range).await;
    end.assert_bytes(206, &blob.bytes[(1 << 20) - 10..]);
    two.mirror.get(&path).await.assert_bytes(200, &blob.bytes);
}

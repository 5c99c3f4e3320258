//! A catalogue or a disk that fails: pushes are refused, pulls go on, and it comes back by itself.

use super::{Pushes as _, registry};
use crate::common::images::sha256;
use crate::common::within;
use http::Method;
use roadstead::catalogue::Gate;
use roadstead::store::{DiskOp, Fault, Faults, Injection};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

#[tokio::test]
async fn a_catalogue_that_cannot_be_written_stops_pushes_and_no_pull() {
    let fails = Arc::new(AtomicBool::new(false));
    let failing = Arc::clone(&fails);
    let mirror = registry()
        .with(|config| {
            config.state.gate = Gate::of(move || {
                if failing.load(Ordering::SeqCst) {
                    return Err(io::Error::from(io::ErrorKind::StorageFull));
                }
                Ok(())
            });
        })
        .start()
        .await;
    let digest = mirror.image("team/a", "v1", b"layer").await;
    let body = mirror.parts("team/a", b"other").await;
    fails.store(true, Ordering::SeqCst);
    let refused = mirror.put("team/a", "v2", &body).await;
    assert_eq!(
        (refused.status, refused.code()),
        (503, "UNAVAILABLE".to_owned())
    );
    assert_ne!(refused.header("retry-after"), "");
    let refused = mirror
        .send(Method::POST, "/v2/team/a/blobs/uploads/", b"")
        .await;
    assert_eq!(refused.status, 503);
    assert_eq!(mirror.get("/v2/team/a/manifests/v2").await.status, 404);
    let manifest = mirror.get("/v2/team/a/manifests/v1").await;
    assert_eq!(manifest.header("docker-content-digest"), digest);
    let layer = format!("/v2/team/a/blobs/{}", sha256(b"layer"));
    mirror.get(&layer).await.assert_bytes(200, b"layer");
    fails.store(false, Ordering::SeqCst);
    assert_eq!(mirror.put("team/a", "v2", &body).await.status, 201);
    mirror.image("team/a", "v3", b"third").await;
}

#[tokio::test]
async fn a_catalogue_that_cannot_be_opened_hides_hosted_names_from_everybody_else() {
    let builder = registry();
    let state = builder.dir().join("state");
    std::fs::create_dir_all(&state).unwrap();
    std::fs::write(state.join("catalogue.db"), b"nonsense").unwrap();
    let mirror = builder.start().await;
    // Nobody is asked for a name that may be hosted.
    for path in ["/v2/team/a/manifests/v1", "/v2/unknown/a/manifests/v1"] {
        assert_eq!(mirror.get(path).await.status, 503, "{path}");
    }
    let refused = mirror
        .send(Method::POST, "/v2/team/a/blobs/uploads/", b"")
        .await;
    assert_eq!(refused.status, 503);
    for path in [
        "/v2/library/a/manifests/v1",
        "/v2/docker.io/team/a/manifests/v1",
    ] {
        assert!(matches!(mirror.get(path).await.status, 502 | 504), "{path}");
    }
}

/// A disk on which nothing can be written to uploads.
#[derive(Debug)]
struct Full(AtomicBool);

impl Faults for Full {
    fn before(&self, op: DiskOp, path: &Path) -> Result<(), Fault> {
        let is_upload = path.components().any(|it| it.as_os_str() == "uploads");
        if self.0.load(Ordering::SeqCst) && is_upload && op == DiskOp::Write {
            return Err(io::Error::from(io::ErrorKind::StorageFull).into());
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_full_disk_refuses_a_chunk_and_keeps_what_came_before() {
    let full = Arc::new(Full(AtomicBool::new(false)));
    let faults = Arc::clone(&full);
    let mirror = registry()
        .with(|config| config.cache.injection = Injection::of(faults))
        .start()
        .await;
    let path = mirror.begin("team/a").await;
    assert_eq!(
        mirror.send(Method::PATCH, &path, b"some ").await.status,
        202
    );
    full.0.store(true, Ordering::SeqCst);
    let refused = mirror.send(Method::PATCH, &path, b"bytes").await;
    assert_eq!(
        (refused.status, refused.code()),
        (503, "UNAVAILABLE".to_owned())
    );
    let status = mirror.get(&path).await;
    assert_eq!((status.status, status.header("range")), (204, "0-4"));
    full.0.store(false, Ordering::SeqCst);
    let last = format!("{path}?digest={}", sha256(b"some bytes"));
    let finished = async {
        // The disk is tried again after a while.
        while mirror.send(Method::PUT, &last, b"bytes").await.status != 201 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    within("the disk to be tried again", finished).await;
}

#[tokio::test]
async fn a_blob_whose_file_is_gone_is_pushed_again() {
    let mirror = registry().start().await;
    let digest = mirror.blob("team/a", b"layer").await;
    let path = format!("/v2/team/a/blobs/{digest}");
    let hex = &digest["sha256:".len()..];
    let file = mirror.state().join("hosted/blobs/sha256");
    let file = file.join(&hex[..2]).join(hex);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(mirror.get(&path).await.status, 500);
    // The first thing that each client asks before it pushes.
    assert_eq!(mirror.head(&path).await.status, 404);
    mirror.blob("team/a", b"layer").await;
    mirror.get(&path).await.assert_bytes(200, b"layer");
    assert_eq!(mirror.head(&path).await.status, 200);
}

#[tokio::test]
async fn a_push_whose_client_has_gone_is_served_as_soon_as_it_is_there() {
    let (entered, writes) = std::sync::mpsc::channel();
    let open = Arc::new((Mutex::new(true), Condvar::new()));
    let gate = Arc::clone(&open);
    let mirror = registry()
        .with(|config| {
            config.state.gate = Gate::of(move || {
                let (open, changed) = &*gate;
                let mut is_open = open.lock().unwrap();
                if !*is_open {
                    entered.send(()).ok();
                }
                while !*is_open {
                    is_open = changed.wait(is_open).unwrap();
                }
                Ok(())
            });
        })
        .start()
        .await;
    let first = mirror.image("team/a", "v1", b"layer").await;
    let second = mirror.parts("team/a", b"other").await;
    let tag = "/v2/team/a/manifests/v1";
    let named = async || {
        let manifest = mirror.get(tag).await;
        manifest.header("docker-content-digest").to_owned()
    };
    assert_eq!(named().await, first);
    let connections = [("listener", "client")];
    let before = mirror.metrics().await;
    let before = before.sum("roadstead_connections", &connections);
    *open.0.lock().unwrap() = false;
    let mut client = TcpStream::connect(mirror.address()).await.unwrap();
    let length = second.len();
    let put = format!("PUT {tag} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{second}");
    client.write_all(put.as_bytes()).await.unwrap();
    let writes = tokio::task::spawn_blocking(move || writes.recv());
    within("the write", writes).await.unwrap().unwrap();
    drop(client);
    mirror
        .wait_for_metrics("the client gone", |samples| {
            samples.sum("roadstead_connections", &connections) <= before
        })
        .await;
    *open.0.lock().unwrap() = true;
    open.1.notify_all();
    let second = sha256(second.as_bytes());
    let served = async {
        while named().await != second {
            tokio::task::yield_now().await;
        }
    };
    within("what was pushed", served).await;
}

#[tokio::test]
async fn content_that_has_rotted_is_replaced_by_a_push_and_served_to_nobody_before() {
    let mirror = registry().start().await;
    let digest = mirror.blob("team/a", b"layer").await;
    let path = format!("/v2/team/a/blobs/{digest}");
    let hex = &digest["sha256:".len()..];
    let file = mirror.state().join("hosted/blobs/sha256");
    let file = file.join(&hex[..2]).join(hex);
    // Nobody knows of it: whoever pushes the same has it right from then on.
    std::fs::write(&file, b"LAYER").unwrap();
    mirror.blob("team/b", b"layer").await;
    mirror.get(&path).await.assert_bytes(200, b"layer");
    // It is known: nobody gets it, and clients push it again.
    std::fs::write(&file, b"LAYER").unwrap();
    let (events, mut found) = tokio::sync::mpsc::channel(100);
    let hosted = mirror.hosted().clone();
    let verifying = tokio::spawn(async move { hosted.verify(false, &events).await });
    while found.recv().await.is_some() {}
    within("the check", verifying).await.unwrap().unwrap();
    assert_eq!(mirror.get(&path).await.status, 500);
    assert_eq!(mirror.head(&path).await.status, 404);
    mirror.blob("team/a", b"layer").await;
    mirror.get(&path).await.assert_bytes(200, b"layer");
    assert_eq!(mirror.head(&path).await.status, 200);
}

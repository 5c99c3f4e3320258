//! A cache directory that version 0.1.0 has left (`fixtures/cache-0.1`): what was cached is served, what was not
//! checked is not, and the directory stays one that 0.1.0 opens.
//!
//! That 0.1.0 itself opens it again is tried by `tests/attacks/run versions`, which needs its binary.

use std::path::{Path, PathBuf};

use crate::common::{FakeRegistry, Mirror, MirrorBuilder};

/// `a.test/team/app:1`, of which all was pulled; `b.test/copy/app:1` is the same, of which only this was.
const IMAGE: &str = "sha256:44e9ea4b7197c89c788e78f2f6a07f7cdd2e03603996d038a3e6ccfecd4d62b1";
const CONFIG: &str = "sha256:4ef3a159f2c74dab31f1c75b418e9e20c810d45aacd4f11b88b36a53e0be39d2";
const LAYER: &str = "sha256:ceb1cf9cd9817e1fdf4768ac2c42860c800e0f5d2484984106ca5363770e0aaa";
/// An OCI image whose manifest has no `mediaType`, and which upstream called a Docker manifest.
const UNTYPED: &str = "sha256:8cc37026726b27e53da37066c4fa1971b524f618fc27ea44a32d51bc55c4ada2";
/// 150,000 of its 204,800 bytes had come from `a.test`.
const PARTLY: &str = "sha256:e3272bc45cd3a2b42f44547adcbc29fccfef1455e43ac9e4d4462411366e7858";

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cache-0.1")
}

fn bytes(digest: &str) -> Vec<u8> {
    let hex = digest.strip_prefix("sha256:").unwrap();
    std::fs::read(fixture().join("blobs/sha256").join(&hex[..2]).join(hex)).unwrap()
}

async fn opened(a: &FakeRegistry, b: &FakeRegistry) -> Mirror {
    let mirror = MirrorBuilder::new()
        .upstream("a.test", a, |_| {})
        .upstream("b.test", b, |_| {});
    copy(&fixture(), &mirror.dir().join("cache"));
    mirror.start().await
}

#[tokio::test]
async fn what_was_cached_is_served_and_nothing_is_asked_for_it() {
    let (a, b) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let mut mirror = opened(&a, &b).await;
    for _ in 0..2 {
        for (kind, digest) in [("manifests", IMAGE), ("blobs", CONFIG), ("blobs", LAYER)] {
            let answer = mirror
                .get(&format!("/v2/a.test/team/app/{kind}/{digest}"))
                .await;
            answer.assert_bytes(200, &bytes(digest));
            assert_eq!(answer.header("cache-status"), "roadstead; hit");
        }
        assert_eq!(a.counters().records.len() + b.counters().records.len(), 0);
        mirror = mirror.restart().await;
    }
}

/// 0.1.0 kept the type that the last upstream had said, for everybody.
#[tokio::test]
async fn a_type_that_was_only_said_is_forgotten() {
    let (a, b) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let mirror = opened(&a, &b).await;
    let answer = mirror
        .get(&format!("/v2/a.test/team/app/manifests/{UNTYPED}"))
        .await;
    answer.assert_bytes(200, &bytes(UNTYPED));
    assert_eq!(
        answer.header("content-type"),
        "application/vnd.oci.image.manifest.v1+json"
    );
}

/// 0.1.0 took a manifest that names a layer for a proof that its repository has it.
#[tokio::test]
async fn what_another_upstream_has_sent_is_confirmed_first() {
    let (a, b) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let mirror = opened(&a, &b).await;
    let path = format!("/v2/b.test/copy/app/blobs/{LAYER}");
    assert_eq!(mirror.get(&path).await.status, 404);
    b.put_bytes("copy/app", LAYER, bytes(LAYER).into());
    let answer = mirror.get(&path).await;
    answer.assert_bytes(200, &bytes(LAYER));
    assert_eq!(answer.header("cache-status"), "roadstead; hit");
    assert_eq!(a.counters().records.len(), 0);
}

/// It does not say from which upstream it came.
#[tokio::test]
async fn a_transfer_that_was_left_is_nobodys() {
    let (a, b) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let mirror = opened(&a, &b).await;
    let content = b"0123456789abcdef".repeat(12_800);
    a.put_bytes("team/app", PARTLY, content.clone().into());
    let answer = mirror
        .get(&format!("/v2/a.test/team/app/blobs/{PARTLY}"))
        .await;
    answer.assert_bytes(200, &content);
    mirror.wait_for_fills().await;
    let check = |store: &Path| {
        let version = std::fs::read(store.join("VERSION")).unwrap();
        assert_eq!(version, std::fs::read(fixture().join("VERSION")).unwrap());
        assert!(!store.join("fills/sha256").join(&PARTLY[7..]).exists());
    };
    mirror.restart_after(check).await;
}

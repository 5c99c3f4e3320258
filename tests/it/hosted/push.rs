//! Blobs on their way in.

use super::{Pushes as _, registry};
use crate::common::images::{sha256, sha512};
use crate::common::{Mirror, within};
use bytes::Bytes;
use http::Method;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const CONTENT: &[u8] = b"some bytes of a layer";

async fn chunk(mirror: &Mirror, path: &str, range: &str, body: &[u8]) -> (u16, String) {
    let headers = [("content-range", range)];
    let body = Bytes::copy_from_slice(body);
    let answer = mirror
        .client
        .ask_with(Method::PATCH, path, &headers, body)
        .await;
    (answer.status, answer.header("range").to_owned())
}

async fn finish(mirror: &Mirror, path: &str, digest: &str, body: &[u8]) -> u16 {
    let path = format!("{path}?digest={digest}");
    mirror.send(Method::PUT, &path, body).await.status
}

async fn pulls(mirror: &Mirror, repository: &str, digest: &str, content: &[u8]) {
    let path = format!("/v2/{repository}/blobs/{digest}");
    mirror.get(&path).await.assert_bytes(200, content);
    let head = mirror.head(&path).await;
    assert_eq!(head.header("content-length"), content.len().to_string());
    let part = mirror.get_with(&path, &[("range", "bytes=0-0")]).await;
    assert_eq!(part.status, if content.is_empty() { 416 } else { 206 });
}

#[tokio::test]
async fn a_blob_comes_in_each_way_that_the_specification_has() {
    let mirror = registry().start().await;
    let digest = sha256(CONTENT);
    let monolithic = mirror.begin("team/a").await;
    assert!(monolithic.starts_with("/v2/team/a/blobs/uploads/"));
    assert_eq!(finish(&mirror, &monolithic, &digest, CONTENT).await, 201);
    pulls(&mirror, "team/a", &digest, CONTENT).await;
    mirror.blob("team/b", CONTENT).await;
    pulls(&mirror, "team/b", &digest, CONTENT).await;
    let chunked = mirror.begin("team/c").await;
    let (first, rest) = CONTENT.split_at(7);
    assert_eq!(
        chunk(&mirror, &chunked, "0-6", first).await,
        (202, "0-6".to_owned())
    );
    let range = format!("7-{}", CONTENT.len() - 1);
    assert_eq!(chunk(&mirror, &chunked, &range, rest).await.0, 202);
    assert_eq!(finish(&mirror, &chunked, &digest, b"").await, 201);
    pulls(&mirror, "team/c", &digest, CONTENT).await;
    // Without a range, and the last of it with the digest.
    let streamed = mirror.begin("team/d").await;
    assert_eq!(
        mirror.send(Method::PATCH, &streamed, first).await.status,
        202
    );
    assert_eq!(finish(&mirror, &streamed, &digest, rest).await, 201);
    pulls(&mirror, "team/d", &digest, CONTENT).await;
    assert_eq!(
        finish(&mirror, &streamed, &digest, b"").await,
        404,
        "it is over"
    );
    assert_eq!(mirror.hosted().sessions_len(), 0);
}

#[tokio::test]
async fn bad_range_changes_nothing() {
    let mirror = registry().start().await;
    let path = mirror.begin("team/a").await;
    assert_eq!(chunk(&mirror, &path, "0-9", &CONTENT[..10]).await.0, 202);
    for (range, length) in [
        ("0-garbage", 3),
        ("11-13", 3),
        ("9-11", 3),
        ("0-9", 10),
        ("10-13", 3),
        ("13-10", 3),
    ] {
        let refused = chunk(&mirror, &path, range, &CONTENT[..length]).await;
        assert_eq!(refused, (416, "0-9".to_owned()), "{range}");
        let last = format!("{path}?digest={}", sha256(CONTENT));
        let headers = [("content-range", range)];
        let body = Bytes::copy_from_slice(&CONTENT[..length]);
        let refused = mirror
            .client
            .ask_with(Method::PUT, &last, &headers, body)
            .await;
        assert_eq!(refused.status, 416, "{range}");
        assert_eq!(refused.header("location"), path);
    }
    assert_eq!(
        finish(&mirror, &path, &sha256(CONTENT), &CONTENT[10..]).await,
        201
    );
}

#[tokio::test]
async fn retry_of_a_stored_chunk_is_answered_with_the_offset() {
    let mirror = registry().start().await;
    let path = mirror.begin("team/a").await;
    for expected in [202, 416] {
        let answer = chunk(&mirror, &path, "0-20", CONTENT).await;
        assert_eq!(answer, (expected, "0-20".to_owned()));
    }
    assert_eq!(finish(&mirror, &path, &sha256(CONTENT), b"").await, 201);
}

#[tokio::test]
async fn status_does_not_end_a_session() {
    let mirror = registry().start().await;
    let path = mirror.begin("team/a").await;
    assert_eq!(chunk(&mirror, &path, "0-4", &CONTENT[..5]).await.0, 202);
    assert_eq!(chunk(&mirror, &path, "9-9", b"x").await.0, 416);
    for _ in 0..2 {
        let status = mirror.get(&path).await;
        assert_eq!((status.status, status.header("range")), (204, "0-4"));
        assert_eq!(status.header("location"), path);
    }
    assert_eq!(
        finish(&mirror, &path, &sha256(CONTENT), &CONTENT[5..]).await,
        201
    );
}

#[tokio::test]
async fn a_wrong_digest_is_refused_and_nothing_is_stored() {
    let mirror = registry().start().await;
    let path = mirror.begin("team/a").await;
    let wrong = format!("{path}?digest={}", sha256(b"other"));
    let refused = mirror.send(Method::PUT, &wrong, CONTENT).await;
    assert_eq!(
        (refused.status, refused.code()),
        (400, "DIGEST_INVALID".to_owned())
    );
    for digest in [sha256(b"other"), sha256(CONTENT)] {
        let absent = mirror.get(&format!("/v2/team/a/blobs/{digest}")).await;
        assert_eq!(absent.status, 404);
    }
    let none = mirror
        .send(Method::PUT, &mirror.begin("team/a").await, CONTENT)
        .await;
    assert_eq!(
        (none.status, none.code()),
        (400, "DIGEST_INVALID".to_owned())
    );
}

#[tokio::test]
async fn client_leaves_mid_chunk_and_resumes() {
    let mirror = registry().start().await;
    let path = mirror.begin("team/a").await;
    let content = vec![7_u8; 3_000_000];
    let mut client = TcpStream::connect(mirror.address()).await.unwrap();
    let head = format!(
        "PATCH {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n",
        content.len()
    );
    client.write_all(head.as_bytes()).await.unwrap();
    client.write_all(&content[..2_000_000]).await.unwrap();
    let hosted = mirror.hosted();
    let came = async {
        while hosted
            .sessions()
            .first()
            .is_none_or(|it| it.bytes < 1_000_000)
        {
            tokio::task::yield_now().await;
        }
    };
    within("some of it", came).await;
    drop(client);
    // What came stays, whatever that is.
    let resumed = async {
        loop {
            let status = mirror.get(&path).await;
            assert_eq!(status.status, 204);
            let (_, last) = status.header("range").split_once('-').unwrap();
            let from = last.parse::<usize>().unwrap() + 1;
            let range = format!("{from}-{}", content.len() - 1);
            let (status, _) = chunk(&mirror, &path, &range, &content[from..]).await;
            // The writer before may not have left yet.
            if status == 202 {
                return from;
            }
            assert!(matches!(status, 409 | 416), "{status}");
        }
    };
    assert!(within("its turn", resumed).await >= 1_000_000);
    assert_eq!(finish(&mirror, &path, &sha256(&content), b"").await, 201);
    pulls(&mirror, "team/a", &sha256(&content), &content).await;
}

#[tokio::test]
async fn cancel_frees_the_slot_at_once() {
    let mirror = registry().start().await;
    let path = mirror.begin("team/a").await;
    assert_eq!(mirror.delete(&path).await.status, 204);
    assert_eq!(mirror.hosted().sessions_len(), 0);
    for method in [Method::GET, Method::DELETE, Method::PATCH] {
        let gone = mirror.send(method, &path, b"").await;
        assert_eq!(
            (gone.status, gone.code()),
            (404, "BLOB_UPLOAD_UNKNOWN".to_owned())
        );
    }
    let left = std::fs::read_dir(mirror.state().join("hosted/uploads")).unwrap();
    assert_eq!(left.count(), 0);
}

#[tokio::test]
async fn session_of_one_repository_is_unknown_in_another() {
    let mirror = registry().start().await;
    let path = mirror.begin("team/a").await;
    let elsewhere = path.replace("team/a", "team/b");
    assert_eq!(mirror.get(&elsewhere).await.status, 404);
    assert_eq!(mirror.get(&path).await.status, 204);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn same_layer_pushed_by_many_at_once_all_201_and_one_file() {
    let mirror = Arc::new(registry().start().await);
    let content: Vec<u8> = (0..2_000_000_u32).map(|it| (it % 251) as u8).collect();
    let pushes = (0..12).map(|number| {
        let (mirror, content) = (Arc::clone(&mirror), content.clone());
        tokio::spawn(async move {
            let repository = format!("team/r{}", number % 4);
            mirror.blob(&repository, &content).await;
        })
    });
    for pushed in futures_util::future::join_all(pushes).await {
        pushed.unwrap();
    }
    for number in 0..4 {
        pulls(
            &mirror,
            &format!("team/r{number}"),
            &sha256(&content),
            &content,
        )
        .await;
    }
    let all = mirror.hosted().namespaces().await.unwrap();
    let team = all.iter().find(|it| it.wanted.name == "team").unwrap();
    assert_eq!(team.bytes, content.len() as u64, "each digest counts once");
    let left = std::fs::read_dir(mirror.state().join("hosted/uploads")).unwrap();
    assert_eq!(left.count(), 0);
}

#[tokio::test]
async fn empty_blob_and_empty_session_are_told_apart() {
    let mirror = registry().start().await;
    let digest = sha256(b"");
    let path = mirror.begin("team/a").await;
    let absent = mirror.head(&format!("/v2/team/a/blobs/{digest}")).await;
    assert_eq!(absent.status, 404);
    assert_eq!(finish(&mirror, &path, &digest, b"").await, 201);
    pulls(&mirror, "team/a", &digest, b"").await;
    mirror.blob("team/b", b"").await;
    let path = mirror.begin("team/c").await;
    assert_eq!(mirror.send(Method::PATCH, &path, b"").await.status, 202);
    assert_eq!(finish(&mirror, &path, &digest, b"").await, 201);
    pulls(&mirror, "team/c", &digest, b"").await;
}

#[tokio::test]
async fn sha512_by_every_method() {
    let mirror = registry().start().await;
    let digest = sha512(CONTENT);
    let single = format!("/v2/team/a/blobs/uploads/?digest={digest}");
    assert_eq!(
        mirror.send(Method::POST, &single, CONTENT).await.status,
        201
    );
    pulls(&mirror, "team/a", &digest, CONTENT).await;
    for query in ["", "?digest-algorithm=sha512"] {
        let target = format!("/v2/team/b/blobs/uploads/{query}");
        let begun = mirror.send(Method::POST, &target, b"").await;
        let path = begun.header("location").to_owned();
        assert_eq!(chunk(&mirror, &path, "0-4", &CONTENT[..5]).await.0, 202);
        assert_eq!(finish(&mirror, &path, &digest, &CONTENT[5..]).await, 201);
    }
    pulls(&mirror, "team/b", &digest, CONTENT).await;
    let unknown = mirror.send(
        Method::POST,
        "/v2/team/b/blobs/uploads/?digest-algorithm=md5",
        b"",
    );
    assert_eq!(unknown.await.status, 400);
}

/// What a raw client is answered before it has sent its body.
async fn expects(mirror: &Mirror, path: &str) -> String {
    let mut client = TcpStream::connect(mirror.address()).await.unwrap();
    let head = format!(
        "PUT {path} HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 10000000000\r\n\r\n"
    );
    client.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    let read = client.read_exact(&mut answer);
    within("the first line", read).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn expect_continue_is_not_answered_before_authorisation() {
    let mirror = registry().start().await;
    let path = format!(
        "{}?digest={}",
        mirror.begin("team/a").await,
        sha256(CONTENT)
    );
    assert_eq!(expects(&mirror, &path).await, "HTTP/1.1 100");
    let mirrored = path.replace("team/a", "docker.io/library/a");
    assert_eq!(expects(&mirror, &mirrored).await, "HTTP/1.1 403");
}

#[tokio::test]
async fn put_finds_the_bytes_after_restart() {
    let mirror = registry().start().await;
    let path = mirror.begin("team/a").await;
    assert_eq!(chunk(&mirror, &path, "0-9", &CONTENT[..10]).await.0, 202);
    let before = mirror.blob("team/a", b"before").await;
    let image = mirror.image("team/a", "v1", b"layer").await;
    let mirror = mirror.restart().await;
    let status = mirror.get(&path).await;
    assert_eq!((status.status, status.header("range")), (204, "0-9"));
    assert_eq!(
        chunk(&mirror, &path, "10-14", &CONTENT[10..15]).await.0,
        202
    );
    assert_eq!(
        finish(&mirror, &path, &sha256(CONTENT), &CONTENT[15..]).await,
        201
    );
    pulls(&mirror, "team/a", &sha256(CONTENT), CONTENT).await;
    pulls(&mirror, "team/a", &before, b"before").await;
    let manifest = mirror.get("/v2/team/a/manifests/v1").await;
    assert_eq!(manifest.header("docker-content-digest"), image);
}

#[tokio::test]
async fn deleting_the_cache_directory_loses_nothing_that_was_acknowledged() {
    let mirror = registry().start().await;
    let image = mirror.image("team/a", "v1", b"layer").await;
    let mirror = mirror
        .restart_after(|cache| std::fs::remove_dir_all(cache).unwrap())
        .await;
    let manifest = mirror.get("/v2/team/a/manifests/v1").await;
    assert_eq!(manifest.header("docker-content-digest"), image);
    pulls(&mirror, "team/a", &sha256(b"layer"), b"layer").await;
}

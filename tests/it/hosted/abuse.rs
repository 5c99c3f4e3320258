//! Clients that take more than their share, or send what no registry client sends.

use super::{OCI_MANIFEST, Pushes as _, collect_after, hosts, namespace, registry};
use crate::common::images::sha256;
use crate::common::{Mirror, within};
use bytes::Bytes;
use http::Method;
use roadstead::hosted::Visibility;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Begins to send a body of a megabyte, and sends some of it.
async fn send_some(mirror: &Mirror, method: &str, path: &str, some: &[u8]) -> TcpStream {
    let mut client = TcpStream::connect(mirror.address()).await.unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    client.write_all(some).await.unwrap();
    client
}

/// The first bytes of an answer.
async fn answer(client: &mut TcpStream) -> String {
    let mut answer = [0; 12];
    within("an answer", client.read_exact(&mut answer))
        .await
        .unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn slow_uploads_take_no_memory_from_others() {
    let mirror = registry().start().await;
    let mut slow = Vec::new();
    for _ in 0..200 {
        let path = mirror.begin("team/slow").await;
        slow.push(send_some(&mirror, "PATCH", &path, b"x").await);
        let path = "/v2/team/slow/manifests/v1";
        slow.push(send_some(&mirror, "PUT", path, b"{").await);
    }
    let came = async {
        let hosted = mirror.hosted();
        while hosted.sessions().iter().any(|it| it.bytes == 0) {
            tokio::task::yield_now().await;
        }
    };
    within("a byte of each is written, though no more comes", came).await;
    mirror.image("team/a", "v1", &vec![7; 2_000_000]).await;
}

#[tokio::test]
async fn abandoned_uploads_give_their_places_to_new_ones() {
    let mirror = registry().start().await;
    let post = async |mirror: &Mirror| {
        let path = "/v2/team/a/blobs/uploads/";
        mirror.send(Method::POST, path, b"").await
    };
    let kept = mirror.begin("team/a").await;
    assert_eq!(mirror.send(Method::PATCH, &kept, b"ab").await.status, 202);
    let refused = loop {
        let begun = post(&mirror).await;
        if begun.status != 202 {
            break begun;
        }
    };
    assert_eq!(
        (refused.status, refused.header("retry-after").is_empty()),
        (429, false)
    );
    collect_after(&mirror, Duration::from_mins(2)).await;
    assert_eq!(post(&mirror).await.status, 202);
    // What has bytes stays longer than what has none.
    assert_eq!(mirror.get(&kept).await.status, 204);
    mirror.image("team/a", "v1", b"layer").await;
}

#[tokio::test]
async fn an_upload_that_is_ended_while_it_is_sent_is_unknown() {
    let mirror = registry().start().await;
    let path = mirror.begin("team/a").await;
    let mut client = send_some(&mirror, "PATCH", &path, b"some").await;
    let hosted = mirror.hosted();
    let came = async {
        while hosted.sessions()[0].bytes == 0 {
            tokio::task::yield_now().await;
        }
    };
    within("some of it", came).await;
    hosted.cancel_any(&hosted.sessions()[0].id).await.unwrap();
    assert_eq!(answer(&mut client).await, "HTTP/1.1 404");
}

#[tokio::test]
async fn a_refusal_is_read_by_clients_that_have_sent_all() {
    let mirror = registry().start().await;
    let path = "/v2/team/a/blobs/uploads/0123456789abcdef0123456789abcdef";
    let body = vec![0; 1_000_000];
    let mut client = send_some(&mirror, "PATCH", path, &body).await;
    assert_eq!(answer(&mut client).await, "HTTP/1.1 404");
    // The connection is as good as before.
    let next = "GET /v2/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    client.write_all(next.as_bytes()).await.unwrap();
    let mut rest = String::new();
    let read = client.read_to_string(&mut rest);
    within("another answer", read).await.unwrap();
    assert!(rest.contains("HTTP/1.1 200"), "{rest}");
}

#[tokio::test]
async fn uploads_of_a_namespace_are_never_more_than_its_quota() {
    let mirror = registry()
        .with(|config| {
            hosts(config, |hosted| {
                let mut small = namespace("small");
                small.quota = Some(1000);
                hosted.namespaces.push(small);
            });
        })
        .start()
        .await;
    let one = mirror.begin("small/a").await;
    let other = mirror.begin("small/b").await;
    let patch = async |path: &str, bytes: usize| {
        let sent = mirror.send(Method::PATCH, path, &vec![1; bytes]).await;
        sent.status
    };
    assert_eq!(patch(&one, 1001).await, 403);
    // It could never be finished: it is over, and keeps nobody out.
    assert_eq!(patch(&one, 600).await, 404);
    let one = mirror.begin("small/a").await;
    assert_eq!(patch(&one, 600).await, 202);
    assert_eq!(patch(&other, 600).await, 403);
    let other = mirror.begin("small/b").await;
    assert_eq!(patch(&other, 400).await, 202);
    let third = mirror.begin("small/c").await;
    assert_eq!(patch(&third, 1).await, 403);
    mirror.clock.advance(Duration::from_mins(11));
    let third = mirror.begin("small/c").await;
    assert_eq!(patch(&third, 1000).await, 202, "the others were abandoned");
    mirror.blob("team/a", &vec![1; 2000]).await;
}

#[tokio::test]
async fn a_name_that_no_repository_can_have_is_no_matter_of_permission() {
    let mirror = registry().start().await;
    for name in ["Team/App", "team/a__-b", "team/-a"] {
        let path = format!("/v2/{name}/blobs/uploads/");
        let refused = mirror.send(Method::POST, &path, b"").await;
        let got = (refused.status, refused.code());
        assert_eq!(got, (400, "NAME_INVALID".to_owned()), "{name}");
    }
}

#[tokio::test]
async fn a_page_whose_name_leads_here_reads_nothing_private() {
    let mirror = registry()
        .with(|config| {
            hosts(config, |hosted| {
                let mut secret = namespace("secret");
                secret.visibility = Visibility::Private;
                hosted.namespaces.push(secret);
                hosted.hosts = vec!["registry.example".to_owned()];
            });
        })
        .start()
        .await;
    mirror.image("secret/a", "v1", b"layer").await;
    let get = async |host: &str| {
        let path = "/v2/secret/a/manifests/v1";
        mirror.get_with(path, &[("host", host)]).await.status
    };
    for (host, status) in [
        ("localhost:5000", 200),
        ("127.0.0.1:5000", 200),
        ("[::1]:5000", 200),
        ("buildbox:5000", 200),
        ("registry.example", 200),
        ("rebound.example:5000", 404),
        ("rebound.example.:5000", 404),
    ] {
        assert_eq!(get(host).await, status, "{host}");
    }
}

#[tokio::test]
async fn what_no_client_could_pull_is_no_manifest() {
    let mirror = registry().start().await;
    let config = mirror.blob("team/a", b"{}").await;
    let put = async |body: &str| {
        let path = "/v2/team/a/manifests/v1";
        let headers = [("content-type", OCI_MANIFEST)];
        let body = Bytes::copy_from_slice(body.as_bytes());
        let put = mirror
            .client
            .ask_with(Method::PUT, path, &headers, body)
            .await;
        (put.status, put.text())
    };
    for (body, why) in [
        (r#"{"schemaVersion":1}"#.to_owned(), "schemaVersion"),
        (
            format!(r#"{{"schemaVersion":2,"config":{{"digest":"{config}","size":-2}}}}"#),
            "config.size",
        ),
        (
            r#"{"schemaVersion":2,"config":{"digest":"md5:00","size":2}}"#.to_owned(),
            "config.digest",
        ),
    ] {
        let (status, text) = put(&body).await;
        assert_eq!(status, 400, "{text}");
        assert!(
            text.contains("MANIFEST_INVALID") && text.contains(why),
            "{text}"
        );
    }
    let whole = format!(
        r#"{{"schemaVersion":2,"config":{{"digest":"{}","size":2}},"layers":null}}"#,
        sha256(b"{}")
    );
    let (status, text) = put(&whole).await;
    assert_eq!(status, 201, "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_quota_refuses_leaves_nothing_on_the_disk() {
    let mirror = registry()
        .with(|config| {
            hosts(config, |hosted| {
                let mut small = namespace("small");
                small.quota = Some(100_000);
                hosted.namespaces.push(small);
            });
        })
        .start()
        .await;
    mirror.blob("small/a", &vec![1; 60_000]).await;
    let refused = (0..40_u8).map(|number| {
        let client = mirror.client;
        let content = vec![number; 50_000];
        let digest = sha256(&content);
        tokio::spawn(async move {
            let path = format!("/v2/small/a/blobs/uploads/?digest={digest}");
            let pushed = client.ask_with(Method::POST, &path, &[], content.into());
            pushed.await.status
        })
    });
    for refused in futures_util::future::join_all(refused).await {
        assert_eq!(refused.unwrap(), 403);
    }
    let files = walk(&mirror.state().join("hosted/blobs"));
    assert_eq!(files, 1, "the first alone");
}

fn walk(dir: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(dir).unwrap();
    let number = entries.map(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path) } else { 1 }
    });
    number.sum()
}

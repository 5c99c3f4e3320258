//! Blobs: ranges, lengths, encodings.

use bytes::Bytes;
use tokio::sync::mpsc;

use super::server::{Server, answer, pieces, piecewise};
use super::*;
use crate::upstream::{BlobFetch, FetchError};

async fn fetch(
    status: u16,
    headers: &[(&'static str, &'static str)],
    offset: u64,
) -> (Result<BlobFetch, FetchError>, Server) {
    let headers = headers.to_vec();
    let server = Server::start(move |_| answer(status, &headers, "12345").into()).await;
    let upstream = simple(&server.url());
    let result = blob(&upstream, offset).await;
    (result, server)
}

#[tokio::test]
async fn a_range_is_asked_for_and_checked() {
    let range = ("content-range", "bytes 5-9/10");
    let (result, server) = fetch(206, &[range], 5).await;
    let blob = result.unwrap();
    assert_eq!((blob.offset, blob.total), (5, Some(10)));
    let seen = &server.seen()[0];
    assert_eq!(seen.header("range"), Some("bytes=5-"));
    assert_eq!(seen.target, format!("/v2/library/app/blobs/{}", digest()));

    // The size may be unknown.
    let (result, _server) = fetch(206, &[("content-range", "bytes 5-9/*")], 5).await;
    assert_eq!(result.unwrap().total, None);
}

#[tokio::test]
async fn a_server_may_ignore_the_range() {
    let (result, _server) = fetch(200, &[], 5).await;
    let blob = result.unwrap();
    assert_eq!((blob.offset, blob.total), (0, Some(5)));
}

#[tokio::test]
async fn a_wrong_range_is_refused() {
    let cases: [(&[(&str, &str)], u64); 5] = [
        (&[("content-range", "bytes 4-8/10")], 5),
        (&[("content-range", "bytes 5-8/10")], 5),
        (&[("content-range", "nonsense")], 5),
        (&[], 5),
        (&[("content-range", "bytes 0-4/10")], 0),
    ];
    for (headers, offset) in cases {
        let (result, _server) = fetch(206, headers, offset).await;
        let error = result.unwrap_err();
        assert!(
            matches!(error, FetchError::Protocol(_)),
            "{headers:?}: {error}"
        );
    }
    let (result, _server) = fetch(416, &[("content-range", "bytes */5")], 5).await;
    assert_eq!(result.unwrap_err(), FetchError::RangeNotSatisfiable);
    let (result, _server) = fetch(204, &[], 0).await;
    assert_eq!(result.unwrap_err(), FetchError::Status(204));
}

#[tokio::test]
async fn no_length_is_no_total_and_a_clean_end() {
    let server = Server::start(|_| pieces(&[b"12", b"", b"345"]).into()).await;
    let metrics = metrics();
    let upstream = Upstream::new(&config(&[&server.url()]), metrics.clone()).unwrap();
    let mut blob = blob(&upstream, 0).await.unwrap();
    assert_eq!((blob.offset, blob.total), (0, None));
    let mut all = Vec::new();
    while let Some(bytes) = blob.body.next().await.unwrap() {
        assert!(!bytes.is_empty());
        all.extend_from_slice(&bytes);
    }
    assert_eq!(all, b"12345");
    let text = metrics.render();
    let bytes = format!(r#"roadstead_upstream_bytes_total{{upstream="{NAME}"}} 5"#);
    assert!(text.contains(&bytes), "{text}");
}

#[tokio::test]
async fn what_has_arrived_is_had_without_waiting() {
    let (send, receive) = mpsc::channel(4);
    let receive = std::sync::Mutex::new(Some(receive));
    let server =
        Server::start(move |_| piecewise(200, &[], receive.lock().unwrap().take().unwrap()).into())
            .await;
    let upstream = simple(&server.url());
    let mut blob = blob(&upstream, 0).await.unwrap();
    assert!(blob.body.try_next().is_none());
    send.send(Ok(Bytes::from_static(b"12"))).await.unwrap();
    // Nothing is lost when a wait was given up in between.
    assert_eq!(blob.body.next().await.unwrap().unwrap(), "12");
    assert!(blob.body.try_next().is_none());
    drop(send);
    assert_eq!(blob.body.next().await, Ok(None));
    assert!(blob.body.try_next().is_none());
}

/// The digest decides, and whoever reads the body checks it.
#[tokio::test]
async fn a_label_on_a_body_says_nothing() {
    for label in ["gzip", "x-gzip", "br", "aws-chunked", "identity"] {
        let (result, server) = fetch(200, &[("content-encoding", label)], 0).await;
        let accepted = server.seen()[0]
            .header("accept-encoding")
            .map(str::to_owned);
        assert_eq!(accepted.as_deref(), Some("identity"));
        let mut blob = result.unwrap();
        assert_eq!((blob.offset, blob.total), (0, Some(5)), "{label}");
        assert_eq!(blob.body.next().await.unwrap().unwrap(), "12345");
        assert_eq!(blob.body.next().await, Ok(None));
        assert!(blob.body.try_next().is_none());
    }
}

#[tokio::test]
async fn head_tells_the_size() {
    let server = Server::start(|request| {
        assert_eq!(request.method, http::Method::HEAD);
        answer(200, &[("content-length", "12345")], "").into()
    })
    .await;
    let upstream = simple(&server.url());
    for _ in 0..2 {
        let size = upstream.blob_head(&repository(), &digest()).await;
        assert_eq!(size, Ok(Some(12345)));
    }
    assert_eq!(server.connections(), 1);
}

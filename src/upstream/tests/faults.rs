//! Servers that are slow, broken or not there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::server::{Reply, Server, answer, piecewise};
use super::*;

async fn get(upstream: &Upstream) -> Result<ManifestFetch, FetchError> {
    pull(upstream, Patience::Now).await
}

#[tokio::test]
async fn a_refused_connection_fails_at_once() {
    let begin = Instant::now();
    let error = get(&simple(&nobody().await)).await.unwrap_err();
    let FetchError::Connect(why) = &error else {
        panic!("{error:?}")
    };
    assert!(why.starts_with("127.0.0.1: Connection refused"), "{why}");
    assert!(begin.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_silent_server_costs_the_header_timeout_and_no_more() {
    let server = Server::start(|_| Reply::Hang).await;
    let mut config = config(&[&server.url()]);
    config.header_timeout = Duration::from_millis(200);
    let begin = Instant::now();
    let error = get(&upstream(&config)).await.unwrap_err();
    assert_eq!(error, FetchError::Timeout("the response header"));
    let waited = begin.elapsed();
    assert!(waited >= Duration::from_millis(200) && waited < Duration::from_secs(2));
}

#[tokio::test]
async fn redirects_and_tokens_do_not_renew_the_header_timeout() {
    let count = AtomicUsize::new(0);
    let server = Server::start(move |_| {
        // Each answer is in time; all together are not.
        let next = format!("/{}", count.fetch_add(1, Ordering::SeqCst));
        let later = Arc::new(tokio::sync::Semaphore::new(0));
        let permit = Arc::clone(&later);
        let response = answer(302, &[("location", &next)], "");
        let mut timer = tokio::task::JoinSet::new();
        timer.spawn(async move {
            tokio::time::sleep(Duration::from_millis(150)).await;
            permit.add_permits(1);
        });
        timer.detach_all();
        Reply::When(later, response)
    })
    .await;
    let mut config = config(&[&server.url()]);
    config.header_timeout = Duration::from_millis(400);
    let begin = Instant::now();
    let error = get(&upstream(&config)).await.unwrap_err();
    assert_eq!(error, FetchError::Timeout("the response header"));
    assert!(begin.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_tls_handshake_that_hangs_costs_the_connect_timeout() {
    // Accepts by its backlog, and never says a word.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let mut config = config(&[&url]);
    config.connect_timeout = Duration::from_millis(200);
    let begin = Instant::now();
    let error = get(&upstream(&config)).await.unwrap_err();
    assert_eq!(error, FetchError::Timeout("a connection"));
    assert!(begin.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_stalled_body_costs_the_idle_timeout() {
    let (send, receive) = mpsc::channel(1);
    let receive = std::sync::Mutex::new(Some(receive));
    let server = Server::start(move |_| {
        let receive = receive.lock().unwrap().take().unwrap();
        piecewise(200, &[("content-length", "10")], receive).into()
    })
    .await;
    let mut config = config(&[&server.url()]);
    config.idle_timeout = Duration::from_millis(200);
    let upstream = upstream(&config);
    let mut fetch = blob(&upstream, 0).await.unwrap();
    send.send(Ok(Bytes::from_static(b"12345"))).await.unwrap();
    assert_eq!(fetch.body.next().await.unwrap().unwrap(), "12345");
    // A caller that looks away again and again does not make the time begin anew.
    let begin = Instant::now();
    let error = loop {
        match tokio::time::timeout(Duration::from_millis(50), fetch.body.next()).await {
            Ok(result) => break result.unwrap_err(),
            Err(_elapsed) => assert!(begin.elapsed() < Duration::from_secs(5)),
        }
    };
    assert_eq!(error, FetchError::Timeout("more of a body"));
    assert_eq!(fetch.body.next().await, Ok(None), "it stays ended");
}

#[tokio::test]
async fn a_body_that_is_cut_is_broken() {
    for headers in [&[("content-length", "10")][..], &[]] {
        let headers = headers.to_vec();
        let (send, receive) = mpsc::channel(1);
        let receive = std::sync::Mutex::new(Some(receive));
        let server = Server::start(move |_| {
            let receive = receive.lock().unwrap().take().unwrap();
            piecewise(200, &headers, receive).into()
        })
        .await;
        let upstream = simple(&server.url());
        let mut fetch = blob(&upstream, 0).await.unwrap();
        send.send(Ok(Bytes::from_static(b"12345"))).await.unwrap();
        assert_eq!(fetch.body.next().await.unwrap().unwrap(), "12345");
        send.send(Err(std::io::Error::other("cut"))).await.unwrap();
        let error = fetch.body.next().await.unwrap_err();
        assert!(matches!(error, FetchError::Broken(_)), "{error:?}");
    }
}

#[tokio::test]
async fn a_connection_closed_without_an_answer_is_tried_once_more() {
    let count = AtomicUsize::new(0);
    let server = Server::start(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::Close,
        _ => answer(200, &[], "{}").into(),
    })
    .await;
    get(&simple(&server.url())).await.unwrap();

    let server = Server::start(|_| Reply::Close).await;
    let error = get(&simple(&server.url())).await.unwrap_err();
    assert!(matches!(error, FetchError::Broken(_)), "{error}");
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn the_next_endpoint_answers_for_one_that_cannot() {
    let silent = Server::start(|_| Reply::Hang).await;
    let ill = Server::start(|_| answer(503, &[], "").into()).await;
    let empty = Server::start(|_| answer(404, &[], "").into()).await;
    let good = Server::start(|_| answer(200, &[], "{}").into()).await;
    let nobody = nobody().await;
    for first in [silent.url(), ill.url(), empty.url(), nobody] {
        let mut config = config(&[&first, &good.url()]);
        config.header_timeout = Duration::from_secs(2);
        let result = get(&upstream(&config)).await;
        assert!(result.is_ok(), "{first}: {result:?}");
    }
    assert_eq!(good.seen().len(), 4);
}

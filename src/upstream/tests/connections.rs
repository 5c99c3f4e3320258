//! `max_connections`, and who gave a blob.

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::server::{Server, answer, piecewise};
use super::*;

/// Bodies that stay open until the test says otherwise; other requests are answered at once.
async fn open_bodies() -> (
    Server,
    mpsc::UnboundedReceiver<mpsc::Sender<Result<Bytes, std::io::Error>>>,
) {
    let (give, bodies) = mpsc::unbounded_channel();
    let server = Server::start(move |request| {
        if !request.target.contains("/blobs/") {
            return answer(200, &[], "{}").into();
        }
        let (send, receive) = mpsc::channel(4);
        give.send(send).unwrap();
        piecewise(200, &[], receive).into()
    })
    .await;
    (server, bodies)
}

async fn ask(upstream: &Upstream, extra: bool) -> Result<BlobFetch, FetchError> {
    let (repository, digest) = (repository(), digest());
    let ask = BlobRequest {
        extra,
        ..BlobRequest::whole(&repository, &digest)
    };
    upstream.blob(&ask).await
}

fn limited_to(server: &Server, connections: usize, header_timeout: Duration) -> Upstream {
    let mut config = config(&[&server.url()]);
    config.max_connections = connections;
    config.header_timeout = header_timeout;
    upstream(&config)
}

#[tokio::test]
async fn a_connection_is_held_until_the_body_ends() {
    let (server, mut bodies) = open_bodies().await;
    let upstream = limited_to(&server, 2, Duration::from_secs(10));
    let mut first = ask(&upstream, false).await.unwrap();
    let second = ask(&upstream, false).await.unwrap();
    assert_eq!(ask(&upstream, true).await.unwrap_err(), FetchError::Busy);
    let mut third = Box::pin(pull(&upstream, Patience::Now));
    assert!(futures_util::poll!(&mut third).is_pending());
    assert_eq!(server.seen().len(), 2, "the third waits, and asks nothing");

    drop(bodies.recv().await.unwrap());
    assert_eq!(first.body.next().await, Ok(None));
    // The body that ended is still there, and counts no more.
    third.await.unwrap();
    let extra = ask(&upstream, true).await.unwrap();
    assert_eq!(ask(&upstream, true).await.unwrap_err(), FetchError::Busy);

    // Nor does one that is dropped or broken.
    drop(second);
    ask(&upstream, true).await.unwrap();
    drop(extra);
    drop(first);
}

#[tokio::test]
async fn a_body_that_breaks_frees_its_connection() {
    let (server, mut bodies) = open_bodies().await;
    let upstream = limited_to(&server, 1, Duration::from_secs(10));
    let mut fetch = ask(&upstream, false).await.unwrap();
    let send = bodies.recv().await.unwrap();
    send.send(Err(std::io::Error::other("cut"))).await.unwrap();
    fetch.body.next().await.unwrap_err();
    ask(&upstream, true).await.unwrap();
}

#[tokio::test]
async fn waiting_for_a_connection_ends_with_the_header_timeout() {
    let (server, _bodies) = open_bodies().await;
    let upstream = limited_to(&server, 1, Duration::from_millis(300));
    let held = ask(&upstream, false).await.unwrap();
    let begin = Instant::now();
    let error = pull(&upstream, Patience::Wait).await.unwrap_err();
    assert_eq!(error, FetchError::Busy);
    let waited = begin.elapsed();
    assert!(waited >= Duration::from_millis(300) && waited < Duration::from_secs(3));
    drop(held);
    pull(&upstream, Patience::Wait).await.unwrap();
}

#[tokio::test]
async fn a_strong_tag_and_the_host_that_gave_it_are_told() {
    let storage = Server::start(|_| answer(200, &[("etag", r#""abc""#)], "12345").into()).await;
    let to = storage.url();
    let registry = Server::start(move |_| answer(307, &[("location", &to)], "").into()).await;
    let fetch = blob(&simple(&registry.url()), 0).await.unwrap();
    let host = storage.url().replace("http://", "");
    assert_eq!(fetch.validator, Some((r#""abc""#.to_owned(), host)));
    for none in [r#"W/"abc""#, "abc", r#""""#, r#"""#] {
        let server = Server::start(move |_| answer(200, &[("etag", none)], "12345").into()).await;
        let fetch = blob(&simple(&server.url()), 0).await.unwrap();
        assert_eq!(fetch.validator, None, "{none}");
    }
}

use super::*;
use crate::server::testing::{Logs, Server, converse, exchange, metrics};
use http::Response;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const GET_AND_CLOSE: &str = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

type Step = Result<&'static str, MirrorError>;

fn stream_of(steps: Vec<Step>, length: Option<u64>, metrics: &Metrics) -> ByteStream {
    let steps = steps
        .into_iter()
        .map(|step| step.map(|text| Bytes::from_static(text.as_bytes())));
    ByteStream::scripted(steps.collect(), length, metrics)
}

fn response(content: Content, metrics: &Metrics) -> Response<Body> {
    Response::new(Body::new(content, exchange(metrics)))
}

/// The bytes that a client reads over HTTP/1.1, and the one access line.
async fn over_http1(
    steps: Vec<Step>,
    length: Option<u64>,
    request: &'static str,
) -> (String, serde_json::Value) {
    let (logs, metrics, server) = (Logs::collect(), metrics(), Server::bind().await);
    let inner = metrics.clone();
    let client = server.connect(move || {
        let stream = stream_of(steps.clone(), length, &inner);
        response(Content::Stream(stream), &inner)
    });
    let answer = converse(client.await, request).await;
    assert_eq!(server.tasks.drain(Duration::from_secs(10)).await, 0);
    assert!(
        metrics.render().contains("roadstead_readers_in_flight 0"),
        "a reader is still counted"
    );
    let mut lines = logs.access();
    assert_eq!(lines.len(), 1, "one line a request: {lines:?}");
    (answer, lines.remove(0))
}

#[tokio::test]
async fn a_known_length_is_announced_and_ends_without_another_poll() {
    let steps = vec![Ok("abc"), Ok("de"), Err(MirrorError::ShuttingDown)];
    let (answer, line) = over_http1(steps, Some(5), GET_AND_CLOSE).await;
    assert!(answer.contains("content-length: 5\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nabcde"), "{answer}");
    assert_eq!(line["ended"], "complete");
    assert_eq!(line["bytes"], 5);
    assert_eq!(line["status"], 200);
    assert_eq!(line["outcome"], "hit");
    assert_eq!(line["upstream"], "docker.io");
    assert_eq!(line["repository"], "library/nginx");
    assert_eq!(line["user_agent"], "test/1");
    assert!(line["ttfb_ms"].is_number(), "{line}");
}

#[tokio::test]
async fn an_unknown_length_is_chunked_and_ends_with_the_last_chunk() {
    let (answer, line) = over_http1(vec![Ok("abc"), Ok("de")], None, GET_AND_CLOSE).await;
    assert!(answer.contains("transfer-encoding: chunked"), "{answer}");
    assert!(answer.ends_with("0\r\n\r\n"), "{answer}");
    assert_eq!(line["ended"], "complete");
}

#[tokio::test]
async fn a_failure_breaks_a_body_of_known_length() {
    let steps = vec![Ok("abc"), Err(MirrorError::ShuttingDown)];
    let (answer, line) = over_http1(steps, Some(5), GET).await;
    assert!(answer.contains("content-length: 5\r\n"), "{answer}");
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    assert_eq!(
        body, "abc",
        "what came before the failure, and no more: {answer}"
    );
    assert_eq!(line["ended"], "failed");
}

#[tokio::test]
async fn a_failure_breaks_a_chunked_body() {
    let steps = vec![Ok("abc"), Err(MirrorError::ShuttingDown)];
    let (answer, line) = over_http1(steps, None, GET).await;
    assert!(!answer.contains("0\r\n\r\n"), "a clean end: {answer}");
    assert_eq!(line["ended"], "failed");
}

#[tokio::test]
async fn a_source_that_ends_early_or_runs_over_is_a_failure() {
    let (answer, line) = over_http1(vec![Ok("abc")], Some(5), GET).await;
    assert!(answer.split_once("\r\n\r\n").unwrap().1.len() < 5);
    assert_eq!(line["ended"], "failed");

    let (answer, line) = over_http1(vec![Ok("abcdef")], Some(5), GET).await;
    assert!(!answer.ends_with("abcde"), "{answer}");
    assert_eq!(line["ended"], "failed");
}

#[tokio::test]
async fn a_failure_resets_an_http2_stream() {
    let (logs, metrics, server) = (Logs::collect(), metrics(), Server::bind().await);
    let client = server.connect(move || {
        let steps = vec![Ok("abc"), Err(MirrorError::ShuttingDown)];
        response(Content::Stream(stream_of(steps, None, &metrics)), &metrics)
    });
    let io = TokioIo::new(client.await);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    let driver = tokio_util::task::AbortOnDropHandle::new(
        tokio::runtime::Handle::current().spawn(connection),
    );
    let request = http::Request::get("http://a/").body(http_body_util::Empty::<Bytes>::new());
    let answer = sender.send_request(request.unwrap()).await.unwrap();
    let error = answer.into_body().collect().await.unwrap_err();
    assert!(!error.is_canceled(), "{error:?}");
    drop(driver);
    server.tasks.drain(Duration::from_secs(10)).await;
    assert_eq!(logs.access()[0]["ended"], "failed");
}

#[tokio::test]
async fn a_client_that_leaves_is_a_cancelled_request() {
    let (logs, metrics, server) = (Logs::collect(), metrics(), Server::bind().await);
    let inner = metrics.clone();
    let connecting = server.connect(move || {
        let first = stream::iter([Ok(Bytes::from_static(b"abc"))]);
        let stream = ByteStream::new(first.chain(stream::pending()).boxed(), Some(5), &inner);
        response(Content::Stream(stream), &inner)
    });
    let mut client = connecting.await;
    client.write_all(GET.as_bytes()).await.unwrap();
    let mut taken = Vec::new();
    while !taken.ends_with(b"abc") {
        assert_ne!(client.read_buf(&mut taken).await.unwrap(), 0);
    }
    assert!(metrics.render().contains("roadstead_readers_in_flight 1"));
    drop(client);
    assert_eq!(server.tasks.drain(Duration::from_secs(10)).await, 0);
    let lines = logs.access();
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["ended"], "cancelled");
    assert_eq!(lines[0]["bytes"], 3);
    let text = metrics.render();
    assert!(text.contains("roadstead_readers_in_flight 0"), "{text}");
    assert!(
        text.contains("roadstead_client_bytes_total{kind=\"blob\",upstream=\"docker.io\"} 3"),
        "{text}"
    );
}

#[tokio::test]
async fn small_and_empty_bodies_are_complete() {
    for (content, length) in [
        (Content::Full(Bytes::from_static(b"hello")), 5),
        (Content::Full(Bytes::new()), 0),
        (Content::Empty, 0),
    ] {
        let (logs, metrics) = (Logs::collect(), metrics());
        let body = Body::new(content, exchange(&metrics));
        assert_eq!(http_body::Body::size_hint(&body).exact(), Some(length));
        let bytes = body.collect().await.unwrap().to_bytes();
        assert_eq!(bytes.len() as u64, length);
        let lines = logs.access();
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0]["ended"], "complete");
        assert_eq!(lines[0]["bytes"], length);
    }
}

#[tokio::test]
async fn priming_answers_what_can_still_be_answered() {
    let metrics = metrics();
    let prime = async |steps: Vec<Step>, length| {
        let mut stream = stream_of(steps, length, &metrics);
        let primed = stream.prime().await.map_err(|error| error.to_string());
        primed.map(|()| stream)
    };
    let failed = vec![Err(MirrorError::BlobUnknown)];
    assert!(prime(failed.clone(), Some(5)).await.is_err());
    assert!(prime(failed.clone(), None).await.is_err());
    assert!(prime(failed, Some(0)).await.is_err());
    assert!(prime(vec![], Some(5)).await.is_err());
    assert!(prime(vec![Ok("a")], Some(0)).await.is_err());

    for length in [Some(0), None] {
        let stream = prime(vec![], length).await.unwrap();
        let body = Body::new(Content::Stream(stream), exchange(&metrics));
        assert!(http_body::Body::is_end_stream(&body));
    }
    for length in [Some(3), None] {
        let stream = prime(vec![Ok("a"), Ok("bc")], length).await.unwrap();
        let body = Body::new(Content::Stream(stream), exchange(&metrics));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abc");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_first_chunk_delays_the_head_only_so_long_and_is_not_lost() {
    let metrics = metrics();
    let source = stream::once(async {
        tokio::time::sleep(FIRST_CHUNK_WAIT_MAX * 2).await;
        Ok(Bytes::from_static(b"late"))
    });
    let mut stream = ByteStream::new(source.boxed(), Some(4), &metrics);
    let started = tokio::time::Instant::now();
    stream.prime().await.unwrap();
    assert!(started.elapsed() < FIRST_CHUNK_WAIT_MAX * 3 / 2);
    let body = Body::new(Content::Stream(stream), exchange(&metrics));
    assert_eq!(body.collect().await.unwrap().to_bytes(), "late");
}

async fn in_frames(steps: Vec<Vec<u8>>, length: Option<u64>) -> (Vec<u8>, Vec<usize>, bool) {
    let metrics = metrics();
    let steps = steps.into_iter().map(|bytes| Ok(Bytes::from(bytes)));
    let stream = ByteStream::scripted(steps.collect(), length, &metrics).in_frames();
    let mut body = Body::new(Content::Stream(stream), exchange(&metrics));
    let (mut all, mut sizes) = (Vec::new(), Vec::new());
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return (all, sizes, false);
        };
        let data = frame.into_data().unwrap();
        sizes.push(data.len());
        all.extend_from_slice(&data);
    }
    (all, sizes, true)
}

#[tokio::test]
async fn for_http2_all_comes_in_frames_that_fit_into_a_record() {
    let content: Vec<u8> = (0..=250).cycle().take(2 * FRAME_BYTES + 1).collect();
    let steps = vec![content.clone(), vec![7; 3]];
    let whole: Vec<u8> = steps.concat();
    let length = Some(whole.len() as u64);
    let expected = vec![FRAME_BYTES, FRAME_BYTES, 1, 3];
    for length in [length, None] {
        let got = in_frames(steps.clone(), length).await;
        assert_eq!(got, (whole.clone(), expected.clone(), true));
    }
    // What is longer than was promised is broken off before the promised end.
    let (all, _, ended_well) = in_frames(vec![content], Some(FRAME_BYTES as u64)).await;
    assert!(!ended_well && all.is_empty(), "{} bytes", all.len());
}

/// A body whose client may have `rate` bytes a second.
fn slowed(content: Content, rate: u64, metrics: &Metrics) -> Body {
    let limit = crate::access::limits::Limit {
        meaning: "*".parse().unwrap(),
        requests: None,
        bytes: Some(rate),
        connections: None,
        bytes_per_day: None,
    };
    let clock = crate::clock::ManualClock::new(crate::clock::Timestamp(0));
    let limits = crate::access::limits::Limits::new(vec![limit], std::sync::Arc::new(clock));
    let nobody = std::sync::Arc::new(crate::access::Principal::anonymous());
    let source = std::net::Ipv4Addr::LOCALHOST.into();
    let admitted = std::sync::Arc::new(limits).admit(&nobody, source, &mut None);
    let mut exchange = exchange(metrics);
    exchange.account.spends(admitted.unwrap());
    Body::new(content, exchange)
}

/// hyper ends a body that says that it has ended: not before its last bytes are given.
#[tokio::test(start_paused = true)]
async fn bytes_that_are_held_back_come_later_and_the_length_stays() {
    let (logs, metrics) = (Logs::collect(), metrics());
    let steps = vec![Ok("abc"), Ok("de")];
    let mut body = slowed(
        Content::Stream(stream_of(steps, Some(5), &metrics)),
        2,
        &metrics,
    );
    let begun = tokio::time::Instant::now();
    let first = body.frame().await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "abc");
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert!(futures_util::poll!(std::pin::pin!(body.frame())).is_pending());
    assert!(!http_body::Body::is_end_stream(&body));
    assert_eq!(http_body::Body::size_hint(&body).exact(), Some(2));
    let last = body.frame().await.unwrap().unwrap();
    assert_eq!(last.into_data().unwrap(), "de");
    assert_eq!(begun.elapsed().as_millis(), 1500);
    assert!(http_body::Body::is_end_stream(&body));
    drop(body);
    assert_eq!(
        (&logs.access()[0]["ended"], &logs.access()[0]["bytes"]),
        (&"complete".into(), &5.into())
    );

    let mut body = slowed(Content::Full(Bytes::from_static(b"abc")), 1, &metrics);
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "abc"
    );
    assert!(http_body::Body::is_end_stream(&body));
}

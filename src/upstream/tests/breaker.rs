//! An endpoint that keeps failing is left alone for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use super::server::{Reply, Server, answer, piecewise};
use super::*;

const PAUSE: Duration = Duration::from_millis(200);

fn timings() -> Timings {
    Timings {
        breaker_first: PAUSE,
        breaker_longest: PAUSE,
        ..Timings::default()
    }
}

/// A server that is ill while the switch says so.
async fn patient(ill: &Arc<AtomicBool>, status: u16) -> Server {
    let ill = Arc::clone(ill);
    Server::start(move |_| {
        if ill.load(Ordering::SeqCst) {
            answer(status, &[], "").into()
        } else {
            answer(200, &[], "{}").into()
        }
    })
    .await
}

fn up(metrics: &Metrics, server: &Server) -> bool {
    let host = server.url().replace("http://", "");
    let labels = format!(r#"endpoint="{host}",upstream="{NAME}""#);
    let text = metrics.render();
    let line = |value| format!("roadstead_upstream_endpoint_up{{{labels}}} {value}\n");
    assert!(text.contains(&line(0)) || text.contains(&line(1)), "{text}");
    text.contains(&line(1))
}

/// Asks until the endpoint is asked again, and gives what came of it.
async fn when_asked_again(
    upstream: &Upstream,
    server: &Server,
) -> Result<ManifestFetch, FetchError> {
    let (before, begin) = (server.seen().len(), Instant::now());
    loop {
        let result = pull(upstream, Patience::Now).await;
        if server.seen().len() > before {
            return result;
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "never asked");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn five_failures_open_it_one_question_probes_and_an_answer_closes_it() {
    let ill = Arc::new(AtomicBool::new(true));
    let server = patient(&ill, 500).await;
    let (upstream, metrics) = quick(&config(&[&server.url()]), timings());
    for number in 0..5 {
        assert!(up(&metrics, &server));
        let error = pull_of(&upstream, number, Patience::Now).await.unwrap_err();
        assert_eq!(error, FetchError::Status(500));
    }
    assert!(!up(&metrics, &server));

    // Nothing is asked now, even by those who would wait, and they hear it at once.
    let begin = Instant::now();
    for patience in [Patience::Now, Patience::Wait] {
        let error = pull(&upstream, patience).await.unwrap_err();
        assert_eq!(error, FetchError::Status(500));
    }
    assert!(begin.elapsed() < PAUSE / 2);
    assert_eq!(server.seen().len(), 5);

    // The probe fails: it stays open.
    when_asked_again(&upstream, &server).await.unwrap_err();
    assert!(pull(&upstream, Patience::Now).await.is_err());
    assert_eq!(server.seen().len(), 6);
    assert!(!up(&metrics, &server));

    ill.store(false, Ordering::SeqCst);
    when_asked_again(&upstream, &server).await.unwrap();
    assert!(up(&metrics, &server));
    for _ in 0..3 {
        pull(&upstream, Patience::Now).await.unwrap();
    }
    assert_eq!(server.seen().len(), 10);
}

#[tokio::test]
async fn what_always_fails_does_not_keep_others_from_being_asked() {
    let server = Server::start(|request| {
        let bad = request.target.ends_with("/latest");
        answer(if bad { 500 } else { 200 }, &[], "{}").into()
    })
    .await;
    let timings = Timings {
        round_pause: Duration::from_millis(10),
        ..Timings::default()
    };
    let (upstream, metrics) = quick(&config(&[&server.url()]), timings);
    for patience in [Patience::Now, Patience::Wait, Patience::Wait] {
        pull(&upstream, patience).await.unwrap_err();
    }
    assert_eq!(server.seen().len(), 7);
    assert!(up(&metrics, &server));
    pull_of(&upstream, 1, Patience::Now).await.unwrap();
}

#[tokio::test]
async fn one_probe_at_a_time() {
    let (asked, answers) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let (count, gate) = (Arc::clone(&asked), Arc::clone(&answers));
    let server = Server::start(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0..5 => answer(500, &[], "").into(),
        _ => Reply::When(Arc::clone(&gate), answer(200, &[], "{}")),
    })
    .await;
    let (upstream, _) = quick(&config(&[&server.url()]), timings());
    for number in 0..5 {
        pull_of(&upstream, number, Patience::Now).await.unwrap_err();
    }
    let probe = async {
        let begin = Instant::now();
        loop {
            match pull(&upstream, Patience::Now).await {
                Ok(_) => break,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
            assert!(begin.elapsed() < Duration::from_secs(10));
        }
    };
    let others = async {
        while asked.load(Ordering::SeqCst) < 6 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for _ in 0..20 {
            pull(&upstream, Patience::Now).await.unwrap_err();
        }
        assert_eq!(asked.load(Ordering::SeqCst), 6);
        answers.add_permits(100);
    };
    tokio::join!(probe, others);
}

#[tokio::test]
async fn the_next_endpoint_answers_meanwhile_and_the_ill_one_is_not_bothered() {
    let ill = Server::start(|_| answer(502, &[], "").into()).await;
    let good = Server::start(|_| answer(200, &[], "{}").into()).await;
    let slow = Timings::default();
    let (upstream, metrics) = quick(&config(&[&ill.url(), &good.url()]), slow);
    for number in 0..12 {
        pull_of(&upstream, number, Patience::Now).await.unwrap();
    }
    assert_eq!((ill.seen().len(), good.seen().len()), (5, 12));
    assert_eq!(value(&metrics, "roadstead_upstream_failovers_total"), 5);
    assert_eq!(upstream.endpoints_for(&digest()).len(), 1);
    assert!(!up(&metrics, &ill));
    assert!(up(&metrics, &good));
}

#[tokio::test]
async fn what_an_answer_says_of_us_is_no_failure() {
    for status in [401, 403, 404, 416, 418] {
        let server = Server::start(move |_| answer(status, &[], "").into()).await;
        let (upstream, _) = quick(&config(&[&server.url()]), timings());
        for _ in 0..8 {
            pull(&upstream, Patience::Now).await.unwrap_err();
        }
        assert_eq!(server.seen().len(), 8, "{status}");
    }
}

#[tokio::test]
async fn refused_connections_and_broken_bodies_open_it() {
    let (upstream, _) = quick(&config(&[&nobody().await]), Timings::default());
    for _ in 0..5 {
        pull(&upstream, Patience::Now).await.unwrap_err();
    }
    let error = pull(&upstream, Patience::Now).await.unwrap_err();
    assert!(error.to_string().contains("not asked again"), "{error}");
    assert!(matches!(error, FetchError::Connect(_)), "{error}");

    let (give, mut bodies) = mpsc::unbounded_channel();
    let server = Server::start(move |_| {
        let (send, receive) = mpsc::channel(2);
        give.send(send).unwrap();
        piecewise(200, &[("content-length", "10")], receive).into()
    })
    .await;
    let (upstream, _) = quick(&config(&[&server.url()]), Timings::default());
    // Of one blob that always breaks one counts: it may be the blob's own trouble.
    for number in [0, 0, 0, 1, 2, 3, 4] {
        let mut fetch = blob_of(&upstream, number).await.unwrap();
        let body = bodies.recv().await.unwrap();
        body.send(Ok(Bytes::from_static(b"123"))).await.unwrap();
        fetch.body.next().await.unwrap();
        body.send(Err(std::io::Error::other("cut"))).await.unwrap();
        fetch.body.next().await.unwrap_err();
    }
    let error = blob(&upstream, 0).await.unwrap_err();
    assert!(matches!(error, FetchError::Broken(_)), "{error}");
    assert_eq!(server.seen().len(), 7);
}

#[tokio::test]
async fn a_body_that_is_dropped_is_no_failure() {
    let server = Server::start(|_| answer(200, &[], vec![0; 4 << 20]).into()).await;
    let (upstream, _) = quick(&config(&[&server.url()]), Timings::default());
    for _ in 0..10 {
        let mut fetch = blob(&upstream, 0).await.unwrap();
        fetch.body.next().await.unwrap();
    }
    assert_eq!(server.seen().len(), 10);
}

//! Several endpoints: who is asked, and which error is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::server::{Reply, Server, answer};
use super::*;
use crate::upstream::EndpointId;

async fn status(status: u16) -> Server {
    Server::start(move |_| answer(status, &[], "").into()).await
}

async fn told(endpoints: &[&str]) -> FetchError {
    let upstream = upstream(&config(endpoints));
    pull(&upstream, Patience::Now).await.unwrap_err()
}

#[tokio::test]
async fn a_404_of_a_mirror_is_asked_past_down_to_the_origin() {
    let (a, b) = (status(404).await, status(404).await);
    let origin = Server::start(|_| answer(200, &[], "{}").into()).await;
    let (upstream, metrics) = quick(
        &config(&[&a.url(), &b.url(), &origin.url()]),
        Timings::default(),
    );
    for _ in 0..6 {
        let fetch = pull(&upstream, Patience::Now).await.unwrap();
        assert_eq!(upstream.endpoint_host(fetch.endpoint), host(&origin));
    }
    assert_eq!((a.seen().len(), b.seen().len()), (6, 6));
    // That is what mirrors are like, and no failure.
    assert_eq!(value(&metrics, "roadstead_upstream_failovers_total"), 0);
}

fn host(server: &Server) -> String {
    server.url().replace("http://", "")
}

#[tokio::test]
async fn of_several_errors_the_most_telling_is_told() {
    let (absent, denied, wants) = (status(404).await, status(403).await, status(401).await);
    let (ill, limited) = (status(503).await, status(429).await);
    let (absent, denied, wants) = (absent.url(), denied.url(), wants.url());
    let (ill, limited, nobody) = (ill.url(), limited.url(), nobody().await);
    let not_found = FetchError::NotFound { code: None };
    // A 404 counts only when nobody else might have it.
    assert_eq!(told(&[&absent, &absent]).await, not_found);
    assert_eq!(told(&[&denied, &absent, &wants]).await, not_found);
    assert_eq!(told(&[&absent, &ill]).await, FetchError::Status(503));
    // Or when it is the origin's, the last one's, which has everything.
    for other in [&ill, &nobody, &limited, &wants] {
        assert_eq!(told(&[other, &absent]).await, not_found);
    }
    let connect = told(&[&absent, &nobody]).await;
    assert!(matches!(connect, FetchError::Connect(_)), "{connect}");
    // The first of equals.
    assert_eq!(told(&[&ill, &nobody]).await, FetchError::Status(503));
    assert_eq!(told(&[&wants, &denied]).await, FetchError::Unauthorized);
    // A limit says when to come back.
    for others in [[&ill, &limited], [&absent, &limited], [&nobody, &limited]] {
        let error = told(&[others[0], others[1]]).await;
        assert!(matches!(error, FetchError::RateLimited { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_404_does_not_speak_for_an_endpoint_that_is_left_alone() {
    let (ill, absent) = (status(500).await, status(404).await);
    let (upstream, _) = quick(&config(&[&absent.url(), &ill.url()]), Timings::default());
    for number in 0..8 {
        let error = pull_of(&upstream, number, Patience::Now).await.unwrap_err();
        assert_eq!(error, FetchError::Status(500));
    }
    assert_eq!((ill.seen().len(), absent.seen().len()), (5, 8));
    // Nor where those to be asked were named.
    let endpoints = upstream.endpoints_for(&digest());
    assert_eq!(endpoints.len(), 1);
    let (repository, digest) = (repository(), digest());
    let ask = BlobRequest {
        endpoints: &endpoints,
        ..BlobRequest::whole(&repository, &digest)
    };
    let error = upstream.blob(&ask).await.unwrap_err();
    assert_eq!(error, FetchError::Status(500));
}

#[tokio::test]
async fn named_endpoints_are_asked_in_their_order_and_no_others() {
    let (a, b, c) = (status(404).await, status(404).await, status(404).await);
    let upstream = upstream(&config(&[&a.url(), &b.url(), &c.url()]));
    let all = upstream.endpoints_for(&digest());
    let (repository, digest) = (repository(), digest());
    let ask = BlobRequest {
        endpoints: &[all[2], all[0]],
        ..BlobRequest::whole(&repository, &digest)
    };
    upstream.blob(&ask).await.unwrap_err();
    let seen = [a, b, c].map(|server| server.seen().len());
    assert_eq!(seen, [1, 0, 1]);
}

#[tokio::test]
async fn who_lacks_it_is_not_asked_again_in_the_same_question() {
    let (absent, ill) = (status(404).await, status(503).await);
    let timings = Timings {
        round_pause: Duration::from_millis(10),
        ..Timings::default()
    };
    let (upstream, _) = quick(&config(&[&absent.url(), &ill.url()]), timings);
    let error = pull(&upstream, Patience::Wait).await.unwrap_err();
    assert_eq!(error, FetchError::Status(503));
    assert_eq!((absent.seen().len(), ill.seen().len()), (1, 3));
    // What the origin lacks is settled at once.
    let (upstream, _) = quick(&config(&[&ill.url(), &absent.url()]), timings);
    let error = pull(&upstream, Patience::Wait).await.unwrap_err();
    assert_eq!(error, FetchError::NotFound { code: None });
    assert_eq!((absent.seen().len(), ill.seen().len()), (2, 4));
}

#[tokio::test]
async fn the_fastest_is_preferred() {
    let delayed = Server::start(|_| {
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let (permit, mut timer) = (Arc::clone(&gate), tokio::task::JoinSet::new());
        timer.spawn(async move {
            tokio::time::sleep(Duration::from_millis(80)).await;
            permit.add_permits(1);
        });
        timer.detach_all();
        Reply::When(gate, answer(200, &[], "{}"))
    })
    .await;
    let quick = Server::start(|_| answer(200, &[], "{}").into()).await;
    let mut config = config(&[&delayed.url(), &quick.url()]);
    config.strategy = crate::upstream::Strategy::Fastest;
    let upstream = upstream(&config);
    for _ in 0..20 {
        pull(&upstream, Patience::Now).await.unwrap();
    }
    // One that nobody knows is soon tried, and then the other is asked no more.
    assert_eq!((delayed.seen().len(), quick.seen().len()), (1, 19));
    assert_eq!(upstream.endpoints_for(&digest()).len(), 2);
}

#[tokio::test]
async fn who_can_wait_asks_again_after_failures_of_a_moment_and_three_times_at_most() {
    let count = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&count);
    let moody = Server::start(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => answer(500, &[], "").into(),
        1 => answer(408, &[], "").into(),
        _ => answer(200, &[], "{}").into(),
    })
    .await;
    let timings = Timings {
        round_pause: Duration::from_millis(20),
        ..Timings::default()
    };
    let (upstream, metrics) = quick(&config(&[&moody.url()]), timings);
    let error = pull(&upstream, Patience::Now).await.unwrap_err();
    assert_eq!(error, FetchError::Status(500));
    pull(&upstream, Patience::Wait).await.unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 3);
    assert_eq!(value(&metrics, "roadstead_upstream_retries_total"), 1);

    let ill = status(503).await;
    let (upstream, _) = quick(&config(&[&ill.url()]), timings);
    let error = pull(&upstream, Patience::Wait).await.unwrap_err();
    assert_eq!(error, FetchError::Status(503));
    assert_eq!(ill.seen().len(), 3);

    // What lasts longer than a moment is told at once.
    let (first, nobody) = (status(503).await, nobody().await);
    let (upstream, _) = quick(&config(&[&first.url(), &nobody]), timings);
    pull(&upstream, Patience::Wait).await.unwrap_err();
    assert_eq!(first.seen().len(), 1);
}

#[tokio::test]
async fn repeats_end_with_the_header_timeout() {
    let ill = status(503).await;
    let timings = Timings {
        round_pause: Duration::from_secs(20),
        ..Timings::default()
    };
    let mut config = config(&[&ill.url()]);
    config.header_timeout = Duration::from_millis(500);
    let (upstream, _) = quick(&config, timings);
    let begin = tokio::time::Instant::now();
    pull(&upstream, Patience::Wait).await.unwrap_err();
    assert!(begin.elapsed() < Duration::from_millis(400), "no use");
    assert_eq!(ill.seen().len(), 1);
}

#[tokio::test]
async fn an_endpoint_that_is_left_alone_does_not_keep_another_from_a_second_try() {
    let count = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&count);
    let moody = Server::start(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        0..5 => answer(404, &[], "").into(),
        5 => answer(503, &[], "").into(),
        _ => answer(200, &[], "{}").into(),
    })
    .await;
    let timings = Timings {
        round_pause: Duration::from_millis(20),
        breaker_first: Duration::from_mins(1),
        ..Timings::default()
    };
    let (upstream, _) = quick(&config(&[&nobody().await, &moody.url()]), timings);
    for _ in 0..5 {
        pull(&upstream, Patience::Wait).await.unwrap_err();
    }
    pull(&upstream, Patience::Wait).await.unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 7);
}

#[tokio::test]
async fn a_web_page_is_no_answer_and_the_next_endpoint_is_asked() {
    let html = [("content-type", "text/html; charset=utf-8")];
    let portal = Server::start(move |_| answer(200, &html, "<html>").into()).await;
    let good = Server::start(|_| answer(200, &[], "{}").into()).await;
    let upstream = upstream(&config(&[&portal.url(), &good.url()]));
    let (repository, digest) = (repository(), digest());
    let all = AcceptClass::ALL;
    pull(&upstream, Patience::Now).await.unwrap();
    let latest = latest();
    let head = upstream.manifest_head(&repository, &latest, all, Patience::Now);
    head.await.unwrap();
    upstream
        .tags(&repository, &[], Patience::Now)
        .await
        .unwrap();
    let referrers = upstream.referrers(&repository, &digest, &[], Patience::Now);
    referrers.await.unwrap();
    assert_eq!((portal.seen().len(), good.seen().len()), (4, 4));
    for number in 0..3 {
        pull_of(&upstream, number, Patience::Now).await.unwrap();
    }
    // Five different things: its breaker is open.
    assert_eq!(portal.seen().len(), 6);
    // Alone it is an error that says so.
    let error = told(&[&portal.url()]).await.to_string();
    assert!(
        error.contains("a web page instead of a manifest"),
        "{error}"
    );
    // A blob may be one, and a registry that names the digest is one.
    let simple = simple(&portal.url());
    blob(&simple, 0).await.unwrap();
    let header = digest.to_string();
    let odd = Server::start(move |_| {
        let headers = [html[0], ("docker-content-digest", header.as_str())];
        answer(200, &headers, "{}").into()
    })
    .await;
    pull(&super::simple(&odd.url()), Patience::Now)
        .await
        .unwrap();
}

#[tokio::test]
async fn who_gives_another_part_than_was_asked_for_is_asked_past() {
    let wrong = Server::start(|_| {
        let headers = [("content-range", "bytes 0-3/10")];
        answer(206, &headers, "1234").into()
    })
    .await;
    let good = Server::start(|request| {
        if request.header("range").is_some() {
            let headers = [("content-range", "bytes 4-9/10")];
            answer(206, &headers, "567890").into()
        } else {
            answer(200, &[], "1234567890").into()
        }
    })
    .await;
    let upstream = upstream(&config(&[&wrong.url(), &good.url()]));
    for start in [0, 4] {
        let fetch = blob(&upstream, start).await.unwrap();
        assert_eq!(upstream.endpoint_host(fetch.endpoint), host(&good));
        assert_eq!((fetch.offset, fetch.total), (start, Some(10)));
        assert!(!upstream.honours_range(EndpointId::of(0)));
    }
    assert_eq!(wrong.seen().len(), 2);
    // With nobody else it is what it was.
    let alone = simple(&wrong.url());
    for _ in 0..8 {
        let error = blob(&alone, 4).await.unwrap_err();
        assert!(matches!(error, FetchError::Protocol(_)), "{error:?}");
    }
    assert_eq!(wrong.seen().len(), 10, "that says nothing of the rest");
}

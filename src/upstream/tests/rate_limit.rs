//! Rate limits, and pools of logins.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::Instant;

use super::server::{Body, Seen, Server, answer};
use super::*;

type Headers = &'static [(&'static str, &'static str)];

async fn limiting(status: u16, headers: Headers, body: &'static str) -> Server {
    Server::start(move |_| answer(status, headers, body).into()).await
}

fn retry_after(error: &FetchError) -> Duration {
    let FetchError::RateLimited {
        retry_after: Some(wait),
    } = error
    else {
        panic!("{error:?}")
    };
    *wait
}

#[tokio::test]
async fn each_form_of_a_limit_is_honoured() {
    let date: Headers = &[
        ("retry-after", "Wed, 21 Oct 2015 07:28:30 GMT"),
        ("date", "Wed, 21 Oct 2015 07:28:00 GMT"),
    ];
    let ghcr = r#"{"errors":[{"code":"TOOMANYREQUESTS",
        "message":"retry-after: 19.9999s, allowed: 44000/minute"}]}"#;
    let hub: Headers = &[
        ("ratelimit-limit", "100;w=21600"),
        ("ratelimit-remaining", "0;w=21600"),
        ("docker-ratelimit-source", "192.0.2.1"),
    ];
    let cases: [(u16, Headers, &str, u64); 5] = [
        (429, &[("retry-after", "120")], "", 120),
        (429, date, "", 30),
        (429, &[], ghcr, 20),
        (429, &[], "retry-after: 2m, allowed: 1/minute", 120),
        (429, hub, "{}", 40),
    ];
    let timings = Timings {
        limited_first: Duration::from_secs(40),
        ..Timings::default()
    };
    for (status, headers, body, seconds) in cases {
        let server = limiting(status, headers, body).await;
        let (upstream, metrics) = quick(&config(&[&server.url()]), timings);
        assert_eq!(value(&metrics, "roadstead_upstream_limited"), 0);
        let error = pull(&upstream, Patience::Now).await.unwrap_err();
        assert_eq!(
            retry_after(&error).as_secs_f64().ceil().to_string(),
            seconds.to_string()
        );
        // While it is limited nothing is asked, and everybody hears for how long.
        let error = pull(&upstream, Patience::Now).await.unwrap_err();
        assert!(retry_after(&error).as_secs() <= seconds);
        assert_eq!(server.seen().len(), 1, "{status} {body}");
        let left = value(&metrics, "roadstead_upstream_retry_after_seconds");
        assert!(left > seconds - 5 && left <= seconds, "{left}");
        assert_eq!(value(&metrics, "roadstead_upstream_limited"), 1);
    }
}

#[tokio::test]
async fn what_the_headers_say_is_counted() {
    let said: Headers = &[
        ("ratelimit-limit", "100;w=21600"),
        ("ratelimit-remaining", "0;w=21600"),
    ];
    let server = limiting(200, said, "{}").await;
    let (upstream, metrics) = quick(&config(&[&server.url()]), Timings::default());
    for _ in 0..3 {
        // Nothing remains, but nobody has said no.
        pull(&upstream, Patience::Now).await.unwrap();
    }
    assert_eq!(value(&metrics, "roadstead_upstream_ratelimit_limit"), 100);
    assert_eq!(value(&metrics, "roadstead_upstream_ratelimit_remaining"), 0);
    assert_eq!(value(&metrics, "roadstead_upstream_limited"), 0);
}

/// Says no so often, and how long that holds.
async fn limited_times(times: usize, headers: Headers) -> Server {
    let count = AtomicUsize::new(0);
    Server::start(move |_| {
        if count.fetch_add(1, Ordering::SeqCst) < times {
            answer(429, headers, "").into()
        } else {
            answer(200, &[], "{}").into()
        }
    })
    .await
}

fn short() -> Timings {
    Timings {
        limited_first: Duration::from_millis(100),
        limited_jitter: Duration::from_millis(20),
        ..Timings::default()
    }
}

#[tokio::test]
async fn who_can_wait_waits_until_the_limit_ends() {
    let server = limited_times(2, &[]).await;
    let (upstream, metrics) = quick(&config(&[&server.url()]), short());
    let begin = Instant::now();
    pull(&upstream, Patience::Wait).await.unwrap();
    // 100 ms, and then 200.
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert_eq!(server.seen().len(), 3);
    assert_eq!(value(&metrics, "roadstead_upstream_retries_total"), 2);
    assert_eq!(value(&metrics, "roadstead_upstream_limited"), 0);
}

#[tokio::test]
async fn who_cannot_wait_and_who_would_wait_too_long_hear_it_at_once() {
    let server = limited_times(1, &[("retry-after", "11")]).await;
    // Longer than the header timeout, which is 10 s here.
    let (upstream, _) = quick(&config(&[&server.url()]), short());
    let begin = Instant::now();
    for patience in [Patience::Wait, Patience::Now, Patience::Wait] {
        let error = pull(&upstream, patience).await.unwrap_err();
        let left = retry_after(&error);
        assert!(left > Duration::from_secs(9) && left <= Duration::from_secs(11));
    }
    assert!(begin.elapsed() < Duration::from_secs(1));
    assert_eq!(server.seen().len(), 1);

    // An extra connection is only worth what it costs now.
    let server = limited_times(1, &[]).await;
    let (upstream, _) = quick(&config(&[&server.url()]), short());
    let (repository, digest) = (repository(), digest());
    let ask = BlobRequest {
        extra: true,
        ..BlobRequest::whole(&repository, &digest)
    };
    retry_after(&upstream.blob(&ask).await.unwrap_err());
}

#[tokio::test]
async fn the_next_endpoint_is_asked_meanwhile() {
    let limited = limiting(429, &[("retry-after", "60")], "").await;
    let good = Server::start(|_| answer(200, &[], "{}").into()).await;
    let (upstream, metrics) = quick(&config(&[&limited.url(), &good.url()]), short());
    for _ in 0..3 {
        pull(&upstream, Patience::Now).await.unwrap();
    }
    assert_eq!((limited.seen().len(), good.seen().len()), (1, 3));
    assert_eq!(value(&metrics, "roadstead_upstream_limited"), 0);
}

#[tokio::test]
async fn a_long_limit_does_not_keep_another_endpoint_from_a_second_try() {
    let limited = limiting(429, &[("retry-after", "60")], "").await;
    let count = AtomicUsize::new(0);
    let moody = Server::start(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => answer(503, &[], "").into(),
        _ => answer(200, &[], "{}").into(),
    })
    .await;
    let (upstream, _) = quick(&config(&[&limited.url(), &moody.url()]), short());
    pull(&upstream, Patience::Wait).await.unwrap();
    assert_eq!((limited.seen().len(), moody.seen().len()), (1, 2));
}

#[tokio::test]
async fn of_several_limits_the_shortest_is_told() {
    let long = limiting(429, &[("retry-after", "60")], "").await;
    let short = limiting(429, &[("retry-after", "30")], "").await;
    let (upstream, metrics) = quick(&config(&[&long.url(), &short.url()]), Timings::default());
    for _ in 0..2 {
        let error = pull(&upstream, Patience::Now).await.unwrap_err();
        let left = retry_after(&error);
        assert!(left > Duration::from_secs(25) && left <= Duration::from_secs(30));
    }
    assert_eq!(long.seen().len() + short.seen().len(), 2);
    let left = value(&metrics, "roadstead_upstream_retry_after_seconds");
    assert!(left > 25 && left <= 30, "{left}");
}

fn login(name: &str) -> LoginConfig {
    let literal = |text: &str| Text::Literal(Secret::new(text.to_owned()));
    LoginConfig::Password {
        username: literal(name),
        password: literal("p"),
    }
}

/// The user who asks, by Basic authentication.
fn user(request: &Seen) -> Option<&'static str> {
    match request.header("authorization")? {
        "Basic YTpw" => Some("a"),
        "Basic Yjpw" => Some("b"),
        other => panic!("{other}"),
    }
}

/// A registry with Basic authentication, which answers each user by a script.
async fn registry(script: impl Fn(&str) -> http::Response<Body> + Send + Sync + 'static) -> Server {
    Server::start(move |request| match user(request) {
        Some(user) => script(user).into(),
        None => answer(401, &[("www-authenticate", r#"Basic realm="x""#)], "").into(),
    })
    .await
}

fn users(server: &Server) -> Vec<&'static str> {
    server.seen().iter().filter_map(user).collect()
}

fn pool(url: &str) -> Config {
    Config {
        logins: vec![login("a"), login("b")],
        ..config(&[url])
    }
}

#[tokio::test]
async fn a_pool_is_used_in_order_each_when_those_before_are_limited() {
    let both = Arc::new(AtomicUsize::new(0));
    let limited = Arc::clone(&both);
    let server = registry(move |user| match (user, limited.load(Ordering::SeqCst)) {
        ("b", 0) => answer(200, &[], "{}"),
        ("b", _) => answer(429, &[("retry-after", "30")], ""),
        _ => answer(429, &[("retry-after", "60")], ""),
    })
    .await;
    let (upstream, metrics) = quick(&pool(&server.url()), short());
    for _ in 0..3 {
        pull(&upstream, Patience::Now).await.unwrap();
    }
    assert_eq!(users(&server), ["a", "b", "b", "b"]);
    assert_eq!(value(&metrics, "roadstead_upstream_limited"), 0);

    both.store(1, Ordering::SeqCst);
    for _ in 0..2 {
        let error = pull(&upstream, Patience::Now).await.unwrap_err();
        let left = retry_after(&error);
        assert!(left > Duration::from_secs(25) && left <= Duration::from_secs(30));
    }
    assert_eq!(users(&server), ["a", "b", "b", "b", "b"]);
    assert_eq!(value(&metrics, "roadstead_upstream_limited"), 1);
}

#[tokio::test]
async fn a_login_that_is_refused_gives_way_to_the_next() {
    for status in [401, 403] {
        let server = registry(move |user| match user {
            "a" => answer(status, &[("www-authenticate", r#"Basic realm="x""#)], ""),
            _ => answer(200, &[], "{}"),
        })
        .await;
        let (upstream, _) = quick(&pool(&server.url()), short());
        pull(&upstream, Patience::Now).await.unwrap();
        assert_eq!(users(&server), ["a", "b"]);
    }
    // Refused is no answer for one that is only limited.
    let server = registry(|user| match user {
        "a" => answer(429, &[("retry-after", "60")], ""),
        _ => answer(403, &[], ""),
    })
    .await;
    let (upstream, _) = quick(&pool(&server.url()), short());
    for _ in 0..2 {
        retry_after(&pull(&upstream, Patience::Now).await.unwrap_err());
    }
    assert_eq!(users(&server), ["a", "b", "b"]);
}

#[tokio::test]
async fn the_login_with_most_left_is_preferred() {
    let server = registry(|user| {
        let left = if user == "a" { "5;w=60" } else { "50;w=60" };
        answer(200, &[("ratelimit-remaining", left)], "{}")
    })
    .await;
    let (upstream, _) = quick(&pool(&server.url()), short());
    for _ in 0..4 {
        pull(&upstream, Patience::Now).await.unwrap();
    }
    assert_eq!(users(&server), ["a", "b", "b", "b"]);
}

#[tokio::test]
async fn a_limit_of_the_token_server_is_one_too() {
    let server = Server::start(|request| {
        if request.target.starts_with("/token") {
            return answer(429, &[("retry-after", "60")], "").into();
        }
        let host = request.header("host").unwrap();
        let value = format!(r#"Bearer realm="http://{host}/token""#);
        answer(401, &[("www-authenticate", &value)], "").into()
    })
    .await;
    let (upstream, metrics) = quick(&config(&[&server.url()]), short());
    for _ in 0..3 {
        let error = pull(&upstream, Patience::Wait).await.unwrap_err();
        assert!(retry_after(&error) > Duration::from_secs(50));
    }
    assert_eq!(server.seen().len(), 2);
    assert_eq!(value(&metrics, "roadstead_upstream_limited"), 1);
}

#[tokio::test]
async fn a_503_that_says_when_is_left_alone_until_then_and_is_no_limit() {
    let server = limiting(503, &[("retry-after", "86400")], "").await;
    let good = Server::start(|_| answer(200, &[], "{}").into()).await;
    let (upstream, metrics) = quick(&config(&[&server.url()]), Timings::default());
    for number in 0..3 {
        let error = pull_of(&upstream, number, Patience::Wait)
            .await
            .unwrap_err();
        let FetchError::Unavailable { retry_after } = error else {
            panic!("{error:?}")
        };
        assert!(retry_after > Duration::from_secs(50) && retry_after <= Duration::from_mins(1));
    }
    assert_eq!(server.seen().len(), 1);
    assert_eq!(value(&metrics, "roadstead_upstream_limited"), 0);
    let (upstream, _) = quick(&config(&[&server.url(), &good.url()]), Timings::default());
    for number in 0..3 {
        pull_of(&upstream, number, Patience::Now).await.unwrap();
    }
    assert_eq!((server.seen().len(), good.seen().len()), (2, 3));
}

#[tokio::test]
async fn who_can_wait_waits_for_the_end_of_a_rest_that_comes_soon() {
    let count = AtomicUsize::new(0);
    let server = Server::start(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => answer(503, &[("retry-after", "1")], "").into(),
        _ => answer(200, &[], "{}").into(),
    })
    .await;
    let (upstream, _) = quick(&config(&[&server.url()]), short());
    let begin = Instant::now();
    pull(&upstream, Patience::Wait).await.unwrap();
    assert!(begin.elapsed() >= Duration::from_secs(1));
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_very_long_limit_is_told_as_the_time_until_somebody_looks() {
    let server = limiting(429, &[("retry-after", "86400")], "").await;
    let (upstream, _) = quick(&config(&[&server.url()]), Timings::default());
    for _ in 0..2 {
        let error = pull(&upstream, Patience::Now).await.unwrap_err();
        let left = retry_after(&error);
        assert!(left > Duration::from_secs(290) && left <= Duration::from_mins(5));
    }
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn what_a_host_that_is_redirected_to_limits_is_no_limit_of_the_login() {
    for status in [429, 503] {
        let elsewhere = limiting(status, &[("retry-after", "600")], "").await;
        let target = elsewhere.url();
        let server = Server::start(move |request| {
            if request.target.contains("/blobs/") {
                answer(307, &[("location", &target)], "").into()
            } else {
                answer(200, &[], "{}").into()
            }
        })
        .await;
        let timings = Timings {
            round_pause: Duration::from_millis(10),
            ..Timings::default()
        };
        let (upstream, metrics) = quick(&config(&[&server.url()]), timings);
        let error = blob(&upstream, 0).await.unwrap_err();
        assert_eq!(error, FetchError::Status(status));
        assert_eq!(elsewhere.seen().len(), 3, "it may pass in a moment");
        assert_eq!(value(&metrics, "roadstead_upstream_limited"), 0);
        pull(&upstream, Patience::Now).await.unwrap();
    }
}

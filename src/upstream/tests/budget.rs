//! One request's budget: what repeats within repeats add up to.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::server::{Reply, Server, answer};
use super::*;

/// Redirects up to the longest chain that is followed, and a connection that closes at its end: 27 requests and more,
/// when each round and each repeat had a chain of its own.
#[tokio::test]
async fn chains_repeats_and_rounds_take_from_one_budget() {
    let chain = AtomicUsize::new(0);
    let server = Server::start(move |request| {
        if request.target.starts_with("/v2/") {
            chain.store(0, Ordering::SeqCst);
        }
        match chain.fetch_add(1, Ordering::SeqCst) {
            8.. => Reply::Close,
            hop => answer(302, &[("location", &format!("/{hop}"))], "").into(),
        }
    })
    .await;
    let timings = Timings {
        round_pause: Duration::from_millis(10),
        ..Timings::default()
    };
    let (upstream, _) = quick(&config(&[&server.url()]), timings);
    let error = pull(&upstream, Patience::Wait).await.unwrap_err();
    assert!(matches!(error, FetchError::Protocol(_)), "{error}");
    assert_eq!(server.seen().len(), 12);
}

/// A token service that redirects for ever: as often as a token may take, for each request that needs one.
#[tokio::test]
async fn a_token_service_is_asked_so_often_and_no_more() {
    let count = AtomicUsize::new(0);
    let server = Server::start(move |request| {
        if request.target.starts_with("/token") {
            let next = format!("/token/{}", count.fetch_add(1, Ordering::SeqCst));
            return answer(302, &[("location", &next)], "").into();
        }
        let host = request.header("host").unwrap();
        // Less than a pull on the repository: the token service is asked for that, too.
        let value = format!(r#"Bearer realm="http://{host}/token",scope="repository:x:pull""#);
        answer(401, &[("www-authenticate", &value)], "").into()
    })
    .await;
    let (upstream, _) = quick(&config(&[&server.url()]), Timings::default());
    let error = pull(&upstream, Patience::Wait).await.unwrap_err();
    assert!(matches!(error, FetchError::Token(_)), "{error}");
    assert_eq!(server.seen_at("/token").len(), 8);
    assert_eq!(server.seen_at("/v2/").len(), 1);
}

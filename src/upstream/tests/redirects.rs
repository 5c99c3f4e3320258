//! Answers that lie elsewhere.

use super::server::{Server, answer};
use super::*;
use crate::upstream::FetchError;

async fn content(upstream: &Upstream) -> Result<Vec<u8>, FetchError> {
    let mut fetch = blob(upstream, 0).await?;
    let mut all = Vec::new();
    while let Some(bytes) = fetch.body.next().await? {
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

/// A registry that wants `Basic` and redirects to `target`.
async fn redirecting(target: String) -> Server {
    Server::start(move |request| {
        if request.target.starts_with("/v2/") {
            match request.header("authorization") {
                Some(_) => answer(307, &[("location", &target)], "see there").into(),
                None => answer(401, &[("www-authenticate", "Basic realm=\"x\"")], "").into(),
            }
        } else {
            answer(200, &[], "content").into()
        }
    })
    .await
}

fn with_credentials(url: &str) -> Upstream {
    let mut config = config(&[url]);
    config.logins = vec![credentials()];
    upstream(&config)
}

#[tokio::test]
async fn another_host_gets_no_authorization() {
    let cdn = Server::start(|_| answer(200, &[], "content").into()).await;
    let registry = redirecting(format!("{}/signed?sig=a%2Fb", cdn.url())).await;
    let upstream = with_credentials(&registry.url());
    assert_eq!(content(&upstream).await.unwrap(), b"content");
    let seen = &cdn.seen()[0];
    assert_eq!(seen.target, "/signed?sig=a%2Fb");
    assert_eq!(seen.header("authorization"), None);
    assert_eq!(seen.header("accept-encoding"), Some("identity"));

    // The target is not remembered: the registry is asked again.
    assert_eq!(content(&upstream).await.unwrap(), b"content");
    assert_eq!(registry.seen().len(), 3);
    assert_eq!(
        registry.connections(),
        1,
        "redirects must be read to their end"
    );
}

#[tokio::test]
async fn a_relative_redirect_stays_with_its_host_and_authorization() {
    let registry = redirecting("/other/place".to_owned()).await;
    let upstream = with_credentials(&registry.url());
    assert_eq!(content(&upstream).await.unwrap(), b"content");
    let there = registry.seen_at("/other/place");
    assert_eq!(there.len(), 1);
    assert!(there[0].header("authorization").is_some());
}

#[tokio::test]
async fn another_host_s_challenge_is_not_answered() {
    let challenge = ("www-authenticate", "Basic realm=\"x\"");
    let cdn = Server::start(move |_| answer(401, &[challenge], "").into()).await;
    let registry = redirecting(cdn.url()).await;
    let error = content(&with_credentials(&registry.url()))
        .await
        .unwrap_err();
    assert_eq!(error, FetchError::Status(401));
    assert_eq!(cdn.seen().len(), 1);
}

#[tokio::test]
async fn circles_and_long_chains_end() {
    let circle = Server::start(|request| {
        let next = if request.target.starts_with("/v2/") {
            "/b"
        } else {
            "/c"
        };
        answer(302, &[("location", next)], "").into()
    })
    .await;
    let error = content(&simple(&circle.url())).await.unwrap_err();
    assert_eq!(
        error,
        FetchError::Protocol("bad redirect: in a circle".to_owned())
    );
    assert_eq!(circle.seen().len(), 3);

    let chain = Server::start(|request| {
        let next = format!("/{}", request.target.len());
        let next = format!("{next}{}", "x".repeat(request.target.len()));
        answer(302, &[("location", &next)], "").into()
    })
    .await;
    let error = content(&simple(&chain.url())).await.unwrap_err();
    assert_eq!(
        error,
        FetchError::Protocol("bad redirect: too many".to_owned())
    );
    assert_eq!(chain.seen().len(), 9);
}

#[tokio::test]
async fn a_manifest_can_be_redirected_too() {
    let region = Server::start(|_| answer(200, &[("content-type", "a/b; c=d")], "{}").into()).await;
    let target = format!("{}/v2/x/manifests/latest", region.url());
    let registry = Server::start(move |_| answer(307, &[("location", &target)], "").into()).await;
    let upstream = simple(&registry.url());
    let all = AcceptClass::ALL;
    let fetch = upstream
        .manifest(&repository(), &latest(), all, Patience::Wait)
        .await
        .unwrap();
    assert_eq!(fetch.content_type.as_deref(), Some("a/b"));
    let accept = all.header();
    assert_eq!(region.seen()[0].header("accept"), Some(accept.as_str()));
}

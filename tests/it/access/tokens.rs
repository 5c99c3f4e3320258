//! `/token`, and what its tokens open.

use super::{House, RULES, basic};
use crate::common::{Answer, Mirror};
use http::Method;
use serde_json::Value;

const ALPINE: &str = "/v2/library/alpine/manifests/v1";
const SECRET: &str = "/v2/acme/secret/manifests/v1";
const PULL_ALPINE: &str = "/token?service=roadstead&scope=repository:library/alpine:pull";
const PULL_SECRET: &str = "/token?service=roadstead&scope=repository:acme/secret:pull,push";

fn json(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("cache-control"), "no-store");
    serde_json::from_slice(&answer.body).unwrap()
}

async fn get_token(mirror: &Mirror, path: &str, who: &str) -> Value {
    let authorization = basic(who, &format!("{who}!"));
    let headers = [("authorization", authorization.as_str())];
    let headers = if who.is_empty() {
        &[][..]
    } else {
        &headers[..]
    };
    json(&mirror.get_with(path, headers).await)
}

async fn post(mirror: &Mirror, form: &str) -> Answer {
    let body = form.as_bytes().to_vec().into();
    let kind = [("content-type", "application/x-www-form-urlencoded")];
    mirror
        .client
        .ask_with(Method::POST, "/token", &kind, body)
        .await
}

async fn with_token(mirror: &Mirror, path: &str, token: &Value) -> Answer {
    let bearer = format!("Bearer {}", token["token"].as_str().unwrap());
    mirror.get_with(path, &[("authorization", &bearer)]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_opens_what_its_bearer_may_pull_and_what_it_was_given_for() {
    let house = House::with(&["alice", "bob"], RULES).await;
    let mirror = &house.mirror;
    let alice = get_token(mirror, PULL_SECRET, "alice").await;
    assert_eq!(
        alice["scope"], "repository:acme/secret:pull",
        "a subset is an answer"
    );
    assert_eq!(alice["token"], alice["access_token"]);
    assert_eq!(alice["expires_in"], 600);
    assert_eq!(alice.get("refresh_token"), None);
    assert_eq!(with_token(mirror, SECRET, &alice).await.status, 200);
    assert_eq!(with_token(mirror, "/v2/", &alice).await.status, 200);
    let other = with_token(mirror, ALPINE, &alice).await;
    assert_eq!(other.status, 401);
    let challenge = other.header("www-authenticate");
    assert!(
        challenge.contains("scope=\"repository:library/alpine:pull\""),
        "{challenge}"
    );
    assert!(
        challenge.contains("error=\"insufficient_scope\""),
        "{challenge}"
    );

    let bob = get_token(mirror, PULL_SECRET, "bob").await;
    assert_eq!(bob["scope"], "repository:acme/secret:");
    assert_eq!(with_token(mirror, SECRET, &bob).await.status, 403);

    // Without credentials: what everybody may.
    let anonymous = get_token(mirror, PULL_ALPINE, "").await;
    assert_eq!(anonymous["scope"], "repository:library/alpine:pull");
    assert_eq!(with_token(mirror, ALPINE, &anonymous).await.status, 200);
    let anonymous = get_token(mirror, PULL_SECRET, "").await;
    assert_eq!(with_token(mirror, SECRET, &anonymous).await.status, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_credentials_get_none() {
    let house = House::with(&["alice"], RULES).await;
    let wrong = basic("alice", "wrong");
    let answer = house
        .mirror
        .get_with(PULL_ALPINE, &[("authorization", &wrong)])
        .await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (401, "UNAUTHORIZED")
    );
    assert_eq!(
        answer.header("www-authenticate"),
        "Basic realm=\"roadstead\""
    );
    for form in [
        "grant_type=password&username=alice&password=wrong",
        "grant_type=refresh_token&refresh_token=x.y.z",
    ] {
        assert_eq!(post(&house.mirror, form).await.status, 401, "{form}");
    }
    for form in [
        "grant_type=device_code",
        "",
        "grant_type=password&username=alice",
    ] {
        assert_eq!(post(&house.mirror, form).await.status, 404, "{form}");
    }
    let long = format!(
        "grant_type=password&username=alice&password={}",
        "x".repeat(100_000)
    );
    assert_eq!(post(&house.mirror, &long).await.status, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_token_stays_the_same_and_ends_with_the_password() {
    let house = House::with(&["alice", "bob"], RULES).await;
    let mirror = &house.mirror;
    let form = "grant_type=password&username=alice&password=alice!&access_type=offline&service=roadstead&client_id=docker";
    let login = json(&post(mirror, form).await);
    let refresh = login["refresh_token"].as_str().unwrap().to_owned();
    let form = format!(
        "grant_type=refresh_token&refresh_token={refresh}&scope=repository:acme/secret:pull"
    );
    for _ in 0..50 {
        let token = json(&post(mirror, &form).await);
        assert_eq!(
            token["refresh_token"],
            refresh.as_str(),
            "it does not rotate"
        );
        assert_eq!(with_token(mirror, SECRET, &token).await.status, 200);
    }
    // It is for `/token` alone.
    let bearer = format!("Bearer {refresh}");
    assert_eq!(
        mirror
            .get_with(ALPINE, &[("authorization", &bearer)])
            .await
            .status,
        401
    );
    // And holds after a restart.
    let mirror = house.mirror.restart().await;
    let token = json(&post(&mirror, &form).await);
    assert_eq!(with_token(&mirror, SECRET, &token).await.status, 200);
    let dir = mirror.store();
    super::htpasswd(dir.parent().unwrap(), &["bob"]);
    mirror.clock.advance(std::time::Duration::from_secs(2));
    assert_eq!(
        with_token(&mirror, SECRET, &token).await.status,
        401,
        "whoever is gone is gone at once"
    );
    assert_eq!(post(&mirror, &form).await.status, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_expires() {
    let house = House::with(&["alice"], RULES).await;
    let mirror = &house.mirror;
    let token = get_token(mirror, PULL_ALPINE, "alice").await;
    mirror.clock.advance(std::time::Duration::from_secs(599));
    assert_eq!(with_token(mirror, ALPINE, &token).await.status, 200);
    mirror.clock.advance(std::time::Duration::from_secs(1));
    let answer = with_token(mirror, ALPINE, &token).await;
    assert_eq!(answer.status, 401);
    assert!(
        answer
            .header("www-authenticate")
            .contains("error=\"invalid_token\"")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_access_there_are_no_tokens() {
    let house = House::with(&[], "").await;
    assert_eq!(
        house
            .mirror
            .get("/token?scope=repository:a:pull")
            .await
            .status,
        404
    );
    assert_eq!(house.mirror.get("/v2/").await.status, 200);
}

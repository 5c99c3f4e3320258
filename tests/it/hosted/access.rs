//! Who may push.

use super::{hosts, manifest, namespace};
use crate::access::{access, basic, htpasswd};
use crate::common::images::sha256;
use crate::common::{Answer, Mirror, MirrorBuilder};
use bytes::Bytes;
use http::Method;
use roadstead::hosted::Visibility;
use std::path::Path;

/// A registry whose users are alice and bob.
async fn with(table: &str) -> Mirror {
    let builder = MirrorBuilder::secluded(&["docker.io"]);
    let users = htpasswd(builder.dir(), &["alice", "bob"]);
    let text = format!("[access]\nhtpasswd = {users:?}\n{table}");
    builder
        .with(|config| {
            config.access = access(&text);
            hosts(config, |hosted| {
                let mut secret = namespace("secret");
                secret.visibility = Visibility::Private;
                hosted.namespaces.push(secret);
            });
        })
        .start()
        .await
}

async fn ask(mirror: &Mirror, user: &str, method: Method, path: &str, body: &[u8]) -> Answer {
    let login = basic(user, &format!("{user}!"));
    let headers: &[_] = if user.is_empty() {
        &[]
    } else {
        &[("authorization", &*login)]
    };
    let body = Bytes::copy_from_slice(body);
    mirror.client.ask_with(method, path, headers, body).await
}

async fn push(mirror: &Mirror, user: &str, repository: &str) {
    let config = sha256(b"{}");
    let path = format!("/v2/{repository}/blobs/uploads/?digest={config}");
    assert_eq!(
        ask(mirror, user, Method::POST, &path, b"{}").await.status,
        201
    );
    let body = manifest(&config, &[]);
    let path = format!("/v2/{repository}/manifests/v1");
    let put = ask(mirror, user, Method::PUT, &path, body.as_bytes()).await;
    assert_eq!(put.status, 201, "{}", put.text());
}

#[tokio::test]
async fn pushing_needs_an_identity_where_there_are_any() {
    let mirror = with("").await;
    let path = "/v2/team/a/blobs/uploads/";
    let asked = ask(&mirror, "", Method::POST, path, b"").await;
    assert_eq!(
        (asked.status, asked.code()),
        (401, "UNAUTHORIZED".to_owned())
    );
    let challenge = asked.header("www-authenticate");
    assert!(
        challenge.contains("scope=\"repository:team/a:push\""),
        "{challenge}"
    );
    push(&mirror, "alice", "team/a").await;
    push(&mirror, "alice", "secret/a").await;
    for (user, repository, expected) in [
        ("", "team/a", 401),
        ("bob", "team/a", 200),
        ("bob", "secret/a", 200),
        ("", "secret/a", 401),
    ] {
        let path = format!("/v2/{repository}/manifests/v1");
        let got = ask(&mirror, user, Method::GET, &path, b"").await;
        assert_eq!(got.status, expected, "{user} {repository}");
    }
}

#[tokio::test]
async fn an_upload_is_its_beginners_alone() {
    let mirror = with("").await;
    let begun = ask(
        &mirror,
        "alice",
        Method::POST,
        "/v2/team/a/blobs/uploads/",
        b"",
    )
    .await;
    let path = begun.header("location").to_owned();
    for (user, expected) in [("bob", 404), ("", 401), ("alice", 204)] {
        let status = ask(&mirror, user, Method::GET, &path, b"").await;
        assert_eq!(status.status, expected, "{user}");
    }
}

const STATEMENTS: &str = r#"
[[access.policy]]
name = "alice"
[[access.policy.statement]]
effect = "allow"
actions = ["pull", "push"]
resources = ["repository/team/*"]
[[access.policy]]
name = "bob"
[[access.policy.statement]]
effect = "allow"
actions = ["pull"]
resources = ["repository/other/*"]
[[access.attach]]
user = "alice"
policies = ["alice"]
[[access.attach]]
user = "bob"
policies = ["bob"]
"#;

#[tokio::test]
async fn statements_decide_and_the_catalog_shows_what_may_be_pulled() {
    let mirror = with(STATEMENTS).await;
    push(&mirror, "alice", "team/a").await;
    for (user, method, path, expected) in [
        ("alice", Method::POST, "/v2/other/a/blobs/uploads/", 403),
        ("bob", Method::POST, "/v2/team/a/blobs/uploads/", 403),
        ("bob", Method::GET, "/v2/team/a/manifests/v1", 403),
        ("bob", Method::GET, "/v2/team/none/manifests/v1", 403),
        ("alice", Method::DELETE, "/v2/team/a/manifests/v1", 403),
        ("alice", Method::GET, "/v2/team/a/manifests/v1", 200),
    ] {
        let answer = ask(&mirror, user, method, path, b"").await;
        assert_eq!(answer.status, expected, "{user} {path}");
    }
    let shown = ask(&mirror, "alice", Method::GET, "/v2/_catalog", b"")
        .await
        .text();
    assert!(shown.contains("team/a"), "{shown}");
    let shown = ask(&mirror, "bob", Method::GET, "/v2/_catalog", b"")
        .await
        .text();
    assert!(!shown.contains("team/a"), "{shown}");
    assert!(Path::new(&mirror.state()).exists());
}

#[tokio::test]
async fn a_token_pushes_and_pulls_in_its_scope_alone() {
    let mirror = with("").await;
    let login = basic("alice", "alice!");
    let token = async |scope: &str| {
        let path = format!("/token?service=roadstead&scope={scope}");
        let given = mirror.get_with(&path, &[("authorization", &login)]).await;
        let value: serde_json::Value = serde_json::from_slice(&given.body).unwrap();
        format!("Bearer {}", value["token"].as_str().unwrap())
    };
    let both = token("repository:team/a:pull,push").await;
    let pull = token("repository:team/a:pull").await;
    for (bearer, repository, expected) in [
        (&both, "team/a", 202),
        (&both, "team/b", 401),
        (&pull, "team/a", 401),
    ] {
        let path = format!("/v2/{repository}/blobs/uploads/");
        let headers = [("authorization", bearer.as_str())];
        let begun = mirror.client.ask(Method::POST, &path, &headers).await;
        assert_eq!(begun.status, expected, "{repository}");
    }
}

/// A registry of many namespaces, of some of which bob may pull something.
async fn of_many_namespaces() -> Mirror {
    let builder = MirrorBuilder::secluded(&["docker.io"]);
    let users = htpasswd(builder.dir(), &["alice", "bob"]);
    let text = format!(
        r#"
[access]
htpasswd = {users:?}
[[access.policy]]
name = "some"
[[access.policy.statement]]
effect = "allow"
actions = ["pull"]
resources = ["repository/n05/*", "repository/n05-a/b*", "repository/n29/*"]
[[access.policy.statement]]
effect = "deny"
actions = ["pull"]
resources = ["repository/n05/secret"]
[[access.attach]]
user = "alice"
policies = ["maintainer"]
[[access.attach]]
user = "bob"
policies = ["some"]
"#
    );
    builder
        .with(|config| {
            config.access = access(&text);
            hosts(config, |hosted| {
                let numbers = (0..30).map(|number| namespace(&format!("n{number:02}")));
                hosted.namespaces = numbers.chain([namespace("n05-a")]).collect();
                for namespace in &mut hosted.namespaces {
                    namespace.visibility = Visibility::Private;
                }
            });
        })
        .start()
        .await
}

#[tokio::test]
async fn a_catalog_of_three_of_many_namespaces_goes_on_page_by_page() {
    let mirror = of_many_namespaces().await;
    for repository in [
        "n04/app",
        "n05/app",
        "n05/secret",
        "n05/z",
        "n05-a/a",
        "n05-a/b",
        "n06/app",
        "n29/app",
    ] {
        push(&mirror, "alice", repository).await;
    }
    let catalog = async |user: &str, path: &str| {
        let answer = ask(&mirror, user, Method::GET, path, b"").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let found: serde_json::Value = serde_json::from_str(&answer.text()).unwrap();
        let link = answer.header("link").to_owned();
        let next = link.split(['<', '>']).nth(1).unwrap_or_default();
        (found["repositories"].clone(), next.to_owned())
    };
    let (all, next) = catalog("bob", "/v2/_catalog").await;
    let expected = serde_json::json!(["n05-a/b", "n05/app", "n05/z", "n29/app"]);
    assert_eq!((all, next), (expected.clone(), String::new()));
    let mut paged = Vec::new();
    let mut path = "/v2/_catalog?n=1".to_owned();
    while !path.is_empty() {
        let (some, next) = catalog("bob", &path).await;
        paged.extend(some.as_array().unwrap().clone());
        path = next;
    }
    assert_eq!(serde_json::Value::from(paged), expected);
    let (all, _) = catalog("alice", "/v2/_catalog").await;
    assert_eq!(all.as_array().unwrap().len(), 8);
}

//! `docker search`, as dockerd asks: the ping, then the search.

use serde_json::Value;

use super::{Pushes, hosts, namespace, registry};
use crate::access::{access, basic, htpasswd};
use crate::common::{Mirror, MirrorBuilder};
use roadstead::hosted::Visibility;

async fn search(mirror: &Mirror, user: &str, query: &str) -> Value {
    let login = basic(user, &format!("{user}!"));
    let headers: &[_] = match user {
        "" => &[],
        _ => &[("authorization", &*login)],
    };
    let ping = mirror.get_with("/v1/_ping", headers).await;
    assert_eq!(
        (ping.status, ping.header("x-docker-registry-standalone")),
        (200, "true")
    );
    let found = mirror
        .get_with(&format!("/v1/search?{query}"), headers)
        .await;
    assert_eq!(found.status, 200, "{}", found.text());
    assert_eq!(found.header("content-type"), "application/json");
    serde_json::from_slice(&found.body).unwrap()
}

fn names(found: &Value) -> Vec<&str> {
    let results = found["results"].as_array().unwrap().iter();
    results.map(|it| it["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn repositories_are_found_by_a_part_of_their_name_page_by_page() {
    let mirror = registry().start().await;
    for name in ["team/app", "team/web", "other/app-server"] {
        mirror.image(name, "1", b"layer").await;
    }
    let found = search(&mirror, "", "q=app&n=25").await;
    assert_eq!(names(&found), ["other/app-server", "team/app"]);
    assert_eq!(
        (&found["num_results"], &found["query"]),
        (&2.into(), &"app".into())
    );
    let first = &found["results"][0];
    for (key, value) in [
        ("description", Value::from("")),
        ("star_count", 0.into()),
        ("is_official", false.into()),
        ("is_automated", false.into()),
    ] {
        assert_eq!(first[key], value, "{key}");
    }
    assert_eq!(
        names(&search(&mirror, "", "q=TEAM/").await),
        ["team/app", "team/web"]
    );
    let second = search(&mirror, "", "q=&n=2&page=2").await;
    assert_eq!(names(&second), ["team/web"]);
    assert_eq!(
        (&second["num_results"], &second["num_pages"]),
        (&3.into(), &2.into())
    );
    assert_eq!(names(&search(&mirror, "", "q=none").await), [""; 0]);
    let long = format!("/v1/search?q={}", "a".repeat(256));
    assert_eq!(mirror.get(&long).await.status, 400);
    let put = mirror.send(http::Method::PUT, "/v1/search", b"").await;
    assert_eq!(put.status, 405);
}

#[tokio::test]
async fn everybody_finds_what_he_may_pull() {
    let builder = MirrorBuilder::secluded(&["docker.io"]);
    let users = htpasswd(builder.dir(), &["alice", "bob"]);
    let text = format!("[access]\nhtpasswd = {users:?}\n{STATEMENTS}");
    let builder = builder.with(|config| {
        config.access = access(&text);
        hosts(config, |hosted| {
            let mut secret = namespace("secret");
            secret.visibility = Visibility::Private;
            hosted.namespaces.push(secret);
        });
    });
    let mirror = builder.start().await;
    let login = basic("alice", "alice!");
    for repository in ["team/app", "other/app", "secret/app"] {
        let config = crate::common::images::sha256(b"{}");
        let path = format!("/v2/{repository}/blobs/uploads/?digest={config}");
        let send = async |method, path: &str, body: &[u8]| {
            let body = bytes::Bytes::copy_from_slice(body);
            let headers = [("authorization", &*login)];
            mirror
                .client
                .ask_with(method, path, &headers, body)
                .await
                .status
        };
        assert_eq!(send(http::Method::POST, &path, b"{}").await, 201);
        let manifest = super::manifest(&config, &[]);
        let path = format!("/v2/{repository}/manifests/1");
        assert_eq!(
            send(http::Method::PUT, &path, manifest.as_bytes()).await,
            201
        );
    }
    for (user, expected) in [
        ("alice", &["other/app", "secret/app", "team/app"][..]),
        ("bob", &["other/app", "team/app"]),
        ("", &["team/app"]),
    ] {
        let found = search(&mirror, user, "q=app").await;
        assert_eq!(names(&found), expected, "{user:?}");
    }
    let wrong = basic("alice", "wrong");
    let refused = mirror
        .get_with("/v1/search?q=a", &[("authorization", &wrong)])
        .await;
    assert_eq!(refused.status, 401);
}

const STATEMENTS: &str = r#"
[[access.policy]]
name = "all"
[[access.policy.statement]]
effect = "allow"
actions = ["pull", "push"]
resources = ["repository/*"]
[[access.policy]]
name = "other"
[[access.policy.statement]]
effect = "allow"
actions = ["pull"]
resources = ["repository/other/*"]
[[access.policy]]
name = "team"
[[access.policy.statement]]
effect = "allow"
actions = ["pull"]
resources = ["repository/team/*"]
[[access.attach]]
user = "alice"
policies = ["all"]
[[access.attach]]
user = "bob"
policies = ["other"]
[[access.attach]]
anonymous = true
policies = ["team"]
"#;

#[tokio::test]
async fn nothing_is_found_where_nothing_is_hosted() {
    let mirror = MirrorBuilder::secluded(&["docker.io"]).start().await;
    assert_eq!(mirror.get("/v1/search?q=a").await.status, 404);
}

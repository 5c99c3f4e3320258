//! Users and tokens of the catalogue.

use super::{House, basic};
use crate::common::{Answer, Mirror, within};
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;

const ALPINE: &str = "/v2/library/alpine/manifests/v1";
const SECRET: &str = "/v2/acme/secret/manifests/v1";

const RULES: &str = r#"
[access]
[[access.policy]]
name = "official"
[[access.policy.statement]]
effect = "allow"
actions = ["pull"]
resources = ["mirror/docker.io/library/*"]
[[access.attach]]
group = "dev"
policies = ["read-only"]
[[access.attach]]
user = "bob"
policies = ["official"]
"#;

pub(crate) async fn admin(mirror: &Mirror, method: Method, path: &str, body: Value) -> Answer {
    let headers = [
        ("content-type", "application/json"),
        ("x-roadstead-admin", "1"),
    ];
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    mirror
        .admin
        .ask_with(method, path, &headers, body.into())
        .await
}

pub(crate) async fn add(mirror: &Mirror, name: &str, groups: &[&str]) {
    let body = json!({ "name": name, "password": format!("{name}-password"), "groups": groups });
    let answer = admin(mirror, Method::POST, "/api/v1/users", body).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
}

pub(crate) async fn make(mirror: &Mirror, wanted: Value) -> Value {
    let answer = admin(mirror, Method::POST, "/api/v1/tokens", wanted).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

async fn status(mirror: &Mirror, user: &str, password: &str, path: &str) -> u16 {
    let authorization = basic(user, password);
    mirror
        .get_with(path, &[("authorization", &authorization)])
        .await
        .status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_made_changed_and_removed() {
    let house = House::with(&[], RULES).await;
    let mirror = house.mirror;
    add(&mirror, "alice", &["dev"]).await;
    add(&mirror, "bob", &[]).await;
    assert_eq!(
        status(&mirror, "alice", "alice-password", SECRET).await,
        200
    );
    assert_eq!(
        status(&mirror, "alice", "alice-passwort", SECRET).await,
        401
    );
    assert_eq!(status(&mirror, "bob", "bob-password", ALPINE).await, 200);
    assert_eq!(status(&mirror, "bob", "bob-password", SECRET).await, 403);
    let twice = json!({ "name": "bob", "password": "another-password" });
    assert_eq!(
        admin(&mirror, Method::POST, "/api/v1/users", twice)
            .await
            .status,
        409
    );
    for (name, password) in [
        ("a:b", "long-enough"),
        ("", "long-enough"),
        ("carol", "short"),
    ] {
        let body = json!({ "name": name, "password": password });
        assert_eq!(
            admin(&mirror, Method::POST, "/api/v1/users", body)
                .await
                .status,
            400,
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_holds_after_a_restart() {
    let house = House::with(&[], RULES).await;
    let mirror = house.mirror;
    add(&mirror, "alice", &["dev"]).await;
    let mirror = mirror.restart().await;
    assert_eq!(
        status(&mirror, "alice", "alice-password", SECRET).await,
        200
    );
    let changed = json!({ "name": "alice", "password": "another-password" });
    assert_eq!(
        admin(&mirror, Method::PUT, "/api/v1/users", changed)
            .await
            .status,
        200
    );
    assert_eq!(
        status(&mirror, "alice", "alice-password", SECRET).await,
        401
    );
    assert_eq!(
        status(&mirror, "alice", "another-password", SECRET).await,
        200
    );
    let listed = admin(&mirror, Method::GET, "/api/v1/users", Value::Null).await;
    assert!(
        !listed.text().contains("argon2"),
        "no hash leaves: {}",
        listed.text()
    );
    let removed = admin(
        &mirror,
        Method::DELETE,
        "/api/v1/users?name=alice",
        Value::Null,
    )
    .await;
    assert_eq!(removed.status, 200);
    assert_eq!(
        status(&mirror, "alice", "another-password", SECRET).await,
        401
    );
    let again = admin(
        &mirror,
        Method::DELETE,
        "/api/v1/users?name=alice",
        Value::Null,
    )
    .await;
    assert_eq!(again.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_does_what_its_owner_may_and_no_more() {
    let house = House::with(&[], RULES).await;
    let mirror = &house.mirror;
    add(mirror, "alice", &["dev"]).await;
    let whole = make(mirror, json!({ "kind": "token", "owner": "alice" })).await;
    let narrow = make(
        mirror,
        json!({ "kind": "token", "owner": "alice", "policies": ["official"] }),
    )
    .await;
    let text = |token: &Value| token["token"].as_str().unwrap().to_owned();
    for (token, path, expected) in [
        (&whole, SECRET, 200),
        (&narrow, ALPINE, 200),
        (&narrow, SECRET, 403),
    ] {
        // As a password, with any name, and as a bearer token.
        assert_eq!(
            status(mirror, "whoever", &text(token), path).await,
            expected
        );
        let bearer = format!("Bearer {}", text(token));
        assert_eq!(
            mirror
                .get_with(path, &[("authorization", &bearer)])
                .await
                .status,
            expected
        );
    }
    let listed = admin(
        mirror,
        Method::GET,
        "/api/v1/tokens?user=alice",
        Value::Null,
    )
    .await;
    let listed: Value = serde_json::from_slice(&listed.body).unwrap();
    assert_eq!(listed["tokens"].as_array().unwrap().len(), 2);
    assert!(listed["tokens"][0]["used"].is_u64(), "{listed}");
    assert!(
        !listed.to_string().contains(&text(&whole)),
        "it is shown once"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_ends_with_what_it_comes_from() {
    let house = House::with(&[], RULES).await;
    let mirror = &house.mirror;
    add(mirror, "alice", &["dev"]).await;
    let whole = make(mirror, json!({ "kind": "token", "owner": "alice" })).await;
    let narrow = json!({ "kind": "token", "owner": "alice", "policies": ["official"] });
    let narrow = make(mirror, narrow).await;
    let text = |token: &Value| token["token"].as_str().unwrap().to_owned();
    let path = "/token?scope=repository:acme/secret:pull".to_owned();
    let login = basic("x", &text(&whole));
    let jwt = mirror.get_with(&path, &[("authorization", &login)]).await;
    let jwt: Value = serde_json::from_slice(&jwt.body).unwrap();
    let bearer = format!("Bearer {}", jwt["token"].as_str().unwrap());
    let jwt = [("authorization", bearer.as_str())];
    assert_eq!(mirror.get_with(SECRET, &jwt).await.status, 200);
    let revoked = format!("/api/v1/tokens?id={}", whole["id"].as_str().unwrap());
    assert_eq!(
        admin(mirror, Method::DELETE, &revoked, Value::Null)
            .await
            .status,
        200
    );
    assert_eq!(status(mirror, "x", &text(&whole), SECRET).await, 401);
    assert_eq!(
        mirror.get_with(SECRET, &jwt).await.status,
        401,
        "what it was exchanged for is gone, too"
    );
    assert_eq!(status(mirror, "x", &text(&narrow), ALPINE).await, 200);
    let gone = admin(
        mirror,
        Method::DELETE,
        "/api/v1/users?name=alice",
        Value::Null,
    )
    .await;
    assert_eq!(gone.status, 200);
    assert_eq!(status(mirror, "x", &text(&narrow), ALPINE).await, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn robots_have_policies_and_temporary_tokens_an_end() {
    let house = House::with(&[], RULES).await;
    let mirror = house.mirror;
    add(&mirror, "alice", &["dev"]).await;
    let robot = make(
        &mirror,
        json!({ "kind": "robot", "owner": "ci", "policies": ["official"], "ttl_seconds": 7200 }),
    )
    .await;
    let temporary = make(&mirror, json!({ "kind": "temporary", "owner": "alice" })).await;
    let [robot, temporary] =
        [robot, temporary].map(|token| token["token"].as_str().unwrap().to_owned());
    assert_eq!(status(&mirror, "ci", &robot, ALPINE).await, 200);
    assert_eq!(status(&mirror, "ci", &robot, SECRET).await, 403);
    assert_eq!(status(&mirror, "temp", &temporary, SECRET).await, 200);
    for wanted in [
        json!({ "kind": "robot", "owner": "ci" }),
        json!({ "kind": "temporary", "owner": "alice", "ttl_seconds": 86_400 }),
        json!({ "kind": "token", "owner": "alice", "ttl_seconds": 0 }),
    ] {
        assert_eq!(
            admin(&mirror, Method::POST, "/api/v1/tokens", wanted.clone())
                .await
                .status,
            400,
            "{wanted}"
        );
    }
    for wanted in [
        json!({ "kind": "token", "owner": "nobody" }),
        json!({ "kind": "token", "owner": "alice", "policies": ["x"] }),
    ] {
        assert_eq!(
            admin(&mirror, Method::POST, "/api/v1/tokens", wanted.clone())
                .await
                .status,
            404,
            "{wanted}"
        );
    }
    mirror.clock.advance(Duration::from_secs(3599));
    assert_eq!(status(&mirror, "temp", &temporary, SECRET).await, 200);
    mirror.clock.advance(Duration::from_secs(1));
    assert_eq!(status(&mirror, "temp", &temporary, SECRET).await, 401);
    assert_eq!(status(&mirror, "ci", &robot, ALPINE).await, 200);
    let mirror = mirror.restart().await;
    assert_eq!(status(&mirror, "ci", &robot, ALPINE).await, 200);
    mirror.clock.advance(Duration::from_hours(1));
    assert_eq!(status(&mirror, "ci", &robot, ALPINE).await, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_that_pull_show_the_token_of_their_operator() {
    let house = House::with(&[], RULES).await;
    let mirror = house.mirror;
    add(&mirror, "alice", &["dev"]).await;
    let wanted = json!({ "kind": "token", "owner": "alice" });
    let token = make(&mirror, wanted).await["token"]
        .as_str()
        .unwrap()
        .to_owned();
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("image.tar").display().to_string();
    let server = mirror.url();
    for command in [
        &["warm", "acme/secret:v1"][..],
        &["export", "acme/secret:v1", "-o", &archive],
    ] {
        for (variables, expected) in [(vec![], false), (vec![("ROADSTEAD_TOKEN", &token)], true)] {
            let child = tokio::process::Command::new(env!("CARGO_BIN_EXE_roadstead"))
                .args(command)
                .args(["--server", &server])
                .current_dir(dir.path())
                .env_clear()
                .envs(variables)
                .output();
            let output = within("the program", child).await.unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.success(), expected, "{command:?}: {said}");
            assert!(!said.contains(&token), "{said}");
        }
    }
}

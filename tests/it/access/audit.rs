//! The audit log: who did what.

use super::people::{add, admin, make};
use super::{House, RULES, basic};
use http::Method;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

const ALPINE: &str = "/v2/library/alpine/manifests/v1";

/// Waits for so many records, and takes the time and the client's port away.
pub(super) async fn records(dir: &Path, count: usize) -> Vec<Value> {
    let path = dir.join("audit.log");
    let read = || {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.collect::<Vec<_>>()
    };
    for _ in 0..1000 {
        if read().len() >= count {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut records = read();
    assert_eq!(records.len(), count, "{records:#?}");
    for record in &mut records {
        let record = record.as_object_mut().unwrap();
        assert!(
            record
                .remove("time")
                .unwrap()
                .as_str()
                .unwrap()
                .ends_with('Z')
        );
        let client = record.remove("client").unwrap();
        assert!(
            client.as_str().unwrap().starts_with("127.0.0.1:"),
            "{client}"
        );
        if record["event"] != "admin" {
            let id = record.remove("request_id").unwrap();
            assert!(id.as_str().unwrap().contains('-'));
        }
    }
    records
}

fn dir(house: &House) -> std::path::PathBuf {
    house.mirror.store().parent().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pulls_logins_and_denials_are_recorded() {
    let rules = format!("{RULES}\n[audit]\npath = AUDIT\n");
    let house = House::with(&["alice", "bob"], &rules).await;
    let dir = dir(&house);
    assert_eq!(house.status("alice", ALPINE).await, 200);
    let alice = json!({ "kind": "user", "name": "alice" });
    let login = |who: Value, user: &str, result: &str| json!({ "event": "login", "who": who, "method": "password", "result": result, "user": user });
    let pull = json!({
        "event": "pull", "who": alice, "method": "GET", "upstream": "docker.io", "repository": "library/alpine",
        "reference": "v1", "digest": house.image.manifest.digest, "status": 200,
        "bytes": house.image.manifest.bytes.len(), "outcome": "miss", "ended": "complete",
    });
    let found = records(&dir, 2).await;
    assert_eq!(found, [login(alice.clone(), "alice", "accepted"), pull]);

    assert_eq!(
        house.status("bob", "/v2/acme/secret/manifests/v1").await,
        403
    );
    let denied = |who: Value, statement: &str| {
        json!({
            "event": "denied", "who": who, "action": "pull", "resource": "mirror/docker.io/acme/secret",
            "statement": statement, "enforced": true,
        })
    };
    let bob = json!({ "kind": "user", "name": "bob" });
    let found = records(&dir, 4).await;
    assert_eq!(
        found[2..],
        [
            login(bob.clone(), "bob", "accepted"),
            denied(bob, "no-secrets#1")
        ]
    );

    assert_eq!(house.status("", "/v2/acme/secret/manifests/v1").await, 401);
    let wrong = basic("alice", "wrong-password");
    let answer = house
        .mirror
        .get_with("/v2/", &[("authorization", &wrong)])
        .await;
    assert_eq!(answer.status, 401);
    let nobody = json!({ "kind": "anonymous" });
    let found = records(&dir, 6).await;
    assert_eq!(
        found[4..],
        [
            denied(nobody.clone(), "default"),
            login(nobody, "alice", "rejected")
        ]
    );

    let text = std::fs::read_to_string(dir.join("audit.log")).unwrap();
    for secret in [
        "alice!",
        "wrong-password",
        &wrong,
        &basic("alice", "alice!"),
    ] {
        assert!(!text.contains(secret), "a secret is in it");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_be_refused_is_recorded_as_that() {
    let rules = RULES.replace("[access]\n", "[access]\nmode = \"warn\"\n");
    let house = House::with(&["bob"], &format!("{rules}\n[audit]\npath = AUDIT\n")).await;
    assert_eq!(house.status("", "/v2/acme/secret/manifests/v1").await, 200);
    let found = records(&dir(&house), 2).await;
    assert_eq!(found[0]["enforced"], false);
    assert_eq!(
        (&found[1]["event"], &found[1]["status"]),
        (&json!("pull"), &json!(200))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_are_recorded_with_what_they_change() {
    let house = House::with(&[], "[access]\n[audit]\npath = AUDIT\n").await;
    let (mirror, dir) = (&house.mirror, dir(&house));
    add(mirror, "alice", &["dev"]).await;
    let wanted = json!({ "kind": "token", "owner": "alice", "note": "laptop" });
    let made = make(mirror, wanted).await;
    let id = made["id"].as_str().unwrap().to_owned();
    let token = made["token"].as_str().unwrap();
    let bearer = format!("Bearer {token}");
    let pulled = mirror.get_with(ALPINE, &[("authorization", &bearer)]).await;
    assert_eq!(pulled.status, 200);
    let revoke = format!("/api/v1/tokens?id={id}");
    let remove = "/api/v1/users?name=alice";
    let pin = "/api/v1/pins?image=library/alpine:v1";
    for (method, path, status) in [
        (Method::DELETE, revoke.as_str(), 200),
        (Method::DELETE, remove, 200),
        (Method::DELETE, remove, 404),
        (Method::PUT, pin, 200),
        (Method::GET, "/api/v1/users", 200),
    ] {
        let answer = admin(mirror, method, path, Value::Null).await;
        assert_eq!(answer.status, status, "{path}");
    }

    let found = records(&dir, 8).await;
    let expected = [
        json!(["POST", "/api/v1/users", 201, "user added", "alice"]),
        json!(["POST", "/api/v1/tokens", 201, "token created", id]),
        json!(["DELETE", revoke, 200, "token revoked", id]),
        json!(["DELETE", remove, 200, "user removed", "alice"]),
        json!(["DELETE", remove, 404, null, null]),
        json!(["PUT", pin, 200, "image pinned", "library/alpine:v1"]),
    ];
    let acts: Vec<_> = found.iter().filter(|it| it["event"] == "admin").collect();
    let told = |act: &&Value| {
        assert_eq!(act["who"], json!({ "kind": "operator" }));
        let change = &act["changes"][0];
        let (what, name) = (&change["change"], &change["name"]);
        json!([act["method"], act["path"], act["status"], what, name])
    };
    assert_eq!(acts.iter().map(told).collect::<Vec<_>>(), expected);
    let change = |at: usize| &acts[at]["changes"][0];
    assert_eq!(change(0)["after"]["groups"], json!(["dev"]));
    assert_eq!(change(1)["after"]["note"], "laptop");
    assert_eq!(change(2)["before"]["owner"], "alice");
    assert_eq!(change(3)["before"]["groups"], json!(["dev"]));
    let pull = found.iter().find(|it| it["event"] == "pull").unwrap();
    assert_eq!(pull["token"], json!(id));
    assert_eq!(pull["who"]["name"], "alice");
    let text = std::fs::read_to_string(dir.join("audit.log")).unwrap();
    let is_secret = |secret: &&str| text.contains(*secret);
    assert!(![token, "alice-password"].iter().any(is_secret));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_given_are_logins_and_the_last_records_are_written_at_the_end() {
    let rules = format!("{RULES}\n[audit]\npath = AUDIT\n");
    let house = House::with(&["alice"], &rules).await;
    let alice = basic("alice", "alice!");
    let path = "/token?scope=repository:library/alpine:pull";
    for headers in [&[("authorization", alice.as_str())][..], &[][..]] {
        assert_eq!(house.mirror.get_with(path, headers).await.status, 200);
    }
    let dir = dir(&house);
    let kept = house.mirror.restart_after(|_| {
        let text = std::fs::read_to_string(dir.join("audit.log")).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        let login: Value = serde_json::from_str(&text).unwrap();
        let told = json!([
            login["event"],
            login["method"],
            login["result"],
            login["who"]["name"]
        ]);
        assert_eq!(told, json!(["login", "password", "accepted", "alice"]));
    });
    drop(kept.await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_cannot_be_opened_is_an_error_of_the_start() {
    let registry = crate::common::FakeRegistry::start().await;
    let builder = crate::common::MirrorBuilder::of(&registry);
    let path = builder.dir().join("nowhere/audit.log");
    let config = super::config(&format!("[audit]\npath = {path:?}\n")).audit;
    let error = builder.with(|all| all.audit = config).try_start().await;
    let error = error.unwrap_err().to_string();
    assert!(error.starts_with("audit.path: cannot open "), "{error}");
}

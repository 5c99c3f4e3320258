//! The admin API asks operators who they are.

use super::people::{add, make};
use super::{House, basic};
use crate::common::{Answer, Mirror};
use http::Method;
use serde_json::json;

const RULES: &str = r#"
[access]
[[access.attach]]
user = "root"
policies = ["admin"]
[[access.attach]]
user = "eve"
policies = ["auditor"]
[[access.attach]]
user = "alice"
policies = ["read-only"]
"#;

async fn ask(mirror: &Mirror, method: Method, path: &str, authorization: &str) -> Answer {
    let headers = [("x-roadstead-admin", "1"), ("authorization", authorization)];
    let headers = if authorization.is_empty() {
        &headers[..1]
    } else {
        &headers[..]
    };
    mirror.admin.ask(method, path, headers).await
}

async fn house(admin: &str) -> House {
    let table = RULES.replace(
        "[access]\n",
        &format!("[access]\nhtpasswd = HTPASSWD\n{admin}"),
    );
    House::with(&["root", "eve", "alice"], &table).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_credentials_may_what_the_rules_allow() {
    let house = house("").await;
    let gc = "/api/v1/gc?dry_run=true";
    let table = [
        ("", 200, 200),
        ("root", 200, 200),
        ("eve", 200, 403),
        ("alice", 403, 403),
        ("nobody", 401, 401),
    ];
    for (who, reads, changes) in table {
        let credentials = basic(who, &format!("{who}!"));
        let credentials = if who.is_empty() { "" } else { &credentials };
        let status = ask(&house.mirror, Method::GET, "/api/v1/status", credentials).await;
        assert_eq!(status.status, reads, "{who}: {}", status.text());
        let collected = ask(&house.mirror, Method::POST, gc, credentials).await;
        assert_eq!(collected.status, changes, "{who}: {}", collected.text());
        let is_asked = collected.header("www-authenticate") == "Basic realm=\"roadstead\"";
        assert_eq!(is_asked, changes == 401);
    }
    // The rules of browsers hold for whoever it is, and metrics need nobody.
    let root = basic("root", "root!");
    let headers = [
        ("authorization", root.as_str()),
        ("origin", "https://evil.example"),
    ];
    let page = house
        .mirror
        .admin
        .get_with("/api/v1/status", &headers)
        .await;
    assert_eq!(page.status, 403);
    let form = [("authorization", root.as_str())];
    let form = house.mirror.admin.ask(Method::POST, gc, &form).await;
    assert_eq!(form.status, 403);
    assert_eq!(house.mirror.admin.get("/metrics").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_identities_are_demanded_nobody_is_an_operator_by_his_place() {
    let house = house("admin = \"identity\"\n").await;
    let nobody = ask(&house.mirror, Method::GET, "/api/v1/status", "").await;
    assert_eq!(nobody.status, 401);
    assert!(nobody.text().contains("ROADSTEAD_TOKEN"));
    let root = basic("root", "root!");
    assert_eq!(
        ask(&house.mirror, Method::GET, "/api/v1/status", &root)
            .await
            .status,
        200
    );
    assert_eq!(house.mirror.admin.get("/healthz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_operators_pass_and_those_for_pulls_do_not() {
    let house = house("mode = \"warn\"\n").await;
    let mirror = &house.mirror;
    add(mirror, "carol", &[]).await;
    for (kind, owner, policies, expected) in [
        ("robot", "ci", json!(["admin"]), 200),
        ("robot", "scan", json!(["auditor"]), 403),
        ("token", "root", json!([]), 200),
        ("token", "root", json!(["read-only"]), 403),
        ("token", "carol", json!([]), 403),
    ] {
        let wanted = json!({ "kind": kind, "owner": owner, "policies": policies });
        let made = make(mirror, wanted).await;
        let bearer = format!("Bearer {}", made["token"].as_str().unwrap());
        let gc = ask(mirror, Method::POST, "/api/v1/gc?dry_run=true", &bearer).await;
        assert_eq!(gc.status, expected, "{kind} {owner}: {}", gc.text());
    }
    // What dockerd gets for a password is for pulls.
    let root = basic("root", "root!");
    let token = mirror.get_with("/token", &[("authorization", &root)]).await;
    let token: serde_json::Value = serde_json::from_slice(&token.body).unwrap();
    let bearer = format!("Bearer {}", token["token"].as_str().unwrap());
    assert_eq!(
        ask(mirror, Method::GET, "/api/v1/status", &bearer)
            .await
            .status,
        401
    );
}

//! Changes for those who follow, the audit log, and the history of tags.

use std::time::Duration;

use http::Method;
use roadstead::audit;
use serde_json::{Value, json};

use super::{Pushes as _, admin, asked, hosts, registry};
use crate::common::{Mirror, MirrorBuilder, within};

fn kinds(told: &Value) -> Vec<String> {
    let events = told["events"].as_array().unwrap();
    let kinds = events.iter().map(|it| it["kind"].as_str().unwrap());
    kinds.map(str::to_owned).collect()
}

#[tokio::test]
async fn every_change_has_one_event_in_order() {
    let mirror = registry().start().await;
    let start = asked(&mirror, "events?limit=1").await["last"]
        .as_i64()
        .unwrap();
    let digest = mirror.image("team/a", "v1", b"layer").await;
    // Nothing changes.
    let body = mirror.get("/v2/team/a/manifests/v1").await.text();
    assert_eq!(mirror.put("team/a", "v1", &body).await.status, 201);
    assert_eq!(mirror.delete("/v2/team/a/manifests/v1").await.status, 202);
    let gone = admin(&mirror, Method::DELETE, "repositories?repository=team/a").await;
    assert_eq!(gone.status, 200);
    let told = asked(&mirror, &format!("events?after={start}")).await;
    let expected = [
        "repository.created",
        "blob.pushed",
        "blob.pushed",
        "manifest.pushed",
        "tag.moved",
        "tag.deleted",
        "repository.deleted",
    ];
    assert_eq!(kinds(&told), expected, "{told}");
    let moved = &told["events"][4];
    assert_eq!(moved["seq"], start + 5);
    assert_eq!(
        (&moved["repository"], &moved["tag"]),
        (&json!("team/a"), &json!("v1"))
    );
    assert_eq!(
        (&moved["digest"], &moved["by"]),
        (&json!(digest), &json!("127.0.0.1"))
    );
    assert_eq!(told["events"][6]["by"], "operator");
    let page = asked(&mirror, &format!("events?after={start}&limit=3")).await;
    assert_eq!(
        (page["next"].as_i64(), kinds(&page).len()),
        (Some(start + 3), 3)
    );
    mirror.image("other/a", "v1", b"layer").await;
    let told = asked(&mirror, &format!("events?after={start}&repository=other/*")).await;
    assert_eq!(kinds(&told).len(), 5, "{told}");
    let since = asked(&mirror, "events?since=2020-01-01T00:00:00Z").await;
    assert_eq!(kinds(&since)[0], "namespace.changed");
    let since = asked(&mirror, "events?since=2100-01-01T00:00:00Z").await;
    assert!(
        kinds(&since).is_empty() && since["next"] == since["last"],
        "{since}"
    );
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let mirror = registry().start().await;
    for (target, status) in [
        ("events?after=x", 400),
        ("events?after=-1", 400),
        ("events?since=yesterday", 400),
        ("events?after=1&since=2020-01-01T00:00:00Z", 400),
        ("events?after=999999", 409),
        ("events?follow=true", 400),
        ("tags/history?repository=team/a", 400),
        ("tags/history?repository=team/a&tag=v1", 404),
        ("expire?dry_run=true", 400),
    ] {
        let answer = admin(&mirror, Method::GET, target).await;
        assert_eq!(answer.status, status, "{target}: {}", answer.text());
    }
    let answer = admin(&mirror, Method::POST, "events").await;
    assert_eq!(answer.status, 405);
}

#[tokio::test]
async fn whoever_waits_is_told_at_once() {
    let mirror = registry().start().await;
    let last = asked(&mirror, "events?limit=1").await["last"]
        .as_i64()
        .unwrap();
    let follow = format!("events?after={last}&wait=60&repository=team/b");
    let (told, ()) = within("an event", async {
        tokio::join!(asked(&mirror, &follow), async {
            mirror.image("team/a", "v1", b"layer").await;
            mirror.image("team/b", "v1", b"layer").await;
        })
    })
    .await;
    assert_eq!(kinds(&told)[0], "repository.created");
    let after = told["next"].as_i64().unwrap();
    assert!(after > last + 5, "others were passed over: {told}");
}

#[tokio::test]
async fn those_who_wait_are_bounded_and_do_not_hold_up_the_end() {
    let mirror = registry().start().await;
    let last = asked(&mirror, "events?limit=1").await["last"]
        .as_i64()
        .unwrap();
    let target = format!("/api/v1/events?after={last}&wait=60");
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (admin, target) = (mirror.admin, target.clone());
        waiting.spawn(async move { admin.get(&target).await });
    }
    let refused = within("refusals", async {
        for _ in 0..4 {
            let answer = waiting.join_next().await.unwrap().unwrap();
            assert_eq!(answer.status, 429, "{}", answer.text());
        }
    });
    refused.await;
    within("the end", mirror.stop()).await;
    let answers = within("those who waited", waiting.join_all()).await;
    assert!(answers.iter().all(|it| it.status == 200));
}

#[tokio::test]
async fn old_events_go_and_whoever_missed_some_is_told() {
    let mirror = registry().start().await;
    mirror.image("team/a", "v1", b"layer").await;
    let last = asked(&mirror, "events?limit=1").await["last"]
        .as_i64()
        .unwrap();
    mirror.hosted().trim_events(3).await.unwrap();
    let told = asked(&mirror, "events?after=1").await;
    assert_eq!(told["missed"], last - 4, "{told}");
    assert_eq!(kinds(&told).len(), 3);
    let told = asked(&mirror, "events").await;
    assert_eq!((&told["missed"], kinds(&told).len()), (&json!(0), 3));
    mirror.hosted().trim_events(0).await.unwrap();
    let told = asked(&mirror, &format!("events?after={}", last - 1)).await;
    assert_eq!((&told["missed"], &told["next"]), (&json!(1), &json!(last)));
    let mut consumer = mirror.hosted().consumer("test").await.unwrap();
    assert_eq!(consumer.seq(), last, "from now on");
    mirror.image("team/b", "v1", b"layer").await;
    mirror.hosted().trim_events(2).await.unwrap();
    let page = consumer.next(100).await.unwrap();
    assert_eq!((page.missed, page.events.len()), (3, 2));
    assert_eq!(consumer.next(100).await.unwrap(), page, "until it is done");
    consumer.done(&page).await.unwrap();
    assert!(consumer.next(100).await.unwrap().events.is_empty());
    let again = mirror.hosted().consumer("test").await.unwrap();
    assert_eq!(again.seq(), page.next);
}

#[tokio::test]
async fn a_tag_has_a_history() {
    let mirror = registry().start().await;
    let one = mirror.image("team/a", "v1", b"one").await;
    let two = mirror.image("team/a", "v1", b"two").await;
    assert_eq!(mirror.delete("/v2/team/a/manifests/v1").await.status, 202);
    let restored = "tags/restore?repository=team/a&tag=v1";
    assert_eq!(admin(&mirror, Method::POST, restored).await.status, 200);
    let history = asked(&mirror, "tags/history?repository=team/a&tag=v1").await;
    let moves: Vec<Value> = history["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| json!([it["from"], it["to"], it["by"]]))
        .collect();
    let expected = [
        json!([null, two, "operator"]),
        json!([two, null, "127.0.0.1"]),
        json!([one, two, "127.0.0.1"]),
        json!([null, one, "127.0.0.1"]),
    ];
    assert_eq!(moves, expected);
    let seq = history["history"][1]["seq"].as_i64().unwrap();
    let target = format!("tags/history?repository=team/a&tag=v1&before={seq}&limit=1");
    let page = asked(&mirror, &target).await;
    assert_eq!(page["history"][0]["to"], json!(two));
    assert_eq!(page["history"].as_array().unwrap().len(), 1);
    let none = asked(&mirror, "tags/history?repository=team/a&tag=never").await;
    assert!(none["history"].as_array().unwrap().is_empty());
}

/// The changes that the audit log has.
fn audited(mirror: &Mirror) -> Vec<Value> {
    let path = mirror.state().join("audit.log");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.filter(|it: &Value| it["event"] == "hosted").collect()
}

async fn wait_for(mirror: &Mirror, seq: i64) -> Vec<Value> {
    within("the audit log", async {
        loop {
            let found = audited(mirror);
            if found
                .last()
                .is_some_and(|it| it["seq"].as_i64() >= Some(seq))
            {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

#[tokio::test]
async fn each_change_is_in_the_audit_log_once_over_restarts() {
    let builder = MirrorBuilder::secluded(&["docker.io"]).with(|config| hosts(config, |_| {}));
    let path = builder.dir().join("state/audit.log");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let builder = builder.with(|config| {
        config.audit = Some(audit::Config {
            path,
            max_size: audit::MAX_SIZE,
            keep: audit::KEEP,
        });
    });
    let mut mirror = builder.start().await;
    for round in 0..3 {
        let tag = format!("v{round}");
        mirror.image("team/a", &tag, tag.as_bytes()).await;
        if round == 1 {
            // What was not noted before a kill.
            let last = asked(&mirror, "events?limit=1").await["last"]
                .as_i64()
                .unwrap();
            wait_for(&mirror, last).await;
            mirror = mirror
                .restart_after(|cache| {
                    let catalogue = cache.parent().unwrap().join("state/catalogue.db");
                    let catalogue = rusqlite::Connection::open(catalogue).unwrap();
                    let sql = "UPDATE hosted_cursors SET seq = seq - 2";
                    assert_eq!(catalogue.execute(sql, []).unwrap(), 1);
                })
                .await;
        } else {
            mirror = mirror.restart().await;
        }
    }
    let told = asked(&mirror, "events?limit=1000").await;
    let last = told["last"].as_i64().unwrap();
    let found = wait_for(&mirror, last).await;
    let numbers: Vec<i64> = found.iter().map(|it| it["seq"].as_i64().unwrap()).collect();
    let expected: Vec<i64> = (numbers[0]..=last).collect();
    assert_eq!(numbers, expected);
    assert!(
        found
            .iter()
            .any(|it| it["change"] == "tag.moved" && it["tag"] == "v0"),
        "{found:?}"
    );
    let moved = found.iter().find(|it| it["tag"] == "v2").unwrap();
    assert_eq!(
        (&moved["repository"], &moved["by"]),
        (&json!("team/a"), &json!("127.0.0.1"))
    );
    assert!(moved["digest"].as_str().unwrap().starts_with("sha256:"));
}

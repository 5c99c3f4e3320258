//! Tags that go by a rule.

use std::time::Duration;

use http::Method;
use roadstead::hosted::{self, Expire, Immutable, ImmutableMode};
use roadstead::oci::{Repository, Tag};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{OCI_MANIFEST, Pushes as _, admin, asked, collect_after, hosts, index};
use crate::common::images::sha256;
use crate::common::{Mirror, MirrorBuilder};

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

fn rule(repository: &str, tag: &str, keep: Option<u64>, days: Option<u32>) -> Expire {
    Expire {
        repository: repository.to_owned(),
        tag: tag.to_owned(),
        keep_newest: keep,
        older_than: days.map(|days| DAY * days),
    }
}

/// A registry with these rules, whose garbage collector does nothing by itself for as long as a test takes.
async fn registry(change: impl FnOnce(&mut hosted::Config)) -> Mirror {
    let builder = MirrorBuilder::secluded(&["docker.io"]);
    let builder = builder.with(|config| {
        hosts(config, |hosted| {
            hosted.gc_grace = DAY;
            change(hosted);
        });
    });
    builder.start().await
}

async fn run(mirror: &Mirror) -> usize {
    let stop = CancellationToken::new();
    mirror.hosted().expire_run(&stop).await.unwrap()
}

async fn tags(mirror: &Mirror, repository: &str) -> Vec<String> {
    let list = mirror.get(&format!("/v2/{repository}/tags/list")).await;
    let list: Value = serde_json::from_slice(&list.body).unwrap();
    serde_json::from_value(list["tags"].clone()).unwrap()
}

/// Pushes images of a layer of their own, an hour apart; their manifests' digests.
async fn push(mirror: &Mirror, repository: &str, names: &[&str]) -> Vec<String> {
    let mut digests = Vec::new();
    for name in names {
        digests.push(mirror.image(repository, name, name.as_bytes()).await);
        mirror.clock.advance(HOUR);
    }
    digests
}

#[tokio::test]
async fn old_tags_go_with_their_manifests_and_can_be_restored() {
    let mirror = registry(|hosted| {
        hosted.expire = vec![rule("team/*", "ci-*", None, Some(10))];
    })
    .await;
    let digests = push(&mirror, "team/a", &["ci-1", "v1", "ci-2"]).await;
    push(&mirror, "other/a", &["ci-1"]).await;
    assert_eq!(run(&mirror).await, 0);
    mirror.clock.advance(9 * DAY + 22 * HOUR);
    assert_eq!(run(&mirror).await, 1);
    assert_eq!(tags(&mirror, "team/a").await, ["ci-2", "v1"]);
    assert_eq!(tags(&mirror, "other/a").await, ["ci-1"]);
    let path = format!("/v2/team/a/manifests/{}", digests[0]);
    assert_eq!(mirror.get(&path).await.status, 404, "nothing needs it");
    let restored = admin(
        &mirror,
        Method::POST,
        "tags/restore?repository=team/a&tag=ci-1",
    );
    assert_eq!(restored.await.status, 200);
    assert_eq!(mirror.get(&path).await.status, 200);
    let layer = format!("/v2/team/a/blobs/{}", sha256(b"ci-1"));
    assert_eq!(mirror.get(&layer).await.status, 200);
    // It is as new as if it were pushed now.
    assert_eq!(run(&mirror).await, 0);
    let events = asked(&mirror, "events?limit=1000").await;
    let by_rule = |it: &&Value| it["rule"] == "hosted.expire[0] team/*:ci-* older_than=10days";
    let events = events["events"].as_array().unwrap();
    let gone: Vec<&Value> = events.iter().filter(by_rule).collect();
    assert_eq!(gone.len(), 2, "{gone:?}");
    assert_eq!(
        (&gone[0]["kind"], &gone[0]["tag"]),
        (&"tag.deleted".into(), &"ci-1".into())
    );
    assert_eq!(gone[0]["by"], "expire");
    assert_eq!(gone[1]["kind"], "manifest.deleted");
}

#[tokio::test]
async fn what_was_pushed_last_stays_and_the_same_content_again_counts() {
    let mirror = registry(|hosted| {
        hosted.expire = vec![rule("*", "*", Some(2), Some(1))];
    })
    .await;
    push(&mirror, "team/a", &["a", "b", "c", "d"]).await;
    mirror.clock.advance(30 * DAY);
    // The oldest, again: nothing changes but that.
    push(&mirror, "team/a", &["a"]).await;
    mirror.clock.advance(30 * DAY);
    assert_eq!(run(&mirror).await, 2);
    assert_eq!(tags(&mirror, "team/a").await, ["a", "d"]);
    assert_eq!(run(&mirror).await, 0);
}

#[tokio::test]
async fn immutable_tags_and_signatures_of_what_stays_stay() {
    let mirror = registry(|hosted| {
        hosted.expire = vec![rule("*", "*", None, Some(1))];
        hosted.immutable.push(Immutable {
            repository: "*".to_owned(),
            tag: "v*".to_owned(),
            mode: ImmutableMode::NoMoveNoDelete,
        });
        hosted.immutable.push(Immutable {
            repository: "*".to_owned(),
            tag: "w*".to_owned(),
            mode: ImmutableMode::NoMove,
        });
    })
    .await;
    let digests = push(&mirror, "team/a", &["v1", "w1", "x1"]).await;
    let signature = |digest: &str| format!("{}.sig", digest.replace(':', "-"));
    let (kept, gone) = (signature(&digests[0]), signature(&digests[2]));
    push(&mirror, "team/a", &[&kept, &gone]).await;
    mirror.clock.advance(2 * DAY);
    assert_eq!(run(&mirror).await, 2);
    let mut left = vec![kept.clone(), gone, "v1".to_owned()];
    left.sort();
    assert_eq!(tags(&mirror, "team/a").await, left);
    // What it is about is gone: it is a tag like others now.
    assert_eq!(run(&mirror).await, 1);
    assert_eq!(tags(&mirror, "team/a").await, [kept, "v1".to_owned()]);
}

#[tokio::test]
async fn what_something_else_needs_is_not_deleted_with_a_tag() {
    let mirror = registry(|hosted| {
        hosted.expire = vec![rule("*", "old-*", None, Some(1))];
    })
    .await;
    let both = mirror.image("team/a", "old-both", b"both").await;
    let body = mirror.get("/v2/team/a/manifests/old-both").await.text();
    assert_eq!(mirror.put("team/a", "new", &body).await.status, 201);
    let child = mirror.image("team/a", "old-child", b"child").await;
    let alone = mirror.image("team/a", "old-alone", b"alone").await;
    let of = |digest: &str| format!("/v2/team/a/manifests/{digest}");
    let list = index(&[(&child, 3)]);
    assert_eq!(mirror.put("team/a", "list", &list).await.status, 201);
    let old = index(&[(&child, 3), (&alone, 3)]);
    assert_eq!(mirror.put("team/a", "old-list", &old).await.status, 201);
    // Refers to one that goes.
    let config = mirror.blob("team/a", b"{}").await;
    let referrer = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": [],
        "config": { "mediaType": "application/vnd.example", "digest": config, "size": 2 },
        "subject": { "mediaType": OCI_MANIFEST, "digest": sha256(old.as_bytes()), "size": old.len() },
    })
    .to_string();
    let referrer_digest = sha256(referrer.as_bytes());
    assert_eq!(
        mirror
            .put("team/a", &referrer_digest, &referrer)
            .await
            .status,
        201
    );
    mirror.clock.advance(2 * DAY);
    assert_eq!(run(&mirror).await, 4);
    for (digest, status) in [
        (&both, 200),
        (&child, 200),
        (&alone, 404),
        (&sha256(old.as_bytes()), 404),
        (&referrer_digest, 404),
    ] {
        assert_eq!(mirror.get(&of(digest)).await.status, status, "{digest}");
    }
    let restored = "tags/restore?repository=team/a&tag=old-list";
    assert_eq!(admin(&mirror, Method::POST, restored).await.status, 200);
    for digest in [&alone, &sha256(old.as_bytes()), &referrer_digest] {
        assert_eq!(mirror.get(&of(digest)).await.status, 200, "{digest}");
    }
}

#[tokio::test]
async fn the_preview_is_what_the_run_does_and_says_when() {
    let mirror = registry(|hosted| {
        hosted.expire = vec![rule("team/*", "*", Some(1), Some(3))];
    })
    .await;
    push(&mirror, "team/a", &["a", "b", "c"]).await;
    push(&mirror, "team/b", &["a", "b"]).await;
    let stop = CancellationToken::new();
    let hosted = mirror.hosted();
    hosted.expire_tags(&stop).await.unwrap();
    mirror.clock.advance(3 * DAY);
    hosted.expire_tags(&stop).await.unwrap();
    let plan = asked(&mirror, "expire").await;
    assert!(
        plan["held_until"].is_string(),
        "the clock has leapt: {plan}"
    );
    assert_eq!(plan["at"], plan["held_until"]);
    assert_eq!(tags(&mirror, "team/a").await.len(), 3);
    let planned: Vec<String> = plan["tags"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| {
            format!(
                "{}:{}",
                it["repository"].as_str().unwrap(),
                it["tag"].as_str().unwrap()
            )
        })
        .collect();
    assert_eq!(planned, ["team/a:a", "team/a:b", "team/b:a"]);
    for _ in 0..25 {
        mirror.clock.advance(HOUR);
        hosted.expire_tags(&stop).await.unwrap();
    }
    assert_eq!(tags(&mirror, "team/a").await, ["c"]);
    assert_eq!(tags(&mirror, "team/b").await, ["b"]);
    let plan = asked(&mirror, "expire").await;
    assert!(
        plan["tags"].as_array().unwrap().is_empty() && plan["held_until"].is_null(),
        "{plan}"
    );
    let now = admin(&mirror, Method::POST, "expire").await;
    let now: Value = serde_json::from_slice(&now.body).unwrap();
    assert_eq!(now["expired"], 0);
}

#[tokio::test]
async fn a_deleted_tag_does_not_make_a_run_take_another() {
    let mirror = registry(|hosted| {
        hosted.expire = vec![rule("*", "*", Some(2), None)];
    })
    .await;
    let (repository, names) = (Repository::parse("team/a").unwrap(), ["a", "b", "c", "d"]);
    for _ in 0..5 {
        push(&mirror, "team/a", &names).await;
        let newest = roadstead::oci::Reference::Tag(Tag::parse("d").unwrap());
        let (_, deleted) = tokio::join!(
            run(&mirror),
            mirror
                .hosted()
                .delete_manifest(&repository, &newest, "somebody")
        );
        deleted.unwrap();
        let left = tags(&mirror, "team/a").await;
        // The run was before the delete, or it was after it or has given up.
        assert!(left.contains(&"c".to_owned()), "{left:?}");
        if left.len() == 1 {
            continue;
        }
        assert!(left.contains(&"b".to_owned()), "{left:?}");
    }
}

#[tokio::test]
async fn one_run_is_bounded() {
    let mirror = registry(|hosted| {
        hosted.expire = vec![rule("*", "*", None, Some(1))];
    })
    .await;
    let body = mirror.parts("team/a", b"layer").await;
    let digest = sha256(body.as_bytes());
    assert_eq!(mirror.put("team/a", &digest, &body).await.status, 201);
    let most = hosted::RUN_TAGS_MAX;
    for first in (0..most + 50).step_by(50) {
        let names: Vec<String> = (first..first + 50)
            .map(|it| format!("tag=t{it:05}"))
            .collect();
        let path = format!("{digest}?{}", names.join("&"));
        assert_eq!(mirror.put("team/a", &path, &body).await.status, 201);
    }
    mirror.clock.advance(365 * DAY);
    let plan = asked(&mirror, "expire").await;
    assert_eq!(plan["tags"].as_array().unwrap().len(), most);
    assert_eq!(plan["more"], true);
    assert_eq!(run(&mirror).await, most);
    assert_eq!(tags(&mirror, "team/a").await.len(), 50);
    assert_eq!(run(&mirror).await, 50);
    collect_after(&mirror, HOUR).await;
}

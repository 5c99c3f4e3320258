//! `verify` of hosted content: each kind of damage by its name, beside a server that goes on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Method;
use serde_json::Value;

use super::{OCI_MANIFEST, Pushes as _, index, registry};
use crate::common::images::sha256;
use crate::common::{ADMIN, Mirror};

/// The file of a hosted blob.
pub(super) fn hosted_path(state: &Path, digest: &str) -> PathBuf {
    let (algorithm, hex) = digest.split_once(':').unwrap();
    let blobs = state.join("hosted/blobs").join(algorithm);
    blobs.join(&hex[..2]).join(hex)
}

/// Changes one byte of a file. Another name of it stays as it was.
pub(super) fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// What a run says: findings, and the summary.
async fn verify(mirror: &Mirror, repair: bool) -> (Vec<Value>, Value) {
    let path = format!("/api/v1/verify?repair={repair}");
    let answer = mirror.admin.ask(Method::POST, &path, &[ADMIN]).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let text = answer.text();
    let lines = text.lines().filter(|it| !it.is_empty());
    let lines: Vec<Value> = lines.map(|it| serde_json::from_str(it).unwrap()).collect();
    let findings = lines.iter().filter_map(|it| it.get("finding")).cloned();
    let summary = lines.last().and_then(|it| it.get("summary"));
    (
        findings.collect(),
        summary.unwrap_or_else(|| panic!("{text}")).clone(),
    )
}

pub(super) async fn assert_well(mirror: &Mirror) {
    let (findings, summary) = verify(mirror, false).await;
    assert_eq!(findings, [] as [Value; 0]);
    assert_eq!(summary["findings"], 0);
}

/// Kinds and digests, sorted.
fn named(findings: &[Value]) -> Vec<(String, String)> {
    let text = |it: &Value, name: &str| it[name].as_str().unwrap_or_default().to_owned();
    let mut named: Vec<_> = findings
        .iter()
        .map(|it| (text(it, "fault"), text(it, "digest")))
        .collect();
    named.sort();
    named
}

/// Puts a file where a hosted blob would be, as a kill between its rename and its row leaves it.
fn stray(mirror: &Mirror, bytes: &[u8]) -> PathBuf {
    let path = hosted_path(&mirror.state(), &sha256(bytes));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}

#[tokio::test]
async fn each_kind_of_damage_is_found_by_name_and_nothing_else() {
    let mirror = registry().start().await;
    for layer in [&b"sound"[..], b"flipped", b"cut short", b"gone"] {
        let tag = format!("t{}", layer.len());
        mirror.image("team/a", &tag, layer).await;
    }
    assert_well(&mirror).await;
    let state = mirror.state();
    let path = |bytes: &[u8]| hosted_path(&state, &sha256(bytes));
    flip(&path(b"flipped"));
    std::fs::write(path(b"cut short"), b"cut").unwrap();
    std::fs::remove_file(path(b"gone")).unwrap();
    let expected = || {
        let mut expected = vec![
            ("damaged".to_owned(), sha256(b"flipped")),
            ("missing".to_owned(), sha256(b"gone")),
            ("wrong_size".to_owned(), sha256(b"cut short")),
        ];
        expected.sort();
        expected
    };
    let (findings, summary) = verify(&mirror, false).await;
    assert_eq!(named(&findings), expected());
    assert_eq!(summary["findings"], 3);
    for it in &findings {
        assert_eq!(it["images"][0], "team/a", "{it}");
        assert!(it["repaired"].is_null());
    }
    // Nobody can be asked for it: it stays as it is, and it is said what to do.
    let (findings, summary) = verify(&mirror, true).await;
    assert_eq!(named(&findings), expected());
    assert_eq!(summary["repaired"], 0);
    assert!(
        findings[0]["unrepaired"]
            .as_str()
            .unwrap()
            .contains("backup")
    );
    // Also where the index was lost, with a file more than there are rows.
    let stray = stray(&mirror, b"stray");
    let mirror = Box::pin(mirror.restart_after(|_| {
        std::fs::remove_file(state.join("hosted/index.redb")).unwrap();
    }))
    .await;
    let (findings, _) = verify(&mirror, false).await;
    let kinds: Vec<_> = named(&findings).into_iter().map(|it| it.1).collect();
    for bytes in [&b"flipped"[..], b"gone", b"cut short", b"stray"] {
        assert!(kinds.contains(&sha256(bytes)), "{findings:?}");
    }
    assert_eq!(findings.len(), 4, "{findings:?}");
    assert!(stray.exists());
}

#[tokio::test]
async fn a_stray_file_goes_with_repair_and_after_the_grace_alone() {
    let mirror = registry().start().await;
    mirror.image("team/a", "v1", b"layer").await;
    let file = stray(&mirror, b"stray");
    // It is as old as the clock of this test.
    let now = roadstead::clock::Clock::now(&*mirror.clock);
    let modified = std::time::UNIX_EPOCH + Duration::from_millis(now.0);
    let opened = std::fs::File::options().write(true).open(&file).unwrap();
    opened.set_modified(modified).unwrap();
    let mirror = Box::pin(mirror.restart()).await;
    for repair in [false, true] {
        let (findings, summary) = verify(&mirror, repair).await;
        assert_eq!(named(&findings), [("stray".to_owned(), sha256(b"stray"))]);
        assert_eq!(summary["repaired"], 0);
        assert!(file.exists());
    }
    mirror.clock.advance(Duration::from_hours(2));
    let (findings, summary) = verify(&mirror, true).await;
    assert_eq!(findings[0]["repaired"], true, "{findings:?}");
    assert_eq!(summary["repaired"], 1);
    assert!(!file.exists());
    assert_well(&mirror).await;
    // A push of the same takes it up.
    mirror.image("team/a", "v2", b"stray").await;
    assert_well(&mirror).await;
}

/// Changes the catalogue of a stopped server.
fn meddle(state: &Path, sql: &str) {
    let connection = rusqlite::Connection::open(state.join("catalogue.db")).unwrap();
    connection
        .pragma_update(None, "foreign_keys", false)
        .unwrap();
    connection.execute_batch(sql).unwrap();
}

#[tokio::test]
async fn manifests_that_are_damaged_or_miss_something_are_named() {
    let mirror = registry().start().await;
    let image = mirror.image("team/a", "v1", b"layer").await;
    let other = mirror.image("team/b", "v1", b"other").await;
    let child = mirror.parts("team/c", b"child").await;
    let path = format!("/v2/team/c/manifests/{}", sha256(child.as_bytes()));
    let headers = [("content-type", OCI_MANIFEST)];
    let body = bytes::Bytes::from(child.clone());
    let put = mirror.client.ask_with(Method::PUT, &path, &headers, body);
    assert_eq!(put.await.status, 201);
    let list = index(&[(&sha256(child.as_bytes()), child.len())]);
    assert_eq!(mirror.put("team/c", "v1", &list).await.status, 201);
    assert_well(&mirror).await;
    let state = mirror.state();
    let mirror = Box::pin(mirror.restart_after(|_| {
        let key = |digest: &str| format!("x'01{}'", &digest["sha256:".len()..]);
        let layer = key(&sha256(b"layer"));
        meddle(&state, &format!(
            "DELETE FROM hosted_links WHERE digest = {layer} AND repository = (SELECT id FROM hosted_repositories WHERE path = 'team/a');
             UPDATE hosted_bytes SET bytes = x'7b7d' WHERE digest = {};
             UPDATE hosted_manifests SET deleted_ms = 1 WHERE digest = {};",
            key(&other),
            key(&sha256(child.as_bytes())),
        ));
    }))
    .await;
    let (findings, _) = verify(&mirror, false).await;
    let mut expected = vec![
        ("damaged".to_owned(), other.clone()),
        ("missing".to_owned(), sha256(b"layer")),
        ("missing".to_owned(), sha256(child.as_bytes())),
    ];
    expected.sort();
    assert_eq!(named(&findings), expected, "{findings:?}");
    let of = |digest: &str| {
        let mut found = findings.iter().filter(|it| it["digest"] == digest);
        found.next().unwrap()["images"][0]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(of(&sha256(b"layer")), format!("team/a@{image}"));
    assert_eq!(of(&other), format!("team/b@{other}"));
}

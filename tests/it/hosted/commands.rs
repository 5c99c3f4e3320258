//! The operator's commands, and those that carry images, know what is hosted.

use std::process::Output;

use http::Method;
use serde_json::Value;

use super::{Pushes, hosts, index, registry};
use crate::commands::program;
use crate::common::images::sha256;
use crate::common::{Mirror, MirrorBuilder};

/// Runs a command at a server's admin listener; its exit code, and what it printed and complained of.
async fn run(mirror: &Mirror, arguments: &[&str]) -> (i32, String, String) {
    let admin = format!("http://{}", mirror.admin.0);
    let mut all = arguments.to_vec();
    all.extend(["--admin", &admin]);
    ended(program(&all).await)
}

/// The same at its client listener.
async fn run_as_client(mirror: &Mirror, arguments: &[&str]) -> (i32, String, String) {
    let server = mirror.url();
    let mut all = arguments.to_vec();
    all.extend(["--server", &server]);
    ended(program(&all).await)
}

fn ended(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap();
    (code, text(output.stdout), text(output.stderr))
}

/// A server with `team/app:1`, `team/app:2` and `other/web:1`, which shares a layer with the first.
async fn filled() -> (Mirror, String) {
    let mirror = registry().start().await;
    let digest = mirror.image("team/app", "1", b"shared layer").await;
    mirror.image("team/app", "2", b"a layer of its own").await;
    mirror.image("other/web", "1", b"shared layer").await;
    (mirror, digest)
}

#[tokio::test]
async fn ls_lists_hosted_images_beside_mirrored_ones() {
    let (mirror, digest) = filled().await;
    let (code, text, errors) = run(&mirror, &["ls"]).await;
    assert_eq!((code, &*errors), (0, ""));
    let lines: Vec<&str> = text.lines().skip(1).collect();
    assert_eq!(lines.len(), 3, "{text}");
    for (line, name) in lines
        .iter()
        .zip(["other/web:1", "team/app:1", "team/app:2"])
    {
        assert!(
            line.starts_with(name) && line.trim_end().ends_with("hosted"),
            "{line}"
        );
    }
    let json = async |wanted: &str| {
        let (_, text, _) = run(&mirror, &["ls", "--json", wanted]).await;
        let images = text
            .lines()
            .map(|it| serde_json::from_str::<Value>(it).unwrap());
        images.collect::<Vec<_>>()
    };
    let one = json("team/app:1").await;
    assert_eq!(one.len(), 1);
    assert_eq!(
        (&one[0]["place"], &one[0]["digest"]),
        (&"hosted".into(), &(&*digest).into())
    );
    let bytes = mirror
        .get(&format!("/v2/team/app/manifests/{digest}"))
        .await
        .body
        .len();
    assert_eq!(
        one[0]["size_bytes"],
        bytes + b"{}".len() + b"shared layer".len()
    );
    for (wanted, expected) in [("team", 2), ("team/app", 2), ("other", 1), ("hosted", 3)] {
        assert_eq!(json(wanted).await.len(), expected, "{wanted}");
    }
    let (code, _, errors) = run(&mirror, &["ls", "docker.io"]).await;
    assert_eq!(code, 1, "{errors}");
    let path = "/api/v1/hosted/images?limit=2";
    let page: Value = serde_json::from_slice(&mirror.admin.get(path).await.body).unwrap();
    let next = format!("{path}&after={}", page["next"].as_str().unwrap());
    let page: Value = serde_json::from_slice(&mirror.admin.get(&next).await.body).unwrap();
    assert_eq!(page["images"][0]["image"], "team/app:2");
    assert_eq!(page.get("next"), None);
}

#[tokio::test]
async fn du_counts_hosted_blobs_once_each() {
    let (mirror, _) = filled().await;
    let (code, text, errors) = run(&mirror, &["du", "--json"]).await;
    assert_eq!((code, &*errors), (0, ""));
    let hosted = serde_json::from_str::<Value>(&text).unwrap()["hosted"].clone();
    // A config, two layers, and two manifests: those of the shared layer are the same.
    assert_eq!(hosted["blobs"], 5);
    let repositories = hosted["repositories"].as_array().unwrap();
    let web = &repositories[0];
    assert_eq!(
        (&web["repository"], &web["exclusive_bytes"]),
        (&"other/web".into(), &0.into())
    );
    assert_eq!(
        repositories[1]["bytes"], hosted["bytes"],
        "all is in team/app"
    );
    let (code, text, _) = run(&mirror, &["du"]).await;
    assert!(
        code == 0 && text.contains("team/app") && text.contains("5 hosted blobs"),
        "{text}"
    );
    assert_eq!(run(&mirror, &["du", "hosted"]).await.0, 0);
    let (_, text, _) = run(&mirror, &["du", "docker.io", "--json"]).await;
    assert_eq!(
        serde_json::from_str::<Value>(&text).unwrap().get("hosted"),
        None
    );
}

#[tokio::test]
async fn inspect_shows_a_hosted_image() {
    let (mirror, digest) = filled().await;
    let part = mirror
        .get(&format!("/v2/team/app/manifests/{digest}"))
        .await
        .body
        .len();
    let list = index(&[(&digest, part)]);
    assert_eq!(mirror.put("team/app", "multi", &list).await.status, 201);
    let (code, text, errors) = run(&mirror, &["inspect", "team/app:multi"]).await;
    assert_eq!((code, &*errors), (0, ""));
    let first = text.lines().next().unwrap();
    assert_eq!(first, "team/app:multi  (hosted)");
    for word in ["index", "manifest", "config", "layer"] {
        assert!(text.contains(word), "{text}");
    }
    // As `ls` prints it.
    let short = &digest["sha256:".len()..][..12];
    let (code, text, errors) = run(
        &mirror,
        &["inspect", "--json", &format!("team/app@{short}")],
    )
    .await;
    assert_eq!(code, 0, "{errors}");
    let shown: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&shown["manifests"][0]["digest"], &shown["place"]),
        (&(&*digest).into(), &"hosted".into())
    );
    let (code, _, errors) = run(&mirror, &["inspect", "team/none:1"]).await;
    assert_eq!(code, 1);
    assert!(errors.contains("repository"), "{errors}");
}

#[tokio::test]
async fn rm_deletes_a_hosted_tag_alone_and_says_how_it_comes_back() {
    let (mirror, digest) = filled().await;
    let tag = "/v2/team/app/manifests/1";
    let (code, text, _) = run(&mirror, &["rm", "--dry-run", "team/app:1"]).await;
    assert!(code == 0 && text.contains("would be deleted"), "{text}");
    assert_eq!(mirror.get(tag).await.status, 200);
    let (code, text, errors) = run(&mirror, &["rm", "team/app:1"]).await;
    assert_eq!((code, &*errors), (0, ""));
    assert!(
        text.contains("roadstead tag restore team/app:1") && text.contains("7 d"),
        "{text}"
    );
    assert_eq!(mirror.get(tag).await.status, 404);
    let manifest = format!("/v2/team/app/manifests/{digest}");
    assert_eq!(mirror.get(&manifest).await.status, 200);
    assert_eq!(run(&mirror, &["tag", "restore", "team/app:1"]).await.0, 0);
    assert_eq!(mirror.get(tag).await.status, 200);
    let (code, text, _) = run(&mirror, &["rm", &format!("team/app@{digest}")]).await;
    assert!(code == 0 && text.contains("with its tag 1"), "{text}");
    assert_eq!(mirror.get(&manifest).await.status, 404);
    assert_eq!(run(&mirror, &["rm", "team/app:1"]).await.0, 1);
    let (code, _, errors) = run(&mirror, &["rm", "--all", "team/app"]).await;
    assert!(code == 1 && errors.contains("hosted"), "{errors}");
    // What selects by age or by upstream means the cache.
    assert_eq!(run(&mirror, &["rm", "--unused-for", "0s"]).await.0, 0);
    assert_eq!(mirror.get("/v2/team/app/manifests/2").await.status, 200);
}

#[tokio::test]
async fn export_writes_what_is_hosted_and_import_pushes_it() {
    let (mirror, digest) = filled().await;
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("app.tar").display().to_string();
    let arguments = ["export", "--platform", "all", "-o", &archive, "team/app:1"];
    let (code, text, errors) = run_as_client(&mirror, &arguments).await;
    assert_eq!(code, 0, "{text}{errors}");
    let other = registry().start().await;
    let (code, text, errors) = run_as_client(&other, &["import", "--push", &archive]).await;
    assert_eq!(code, 0, "{text}{errors}");
    let (code, text, errors) = run_as_client(
        &other,
        &["import", "--push", &archive, "other/copy:v1=team/app:1"],
    )
    .await;
    assert_eq!(code, 0, "{text}{errors}");
    assert!(
        text.contains("0 files") || text.contains("1 file "),
        "mounted: {text}"
    );
    for path in ["team/app/manifests/1", "other/copy/manifests/v1"] {
        let got = other.get(&format!("/v2/{path}")).await;
        assert_eq!(sha256(&got.body), digest, "{path}");
    }
    let (code, _, errors) = run_as_client(
        &other,
        &["import", "--push", &archive, "nowhere/app:1=team/app:1"],
    )
    .await;
    assert!(code == 1 && errors.contains("namespace"), "{errors}");
    // Into the cache of a mirrored name, as ever.
    let admin = format!("http://{}", other.admin.0);
    let naming = "docker.io/team/app:1=team/app:1";
    let cached = program(&["import", "--admin", &admin, &archive, naming]).await;
    assert_eq!(cached.status.code(), Some(0));
    let got = other.get("/v2/docker.io/team/app/manifests/1").await;
    assert_eq!(sha256(&got.body), digest);
}

/// At a host name of one's own names have one component, too.
#[tokio::test]
async fn names_at_an_own_host_are_shown_with_it() {
    let builder = MirrorBuilder::secluded(&["docker.io"]);
    let builder = builder.with(|config| {
        hosts(config, |hosted| {
            hosted.hosts = vec!["registry.corp.example".to_owned()];
            hosted.create_on_push = true;
        });
    });
    let mirror = builder.start().await;
    let ask = async |method, path: &str, body: &'static [u8]| {
        let headers = [("host", "registry.corp.example")];
        let body = bytes::Bytes::from_static(body);
        mirror
            .client
            .ask_with(method, path, &headers, body)
            .await
            .status
    };
    let config = sha256(b"{}");
    let begin = format!("/v2/app/blobs/uploads/?digest={config}");
    assert_eq!(ask(Method::POST, &begin, b"{}").await, 201);
    let manifest: &'static str = super::manifest(&config, &[]).leak();
    assert_eq!(
        ask(Method::PUT, "/v2/app/manifests/1", manifest.as_bytes()).await,
        201
    );
    let (_, text, _) = run(&mirror, &["ls", "--json"]).await;
    let image: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(image["image"], "registry.corp.example/app:1");
    let name = image["image"].as_str().unwrap();
    assert_eq!(run(&mirror, &["inspect", name]).await.0, 0);
    assert_eq!(run(&mirror, &["rm", name]).await.0, 0);
    assert_eq!(run(&mirror, &["inspect", name]).await.0, 1);
}

#[tokio::test]
async fn without_a_server_the_commands_say_that_hosted_images_are_not_seen() {
    let (mirror, _) = filled().await;
    let (cache, state) = (mirror.store(), mirror.state());
    let mirror = mirror.restart_after(|dir| {
        let file = dir.parent().unwrap().join("roadstead.toml");
        let text = format!(
            "[server]\nadmin_listen = \"127.0.0.1:1\"\n[cache]\ndir = {cache:?}\n[state]\ndir = {state:?}\n[hosted]\nenabled = true\n"
        );
        std::fs::write(&file, text).unwrap();
        let config = file.display().to_string();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_roadstead"))
            .args(["ls", "--config", &config])
            .output()
            .unwrap();
        let (code, _, errors) = ended(output);
        assert_eq!(code, 0, "{errors}");
        assert!(errors.contains("no server is running; hosted images"), "{errors}");
    });
    mirror.await.stop().await;
}

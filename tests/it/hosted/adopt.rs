//! Another registry's images, copied by the program: from a registry that runs, and from the directory of one that does
//! not.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use http::Method;
use serde_json::Value;

use super::{Pushes, hosts, registry};
use crate::access::{access, people};
use crate::commands::program;
use crate::common::images::{self, Dialect};
use crate::common::{
    Auth, Blob, FakeRegistry, Fault, Image, Kind, Manifest, Mirror, MirrorBuilder, Rule, within,
};

/// The images of a source.
struct Content {
    /// `team/app:1` and `team/app:latest`.
    app: Image,
    /// `team/app:multi`, over two images that no tag names.
    index: Manifest,
    parts: [Image; 2],
    /// A signature of `app`, which no tag names.
    signature: Image,
    /// One of the index's first image, named by the tag that registries without a list of referrers have.
    sbom: Image,
    fallback: Manifest,
}

impl Content {
    fn new() -> Self {
        let app = images::image(1, &[20_000, 300], Dialect::Docker);
        let parts = [
            images::image(2, &[5_000], Dialect::Oci),
            images::image(3, &[6_000], Dialect::Oci),
        ];
        let index = images::index(&[(&parts[0], "amd64"), (&parts[1], "arm64")], Dialect::Oci);
        let payload = Blob::noise(70, 500);
        let signature = images::artifact(&app.manifest, "application/x-signature", &payload);
        let payload = Blob::noise(71, 600);
        let sbom = images::artifact(&parts[0].manifest, "application/x-sbom", &payload);
        let fallback = images::referrers_index(&[(&sbom, "application/x-sbom")]);
        Self {
            app,
            index,
            parts,
            signature,
            sbom,
            fallback,
        }
    }

    fn fallback_tag(&self) -> String {
        self.parts[0].manifest.digest.replace(':', "-")
    }

    fn images(&self) -> impl Iterator<Item = &Image> {
        let more = [&self.app, &self.signature, &self.sbom];
        more.into_iter().chain(&self.parts)
    }

    /// Manifests with the tags that name them.
    fn manifests(&self) -> Vec<(&Manifest, Vec<String>)> {
        let tags = |all: &[&str]| all.iter().map(ToString::to_string).collect();
        vec![
            (&self.app.manifest, tags(&["1", "latest"])),
            (&self.index, tags(&["multi"])),
            (&self.parts[0].manifest, Vec::new()),
            (&self.parts[1].manifest, Vec::new()),
            (&self.signature.manifest, Vec::new()),
            (&self.sbom.manifest, Vec::new()),
            (&self.fallback, vec![self.fallback_tag()]),
        ]
    }

    async fn in_registry(&self) -> FakeRegistry {
        let source = FakeRegistry::start().await;
        for image in self.images() {
            image.blobs().for_each(|it| source.put_blob("team/app", it));
        }
        for (manifest, tags) in self.manifests() {
            source.put_manifest("team/app", None, manifest);
            for tag in tags {
                source.put_manifest("team/app", Some(&tag), manifest);
            }
        }
        let layers = self.app.layers.clone();
        let web = images::image_of(9, layers, Dialect::Docker);
        web.blobs().for_each(|it| source.put_blob("web", it));
        source.put_manifest("web", Some("1"), &web.manifest);
        source
    }

    /// As distribution stores it.
    fn in_directory(&self, root: &Path) {
        let root = root.join("docker/registry/v2");
        for image in self.images() {
            for blob in image.blobs() {
                put(&data(&root, &blob.digest), &blob.bytes);
            }
        }
        let below = root.join("repositories/team/app/_manifests");
        for (manifest, tags) in self.manifests() {
            put(&data(&root, &manifest.digest), &manifest.bytes);
            let hex = manifest.digest.strip_prefix("sha256:").unwrap();
            let link = below.join(format!("revisions/sha256/{hex}/link"));
            put(&link, manifest.digest.as_bytes());
            for tag in tags {
                let link = below.join(format!("tags/{tag}/current/link"));
                put(&link, manifest.digest.as_bytes());
            }
        }
        fs::create_dir_all(root.join("repositories/team/app/_uploads")).unwrap();
    }

    /// All of it is in a repository.
    async fn is_in(&self, mirror: &Mirror, repository: &str) {
        for (manifest, tags) in self.manifests() {
            let digest = manifest.digest.clone();
            for reference in tags.into_iter().chain([digest]) {
                let path = format!("/v2/{repository}/manifests/{reference}");
                let got = mirror.get(&path).await;
                got.assert_bytes(200, &manifest.bytes);
                assert_eq!(got.header("content-type"), manifest.media_type);
                assert_eq!(got.header("docker-content-digest"), manifest.digest);
            }
        }
        for blob in self.images().flat_map(Image::blobs) {
            let path = format!("/v2/{repository}/blobs/{}", blob.digest);
            mirror.get(&path).await.assert_bytes(200, &blob.bytes);
        }
        for (subject, referrer) in [
            (&self.app.manifest, &self.signature),
            (&self.parts[0].manifest, &self.sbom),
        ] {
            let path = format!("/v2/{repository}/referrers/{}", subject.digest);
            let list: Value = serde_json::from_slice(&mirror.get(&path).await.body).unwrap();
            let digests: Vec<&str> = list["manifests"]
                .as_array()
                .unwrap()
                .iter()
                .map(|it| it["digest"].as_str().unwrap())
                .collect();
            assert_eq!(digests, [referrer.manifest.digest.as_str()]);
        }
    }
}

fn data(root: &Path, digest: &str) -> std::path::PathBuf {
    let hex = digest.strip_prefix("sha256:").unwrap();
    root.join(format!("blobs/sha256/{}/{hex}/data", &hex[..2]))
}

fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Runs it; its exit code, the objects that it printed, and what it complained of.
async fn adopt(mirror: &Mirror, arguments: &[&str]) -> (i32, Vec<Value>, String) {
    let server = mirror.url();
    let mut all = vec!["adopt", "--server", &server, "--json"];
    all.extend(arguments);
    let output = program(&all).await;
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(|it| serde_json::from_str(it).unwrap());
    let errors = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), lines.collect(), errors)
}

fn summary(lines: &[Value]) -> &Value {
    &lines.last().unwrap()["summary"]
}

fn faults(lines: &[Value]) -> Vec<String> {
    let faults = lines.iter().filter_map(|it| it.get("fault"));
    let faults = faults.map(|it| format!("{}: {}", it["name"], it["why"]).replace('"', ""));
    faults.collect()
}

async fn tags(mirror: &Mirror, repository: &str) -> Vec<String> {
    let list = mirror.get(&format!("/v2/{repository}/tags/list")).await;
    let list: Value = serde_json::from_slice(&list.body).unwrap();
    serde_json::from_value(list["tags"].clone()).unwrap()
}

#[tokio::test]
async fn a_registry_is_copied_whole_and_the_second_time_nothing() {
    let content = Content::new();
    let source = content.in_registry().await;
    source.options(|options| options.page_max = 2);
    let mirror = registry().start().await;
    let rename = ["--rename", "web=other/web"];
    let from = source.url();
    let arguments = ["--from", "registry:2", &from, rename[0], rename[1]];
    let (code, lines, errors) = adopt(&mirror, &arguments).await;
    assert_eq!((code, faults(&lines)), (0, Vec::new()), "{errors}");
    let sum = summary(&lines);
    assert_eq!((&sum["tags"], &sum["tags_set"]), (&5.into(), &5.into()));
    // `web` has the layers of `app`, and a config of its own.
    assert_eq!((&sum["manifests"], &sum["mounted"]), (&8.into(), &2.into()));
    content.is_in(&mirror, "team/app").await;
    assert_eq!(tags(&mirror, "other/web").await, ["1"]);
    let mut all = vec!["1".to_owned(), "latest".to_owned(), "multi".to_owned()];
    all.push(content.fallback_tag());
    assert_eq!(tags(&mirror, "team/app").await, all);

    source.reset();
    let (code, lines, _) = adopt(&mirror, &arguments).await;
    assert_eq!(code, 0);
    let sum = summary(&lines);
    for count in ["tags_set", "manifests", "blobs", "bytes", "mounted"] {
        assert_eq!(sum[count], 0, "{count}");
    }
    let counters = source.counters();
    assert_eq!(counters.count(|it| it.kind == Kind::Blob), 0);
    // Each manifest once, and one more time for its second tag.
    assert_eq!(counters.of(&Method::GET, Kind::Manifest), 9);
}

/// A registry without a list of referrers is asked for it once, and for nothing but tags and what they name afterwards.
#[tokio::test]
async fn a_registry_without_referrers_is_asked_once_and_a_password_is_sent_where_it_belongs() {
    let content = Content::new();
    let source = content.in_registry().await;
    source.options(|options| {
        options.referrers = false;
        options.auth = Auth::token_for("alice", "secret");
    });
    let mirror = registry().start().await;
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("password");
    fs::write(&password, "secret").unwrap();
    let (from, password) = (source.url(), password.display().to_string());
    let login = ["--username", "alice", "--password-file", &password];
    let mut arguments = vec!["--from", &from, "--repository", "team/*"];
    let (code, _, errors) = adopt(&mirror, &arguments).await;
    assert_eq!(code, 1);
    assert!(errors.contains("the list of repositories"), "{errors}");
    arguments.extend(login);
    let (code, lines, errors) = adopt(&mirror, &arguments).await;
    assert_eq!((code, faults(&lines)), (0, Vec::new()), "{errors}");
    assert_eq!(summary(&lines)["repositories"], 1);
    assert_eq!(source.counters().count(|it| it.kind == Kind::Referrers), 1);
    assert_eq!(tags(&mirror, "team/app").await.len(), 4);

    source.reset();
    let (code, lines, _) = adopt(&mirror, &arguments).await;
    assert_eq!((code, &summary(&lines)["tags_set"]), (0, &0.into()));
    // The first tag is asked about before it is known that there is no such list.
    assert_eq!(source.counters().of(&Method::GET, Kind::Manifest), 4);
    assert_eq!(source.counters().count(|it| it.kind == Kind::Blob), 0);
}

#[tokio::test]
async fn a_directory_is_copied_whole_and_what_is_damaged_is_named() {
    let content = Content::new();
    let dir = tempfile::tempdir().unwrap();
    content.in_directory(dir.path());
    let mirror = registry().start().await;
    let root = dir.path().join("docker/registry/v2");
    let layer = &content.parts[1].layers[0];
    put(&data(&root, &layer.digest), b"damaged");
    fs::remove_file(data(&root, &content.signature.layers[0].digest)).unwrap();
    let from = dir.path().display().to_string();
    let arguments = ["--from", &*from];
    let (code, lines, _) = adopt(&mirror, &arguments).await;
    assert_eq!(code, 1);
    let told = faults(&lines);
    let (damaged, missing) = (&layer.digest, &content.signature.layers[0].digest);
    let named = |digest: &str| told.iter().any(|it| it.contains(digest));
    assert!(named(damaged) && named(missing), "{told:?}");
    assert_eq!(
        tags(&mirror, "team/app").await.len(),
        3,
        "all but the index"
    );

    content.in_directory(dir.path());
    let (code, lines, errors) = adopt(&mirror, &arguments).await;
    assert_eq!((code, faults(&lines)), (0, Vec::new()), "{errors}");
    content.is_in(&mirror, "team/app").await;
    let (code, lines, _) = adopt(&mirror, &arguments).await;
    let sum = summary(&lines);
    let sent = (&sum["tags_set"], &sum["manifests"], &sum["blobs"]);
    assert_eq!((code, sent), (0, (&0.into(), &0.into(), &0.into())));
}

/// A link that somebody has planted leads nowhere.
#[tokio::test]
async fn links_in_a_directory_are_not_followed() {
    let content = Content::new();
    let dir = tempfile::tempdir().unwrap();
    content.in_directory(dir.path());
    let root = dir.path().join("docker/registry/v2");
    let layer = data(&root, &content.app.layers[0].digest);
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(&layer, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &layer).unwrap();
    let mirror = registry().start().await;
    let (code, lines, _) = adopt(&mirror, &["--from", &dir.path().display().to_string()]).await;
    assert_eq!(code, 1);
    let told = faults(&lines).join("\n");
    assert!(told.contains("symbolic link"), "{told}");
}

/// What was there when it was killed is not sent again.
#[tokio::test]
async fn a_run_that_was_killed_is_gone_on_with() {
    let source = FakeRegistry::start().await;
    let images = [1, 2].map(|seed| images::image(seed, &[90_000, 40_000], Dialect::Oci));
    for (image, tag) in images.iter().zip(["a", "b"]) {
        image.blobs().for_each(|it| source.put_blob("team/app", it));
        source.put_manifest("team/app", Some(tag), &image.manifest);
    }
    let held = &images[1].layers[1].digest;
    let gate = source.gate(held);
    let mirror = registry().start().await;
    let (server, from) = (mirror.url(), source.url());
    let mut child = Command::new(env!("CARGO_BIN_EXE_roadstead"))
        .args(["adopt", "--server", &server, "--from", &from])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    source
        .wait_for("the blob that is held", |it| it.blob_gets(held) == 1)
        .await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(
        tags(&mirror, "team/app").await,
        ["a"],
        "no half of the other"
    );
    gate.open();
    let (code, lines, errors) = adopt(&mirror, &["--from", &from]).await;
    assert_eq!((code, faults(&lines)), (0, Vec::new()), "{errors}");
    assert_eq!(summary(&lines)["tags_set"], 1);
    let counters = source.counters();
    for blob in images[0].blobs() {
        assert_eq!(counters.blob_gets(&blob.digest), 1, "sent once");
    }
    for (image, tag) in images.iter().zip(["a", "b"]) {
        let got = mirror.get(&format!("/v2/team/app/manifests/{tag}")).await;
        got.assert_bytes(200, &image.manifest.bytes);
    }
}

#[tokio::test]
async fn names_that_do_not_fit_are_told_and_get_others() {
    let source = FakeRegistry::start().await;
    let image = images::image(1, &[500], Dialect::Oci);
    for repository in ["app", "nowhere/app", "team/app"] {
        image.blobs().for_each(|it| source.put_blob(repository, it));
        source.put_manifest(repository, Some("1"), &image.manifest);
    }
    let mirror = registry().start().await;
    let from = source.url();
    let (code, lines, errors) = adopt(&mirror, &["--from", &from, "--dry-run"]).await;
    assert_eq!((code, &summary(&lines)["tags_set"]), (0, &3.into()));
    assert!(errors.contains("--into NAMESPACE"), "{errors}");
    assert_eq!(mirror.get("/v2/team/app/tags/list").await.status, 404);

    let (code, lines, _) = adopt(&mirror, &["--from", &from]).await;
    assert_eq!(code, 1);
    let told = faults(&lines);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("app: 403") && told[0].contains("--into NAMESPACE"));
    assert!(told[1].starts_with("nowhere/app: ") && told[1].contains("namespace"));
    assert_eq!(tags(&mirror, "team/app").await, ["1"]);

    let into = ["--from", &from, "--into", "other"];
    let (code, lines, _) = adopt(&mirror, &into).await;
    assert_eq!((code, &summary(&lines)["tags_set"]), (0, &3.into()));
    assert_eq!(tags(&mirror, "other/app").await, ["1"]);
    assert_eq!(tags(&mirror, "other/nowhere/app").await, ["1"]);

    // A tag that was pushed here meanwhile stays, if that is wanted.
    let own = mirror.image("other/app", "1", b"pushed here").await;
    let keeps = ["--from", &from, "--into", "other", "--keep-existing"];
    let (code, lines, _) = adopt(&mirror, &keeps).await;
    assert_eq!((code, &summary(&lines)["tags_kept"]), (0, &1.into()));
    let got = mirror.get("/v2/other/app/manifests/1").await;
    assert_eq!(got.header("docker-content-digest"), own);
    for wrong in [
        &["--from", "registry:2"][..],
        &["--from", "registry:3", &from],
        &["--from", "/nowhere"],
        &["--from", "/"],
        &["--from", &from, "--into", "UPPER"],
        &["--from", &from, "--repository", "a//b"],
    ] {
        assert_eq!(adopt(&mirror, wrong).await.0, 2, "{wrong:?}");
    }
}

/// An index may lack images in its own registry.
#[tokio::test]
async fn an_index_with_gaps_needs_a_namespace_that_takes_such_ones() {
    let source = FakeRegistry::start().await;
    let parts = [1, 2].map(|seed| images::image(seed, &[500], Dialect::Oci));
    let index = images::index(&[(&parts[0], "amd64"), (&parts[1], "arm64")], Dialect::Oci);
    parts[0]
        .blobs()
        .for_each(|it| source.put_blob("team/app", it));
    source.put_manifest("team/app", None, &parts[0].manifest);
    source.put_manifest("team/app", Some("1"), &index);
    let secluded = MirrorBuilder::secluded(&["docker.io"]);
    let mirror = secluded.with(|config| {
        hosts(config, |hosted| hosted.namespaces[1].sparse = true);
    });
    let mirror = mirror.start().await;
    let from = source.url();
    let (code, lines, _) = adopt(&mirror, &["--from", &from]).await;
    let told = faults(&lines).join("\n");
    assert_eq!(code, 1);
    let missing = &parts[1].manifest.digest;
    assert!(told.contains(missing) && told.contains("sparse"), "{told}");
    let rename = ["--from", &from, "--rename", "team=other"];
    let (code, lines, errors) = adopt(&mirror, &rename).await;
    assert_eq!((code, faults(&lines)), (0, Vec::new()), "{errors}");
    let got = mirror.get("/v2/other/app/manifests/1").await;
    got.assert_bytes(200, &index.bytes);
}

/// A source that breaks off is asked again, and one that gives other bytes is no loss of what is right.
#[tokio::test]
async fn a_source_that_breaks_off_or_lies_is_found_out() {
    let source = FakeRegistry::start().await;
    let image = images::image(1, &[200_000, 100], Dialect::Oci);
    image.blobs().for_each(|it| source.put_blob("team/app", it));
    source.put_manifest("team/app", Some("1"), &image.manifest);
    let [large, small] = [&image.layers[0].digest, &image.layers[1].digest];
    let cut = Rule::gets(Kind::Blob).of(large).times(1);
    source.fault(cut, Fault::Cut(70_000));
    source.fault(Rule::gets(Kind::Blob).of(small), Fault::Flip(7));
    let mirror = registry().start().await;
    let from = source.url();
    let (code, lines, _) = adopt(&mirror, &["--from", &from]).await;
    let told = faults(&lines).join("\n");
    assert_eq!(code, 1);
    assert!(
        told.contains(small.as_str()) && told.contains("DIGEST_INVALID"),
        "{told}"
    );
    assert_eq!(
        mirror.hosted().sessions(),
        [],
        "what was given up is cancelled"
    );
    source.heal();
    let (code, lines, errors) = adopt(&mirror, &["--from", &from]).await;
    assert_eq!((code, faults(&lines)), (0, Vec::new()), "{errors}");
    assert_eq!(summary(&lines)["blobs"], 1, "the other one was there");
}

/// Where pushing needs an identity, it is that of the token in the environment.
#[tokio::test]
async fn it_pushes_as_whoever_the_token_is_of() {
    let source = FakeRegistry::start().await;
    let image = images::image(1, &[500], Dialect::Oci);
    image.blobs().for_each(|it| source.put_blob("team/app", it));
    source.put_manifest("team/app", Some("1"), &image.manifest);
    let builder = MirrorBuilder::secluded(&["docker.io"]).with(|config| {
        config.access =
            access("[access]\n[[access.attach]]\nuser = \"alice\"\npolicies = [\"developer\"]\n");
        hosts(config, |_| {});
    });
    let mirror = builder.start().await;
    people::add(&mirror, "alice", &[]).await;
    let wanted = serde_json::json!({ "kind": "token", "owner": "alice" });
    let made = people::make(&mirror, wanted).await;
    let token = made["token"].as_str().unwrap();
    let (server, from) = (mirror.url(), source.url());
    for (variables, expected) in [(vec![], 1), (vec![("ROADSTEAD_TOKEN", token)], 0)] {
        let child = tokio::process::Command::new(env!("CARGO_BIN_EXE_roadstead"))
            .args(["adopt", "--server", &server, "--from", &from])
            .env_clear()
            .envs(variables)
            .output();
        let output = within("the program", child).await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(expected), "{said}");
        assert!(expected == 0 || said.contains("401"), "{said}");
        assert!(!said.contains(token), "{said}");
    }
}

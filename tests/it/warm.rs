//! `warm`: images pulled through a running mirror, and what is told of it.

use std::process::{Output, Stdio};

use crate::common::images::{Manifest, OCI_INDEX, OCI_MANIFEST, image, image_of, index};
use crate::common::{
    Blob, Dialect, FakeRegistry, Fault, Kind, Mirror, MirrorBuilder, Rule, World, secure, within,
};
use http::Method;
use roadstead::commands::warm::{self, Job, Outcome, Wanted};
use roadstead::oci::ImageName;
use roadstead::server::TlsConfig;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

fn job(mirror: &Mirror, images: &[&str], platforms: &[&str]) -> Job {
    let platforms: Vec<String> = platforms.iter().map(ToString::to_string).collect();
    Job {
        images: images
            .iter()
            .map(|name| ImageName::parse(name).unwrap())
            .collect(),
        wanted: Wanted::parse(&platforms).unwrap(),
        server: mirror.url().parse().unwrap(),
        ca_file: None,
        concurrency: 4,
        retries: 3,
        output: roadstead::commands::output::Output::Silent,
    }
}

async fn run(job: &Job) -> Outcome {
    within("a run of warm", warm::run(job)).await.unwrap()
}

/// What is missing, as `what: why`.
fn missing(outcome: &Outcome) -> Vec<String> {
    let all = outcome.images.iter().flat_map(|image| &image.missing);
    all.map(|missing| format!("{}: {}", missing.what, missing.why))
        .collect()
}

/// The program, in an empty directory, with nothing of ours in its environment.
async fn program(arguments: &[&str], input: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_roadstead"))
        .arg("warm")
        .args(arguments)
        .current_dir(dir.path())
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // It may end without reading.
    stdin.write_all(input.as_bytes()).await.ok();
    drop(stdin);
    within("the program", child.wait_with_output())
        .await
        .unwrap()
}

#[tokio::test]
async fn all_is_fetched_once_and_a_second_run_finds_it_there() {
    let world = World::new().await;
    let images = ["nginx:1.27", "ghcr.io/org/app:v1"];
    let outcome = run(&job(&world.mirror, &images, &[])).await;
    assert_eq!(missing(&outcome), [""; 0]);
    assert_eq!((outcome.summary.images, outcome.summary.complete), (2, 2));
    let blobs = world.image.blobs().chain(world.app.blobs());
    let bytes: usize = blobs.map(|blob| blob.bytes.len()).sum();
    assert_eq!(outcome.summary.blobs.fetched, 5);
    assert_eq!(outcome.summary.blobs.fetched_bytes, bytes as u64);
    assert_eq!(outcome.summary.blobs.there, 0);
    for blob in world.image.blobs() {
        assert_eq!(world.hub.counters().blob_gets(&blob.digest), 1);
    }
    for blob in world.app.blobs() {
        assert_eq!(world.ghcr.counters().blob_gets(&blob.digest), 1);
    }

    // The end of a transfer is told before the file has its name; until then others join it.
    world.mirror.wait_for_fills().await;
    let asked = world.upstream_requests();
    let again = run(&job(&world.mirror, &images, &[])).await;
    assert_eq!(world.upstream_requests(), asked, "all of it was there");
    assert_eq!(again.summary.blobs.there, 5);
    assert_eq!(again.summary.blobs.there_bytes, bytes as u64);
    assert_eq!(again.summary.blobs.fetched, 0);
    assert_eq!(again.images[0].manifests.there, 1);
    // And what was warmed is served when upstream is away.
    world.hub.go_down().await;
    let path = format!("/v2/library/nginx/blobs/{}", world.layer().digest);
    world
        .mirror
        .get(&path)
        .await
        .assert_bytes(200, &world.layer().bytes);
}

#[tokio::test]
async fn a_blob_that_images_share_is_asked_for_once() {
    let hub = FakeRegistry::start().await;
    let base = Blob::noise(7, 300_000);
    let one = image_of(1, vec![base.clone(), Blob::noise(8, 1000)], Dialect::Oci);
    let two = image_of(2, vec![base.clone(), Blob::noise(9, 1000)], Dialect::Oci);
    hub.put_image("library/one", Some("1"), &one);
    hub.put_image("library/two", Some("1"), &two);
    let mirror = Mirror::of(&hub).await;
    let outcome = run(&job(&mirror, &["one:1", "two:1"], &[])).await;
    assert_eq!(missing(&outcome), [""; 0]);
    assert_eq!(outcome.summary.blobs.all(), 5, "three of one, two more");
    assert_eq!(outcome.images[0].blobs.all(), 3);
    assert_eq!(outcome.images[1].blobs.all(), 3);
    assert_eq!(hub.counters().blob_gets(&base.digest), 1);
    // The mirror, too, was asked once.
    let samples = mirror.metrics().await;
    let asked = samples.sum("roadstead_requests_total", &[("kind", "blob")]);
    assert!((asked - 5.0).abs() < 0.5, "{asked}");
}

#[tokio::test]
async fn what_is_missing_is_told_and_all_else_is_warmed() {
    let world = World::new().await;
    let gone = world.layer().digest.clone();
    let not_there = Rule::all(Kind::Blob).of(&gone);
    world.hub.fault(not_there, Fault::Status(404));
    let images = [
        "none:1",
        "nginx:1.27",
        "registry.example/x/y:1",
        "ghcr.io/org/app:v1",
    ];
    let outcome = run(&job(&world.mirror, &images, &[])).await;
    assert_eq!((outcome.summary.images, outcome.summary.complete), (4, 1));
    assert_eq!(outcome.summary.blobs.fetched, 4, "all but the layer");
    let missing = missing(&outcome);
    assert_eq!(missing.len(), 3, "{missing:?}");
    let told = |words: [&str; 3]| {
        let fits = |line: &&String| words.iter().all(|word| line.contains(word));
        assert!(
            missing.iter().any(|line| fits(&line)),
            "{words:?} in {missing:?}"
        );
    };
    told(["manifest 1: ", "404", "MANIFEST_UNKNOWN"]);
    told([&format!("blob {gone}: "), "404", "BLOB_UNKNOWN"]);
    told(["manifest 1: ", "NAME_UNKNOWN", "docker.io, ghcr.io"]);
}

#[tokio::test]
async fn limits_and_failures_that_pass_are_waited_for() {
    let world = World::new().await;
    let layer = world.layer().digest.clone();
    let manifests = Rule::gets(Kind::Manifest).times(1);
    world.hub.fault(manifests, Fault::RateLimited(1));
    // The mirror gives a transfer up after the fifth, and leaves the endpoint alone for a while.
    let blobs = Rule::gets(Kind::Blob).of(&layer).times(6);
    world.hub.fault(blobs, Fault::Cut(10));
    let outcome = run(&job(&world.mirror, &["nginx:1.27"], &[])).await;
    assert_eq!(missing(&outcome), [""; 0]);
    assert_eq!(outcome.summary.blobs.fetched, 3);
    assert_eq!(world.hub.counters().of(&Method::GET, Kind::Manifest), 2);
}

#[tokio::test]
async fn only_the_wanted_platforms_are_fetched() {
    let hub = FakeRegistry::start().await;
    let amd = image(1, &[1000], Dialect::Oci);
    let arm = image(2, &[2000], Dialect::Oci);
    for image in [&amd, &arm] {
        hub.put_image("library/tool", None, image);
    }
    let list = index(&[(&amd, "amd64"), (&arm, "arm64")], Dialect::Oci);
    hub.put_manifest("library/tool", Some("1"), &list);
    let mirror = Mirror::of(&hub).await;

    let outcome = run(&job(&mirror, &["tool:1"], &["linux/arm64"])).await;
    assert_eq!(missing(&outcome), [""; 0]);
    assert_eq!(outcome.images[0].platforms, ["linux/arm64"]);
    assert_eq!(outcome.images[0].digest.as_deref(), Some(&*list.digest));
    assert_eq!(outcome.images[0].manifests.fetched, 2);
    assert_eq!(hub.counters().manifest_gets(&amd.manifest.digest), 0);
    assert_eq!(hub.counters().blob_gets(&amd.layers[0].digest), 0);

    mirror.wait_for_fills().await;
    let outcome = run(&job(&mirror, &["tool:1"], &["all"])).await;
    assert_eq!(outcome.images[0].platforms, ["linux/amd64", "linux/arm64"]);
    assert_eq!(outcome.summary.blobs.there, 2);
    assert_eq!(outcome.summary.blobs.fetched, 2);

    let outcome = run(&job(&mirror, &["tool:1"], &["linux/s390x", "linux/amd64"])).await;
    assert_eq!(
        missing(&outcome),
        ["platform linux/s390x: the image has no such platform, only linux/amd64, linux/arm64"]
    );
    assert_eq!(outcome.images[0].platforms, ["linux/amd64"]);
}

#[tokio::test]
async fn a_mirror_with_a_certificate_is_warmed_if_that_is_believed() {
    let hub = FakeRegistry::start().await;
    let one = image(1, &[3_000_000], Dialect::Oci);
    hub.put_image("library/one", Some("1"), &one);
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let builder = MirrorBuilder::of(&hub);
    let tls = TlsConfig::of(builder.dir().join("tls.crt"), builder.dir().join("tls.key"));
    let certificate = tls.pairs[0].cert.clone();
    std::fs::write(&tls.pairs[0].cert, made.cert.pem()).unwrap();
    std::fs::write(&tls.pairs[0].key, made.signing_key.serialize_pem()).unwrap();
    let mirror = builder.with(|config| secure(config, tls)).start().await;
    let mut job = Job {
        server: format!("https://{}", mirror.address()).parse().unwrap(),
        ..job(&mirror, &["one:1"], &[])
    };
    let error = within("a refusal", warm::run(&job)).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    // It said no more than that.
    assert!(
        error.to_string().contains("--ca-file FILE names"),
        "{error}"
    );
    job.ca_file = Some(certificate);
    let outcome = run(&job).await;
    assert_eq!(missing(&outcome), [""; 0]);
    assert_eq!(outcome.summary.blobs.fetched, 2);
}

/// A tag that was warmed was fetched once more for the first podman: at Docker Hub, each GET is a counted pull.
#[tokio::test]
async fn a_warmed_tag_is_fetched_once_whoever_pulls_it_then() {
    let world = World::new().await;
    run(&job(&world.mirror, &["nginx:1.27"], &[])).await;
    let fetched = || world.hub.counters().of(&Method::GET, Kind::Manifest);
    assert_eq!(fetched(), 1);
    let oci = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json";
    let docker = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";
    let old = "application/vnd.docker.distribution.manifest.v1+prettyjws, application/vnd.docker.distribution.manifest.v1+json";
    for accept in [
        format!("{docker}, {oci}, */*"),
        format!("{oci}, {docker}, {old}"),
    ] {
        let path = "/v2/library/nginx/manifests/1.27?ns=docker.io";
        let answer = world.mirror.get_with(path, &[("accept", &accept)]).await;
        answer.assert_bytes(200, &world.image.manifest.bytes);
    }
    assert_eq!(fetched(), 1);
}

#[tokio::test]
async fn attestations_and_foreign_layers_that_nobody_has_are_not_missing() {
    let hub = FakeRegistry::start().await;
    let own = image(1, &[1000], Dialect::Oci);
    let gone = Blob::noise(5, 10);
    let config = &own.config;
    let layers = json!([
        {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": own.layers[0].digest, "size": 1000},
        {"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar",
         "digest": gone.digest, "size": 10, "urls": ["https://vendor.example/layer"]},
    ]);
    let manifest = Manifest::of(
        OCI_MANIFEST,
        &json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": layers,
                "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                           "digest": config.digest, "size": config.bytes.len()}}),
    );
    let list = Manifest::of(
        OCI_INDEX,
        &json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [
            {"mediaType": OCI_MANIFEST, "digest": manifest.digest, "size": manifest.bytes.len(),
             "platform": {"os": "linux", "architecture": "amd64"}},
            {"mediaType": OCI_MANIFEST, "digest": Blob::noise(6, 10).digest, "size": 10,
             "platform": {"os": "unknown", "architecture": "unknown"},
             "annotations": {"vnd.docker.reference.type": "attestation-manifest"}},
        ]}),
    );
    hub.put_image("library/own", None, &own);
    hub.put_manifest("library/own", None, &manifest);
    hub.put_manifest("library/own", Some("1"), &list);
    let mirror = Mirror::of(&hub).await;
    let outcome = run(&job(&mirror, &["own:1"], &["all"])).await;
    assert_eq!(missing(&outcome), [""; 0]);
    assert_eq!(outcome.summary.blobs.all(), 2);
    assert_eq!(outcome.images[0].manifests.all(), 2);
}

#[tokio::test]
async fn the_program_reads_files_prints_lines_and_says_by_its_exit_code_what_came_of_it() {
    let world = World::new().await;
    let server = world.mirror.url();
    let compose = "services:\n  web: {image: \"nginx:${NGINX:-1.27}\"}\n  own: {build: .}\n";
    let output = program(&["--server", &server, "-f", "-"], compose).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), 2, "{printed}");
    assert!(
        lines[0].starts_with("ok  docker.io/library/nginx:1.27: 3 blobs, "),
        "{printed}"
    );
    assert!(
        lines[1].starts_with("1 image, all complete; 3 blobs, "),
        "{printed}"
    );
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        told,
        "note: -: service own is built, so its image is left out\n"
    );

    let arguments = [
        "--json",
        "--server",
        &server,
        "ghcr.io/org/app:v1",
        "none:1",
    ];
    let output = program(&arguments, "").await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let mut lines: Vec<Value> = printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    let summary = lines.pop().unwrap();
    assert_eq!(summary["summary"]["complete"], 1);
    assert_eq!(summary["summary"]["images"], 2);
    assert_eq!(summary["summary"]["blobs"]["fetched"], 2);
    lines.sort_by_key(|line| line["image"].to_string());
    assert_eq!(lines[0]["image"], "docker.io/library/none:1");
    assert_eq!(lines[0]["missing"][0]["what"], "manifest 1");
    assert_eq!(lines[1]["digest"], world.app.manifest.digest);
}

#[tokio::test]
async fn a_wrong_command_line_is_exit_code_2_and_a_server_that_is_not_there_1() {
    let (held, address) = crate::common::fake_registry::refused_port().unwrap();
    let server = format!("http://{address}");
    for (arguments, input, expected) in [
        (
            vec![],
            "",
            "error: name an image, or a file of images with -f\n",
        ),
        (
            vec!["Alpine:3"],
            "",
            "error: image \"Alpine:3\": the repository's name is not valid",
        ),
        (
            vec!["-f", "-"],
            "a\nb c\n",
            "error: standard input:2: \"b c\" is neither",
        ),
        (
            vec!["-f", "none.txt"],
            "",
            "error: none.txt: cannot be read: ",
        ),
        (
            vec!["--platform", "amd64", "alpine"],
            "",
            "error: --platform: \"amd64\" is no platform",
        ),
        (
            vec!["--concurrency", "65", "alpine"],
            "",
            "error: invalid value '65'",
        ),
        (
            vec!["-f", "-"],
            "services:\n  web:\n    image: a:${TAG}\n",
            "error: standard input:3: service web: the variable TAG is not set",
        ),
    ] {
        let arguments = [vec!["--server", server.as_str()], arguments].concat();
        let output = program(&arguments, input).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.starts_with(expected), "{told}");
    }
    let output = program(&["--server", &server, "alpine"], "").await;
    drop(held);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        told.starts_with(&format!("error: no registry answers at {server}")),
        "{told}"
    );
}

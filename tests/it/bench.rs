//! `bench`: an image pulled many times at once from registries of every manner, and what is told of it.

use std::process::{Output, Stdio};

use crate::common::images::{Manifest, OCI_INDEX, OCI_MANIFEST, image, index};
use crate::common::{Auth, Dialect, FakeRegistry, Fault, Image, Kind, Mirror, Rule, World, within};
use clap::Parser;
use http::Method;
use roadstead::commands::bench::{self, Arguments, Report};
use serde_json::{Value, json};
use tokio::process::Command;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    arguments: Arguments,
}

/// What this command line measures.
async fn run(words: &[&str]) -> Report {
    let words = std::iter::once("bench").chain(words.iter().copied());
    let mut job = Line::parse_from(words).arguments.job().unwrap();
    job.output = roadstead::commands::output::Output::Silent;
    within("a run of bench", bench::run(&job)).await.unwrap()
}

/// The program, in an empty directory, with nothing of ours in its environment.
async fn program(arguments: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_roadstead"))
        .arg("bench")
        .args(arguments)
        .current_dir(dir.path())
        .env_clear()
        .stdin(Stdio::null())
        .output();
    within("the program", output).await.unwrap()
}

/// A registry with an image of two layers, `library/app:1`.
async fn registry() -> (FakeRegistry, Image) {
    let registry = FakeRegistry::start().await;
    let app = image(1, &[5000, 300_000], Dialect::Oci);
    registry.put_image("library/app", Some("1"), &app);
    (registry, app)
}

/// What one pull of the image brings.
fn bytes(image: &Image) -> u64 {
    let blobs: usize = image.blobs().map(|blob| blob.bytes.len()).sum();
    (blobs + image.manifest.bytes.len()) as u64
}

/// Each group of failures, as `what: why: pulls`.
fn failures(report: &Report) -> Vec<String> {
    let groups = report.targets.iter().flat_map(|target| &target.errors);
    groups
        .map(|group| format!("{}: {}: {}", group.what, group.why, group.pulls))
        .collect()
}

#[tokio::test]
async fn each_pull_gets_everything_for_itself() {
    let (registry, app) = registry().await;
    let report = run(&[&registry.url(), "app:1", "-n", "7"]).await;
    assert!(report.is_complete(), "{:?}", failures(&report));
    let target = &report.targets[0];
    assert_eq!((target.pulls, target.failed), (7, 0));
    assert_eq!(target.bytes, 7 * bytes(&app));
    assert_eq!(target.requests, 7 * 4, "a manifest and three blobs");
    assert_eq!(registry.counters().records.len(), 7 * 4);
    assert_eq!(registry.counters().manifest_gets("1"), 7);
    for blob in app.blobs() {
        assert_eq!(registry.counters().blob_gets(&blob.digest), 7);
    }
    let (pull, first) = (
        target.pull_seconds.unwrap(),
        target.first_byte_seconds.unwrap(),
    );
    assert!(first.min > 0.0 && first.median <= pull.median && first.max <= pull.max);
    let wall = target.wall_seconds.unwrap();
    assert!(pull.max <= wall.max, "the slowest pull ends the round");
    assert!(target.shares_the_machine && target.client_cpu_seconds > 0.0);
    assert!(report.ratios.is_none());
}

#[tokio::test]
async fn no_more_layers_are_under_way_than_are_allowed() {
    let registry = FakeRegistry::start().await;
    let app = image(1, &[1000, 1001, 1002, 1003, 1004], Dialect::Oci);
    registry.put_image("library/app", Some("1"), &app);
    // The configuration and the first layers; who is not done makes no room for others.
    let gates: Vec<_> = app
        .blobs()
        .map(|blob| registry.gate(&blob.digest))
        .collect();
    let url = registry.url();
    let words = [&*url, "app:1", "-n", "1", "--parallel", "2"];
    let pull = run(&words);
    let watch = async {
        for (at, gate) in gates.iter().enumerate() {
            let asked = (at + 2).min(gates.len());
            registry
                .wait_for("the next two", |seen| {
                    seen.of(&Method::GET, Kind::Blob) == asked
                })
                .await;
            gate.open();
        }
    };
    let (report, ()) = tokio::join!(pull, watch);
    assert!(report.is_complete(), "{:?}", failures(&report));
}

#[tokio::test]
async fn wrong_bytes_are_counted_and_told_apart() {
    let (registry, app) = registry().await;
    let layer = &app.layers[1].digest;
    for (fault, why) in [
        (Fault::Flip(70_000), "blob: digest mismatch: 4"),
        (Fault::Short(70_000), "blob: digest mismatch: 4"),
        (Fault::Long(70_000), "blob: digest mismatch: 4"),
        (Fault::Cut(70_000), "blob: cut: 4"),
        (Fault::Status(500), "blob: status 500: 4"),
        (Fault::Status(403), "blob: status 403: 4"),
        (Fault::RateLimited(60), "blob: status 429: 4"),
    ] {
        registry.fault(Rule::gets(Kind::Blob).of(layer), fault);
        let report = run(&[&registry.url(), "app:1", "-n", "4"]).await;
        assert!(!report.is_complete());
        assert_eq!(failures(&report), [why]);
        let group = &report.targets[0].errors[0];
        assert_eq!(group.examples.len(), 1, "{group:?}");
        assert!(group.examples[0].starts_with(&**layer), "{group:?}");
        assert!(report.targets[0].pull_seconds.is_none());
        registry.heal();
    }
    // Some pulls fail, the others count.
    let twice = Rule::gets(Kind::Blob).of(layer).times(2);
    registry.fault(twice, Fault::Flip(1));
    let report = run(&[&registry.url(), "app:1", "-n", "4"]).await;
    assert_eq!(failures(&report), ["blob: digest mismatch: 2"]);
    assert!(report.targets[0].pull_seconds.is_some());
}

#[tokio::test]
async fn a_manifest_that_is_none_or_another_is_told() {
    let (registry, _) = registry().await;
    let missing = run(&[&registry.url(), "none:1", "-n", "3"]).await;
    assert_eq!(failures(&missing), ["manifest: status 404: 3"]);
    assert_eq!(missing.targets[0].errors[0].examples, ["1: status 404"]);

    let manifest = Rule::gets(Kind::Manifest);
    registry.fault(manifest.clone(), Fault::Flip(3));
    let flipped = run(&[&registry.url(), "app:1", "-n", "2"]).await;
    assert_eq!(failures(&flipped), ["manifest: digest mismatch: 2"]);
    registry.heal();

    let page = Fault::Instead {
        content_type: "text/html",
        body: "<html>",
    };
    registry.options(|options| options.digest_header = false);
    registry.fault(manifest, page);
    let page = run(&[&registry.url(), "app:1", "-n", "2"]).await;
    assert_eq!(failures(&page), ["manifest: not a manifest: 2"]);
}

#[tokio::test]
async fn a_registry_that_hangs_or_is_away_ends_in_time() {
    let (registry, app) = registry().await;
    let layer = &app.layers[1].digest;
    registry.fault(Rule::gets(Kind::Blob).of(layer), Fault::Stall(1000));
    let url = registry.url();
    let stalled = run(&[&url, "app:1", "-n", "2", "--timeout", "1s"]).await;
    assert_eq!(stalled.targets[0].failed, 2);
    for group in &stalled.targets[0].errors {
        assert_eq!(group.why, "timeout", "{group:?}");
    }
    assert!(stalled.targets[0].wall_seconds.unwrap().max < 30.0);

    registry.go_down().await;
    let away = run(&[&url, "app:1", "-n", "2"]).await;
    assert_eq!(failures(&away), ["manifest: no connection: 2"]);
}

#[tokio::test]
async fn every_client_gets_a_token_of_its_own() {
    let (registry, app) = registry().await;
    registry.options(|options| options.auth = Auth::anonymous_token());
    let report = run(&[&registry.url(), "app:1", "-n", "5"]).await;
    assert!(report.is_complete(), "{:?}", failures(&report));
    assert_eq!(registry.counters().token_requests(), 5);
    // For each: a refusal, a token, a manifest, three blobs; no more refusals once there is a token.
    assert_eq!(report.targets[0].requests, 5 * 6);
    assert_eq!(report.targets[0].bytes, 5 * bytes(&app));
}

#[tokio::test]
async fn a_login_is_sent_to_the_registry_that_it_is_for_alone() {
    let (first, _) = registry().await;
    let (second, _) = registry().await;
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("password");
    std::fs::write(&password, "s3cret\n").unwrap();
    let password = password.to_str().unwrap();
    for auth in [
        Auth::token_for("ann", "s3cret"),
        Auth::basic("ann", "s3cret"),
    ] {
        first.options(|options| options.auth = auth);
        let (url, vs) = (first.url(), second.url());
        let mut words = vec![&*url, "app:1", "-n", "2", "--vs", &vs, "--rounds", "1"];
        let refused = run(&words).await;
        assert_eq!(failures(&refused), ["manifest: status 401: 2"]);
        words.extend(["--username", "ann", "--password-file", password]);
        let report = run(&words).await;
        assert!(report.is_complete(), "{:?}", failures(&report));
        let records = second.counters().records;
        assert!(
            records
                .iter()
                .all(|it| it.header("authorization").is_empty())
        );
    }
}

#[tokio::test]
async fn redirects_are_followed_without_the_token() {
    let (registry, app) = registry().await;
    let elsewhere = FakeRegistry::start().await;
    elsewhere.put_image("library/app", None, &app);
    elsewhere.options(|options| options.refuse_authorization = true);
    registry.options(|options| {
        options.auth = Auth::anonymous_token();
        options.redirect_blobs = Some(elsewhere.url());
    });
    let report = run(&[&registry.url(), "app:1", "-n", "2"]).await;
    assert!(report.is_complete(), "{:?}", failures(&report));
    assert_eq!(report.targets[0].requests, 2 * (3 + 2 * 3));
}

#[tokio::test]
async fn of_an_index_one_platform_is_pulled() {
    let registry = FakeRegistry::start().await;
    let amd = image(1, &[1000], Dialect::Docker);
    let arm = image(2, &[2000], Dialect::Docker);
    for image in [&amd, &arm] {
        registry.put_image("library/tool", None, image);
    }
    let list = index(&[(&amd, "amd64"), (&arm, "arm64")], Dialect::Docker);
    registry.put_manifest("library/tool", Some("1"), &list);
    let url = registry.url();
    let report = run(&[&url, "tool:1", "-n", "2", "--platform", "linux/arm64"]).await;
    assert!(report.is_complete(), "{:?}", failures(&report));
    assert_eq!(report.platform, "linux/arm64");
    assert_eq!(
        report.targets[0].bytes,
        2 * (bytes(&arm) + list.bytes.len() as u64)
    );
    assert_eq!(registry.counters().manifest_gets(&amd.manifest.digest), 0);

    let none = run(&[&url, "tool:1", "-n", "2", "--platform", "linux/s390x"]).await;
    assert_eq!(failures(&none), ["manifest: no such platform: 2"]);
    let example = &none.targets[0].errors[0].examples[0];
    assert!(
        example.ends_with("only linux/amd64, linux/arm64"),
        "{example}"
    );

    // By digest, as those who pin an image pull it.
    let pinned = format!("tool@{}", arm.manifest.digest);
    let report = run(&[&url, &pinned, "-n", "1"]).await;
    assert!(report.is_complete(), "{:?}", failures(&report));
}

#[tokio::test]
async fn indexes_that_have_no_end_do_and_foreign_layers_are_left_out() {
    let (registry, app) = registry().await;
    let entry = |manifest: &Manifest| {
        json!({"mediaType": manifest.media_type, "digest": manifest.digest, "size": manifest.bytes.len(),
               "platform": {"os": "linux", "architecture": "amd64"}})
    };
    let mut nested = app.manifest.clone();
    for _ in 0..5 {
        let value =
            json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry(&nested)]});
        nested = Manifest::of(OCI_INDEX, &value);
        registry.put_manifest("library/app", Some("nested"), &nested);
    }
    let url = registry.url();
    let words = [&*url, "app:nested", "-n", "1", "--platform", "linux/amd64"];
    assert_eq!(failures(&run(&words).await), ["manifest: nonsense: 1"]);

    let config = &app.config;
    let foreign = Manifest::of(
        OCI_MANIFEST,
        &json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
                "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                           "digest": config.digest, "size": config.bytes.len()},
                "layers": [{"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar",
                            "digest": crate::common::images::sha256(b"away"), "size": 4,
                            "urls": ["https://vendor.example/layer"]}]}),
    );
    registry.put_manifest("library/app", Some("foreign"), &foreign);
    let report = run(&[&url, "app:foreign", "-n", "1"]).await;
    assert!(report.is_complete(), "{:?}", failures(&report));
}

#[tokio::test]
async fn a_mirror_is_compared_with_what_it_mirrors() {
    let (hub, app) = registry().await;
    let mirror = Mirror::of(&hub).await;
    let words = [&*mirror.url(), "app:1", "-n", "6", "--vs", &hub.url()];
    let report = run(&words).await;
    assert!(report.is_complete(), "{:?}", failures(&report));
    assert_eq!((report.rounds, report.targets.len()), (3, 2));
    for target in &report.targets {
        assert_eq!(target.each_round.len(), 3);
        assert_eq!((target.pulls, target.bytes), (18, 18 * bytes(&app)));
    }
    // Once through the mirror, and each of the others straight.
    for blob in app.blobs() {
        assert_eq!(hub.counters().blob_gets(&blob.digest), 1 + 18);
    }
    let ratios = report.ratios.unwrap();
    let median = |at: usize| report.targets[at].wall_seconds.unwrap().median;
    assert!((ratios.wall.unwrap() - median(1) / median(0)).abs() < 1e-9);
    assert!(ratios.first_byte_max.is_some() && ratios.bytes_per_second.is_some());
}

#[tokio::test]
async fn rounds_to_warm_up_are_not_counted_and_each_is_first_in_turn() {
    let (registry, app) = registry().await;
    let (url, other) = (registry.url(), registry.url());
    let words = [&*url, "app:1", "-n", "1", "--vs", &other];
    let report = run(&[&words[..], &["--warmup", "1", "--rounds", "2"]].concat()).await;
    assert_eq!((report.warmup, report.rounds), (1, 2));
    assert_eq!(registry.counters().manifest_gets("1"), 2 * 3);
    assert_eq!(report.targets[0].bytes, 2 * bytes(&app));
}

#[tokio::test]
async fn a_mirror_of_several_is_told_which_one_is_meant() {
    let world = World::new().await;
    let url = world.mirror.url();
    let named = run(&[&url, "ghcr.io/org/app:v1", "-n", "2"]).await;
    assert!(named.is_complete(), "{:?}", failures(&named));
    // A name without a registry is the default upstream's, unless another is named.
    let unnamed = run(&[&url, "org/app:v1", "-n", "1"]).await;
    assert_eq!(failures(&unnamed), ["manifest: status 404: 1"]);
    let said = run(&[&url, "org/app:v1", "-n", "1", "--ns", "ghcr.io"]).await;
    assert!(said.is_complete(), "{:?}", failures(&said));
}

#[tokio::test]
async fn the_program_prints_figures_and_says_by_its_exit_code_what_came_of_it() {
    let (registry, app) = registry().await;
    let (url, layer) = (registry.url(), app.layers[0].digest.clone());
    let output = program(&[&url, "app:1", "-n", "3"]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    for line in [
        "docker.io/library/app:1 (",
        "wall time ",
        "failed ",
        "note: the client shares",
    ] {
        let found = printed.lines().any(|it| it.starts_with(line));
        assert!(found, "{line}: {printed}");
    }
    assert!(!printed.contains("B/A"), "{printed}");

    registry.fault(Rule::gets(Kind::Blob).of(&layer), Fault::Flip(0));
    let output = program(&[&url, "app:1", "-n", "3", "--vs", &url, "--rounds", "2"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("B/A"), "{printed}");
    assert!(printed.contains("A: 6 of 6 pulls failed\n  6 × blob: digest mismatch\n"));

    for (words, named) in [
        (vec!["nonsense", "app:1"], "<URL>"),
        (vec![&*url], "<IMAGE>"),
        (vec![&*url, "App"], "IMAGE"),
        (vec![&*url, "app", "-n", "0"], "--pulls"),
        (vec![&*url, "app", "--vs", "ftp://x"], "--vs"),
    ] {
        let output = program(&words).await;
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains(named), "{named}: {told}");
    }
}

#[tokio::test]
async fn json_is_one_object() {
    let (registry, _) = registry().await;
    let url = registry.url();
    registry.fault(Rule::gets(Kind::Manifest).times(1), Fault::Status(502));
    let output = program(&[&url, "app:1", "-n", "2", "--vs", &url, "--json"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["image"], "docker.io/library/app:1");
    assert_eq!(
        (&report["pulls"], &report["parallel"]),
        (&json!(2), &json!(3))
    );
    assert_eq!(
        (&report["rounds"], &report["warmup"]),
        (&json!(3), &json!(0))
    );
    let first = &report["targets"][0];
    assert_eq!(first["url"], format!("{url}/"));
    assert_eq!(first["shares_the_machine"], true);
    assert_eq!((&first["pulls"], &first["failed"]), (&json!(6), &json!(1)));
    for figure in ["wall_seconds", "bytes_per_second"] {
        for of in ["median", "min", "max"] {
            assert!(first[figure][of].as_f64().unwrap() > 0.0, "{figure}.{of}");
        }
    }
    for figure in ["pull_seconds", "first_byte_seconds"] {
        for of in ["min", "median", "p95", "max"] {
            assert!(first[figure][of].as_f64().unwrap() > 0.0, "{figure}.{of}");
        }
    }
    assert_eq!(
        first["errors"],
        json!([{"what": "manifest", "why": "status 502", "pulls": 1, "examples": ["1: status 502"]}])
    );
    let rounds = first["each_round"].as_array().unwrap();
    assert_eq!(rounds.len(), 3);
    assert!(rounds[0]["wall_seconds"].is_f64() && rounds[0]["requests"].is_u64());
    assert!(report["ratios"]["wall"].is_f64() && report["ratios"]["pull_p95"].is_f64());
}

//! Stored blobs that have changed on disk: `verify` finds exactly those, repairs them if asked, and so does the
//! scrub in the background.

use std::path::Path;
use std::time::Duration;

use crate::common::{
    ADMIN, Dialect, FakeRegistry, Image, Mirror, MirrorBuilder, World, images, within,
};
use http::Method;
use roadstead::commands::output::Output;
use roadstead::commands::verify::{self, Job, Outcome};
use roadstead::config::Config;
use roadstead::mirror::{Fault, Finding};
use roadstead::oci::{ImageName, UpstreamName};
use roadstead::store::{Amount, Share};

fn job(mirror: &Mirror, names: &[&str], repair: bool) -> Job {
    Job {
        images: names
            .iter()
            .map(|it| ImageName::parse(it).unwrap())
            .collect(),
        repair,
        admin: format!("http://{}", mirror.admin.0).parse().unwrap(),
        config: None,
        output: Output::Silent,
    }
}

async fn run(job: &Job) -> Outcome {
    within("a run of verify", verify::run(job)).await.unwrap()
}

/// Pulls an image as a client does.
async fn pull(mirror: &Mirror, repository: &str, tag: &str, image: &Image) {
    let accept = [("accept", image.manifest.media_type.as_str())];
    let path = format!("/v2/{repository}/manifests/{tag}");
    let answer = mirror.get_with(&path, &accept).await;
    answer.assert_bytes(200, &image.manifest.bytes);
    for blob in image.blobs() {
        let path = format!("/v2/{repository}/blobs/{}", blob.digest);
        mirror.get(&path).await.assert_bytes(200, &blob.bytes);
    }
    mirror.wait_for_fills().await;
}

/// Changes one byte of a file, and nothing else about it.
fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn cut(path: &Path) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_len(10).unwrap();
}

/// What was found, in the order of the digests.
fn found(outcome: &Outcome) -> Vec<(Fault, String)> {
    let findings = outcome.findings.iter();
    let mut found: Vec<_> = findings
        .map(|it| (it.fault, it.digest.clone().unwrap_or_default()))
        .collect();
    found.sort_by(|a, b| a.1.cmp(&b.1));
    found
}

fn sorted(mut expected: Vec<(Fault, String)>) -> Vec<(Fault, String)> {
    expected.sort_by(|a, b| a.1.cmp(&b.1));
    expected
}

#[tokio::test]
async fn exactly_what_has_changed_is_found_and_repair_fetches_it_once() {
    let world = World::new().await;
    let (mirror, image) = (&world.mirror, &world.image);
    pull(mirror, "library/nginx", "1.27", image).await;
    let well = run(&job(mirror, &[], false)).await;
    assert!(well.is_well(), "{well:?}");
    assert_eq!(well.summary.blobs, 4);

    let [small, large] = &image.layers[..] else {
        panic!("two layers")
    };
    flip(&mirror.blob_path(&large.digest));
    cut(&mirror.blob_path(&small.digest));
    std::fs::remove_file(mirror.blob_path(&image.config.digest)).unwrap();
    let expected = sorted(vec![
        (Fault::Damaged, large.digest.clone()),
        (Fault::WrongSize, small.digest.clone()),
        (Fault::Missing, image.config.digest.clone()),
    ]);
    for _ in 0..2 {
        let outcome = run(&job(mirror, &[], false)).await;
        assert_eq!(found(&outcome), expected, "and looking changes nothing");
        assert!(!outcome.is_well());
        for Finding {
            images, repaired, ..
        } in &outcome.findings
        {
            assert_eq!(images, &["docker.io/library/nginx:1.27"]);
            assert_eq!(*repaired, None);
        }
    }
    assert!(mirror.blob_path(&large.digest).exists());

    let outcome = run(&job(mirror, &[], true)).await;
    assert_eq!(found(&outcome), expected);
    assert_eq!(outcome.summary.repaired, 3, "{outcome:?}");
    assert!(outcome.is_well());
    for blob in image.blobs() {
        assert_eq!(world.hub.counters().blob_gets(&blob.digest), 2);
    }
    assert!(run(&job(mirror, &[], false)).await.is_well());
    world.hub.go_down().await;
    for blob in image.blobs() {
        let path = format!("/v2/library/nginx/blobs/{}", blob.digest);
        mirror.get(&path).await.assert_bytes(200, &blob.bytes);
    }
}

#[tokio::test]
async fn what_cannot_be_fetched_again_is_set_aside_and_said() {
    let world = World::new().await;
    let mirror = &world.mirror;
    pull(mirror, "library/nginx", "1.27", &world.image).await;
    let layer = world.layer();
    flip(&mirror.blob_path(&layer.digest));
    flip(&mirror.blob_path(&world.image.manifest.digest));
    world.hub.go_down().await;
    let outcome = run(&job(mirror, &[], true)).await;
    assert_eq!(outcome.summary.findings, 2);
    assert_eq!(outcome.summary.repaired, 1, "the manifest is in memory");
    assert!(!outcome.is_well());
    let unrepaired = outcome
        .findings
        .iter()
        .find(|it| it.repaired == Some(false));
    let unrepaired = unrepaired.unwrap();
    assert_eq!(unrepaired.digest.as_deref(), Some(&*layer.digest));
    let why = unrepaired.unrepaired.as_ref().unwrap();
    assert!(why.starts_with("docker.io/library/nginx: "), "{why}");
    assert!(
        !mirror.blob_path(&layer.digest).exists(),
        "nobody is given it"
    );
}

#[tokio::test]
async fn an_image_is_looked_at_with_all_that_it_needs() {
    let world = World::new().await;
    let mirror = &world.mirror;
    pull(mirror, "library/nginx", "1.27", &world.image).await;
    flip(&mirror.blob_path(&world.layer().digest));
    // Of this one only the manifest is there.
    let accept = [("accept", world.app.manifest.media_type.as_str())];
    mirror
        .get_with("/v2/org/app/manifests/v1?ns=ghcr.io", &accept)
        .await;

    let names = ["ghcr.io/org/app:v1", "none:1"];
    let outcome = run(&job(mirror, &names, false)).await;
    let blobs = world
        .app
        .blobs()
        .map(|it| (Fault::Missing, it.digest.clone()));
    let expected = blobs.chain([(Fault::Unknown, String::new())]).collect();
    assert_eq!(found(&outcome), sorted(expected));
    let by_digest = format!("nginx@{}", world.image.manifest.digest);
    let outcome = run(&job(mirror, &[&by_digest], false)).await;
    let damaged = (Fault::Damaged, world.layer().digest.clone());
    assert_eq!(found(&outcome), [damaged]);
    assert_eq!(outcome.summary.blobs, 4, "the manifest too");

    let outcome = run(&job(mirror, &names[..1], true)).await;
    assert_eq!((outcome.summary.findings, outcome.summary.repaired), (2, 2));
    world.ghcr.go_down().await;
    for blob in world.app.blobs() {
        let path = format!("/v2/org/app/blobs/{}?ns=ghcr.io", blob.digest);
        mirror.get(&path).await.assert_bytes(200, &blob.bytes);
    }
}

#[tokio::test]
async fn only_who_means_it_may_ask() {
    let world = World::new().await;
    let admin = world.mirror.admin;
    let path = "/api/v1/verify?repair=true";
    let answer = admin.ask(Method::POST, path, &[]).await;
    assert_eq!(answer.status, 403, "{}", answer.text());
    for (method, path, status) in [
        (Method::GET, "/api/v1/verify", 405),
        (Method::POST, "/api/v1/verify?image=UPPER", 400),
        (Method::POST, "/api/v1/verify?repair=perhaps", 400),
        (Method::POST, "/api/v1/verify", 200),
    ] {
        let answer = admin.ask(method, path, &[ADMIN]).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
    }
}

/// A mirror whose directory outlives it.
async fn lasting(dir: &Path, hub: &FakeRegistry) -> (Mirror, Config) {
    let mut kept = None;
    let builder = MirrorBuilder::of(hub).with(|config| {
        config.cache.dir = dir.join("cache");
        kept = Some(config.clone());
    });
    (builder.start().await, kept.unwrap())
}

#[tokio::test]
async fn without_a_server_the_directory_is_opened_unless_another_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let hub = FakeRegistry::start().await;
    let image = images::image(1, &[3000, 40_000], Dialect::Oci);
    hub.put_image("library/a", Some("1"), &image);
    let (mirror, config) = lasting(dir.path(), &hub).await;
    pull(&mirror, "library/a", "1", &image).await;
    let (_held, nobody) = crate::common::fake_registry::refused_port().unwrap();
    let job = Job {
        admin: format!("http://{nobody}").parse().unwrap(),
        config: Some(Ok(config)),
        ..job(&mirror, &[], true)
    };
    let error = within("a refusal", verify::run(&job)).await.unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("another roadstead") && error.contains("is using this directory"),
        "{error}"
    );
    let layer = &image.layers[1];
    let path = mirror.blob_path(&layer.digest);
    mirror.stop().await;

    flip(&path);
    let outcome = run(&job).await;
    assert_eq!(found(&outcome), [(Fault::Damaged, layer.digest.clone())]);
    assert!(outcome.is_well(), "repaired: {outcome:?}");
    assert_eq!(std::fs::read(&path).unwrap(), layer.bytes);
    let again = run(&job).await;
    assert_eq!(again.summary.findings, 0, "the directory was given back");
    let job = Job {
        config: None,
        ..job
    };
    let error = within("a refusal", verify::run(&job)).await.unwrap_err();
    assert!(error.to_string().contains("nobody answers"), "{error}");
}

/// Three levels of thirty indexes each, every one of which names all those of the next level: 27,000 ways to
/// the end.
#[tokio::test]
async fn what_is_named_many_times_is_looked_at_once() {
    let hub = FakeRegistry::start().await;
    let image = images::image(1, &[3000, 40_000], Dialect::Oci);
    let other = images::image(2, &[2000], Dialect::Oci);
    hub.put_image("library/a", Some("other"), &other);
    hub.put_image("library/a", Some("z"), &image);
    let mirror = Mirror::of(&hub).await;
    let mut level = vec![other.clone()];
    for (number, tag) in [(30, None), (30, None), (30, None), (1, Some("many"))] {
        let named = std::mem::take(&mut level);
        for variant in 0..number {
            // Told apart by what they name beside.
            let beside = images::image(100 + variant, &[1], Dialect::Oci);
            let mut platforms: Vec<_> = named.iter().map(|it| (it, "amd64")).collect();
            platforms.push((&beside, "arm64"));
            let manifest = images::index(&platforms, Dialect::Oci);
            hub.put_manifest("library/a", tag, &manifest);
            let reference = tag.unwrap_or(&manifest.digest);
            let path = format!("/v2/library/a/manifests/{reference}");
            let accept = [("accept", manifest.media_type.as_str())];
            let answer = mirror.get_with(&path, &accept).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            level.push(Image {
                manifest,
                ..other.clone()
            });
        }
    }
    pull(&mirror, "library/a", "other", &other).await;
    pull(&mirror, "library/a", "z", &image).await;
    // The tags before that of its image are looked at first.
    flip(&mirror.blob_path(&image.layers[1].digest));
    let outcome = run(&job(&mirror, &[], false)).await;
    assert_eq!(outcome.findings.len(), 1, "{outcome:?}");
    assert_eq!(outcome.findings[0].images, ["docker.io/library/a:z"]);
    let outcome = run(&job(&mirror, &["library/a:many"], false)).await;
    assert!(outcome.is_well(), "{outcome:?}");
    // Beside the image and the indexes those that were never pulled.
    assert_eq!(outcome.summary.blobs, 3 + 91 + 30);

    flip(&mirror.blob_path(&other.layers[0].digest));
    let outcome = run(&job(&mirror, &[], false)).await;
    let layer = other.layers[0].digest.as_str();
    let mut findings = outcome.findings.iter();
    let finding = findings.find(|it| it.digest.as_deref() == Some(layer));
    assert_eq!(finding.unwrap().images, ["docker.io/library/a:other"]);
}

/// A mirror that has pulled an image and has stopped, and what verifies its directory without a server.
/// Nobody gets its admin address as long as the socket is there.
async fn stopped(dir: &Path, image: &Image, repair: bool) -> (Job, tokio::net::TcpSocket) {
    let hub = FakeRegistry::start().await;
    hub.put_image("library/a", Some("1"), image);
    let (mirror, config) = lasting(dir, &hub).await;
    pull(&mirror, "library/a", "1", image).await;
    let (held, nobody) = crate::common::fake_registry::refused_port().unwrap();
    let job = Job {
        admin: format!("http://{nobody}").parse().unwrap(),
        config: Some(Ok(config)),
        ..job(&mirror, &[], repair)
    };
    mirror.stop().await;
    (job, held)
}

/// Who looks with the wrong configuration must not lose a cache.
#[tokio::test]
async fn without_a_server_a_look_evicts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let image = images::image(1, &[3000, 40_000], Dialect::Oci);
    let bounds: [fn(&mut roadstead::store::Config); 4] = [
        |cache| cache.max_size = Amount::Bytes(10_000),
        |cache| cache.min_free = Amount::Percent(100),
        |cache| cache.max_age = Some(Duration::from_secs(1)),
        |cache| {
            cache.shares = vec![Share {
                upstream: UpstreamName::parse("docker.io").unwrap(),
                max_size: Some(1),
                max_age: Some(Duration::from_secs(1)),
            }];
        },
    ];
    let (mut job, _held) = stopped(dir.path(), &image, false).await;
    let config = job.config.clone().unwrap();
    for (number, bound) in bounds.into_iter().enumerate() {
        let mut config = config.clone();
        bound(&mut config.as_mut().unwrap().cache);
        job.config = Some(config);
        for _ in 0..2 {
            let outcome = run(&job).await;
            assert!(outcome.is_well(), "bound {number}: {outcome:?}");
            assert_eq!(outcome.summary.blobs, 4, "bound {number}");
        }
    }
}

/// What the index has not heard of is looked at too, wherever it stands in the order.
#[tokio::test]
async fn without_a_server_the_files_are_looked_through_first() {
    let dir = tempfile::tempdir().unwrap();
    let image = images::image(1, &[3000, 40_000], Dialect::Oci);
    let (job, _held) = stopped(dir.path(), &image, false).await;
    let digest = format!("sha256:{}", "0".repeat(64));
    let shard = dir.path().join("cache/blobs/sha256/00");
    std::fs::create_dir_all(&shard).unwrap();
    std::fs::write(shard.join("0".repeat(64)), "no such content").unwrap();
    let outcome = run(&job).await;
    assert_eq!(found(&outcome), [(Fault::Damaged, digest)]);
    assert_eq!(outcome.summary.blobs, 5);
}

const MONTH: Duration = Duration::from_hours(30 * 24);

#[tokio::test]
async fn the_scrub_finds_what_has_changed_and_has_it_fetched_again() {
    let hub = FakeRegistry::start().await;
    let image = images::image(1, &[5000, 70_000], Dialect::Oci);
    hub.put_image("library/a", Some("1"), &image);
    let mirror = MirrorBuilder::of(&hub)
        .with(|config| config.cache.scrub = Some(MONTH))
        .start()
        .await;
    pull(&mirror, "library/a", "1", &image).await;
    let layer = &image.layers[1];
    flip(&mirror.blob_path(&layer.digest));
    assert!(
        !mirror
            .metrics()
            .await
            .has("roadstead_scrub_completed_timestamp_seconds")
    );
    mirror.clock.advance(MONTH + Duration::from_hours(1));
    mirror
        .wait_for_metrics("the scrub", |samples| {
            samples.sum("roadstead_scrub_damaged_total", &[]) > 0.5
                && samples.has("roadstead_scrub_completed_timestamp_seconds")
        })
        .await;
    let fetched =
        |counters: &crate::common::fake_log::Counters| counters.blob_gets(&layer.digest) == 2;
    hub.wait_for("the layer to be fetched again", fetched).await;
    mirror.wait_for_fills().await;
    assert_eq!(
        std::fs::read(mirror.blob_path(&layer.digest)).unwrap(),
        layer.bytes
    );
    assert_eq!(hub.counters().blob_gets(&image.layers[0].digest), 1);
}

#[tokio::test]
async fn a_restart_goes_on_with_the_scrub_where_it_was() {
    let hub = FakeRegistry::start().await;
    let image = images::image(1, &[30_000, 40_000, 50_000, 60_000], Dialect::Oci);
    hub.put_image("library/a", Some("1"), &image);
    let mirror = MirrorBuilder::of(&hub)
        .with(|config| config.cache.scrub = Some(MONTH))
        .start()
        .await;
    pull(&mirror, "library/a", "1", &image).await;
    let mut things: Vec<(String, u64)> = image
        .blobs()
        .map(|it| (it.digest.clone(), it.bytes.len() as u64))
        .collect();
    let manifest = &image.manifest;
    things.push((manifest.digest.clone(), manifest.bytes.len() as u64));
    things.sort();
    let total: u64 = things.iter().map(|(_, size)| size).sum();
    // What half the time is for: each blob whose beginning lies in the first half.
    let mut half = 0;
    for (_, size) in &things {
        if half * 2 <= total {
            half += size;
        }
    }
    let read = |wanted: u64| {
        let wanted = f64::from(u32::try_from(wanted).unwrap());
        move |samples: &crate::common::Samples| {
            (samples.sum("roadstead_scrub_bytes_total", &[]) - wanted).abs() < 0.5
        }
    };
    mirror.clock.advance(MONTH / 2);
    mirror.wait_for_metrics("half of it", read(half)).await;
    let mirror = mirror.restart().await;
    mirror.clock.advance(MONTH.mul_f64(0.4999));
    mirror
        .wait_for_metrics("the end of the round", |samples| {
            samples.has("roadstead_scrub_completed_timestamp_seconds")
        })
        .await;
    assert!(
        read(total - half)(&mirror.metrics().await),
        "the rest, and nothing twice"
    );
}

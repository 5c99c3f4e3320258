//! Backups that are made beside a server, and state directories that are made of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;
use roadstead::backup::{
    BackupError, Place, Restored, TagThen, Taken, Wanted, put_tags_back, restore, take,
};
use roadstead::catalogue;
use roadstead::clock::{Clock as _, ManualClock, Timestamp};
use roadstead::hosted::HostedError;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::verify::{assert_well, flip, hosted_path};
use super::{Pushes as _, collect_after, registry};
use crate::common::images::sha256;
use crate::common::{Client, Mirror, within};

const DAY: Duration = Duration::from_hours(24);

async fn back_up(mirror: &Mirror, to: &Path) -> Taken {
    back_up_with(mirror, to, |_, _| {}).await
}

async fn back_up_with(
    mirror: &Mirror,
    to: &Path,
    progress: impl Fn(u64, u64) + Send + Sync + 'static,
) -> Taken {
    let (state, place, now) = (mirror.state(), Place::of(to), mirror.clock.now());
    let taking = tokio::task::spawn_blocking(move || take(&state, &place, now, &progress));
    let taken = within("a backup", taking).await.unwrap().unwrap();
    assert!(!taken.without_lock);
    taken
}

/// A wish to restore a backup into a directory.
fn wanted(from: &Path, into: &Path) -> Wanted {
    Wanted {
        keep_going: false,
        state_dir: into.to_owned(),
        from: Place::of(from),
        replace: false,
        tags_at: None,
        dry_run: false,
    }
}

async fn try_restore(wanted: &Wanted) -> Result<Restored, BackupError> {
    let clock = Arc::new(ManualClock::new(Timestamp(1_800_000_000_000)));
    within("a restore", restore(wanted, clock, &|_, _| {})).await
}

/// A server on the state directory that a backup is restored into.
async fn restored(from: &Path, change: impl FnOnce(&mut Wanted)) -> (Mirror, Restored) {
    let builder = registry();
    let mut wanted = wanted(from, &builder.dir().join("state"));
    change(&mut wanted);
    let restored = try_restore(&wanted).await.unwrap();
    (builder.start().await, restored)
}

/// Sees that a tag names a manifest, and that all that it names can be pulled.
async fn assert_image(client: &Client, repository: &str, tag: &str, digest: Option<&str>) {
    let base = format!("/v2/{repository}");
    let got = client.get(&format!("{base}/manifests/{tag}")).await;
    assert_eq!(got.status, 200, "{repository}:{tag} {}", got.text());
    if let Some(digest) = digest {
        assert_eq!(
            got.header("docker-content-digest"),
            digest,
            "{repository}:{tag}"
        );
    }
    let body: serde_json::Value = serde_json::from_slice(&got.body).unwrap();
    let layers = body["layers"].as_array().unwrap().iter();
    for it in layers.chain([&body["config"]]) {
        let digest = it["digest"].as_str().unwrap();
        let blob = client.get(&format!("{base}/blobs/{digest}")).await;
        assert_eq!(
            (blob.status, sha256(&blob.body)),
            (200, digest.to_owned()),
            "{repository}:{tag}"
        );
    }
}

fn layer(number: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(20_000 + number % 7 * 3000, 7);
    bytes
}

/// Pushes and deletes images of a repository, until `stop`. A push may be refused: time goes by the day here.
async fn churn(
    client: Client,
    repository: String,
    stop: CancellationToken,
    acts: Arc<AtomicUsize>,
) {
    let mut number = 0;
    while !stop.is_cancelled() {
        number += 1;
        let bytes = layer(number % 40);
        let path = format!("/v2/{repository}/blobs/uploads/?digest=");
        for blob in [&b"{}"[..], &bytes] {
            let path = format!("{path}{}", sha256(blob));
            let body = bytes::Bytes::copy_from_slice(blob);
            let pushed = client.ask_with(Method::POST, &path, &[], body).await;
            assert_eq!(pushed.status, 201, "{}", pushed.text());
        }
        let manifest = super::manifest(&sha256(b"{}"), &[(&sha256(&bytes), bytes.len())]);
        let path = format!("/v2/{repository}/manifests/t{}", number % 3);
        let body = bytes::Bytes::from(manifest.clone());
        let put = client.ask_with(Method::PUT, &path, &[], body).await;
        assert!(matches!(put.status, 201 | 400), "{}", put.text());
        if number % 2 == 0 {
            let path = format!("/v2/{repository}/manifests/{}", sha256(manifest.as_bytes()));
            let deleted = client.ask(Method::DELETE, &path, &[]).await;
            assert!(matches!(deleted.status, 202 | 404), "{}", deleted.text());
        }
        acts.fetch_add(1, Ordering::SeqCst);
    }
}

/// Collects garbage as if days went by, until `stop`; rounds in which nobody held it.
async fn collect(
    hosted: roadstead::hosted::Hosted,
    clock: Arc<ManualClock>,
    stop: CancellationToken,
) -> u64 {
    let mut rounds = 0;
    while !stop.is_cancelled() {
        clock.advance(3 * DAY);
        match hosted.collect_due(&CancellationToken::new()).await {
            Ok(_) => rounds += 1,
            Err(HostedError::Held(_)) => {}
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    rounds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_before_is_in_a_backup_made_under_load() {
    let mirror = registry().start().await;
    let mut stable = Vec::new();
    for number in 0..20 {
        let digest = mirror
            .image("team/stable", &format!("v{number}"), &layer(number))
            .await;
        stable.push(digest);
    }
    let (stop, acts) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
    let mut load = JoinSet::new();
    for number in 0..6 {
        load.spawn(churn(
            mirror.client,
            format!("team/r{number}"),
            stop.clone(),
            Arc::clone(&acts),
        ));
    }
    let collector = tokio::spawn(collect(
        mirror.hosted().clone(),
        Arc::clone(&mirror.clock),
        stop.clone(),
    ));
    let dir = TempDir::new().unwrap();
    let mut backups: Vec<(PathBuf, usize)> = Vec::new();
    for (round, name) in ["a", "a", "b.tar", "a"].into_iter().enumerate() {
        let before = acts.load(Ordering::SeqCst);
        within("some load", async {
            while acts.load(Ordering::SeqCst) < before + 12 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        // The time of its leases may go by while it is pushed.
        let tag = format!("round{round}");
        while {
            let body = mirror.parts("team/stable", &layer(100 + round)).await;
            mirror.put("team/stable", &tag, &body).await.status != 201
        } {}
        let to = dir.path().join(name);
        let taken = back_up(&mirror, &to).await;
        assert_eq!(taken.lost, []);
        backups.push((to, round));
    }
    stop.cancel();
    load.join_all().await;
    assert!(
        collector.await.unwrap() > 0,
        "nothing was collected meanwhile"
    );
    for (from, round) in backups.into_iter().skip(2) {
        assert_restored(&from, &stable, round).await;
    }
}

/// Sees that a backup has these images and rounds, and that all of its tags can be pulled.
async fn assert_restored(from: &Path, stable: &[String], rounds: usize) {
    let (other, restored) = restored(from, |_| {}).await;
    assert!(restored.blobs > 20);
    for (number, digest) in stable.iter().enumerate() {
        assert_image(
            &other.client,
            "team/stable",
            &format!("v{number}"),
            Some(digest),
        )
        .await;
    }
    for round in 0..=rounds {
        assert_image(&other.client, "team/stable", &format!("round{round}"), None).await;
    }
    for number in 0..6 {
        let repository = format!("team/r{number}");
        let tags = other.get(&format!("/v2/{repository}/tags/list")).await;
        let tags: serde_json::Value = serde_json::from_slice(&tags.body).unwrap();
        for tag in tags["tags"].as_array().into_iter().flatten() {
            assert_image(&other.client, &repository, tag.as_str().unwrap(), None).await;
        }
    }
    assert_well(&other).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_the_copy_names_is_collected_before_it_is_copied() {
    let mirror = registry().start().await;
    let digest = mirror.image("team/a", "v1", b"layer").await;
    mirror.image("team/b", "v1", b"other").await;
    let file = hosted_path(&mirror.state(), &sha256(b"layer"));
    let (hosted, clock) = (mirror.hosted().clone(), Arc::clone(&mirror.clock));
    let (client, seen) = (mirror.client, file.clone());
    let runtime = tokio::runtime::Handle::current();
    let begun = AtomicBool::new(false);
    let dir = TempDir::new().unwrap();
    let to = dir.path().join("backup");
    // When the first blob was copied the image goes, and so would its other blobs.
    let taken = back_up_with(&mirror, &to, move |_, _| {
        if begun.swap(true, Ordering::SeqCst) {
            return;
        }
        runtime.block_on(async {
            let path = format!("/v2/team/a/manifests/{digest}");
            assert_eq!(client.ask(Method::DELETE, &path, &[]).await.status, 202);
            for _ in 0..4 {
                clock.advance(8 * DAY);
                let collected = hosted.collect_due(&CancellationToken::new()).await;
                assert!(
                    matches!(collected, Ok(_) | Err(HostedError::Held(_))),
                    "{collected:?}"
                );
            }
            assert!(matches!(hosted.let_go("").await, Err(HostedError::Held(_))));
            assert!(seen.exists());
        });
    });
    assert_eq!(taken.await.lost, []);
    collect_after(&mirror, DAY).await;
    assert!(!file.exists(), "it is collected afterwards");
    let (other, _) = restored(&to, |_| {}).await;
    assert_image(&other.client, "team/a", "v1", None).await;
    assert_well(&other).await;
}

#[tokio::test]
async fn a_second_backup_copies_what_is_new_and_keeps_no_more_than_is_needed() {
    let mirror = registry().start().await;
    let digest = mirror.image("team/a", "v1", b"one").await;
    let dir = TempDir::new().unwrap();
    let to = dir.path().join("backup");
    let taken = back_up(&mirror, &to).await;
    assert_eq!((taken.blobs, taken.new_blobs), (2, 2));
    let taken = back_up(&mirror, &to).await;
    assert_eq!((taken.blobs, taken.new_blobs), (2, 0));
    mirror.image("team/a", "v2", b"two").await;
    let taken = back_up(&mirror, &to).await;
    assert_eq!((taken.blobs, taken.new_blobs, taken.new_bytes), (3, 1, 3));
    let path = format!("/v2/team/a/manifests/{digest}");
    assert_eq!(mirror.delete(&path).await.status, 202);
    for _ in 0..3 {
        collect_after(&mirror, 8 * DAY).await;
    }
    let taken = back_up(&mirror, &to).await;
    assert_eq!((taken.blobs, taken.new_blobs), (2, 0));
    let blob = |bytes: &[u8]| {
        let digest = sha256(bytes);
        let hex = &digest["sha256:".len()..];
        to.join("blobs/sha256").join(&hex[..2]).join(hex)
    };
    assert!(blob(b"two").exists() && !blob(b"one").exists());
    assert_eq!(states(&to).len(), 1, "the catalogue of the one before");
    let foreign = dir.path().join("photos");
    std::fs::create_dir_all(foreign.join("2020")).unwrap();
    let refused = take(
        &mirror.state(),
        &Place::of(&foreign),
        Timestamp(1),
        &|_, _| {},
    );
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("is not empty, and no backup")
    );
}

fn states(backup: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(backup).unwrap();
    let paths = entries.map(|it| it.unwrap().path());
    let is_state = |it: &PathBuf| {
        it.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("state-")
    };
    paths.filter(is_state).collect()
}

#[tokio::test]
async fn a_backup_that_is_torn_or_damaged_is_refused_and_leaves_no_half_state() {
    let mirror = registry().start().await;
    mirror.image("team/a", "v1", b"layer").await;
    let dir = TempDir::new().unwrap();
    let archive = dir.path().join("backup.tar");
    back_up(&mirror, &archive).await;
    let again = take(
        &mirror.state(),
        &Place::of(&archive),
        Timestamp(1),
        &|_, _| {},
    );
    assert!(again.unwrap_err().to_string().contains("is there already"));
    let whole = std::fs::read(&archive).unwrap();
    let into = dir.path().join("state");
    // Wherever it is cut: within the catalogue, a blob, the manifest, or between them.
    for part in 1..20 {
        std::fs::write(&archive, &whole[..whole.len() * part / 20]).unwrap();
        let refused = try_restore(&wanted(&archive, &into)).await.unwrap_err();
        let why = refused.to_string();
        assert!(why.contains("take another"), "{part}: {why}");
        assert!(!into.join("catalogue.db").exists());
    }
    std::fs::write(&archive, &whole).unwrap();
    // What was cut short is no obstacle.
    try_restore(&wanted(&archive, &into)).await.unwrap();
    let refused = try_restore(&wanted(&archive, &into)).await.unwrap_err();
    assert!(refused.to_string().contains("is not empty"), "{refused}");
}

#[tokio::test]
async fn the_rest_of_a_damaged_backup_can_be_restored() {
    let mirror = registry().start().await;
    mirror.image("team/a", "v1", b"layer").await;
    let good = mirror.image("team/b", "v1", b"other").await;
    let dir = TempDir::new().unwrap();
    let to = dir.path().join("backup");
    back_up(&mirror, &to).await;
    let hex = sha256(b"layer")["sha256:".len()..].to_owned();
    let blob = to.join("blobs/sha256").join(&hex[..2]).join(&hex);
    std::fs::remove_file(&blob).unwrap();
    let refused = try_restore(&wanted(&to, &dir.path().join("state"))).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.starts_with("1 blob of the backup"), "{refused}");
    assert!(refused.contains("--keep-going"), "{refused}");
    let (other, restored) = restored(&to, |wanted| wanted.keep_going = true).await;
    assert_eq!(restored.lost.len(), 1, "{restored:?}");
    assert_eq!(restored.lost[0].digest, sha256(b"layer"));
    assert_eq!(restored.lost[0].repositories, ["team/a"]);
    assert_image(&other.client, "team/b", "v1", Some(&good)).await;
}

/// A word of the refusal, and the harm.
type Harm<'a> = (&'a str, &'a dyn Fn(&Path));

#[tokio::test]
async fn a_backup_that_was_harmed_is_refused_by_name_and_no_server_begins_without_it() {
    let mirror = registry().start().await;
    mirror.image("team/a", "v1", b"layer").await;
    let dir = TempDir::new().unwrap();
    let hex = sha256(b"layer")["sha256:".len()..].to_owned();
    let harms: [Harm<'_>; 4] = [
        ("no backup.json", &|to| {
            std::fs::remove_file(to.join("backup.json")).unwrap();
        }),
        (&hex, &|to| {
            let path = to.join("blobs/sha256").join(&hex[..2]).join(&hex);
            let bytes = std::fs::read(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, vec![0; bytes.len()]).unwrap();
        }),
        (&hex, &|to| {
            std::fs::remove_file(to.join("blobs/sha256").join(&hex[..2]).join(&hex)).unwrap();
        }),
        ("the catalogue of the backup is damaged", &|to| {
            flip(&states(to)[0].join("catalogue.db"));
        }),
    ];
    for (number, (named, harm)) in harms.into_iter().enumerate() {
        let to = dir.path().join(format!("backup{number}"));
        back_up(&mirror, &to).await;
        harm(&to);
        let into = dir.path().join(format!("state{number}"));
        for dry_run in [true, false] {
            let wanted = Wanted {
                dry_run,
                ..wanted(&to, &into)
            };
            let why = try_restore(&wanted).await.unwrap_err().to_string();
            assert!(why.contains(named), "{number}: {why}");
            assert!(!into.join("catalogue.db").exists());
        }
        // A server does not begin without what was to be there.
        let opened = catalogue::Catalogue::open(
            &catalogue::Config::of(into.clone()),
            roadstead::telemetry::Metrics::new(std::iter::empty()),
        );
        let trouble = opened.trouble().unwrap();
        assert!(
            trouble.contains("was cut short: begin it again"),
            "{trouble}"
        );
    }
}

#[tokio::test]
async fn damaged_content_is_named_and_everything_else_is_in_the_backup() {
    let mirror = registry().start().await;
    mirror.image("team/a", "v1", b"layer").await;
    let good = mirror.image("team/b", "v1", b"other").await;
    flip(&hosted_path(&mirror.state(), &sha256(b"layer")));
    let dir = TempDir::new().unwrap();
    for name in ["backup", "backup.tar"] {
        let to = dir.path().join(name);
        let taken = back_up(&mirror, &to).await;
        assert_eq!(taken.lost.len(), 1, "{taken:?}");
        assert_eq!(taken.lost[0].digest, sha256(b"layer"));
        assert_eq!(taken.lost[0].repositories, ["team/a"]);
        let (other, restored) = restored(&to, |_| {}).await;
        assert_eq!(restored.lost[0].digest, sha256(b"layer"));
        assert_image(&other.client, "team/b", "v1", Some(&good)).await;
    }
}

#[tokio::test]
async fn a_restore_takes_nothing_from_a_server_and_loses_nothing() {
    let mirror = registry().start().await;
    let one = mirror.image("team/a", "v1", b"one").await;
    let dir = TempDir::new().unwrap();
    let to = dir.path().join("backup");
    back_up(&mirror, &to).await;
    let two = mirror.image("team/a", "v1", b"two").await;
    let state = mirror.state();
    let refused = try_restore(&wanted(&to, &state)).await.unwrap_err();
    assert!(refused.to_string().contains("is using"), "{refused}");
    let refused = put_tags_back(&state, Timestamp(1), Timestamp(2), false).unwrap_err();
    assert!(refused.to_string().contains("is using"), "{refused}");
    assert_image(&mirror.client, "team/a", "v1", Some(&two)).await;
    let mut aside = None;
    let mirror = {
        let (aside, to) = (&mut aside, to.clone());
        let restarting = mirror.restart_after(|_| {
            let done = std::thread::spawn(move || {
                let runtime = tokio::runtime::Runtime::new().unwrap();
                runtime.block_on(async {
                    let refused = try_restore(&wanted(&to, &state)).await.unwrap_err();
                    assert!(refused.to_string().contains("--replace"), "{refused}");
                    // What is there is moved when the new is whole, and not before.
                    let none = to.join("blobs");
                    let wrong = Wanted {
                        replace: true,
                        ..wanted(&none, &state)
                    };
                    let refused = try_restore(&wrong).await.unwrap_err();
                    assert!(refused.to_string().contains("backup"), "{refused}");
                    assert!(state.join("catalogue.db").exists());
                    assert!(!state.join("catalogue.db.restoring").exists());
                    let wanted = Wanted {
                        replace: true,
                        ..wanted(&to, &state)
                    };
                    try_restore(&wanted).await.unwrap()
                })
            });
            *aside = done.join().unwrap().aside;
        });
        Box::pin(restarting).await
    };
    assert_image(&mirror.client, "team/a", "v1", Some(&one)).await;
    assert_well(&mirror).await;
    let aside = aside.unwrap();
    assert!(aside.join("catalogue.db").exists());
    assert!(hosted_path(&aside, &sha256(b"two")).exists());
}

#[tokio::test]
async fn tags_are_put_back_to_a_time_after_a_bad_push() {
    let mirror = registry().start().await;
    let good = mirror.image("team/a", "v1", b"good").await;
    let other = mirror.image("team/b", "v1", b"other").await;
    mirror.clock.advance(DAY);
    let then = mirror.clock.now();
    mirror.clock.advance(Duration::from_hours(1));
    let bad = mirror.image("team/a", "v1", b"bad").await;
    mirror.image("team/a", "new", b"bad").await;
    assert_eq!(mirror.delete("/v2/team/b/manifests/v1").await.status, 202);
    // The good one was deleted besides, and can be restored still.
    let path = format!("/v2/team/a/manifests/{good}");
    assert_eq!(mirror.delete(&path).await.status, 202);
    let dir = TempDir::new().unwrap();
    let to = dir.path().join("backup");
    back_up(&mirror, &to).await;

    let at = |wanted: &mut Wanted| wanted.tags_at = Some(then);
    let looked = Wanted {
        dry_run: true,
        tags_at: Some(then),
        ..wanted(&to, &dir.path().join("nowhere"))
    };
    let looked = try_restore(&looked).await.unwrap();
    assert!(!dir.path().join("nowhere").exists());
    let (back, restored) = restored(&to, at).await;
    assert_eq!(looked.tags, restored.tags);
    let moves: Vec<_> = restored
        .tags
        .iter()
        .map(|it| {
            let name = format!("{}:{}", it.repository, it.tag);
            (
                name,
                it.now.map(|it| it.to_string()),
                it.then.map(|it| it.to_string()),
                it.is_gone,
            )
        })
        .collect();
    assert_eq!(
        moves,
        [
            ("team/a:new".to_owned(), Some(bad.clone()), None, false),
            (
                "team/a:v1".to_owned(),
                Some(bad.clone()),
                Some(good.clone()),
                false
            ),
            ("team/b:v1".to_owned(), None, Some(other.clone()), false),
        ]
    );
    assert_image(&back.client, "team/a", "v1", Some(&good)).await;
    assert_image(&back.client, "team/b", "v1", Some(&other)).await;
    assert_eq!(back.get("/v2/team/a/manifests/new").await.status, 404);
    assert_well(&back).await;
    put_back_in_place(mirror, then, &restored.tags, &good).await;
}

/// On the stopped server itself, after a look that changes nothing.
async fn put_back_in_place(mirror: Mirror, then: Timestamp, expected: &[TagThen], good: &str) {
    let state = mirror.state();
    let looked = put_tags_back(&state, then, Timestamp(0), true).unwrap();
    assert_eq!(looked, expected);
    let now = mirror.clock.now();
    let mirror = Box::pin(mirror.restart_after(|_| {
        let moved = put_tags_back(&state, then, now, false).unwrap();
        assert_eq!(moved, looked);
    }))
    .await;
    assert_image(&mirror.client, "team/a", "v1", Some(good)).await;
    assert_well(&mirror).await;
}

#[tokio::test]
async fn a_tag_whose_manifest_is_gone_stays_as_it_is() {
    let mirror = registry().start().await;
    let old = mirror.image("team/a", "v1", b"old").await;
    let then = mirror.clock.now();
    mirror.clock.advance(DAY);
    let new = mirror.image("team/a", "v1", b"new").await;
    let path = format!("/v2/team/a/manifests/{old}");
    assert_eq!(mirror.delete(&path).await.status, 202);
    collect_after(&mirror, 8 * DAY).await;
    let (state, now) = (mirror.state(), mirror.clock.now());
    let mirror = Box::pin(mirror.restart_after(|_| {
        let moved = put_tags_back(&state, then, now, false).unwrap();
        assert!(moved[0].is_gone && moved.len() == 1, "{moved:?}");
    }))
    .await;
    assert_image(&mirror.client, "team/a", "v1", Some(&new)).await;
}

//! What a mirror does not know for the moment, or was given by hand, is not taken for what nobody needs.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::images::{self, Blob};
use crate::common::{ADMIN, Dialect, FakeRegistry, Image, Mirror, MirrorBuilder, WAIT_MAX, within};
use http::Method;
use roadstead::commands::airgap::{self, ExportJob, ImportJob};
use roadstead::commands::output::Output;
use roadstead::commands::warm::Wanted;
use roadstead::mirror::Pattern;
use roadstead::oci::ImageName;
use roadstead::store::{Amount, DiskOp, Fault, Faults, Injection};
use serde_json::Value;

const MIB: usize = 1 << 20;
/// errno(3): the disk is bad.
const BAD: i32 = 5;

/// A disk that does not read or write the index while a test wants it.
#[derive(Debug, Default)]
struct Disk(AtomicBool);

impl Faults for Disk {
    fn before(&self, op: DiskOp, _path: &Path) -> Result<(), Fault> {
        let of_the_index = matches!(
            op,
            DiskOp::ReadIndex | DiskOp::WriteIndex | DiskOp::SyncIndex
        );
        if of_the_index && self.0.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(BAD).into());
        }
        Ok(())
    }
}

/// Pulls as a client does.
async fn pull(mirror: &Mirror, repository: &str, tag: &str, image: &Image) {
    let path = format!("/v2/{repository}/manifests/{tag}");
    let accept = [("accept", image.manifest.media_type.as_str())];
    let answer = mirror.get_with(&path, &accept).await;
    answer.assert_bytes(200, &image.manifest.bytes);
    for blob in image.blobs() {
        let path = format!("/v2/{repository}/blobs/{}", blob.digest);
        mirror.get(&path).await.assert_bytes(200, &blob.bytes);
    }
    mirror.wait_for_fills().await;
}

async fn ask(mirror: &Mirror, method: Method, path: &str) -> (u16, Value) {
    let answer = mirror.admin.ask(method, path, &[ADMIN]).await;
    let body = serde_json::from_slice(&answer.body);
    (answer.status, body.unwrap_or_default())
}

fn is_there(mirror: &Mirror, image: &Image) -> bool {
    let mut blobs = image.blobs();
    blobs.all(|blob| mirror.blob_path(&blob.digest).exists())
}

/// A mirror with an image that can be pulled and a blob that nothing refers to, whose index fails now.
async fn refuses_without_its_index(method: Method, path: &str) {
    let hub = FakeRegistry::start().await;
    let image = images::image(1, &[3000, 40_000], Dialect::Oci);
    hub.put_image("library/a", Some("1"), &image);
    let (loose, late) = (Blob::noise(98, 5000), Blob::noise(99, 5000));
    let disk = Arc::new(Disk::default());
    let injection = Injection::of(Arc::clone(&disk) as Arc<dyn Faults>);
    let mirror = MirrorBuilder::of(&hub)
        .with(|config| config.cache.injection = injection)
        .start()
        .await;
    let get_loose = async |blob: &Blob| {
        hub.put_blob("library/loose", blob);
        let path = format!("/v2/library/loose/blobs/{}", blob.digest);
        mirror.get(&path).await.assert_bytes(200, &blob.bytes);
        mirror.wait_for_fills().await;
    };
    pull(&mirror, "library/a", "1", &image).await;
    get_loose(&loose).await;
    // It looks through its files, and writes its index.
    let (status, _) = ask(&mirror, Method::POST, "/api/v1/gc").await;
    assert_eq!(status, 200);
    mirror.clock.advance(Duration::from_mins(11));
    disk.0.store(true, Ordering::Relaxed);
    // There is something to write, so that the index notices.
    get_loose(&late).await;
    let (status, body) = ask(&mirror, method, path).await;
    assert_eq!(status, 409, "{path}: {body}");
    let why = body["error"].as_str().unwrap();
    assert!(why.contains("the index cannot be read"), "{why}");
    assert!(is_there(&mirror, &image));
    assert!(mirror.blob_path(&loose.digest).exists());
}

#[tokio::test]
async fn no_garbage_is_collected_while_the_index_does_not_say_all() {
    refuses_without_its_index(Method::POST, "/api/v1/gc").await;
}

#[tokio::test]
async fn no_image_is_removed_while_the_index_does_not_say_all() {
    refuses_without_its_index(Method::DELETE, "/api/v1/images?image=a:1").await;
}

#[tokio::test]
async fn no_repository_is_removed_while_the_index_does_not_say_all() {
    refuses_without_its_index(Method::DELETE, "/api/v1/images?image=a&all=true").await;
}

/// A manifest was given out a moment ago: its blobs are not evicted, and are removed all the same when an
/// operator says so.
#[tokio::test]
async fn what_is_only_expected_to_be_read_can_be_removed() {
    let hub = FakeRegistry::start().await;
    let image = images::image(1, &[3000, 40_000], Dialect::Oci);
    hub.put_image("library/a", Some("1"), &image);
    let mirror = Mirror::of(&hub).await;
    pull(&mirror, "library/a", "1", &image).await;
    let answer = mirror.get("/v2/library/a/manifests/1").await;
    answer.assert_bytes(200, &image.manifest.bytes);
    let path = "/api/v1/images?image=a:1";
    let (status, done) = ask(&mirror, Method::DELETE, path).await;
    assert_eq!((status, &done["removed_blobs"]), (200, &4.into()), "{done}");
}

#[tokio::test]
async fn what_an_unreadable_manifest_names_is_no_garbage() {
    let hub = FakeRegistry::start().await;
    let image = images::image(1, &[3000, 40_000], Dialect::Oci);
    hub.put_image("library/a", Some("1"), &image);
    let mirror = Mirror::of(&hub).await;
    pull(&mirror, "library/a", "1", &image).await;
    let manifest = mirror.blob_path(&image.manifest.digest);
    let mirror = mirror
        .restart_after(|_| {
            let mut bytes = std::fs::read(&manifest).unwrap();
            bytes[3] ^= 1;
            std::fs::write(&manifest, bytes).unwrap();
        })
        .await;
    mirror.clock.advance(Duration::from_hours(24));
    let (status, body) = ask(&mirror, Method::POST, "/api/v1/gc").await;
    assert_eq!(status, 409, "{body}");
    let why = body["error"].as_str().unwrap();
    assert!(
        why.contains(&image.manifest.digest) && why.contains("verify --repair"),
        "{why}"
    );
    assert!(is_there(&mirror, &image));
}

/// Exports an image of this registry.
async fn layout(hub: &FakeRegistry, name: &str, target: &Path) {
    let mirror = Mirror::of(hub).await;
    let job = ExportJob {
        bare: Vec::new(),
        images: vec![ImageName::parse(name).unwrap()],
        target: target.to_path_buf(),
        wanted: Wanted::parse(&["all".to_owned()]).unwrap(),
        server: mirror.url().parse().unwrap(),
        ca_file: None,
        output: Output::Silent,
    };
    within("an export", airgap::export(&job)).await.unwrap();
}

async fn import(mirror: &Mirror, layout: &Path) {
    let job = ImportJob {
        push: None,
        layout: layout.to_path_buf(),
        images: Vec::new(),
        pin: false,
        admin: format!("http://{}", mirror.admin.0).parse().unwrap(),
        output: Output::Silent,
    };
    let puts = within("an import", airgap::import(&job)).await.unwrap();
    assert_eq!(puts[0].failed, None);
}

/// Half of what was carried a long way would be of no use.
#[tokio::test]
async fn what_was_imported_just_now_is_not_evicted_for_the_next_pull() {
    let hub = FakeRegistry::start().await;
    let carried = images::image(1, &[2 * MIB, 2 * MIB], Dialect::Oci);
    hub.put_image("library/carried", Some("1"), &carried);
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("layout");
    layout(&hub, "carried:1", &target).await;
    let mirror = MirrorBuilder::of(&hub)
        .with(|config| config.cache.max_size = Amount::Bytes(12 << 20))
        .start()
        .await;
    import(&mirror, &target).await;
    mirror.clock.advance(Duration::from_mins(2));
    for seed in 10..14 {
        let other = images::image(seed, &[3 * MIB], Dialect::Oci);
        let tag = seed.to_string();
        hub.put_image("library/other", Some(&tag), &other);
        pull(&mirror, "library/other", &tag, &other).await;
        // What was given out a while ago may go.
        mirror.clock.advance(Duration::from_secs(1));
    }
    assert!(is_there(&mirror, &carried));
}

#[tokio::test]
async fn a_rule_pins_what_is_imported() {
    let hub = FakeRegistry::start().await;
    let carried = images::image(1, &[3000, 40_000], Dialect::Oci);
    hub.put_image("library/carried", Some("1"), &carried);
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("layout");
    layout(&hub, "carried:1", &target).await;
    let mirror = MirrorBuilder::of(&hub)
        .with(|config| {
            config.tags.pins = vec![Pattern::parse("docker.io/library/carried:*").unwrap()];
        })
        .start()
        .await;
    import(&mirror, &target).await;
    let deadline = tokio::time::Instant::now() + WAIT_MAX / 3;
    loop {
        let (_, pins) = ask(&mirror, Method::GET, "/api/v1/pins").await;
        if pins["pins"][0]["blobs"] == 4 {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{pins}");
    }
}

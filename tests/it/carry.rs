//! Images carried by hand: out of one mirror, into another that reaches no upstream.

mod layouts;

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::common::images::{image, index};
use crate::common::{
    Blob, Dialect, FakeRegistry, Image, Kind, Mirror, MirrorBuilder, World, within,
};
use http::Method;
use roadstead::commands::airgap::{self, ExportJob, Exported, ImportJob, Naming, Put};
use roadstead::commands::output::Output;
use roadstead::commands::warm::Wanted;
use roadstead::oci::ImageName;
use serde_json::Value;
use tempfile::TempDir;

fn name(text: &str) -> ImageName {
    ImageName::parse(text).unwrap()
}

async fn try_export(
    mirror: &Mirror,
    names: &[&str],
    target: &Path,
    platform: &str,
) -> Result<Exported, airgap::AirgapError> {
    let job = ExportJob {
        bare: Vec::new(),
        images: names.iter().map(|it| name(it)).collect(),
        target: target.to_path_buf(),
        wanted: Wanted::parse(&[platform.to_owned()]).unwrap(),
        server: mirror.url().parse().unwrap(),
        ca_file: None,
        output: Output::Silent,
    };
    within("an export", airgap::export(&job)).await
}

pub(crate) async fn export(mirror: &Mirror, names: &[&str], target: &Path) -> Exported {
    try_export(mirror, names, target, "all").await.unwrap()
}

pub(crate) async fn try_import(
    mirror: &Mirror,
    layout: &Path,
    namings: &[(&str, Option<&str>)],
) -> Result<Vec<Put>, airgap::AirgapError> {
    let job = import_job(mirror, layout, namings);
    within("an import", airgap::import(&job)).await
}

pub(crate) fn import_job(
    mirror: &Mirror,
    layout: &Path,
    namings: &[(&str, Option<&str>)],
) -> ImportJob {
    let namings = namings.iter().map(|(text, reference)| Naming {
        name: name(text),
        reference: reference.map(str::to_owned),
    });
    ImportJob {
        push: None,
        layout: layout.to_path_buf(),
        images: namings.collect(),
        pin: false,
        admin: format!("http://{}", mirror.admin.0).parse().unwrap(),
        output: Output::Silent,
    }
}

/// Imports, and says what was brought.
pub(crate) async fn import(mirror: &Mirror, layout: &Path) -> Vec<(String, usize)> {
    let puts = try_import(mirror, layout, &[]).await.unwrap();
    let told = puts.into_iter().map(|put| {
        assert_eq!(put.failed, None);
        (put.name.to_string(), put.brought)
    });
    told.collect()
}

/// A mirror of `docker.io` and `ghcr.io`, neither of which is there.
pub(crate) async fn secluded() -> Mirror {
    let (held, address) = crate::common::fake_registry::refused_port().unwrap();
    // Never listens: it only keeps the port from somebody who would.
    std::mem::forget(held);
    let url = format!("http://{address}");
    MirrorBuilder::new()
        .upstream_at("docker.io", &url, |upstream| upstream.default = true)
        .upstream_at("ghcr.io", &url, |_| ())
        .start()
        .await
}

pub(crate) async fn assert_pulls(
    mirror: &Mirror,
    repository: &str,
    ns: &str,
    tag: &str,
    image: &Image,
) {
    let accept = [("accept", image.manifest.media_type.as_str())];
    for reference in [tag, &image.manifest.digest] {
        let path = format!("/v2/{repository}/manifests/{reference}?ns={ns}");
        let answer = mirror.get_with(&path, &accept).await;
        answer.assert_bytes(200, &image.manifest.bytes);
        assert_eq!(answer.header("content-type"), image.manifest.media_type);
    }
    for blob in image.blobs() {
        let path = format!("/v2/{repository}/blobs/{}?ns={ns}", blob.digest);
        mirror.get(&path).await.assert_bytes(200, &blob.bytes);
    }
}

#[tokio::test]
async fn what_is_exported_is_served_where_nothing_else_is_reached() {
    let world = World::new().await;
    let dir = TempDir::new().unwrap();
    let names = ["nginx:1.27", "ghcr.io/org/app:v1"];
    for target in ["layout", "layout.tar"] {
        let path = dir.path().join(target);
        let exported = export(&world.mirror, &names, &path).await;
        assert_eq!((exported.things, exported.there), (7, 0));
        let far = secluded().await;
        let brought = import(&far, &path).await;
        let expected = [
            ("docker.io/library/nginx:1.27".to_owned(), 4),
            ("ghcr.io/org/app:v1".to_owned(), 3),
        ];
        assert_eq!(brought, expected);
        assert_pulls(&far, "library/nginx", "docker.io", "1.27", &world.image).await;
        assert_pulls(&far, "org/app", "ghcr.io", "v1", &world.app).await;
        // Another repository does not have them for that.
        let elsewhere = format!("/v2/library/other/blobs/{}", world.layer().digest);
        assert_ne!(far.get(&elsewhere).await.status, 200);
        // Years later, and started anew: what was imported does not expire.
        far.clock.advance(Duration::from_hours(3 * 365 * 24));
        let far = far.restart().await;
        assert_pulls(&far, "library/nginx", "docker.io", "1.27", &world.image).await;
        let again = import(&far, &path).await;
        assert!(again.iter().all(|(_, brought)| *brought == 0), "{again:?}");
    }
    for blob in world.image.blobs() {
        assert_eq!(world.hub.counters().blob_gets(&blob.digest), 1);
    }
}

#[tokio::test]
async fn an_export_goes_on_where_it_was_and_an_archive_is_always_the_same() {
    let world = World::new().await;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("layout");
    let layer = world.layer().digest.clone();
    let refused = crate::common::Rule::all(Kind::Blob).of(&layer);
    world.hub.fault(refused, crate::common::Fault::Status(404));
    let error = try_export(&world.mirror, &["nginx:1.27"], &path, "all").await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains(&layer) && error.contains("404"), "{error}");
    assert!(!path.join("index.json").exists(), "it is no layout yet");
    let archive = dir.path().join("a.tar");
    try_export(&world.mirror, &["nginx:1.27"], &archive, "all")
        .await
        .unwrap_err();
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        1,
        "nothing is left of it"
    );

    world.hub.heal();
    let exported = export(&world.mirror, &["nginx:1.27"], &path).await;
    assert!((1..4).contains(&exported.there), "{exported:?}");
    // What has been damaged meanwhile is written again, and another image stands beside the first.
    let file = path.join("blobs/sha256").join(&layer["sha256:".len()..]);
    let mut bytes = fs::read(&file).unwrap();
    bytes[7] ^= 1;
    fs::write(&file, bytes).unwrap();
    let names = ["nginx:1.27", "ghcr.io/org/app:v1"];
    let exported = export(&world.mirror, &names[..1], &path).await;
    assert_eq!(exported.there, 3);
    assert_eq!(fs::read(&file).unwrap(), world.layer().bytes);
    export(&world.mirror, &names[1..], &path).await;
    let images: Value =
        serde_json::from_slice(&fs::read(path.join("index.json")).unwrap()).unwrap();
    assert_eq!(images["manifests"].as_array().unwrap().len(), 2);

    let other = dir.path().join("b.tar");
    export(&world.mirror, &names, &archive).await;
    export(&world.mirror, &[names[1], names[0]], &other).await;
    assert!(fs::read(&archive).unwrap() == fs::read(&other).unwrap());
}

#[tokio::test]
async fn of_an_index_the_wanted_platforms_are_carried() {
    let hub = FakeRegistry::start().await;
    let amd = image(1, &[1000], Dialect::Oci);
    let arm = image(2, &[2000], Dialect::Oci);
    for image in [&amd, &arm] {
        hub.put_image("library/tool", None, image);
    }
    let list = index(&[(&amd, "amd64"), (&arm, "arm64")], Dialect::Oci);
    hub.put_manifest("library/tool", Some("1"), &list);
    let mirror = Mirror::of(&hub).await;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("one.tar");
    let exported = try_export(&mirror, &["tool:1"], &path, "linux/arm64").await;
    assert_eq!(exported.unwrap().things, 4);
    assert_eq!(hub.counters().blob_gets(&amd.layers[0].digest), 0);
    let error = try_export(&mirror, &["tool:1"], &path, "linux/s390x").await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("no platform linux/s390x, only linux/amd64, linux/arm64"),
        "{error}"
    );

    let far = secluded().await;
    import(&far, &path).await;
    let accept = [("accept", list.media_type.as_str())];
    let answer = far.get_with("/v2/library/tool/manifests/1", &accept).await;
    answer.assert_bytes(200, &list.bytes);
    assert_pulls(
        &far,
        "library/tool",
        "docker.io",
        &arm.manifest.digest,
        &arm,
    )
    .await;
    let absent = format!("/v2/library/tool/manifests/{}", amd.manifest.digest);
    assert_eq!(far.get(&absent).await.status, 502);
}

#[tokio::test]
async fn the_server_believes_no_bytes_and_gives_no_name_to_half_an_image() {
    let world = World::new().await;
    let admin = world.mirror.admin;
    let header = [("x-roadstead-admin", "1")];
    let blob = Blob::noise(77, 0);
    let path = format!("/api/v1/import/blobs/{}", blob.digest);
    assert_eq!(admin.ask(Method::PUT, &path, &[]).await.status, 403);
    assert_eq!(admin.get(&path).await.status, 404);
    assert_eq!(admin.ask(Method::PUT, &path, &header).await.status, 201);
    assert_eq!(admin.ask(Method::PUT, &path, &header).await.status, 200);
    assert_eq!(admin.get(&path).await.status, 200);
    let wrong = format!("/api/v1/import/blobs/{}", Blob::noise(78, 5).digest);
    let answer = admin.ask(Method::PUT, &wrong, &header).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert_eq!(admin.get(&wrong).await.status, 404);

    // What a repository has is not known by the blob alone.
    let pull = format!("/v2/library/nginx/blobs/{}", blob.digest);
    assert_eq!(world.mirror.get(&pull).await.status, 404);

    let digest = &world.image.manifest.digest;
    let accept = [("accept", world.image.manifest.media_type.as_str())];
    world
        .mirror
        .get_with("/v2/library/nginx/manifests/1.27", &accept)
        .await;
    let path = format!("/api/v1/import/images?name=nginx:own&digest={digest}");
    let answer = admin.ask(Method::POST, &path, &header).await;
    assert_eq!(answer.status, 409, "{}", answer.text());
    let said: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(said["missing"].as_array().unwrap().len(), 3);
    world.hub.go_down().await;
    let answer = world
        .mirror
        .get_with("/v2/library/nginx/manifests/own", &accept)
        .await;
    assert_ne!(answer.status, 200);
}

#[tokio::test]
async fn an_image_is_whole_that_is_imported_while_another_one_of_its_repository_is_removed() {
    // The layer that both have used to go with the one, or was no longer known as the repository's.
    let hub = FakeRegistry::start().await;
    let (old, new) = (
        image(1, &[3000, 9000], Dialect::Oci),
        image(1, &[3000, 9000, 50], Dialect::Oci),
    );
    assert_eq!(old.layers[1].digest, new.layers[1].digest);
    hub.put_image("library/app", Some("old"), &old);
    hub.put_image("library/app", Some("new"), &new);
    let mirror = Mirror::of(&hub).await;
    let dir = TempDir::new().unwrap();
    let (first, second) = (dir.path().join("old.tar"), dir.path().join("new.tar"));
    export(&mirror, &["app:old"], &first).await;
    export(&mirror, &["app:new"], &second).await;
    let far = secluded().await;
    let remove = async |image: &str| {
        let path = format!("/api/v1/images?image={image}");
        let header = [("x-roadstead-admin", "1")];
        far.admin.ask(Method::DELETE, &path, &header).await
    };
    let digest = &new.manifest.digest;
    let path = format!("/api/v1/import/images?name=app:new&digest={digest}");
    let give_name = async || {
        let header = [("x-roadstead-admin", "1")];
        far.admin.ask(Method::POST, &path, &header).await.status
    };
    for round in 0..ROUNDS {
        import(&far, &first).await;
        // All of it is brought, and cannot have this name.
        let nobodys = [("registry.example/app:new", None)];
        let puts = try_import(&far, &second, &nobodys).await.unwrap();
        assert!(puts[0].failed.is_some());
        let (named, removed) = if round % 2 == 0 {
            tokio::join!(give_name(), remove("app:old"))
        } else {
            let (removed, named) = tokio::join!(remove("app:old"), give_name());
            (named, removed)
        };
        assert_eq!(removed.status, 200, "{round}: {}", removed.text());
        if named != 200 {
            assert_eq!(named, 409, "{round}");
            import(&far, &second).await;
        }
        assert_pulls(&far, "library/app", "docker.io", "new", &new).await;
        assert_eq!(remove("app:new").await.status, 200);
    }
}

#[tokio::test]
async fn imported_images_are_pinned_where_that_is_wanted() {
    let world = World::new().await;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("images.tar");
    export(&world.mirror, &["nginx:1.27", "ghcr.io/org/app:v1"], &path).await;
    let far = secluded().await;
    let pins = async |mirror: &Mirror| {
        let answer = mirror.admin.get("/api/v1/pins").await;
        let said: Value = serde_json::from_slice(&answer.body).unwrap();
        let pins = said["pins"].as_array().unwrap().clone();
        let told = pins.iter().map(|pin| {
            assert_eq!(pin["blobs"], pin["stored_blobs"], "{pin}");
            assert_eq!(pin["by_rule"], false, "{pin}");
            (
                pin["image"].as_str().unwrap().to_owned(),
                pin["blobs"].as_u64().unwrap(),
            )
        });
        told.collect::<Vec<_>>()
    };
    import(&far, &path).await;
    assert_eq!(pins(&far).await, []);
    // What is there already is pinned as well as what is brought.
    let names = [("nginx:1.27", None), ("ghcr.io/org/app:v1", None)];
    for names in [&names[..1], &names[..]] {
        let mut job = import_job(&far, &path, names);
        job.pin = true;
        let puts = within("an import", airgap::import(&job)).await.unwrap();
        assert!(puts.iter().all(|put| put.failed.is_none()), "{puts:?}");
        assert_eq!(pins(&far).await.len(), names.len());
    }
    let expected = [
        ("docker.io/library/nginx:1.27".to_owned(), 4),
        ("ghcr.io/org/app:v1".to_owned(), 3),
    ];
    let far = far.restart().await;
    assert_eq!(pins(&far).await, expected);
    let header = [("x-roadstead-admin", "1")];
    let remove = "/api/v1/images?image=nginx:1.27";
    let answer = far.admin.ask(Method::DELETE, remove, &header).await;
    assert_eq!(answer.status, 409, "{}", answer.text());
    let unclear = format!(
        "/api/v1/import/images?name=nginx:2&digest={}&pin=maybe",
        world.image.manifest.digest
    );
    let answer = far.admin.ask(Method::POST, &unclear, &header).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
}

/// In each of them a removal and an import meet, each time a little differently.
const ROUNDS: usize = 20;

#[tokio::test]
async fn a_cache_without_room_says_so() {
    let hub = FakeRegistry::start().await;
    let large = image(5, &[1000, 12_000_000], Dialect::Oci);
    hub.put_image("library/large", Some("1"), &large);
    let mirror = Mirror::of(&hub).await;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("large.tar");
    export(&mirror, &["large:1"], &path).await;
    let small = MirrorBuilder::of(&hub).with(|config| {
        config.cache.max_size = roadstead::store::Amount::Bytes(8_000_000);
    });
    let small = small.start().await;
    let puts = try_import(&small, &path, &[]).await.unwrap();
    let failed = puts[0].failed.as_ref().unwrap().to_string();
    assert!(
        failed.contains("507") && failed.contains("max_size"),
        "{failed}"
    );
    assert!(
        failed.contains(&large.layers[1].digest["sha256:".len()..]),
        "{failed}"
    );
}

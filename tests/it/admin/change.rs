//! What an operator removes.

use std::time::Duration;

use http::Method;
use serde_json::json;

use super::{MIB, Shared, ask, bytes_of, change, get, pull, shared};
use crate::common::images::image;
use crate::common::{Blob, Dialect, World};

#[tokio::test]
async fn removing_a_tag_frees_what_no_other_image_has() {
    let Shared {
        hub,
        mirror,
        base,
        one,
        two,
        ..
    } = shared().await;
    let before = get(&mirror, "/api/v1/status").await["cache"]["blob_bytes"]
        .as_u64()
        .unwrap();
    let exclusive = bytes_of(&one) - base.bytes.len() as u64;
    let path = "/api/v1/images?image=app:1";
    let told = change(&mirror, Method::DELETE, &format!("{path}&dry_run=true")).await;
    assert_eq!(told["freed_bytes"], exclusive);
    let status = get(&mirror, "/api/v1/status").await;
    assert_eq!(status["cache"]["blob_bytes"], before, "nothing was done");

    let done = change(&mirror, Method::DELETE, path).await;
    assert_eq!(done["freed_bytes"], exclusive);
    assert_eq!(
        (&done["removed_blobs"], &done["forgotten_tags"]),
        (&json!(3), &json!(["1"]))
    );
    assert_eq!(done["kept"]["shared_blobs"], 1);
    assert_eq!(done["kept"]["shared_bytes"], base.bytes.len());
    let status = get(&mirror, "/api/v1/status").await;
    assert_eq!(status["cache"]["blob_bytes"], before - exclusive);
    assert!(!mirror.blob_path(&one.config.digest).exists());
    let metrics = mirror.metrics().await;
    let removed = metrics.sum("roadstead_evicted_bytes_total", &[("reason", "removed")]);
    assert_eq!(format!("{removed}"), exclusive.to_string());

    let (status, _) = ask(&mirror, Method::DELETE, path).await;
    assert_eq!(status, 404, "it is gone");
    // The other image is whole, and the removed one is fetched again.
    let asked = hub.counters().records.len();
    pull(&mirror, "docker.io", "library/app", "2", &two).await;
    assert_eq!(hub.counters().records.len(), asked);
    pull(&mirror, "docker.io", "library/app", "1", &one).await;
    assert_eq!(hub.counters().blob_gets(&one.config.digest), 2);
    assert_eq!(hub.counters().blob_gets(&base.digest), 1);
}

/// `rm --dry-run` said 517 B, and `rm` freed 42 MB: what a client is expected to ask for in a moment, since it was given
/// the manifest, is not what somebody reads.
#[tokio::test]
async fn what_would_be_freed_is_what_is_freed() {
    let Shared {
        mirror, one, two, ..
    } = shared().await;
    for (tag, image) in [("1", &one), ("2", &two)] {
        for _ in 0..2 {
            pull(&mirror, "docker.io", "library/app", tag, image).await;
        }
        mirror.clock.advance(Duration::from_mins(2));
        let manifest = format!("/v2/library/app/manifests/{tag}");
        assert_eq!(mirror.get(&manifest).await.status, 200);
    }
    for path in [
        "/api/v1/images?image=app:1",
        "/api/v1/images?image=app&all=true",
    ] {
        let told = change(&mirror, Method::DELETE, &format!("{path}&dry_run=true")).await;
        let done = change(&mirror, Method::DELETE, path).await;
        for field in ["freed_bytes", "removed_blobs", "kept", "forgotten_tags"] {
            assert_eq!(told[field], done[field], "{field} of {path}");
        }
        assert!(done["freed_bytes"].as_u64().unwrap() > 1000, "{done}");
    }
}

#[tokio::test]
async fn what_somebody_reads_is_not_removed() {
    let world = World::new().await;
    // Larger than what lies in the sockets, which hold more of a file than of copies.
    let big = image(7, &[32 * MIB], Dialect::Oci);
    world.hub.put_image("library/big", Some("1"), &big);
    pull(&world.mirror, "docker.io", "library/big", "1", &big).await;
    let layer = &big.layers[0];
    let mut reader = world
        .mirror
        .open(&format!("/v2/library/big/blobs/{}", layer.digest))
        .await;
    let begin = reader.exactly(1000).await;
    let done = change(&world.mirror, Method::DELETE, "/api/v1/images?image=big:1").await;
    assert_eq!(
        (&done["removed_blobs"], &done["kept"]["open_blobs"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(begin, layer.bytes[..1000]);
    reader.assert_rest_equals(&layer.bytes[1000..]).await;
    assert!(world.mirror.blob_path(&layer.digest).exists());
}

#[tokio::test]
async fn a_whole_repository_is_removed_but_for_its_pinned_images() {
    let Shared {
        mirror,
        base,
        one,
        two,
        other,
        ..
    } = shared().await;
    change(&mirror, Method::PUT, "/api/v1/pins?image=app:2").await;
    let (status, body) = ask(&mirror, Method::DELETE, "/api/v1/images?image=app:2").await;
    assert_eq!(status, 409);
    assert!(
        body["error"].as_str().unwrap().contains("unpin it first"),
        "{body}"
    );
    let done = change(&mirror, Method::DELETE, "/api/v1/images?image=app&all=true").await;
    assert_eq!(done["image"], "docker.io/library/app");
    assert_eq!(done["forgotten_tags"], json!(["1"]));
    assert_eq!(
        done["freed_bytes"],
        bytes_of(&one) - base.bytes.len() as u64
    );
    change(&mirror, Method::DELETE, "/api/v1/pins?image=app:2").await;
    change(&mirror, Method::DELETE, "/api/v1/images?image=app&all=true").await;
    let status = get(&mirror, "/api/v1/status").await;
    assert_eq!(status["cache"]["blob_bytes"], bytes_of(&other));
    assert!(!mirror.blob_path(&two.manifest.digest).exists());
    assert_eq!(
        get(&mirror, "/api/v1/images?match=app").await["images"],
        json!([])
    );
    let (status, _) = ask(&mirror, Method::DELETE, "/api/v1/images?image=app&all=true").await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn garbage_is_what_no_manifest_names() {
    let Shared {
        hub, mirror, one, ..
    } = shared().await;
    // Pulled without its manifest, as some tools do.
    let loose = Blob::noise(99, 5000);
    hub.put_blob("library/loose", &loose);
    let path = format!("/v2/library/loose/blobs/{}", loose.digest);
    mirror.get(&path).await.assert_bytes(200, &loose.bytes);
    mirror.wait_for_fills().await;
    let none = change(&mirror, Method::POST, "/api/v1/gc").await;
    assert_eq!(none["removed_blobs"], 0, "it was used a moment ago: {none}");
    mirror.clock.advance(Duration::from_mins(11));
    let told = change(&mirror, Method::POST, "/api/v1/gc?dry_run=true").await;
    assert_eq!(
        (&told["removed_blobs"], &told["freed_bytes"]),
        (&json!(1), &json!(5000))
    );
    assert!(mirror.blob_path(&loose.digest).exists());
    let done = change(&mirror, Method::POST, "/api/v1/gc").await;
    assert_eq!(
        (&done["removed_blobs"], &done["freed_bytes"]),
        (&json!(1), &json!(5000))
    );
    assert_eq!(
        (&done["stale_links"], &done["empty_repositories"]),
        (&json!(1), &json!(1))
    );
    assert!(!mirror.blob_path(&loose.digest).exists());
    assert!(
        one.blobs()
            .all(|blob| mirror.blob_path(&blob.digest).exists())
    );
    let again = change(&mirror, Method::POST, "/api/v1/gc").await;
    assert_eq!(
        (&again["removed_blobs"], &again["stale_links"]),
        (&json!(0), &json!(0))
    );
}

#[tokio::test]
async fn after_the_index_was_lost_garbage_collection_spares_what_manifests_name() {
    let Shared {
        mirror,
        one,
        two,
        other,
        ..
    } = shared().await;
    let mirror = mirror
        .restart_after(|dir| std::fs::remove_file(dir.join("index.redb")).unwrap())
        .await;
    mirror.clock.advance(Duration::from_hours(24));
    let done = change(&mirror, Method::POST, "/api/v1/gc").await;
    assert_eq!(done["removed_blobs"], 0, "{done}");
    for image in [&one, &two, &other] {
        assert!(
            image
                .blobs()
                .all(|blob| mirror.blob_path(&blob.digest).exists())
        );
    }
}

//! Images that are never evicted.

use std::time::Duration;

use http::Method;
use roadstead::mirror::Pattern;
use roadstead::store::Amount;
use serde_json::json;

use super::{MIB, Shared, ask, bytes_of, change, get, pull, shared};
use crate::common::images::image;
use crate::common::{Dialect, FakeRegistry, Image, Mirror, MirrorBuilder};

/// Pulls images of 3 MiB, one after the other, through a store of 16 MiB.
async fn crowd(hub: &FakeRegistry, mirror: &Mirror, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let image = image(seed, &[3 * MIB], Dialect::Oci);
        hub.put_image("library/crowd", Some(&seed.to_string()), &image);
        pull(
            mirror,
            "docker.io",
            "library/crowd",
            &seed.to_string(),
            &image,
        )
        .await;
        mirror.clock.advance(Duration::from_mins(1));
    }
}

#[tokio::test]
async fn pinned_images_outlive_evictions_and_restarts() {
    let hub = FakeRegistry::start().await;
    let (kept, ruled) = (
        image(1, &[MIB, MIB], Dialect::Oci),
        image(2, &[MIB], Dialect::Oci),
    );
    hub.put_image("library/kept", Some("1"), &kept);
    hub.put_image("library/ruled", Some("lts"), &ruled);
    let mirror = MirrorBuilder::of(&hub)
        .with(|config| {
            config.cache.max_size = Amount::Bytes(16 << 20);
            config.tags.pins = vec![Pattern::parse("docker.io/library/rul*:lts").unwrap()];
        })
        .start()
        .await;
    pull(&mirror, "docker.io", "library/kept", "1", &kept).await;
    pull(&mirror, "docker.io", "library/ruled", "lts", &ruled).await;
    let pin = change(&mirror, Method::PUT, "/api/v1/pins?image=kept:1").await;
    assert_eq!(
        (&pin["blobs"], &pin["stored_bytes"]),
        (&json!(4), &json!(bytes_of(&kept)))
    );
    mirror.clock.advance(Duration::from_mins(5));
    crowd(&hub, &mirror, 100..106).await;
    let is_there = |mirror: &Mirror, image: &Image| {
        image
            .blobs()
            .all(|blob| mirror.blob_path(&blob.digest).exists())
    };
    assert!(
        mirror
            .metrics()
            .await
            .sum("roadstead_evicted_bytes_total", &[("reason", "size")])
            > 1.0
    );
    assert!(is_there(&mirror, &kept) && is_there(&mirror, &ruled));

    let mirror = mirror.restart().await;
    crowd(&hub, &mirror, 110..116).await;
    assert!(is_there(&mirror, &kept) && is_there(&mirror, &ruled));
    let pins = get(&mirror, "/api/v1/pins").await;
    let told: Vec<_> = pins["pins"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pin| (&pin["image"], &pin["by_rule"]))
        .collect();
    assert_eq!(
        told,
        [
            (&json!("docker.io/library/kept:1"), &json!(false)),
            (&json!("docker.io/library/ruled:lts"), &json!(true)),
        ]
    );
    let status = get(&mirror, "/api/v1/status").await;
    assert_eq!(
        status["cache"]["pinned_bytes"],
        bytes_of(&kept) + bytes_of(&ruled)
    );
    let (status, body) = ask(&mirror, Method::DELETE, "/api/v1/pins?image=ruled:lts").await;
    assert_eq!(status, 409, "{body}");
    change(&mirror, Method::DELETE, "/api/v1/pins?image=kept:1").await;
    crowd(&hub, &mirror, 120..126).await;
    assert!(!is_there(&mirror, &kept) && is_there(&mirror, &ruled));
}

#[tokio::test]
async fn a_pinned_tag_takes_its_pin_along_when_it_moves() {
    let Shared {
        hub,
        mirror,
        base,
        one,
        ..
    } = shared().await;
    change(&mirror, Method::PUT, "/api/v1/pins?image=app:1").await;
    let newer = image(21, &[9000], Dialect::Oci);
    hub.put_image("library/app", Some("1"), &newer);
    mirror.clock.advance(Duration::from_mins(2));
    pull(&mirror, "docker.io", "library/app", "1", &newer).await;
    // A task of the mirror notices.
    let deadline = tokio::time::Instant::now() + crate::common::WAIT_MAX;
    loop {
        let pins = get(&mirror, "/api/v1/pins").await;
        if pins["pins"][0]["stored_bytes"] == bytes_of(&newer) {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{pins}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let old = format!("/api/v1/images?image=app@{}", one.manifest.digest);
    let done = change(&mirror, Method::DELETE, &old).await;
    assert_eq!(
        done["freed_bytes"],
        bytes_of(&one) - base.bytes.len() as u64
    );
    assert_eq!(done["kept"]["pinned_blobs"], 0);
}

#[tokio::test]
async fn when_pins_take_everything_other_blobs_pass_through() {
    let hub = FakeRegistry::start().await;
    let (kept, other) = (
        image(1, &[6 * MIB, 5 * MIB], Dialect::Oci),
        image(2, &[4 * MIB], Dialect::Oci),
    );
    hub.put_image("library/kept", Some("1"), &kept);
    hub.put_image("library/other", Some("1"), &other);
    let mirror = MirrorBuilder::of(&hub)
        .with(|config| config.cache.max_size = Amount::Bytes(16 << 20))
        .start()
        .await;
    pull(&mirror, "docker.io", "library/kept", "1", &kept).await;
    change(&mirror, Method::PUT, "/api/v1/pins?image=kept:1").await;
    assert_eq!(
        mirror.get("/v2/library/other/manifests/1").await.status,
        200
    );
    let layer = &other.layers[0];
    let answer = mirror
        .get(&format!("/v2/library/other/blobs/{}", layer.digest))
        .await;
    answer.assert_bytes(200, &layer.bytes);
    assert_eq!(answer.header("cache-status"), "roadstead; fwd=bypass");
    assert!(
        kept.blobs()
            .all(|blob| mirror.blob_path(&blob.digest).exists())
    );
}

/// What upstream has deleted and is served all the same cannot be fetched again.
#[tokio::test]
async fn a_deleted_tag_that_is_kept_is_pinned() {
    let hub = FakeRegistry::start().await;
    let kept = image(3, &[MIB, MIB], Dialect::Oci);
    hub.put_image("library/kept", Some("1"), &kept);
    let mirror = MirrorBuilder::of(&hub)
        .with(|config| {
            config.cache.max_size = Amount::Bytes(16 << 20);
            config.tags.defaults.keep_deleted = true;
        })
        .start()
        .await;
    pull(&mirror, "docker.io", "library/kept", "1", &kept).await;
    hub.delete_tag("library/kept", "1");
    mirror.clock.advance(Duration::from_hours(1));
    let stale = mirror.get("/v2/library/kept/manifests/1").await;
    stale.assert_bytes(200, &kept.manifest.bytes);
    let pinned = async {
        loop {
            let pins = get(&mirror, "/api/v1/pins").await;
            if pins["pins"][0]["stored_bytes"] == json!(bytes_of(&kept)) {
                return pins["pins"][0]["by_rule"] == json!(false);
            }
        }
    };
    let pinned = tokio::time::timeout(Duration::from_secs(20), pinned).await;
    assert_eq!(
        pinned,
        Ok(true),
        "by hand, as it were: roadstead unpin undoes it"
    );
}

//! Limits by identity or address.

use super::{House, basic};
use crate::common::images::{self};
use crate::common::{Dialect, FakeRegistry, MirrorBuilder};
use std::time::{Duration, Instant};

const ALPINE: &str = "/v2/library/alpine/manifests/v1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_past_the_limit_are_429_and_others_go_on() {
    let table =
        "[access]\nhtpasswd = HTPASSWD\n[[access.limit]]\nmatch = \"user:alice\"\nrequests = 2\n";
    let house = House::with(&["alice", "bob"], table).await;
    // Each that is refused is so half a second late: not all of twelve can be let through.
    let mut refused = 0;
    for _ in 0..12 {
        let alice = basic("alice", "alice!");
        let answer = house
            .mirror
            .get_with(ALPINE, &[("authorization", &alice)])
            .await;
        if answer.status == 429 {
            refused += 1;
            assert_eq!(answer.code(), "TOOMANYREQUESTS");
            assert_eq!(answer.header("retry-after"), "1");
            assert!(answer.text().contains("access.limit"));
        } else {
            assert_eq!(answer.status, 200);
        }
        if refused == 2 {
            break;
        }
    }
    assert_eq!(refused, 2);
    for _ in 0..5 {
        assert_eq!(house.status("bob", ALPINE).await, 200);
    }
    let metrics = house.mirror.metrics().await;
    let counted = metrics.sum("roadstead_limited_total", &[("limit", "access_requests")]);
    assert_eq!(counted, 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_has_so_many_bytes() {
    let table = "[access]\nallow = [\"127.0.0.0/8\"]\n[[access.limit]]\nmatch = \"anonymous\"\nbytes_per_day = \"3000B\"\n";
    let house = House::with(&[], table).await;
    let blob = format!("/v2/library/alpine/blobs/{}", house.image.layers[0].digest);
    assert_eq!(house.status("", ALPINE).await, 200);
    assert_eq!(house.status("", &blob).await, 200);
    assert_eq!(house.status("", &blob).await, 200);
    let limited = house.mirror.get(&blob).await;
    assert_eq!(limited.status, 429);
    // The clock of the tests stands at some time of a day.
    let wait: u64 = limited.header("retry-after").parse().unwrap();
    assert!((1..=86_400).contains(&wait), "{wait}");
    house.mirror.clock.advance(Duration::from_secs(wait));
    assert_eq!(house.status("", &blob).await, 200);
    let metrics = house.mirror.metrics().await;
    let counted = metrics.sum(
        "roadstead_limited_total",
        &[("limit", "access_bytes_per_day")],
    );
    assert_eq!(counted, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_are_slowed_down_and_whole() {
    let registry = FakeRegistry::start().await;
    let image = images::image(1, &[700_000], Dialect::Oci);
    registry.put_image("library/alpine", Some("v1"), &image);
    let table = "[access]\nallow = [\"127.0.0.0/8\"]\n[[access.limit]]\nmatch = \"address\"\nbytes = 200000\n";
    let config = super::access(table);
    let mirror = MirrorBuilder::of(&registry)
        .with(|all| all.access = config)
        .start()
        .await;
    assert_eq!(mirror.get(ALPINE).await.status, 200);
    let blob = format!("/v2/library/alpine/blobs/{}", image.layers[0].digest);
    let begun = Instant::now();
    let answer = mirror.get(&blob).await;
    answer.assert_bytes(200, &image.layers[0].bytes);
    // What one second gives comes at once.
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(2), "{took:?}");
    // A part of it as well, and the head needs no bytes.
    let part = mirror.get_with(&blob, &[("range", "bytes=10-19")]).await;
    part.assert_bytes(206, &image.layers[0].bytes[10..20]);
    assert_eq!(mirror.client.head(&blob).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_counted() {
    let registry = FakeRegistry::start().await;
    let image = images::image(1, &[4_000_000], Dialect::Oci);
    registry.put_image("library/alpine", Some("v1"), &image);
    let table = "[access]\nallow = [\"127.0.0.0/8\"]\n[[access.limit]]\nmatch = \"*\"\nconnections = 2\nbytes = \"100kB\"\n";
    let config = super::access(table);
    let mirror = MirrorBuilder::of(&registry)
        .with(|all| all.access = config)
        .start()
        .await;
    assert_eq!(mirror.get(ALPINE).await.status, 200);
    let blob = format!("/v2/library/alpine/blobs/{}", image.layers[0].digest);
    let mut one = mirror.client.open(&blob, &[]).await;
    let mut two = mirror.client.open(&blob, &[]).await;
    one.exactly(1).await;
    two.exactly(1).await;
    let limited = mirror.get(ALPINE).await;
    assert_eq!(
        (limited.status, limited.code().as_str()),
        (429, "TOOMANYREQUESTS")
    );
    assert_eq!(limited.header("retry-after"), "2");
    drop(one);
    for _ in 0..100 {
        if mirror.get(ALPINE).await.status == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the place of a connection that has ended is not given to another");
}

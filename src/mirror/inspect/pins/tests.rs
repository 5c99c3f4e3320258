use super::*;
use crate::mirror::testing::Bench;
use crate::oci::{ImageName, Repository, UpstreamName};

/// Digests that a pinned image may have, and all of them together.
const PIN_DIGESTS_MAX: u32 = 8_192;
const KEPT_DIGESTS_MAX: u32 = 200_000;

fn digests(range: std::ops::Range<u32>) -> Vec<Digest> {
    let number = |number: u32| {
        let mut bytes = [7; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        Digest::Sha256(bytes)
    };
    range.map(number).collect()
}

fn other(number: u32, digests: Vec<Digest>) -> Pinned {
    Pinned {
        source: Source {
            upstream: UpstreamName::parse("docker.io").unwrap(),
            repository: Repository::parse(&format!("other/{number}")).unwrap(),
        },
        reference: Reference::Tag(Tag::parse("1").unwrap()),
        since: crate::clock::Timestamp(5),
        by_rule: false,
        digests,
    }
}

/// Pins images until all of them have `KEPT_DIGESTS_MAX - left` digests.
fn pin_others(bench: &Bench, left: u32) {
    let most = KEPT_DIGESTS_MAX - left;
    for (number, first) in (0..).zip((0..most).step_by(PIN_DIGESTS_MAX as usize)) {
        let range = first..most.min(first + PIN_DIGESTS_MAX);
        bench
            .store
            .pins()
            .pin(other(number, digests(range)))
            .unwrap();
    }
}

/// The pin was undone in the catalogue, and kept until the next start alone.
#[tokio::test]
async fn a_pin_that_cannot_be_made_again_stays_as_it_was() {
    let bench = Bench::new();
    bench.bring_all().await;
    let name = Bench::name();
    let root = bench.manifest.0;
    bench
        .mirror
        .operator()
        .imports()
        .image(&name, &root, false)
        .await
        .unwrap();
    let ImageName {
        upstream,
        repository,
        reference,
        ..
    } = name.clone();
    let old = Pinned {
        source: Source {
            upstream,
            repository,
        },
        reference,
        since: crate::clock::Timestamp(5),
        by_rule: false,
        digests: vec![root],
    };
    let change = Change::Pin(hand_pin(&old));
    bench.catalogue.commit(change).await.unwrap();
    bench.store.pins().pin(old.clone()).unwrap();
    // Three more belong to the image.
    pin_others(&bench, 2);
    let refused = bench.mirror.operator().pins().pin(&name.to_string()).await;
    assert!(matches!(refused, Err(InspectError::Conflict(_))));
    assert_eq!(
        bench.store.pins().get(&old.source, &old.reference),
        Some(old.clone())
    );
    assert_eq!(bench.catalogue.pins().await, Ok(vec![hand_pin(&old)]));
    // One that was not pinned before is not pinned at all.
    bench.store.pins().unpin(&old.source, &old.reference);
    bench
        .catalogue
        .commit(Change::Unpin(old.source, old.reference))
        .await
        .unwrap();
    pin_rest(&bench);
    let refused = bench.mirror.operator().pins().pin(&name.to_string()).await;
    assert!(matches!(refused, Err(InspectError::Conflict(_))));
    assert_eq!(bench.catalogue.pins().await, Ok(Vec::new()));
}

fn pin_rest(bench: &Bench) {
    let rest = digests(KEPT_DIGESTS_MAX..KEPT_DIGESTS_MAX + 2);
    bench.store.pins().pin(other(1_000, rest)).unwrap();
}

/// The old content of an image counted beside its new: one that was renewed could be refused for its own sake.
#[tokio::test]
async fn an_image_that_is_pinned_again_needs_room_for_what_is_new_alone() {
    let bench = Bench::new();
    pin_others(&bench, 1);
    let changed = digests(1..PIN_DIGESTS_MAX + 1);
    let pins = bench.store.pins();
    pins.pin(other(0, changed)).unwrap();
    // All that it had, and as many others.
    let all_new = digests(KEPT_DIGESTS_MAX..KEPT_DIGESTS_MAX + PIN_DIGESTS_MAX);
    pins.renew(other(0, all_new.clone())).unwrap();
    let pinned = pins.get(
        &other(0, Vec::new()).source,
        &other(0, Vec::new()).reference,
    );
    assert_eq!(pinned.unwrap().digests, all_new);
    let two = digests(2 * KEPT_DIGESTS_MAX..2 * KEPT_DIGESTS_MAX + 3);
    assert!(pins.pin(other(2_000, two)).is_err());
}

use std::collections::HashSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn digest(n: u8) -> Digest {
    Digest::Sha256([n; 32])
}

fn filled(max: u64, sizes: &[u64]) -> Ledger {
    let mut ledger = Ledger::new(max);
    for (n, size) in (0_u8..).zip(sizes) {
        ledger
            .stored_mut()
            .load(digest(n), *size, Timestamp::default(), 1);
    }
    ledger
}

#[test]
fn the_least_recently_used_goes_first() {
    let mut ledger = filled(100, &[40, 30, 30]);
    ledger.stored_mut().touch(&digest(0), Timestamp::default());
    let victims = ledger.admit(20).unwrap();
    assert_eq!(
        victims,
        [Victim {
            digest: digest(1),
            size: 30
        }]
    );
    assert_eq!(ledger.bytes(), 90);
}

#[test]
fn what_was_loaded_in_any_order_goes_in_that_of_last_use() {
    let mut ledger = Ledger::new(100);
    for (n, used) in [(1, 30), (2, 10), (3, 20), (4, 20)] {
        ledger.stored_mut().load(digest(n), 10, Timestamp(used), 1);
    }
    ledger.order_mut().arrange();
    let gone: Vec<_> = ledger.free(40, 0).iter().map(|v| v.digest).collect();
    assert_eq!(gone, [digest(2), digest(3), digest(4), digest(1)]);
}

/// Of blobs of a byte there could be as many as the store has bytes: in memory, and in the disk's blocks, they take
/// thousands of times as much.
#[test]
fn there_are_no_more_blobs_than_blocks() {
    let mut ledger = Ledger::new(8 * 1024 * 1024);
    let many = |n: u64| {
        let mut name = [0; 32];
        name[..8].copy_from_slice(&n.to_be_bytes());
        Digest::Sha256(name)
    };
    for n in 0..5000 {
        ledger.admit(1).unwrap();
        ledger.settle(many(n), 1, 1, Timestamp(n));
        assert!(ledger.order().len() <= 2048);
    }
    assert_eq!(ledger.order().size(&many(0)), None);
    assert_eq!(ledger.order().size(&many(4999)), Some(1));
}

#[test]
fn digests_that_begin_alike_are_told_apart() {
    let mut other = [7; 64];
    other[63] = 8;
    let alike = [digest(7), Digest::Sha512([7; 64]), Digest::Sha512(other)];
    let mut ledger = Ledger::new(1000);
    for round in 0..2 {
        for (size, digest) in (1..).zip(alike) {
            assert_eq!(ledger.order().size(&digest), None, "round {round}");
            ledger.stored_mut().load(digest, size, Timestamp(size), 1);
        }
        assert_eq!(ledger.bytes(), 6);
        let places = ledger.order().step(0, 9).unwrap();
        assert_eq!(places.len(), 3);
        assert!(places.iter().all(|(_, digest)| alike.contains(digest)));
        assert_eq!(ledger.order().step(9, 9), None);
        // What is left in the places of those that are gone is nobody's.
        for (size, digest) in (1..).zip(alike) {
            assert_eq!(ledger.stored_mut().forget(&digest), Some(size));
        }
        assert_eq!(ledger.order().step(0, 9), Some(Vec::new()));
        ledger.stored_mut().load(digest(1), 9, Timestamp(9), 1);
        ledger.stored_mut().load(digest(2), 9, Timestamp(9), 1);
        ledger.stored_mut().load(digest(3), 9, Timestamp(9), 1);
        for n in 1..=3 {
            assert_eq!(ledger.stored_mut().forget(&digest(n)), Some(9));
        }
    }
}

#[test]
fn an_open_blob_is_never_a_victim() {
    let mut ledger = filled(100, &[40, 30, 30]);
    ledger.stored_mut().pin(&digest(0)).unwrap();
    ledger.stored_mut().pin(&digest(1)).unwrap();
    assert_eq!(
        ledger.admit(40),
        Err(NoRoom {
            wanted: 40,
            kept: 70,
            max: 100
        })
    );
    assert_eq!(ledger.order().len(), 3, "a refusal evicts nothing");
    ledger.stored_mut().unpin(&digest(0));
    let victims = ledger.admit(40).unwrap();
    let gone: Vec<_> = victims.iter().map(|v| v.digest).collect();
    assert_eq!(gone, [digest(2), digest(0)], "opening is a use");
}

#[test]
fn a_reservation_counts_until_it_is_settled_or_released() {
    let mut ledger = Ledger::new(100);
    ledger.admit(80).unwrap();
    assert!(ledger.admit(30).is_err());
    ledger.settle(digest(1), 80, 10, Timestamp::default());
    assert_eq!(ledger.bytes(), 10);
    ledger.admit(90).unwrap();
    ledger.release(90);
    assert_eq!(ledger.bytes(), 10);
}

#[test]
fn a_smaller_store_sheds_at_start() {
    let mut ledger = filled(50, &[40, 30, 30]);
    let gone: Vec<_> = ledger.shrink().iter().map(|v| v.digest).collect();
    assert_eq!(gone, [digest(0), digest(1)]);
    assert_eq!(ledger.bytes(), 30);
}

#[test]
fn bytes_come_free_or_nothing_goes() {
    let mut ledger = filled(200, &[40, 30, 30]);
    ledger.stored_mut().pin(&digest(2)).unwrap();
    assert_eq!(ledger.free(80, 80), [], "two of them have only 70");
    assert_eq!(ledger.bytes(), 100);
    let gone: Vec<_> = ledger.free(41, 41).iter().map(|v| v.digest).collect();
    assert_eq!(gone, [digest(0), digest(1)]);
    assert_eq!(ledger.free(5, 0), [], "what is open stays");
    assert_eq!(ledger.bytes(), 30);
}

#[test]
fn what_a_manifest_names_stays_while_it_is_being_pulled() {
    let mut ledger = filled(100, &[40, 30, 30]);
    let later = |seconds| Timestamp::default().plus(Duration::from_secs(seconds));
    ledger.expect(&digest(0), later(0));
    ledger.expect(&digest(9), later(0));
    assert_eq!(ledger.admit(30).unwrap()[0].digest, digest(1));
    assert_eq!(ledger.admit(30).unwrap()[0].digest, digest(2));
    let refused = ledger.admit(10).unwrap_err();
    assert_eq!(refused.kept, 100, "it is not given up for what comes next");
    // Its reader comes and goes.
    ledger.stored_mut().pin(&digest(0)).unwrap();
    ledger.stored_mut().unpin(&digest(0));
    assert!(
        ledger.admit(10).is_err(),
        "others may have been told of it too"
    );
    ledger.expect(&digest(9), later(301));
    assert_eq!(ledger.admit(10).unwrap()[0].digest, digest(0));
}

#[test]
fn what_was_used_four_times_stays_four_times_as_long() {
    let minute = |n: u64| Timestamp(n * 60_000);
    let mut ledger = Ledger::new(100);
    ledger.stored_mut().load(digest(0), 30, minute(0), 1);
    for again in [1, 2, 3] {
        ledger.stored_mut().touch(&digest(0), minute(again * 10));
    }
    // A scan that turns the store over in two minutes: least recent use alone would evict the
    // blob for the third.
    for n in 1..6_u8 {
        let victims = ledger.admit(35).unwrap();
        assert!(victims.iter().all(|victim| victim.digest != digest(0)));
        ledger.settle(digest(n), 35, 35, minute(30 + u64::from(n)));
    }
    assert_eq!(ledger.admit(35).unwrap()[0].digest, digest(0), "no longer");
}

#[test]
fn uses_within_a_minute_are_one() {
    let mut ledger = filled(100, &[40]);
    for second in 1..60 {
        assert_eq!(
            ledger
                .stored_mut()
                .touch(&digest(0), Timestamp(second * 1000)),
            None
        );
    }
    let noted = ledger.stored_mut().touch(&digest(0), Timestamp(60_000));
    assert_eq!(
        noted,
        Some(Noted {
            size: 40,
            uses: 2,
            owner: 0
        })
    );
    for minute in 2..400 {
        ledger
            .stored_mut()
            .touch(&digest(0), Timestamp(minute * 60_000));
    }
    assert_eq!(
        ledger.order().entry(&digest(0)).unwrap().uses,
        uses::COUNT_MAX
    );
}

#[test]
fn a_blob_that_comes_anew_keeps_its_readers() {
    let mut ledger = filled(100, &[40]);
    ledger.stored_mut().pin(&digest(0)).unwrap();
    ledger.admit(50).unwrap();
    ledger.settle(digest(0), 50, 50, Timestamp::default());
    assert_eq!((ledger.bytes(), ledger.order().len()), (50, 1));
    assert!(ledger.admit(60).is_err(), "it is still read");
}

#[test]
fn what_is_kept_stays_and_comes_under_the_policy_when_it_is_let_go() {
    let mut ledger = filled(100, &[40, 30, 30]);
    ledger.order_mut().keep(&digest(0));
    ledger.order_mut().keep(&digest(3));
    ledger.stored_mut().touch(&digest(0), Timestamp(600_000));
    assert!(ledger.admit(61).is_err());
    let gone: Vec<_> = ledger.admit(60).unwrap().iter().map(|v| v.digest).collect();
    assert_eq!(gone, [digest(1), digest(2)]);
    // What was not there when it was named.
    ledger.settle(digest(3), 60, 60, Timestamp::default());
    assert_eq!(ledger.order().kept_bytes(), 100);
    assert!(ledger.admit(1).is_err());
    ledger.order_mut().let_go(&digest(3));
    assert_eq!(ledger.admit(1).unwrap()[0].digest, digest(3));
}

/// One step of the properties: its kind, its blob, a number of bytes, and the time
/// that passes before it.
type Step = (u8, u8, u64, u64);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((0_u8..9, 0_u8..16, 0_u64..60, 0_u64..200_000), 0..200)
}

/// Does a step. What was evicted by it; `None` where nothing was stored.
fn apply<P: Policy>(ledger: &mut Ledger<P>, step: Step, now: Timestamp) -> Option<Vec<Victim>> {
    let (step, n, bytes, _) = step;
    let digest = digest(n);
    match step {
        0 | 1 => {
            let victims = ledger.admit(bytes).ok()?;
            ledger.settle(digest, bytes, bytes, now);
            return Some(victims);
        }
        2 => {
            ledger.stored_mut().pin(&digest);
        }
        3 => ledger.stored_mut().unpin(&digest),
        4 => {
            ledger.stored_mut().forget(&digest);
        }
        5 => ledger.order_mut().keep(&digest),
        6 => ledger.order_mut().let_go(&digest),
        _ => {
            ledger.stored_mut().touch(&digest, now);
        }
    }
    None
}

/// Runs the steps over a ledger and a plain model of it side by side.
fn agrees_with_a_model<P: Policy>(policy: P, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut ledger = Ledger::with_policy(100, policy);
    let mut model = std::collections::HashMap::<Digest, (u64, u32)>::new();
    let mut kept = HashSet::new();
    let mut now = Timestamp::default();
    for step in steps {
        now = Timestamp(now.0 + step.3);
        let stored = apply(&mut ledger, *step, now);
        for victim in stored.iter().flatten() {
            prop_assert!(!kept.contains(&victim.digest), "it is kept");
            let gone = model.remove(&victim.digest);
            prop_assert_eq!(gone, Some((victim.size, 0)), "stored, and nobody reads it");
        }
        let digest = digest(step.1);
        match step.0 {
            0 | 1 if stored.is_some() => model.entry(digest).or_default().0 = step.2,
            2 | 3 => {
                if let Some((_, pins)) = model.get_mut(&digest) {
                    *pins = if step.0 == 2 {
                        *pins + 1
                    } else {
                        pins.saturating_sub(1)
                    };
                }
            }
            4 => {
                model.remove(&digest);
            }
            5 => {
                kept.insert(digest);
            }
            6 => {
                kept.remove(&digest);
            }
            _ => {}
        }
        let sum: u64 = model.values().map(|(size, _)| size).sum();
        prop_assert!(ledger.bytes() <= ledger.max());
        prop_assert_eq!((ledger.bytes(), ledger.order().len()), (sum, model.len()));
        for (digest, (size, pins)) in &model {
            let entry = ledger.order().entry(digest).unwrap();
            prop_assert_eq!((entry.size, entry.pins), (*size, *pins));
        }
        // The lists hold each blob once, and their bytes are those of their blobs.
        prop_assert_eq!(ledger.order().list_bytes(), sum);
        let pinned = model.iter().filter(|(digest, _)| kept.contains(*digest));
        prop_assert_eq!(
            ledger.order().kept_bytes(),
            pinned.map(|(_, (size, _))| size).sum::<u64>()
        );
    }
    Ok(())
}

proptest! {
    #[test]
    fn bound_pins_and_accounting_hold(steps in steps()) {
        agrees_with_a_model(IdleByUses, &steps)?;
        agrees_with_a_model(policy::LeastRecent, &steps)?;
    }

    #[test]
    fn the_same_uses_have_the_same_victims(steps in steps()) {
        let (mut one, mut other) = (Ledger::new(100), Ledger::new(100));
        let mut now = Timestamp::default();
        for step in steps {
            now = Timestamp(now.0 + step.3);
            prop_assert_eq!(apply(&mut one, step, now), apply(&mut other, step, now));
        }
    }

    /// Of what the index has, a new ledger makes the same choice, where uses are a minute apart.
    #[test]
    fn a_restart_changes_no_choice(uses in prop::collection::vec(0_u8..8, 1..60)) {
        let mut ledger = Ledger::new(80);
        let mut index = std::collections::HashMap::new();
        for n in 0..8 {
            ledger.stored_mut().load(digest(n), 10, Timestamp(u64::from(n)), 1);
            index.insert(digest(n), (Timestamp(u64::from(n)), 1));
        }
        for (n, at) in uses.into_iter().zip(1..) {
            let now = Timestamp(at * 120_000);
            let noted = ledger.stored_mut().touch(&digest(n), now).unwrap();
            index.insert(digest(n), (now, noted.uses));
        }
        let mut records: Vec<_> = index.into_iter().collect();
        records.sort_by_key(|(_, (used, _))| *used);
        let mut again = Ledger::new(80);
        for (digest, (used, uses)) in records {
            again.stored_mut().load(digest, 10, used, uses);
        }
        prop_assert_eq!(ledger.admit(80), again.admit(80));
    }
}

#[test]
fn an_upstream_is_cut_down_by_its_own_blobs() {
    let mut ledger = filled(1000, &[40, 30, 20, 10]);
    for n in [1, 3] {
        ledger.stored_mut().belongs(&digest(n), 7).unwrap();
    }
    ledger.stored_mut().belongs(&digest(0), 8).unwrap();
    assert_eq!(
        ledger.stored_mut().belongs(&digest(0), 7),
        None,
        "it is the first one's"
    );
    assert_eq!(
        (
            ledger.stored_mut().bytes_of(7),
            ledger.stored_mut().bytes_of(8)
        ),
        (40, 40)
    );
    let gone: Vec<_> = ledger.free_of(7, 5).iter().map(|v| v.digest).collect();
    assert_eq!(gone, [digest(1)], "not the oldest of all");
    assert_eq!(ledger.stored_mut().bytes_of(7), 10);
    ledger.stored_mut().forget(&digest(3));
    assert_eq!(
        (ledger.stored_mut().bytes_of(7), ledger.free_of(7, 1).len()),
        (0, 0)
    );
    assert_eq!(
        ledger.admit(995).unwrap().len(),
        2,
        "all are evictable again"
    );
    // A restart brings it back; one that is found anew stays whose it was.
    ledger
        .stored_mut()
        .load_of(digest(5), 3, Timestamp::default(), 1, 9);
    ledger
        .stored_mut()
        .load(digest(5), 3, Timestamp::default(), 1);
    assert_eq!(ledger.stored_mut().bytes_of(9), 3);
}

#[test]
fn what_nobody_uses_goes_when_it_is_time() {
    let day = |n: u64| Timestamp::default().plus(Duration::from_hours(24 * n));
    let days = |n: u64| Duration::from_hours(24 * n);
    let mut ledger = Ledger::new(1000);
    for (n, used) in (0_u8..).zip([1, 1, 5, 9]) {
        ledger.stored_mut().load(digest(n), 10, day(used), 1);
    }
    ledger.stored_mut().belongs(&digest(1), 7).unwrap();
    let ages = Ages {
        usual: Some(days(6)),
        special: vec![(7, days(3))],
    };
    let mut gone = |now: u64, count| -> Vec<Digest> {
        let victims = ledger.aged(&ages, day(now), count);
        victims.iter().map(|victim| victim.digest).collect()
    };
    assert_eq!(gone(3, 9), []);
    assert_eq!(gone(4, 9), [digest(1)], "of that upstream sooner");
    assert_eq!(gone(20, 1), [digest(0)], "no more than asked for");
    assert_eq!(gone(12, 9), [digest(2)]);
    ledger.stored_mut().pin(&digest(3)).unwrap();
    assert_eq!(ledger.aged(&ages, day(99), 9), [], "somebody reads it");
    assert_eq!(ledger.bytes(), 10);
}

#[test]
fn who_looks_without_using_changes_no_order() {
    let mut ledger = filled(100, &[40, 30, 30]);
    ledger.stored_mut().hold(&digest(0)).unwrap();
    assert_eq!(ledger.admit(20).unwrap()[0].digest, digest(1), "it is open");
    ledger.stored_mut().unpin(&digest(0));
    assert_eq!(
        ledger.admit(20).unwrap()[0].digest,
        digest(0),
        "it is still the oldest"
    );
}

#[test]
fn what_is_pinned_stays_so_when_all_are_put_in_order() {
    let mut ledger = Ledger::new(100);
    ledger.order_mut().keep(&digest(0));
    for n in 0..3 {
        ledger
            .stored_mut()
            .load(digest(n), 30, Timestamp::default(), 1);
    }
    ledger.order_mut().arrange();
    assert_eq!(ledger.admit(40).unwrap().len(), 1);
    assert_eq!(ledger.admit(30).unwrap().len(), 1);
    assert!(ledger.admit(30).is_err());
    assert!(ledger.order().size(&digest(0)).is_some());
}

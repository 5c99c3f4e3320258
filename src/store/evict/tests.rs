use proptest::prelude::*;

use super::*;

fn digest(n: u8) -> Digest {
    Digest::Sha256([n; 32])
}

fn filled(max: u64, sizes: &[u64]) -> Ledger {
    let mut ledger = Ledger::new(max);
    for (n, size) in (0_u8..).zip(sizes) {
        ledger.load(digest(n), *size, Timestamp::default(), 1);
    }
    ledger
}

#[test]
fn the_least_recently_used_goes_first() {
    let mut ledger = filled(100, &[40, 30, 30]);
    ledger.touch(&digest(0), Timestamp::default());
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
fn an_open_blob_is_never_a_victim() {
    let mut ledger = filled(100, &[40, 30, 30]);
    ledger.pin(&digest(0)).unwrap();
    ledger.pin(&digest(1)).unwrap();
    assert_eq!(
        ledger.admit(40),
        Err(NoRoom {
            wanted: 40,
            kept: 70,
            max: 100
        })
    );
    assert_eq!(ledger.blobs(), 3, "a refusal evicts nothing");
    ledger.unpin(&digest(0));
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

proptest! {
    #[test]
    fn never_over_the_bound_nor_over_a_pin(
        steps in prop::collection::vec((0_u8..4, 0_u8..16, 0_u64..60), 0..200)
    ) {
        let mut ledger = Ledger::new(100);
        let mut pinned = std::collections::HashMap::<Digest, u32>::new();
        for (step, n, bytes) in steps {
            let digest = digest(n);
            match step {
                0 | 1 => if let Ok(victims) = ledger.admit(bytes) {
                    for victim in victims {
                        prop_assert_eq!(pinned.get(&victim.digest).copied().unwrap_or(0), 0);
                    }
                    ledger.settle(digest, bytes, bytes, Timestamp::default());
                },
                2 => if ledger.pin(&digest).is_some() { *pinned.entry(digest).or_default() += 1; },
                _ => if let Some(count) = pinned.get_mut(&digest).filter(|c| **c > 0) {
                    *count -= 1;
                    ledger.unpin(&digest);
                },
            }
            prop_assert!(ledger.bytes() <= ledger.max());
        }
    }
}

use proptest::prelude::*;

use super::*;
use crate::upstream::{OnBehalf, Pseudonym};

fn owner(upstream: &str, address: u8, connection: u64) -> Owner {
    Owner {
        upstream: UpstreamName::parse(upstream).unwrap(),
        client: ClientId::new([192, 0, 2, address].into(), connection),
    }
}

async fn take(shares: &Arc<Shares>, owner: &Owner) -> Result<Slot, MirrorError> {
    let via = Pseudonym::random().join(std::iter::empty()).unwrap();
    let behalf = OnBehalf::of(owner.client, via);
    let taking = async { shares.take(&owner.upstream, owner.client, &Work::begin()) };
    behalf.scope(taking).await
}

#[tokio::test]
async fn one_may_have_all_until_others_come() {
    let shares = Shares::new(Limit::Questions, 64, Stays::Asking);
    let greedy = owner("slow.example", 1, 1);
    let mut slots = Vec::new();
    for _ in 0..64 {
        slots.push(take(&shares, &greedy).await.unwrap());
    }
    let refused = take(&shares, &greedy).await;
    assert!(matches!(
        refused,
        Err(MirrorError::Limited(Limit::Questions))
    ));

    // Another upstream's clients, another address, another connection: each takes the newest.
    let others = [
        owner("docker.io", 1, 1),
        owner("slow.example", 2, 2),
        owner("slow.example", 1, 3),
    ];
    let mut theirs = Vec::new();
    for (nth, other) in others.iter().enumerate() {
        theirs.push(take(&shares, other).await.unwrap());
        assert!(slots[63 - nth].given_up().is_cancelled());
        assert!(!slots[62 - nth].given_up().is_cancelled());
    }
    drop(slots);
    drop(theirs);
    assert!(shares.places().upstreams.is_empty() && shares.places().total == 0);
}

#[tokio::test]
async fn what_an_upstream_is_asked_stays_and_others_have_the_reserve() {
    let shares = Shares::new(Limit::Transfers, 16, Stays::Sent);
    let (greedy, other) = (owner("slow.example", 1, 1), owner("docker.io", 2, 2));
    let mut slots = Vec::new();
    for _ in 0..16 {
        slots.push(take(&shares, &greedy).await.unwrap());
    }
    for taken in shares
        .places()
        .upstreams
        .values()
        .flat_map(|of| of.addresses.values())
    {
        taken
            .connections
            .values()
            .flat_map(BTreeMap::values)
            .for_each(|taken| taken.work.needs_no_turn());
    }
    take(&shares, &greedy).await.unwrap_err();
    let _first = take(&shares, &other).await.unwrap();
    let _second = take(&shares, &other).await.unwrap();
    assert!(slots.iter().all(|slot| !slot.given_up().is_cancelled()));
    // Of those two neither was sent, but they are its own.
    take(&shares, &other).await.unwrap_err();
}

proptest! {
    /// Nothing is lost, nobody loses a place to who has as many, and who is refused has its part.
    #[test]
    fn places_go_from_who_has_more_to_who_has_less(
        events in prop::collection::vec((0..4_u8, 0..2_usize, 1..4_u8, 0..2_u64), 1..300)
    ) {
        const MAX: usize = 12;
        let mut places = Places::<u64>::default();
        let mut held: Vec<(Owner, u64, u64)> = Vec::new();
        let mut tag = 0;
        for (event, upstream, address, connection) in events {
            let upstream = ["docker.io", "quay.io"][upstream];
            let who = owner(upstream, address, u64::from(address) * 2 + connection);
            if event == 3 {
                if let Some((who, id, value)) = (!held.is_empty()).then(|| held.remove(0)) {
                    prop_assert_eq!(places.remove(&who, id), Some(value));
                }
                continue;
            }
            // Odd ones stay where they are.
            if places.total >= MAX {
                let count = |level: u8, one: &Owner| held.iter().filter(|(other, ..)| {
                    one.upstream == other.upstream
                        && (level < 1 || one.client.address == other.client.address)
                        && (level < 2 || one.client == other.client)
                }).count();
                match places.make_room(&who, |value| value % 2 == 0) {
                    Room::Made(value) => {
                        let at = held.iter().position(|(.., v)| *v == value).unwrap();
                        let from = held[at].0.clone();
                        let level = if from.upstream != who.upstream { 0 }
                            else if from.client.address != who.client.address { 1 }
                            else { 2 };
                        prop_assert!(count(level, &from) >= count(level, &who) + 2);
                        held.remove(at);
                    }
                    Room::AllStay => continue,
                    Room::NoShare => {
                        let more = held.iter().any(|(other, ..)| other.upstream != who.upstream
                            && count(0, other) >= count(0, &who) + 2);
                        prop_assert!(!more);
                        continue;
                    }
                }
            }
            tag += 1;
            let id = places.put(&who, tag);
            held.push((who, id, tag));
            prop_assert_eq!(places.total, held.len());
        }
    }
}

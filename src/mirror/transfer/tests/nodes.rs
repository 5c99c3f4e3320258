//! Fills from other nodes of a cluster.

use super::*;
use crate::net::{Pseudonym, Via};
use crate::upstream::ClientId;

fn node(act: Act) -> Arc<Peer> {
    Peer::of(SourceKind::Node, act)
}

/// A request that another node has made, for a client of its own.
fn for_node() -> OnBehalf {
    let via: Via = Pseudonym::random().join(std::iter::empty()).unwrap();
    OnBehalf::of(ClientId::OURSELVES, via).for_node()
}

#[tokio::test]
async fn a_node_needs_no_word_of_the_upstream() {
    for given in [true, false] {
        let peer = node(Act::Gives);
        let world = World::new(NOWHERE, &[&peer], given).await;
        assert_eq!(world.pull().await.unwrap(), content());
        assert_eq!(peer.reads(), 1);
    }
}

#[tokio::test]
async fn what_a_node_asks_is_asked_of_no_node() {
    let peer = node(Act::Gives);
    let registry = Registry::start(true).await;
    let world = World::new(&registry.url(), &[&peer], true).await;
    let pulled = for_node().scope(world.pull()).await.unwrap();
    assert_eq!(pulled, content());
    assert_eq!((peer.reads(), registry.gets()), (0, vec![0]));
}

#[tokio::test]
async fn a_fill_that_a_node_waits_for_goes_on_without_nodes() {
    for act in [Act::StallsAt(100_000), Act::AnswersNothing] {
        // It would be waited for for long.
        let peer = Arc::new(Peer {
            patience: Duration::from_secs(1000),
            ..Peer::plain(SourceKind::Node, act)
        });
        let registry = Registry::start(true).await;
        let world = World::new(&registry.url(), &[&peer], true).await;
        let own = world.pull();
        let of_node = async {
            // The first poll of the other is the first to ask.
            tokio::task::yield_now().await;
            while peer.reads() == 0 {
                tokio::task::yield_now().await;
            }
            for_node().scope(world.pull()).await
        };
        let (own, of_node) = future::join(own, of_node).await;
        assert_eq!(own.unwrap(), content(), "{act:?}");
        assert_eq!(of_node.unwrap(), content(), "{act:?}");
        assert_eq!(registry.gets().len(), 1, "{act:?}: one goes on for both");
    }
}

#[tokio::test]
async fn a_node_that_dies_stalls_or_refuses_is_left_at_the_byte_reached() {
    for act in [
        Act::DiesAt(100_001),
        Act::StallsAt(100_001),
        Act::EndsAt(100_001),
        Act::Refuses,
        Act::AnswersNothing,
        Act::GivesAnotherPart,
        Act::GivesEmptyPieces,
    ] {
        for given in [true, false] {
            let peer = node(act);
            let registry = Registry::start(true).await;
            let world = World::new(&registry.url(), &[&peer], given).await;
            assert_eq!(world.pull().await.unwrap(), content(), "{act:?}");
            assert_eq!(registry.gets().len(), 1, "{act:?}");
        }
    }
}

#[tokio::test]
async fn a_node_that_lies_breaks_no_more_than_the_pulls_that_it_has_lied_to() {
    for act in [
        Act::GivesWrongBytes,
        Act::SaysAnotherSize,
        Act::LiesOfItsSize,
    ] {
        for given in [true, false] {
            let peer = node(act);
            let registry = Registry::start(true).await;
            let world = World::new(&registry.url(), &[&peer], given).await;
            let first = world.pull().await;
            assert!(
                first.is_err() || first.is_ok_and(|all| all == content()),
                "{act:?} {given}"
            );
            assert_eq!(world.pull().await.unwrap(), content(), "{act:?} {given}");
            assert_eq!(world.pull().await.unwrap(), content(), "{act:?} {given}");
        }
    }
}

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

#[tokio::test]
async fn a_question_for_a_size_is_not_waited_for_either() {
    let peer = Arc::new(Peer {
        patience: Duration::from_secs(1000),
        ..Peer::plain(SourceKind::Node, Act::SaysNothing)
    });
    let registry = Registry::start(true).await;
    let world = World::new(&registry.url(), &[&peer], false).await;
    let own = world.pull();
    let of_node = async {
        while peer.stats.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        for_node().scope(world.pull()).await
    };
    let (own, of_node) = future::join(own, of_node).await;
    assert_eq!(own.unwrap(), content());
    assert_eq!(of_node.unwrap(), content());
    assert_eq!(registry.gets().len(), 1, "one goes on for both");
}

/// A node that is asked for what it has alone.
fn holder(act: Act) -> Arc<Peer> {
    Arc::new(Peer {
        is_holder: true,
        ..Peer::plain(SourceKind::Node, act)
    })
}

#[tokio::test]
async fn a_node_that_has_all_of_it_is_taken_from_for_nodes_too() {
    for given in [true, false] {
        let (holder, lacks) = (holder(Act::Gives), holder(Act::Lacks));
        let world = World::new(NOWHERE, &[&lacks, &holder], given).await;
        assert_eq!(for_node().scope(world.pull()).await.unwrap(), content());
        assert_eq!((holder.reads(), lacks.reads()), (1, 0));
    }
}

#[tokio::test]
async fn a_node_that_does_not_give_what_it_seemed_to_have_is_left_at_the_byte_reached() {
    for (act, first) in [
        (Act::DiesAt(100_001), 100_001),
        (Act::StallsAt(100_001), 100_001),
        (Act::EndsAt(100_001), 100_001),
        (Act::Refuses, 0),
        (Act::AnswersNothing, 0),
        (Act::Lacks, 0),
    ] {
        let holder = holder(act);
        let registry = Registry::start(true).await;
        let world = World::new(&registry.url(), &[&holder], true).await;
        assert_eq!(world.pull().await.unwrap(), content(), "{act:?}");
        assert_eq!(registry.gets(), vec![first], "{act:?}");
    }
    for act in [Act::GivesWrongBytes, Act::SaysAnotherSize] {
        let holder = holder(act);
        let registry = Registry::start(true).await;
        let world = World::new(&registry.url(), &[&holder], true).await;
        let first = world.pull().await;
        assert!(first.is_err() || first.unwrap() == content(), "{act:?}");
        assert_eq!(world.pull().await.unwrap(), content(), "{act:?}");
    }
}

/// A byte now and then is no reason to wait for hours.
#[tokio::test(start_paused = true)]
async fn bytes_that_trickle_are_given_up() {
    let piece = || Ok(Bytes::from_static(b"x"));
    let slow = stream::unfold((), move |()| async move {
        tokio::time::sleep(Duration::from_millis(900)).await;
        Some((piece(), ()))
    });
    let mut body = ReadBody::of(slow.boxed(), Duration::from_secs(3));
    let mut came = 0;
    let error = loop {
        match body.next().await {
            Ok(Some(bytes)) => came += bytes.len(),
            other => break other,
        }
    };
    assert!(matches!(error, Err(FetchError::Timeout(_))), "{error:?}");
    assert_eq!(came, 3);
    // One that is slow, and not that slow.
    let piece = || Ok(Bytes::from(vec![0; 32 * 1024]));
    let slow = stream::unfold(0, move |number| async move {
        tokio::time::sleep(Duration::from_millis(1400)).await;
        (number < 20).then(|| (piece(), number + 1))
    });
    let mut body = ReadBody::of(slow.boxed(), Duration::from_secs(3));
    let mut came = 0;
    while let Some(bytes) = body.next().await.unwrap() {
        came += bytes.len();
    }
    assert_eq!(came, 20 * 32 * 1024);
}

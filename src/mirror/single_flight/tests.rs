use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};

use super::super::shares::Stays;
use super::*;
use crate::upstream::{ClientId, Loop, Pseudonym};

impl Shared for u32 {
    fn is_the_askers_own(&self) -> bool {
        *self == OWN
    }
}

/// An answer for whoever asked first alone.
const OWN: u32 = 508;

fn upstream() -> &'static UpstreamName {
    static NAME: std::sync::OnceLock<UpstreamName> = std::sync::OnceLock::new();
    NAME.get_or_init(|| UpstreamName::parse("docker.io").unwrap())
}

fn shares() -> Arc<Shares> {
    Shares::new(Limit::Questions, 4, Stays::Asking)
}

fn runway<'a>(tasks: &'a TaskTracker, shares: &'a Arc<Shares>) -> Runway<'a> {
    Runway {
        tasks,
        shares,
        upstream: upstream(),
        for_later: false,
    }
}

fn behalf(address: u8) -> OnBehalf {
    let via = Pseudonym::random().join(std::iter::empty()).unwrap();
    let client = ClientId::new([192, 0, 2, address].into(), address.into());
    OnBehalf::of(client, via)
}

/// As an upstream that is asked would have it.
fn sent() {
    OnBehalf::current().work().unwrap().needs_no_turn();
}

#[tokio::test]
async fn one_answer_for_all_and_the_leader_may_leave() {
    let requests = Arc::new(SingleFlight::<u8, u32>::default());
    let tasks = TaskTracker::new();
    let shares = shares();
    let (release, gate) = oneshot::channel();
    let ask = move || async move {
        sent();
        gate.await.unwrap()
    };
    let mut leader = Box::pin(requests.run(1, runway(&tasks, &shares), ask));
    assert!(futures_util::poll!(&mut leader).is_pending());
    // The question is sent; then the leader hangs up.
    tokio::task::yield_now().await;
    drop(leader);
    let follower = requests.run(1, runway(&tasks, &shares), || async {
        unreachable!("it is under way")
    });
    let (answer, ()) = tokio::join!(follower, async { release.send(7).unwrap() });
    assert_eq!(answer.unwrap(), (7, Role::Follower));
    let again = requests
        .run(1, runway(&tasks, &shares), || async { 8 })
        .await
        .unwrap();
    assert_eq!(again, (8, Role::Leader), "an answer is shared, not cached");
}

#[tokio::test]
async fn a_flight_that_panics_is_an_error_and_not_silence() {
    let requests = Arc::new(SingleFlight::<u8, u32>::default());
    let tasks = TaskTracker::new();
    let shares = shares();
    let answer = requests
        .run(1, runway(&tasks, &shares), || async {
            panic!("on purpose")
        })
        .await;
    assert!(matches!(answer, Err(MirrorError::Busy(_))));
    assert!(
        requests
            .run(1, runway(&tasks, &shares), || async { 8 })
            .await
            .is_ok(),
        "the key is free again"
    );
}

/// A client that asks and resets its stream used to fill the table with questions that were yet to be sent.
#[tokio::test]
async fn what_was_not_sent_is_dropped_with_the_last_one_who_waits() {
    let requests = Arc::new(SingleFlight::<u8, u32>::default());
    let (tasks, shares) = (TaskTracker::new(), shares());
    let (dropped, gone) = oneshot::channel::<()>();
    let unsent = async move {
        let _dropped = dropped;
        std::future::pending().await
    };
    let mut one = Box::pin(requests.run(1, runway(&tasks, &shares), move || unsent));
    let mut two = Box::pin(requests.run(1, runway(&tasks, &shares), || async { unreachable!() }));
    assert!(futures_util::poll!(&mut one).is_pending());
    assert!(futures_util::poll!(&mut two).is_pending());
    drop(one);
    tokio::task::yield_now().await;
    assert_eq!(requests.table().len(), 1, "somebody waits");
    drop(two);
    assert!(gone.await.is_err(), "nobody does");
    // Whoever comes now begins anew.
    let again = requests.run(1, runway(&tasks, &shares), || async { 8 });
    assert_eq!(again.await.unwrap(), (8, Role::Leader));

    // What is wanted for later, or was sent, goes on.
    for (key, for_later) in [(2, true), (3, false)] {
        let (done, end) = oneshot::channel();
        let gate = Arc::new(Semaphore::new(0));
        let wait = Arc::clone(&gate);
        let runway = Runway {
            for_later,
            ..runway(&tasks, &shares)
        };
        let ask = move || async move {
            if !for_later {
                sent();
            }
            wait.acquire().await.unwrap().forget();
            done.send(()).unwrap();
            9
        };
        let flight =
            tokio::time::timeout(Duration::from_millis(10), requests.run(key, runway, ask));
        assert!(flight.await.is_err());
        gate.add_permits(1);
        end.await.unwrap();
    }
}

#[tokio::test]
async fn the_greedy_are_refused_and_who_joined_them_is_not() {
    let requests = Arc::new(SingleFlight::<u8, u32>::default());
    let (tasks, shares) = (TaskTracker::new(), shares());
    let mut greedy = Vec::new();
    for key in 0..4 {
        let ask = || std::future::pending();
        let mut asked = Box::pin(behalf(1).scope(requests.run(key, runway(&tasks, &shares), ask)));
        assert!(futures_util::poll!(&mut asked).is_pending());
        greedy.push(asked);
    }
    let more = behalf(1).scope(requests.run(9, runway(&tasks, &shares), || async { 0 }));
    assert!(matches!(
        more.await,
        Err(MirrorError::Limited(Limit::Questions))
    ));
    // Another client waits for the last of these, and one takes its place.
    let mut joined =
        Box::pin(behalf(2).scope(requests.run(3, runway(&tasks, &shares), || async { 3 })));
    assert!(futures_util::poll!(&mut joined).is_pending());
    let other = behalf(3).scope(requests.run(8, runway(&tasks, &shares), || async { 8 }));
    assert_eq!(other.await.unwrap(), (8, Role::Leader));
    assert_eq!(joined.await.unwrap(), (3, Role::Leader), "it asks itself");
    let last = greedy.pop().unwrap().await;
    assert!(matches!(last, Err(MirrorError::Limited(Limit::Questions))));
}

/// One client's `Via` used to be everybody's 508.
#[tokio::test]
async fn what_is_wrong_with_the_leader_is_not_what_followers_hear() {
    let requests = Arc::new(SingleFlight::<u8, u32>::default());
    let (tasks, shares) = (TaskTracker::new(), shares());
    let (release, gate) = oneshot::channel();
    let ask = move || async move {
        sent();
        gate.await.unwrap()
    };
    let leader = behalf(1).scope(requests.run(1, runway(&tasks, &shares), ask));
    let followers = (2..10).map(|address| {
        behalf(address).scope(requests.run(1, runway(&tasks, &shares), || async { 7 }))
    });
    let followers = futures_util::future::join_all(followers);
    let (leader, followers, ()) =
        tokio::join!(leader, followers, async { release.send(OWN).unwrap() });
    assert_eq!(leader.unwrap().0, OWN);
    assert!(followers.into_iter().all(|answer| answer.unwrap().0 == 7));

    let error = MirrorError::from(Loop::Closed);
    assert!(Err::<(), _>(error).is_the_askers_own());
    assert!(!Err::<(), _>(MirrorError::Denied).is_the_askers_own());
}

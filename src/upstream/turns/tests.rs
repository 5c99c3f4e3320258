use super::*;
use crate::upstream::Pseudonym;
use proptest::prelude::*;

fn client(address: u8, connection: u64) -> ClientId {
    ClientId::new([192, 0, 2, address].into(), connection)
}

fn behalf(client: ClientId) -> OnBehalf {
    let via = Pseudonym::random().join(std::iter::empty()).unwrap();
    OnBehalf::of(client, via)
}

async fn take(turns: &Arc<Turns>, client: ClientId) -> Result<Turn, FetchError> {
    let deadline = Deadline::after(Duration::from_secs(20));
    behalf(client).scope(turns.turn(deadline)).await
}

/// Asks in the background; what it is given is kept until it is taken back.
fn ask(
    turns: &Arc<Turns>,
    client: ClientId,
) -> std::pin::Pin<Box<dyn Future<Output = Result<Turn, FetchError>>>> {
    let turns = Arc::clone(turns);
    let mut asked: std::pin::Pin<Box<dyn Future<Output = _>>> =
        Box::pin(async move { take(&turns, client).await });
    // The first poll puts it into the queue.
    assert!(futures_util::FutureExt::now_or_never(&mut asked).is_none());
    asked
}

#[tokio::test(start_paused = true)]
async fn one_client_may_have_all_and_nobody_waits_for_the_length_of_its_queue() {
    let turns = Arc::new(Turns::new(2));
    let (greedy, other) = (client(1, 1), client(2, 2));
    let first = take(&turns, greedy).await.unwrap();
    let second = take(&turns, greedy).await.unwrap();
    let queue: Vec<_> = (0..1000).map(|_| ask(&turns, greedy)).collect();
    let waiting = ask(&turns, other);
    drop(first);
    let turn = waiting.await.unwrap();
    drop((turn, second));
    for asked in queue {
        drop(asked.await.unwrap());
    }
    assert!(turns.state().held.is_empty() && turns.state().waiting.is_empty());
    assert!(turns.state().order.is_empty());
}

/// Behind a load balancer, or one address translation, all have one address.
#[tokio::test(start_paused = true)]
async fn connections_of_one_address_are_told_apart() {
    let turns = Arc::new(Turns::new(1));
    let held = take(&turns, client(1, 1)).await.unwrap();
    let queue: Vec<_> = (0..100).map(|_| ask(&turns, client(1, 1))).collect();
    let mut waiting = ask(&turns, client(1, 2));
    drop(held);
    // The one that began to wait first, and then the other.
    let mut queue = queue.into_iter();
    drop(queue.next().unwrap().await.unwrap());
    assert!(futures_util::FutureExt::now_or_never(&mut waiting).is_some());
}

#[tokio::test(start_paused = true)]
async fn who_holds_too_many_gives_one_back_and_never_more_than_that() {
    let turns = Arc::new(Turns::new(4));
    let greedy = client(1, 1);
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(take(&turns, greedy).await.unwrap());
    }
    held.push(behalf(greedy).scope(async { turns.extra() }).await.unwrap());
    let mine = ask(&turns, greedy);
    let began = Instant::now();
    let waiting = [
        ask(&turns, client(2, 2)),
        ask(&turns, client(2, 2)),
        ask(&turns, client(2, 2)),
    ];
    let [first, second, mut third] = waiting;
    // Nothing is taken from an upstream that is well: it answers within that.
    tokio::time::sleep(RECALL_AFTER / 2).await;
    assert!(held.iter().all(|turn| !turn.is_recalled()));
    let (first, ()) = tokio::join!(first, async {
        held[3].recalled().await;
        assert!(began.elapsed() >= RECALL_AFTER);
        drop(held.pop());
    });
    let (second, ()) = tokio::join!(second, async {
        held[2].recalled().await;
        drop(held.pop());
    });
    // Both have two now, whatever else they want.
    for _ in 0..5 {
        tokio::time::sleep(RECALL_AFTER).await;
        assert!(futures_util::FutureExt::now_or_never(&mut third).is_none());
    }
    assert!(held.iter().all(|turn| !turn.is_recalled()));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert!(!first.is_recalled() && !second.is_recalled());
    drop(third);

    // Who comes back soon does not wait again, and who wants more may have it when nobody has come back.
    drop((first, second));
    let mine = mine.await.unwrap();
    let mut more = ask(&turns, greedy);
    let (again, began) = (take(&turns, client(2, 2)).await.unwrap(), Instant::now());
    drop(again);
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert!(futures_util::FutureExt::now_or_never(&mut more).is_none());
    let more = more.await.unwrap();
    assert!(began.elapsed() >= KEPT_FOR / 4);
    drop((mine, more));
}

#[tokio::test(start_paused = true)]
async fn an_extra_leaves_some_to_those_who_come() {
    let turns = Arc::new(Turns::new(16));
    let mut held = Vec::new();
    while let Some(turn) = behalf(client(1, 1)).scope(async { turns.extra() }).await {
        held.push(turn);
    }
    assert_eq!(held.len(), 14);
    take(&turns, client(2, 2)).await.unwrap();
}

/// A client that joins what somebody else waits for does not wait in that one's queue.
#[tokio::test(start_paused = true)]
async fn a_shared_request_has_the_best_place_of_all_who_share_it() {
    let turns = Arc::new(Turns::new(1));
    let greedy = client(1, 1);
    let held = take(&turns, greedy).await.unwrap();
    let queue: Vec<_> = (0..100).map(|_| ask(&turns, greedy)).collect();
    let work = behalf(greedy).scope(async { Work::begin() }).await;
    let deadline = Deadline::after(Duration::from_secs(20));
    let shared = behalf(greedy).as_part_of(Arc::clone(&work));
    let mut shared = Box::pin(shared.scope(turns.turn(deadline)));
    assert!(futures_util::poll!(&mut shared).is_pending());
    behalf(client(2, 2)).scope(async { work.join() }).await;
    assert!(futures_util::poll!(&mut shared).is_pending());
    drop(held);
    let mut queue = queue.into_iter();
    let first = queue.next().unwrap();
    let turn = tokio::select! {
        turn = &mut shared => turn,
        turn = first => { drop(turn.unwrap()); shared.await }
    };
    assert!(turn.is_ok() && work.is_asking());
}

#[tokio::test(start_paused = true)]
async fn whose_fault_it_is_that_there_is_none_is_told() {
    let turns = Arc::new(Turns::new(4));
    let greedy = client(1, 1);
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(take(&turns, greedy).await.unwrap());
    }
    let (mine, other) = tokio::join!(take(&turns, greedy), take(&turns, client(2, 2)));
    assert_eq!(mine.unwrap_err(), FetchError::Limited);
    assert_eq!(other.unwrap_err(), FetchError::Busy);
    assert!(
        turns.state().waiting.is_empty(),
        "who has gone waits no more"
    );
}

proptest! {
    /// Whoever is next holds no more than any other who waits, and nothing is lost or counted twice.
    #[test]
    fn the_next_one_holds_fewest(events in prop::collection::vec((0..5_u8, 1..4_u8, 1..4_u64), 1..200)) {
        let mut order = Order::default();
        let (mut waiting, mut held, mut id): (Vec<(u64, ClientId)>, Vec<ClientId>, u64) = (Vec::new(), Vec::new(), 0);
        for (event, address, connection) in events {
            let who = client(address, u64::from(address) * 10 + connection);
            match event {
                0 | 1 => {
                    id += 1;
                    order.wait(id, who);
                    waiting.push((id, who));
                }
                2 => {
                    let Some((next, owner)) = order.next() else {
                        prop_assert!(waiting.is_empty());
                        continue;
                    };
                    prop_assert!(waiting.contains(&(next, owner)));
                    let of = |who: ClientId| held.iter().filter(|h| h.address == who.address).count();
                    prop_assert!(waiting.iter().all(|(_, other)| of(*other) >= of(owner)));
                    waiting.retain(|(id, _)| *id != next);
                    order.leave(next, owner);
                    order.serve(owner);
                    held.push(owner);
                }
                3 if !held.is_empty() => order.release(held.swap_remove(0)),
                4 if !waiting.is_empty() => {
                    let (id, who) = waiting.swap_remove(0);
                    order.leave(id, who);
                }
                _ => {
                    if let Some(from) = order.who_has_more(who) {
                        prop_assert!(from != who && held.contains(&from));
                    }
                }
            }
        }
        for who in held {
            order.release(who);
        }
        for (id, who) in waiting {
            order.leave(id, who);
        }
        prop_assert!(order.is_empty());
    }
}

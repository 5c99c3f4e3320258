use super::*;

fn table(listener: Listener, connections_max: usize) -> Arc<Table> {
    let metrics = Metrics::new(std::iter::empty());
    let buffers = Buffers::default();
    Table::new(
        listener,
        connections_max,
        Limits::default(),
        metrics,
        buffers,
    )
}

fn v4(last: u8) -> SocketAddr {
    ([192, 0, 2, last], 4711).into()
}

fn is_gone(seat: &Seat) -> bool {
    !seat.table.places().taken.contains_key(&seat.number)
}

#[tokio::test(start_paused = true)]
async fn the_longest_idle_one_of_the_greediest_goes() {
    let table = table(Listener::Client, 4);
    let admit = |last| table.admit(v4(last), false).unwrap();
    let alone = admit(1);
    let mut greedy = Vec::new();
    for _ in 0..3 {
        tokio::time::advance(Duration::from_secs(1)).await;
        greedy.push(admit(2));
    }
    // The one that is idle longest of all is not theirs.
    let newcomer = admit(3);
    assert!(!is_gone(&alone) && is_gone(&greedy[0]) && !is_gone(&greedy[1]));
    // One that works is not idle.
    let _running = greedy[1].watch.begin(false);
    let another = admit(2);
    assert!(is_gone(&greedy[2]) && !is_gone(&greedy[1]));
    assert!(!is_gone(&newcomer) && !is_gone(&alone));
    drop((another, greedy, newcomer, alone));
    assert!(table.places().taken.is_empty() && table.places().shares.is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_works_gives_way_only_to_who_has_less() {
    let table = table(Listener::Client, 4);
    let seats: Vec<_> = (0..4).map(|_| table.admit(v4(1), false).unwrap()).collect();
    let running: Vec<_> = seats.iter().map(|seat| seat.watch.begin(false)).collect();
    assert!(table.admit(v4(1), false).is_none());
    let one = table.admit(v4(2), false).unwrap();
    let _one_runs = one.watch.begin(false);
    let two = table.admit(v4(2), false).unwrap();
    let _two_runs = two.watch.begin(false);
    // Both have two now.
    assert!(table.admit(v4(2), false).is_none());
    assert!(table.admit(v4(1), false).is_none());
    assert_eq!(seats.iter().filter(|seat| is_gone(seat)).count(), 2);
    drop(running);
}

#[tokio::test(start_paused = true)]
async fn operators_get_in_whoever_works() {
    let table = table(Listener::Admin, 2);
    let seats: Vec<_> = (0..2).map(|_| table.admit(v4(1), false).unwrap()).collect();
    let _running: Vec<_> = seats.iter().map(|seat| seat.watch.begin(false)).collect();
    assert!(table.admit(v4(1), false).is_some());
}

#[test]
fn a_client_is_an_address_or_a_network_of_ipv6() {
    let share = |text: &str| Share::from(text.parse::<IpAddr>().unwrap());
    assert_eq!(share("192.0.2.1"), share("::ffff:192.0.2.1"));
    assert_ne!(share("192.0.2.1"), share("192.0.2.2"));
    assert_eq!(share("2001:db8::1"), share("2001:db8::ffff:1"));
    assert_ne!(share("2001:db8::1"), share("2001:db8:0:1::1"));
}

#[tokio::test(start_paused = true)]
async fn without_descriptors_only_who_is_idle_gives_up_theirs() {
    let table = table(Listener::Client, 4);
    let idle = table.admit(v4(1), false).unwrap();
    let works = table.admit(v4(2), false).unwrap();
    let _running = works.watch.begin(false);
    assert!(table.give_up_idle());
    assert!(is_gone(&idle));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(!table.give_up_idle());
    assert!(!is_gone(&works));
}

#[tokio::test(start_paused = true)]
async fn a_connection_counts_for_the_client_that_its_balancer_names() {
    let table = table(Listener::Client, 4);
    let through = |client: u8| {
        let seat = table.admit(v4(1), false).unwrap();
        seat.is_of(v4(client));
        seat
    };
    let (_quiet, greedy) = (through(7), [through(8), through(8), through(8)]);
    let count = |last| table.places().count(&Share::from(v4(last).ip()));
    assert_eq!((count(1), count(7), count(8)), (0, 1, 3));
    assert_eq!(greedy[0].watch.peer(), v4(8));
    tokio::time::advance(Duration::from_secs(10)).await;
    // The place of the one that has most goes to the next of them.
    let _newcomer = through(9);
    assert_eq!(greedy.iter().filter(|seat| is_gone(seat)).count(), 1);
    assert_eq!((count(1), count(7), count(8), count(9)), (0, 1, 2, 1));
    // One that has gone does not come back.
    let gone = greedy.iter().find(|seat| is_gone(seat)).unwrap();
    gone.is_of(v4(7));
    assert_eq!((count(7), count(8)), (1, 2));
    drop(greedy);
    assert_eq!(count(8), 0);
}

#[tokio::test]
async fn those_who_wait_at_several_listeners_are_counted_together() {
    let table = table(Listener::Client, 1);
    let waiting = || table.waiting.load(Ordering::Relaxed);
    table.waiting(0, 3);
    table.waiting(0, 2);
    assert_eq!(waiting(), 5);
    table.waiting(3, 0);
    assert_eq!(waiting(), 2);
    table.waiting(2, 1);
    assert_eq!(waiting(), 1);
}

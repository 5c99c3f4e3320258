use super::super::Kind;
use super::table::BUCKETS_MAX;
use super::*;
use crate::clock::{ManualClock, Timestamp};
use std::net::{Ipv4Addr, Ipv6Addr};

const HOUR: Duration = Duration::from_hours(1);

fn limit(meaning: &str) -> Limit {
    Limit {
        meaning: meaning.parse().unwrap(),
        requests: None,
        bytes: None,
        connections: None,
        bytes_per_day: None,
    }
}

fn requests(meaning: &str, requests: u32) -> Limit {
    Limit {
        requests: NonZeroU32::new(requests),
        ..limit(meaning)
    }
}

fn limits(all: Vec<Limit>) -> (Arc<Limits>, Arc<ManualClock>) {
    // 23:00 of some day of UTC.
    let clock = Arc::new(ManualClock::new(Timestamp(
        20_000 * 86_400_000 + 23 * 3_600_000,
    )));
    (Arc::new(Limits::new(all, Arc::clone(&clock) as _)), clock)
}

fn user(name: &str, groups: &[&str]) -> Arc<Principal> {
    Arc::new(Principal {
        groups: groups.iter().map(ToString::to_string).collect(),
        ..Principal::user(name)
    })
}

fn anonymous() -> Arc<Principal> {
    Arc::new(Principal::anonymous())
}

fn v4(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

/// So many of ten requests, each on a connection of its own, are let through.
fn passed(limits: &Arc<Limits>, who: &Arc<Principal>, source: IpAddr) -> usize {
    let ask = || limits.admit(who, source, &mut None).is_ok();
    (0..10).filter(|_| ask()).count()
}

/// A place that was refused is nobody's, and nobody's is given back for it.
#[test]
fn a_connection_too_many_takes_no_other_ones_place() {
    let two = Limit {
        connections: Some(2),
        ..limit("user:*")
    };
    let (limits, _clock) = limits(vec![two]);
    let alice = user("alice", &[]);
    let mut held = [None, None];
    for share in &mut held {
        limits.admit(&alice, v4(1), share).unwrap();
    }
    for _ in 0..5 {
        let refused = limits.admit(&alice, v4(1), &mut None).unwrap_err();
        assert_eq!(refused.figure, Figure::Connections);
    }
    drop(held);
    assert_eq!(passed(&limits, &alice, v4(1)), 10);
}

#[test]
fn meanings_are_read_and_printed() {
    for text in [
        "*",
        "address",
        "anonymous",
        "user:alice",
        "user:*",
        "group:dev",
        "robot:ci",
        "certificate:*",
        "workload:k8s",
        "10.0.0.0/8",
    ] {
        assert_eq!(text.parse::<Meaning>().unwrap().to_string(), text);
    }
    for text in [
        "",
        "user:",
        "user:a*",
        "group:*",
        "alice",
        "operator:x",
        "user",
        "10.0.0.0/40",
    ] {
        assert!(text.parse::<Meaning>().is_err(), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_has_a_bucket_of_his_own_and_it_fills_again() {
    let (limits, _) = limits(vec![requests("*", 5)]);
    let (alice, bob) = (user("alice", &[]), user("bob", &[]));
    assert_eq!(passed(&limits, &alice, v4(1)), 5);
    assert_eq!(passed(&limits, &alice, v4(2)), 0, "wherever she comes from");
    assert_eq!(passed(&limits, &bob, v4(1)), 5);
    assert_eq!(passed(&limits, &anonymous(), v4(1)), 5);
    assert_eq!(passed(&limits, &anonymous(), v4(1)), 0);
    assert_eq!(passed(&limits, &anonymous(), v4(2)), 5);
    let exceeded = limits.admit(&alice, v4(1), &mut None).unwrap_err();
    assert_eq!(exceeded.figure, Figure::Requests);
    assert!(exceeded.wait <= Duration::from_millis(200), "{exceeded:?}");
    tokio::time::advance(Duration::from_millis(400)).await;
    assert_eq!(passed(&limits, &alice, v4(1)), 2);
}

#[tokio::test(start_paused = true)]
async fn it_means_whom_it_names_and_all_that_match_hold() {
    let all = vec![
        requests("user:alice", 7),
        requests("group:dev", 4),
        requests("anonymous", 1),
        requests("robot:*", 2),
        requests("10.0.0.9", 3),
    ];
    let (limits, _) = limits(all);
    let robot = Arc::new(Principal::of(Kind::Robot, "alice"));
    for (who, source, expected) in [
        (user("alice", &[]), v4(1), 7),
        (user("carol", &["dev"]), v4(1), 4),
        (user("dave", &["dev"]), v4(1), 4),
        (user("erin", &["ops"]), v4(1), 10),
        (robot, v4(1), 2),
        (anonymous(), v4(1), 1),
        (user("frank", &["dev"]), v4(9), 3),
        (user("erin", &[]), v4(9), 0),
    ] {
        assert_eq!(passed(&limits, &who, source), expected, "{who:?} {source}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_with_many_addresses_has_one_bucket() {
    let (limits, _) = limits(vec![requests("anonymous", 5)]);
    let of = |network: u16, host: u16| {
        IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, network, 0, 0, 0, host))
    };
    assert_eq!(passed(&limits, &anonymous(), of(1, 1)), 5);
    assert_eq!(passed(&limits, &anonymous(), of(1, 2)), 0);
    assert_eq!(passed(&limits, &anonymous(), of(2, 1)), 5);
    let mapped = Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped();
    assert_eq!(passed(&limits, &anonymous(), mapped.into()), 5);
    assert_eq!(passed(&limits, &anonymous(), v4(1)), 0);
}

#[tokio::test(start_paused = true)]
async fn connections_are_counted_until_they_end() {
    let figures = Limit {
        connections: Some(2),
        ..limit("user:*")
    };
    let (limits, _) = limits(vec![figures]);
    let (alice, bob) = (user("alice", &[]), user("bob", &[]));
    let (mut one, mut two, mut three) = (None, None, None);
    for _ in 0..3 {
        limits.admit(&alice, v4(1), &mut one).unwrap();
        limits.admit(&alice, v4(1), &mut two).unwrap();
    }
    let exceeded = limits.admit(&alice, v4(1), &mut three).unwrap_err();
    assert_eq!(exceeded.figure, Figure::Connections);
    limits.admit(&bob, v4(1), &mut three).unwrap();
    drop(one);
    let mut four = None;
    limits.admit(&alice, v4(1), &mut four).unwrap();
    // A connection whose client becomes another's gives its place up.
    limits.admit(&bob, v4(1), &mut two).unwrap();
    limits.admit(&alice, v4(1), &mut None).unwrap();
    assert!(limits.admit(&bob, v4(1), &mut None).is_err());
}

#[tokio::test(start_paused = true)]
async fn bodies_are_slowed_down_together_and_in_turn() {
    let figures = Limit {
        bytes: Some(1000),
        ..limit("*")
    };
    let (limits, _) = limits(vec![figures]);
    let spending = || {
        limits
            .admit(&user("alice", &[]), v4(1), &mut None)
            .unwrap()
            .unwrap()
    };
    let (one, two) = (spending(), spending());
    tokio::time::advance(HOUR).await;
    let paces = [
        one.pace(600),
        two.pace(600),
        one.pace(600),
        two.pace(1000),
        one.pace(1),
    ];
    let ms = paces.map(|wait| u64::try_from(wait.as_millis()).unwrap());
    // A second's worth after the rest, then a byte each millisecond, in the order of the questions.
    assert_eq!(ms, [0, 0, 200, 800, 1800]);
    tokio::time::advance(Duration::from_millis(1801)).await;
    assert_eq!(one.pace(1), Duration::ZERO);
    assert_eq!(one.piece_max(), Some(16 * 1024));
    let other = limits
        .admit(&user("bob", &[]), v4(1), &mut None)
        .unwrap()
        .unwrap();
    assert_eq!(other.pace(1000), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_day_has_so_many_bytes_and_ends_at_midnight() {
    let figures = Limit {
        bytes_per_day: Some(1000),
        ..limit("address")
    };
    let (limits, clock) = limits(vec![figures]);
    let mut held = None;
    let ask = |held: &mut Option<Share>| limits.admit(&anonymous(), v4(1), held);
    let spending = ask(&mut held).unwrap().unwrap();
    assert_eq!(
        (spending.pace(5000), spending.piece_max()),
        (Duration::ZERO, None)
    );
    spending.spent(999);
    ask(&mut held).unwrap();
    spending.spent(1);
    let exceeded = ask(&mut held).unwrap_err();
    assert_eq!(
        (exceeded.figure, exceeded.wait),
        (Figure::BytesPerDay, HOUR)
    );
    assert!(
        limits.admit(&user("bob", &[]), v4(1), &mut None).is_err(),
        "by the address alone"
    );
    assert!(limits.admit(&anonymous(), v4(2), &mut None).is_ok());
    clock.advance(HOUR);
    ask(&mut held).unwrap();
}

/// Whoever has ever so many addresses takes no bucket from those who have one, and has one with his neighbours himself.
#[tokio::test(start_paused = true)]
async fn buckets_are_bounded_and_a_flood_of_addresses_disturbs_nobody() {
    let (limits, _) = limits(vec![requests("anonymous", 5)]);
    let table = &limits.rules[0].table;
    assert_eq!(passed(&limits, &anonymous(), v4(1)), 5);
    let flood = |from: u32, count: u32| {
        let addresses =
            (from..from + count).map(|it| IpAddr::from(Ipv4Addr::from((0xc000 << 16) + it)));
        addresses
            .map(|it| passed(&limits, &anonymous(), it))
            .sum::<usize>()
    };
    let all = u32::try_from(BUCKETS_MAX).unwrap();
    assert_eq!(flood(0, all - 1), 5 * (BUCKETS_MAX - 1));
    assert_eq!(flood(all, 1000), 5, "they share one");
    assert!(table.len() <= BUCKETS_MAX + 256);
    assert_eq!(passed(&limits, &anonymous(), v4(1)), 0, "it is remembered");
    tokio::time::advance(2 * bucket::REST).await;
    assert_eq!(passed(&limits, &anonymous(), v4(2)), 5);
    assert!(table.len() < 10, "those at rest are gone");
}

use super::*;
use crate::oci::Algorithm;

const A: EndpointId = EndpointId(0);
const B: EndpointId = EndpointId(1);
const C: EndpointId = EndpointId(2);
const ANYTHING: Need<'_> = Need {
    digest: None,
    bytes: false,
    explore: true,
};

fn health(count: usize, strategy: Strategy) -> Health {
    Health::new(count, strategy, Timings::default())
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn refused() -> FetchError {
    FetchError::Connect("refused".to_owned())
}

fn fail(health: &Health, endpoint: EndpointId, now: Instant) -> Option<Change> {
    let pass = health.admit(endpoint, now).unwrap();
    pass.failed(&refused(), of(0), now)
}

/// Fails until the breaker opens; gives for how long.
fn open(health: &Health, endpoint: EndpointId, now: Instant) -> Duration {
    for _ in 1..5 {
        assert_eq!(fail(health, endpoint, now), None);
    }
    match fail(health, endpoint, now) {
        Some(Change::Opened(pause)) => pause,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_breaker_opens_half_opens_and_closes() {
    let (health, begin) = (health(1, Strategy::Ordered), Instant::now());
    let pause = open(&health, A, begin);
    assert!(pause >= seconds(0.5) && pause <= seconds(1.0), "{pause:?}");

    // Fails as the last request did, and says how long it will.
    let FetchError::Connect(why) = health.admit(A, begin).unwrap_err() else {
        panic!("the kind of the last failure")
    };
    assert!(why.starts_with("refused (not asked again for "), "{why}");

    // One request only is let through then.
    let later = begin + pause;
    let probe = health.admit(A, later).unwrap();
    assert!(health.admit(A, later).is_err());
    assert_eq!(probe.answered(true), Some(Change::Closed));
    assert_eq!(health.admit(A, later).unwrap().answered(true), None);

    // It begins anew: five more open it, for the first pause.
    assert!(open(&health, A, later) <= seconds(1.0));
}

#[test]
fn a_probe_that_fails_doubles_the_pause_up_to_the_longest() {
    let (health, mut now) = (health(1, Strategy::Ordered), Instant::now());
    let mut pause = open(&health, A, now);
    for longest in [2.0, 4.0, 8.0, 16.0, 30.0, 30.0] {
        now += pause;
        pause = match fail(&health, A, now) {
            Some(Change::StaysOpen(pause)) => pause,
            other => panic!("{other:?}"),
        };
        assert!(pause >= seconds(longest / 2.0) && pause <= seconds(longest));
    }
}

#[test]
fn a_probe_that_is_dropped_leaves_its_place_to_the_next() {
    let (health, now) = (health(1, Strategy::Ordered), Instant::now());
    let later = now + open(&health, A, now);
    drop(health.admit(A, later).unwrap());
    let next = health.admit(A, later).unwrap();
    assert_eq!(next.answered(true), Some(Change::Closed));
}

#[test]
fn requests_sent_before_the_breaker_opened_change_nothing() {
    let (health, now) = (health(1, Strategy::Ordered), Instant::now());
    let before = [(), ()].map(|()| health.admit(A, now).unwrap());
    let pause = open(&health, A, now);
    let [good, bad] = before;
    assert_eq!(good.answered(true), None);
    assert!(health.admit(A, now).is_err());
    assert_eq!(bad.failed(&refused(), of(0), now), None);
    assert!(health.admit(A, now + pause).is_ok());
}

#[test]
fn an_answer_between_failures_begins_the_count_anew() {
    let (health, now) = (health(1, Strategy::Ordered), Instant::now());
    for _ in 0..10 {
        for _ in 0..4 {
            assert_eq!(fail(&health, A, now), None);
        }
        assert_eq!(health.admit(A, now).unwrap().answered(true), None);
    }
}

/// The only thing of its repository.
fn of(number: u64) -> Resource {
    Resource {
        repository: number,
        path: number,
    }
}

#[test]
fn heads_alone_do_not_make_an_endpoint_well_when_every_body_breaks() {
    let (health, begin) = (health(1, Strategy::Ordered), Instant::now());
    let broken = FetchError::Broken("cut".to_owned());
    let mut now = begin;
    let mut changes = Vec::new();
    for number in 0..5 {
        assert_eq!(health.admit(A, now).unwrap().answered(false), None);
        let times = (now, now + seconds(0.1));
        changes.push(health.body_failed(A, &broken, of(number), times));
        now += seconds(0.2);
    }
    assert_eq!(changes[..4], [None; 4]);
    let Some(Change::Opened(pause)) = changes[4] else {
        panic!("{changes:?}")
    };
    // A head closes it, and one more broken body opens it again, for longer.
    now += pause;
    let closed = health.admit(A, now).unwrap().answered(false);
    assert_eq!(closed, Some(Change::Closed));
    let again = health.body_failed(A, &broken, of(5), (now, now + seconds(0.1)));
    assert!(matches!(again, Some(Change::Opened(again)) if again >= seconds(1.0)));
}

#[test]
fn bodies_that_break_together_count_once() {
    let (health, now) = (health(1, Strategy::Ordered), Instant::now());
    let broken = FetchError::Broken("cut".to_owned());
    for number in 0..50 {
        let times = (now, now + seconds(1.0));
        assert_eq!(health.body_failed(A, &broken, of(number), times), None);
    }
    assert!(health.admit(A, now).is_ok());
}

#[test]
fn the_ordered_ones_come_as_written_and_open_ones_not_at_all() {
    let (health, now) = (health(3, Strategy::Ordered), Instant::now());
    assert_eq!(health.order(ANYTHING, now), [A, B, C]);
    let pause = open(&health, A, now);
    assert_eq!(health.order(ANYTHING, now), [B, C]);
    open(&health, B, now);
    open(&health, C, now);
    assert_eq!(health.order(ANYTHING, now).len(), 3, "never empty");
    // The first is tried again in its place.
    let health = self::health(3, Strategy::Ordered);
    open(&health, A, now);
    assert_eq!(health.order(ANYTHING, now + pause * 2)[0], A);
}

#[test]
fn a_distrusted_endpoint_comes_only_where_there_is_no_other_and_for_ten_minutes() {
    let (health, now) = (health(2, Strategy::Ordered), Instant::now());
    let bad = Digest::of(Algorithm::Sha256, b"bad");
    let good = Digest::of(Algorithm::Sha256, b"good");
    let order = |digest, now| {
        let digest = Some(digest);
        health.order(Need { digest, ..ANYTHING }, now)
    };
    health.distrust(A, &bad, now);
    assert_eq!(order(&bad, now), [B]);
    assert_eq!(order(&good, now), [A, B]);
    assert_eq!(order(&bad, now + Duration::from_mins(10)), [A, B]);
    // The one that is trusted cannot be asked.
    open(&health, B, now);
    assert_eq!(order(&bad, now), [A]);
    health.distrust(B, &bad, now);
    assert_eq!(order(&bad, now), [A]);
}

#[test]
fn ranges_are_tried_again_after_ten_minutes() {
    let (health, now) = (health(2, Strategy::Ordered), Instant::now());
    health.ignores_range(A, now);
    assert!(!health.honours_range(A, now));
    assert!(health.honours_range(B, now));
    assert!(health.honours_range(A, now + Duration::from_mins(10)));
}

#[test]
fn the_fastest_comes_first_and_the_unknown_get_a_turn() {
    let (health, now) = (health(3, Strategy::Fastest), Instant::now());
    assert_eq!(health.order(ANYTHING, now), [A, B, C]);
    health.head(A, seconds(0.2), now);
    health.head(B, seconds(0.1), now);
    // C has its turn at every second request, until it is known.
    assert_eq!(health.order(ANYTHING, now), [C, B, A]);
    assert_eq!(health.order(ANYTHING, now), [B, A, C]);
    assert_eq!(health.order(ANYTHING, now), [C, B, A]);
    health.head(C, seconds(0.3), now);
    for _ in 0..4 {
        assert_eq!(health.order(ANYTHING, now), [B, A, C]);
    }
    // Where the order is asked for without a request, nobody is tried.
    let later = now + Duration::from_mins(5);
    let explore = false;
    for _ in 0..4 {
        let need = Need {
            explore,
            ..ANYTHING
        };
        assert_eq!(health.order(need, later), [A, B, C], "all unknown again");
    }
}

#[test]
fn throughput_counts_where_bodies_are_long() {
    let (health, now) = (health(2, Strategy::Fastest), Instant::now());
    health.head(A, seconds(0.1), now);
    health.head(B, seconds(0.2), now);
    let bytes = Need {
        bytes: true,
        ..ANYTHING
    };
    // 1 MiB/s, and then a try for the other, which has 10.
    health.body_ended(A, 1 << 20, seconds(1.0), now);
    assert_eq!(health.order(bytes, now), [B, A]);
    health.body_ended(B, 10 << 20, seconds(1.0), now);
    assert_eq!(health.order(bytes, now), [B, A]);
    assert_eq!(health.order(ANYTHING, now), [A, B]);
    // The time of a small body is that of the round trip.
    health.body_ended(B, 1000, seconds(1.0), now);
    assert_eq!(health.order(bytes, now), [B, A]);
    // It has become slow, and that is noticed after a few bodies.
    for _ in 0..8 {
        health.body_ended(B, 1 << 20, seconds(20.0), now);
    }
    assert_eq!(health.order(bytes, now), [A, B]);
    // A failure makes it look slower.
    fail(&health, A, now);
    assert_eq!(health.order(ANYTHING, now), [A, B]);
    fail(&health, A, now);
    assert_eq!(health.order(ANYTHING, now), [B, A]);
}

/// The endpoint answers 500 to a request about the resource.
fn ill(health: &Health, resource: u64, now: Instant) -> Option<Change> {
    let pass = health.admit(A, now).unwrap();
    pass.failed(&FetchError::Status(500), of(resource), now)
}

#[test]
fn a_resource_that_always_fails_counts_once_until_the_endpoint_is_well() {
    let (health, now) = (health(1, Strategy::Ordered), Instant::now());
    for _ in 0..20 {
        assert_eq!(ill(&health, 1, now), None);
        assert_eq!(ill(&health, 2, now), None);
    }
    assert_eq!(ill(&health, 3, now), None);
    // Connections that fail say that it is the endpoint.
    assert_eq!(fail(&health, A, now), None);
    assert!(matches!(
        fail(&health, A, now),
        Some(Change::Opened(pause)) if pause <= seconds(1.0)
    ));
}

#[test]
fn a_probe_that_fails_as_what_it_asks_for_did_before_does_not_double_the_pause() {
    let (health, mut now) = (health(1, Strategy::Ordered), Instant::now());
    for resource in 1..5 {
        assert_eq!(ill(&health, resource, now), None);
    }
    let Some(Change::Opened(pause)) = ill(&health, 5, now) else {
        panic!("open")
    };
    for _ in 0..8 {
        now += pause;
        assert_eq!(ill(&health, 2, now), Some(Change::StaysOpen(pause)));
    }
    now += pause;
    let Some(Change::StaysOpen(longer)) = ill(&health, 6, now) else {
        panic!("open")
    };
    assert!(longer >= seconds(1.0), "{longer:?}");
}

#[test]
fn a_rest_is_for_everything_and_at_the_same_resource_again_for_that_alone() {
    let (health, now) = (health(2, Strategy::Ordered), Instant::now());
    let wait = seconds(30.0);
    let busy = |resource, now| {
        let pass = health.admit(A, now).unwrap();
        let error = FetchError::Unavailable { retry_after: wait };
        pass.failed(&error, of(resource), now)
    };
    let rests = |resource, now| health.refusal(A, of(resource), now).is_some();
    assert_eq!(busy(1, now), Some(Change::Rests(wait)));
    assert!(rests(1, now) && rests(2, now));
    assert_eq!(health.order(ANYTHING, now), [B]);
    let again = now + wait;
    assert!(!rests(1, again) && !rests(2, again));
    assert_eq!(busy(1, again), None);
    assert!(rests(1, again) && !rests(2, again));
    assert_eq!(health.order(ANYTHING, again), [A, B]);
    assert_eq!(busy(2, again), Some(Change::Rests(wait)));
    assert!(rests(1, again) && rests(2, again));
}

/// A scanner on the way may break one image for ever: nobody else is to lose the registry for it.
#[test]
fn one_body_that_always_breaks_counts_once() {
    let (health, mut now) = (health(1, Strategy::Ordered), Instant::now());
    let broken = FetchError::Broken("cut".to_owned());
    for _ in 0..50 {
        assert_eq!(health.admit(A, now).unwrap().answered(false), None);
        let times = (now, now + seconds(0.1));
        assert_eq!(health.body_failed(A, &broken, of(1), times), None);
        now += seconds(0.2);
    }
}

/// One repository that is offline, and says when to come back, for each of its tags.
#[test]
fn a_repository_that_rests_rests_alone_where_others_are_well() {
    let (health, mut now) = (health(1, Strategy::Ordered), Instant::now());
    let tag = |path| Resource {
        repository: 1,
        path,
    };
    let rests = |resource, now| health.refusal(A, resource, now).is_some();
    for path in 0..20 {
        assert_eq!(health.admit(A, now).unwrap().answered(true), None);
        now += seconds(1.0);
        let error = FetchError::Unavailable {
            retry_after: seconds(30.0),
        };
        let pass = health.admit(A, now).unwrap();
        assert_eq!(pass.failed(&error, tag(path), now), None);
        assert!(rests(tag(99), now) && !rests(of(2), now));
        // Of the breaker's count there is one for each tag, and the answers between begin it anew.
        now += seconds(1.0);
    }
}

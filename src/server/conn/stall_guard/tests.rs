use super::*;
use std::time::Duration;

fn watch() -> Arc<Watch> {
    Watch::new(([192, 0, 2, 1], 4711).into(), true, Buffers::default())
}

/// The usual limits, and what is said of a connection that is looked at each second for so long.
fn looked_at(watch: &Watch, seconds: u64, is_pressed: bool, each: impl Fn()) -> Option<(u64, Why)> {
    let start = Instant::now();
    (0..seconds).find_map(|second| {
        each();
        let now = start + Duration::from_secs(second);
        let said = watch.look(now, &Limits::default(), is_pressed);
        said.map(|(why, _)| (second, why))
    })
}

fn goes(watch: &Watch) -> bool {
    watch.order.load(Ordering::Relaxed) == GO
}

#[tokio::test]
async fn a_head_that_does_not_end_is_over_at_its_time() {
    let silent = watch();
    assert_eq!(looked_at(&silent, 60, false, || {}), Some((10, Why::Head)));
    assert!(goes(&silent));
    let dripping = watch();
    let drip = || dripping.read(1);
    assert_eq!(looked_at(&dripping, 60, false, drip), Some((10, Why::Head)));
    let second = watch();
    second.read(100);
    drop(second.begin(false));
    second.read(1);
    let said = looked_at(&second, 60, false, || {});
    assert_eq!(said, Some((10, Why::Head)));
}

#[tokio::test]
async fn an_idle_connection_is_asked_to_leave_and_then_told_to() {
    for is_http2 in [false, true] {
        let idle = watch();
        if is_http2 {
            idle.speaks_http2();
        }
        idle.read(100);
        drop(idle.begin(is_http2));
        // Signs of life are no requests.
        let alive = || {
            if is_http2 {
                idle.read(17);
            }
        };
        assert_eq!(looked_at(&idle, 100, false, alive), None);
        assert!(!idle.is_to_leave());
        let start = Instant::now();
        let limits = Limits::default();
        let at = |seconds| start + Duration::from_secs(seconds);
        idle.look(at(101), &limits, false);
        assert!(idle.is_to_leave() && !goes(&idle));
        idle.look(at(112), &limits, false);
        assert!(goes(&idle));
    }
}

#[tokio::test]
async fn a_connection_that_takes_nothing_stalls_and_one_that_waits_for_us_does_not() {
    let ours = watch();
    let _running = ours.begin(false);
    assert_eq!(looked_at(&ours, 1000, true, || {}), None);
    let stalled = watch();
    let _running = stalled.begin(false);
    stalled.blocked(true);
    let said = looked_at(&stalled, 1000, false, || {});
    assert_eq!(said, Some((300, Why::Stall)));
    let slow = watch();
    let _running = slow.begin(false);
    slow.blocked(true);
    assert_eq!(looked_at(&slow, 1000, false, || slow.wrote(1)), None);
    let said = looked_at(&slow, 1000, true, || slow.wrote(1));
    assert_eq!(said.map(|(_, why)| why), Some(Why::Rate));
}

#[tokio::test]
async fn under_pressure_a_slow_stream_goes_and_the_others_do_not() {
    let watch = watch();
    watch.speaks_http2();
    let (slow, fast, ours) = (watch.begin(true), watch.begin(true), watch.begin(true));
    for running in [&slow, &fast] {
        running.flow.turn(true);
    }
    let each = || {
        for (running, bytes) in [(&slow, 100), (&fast, 100_000)] {
            running.flow.hand_over(bytes);
            running.flow.let_go(bytes);
        }
    };
    assert_eq!(looked_at(&watch, 100, false, each), None);
    let said = looked_at(&watch, 100, true, each);
    assert_eq!(said.map(|(_, why)| why), Some(Why::Rate));
    let is_over = |running: &Running| {
        let waker = futures_util::task::noop_waker();
        running.flow.is_over(&waker)
    };
    assert!(is_over(&slow) && !is_over(&fast) && !is_over(&ours));
    assert!(!goes(&watch));
}

#[tokio::test]
async fn what_hyper_has_let_go_of_and_nobody_takes_ends_the_connection() {
    let watch = watch();
    watch.speaks_http2();
    let (ended, other) = (watch.begin(true), watch.begin(true));
    let flow = Arc::clone(&ended.flow);
    flow.hand_over(100);
    drop(ended);
    let said = looked_at(&watch, 1000, false, || {});
    assert_eq!(said, Some((300, Why::Stall)));
    assert!(watch.is_to_leave() && !goes(&watch), "another still runs");
    drop(other);
    assert!(looked_at(&watch, 302, false, || {}).is_some());
    assert!(goes(&watch));
}

#[tokio::test]
async fn requests_may_be_taken_back_but_not_for_ever() {
    let few = watch();
    few.speaks_http2();
    let take_back = |watch: &Arc<Watch>, count| (0..count).for_each(|_| drop(watch.begin(true)));
    assert_eq!(looked_at(&few, 90, false, || take_back(&few, 100)), None);
    let many = watch();
    many.speaks_http2();
    let said = looked_at(&many, 90, false, || take_back(&many, 500));
    assert_eq!(said.map(|(_, why)| why), Some(Why::Resets));
    assert!(many.flows.count() <= flows::FLOWS_KEPT_MAX);
}

/// The time between two looks was cut to whole seconds: two pulls given up within two looks, 1.9 s apart, were too much.
#[tokio::test]
async fn requests_taken_back_are_measured_by_the_time_that_has_passed() {
    let watch = watch();
    watch.speaks_http2();
    (0..256).for_each(|_| drop(watch.begin(true)));
    let later = Instant::now() + Duration::from_millis(1900);
    assert_eq!(watch.look(later, &Limits::default(), false), None);
    (0..300).for_each(|_| drop(watch.begin(true)));
    let later = later + Duration::from_millis(1100);
    let said = watch.look(later, &Limits::default(), false);
    assert_eq!(said, Some((Why::Resets, 1)));
}

#[tokio::test]
async fn a_client_that_has_shown_nothing_gets_little_ahead() {
    let flow = Flow::default();
    let waker = futures_util::task::noop_waker();
    let ahead = |flow: &Flow| {
        let mut bytes = 0;
        while flow.has_room(&waker) {
            flow.hand_over(1024);
            bytes += 1024;
        }
        flow.let_go(bytes);
        bytes
    };
    assert_eq!(ahead(&flow), 16 * 1024);
    flow.hand_over(1 << 20);
    flow.let_go(1 << 20);
    assert_eq!(ahead(&flow), 128 * 1024);
}

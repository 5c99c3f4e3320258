use super::*;
use http::HeaderValue;

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.insert(*name, HeaderValue::from_static(value));
    }
    headers
}

#[test]
fn docker_hubs_headers_are_read() {
    let said = RateLimitHeaders::read(&headers(&[
        ("ratelimit-limit", "100;w=21600"),
        ("ratelimit-remaining", "76;w=21600"),
        ("docker-ratelimit-source", "192.0.2.1"),
    ]));
    let expected = RateLimitHeaders {
        limit: Some(100),
        remaining: Some(76),
        window: Some(Duration::from_hours(6)),
        source: Some("192.0.2.1".to_owned()),
    };
    assert_eq!(said, expected);
    let bare = RateLimitHeaders::read(&headers(&[("ratelimit-remaining", " 5 ")]));
    assert_eq!((bare.remaining, bare.window), (Some(5), None));
    for nonsense in ["", "many", "-1;w=9", ";w=x"] {
        let said = RateLimitHeaders::read(&headers(&[("ratelimit-remaining", nonsense)]));
        assert_eq!(said, RateLimitHeaders::default(), "{nonsense}");
    }
}

#[test]
fn ghcrs_text_is_read() {
    let micros = |micros| Some(Duration::from_nanos(micros));
    let text = "retry-after: 880.092\u{b5}s, allowed: 44000/minute";
    assert_eq!(retry_after_in(text), micros(880_092));
    let text = "too many requests. Retry-After: 1m30.5s";
    assert_eq!(retry_after_in(text), Some(Duration::from_millis(90_500)));
    for none in [
        "",
        "retry-after:",
        "retry-after: soon",
        "allowed: 44000/minute",
    ] {
        assert_eq!(retry_after_in(none), None, "{none}");
    }
    assert_eq!(retry_after_in("retry-after: 9000h"), Some(RETRY_AFTER_MAX));
}

#[test]
fn go_durations() {
    let cases = [
        ("1ns", 1e-9),
        ("2us", 2e-6),
        ("2\u{b5}s", 2e-6),
        ("2\u{3bc}s", 2e-6),
        ("3.5ms", 3.5e-3),
        ("4s", 4.0),
        ("1m30.5s", 90.5),
        ("1h2m3s", 3723.0),
        ("0", 0.0),
        ("0s", 0.0),
    ];
    for (text, seconds) in cases {
        let expected = Duration::from_secs_f64(seconds);
        assert_eq!(go_duration(text), Some(expected), "{text}");
    }
    let bad = [
        "",
        "1",
        "s",
        "-1s",
        "1d",
        "1.2.3s",
        "1s2",
        ".s",
        "99999999999999999999h",
    ];
    for text in bad {
        assert_eq!(go_duration(text), None, "{text}");
    }
}

#[test]
fn a_limit_is_kept_as_long_as_said() {
    let (limit, now) = (Limit::new(Timings::default()), Instant::now());
    assert_eq!(limit.until(Cost::Pull, now), None);
    let wait = Duration::from_secs(7);
    assert_eq!(limit.limited(Cost::Pull, Some(wait), now), (wait, true));
    assert_eq!(limit.until(Cost::Pull, now), Some(now + wait));
    // What was under way does not make it shorter, and is no news.
    let shorter = Duration::from_secs(3);
    assert_eq!(
        limit.limited(Cost::Pull, Some(shorter), now),
        (shorter, false)
    );
    assert_eq!(limit.until(Cost::Pull, now), Some(now + wait));
    assert_eq!(limit.until(Cost::Pull, now + wait), None);
}

#[test]
fn without_a_word_the_guess_doubles_until_an_answer_comes() {
    let (limit, mut now) = (Limit::new(Timings::default()), Instant::now());
    for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
        let guess = Duration::from_secs(seconds);
        assert_eq!(limit.limited(Cost::Pull, None, now), (guess, true));
        // Questions that were under way together are one refusal.
        assert_eq!(limit.limited(Cost::Pull, None, now), (guess, false));
        now += guess;
    }
    limit.answered(Cost::Pull, Turn::Usual);
    assert_eq!(
        limit.limited(Cost::Pull, None, now).0,
        Duration::from_secs(1)
    );
}

#[test]
fn a_wait_that_is_absurdly_short_grows_while_it_does_not_help() {
    let (limit, mut now) = (Limit::new(Timings::default()), Instant::now());
    let said = Some(Duration::from_micros(880));
    for millis in [50, 100, 200, 400, 800, 1000, 1000] {
        let (wait, _) = limit.limited(Cost::Pull, said, now);
        assert_eq!(wait.as_millis(), millis);
        now += wait;
    }
}

#[test]
fn what_remains_is_known_for_its_window_and_is_no_limit() {
    let (limit, now) = (Limit::new(Timings::default()), Instant::now());
    assert_eq!(limit.remaining(now), None);
    let said = headers(&[("ratelimit-remaining", "0;w=60")]);
    limit.note(&RateLimitHeaders::read(&said), now);
    assert_eq!(limit.remaining(now), Some(0));
    assert_eq!(limit.until(Cost::Pull, now), None);
    assert_eq!(limit.remaining(now + Duration::from_mins(1)), None);
}

#[test]
fn a_limit_of_pulls_leaves_the_rest_and_a_limit_of_the_rest_leaves_nothing() {
    let (limit, now) = (Limit::new(Timings::default()), Instant::now());
    let wait = Duration::from_mins(1);
    limit.limited(Cost::Pull, Some(wait), now);
    assert_eq!(limit.until(Cost::Pull, now), Some(now + wait));
    assert_eq!(limit.until(Cost::Nothing, now), None);
    limit.limited(Cost::Nothing, Some(2 * wait), now);
    assert_eq!(limit.until(Cost::Nothing, now), Some(now + 2 * wait));
    assert_eq!(limit.until(Cost::Pull, now), Some(now + 2 * wait));
}

#[test]
fn blobs_that_are_given_do_not_shorten_the_wait_for_pulls() {
    let (limit, mut now) = (Limit::new(Timings::default()), Instant::now());
    for seconds in [1, 2, 4, 8] {
        let (wait, _) = limit.limited(Cost::Pull, None, now);
        assert_eq!(wait, Duration::from_secs(seconds));
        limit.answered(Cost::Nothing, Turn::Usual);
        now += wait;
    }
    // Who is given a pull is given everything.
    limit.limited(Cost::Nothing, None, now);
    limit.answered(Cost::Pull, Turn::Usual);
    now += Duration::from_mins(1);
    for cost in [Cost::Nothing, Cost::Pull] {
        let (wait, _) = limit.limited(cost, None, now);
        assert_eq!(wait, Duration::from_secs(1), "{cost:?}");
        now += wait;
    }
}

#[test]
fn a_long_limit_is_probed_by_one_request_every_few_minutes() {
    let (limit, mut now) = (Limit::new(Timings::default()), Instant::now());
    let day = Duration::from_hours(24);
    limit.limited(Cost::Pull, Some(day), now);
    for _ in 0..3 {
        assert_eq!(limit.take(Cost::Pull, now), None);
        assert_eq!(limit.take(Cost::Nothing, now), Some(Turn::Usual));
        assert_eq!(limit.until(Cost::Pull, now), Some(now + PROBE_EVERY));
        now += PROBE_EVERY;
        assert_eq!(limit.take(Cost::Pull, now), Some(Turn::Probe));
        assert_eq!(limit.take(Cost::Pull, now), None, "one at a time");
        // It is no news.
        assert!(!limit.limited(Cost::Pull, Some(day), now).1);
    }
    // An answer to what was asked before says nothing, that to the probe opens.
    limit.answered(Cost::Pull, Turn::Usual);
    assert_eq!(limit.take(Cost::Pull, now), None);
    now += PROBE_EVERY;
    let turn = limit.take(Cost::Pull, now).unwrap();
    assert!(limit.answered(Cost::Pull, turn));
    for _ in 0..3 {
        assert_eq!(limit.take(Cost::Pull, now), Some(Turn::Usual));
    }
    // A shorter one is kept to its end, whatever was left of the long one.
    limit.limited(Cost::Pull, Some(PROBED_ABOVE), now);
    assert_eq!(limit.until(Cost::Pull, now), Some(now + PROBED_ABOVE));
    assert_eq!(limit.take(Cost::Pull, now + PROBE_EVERY), None);
    let after = now + PROBED_ABOVE;
    assert_eq!(limit.take(Cost::Pull, after), Some(Turn::Usual));
}

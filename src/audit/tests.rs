#![allow(clippy::disallowed_methods, reason = "a test owns its files")]

use super::event::Weight;
use super::*;
use crate::clock::{ManualClock, Timestamp};
use serde_json::{Value, json};
use std::path::Path;

const WAIT: Duration = Duration::from_secs(10);

fn config(dir: &Path, max_size: u64, keep: usize) -> Config {
    Config {
        path: dir.join("audit.log"),
        max_size,
        keep,
    }
}

fn open(config: &Config) -> (Audit, Metrics) {
    let metrics = Metrics::new(std::iter::empty());
    let clock = Arc::new(ManualClock::new(Timestamp(1_790_000_000_123)));
    let audit = Audit::open(config, clock, metrics.clone()).unwrap();
    (audit, metrics)
}

fn asker(name: &str) -> Asker<'_> {
    Asker {
        who: Who { kind: "user", name },
        token: None,
        client: "192.0.2.1:4711",
        request_id: Some("ab-1"),
    }
}

fn denial() -> Event<'static> {
    Event::Denied(Denial {
        action: "pull",
        resource: "mirror/docker.io/acme/secret",
        statement: "team#2",
        enforced: true,
    })
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_record_is_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), MAX_SIZE, KEEP);
    let (audit, _) = open(&config);
    let odd = "bob\u{202e}\n\"";
    audit.record(&asker("alice"), &denial());
    let asker = Asker {
        who: Who {
            kind: "anonymous",
            name: "",
        },
        token: Some("abc"),
        client: "192.0.2.1:1",
        request_id: None,
    };
    audit.record(
        &asker,
        &Event::Login(Login {
            method: "password",
            result: "rejected",
            user: Some(odd),
        }),
    );
    audit.close(WAIT);
    let expected = [
        json!({
            "time": "2026-09-21T14:13:20.123Z", "event": "denied", "action": "pull",
            "resource": "mirror/docker.io/acme/secret", "statement": "team#2", "enforced": true,
            "who": { "kind": "user", "name": "alice" }, "client": "192.0.2.1:4711", "request_id": "ab-1",
        }),
        json!({
            "time": "2026-09-21T14:13:20.123Z", "event": "login", "method": "password", "result": "rejected",
            "user": odd, "who": { "kind": "anonymous" }, "token": "abc", "client": "192.0.2.1:1",
        }),
    ];
    assert_eq!(lines(&config.path), expected);
    let text = std::fs::read_to_string(&config.path).unwrap();
    assert!(!text.contains('\u{202e}'), "it is escaped: {text}");
}

#[test]
fn the_file_is_rotated_by_its_size_and_no_line_is_lost_or_cut() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), 1000, 3);
    let (audit, _) = open(&config);
    for number in 0..20 {
        audit.record(&asker(&format!("u{number}")), &denial());
    }
    audit.close(WAIT);
    let mut names = Vec::new();
    for end in [".3", ".2", ".1", ""] {
        let path = dir.path().join(format!("audit.log{end}"));
        assert!(path.metadata().unwrap().len() <= 1000, "{end}");
        names.extend(lines(&path).iter().map(|line| line["who"]["name"].clone()));
    }
    // The oldest are gone with their file, and none between them.
    assert!((10..20).contains(&names.len()), "{names:?}");
    let expected: Vec<Value> = (20 - names.len()..20)
        .map(|it| format!("u{it}").into())
        .collect();
    assert_eq!(names, expected);
    assert!(!dir.path().join("audit.log.4").exists());
}

#[test]
fn a_line_that_a_crash_has_cut_off_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), 0, 1);
    std::fs::write(&config.path, "{\"time\":").unwrap();
    let (audit, _) = open(&config);
    audit.record(&asker("alice"), &denial());
    audit.close(WAIT);
    let text = std::fs::read_to_string(&config.path).unwrap();
    let (cut, rest) = text.split_once('\n').unwrap();
    assert_eq!(cut, "{\"time\":");
    assert!(rest.starts_with('{') && rest.ends_with("}\n"));
}

#[test]
fn a_file_that_was_renamed_is_opened_again_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), 0, 1);
    let (audit, _) = open(&config);
    audit.record(&asker("alice"), &denial());
    let moved = dir.path().join("moved");
    while lines(&config.path).is_empty() {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::fs::rename(&config.path, &moved).unwrap();
    audit.reopen();
    while !config.path.exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    audit.record(&asker("bob"), &denial());
    audit.close(WAIT);
    assert_eq!(lines(&moved)[0]["who"]["name"], "alice");
    assert_eq!(lines(&config.path)[0]["who"]["name"], "bob");
}

#[test]
fn what_cannot_be_opened_is_an_error_of_the_start() {
    let dir = tempfile::tempdir().unwrap();
    for path in [
        dir.path().join("nowhere/audit.log"),
        dir.path().to_owned(),
        "/dev/null".into(),
    ] {
        let config = Config {
            path: path.clone(),
            ..config(dir.path(), 0, 1)
        };
        let clock = Arc::new(ManualClock::new(Timestamp(0)));
        let error = Audit::open(&config, clock, Metrics::new(std::iter::empty())).unwrap_err();
        let error = error.to_string();
        let expected = format!("audit.path: cannot open {}: ", path.display());
        assert!(error.starts_with(&expected), "{error}");
    }
}

/// Nobody writes: a queue without its thread.
#[test]
fn what_has_no_room_is_dropped_and_counted_and_operators_have_more_than_clients() {
    let metrics = Metrics::new(std::iter::empty());
    let clock = Arc::new(ManualClock::new(Timestamp(0)));
    let queue = Arc::new(Queue::new(metrics.clone(), clock));
    let line = format!("{}\n", "x".repeat(1023));
    let fill = |weight: Weight| {
        let before = dropped(&metrics);
        for _ in 0..5000 {
            queue.push(weight, &line);
        }
        5000 - (dropped(&metrics) - before)
    };
    assert_eq!(fill(Weight::Pull), 2048);
    assert_eq!(fill(Weight::Login), 1024);
    assert_eq!(fill(Weight::Act), 1024);
    assert_eq!(fill(Weight::Pull), 0);
    // Once it is written again, a line says so.
    let dir = tempfile::tempdir().unwrap();
    let of_file = config(dir.path(), 0, 1);
    let opened = AuditFile::open(of_file.clone()).unwrap();
    let of_thread = Arc::clone(&queue);
    let thread = std::thread::spawn(move || of_thread.write(opened));
    queue.close(WAIT);
    thread.join().unwrap();
    let text = std::fs::read_to_string(&of_file.path).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&last["event"], &last["records"]),
        (&json!("dropped"), &json!(15904))
    );
    assert_eq!(text.lines().count(), 4097);
}

#[test]
fn a_file_that_fails_is_tried_again_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("logs");
    std::fs::create_dir(&inner).unwrap();
    let config = config(&inner, 0, 1);
    let (audit, metrics) = open(&config);
    std::fs::remove_dir_all(&inner).unwrap();
    audit.reopen();
    let failed = || metrics.render().contains("\nroadstead_audit_failed 1");
    while !failed() {
        std::thread::sleep(Duration::from_millis(5));
    }
    audit.record(&asker("alice"), &denial());
    std::fs::create_dir(&inner).unwrap();
    while failed() {
        std::thread::sleep(Duration::from_millis(20));
    }
    audit.close(WAIT);
    assert_eq!(lines(&config.path).len(), 1);
    assert_eq!(dropped(&metrics), 0);
}

fn dropped(metrics: &Metrics) -> u64 {
    let text = metrics.render();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("roadstead_audit_dropped_total "));
    line.unwrap().parse().unwrap()
}

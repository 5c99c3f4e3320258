use super::*;
use prometheus::proto::{LabelPair, Metric};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

const UPSTREAMS: [&str; 2] = ["docker.io", "localhost:5000"];

fn metrics() -> Metrics {
    Metrics::new(UPSTREAMS.into_iter())
}

/// The value of one sample, by its text before the value.
fn sample(metrics: &Metrics, series: &str) -> Option<f64> {
    let text = metrics.render();
    let prefix = format!("{series} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&prefix))?;
    Some(line.parse().unwrap())
}

/// Uses every recording function with every value of the closed enums, and with names and statuses
/// that are not of the closed sets.
fn use_everything(metrics: &Metrics) {
    for upstream in ["docker.io", "localhost:5000", "", "evil.example"] {
        for kind in Kind::ALL {
            for outcome in Outcome::ALL {
                metrics.request(kind, upstream, outcome);
                metrics.first_byte(kind, outcome, 0.02);
            }
            metrics.client_bytes(kind, upstream, 1);
            for status in [
                "200", "599", "timeout", "connect", "error", "lost", "999", "x", "20",
            ] {
                metrics.upstreams().request(upstream, kind, status);
            }
        }
        metrics.upstreams().bytes(upstream, 1);
        metrics.upstreams().ratelimit_remaining(upstream, 7);
        metrics.upstreams().ratelimit_limit(upstream, 100);
        metrics
            .upstreams()
            .limited(upstream, Some(Instant::now() + Duration::from_mins(1)));
        metrics
            .upstreams()
            .endpoint_up(upstream, "mirror.example:8443", false);
        metrics.upstreams().retry(upstream);
        metrics.upstreams().failover(upstream);
    }
    metrics.cache().evicted(EvictReason::Size, 1);
    metrics.cache().evicted(EvictReason::Damaged, 1);
    for op in DiskOp::ALL {
        metrics.disk().failed(op);
    }
    metrics.disk().degraded(true);
    metrics.catalogue().degraded(true);
    metrics.catalogue().changes(1, true);
    metrics.catalogue().changes(1, false);
    metrics.cache().holds(1, 1, 1);
    metrics.fills_in_flight(1);
    metrics.readers_in_flight(1);
}

/// The contract: the names, types and labels that dashboards and alerts are built on.
const CONTRACT: [(&str, &str, &[&str]); 49] = [
    ("roadstead_audit_dropped_total", "counter", &[]),
    ("roadstead_audit_failed", "gauge", &[]),
    ("roadstead_auth_total", "counter", &["method", "result"]),
    ("roadstead_build_info", "gauge", &["commit", "version"]),
    ("roadstead_cache_blobs", "gauge", &[]),
    ("roadstead_cache_bytes", "gauge", &[]),
    ("roadstead_cache_max_bytes", "gauge", &[]),
    ("roadstead_catalogue_changes_total", "counter", &["result"]),
    ("roadstead_catalogue_degraded", "gauge", &[]),
    (
        "roadstead_client_bytes_total",
        "counter",
        &["kind", "upstream"],
    ),
    ("roadstead_clients_seen", "gauge", &[]),
    ("roadstead_cluster_members", "gauge", &[]),
    ("roadstead_config_reload_success", "gauge", &[]),
    (
        "roadstead_config_reload_success_timestamp_seconds",
        "gauge",
        &[],
    ),
    ("roadstead_config_restart_required", "gauge", &[]),
    ("roadstead_connections", "gauge", &["listener"]),
    ("roadstead_evicted_bytes_total", "counter", &["reason"]),
    (
        "roadstead_fill_bytes_total",
        "counter",
        &["source", "upstream"],
    ),
    ("roadstead_fills_in_flight", "gauge", &[]),
    (
        "roadstead_first_byte_seconds",
        "histogram",
        &["kind", "outcome"],
    ),
    ("roadstead_gc_queue", "gauge", &[]),
    ("roadstead_hosted_bytes", "gauge", &[]),
    ("roadstead_limited_total", "counter", &["limit"]),
    ("roadstead_log_lines_dropped_total", "counter", &[]),
    ("roadstead_node_requests_total", "counter", &["status"]),
    ("roadstead_node_served_bytes_total", "counter", &["kind"]),
    (
        "roadstead_node_served_total",
        "counter",
        &["kind", "outcome"],
    ),
    ("roadstead_readers_in_flight", "gauge", &[]),
    (
        "roadstead_requests_total",
        "counter",
        &["kind", "outcome", "upstream"],
    ),
    ("roadstead_scrub_bytes_total", "counter", &[]),
    ("roadstead_scrub_damaged_total", "counter", &[]),
    ("roadstead_store_degraded", "gauge", &[]),
    ("roadstead_store_errors_total", "counter", &["op"]),
    ("roadstead_tier_errors_total", "counter", &["op"]),
    ("roadstead_tier_pending_bytes", "gauge", &[]),
    ("roadstead_tier_redirects_total", "counter", &[]),
    ("roadstead_tier_written_bytes_total", "counter", &[]),
    ("roadstead_traces_dropped_total", "counter", &["reason"]),
    ("roadstead_traces_exported_total", "counter", &[]),
    ("roadstead_uploads_in_flight", "gauge", &[]),
    ("roadstead_upstream_bytes_total", "counter", &["upstream"]),
    (
        "roadstead_upstream_endpoint_up",
        "gauge",
        &["endpoint", "upstream"],
    ),
    (
        "roadstead_upstream_failovers_total",
        "counter",
        &["upstream"],
    ),
    ("roadstead_upstream_limited", "gauge", &["upstream"]),
    ("roadstead_upstream_ratelimit_limit", "gauge", &["upstream"]),
    (
        "roadstead_upstream_ratelimit_remaining",
        "gauge",
        &["upstream"],
    ),
    (
        "roadstead_upstream_requests_total",
        "counter",
        &["kind", "status", "upstream"],
    ),
    ("roadstead_upstream_retries_total", "counter", &["upstream"]),
    (
        "roadstead_upstream_retry_after_seconds",
        "gauge",
        &["upstream"],
    ),
];

#[test]
fn names_types_and_labels_are_those_of_the_contract() {
    let metrics = metrics();
    use_everything(&metrics);
    // Rendering makes those that change as time passes.
    assert!(!metrics.render().is_empty());
    let families = metrics.inner.registry.gather();
    let found: Vec<(&str, String, BTreeSet<&str>)> = families
        .iter()
        .map(|family| {
            let pairs = family.get_metric().iter().flat_map(Metric::get_label);
            (
                family.name(),
                format!("{:?}", family.get_field_type()).to_lowercase(),
                pairs.map(LabelPair::name).collect(),
            )
        })
        .collect();
    let expected: Vec<(&str, String, BTreeSet<&str>)> = CONTRACT
        .iter()
        .map(|(name, kind, labels)| (*name, (*kind).to_owned(), labels.iter().copied().collect()))
        .collect();
    assert_eq!(found, expected);
}

/// The contract's outcomes.
const OUTCOMES: [&str; 11] = [
    "hit",
    "miss",
    "collapsed",
    "stale",
    "partial",
    "bypass",
    "not_found",
    "denied",
    "limited",
    "rejected",
    "error",
];

/// Limits.
const LIMITS: [&str; 13] = [
    "connections",
    "head",
    "body_stall",
    "body_rate",
    "resets",
    "buffers",
    "questions",
    "transfers",
    "passes",
    "upstream_connections",
    "access_requests",
    "access_bytes_per_day",
    "access_connections",
];

/// Kinds of credentials.
const METHODS: [&str; 6] = [
    "password",
    "token",
    "certificate",
    "oidc",
    "ldap",
    "unknown",
];

/// Results of changes and of logins.
const RESULTS: [&str; 6] = [
    "committed",
    "failed",
    "accepted",
    "rejected",
    "limited",
    "unavailable",
];

#[test]
fn every_label_value_is_from_a_closed_set() {
    let metrics = metrics();
    use_everything(&metrics);
    let mut values: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for family in metrics.inner.registry.gather() {
        for pair in family.get_metric().iter().flat_map(Metric::get_label) {
            values
                .entry(pair.name().to_owned())
                .or_default()
                .insert(pair.value().to_owned());
        }
    }
    let set = |values: &[&str]| values.iter().map(|v| (*v).to_owned()).collect();
    let expected = BTreeMap::from([
        ("commit".to_owned(), set(&[crate::format::COMMIT])),
        ("version".to_owned(), set(&[crate::format::VERSION])),
        ("endpoint".to_owned(), set(&["mirror.example:8443"])),
        (
            "kind".to_owned(),
            set(&["manifest", "blob", "tags", "referrers", "upload", "other"]),
        ),
        ("limit".to_owned(), set(&LIMITS)),
        ("method".to_owned(), set(&METHODS)),
        ("listener".to_owned(), set(&["client", "admin"])),
        (
            "op".to_owned(),
            DiskOp::ALL
                .map(DiskOp::label)
                .into_iter()
                .chain(["get", "head", "put", "list", "sign"])
                .map(str::to_owned)
                .collect(),
        ),
        ("outcome".to_owned(), set(&OUTCOMES)),
        (
            "reason".to_owned(),
            set(&[
                // Of evictions, and of spans.
                "size",
                "damaged",
                "removed",
                "age",
                "full",
                "limit",
                "refused",
                "unreachable",
            ]),
        ),
        ("result".to_owned(), set(&RESULTS)),
        (
            "status".to_owned(),
            set(&[
                "200", "206", "304", "401", "404", "429", "503", "599", "timeout", "connect",
                "error", "lost",
            ]),
        ),
        ("source".to_owned(), set(&["peer", "tier", "upstream"])),
        (
            "upstream".to_owned(),
            set(&["", "docker.io", "localhost:5000"]),
        ),
    ]);
    assert_eq!(values, expected);
}

#[test]
fn every_name_is_shown_from_the_start() {
    let text = metrics().render();
    for (name, kind, _) in CONTRACT {
        assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name}");
        assert!(text.contains(&format!("# HELP {name} ")), "{name}");
    }
    for series in [
        r#"roadstead_requests_total{kind="blob",outcome="collapsed",upstream="localhost:5000"} 0"#,
        r#"roadstead_client_bytes_total{kind="manifest",upstream="docker.io"} 0"#,
        r#"roadstead_upstream_requests_total{kind="blob",status="timeout",upstream="docker.io"} 0"#,
        r#"roadstead_evicted_bytes_total{reason="damaged"} 0"#,
        r#"roadstead_limited_total{limit="upstream_connections"} 0"#,
        "roadstead_fills_in_flight 0",
        "roadstead_store_degraded 0",
        "roadstead_catalogue_degraded 0",
        r#"roadstead_catalogue_changes_total{result="failed"} 0"#,
        r#"roadstead_store_errors_total{op="sync_index"} 0"#,
        r#"roadstead_upstream_limited{upstream="docker.io"} 0"#,
        r#"roadstead_upstream_retry_after_seconds{upstream="docker.io"} 0"#,
        r#"roadstead_upstream_retries_total{upstream="docker.io"} 0"#,
        r#"roadstead_upstream_failovers_total{upstream="localhost:5000"} 0"#,
    ] {
        assert!(text.contains(series), "{series}");
    }
    // Hundreds of series that never moved help nobody.
    assert!(!text.contains("roadstead_first_byte_seconds_bucket"));
    assert!(text.contains("\nprocess_resident_memory_bytes "));
    // What an upstream has not said is not 0.
    assert!(!text.contains("ratelimit_remaining{"));
}

#[test]
fn what_is_recorded_is_shown_under_its_labels() {
    let metrics = metrics();
    let clone = metrics.clone();
    clone.request(Kind::Blob, "docker.io", Outcome::Stale);
    clone.request(Kind::Blob, "evil.example", Outcome::Error);
    clone.client_bytes(Kind::Blob, "docker.io", 5);
    clone.client_bytes(Kind::Blob, "docker.io", 6);
    clone.upstreams().bytes("localhost:5000", 7);
    clone.upstreams().request("docker.io", Kind::Tags, "503");
    clone.upstreams().ratelimit_remaining("docker.io", 93);
    clone.fills_in_flight(1);
    clone.readers_in_flight(2);
    clone.readers_in_flight(-1);
    clone.cache().holds(10, 2, u64::MAX);
    clone.cache().evicted(EvictReason::Damaged, 9);
    for (series, value) in [
        (
            r#"roadstead_requests_total{kind="blob",outcome="stale",upstream="docker.io"}"#,
            1.0,
        ),
        (
            r#"roadstead_requests_total{kind="blob",outcome="error",upstream=""}"#,
            1.0,
        ),
        (
            r#"roadstead_client_bytes_total{kind="blob",upstream="docker.io"}"#,
            11.0,
        ),
        (
            r#"roadstead_upstream_bytes_total{upstream="localhost:5000"}"#,
            7.0,
        ),
        (
            r#"roadstead_upstream_requests_total{kind="tags",status="503",upstream="docker.io"}"#,
            1.0,
        ),
        (
            r#"roadstead_upstream_ratelimit_remaining{upstream="docker.io"}"#,
            93.0,
        ),
        ("roadstead_fills_in_flight", 1.0),
        ("roadstead_readers_in_flight", 1.0),
        ("roadstead_cache_bytes", 10.0),
        ("roadstead_cache_blobs", 2.0),
        (r#"roadstead_evicted_bytes_total{reason="damaged"}"#, 9.0),
        (r#"roadstead_evicted_bytes_total{reason="size"}"#, 0.0),
    ] {
        assert_eq!(sample(&metrics, series), Some(value), "{series}");
    }
    assert_eq!(
        sample(&metrics, "roadstead_cache_max_bytes"),
        Some(9_223_372_036_854_775_807.0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_limit_ends_by_itself() {
    let metrics = metrics();
    let seen = || {
        let of = |name: &str| sample(&metrics, &format!(r#"{name}{{upstream="docker.io"}}"#));
        let limited = of("roadstead_upstream_limited").unwrap();
        let left = of("roadstead_upstream_retry_after_seconds").unwrap();
        (limited, left)
    };
    let until = Instant::now() + Duration::from_secs(30);
    metrics.upstreams().limited("docker.io", Some(until));
    assert_eq!(seen(), (1.0, 30.0));
    tokio::time::advance(Duration::from_secs(20)).await;
    assert_eq!(seen(), (1.0, 10.0));
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(seen(), (0.0, 0.0));
}

#[test]
fn an_endpoint_is_shown_up_or_down_for_configured_upstreams_only() {
    let metrics = metrics();
    metrics
        .upstreams()
        .endpoint_up("docker.io", "a.example", true);
    metrics
        .upstreams()
        .endpoint_up("docker.io", "b.example:5000", false);
    metrics
        .upstreams()
        .endpoint_up("evil.example", "c.example", true);
    let up = |endpoint: &str| {
        let labels = format!(r#"endpoint="{endpoint}",upstream="docker.io""#);
        sample(
            &metrics,
            &format!("roadstead_upstream_endpoint_up{{{labels}}}"),
        )
    };
    assert_eq!(up("a.example"), Some(1.0));
    assert_eq!(up("b.example:5000"), Some(0.0));
    assert!(!metrics.render().contains("c.example"));
}

#[test]
fn every_kind_and_outcome_counts_in_its_own_place() {
    for kind in Kind::ALL {
        for outcome in Outcome::ALL {
            let metrics = metrics();
            metrics.request(kind, "docker.io", outcome);
            metrics.first_byte(kind, outcome, 0.0004);
            let (kind, outcome) = (kind.label(), outcome.label());
            let labels = format!(r#"kind="{kind}",outcome="{outcome}""#);
            let counted = format!(r#"roadstead_requests_total{{{labels},upstream="docker.io"}}"#);
            assert_eq!(sample(&metrics, &counted), Some(1.0));
            let observed =
                format!(r#"roadstead_first_byte_seconds_bucket{{{labels},le="0.0005"}}"#);
            assert_eq!(sample(&metrics, &observed), Some(1.0));
        }
    }
}

#[test]
fn cache_status_is_a_valid_header_of_rfc_9211() {
    for (outcome, expected) in [
        (Outcome::Hit, "roadstead; hit"),
        (Outcome::Miss, "roadstead; fwd=miss; stored"),
        (Outcome::Collapsed, "roadstead; fwd=miss; collapsed"),
        (Outcome::Stale, "roadstead; fwd=stale"),
        (Outcome::Partial, "roadstead; fwd=partial"),
        (Outcome::Bypass, "roadstead; fwd=bypass"),
        (Outcome::NotFound, "roadstead; fwd=miss"),
        (Outcome::Denied, "roadstead; fwd=miss"),
        (Outcome::Limited, "roadstead; fwd=miss"),
        (Outcome::Rejected, "roadstead; fwd=miss"),
        (Outcome::Error, "roadstead; fwd=miss"),
    ] {
        assert_eq!(outcome.cache_status(), expected);
    }
}

/// Run where Prometheus's checker is installed; elsewhere there is nothing to run.
#[test]
fn promtool_finds_no_fault() {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let fresh = metrics();
    let used = metrics();
    use_everything(&used);
    for metrics in [fresh, used] {
        let child = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            eprintln!("promtool is not installed: skipped");
            return;
        };
        let text = metrics.render();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.is_empty(), "{said}");
    }
}

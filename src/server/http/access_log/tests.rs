use super::super::request_id::RequestIds;
use super::*;
use crate::clock::{ManualClock, Timestamp};
use crate::server::testing::{Logs, exchange, metrics, request_head};

#[test]
fn a_request_dropped_without_an_answer_is_logged_and_not_counted() {
    let (logs, metrics) = (Logs::collect(), metrics());
    let counted = || {
        // What the system says of the process is of the moment.
        let text = metrics.render();
        text.split("# HELP process_").next().map(str::to_owned)
    };
    let before = counted();
    let ids = RequestIds::new(&ManualClock::new(Timestamp(0xab)));
    let client = SocketAddr::from(([192, 0, 2, 1], 4711));
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(async {
            drop(Exchange::begin(
                ids.next(),
                client.into(),
                &request_head(),
                metrics.clone(),
            ));
        });
    let lines = logs.access();
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["status"], 499);
    assert_eq!(lines[0]["ended"], "cancelled");
    assert_eq!(lines[0]["request_id"], "000000ab-1");
    assert_eq!(lines[0]["client"], "192.0.2.1:4711");
    assert_eq!(lines[0]["path"], "/v2/library/nginx/blobs/sha256:aa");
    assert!(counted() == before, "it was counted");
}

#[test]
fn the_access_line_says_what_a_tag_named() {
    let (logs, metrics) = (Logs::collect(), metrics());
    let digest = Digest::Sha256([0xab; 32]);
    let mut exchange = exchange(&metrics);
    let tag = Reference::parse("v1").unwrap();
    exchange.asks_for(Kind::Manifest, Some(tag));
    exchange.found(&digest);
    drop(exchange);
    let lines = logs.access();
    assert_eq!(lines[0]["reference"], "v1");
    assert_eq!(lines[0]["digest"], digest.to_string());
}

#[test]
fn a_request_is_counted_once_and_its_first_byte_once() {
    let metrics = metrics();
    let mut exchange = exchange(&metrics);
    exchange.sent(3);
    exchange.sent(4);
    exchange.completed();
    drop(exchange);
    let text = metrics.render();
    for line in [
        "roadstead_requests_total{kind=\"blob\",outcome=\"hit\",upstream=\"docker.io\"} 1",
        "roadstead_first_byte_seconds_count{kind=\"blob\",outcome=\"hit\"} 1",
        "roadstead_client_bytes_total{kind=\"blob\",upstream=\"docker.io\"} 7",
    ] {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }
}

#[test]
fn a_failure_names_what_failed_and_is_told_once() {
    let (logs, metrics) = (Logs::collect(), metrics());
    let mut exchange = exchange(&metrics);
    exchange.refused(StatusCode::BAD_GATEWAY, ErrorCode::Unknown, "no such host");
    drop(exchange);
    let failed = &logs.lines("roadstead::server::http::access_log")[0];
    assert_eq!(failed["upstream"], "docker.io");
    assert_eq!(failed["repository"], "library/nginx");
    assert_eq!(failed["status"], 502);
    assert_eq!(failed["cause"], "no such host");
    assert!(logs.access()[0].get("cause").is_none());
}

#[test]
fn a_refusal_has_one_line_and_it_says_why() {
    let (logs, metrics) = (Logs::collect(), metrics());
    let mut exchange = exchange(&metrics);
    exchange.refused(StatusCode::FORBIDDEN, ErrorCode::Denied, "bad credentials");
    drop(exchange);
    assert!(logs.lines("roadstead::server::http::access_log").is_empty());
    assert_eq!(logs.access()[0]["cause"], "bad credentials");
}

#[test]
fn a_client_behind_a_proxy_has_its_own_address_and_share() {
    let proxy = Client::from(SocketAddr::from(([10, 0, 0, 1], 4711)));
    let address = IpAddr::from([192, 0, 2, 7]);
    let client = proxy.behind(address);
    assert_eq!((client.ip(), &*client.text), (address, "192.0.2.7"));
    assert_eq!(client.id().address, ClientId::new(address, 0).address);
    assert_ne!(client.id(), proxy.id());
    assert_eq!(client.id(), proxy.behind(address).id());
}

#[test]
fn what_a_client_says_is_bounded_and_plain() {
    let long = HeaderValue::from_str(&"x".repeat(5000)).unwrap();
    assert_eq!(printable(&long).len(), USER_AGENT_LOGGED_BYTES_MAX);
    let odd = HeaderValue::from_bytes(b"\xff\x9b31m").unwrap();
    assert_eq!(printable(&odd), "(not plain text)");
    assert_eq!(shortened("\u{e9}\u{e9}", 3), "\u{e9}");
}

#[test]
fn greetings_of_nodes_fill_no_log() {
    let (logs, metrics) = (Logs::collect(), metrics());
    for ended in [true, false] {
        let mut exchange = exchange(&metrics);
        exchange.is_greeting = true;
        if ended {
            exchange.sent(10);
            exchange.completed();
        }
        drop(exchange);
    }
    assert_eq!(logs.access().len(), 1, "the one that was broken off");
}

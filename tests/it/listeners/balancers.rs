//! The PROXY protocol: what balancers that pass on bytes say of their clients.

use super::{ALPINE, any, house};
use crate::common::{Mirror, within};
use roadstead::access;
use roadstead::server::ListenerConfig;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The network that may come in.
const OURS: &str = "192.0.2.0/24";

async fn mirror(trusted: &str) -> Mirror {
    let (_registry, _image, builder) = house().await;
    builder
        .with(|all| {
            all.access = access::Config {
                enabled: true,
                allow: vec![OURS.parse().unwrap()],
                ..access::Config::default()
            };
            let listener = ListenerConfig {
                proxy_protocol: true,
                ..any()
            };
            all.server.listeners = vec![listener];
            all.server.trusted_proxies = vec![trusted.parse().unwrap()];
            all.server.limits.head_timeout = Duration::from_millis(500);
        })
        .start()
        .await
}

/// The status of a ping on a connection that begins with these pieces; none where it is closed without one.
async fn ping(mirror: &Mirror, pieces: &[&[u8]]) -> Option<u16> {
    let mut stream = TcpStream::connect(mirror.address()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let request = b"GET /v2/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    for piece in pieces.iter().chain([&&request[..]]) {
        if stream.write_all(piece).await.is_err() {
            return None;
        }
        // Another segment, as far as loopback lets one say.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut answer = Vec::new();
    // A reset is a closed connection.
    drop(within("an end", stream.read_to_end(&mut answer)).await);
    let text = String::from_utf8(answer).unwrap();
    text.strip_prefix("HTTP/1.1 ")
        .map(|rest| rest[..3].parse().unwrap())
}

fn v2(address: [u8; 4]) -> Vec<u8> {
    let fixed = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c";
    [&fixed[..], &address, &[127, 0, 0, 1], &[1, 2, 1, 187]].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_is_the_one_that_the_head_names() {
    let mirror = mirror("127.0.0.0/8").await;
    let v1 = |address: &str| format!("PROXY TCP4 {address} 127.0.0.1 4711 443\r\n").into_bytes();
    for (head, expected) in [
        (v1("192.0.2.7"), 200),
        (v1("198.51.100.7"), 403),
        (v2([192, 0, 2, 8]), 200),
        (v2([198, 51, 100, 8]), 403),
        // The balancer itself, which is not in the network.
        (b"PROXY UNKNOWN\r\n".to_vec(), 403),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec(), 403),
    ] {
        assert_eq!(ping(&mirror, &[&head]).await, Some(expected), "{head:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_may_come_in_any_pieces() {
    let mirror = mirror("127.0.0.0/8").await;
    for head in [
        b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 443\r\n".to_vec(),
        v2([192, 0, 2, 8]),
    ] {
        let cuts = (1..head.len()).map(|cut| {
            let (one, other) = head.split_at(cut);
            let mirror = &mirror;
            async move { assert_eq!(ping(mirror, &[one, other]).await, Some(200), "{cut}") }
        });
        futures_util::future::join_all(cuts).await;
        let bytes: Vec<&[u8]> = head.chunks(1).collect();
        assert_eq!(ping(&mirror, &bytes).await, Some(200));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_head_that_makes_sense_the_connection_is_closed() {
    let mirror = mirror("127.0.0.0/8").await;
    let long = [b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat();
    for pieces in [
        &[][..],
        &[&b"PROXY TCP4 nonsense\r\n"[..]],
        &[&long],
        &[&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"[..]],
    ] {
        assert_eq!(ping(&mirror, pieces).await, None, "{pieces:?}");
    }
    // A head that does not end is closed like a request's.
    let mut slow = TcpStream::connect(mirror.address()).await.unwrap();
    slow.write_all(b"PROXY TCP4 192").await.unwrap();
    let mut rest = Vec::new();
    drop(within("an end", slow.read_to_end(&mut rest)).await);
    assert!(rest.is_empty());
    mirror
        .wait_for_metrics("a head that took too long", |samples| {
            samples.sum("roadstead_limited_total", &[("limit", "head")]) >= 1.0
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_else_may_say_whose_connection_it_is() {
    let mirror = mirror("10.0.0.0/8").await;
    assert_eq!(
        ping(&mirror, &[b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 443\r\n"]).await,
        None
    );
    assert_eq!(mirror.get(ALPINE).await.status, 0);
}

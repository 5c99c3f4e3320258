//! Strangers at the listener for nodes, and nodes that send nonsense there.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use roadstead::cluster::{Identity, Keys};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::nodes::Nodes;
use super::{path, read_everywhere};
use crate::common::images::Blob;
use crate::common::{FakeRegistry, within};

fn keys(dir: &Path, secret: &str) -> ClientConfig {
    let file = dir.join(&secret[..1]);
    std::fs::write(&file, secret).unwrap();
    Identity::read(&Keys::Secret(file)).unwrap().client()
}

/// A client without a certificate.
#[derive(Debug)]
struct Nobody;

impl ResolvesClientCert for Nobody {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

async fn connect(address: SocketAddr, tls: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from("node.roadstead.invalid").unwrap();
    TlsConnector::from(Arc::new(tls)).connect(name, tcp).await
}

/// Everything that is answered to these bytes, until the other side ends the connection.
async fn told(address: SocketAddr, tls: ClientConfig, bytes: &[u8]) -> Vec<u8> {
    let telling = async {
        let mut answer = Vec::new();
        if let Ok(mut stream) = connect(address, tls).await
            && stream.write_all(bytes).await.is_ok()
        {
            // An error ends it, too: TLS 1.3 tells of a refused certificate after the handshake.
            let _ended: std::io::Result<usize> = stream.read_to_end(&mut answer).await;
        }
        answer
    };
    within("the end of a connection", telling).await
}

fn get(path: &str, more: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n{more}\r\n").into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_and_nonsense_at_the_listener_for_nodes() {
    let registry = FakeRegistry::start().await;
    let nodes = Nodes::start(&registry, 2).await;
    let dir = TempDir::new().unwrap();
    let ours = keys(dir.path(), &"0123456789abcdef".repeat(4));
    let address = nodes.nodes[0].cluster().config().listen;
    let hello = get("/cluster/v1/hello", "");
    // A node is answered.
    let answer = told(address, ours.clone(), &hello).await;
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
    // Another secret, and none.
    let theirs = keys(dir.path(), &"f".repeat(64));
    assert_eq!(told(address, theirs, &hello).await, b"");
    let mut anonymous = ours.clone();
    anonymous.client_auth_cert_resolver = Arc::new(Nobody);
    assert_eq!(told(address, anonymous, &hello).await, b"");
    // HTTP/2, offered and by prior knowledge.
    let mut h2 = ours.clone();
    h2.alpn_protocols = vec![b"h2".to_vec()];
    assert_eq!(
        told(address, h2, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await,
        b""
    );
    let answer = told(address, ours.clone(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(!answer.starts_with(b"HTTP/1.1 2"), "{answer:?}");
    // A head that is too large.
    let large = get(
        "/cluster/v1/hello",
        &format!("x: {}\r\n", "y".repeat(1 << 20)),
    );
    let answer = told(address, ours.clone(), &large).await;
    assert!(!answer.starts_with(b"HTTP/1.1 2"), "{answer:?}");
    // Words that are no numbers, ranges or names.
    let blob = Blob::noise(24_000, 5000);
    registry.put_blob("team/app", &blob);
    let target = format!("{}?ns=docker.io", path(&blob));
    for more in [
        "roadstead-size: -1\r\n",
        "roadstead-size: 99999999999999999999999\r\n",
        "roadstead-size: 5000\r\nroadstead-have: 5-1,x,0-99999999999999999999\r\nroadstead-node: me\r\n",
        "roadstead-size: 5000\r\nrange: bytes=9-1,0-0,-\r\n",
        "cache-control: only-if-cached\r\nrange: bytes=0-\r\n",
    ] {
        let answer = told(address, ours.clone(), &get(&target, more)).await;
        let text = String::from_utf8_lossy(&answer);
        assert!(text.starts_with("HTTP/1.1 "), "{more:?}: {text:?}");
        assert!(!text.starts_with("HTTP/1.1 500"), "{more:?}: {text:?}");
    }
    // A write, a list, a path that is none.
    for (line, status) in [
        ("PUT /v2/team/app/manifests/v1", "405"),
        ("GET /v2/team/app/tags/list", "405"),
        ("GET /metrics", "404"),
        ("GET /v2/team/app/blobs/sha256:0?ns=docker.io", "400"),
        ("GET /v2/team/app/manifests/v1?ns=nowhere.example", "404"),
    ] {
        let request = format!("{line} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n");
        let answer = told(address, ours.clone(), request.as_bytes()).await;
        let text = String::from_utf8_lossy(&answer);
        let start = format!("HTTP/1.1 {status}");
        assert!(text.starts_with(&start), "{line}: {text}");
    }
    read_everywhere(&nodes.clients(), 2, &blob).await;
}

/// Connections that say nothing, or a byte now and then, keep no node from the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_say_nothing_keep_no_node_out() {
    let registry = FakeRegistry::start().await;
    let nodes = Nodes::start(&registry, 2).await;
    let dir = TempDir::new().unwrap();
    let ours = keys(dir.path(), &"0123456789abcdef".repeat(4));
    let mut held = Vec::new();
    let mut spoken = Vec::new();
    for node in &nodes.nodes {
        let address = node.cluster().config().listen;
        for number in 0..200 {
            let stream = TcpStream::connect(address).await.unwrap();
            if number % 10 == 0 {
                // Past the handshake.
                let mut stream = connect(address, ours.clone()).await.unwrap();
                stream.write_all(b"GET /cluster/v1/").await.unwrap();
                spoken.push(stream);
            }
            held.push(stream);
        }
    }
    for seed in 0..6 {
        let blob = Blob::noise(24_100 + seed, 100_000);
        registry.put_blob("team/app", &blob);
        read_everywhere(&nodes.clients(), 2, &blob).await;
        let sent = registry.counters().sent(&blob.digest);
        assert_eq!(sent, 100_000, "one has asked for both");
    }
    nodes.see(&[2, 2]).await;
    drop((held, spoken));
}

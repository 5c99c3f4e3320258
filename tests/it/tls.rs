//! HTTPS on the same listener code: HTTP/1.1 and HTTP/2, chosen by ALPN.

mod admin;
mod certificates;
mod clients;
pub(crate) mod pki;
mod revoked;
mod transparent;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::common::images::Blob;
use crate::common::{FakeRegistry, Mirror, MirrorBuilder, Samples, secure, within};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use roadstead::server::TlsConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

struct World {
    mirror: Mirror,
    certificate: CertificateDer<'static>,
    blob: Blob,
    _registry: FakeRegistry,
}

impl World {
    async fn new() -> Self {
        let registry = FakeRegistry::start().await;
        let blob = Blob::noise(111, 3_000_000);
        registry.put_blob("team/app", &blob);
        let made = rcgen::generate_simple_self_signed(vec!["mirror.test".to_owned()]).unwrap();
        let builder = MirrorBuilder::of(&registry);
        let tls = TlsConfig::of(builder.dir().join("tls.crt"), builder.dir().join("tls.key"));
        std::fs::write(&tls.pairs[0].cert, made.cert.pem()).unwrap();
        std::fs::write(&tls.pairs[0].key, made.signing_key.serialize_pem()).unwrap();
        let mirror = builder.with(|config| secure(config, tls)).start().await;
        Self {
            mirror,
            certificate: made.cert.der().clone(),
            blob,
            _registry: registry,
        }
    }

    async fn connect(&self, protocols: &[&[u8]]) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        let stream = TcpStream::connect(self.mirror.address()).await.unwrap();
        let name = ServerName::try_from("mirror.test").unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .unwrap()
    }

    fn request(&self) -> Request<Empty<Bytes>> {
        let uri = format!("https://mirror.test/v2/team/app/blobs/{}", self.blob.digest);
        Request::get(uri)
            .header("Host", "mirror.test")
            .body(Empty::new())
            .unwrap()
    }

    async fn assert_blob(&self, response: Response<Incoming>) {
        assert_eq!(response.status(), 200);
        assert_eq!(
            response.headers()["docker-content-digest"],
            self.blob.digest.as_str()
        );
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(
            body == self.blob.bytes,
            "{} bytes, or other bytes",
            body.len()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_1_pulls_a_blob() {
    let world = World::new().await;
    for protocols in [&[&b"http/1.1"[..]][..], &[]] {
        let stream = world.connect(protocols).await;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        let connection = tokio::spawn(connection);
        let response = within("an answer", sender.send_request(world.request()))
            .await
            .unwrap();
        world.assert_blob(response).await;
        connection.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_pulls_blobs_over_one_connection() {
    let world = World::new().await;
    let stream = world.connect(&[b"h2", b"http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    let pulls = (0..4).map(async |_| {
        let mut sender = sender.clone();
        let response = within("an answer", sender.send_request(world.request()))
            .await
            .unwrap();
        world.assert_blob(response).await;
    });
    futures_util::future::join_all(pulls).await;
    connection.abort();
}

/// The longest list of ranges that clients send is over what HTTP/2 libraries take for a head unless told otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_takes_a_thousand_ranges() {
    let world = World::new().await;
    let stream = world.connect(&[b"h2"]).await;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    let ranges: Vec<String> = (0..1024)
        .map(|at| format!("{:020}-{:020}", at * 3, at * 3))
        .collect();
    let mut request = world.request();
    let value = format!("bytes={}", ranges.join(",")).parse().unwrap();
    request.headers_mut().insert("range", value);
    let response = within("an answer", sender.send_request(request))
        .await
        .unwrap();
    assert_eq!(response.status(), 206);
    let length: usize = response.headers()["content-length"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    let body = within("a body", response.into_body().collect())
        .await
        .unwrap()
        .to_bytes();
    assert_eq!(body.len(), length);
    let parts = body
        .windows(13)
        .filter(|bytes| bytes == b"Content-Range")
        .count();
    assert_eq!(parts, 1024);
    connection.abort();
}

/// Requests that come, wait and are given up in any order on one connection, which is one task of the server's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_streams_that_are_given_up_hold_up_no_other() {
    let world = World::new().await;
    let stream = world.connect(&[b"h2"]).await;
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    let pulls = (0..60).map(async |number: u32| {
        let mut sender = sender.clone();
        let response = within("an answer", sender.send_request(world.request()))
            .await
            .unwrap();
        if number.is_multiple_of(3) {
            return world.assert_blob(response).await;
        }
        let mut body = response.into_body();
        for _ in 0..number % 5 {
            within("a frame", body.frame()).await.unwrap().unwrap();
        }
    });
    within("all of them", futures_util::future::join_all(pulls)).await;
    let response = within("an answer", sender.clone().send_request(world.request()));
    world.assert_blob(response.await.unwrap()).await;
    connection.abort();
}

/// A client that speaks plain HTTP to the TLS port, or nothing at all, harms nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_at_the_tls_port_harm_nobody() {
    let world = World::new().await;
    let _silent = TcpStream::connect(world.mirror.address()).await.unwrap();
    let plain = world.mirror.get("/v2/").await;
    assert_ne!(plain.status, 200);
    let stream = world.connect(&[]).await;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    world
        .assert_blob(sender.send_request(world.request()).await.unwrap())
        .await;
    connection.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_certificate_or_key_is_named() {
    let made = rcgen::generate_simple_self_signed(vec!["mirror.test".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["mirror.test".to_owned()]).unwrap();
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let cases = [
        (Some(cert.clone()), None, "tls.key"),
        (Some(cert.clone()), Some("not a key".to_owned()), "tls.key"),
        (
            Some("not a certificate".to_owned()),
            Some(key.clone()),
            "tls.crt",
        ),
        (None, Some(key), "tls.crt"),
        (Some(cert), Some(other.signing_key.serialize_pem()), "tls."),
    ];
    for (cert, key, named) in cases {
        let builder = MirrorBuilder::of(&FakeRegistry::start().await);
        let write = |name: &str, text: Option<String>| -> PathBuf {
            let path = builder.dir().join(name);
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            path
        };
        let tls = TlsConfig::of(write("tls.crt", cert), write("tls.key", key));
        let refused = builder.with(|config| secure(config, tls)).try_start().await;
        let text = refused.expect_err("it started").to_string();
        assert!(text.contains(named), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }
}

/// The stop waited for handshakes that had begun, for as long as a client may take for a head.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_does_not_end_does_not_hold_up_the_stop() {
    let world = World::new().await;
    let silent = TcpStream::connect(world.mirror.address()).await.unwrap();
    let admitted =
        |samples: &Samples| samples.sum("roadstead_connections", &[("listener", "client")]) >= 1.0;
    let mirror = world.mirror;
    mirror
        .wait_for_metrics("the connection to be taken", admitted)
        .await;
    let started = Instant::now();
    within("the stop", mirror.stop()).await;
    let took = started.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    drop(silent);
}

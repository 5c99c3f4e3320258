//! HTTPS: certificates that are believed, and the one that is shown.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::server::{Server, answer};
use super::*;
use crate::oci::AcceptClass;
use crate::upstream::{ClientCertificate, FetchError, ManifestFetch};

/// Issues certificates, and has its own in a file.
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let authority = Self { issuer, directory };
        authority.write("ca.pem", &authority.issuer.pem());
        authority
    }

    pub(super) fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a test's own file, not the store's"
    )]
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// A server's side of TLS, as `name`.
    pub(super) fn acceptor(&self, name: &str, protocols: &[&[u8]]) -> TlsAcceptor {
        self.acceptor_for(name, protocols, None)
    }

    /// The same. With `clients`, a client that shows a certificate must have it from those; `true`: it must
    /// show one.
    fn acceptor_for(
        &self,
        name: &str,
        protocols: &[&[u8]],
        clients: Option<(&Self, bool)>,
    ) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some((authority, must)) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.issuer.as_ref().der().clone()).unwrap();
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = if must {
                    verifier
                } else {
                    verifier.allow_unauthenticated()
                };
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let (certificate, key) = self.issue(name);
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = builder
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    /// A certificate for us, in files.
    fn client(&self, name: &str) -> ClientCertificate {
        let (certificate, key) = self.issue(name);
        ClientCertificate {
            cert: self.write(&format!("{name}.pem"), &certificate.pem()),
            key: self.write(&format!("{name}.key"), &key.serialize_pem()),
        }
    }
}

const BOTH: &[&[u8]] = &[b"h2", b"http/1.1"];

async fn serving(acceptor: TlsAcceptor) -> Server {
    Server::listen(Some(acceptor), |_| answer(200, &[], "{}").into()).await
}

pub(super) async fn pull(upstream: &Upstream) -> Result<ManifestFetch, FetchError> {
    let all = AcceptClass::ALL;
    upstream
        .manifest(&repository(), &latest(), all, Patience::Wait)
        .await
}

#[track_caller]
fn assert_connect(error: &FetchError, parts: &[&str]) {
    let FetchError::Connect(why) = error else {
        panic!("{error:?}")
    };
    for part in parts {
        assert!(why.contains(part), "{why}");
    }
}

#[tokio::test]
async fn a_ca_file_is_trusted_and_alpn_chooses_the_protocol() {
    let authority = Authority::new();
    let cases: [(&[&[u8]], http::Version); 3] = [
        (BOTH, http::Version::HTTP_2),
        (&[b"http/1.1"], http::Version::HTTP_11),
        (&[], http::Version::HTTP_11),
    ];
    for (protocols, version) in cases {
        let server = serving(authority.acceptor("127.0.0.1", protocols)).await;
        let mut config = config(&[&server.url()]);
        config.endpoints[0].ca_file = Some(authority.ca_file());
        let upstream = upstream(&config);
        for _ in 0..2 {
            pull(&upstream).await.unwrap();
        }
        let blob = blob(&upstream, 0).await.unwrap();
        assert_eq!(blob.total, Some(2));
        assert!(server.seen().iter().all(|seen| seen.version == version));
        assert_eq!(server.connections(), 1);
    }
}

#[tokio::test]
async fn an_unknown_certificate_is_not_trusted() {
    let server = serving(Authority::new().acceptor("127.0.0.1", BOTH)).await;
    let error = pull(&simple(&server.url())).await.unwrap_err();
    assert_connect(&error, &["certificate"]);
    assert_eq!(server.seen().len(), 0);
}

/// HTTP/2 carries many requests on one connection, whose flow window then is the limit of all.
/// A certificate that has signed itself, and a server that shows it.
struct OfItself {
    pem: String,
    acceptor: TlsAcceptor,
}

impl OfItself {
    fn new(name: &str, is_ca: IsCa, years: [i32; 2]) -> Self {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.is_ca = is_ca;
        [params.not_before, params.not_after] = years.map(|year| rcgen::date_time_ymd(year, 1, 1));
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            );
        Self {
            pem: certificate.pem(),
            acceptor: TlsAcceptor::from(Arc::new(config.unwrap())),
        }
    }
}

#[tokio::test]
async fn a_server_s_own_certificate_in_the_ca_file_is_believed_from_it_alone() {
    let files = Authority::new();
    let with = |url: &str, pem: &str| {
        let mut config = config(&[url]);
        config.endpoints[0].ca_file = Some(files.write("own.pem", pem));
        upstream(&config)
    };
    let ca = || IsCa::Ca(BasicConstraints::Unconstrained);
    for is_ca in [ca(), IsCa::ExplicitNoCa, IsCa::NoCa] {
        let own = OfItself::new("127.0.0.1", is_ca, [2000, 2100]);
        let server = serving(own.acceptor.clone()).await;
        pull(&with(&server.url(), &own.pem)).await.unwrap();
        // Among others, with comments, and lines as Windows ends them.
        let other = OfItself::new("127.0.0.1", is_ca, [2000, 2100]);
        let both = format!("# ours\n{}\n# theirs\n{}", other.pem, own.pem).replace('\n', "\r\n");
        pull(&with(&server.url(), &both)).await.unwrap();
        let error = pull(&with(&server.url(), &other.pem)).await.unwrap_err();
        assert_connect(&error, &["certificate"]);
    }
    for (name, years) in [
        ("another.example", [2000, 2100]),
        ("127.0.0.1", [2000, 2001]),
    ] {
        let own = OfItself::new(name, ca(), years);
        let server = serving(own.acceptor.clone()).await;
        let error = pull(&with(&server.url(), &own.pem)).await.unwrap_err();
        let why = if name == "127.0.0.1" {
            "expired"
        } else {
            "not valid for name"
        };
        assert_connect(&error, &["certificate", why]);
    }
}

#[test]
fn a_ca_file_that_cannot_be_used_is_refused_with_the_reason() {
    let files = Authority::new();
    let key = KeyPair::generate().unwrap().serialize_pem();
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let second = format!("{}{broken}", files.issuer.pem());
    for (text, why) in [
        ("", "no certificate in it"),
        ("no PEM at all", "no certificate in it"),
        (key.as_str(), "no certificate in it"),
        (broken, "certificate 1 of 1"),
        (second.as_str(), "certificate 2 of 2"),
    ] {
        let mut config = config(&["https://127.0.0.1:1"]);
        config.endpoints[0].ca_file = Some(files.write("x.pem", text));
        let error = Upstream::new(&config, metrics()).unwrap_err();
        assert!(
            error.why.contains(why) && error.why.contains("x.pem"),
            "{error}"
        );
    }
    // A key beside a certificate is none of its business, and said so.
    let mut config = config(&["https://127.0.0.1:1"]);
    config.endpoints[0].ca_file =
        Some(files.write("x.pem", &format!("{key}{}", files.issuer.pem())));
    upstream(&config);
}

#[tokio::test]
async fn a_head_is_bounded_in_bytes_and_not_in_number() {
    let authority = Authority::new();
    for protocol in [&b"h2"[..], b"http/1.1"] {
        let acceptor = authority.acceptor("127.0.0.1", &[protocol]);
        let server = Server::listen(Some(acceptor), |request| {
            let count = request.target.rsplit_once('v').unwrap().1.parse().unwrap();
            let names: Vec<_> = (0..count).map(|number| format!("x-{number:06}")).collect();
            let value = "v".repeat(20);
            let headers: Vec<_> = names
                .iter()
                .map(|name| (name.as_str(), value.as_str()))
                .collect();
            answer(200, &headers, "{}").into()
        })
        .await;
        let mut config = config(&[&server.url()]);
        config.endpoints[0].ca_file = Some(authority.ca_file());
        let upstream = upstream(&config);
        for number in [99, 101, 1500] {
            pull_of(&upstream, number, Patience::Now).await.unwrap();
        }
        for number in [2500, 20_000] {
            let error = pull_of(&upstream, number, Patience::Now).await.unwrap_err();
            assert!(
                error.to_string().contains("larger than 65536 bytes"),
                "{error}"
            );
        }
        pull_of(&upstream, 1, Patience::Now).await.unwrap();
    }
}

#[tokio::test]
async fn requests_in_different_lanes_never_share_a_connection() {
    let authority = Authority::new();
    for protocols in [BOTH, &[b"http/1.1"]] {
        let server = serving(authority.acceptor("127.0.0.1", protocols)).await;
        let mut config = config(&[&server.url()]);
        config.endpoints[0].ca_file = Some(authority.ca_file());
        config.parallel.connections = 3;
        let upstream = upstream(&config);
        let (repository, digest) = (repository(), digest());
        for (lane, connections) in [
            (0, 1),
            (1, 2),
            (2, 3),
            (0, 3),
            (1, 3),
            (2, 3),
            (3, 3),
            (7, 3),
        ] {
            let ask = BlobRequest {
                lane,
                ..BlobRequest::whole(&repository, &digest)
            };
            let fetch = upstream.blob(&ask).await.unwrap();
            let mut body = fetch.body;
            while body.next().await.unwrap().is_some() {}
            assert_eq!(server.connections(), connections, "lane {lane}");
        }
        pull(&upstream).await.unwrap();
        assert_eq!(server.connections(), 3);
    }
}

/// A registry that wants a certificate and redirects blobs to `target`.
async fn wanting(authority: &Authority, target: String) -> Server {
    let acceptor = authority.acceptor_for("127.0.0.1", BOTH, Some((authority, true)));
    Server::listen(Some(acceptor), move |request| {
        if request.target.contains("/blobs/") {
            answer(307, &[("location", &target)], "").into()
        } else {
            answer(200, &[], "{}").into()
        }
    })
    .await
}

#[tokio::test]
async fn the_client_certificate_is_shown_to_the_endpoint_alone() {
    let (authority, strangers) = (Authority::new(), Authority::new());
    // Breaks every connection on which our certificate is shown, because others issue those it takes.
    let cdn = serving(authority.acceptor_for("127.0.0.1", BOTH, Some((&strangers, false)))).await;
    let registry = wanting(&authority, format!("{}/signed", cdn.url())).await;
    let mut config = config(&[&registry.url()]);
    config.endpoints[0].ca_file = Some(authority.ca_file());
    config.endpoints[0].client_certificate = Some(authority.client("robot"));
    let with = upstream(&config);
    pull(&with).await.unwrap();
    blob(&with, 0).await.unwrap();
    assert_eq!(cdn.seen_at("/signed").len(), 1);

    // The test sees a certificate that is shown.
    config.endpoints[0].url = Url::parse(&cdn.url()).unwrap();
    assert!(pull(&upstream(&config)).await.is_err());

    config.endpoints[0].url = Url::parse(&registry.url()).unwrap();
    config.endpoints[0].client_certificate = None;
    assert!(pull(&upstream(&config)).await.is_err());
}

#[test]
fn a_client_certificate_that_cannot_be_used_is_named() {
    let authority = Authority::new();
    let (one, two) = (authority.client("one"), authority.client("two"));
    let missing = authority.directory.path().join("missing.pem");
    let flattened = authority.write("flat.key", "-----BEGIN PRIVATE KEY-----\\nc2VjcmV0\\n");
    let set_up = |cert: &PathBuf, key: &PathBuf| {
        let mut config = config(&["https://r.example"]);
        config.endpoints[0].client_certificate = Some(ClientCertificate {
            cert: cert.clone(),
            key: key.clone(),
        });
        Upstream::new(&config, metrics()).map_err(|error| error.to_string())
    };
    assert!(set_up(&one.cert, &one.key).is_ok());
    for (cert, key, parts) in [
        (&missing, &one.key, ["missing.pem", "No such file"]),
        (&one.cert, &missing, ["missing.pem", "No such file"]),
        (&one.key, &one.key, ["one.key", "no certificate in it"]),
        (
            &one.cert,
            &one.cert,
            ["one.pem", "no PEM private key in it"],
        ),
        (
            &one.cert,
            &flattened,
            ["flat.key", "no PEM private key in it"],
        ),
        (&flattened, &one.key, ["flat.key", "no certificate in it"]),
        (&one.cert, &two.key, ["one.pem", "two.key"]),
    ] {
        let error = set_up(cert, key).unwrap_err();
        for part in parts {
            assert!(error.contains(part), "{error}");
        }
        assert!(!error.contains("c2VjcmV0"), "{error}");
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn without_verification_the_endpoint_alone_is_believed_and_the_log_says_so() {
    let authority = Authority::new();
    let cdn = serving(authority.acceptor("127.0.0.1", BOTH)).await;
    let target = format!("{}/signed", cdn.url());
    let acceptor = authority.acceptor("another.example", BOTH);
    let registry = Server::listen(Some(acceptor), move |request| {
        if request.target.contains("/blobs/") {
            answer(307, &[("location", &target)], "").into()
        } else {
            answer(200, &[], "{}").into()
        }
    })
    .await;
    let mut config = config(&[&registry.url()]);
    config.endpoints[0].insecure_skip_verify = true;

    let log = Log::default();
    let sink = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || sink.clone())
        .finish();
    let upstream = tracing::subscriber::with_default(subscriber, || upstream(&config));
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert_eq!(text.matches("insecure_skip_verify").count(), 1, "{text}");
    assert!(text.contains("WARN"), "{text}");
    assert!(text.contains(NAME) && text.contains("127.0.0.1"), "{text}");

    pull(&upstream).await.unwrap();
    let error = blob(&upstream, 0).await.unwrap_err();
    assert_connect(&error, &["certificate"]);
    assert_eq!(cdn.seen().len(), 0);
}

/// A name that no resolver knows.
const REGISTRY: &str = "registry.invalid";

fn resolved(scheme: &str, server: &Server, addresses: &[[u8; 4]]) -> Config {
    let port = Url::parse(&server.url()).unwrap().port().unwrap();
    let mut config = config(&[&format!("{scheme}://{REGISTRY}:{port}")]);
    let addresses = addresses.iter();
    config.endpoints[0].resolve = addresses
        .map(|bytes| IpAddr::V4(Ipv4Addr::from(*bytes)))
        .collect();
    config
}

#[tokio::test]
async fn fixed_addresses_stand_for_the_endpoints_name_alone() {
    let authority = Authority::new();
    let cdn = serving(authority.acceptor("localhost", BOTH)).await;
    let target = cdn.url().replace("127.0.0.1", "localhost");
    let acceptor = authority.acceptor(REGISTRY, &[b"http/1.1"]);
    let registry = Server::listen(Some(acceptor), move |request| {
        if request.target.contains("/blobs/") {
            answer(307, &[("location", &target)], "").into()
        } else {
            answer(200, &[], "{}").into()
        }
    })
    .await;
    // Nobody listens at the first address.
    let mut config = resolved("https", &registry, &[[127, 0, 0, 2], [127, 0, 0, 1]]);
    config.endpoints[0].ca_file = Some(authority.ca_file());
    let host = config.endpoints[0].url.authority().to_owned();
    let upstream = upstream(&config);
    pull(&upstream).await.unwrap();
    blob(&upstream, 0).await.unwrap();
    assert_eq!(registry.seen()[0].header("host"), Some(host.as_str()));
    assert_eq!(cdn.seen().len(), 1);
}

/// A listener that takes no more connections: whoever connects hears nothing.
async fn silent(address: SocketAddr) -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(address).unwrap();
    let listener = socket.listen(1).unwrap();
    let mut waiting = Vec::new();
    let patience = Duration::from_millis(200);
    while let Ok(stream) = tokio::time::timeout(patience, TcpStream::connect(address)).await {
        waiting.push(stream.unwrap());
        assert!(waiting.len() < 100, "the listener takes everybody");
    }
    (listener, waiting)
}

#[tokio::test]
async fn an_address_that_does_not_answer_leaves_time_for_the_next() {
    let server = Server::start(|_| answer(200, &[], "{}").into()).await;
    let config = resolved("http", &server, &[[127, 0, 0, 2], [127, 0, 0, 1]]);
    let port = config.endpoints[0].url.port().unwrap();
    let _silent = silent(SocketAddr::from(([127, 0, 0, 2], port))).await;
    let began = tokio::time::Instant::now();
    pull(&upstream(&config)).await.unwrap();
    // It used to be half of the two seconds.
    assert!(
        began.elapsed() < Duration::from_millis(800),
        "{:?}",
        began.elapsed()
    );

    let config = resolved("http", &server, &[[127, 0, 0, 3], [127, 0, 0, 4]]);
    let error = pull(&upstream(&config)).await.unwrap_err();
    assert_connect(&error, &[REGISTRY, "refused"]);
}

//! Authorities, certificates, and clients that have them.

use crate::common::within;
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationList,
    CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod, KeyPair,
    RevokedCertParams, SanType, SerialNumber,
};
use roadstead::server::PairConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// An authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
pub(crate) struct Pair {
    pub(crate) cert: rcgen::Certificate,
    pub(crate) serial: SerialNumber,
    pub(crate) key: KeyPair,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A list of revoked certificates that should be replaced in this year.
    pub(super) fn revoke(&self, pairs: &[&Pair], year: i32) -> CertificateRevocationList {
        let begun = rcgen::date_time_ymd(2020, 1, 1);
        let revoked = pairs.iter().map(|pair| RevokedCertParams {
            serial_number: pair.serial.clone(),
            revocation_time: begun,
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: begun,
            next_update: rcgen::date_time_ymd(year, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.0).unwrap()
    }

    /// A certificate of a host.
    pub(crate) fn host(&self, names: &[&str]) -> Pair {
        let names: Vec<String> = names.iter().map(|it| (*it).to_owned()).collect();
        self.sign(&CertificateParams::new(names).unwrap())
    }

    /// A certificate of a client.
    pub(crate) fn client(&self, name: &str, sans: Vec<SanType>) -> Pair {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = sans;
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Pair {
        static NEXT: AtomicU64 = AtomicU64::new(1000);
        let key = KeyPair::generate().unwrap();
        let serial = SerialNumber::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let mut params = params.clone();
        params.serial_number = Some(serial.clone());
        let cert = params.signed_by(&key, &self.0).unwrap();
        Pair { cert, serial, key }
    }
}

impl Pair {
    /// Accepts connections with it.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::Pkcs8(self.key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.cert.der().clone()], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    /// Writes the files, in the place of older ones.
    pub(crate) fn write(&self, dir: &Path, name: &str) -> PairConfig {
        let pair = PairConfig {
            cert: dir.join(format!("{name}.crt")),
            key: dir.join(format!("{name}.key")),
        };
        std::fs::write(&pair.cert, self.cert.pem()).unwrap();
        std::fs::write(&pair.key, self.key.serialize_pem()).unwrap();
        pair
    }
}

/// A connection over which something can be asked.
pub(crate) struct Connection {
    /// The certificate of the server.
    pub(crate) certificate: CertificateDer<'static>,
    sender: SendRequest<Empty<Bytes>>,
}

/// Connects to a host that is at this address; an error where the handshake fails.
pub(crate) async fn connect(
    address: SocketAddr,
    host: &str,
    roots: &Authority,
    client: Option<&Pair>,
) -> std::io::Result<Connection> {
    let mut store = RootCertStore::empty();
    store.add(roots.0.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(store);
    let config = match client {
        None => config.with_no_client_auth(),
        Some(pair) => {
            let key = PrivateKeyDer::Pkcs8(pair.key.serialize_der().into());
            config
                .with_client_auth_cert(vec![pair.cert.der().clone()], key)
                .unwrap()
        }
    };
    dial(config, address, host).await
}

/// Connects as this client.
pub(super) async fn dial(
    config: ClientConfig,
    address: SocketAddr,
    host: &str,
) -> std::io::Result<Connection> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let stream: TlsStream<TcpStream> = within("a handshake", connecting).await?;
    let shown = stream.get_ref().1.peer_certificates().unwrap();
    let certificate = shown[0].clone().into_owned();
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(std::io::Error::other)?;
    tokio::spawn(connection);
    Ok(Connection {
        certificate,
        sender,
    })
}

impl Connection {
    /// The status, headers and text of an answer; none where the connection ends without one.
    pub(crate) async fn get(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Option<(u16, HeaderMap, String)> {
        self.send(Method::GET, path, headers).await
    }

    /// The same of any method.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Option<(u16, HeaderMap, String)> {
        let mut request = Request::builder().method(method).uri(path);
        request = request.header("host", "mirror.test");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.ask(request.body(Empty::new()).unwrap()).await
    }

    /// The status, headers and text of an answer; none where the connection ends without one.
    pub(super) async fn ask(
        &mut self,
        request: Request<Empty<Bytes>>,
    ) -> Option<(u16, HeaderMap, String)> {
        // A body that has arrived does not mean that the connection has noticed.
        within("a turn", self.sender.ready()).await.ok()?;
        let answer = within("an answer", self.sender.send_request(request))
            .await
            .ok()?;
        let (head, body) = answer.into_parts();
        let body = within("a body", body.collect()).await.ok()?.to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        Some((head.status.as_u16(), head.headers, text))
    }

    /// The status alone; 0 for none.
    pub(crate) async fn status(&mut self, path: &str) -> u16 {
        self.get(path, &[]).await.map_or(0, |(status, ..)| status)
    }
}

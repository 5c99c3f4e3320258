//! Certificates: which ones are accepted, and to whom ours is shown.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem, pem::PemObject};

use super::{ClientCertificate, Peer};

/// The TLS configurations of one endpoint's connections.
pub(super) struct TlsConfigs {
    /// The endpoint itself, where it is treated unlike the others.
    endpoint: Option<Special>,
    /// For hosts to which it redirects, and the token servers.
    others: Arc<ClientConfig>,
    /// Proxies that are spoken to over TLS.
    proxy: Arc<ClientConfig>,
}

struct Special {
    host: String,
    port: u16,
    config: Arc<ClientConfig>,
}

impl TlsConfigs {
    /// For an endpoint, as that is configured: the system's roots and those of its `ca_file` for all hosts; the
    /// client certificate and `insecure_skip_verify` for its own host and port alone.
    ///
    /// # Errors
    /// One line naming the file.
    pub(super) fn new(endpoint: &Peer<'_>) -> Result<Self, String> {
        let mut roots = native_roots().clone();
        let named = match endpoint.ca_file {
            Some(path) => add_file(&mut roots, path)
                .map_err(|why| format!("ca_file {}: {why}", path.display()))?,
            None => Vec::new(),
        };
        let trust = Trust {
            roots: Arc::new(roots),
            named,
            own: Vec::new(),
        };
        let others = http(config(&trust, None, false)?);
        let certificate = endpoint.client_certificate;
        let insecure = endpoint.insecure_skip_verify;
        let special = if certificate.is_some() || insecure {
            let url = endpoint.url;
            let host = url.host_str().unwrap_or_default();
            let host = host.trim_start_matches('[').trim_end_matches(']');
            Some(Special {
                host: host.to_owned(),
                port: url.port_or_known_default().unwrap_or(443),
                config: http(config(&trust, certificate, insecure)?),
            })
        } else {
            None
        };
        Ok(Self {
            endpoint: special,
            others,
            // It is spoken to in HTTP/1.1, the only protocol that a server takes where none is offered.
            proxy: Arc::new(config(&trust, None, false)?),
        })
    }

    /// The system's roots for everybody.
    ///
    /// # Errors
    /// One line.
    pub(super) fn system() -> Result<Self, String> {
        let trust = Trust {
            roots: Arc::new(native_roots().clone()),
            named: Vec::new(),
            own: Vec::new(),
        };
        Ok(Self {
            endpoint: None,
            others: http(config(&trust, None, false)?),
            proxy: Arc::new(config(&trust, None, false)?),
        })
    }

    /// This one for everybody.
    pub(super) fn only(config: ClientConfig) -> Self {
        let config = Arc::new(config);
        Self {
            endpoint: None,
            others: Arc::clone(&config),
            proxy: config,
        }
    }

    /// For connections to a host (an address without brackets) and port.
    pub(super) fn for_host(&self, host: &str, port: u16) -> &Arc<ClientConfig> {
        match &self.endpoint {
            Some(own) if own.port == port && own.host.eq_ignore_ascii_case(host) => &own.config,
            Some(_) | None => &self.others,
        }
    }

    /// For connections to a proxy.
    pub(super) fn for_proxy(&self) -> &Arc<ClientConfig> {
        &self.proxy
    }
}

/// Offers the protocols that the client speaks, the better one first.
fn http(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// The roots that a connection trusts.
struct Trust {
    roots: Arc<RootCertStore>,
    /// The certificates of a `ca_file`, each of which may be a server's own.
    named: Vec<CertificateDer<'static>>,
    /// Certificates that are believed under any name and at any time.
    own: Vec<CertificateDer<'static>>,
}

/// The TLS configuration of a client that asks one server alone, in HTTP/1.1. `ca_file` has roots besides the
/// system's, or the server's own certificate. `own` is that of a server on this machine, as its configuration names it:
/// it is believed under any name and at any time, since it is asked by its address; a file that cannot be read says
/// nothing.
///
/// # Errors
/// One line naming the file.
pub(crate) fn client_config(
    ca_file: Option<&Path>,
    certificate: Option<&ClientCertificate>,
    own: Option<&Path>,
) -> Result<ClientConfig, String> {
    let mut roots = native_roots().clone();
    let named = match ca_file {
        Some(path) => {
            add_file(&mut roots, path).map_err(|why| format!("{}: {why}", path.display()))?
        }
        None => Vec::new(),
    };
    let own = own.and_then(|path| read_certificates(path).ok());
    let trust = Trust {
        roots: Arc::new(roots),
        named,
        // The others of a chain are authorities', and have signed for others too.
        own: own.into_iter().flatten().take(1).collect(),
    };
    config(&trust, certificate, false)
}

fn config(
    trust: &Trust,
    certificate: Option<&ClientCertificate>,
    insecure: bool,
) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?;
    let builder = if insecure {
        let verifier = Arc::new(Anybody(Arc::clone(&provider)));
        builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
    } else if trust.named.is_empty() && trust.own.is_empty() {
        builder.with_root_certificates(Arc::clone(&trust.roots))
    } else {
        let mut roots = RootCertStore::clone(&trust.roots);
        // A verifier without any root is none (a machine without a CA bundle).
        for own in trust.own.iter().filter(|_| trust.roots.is_empty()) {
            roots.add(own.clone()).ok();
        }
        let roots = Arc::new(roots);
        let usual = WebPkiServerVerifier::builder_with_provider(roots, provider)
            .build()
            .map_err(|error| format!("TLS: {error}"))?;
        let verifier = OrItself {
            usual,
            named: trust.named.clone(),
            own: trust.own.clone(),
        };
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
    };
    let Some(ClientCertificate { cert, key }) = certificate else {
        return Ok(builder.with_no_client_auth());
    };
    let wrong = |path: &Path, why: &str| format!("client certificate {}: {why}", path.display());
    let chain = read_certificates(cert).map_err(|why| wrong(cert, &why))?;
    let secret = read_key(key).map_err(|why| wrong(key, &why))?;
    builder
        .with_client_auth_cert(chain, secret)
        .map_err(|error| wrong(cert, &format!("with key {}: {error}", key.display())))
}

/// Adds the certificates of a file to the roots, and says which they are.
fn add_file(
    roots: &mut RootCertStore,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = read_certificates(path)?;
    for (index, certificate) in certificates.iter().enumerate() {
        let place = index + 1;
        let added = roots.add(certificate.clone());
        added.map_err(|error| format!("certificate {place} of {}: {error}", certificates.len()))?;
    }
    if PrivateKeyDer::from_pem_file(path).is_ok() {
        let file = path.display();
        tracing::warn!(%file, "ca_file: it holds a private key, which does not belong there; it is not used");
    }
    Ok(certificates)
}

/// The certificates of a PEM file, at least one.
pub(crate) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let nothing = "no certificate in it";
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let found: Vec<_> = found.map_err(|error| unreadable(&error, nothing))?;
    if found.is_empty() {
        return Err(nothing.to_owned());
    }
    Ok(found)
}

pub(crate) fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|error| unreadable(&error, "no PEM private key in it"))
}

/// Says why a PEM file cannot be used, and nothing of its contents: the text of such an error may quote the
/// line that it stumbled over, which may be a key.
fn unreadable(error: &pem::Error, nothing: &str) -> String {
    if let pem::Error::Io(error) = error {
        error.to_string()
    } else {
        nothing.to_owned()
    }
}

/// Believes what the roots have signed, and the very certificates that are named: a server's own, signed by itself,
/// is no authority's and is refused as a root, whether it says that it is one or not (RFC 5280 section 4.2.1.9).
#[derive(Debug)]
struct OrItself {
    usual: Arc<WebPkiServerVerifier>,
    named: Vec<CertificateDer<'static>>,
    own: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for OrItself {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.own.contains(end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        let usual = self.usual.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match usual {
            // Its time is looked at before what it may be used for, so that only the name is left to check.
            Err(error) if self.named.contains(end_entity) && !is_of_time(&error) => {
                let certificate = ParsedCertificate::try_from(end_entity)?;
                verify_server_name(&certificate, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

/// True if a certificate is not good at this time, or not any more.
fn is_of_time(error: &rustls::Error) -> bool {
    use rustls::CertificateError as E;
    let rustls::Error::InvalidCertificate(why) = error else {
        return false;
    };
    matches!(
        why,
        E::Expired
            | E::ExpiredContext { .. }
            | E::NotValidYet
            | E::NotValidYetContext { .. }
            | E::Revoked
    )
}

/// Believes every certificate, but wants its owner at the other end.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// True if the system's roots have an authority of this name, in DER.
pub(crate) fn is_known_authority(name: &[u8]) -> bool {
    let mut roots = native_roots().roots.iter();
    // A root's name is stored without the head of its sequence.
    roots.any(|root| !root.subject.is_empty() && name.ends_with(root.subject.as_ref()))
}

/// The system's roots, read once for all upstreams. A machine without a CA bundle still starts:
/// its upstreams may be plain HTTP or have a `ca_file`.
fn native_roots() -> &'static RootCertStore {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "cannot read some of the system's root certificates");
        }
        let mut roots = RootCertStore::empty();
        let (added, _ignored) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            tracing::warn!("the system has no root certificates: HTTPS upstreams need a `ca_file`");
        }
        roots
    })
}

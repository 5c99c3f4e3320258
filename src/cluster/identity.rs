//! The keys by which nodes know each other: TLS 1.3, in both directions.
//!
//! Of a shared secret each node derives the same key pair, and takes whoever proves to have that for a node. The secret
//! itself is never sent: the public part of the pair can be seen by anybody who connects, so a secret must be long enough not
//! to be guessed. With certificates of an authority of the cluster's own, whatever that has signed is a node.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::signature::Ed25519KeyPair;
use rcgen::{CertificateParams, KeyPair};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider, verify_tls13_signature};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore,
    ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::config::Keys;
use crate::net::{SharedSecrets, read_certificates, read_key};

/// The purposes of derived keys. Fixed, since nodes of several versions have to agree.
const PURPOSE: &[u8] = b"ed25519 key 1";
/// The same for keys of tokens.
const TOKENS: &[u8] = b"token key 1";

/// The name in the certificates that are made of a secret, which nobody looks at.
const NAME: &str = "node.roadstead.invalid";

/// The TLS configurations of a node.
#[derive(Clone)]
pub struct Identity {
    pub(super) server: Arc<ServerConfig>,
    pub(super) client: ClientConfig,
    /// Seeds for other keys that all nodes have, the one in use first; none without a secret.
    seeds: Vec<[u8; 32]>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

impl Identity {
    /// Reads the files, and derives. Blocks.
    ///
    /// # Errors
    /// One line that names the file.
    pub fn read(keys: &Keys) -> Result<Self, String> {
        match keys {
            Keys::Secret(path) => {
                let secrets = SharedSecrets::read(path);
                let secrets = secrets
                    .map_err(|why| format!("cluster.secret_file {}: {why}", path.display()))?;
                Self::of_secrets(&secrets)
            }
            Keys::Authority { ca, cert, key } => Self::of_authority(ca, cert, key),
        }
    }

    /// The identity of secrets: the first one's, which knows all of them.
    fn of_secrets(secrets: &SharedSecrets) -> Result<Self, String> {
        let pairs: Vec<Pair> = secrets
            .seeds(PURPOSE)?
            .iter()
            .map(Pair::derive)
            .collect::<Result<_, _>>()?;
        let first = pairs.first().ok_or("there is no secret")?;
        let provider = Arc::new(provider::default_provider());
        let known = Arc::new(Known {
            keys: pairs.iter().map(|pair| pair.public.clone()).collect(),
            provider: Arc::clone(&provider),
        });
        let failed = |error: rustls::Error| format!("TLS of the cluster: {error}");
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(failed)?
            .with_client_cert_verifier(Arc::clone(&known) as Arc<dyn ClientCertVerifier>)
            .with_single_cert(vec![first.certificate.clone()], first.key.clone_key())
            .map_err(failed)?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(failed)?
            .dangerous()
            .with_custom_certificate_verifier(known)
            .with_client_auth_cert(vec![first.certificate.clone()], first.key.clone_key())
            .map_err(failed)?;
        Ok(Self {
            seeds: secrets.seeds(TOKENS)?,
            ..Self::of(server, client)
        })
    }

    /// The identity of a certificate of the cluster's own authority.
    fn of_authority(ca: &Path, cert: &Path, key: &Path) -> Result<Self, String> {
        let named = |path: &Path, why: &str| format!("cluster: {}: {why}", path.display());
        let mut roots = RootCertStore::empty();
        for certificate in read_certificates(ca).map_err(|why| named(ca, &why))? {
            let added = roots.add(certificate);
            added.map_err(|error| named(ca, &error.to_string()))?;
        }
        let roots = Arc::new(roots);
        let chain = read_certificates(cert).map_err(|why| named(cert, &why))?;
        let secret = read_key(key).map_err(|why| named(key, &why))?;
        let provider = Arc::new(provider::default_provider());
        let failed = |error: rustls::Error| format!("cluster: {}: {error}", cert.display());
        let build = |error: &dyn fmt::Display| named(ca, &error.to_string());
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .build()
                .map_err(|error| build(&error))?;
        let servers = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|error| build(&error))?;
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(failed)?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain.clone(), secret.clone_key())
            .map_err(failed)?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(failed)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Signed(servers)))
            .with_client_auth_cert(chain, secret)
            .map_err(failed)?;
        Ok(Self::of(server, client))
    }

    fn of(mut server: ServerConfig, client: ClientConfig) -> Self {
        // Bodies gain nothing from frames, and each has a connection's window for itself.
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut client = client;
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self {
            server: Arc::new(server),
            client,
            seeds: Vec::new(),
        }
    }

    /// Seeds of keys for tokens, which all nodes have; none where they share no secret.
    #[must_use]
    pub fn token_seeds(&self) -> &[[u8; 32]] {
        &self.seeds
    }

    /// The configuration of requests to nodes.
    #[must_use]
    pub fn client(&self) -> ClientConfig {
        self.client.clone()
    }

    /// The configuration of the listener for nodes.
    #[must_use]
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }
}

/// A key pair, and a certificate of it.
struct Pair {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    /// The public key, as certificates have it (RFC 5280 section 4.1.2.7).
    public: Vec<u8>,
}

impl Pair {
    /// The pair of a seed, for Ed25519 (RFC 8032).
    fn derive(seed: &[u8; 32]) -> Result<Self, String> {
        let failed = |_unspecified| UNDERIVED.to_owned();
        let pair = Ed25519KeyPair::from_seed_unchecked(seed)
            .map_err(|rejected| format!("the key of the cluster cannot be made: {rejected}"))?;
        let encoded = pair.to_pkcs8v1().map_err(failed)?;
        let encoded = PrivatePkcs8KeyDer::from(encoded.as_ref().to_vec());
        let made = |error: rcgen::Error| format!("the certificate of the cluster: {error}");
        let signer =
            KeyPair::from_pkcs8_der_and_sign_algo(&encoded, &rcgen::PKCS_ED25519).map_err(made)?;
        let params = CertificateParams::new(vec![NAME.to_owned()]).map_err(made)?;
        let certificate = params.self_signed(&signer).map_err(made)?.der().clone();
        let public = public_key(&certificate)
            .ok_or("the certificate of the cluster cannot be read")?
            .to_vec();
        Ok(Self {
            certificate,
            key: PrivateKeyDer::Pkcs8(encoded),
            public,
        })
    }
}

const UNDERIVED: &str = "the key of the cluster cannot be derived";

/// The public key in a certificate.
fn public_key<'a>(certificate: &'a CertificateDer<'_>) -> Option<&'a [u8]> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.tbs_certificate.subject_pki.raw)
}

/// Takes for a node whoever has one of these keys, whatever else its certificate says.
#[derive(Debug)]
struct Known {
    keys: Vec<Vec<u8>>,
    provider: Arc<CryptoProvider>,
}

impl Known {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let key = public_key(certificate).ok_or(CertificateError::BadEncoding)?;
        if self.keys.iter().any(|known| known == key) {
            return Ok(());
        }
        Err(CertificateError::UnknownIssuer.into())
    }

    fn verify(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }
}

/// TLS 1.2 is not offered.
fn too_old() -> rustls::Error {
    rustls::Error::General("nodes speak TLS 1.3".to_owned())
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(too_old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for Known {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(too_old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// Takes for a node whoever has a certificate of the authority. Its name is not looked at: nodes are found by addresses that
/// come and go.
#[derive(Debug)]
struct Signed(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for Signed {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let usual =
            self.0
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match usual {
            // The name is what is looked at last.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            usual => usual,
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(too_old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

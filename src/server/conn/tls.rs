//! TLS of the listeners: certificates by host name, certificates of clients, and files that are read again.
//!
//! Files are looked at once a second by a task of their own, so that no handshake waits for a disk, and taken over when
//! they have stayed as they are for one look: a certificate may be there before its key is. What cannot be used is said
//! once, and what was used before stays.

mod identity;
mod names;
mod pem;

use crate::access::Principal;
use crate::server::bind_error::BindError;
use crate::server::{ClientAuth, TlsConfig};
use arc_swap::ArcSwap;
use names::ByName;
use pem::Stamp;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// The name of HTTP/2 when client and server agree on a protocol (RFC 9113 section 3.2).
pub(crate) const HTTP2: &[u8] = b"h2";

/// Time between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// TLS of one or several listeners. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Tls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    provider: Arc<CryptoProvider>,
    client_auth: ClientAuth,
    files: Mutex<Files>,
    current: ArcSwap<Current>,
}

/// Configuration that new connections get.
#[derive(Debug)]
struct Current {
    server: Arc<ServerConfig>,
    /// Cancelled when other authorities hold for clients' certificates: connections finish what runs, and end.
    outdated: CancellationToken,
}

#[derive(Debug)]
struct Files {
    pairs: Vec<Watched<Arc<CertifiedKey>>>,
    client_ca: Option<Watched<Arc<RootCertStore>>>,
}

/// A value that was read from files.
#[derive(Debug)]
struct Watched<T> {
    paths: Vec<PathBuf>,
    value: T,
    /// Stamps of the files at their last reading.
    read: Vec<Stamp>,
    /// Stamps of the files at the last look.
    seen: Vec<Stamp>,
}

/// Condition under which files are read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// They are other ones, and have been for one look.
    Changed,
    /// Now.
    All,
}

/// A connection after its handshake.
pub(crate) struct Secured {
    pub(crate) stream: TlsStream<TcpStream>,
    /// The identity in the client's certificate.
    pub(crate) who: Option<Arc<Principal>>,
    /// Cancelled when the certificate may be one that is no longer accepted.
    pub(crate) outdated: Option<CancellationToken>,
}

impl Tls {
    /// Reads certificates and keys.
    ///
    /// # Errors
    /// [`BindError::Tls`], which names the file at fault.
    pub(crate) fn load(config: &TlsConfig) -> Result<Self, BindError> {
        // The provider is named: a process default would depend on what else is linked.
        let provider = Arc::new(aws_lc_rs::default_provider());
        let pairs = config.pairs.iter().map(|pair| {
            let paths = vec![pair.cert.clone(), pair.key.clone()];
            Watched::read(paths, |paths| read_pair(paths, &provider))
        });
        let client_ca = config
            .client_ca
            .iter()
            .next()
            .map(|path| Watched::read(vec![path.clone()], read_authorities));
        let files = Files {
            pairs: pairs.collect::<Result<_, _>>()?,
            client_ca: client_ca.transpose()?,
        };
        let server = files.server(&provider, config.client_auth)?;
        Ok(Self(Arc::new(Inner {
            provider,
            client_auth: config.client_auth,
            files: Mutex::new(files),
            current: ArcSwap::from_pointee(Current {
                server,
                outdated: CancellationToken::new(),
            }),
        })))
    }

    /// Secures a connection. The watch knows how long a client may take for it.
    ///
    /// # Errors
    /// The client does not speak TLS, or has no certificate that is accepted.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<Secured> {
        let current = self.0.current.load_full();
        let stream = TlsAcceptor::from(Arc::clone(&current.server))
            .accept(stream)
            .await?;
        let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let who = shown
            .first()
            .map(|first| Arc::new(identity::principal(first)));
        let outdated = who.is_some().then(|| current.outdated.clone());
        Ok(Secured {
            stream,
            who,
            outdated,
        })
    }

    /// Looks at the files again and again.
    pub(crate) async fn watch_files(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let tls = self.clone();
            let looked = tokio::task::spawn_blocking(move || tls.look(Reading::Changed));
            if let Err(error) = looked.await {
                tracing::error!(%error, "cannot look whether certificates have changed");
            }
        }
    }

    /// Reads all files again. Blocks.
    pub(crate) fn reload(&self) {
        self.look(Reading::All);
    }

    fn look(&self, reading: Reading) {
        let inner = &*self.0;
        // A look that panicked has left whole values.
        let mut files = inner.files.lock().unwrap_or_else(PoisonError::into_inner);
        let mut is_new = false;
        for pair in &mut files.pairs {
            is_new |= pair.look(
                reading,
                |paths| read_pair(paths, &inner.provider),
                |one, other| one.cert == other.cert,
            );
        }
        let has_new_ca = files.client_ca.as_mut().is_some_and(|client_ca| {
            client_ca.look(reading, read_authorities, |one, other| {
                one.roots == other.roots
            })
        });
        if !is_new && !has_new_ca {
            return;
        }
        let server = match files.server(&inner.provider, inner.client_auth) {
            Ok(server) => server,
            Err(error) => {
                tracing::error!(%error, "new certificates cannot be used: those from before stay");
                return;
            }
        };
        let before = inner.current.load_full();
        let outdated = if has_new_ca {
            CancellationToken::new()
        } else {
            before.outdated.clone()
        };
        inner.current.store(Arc::new(Current { server, outdated }));
        if has_new_ca {
            before.outdated.cancel();
        }
    }
}

impl Files {
    fn server(
        &self,
        provider: &Arc<CryptoProvider>,
        client_auth: ClientAuth,
    ) -> Result<Arc<ServerConfig>, BindError> {
        // Every listener has a certificate: the configuration sees to it.
        let first = self.pairs.first().and_then(|pair| pair.paths.first());
        let first = first.map_or(Path::new(""), PathBuf::as_path);
        let unusable = |error: rustls::Error| pem::unusable(first, error.to_string());
        let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?;
        let builder = match &self.client_ca {
            Some(client_ca) => {
                builder.with_client_cert_verifier(client_ca.verifier(provider, client_auth)?)
            }
            None => builder.with_no_client_auth(),
        };
        let keys = self.pairs.iter().map(|pair| Arc::clone(&pair.value));
        let mut server = builder.with_cert_resolver(Arc::new(ByName::of(keys.collect())));
        server.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(server))
    }
}

impl Watched<Arc<RootCertStore>> {
    fn verifier(
        &self,
        provider: &Arc<CryptoProvider>,
        client_auth: ClientAuth,
    ) -> Result<Arc<dyn ClientCertVerifier>, BindError> {
        let (roots, provider) = (Arc::clone(&self.value), Arc::clone(provider));
        let builder = WebPkiClientVerifier::builder_with_provider(roots, provider);
        let builder = match client_auth {
            ClientAuth::Required => builder,
            ClientAuth::Optional => builder.allow_unauthenticated(),
        };
        builder.build().map_err(|error| {
            let path = self.paths.first().map_or(Path::new(""), PathBuf::as_path);
            pem::unusable(path, error.to_string())
        })
    }
}

impl<T> Watched<T> {
    fn read(
        paths: Vec<PathBuf>,
        read: impl Fn(&[PathBuf]) -> Result<T, BindError>,
    ) -> Result<Self, BindError> {
        // Stamps first: what changes while it is read is read again.
        let stamps = stamps(&paths);
        let value = read(&paths)?;
        Ok(Self {
            paths,
            value,
            read: stamps.clone(),
            seen: stamps,
        })
    }

    /// Reads the files if it is time. True if there is another value now.
    fn look(
        &mut self,
        reading: Reading,
        read: impl Fn(&[PathBuf]) -> Result<T, BindError>,
        is_same: impl Fn(&T, &T) -> bool,
    ) -> bool {
        let now = stamps(&self.paths);
        let is_settled = now == self.seen;
        self.seen.clone_from(&now);
        if reading == Reading::Changed && (now == self.read || !is_settled) {
            return false;
        }
        self.read = now;
        match read(&self.paths) {
            Ok(value) if is_same(&self.value, &value) => false,
            Ok(value) => {
                self.value = value;
                let files = self.paths.iter().map(|path| path.display().to_string());
                let files = files.collect::<Vec<_>>().join(", ");
                tracing::info!(
                    files,
                    "certificates have changed and hold for new connections"
                );
                true
            }
            Err(error) => {
                tracing::error!(
                    %error,
                    "certificates have changed and cannot be used: those from before stay; mend the file, it is read again then"
                );
                false
            }
        }
    }
}

fn read_pair(paths: &[PathBuf], provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, BindError> {
    let [cert, key] = paths else {
        return Err(pem::unusable(
            Path::new(""),
            "it takes two files".to_owned(),
        ));
    };
    pem::read_pair(cert, key, provider).map(Arc::new)
}

fn read_authorities(paths: &[PathBuf]) -> Result<Arc<RootCertStore>, BindError> {
    let path = paths.first().map_or(Path::new(""), PathBuf::as_path);
    pem::read_authorities(path).map(Arc::new)
}

fn stamps(paths: &[PathBuf]) -> Vec<Stamp> {
    paths.iter().map(|path| Stamp::of(path)).collect()
}

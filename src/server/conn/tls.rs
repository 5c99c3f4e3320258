//! TLS of the listeners: certificates by host name, certificates of clients, and files that are read again.
//!
//! Files are looked at once a second by a task of their own, so that no handshake waits for a disk, and taken over when
//! they have stayed as they are for one look: a certificate may be there before its key is. What cannot be used is said
//! once, and what was used before stays. The same task mints the certificates of transparent mode.

mod files;
mod identity;
mod names;
mod pem;

use crate::access::Principal;
use crate::clock::Clock;
use crate::server::bind_error::BindError;
use crate::server::config::TlsConfig;
use crate::server::transparent::{StandIn, TransparentHost};
use arc_swap::ArcSwap;
pub(crate) use files::HTTP2;
use files::{Files, News, Reading};
pub(crate) use pem::read_authority;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// Time between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// TLS of one or several listeners. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Tls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    provider: Arc<CryptoProvider>,
    clock: Arc<dyn Clock>,
    stand_in: StandIn,
    files: Mutex<Files>,
    current: ArcSwap<Current>,
}

/// Configuration that new connections get.
#[derive(Debug)]
struct Current {
    server: Arc<ServerConfig>,
    /// Cancelled when certificates of clients are judged by others: connections finish what runs, and end.
    outdated: CancellationToken,
}

/// Files of another configuration, read and found to be usable.
#[derive(Debug)]
pub(crate) struct Prepared {
    files: Files,
    hosts: Option<Vec<TransparentHost>>,
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
    /// Reads certificates and keys, and mints those of transparent mode.
    ///
    /// # Errors
    /// [`BindError::Tls`], which names the file at fault.
    pub(crate) fn load(config: &TlsConfig, clock: Arc<dyn Clock>) -> Result<Self, BindError> {
        // The provider is named: a process default would depend on what else is linked.
        let provider = Arc::new(aws_lc_rs::default_provider());
        let files = Files::read(config, &provider, clock.now())?;
        let server = files.server(&provider)?;
        let hosts = config.transparent.as_ref().map(|it| &it.hosts[..]);
        Ok(Self(Arc::new(Inner {
            provider,
            clock,
            stand_in: hosts.map(StandIn::of).unwrap_or_default(),
            files: Mutex::new(files),
            current: ArcSwap::from_pointee(Current {
                server,
                outdated: CancellationToken::new(),
            }),
        })))
    }

    /// A configuration that comes from no files.
    pub(crate) fn fixed(server: Arc<ServerConfig>, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner {
            provider: Arc::new(aws_lc_rs::default_provider()),
            clock,
            stand_in: StandIn::default(),
            files: Mutex::new(Files::none()),
            current: ArcSwap::from_pointee(Current {
                server,
                outdated: CancellationToken::new(),
            }),
        }))
    }

    /// The upstreams' own names at which it answers.
    pub(crate) fn stand_in(&self) -> StandIn {
        self.0.stand_in.clone()
    }

    /// Reads the files of another configuration. Nothing is changed. Blocks.
    ///
    /// # Errors
    /// [`BindError::Tls`], which names the file at fault.
    pub(crate) fn prepare(&self, config: &TlsConfig) -> Result<Prepared, BindError> {
        let inner = &*self.0;
        let files = Files::read(config, &inner.provider, inner.clock.now())?;
        files.server(&inner.provider)?;
        Ok(Prepared {
            files,
            hosts: config.transparent.as_ref().map(|it| it.hosts.clone()),
        })
    }

    /// Takes over what was read. Connections of clients whose certificates may be judged otherwise now end after what runs.
    pub(crate) fn replace(&self, prepared: Prepared) {
        let inner = &*self.0;
        let mut files = inner.files.lock().unwrap_or_else(PoisonError::into_inner);
        let news = News {
            certificates: true,
            clients: !files.judges_clients_as(&prepared.files),
        };
        *files = prepared.files;
        inner.stand_in.replace(&prepared.hosts.unwrap_or_default());
        inner.take_over(&files, news);
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

    /// Reads all files again, and returns the reasons why some are of no use: what was read before stays. Blocks.
    pub(crate) fn reload(&self) -> Vec<String> {
        self.look(Reading::All);
        let files = self.0.files.lock();
        files.unwrap_or_else(PoisonError::into_inner).troubles()
    }

    fn look(&self, reading: Reading) {
        let inner = &*self.0;
        // A look that panicked has left whole values.
        let mut files = inner.files.lock().unwrap_or_else(PoisonError::into_inner);
        let news = files.look(reading, &inner.provider, inner.clock.now());
        if news.certificates || news.clients {
            inner.take_over(&files, news);
        }
    }
}

impl Inner {
    /// Gives new connections what is in the files.
    fn take_over(&self, files: &Files, news: News) {
        let server = match files.server(&self.provider) {
            Ok(server) => server,
            Err(error) => {
                tracing::error!(%error, "new certificates cannot be used: those from before stay");
                return;
            }
        };
        let before = self.current.load_full();
        let outdated = if news.clients {
            CancellationToken::new()
        } else {
            before.outdated.clone()
        };
        self.current.store(Arc::new(Current { server, outdated }));
        if news.clients {
            before.outdated.cancel();
        }
    }
}

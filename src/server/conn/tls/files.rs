//! Files of a listener's certificates: what was read of them last, and when they are read again.

use super::names::ByName;
use super::pem;
use crate::clock::Timestamp;
use crate::server::bind_error::BindError;
use crate::server::config::{ClientAuth, TlsConfig};
use crate::server::transparent::{Authority, Minted, TransparentConfig};
use crate::stamp::Stamp;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::CertificateRevocationListDer;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The name of HTTP/2 when client and server agree on a protocol (RFC 9113 section 3.2).
pub(crate) const HTTP2: &[u8] = b"h2";

/// All files of a listener, and what is made of them.
#[derive(Debug)]
pub(super) struct Files {
    pairs: Vec<Watched<Arc<CertifiedKey>>>,
    client_ca: Option<Watched<Arc<RootCertStore>>>,
    client_crl: Option<Watched<Arc<Revoked>>>,
    client_auth: ClientAuth,
    transparent: Option<Transparent>,
}

/// Revocation lists (RFC 5280 section 5).
#[derive(Debug)]
pub(super) struct Revoked {
    pub(super) lists: Vec<CertificateRevocationListDer<'static>>,
    /// The time at which the first of them should have been replaced.
    pub(super) next_update: Option<Timestamp>,
    /// Somebody was told that this is past.
    is_told: bool,
}

/// The authority of transparent mode, and what it has signed.
#[derive(Debug)]
struct Transparent {
    authority: Watched<Arc<Authority>>,
    hosts: Vec<String>,
    minted: Minted,
}

/// A value that was read from files.
#[derive(Debug)]
struct Watched<T> {
    paths: Vec<PathBuf>,
    value: T,
    /// Stamps of the files at their last reading.
    read: Vec<Option<Stamp>>,
    /// Stamps of the files at the last look.
    seen: Vec<Option<Stamp>>,
    /// The reason that their last reading was of no use.
    trouble: Option<String>,
}

/// Condition under which files are read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// They are other ones, and have been for one look.
    Changed,
    /// Now.
    All,
}

/// The outcome of a look.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct News {
    /// There are other certificates.
    pub(super) certificates: bool,
    /// Certificates of clients are judged by others.
    pub(super) clients: bool,
}

impl Files {
    /// No files at all.
    pub(super) fn none() -> Self {
        Self {
            pairs: Vec::new(),
            client_ca: None,
            client_crl: None,
            client_auth: ClientAuth::default(),
            transparent: None,
        }
    }

    /// Reads all of them.
    ///
    /// # Errors
    /// [`BindError::Tls`], which names the file at fault.
    pub(super) fn read(
        config: &TlsConfig,
        provider: &CryptoProvider,
        now: Timestamp,
    ) -> Result<Self, BindError> {
        let pairs = config.pairs.iter().map(|pair| {
            let paths = vec![pair.cert.clone(), pair.key.clone()];
            Watched::read(paths, |paths| read_pair(paths, provider))
        });
        let pairs = pairs.collect::<Result<_, _>>()?;
        let client_ca = config.client_ca.as_ref();
        let client_ca = client_ca.map(|it| Watched::read(vec![it.clone()], read_authorities));
        let client_crl = config.client_crl.as_ref();
        let client_crl = client_crl.map(|it| Watched::read(vec![it.clone()], read_revoked));
        let transparent = config.transparent.as_ref();
        let files = Self {
            pairs,
            client_ca: client_ca.transpose()?,
            client_crl: client_crl.transpose()?,
            client_auth: config.client_auth,
            transparent: transparent
                .map(|it| Transparent::read(it, provider, now))
                .transpose()?,
        };
        files.tell_of_missing_lists();
        Ok(files)
    }

    /// Reads those again for which it is time, and mints for which it is time.
    pub(super) fn look(
        &mut self,
        reading: Reading,
        provider: &CryptoProvider,
        now: Timestamp,
    ) -> News {
        let mut news = News::default();
        for pair in &mut self.pairs {
            news.certificates |= pair.look(
                reading,
                |paths| read_pair(paths, provider),
                |one, other| one.cert == other.cert,
            );
        }
        if let Some(transparent) = &mut self.transparent {
            news.certificates |= transparent.look(reading, provider, now);
        }
        news.clients |= self.client_ca.as_mut().is_some_and(|client_ca| {
            client_ca.look(reading, read_authorities, |one, other| {
                one.roots == other.roots
            })
        });
        news.clients |= self.client_crl.as_mut().is_some_and(|client_crl| {
            client_crl.look(reading, read_revoked, |one, other| one.lists == other.lists)
        });
        if news.clients {
            self.tell_of_missing_lists();
        }
        self.tell_of_old_lists(now);
        news
    }

    /// Files whose last reading was of no use, so that what was read before is in use: the reasons.
    pub(super) fn troubles(&self) -> Vec<String> {
        let pairs = self.pairs.iter().map(|it| &it.trouble);
        let authority = self.transparent.iter().map(|it| &it.authority.trouble);
        let clients = self.client_ca.iter().map(|it| &it.trouble);
        let revoked = self.client_crl.iter().map(|it| &it.trouble);
        let all = pairs.chain(authority).chain(clients).chain(revoked);
        all.flatten().cloned().collect()
    }

    /// True if certificates of clients are judged by the same authorities, lists and treatment.
    pub(super) fn judges_clients_as(&self, other: &Self) -> bool {
        let roots = |files: &Self| files.client_ca.as_ref().map(|it| it.value.roots.clone());
        let lists = |files: &Self| files.client_crl.as_ref().map(|it| it.value.lists.clone());
        self.client_auth == other.client_auth
            && roots(self) == roots(other)
            && lists(self) == lists(other)
    }

    /// The configuration that new connections get.
    ///
    /// # Errors
    /// The files do not fit together.
    pub(super) fn server(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<ServerConfig>, BindError> {
        // Every listener has a certificate or an authority: the configuration sees to it.
        let of_authority = self.transparent.iter().map(|it| it.authority.path());
        let mut paths = self.pairs.iter().map(Watched::path).chain(of_authority);
        let first = paths.next().unwrap_or(Path::new(""));
        let unusable = |error: rustls::Error| pem::unusable(first, error.to_string());
        let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?;
        let builder = match &self.client_ca {
            Some(client_ca) => {
                builder.with_client_cert_verifier(self.verifier(client_ca, provider)?)
            }
            None => builder.with_no_client_auth(),
        };
        let keys = self.pairs.iter().map(|pair| Arc::clone(&pair.value));
        let minted = self.transparent.iter().flat_map(|it| &it.minted.leaves);
        let names = ByName::of(keys.collect(), minted.cloned().collect());
        let mut server = builder.with_cert_resolver(Arc::new(names));
        server.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(server))
    }

    fn verifier(
        &self,
        client_ca: &Watched<Arc<RootCertStore>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, BindError> {
        let (roots, provider) = (Arc::clone(&client_ca.value), Arc::clone(provider));
        let mut builder = WebPkiClientVerifier::builder_with_provider(roots, provider);
        if let Some(client_crl) = &self.client_crl {
            // Whether a certificate of an authority without a list is revoked is not known: it is refused. A list whose
            // time is over goes on to count: it would otherwise lock the whole fleet out.
            builder = builder.with_crls(client_crl.value.lists.iter().cloned());
        }
        let builder = match self.client_auth {
            ClientAuth::Required => builder,
            ClientAuth::Optional => builder.allow_unauthenticated(),
        };
        builder.build().map_err(|error| {
            let lists = self.client_crl.as_ref().map(Watched::path);
            let is_of_lists = matches!(error, VerifierBuilderError::InvalidCrl(_));
            let path = lists.filter(|_| is_of_lists).unwrap_or(client_ca.path());
            pem::unusable(path, error.to_string())
        })
    }

    /// Says whose certificates are refused for want of a list.
    fn tell_of_missing_lists(&self) {
        let (Some(client_ca), Some(client_crl)) = (&self.client_ca, &self.client_crl) else {
            return;
        };
        let lists = &client_crl.value.lists;
        for root in &client_ca.value.roots {
            if !lists
                .iter()
                .any(|list| pem::is_list_of(list, &root.subject))
            {
                tracing::warn!(
                    authority = pem::name_of(&root.subject),
                    client_ca = %client_ca.path().display(),
                    client_crl = %client_crl.path().display(),
                    "an authority of client_ca has no list in client_crl: its certificates are refused; put its list into the file, too"
                );
            }
        }
    }

    /// Says once that a list should have been replaced.
    fn tell_of_old_lists(&mut self, now: Timestamp) {
        let Some(client_crl) = &mut self.client_crl else {
            return;
        };
        let path = client_crl.path().display().to_string();
        let is_old = client_crl.value.next_update.is_some_and(|it| it <= now);
        if let Some(revoked) = Arc::get_mut(&mut client_crl.value)
            && is_old
            && !std::mem::replace(&mut revoked.is_told, true)
        {
            tracing::warn!(
                client_crl = path,
                "a revocation list is older than its authority says it may be: it goes on to count, and what was revoked since is let in; replace it"
            );
        }
    }
}

impl Transparent {
    fn read(
        config: &TransparentConfig,
        provider: &CryptoProvider,
        now: Timestamp,
    ) -> Result<Self, BindError> {
        let paths = vec![config.ca.clone(), config.ca_key.clone()];
        let authority = Watched::read(paths, read_authority)?;
        let hosts = config.certified();
        let minted = mint(&authority, &hosts, provider, now)?;
        Ok(Self {
            authority,
            hosts,
            minted,
        })
    }

    /// True if there are other certificates.
    fn look(&mut self, reading: Reading, provider: &CryptoProvider, now: Timestamp) -> bool {
        let is_new = self.authority.look(reading, read_authority, |one, other| {
            one.certificate() == other.certificate()
        });
        if !is_new && !self.minted.is_due(now) {
            return false;
        }
        match mint(&self.authority, &self.hosts, provider, now) {
            Ok(minted) => {
                self.minted = minted;
                true
            }
            Err(error) => {
                tracing::error!(%error, "certificates of transparent mode cannot be minted: those from before stay until they end");
                self.minted.try_later(now);
                false
            }
        }
    }
}

/// Mints for all hosts, and says which it leaves out.
fn mint(
    authority: &Watched<Arc<Authority>>,
    hosts: &[String],
    provider: &CryptoProvider,
    now: Timestamp,
) -> Result<Minted, BindError> {
    let path = authority.path();
    let minted = authority.value.mint(hosts, now, provider);
    let minted = minted.map_err(|error| pem::unusable(path, error.to_string()))?;
    if authority.value.permitted().is_none() {
        tracing::warn!(
            ca = %path.display(),
            "the authority of transparent mode has no name constraints: anybody who gets its key can stand in for any host; `roadstead ca init` makes one that has"
        );
    }
    let left_out = hosts.iter().filter(|host| !authority.value.covers(host));
    let left_out: Vec<&str> = left_out.map(String::as_str).collect();
    if minted.leaves.is_empty() {
        let why = format!(
            "its name constraints cover none of {}: run `roadstead ca init` again",
            left_out.join(", ")
        );
        return Err(pem::unusable(path, why));
    }
    if !left_out.is_empty() {
        tracing::warn!(
            ca = %path.display(), names = left_out.join(","),
            "name constraints of the authority do not cover these names, which have no certificate: run `roadstead ca init` again, and install the new one at the clients"
        );
    }
    tracing::info!(
        names = minted.leaves.len(),
        "certificates of transparent mode were minted"
    );
    Ok(minted)
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
            trouble: None,
        })
    }

    /// The first of its files.
    fn path(&self) -> &Path {
        self.paths.first().map_or(Path::new(""), PathBuf::as_path)
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
        let found = read(&self.paths);
        self.trouble = found.as_ref().err().map(ToString::to_string);
        match found {
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
        return Err(two_files());
    };
    pem::read_pair(cert, key, provider).map(Arc::new)
}

fn read_authority(paths: &[PathBuf]) -> Result<Arc<Authority>, BindError> {
    let [cert, key] = paths else {
        return Err(two_files());
    };
    pem::read_authority(cert, key).map(Arc::new)
}

fn two_files() -> BindError {
    pem::unusable(Path::new(""), "it takes two files".to_owned())
}

fn read_authorities(paths: &[PathBuf]) -> Result<Arc<RootCertStore>, BindError> {
    let path = paths.first().map_or(Path::new(""), PathBuf::as_path);
    pem::read_authorities(path).map(Arc::new)
}

fn read_revoked(paths: &[PathBuf]) -> Result<Arc<Revoked>, BindError> {
    let path = paths.first().map_or(Path::new(""), PathBuf::as_path);
    let (lists, next_update) = pem::read_lists(path)?;
    Ok(Arc::new(Revoked {
        lists,
        next_update,
        is_told: false,
    }))
}

fn stamps(paths: &[PathBuf]) -> Vec<Option<Stamp>> {
    paths.iter().map(|path| Stamp::look(path)).collect()
}

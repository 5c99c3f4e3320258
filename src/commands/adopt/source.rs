//! The place that images are copied from.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use bytes::Bytes;
use url::Url;

use super::remote::{Login, Remote};
use super::storage::Storage;
use crate::oci::{Digest, Reference, Repository, Tag};
use crate::upstream::BlobBody;

/// Bytes that are read of a file at once.
const READ_BYTES: usize = 256 * 1024;

/// Something that is not copied, and why: one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The repository, tag or blob.
    pub name: String,
    /// The cause.
    pub why: String,
}

/// A registry, running or not.
#[derive(Debug)]
pub(super) enum Source {
    Remote(Box<Remote>),
    Storage(Storage),
}

/// A manifest whose bytes have its digest.
#[derive(Debug)]
pub(super) struct Manifest {
    pub(super) digest: Digest,
    pub(super) bytes: Vec<u8>,
    pub(super) content_type: Option<String>,
}

/// A blob as it comes.
pub(super) enum Blob {
    Remote(Box<BlobBody>),
    File(File),
}

impl Fault {
    pub(super) fn of(name: impl std::fmt::Display, why: impl std::fmt::Display) -> Self {
        Self {
            name: name.to_string(),
            why: why.to_string(),
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.name, self.why)
    }
}

impl Source {
    /// The registry that a user names: a directory, or a URL.
    ///
    /// # Errors
    /// One line.
    pub(super) fn open(text: &str, login: &Login) -> Result<Self, String> {
        if text.starts_with("http://") || text.starts_with("https://") {
            let url = Url::parse(text).map_err(|error| format!("--from {text}: {error}"))?;
            let remote = Remote::new(&url, login).map_err(|why| format!("--from: {why}"))?;
            return Ok(Self::Remote(Box::new(remote)));
        }
        let path = Path::new(text);
        if !path.is_dir() {
            return Err(format!(
                "--from {text}: there is no such directory; a registry that runs is written http://HOST:PORT"
            ));
        }
        Storage::open(path).map(Self::Storage)
    }

    /// All repositories, and those that cannot be copied.
    ///
    /// # Errors
    /// One line.
    pub(super) async fn repositories(&self) -> Result<(Vec<Repository>, Vec<Fault>), String> {
        match self {
            Self::Storage(storage) => Ok(storage.repositories()),
            Self::Remote(remote) => {
                let (mut found, mut faults) = (Vec::new(), Vec::new());
                for name in remote.repositories().await? {
                    match Repository::parse(&name) {
                        Ok(repository) => found.push(repository),
                        Err(error) => faults.push(Fault::of(name, error)),
                    }
                }
                Ok((found, faults))
            }
        }
    }

    pub(super) async fn tags(&self, repository: &Repository) -> Result<Vec<Tag>, String> {
        match self {
            Self::Storage(storage) => storage.tags(repository),
            Self::Remote(remote) => remote.tags(repository).await,
        }
    }

    pub(super) async fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Option<Manifest>, String> {
        let found = match self {
            Self::Storage(storage) => {
                let found = storage.manifest(repository, reference)?;
                found.map(|(digest, bytes)| (digest, bytes, None))
            }
            Self::Remote(remote) => remote.manifest(repository, reference).await?,
        };
        let Some((digest, bytes, content_type)) = found else {
            return Ok(None);
        };
        let own = Digest::of(digest.algorithm(), &bytes);
        if own != digest {
            return Err(format!(
                "{digest} is damaged: the bytes have the digest {own}"
            ));
        }
        Ok(Some(Manifest {
            digest,
            bytes,
            content_type,
        }))
    }

    pub(super) async fn referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
    ) -> Result<Vec<Digest>, String> {
        match self {
            Self::Storage(storage) => storage.referrers(repository, subject),
            Self::Remote(remote) => remote.referrers(repository, subject).await,
        }
    }

    /// True if manifests may refer to others without being named by a tag, as far as it has said.
    pub(super) fn lists_referrers(&self) -> bool {
        match self {
            Self::Storage(_) => true,
            Self::Remote(remote) => !remote.lists_no_referrers(),
        }
    }

    pub(super) async fn blob(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<Blob>, String> {
        match self {
            Self::Storage(storage) => {
                let found = storage.blob(digest)?;
                Ok(found.map(|(file, _)| Blob::File(file)))
            }
            Self::Remote(remote) => {
                let found = remote.blob(repository, digest).await?;
                Ok(found.map(|body| Blob::Remote(Box::new(body))))
            }
        }
    }
}

impl Blob {
    /// More of it; none at its end.
    ///
    /// # Errors
    /// One line.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, String> {
        match self {
            Self::Remote(body) => body.next().await.map_err(|error| error.to_string()),
            // It blocks, and may: the command has nothing else to do meanwhile.
            Self::File(file) => {
                let mut bytes = vec![0; READ_BYTES];
                let count = file.read(&mut bytes).map_err(|error| error.to_string())?;
                bytes.truncate(count);
                Ok((count > 0).then(|| Bytes::from(bytes)))
            }
        }
    }
}

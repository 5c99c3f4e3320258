//! The storage directory of distribution (`registry:2`), which runs no more or is not pushed to meanwhile:
//! `docker/registry/v2/{repositories,blobs}` (distribution, registry/storage/paths.go).

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::source::Fault;
use crate::commands::airgap::Root;
use crate::oci::manifest::MANIFEST_BYTES_MAX;
use crate::oci::{Digest, Reference, Repository, Tag, referrer};

/// Folders in one folder: more tags or manifests than that has no repository.
const FOLDERS_MAX: usize = 5_000_000;

/// Repositories of one registry.
const REPOSITORIES_MAX: usize = 1_000_000;

/// Components of a repository's name: of 255 characters not more fit.
const DEPTH_MAX: usize = 128;

/// The length of a link's content: a digest.
const LINK_BYTES_MAX: u64 = 256;

/// The places of the two folders below what the user names.
const PREFIXES: [&str; 4] = ["docker/registry/v2/", "registry/v2/", "v2/", ""];

/// A storage directory, open.
#[derive(Debug)]
pub(super) struct Storage {
    root: Root,
    prefix: &'static str,
    /// The manifests of the repository that was asked for last, by what they refer to.
    referrers: Mutex<Option<(Repository, Referrers)>>,
}

type Referrers = HashMap<Digest, Vec<Digest>>;

impl Storage {
    /// Opens it, and sees that it is one.
    ///
    /// # Errors
    /// One line.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let failed = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
        let root = Root::open(path).map_err(|error| failed(&error))?;
        for prefix in PREFIXES {
            let has = |folder: &str| match root.folders(&format!("{prefix}{folder}"), FOLDERS_MAX) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    Err(failed(&format!("{prefix}{folder}: {error}")))
                }
                found => Ok(found.is_ok_and(|it| !it.is_empty())),
            };
            if has("repositories")? && has("blobs")? {
                return Ok(Self {
                    root,
                    prefix,
                    referrers: Mutex::default(),
                });
            }
        }
        Err(failed(
            &"this is no storage directory of a registry: it has no docker/registry/v2/repositories and …/blobs (rootdirectory of its configuration, /var/lib/registry in the image registry:2)",
        ))
    }

    /// All repositories, sorted. Names that can be none are faults.
    pub(super) fn repositories(&self) -> (Vec<Repository>, Vec<Fault>) {
        let (mut found, mut faults) = (Vec::new(), Vec::new());
        let mut left = vec![(String::new(), 0)];
        while let Some((name, depth)) = left.pop() {
            let folders = self.folders(&format!("repositories/{name}"));
            let folders = match folders {
                Ok(folders) => folders,
                Err(error) => {
                    faults.push(Fault::of(&name, error));
                    continue;
                }
            };
            for folder in folders {
                if folder == "_manifests" {
                    match Repository::parse(&name) {
                        Ok(repository) => found.push(repository),
                        Err(error) => faults.push(Fault::of(&name, error)),
                    }
                } else if !folder.starts_with('_') && depth < DEPTH_MAX {
                    let below = if name.is_empty() {
                        folder
                    } else {
                        format!("{name}/{folder}")
                    };
                    left.push((below, depth + 1));
                }
            }
            if found.len() > REPOSITORIES_MAX {
                let why = format!("it has more than {REPOSITORIES_MAX} repositories");
                faults.push(Fault::of("the directory", why));
                break;
            }
        }
        found.sort_unstable();
        (found, faults)
    }

    /// The tags of a repository, sorted.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn tags(&self, repository: &Repository) -> Result<Vec<Tag>, String> {
        let folders = self.folders(&format!("repositories/{repository}/_manifests/tags"));
        let folders = folders.map_err(|error| error.to_string())?;
        let tags = folders.iter().filter_map(|name| Tag::parse(name).ok());
        let mut tags: Vec<Tag> = tags.collect();
        tags.sort_unstable();
        Ok(tags)
    }

    /// A manifest; `None`: there is none.
    ///
    /// # Errors
    /// One line.
    pub(super) fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Option<(Digest, Vec<u8>)>, String> {
        let below = format!("repositories/{repository}/_manifests");
        let (link, digest) = match reference {
            Reference::Tag(tag) => (format!("{below}/tags/{tag}/current/link"), None),
            Reference::Digest(digest) => {
                let (algorithm, hex) = (digest.algorithm().name(), digest.hex());
                let link = format!("{below}/revisions/{algorithm}/{hex}/link");
                (link, Some(*digest))
            }
        };
        let Some(named) = self.link(&link)? else {
            return Ok(None);
        };
        if digest.is_some_and(|digest| digest != named) {
            return Err(format!("{link} names {named}"));
        }
        let Some((mut file, size)) = self.blob(&named)? else {
            return Err(format!("its content {named} is not in the directory"));
        };
        if size > MANIFEST_BYTES_MAX as u64 {
            return Err(format!("{named} has {size} bytes, and is no manifest"));
        }
        let mut bytes = Vec::new();
        let read = file.read_to_end(&mut bytes);
        read.map_err(|error| format!("{named}: {error}"))?;
        Ok(Some((named, bytes)))
    }

    /// The manifests of a repository that refer to one.
    ///
    /// # Errors
    /// One line.
    pub(super) fn referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
    ) -> Result<Vec<Digest>, String> {
        let mut known = self
            .referrers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_none_or(|(of, _)| of != repository) {
            *known = Some((repository.clone(), self.all_referrers(repository)?));
        }
        let found = known.as_ref().and_then(|(_, all)| all.get(subject));
        Ok(found.cloned().unwrap_or_default())
    }

    fn all_referrers(&self, repository: &Repository) -> Result<Referrers, String> {
        let mut all = Referrers::new();
        for algorithm in ["sha256", "sha512"] {
            let below = format!("repositories/{repository}/_manifests/revisions/{algorithm}");
            let folders = self.folders(&below).map_err(|error| error.to_string())?;
            for hex in folders {
                let Ok(digest) = Digest::parse(&format!("{algorithm}:{hex}")) else {
                    continue;
                };
                // One that cannot be read is told where it is needed.
                let manifest = self.manifest(repository, &Reference::Digest(digest));
                let Ok(Some((_, bytes))) = manifest else {
                    continue;
                };
                if let Ok(facts) = referrer::facts(&bytes)
                    && let Some(subject) = facts.subject
                {
                    all.entry(subject).or_default().push(digest);
                }
            }
        }
        Ok(all)
    }

    /// A blob, open, and its length; `None`: there is none.
    ///
    /// # Errors
    /// One line.
    pub(super) fn blob(&self, digest: &Digest) -> Result<Option<(File, u64)>, String> {
        let (algorithm, hex) = (digest.algorithm().name(), digest.hex());
        let first = hex.get(..2).unwrap_or_default();
        let path = format!("{}blobs/{algorithm}/{first}/{hex}/data", self.prefix);
        let failed = |error: io::Error| format!("{path}: {error}");
        let Some(file) = self.root.file(&path).map_err(failed)? else {
            return Ok(None);
        };
        let size = file.metadata().map_err(failed)?.len();
        Ok(Some((file, size)))
    }

    fn link(&self, path: &str) -> Result<Option<Digest>, String> {
        let path = format!("{}{path}", self.prefix);
        let failed = |why: &dyn std::fmt::Display| format!("{path}: {why}");
        let file = self.root.file(&path).map_err(|error| failed(&error))?;
        let Some(file) = file else {
            return Ok(None);
        };
        let mut text = String::new();
        let read = file.take(LINK_BYTES_MAX).read_to_string(&mut text);
        read.map_err(|error| failed(&error))?;
        let digest = Digest::parse(text.trim());
        digest.map(Some).map_err(|error| failed(&error))
    }

    fn folders(&self, name: &str) -> io::Result<Vec<String>> {
        let name = format!("{}{name}", self.prefix);
        self.root.folders(name.trim_end_matches('/'), FOLDERS_MAX)
    }
}

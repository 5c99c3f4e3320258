//! What an operator sees of a mirror and does to it: the answers of the admin API. Nothing here counts as
//! a use of what it looks at, asks upstream, or holds a lock between two pages of the index.
//!
//! | file | what |
//! | --- | --- |
//! | `names` | what is asked about: an image, a repository, an upstream |
//! | `document` | what manifests and image configs say of themselves |
//! | `tree` | an image: manifests, config, layers, and what of it is stored |
//! | `images` | lists of images |
//! | `status` | how the process is |
//! | `usage` | who takes how much |
//! | `pins` | which images are never evicted |
//! | `remove`, `collect` | what an operator removes |
//!
//! The types are those of the JSON: docs/admin.md documents each field.

mod collect;
mod document;
mod images;
mod names;
mod pins;
mod remove;
mod status;
mod tree;
mod usage;

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

pub use collect::Collected;
pub use document::ConfigFacts;
pub use images::{ImageEntry, ImagePage, PlatformState};
pub use names::{Filter, NameError};
pub use pins::PinEntry;
pub(super) use pins::{PinEvent, PinEvents, PinWatch};
pub use remove::{Kept, Removed};
pub use status::{CacheStatus, EndpointStatus, FillStatus, Status, Traffic, UpstreamStatus};
pub use tree::{Inspected, Node, NodeKind, Presence, TagFreshness};
pub(super) use usage::LastUsage;
pub use usage::{Dedup, RepositoryUsage, UpstreamUsage, Usage, UsageTotals};

use super::{Inner, Source};
use crate::clock::Timestamp;
use crate::oci::manifest::{Child, ChildKind, MANIFEST_BYTES_MAX, inspect};
use crate::oci::{Digest, ImageName, Reference};

/// What an image may have that is looked at: an index of 60 platforms with 127 layers each.
const PARTS_MAX: usize = 8_192;

/// A time as RFC 3339 writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct When(pub Timestamp);

/// Why there is no answer: one line that says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    /// The question makes no sense.
    #[error("{0}")]
    Bad(String),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// It cannot be done as things are.
    #[error("{0}")]
    Conflict(String),
}

/// A manifest that is stored.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    media_type: String,
    bytes: bytes::Bytes,
    pub(super) children: Vec<Child>,
}

/// What belongs to some manifests: themselves, what they name, and what that names.
#[derive(Clone, Debug, Default)]
struct Closure {
    /// Each part and its size, if that is known.
    parts: BTreeMap<Digest, Option<u64>>,
    /// Whether every root could be read.
    roots_seen: bool,
}

impl Inner {
    /// A stored manifest, if it is one and whole.
    pub(super) async fn look(&self, digest: &Digest) -> Option<Seen> {
        let (media_type, bytes) = match self.local.peek(digest) {
            Some(manifest) if self.store.contains(digest).is_some() => {
                let media_type = manifest.media_type.to_string();
                (Some(media_type), manifest.bytes.clone())
            }
            Some(_) | None => {
                let bytes = self.store.peek(digest, MANIFEST_BYTES_MAX).await?;
                (self.store.media_type(digest).await, bytes)
            }
        };
        // What is damaged says nothing; the next pull of it notices.
        if Digest::of(digest.algorithm(), &bytes) != *digest {
            return None;
        }
        let inspection = inspect(media_type.as_deref(), &bytes).ok()?;
        Some(Seen {
            media_type: inspection.media_type,
            bytes,
            children: inspection.children,
        })
    }

    /// What belongs to these manifests, as far as it is known: at most [`PARTS_MAX`] parts.
    async fn closure(&self, roots: &[Digest]) -> Closure {
        let mut closure = Closure {
            roots_seen: true,
            ..Closure::default()
        };
        let mut left: Vec<Digest> = Vec::new();
        for root in roots {
            closure.parts.insert(*root, None);
            match self.look(root).await {
                Some(seen) => closure.take(seen, &mut left),
                None => closure.roots_seen = false,
            }
        }
        while let Some(digest) = left.pop() {
            if let Some(seen) = self.look(&digest).await {
                closure.take(seen, &mut left);
            }
        }
        closure
    }

    /// The digests that an image's reference means: of a tag what it last named, in all formats.
    pub(super) async fn roots(&self, source: &Source, reference: &Reference) -> Vec<Digest> {
        match reference {
            Reference::Digest(digest) => {
                let linked = self.store.link(source, digest).await;
                linked.map(|_| *digest).into_iter().collect()
            }
            Reference::Tag(tag) => {
                let records = self.store.tags(source, tag).await;
                let mut digests: Vec<Digest> = records.iter().map(|it| it.digest).collect();
                digests.sort_unstable();
                digests.dedup();
                digests
            }
        }
    }
}

impl Closure {
    /// Takes in what a manifest names; manifests among it are `left` to be looked into.
    fn take(&mut self, seen: Seen, left: &mut Vec<Digest>) {
        for child in seen.children {
            if self.parts.len() >= PARTS_MAX {
                return;
            }
            let known = self.parts.insert(child.digest, child.size);
            if known.is_none() && child.kind == ChildKind::Manifest {
                left.push(child.digest);
            }
        }
    }
}

/// An image's name in full.
fn full_name(source: &Source, reference: &Reference) -> String {
    let Source {
        upstream,
        repository,
    } = source.clone();
    let reference = reference.clone();
    let name = ImageName {
        upstream,
        repository,
        reference,
    };
    name.to_string()
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Beyond the year 9999 there is no such form.
        let time = UNIX_EPOCH + Duration::from_millis(self.0.0.min(LATEST_MS));
        humantime::format_rfc3339_seconds(time).fmt(f)
    }
}

impl Serialize for When {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let time = humantime::parse_rfc3339(&text).map_err(D::Error::custom)?;
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let since = u64::try_from(since.as_millis()).map_err(D::Error::custom)?;
        Ok(Self(Timestamp(since)))
    }
}

/// The last second of the year 9999, in milliseconds since 1970.
const LATEST_MS: u64 = 253_402_300_799_000;

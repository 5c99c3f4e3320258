//! The answers of the admin API: an operator's questions and changes. Nothing here counts as
//! a use of what it looks at, asks upstream, or holds a lock between two pages of the index.
//!
//! | file | what |
//! | --- | --- |
//! | `names` | what is asked about: an image, a repository, an upstream |
//! | `contents` | what stored manifests lead to |
//! | `document` | what manifests and image configs say of themselves |
//! | `tree` | an image: manifests, config, layers, and what of it is stored |
//! | `images` | lists of images |
//! | `sharing` | which other repositories have an image's parts |
//! | `status` | how the process is |
//! | `usage` | who takes how much |
//! | `pins` | which images are never evicted |
//! | `refresh` | what upstream says of a tag now |
//! | `remove`, `collect` | what an operator removes |
//!
//! The types are those of the JSON: docs/admin.md documents each field.

mod collect;
mod contents;
mod document;
mod images;
mod names;
mod pins;
mod refresh;
mod remove;
mod sharing;
mod status;
mod tree;
mod usage;

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

pub use collect::Collected;
pub(super) use collect::Garbage;
use contents::{Closure, PARTS_MAX, Seen};
pub(super) use contents::{Contents, LEVELS_MAX};
pub use document::{ConfigFacts, platforms};
pub(super) use images::Images;
pub use images::{ImageEntry, ImagePage, PlatformState};
pub use names::{Filter, NameError};
pub use pins::PinEntry;
pub(super) use pins::Pins;
pub use refresh::Refreshed;
pub(super) use refresh::Refresher;
pub(super) use remove::Removal;
pub use remove::{Kept, Removed};
pub use sharing::Sharers;
pub(super) use status::Overview;
pub use status::{
    CacheStatus, EndpointStatus, FillStatus, Readiness, Status, Traffic, UpstreamStatus,
};
pub use tree::{Inspected, Node, NodeKind, Presence, TagFreshness};
pub(super) use usage::UsageSurvey;
pub use usage::{Dedup, RepositoryUsage, UpstreamUsage, Usage, UsageTotals};

use super::Source;
use crate::catalogue::CatalogueError;
use crate::clock::Timestamp;
use crate::oci::{ImageName, Reference};

/// A time as RFC 3339 writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct When(pub Timestamp);

/// The reason why there is no answer: one line that says what to do.
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
    /// It could not be made durable.
    #[error("{0}")]
    Unavailable(String),
    /// Upstream does not say.
    #[error("{0}")]
    Upstream(String),
}

impl From<CatalogueError> for InspectError {
    fn from(error: CatalogueError) -> Self {
        Self::Unavailable(error.to_string())
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

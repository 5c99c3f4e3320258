//! Hosted repositories: what was pushed here. One transaction for each act: the change itself, the history of tags, the
//! bytes that a namespace uses, the queue of the garbage collector, and one row for those who follow events.
//!
//! | file | what |
//! | --- | --- |
//! | `tables` | the tables, and the triggers that count what a namespace uses |
//! | `acts` | namespaces, links and leases |
//! | `manifests` | manifests, their tags, and what they refer to |
//! | `deletes` | deletes, and tags that are restored |
//! | `removal` | whole repositories and namespaces that are deleted, and restored |
//! | `expire` | tags that go by a rule |
//! | `events` | changes for those who follow, and the history of tags |
//! | `collect` | the garbage collector's reviews |
//! | `check` | whether what it says fits together |
//! | `let_go` | deleted content that goes at once |
//! | `rows` | keys and values, as they stand in the tables |
//! | `queries` | what is read |
//! | `surveys` | lists for an operator |
//! | `pages` | what is read for an operator's pages |
//! | `tags_at` | tags as they were at a time |

mod acts;
mod check;
mod collect;
mod deletes;
mod events;
mod expire;
mod let_go;
mod manifests;
mod pages;
mod queries;
mod removal;
pub(super) mod rows;
mod surveys;
pub(super) mod tables;
pub(super) mod tags_at;

use std::collections::HashSet;

use bytes::Bytes;
use rusqlite::Connection;

pub use check::{BadManifest, ManifestPage};
pub use events::{EventRow, Events, TagMove};
pub use expire::TagPush;
pub use let_go::Deleted;
pub use pages::{
    AtLeast, COUNTED_MAX, LOOKED_AT_MAX, Looked, Queue, RepositoryRow, Search, TagRow,
};
pub use queries::{Found, LinkRow, ManifestRow, ReferrerRow};
pub use removal::DeletedRow;
pub use surveys::{AllBytes, ImageRow, ImagesWanted, RepositoryBytes};
pub use tags_at::TagThen;

use super::changes::put_fact;
use crate::clock::Timestamp;
use crate::oci::{Digest, Repository, Tag};

/// Digests that a manifest may name: an index of all platforms has hundreds. Each is looked up while others wait to be
/// written.
pub const REFERENCES_MAX: usize = 10_000;

/// Tags that one request may set (dist-spec: at least ten).
pub const TAGS_MAX: usize = 100;

/// Bytes of annotations that are kept beside a manifest for lists of referrers.
pub const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// Repositories with pushes under way that a review is told of.
pub const ACTIVE_MAX: usize = 20_000;

/// Tags that go by a rule in one transaction: some milliseconds, in which others wait.
pub const EXPIRED_MAX: usize = 32;

/// Rules that keep tags from being deleted.
pub const KEPT_MAX: usize = 1_000;

/// Who may pull from a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Visibility {
    /// Whoever may pull from this server.
    Public,
    /// Those who have said who they are, and may.
    #[default]
    Private,
}

/// A namespace, as it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceWanted {
    /// Its name: the first component of its repositories' names.
    pub name: String,
    /// Who may pull from it.
    pub visibility: Visibility,
    /// Bytes that it may use; `None`: as many as there are.
    pub quota: Option<u64>,
    /// Manifests may name what is not there.
    pub sparse: bool,
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// As it was wanted.
    pub wanted: NamespaceWanted,
    /// When it was made.
    pub created: Timestamp,
    /// Bytes of the content in it, each digest once.
    pub bytes: u64,
}

/// A manifest that is put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestPut {
    /// The repository; made if its namespace is there.
    pub repository: Repository,
    /// The digest of its bytes.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// It.
    pub bytes: Bytes,
    /// The type of artifact that it is, for lists of referrers.
    pub artifact_type: Option<String>,
    /// The manifest that it refers to, which need not be there.
    pub subject: Option<Digest>,
    /// Its annotations, as JSON.
    pub annotations: Option<String>,
    /// Blobs that the repository must have, unless its namespace is sparse.
    pub blobs: Vec<Digest>,
    /// Blobs that it may have: layers that are fetched from elsewhere.
    pub foreign: Vec<Digest>,
    /// Manifests that it must have, likewise.
    pub manifests: Vec<Digest>,
    /// Tags that name it from now on.
    pub tags: Vec<TagPut>,
    /// The condition on the first of these tags.
    pub condition: Option<Condition>,
}

/// A tag that is put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagPut {
    /// It.
    pub tag: Tag,
    /// Once it names something it names nothing else.
    pub immutable: bool,
}

/// A condition on what a tag names before (RFC 9110 section 13.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// One of these; anything, if there are none.
    Is(Vec<Digest>),
    /// None of these; nothing, if there are none.
    IsNot(Vec<Digest>),
}

/// The way in which a repository or a namespace goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// Until then it can be restored; `None`: it cannot, and its name is free at once.
    pub until: Option<Timestamp>,
    /// Also a namespace that has something.
    pub content: bool,
    /// Patterns of repositories and of their tags that must not be deleted.
    pub kept: Vec<(String, String)>,
}

/// Tags of a repository that go by a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The repository.
    pub repository: Repository,
    /// The rule, for those who follow.
    pub rule: String,
    /// The tags, and their places in the order of pushes.
    pub tags: Vec<(String, i64)>,
    /// The last entry of the history of tags when that was read.
    pub seen: i64,
    /// Tags of the repository that have gone by rules since.
    pub gone: i64,
    /// Until then their manifests can be restored.
    pub until: Timestamp,
}

/// An act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostedAct {
    /// What is done.
    pub act: Act,
    /// When.
    pub at: Timestamp,
    /// Who does it, for those who follow events.
    pub by: String,
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// A namespace is made, or changed. `only_new`: one that is there is left as it is.
    PutNamespace {
        /// It.
        wanted: NamespaceWanted,
        /// One that is there is left as it is.
        only_new: bool,
    },
    /// A namespace is deleted.
    DropNamespace(String, Removal),
    /// A namespace that was deleted is there again.
    RestoreNamespace(String),
    /// A repository is deleted.
    DropRepository(Repository, Removal),
    /// A repository that was deleted is there again.
    RestoreRepository(Repository),
    /// Tags go by a rule.
    Expire(Box<Expiry>),
    /// Some of the oldest changes go, where there are more than these.
    Trim(i64),
    /// Somebody who follows the changes has come so far.
    Advance {
        /// His name.
        consumer: &'static str,
        /// The last change that he has.
        seq: i64,
        /// Changes that were gone before he read them.
        missed: u64,
    },
    /// How far the rules by which tags go have come, in the words of whoever runs them.
    NotePace(String),
    /// A repository has a blob from now on, whose file is durable.
    Link {
        /// The repository; made if its namespace is there.
        repository: Repository,
        /// The blob.
        digest: Digest,
        /// Its size, if its file is there for certain. `None`: it must be known already.
        size: Option<u64>,
        /// It stays so long without a manifest.
        until: Timestamp,
    },
    /// A client was told that a blob is there: it stays.
    Lease {
        /// The repository.
        repository: Repository,
        /// The blob.
        digest: Digest,
        /// So long.
        until: Timestamp,
    },
    /// A manifest is put.
    PutManifest(Box<ManifestPut>),
    /// A tag is deleted, and what it names stays.
    DeleteTag {
        /// The repository.
        repository: Repository,
        /// The tag.
        tag: Tag,
    },
    /// A manifest is deleted, and its tags.
    DeleteManifest {
        /// The repository.
        repository: Repository,
        /// The manifest.
        digest: Digest,
        /// Until then it can be restored.
        until: Timestamp,
        /// Its tags, as far as they are known, none of which must stay.
        tags: Vec<String>,
    },
    /// A blob is deleted from a repository.
    DeleteBlob {
        /// The repository.
        repository: Repository,
        /// The blob.
        digest: Digest,
        /// Until then it can be restored.
        until: Timestamp,
    },
    /// A tag names again what it named before, which may have been deleted since.
    RestoreTag {
        /// The repository.
        repository: Repository,
        /// The tag.
        tag: Tag,
        /// What it is to name; `None`: what it named last.
        digest: Option<Digest>,
    },
    /// Some of what is due is looked at.
    Review {
        /// Time between two looks at what nothing refers to.
        grace_ms: u64,
        /// Time for which a blob stays that no manifest names any more.
        lease_ms: u64,
        /// Repositories that somebody pushes to.
        active: HashSet<String>,
    },
    /// Some deleted manifests go at once, and their blobs when nobody may count on them.
    LetGo {
        /// Time for which a client may count on a blob.
        lease_ms: u64,
    },
    /// Blobs without any link need not wait for the grace.
    LetGoCondemned,
    /// A blob that nothing refers to is forgotten. Its file goes after that.
    DropBlob(Digest),
    /// The file of a blob that was forgotten is gone.
    Dropped(Digest),
}

/// The outcome of an act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// Nothing was to be done: all is as wanted.
    Unchanged,
    /// It was done.
    Changed,
    /// A review.
    Reviewed(Reviewed),
    /// So many tags have gone by a rule.
    Expired(i64),
    /// These repositories have lost a deleted manifest each.
    LetGo(Vec<Repository>),
}

/// The outcome of a review.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reviewed {
    /// Entries that were due.
    pub due: usize,
    /// Blobs that can be forgotten.
    pub ready: Vec<Digest>,
    /// Repositories from which something has gone.
    pub changed: Vec<Repository>,
    /// The name of a namespace that was deleted is free.
    pub renamed: bool,
}

/// The reason why an act was not done. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no such namespace.
    #[error("there is no namespace {0:?}")]
    NoNamespace(String),
    /// There is no such repository.
    #[error("there is no such repository")]
    NoRepository,
    /// It was deleted, and its name is kept for it.
    #[error(
        "{name} was deleted, and its name is kept until {}: restore it, or delete it for ever",
        shown(*until)
    )]
    Deleted {
        /// The repository, or its namespace.
        name: String,
        /// Until when.
        until: Timestamp,
    },
    /// The repository has no such manifest.
    #[error("the repository has no such manifest")]
    NoManifest,
    /// The repository has no such blob.
    #[error("the repository has no such blob")]
    NoBlob,
    /// The repository has no such tag.
    #[error("the repository has no such tag")]
    NoTag,
    /// A manifest names what the repository does not have.
    #[error("the repository does not have what the manifest names")]
    Missing(Vec<Digest>),
    /// A tag may not name anything else, or not go.
    #[error("the tag {tag} is immutable and names {digest}")]
    Immutable {
        /// It.
        tag: String,
        /// What it names.
        digest: Digest,
    },
    /// The condition of the request does not hold.
    #[error("the tag names {}", .0.map_or("nothing".to_owned(), |digest| digest.to_string()))]
    Condition(Option<Digest>),
    /// The manifest has these tags, too.
    #[error("the manifest has tags that were not known of")]
    HasTags(Vec<String>),
    /// Something that is there needs it.
    #[error("{0} needs it")]
    InUse(String),
    /// The namespace would use more than it may.
    #[error("namespace {namespace} uses {used} of {quota} bytes, and this needs {wanted} more")]
    OverQuota {
        /// Its name.
        namespace: String,
        /// Bytes that it uses.
        used: u64,
        /// Bytes that it may use.
        quota: u64,
        /// Bytes of what was to come.
        wanted: u64,
    },
}

impl HostedAct {
    /// Bytes that it takes in memory.
    pub(super) fn weight(&self) -> usize {
        match &self.act {
            Act::PutManifest(put) => {
                let digests = put.blobs.len() + put.manifests.len() + put.foreign.len();
                let texts = put.annotations.as_ref().map_or(0, String::len);
                put.bytes.len() + digests * size_of::<Digest>() + texts + put.tags.len() * 200
            }
            Act::Review { active, .. } => active.len() * 100,
            Act::Expire(expiry) => expiry.tags.iter().map(|(tag, _)| tag.len() + 100).sum(),
            Act::NotePace(text) => 600 + text.len(),
            Act::DropNamespace(_, removal) | Act::DropRepository(_, removal) => {
                600 + removal.kept.len() * 1_100
            }
            Act::PutNamespace { .. }
            | Act::RestoreNamespace(_)
            | Act::RestoreRepository(_)
            | Act::Trim(_)
            | Act::Advance { .. }
            | Act::Link { .. }
            | Act::Lease { .. }
            | Act::DeleteTag { .. }
            | Act::DeleteManifest { .. }
            | Act::DeleteBlob { .. }
            | Act::RestoreTag { .. }
            | Act::LetGo { .. }
            | Act::LetGoCondemned
            | Act::DropBlob(_)
            | Act::Dropped(_) => 600,
        }
    }

    /// True if it is no more than may be written at once.
    pub(super) fn is_bounded(&self) -> bool {
        match &self.act {
            Act::PutManifest(put) => {
                put.blobs.len() + put.manifests.len() + put.foreign.len() <= REFERENCES_MAX
                    && put.tags.len() <= TAGS_MAX
                    && put.annotations.as_ref().map_or(0, String::len) <= ANNOTATIONS_BYTES_MAX
            }
            Act::Review { active, .. } => active.len() <= ACTIVE_MAX,
            Act::Expire(expiry) => expiry.tags.len() <= EXPIRED_MAX,
            Act::DropNamespace(_, removal) | Act::DropRepository(_, removal) => {
                removal.kept.len() <= KEPT_MAX
            }
            Act::PutNamespace { .. }
            | Act::RestoreNamespace(_)
            | Act::RestoreRepository(_)
            | Act::Trim(_)
            | Act::Advance { .. }
            | Act::NotePace(_)
            | Act::Link { .. }
            | Act::Lease { .. }
            | Act::DeleteTag { .. }
            | Act::DeleteManifest { .. }
            | Act::DeleteBlob { .. }
            | Act::RestoreTag { .. }
            | Act::LetGo { .. }
            | Act::LetGoCondemned
            | Act::DropBlob(_)
            | Act::Dropped(_) => true,
        }
    }

    /// True if those who follow are told at once: of what many pulls and the garbage collector do, they are not.
    #[must_use]
    pub fn is_told(&self) -> bool {
        !matches!(
            self.act,
            Act::Lease { .. }
                | Act::Review { .. }
                | Act::DropBlob(_)
                | Act::Dropped(_)
                | Act::Trim(_)
                | Act::NotePace(_)
        )
    }

    /// Does it, as a part of a transaction. What was refused is to be undone.
    pub(super) fn apply(&self, to: &Connection) -> rusqlite::Result<Result<Done, Refused>> {
        let Self { act, at, by } = self;
        let rule = if let Act::Expire(expiry) = act {
            Some(expiry.rule.as_str())
        } else {
            None
        };
        let log = rows::Log { at: *at, by, rule };
        match act {
            Act::PutNamespace { wanted, only_new } => {
                acts::put_namespace(to, wanted, *only_new, &log)
            }
            Act::DropNamespace(name, removal) => removal::namespace(to, name, removal, &log),
            Act::RestoreNamespace(name) => removal::restore_namespace(to, name, &log),
            Act::DropRepository(path, removal) => removal::repository(to, path, removal, &log),
            Act::RestoreRepository(path) => removal::restore_repository(to, path, &log),
            Act::Expire(expiry) => expire::expire(to, expiry, &log),
            Act::Trim(keep) => events::trim(to, *keep),
            Act::Advance {
                consumer,
                seq,
                missed,
            } => events::advance(to, consumer, (*seq, *missed)),
            Act::NotePace(text) => {
                put_fact(to, PACE, text)?;
                Ok(Ok(Done::Changed))
            }
            Act::Link {
                repository,
                digest,
                size,
                until,
            } => acts::link(to, repository, digest, *size, *until, &log),
            Act::Lease {
                repository,
                digest,
                until,
            } => acts::lease(to, repository, digest, *until),
            Act::PutManifest(put) => manifests::put(to, put, &log),
            Act::DeleteTag { repository, tag } => deletes::tag(to, repository, tag, &log),
            Act::DeleteManifest {
                repository,
                digest,
                until,
                tags,
            } => deletes::manifest(to, repository, digest, *until, tags, &log),
            Act::DeleteBlob {
                repository,
                digest,
                until,
            } => deletes::blob(to, repository, digest, *until, &log),
            Act::RestoreTag {
                repository,
                tag,
                digest,
            } => deletes::restore(to, repository, tag, *digest, &log),
            Act::Review {
                grace_ms,
                lease_ms,
                active,
            } => collect::review(to, &log, (*grace_ms, *lease_ms), active)
                .map(|done| Ok(Done::Reviewed(done))),
            Act::LetGo { lease_ms } => let_go::deleted(to, *at, *lease_ms),
            Act::LetGoCondemned => let_go::condemned(to, *at),
            Act::DropBlob(digest) => collect::drop_blob(to, digest),
            Act::Dropped(digest) => collect::dropped(to, digest),
        }
    }
}

/// A time, for people.
fn shown(at: Timestamp) -> String {
    use std::time::{Duration, UNIX_EPOCH};
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(at.0));
    at.map_or_else(
        || "some day".to_owned(),
        |at| humantime::format_rfc3339_seconds(at).to_string(),
    )
}

/// The fact that says how far the rules have come by which tags go.
pub(super) const PACE: &str = "hosted_expire";

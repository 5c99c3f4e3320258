//! The thing that a request names, as far as access goes.

use crate::access::Action;
use crate::mirror::Sought;
use crate::oci::route::Route;
use crate::oci::{Digest, Reference};
use crate::telemetry::Kind;

/// The thing that a request names, as far as access goes.
#[derive(Clone, Copy)]
pub(super) struct Named<'r> {
    pub(super) kind: Kind,
    /// The repository as the client names it.
    pub(super) path: &'r str,
    pub(super) action: Action,
    pub(super) tag: Option<&'r str>,
    pub(super) sought: Content<'r>,
}

/// The content that it names. Nothing is copied unless it has to be looked for.
#[derive(Clone, Copy)]
pub(super) enum Content<'r> {
    Manifest(&'r Reference),
    Subject(Digest),
    Blob(Digest),
    Tags,
}

impl From<Content<'_>> for Sought {
    fn from(content: Content<'_>) -> Self {
        match content {
            Content::Manifest(reference) => Self::Manifest(reference.clone()),
            Content::Subject(digest) => Self::Manifest(Reference::Digest(digest)),
            Content::Blob(digest) => Self::Blob(digest),
            Content::Tags => Self::Tags,
        }
    }
}

impl<'r> Named<'r> {
    /// The content that a request names, if its route is to any.
    pub(super) fn by(route: &'r Route) -> Option<Self> {
        let (pull, list) = (Action::Pull, Action::List);
        let (kind, path, action, sought) = match route {
            Route::Manifest { path, reference } => {
                (Kind::Manifest, path, pull, Content::Manifest(reference))
            }
            Route::Blob { path, digest } => (Kind::Blob, path, pull, Content::Blob(*digest)),
            Route::Tags { path, .. } => (Kind::Tags, path, list, Content::Tags),
            Route::Referrers { path, digest, .. } => {
                (Kind::Referrers, path, list, Content::Subject(*digest))
            }
            Route::Ping | Route::Catalog(_) | Route::Upload { .. } => return None,
        };
        let tag = match sought {
            Content::Manifest(Reference::Tag(tag)) => Some(tag.as_str()),
            Content::Manifest(Reference::Digest(_))
            | Content::Subject(_)
            | Content::Blob(_)
            | Content::Tags => None,
        };
        Some(Self {
            kind,
            path,
            action,
            tag,
            sought,
        })
    }

    /// The tag or digest in it, for the log.
    pub(super) fn reference(&self) -> Option<Reference> {
        match self.sought {
            Content::Manifest(reference) => Some(reference.clone()),
            Content::Subject(digest) | Content::Blob(digest) => Some(Reference::Digest(digest)),
            Content::Tags => None,
        }
    }
}

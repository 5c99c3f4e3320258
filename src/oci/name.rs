//! Repository names, tags, references, upstream names (dist-spec, "Pulling manifests").

use super::{Digest, digest::DigestError};
use std::fmt;
use std::sync::Arc;

/// A valid repository name: `library/nginx`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository(Arc<str>);

/// A valid tag. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Arc<str>);

/// What stands after `/manifests/`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    /// A tag, which may move.
    Tag(Tag),
    /// A digest, which cannot.
    Digest(Digest),
}

/// The public name of a configured upstream: `docker.io`, `localhost:5000`. Cheap to clone.
/// Held lower case; only configuration and `Directory` make one.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UpstreamName(Arc<str>);

/// Why a name is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The repository name breaks the grammar or is over 255 characters.
    #[error("invalid repository name")]
    Repository,
    /// The tag breaks the grammar.
    #[error("invalid tag")]
    Tag,
    /// The reference is a digest, and not a usable one.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// An upstream name is a host name or address with an optional port.
    #[error("invalid upstream name")]
    Upstream,
}

impl Repository {
    /// Parses and checks a name.
    ///
    /// # Errors
    /// [`NameError::Repository`].
    pub fn parse(text: &str) -> Result<Self, NameError> {
        todo!()
    }
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl Tag {
    /// Parses and checks a tag.
    ///
    /// # Errors
    /// [`NameError::Tag`].
    pub fn parse(text: &str) -> Result<Self, NameError> {
        todo!()
    }
    /// The tag as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl Reference {
    /// Parses a tag or a digest (whatever contains a colon is a digest).
    ///
    /// # Errors
    /// [`NameError::Tag`] or [`NameError::Digest`].
    pub fn parse(text: &str) -> Result<Self, NameError> {
        todo!()
    }
}
impl UpstreamName {
    /// Parses and checks an upstream's name; it is folded to lower case.
    ///
    /// # Errors
    /// [`NameError::Upstream`].
    pub fn parse(text: &str) -> Result<Self, NameError> {
        todo!()
    }
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! text {
    ($($name:ident),*) => { $(
        impl fmt::Display for $name { fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) } }
        impl fmt::Debug for $name { fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) } }
    )* };
}
text!(Repository, Tag, UpstreamName);

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

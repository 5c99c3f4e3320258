//! Errors that a client can be told. The server maps these to HTTP in one place.

use super::Failure;
use crate::oci::Digest;
use crate::store::{Ended, StoreError};
use crate::telemetry::{Kind, Limit};
use crate::upstream::{Challenges, FetchError, Loop};
use std::time::Duration;

/// The reason why a request could not be answered. Cloneable: every waiter gets the same answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MirrorError {
    /// Upstream says that the repository, manifest or tag does not exist.
    #[error("manifest unknown to upstream")]
    ManifestUnknown,
    /// Upstream says that the repository does not exist.
    #[error("repository unknown to upstream")]
    NameUnknown,
    /// Upstream says that the blob does not exist.
    #[error("blob unknown to upstream")]
    BlobUnknown,
    /// An operator imported it, it is not in the cache any more, and upstream does not supply it: 404.
    #[error(
        "it was imported, and its content is not in the cache any more; upstream does not supply it: {1}"
    )]
    ImportGone(Kind, Box<Self>),
    /// Upstream said so a moment ago, and was not asked again.
    #[error(transparent)]
    Remembered(Box<Self>),
    /// Upstream refuses our credentials (401), or has done so less than a minute ago.
    #[error("upstream refuses our credentials")]
    Unauthorized,
    /// Upstream wants the client's own credentials (401), and this is its challenge.
    #[error("upstream wants the client's credentials")]
    Challenged(Challenges),
    /// Upstream denies access (403).
    #[error("upstream denies access")]
    Denied,
    /// Upstream limits our requests (429).
    #[error("upstream limits our requests")]
    RateLimited {
        /// When to come back.
        retry_after: Option<Duration>,
    },
    /// Upstream could not be asked, or broke off: 502.
    #[error("upstream failed: {0}")]
    Upstream(FetchError),
    /// Upstream did not answer in time: 504.
    #[error("upstream timed out: {0}")]
    Timeout(FetchError),
    /// Upstream sent something else than what the digest promises: 502.
    #[error("upstream sent wrong content for {digest}: {why}")]
    WrongContent {
        /// The digest that was asked for.
        digest: Digest,
        /// The fault.
        why: String,
    },
    /// The manifest is over the size bound, or no manifest: 502 (`MANIFEST_INVALID`).
    #[error("upstream's manifest is not usable: {0}")]
    ManifestInvalid(String),
    /// The request has passed through this mirror before: 508.
    #[error(transparent)]
    Loop(#[from] Loop),
    /// Too many fills or readers at once: 503.
    #[error("too busy: {0}")]
    Busy(&'static str),
    /// This client has its share of this, and nothing is left beside it: 429.
    #[error("this client has its share: {}", .0.label())]
    Limited(Limit),
    /// The mirror is shutting down: 503.
    #[error("shutting down")]
    ShuttingDown,
    /// The blob cannot be kept, for want of room or of a disk that works: it is passed through, so that
    /// clients hear of it only where that is impossible: 500.
    #[error("the blob cannot be stored: {why}")]
    NotStored {
        /// The error of the store.
        why: String,
        /// True if room is what is missing.
        room: bool,
    },
    /// The local disk or index failed: 500.
    #[error("store failed: {0}")]
    Store(String),
}

impl MirrorError {
    /// The meaning of upstream's failure when `what` was asked for.
    #[must_use]
    pub(super) fn of_fetch(what: Kind, error: FetchError) -> Self {
        match error {
            FetchError::NotFound { code } => match (code.as_deref(), what) {
                (Some("NAME_UNKNOWN"), _) | (_, Kind::Tags | Kind::Other) => Self::NameUnknown,
                (_, Kind::Blob) => Self::BlobUnknown,
                (_, Kind::Manifest | Kind::Referrers | Kind::Upload) => Self::ManifestUnknown,
            },
            // As it was when they were refused: that nobody asks for a minute is not upstream's silence.
            FetchError::Unauthorized | FetchError::LoginRefused(_) => Self::Unauthorized,
            FetchError::Challenged(challenges) => Self::Challenged(challenges),
            FetchError::Denied => Self::Denied,
            // A host that was redirected to limits us.
            FetchError::Status(429) => Self::RateLimited { retry_after: None },
            FetchError::RateLimited { retry_after } => Self::RateLimited { retry_after },
            FetchError::TooLarge { .. } if what == Kind::Manifest => {
                Self::ManifestInvalid(error.to_string())
            }
            FetchError::Timeout(_) => Self::Timeout(error),
            FetchError::RangeNotSatisfiable
            | FetchError::Unavailable { .. }
            | FetchError::Status(_)
            | FetchError::Connect(_)
            | FetchError::Broken(_)
            | FetchError::TooLarge { .. }
            | FetchError::Protocol(_)
            | FetchError::Inside(_)
            | FetchError::Login(_)
            | FetchError::Token(_) => Self::Upstream(error),
            FetchError::Loop(host) => Self::Loop(Loop::Told(host)),
            FetchError::Ourselves(host) => Self::Loop(Loop::Ourselves(host)),
            FetchError::Busy => Self::Busy("all connections to upstream are in use"),
            FetchError::Limited => Self::Limited(Limit::UpstreamConnections),
        }
    }

    /// The kind of failure to say what a tag names, which a tag's policy is asked about.
    #[must_use]
    pub(super) fn failure(&self) -> Failure {
        match self {
            Self::ManifestUnknown | Self::NameUnknown | Self::BlobUnknown => Failure::Deleted,
            Self::Remembered(said) | Self::ImportGone(_, said) => said.failure(),
            Self::Unauthorized | Self::Challenged(_) | Self::Denied => Failure::Denied,
            Self::RateLimited { .. } => Failure::RateLimited,
            Self::Upstream(FetchError::Status(500..) | FetchError::Unavailable { .. }) => {
                Failure::ServerError
            }
            // What stands between us and an answer, on either side; a status that makes no sense here
            // is no answer either.
            Self::Upstream(_)
            | Self::Timeout(_)
            | Self::WrongContent { .. }
            | Self::ManifestInvalid(_)
            | Self::Busy(_)
            | Self::Limited(_)
            | Self::ShuttingDown
            | Self::Loop(_)
            | Self::NotStored { .. }
            | Self::Store(_) => Failure::Unreachable,
        }
    }

    /// The status with which upstream refused, if it was asked and that is why.
    #[must_use]
    pub fn upstream_status(&self) -> Option<u16> {
        match self {
            Self::ManifestUnknown | Self::NameUnknown | Self::BlobUnknown => Some(404),
            Self::Unauthorized | Self::Challenged(_) => Some(401),
            Self::Denied => Some(403),
            Self::RateLimited { .. } => Some(429),
            Self::Upstream(FetchError::Status(status)) => Some(*status),
            Self::Upstream(FetchError::Unavailable { .. }) => Some(503),
            Self::ImportGone(_, said) => said.upstream_status(),
            Self::Remembered(_)
            | Self::Upstream(_)
            | Self::Timeout(_)
            | Self::WrongContent { .. }
            | Self::ManifestInvalid(_)
            | Self::Busy(_)
            | Self::Limited(_)
            | Self::ShuttingDown
            | Self::Loop(_)
            | Self::NotStored { .. }
            | Self::Store(_) => None,
        }
    }

    /// True if it is about the first asker, and nobody who waits for the same: by which way it came, how much
    /// else it asks for, or with which credential.
    #[must_use]
    pub(super) fn is_the_askers_own(&self) -> bool {
        matches!(self, Self::Loop(_) | Self::Limited(_) | Self::Challenged(_))
    }

    /// True if asking again in a moment is unlikely to help: upstream cannot be reached, or refuses, or does not have it.
    #[must_use]
    pub(super) fn leaves_no_hope(&self) -> bool {
        match self {
            Self::ManifestUnknown
            | Self::NameUnknown
            | Self::BlobUnknown
            | Self::Unauthorized
            | Self::Challenged(_)
            | Self::Denied
            | Self::Timeout(_) => true,
            Self::Remembered(said) => said.leaves_no_hope(),
            Self::Upstream(error) => matches!(
                error,
                FetchError::Connect(_)
                    | FetchError::Unavailable { .. }
                    | FetchError::Login(_)
                    | FetchError::Token(_)
            ),
            Self::ImportGone(..)
            | Self::RateLimited { .. }
            | Self::WrongContent { .. }
            | Self::ManifestInvalid(_)
            | Self::Loop(_)
            | Self::Busy(_)
            | Self::Limited(_)
            | Self::ShuttingDown
            | Self::NotStored { .. }
            | Self::Store(_) => false,
        }
    }

    /// True if upstream says that there is no such thing.
    #[must_use]
    pub(super) fn is_unknown(&self) -> bool {
        self.failure() == Failure::Deleted
    }
}

impl From<Ended<Self>> for MirrorError {
    fn from(ended: Ended<Self>) -> Self {
        match ended {
            Ended::Failed(why) => why,
            Ended::Vanished => Self::Store("the download ended without a word".to_owned()),
            Ended::Unreadable(why) => Self::Store(why),
            Ended::Altered => {
                Self::Store("a part of the blob that was already sent was wrong".to_owned())
            }
        }
    }
}

impl From<StoreError> for MirrorError {
    fn from(error: StoreError) -> Self {
        Self::NotStored {
            why: error.to_string(),
            room: error.is_room(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_of_upstream_is_one_kind_of_failure() {
        let text = || "x".to_owned();
        for (error, expected) in [
            (FetchError::Connect(text()), Failure::Unreachable),
            (FetchError::Timeout("x"), Failure::Unreachable),
            (FetchError::Broken(text()), Failure::Unreachable),
            (FetchError::Protocol(text()), Failure::Unreachable),
            (FetchError::Loop(text()), Failure::Unreachable),
            (FetchError::Inside(text()), Failure::Unreachable),
            (FetchError::Ourselves(text()), Failure::Unreachable),
            (FetchError::Login(text()), Failure::Unreachable),
            (FetchError::Token(text()), Failure::Unreachable),
            (FetchError::Busy, Failure::Unreachable),
            (FetchError::Limited, Failure::Unreachable),
            (FetchError::Status(418), Failure::Unreachable),
            (FetchError::Status(500), Failure::ServerError),
            (FetchError::Status(599), Failure::ServerError),
            (
                FetchError::Unavailable {
                    retry_after: Duration::from_secs(9),
                },
                Failure::ServerError,
            ),
            (FetchError::Status(429), Failure::RateLimited),
            (
                FetchError::RateLimited { retry_after: None },
                Failure::RateLimited,
            ),
            (FetchError::Unauthorized, Failure::Denied),
            (FetchError::LoginRefused(text()), Failure::Denied),
            (FetchError::Denied, Failure::Denied),
            (FetchError::NotFound { code: None }, Failure::Deleted),
        ] {
            let failure = MirrorError::of_fetch(Kind::Manifest, error.clone()).failure();
            assert_eq!(failure, expected, "{error:?}");
        }
    }
}

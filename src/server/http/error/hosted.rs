//! Refusals of hosted repositories.

use super::{ApiError, Extra, Found, RETRY_AFTER_BUSY};
use crate::hosted::{CatalogueError, HostedError, Refused};
use crate::oci::push::PushError;
use crate::oci::{Digest, ErrorCode as Code};
use http::{HeaderMap, HeaderValue, StatusCode as Status, header};

/// Where an upload goes on, and how much of it has come.
#[derive(Debug)]
pub(super) struct UploadPlace {
    location: String,
    length: u64,
}

/// Digests that a message names: clients print it.
const NAMED_MAX: usize = 3;

impl ApiError {
    /// 403: what is pushed to is an upstream's.
    pub(crate) fn is_mirrored(name: &str, instead: &str) -> Self {
        let message = format!("{name} is mirrored here, and is not pushed to: {instead}");
        Self::own(Status::FORBIDDEN, Code::Denied, message)
    }

    /// 400: no repository can have this name.
    pub(crate) fn bad_repository(name: &str) -> Self {
        let message = format!(
            "{name:?} can be no repository: lower-case letters, digits, and . _ - / between them"
        );
        Self::own(Status::BAD_REQUEST, Code::NameInvalid, message)
    }

    /// 403: this client may not do that, and how it could.
    pub(crate) fn may_not(message: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        Self::own(Status::FORBIDDEN, Code::Denied, message)
    }

    /// 404: there is no such repository, or not for this client.
    pub(crate) fn no_repository() -> Self {
        Self {
            found: Found::Remembered,
            ..Self::own(Status::NOT_FOUND, Code::NameUnknown, NO_REPOSITORY)
        }
    }

    /// 400: a header or parameter of a push.
    pub(crate) fn bad_push(code: Code, message: &'static str) -> Self {
        Self::own(Status::BAD_REQUEST, code, message)
    }

    /// 405: nothing of that kind is done there.
    pub(crate) fn no_such_method(allowed: &'static str) -> Self {
        let message = format!("this is for {allowed} alone");
        Self::own(Status::METHOD_NOT_ALLOWED, Code::Unsupported, message)
    }

    /// 413: a manifest above the bound.
    pub(crate) fn manifest_too_large(bytes_max: usize) -> Self {
        let message = format!("the manifest has more than {bytes_max} bytes");
        Self::own(Status::PAYLOAD_TOO_LARGE, Code::ManifestInvalid, message)
    }

    /// 416: a chunk that does not go on where the one before it ended.
    pub(crate) fn chunk(message: &'static str, location: String, length: u64) -> Self {
        Self {
            extra: Extra::Upload(Box::new(UploadPlace { location, length })),
            ..Self::own(
                Status::RANGE_NOT_SATISFIABLE,
                Code::BlobUploadInvalid,
                message,
            )
        }
    }

    /// Says where an upload goes on, if it is about one.
    pub(crate) fn of_upload(error: HostedError, location: &str, length: u64) -> Self {
        let length = if let HostedError::Offset(length) | HostedError::Writing(length) = &error {
            *length
        } else {
            length
        };
        let is_over = matches!(
            error,
            HostedError::NoUpload | HostedError::Digest(_) | HostedError::OverQuota { .. }
        );
        let mut refusal = Self::from(error);
        if !is_over && matches!(refusal.extra, Extra::Nothing) {
            let location = location.to_owned();
            refusal.extra = Extra::Upload(Box::new(UploadPlace { location, length }));
        }
        refusal
    }
}

const NO_REPOSITORY: &str = "there is no such repository here";

impl Extra {
    /// Writes the headers of an upload.
    pub(super) fn say_upload(&self, headers: &mut HeaderMap) {
        if let Self::Upload(place) = self {
            let UploadPlace { location, length } = &**place;
            let range = HeaderValue::try_from(format!("0-{}", length.saturating_sub(1)));
            headers.extend(range.map(|range| (header::RANGE, range)));
            let location = HeaderValue::from_str(location);
            headers.extend(location.map(|location| (header::LOCATION, location)));
        }
    }
}

impl From<PushError> for ApiError {
    fn from(error: PushError) -> Self {
        let message = error.to_string();
        Self::own(Status::BAD_REQUEST, error.code(), message)
    }
}

impl From<HostedError> for ApiError {
    fn from(error: HostedError) -> Self {
        use HostedError as E;
        let (status, code) = match &error {
            E::Refused(refused) => return Self::refused(refused),
            E::Catalogue(CatalogueError::TooLarge) => {
                (Status::PAYLOAD_TOO_LARGE, Code::ManifestInvalid)
            }
            E::Catalogue(_) | E::Store(_) | E::Held(_) => {
                (Status::SERVICE_UNAVAILABLE, Code::Unavailable)
            }
            E::Name(_) => (Status::BAD_REQUEST, Code::NameInvalid),
            E::NoUpload => (Status::NOT_FOUND, Code::BlobUploadUnknown),
            E::Offset(_) => (Status::RANGE_NOT_SATISFIABLE, Code::BlobUploadInvalid),
            E::Writing(_) => (Status::CONFLICT, Code::BlobUploadInvalid),
            E::Digest(_) => (Status::BAD_REQUEST, Code::DigestInvalid),
            E::Manifest(_) => (Status::BAD_REQUEST, Code::ManifestInvalid),
            E::TooMany | E::TooManyFollowers(_) => {
                (Status::TOO_MANY_REQUESTS, Code::TooManyRequests)
            }
            E::Damaged(_) => (Status::INTERNAL_SERVER_ERROR, Code::Unknown),
            E::Immutable(_) | E::OverQuota { .. } => (Status::FORBIDDEN, Code::Denied),
        };
        let message = match &error {
            E::Catalogue(_) => "hosted repositories cannot be read or written now".to_owned(),
            E::Store(error) if error.is_room() => {
                "there is no room for more hosted content (hosted.max_size); `roadstead ns gc --now` lets go of deleted content at once".to_owned()
            }
            E::Store(error) if error.is_passing() => {
                "nothing can be pushed here now; go on in a moment".to_owned()
            }
            E::Store(_) => "the disk of hosted repositories fails".to_owned(),
            E::Damaged(_) => "the blob cannot be read now".to_owned(),
            E::Manifest(why) => format!("no manifest that can be kept here: {why}"),
            other @ (E::Refused(_)
            | E::Name(_)
            | E::NoUpload
            | E::Offset(_)
            | E::Writing(_)
            | E::Digest(_)
            | E::TooMany
            | E::OverQuota { .. }
            | E::TooManyFollowers(_)
            | E::Held(_)
            | E::Immutable(_)) => other.to_string(),
        };
        let mut refusal = Self::new(status, code, message, &error);
        refusal.found = Found::Unsought;
        if status == Status::SERVICE_UNAVAILABLE || status == Status::TOO_MANY_REQUESTS {
            refusal.extra = Extra::RetryAfter(RETRY_AFTER_BUSY);
        }
        refusal
    }
}

impl ApiError {
    fn refused(refused: &Refused) -> Self {
        use Refused as R;
        let (status, code) = match refused {
            R::NoRepository => return Self::no_repository(),
            R::NoNamespace(_) => (Status::NOT_FOUND, Code::NameUnknown),
            R::NoManifest | R::NoTag => (Status::NOT_FOUND, Code::ManifestUnknown),
            R::NoBlob => (Status::NOT_FOUND, Code::BlobUnknown),
            R::Missing(_) => (Status::BAD_REQUEST, Code::ManifestBlobUnknown),
            R::Deleted { .. } | R::Immutable { .. } | R::OverQuota { .. } => {
                (Status::FORBIDDEN, Code::Denied)
            }
            R::Condition(_) => (Status::PRECONDITION_FAILED, Code::Denied),
            R::HasTags(_) | R::InUse(_) => (Status::CONFLICT, Code::Denied),
        };
        let message = match refused {
            R::NoNamespace(name) => format!(
                "there is no namespace {name:?} here: create it with `roadstead ns create {name}`, in [[hosted.namespace]], or set hosted.create_on_push"
            ),
            R::Missing(digests) => missing(digests),
            R::Deleted { name, .. } => format!(
                "{refused} (`roadstead {kind} restore {name}`, or `roadstead {kind} rm --forever {name}`)",
                kind = if name.contains('/') { "repo" } else { "ns" }
            ),
            R::Immutable { tag, digest } => {
                format!("the tag {tag} is immutable (hosted.immutable), and names {digest}")
            }
            other @ (R::NoRepository
            | R::NoManifest
            | R::NoBlob
            | R::NoTag
            | R::Condition(_)
            | R::HasTags(_)
            | R::InUse(_)
            | R::OverQuota { .. }) => other.to_string(),
        };
        let detail = match refused {
            R::Missing(digests) => {
                let all: Vec<String> = digests.iter().map(Digest::to_string).collect();
                Some(serde_json::json!({ "digests": all }))
            }
            R::Immutable { digest, .. } => {
                Some(serde_json::json!({ "digest": digest.to_string() }))
            }
            R::Condition(digest) => {
                let digest = digest.map(|it| it.to_string());
                Some(serde_json::json!({ "digest": digest }))
            }
            R::NoRepository
            | R::Deleted { .. }
            | R::NoNamespace(_)
            | R::NoManifest
            | R::NoTag
            | R::NoBlob
            | R::OverQuota { .. }
            | R::HasTags(_)
            | R::InUse(_) => None,
        };
        Self {
            detail: detail.map(Box::new),
            found: Found::Remembered,
            ..Self::own(status, code, message)
        }
    }
}

/// All that is missing, the first of it by name.
fn missing(digests: &[Digest]) -> String {
    let named: Vec<String> = digests
        .iter()
        .take(NAMED_MAX)
        .map(Digest::to_string)
        .collect();
    let more = digests.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!("the repository does not have {}{more}", named.join(", "))
}

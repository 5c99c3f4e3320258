//! What a request asks for (dist-spec, "Endpoints"): one value for a request.

use super::{Digest, ErrorCode, Reference, name::NameError};
use http::Method;

/// A page of a list: `?n=…&last=…`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// At most so many entries; `None` when the client does not say.
    pub limit: Option<usize>,
    /// Only entries after this one.
    pub last: Option<String>,
}

/// What a request asks for. `path` is the name as the client wrote it (percent-decoded), which may
/// begin with an upstream's name and is not checked yet: `Directory::resolve` does both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/v2/` (and `/v2`).
    Ping,
    /// `/v2/_catalog`.
    Catalog(Page),
    /// `/v2/<name>/manifests/<reference>`.
    Manifest {
        /// The name as written.
        path: String,
        /// Tag or digest.
        reference: Reference,
    },
    /// `/v2/<name>/blobs/<digest>`.
    Blob {
        /// The name as written.
        path: String,
        /// The blob.
        digest: Digest,
    },
    /// `/v2/<name>/tags/list`.
    Tags {
        /// The name as written.
        path: String,
        /// The page asked for.
        page: Page,
    },
    /// `/v2/<name>/referrers/<digest>`.
    Referrers {
        /// The name as written.
        path: String,
        /// The subject.
        digest: Digest,
        /// `?artifactType=`.
        artifact_type: Option<String>,
    },
}

/// A parsed request target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What is asked for.
    pub route: Route,
    /// `?ns=`, as written.
    pub ns: Option<String>,
}

/// Why a request has no route. `code()` gives the spec's error code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// Not a path of the distribution API.
    #[error("no such endpoint")]
    NotFound,
    /// A method that would write (POST, PUT, PATCH, DELETE, and anything else that is not GET or HEAD).
    #[error("this registry is a read-only mirror")]
    Unsupported,
    /// The digest or reference in the path is not valid.
    #[error(transparent)]
    Name(#[from] NameError),
    /// `n` is not a number.
    #[error("invalid page size")]
    Page,
}

impl RouteError {
    /// The error code of the spec.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        todo!()
    }
}

impl Target {
    /// Parses a request's method, path (still percent-encoded) and query.
    ///
    /// # Errors
    /// [`RouteError`].
    pub fn parse(method: &Method, path: &str, query: Option<&str>) -> Result<Self, RouteError> {
        todo!()
    }
}

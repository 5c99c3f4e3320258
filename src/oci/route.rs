//! Targets of requests (dist-spec, "Endpoints"): one value for a request.

use super::{Digest, ErrorCode, Reference, name::NameError};
use http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use std::fmt;

/// The most query parameters of a paged list that are passed on beside `n` and `last`. A registry
/// that pages by a cursor of its own (quay: `next_page`) needs one or a few.
const CURSORS_MAX: usize = 16;
/// The longest of these, name and value together. Quay's is about 200 bytes.
const CURSOR_BYTES_MAX: usize = 4096;

/// Characters that are encoded in a printed path: all but RFC 3986's unreserved characters, the separator, and
/// the colon of digests and ports.
pub(super) const PATH_ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/')
    .remove(b':');

/// A page of a list: `?n=…&last=…`. `Page::default()` is the first one, of the server's length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// At most so many entries; `None` when the client does not say.
    pub limit: Option<usize>,
    /// Only entries after this one.
    pub last: Option<String>,
    /// Any other parameters of the request, but `ns`: a cursor of the upstream's own making, which
    /// the client copied from a `Link`. Without it, the client would be given the first page for ever.
    pub cursor: Vec<(String, String)>,
}

/// The target of a request. `path` is the name as the client wrote it (percent-decoded), which may
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
    /// `/v2/<name>/blobs/uploads/`, and what lies below it.
    Upload {
        /// The name as written.
        path: String,
        /// The upload, as its `Location` named it; empty where it begins.
        session: String,
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
        /// Any other parameters but `ns`: where a page begins, in the words of the upstream whose `Link` the
        /// client copied them from.
        cursor: Vec<(String, String)>,
    },
}

/// The operation on the target of a route. If a name can be written to is for its service to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// HEAD.
    Describe,
    /// GET.
    Read,
    /// POST, PUT, PATCH, DELETE, and anything else.
    Write,
}

impl Action {
    /// By a request's method.
    #[must_use]
    pub fn of(method: &Method) -> Self {
        match *method {
            Method::GET => Self::Read,
            Method::HEAD => Self::Describe,
            _ => Self::Write,
        }
    }
}

/// A parsed request target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The target.
    pub route: Route,
    /// `?ns=`, as written.
    pub ns: Option<String>,
}

/// Reason why a request has no route. `code()` gives the spec's error code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// Not a path of the distribution API.
    #[error("no such endpoint")]
    NotFound,
    /// The digest or reference in the path is not valid.
    #[error(transparent)]
    Name(#[from] NameError),
    /// `n` is not a number.
    #[error("invalid page size")]
    Page,
}

impl RouteError {
    /// The error code of the spec.
    ///
    /// distribution's router has no route for a bad tag (its URL pattern holds the tag's grammar)
    /// and answers 404 without an envelope; `TAG_INVALID` and `DIGEST_INVALID` are its codes for
    /// these faults elsewhere (distribution, registry/api/errcode), and tell the client more.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            // No repository stands at that path: the nearest of the codes that go with 404.
            Self::NotFound => ErrorCode::NameUnknown,
            Self::Name(NameError::Tag) => ErrorCode::TagInvalid,
            Self::Name(NameError::Digest(_)) => ErrorCode::DigestInvalid,
            Self::Name(NameError::Repository | NameError::Upstream) => ErrorCode::NameInvalid,
            Self::Page => ErrorCode::PaginationNumberInvalid,
        }
    }
}

impl Target {
    /// Parses a request's path (still percent-encoded) and query. Of a parameter given
    /// twice the first counts; an empty one counts as absent, as in distribution.
    ///
    /// # Errors
    /// [`RouteError`].
    pub fn parse(path: &str, query: Option<&str>) -> Result<Self, RouteError> {
        let path = if path.contains('%') {
            percent_decode_str(path)
                .decode_utf8()
                .map_err(|_| RouteError::NotFound)?
        } else {
            path.into()
        };
        let rest = match path.strip_prefix("/v2") {
            Some("") => "",
            Some(rest) => rest.strip_prefix('/').ok_or(RouteError::NotFound)?,
            None => return Err(RouteError::NotFound),
        };
        let query = Query::parse(query.unwrap_or_default());
        Ok(Self {
            route: Route::parse(rest, &query)?,
            ns: query.first("ns"),
        })
    }
}

impl fmt::Display for Target {
    /// Prints path and query such that [`Target::parse`] reads the same target.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.route.path())?;
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        if let Some(ns) = &self.ns {
            query.append_pair("ns", ns);
        }
        match &self.route {
            Route::Catalog(page) | Route::Tags { page, .. } => {
                query.extend_pairs(page.query());
            }
            Route::Referrers {
                artifact_type,
                cursor,
                ..
            } => {
                if let Some(artifact_type) = artifact_type {
                    query.append_pair("artifactType", artifact_type);
                }
                query.extend_pairs(cursor);
            }
            Route::Ping | Route::Manifest { .. } | Route::Blob { .. } | Route::Upload { .. } => {}
        }
        match query.finish() {
            query if query.is_empty() => Ok(()),
            query => write!(f, "?{query}"),
        }
    }
}

impl Route {
    /// The path of this route on this server, percent-encoded, without the query.
    #[must_use]
    pub fn path(&self) -> String {
        let (name, end) = match self {
            Self::Ping => return "/v2/".to_owned(),
            Self::Catalog(_) => return "/v2/_catalog".to_owned(),
            Self::Manifest { path, reference } => (path, format!("manifests/{reference}")),
            Self::Blob { path, digest } => (path, format!("blobs/{digest}")),
            Self::Upload { path, session } => {
                let session = utf8_percent_encode(session, PATH_ENCODED);
                (path, format!("blobs/uploads/{session}"))
            }
            Self::Tags { path, .. } => (path, "tags/list".to_owned()),
            Self::Referrers { path, digest, .. } => (path, format!("referrers/{digest}")),
        };
        format!("/v2/{}/{end}", utf8_percent_encode(name, PATH_ENCODED))
    }

    /// Finds the route of what stands after `/v2/`. A name may hold slashes, and words such as
    /// `manifests`: what counts is the end of the path.
    fn parse(rest: &str, query: &Query) -> Result<Self, RouteError> {
        match rest {
            "" => return Ok(Self::Ping),
            "_catalog" => return query.page().map(Self::Catalog),
            _ => {}
        }
        let (name, word, last) = split_end(rest).ok_or(RouteError::NotFound)?;
        let path = name.to_owned();
        Ok(match (word, last) {
            ("manifests", reference) => Self::Manifest {
                path,
                reference: Reference::parse(reference)?,
            },
            ("blobs", "uploads") => Self::Upload {
                path,
                session: String::new(),
            },
            ("blobs", digest) => Self::Blob {
                path,
                digest: Digest::parse(digest).map_err(NameError::Digest)?,
            },
            ("tags", "list") => Self::Tags {
                path,
                page: query.page()?,
            },
            ("referrers", digest) => Self::Referrers {
                path,
                digest: Digest::parse(digest).map_err(NameError::Digest)?,
                artifact_type: query.short("artifactType")?,
                cursor: query.others(&["artifactType"]),
            },
            ("uploads", session) => Self::Upload {
                path: uploads_to(name).ok_or(RouteError::NotFound)?.to_owned(),
                session: session.to_owned(),
            },
            _ => return Err(RouteError::NotFound),
        })
    }
}

impl Page {
    /// The parameters that ask for this page, not encoded.
    pub(super) fn query(&self) -> Vec<(String, String)> {
        let limit = self.limit.map(|n| ("n".to_owned(), n.to_string()));
        let last = self.last.clone().map(|last| ("last".to_owned(), last));
        let known = limit.into_iter().chain(last);
        known.chain(self.cursor.iter().cloned()).collect()
    }
}

/// `<name>/<word>/<last>`, none of the first two empty.
fn split_end(rest: &str) -> Option<(&str, &str, &str)> {
    let (rest, last) = rest.rsplit_once('/')?;
    let (name, word) = rest.rsplit_once('/')?;
    (!name.is_empty() && !word.is_empty()).then_some((name, word, last))
}

/// The repository of `<repository>/blobs`.
fn uploads_to(name: &str) -> Option<&str> {
    name.strip_suffix("/blobs").filter(|name| !name.is_empty())
}

/// A query, decoded.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(query: &str) -> Self {
        if query.is_empty() {
            return Self(Vec::new());
        }
        // The server bounds the request's head, and with it the number of parameters.
        Self(
            url::form_urlencoded::parse(query.as_bytes())
                .into_owned()
                .collect(),
        )
    }

    fn first(&self, key: &str) -> Option<String> {
        let (_, value) = self.0.iter().find(|(k, _)| k == key)?;
        (!value.is_empty()).then(|| value.clone())
    }

    /// A value that is kept while upstream is asked: no longer than a cursor.
    fn short(&self, key: &str) -> Result<Option<String>, RouteError> {
        let value = self.first(key);
        match value {
            Some(value) if value.len() > CURSOR_BYTES_MAX => Err(RouteError::Page),
            value => Ok(value),
        }
    }

    fn page(&self) -> Result<Page, RouteError> {
        let limit = match self.first("n") {
            // `str::parse` alone would take `+1`.
            Some(n) if n.bytes().all(|b| b.is_ascii_digit()) => {
                Some(n.parse().map_err(|_| RouteError::Page)?)
            }
            Some(_) => return Err(RouteError::Page),
            None => None,
        };
        Ok(Page {
            limit,
            last: self.short("last")?,
            cursor: self.others(&["n", "last"]),
        })
    }

    /// The parameters but these and `ns`, as many and as long as a cursor may be.
    fn others(&self, known: &[&str]) -> Vec<(String, String)> {
        let is_cursor = |(key, value): &&(String, String)| {
            key != "ns"
                && !known.contains(&key.as_str())
                && key.len() + value.len() <= CURSOR_BYTES_MAX
        };
        let others = self.0.iter().filter(is_cursor).take(CURSORS_MAX);
        others.cloned().collect()
    }
}

#[cfg(test)]
mod tests;

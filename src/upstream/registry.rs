//! The requests an upstream answers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::{HeaderMap, HeaderValue, LINK};
use tokio::time::Instant;
use url::form_urlencoded;

use super::coding::{self, CODED_BLOB_BYTES_MAX, Coding};
use super::extent::nonsense;
use super::headers::{FILTERS_APPLIED, content_type, digest, etag, text, warnings};
use super::health::Need;
use super::request::{Answer, Body, Connection, Inner, Request, Wanted};
use super::{BlobBody, FetchError, Parallel};
use super::{BlobRequest, EndpointId, Patience};
use crate::oci::link::{self, NextPage};
use crate::oci::manifest::MANIFEST_BYTES_MAX;
use crate::oci::{Accept, Digest, Reference, Repository, UpstreamName, list};
use crate::telemetry::Kind;

/// A manifest, whole.
#[derive(Clone, Debug)]
pub struct ManifestFetch {
    /// The endpoint that gave it.
    pub endpoint: EndpointId,
    /// The body, at most `MANIFEST_BYTES_MAX`.
    pub bytes: Bytes,
    /// `Content-Type` without parameters.
    pub content_type: Option<String>,
    /// `Docker-Content-Digest`, if it parses: never trusted, only compared.
    pub digest_header: Option<Digest>,
    /// `Warning: 299` values to pass on (bounded).
    pub warnings: Vec<String>,
}

/// The answer to HEAD of a manifest.
#[derive(Clone, Debug)]
pub struct ManifestHead {
    /// `Docker-Content-Digest`, if it parses.
    pub digest: Option<Digest>,
    /// `Content-Type` without parameters.
    pub content_type: Option<String>,
    /// `Content-Length`.
    pub size: Option<u64>,
}

/// A list, whole (bounded), as the upstream gave it.
#[derive(Clone, Debug)]
pub struct ListFetch {
    /// The body, of whatever it is.
    pub bytes: Bytes,
    /// The next page, from `Link`.
    pub next: Option<NextPage>,
    /// True if `OCI-Filters-Applied` names `artifactType`.
    pub filtered: bool,
}

/// A blob on its way.
#[derive(Debug)]
pub struct BlobFetch {
    /// The offset of the first byte that `body` yields: what was asked for when the upstream honours
    /// Range, 0 when it answered 200.
    pub offset: u64,
    /// True if the answer was a 206: the upstream honours Range.
    pub ranged: bool,
    /// The endpoint that gives it.
    pub endpoint: EndpointId,
    /// The strong `ETag` and the host that gave it: two answers of one host whose tags differ are not
    /// parts of one content (RFC 9110 section 13.1.5).
    pub validator: Option<(String, String)>,
    /// The size of the whole blob, when the upstream says it.
    pub total: Option<u64>,
    /// The bytes.
    pub body: BlobBody,
}

/// One upstream. Cheap to clone.
#[derive(Clone)]
pub struct Upstream {
    pub(super) inner: Arc<Inner>,
}

impl Upstream {
    /// Its public name.
    #[must_use]
    pub fn name(&self) -> &UpstreamName {
        &self.inner.name
    }

    /// The first wait before a transfer that broke off is gone on with.
    #[must_use]
    pub fn retry_delay(&self) -> Duration {
        self.inner.retry_delay
    }

    /// The setting for big blobs.
    #[must_use]
    pub fn parallel(&self) -> Parallel {
        self.inner.parallel
    }

    /// The endpoints that a blob or manifest may be asked of, in the order of the moment: the configured
    /// one or the fastest first; those whose breaker is open, or that gave wrong bytes for this digest, only
    /// where there is no other. Never empty.
    #[must_use]
    pub fn endpoints_for(&self, digest: &Digest) -> Vec<EndpointId> {
        let need = Need {
            digest: Some(digest),
            bytes: true,
            explore: false,
        };
        self.inner.observer.health.order(need, Instant::now())
    }

    /// The endpoint gave wrong bytes for `digest`: it is not asked for it again as long as there is another.
    pub fn distrust(&self, endpoint: EndpointId, digest: &Digest) {
        self.inner
            .observer
            .health
            .distrust(endpoint, digest, Instant::now());
    }

    /// The endpoint does not honour Range, or lies about it: it is used on one connection from now on.
    pub fn ignores_range(&self, endpoint: EndpointId) {
        self.inner
            .observer
            .health
            .ignores_range(endpoint, Instant::now());
    }

    /// True if a Range may be tried at the endpoint.
    #[must_use]
    pub fn honours_range(&self, endpoint: EndpointId) -> bool {
        self.inner
            .observer
            .health
            .honours_range(endpoint, Instant::now())
    }

    /// The endpoint's host and port, for a log line.
    #[must_use]
    pub fn endpoint_host(&self, endpoint: EndpointId) -> &str {
        self.inner.observer.host(endpoint)
    }

    /// Counts a blob's transfer that broke off and is gone on with.
    pub fn resumes(&self) {
        self.inner.observer.retry();
    }

    /// The endpoints that a tag may be asked of, in the order of the moment, without those whose breaker is
    /// open while there are others. Never empty.
    #[must_use]
    pub fn endpoints(&self) -> Vec<EndpointId> {
        let need = Need {
            digest: None,
            bytes: false,
            explore: false,
        };
        self.inner.observer.health.order(need, Instant::now())
    }

    /// GET of a manifest, from any endpoint.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: impl Into<Accept>,
        patience: Patience,
    ) -> Result<ManifestFetch, FetchError> {
        self.manifest_from(repository, reference, &accept.into(), patience, &[])
            .await
    }

    /// GET of a manifest from these endpoints, in this order; none: from any.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn manifest_from(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: &Accept,
        patience: Patience,
        endpoints: &[EndpointId],
    ) -> Result<ManifestFetch, FetchError> {
        let wanted = Wanted::Whole("a manifest", MANIFEST_BYTES_MAX);
        let mut request = manifest_request(repository, reference, accept, Method::GET, wanted)?;
        request.patience = patience;
        request.endpoints = endpoints;
        let Answer {
            endpoint,
            headers,
            body,
            ..
        } = self.inner.failover(&request).await?;
        Ok(ManifestFetch {
            endpoint,
            bytes: whole(body),
            content_type: content_type(&headers),
            digest_header: digest(&headers),
            warnings: warnings(&headers),
        })
    }

    /// GET of a blob, or of a part of it.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn blob(&self, wanted: &BlobRequest<'_>) -> Result<BlobFetch, FetchError> {
        let BlobRequest {
            repository, digest, ..
        } = *wanted;
        let mut request = blob_request(repository, digest, Method::GET, Wanted::Stream);
        request.range = Some((wanted.start, wanted.end)).filter(|range| *range != (0, None));
        request.endpoints = wanted.endpoints;
        request.patience = wanted.patience;
        request.connection = Connection {
            lane: wanted.lane,
            extra: wanted.extra,
        };
        let answer = self.inner.failover(&request).await?;
        let validator = etag(&answer.headers).map(|tag| (tag, answer.host));
        match answer.body {
            Body::Stream(mut body, extent) => {
                let coding = Coding::of(&answer.headers);
                let mut total = extent.total;
                if coding != Coding::Identity && !extent.ranged {
                    let upstream = &self.inner.name;
                    tracing::info!(%upstream, %repository, %digest, ?coding, "a blob is labelled with a Content-Encoding, though identity was asked for; the digest decides");
                    if total.is_none_or(|total| total <= CODED_BLOB_BYTES_MAX as u64) {
                        total = coding::sort_out(&mut body, coding, digest).await?.or(total);
                    }
                }
                Ok(BlobFetch {
                    offset: extent.offset,
                    ranged: extent.ranged,
                    endpoint: answer.endpoint,
                    validator,
                    total,
                    body,
                })
            }
            Body::Nothing | Body::Whole(_) => Err(nonsense("no body")),
        }
    }

    /// One page of the tag list.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn tags(
        &self,
        repository: &Repository,
        query: &[(String, String)],
        patience: Patience,
    ) -> Result<ListFetch, FetchError> {
        let rest = "tags/list".to_owned();
        let accept = HeaderValue::from_static(list::TAGS);
        let request = Request {
            query: encode(query),
            patience,
            ..Request::get(Kind::Tags, repository, rest, accept, LIST)
        };
        Ok(list_of(self.inner.failover(&request).await?))
    }

    /// One page of the referrers of a digest.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
        query: &[(String, String)],
        patience: Patience,
    ) -> Result<ListFetch, FetchError> {
        let rest = format!("referrers/{digest}");
        let accept = HeaderValue::from_static(list::REFERRERS);
        let request = Request {
            query: encode(query),
            patience,
            ..Request::get(Kind::Referrers, repository, rest, accept, LIST)
        };
        Ok(list_of(self.inner.failover(&request).await?))
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Upstream").field(&self.inner.name).finish()
    }
}

fn list_of(answer: Answer) -> ListFetch {
    let Answer { headers, body, .. } = answer;
    list_from(&headers, whole(body))
}

/// A list, and what its headers say of it.
pub(super) fn list_from(headers: &HeaderMap, bytes: Bytes) -> ListFetch {
    let links = headers.get_all(LINK).iter();
    let filters = text(headers, &FILTERS_APPLIED).unwrap_or_default();
    let mut filters = filters.split(',').map(str::trim);
    ListFetch {
        bytes,
        next: link::next_page(links.filter_map(|value| value.to_str().ok())),
        filtered: filters.any(|filter| filter == "artifactType"),
    }
}

pub(super) fn manifest_request<'a>(
    repository: &'a Repository,
    reference: &'a Reference,
    accept: &Accept,
    method: Method,
    body: Wanted,
) -> Result<Request<'a>, FetchError> {
    let accept = HeaderValue::try_from(accept.header())
        .map_err(|_| nonsense("the accepted types fit no header"))?;
    let rest = format!("manifests/{reference}");
    Ok(Request {
        method,
        digest: match reference {
            Reference::Digest(digest) => Some(digest),
            Reference::Tag(_) => None,
        },
        ..Request::get(Kind::Manifest, repository, rest, accept, body)
    })
}

pub(super) fn blob_request<'a>(
    repository: &'a Repository,
    digest: &'a Digest,
    method: Method,
    body: Wanted,
) -> Request<'a> {
    let rest = format!("blobs/{digest}");
    let accept = HeaderValue::from_static("*/*");
    Request {
        method,
        digest: Some(digest),
        ..Request::get(Kind::Blob, repository, rest, accept, body)
    }
}

fn whole(body: Body) -> Bytes {
    match body {
        Body::Whole(bytes) => bytes,
        Body::Nothing | Body::Stream(..) => Bytes::new(),
    }
}

pub(super) fn encode(pairs: &[(String, String)]) -> Option<String> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(pairs);
    Some(query.finish()).filter(|text| !text.is_empty())
}

/// Docker Hub's longest tag list, asked for without `n`, has some 100 000 tags of a few bytes.
pub(super) const LIST_BYTES_MAX: usize = 8 * 1024 * 1024;
pub(super) const LIST: Wanted = Wanted::Whole("a list", LIST_BYTES_MAX);

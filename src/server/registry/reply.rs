//! Answers on their way out: the heads of responses.

use crate::mirror::{BlobHead, ListAnswer, ManifestAnswer, SourceKind};
use crate::oci::{Digest, link::NextPage};
use crate::server::http::body::Content;
use crate::server::http::conditions::Conditions;
use crate::telemetry::{Kind, Outcome};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

/// Room for the headers of a usual response, so that the map is allocated once.
pub(crate) const HEADERS_USUAL: usize = 16;

/// The type of blobs: what they hold is in the manifest's descriptors.
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// A digest's content never changes; a year is the longest that RFC 9111 caches honour.
const FOREVER: HeaderValue = HeaderValue::from_static("max-age=31536000, immutable");

const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
pub(crate) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// A response, but for what all responses have in common.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The status.
    pub(crate) status: StatusCode,
    /// The headers; of `Content-Length` only what the content does not say itself.
    pub(crate) headers: HeaderMap,
    /// The body.
    pub(crate) content: Content,
    /// The way it was found.
    pub(crate) outcome: Outcome,
}

/// A digest in quotes: the entity tag, and without them `Docker-Content-Digest`.
pub(crate) struct EntityTag(Bytes);

impl EntityTag {
    /// That of the content with this digest.
    pub(crate) fn new(digest: &Digest) -> Self {
        // `sha512:` and its 128 digits fit, and so nothing is allocated twice.
        let mut text = String::with_capacity(160);
        text.push('"');
        // Writing to a string does not fail.
        let _written = digest.write_to(&mut text).is_ok();
        text.push('"');
        Self(text.into())
    }

    /// Without the quotes.
    pub(crate) fn digest(&self) -> &str {
        let text = str::from_utf8(&self.0).unwrap_or_default();
        text.trim_matches('"')
    }
}

impl Reply {
    pub(super) fn new(status: StatusCode, content: Content, outcome: Outcome) -> Self {
        Self {
            status,
            headers: HeaderMap::with_capacity(HEADERS_USUAL),
            content,
            outcome,
        }
    }

    /// Something that roadstead knows by itself.
    pub(crate) fn own(content_type: HeaderValue, body: Bytes) -> Self {
        let mut reply = Self::new(StatusCode::OK, Content::Full(body), Outcome::Hit);
        reply.headers.insert(header::CONTENT_TYPE, content_type);
        reply
    }

    /// A manifest. `by_digest`: the request named it by its digest, so that the answer is for ever.
    pub(crate) fn manifest(
        conditions: &Conditions<'_>,
        answer: ManifestAnswer,
        by_digest: bool,
    ) -> Self {
        let tag = EntityTag::new(&answer.digest);
        let mut reply = if conditions.client_has(tag.digest()) {
            Self::new(StatusCode::NOT_MODIFIED, Content::Empty, answer.outcome)
        } else {
            let mut reply = Self::new(StatusCode::OK, Content::Full(answer.bytes), answer.outcome);
            // What upstream sends as a type was a header once, or comes from the manifest's JSON.
            let media_type = HeaderValue::from_str(&answer.media_type).unwrap_or(OCTETS);
            reply.headers.insert(header::CONTENT_TYPE, media_type);
            reply
        };
        reply.identify(tag, by_digest);
        if !by_digest {
            let accept = HeaderValue::from_static("Accept");
            reply.headers.insert(header::VARY, accept);
        }
        reply.warn(&answer.warnings);
        reply
    }

    /// The head of a blob. `client_has`: 304.
    pub(crate) fn blob_head(tag: EntityTag, client_has: bool, head: BlobHead) -> Self {
        if client_has {
            let mut reply = Self::new(StatusCode::NOT_MODIFIED, Content::Empty, head.outcome);
            reply.identify(tag, true);
            return reply;
        }
        let mut reply = Self::new(StatusCode::OK, Content::Empty, head.outcome);
        reply.describe_blob(tag);
        if let Some(total) = head.total {
            let total = HeaderValue::from(total);
            reply.headers.insert(header::CONTENT_LENGTH, total);
        }
        reply
    }

    /// A list. `path` is the client's own, for the link to the next page; `ns` likewise.
    pub(crate) fn list(answer: ListAnswer, path: &str, ns: Option<&str>) -> Self {
        let mut reply = Self::new(StatusCode::OK, Content::Full(answer.bytes), answer.outcome);
        let media_type = HeaderValue::from_static(answer.media_type);
        reply.headers.insert(header::CONTENT_TYPE, media_type);
        if answer.filtered {
            let filter = HeaderValue::from_static("artifactType");
            reply.headers.insert(OCI_FILTERS_APPLIED, filter);
        }
        if let Some(next) = answer.next {
            reply.link(next, path, ns);
        }
        reply.warn(&answer.warnings);
        reply
    }

    /// Adds the link to the next page, which must come back to the same upstream.
    pub(crate) fn link(&mut self, mut next: NextPage, path: &str, ns: Option<&str>) {
        // Upstream may be a mirror itself, and `ns` in its links speaks of its own upstreams.
        next.query.retain(|(name, _)| name != "ns");
        if let Some(ns) = ns {
            next.query.push(("ns".to_owned(), ns.to_owned()));
        }
        self.set(header::LINK, next.header(path));
    }

    /// Says how it was found, if the request was a pull.
    pub(crate) fn add_cache_status(&mut self, kind: Kind) {
        let pull = match kind {
            Kind::Manifest | Kind::Blob | Kind::Tags | Kind::Referrers => true,
            Kind::Upload | Kind::Other => false,
        };
        if !pull {
            self.headers.remove(CACHE_STATUS);
        } else if !self.headers.contains_key(CACHE_STATUS) {
            let value = HeaderValue::from_static(self.outcome.cache_status());
            self.headers.insert(CACHE_STATUS, value);
        }
    }

    /// Says where a transfer that begins now has its bytes from, if that is not the upstream.
    pub(super) fn says_source(&mut self, source: Option<SourceKind>) {
        let detail = match source {
            Some(SourceKind::Node | SourceKind::Holder) => "peer",
            Some(SourceKind::Tier) => "tier",
            Some(SourceKind::Upstream) | None => return,
        };
        let status = self.outcome.cache_status();
        self.set(CACHE_STATUS, format!("{status}; detail={detail}"));
    }

    /// Leaves the body away, and its length in the head (RFC 9110 section 9.3.2).
    pub(crate) fn answer_head(&mut self, method: &Method) {
        if *method != Method::HEAD {
            return;
        }
        if let Content::Full(bytes) = &self.content {
            let length = HeaderValue::from(bytes.len());
            self.headers.insert(header::CONTENT_LENGTH, length);
        }
        self.content = Content::Empty;
    }

    pub(super) fn describe_blob(&mut self, tag: EntityTag) {
        self.headers.insert(header::CONTENT_TYPE, OCTETS);
        let bytes = HeaderValue::from_static("bytes");
        self.headers.insert(header::ACCEPT_RANGES, bytes);
        self.identify(tag, true);
    }

    fn identify(&mut self, tag: EntityTag, forever: bool) {
        let bare = tag.0.slice(1..tag.0.len().saturating_sub(1));
        for (name, text) in [(DOCKER_CONTENT_DIGEST, bare), (header::ETAG, tag.0)] {
            if let Ok(value) = HeaderValue::from_maybe_shared(text) {
                self.headers.insert(name, value);
            }
        }
        if forever {
            self.headers.insert(header::CACHE_CONTROL, FOREVER);
        }
    }

    fn warn(&mut self, warnings: &[String]) {
        for warning in warnings {
            if let Ok(value) = HeaderValue::from_str(warning) {
                self.headers.append(header::WARNING, value);
            }
        }
    }

    /// Says which digest something has.
    pub(super) fn says_digest(&mut self, tag: &EntityTag) {
        self.set(DOCKER_CONTENT_DIGEST, tag.digest().to_owned());
    }

    /// Adds a value of a header that may have several.
    pub(super) fn add(&mut self, name: HeaderName, text: String) {
        if let Ok(value) = HeaderValue::try_from(text) {
            self.headers.append(name, value);
        }
    }

    /// Sets a header, unless its text cannot stand in one: then the answer goes without it.
    pub(super) fn set(&mut self, name: HeaderName, text: String) {
        match HeaderValue::try_from(text) {
            Ok(value) => {
                self.headers.insert(name, value);
            }
            Err(error) => tracing::debug!(%name, %error, "header left out"),
        }
    }
}

#[cfg(test)]
mod tests;

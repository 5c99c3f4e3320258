//! Manifests and blobs of hosted repositories.

use super::body::whole;
use super::{Asked, HostedRequest};
use crate::hosted::{Condition, ManifestWanted};
use crate::mirror::{BlobAnswer, BlobHead, ManifestAnswer};
use crate::oci::manifest::MANIFEST_BYTES_MAX;
use crate::oci::push::PushQuery;
use crate::oci::route::{Action, Route};
use crate::oci::{ByteRange, Digest, ErrorCode, Reference};
use crate::server::SOURCE;
use crate::server::http::access_log::Exchange;
use crate::server::http::body::Content;
use crate::server::http::error::ApiError;
use crate::server::registry::reply::{EntityTag, Reply};
use crate::telemetry::Outcome;
use crate::telemetry::metrics::HOSTED;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use hyper::body::Incoming;
use std::sync::Arc;
use std::time::Duration;

/// Time that a manifest may take to arrive.
const MANIFEST_WAIT_MAX: Duration = Duration::from_mins(1);

/// Entity tags that a condition may name.
const CONDITIONS_MAX: usize = 16;

const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");

impl HostedRequest<'_> {
    pub(super) async fn manifest(
        &self,
        reference: &Reference,
        exchange: &mut Exchange,
    ) -> Result<Reply, Asked> {
        let served = self.hosted.manifest(self.repository, reference).await?;
        exchange.found(&served.digest);
        let answer = ManifestAnswer {
            digest: served.digest,
            media_type: Arc::clone(&served.media_type),
            bytes: served.bytes.clone(),
            outcome: Outcome::Hit,
            warnings: Vec::new(),
        };
        let by_digest = matches!(reference, Reference::Digest(_));
        let conditions = &self.request.conditions;
        let mut reply = Reply::manifest(conditions, answer, by_digest);
        let hosted = HeaderValue::from_static(HOSTED);
        reply.headers.insert(SOURCE, hosted);
        Ok(reply)
    }

    pub(super) async fn blob(
        &self,
        digest: &Digest,
        exchange: &mut Exchange,
    ) -> Result<Reply, Asked> {
        let tag = EntityTag::new(digest);
        let conditions = &self.request.conditions;
        let client_has = conditions.client_has(tag.digest());
        if client_has || self.request.action == Action::Describe {
            let size = self.hosted.blob_size(self.repository, digest).await?;
            let head = BlobHead {
                total: Some(size),
                outcome: Outcome::Hit,
            };
            return Ok(Reply::blob_head(tag, client_has, head));
        }
        let blob = self.hosted.blob(self.repository, digest).await?;
        let range = self.request.head.headers.get(header::RANGE);
        let range = range.and_then(|it| it.to_str().ok());
        if range.is_some_and(ByteRange::is_inverted) {
            return Err(ApiError::range(Some(blob.size()), Outcome::Hit).into());
        }
        let given = self
            .handler
            .give_blob(self.request, tag, BlobAnswer::hosted(blob), exchange);
        Ok(given.await?)
    }

    pub(super) async fn put_manifest(
        &self,
        reference: &Reference,
        body: &mut Incoming,
        exchange: &mut Exchange,
    ) -> Result<Reply, ApiError> {
        let head = self.request.head;
        let query = PushQuery::parse(head.uri.query())?;
        let condition = condition(&head.headers)?;
        self.have_namespace().await?;
        let mut share = self.hosted.take_in(self.caller.source());
        let bytes = whole(body, &mut share, MANIFEST_BYTES_MAX, MANIFEST_WAIT_MAX).await?;
        let content_type = head.headers.get(header::CONTENT_TYPE);
        let wanted = ManifestWanted {
            reference,
            digest: query.digest,
            content_type: content_type.and_then(|it| it.to_str().ok()),
            bytes,
            tags: &query.tags,
            condition,
        };
        let by = self.by();
        let put = self.hosted.put_manifest(self.repository, wanted, &by);
        let put = put.await?;
        exchange.found(&put.digest);
        let mut reply = Reply::new(StatusCode::CREATED, Content::Empty, Outcome::Hit);
        let route = Route::Manifest {
            path: self.path().to_owned(),
            reference: Reference::Digest(put.digest),
        };
        reply.set(header::LOCATION, self.with_ns(route.path()));
        reply.says_digest(&EntityTag::new(&put.digest));
        if let Some(subject) = put.subject {
            reply.set(OCI_SUBJECT, subject.to_string());
        }
        for tag in &query.tags {
            reply.add(OCI_TAG, tag.to_string());
        }
        Ok(reply)
    }
}

/// The condition of a request on what its tag names (RFC 9110 section 13.1).
fn condition(headers: &HeaderMap) -> Result<Option<Condition>, ApiError> {
    let read = |name: &HeaderName| -> Result<Option<Vec<Digest>>, ApiError> {
        let mut values = headers.get_all(name).iter().peekable();
        if values.peek().is_none() {
            return Ok(None);
        }
        let wrong = "If-Match and If-None-Match take digests in quotes, or *";
        let wrong = || ApiError::bad_push(ErrorCode::DigestInvalid, wrong);
        let mut digests = Vec::new();
        let mut is_any = false;
        for value in values {
            for tag in value.to_str().map_err(|_| wrong())?.split(',') {
                let tag = tag.trim();
                let tag = tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"');
                if tag == "*" {
                    is_any = true;
                } else {
                    digests.push(Digest::parse(tag).map_err(|_| wrong())?);
                }
            }
        }
        if digests.len() > CONDITIONS_MAX || (!is_any && digests.is_empty()) {
            return Err(wrong());
        }
        Ok(Some(if is_any { Vec::new() } else { digests }))
    };
    if let Some(digests) = read(&header::IF_MATCH)? {
        return Ok(Some(Condition::Is(digests)));
    }
    Ok(read(&header::IF_NONE_MATCH)?.map(Condition::IsNot))
}

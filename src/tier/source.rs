//! Reading from the bucket: bytes of blobs for fills, and what upstreams have said.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use object_store::path::Path;
use tokio::time::Instant;
use url::Url;

use super::bucket::Part;
use super::config::When;
use super::error::BucketError;
use super::facts::{self, FACT_BYTES_MAX};
use super::handle::Tier;
use super::notes;
use crate::mirror::{
    Archive, BlobName, BlobRead, BlobSource, KeptLink, ReadBody, ReadRange, Source,
};
use crate::oci::manifest::ChildKind;
use crate::oci::{Digest, Tag};
use crate::store::TagRecord;
use crate::upstream::{EndpointId, FetchError};

/// Larger than any manifest that is kept.
const MANIFEST_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// So many bodies on their way make a node busy.
const BUSY_BODIES: usize = 64;

/// Life of a URL that a client is given.
const URL_LIFE: Duration = Duration::from_mins(10);

/// Time for the next bytes of a body.
const PIECE_WAIT_MAX: Duration = Duration::from_secs(3);

/// A body that gives fewer bytes than this in that time trickles: the upstream is asked instead.
const TRICKLE_BYTES: u64 = 256 * 1024;
const TRICKLE_TIME: Duration = Duration::from_secs(5);

impl Tier {
    async fn fact(&self, key: &Path) -> Option<Bytes> {
        match self.bucket.small(key, FACT_BYTES_MAX).await {
            Ok(text) => Some(text),
            Err(error) => {
                if error != BucketError::Absent {
                    tracing::debug!(bucket = self.bucket.name(), %error, "a fact was not read");
                }
                None
            }
        }
    }

    async fn kept_link(
        &self,
        source: &Source,
        digest: &Digest,
        kind: ChildKind,
    ) -> Option<KeptLink> {
        let seal = self.seal.as_ref()?;
        let text = self.fact(&self.keys.link(source, digest)).await?;
        let kept = facts::opened_link(seal, &text, source, digest, kind);
        if kept.is_none() {
            self.tell_unsealed("link");
        }
        kept
    }

    /// The records of a tag; `None` where there are none that this cluster has sealed.
    pub(super) async fn kept_tag(&self, source: &Source, tag: &Tag) -> Option<Vec<TagRecord>> {
        let seal = self.seal.as_ref()?;
        let text = self.fact(&self.keys.tag(source, tag)).await?;
        let kept = facts::opened_tag(seal, &text, source, tag);
        if kept.is_none() {
            self.tell_unsealed("tag");
        }
        kept
    }

    async fn kept_manifest(&self, digest: &Digest) -> Option<Bytes> {
        if self.is_distrusted(digest) {
            return None;
        }
        let key = self.keys.blob(digest);
        let bytes = self.bucket.small(&key, MANIFEST_BYTES_MAX).await.ok()?;
        if Digest::of(digest.algorithm(), &bytes) != *digest {
            self.distrust_now(digest);
            return None;
        }
        Some(bytes)
    }

    fn tell_unsealed(&self, what: &str) {
        let bucket = self.bucket.name();
        if self.queue.is_time_to_tell() {
            tracing::warn!(
                bucket,
                what,
                "a tag or link in the object store is not sealed with this node's secret, or is not that of its name: it is passed over. Give all nodes with this bucket the same tier.secret_file, and keep others from writing there"
            );
        } else {
            tracing::debug!(
                bucket,
                what,
                "another one is not sealed with this node's secret"
            );
        }
    }

    async fn part(&self, blob: BlobName<'_>, range: ReadRange<'_>) -> Result<BlobRead, FetchError> {
        let key = self.keys.blob(blob.digest);
        let read = self.bucket.read(&key, range.start, range.end).await;
        if let Err(error) = &read {
            self.absent(error, blob.digest).await;
        }
        let part = read?;
        let ranged = range.start > 0 || range.end.is_some();
        let Part { start, total, body } = part;
        Ok(BlobRead {
            offset: start,
            ranged,
            endpoint: EndpointId::of(0),
            validator: None,
            total: Some(total),
            body: ReadBody::of(in_time(body), PIECE_WAIT_MAX),
        })
    }
}

impl Tier {
    /// A URL at which a client reads a blob, if the bucket has it.
    async fn signed_url(&self, digest: &Digest) -> Option<Url> {
        if self.is_distrusted(digest) {
            return None;
        }
        let key = self.keys.blob(digest);
        if !notes::has_blob(&self.store, digest).await {
            self.bucket.size(&key).await.ok()?;
        }
        let url = self.bucket.url(&key, URL_LIFE).await;
        let url = url.inspect_err(|error| {
            tracing::debug!(bucket = self.bucket.name(), %error, "no URL for a client");
        });
        let url = url.ok()?;
        self.metrics.tier().redirected();
        Some(url)
    }
}

/// The pieces of a body that does not trickle.
fn in_time(
    body: stream::BoxStream<'static, Result<Bytes, BucketError>>,
) -> stream::BoxStream<'static, Result<Bytes, FetchError>> {
    let begun = (body, Instant::now(), 0_u64);
    stream::unfold(begun, |(mut body, mut since, mut came)| async move {
        // An empty piece would be one too many.
        let piece = loop {
            match body.next().await? {
                Ok(bytes) if bytes.is_empty() => {}
                other => break other,
            }
        };
        let mut piece = piece.map_err(FetchError::from);
        if let Ok(bytes) = &piece {
            came += bytes.len() as u64;
            if since.elapsed() >= TRICKLE_TIME {
                if came < TRICKLE_BYTES {
                    piece = Err(FetchError::Timeout("enough of a blob"));
                }
                (since, came) = (Instant::now(), 0);
            }
        }
        Some((piece, (body, since, came)))
    })
    .boxed()
}

impl BlobSource for Tier {
    fn name(&self, _endpoint: EndpointId) -> Cow<'_, str> {
        self.bucket.name().into()
    }

    fn endpoints(&self, digest: &Digest) -> Vec<EndpointId> {
        if self.bucket.rest().is_some() || self.is_distrusted(digest) {
            return Vec::new();
        }
        vec![EndpointId::of(0)]
    }

    fn stat<'a>(&'a self, blob: BlobName<'a>) -> BoxFuture<'a, Result<Option<u64>, FetchError>> {
        async move {
            let size = self.bucket.size(&self.keys.blob(blob.digest)).await;
            if let Err(error) = &size {
                self.absent(error, blob.digest).await;
            }
            Ok(Some(size?))
        }
        .boxed()
    }

    fn word<'a>(&'a self, blob: BlobName<'a>) -> Option<BoxFuture<'a, Option<u64>>> {
        let word = async move {
            let kept = self.kept_link(blob.source, blob.digest, ChildKind::Blob);
            let kept = tokio::time::timeout(self.wait_max(), kept).await;
            kept.ok().flatten()?.link.size
        };
        Some(word.boxed())
    }

    fn read<'a>(
        &'a self,
        blob: BlobName<'a>,
        range: ReadRange<'a>,
    ) -> BoxFuture<'a, Result<BlobRead, FetchError>> {
        self.part(blob, range).boxed()
    }

    fn honours_range(&self, _endpoint: EndpointId) -> bool {
        self.abilities.has_ranges()
    }

    fn distrust(&self, _endpoint: EndpointId, digest: &Digest) {
        self.distrust_now(digest);
    }
}

impl Archive for Tier {
    fn link<'a>(
        &'a self,
        source: &'a Source,
        digest: &'a Digest,
        kind: ChildKind,
    ) -> BoxFuture<'a, Option<KeptLink>> {
        self.kept_link(source, digest, kind).boxed()
    }

    fn tag<'a>(
        &'a self,
        source: &'a Source,
        tag: &'a Tag,
    ) -> BoxFuture<'a, Option<Vec<TagRecord>>> {
        self.kept_tag(source, tag).boxed()
    }

    fn manifest<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Option<Bytes>> {
        self.kept_manifest(digest).boxed()
    }

    fn takes(&self, client: IpAddr, bodies: usize) -> bool {
        let redirect = &self.config.redirect;
        let now = match redirect.when {
            When::Never => false,
            When::Busy => bodies >= BUSY_BODIES,
            When::Always => true,
        };
        now && redirect.reaches(client)
    }

    fn url<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Option<Url>> {
        self.signed_url(digest).boxed()
    }
}

impl From<BucketError> for FetchError {
    fn from(error: BucketError) -> Self {
        match error {
            BucketError::Absent => Self::NotFound { code: None },
            BucketError::Refused(_) => Self::Denied,
            BucketError::Rests => Self::Busy,
            BucketError::Failed(why) => Self::Broken(why),
        }
    }
}

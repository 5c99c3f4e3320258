//! The fetcher: from an upstream's answer into a fill. One connection, from
//! the first missing byte to the end.

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::flight::Lead;
use super::{Inner, MirrorError, Source};
use crate::oci::Digest;
use crate::oci::manifest::ChildKind;
use crate::store::{Link, Partial, StoreError, VerifyError};
use crate::telemetry::Kind;
use crate::upstream::{BlobAsk, BlobBody, FetchError};
use std::sync::Arc;

/// How much is gathered, of what has arrived already, for one write.
const WRITE_BYTES_MAX: usize = 1024 * 1024;

/// And in how many pieces: an upstream may send a byte at a time.
const WRITE_CHUNKS_MAX: usize = 1024;

/// A gathered write.
struct Batch {
    chunks: Vec<Bytes>,
    bytes: u64,
    /// What ended the gathering, to be told after the write.
    ended: Option<MirrorError>,
}

impl Inner {
    /// Fetches a blob into its fill, whoever still reads it.
    pub(super) async fn fetch(self: Arc<Self>, lead: Lead, source: Source, digest: Digest) {
        // Freed when this function ends, after the fill has.
        let Lead {
            opening,
            fill,
            place: _place,
        } = lead;
        drop(fill);
        let link = self.store.link(&source, &digest).await;
        let expected = link.and_then(|link| link.size);
        let partial = match self.store.begin(opening, expected).await {
            Ok(partial) => partial,
            Err(Some((opening, error))) => {
                tracing::error!(upstream = %source.upstream, repository = %source.repository, %digest, %error, "cannot store a blob");
                if expected.is_some() && matches!(error, StoreError::NoRoom(_)) {
                    // It may be the size that is wrong.
                    self.store.forget_size(&source, &digest).await;
                }
                return opening.fail(error.into());
            }
            Err(None) => return,
        };
        self.metrics.fills_in_flight(1);
        let transferred = tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            result = self.transfer(&partial, &source, expected) => Some(result),
        };
        match transferred {
            None => partial.suspend(MirrorError::ShuttingDown).await,
            Some(Ok(())) => {
                if let Err(error) = self.finish(partial, &source).await {
                    self.doubt(&source, &digest, expected, &error).await;
                }
            }
            Some(Err(error)) => {
                tracing::warn!(
                    upstream = %source.upstream, repository = %source.repository, %digest, %error,
                    bytes = partial.prefix(), readers = partial.readers(),
                    "a blob was not fetched; its readers are cut off, and the next request tries again"
                );
                self.doubt(&source, &digest, expected, &error).await;
                partial.fail(error);
            }
        }
        self.metrics.fills_in_flight(-1);
    }

    /// Upstream or the manifest that said the size is wrong: next time the digest alone shall tell.
    async fn doubt(
        &self,
        source: &Source,
        digest: &Digest,
        expected: Option<u64>,
        error: &MirrorError,
    ) {
        if expected.is_some() && matches!(error, MirrorError::WrongContent { .. }) {
            self.store.forget_size(source, digest).await;
        }
    }

    async fn finish(
        &self,
        partial: Partial<MirrorError>,
        source: &Source,
    ) -> Result<(), MirrorError> {
        let digest = *partial.digest();
        let explain = |error: VerifyError| match error {
            VerifyError::Size { .. } | VerifyError::Digest { .. } => {
                tracing::error!(
                    upstream = %source.upstream, repository = %source.repository, %digest, %error,
                    "upstream sent wrong content; nothing of it is kept, and its readers are cut off"
                );
                MirrorError::WrongContent {
                    digest,
                    why: error.to_string(),
                }
            }
            VerifyError::Store(error) => error.into(),
        };
        let verified = match partial.verify().await {
            Ok(verified) => verified,
            Err((partial, error)) => {
                let why = explain(error);
                partial.fail(why.clone());
                return Err(why);
            }
        };
        match verified.commit().await {
            Ok(blob) => {
                let link = Link::of(ChildKind::Blob, Some(blob.size()));
                self.store.record_links(source, vec![(digest, link)]).await;
            }
            Err(error) => {
                tracing::error!(%digest, %error, "a blob was fetched and served, but cannot be kept. Is the disk full or read-only?");
            }
        }
        Ok(())
    }

    async fn transfer(
        &self,
        partial: &Partial<MirrorError>,
        source: &Source,
        expected: Option<u64>,
    ) -> Result<(), MirrorError> {
        let digest = partial.digest();
        let have = partial.prefix();
        if have > 0 && Some(have) == expected {
            // An earlier run had it all, and was stopped before the commit.
            return Ok(partial.start(expected).await?);
        }
        let upstream = self.upstream(source)?;
        let ask = BlobAsk {
            start: have,
            ..BlobAsk::whole(&source.repository, digest)
        };
        let mut fetched = upstream.blob(&ask).await;
        if have > 0 && matches!(fetched, Err(FetchError::RangeNotSatisfiable)) {
            // An earlier run had it all, or too much. Nobody reads yet, so it can be begun again.
            partial.restart().await?;
            let ask = BlobAsk::whole(&source.repository, digest);
            fetched = upstream.blob(&ask).await;
        }
        let mut blob = fetched.map_err(|error| MirrorError::of_fetch(Kind::Blob, error))?;
        if let (Some(expected), Some(total)) = (expected, blob.total)
            && expected != total
        {
            let why = format!("upstream announces {total} bytes, the manifest says {expected}");
            return Err(MirrorError::WrongContent {
                digest: *digest,
                why,
            });
        }
        let total = expected.or(blob.total);
        partial.start(total).await?;
        self.pump(partial, &mut blob.body, blob.offset, total).await
    }

    async fn pump(
        &self,
        partial: &Partial<MirrorError>,
        body: &mut BlobBody,
        offset: u64,
        total: Option<u64>,
    ) -> Result<(), MirrorError> {
        let digest = *partial.digest();
        let mut unattended = None;
        let mut position = offset;
        while let Some(batch) = gather(body).await? {
            let end = position + batch.bytes;
            if let Some(total) = total.filter(|total| end > *total) {
                let why = format!("more than {total} bytes came");
                return Err(MirrorError::WrongContent { digest, why });
            }
            let have = partial.prefix();
            if end > have {
                // An upstream without Range sends again what is there already.
                let chunks = skip(batch.chunks, have.saturating_sub(position));
                partial.write(position.max(have), chunks).await?;
            }
            position = end;
            if let Some(error) = batch.ended {
                return Err(error);
            }
            self.attend(partial, &mut unattended)?;
        }
        Ok(())
    }

    /// A fill goes on without readers, but only so many of them.
    fn attend(
        &self,
        partial: &Partial<MirrorError>,
        unattended: &mut Option<OwnedSemaphorePermit>,
    ) -> Result<(), MirrorError> {
        if partial.readers() > 0 {
            *unattended = None;
        } else if unattended.is_none() {
            let permit = Arc::clone(&self.unattended).try_acquire_owned();
            *unattended = Some(
                permit
                    .map_err(|_| MirrorError::Busy("too many downloads that nobody waits for"))?,
            );
        }
        Ok(())
    }
}

/// Waits for bytes, and takes what else has arrived with them.
async fn gather(body: &mut BlobBody) -> Result<Option<Batch>, MirrorError> {
    let blob_error = |error| MirrorError::of_fetch(Kind::Blob, error);
    let Some(first) = body.next().await.map_err(blob_error)? else {
        return Ok(None);
    };
    let mut bytes = first.len();
    let mut batch = Batch {
        chunks: vec![first],
        bytes: 0,
        ended: None,
    };
    while bytes < WRITE_BYTES_MAX && batch.chunks.len() < WRITE_CHUNKS_MAX {
        match body.try_next() {
            Some(Ok(chunk)) => {
                bytes += chunk.len();
                batch.chunks.push(chunk);
            }
            Some(Err(error)) => {
                batch.ended = Some(blob_error(error));
                break;
            }
            None => break,
        }
    }
    batch.bytes = bytes as u64;
    Ok(Some(batch))
}

/// Leaves away the first `bytes`.
fn skip(chunks: Vec<Bytes>, bytes: u64) -> Vec<Bytes> {
    let mut left = bytes;
    chunks
        .into_iter()
        .filter_map(|mut chunk| {
            // The smaller of the two fits a chunk's length.
            let here = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
            left -= here as u64;
            let rest = chunk.split_off(here);
            (!rest.is_empty()).then_some(rest)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_already_is_left_away() {
        let chunks = || vec![Bytes::from_static(b"abc"), Bytes::from_static(b"def")];
        let skipped = |bytes| skip(chunks(), bytes).concat();
        assert_eq!(skipped(0), b"abcdef");
        assert_eq!(skipped(3), b"def");
        assert_eq!(skipped(4), b"ef");
        assert_eq!(skipped(6), b"");
    }
}

//! What the store can do: tried once it answers, and not believed. A start does not wait for it.

use std::time::Duration;

use futures_util::StreamExt as _;
use object_store::PutPayload;

use super::error::BucketError;
use super::handle::Tier;

/// The object that is written and read.
const OBJECT: &str = "probe";

/// Its content.
const TEXT: &[u8] = b"roadstead writes and reads this to see what the store can do.\n";

/// The part of it that is read.
const PART: std::ops::Range<usize> = 10..20;

/// Time between two tries of a store that does not answer.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

impl Tier {
    /// Tries what the store can do, until it is known.
    pub(super) async fn keep_probing(&self) {
        loop {
            match self.probe().await {
                Ok(()) => {
                    self.abilities.now_known();
                    self.queue.is_in_trouble(None);
                    let ranges = self.abilities.has_ranges();
                    tracing::info!(
                        bucket = self.bucket.name(),
                        ranges,
                        "the object store can be read and written"
                    );
                    return;
                }
                Err(BucketError::Rests) => tokio::time::sleep(AGAIN_AFTER).await,
                Err(error) => {
                    // There is no bucket where nothing can be written.
                    let why = match &error {
                        BucketError::Absent => "there is no such bucket, or no such key".to_owned(),
                        BucketError::Refused(_) | BucketError::Rests | BucketError::Failed(_) => {
                            error.to_string()
                        }
                    };
                    if self.queue.is_in_trouble(Some(why.clone())) {
                        tracing::warn!(
                            bucket = self.bucket.name(),
                            why,
                            "the object store cannot be written: see tier.url, tier.endpoint, tier.region, and that the keys may read, write and list there; it is tried again"
                        );
                    }
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            }
        }
    }

    async fn probe(&self) -> Result<(), BucketError> {
        let key = self.keys.prefix().clone().join(OBJECT);
        let text = PutPayload::from_static(TEXT);
        self.bucket.put(&key, text, "text/plain").await?;
        let (start, end) = (PART.start as u64, PART.end as u64);
        let part = self.bucket.read(&key, start, Some(end)).await;
        let read = async {
            let mut part = part?;
            let mut bytes = Vec::new();
            while let Some(piece) = part.body.next().await {
                bytes.extend_from_slice(&piece?);
            }
            Ok::<_, BucketError>(bytes)
        };
        // A store that answers a range with everything is one without.
        let is_part = read
            .await
            .is_ok_and(|bytes| Some(bytes.as_slice()) == TEXT.get(PART));
        self.abilities.gives_ranges(is_part);
        if !is_part {
            tracing::warn!(
                bucket = self.bucket.name(),
                "the object store does not give parts of objects: large blobs are read on one connection, and not taken up in the middle"
            );
        }
        Ok(())
    }
}

//! Uploads in parts that nobody goes on with: they are billed, and seen by nobody. Stores with Amazon's protocol list them;
//! Azure drops its own after a week, and for Google's a lifecycle rule does it.

use std::time::{Duration, UNIX_EPOCH};

use object_store::path::Path;

use super::error::BucketError;
use super::handle::Tier;
use super::lister::Lister;
use super::notes;
use crate::telemetry::metrics::TierOp;

/// Time after the start.
const FIRST_AFTER: Duration = Duration::from_secs(2);

/// Time between two looks.
const EACH: Duration = Duration::from_hours(24);

impl Tier {
    /// Looks for them once a day.
    pub(super) async fn clean_leftovers(&self) {
        tokio::time::sleep(FIRST_AFTER).await;
        loop {
            if let Some(lister) = self.bucket.lister() {
                match self.clean(lister).await {
                    Ok(0) => {}
                    Ok(count) => {
                        tracing::info!(
                            bucket = self.bucket.name(),
                            count,
                            "uploads that nobody goes on with were given up"
                        );
                    }
                    Err(error) => {
                        self.metrics.tier().failed(TierOp::List);
                        tracing::debug!(bucket = self.bucket.name(), %error, "uploads that nobody goes on with cannot be listed");
                    }
                }
            }
            tokio::time::sleep(EACH).await;
        }
    }

    async fn clean(&self, lister: &Lister) -> Result<usize, BucketError> {
        let blobs = self.keys.prefix().clone().join("blobs");
        let uploads = lister.list(&format!("{blobs}/")).await?;
        let mut count = 0;
        let now = UNIX_EPOCH + Duration::from_millis(self.clock.now().0);
        for left in uploads.into_iter().filter(|left| left.is_old(now)) {
            let Some(digest) = left.digest() else {
                continue;
            };
            let own = notes::upload(&self.store, &digest).await;
            if own.is_some_and(|own| own.id == left.id) {
                continue;
            }
            let Ok(key) = Path::parse(&left.key) else {
                continue;
            };
            self.bucket.abort(&key, &left.id).await?;
            count += 1;
        }
        Ok(count)
    }
}

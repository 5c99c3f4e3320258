//! The end of a mirror, and of its right to store and catalogue when another process takes them over.

use std::sync::Arc;
use std::time::Duration;

use super::core::{Core, Tasks};
use super::fills::Fills;
use crate::catalogue::Catalogue;
use crate::store::{HandOver, Store};

/// The time that fills may take to note how far they have come. What is later is fetched again from its last note on, as
/// after a kill.
const SUSPEND_WAIT_MAX: Duration = Duration::from_secs(1);

/// The time that the disk may take for what is under way.
const HAND_OVER_WAIT_MAX: Duration = Duration::from_secs(5);

/// Ends what a mirror does by itself.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) store: Store,
    catalogue: Catalogue,
    tasks: Tasks,
    fills: Arc<Fills>,
}

/// The disk does not answer: the store was not let go of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the disk of the cache does not answer")]
pub struct NotHandedOver;

impl Ending {
    pub(super) fn new(core: &Core, fills: &Arc<Fills>) -> Self {
        Self {
            store: core.store.clone(),
            catalogue: core.catalogue.clone(),
            tasks: core.tasks.clone(),
            fills: Arc::clone(fills),
        }
    }

    /// Tells all tasks to end, waits for them, and lets go of the catalogue.
    pub(super) async fn stop(&self) {
        self.tasks.end().await;
        self.catalogue.close().await;
    }

    /// Suspends all fills, whose readers go on past the store, and lets go of store and catalogue: from then on this
    /// process reads what is stored, and changes nothing.
    ///
    /// # Errors
    /// [`NotHandedOver`]; all the same nothing new is stored any more.
    pub(super) async fn hand_over(&self) -> Result<(), NotHandedOver> {
        HandOver(self.store.contents()).begin();
        self.tasks.suspend_fills();
        if tokio::time::timeout(SUSPEND_WAIT_MAX, self.fills.none_is_left())
            .await
            .is_err()
        {
            tracing::warn!(
                "some downloads could not be suspended in time; the next process takes them up from their last record"
            );
        }
        let store = self.store.clone();
        let handing = tokio::task::spawn_blocking(move || HandOver(store.contents()).finish());
        if !matches!(
            tokio::time::timeout(HAND_OVER_WAIT_MAX, handing).await,
            Ok(Ok(()))
        ) {
            return Err(NotHandedOver);
        }
        self.catalogue.close().await;
        Ok(())
    }
}

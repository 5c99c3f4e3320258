//! The store of hosted repositories, and what is made of it.

use std::sync::Arc;

use super::StartError;
use crate::catalogue::Catalogue;
use crate::clock::Clock;
use crate::config::Config;
use crate::hosted::Hosted;
use crate::store::{self, Amount, Claim, Keeping, Store};
use crate::telemetry::Metrics;

/// The directory of hosted content in the state directory.
const DIRECTORY: &str = "hosted";

/// The part of the file system that is left free, in percent: the catalogue beside it has to be written, too.
const MIN_FREE_PERCENT: u8 = 1;

/// The way in which it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// To be served.
    Serve {
        /// From a process that still reads it.
        takes_over: bool,
    },
    /// By a command, where no server runs, that may write.
    Write,
    /// By a command that only looks.
    Look,
}

/// Opens what is hosted, if anything is.
pub(super) async fn open(
    config: &Config,
    catalogue: &Catalogue,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
    opening: Opening,
) -> Result<Option<Hosted>, StartError> {
    let Some(hosted) = config.hosted.as_deref().filter(|it| it.enabled) else {
        return Ok(None);
    };
    let dir = config.state.dir.join(DIRECTORY);
    if opening == Opening::Look && !dir.exists() {
        return Ok(None);
    }
    let store = store::Config {
        min_free: Amount::Percent(MIN_FREE_PERCENT),
        permanent: true,
        injection: config.cache.injection.clone(),
        ..store::Config::of(dir, hosted.max_size)
    };
    let time = Arc::clone(clock);
    let opened = tokio::task::spawn_blocking(move || {
        let claim = match opening {
            Opening::Look => Claim::to_look(&store)?,
            Opening::Serve { takes_over: true } => Claim::take(&store)?.beside_readers(),
            Opening::Serve { takes_over: false } | Opening::Write => Claim::take(&store)?,
        };
        // Its own counts: those of the cache are of the cache alone.
        let metrics = Metrics::new(std::iter::empty());
        Store::open_claimed(claim, &store, Keeping::Everything, time, metrics)
    });
    let opened = match opened.await {
        Ok(opened) => opened?,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    let hosted = Hosted::new(
        hosted.clone(),
        catalogue.clone(),
        opened,
        Arc::clone(clock),
        metrics.clone(),
    );
    if matches!(opening, Opening::Serve { .. }) {
        hosted.open().await;
    }
    Ok(Some(hosted))
}

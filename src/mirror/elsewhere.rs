//! Clients that are sent to the object store for a blob, instead of being given its bytes.

use std::net::IpAddr;
use std::sync::Arc;

use url::Url;

use super::Source;
use super::archive::{Archived, in_time};
use super::core::Core;
use super::fills::Fills;
use crate::oci::Digest;
use crate::oci::manifest::ChildKind;
use crate::store::Store;
use crate::telemetry::Metrics;

/// A smaller blob is given as soon as a client would have found its way.
const BYTES_MIN: u64 = 16 * 1024 * 1024;

/// Decides who is sent there.
#[derive(Debug)]
pub struct Elsewhere {
    store: Store,
    metrics: Metrics,
    archived: Archived,
    fills: Arc<Fills>,
}

impl Elsewhere {
    pub(super) fn new(core: &Core, fills: &Arc<Fills>) -> Self {
        Self {
            store: core.store.clone(),
            metrics: core.metrics.clone(),
            archived: core.archived.clone(),
            fills: Arc::clone(fills),
        }
    }

    /// True if there is an object store.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.archived.is_there()
    }

    /// The URL at which a client at this address reads a blob that everybody may have. `None`: it is given here, because it
    /// is here or on its way, because it is small, or because the upstream is not known to have said that the repository has
    /// it.
    pub async fn url(&self, source: &Source, digest: &Digest, client: IpAddr) -> Option<Url> {
        let archive = self.archived.of(source)?;
        let is_here = || {
            let is_on_its_way = self.fills.find(&source.upstream, digest).is_some();
            is_on_its_way || self.store.contains(digest).is_some()
        };
        if !archive.takes(client, self.metrics.bodies()) || is_here() {
            return None;
        }
        let kind = ChildKind::Blob;
        let link = self.store.metadata().link(source, digest).await;
        let link = link.filter(|link| link.covers(kind));
        if link.is_some_and(|link| link.size.is_some_and(|size| size < BYTES_MIN)) {
            return None;
        }
        let link = match link.filter(crate::store::Link::is_given) {
            Some(link) => link,
            None => self.archived.link(source, digest, kind).await?.link,
        };
        if link.size? < BYTES_MIN {
            return None;
        }
        in_time(archive.url(digest)).await
    }
}

//! Which endpoints are well, which limit us, which gave wrong bytes.

use std::sync::{Mutex, PoisonError};

use super::EndpointId;
use crate::oci::Digest;

/// What is known of the endpoints of one upstream.
#[derive(Debug, Default)]
pub(super) struct Health {
    distrusted: Mutex<Vec<(EndpointId, Digest)>>,
    rangeless: Mutex<Vec<EndpointId>>,
}

impl Health {
    /// The endpoints in the order in which they should be asked for `digest`: those that gave wrong
    /// bytes for it are left away while there are others.
    pub(super) fn order(&self, count: usize, digest: Option<&Digest>) -> Vec<EndpointId> {
        let distrusted = self
            .distrusted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let all = (0..count).map(EndpointId);
        let trusted: Vec<_> = all
            .clone()
            .filter(|id| !digest.is_some_and(|digest| distrusted.contains(&(*id, *digest))))
            .collect();
        if trusted.is_empty() {
            all.collect()
        } else {
            trusted
        }
    }

    /// The endpoint gave wrong bytes for `digest`.
    pub(super) fn distrust(&self, endpoint: EndpointId, digest: &Digest) {
        let mut distrusted = self
            .distrusted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        distrusted.push((endpoint, *digest));
    }

    /// The endpoint does not honour Range, or lies about it.
    pub(super) fn ignores_range(&self, endpoint: EndpointId) {
        let mut rangeless = self
            .rangeless
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        rangeless.push(endpoint);
    }

    /// Whether a Range may be tried at the endpoint.
    pub(super) fn honours_range(&self, endpoint: EndpointId) -> bool {
        let rangeless = self
            .rangeless
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        !rangeless.contains(&endpoint)
    }
}

//! The upstreams in use, which a new configuration replaces as a whole.

use std::ops::Deref;
use std::sync::Arc;

use super::core::{Configured, Upstreams};
use super::negative::Negative;
use super::upstream_set::UpstreamSet;
use super::visibility::Visibility;
use crate::oci::{Directory, UpstreamName};

/// The upstreams in use, and what is remembered of their refusals.
#[derive(Debug)]
pub struct InUse {
    pub(super) upstreams: Upstreams,
    pub(super) negative: Arc<Negative>,
    pub(super) visibility: Arc<Visibility>,
}

/// The directory that is in use.
struct DirectoryInUse(arc_swap::Guard<Arc<Configured>>);

impl Deref for DirectoryInUse {
    type Target = Directory;

    fn deref(&self) -> &Directory {
        &self.0.directory
    }
}

impl InUse {
    /// Finds the upstream that a request means. Not to be kept while something is waited for.
    #[must_use]
    pub fn directory(&self) -> impl Deref<Target = Directory> {
        DirectoryInUse(self.upstreams.now())
    }

    /// Has other upstreams from now on. What runs goes on with those that it has; what upstreams have refused is asked again.
    pub fn replace(&self, upstreams: UpstreamSet) {
        self.upstreams.replace(upstreams);
        self.negative.forget_all();
        self.visibility.forget_refusals();
    }

    /// True if an upstream of this name is configured.
    #[must_use]
    pub fn has(&self, upstream: &UpstreamName) -> bool {
        self.upstreams.contains(upstream)
    }

    /// True if an upstream decides for each client what that may see: its content is nobody else's business.
    #[must_use]
    pub fn decides_for_each(&self, upstream: &UpstreamName) -> bool {
        self.upstreams.decides_for_each(upstream)
    }

    /// The number of the configuration: another one after each change.
    #[must_use]
    pub fn edition(&self) -> u64 {
        self.upstreams.edition()
    }
}

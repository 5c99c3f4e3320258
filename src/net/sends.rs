//! HTTP requests that may still be sent.

use std::sync::atomic::{AtomicU32, Ordering};

/// Connections that turn out to be gone, for which the same is sent again: an idle one that the server has closed, and
/// one that breaks before the answer. A third time says that the server breaks them.
const REPEATS_MAX: u32 = 2;

/// The HTTP requests that are left for one purpose, redirects and repeats included. Nothing is sent without one.
#[derive(Debug)]
pub(crate) struct Sends {
    left: AtomicU32,
    repeats: AtomicU32,
}

impl Sends {
    /// So many, of which some may be repeats for a connection that was gone.
    pub(crate) const fn new(requests: u32) -> Self {
        Self {
            left: AtomicU32::new(requests),
            repeats: AtomicU32::new(REPEATS_MAX),
        }
    }

    /// Takes one, if there is one.
    #[must_use]
    pub(super) fn take(&self) -> bool {
        take(&self.left)
    }

    /// True if what was sent on a connection that is gone may be sent again: there are fewer repeats than requests.
    #[must_use]
    pub(crate) fn repeat(&self) -> bool {
        !self.is_spent() && take(&self.repeats)
    }

    /// True if none is left.
    #[must_use]
    pub(crate) fn is_spent(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }
}

fn take(count: &AtomicU32) -> bool {
    let less = |count: u32| count.checked_sub(1);
    count
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_repeats_are_counted() {
        let sends = Sends::new(4);
        assert!(sends.take() && sends.repeat() && sends.take() && sends.repeat() && sends.take());
        assert!(!sends.repeat() && !sends.is_spent());
        assert!(sends.take() && sends.is_spent() && !sends.take());
        let few = Sends::new(1);
        assert!(few.take() && !few.repeat());
    }
}

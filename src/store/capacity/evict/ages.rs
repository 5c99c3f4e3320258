//! The times that blobs are kept without a use.

use std::time::Duration;

use super::OwnerId;

/// Times that blobs are kept without a use.
#[derive(Clone, Debug, Default)]
pub struct Ages {
    /// Those of whom nothing else is said; none: for ever.
    pub usual: Option<Duration>,
    /// Those of some upstreams.
    pub special: Vec<(OwnerId, Duration)>,
}

impl Ages {
    /// The least of all.
    pub(in crate::store) fn least(&self) -> Option<Duration> {
        let special = self.special.iter().map(|(_, age)| *age);
        special.chain(self.usual).min()
    }

    pub(in crate::store) fn of(&self, owner: OwnerId) -> Option<Duration> {
        let special = self.special.iter().find(|(id, _)| *id == owner);
        special.map(|(_, age)| *age).or(self.usual)
    }
}

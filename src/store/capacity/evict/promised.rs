//! The size of the store, and what of it is promised.

/// A file takes whole blocks of the disk, whatever its length: there are no more blobs than the store would have
/// blocks.
const BLOCK_BYTES: u64 = 4096;

/// But so many in the smallest of stores.
const BLOBS_LEAST: usize = 1024;

/// And in the largest: their entries take some 300 MB of memory.
const BLOBS_MAX: usize = 4 * 1024 * 1024;

/// Bytes that are reserved, and those that there may be with the stored ones.
#[derive(Debug)]
pub(super) struct Promised {
    reserved: u64,
    max: u64,
}

impl Promised {
    pub(super) fn new(max: u64) -> Self {
        Self { reserved: 0, max }
    }

    pub(super) fn max(&self) -> u64 {
        self.max
    }

    /// Number of blobs that may be stored.
    pub(super) fn blobs_max(&self) -> usize {
        let blobs = usize::try_from(self.max / BLOCK_BYTES).unwrap_or(usize::MAX);
        blobs.clamp(BLOBS_LEAST, BLOBS_MAX)
    }

    /// Bytes stored and promised, where so many are stored.
    pub(super) fn taken(&self, stored: u64) -> u64 {
        stored.saturating_add(self.reserved)
    }

    /// Bytes that must come free before `bytes` more can be reserved, where so many are stored.
    pub(super) fn missing(&self, stored: u64, bytes: u64) -> u64 {
        self.taken(stored)
            .saturating_add(bytes)
            .saturating_sub(self.max)
    }

    /// Reserves bytes for which there is room.
    pub(super) fn reserve(&mut self, bytes: u64) {
        self.reserved += bytes;
    }

    /// Gives back a reservation.
    pub(super) fn release(&mut self, bytes: u64) {
        self.reserved = self.reserved.saturating_sub(bytes);
    }

    /// Makes a reservation something else's, which is no longer a part of this.
    pub(super) fn give_away(&mut self, reserved: u64) {
        self.release(reserved);
        self.max = self.max.saturating_sub(reserved);
    }

    /// Takes back some of what was given away.
    pub(super) fn have_back(&mut self, bytes: u64) {
        self.max = self.max.saturating_add(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_count_until_they_are_released_or_given_away() {
        let mut promised = Promised::new(100);
        assert_eq!((promised.missing(70, 30), promised.missing(70, 31)), (0, 1));
        promised.reserve(20);
        assert_eq!((promised.taken(70), promised.missing(70, 30)), (90, 20));
        promised.give_away(20);
        assert_eq!((promised.max(), promised.taken(70)), (80, 70));
        promised.have_back(20);
        promised.reserve(20);
        promised.release(20);
        assert_eq!((promised.max(), promised.taken(70)), (100, 70));
        assert_eq!(promised.missing(u64::MAX, u64::MAX), u64::MAX - 100);
    }

    #[test]
    fn there_are_no_more_blobs_than_blocks_and_a_bound_on_both_sides() {
        assert_eq!(Promised::new(0).blobs_max(), 1024);
        assert_eq!(Promised::new(4096 * 5000).blobs_max(), 5000);
        assert_eq!(Promised::new(u64::MAX).blobs_max(), 4 * 1024 * 1024);
    }
}

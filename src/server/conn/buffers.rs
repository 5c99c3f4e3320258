//! Memory that all clients' bodies take together.
//!
//! A piece of a blob that was read, and that its client has not taken, is weighed until the last byte of it is gone. What
//! the kernel sends from files itself weighs nothing. A client that has shown that it reads is read ahead for, as long
//! as there is room; one that has not, or comes when there is none, gets frame by frame.

use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that HTTP/2 and TLS take at once: clients take frames of 16 KiB (RFC 9113 section 6.5.2,
/// `SETTINGS_MAX_FRAME_SIZE`), and a record of TLS holds as much (RFC 8446 section 5.1), with the 9 bytes of the
/// frame's own head. One byte more would be a record by itself.
pub(crate) const FRAME_BYTES: usize = 16 * 1024 - 9;

/// Bytes that are read at once for a client that reads: frames, as many as fit into what the store reads at once.
const PIECE_BYTES: usize = 8 * FRAME_BYTES;

/// A client that was given less than this has shown nothing yet, and costs as little as is possible: one that reads
/// nothing at all never comes so far, whatever the kernel and its own have room for.
pub(crate) const SHOWN_BYTES: u64 = 1 << 20;

/// Above this nobody is read ahead for.
const AHEAD_BYTES_MAX: usize = 64 << 20;

/// Above this room is wanted more than slow clients: those below the least rate go.
const BYTES_MAX: usize = 256 << 20;

/// Memory of a request that is being answered, besides pieces: its task, its head.
const REQUEST_BYTES: usize = 8 * 1024;

/// The count, which all share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buffers(Arc<AtomicUsize>);

/// Something that weighs, as long as it lives.
#[derive(Debug)]
struct Weight {
    buffers: Buffers,
    bytes: usize,
}

/// A piece with its weight.
struct Weighed {
    bytes: Bytes,
    /// Counted until this is dropped.
    #[expect(dead_code, reason = "held for its end alone")]
    weight: Weight,
}

impl AsRef<[u8]> for Weighed {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Buffers {
    /// Number of bytes to read at once for a body of which `given` were given.
    pub(crate) fn piece_max(&self, given: u64) -> usize {
        if given < SHOWN_BYTES || self.0.load(Ordering::Relaxed) > AHEAD_BYTES_MAX {
            FRAME_BYTES
        } else {
            PIECE_BYTES
        }
    }

    /// The same bytes, which count until the last of them is gone.
    pub(crate) fn weigh(&self, bytes: Bytes) -> Bytes {
        let weight = self.weight(bytes.len());
        Bytes::from_owner(Weighed { bytes, weight })
    }

    /// A request begins.
    pub(crate) fn request_begins(&self) {
        self.0.fetch_add(REQUEST_BYTES, Ordering::Relaxed);
    }

    /// One is over.
    pub(crate) fn request_ends(&self) {
        self.0.fetch_sub(REQUEST_BYTES, Ordering::Relaxed);
    }

    fn weight(&self, bytes: usize) -> Weight {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        Weight {
            buffers: self.clone(),
            bytes,
        }
    }

    /// True if there is more than there should be.
    pub(crate) fn are_full(&self) -> bool {
        self.0.load(Ordering::Relaxed) > BYTES_MAX
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.buffers.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_weighs_until_the_last_of_it_is_gone() {
        let buffers = Buffers::default();
        assert_eq!(buffers.piece_max(0), FRAME_BYTES);
        assert_eq!(buffers.piece_max(SHOWN_BYTES), PIECE_BYTES);
        let mut piece = buffers.weigh(Bytes::from(vec![7; AHEAD_BYTES_MAX + 1]));
        let part = piece.split_to(1);
        drop(piece);
        assert_eq!(buffers.piece_max(SHOWN_BYTES), FRAME_BYTES);
        assert!(!buffers.are_full());
        let more = buffers.weight(BYTES_MAX - AHEAD_BYTES_MAX);
        assert!(buffers.are_full());
        drop((part, more));
        assert_eq!(buffers.piece_max(SHOWN_BYTES), PIECE_BYTES);
    }
}

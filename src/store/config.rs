//! The place of the store, and its bounds.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::oci::UpstreamName;
use crate::store::capacity::{Amount, Meter};
use crate::store::disk::Injection;
use crate::store::disk::layout::relocate::{self, Place};

/// The place of the store, and its bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The directory; made if missing.
    pub dir: PathBuf,
    /// Bytes that the store may take on disk: blobs, partial files and the index.
    pub max_size: Amount,
    /// Bytes that it leaves free of the file system, whoever fills that; nothing: it does not look.
    pub min_free: Amount,
    /// Measures what is free.
    pub meter: Meter,
    /// Makes operations on the disk fail.
    pub injection: Injection,
    /// Time that blobs are kept that nobody uses; `None`: as long as there is room.
    pub max_age: Option<Duration>,
    /// Parts of it that some upstreams may have.
    pub shares: Vec<Share>,
    /// In which time all that is stored is hashed again; `None`: it is not.
    pub scrub: Option<Duration>,
    /// It has what nobody can be asked for again: nothing is ever evicted, or set aside as damaged.
    pub permanent: bool,
}

/// The part of the store that an upstream may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The upstream.
    pub upstream: UpstreamName,
    /// Bytes that its blobs may take; none: all there is.
    pub max_size: Option<u64>,
    /// Time that they are kept without a use; none: as all others.
    pub max_age: Option<Duration>,
}

impl Config {
    /// A store that is bounded by `max_size` alone, and has no other wishes.
    #[must_use]
    pub fn of(dir: PathBuf, max_size: Amount) -> Self {
        Self {
            dir,
            max_size,
            min_free: Amount::Bytes(0),
            meter: Meter::default(),
            injection: Injection::default(),
            max_age: None,
            shares: Vec::new(),
            scrub: None,
            permanent: false,
        }
    }

    /// The same, but that nothing goes to keep to a bound: for who only looks, perhaps with the configuration of
    /// another store, which must not cost this one its blobs.
    #[must_use]
    pub fn unbounded(self) -> Self {
        Self {
            max_size: Amount::Bytes(u64::MAX),
            min_free: Amount::Bytes(0),
            max_age: None,
            shares: Vec::new(),
            ..self
        }
    }

    /// This with the directory that the cache is in: versions before had it in what is the state directory
    /// now. With `may_move` it is moved to where it should be, if that can be; else it is used where it is, with a
    /// warning. Blocks.
    #[must_use]
    pub fn found(mut self, state: &Path, may_move: bool) -> Self {
        let shown = (self.dir.display().to_string(), state.display().to_string());
        match relocate::find(&self.dir, state, may_move) {
            Place::Right => {}
            Place::Moved => {
                tracing::info!(
                    from = shown.1,
                    to = shown.0,
                    "the cache was moved out of the state directory"
                );
            }
            Place::Both => {
                tracing::warn!(
                    used = shown.0,
                    unused = shown.1,
                    "there are two caches: that of cache.dir is used. Delete blobs, fills, damaged, index.redb and VERSION of the other"
                );
            }
            Place::Before(why) => {
                if may_move {
                    tracing::warn!(
                        cache_dir = shown.0,
                        used = shown.1,
                        error = why,
                        "the cache is in the state directory, where versions before had it, and cannot be moved to cache.dir; it is used where it is. To move it: stop roadstead, and move blobs, fills, damaged, index.redb, journal.* and, last, VERSION; or set cache.dir to where it is"
                    );
                }
                state.clone_into(&mut self.dir);
            }
        }
        self
    }
}

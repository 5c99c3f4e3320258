//! Bytes on disk. (skeleton)
use std::path::PathBuf;

/// Where the store is and how large it may grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The directory; made if missing.
    pub dir: PathBuf,
    /// What the store may take on disk, in bytes.
    pub max_size: u64,
}

//! The result of a run.

use serde::Serialize;

use super::server::Found;
use crate::oci::ImageName;

/// Things and their bytes, told apart by where they were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Number that the mirror had to fetch.
    pub fetched: u64,
    /// Their bytes.
    pub fetched_bytes: u64,
    /// Number that it had already.
    pub there: u64,
    /// Their bytes.
    pub there_bytes: u64,
}

/// Something that is not in the cache, or whose presence could not be seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// A manifest, a blob, or a platform.
    pub what: String,
    /// The cause.
    pub why: String,
}

/// The result for one image.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ImageReport {
    /// Its name in full.
    pub image: String,
    /// The digest that its tag names now, if it could be had.
    pub digest: Option<String>,
    /// The platforms that were fetched; none for an image that is for one alone.
    pub platforms: Vec<String>,
    /// Its manifests.
    pub manifests: Count,
    /// Its blobs, those that it shares with other images included.
    pub blobs: Count,
    /// The time that it took.
    pub seconds: f64,
    /// The parts that are missing; none for an image that can be pulled.
    pub missing: Vec<Missing>,
}

/// The result for all images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Number of images that were asked for.
    pub images: usize,
    /// Number of them that are in the cache with all their parts.
    pub complete: usize,
    /// Their blobs, shared ones counted once.
    pub blobs: Count,
    /// The time that it took.
    pub seconds: f64,
}

impl Count {
    pub(super) fn add(&mut self, found: Found, bytes: u64) {
        let (number, sum) = match found {
            Found::There => (&mut self.there, &mut self.there_bytes),
            Found::Fetched => (&mut self.fetched, &mut self.fetched_bytes),
        };
        *number += 1;
        *sum += bytes;
    }

    /// Number of them, wherever they were.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.fetched + self.there
    }

    /// Their bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.fetched_bytes + self.there_bytes
    }
}

impl ImageReport {
    pub(super) fn of(name: &ImageName) -> Self {
        Self {
            image: name.to_string(),
            digest: None,
            platforms: Vec::new(),
            manifests: Count::default(),
            blobs: Count::default(),
            seconds: 0.0,
            missing: Vec::new(),
        }
    }

    /// True if it can be pulled from the cache.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }
}

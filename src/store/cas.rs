//! Content by its digest: stored blobs, and those on their way.

pub(super) mod blob;
pub mod coverage;
pub(super) mod demand;
pub mod fill;
pub(super) mod fill_state;
pub(super) mod ingest;
pub(super) mod open_files;
pub mod partial;
pub(super) mod publish;
pub(super) mod record;

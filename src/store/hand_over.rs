//! The end of a process's right to a store.

use crate::store::contents::Contents;
use crate::store::error::StoreError;

/// The end of a process's right to a store, when another process takes its directory over.
#[derive(Debug)]
pub struct HandOver<'a>(pub &'a Contents);

impl HandOver<'_> {
    /// From now on nothing new is stored, and passes through; what is under way may be finished.
    pub fn begin(&self) {
        self.0.layout().ownership().end_soon();
        self.0.layout().health().is_given_away();
    }

    /// The reason why nothing is stored, from [`HandOver::begin`] on.
    #[must_use]
    pub fn refusal(&self) -> Option<StoreError> {
        self.0.layout().refuse_if_handed_over().err()
    }

    /// Writes the index, closes it, and lets go of the directory: nothing of it is changed by this process any more, not
    /// even by what still runs. Stored blobs can be read on. Blocks for as long as the disk takes.
    pub fn finish(&self) {
        let Self(contents) = self;
        contents.write_index();
        contents.records.close();
        contents.layout().ownership().end();
        if let Some(directory) = &contents.directory {
            directory.release();
        }
    }
}

//! The index's entries of stored blobs and of pins. Writes wait in the index's overlay; reads may
//! read its file, and blocks.

use std::sync::Arc;

use crate::oci::Digest;
use crate::store::metadata::index::{Index, Pair, Table};
use crate::store::metadata::schema::{self, BlobRecord};

/// The key, among the blobs, of the note that they are not all: an earlier index was lost, and the files
/// have not been looked through since. It is no digest's.
pub(in crate::store) const INCOMPLETE: &[u8] = &[0];

/// The records of blobs and pins. Cheap to clone.
#[derive(Clone, Debug)]
pub(in crate::store) struct Records {
    index: Arc<Index>,
}

impl Records {
    pub(in crate::store) fn new(index: Arc<Index>) -> Self {
        Self { index }
    }

    /// Writes what is waiting; whether all of it is in the file.
    pub(in crate::store) fn flush(&self) -> bool {
        self.index.flush()
    }

    /// Lets go of the index's file for good.
    pub(in crate::store) fn close(&self) {
        self.index.close();
    }

    pub(in crate::store) fn note(&self, digest: &Digest, record: BlobRecord) {
        self.index.change(
            Table::Blobs,
            schema::digest_key(digest),
            Some(record.encode()),
        );
    }

    pub(in crate::store) fn forget(&self, digest: &Digest) {
        let key = schema::digest_key(digest);
        self.index.change(Table::Blobs, key.clone(), None);
        self.index.change(Table::MediaTypes, key, None);
    }

    /// Number of blobs that the index's file knows of. Reads the file.
    pub(in crate::store) fn count(&self) -> u64 {
        self.index.entries(Table::Blobs)
    }

    /// Notes that the index does not know all blobs, or that it does now.
    pub(in crate::store) fn note_incomplete(&self, incomplete: bool) {
        self.index
            .change(Table::Blobs, INCOMPLETE.to_vec(), incomplete.then(Vec::new));
    }

    /// True if that is noted. Reads the file.
    pub(in crate::store) fn is_incomplete(&self) -> bool {
        self.index.read(Table::Blobs, INCOMPLETE).is_some()
    }

    /// Gives the entry of every blob in the index's file, one after the other; false if it could not be read
    /// to the end. Reads the file.
    pub(in crate::store) fn each(&self, mut each: impl FnMut(Digest, BlobRecord)) -> bool {
        self.index.each(Table::Blobs, |key, value| {
            if let (Some(digest), Some(record)) =
                (schema::decode_digest(key), BlobRecord::decode(value))
            {
                each(digest, record);
            }
        })
    }

    /// The index's entry of a blob. Reads the file.
    pub(in crate::store) fn read(&self, digest: &Digest) -> Option<BlobRecord> {
        let value = self.index.read(Table::Blobs, &schema::digest_key(digest))?;
        BlobRecord::decode(&value)
    }

    /// Writes or deletes what an image is pinned as.
    pub(in crate::store) fn write_pin(&self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.index.change(Table::Pins, key, value);
    }

    /// All pins. Reads the file.
    pub(in crate::store) fn read_pins(&self, limit: usize) -> Vec<Pair> {
        self.index.scan(Table::Pins, None, limit)
    }

    /// Makes an index of `bytes` bytes smaller than `most`; how many entries were forgotten, if that was of use.
    pub(in crate::store) fn slim(&self, bytes: u64, most: u64) -> Option<u64> {
        self.index.slim(bytes, most, true)
    }
}

//! Content gets its final name: once, whoever brings it, and from wherever.

use std::io;
use std::sync::Arc;

use crate::oci::Digest;
use crate::store::Event;
use crate::store::capacity::evict::OwnerId;
use crate::store::cas::Cas;
use crate::store::cas::pin::{Pin, Spare};
use crate::store::disk::layout::Layout;
use crate::store::locks::FilesGuard;
use crate::store::metadata::schema::BlobRecord;

/// The outcome for content that was to get its final name.
#[derive(Debug)]
pub(in crate::store) enum Published {
    /// It has it now.
    Now(Pin),
    /// The same had it before, as of another upstream at the same time: that file stays.
    Before(Pin, Spare),
}

/// The name that content gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Place {
    /// Nobody's.
    Free,
    /// That of the same content, which must not be lost whatever fails.
    Taken,
}

impl Cas {
    /// Gives content its final name and enters it in the ledger, unless it is there; pinned. Blocks.
    pub(in crate::store) fn publish(
        &self,
        digest: &Digest,
        reserved: u64,
        size: u64,
        owner: OwnerId,
        name: impl FnOnce(&Layout, Place) -> io::Result<()>,
    ) -> io::Result<Published> {
        let files = self.contents().files();
        if let Some(before) = self.stored_before(&files, digest, reserved, size) {
            if self.contents().bounds.permanent {
                // What came was verified now, and what is there when it came: it may have rotted since.
                name(self.contents().layout(), Place::Taken)?;
                self.contents().open_files().pop(digest);
                self.quarantine().note_sound(digest);
            }
            return Ok(before);
        }
        self.contents().note(&files, [digest], None);
        name(self.contents().layout(), Place::Free)?;
        let now = self.contents().clock.now();
        let owner = {
            let mut ledger = self.contents().ledger();
            ledger.settle(*digest, reserved, size, now);
            ledger.stored_mut().belongs(digest, owner);
            ledger.stored_mut().pin(digest);
            ledger.stored().owner(digest).unwrap_or(owner)
        };
        self.quarantine().note_sound(digest);
        // A file of this name that was open before is another file now.
        self.contents().open_files().pop(digest);
        let record = BlobRecord {
            size,
            used: now,
            uses: 1,
            owner,
        };
        self.contents().records.note(digest, record);
        self.contents().report();
        self.contents().events.tell(Event::BlobStored {
            digest: *digest,
            size,
        });
        Ok(Published::Now(self.guard(*digest)))
    }

    /// A blob that is stored already, if its file is there as it should be.
    fn stored_before(
        &self,
        _files: &FilesGuard<'_>,
        digest: &Digest,
        reserved: u64,
        size: u64,
    ) -> Option<Published> {
        self.contents()
            .contains(digest)
            .filter(|known| *known == size)?;
        let found = self
            .contents()
            .layout()
            .blobs()
            .find(digest)
            .ok()
            .flatten()?;
        if found.size != size {
            return None;
        }
        self.contents().ledger().stored_mut().pin(digest)?;
        let pin = self.guard(*digest);
        let spare = Spare::new(Arc::clone(self.contents()), reserved);
        Some(Published::Before(pin, spare))
    }
}

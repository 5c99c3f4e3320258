//! The index for whoever looks and changes nothing.

use std::io;

use redb::Database;
use redb::backends::{FileBackend, InMemoryBackend};

use super::backend::Copy;
use super::{IndexError, builder, create_tables, unless_panicking};
use crate::store::disk::layout::Layout;

/// A copy of the file, for whoever looks: what is written of it stays in memory, and the file as it is. Without a
/// file that can be read it is empty.
pub(super) fn open(layout: &Layout) -> Result<Database, IndexError> {
    let open = || -> Result<Database, redb::Error> {
        let database = match layout.index().open(false) {
            Ok(file) => {
                let file = FileBackend::new(file)?;
                builder().create_with_backend(Copy::of(layout.index().on_disk(file))?)?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return open_empty(),
            Err(error) => return Err(error.into()),
        };
        create_tables(&database)?;
        Ok(database)
    };
    let opened = unless_panicking(open).or_else(|error| {
        tracing::warn!(%error, "the index cannot be read; blobs are found, and what is known of them is not");
        open_empty()
    });
    opened.map_err(IndexError::from)
}

fn open_empty() -> Result<Database, redb::Error> {
    let database = builder().create_with_backend(InMemoryBackend::new())?;
    create_tables(&database)?;
    Ok(database)
}

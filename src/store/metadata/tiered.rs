//! Notes on what an object store beside this one is known to have. Losing them costs questions to it.
//!
//! A note begins with the day on which it was made, and is forgotten like other facts when that is long ago.

use super::{Access, Facts, schema};
use crate::clock::Clock;
use crate::store::metadata::index::Table;
use std::sync::Arc;

/// Bytes of a day.
const DAY_BYTES: usize = 4;

/// A note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The day on which it was made, counted from the Unix epoch.
    pub day: u32,
    /// The rest, as whoever made it likes.
    pub text: Vec<u8>,
}

/// Notes, under keys that whoever makes them chooses. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tiered {
    access: Access,
    clock: Arc<dyn Clock>,
}

impl Tiered {
    pub(in crate::store) fn new(access: Access, clock: Arc<dyn Clock>) -> Self {
        Self { access, clock }
    }

    /// The notes under these keys, in their order. `None`: the index cannot be read now.
    pub async fn get(&self, keys: Vec<Vec<u8>>) -> Option<Vec<Option<Note>>> {
        self.access
            .ask(move |facts| {
                let read = |key: &Vec<u8>| {
                    facts
                        .index()
                        .read(Table::Tiered, key)
                        .map(|it| Note::decode(&it))
                };
                keys.iter().map(read).collect()
            })
            .await
    }

    /// Makes a note, which is durable within a second or two.
    pub async fn set(&self, key: Vec<u8>, text: &[u8]) {
        let day = schema::day(self.clock.now());
        let value = [&day.to_be_bytes()[..], text].concat();
        self.change(key, Some(value)).await;
    }

    /// Forgets a note.
    pub async fn forget(&self, key: Vec<u8>) {
        self.change(key, None).await;
    }

    /// Today, as notes have it.
    #[must_use]
    pub fn today(&self) -> u32 {
        schema::day(self.clock.now())
    }

    async fn change(&self, key: Vec<u8>, value: Option<Vec<u8>>) {
        let change = move |facts: &Facts| facts.index().change(Table::Tiered, key, value);
        self.access.ask(change).await;
    }
}

impl Note {
    fn decode(value: &[u8]) -> Self {
        Self {
            day: day_of(value),
            text: value.get(DAY_BYTES..).unwrap_or_default().to_vec(),
        }
    }
}

/// The day on which a note was made.
pub(super) fn day_of(value: &[u8]) -> u32 {
    value
        .first_chunk()
        .map_or(0, |day| u32::from_be_bytes(*day))
}

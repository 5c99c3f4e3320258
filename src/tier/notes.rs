//! Notes, in the index of the cache, on what the bucket is known to have: so that it is not asked again. They are the
//! journal of writing, too: what is stored and has no note waits to be written.

use serde::{Deserialize, Serialize};

use crate::mirror::Source;
use crate::oci::{AcceptClass, Algorithm, Digest, Tag};
use crate::store::{Note, Store, TagRecord};

/// Milliseconds of an hour: a tag's time is written down anew no more often.
const HOUR_MS: u64 = 60 * 60 * 1000;

/// An upload in parts, as far as it has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Upload {
    /// The store's name for it.
    pub(super) id: String,
    /// Bytes of each part but the last.
    pub(super) part_bytes: u64,
    /// The store's names for the parts that it has.
    pub(super) parts: Vec<String>,
}

/// The key of a blob's note.
pub(super) fn blob_key(digest: &Digest) -> Vec<u8> {
    key(b'b', &digest.to_string())
}

/// The key of an upload's note.
pub(super) fn upload_key(digest: &Digest) -> Vec<u8> {
    key(b'u', &digest.to_string())
}

/// The key of a link's note.
pub(super) fn link_key(source: &Source, digest: &Digest) -> Vec<u8> {
    let Source {
        upstream,
        repository,
    } = source;
    key(
        b'l',
        &hashed(&format!("{upstream}\n{repository}\n{digest}")),
    )
}

/// The key of a tag's note.
pub(super) fn tag_key(source: &Source, tag: &Tag) -> Vec<u8> {
    let Source {
        upstream,
        repository,
    } = source;
    key(b't', &hashed(&format!("{upstream}\n{repository}\n{tag}")))
}

/// The text of a tag's note: the formats that it is there for, and what changes with its records and each hour.
pub(super) fn tag_text(records: &[&TagRecord]) -> Vec<u8> {
    let formats = records.iter().map(|it| it.class.bits().to_string());
    let formats: Vec<String> = formats.collect();
    let lines = records.iter().map(|it| {
        let hour = it.checked.0 / HOUR_MS;
        format!("{} {} {hour}\n", it.class.bits(), it.digest)
    });
    let lines = hashed(&lines.collect::<String>());
    format!("{}\n{lines}", formats.join(" ")).into_bytes()
}

/// The formats that a tag is there for, by its note.
pub(super) fn formats(note: &Note) -> Vec<AcceptClass> {
    let text = String::from_utf8_lossy(&note.text);
    let formats = text.lines().next().unwrap_or_default().split(' ');
    formats
        .filter_map(|it| it.parse().ok().map(AcceptClass::from_bits))
        .collect()
}

/// True if the bucket is known to have a blob.
pub(super) async fn has_blob(store: &Store, digest: &Digest) -> bool {
    of(store, blob_key(digest)).await.is_some()
}

/// A note.
pub(super) async fn of(store: &Store, key: Vec<u8>) -> Option<Note> {
    let notes = store.tiered().get(vec![key]).await?;
    notes.into_iter().next().flatten()
}

/// The upload in parts of a blob that was begun.
pub(super) async fn upload(store: &Store, digest: &Digest) -> Option<Upload> {
    let note = of(store, upload_key(digest)).await?;
    serde_json::from_slice(&note.text).ok()
}

/// Notes how far an upload has come.
pub(super) async fn note_upload(store: &Store, digest: &Digest, upload: &Upload) {
    // Strings and numbers: they always fit.
    let text = serde_json::to_vec(upload).unwrap_or_default();
    store.tiered().set(upload_key(digest), &text).await;
}

fn key(kind: u8, text: &str) -> Vec<u8> {
    [&[kind], text.as_bytes()].concat()
}

/// Long names make no long keys.
fn hashed(text: &str) -> String {
    Digest::of(Algorithm::Sha256, text.as_bytes()).to_string()
}

/// True if a note is as old as `renew` days, so that what it is about may be gone soon.
pub(super) fn is_old(store: &Store, note: &Note, renew_days: Option<u32>) -> bool {
    renew_days.is_some_and(|days| store.tiered().today().saturating_sub(note.day) >= days)
}

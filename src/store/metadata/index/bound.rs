//! The choice of entries that go when the index has outgrown its bound, and the way in which its file becomes smaller again.
//!
//! Entries that may be asked for again go: first those that no version should have kept, then links and tags, those first whose
//! content is not stored, oldest first, and of one day those of the upstream that has most. Blobs and pins stay.
//! redb reuses the pages that come free; the file becomes smaller only when it is compacted, in transactions, so
//! that a kill in between costs nothing.

use std::collections::{BTreeMap, HashMap};

use redb::{Database, ReadableTable as _, WriteTransaction};

use super::{Index, Opened, Table, unless_panicking};
use crate::clock::Timestamp;
use crate::oci::media_type;
use crate::store::metadata::records::INCOMPLETE;
use crate::store::metadata::schema::{self, LinkRecord, TagRecord};

/// After outgrowing its bound the index has this part of it, in percent, so that it does not at once again.
const SLIM_PERCENT: u64 = 50;

/// Bytes of a tag's value, with every text as long as it may be, are fewer.
const TAG_VALUE_BYTES_MAX: usize = 8 * 1024;

/// A larger file is not compacted while clients are served, who would wait for it: at the next start.
const COMPACTED_RUNNING_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Entries that go together: whether their content is stored, the day on which they were last confirmed, and the
/// upstream that they are of, by its name.
type Group = (bool, u32, Vec<u8>);

impl Index {
    /// Makes an index that takes `bytes`, more than `most`, take less. How many entries went. Blocks; who reads waits
    /// while the file is compacted.
    pub(in crate::store) fn slim(&self, bytes: u64, most: u64, running: bool) -> Option<u64> {
        let _alone = self.flushing_alone();
        let slimmed = unless_panicking(|| {
            let gone = {
                let opened = self.opened();
                let Opened::Database(database) = &*opened else {
                    return Ok(None);
                };
                forget(database, most / 100 * SLIM_PERCENT)?
            };
            if !running || bytes <= COMPACTED_RUNNING_BYTES_MAX {
                let mut opened = self.opened_to_change();
                if let Opened::Database(database) = &mut *opened {
                    database.compact()?;
                }
            }
            Ok::<_, redb::Error>(Some(gone))
        });
        slimmed.unwrap_or_else(|error| {
            self.give_up(error.to_string());
            None
        })
    }

    /// Begins the index anew: it cannot be made as small as it must be.
    pub(in crate::store) fn begin_anew(&self) {
        let _alone = self.flushing_alone();
        let begun = {
            let mut opened = self.opened_to_change();
            opened.close();
            let aside = self.layout.index().set_aside();
            let begun = aside.map_err(|error| error.to_string()).and_then(|_| {
                self.layout.index().discard_aside();
                super::open(&self.layout).map_err(|error| error.to_string())
            });
            begun.map(|database| *opened = Opened::Database(database))
        };
        match begun {
            // The next look through the files finds the blobs that it does not know.
            Ok(()) => self.change(Table::Blobs, INCOMPLETE.to_vec(), Some(Vec::new())),
            Err(error) => self.give_up(error),
        }
    }
}

/// Forgets what goes so that the rest takes at most `most` bytes; how many entries that were.
fn forget(database: &Database, most: u64) -> Result<u64, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    let mut gone = forget_nonsense(&transaction)?;
    let stats = transaction.stats()?;
    let pages = stats.leaf_pages().saturating_add(stats.branch_pages());
    let live = pages.saturating_mul(stats.page_size() as u64);
    if live > most {
        // Pages are filled by some part, whatever goes.
        let over = u128::from(live - most) * u128::from(stats.stored_bytes()) / u128::from(live);
        gone += forget_oldest(&transaction, u64::try_from(over).unwrap_or(u64::MAX))?;
    }
    gone += forget_empty_repositories(&transaction)?;
    transaction.commit()?;
    Ok(gone)
}

/// Forgets entries that are longer than they can be, media types of what is not stored, and all notes of an object store,
/// which can say again what it has.
fn forget_nonsense(transaction: &WriteTransaction) -> Result<u64, redb::Error> {
    let mut gone = 0;
    let mut keep = |keep: bool| {
        gone += u64::from(!keep);
        keep
    };
    let blobs = transaction.open_table(Table::Blobs.definition())?;
    let mut media_types = transaction.open_table(Table::MediaTypes.definition())?;
    let mut failed = None;
    media_types.retain(|digest, value| {
        let is_one =
            std::str::from_utf8(value).is_ok_and(|text| media_type::essence(text).is_some());
        let stored = blobs.get(digest).map(|blob| blob.is_some());
        keep(
            is_one
                && stored.unwrap_or_else(|error| {
                    failed = Some(error);
                    true
                }),
        )
    })?;
    let mut tags = transaction.open_table(Table::Tags.definition())?;
    tags.retain(|_, value| keep(value.len() <= TAG_VALUE_BYTES_MAX))?;
    let mut links = transaction.open_table(Table::Links.definition())?;
    links.retain(|_, value| keep(LinkRecord::decode(value).is_some()))?;
    let mut tiered = transaction.open_table(Table::Tiered.definition())?;
    tiered.retain(|_, _| keep(false))?;
    failed.map_or(Ok(gone), |error| Err(error.into()))
}

/// Links and tags of at least `bytes`, the oldest first.
fn forget_oldest(transaction: &WriteTransaction, bytes: u64) -> Result<u64, redb::Error> {
    let blobs = transaction.open_table(Table::Blobs.definition())?;
    let mut links = transaction.open_table(Table::Links.definition())?;
    let mut tags = transaction.open_table(Table::Tags.definition())?;
    let stored = |digest: Vec<u8>| {
        blobs
            .get(digest.as_slice())
            .is_ok_and(|blob| blob.is_some())
    };
    let mut groups: BTreeMap<Group, u64> = BTreeMap::new();
    let mut upstreams: HashMap<Vec<u8>, u64> = HashMap::new();
    for entry in links.iter()? {
        let (key, value) = entry?;
        let group = group_of_link(key.value(), value.value(), stored);
        let weight = weight(key.value(), value.value());
        *upstreams.entry(group.2.clone()).or_default() += weight;
        *groups.entry(group).or_default() += weight;
    }
    for entry in tags.iter()? {
        let (key, value) = entry?;
        let group = group_of_tag(key.value(), value.value(), stored);
        *groups.entry(group).or_default() += weight(key.value(), value.value());
    }
    let mut going = going(groups, &upstreams, bytes);
    let mut gone = 0;
    let mut goes = |group: &Group, weight: u64| {
        let Some(left) = going.get_mut(group).filter(|left| **left > 0) else {
            return false;
        };
        *left = left.saturating_sub(weight);
        gone += 1;
        true
    };
    links.retain(|key, value| !goes(&group_of_link(key, value, stored), weight(key, value)))?;
    tags.retain(|key, value| !goes(&group_of_tag(key, value, stored), weight(key, value)))?;
    Ok(gone)
}

/// The groups that go, and how much of each, so that it is `bytes` in all.
fn going(
    groups: BTreeMap<Group, u64>,
    upstreams: &HashMap<Vec<u8>, u64>,
    mut bytes: u64,
) -> HashMap<Group, u64> {
    let size = |upstream: &[u8]| upstreams.get(upstream).copied().unwrap_or_default();
    let mut groups: Vec<(Group, u64)> = groups.into_iter().collect();
    groups.sort_by(|((stored, day, upstream), _), (other, _)| {
        let largest_first = size(&other.2).cmp(&size(upstream));
        (stored, day).cmp(&(&other.0, &other.1)).then(largest_first)
    });
    let mut going = HashMap::new();
    for (group, weight) in groups {
        if bytes == 0 {
            break;
        }
        let part = weight.min(bytes);
        bytes -= part;
        going.insert(group, part);
    }
    going
}

fn group_of_link(key: &[u8], value: &[u8], stored: impl Fn(Vec<u8>) -> bool) -> Group {
    let digest = schema::decode_link_key(key).map(|(_, digest)| schema::digest_key(&digest));
    let day = LinkRecord::decode(value).map_or(0, |record| record.day);
    (digest.is_some_and(stored), day, upstream(key))
}

fn group_of_tag(key: &[u8], value: &[u8], stored: impl Fn(Vec<u8>) -> bool) -> Group {
    let tags: Vec<TagRecord> = serde_json::from_slice(value).unwrap_or_default();
    let checked = tags.iter().map(|tag| tag.checked).max();
    let day = schema::day(checked.unwrap_or(Timestamp(0)));
    let any_stored = tags
        .iter()
        .any(|tag| stored(schema::digest_key(&tag.digest)));
    (any_stored, day, upstream(key))
}

/// The upstream's name, with which the keys of links and tags begin.
fn upstream(key: &[u8]) -> Vec<u8> {
    let name = key.split(|byte| *byte == schema::SEPARATOR).next();
    name.unwrap_or_default().to_vec()
}

fn weight(key: &[u8], value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64
}

/// Repositories of which no link and no tag is left.
fn forget_empty_repositories(transaction: &WriteTransaction) -> Result<u64, redb::Error> {
    let links = transaction.open_table(Table::Links.definition())?;
    let tags = transaction.open_table(Table::Tags.definition())?;
    let mut repositories = transaction.open_table(Table::Repositories.definition())?;
    let mut gone = 0;
    let mut failed = None;
    repositories.retain(|key, _| {
        let prefix = schema::entries_prefix(key);
        let any = [&links, &tags].into_iter().any(|table| {
            let first = table
                .range(prefix.as_slice()..)
                .map(|mut range| range.next());
            match first {
                Ok(Some(Ok((key, _)))) => key.value().starts_with(&prefix),
                Ok(None) => false,
                Ok(Some(Err(error))) | Err(error) => {
                    failed = Some(error);
                    true
                }
            }
        });
        gone += u64::from(!any);
        any
    })?;
    failed.map_or(Ok(gone), |error| Err(error.into()))
}

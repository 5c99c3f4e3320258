//! The meaning of the index's keys and values.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::oci::directory::Source;
use crate::oci::manifest::ChildKind;
use crate::oci::{AcceptClass, Algorithm, Digest, Reference, Repository, Tag, UpstreamName};
use crate::store::capacity::evict::OwnerId;

/// Stands for "unknown" where a size is stored.
const SIZE_UNKNOWN: u64 = u64::MAX;

/// The bits of a link's record that say on whose word it is.
const GIVEN: u8 = 4;
const NAMED: u8 = 8;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Separates the parts of a key: no name can contain it.
pub(in crate::store) const SEPARATOR: u8 = 0;

/// Lengths of the keys of digests: a byte for the algorithm, and the digest.
const DIGEST_KEY_BYTES: [usize; 2] = [1 + 32, 1 + 64];

/// On whose word a repository has a digest; the weakest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Word {
    /// A manifest of the repository names it. That is its upstream's word for what this upstream has sent itself,
    /// and for nothing else: who writes a manifest can name what he pleases.
    #[default]
    Named,
    /// A version that did not tell the other two apart recorded it, or an import did with such a version.
    Before,
    /// Its upstream has sent it for this repository, or has confirmed that the repository has it; or an operator
    /// has brought it.
    Given,
}

/// The knowledge that a repository has a digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// It is served from `/manifests/`.
    pub manifest: bool,
    /// It is served from `/blobs/`.
    pub blob: bool,
    /// Its size in bytes, if a descriptor or upstream said it.
    pub size: Option<u64>,
    /// On whose word.
    pub word: Word,
}

/// A link as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct LinkRecord {
    pub(in crate::store) link: Link,
    /// The day on which upstream last said so, counted from the Unix epoch.
    pub(in crate::store) day: u32,
}

/// The manifest that a tag named when it was last asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagRecord {
    /// The formats the client accepted.
    #[serde(with = "class_bits")]
    pub class: AcceptClass,
    /// The digest it named.
    #[serde(with = "digest_text")]
    pub digest: Digest,
    /// The media type of that manifest.
    pub media_type: String,
    /// When upstream last said so.
    pub checked: Timestamp,
    /// The source of that.
    #[serde(default, skip_serializing_if = "Origin::is_upstream")]
    pub origin: Origin,
}

/// The source of a tag's record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Upstream was asked.
    #[default]
    Upstream,
    /// The operator imported it: there may be no upstream to ask.
    Import,
}

impl Origin {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    fn is_upstream(&self) -> bool {
        *self == Self::Upstream
    }
}

/// Facts about a stored blob beside its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct BlobRecord {
    /// Its size in bytes when it was committed.
    pub(in crate::store) size: u64,
    /// When it was last used, to the minute.
    pub(in crate::store) used: Timestamp,
    /// In how many different minutes it was used, and whether it is a copy: see `evict::uses`.
    pub(in crate::store) uses: u8,
    /// Whose it is; 0: nobody's.
    pub(in crate::store) owner: OwnerId,
}

impl BlobRecord {
    pub(in crate::store) fn encode(self) -> Vec<u8> {
        let mut bytes = [self.size.to_be_bytes(), self.used.0.to_be_bytes()].concat();
        bytes.push(self.uses);
        bytes.extend(self.owner.to_be_bytes());
        bytes
    }

    /// The record's length is its version: the count was added, and then the owner. What was written
    /// before has one use, and is nobody's.
    pub(in crate::store) fn decode(bytes: &[u8]) -> Option<Self> {
        let (size, rest) = bytes.split_at_checked(8)?;
        let (used, rest) = rest.split_at_checked(8)?;
        let (count, owner) = match rest {
            [] => (1, 0),
            [count] => (*count, 0),
            [count, owner @ ..] => (*count, OwnerId::from_be_bytes(owner.try_into().ok()?)),
        };
        Some(Self {
            size: u64::from_be_bytes(size.try_into().ok()?),
            used: Timestamp(u64::from_be_bytes(used.try_into().ok()?)),
            uses: count,
            owner,
        })
    }
}

impl Link {
    /// A link of one kind, as a manifest names it.
    #[must_use]
    pub fn of(kind: ChildKind, size: Option<u64>) -> Self {
        Self {
            manifest: kind == ChildKind::Manifest,
            blob: kind == ChildKind::Blob,
            size,
            word: Word::Named,
        }
    }

    /// The same on upstream's own word, or an operator's.
    #[must_use]
    pub fn given(self) -> Self {
        let word = Word::Given;
        Self { word, ..self }
    }

    /// True if its upstream itself, or an operator, has said it.
    #[must_use]
    pub fn is_given(&self) -> bool {
        self.word == Word::Given
    }

    /// True if it covers a request of this kind.
    #[must_use]
    pub fn covers(&self, kind: ChildKind) -> bool {
        match kind {
            ChildKind::Manifest => self.manifest,
            ChildKind::Blob => self.blob,
        }
    }

    /// Both links in one.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self {
            manifest: self.manifest || other.manifest,
            blob: self.blob || other.blob,
            size: other.size.or(self.size),
            word: self.word.max(other.word),
        }
    }
}

impl LinkRecord {
    pub(in crate::store) fn encode(self) -> Vec<u8> {
        let link = self.link;
        // Versions that do not know the other two bits pass them over.
        let word = match link.word {
            Word::Before => 0,
            Word::Given => GIVEN,
            Word::Named => NAMED,
        };
        let mut bytes = vec![u8::from(link.manifest) | u8::from(link.blob) << 1 | word];
        bytes.extend(link.size.unwrap_or(SIZE_UNKNOWN).to_be_bytes());
        bytes.extend(self.day.to_be_bytes());
        bytes
    }

    /// The record's length is its version: the day was added last, and what was written before is of
    /// long ago.
    pub(in crate::store) fn decode(bytes: &[u8]) -> Option<Self> {
        let (flags, rest) = bytes.split_first()?;
        let (size, rest) = rest.split_at_checked(8)?;
        let size = u64::from_be_bytes(size.try_into().ok()?);
        let day = if rest.is_empty() {
            0
        } else {
            u32::from_be_bytes(rest.try_into().ok()?)
        };
        let link = Link {
            manifest: flags & 1 != 0,
            blob: flags & 2 != 0,
            size: (size != SIZE_UNKNOWN).then_some(size),
            word: if flags & GIVEN != 0 {
                Word::Given
            } else if flags & NAMED != 0 {
                Word::Named
            } else {
                Word::Before
            },
        };
        Some(Self { link, day })
    }
}

/// The day of a moment, counted from the Unix epoch.
pub(in crate::store) fn day(moment: Timestamp) -> u32 {
    u32::try_from(moment.0 / DAY_MS).unwrap_or(u32::MAX)
}

pub(in crate::store) fn digest_key(digest: &Digest) -> Vec<u8> {
    let tag = match digest.algorithm() {
        Algorithm::Sha256 => 1,
        Algorithm::Sha512 => 2,
    };
    [&[tag], digest.bytes()].concat()
}

pub(in crate::store) fn decode_digest(key: &[u8]) -> Option<Digest> {
    let (tag, bytes) = key.split_first()?;
    let algorithm = match tag {
        1 => Algorithm::Sha256,
        2 => Algorithm::Sha512,
        _ => return None,
    };
    Digest::from_bytes(algorithm, bytes)
}

pub(in crate::store) fn repository_key(source: &Source) -> Vec<u8> {
    let mut key = source.upstream.as_str().as_bytes().to_vec();
    key.push(SEPARATOR);
    key.extend(source.repository.as_str().as_bytes());
    key
}

pub(in crate::store) fn decode_repository(key: &[u8]) -> Option<Source> {
    let text = std::str::from_utf8(key).ok()?;
    let (upstream, repository) = text.split_once(char::from(SEPARATOR))?;
    Some(Source {
        upstream: UpstreamName::parse(upstream).ok()?,
        repository: Repository::parse(repository).ok()?,
    })
}

pub(in crate::store) fn link_key(source: &Source, digest: &Digest) -> Vec<u8> {
    let mut key = repository_key(source);
    key.push(SEPARATOR);
    key.extend(digest_key(digest));
    key
}

/// Beginning of the keys of a repository's links and tags.
pub(in crate::store) fn entries_prefix(repository_key: &[u8]) -> Vec<u8> {
    [repository_key, &[SEPARATOR]].concat()
}

/// The source and the digest of a link's key, if the digest is one of these.
pub(in crate::store) fn split_link_key(
    key: &[u8],
    wanted: &HashMap<Vec<u8>, Digest>,
) -> Option<(Source, Digest)> {
    DIGEST_KEY_BYTES.into_iter().find_map(|length| {
        let (rest, digest) = key.split_at_checked(key.len().checked_sub(length)?)?;
        let digest = *wanted.get(digest)?;
        let source = decode_repository(rest.strip_suffix(&[SEPARATOR])?)?;
        Some((source, digest))
    })
}

pub(in crate::store) fn tag_key(source: &Source, tag: &Tag) -> Vec<u8> {
    let mut key = repository_prefix(source);
    key.extend(tag.as_str().as_bytes());
    key
}

pub(in crate::store) fn decode_link_key(key: &[u8]) -> Option<(Source, Digest)> {
    let (source, rest) = split_repository(key)?;
    Some((source, decode_digest(rest)?))
}

pub(in crate::store) fn decode_tag_key(key: &[u8]) -> Option<(Source, Tag)> {
    let (source, rest) = split_repository(key)?;
    let text = std::str::from_utf8(rest).ok()?;
    Some((source, Tag::parse(text).ok()?))
}

/// The key of what a tag or digest of a repository is pinned as.
pub(in crate::store) fn pin_key(source: &Source, reference: &Reference) -> Vec<u8> {
    let mut key = repository_key(source);
    key.push(SEPARATOR);
    key.extend(reference.to_string().as_bytes());
    key
}

pub(in crate::store) fn decode_pin_key(key: &[u8]) -> Option<(Source, Reference)> {
    let (source, rest) = split_repository(key)?;
    let text = std::str::from_utf8(rest).ok()?;
    Some((source, Reference::parse(text).ok()?))
}

/// Beginning of all keys of a repository's links, tags or pins.
pub(in crate::store) fn repository_prefix(source: &Source) -> Vec<u8> {
    entries_prefix(&repository_key(source))
}

/// Beginning of all keys of an upstream's repositories.
pub(in crate::store) fn upstream_prefix(upstream: &UpstreamName) -> Vec<u8> {
    let mut key = upstream.as_str().as_bytes().to_vec();
    key.push(SEPARATOR);
    key
}

/// The repository that a longer key begins with, and what follows it.
fn split_repository(key: &[u8]) -> Option<(Source, &[u8])> {
    let mut separators = key.iter().enumerate().filter(|(_, b)| **b == SEPARATOR);
    let (second, _) = separators.nth(1)?;
    let (repository, rest) = key.split_at_checked(second)?;
    Some((decode_repository(repository)?, rest.get(1..)?))
}

mod class_bits {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::oci::AcceptClass;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(in crate::store) fn serialize<S: Serializer>(
        class: &AcceptClass,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_u8(class.bits())
    }

    pub(in crate::store) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<AcceptClass, D::Error> {
        u8::deserialize(from).map(AcceptClass::from_bits)
    }
}

mod digest_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    use crate::oci::Digest;

    pub(in crate::store) fn serialize<S: Serializer>(
        digest: &Digest,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(digest)
    }

    pub(in crate::store) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Digest, D::Error> {
        let text = String::deserialize(from)?;
        Digest::parse(&text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> Source {
        Source {
            upstream: UpstreamName::parse("localhost:5000").unwrap(),
            repository: Repository::parse("org/app").unwrap(),
        }
    }

    #[test]
    fn keys_and_values_are_read_back() {
        for digest in [Digest::Sha256([7; 32]), Digest::Sha512([9; 64])] {
            assert_eq!(decode_digest(&digest_key(&digest)), Some(digest));
        }
        assert_eq!(
            decode_repository(&repository_key(&source())),
            Some(source())
        );
        // A digest may have the byte that separates.
        let digest = Digest::Sha256([0; 32]);
        let key = link_key(&source(), &digest);
        assert_eq!(decode_link_key(&key), Some((source(), digest)));
        let tag = Tag::parse("v1").unwrap();
        let key = tag_key(&source(), &tag);
        assert_eq!(decode_tag_key(&key), Some((source(), tag.clone())));
        for reference in [Reference::Tag(tag), Reference::Digest(digest)] {
            let key = pin_key(&source(), &reference);
            assert_eq!(decode_pin_key(&key), Some((source(), reference)));
            assert!(key.starts_with(&repository_prefix(&source())));
        }
        for (size, word) in [
            (None, Word::Named),
            (Some(0), Word::Given),
            (Some(1 << 40), Word::Before),
        ] {
            let link = Link {
                manifest: false,
                blob: true,
                size,
                word,
            };
            let record = LinkRecord { link, day: 20_000 };
            assert_eq!(LinkRecord::decode(&record.encode()), Some(record));
            // What the version before reads of it.
            assert_eq!(record.encode()[0] & 3, 2);
            assert_eq!(record.encode().len(), 13);
            // As they were before they had a day.
            let old = LinkRecord { link, day: 0 };
            assert_eq!(LinkRecord::decode(&record.encode()[..9]), Some(old));
        }
        // Zeros are in digests too.
        let digest = Digest::Sha256([0; 32]);
        let key = link_key(&source(), &digest);
        assert_eq!(decode_link_key(&key), Some((source(), digest)));
        let key = tag_key(&source(), &Tag::parse("v1").unwrap());
        assert_eq!(
            decode_tag_key(&key),
            Some((source(), Tag::parse("v1").unwrap()))
        );
        let record = BlobRecord {
            size: 5,
            used: Timestamp(1 << 40),
            uses: 7,
            owner: 77,
        };
        assert_eq!(BlobRecord::decode(&record.encode()), Some(record));
    }

    #[test]
    fn a_record_from_before_uses_were_counted_has_one() {
        let old = [5_u64.to_be_bytes(), (1_u64 << 40).to_be_bytes()].concat();
        let record = BlobRecord {
            size: 5,
            used: Timestamp(1 << 40),
            uses: 1,
            owner: 0,
        };
        assert_eq!(BlobRecord::decode(&old), Some(record));
        let counted = [old.as_slice(), &[1]].concat();
        assert_eq!(BlobRecord::decode(&counted), Some(record));
    }

    #[test]
    fn a_links_key_is_taken_apart() {
        let digests = [Digest::Sha256([0; 32]), Digest::Sha512([2; 64])];
        let wanted: HashMap<_, _> = digests.iter().map(|d| (digest_key(d), *d)).collect();
        for digest in digests {
            let key = link_key(&source(), &digest);
            assert_eq!(split_link_key(&key, &wanted), Some((source(), digest)));
        }
        let other = link_key(&source(), &Digest::Sha256([5; 32]));
        assert_eq!(split_link_key(&other, &wanted), None);
        assert_eq!(split_link_key(b"short", &wanted), None);
    }

    #[test]
    fn a_record_of_before_imports_is_upstreams() {
        let old = format!(
            r#"{{"class":1,"digest":"{}","media_type":"m","checked":5}}"#,
            Digest::Sha256([1; 32])
        );
        let record: TagRecord = serde_json::from_str(&old).unwrap();
        assert_eq!(record.origin, Origin::Upstream);
        assert_eq!(serde_json::to_string(&record).unwrap(), old);
    }

    #[test]
    fn damaged_entries_are_no_entries() {
        assert_eq!(LinkRecord::decode(b""), None);
        assert_eq!(LinkRecord::decode(b"\x01\x02"), None);
        assert_eq!(BlobRecord::decode(b"123456789"), None);
        assert_eq!(BlobRecord::decode(b"123456781234567812"), None);
        assert_eq!(decode_digest(b"\x03aaaa"), None);
        assert_eq!(decode_repository(b"no separator"), None);
    }

    #[test]
    fn a_union_forgets_nothing() {
        let manifest = Link::of(ChildKind::Manifest, Some(5));
        let both = manifest.union(Link::of(ChildKind::Blob, None));
        assert!(both.covers(ChildKind::Manifest) && both.covers(ChildKind::Blob));
        assert_eq!(both.size, Some(5));
        let given = Link::of(ChildKind::Blob, None).given();
        for union in [manifest.union(given), given.union(manifest)] {
            assert_eq!(union.word, Word::Given);
        }
    }
}

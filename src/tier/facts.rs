//! Tags and links in the bucket, sealed; and the keys of objects.
//!
//! | key | object |
//! | --- | --- |
//! | `blobs/ALGORITHM/AA/HEX` | a blob or manifest |
//! | `links/UPSTREAM/REPOSITORY/ALGORITHM-HEX` | the upstream's word that the repository has it |
//! | `tags/UPSTREAM/REPOSITORY/TAG` | the manifests that the tag named, for each set of formats that clients accepted |

use object_store::path::{Path, PathPart};
use serde::{Deserialize, Serialize};

use crate::mirror::{KeptLink, Source};
use crate::oci::manifest::ChildKind;
use crate::oci::{Digest, Tag};
use crate::store::{Link, Origin, TagRecord};

/// The largest fact, sealed: names have their bounds.
pub(super) const FACT_BYTES_MAX: u64 = 16 * 1024;

/// The keys of the objects of one place.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: Path,
}

/// A link as it is sealed.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LinkFact {
    kind: String,
    upstream: String,
    repository: String,
    digest: String,
    manifest: bool,
    blob: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
}

/// A tag as it is sealed.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct TagFact {
    kind: String,
    upstream: String,
    repository: String,
    tag: String,
    /// None: the upstream has deleted it.
    records: Vec<TagRecord>,
}

/// A fact, to be sealed.
#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct Fact<T>(T);

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        let parts = prefix.split('/').filter(|it| !it.is_empty());
        Self {
            prefix: parts.map(PathPart::from).collect(),
        }
    }

    /// The place of everything.
    pub(super) fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// The object of a blob or manifest.
    pub(super) fn blob(&self, digest: &Digest) -> Path {
        let text = digest.to_string();
        let (algorithm, hex) = text.split_once(':').unwrap_or(("", &text));
        let shard = hex.get(..2).unwrap_or_default();
        self.under(["blobs", algorithm, shard, hex])
    }

    /// The object of a link.
    pub(super) fn link(&self, source: &Source, digest: &Digest) -> Path {
        let name = digest.to_string().replace(':', "-");
        self.of_repository("links", source, [name.as_str()])
    }

    /// The object of a tag.
    pub(super) fn tag(&self, source: &Source, tag: &Tag) -> Path {
        self.of_repository("tags", source, [tag.as_str()])
    }

    fn of_repository<const N: usize>(&self, kind: &str, source: &Source, rest: [&str; N]) -> Path {
        let repository = source.repository.as_str().split('/');
        let parts = [kind, source.upstream.as_str()].into_iter();
        self.under(parts.chain(repository).chain(rest))
    }

    fn under<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> Path {
        // Encoding what is encoded would be another key.
        let mut key = self.prefix.clone();
        for part in parts {
            key = key.join(part);
        }
        key
    }
}

/// The fact of a link.
pub(super) fn link(source: &Source, digest: &Digest, kept: KeptLink) -> Fact<impl Serialize> {
    Fact(LinkFact {
        kind: "link".to_owned(),
        upstream: source.upstream.to_string(),
        repository: source.repository.to_string(),
        digest: digest.to_string(),
        manifest: kept.link.manifest,
        blob: kept.link.blob,
        size: kept.link.size,
        media_type: kept.media_type,
    })
}

/// The fact of a tag.
pub(super) fn tag(source: &Source, tag: &Tag, records: Vec<TagRecord>) -> Fact<impl Serialize> {
    Fact(TagFact {
        kind: "tag".to_owned(),
        upstream: source.upstream.to_string(),
        repository: source.repository.to_string(),
        tag: tag.to_string(),
        records,
    })
}

/// Opens the fact of a link, if it is this one's.
pub(super) fn opened_link(
    seal: &super::seal::Seal,
    text: &[u8],
    source: &Source,
    digest: &Digest,
    kind: ChildKind,
) -> Option<KeptLink> {
    let fact: LinkFact = seal.open(text)?;
    let link = Link {
        manifest: fact.manifest,
        blob: fact.blob,
        size: fact.size,
        ..Link::default()
    };
    // A whole object under another name proves nothing.
    let is_it = fact.kind == "link"
        && fact.upstream == source.upstream.as_str()
        && fact.repository == source.repository.as_str()
        && fact.digest == digest.to_string();
    (is_it && link.covers(kind)).then(|| KeptLink {
        link: link.given(),
        media_type: fact.media_type,
    })
}

/// Opens the fact of a tag, if it is this one's.
pub(super) fn opened_tag(
    seal: &super::seal::Seal,
    text: &[u8],
    source: &Source,
    tag: &Tag,
) -> Option<Vec<TagRecord>> {
    let fact: TagFact = seal.open(text)?;
    let is_it = fact.kind == "tag"
        && fact.upstream == source.upstream.as_str()
        && fact.repository == source.repository.as_str()
        && fact.tag == tag.as_str();
    let heard = fact.records.into_iter();
    let heard = heard.filter(|it| it.origin == Origin::Upstream);
    is_it.then(|| heard.collect())
}

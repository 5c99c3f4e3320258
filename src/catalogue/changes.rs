//! Changes: each is whole, or is not made.

use rusqlite::{Connection, params};

use super::hosted::{Done, HostedAct, Refused};
use super::records::PeopleChange;
use crate::clock::Timestamp;
use crate::oci::directory::Source;
use crate::oci::{Digest, Reference, Tag};

/// Links in one change: an index of all platforms with their layers has some thousand.
const LINKS_MAX: usize = 100_000;

/// Digests of a pinned image, as the store bounds them.
const PIN_DIGESTS_MAX: usize = 8_192;

/// Bytes that an entry takes in memory beside its texts.
const ENTRY_BYTES: usize = 200;

/// The import of a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedTag {
    /// The manifest that it names.
    pub digest: Digest,
    /// The media type of that.
    pub media_type: String,
    /// When it was imported.
    pub imported: Timestamp,
}

/// The link of a repository to a digest, by an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// It is served from `/manifests/`.
    pub manifest: bool,
    /// It is served from `/blobs/`.
    pub blob: bool,
    /// True if it was brought itself; else an image names it, and it was not there.
    pub given: bool,
    /// Its size in bytes, if that is known.
    pub size: Option<u64>,
}

/// A digest that a repository has, by an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImportedLink {
    /// The digest.
    pub digest: Digest,
    /// Its link.
    pub link: Link,
}

/// An image that somebody has pinned by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandPin {
    /// The repository.
    pub source: Source,
    /// The image in it.
    pub reference: Reference,
    /// Since when.
    pub since: Timestamp,
    /// All that belongs to it, stored or not.
    pub digests: Vec<Digest>,
}

/// A name that is forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// A tag, and nothing that it leads to.
    Tag(Tag),
    /// A digest that the repository had.
    Digest(Digest),
}

/// Entries of a cache of an earlier version that are the catalogue's now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Legacy {
    /// Imported tags.
    pub tags: Vec<(Source, Tag, ImportedTag)>,
    /// Links of repositories that have such tags.
    pub links: Vec<(Source, ImportedLink)>,
    /// Pins that were made by hand.
    pub pins: Vec<HandPin>,
    /// Nothing else follows: it need not be looked for again.
    pub complete: bool,
}

/// A change of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An image was imported: its name, if it has one, and what its repository has by it.
    Import {
        /// The repository.
        source: Source,
        /// Its name.
        tag: Option<(Tag, ImportedTag)>,
        /// The digests that it leads to.
        links: Vec<ImportedLink>,
    },
    /// An image is pinned, or what belongs to it is said anew.
    Pin(HandPin),
    /// The parts of an image are said anew, if it is pinned still.
    Renew(HandPin),
    /// An image is not pinned any more.
    Unpin(Source, Reference),
    /// Names of a repository are forgotten.
    Forget(Source, Vec<Name>),
    /// Entries of a cache of an earlier version. Those of the catalogue stay.
    Adopt(Legacy),
    /// Users and tokens.
    People(PeopleChange),
    /// Repositories that were seen to be public, or `None`: not any more.
    Public(Vec<(Source, Option<Timestamp>)>),
    /// The name of this node among those of a cluster; one that it has already stays.
    Node(String),
    /// An act on hosted repositories.
    Hosted(HostedAct),
}

/// What came of a change: of acts on hosted repositories there is something to say.
pub(super) type Applied = Option<Result<Done, Refused>>;

impl Change {
    /// Bytes that it takes in memory.
    pub(super) fn weight(&self) -> u32 {
        let of = |source: &Source| {
            ENTRY_BYTES + source.upstream.as_str().len() + source.repository.as_str().len()
        };
        let pin = |pin: &HandPin| of(&pin.source) + size_of_val::<[Digest]>(&pin.digests);
        let bytes = match self {
            Self::Import { source, links, .. } => of(source) + links.len() * ENTRY_BYTES,
            Self::Pin(pinned) | Self::Renew(pinned) => pin(pinned),
            Self::Unpin(source, _) => of(source),
            Self::Forget(source, names) => of(source) + names.len() * ENTRY_BYTES,
            Self::People(change) => ENTRY_BYTES + change.weight(),
            Self::Public(seen) => seen.iter().map(|(source, _)| of(source)).sum(),
            Self::Node(name) => ENTRY_BYTES + name.len(),
            Self::Hosted(act) => act.weight(),
            Self::Adopt(legacy) => {
                let tags: usize = legacy.tags.iter().map(|(source, ..)| of(source)).sum();
                let links: usize = legacy.links.iter().map(|(source, _)| of(source)).sum();
                tags + links + legacy.pins.iter().map(pin).sum::<usize>()
            }
        };
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }

    /// True if it is no more than may be written at once.
    pub(super) fn is_bounded(&self) -> bool {
        match self {
            Self::Import { links, .. } => links.len() <= LINKS_MAX,
            Self::Pin(pin) | Self::Renew(pin) => pin.digests.len() <= PIN_DIGESTS_MAX,
            Self::Unpin(..) | Self::Node(_) => true,
            Self::People(change) => change.is_bounded(),
            Self::Hosted(act) => act.is_bounded(),
            Self::Public(seen) => seen.len() <= LINKS_MAX,
            Self::Forget(_, names) => names.len() <= LINKS_MAX,
            Self::Adopt(legacy) => legacy.links.len() + legacy.tags.len() <= LINKS_MAX,
        }
    }

    /// The repository that has imports from now on.
    pub(super) fn imports_into(&self) -> Vec<&Source> {
        match self {
            Self::Import { source, .. } => vec![source],
            Self::Adopt(legacy) => {
                let tags = legacy.tags.iter().map(|(source, ..)| source);
                tags.chain(legacy.links.iter().map(|(source, _)| source))
                    .collect()
            }
            Self::Pin(_)
            | Self::Renew(_)
            | Self::Unpin(..)
            | Self::Forget(..)
            | Self::People(_)
            | Self::Public(_)
            | Self::Hosted(_)
            | Self::Node(_) => Vec::new(),
        }
    }

    /// Makes it, as a part of a transaction.
    pub(super) fn apply(&self, to: &Connection) -> rusqlite::Result<Applied> {
        match self {
            Self::Hosted(act) => act.apply(to).map(Some),
            Self::Import { .. }
            | Self::Pin(_)
            | Self::Renew(_)
            | Self::Unpin(..)
            | Self::Forget(..)
            | Self::Adopt(_)
            | Self::People(_)
            | Self::Public(_)
            | Self::Node(_) => self.write(to).map(|()| None),
        }
    }

    fn write(&self, to: &Connection) -> rusqlite::Result<()> {
        match self {
            Self::Hosted(_) => Ok(()),
            Self::Import { source, tag, links } => {
                if let Some((tag, imported)) = tag {
                    put_tag(to, "REPLACE", source, tag, imported)?;
                }
                links.iter().try_for_each(|link| put_link(to, source, link))
            }
            Self::Pin(pin) => put_pin(to, "REPLACE", pin),
            Self::Renew(pin) => renew_pin(to, pin),
            Self::Unpin(source, reference) => forget_pin(to, source, reference),
            Self::Forget(source, names) => {
                names.iter().try_for_each(|name| forget(to, source, name))
            }
            Self::Adopt(legacy) => adopt(to, legacy),
            Self::People(change) => change.apply(to),
            Self::Node(name) => {
                let sql = "INSERT OR IGNORE INTO facts (key, value) VALUES (?1, ?2)";
                to.prepare_cached(sql)?.execute(params![NODE, name])?;
                Ok(())
            }
            Self::Public(seen) => seen
                .iter()
                .try_for_each(|(source, at)| note_public(to, source, *at)),
        }
    }
}

fn note_public(to: &Connection, source: &Source, at: Option<Timestamp>) -> rusqlite::Result<()> {
    let (upstream, repository) = (source.upstream.as_str(), source.repository.as_str());
    let Some(at) = at else {
        let sql = "DELETE FROM public_repositories WHERE upstream = ?1 AND repository = ?2";
        to.prepare_cached(sql)?
            .execute(params![upstream, repository])?;
        return Ok(());
    };
    let sql = "INSERT OR REPLACE INTO public_repositories (upstream, repository, seen_ms) VALUES (?1, ?2, ?3)";
    let row = params![upstream, repository, whole(at.0)];
    to.prepare_cached(sql)?.execute(row)?;
    Ok(())
}

/// Notes which version wrote last: a change that does nothing else.
pub(super) fn note_writer(to: &Connection) -> rusqlite::Result<()> {
    put_fact(to, "written_by", env!("CARGO_PKG_VERSION"))
}

pub(super) fn put_fact(to: &Connection, key: &str, value: &str) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO facts (key, value) VALUES (?1, ?2)";
    to.prepare_cached(sql)?.execute(params![key, value])?;
    Ok(())
}

/// `else_do`: what is done where there is such an entry, `REPLACE` or `IGNORE`.
fn put_tag(
    to: &Connection,
    else_do: &'static str,
    source: &Source,
    tag: &Tag,
    imported: &ImportedTag,
) -> rusqlite::Result<()> {
    let sql = format!(
        "INSERT OR {else_do} INTO imported_tags (upstream, repository, tag, digest, media_type, imported_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
    );
    to.prepare_cached(&sql)?.execute(params![
        source.upstream.as_str(),
        source.repository.as_str(),
        tag.as_str(),
        imported.digest.to_string(),
        imported.media_type,
        whole(imported.imported.0),
    ])?;
    Ok(())
}

/// Links are joined: what was brought once stays so.
fn put_link(to: &Connection, source: &Source, link: &ImportedLink) -> rusqlite::Result<()> {
    let sql =
        "INSERT INTO imported_links (upstream, repository, digest, manifest, blob, given, size)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
        ON CONFLICT DO UPDATE SET
            manifest = max(manifest, excluded.manifest),
            blob = max(blob, excluded.blob),
            given = max(given, excluded.given),
            size = coalesce(excluded.size, size)";
    to.prepare_cached(sql)?.execute(params![
        source.upstream.as_str(),
        source.repository.as_str(),
        link.digest.to_string(),
        link.link.manifest,
        link.link.blob,
        link.link.given,
        link.link.size.map(whole),
    ])?;
    Ok(())
}

fn put_pin(to: &Connection, else_do: &'static str, pin: &HandPin) -> rusqlite::Result<()> {
    let sql = format!(
        "INSERT OR {else_do} INTO pins (upstream, repository, reference, since_ms, digests) VALUES (?1, ?2, ?3, ?4, ?5)"
    );
    to.prepare_cached(&sql)?.execute(params![
        pin.source.upstream.as_str(),
        pin.source.repository.as_str(),
        pin.reference.to_string(),
        whole(pin.since.0),
        lines(&pin.digests),
    ])?;
    Ok(())
}

fn renew_pin(to: &Connection, pin: &HandPin) -> rusqlite::Result<()> {
    let sql =
        "UPDATE pins SET digests = ?4 WHERE upstream = ?1 AND repository = ?2 AND reference = ?3";
    to.prepare_cached(sql)?.execute(params![
        pin.source.upstream.as_str(),
        pin.source.repository.as_str(),
        pin.reference.to_string(),
        lines(&pin.digests),
    ])?;
    Ok(())
}

fn forget_pin(to: &Connection, source: &Source, reference: &Reference) -> rusqlite::Result<()> {
    let sql = "DELETE FROM pins WHERE upstream = ?1 AND repository = ?2 AND reference = ?3";
    to.prepare_cached(sql)?.execute(params![
        source.upstream.as_str(),
        source.repository.as_str(),
        reference.to_string(),
    ])?;
    Ok(())
}

fn forget(to: &Connection, source: &Source, name: &Name) -> rusqlite::Result<()> {
    let (sql, key) = match name {
        Name::Tag(tag) => (
            "DELETE FROM imported_tags WHERE upstream = ?1 AND repository = ?2 AND tag = ?3",
            tag.to_string(),
        ),
        Name::Digest(digest) => (
            "DELETE FROM imported_links WHERE upstream = ?1 AND repository = ?2 AND digest = ?3",
            digest.to_string(),
        ),
    };
    to.prepare_cached(sql)?.execute(params![
        source.upstream.as_str(),
        source.repository.as_str(),
        key,
    ])?;
    Ok(())
}

fn adopt(to: &Connection, legacy: &Legacy) -> rusqlite::Result<()> {
    for (source, tag, imported) in &legacy.tags {
        put_tag(to, "IGNORE", source, tag, imported)?;
    }
    for (source, link) in &legacy.links {
        put_link(to, source, link)?;
    }
    for pin in &legacy.pins {
        put_pin(to, "IGNORE", pin)?;
    }
    if legacy.complete {
        put_fact(to, ADOPTED, "1")?;
    }
    Ok(())
}

fn lines(digests: &[Digest]) -> String {
    let digests: Vec<String> = digests.iter().map(Digest::to_string).collect();
    digests.join("\n")
}

/// A number as SQLite has them: what is beyond is as far as it goes.
fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The fact that caches of earlier versions were looked through.
pub(super) const ADOPTED: &str = "adopted";

/// The key of the fact that names this node of a cluster.
pub(super) const NODE: &str = "node";

//! The tables of the index.

use redb::TableDefinition;

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// The tables. Keys and values are bytes; `records` gives them meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::store) enum Table {
    /// digest → media type of a manifest.
    MediaTypes,
    /// digest → size and last use.
    Blobs,
    /// upstream, repository, digest → link.
    Links,
    /// upstream, repository, tag → what it named.
    Tags,
    /// upstream, repository → nothing.
    Repositories,
    /// upstream, repository, tag or digest → what a pinned image has.
    Pins,
    /// Something of this store → what an object store beside it is known to have of it.
    Tiered,
}

impl Table {
    pub(super) const ALL: [Self; 7] = [
        Self::MediaTypes,
        Self::Blobs,
        Self::Links,
        Self::Tags,
        Self::Repositories,
        Self::Pins,
        Self::Tiered,
    ];

    pub(super) const fn definition(self) -> Definition {
        TableDefinition::new(match self {
            Self::MediaTypes => "media_types",
            Self::Blobs => "blobs",
            Self::Links => "links",
            Self::Tags => "tags",
            Self::Repositories => "repositories",
            Self::Pins => "pins",
            Self::Tiered => "tiered",
        })
    }
}

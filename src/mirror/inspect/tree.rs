//! One image: its manifests, config and layers, and what of them is stored.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::document::{self, CONFIG_BYTES_MAX, ConfigFacts};
use super::{Images, InspectError, PARTS_MAX, Seen, When, full_name, names};
use crate::mirror::{Source, Ttl};
use crate::oci::manifest::{Child, ChildKind};
use crate::oci::{Digest, Reference};
use crate::store::{FillKey, Origin, TagRecord};

/// Indexes in indexes that are followed: no client makes use of even one.
const DEPTH_MAX: usize = 4;

/// An image as `inspect` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspected {
    /// Its name in full.
    pub image: String,
    /// True if it is pinned.
    pub pinned: bool,
    /// The manifests that the tag named when upstream was last asked, for each set of formats that clients accept; none
    /// for a digest.
    pub tags: Vec<TagFreshness>,
    /// The manifest of each digest that the image's name means.
    pub manifests: Vec<Node>,
    /// `hosted`, if it was pushed here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
}

/// The manifest that a tag named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagFreshness {
    /// The digest.
    pub digest: String,
    /// The media type of that manifest.
    pub media_type: String,
    /// The formats that were asked for, as `Accept` has them.
    pub accepts: String,
    /// When upstream last said so.
    pub checked_at: When,
    /// Until when it is believed; absent: for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fresh_until: Option<When>,
    /// Until when it is served while upstream cannot answer; absent: for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_until: Option<When>,
}

/// The kind of a part of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// Manifests of several platforms.
    Index,
    /// One platform's manifest.
    Manifest,
    /// The config: the command, and how it is run.
    Config,
    /// Files, or whatever else a manifest names.
    Layer,
}

/// The part of something that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    /// All of it.
    Stored,
    /// Some of it: it is being fetched, or a transfer was left off.
    Partial,
    /// Nothing.
    Absent,
}

/// A part of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its kind.
    pub kind: NodeKind,
    /// Its digest.
    pub digest: String,
    /// Its media type, if somebody says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The platform that it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Its size in bytes, if somebody says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// The part of it that is stored.
    pub presence: Presence,
    /// Number of its bytes that are.
    pub stored_bytes: u64,
    /// When it was last used, to the minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_at: Option<When>,
    /// True if its maker keeps it elsewhere, so that a registry need not have it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub foreign: bool,
    /// The content of the config, if it is stored and an image's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigFacts>,
    /// The parts that a manifest names; empty as well while it is not stored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Node>,
}

pub(super) fn not_known(image: &str) -> InspectError {
    InspectError::NotFound(format!(
        "{image} is not in the cache; pull it, or warm it with: roadstead warm {image}"
    ))
}

impl Images {
    /// An image as it is known here.
    ///
    /// # Errors
    /// [`InspectError`].
    pub async fn inspect(&self, name: &str) -> Result<Inspected, InspectError> {
        let (source, reference) = names::parse_image(name)?;
        let roots = self.contents.roots(&source, &reference).await;
        let image = full_name(&source, &reference);
        if roots.is_empty() {
            return Err(not_known(&image));
        }
        let mut left = PARTS_MAX;
        let mut manifests = Vec::new();
        for root in roots {
            manifests.push(self.tree(&source, &root, &mut left).await);
        }
        Ok(Inspected {
            pinned: self.store.pins().get(&source, &reference).is_some(),
            tags: self.freshness_of(&source, &reference).await,
            image,
            manifests,
            place: None,
        })
    }

    async fn freshness_of(&self, source: &Source, reference: &Reference) -> Vec<TagFreshness> {
        let Reference::Tag(tag) = reference else {
            return Vec::new();
        };
        let policy = self.policies.of_tag(source, tag);
        let until = |record: &TagRecord, more: Duration| match policy.ttl {
            Ttl::For(ttl) => Some(When(record.checked.plus(ttl.saturating_add(more)))),
            Ttl::Forever => None,
        };
        let records: Arc<Vec<TagRecord>> = self.store.metadata().tags(source, tag).await;
        let records = records.iter();
        records
            .map(|record| TagFreshness {
                digest: record.digest.to_string(),
                media_type: record.media_type.clone(),
                accepts: record.class.header(),
                checked_at: When(record.checked),
                fresh_until: until(record, Duration::ZERO),
                stale_until: match record.origin {
                    // Its time does not run out (`freshness::may_be_stale`).
                    Origin::Import => None,
                    Origin::Upstream => until(record, policy.stale_if_error),
                },
            })
            .collect()
    }

    /// A manifest with all that it leads to; at most `left` parts.
    pub(super) async fn tree(&self, source: &Source, root: &Digest, left: &mut usize) -> Node {
        let mut node = self.node(source, root, NodeKind::Manifest, None);
        self.fill_in(&mut node, source, root, None, DEPTH_MAX, left)
            .await;
        node
    }

    /// Looks into a manifest's node.
    async fn fill_in(
        &self,
        node: &mut Node,
        source: &Source,
        digest: &Digest,
        platform: Option<String>,
        depth: usize,
        left: &mut usize,
    ) {
        node.platform = platform;
        let Some(seen) = self.contents.look(digest).await else {
            return;
        };
        let platforms = if seen.children.iter().any(is_manifest) {
            node.kind = NodeKind::Index;
            document::platforms(&seen.bytes)
        } else {
            std::collections::HashMap::new()
        };
        node.size_bytes = Some(seen.bytes.len() as u64);
        let Seen {
            media_type,
            children,
            ..
        } = seen;
        node.media_type = Some(media_type);
        for child in children {
            let Some(rest) = left.checked_sub(1) else {
                return;
            };
            *left = rest;
            let kind = kind_of(&child);
            let mut part = self.node(source, &child.digest, kind, child.size);
            part.media_type = child.media_type;
            part.foreign = child.foreign;
            match kind {
                NodeKind::Manifest if depth > 0 => {
                    let platform = platforms.get(&child.digest).cloned().flatten();
                    let (part, digest) = (&mut part, &child.digest);
                    let deeper = self.fill_in(part, source, digest, platform, depth - 1, left);
                    Box::pin(deeper).await;
                }
                NodeKind::Config => part.config = self.config_facts(&child.digest).await,
                NodeKind::Index | NodeKind::Manifest | NodeKind::Layer => {}
            }
            node.parts.push(part);
        }
        if node.platform.is_none() {
            let config = node.parts.iter().find_map(|part| part.config.as_ref());
            node.platform = config.map(ConfigFacts::platform);
        }
    }

    async fn config_facts(&self, digest: &Digest) -> Option<ConfigFacts> {
        let bytes = self.store.audit().peek(digest, CONFIG_BYTES_MAX).await?;
        ConfigFacts::parse(&bytes)
    }

    fn node(&self, source: &Source, digest: &Digest, kind: NodeKind, size: Option<u64>) -> Node {
        let held = self.store.contents().held(digest);
        let (presence, stored_bytes, size_bytes) = match held {
            Some(held) => (Presence::Stored, held.size, Some(held.size)),
            None => match self.partly(source, digest) {
                Some((bytes, total)) => (Presence::Partial, bytes, size.or(total)),
                None => (Presence::Absent, 0, size),
            },
        };
        Node {
            kind,
            digest: digest.to_string(),
            media_type: None,
            platform: None,
            size_bytes,
            presence,
            stored_bytes,
            used_at: held.map(|held| When(held.used)),
            foreign: false,
            config: None,
            parts: Vec::new(),
        }
    }

    /// The bytes that its upstream has sent of a blob which is not stored, and its size, if that is known.
    fn partly(&self, source: &Source, digest: &Digest) -> Option<(u64, Option<u64>)> {
        if let Some(fill) = self.fills.find(&source.upstream, digest) {
            let state = fill.state();
            return Some((state.covered, state.total));
        }
        Some((
            self.store
                .capacity()
                .suspended_bytes(&FillKey::new(&source.upstream, *digest))?,
            None,
        ))
    }
}

impl Node {
    /// The bytes of the node and all that it leads to: as far as they are known, and those stored. A part
    /// that is named twice counts once.
    pub(super) fn bytes(&self) -> (u64, u64) {
        let mut seen = std::collections::HashSet::new();
        let mut sums = (0_u64, 0_u64);
        self.add_bytes(&mut seen, &mut sums);
        sums
    }

    fn add_bytes<'a>(
        &'a self,
        seen: &mut std::collections::HashSet<&'a str>,
        sums: &mut (u64, u64),
    ) {
        if !seen.insert(&self.digest) {
            return;
        }
        if !self.foreign || self.presence != Presence::Absent {
            sums.0 = sums.0.saturating_add(self.size_bytes.unwrap_or(0));
            sums.1 = sums.1.saturating_add(self.stored_bytes);
        }
        for part in &self.parts {
            part.add_bytes(seen, sums);
        }
    }

    /// The part of an image that is stored: all that it needs to be pulled, some, or nothing.
    pub(super) fn whole(&self) -> Presence {
        if self.presence == Presence::Absent {
            return Presence::Absent;
        }
        let needed = self.parts.iter().filter(|part| !part.foreign);
        let mut needed = needed.map(|part| part.presence == Presence::Stored);
        if self.presence == Presence::Stored && needed.all(|stored| stored) {
            Presence::Stored
        } else {
            Presence::Partial
        }
    }
}

fn is_manifest(child: &Child) -> bool {
    child.kind == ChildKind::Manifest
}

/// A config is told by its media type; an artifact's may have any.
fn kind_of(child: &Child) -> NodeKind {
    let media_type = child.media_type.as_deref().unwrap_or_default();
    match child.kind {
        ChildKind::Manifest => NodeKind::Manifest,
        ChildKind::Blob if CONFIG_TYPES.contains(&media_type) => NodeKind::Config,
        ChildKind::Blob => NodeKind::Layer,
    }
}

/// The media types of image configs (image-spec media-types.md; Docker's image manifest v2.2).
const CONFIG_TYPES: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];

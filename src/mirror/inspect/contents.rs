//! The parts of stored images, and the images that need a part: without changing or using anything.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::mirror::Source;
use crate::mirror::local::LocalManifests;
use crate::oci::manifest::{Child, ChildKind, MANIFEST_BYTES_MAX, inspect};
use crate::oci::{Digest, Reference};
use crate::store::Store;

/// Parts of an image that are looked at: an index of 60 platforms with 127 layers each.
pub(super) const PARTS_MAX: usize = 8_192;

/// Images named beside a finding.
const USERS_MAX: usize = 20;

/// Manifests that are read to find out who uses a blob, each of them once: some seconds' work on a slow disk.
const USERS_LOOKED_AT_MAX: usize = 10_000;

/// Depth of indexes in indexes.
pub(in crate::mirror) const LEVELS_MAX: usize = 4;

/// The contents of stored images.
#[derive(Clone, Debug)]
pub(in crate::mirror) struct Contents {
    store: Store,
    local: Arc<LocalManifests>,
}

/// A manifest that is stored.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) media_type: String,
    pub(super) bytes: bytes::Bytes,
    pub(super) children: Vec<Child>,
}

/// The parts of some manifests: themselves, what they name, and what that names.
#[derive(Clone, Debug, Default)]
pub(super) struct Closure {
    /// Each part and its size, if that is known.
    pub(super) parts: BTreeMap<Digest, Option<u64>>,
    /// True if every root could be read.
    pub(super) roots_seen: bool,
}

impl Contents {
    pub(in crate::mirror) fn new(store: &Store, local: &Arc<LocalManifests>) -> Self {
        Self {
            store: store.clone(),
            local: Arc::clone(local),
        }
    }

    /// A stored manifest, if it is one and whole.
    pub(super) async fn look(&self, digest: &Digest) -> Option<Seen> {
        let (media_type, bytes) = match self.local.peek(digest) {
            Some(manifest) if self.store.contains(digest).is_some() => {
                let media_type = manifest.media_type.to_string();
                (Some(media_type), manifest.bytes.clone())
            }
            Some(_) | None => {
                let bytes = self.store.audit().peek(digest, MANIFEST_BYTES_MAX).await?;
                (self.store.metadata().media_type(digest).await, bytes)
            }
        };
        // What is damaged says nothing; the next pull of it notices.
        if Digest::of(digest.algorithm(), &bytes) != *digest {
            return None;
        }
        let inspection = inspect(media_type.as_deref(), &bytes).ok()?;
        Some(Seen {
            media_type: inspection.media_type,
            bytes,
            children: inspection.children,
        })
    }

    /// The parts that a stored manifest names; none where it is no manifest, or does not hash to its name.
    pub(in crate::mirror) async fn children(&self, digest: &Digest) -> Vec<Child> {
        let seen = self.look(digest).await;
        seen.map_or_else(Vec::new, |seen| seen.children)
    }

    /// The parts of these manifests, as far as they are known: at most [`PARTS_MAX`].
    pub(super) async fn closure(&self, roots: &[Digest]) -> Closure {
        let mut closure = Closure {
            roots_seen: true,
            ..Closure::default()
        };
        let mut left: Vec<Digest> = Vec::new();
        for root in roots {
            closure.parts.insert(*root, None);
            match self.look(root).await {
                Some(seen) => closure.take(seen, &mut left),
                None => closure.roots_seen = false,
            }
        }
        while let Some(digest) = left.pop() {
            if let Some(seen) = self.look(&digest).await {
                closure.take(seen, &mut left);
            }
        }
        closure
    }

    /// The digests that an image's reference means: of a tag what it last named, in all formats.
    pub(in crate::mirror) async fn roots(
        &self,
        source: &Source,
        reference: &Reference,
    ) -> Vec<Digest> {
        match reference {
            Reference::Digest(digest) => {
                let linked = self.store.metadata().link(source, digest).await;
                linked.map(|_| *digest).into_iter().collect()
            }
            Reference::Tag(tag) => {
                let records = self.store.metadata().tags(source, tag).await;
                let mut digests: Vec<Digest> = records.iter().map(|it| it.digest).collect();
                digests.sort_unstable();
                digests.dedup();
                digests
            }
        }
    }

    /// The images of these repositories that lead to a digest; the repository where no tag does.
    pub(in crate::mirror) async fn users(
        &self,
        digest: &Digest,
        sources: &[Source],
    ) -> Vec<String> {
        let mut users = Vec::new();
        let mut leads = Leads::to(*digest);
        for source in sources {
            let repository = format!("{}/{}", source.upstream, source.repository);
            let before = users.len();
            for (tag, records) in self.store.pages().tags_of(source).await {
                if users.len() >= USERS_MAX || leads.are_enough() {
                    break;
                }
                let mut leading = false;
                for record in records {
                    leading |= leads.begin_at(self, record.digest).await;
                }
                if leading {
                    users.push(format!("{repository}:{tag}"));
                }
            }
            if users.len() == before && users.len() < USERS_MAX {
                users.push(repository);
            }
        }
        users
    }
}

impl Closure {
    /// Takes in what a manifest names; manifests among it are `left` to be looked into.
    fn take(&mut self, seen: Seen, left: &mut Vec<Digest>) {
        for child in seen.children {
            if self.parts.len() >= PARTS_MAX {
                return;
            }
            let known = self.parts.insert(child.digest, child.size);
            if known.is_none() && child.kind == ChildKind::Manifest {
                left.push(child.digest);
            }
        }
    }
}

/// The manifests that lead to a digest. What is found out is kept, for many tags, repositories and indexes name the
/// same.
struct Leads {
    to: Digest,
    known: HashMap<Digest, bool>,
    /// Manifests read so far.
    read: usize,
}

impl Leads {
    fn to(to: Digest) -> Self {
        Self {
            to,
            known: HashMap::from([(to, true)]),
            read: 0,
        }
    }

    /// True if no more are read: what is not known by now stays so.
    fn are_enough(&self) -> bool {
        self.read >= USERS_LOOKED_AT_MAX
    }

    /// True if this manifest leads there, as far as is known.
    async fn begin_at(&mut self, contents: &Contents, from: Digest) -> bool {
        let mut seen = HashSet::from([from]);
        let mut level = vec![from];
        for _ in 0..LEVELS_MAX {
            let mut next = Vec::new();
            for digest in level {
                let leading = match self.known.get(&digest) {
                    Some(known) => *known,
                    None if self.are_enough() => false,
                    None => {
                        self.read += 1;
                        let children = contents.children(&digest).await;
                        let nested = children.iter().filter(|it| it.kind == ChildKind::Manifest);
                        let nested = nested.map(|child| child.digest);
                        next.extend(nested.filter(|digest| seen.insert(*digest)));
                        children.iter().any(|child| child.digest == self.to)
                    }
                };
                if leading {
                    // Of the others on the way here it is not known yet.
                    self.known.extend([(digest, true), (from, true)]);
                    return true;
                }
            }
            level = next;
        }
        if level.is_empty() {
            let looked_at = seen.into_iter().map(|digest| (digest, false));
            self.known.extend(looked_at);
        } else {
            // What stands deeper was not read: of the others it is not known.
            self.known.insert(from, false);
        }
        false
    }
}

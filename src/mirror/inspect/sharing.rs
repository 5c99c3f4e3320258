//! The repositories that share the parts of an image.

use std::collections::HashMap;
use std::time::Duration;

use super::{Images, Inspected, Node, names};
use crate::mirror::Source;
use crate::oci::Digest;
use crate::store::LinkEntry;

/// Repositories that are named for a part; the others are counted.
const NAMED_MAX: usize = 5;

/// The longest look at the links of all repositories: some millions.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// The other repositories that have a part of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sharers {
    /// The first of them, with their upstream, in the order of their names.
    pub named: Vec<String>,
    /// All of them.
    pub count: usize,
}

impl Images {
    /// The other repositories that have the parts of an image, by the parts' digests. `None`: there are so many links
    /// that it takes too long to look at all.
    pub async fn sharers(&self, image: &Inspected) -> Option<HashMap<String, Sharers>> {
        let (own, _reference) = names::parse_image(&image.image).ok()?;
        let mut sharers = HashMap::new();
        for node in &image.manifests {
            collect(node, &mut sharers);
        }
        let looked = tokio::time::timeout(LOOK_MAX, self.find(&own, &mut sharers)).await;
        looked.ok()?;
        let found = sharers.into_iter();
        Some(found.map(|(digest, it)| (digest.to_string(), it)).collect())
    }

    async fn find(&self, own: &Source, sharers: &mut HashMap<Digest, Sharers>) {
        let mut after: Option<LinkEntry> = None;
        loop {
            let links = self.store.pages().link_page(None, after.as_ref()).await;
            let Some(last) = links.last() else { return };
            after = Some(last.clone());
            for entry in links.iter().filter(|entry| entry.source != *own) {
                let Some(sharers) = sharers.get_mut(&entry.digest) else {
                    continue;
                };
                sharers.count += 1;
                if sharers.named.len() < NAMED_MAX {
                    let Source {
                        upstream,
                        repository,
                    } = &entry.source;
                    sharers.named.push(format!("{upstream}/{repository}"));
                }
            }
        }
    }
}

/// The parts of an image that can be shared.
fn collect(node: &Node, parts: &mut HashMap<Digest, Sharers>) {
    if let Ok(digest) = Digest::parse(&node.digest) {
        parts.insert(digest, Sharers::default());
    }
    for part in &node.parts {
        collect(part, parts);
    }
}

//! Asking upstream about a tag now, instead of when its time has run out.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{InspectError, full_name, names};
use crate::mirror::core::Core;
use crate::mirror::tag::Tags;
use crate::oci::{AcceptClass, Reference};
use crate::store::Store;

/// Upstream's answer about a tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refreshed {
    /// The image's name in full.
    pub image: String,
    /// The manifest that the tag named before, if that was known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// The manifest that it names now; absent: upstream has no such tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// True if these differ.
    pub moved: bool,
}

/// Asks upstream about tags.
#[derive(Debug)]
pub struct Refresher {
    store: Store,
    tags: Arc<Tags>,
}

impl Refresher {
    pub(in crate::mirror) fn new(core: &Core, tags: &Arc<Tags>) -> Self {
        Self {
            store: core.store.clone(),
            tags: Arc::clone(tags),
        }
    }

    /// Asks upstream what a tag names now, for each set of formats that clients have asked for.
    ///
    /// # Errors
    /// [`InspectError`].
    pub async fn refresh(&self, name: &str) -> Result<Refreshed, InspectError> {
        let (source, reference) = names::parse_image(name)?;
        let image = full_name(&source, &reference);
        let Reference::Tag(tag) = &reference else {
            let why = format!("{image}: a digest never names anything else; refresh takes a tag");
            return Err(InspectError::Bad(why));
        };
        let records = self.store.metadata().tags(&source, tag).await;
        let newest = records.iter().max_by_key(|record| record.checked);
        let before = newest.map(|record| record.digest);
        let preferred = newest.map_or(AcceptClass::MODERN, |record| record.class);
        let classes: BTreeSet<u8> = records.iter().map(|record| record.class.bits()).collect();
        let others = classes.into_iter().filter(|bits| *bits != preferred.bits());
        let mut digest = None;
        for class in std::iter::once(preferred).chain(others.map(AcceptClass::from_bits)) {
            match self.tags.refresh(&source, tag, class).await {
                Ok(kept) if class == preferred => digest = Some(kept.manifest.digest),
                Ok(_) => {}
                // Not in these formats, or not any more.
                Err(error) if error.is_unknown() => {}
                Err(error) => return Err(InspectError::Upstream(format!("{image}: {error}"))),
            }
        }
        if before.is_none() && digest.is_none() {
            let why = format!("{image}: upstream has no such tag");
            return Err(InspectError::NotFound(why));
        }
        Ok(Refreshed {
            image,
            before: before.map(|it| it.to_string()),
            digest: digest.map(|it| it.to_string()),
            moved: before.is_some() && before != digest,
        })
    }
}

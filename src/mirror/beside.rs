//! The mirror beside hosted repositories: what of it can be mounted there, whose names are free, and how hosted blobs
//! are answered.

use super::answer::{BlobAnswer, Content};
use super::{Mirror, MirrorError, Source};
use crate::oci::manifest::ChildKind;
use crate::oci::{Digest, Page, Repository, UpstreamName};
use crate::store::Blob;
use crate::telemetry::Outcome;

/// True, false, or nobody knows: that the default upstream has nothing of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vacancy {
    /// It has not, or there is none.
    Vacant,
    /// It has.
    Taken(UpstreamName),
    /// It cannot say.
    Unknown(UpstreamName),
}

impl BlobAnswer {
    /// A hosted blob, which nobody else has.
    #[must_use]
    pub fn hosted(blob: Blob) -> Self {
        Self {
            total: Some(blob.size()),
            outcome: Outcome::Hit,
            fed_by: None,
            content: Content::Hosted(blob),
        }
    }
}

/// The mirror, as hosted repositories see it.
#[derive(Clone, Copy, Debug)]
pub struct ForHosted<'a> {
    pub(super) mirror: &'a Mirror,
}

impl ForHosted<'_> {
    /// A stored blob that a repository is known to have. Upstream is not asked.
    pub async fn stored(&self, source: &Source, digest: &Digest) -> Option<Blob> {
        let store = &self.mirror.inner.ending.store;
        let link = store.metadata().link(source, digest).await?;
        if !(link.is_given() && link.covers(ChildKind::Blob)) {
            return None;
        }
        store.blob(digest).await
    }

    /// A stored blob of any repository: for clients who may pull from all.
    pub async fn stored_anywhere(&self, digest: &Digest) -> Option<Blob> {
        self.mirror.inner.ending.store.blob(digest).await
    }

    /// Sees whether a bare name is free: whoever pulls it gets it from the default upstream until it is hosted here.
    pub async fn vacancy(&self, repository: &Repository) -> Vacancy {
        let resolved = self
            .mirror
            .directory()
            .resolve(None, None, repository.as_str());
        // Without a default nobody has bare names.
        let Ok(source) = resolved else {
            return Vacancy::Vacant;
        };
        let upstream = source.upstream.clone();
        if self.serves_below(&source).await {
            return Vacancy::Taken(upstream);
        }
        let first = Page {
            limit: Some(1),
            ..Page::default()
        };
        let asked = Box::pin(self.mirror.lists().tags(&source, &first)).await;
        match asked.map_err(said) {
            Ok(_) => Vacancy::Taken(upstream),
            Err(MirrorError::NameUnknown) => Vacancy::Vacant,
            Err(_) => Vacancy::Unknown(upstream),
        }
    }

    /// True if something of the same first component was served.
    async fn serves_below(&self, source: &Source) -> bool {
        let path = source.repository.as_str();
        let Some((first, _)) = path.split_once('/') else {
            return false;
        };
        let Ok(namespace) = Repository::parse(first) else {
            return false;
        };
        let after = Source {
            upstream: source.upstream.clone(),
            repository: namespace,
        };
        let pages = self.mirror.inner.ending.store.pages();
        let page = pages.repository_page(Some(&source.upstream), Some(&after));
        let page = page.await;
        let is_below = |it: &Source| {
            let rest = it.repository.as_str().strip_prefix(first);
            rest.is_some_and(|rest| rest.starts_with('/'))
        };
        page.iter().any(is_below)
    }
}

/// The answer of upstream, also where it was remembered.
fn said(error: MirrorError) -> MirrorError {
    if let MirrorError::Remembered(said) = error {
        *said
    } else {
        error
    }
}

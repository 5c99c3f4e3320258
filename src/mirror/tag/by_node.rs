//! What a tag names, by the word of the node of a cluster that asks upstream for all.

use std::sync::Arc;
use std::time::Duration;

use super::{Question, Tags};
use crate::mirror::local::Manifest;
use crate::mirror::manifest::Kept;
use crate::mirror::negative::What;
use crate::mirror::{MirrorError, TagSaid, TagWanted, TagWord};
use crate::oci::Reference;
use crate::telemetry::Outcome;

/// The word of a node that is older was not asked of upstream now.
const REFRESHED_AGE_MAX: Duration = Duration::from_secs(5);

impl Tags {
    /// Asks the node that asks upstream for all. `None`: there is none but this, or it does not say.
    ///
    /// # Errors
    /// There is no such tag, and none was known here. One that was is only gone by the upstream's own word.
    pub(super) async fn ask_node(
        self: &Arc<Self>,
        question: Question<'_>,
    ) -> Result<Option<Kept>, MirrorError> {
        let Some(word) = self.ask_owner(question, false).await else {
            return Ok(None);
        };
        let error = match word.said {
            TagSaid::NoTag => MirrorError::ManifestUnknown,
            TagSaid::NoRepository => MirrorError::NameUnknown,
            TagSaid::Names(_) | TagSaid::TheSame => return Ok(self.take(question, word).await),
        };
        if question.known.is_some() {
            return Ok(None);
        }
        let reference = Reference::Tag(question.tag.clone());
        let what = What::Manifest(reference, question.accept.clone());
        (self.negative).note_of(question.source, what, &error, word.age);
        Err(MirrorError::Remembered(Box::new(error)))
    }

    /// The manifest that the tag named, if it is stored.
    async fn known(&self, question: Question<'_>) -> Option<Arc<Manifest>> {
        self.local.named(question.source, question.known?).await
    }

    /// Has the node that asks upstream for all ask it now. `None`: there is none but this, or it does not say.
    pub(super) async fn refresh_by_node(self: &Arc<Self>, question: Question<'_>) -> Option<Kept> {
        let word = self.ask_owner(question, true).await?;
        // One that was asked before a moment ago and could not be is no news.
        if word.is_stale || word.age > REFRESHED_AGE_MAX {
            return None;
        }
        self.take(question, word).await
    }

    async fn ask_owner(&self, question: Question<'_>, now: bool) -> Option<TagWord> {
        let nodes = self.fetcher.neighbours().to_ask()?;
        let known = self.known(question).await.map(|it| it.digest);
        let Question {
            source,
            tag,
            accept,
            ..
        } = question;
        let wanted = TagWanted { known, now };
        nodes.tag(source, tag, accept, wanted).await
    }

    /// Keeps what the tag names.
    async fn take(self: &Arc<Self>, question: Question<'_>, word: TagWord) -> Option<Kept> {
        let Question { source, tag, .. } = question;
        let kept = match word.said {
            TagSaid::Names(fetched) => {
                let reference = Reference::Tag(tag.clone());
                let kept = self.fetcher.keep(source, &reference, fetched).await;
                kept.inspect_err(|error| {
                    tracing::warn!(upstream = %source.upstream, repository = %source.repository, %tag, %error, "another node of the cluster sent a wrong manifest; asking upstream");
                })
                .ok()?
            }
            TagSaid::TheSame => {
                let here = self.known(question).await?;
                self.fetcher.relink(source, &here).await;
                Kept::hit(here)
            }
            TagSaid::NoTag | TagSaid::NoRepository => return None,
        };
        if word.is_stale {
            return Some(Kept::stale(kept.manifest));
        }
        if kept.outcome != Outcome::Bypass {
            let checked = self.clock.now().before(word.age);
            self.note_tag(question, &kept.manifest, checked).await;
        }
        Some(kept)
    }
}

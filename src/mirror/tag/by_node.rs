//! What a tag names, by the word of the node of a cluster that asks upstream for all.

use std::sync::Arc;

use super::{Question, Tags};
use crate::mirror::manifest::Kept;
use crate::oci::Reference;
use crate::telemetry::Outcome;

impl Tags {
    /// Asks the node that asks upstream for all. `None`: there is none but this, or it does not say.
    pub(super) async fn ask_node(self: &Arc<Self>, question: Question<'_>) -> Option<Kept> {
        let Question {
            source,
            tag,
            accept,
            known,
        } = question;
        let nodes = self.fetcher.neighbours().to_ask()?;
        let here = match known {
            Some(known) => self.local.named(source, known).await,
            None => None,
        };
        let word = nodes.tag(source, tag, accept, here.as_ref().map(|it| it.digest));
        let word = word.await?;
        let kept = match (word.manifest, here) {
            (Some(fetched), _) => {
                let reference = Reference::Tag(tag.clone());
                let kept = self.fetcher.keep(source, &reference, fetched).await;
                kept.inspect_err(|error| {
                    tracing::warn!(upstream = %source.upstream, repository = %source.repository, %tag, %error, "another node of the cluster sent a wrong manifest; asking upstream");
                })
                .ok()?
            }
            (None, Some(here)) => {
                self.fetcher.relink(source, &here).await;
                Kept::hit(here)
            }
            (None, None) => return None,
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

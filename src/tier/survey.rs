//! The look through the index for what is not in the bucket yet: at the start, when something did not fit into the queue,
//! and now and then. It finds what a process that was killed had not written, what was there before a bucket was, and what
//! a node that owns it has not written because it is gone.

use std::time::Duration;

use super::notes;
use super::queue::{Fact, Waiting};
use super::writer::{Writer, link_text};
use crate::mirror::Source;
use crate::oci::Digest;
use crate::store::{LinkEntry, Origin};

/// Time after the start, in which clients come first.
const FIRST_AFTER: Duration = Duration::from_secs(10);

/// Time between two rounds. What others own and have not written is written by this node then.
const EACH: Duration = Duration::from_hours(1);

/// Time between two looks whether something did not fit.
const LOOK_EACH: Duration = Duration::from_secs(10);

/// Rest between two pages of the index.
const PAGE_REST: Duration = Duration::from_millis(20);

impl Writer {
    /// Looks now and then.
    pub(super) async fn survey(&self) {
        tokio::time::sleep(FIRST_AFTER).await;
        let mut is_first = true;
        loop {
            self.round(is_first).await;
            is_first = false;
            self.rest().await;
        }
    }

    /// Waits for the next round, or for a reason to have it now.
    async fn rest(&self) {
        let rounds = EACH.as_secs() / LOOK_EACH.as_secs();
        for _ in 0..rounds {
            tokio::time::sleep(LOOK_EACH).await;
            self.forget_unknown().await;
            if self.tier.queue.take_incomplete() {
                return;
            }
        }
    }

    /// Forgets what was noted of objects that are not there, or wrong; if the blob is here, it is written again.
    async fn forget_unknown(&self) {
        for digest in self.tier.queue.take_unknown() {
            let key = notes::blob_key(&digest);
            self.tier.store.tiered().forget(key).await;
            let anew = self.tier.is_distrusted(&digest);
            if let Some(size) = self.tier.store.contains(&digest) {
                let waiting = Waiting { digest, size, anew };
                self.tier.queue.add_blob(waiting);
            }
        }
    }

    /// One round. `is_first`: what other nodes own is theirs to write, as yet.
    async fn round(&self, is_first: bool) {
        self.tier.queue.take_incomplete();
        self.look_at_blobs(is_first).await;
        if self.tier.seal.is_some() {
            self.look_at_links(is_first).await;
            self.look_at_tags().await;
        }
    }

    async fn look_at_blobs(&self, is_first: bool) {
        let store = &self.tier.store;
        let renew_days = self.renew_days();
        let mut after: Option<Digest> = None;
        loop {
            let page = store
                .pages()
                .stored_blobs(store.contents(), after.as_ref())
                .await;
            let Some((last, _)) = page.last() else { return };
            after = Some(*last);
            let keys = page.iter().map(|(digest, _)| notes::blob_key(digest));
            let noted = store.tiered().get(keys.collect()).await;
            for ((digest, size), note) in page.iter().zip(noted.unwrap_or_default()) {
                let is_noted = note.is_some();
                // Only what clients still use is kept from being deleted there.
                let anew = note.is_some_and(|it| notes::is_old(store, &it, renew_days))
                    && self.is_in_use(digest);
                if (is_noted && !anew) || (is_first && !self.is_mine(digest)) {
                    continue;
                }
                self.tier.queue.has_room().await;
                let waiting = Waiting {
                    digest: *digest,
                    size: *size,
                    anew,
                };
                self.tier.queue.add_blob(waiting);
            }
            tokio::time::sleep(PAGE_REST).await;
        }
    }

    /// True if a blob was used since half of the time after which it is written again.
    fn is_in_use(&self, digest: &Digest) -> bool {
        let held = self.tier.store.contents().held(digest);
        let renew = self.tier.config.write.renew.unwrap_or_default();
        held.is_some_and(|it| self.tier.clock.now().since(it.used) < renew)
    }

    async fn look_at_links(&self, is_first: bool) {
        let store = &self.tier.store;
        let renew_days = self.renew_days();
        let mut after: Option<LinkEntry> = None;
        loop {
            let page = store.pages().link_page(None, after.as_ref()).await;
            let Some(last) = page.last() else { return };
            after = Some(last.clone());
            let given = page.into_iter().filter(|it| {
                it.link.is_given()
                    && self.keeps_words_of(&it.source)
                    && (!is_first || self.is_mine(&it.digest))
            });
            let given: Vec<LinkEntry> = given.collect();
            let keys = given
                .iter()
                .map(|it| notes::link_key(&it.source, &it.digest));
            let noted = store.tiered().get(keys.collect()).await;
            for (entry, note) in given.into_iter().zip(noted.unwrap_or_default()) {
                let text = link_text(&entry.link);
                if note.is_some_and(|it| it.text == text && !notes::is_old(store, &it, renew_days))
                {
                    continue;
                }
                self.tier.queue.has_room().await;
                self.tier
                    .queue
                    .add_fact(Fact::Link(entry.source, entry.digest));
            }
            tokio::time::sleep(PAGE_REST).await;
        }
    }

    async fn look_at_tags(&self) {
        let pages = self.tier.store.pages();
        let mut after: Option<Source> = None;
        loop {
            let sources = pages.repository_page(None, after.as_ref()).await;
            let Some(last) = sources.last() else { return };
            after = Some(last.clone());
            for source in sources.iter().filter(|it| self.keeps_words_of(it)) {
                let mut tag = None;
                loop {
                    let page = pages.tag_page(source, tag.as_ref()).await;
                    let Some(last) = page.last() else { break };
                    tag = Some(last.tag.clone());
                    for entry in page {
                        let heard = entry.records.iter().any(|it| it.origin == Origin::Upstream);
                        if heard {
                            self.tier.queue.has_room().await;
                            let fact = Fact::Tag(source.clone(), entry.tag);
                            self.tier.queue.add_fact(fact);
                        }
                    }
                }
            }
            tokio::time::sleep(PAGE_REST).await;
        }
    }
}

//! Manifests by tag: what a tag names, asked of upstream as its policy says.

mod archived;
mod by_node;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use moka::sync::Cache;

use super::core::{ANSWER_WAIT_MAX, Core, Tasks, Upstreams};
use super::freshness::{self, LastFailure, Verdict};
use super::imported::Imported;
use super::local::{LocalManifests, Manifest};
use super::manifest::{Found, Kept, ManifestRequests, Manifests};
use super::manifest_fetch::ManifestFetcher;
use super::negative::{Negative, What};
use super::single_flight::Runway;
use super::{Failure, MirrorError, Policies, Policy, Revalidate, Source, StaleOn, Ttl};
use crate::clock::{Clock, Timestamp};
use crate::oci::manifest::{ChildKind, media};
use crate::oci::{Accept, AcceptClass, Reference, Tag};
use crate::store::{Event, Link, Origin, Store, TagRecord};
use crate::telemetry::{Kind, Outcome};
use crate::upstream::{FetchError, OnBehalf, Patience};

/// Time that a client who could be given a stale answer waits for upstream to say what a tag names.
const REVALIDATE_WAIT: Duration = Duration::from_secs(5);

/// Time that such a client waits in all, when what the tag names now must be fetched: so that the
/// stale answer still comes within [`ANSWER_WAIT_MAX`].
const STALE_WAIT_MAX: Duration = Duration::from_secs(20);

/// For whom upstream is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    /// A client that waits.
    Client,
    /// The next client: this one has been answered.
    Nobody,
}

/// A question to upstream.
#[derive(Clone, Copy, Debug)]
struct Question<'a> {
    source: &'a Source,
    tag: &'a Tag,
    accept: &'a Accept,
    /// The manifest that the tag named, if that is known for clients of this class.
    known: Option<&'a TagRecord>,
}

/// Time that an answer may take.
#[derive(Clone, Copy, Debug)]
struct Limits {
    patience: Patience,
    /// To the answer to HEAD.
    head: Duration,
    /// In all.
    all: Duration,
}

/// Memory for the tags whose last revalidation failed, in bytes: some ten thousand.
const FAILED_TAGS_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Bytes that one takes beside its names.
const FAILED_TAG_BYTES: usize = 200;

/// Manifests by tag.
#[derive(Debug)]
pub(super) struct Tags {
    policies: Policies,
    upstreams: Upstreams,
    store: Store,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    local: Arc<LocalManifests>,
    negative: Arc<Negative>,
    imported: Arc<Imported>,
    fetcher: Arc<ManifestFetcher>,
    manifests: Arc<Manifests>,
    requests: ManifestRequests,
    failed: Cache<(Source, Tag), LastFailure>,
}

impl Tags {
    pub(super) fn new(
        core: &Core,
        local: &Arc<LocalManifests>,
        negative: &Arc<Negative>,
        imported: &Arc<Imported>,
        fetcher: &Arc<ManifestFetcher>,
        manifests: &Arc<Manifests>,
    ) -> Self {
        Self {
            policies: core.policies.clone(),
            upstreams: core.upstreams.clone(),
            store: core.store.clone(),
            clock: Arc::clone(&core.clock),
            tasks: core.tasks.clone(),
            local: Arc::clone(local),
            negative: Arc::clone(negative),
            imported: Arc::clone(imported),
            fetcher: Arc::clone(fetcher),
            manifests: Arc::clone(manifests),
            requests: Arc::default(),
            failed: failed_tags(),
        }
    }

    /// Forgets that upstream did not say what a tag names: it is known better now.
    pub(super) fn forget_failure(&self, source: &Source, tag: &Tag) {
        self.failed.invalidate(&(source.clone(), tag.clone()));
    }

    /// The manifest that a tag names, or one by its digest.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub(super) async fn by_reference(
        self: &Arc<Self>,
        source: &Source,
        reference: &Reference,
        accept: &Accept,
    ) -> Result<Kept, MirrorError> {
        match reference {
            Reference::Digest(digest) => {
                self.manifests
                    .by_digest_in(source, digest, accept, Patience::Wait)
                    .await
            }
            Reference::Tag(tag) => self.by_tag(source, tag, accept).await,
        }
    }

    /// The manifest that a tag names: as known, as upstream says, or as it was.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub(super) async fn by_tag(
        self: &Arc<Self>,
        source: &Source,
        tag: &Tag,
        accept: &Accept,
    ) -> Result<Kept, MirrorError> {
        let class = accept.class;
        let policy = self.policies.of_tag(source, tag);
        let records = self.imported.tags(source, tag).await;
        let failed = self.failed.get(&(source.clone(), tag.clone()));
        match freshness::judge(&records, class, &policy, failed, self.clock.now()) {
            Verdict::Fresh(record) => {
                if let Some(manifest) = self.local.named(source, record).await {
                    return Ok(Kept::hit(manifest));
                }
                // The manifest was evicted, but what the tag names is known.
                let found = self
                    .manifests
                    .by_digest_in(source, &record.digest, accept, Patience::Wait)
                    .await;
                let pinned = policy.ttl == Ttl::Forever;
                match found {
                    Err(error) if error.is_unknown() && !pinned => {}
                    Ok(_) | Err(_) => return found,
                }
            }
            Verdict::StaleForNow(record) => {
                if let Some(manifest) = self.local.named(source, record).await {
                    return Ok(Kept::stale(manifest));
                }
            }
            // Another node that asks has something old itself.
            Verdict::StaleMeanwhile(_) if OnBehalf::is_for_node() => {}
            Verdict::StaleMeanwhile(record) => {
                if let Some(manifest) = self.local.named(source, record).await {
                    // Its first poll begins the request, or finds one under way; nobody waits for the end.
                    let asking = self.join_tag(source, tag, accept, Asker::Nobody);
                    if let Some(Err(error)) = asking.now_or_never() {
                        tracing::warn!(upstream = %source.upstream, repository = %source.repository, %tag, %error, "a tag cannot be revalidated in the background");
                    }
                    return Ok(Kept::stale(manifest));
                }
            }
            Verdict::Revalidate(_) | Verdict::Absent => {}
        }
        self.join_tag(source, tag, accept, Asker::Client).await
    }

    /// The answer of the one question about a tag that is under way, or that begins now.
    async fn join_tag(
        self: &Arc<Self>,
        source: &Source,
        tag: &Tag,
        accept: &Accept,
        asker: Asker,
    ) -> Result<Kept, MirrorError> {
        let reference = Reference::Tag(tag.clone());
        let asks_nodes = self
            .fetcher
            .neighbours()
            .are_asked(source, &reference, accept);
        let key = (source.clone(), reference, accept.clone(), asks_nodes);
        let runway = Runway {
            for_later: asker == Asker::Nobody,
            ..self.tasks.runway(source)
        };
        let (tags, source, tag) = (Arc::clone(self), source.clone(), tag.clone());
        let accept = accept.clone();
        let ask = move || async move {
            Found {
                kept: tags.ask_tag(&source, &tag, &accept, asker).await,
                patience: Patience::Wait,
            }
        };
        let (found, role) = self.requests.run(key, runway, ask).await?;
        found.kept.map(|kept| kept.seen_by(role))
    }

    /// Asks upstream what a tag names now; falls back on what it named.
    async fn ask_tag(
        self: &Arc<Self>,
        source: &Source,
        tag: &Tag,
        accept: &Accept,
        asker: Asker,
    ) -> Result<Kept, MirrorError> {
        let class = accept.class;
        let policy = self.policies.of_tag(source, tag);
        let records = self.records_of(source, tag, accept, &policy).await;
        let now = self.clock.now();
        let known = match freshness::judge(&records, class, &policy, None, now) {
            // The request before this one may have ended just now.
            Verdict::Fresh(record) => {
                if let Some(manifest) = self.local.named(source, record).await {
                    return Ok(Kept::hit(manifest));
                }
                Some(record)
            }
            Verdict::StaleForNow(record)
            | Verdict::StaleMeanwhile(record)
            | Verdict::Revalidate(record) => Some(record),
            Verdict::Absent => None,
        };
        let old = self.named_before(source, &records, class).await;
        let in_time = freshness::fallback(&records, class, &policy, now).is_some();
        let question = Question {
            source,
            tag,
            accept,
            known,
        };
        let has_old = old.is_some() && in_time && policy.stale_on != StaleOn::NOTHING;
        let answer = self.ask_patiently(question, &policy, has_old, asker).await;
        let key = (source.clone(), tag.clone());
        let error = match answer {
            Ok(kept) => {
                self.failed.invalidate(&key);
                return Ok(kept);
            }
            Err(error) if is_the_askers(&error) => return Err(error),
            Err(error) => error,
        };
        // That a tag is deleted is an answer, and has nothing to do with how long upstream may be silent.
        let usable = policy.serves_stale(error.failure()) && (in_time || error.is_unknown());
        if let Some(manifest) = old.filter(|_| usable) {
            tracing::warn!(
                upstream = %source.upstream, repository = %source.repository, %tag, digest = %manifest.digest, %error,
                "upstream does not say what a tag names; serving what it named before"
            );
            if error.is_unknown() {
                self.tell_deleted(source, tag, true);
            }
            let failed = LastFailure::ServedStale(self.clock.now());
            self.failed.insert(key, failed);
            return Ok(Kept::stale(manifest));
        }
        if error.is_unknown() && !records.is_empty() && !policy.keep_deleted {
            self.forget_deleted(source, tag, class).await;
        }
        if policy.revalidate == Revalidate::Background {
            // Without this, everybody would be given the old answer in advance of the next failure; also one that the
            // catalogue has of a tag that was imported.
            self.failed.insert(key, LastFailure::Refused);
        }
        Err(error)
    }

    /// Asks upstream what a tag names now, however fresh it is and whatever was said of it a moment ago; nothing old is
    /// an answer. A tag that upstream has deleted is forgotten, with its import, unless the policy keeps it.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub(super) async fn refresh(
        self: &Arc<Self>,
        source: &Source,
        tag: &Tag,
        class: AcceptClass,
    ) -> Result<Kept, MirrorError> {
        let records = self.store.metadata().tags(source, tag).await;
        let accept = Accept::from(class);
        let question = Question {
            source,
            tag,
            accept: &accept,
            known: records.iter().find(|record| record.class == class),
        };
        let limits = Limits::of(false, Asker::Client);
        let asking = async {
            if let Some(kept) = self.refresh_by_node(question).await {
                return Ok(kept);
            }
            match question.known {
                Some(known) => self.revalidate(question, known, limits).await,
                None => self.get_tag(question, limits.patience).await,
            }
        };
        let asked = tokio::time::timeout(limits.all, Box::pin(asking)).await;
        let late = || Err(MirrorError::Timeout(FetchError::Timeout("a tag")));
        let answer = asked.unwrap_or_else(|_elapsed| late());
        match &answer {
            Ok(_) => self.forget_failure(source, tag),
            Err(error) if error.is_unknown() && !records.is_empty() => {
                if self.policies.of_tag(source, tag).keep_deleted {
                    self.tell_deleted(source, tag, true);
                } else {
                    self.forget_import(source, tag, class).await;
                    self.forget_deleted(source, tag, class).await;
                }
            }
            Err(_) => {}
        }
        answer
    }

    /// Forgets a tag in these formats, which upstream has deleted, and tells of it.
    async fn forget_deleted(&self, source: &Source, tag: &Tag, class: AcceptClass) {
        tracing::info!(upstream = %source.upstream, repository = %source.repository, %tag, "upstream has deleted a tag");
        self.store.metadata().forget_tag(source, tag, class).await;
        self.tell_deleted(source, tag, false);
    }

    /// Forgets an import of a tag, if it is one in these formats: it would be as fresh as it was.
    async fn forget_import(&self, source: &Source, tag: &Tag, class: AcceptClass) {
        if let Err(error) = self.imported.forget_tag(source, tag, class).await {
            tracing::warn!(upstream = %source.upstream, repository = %source.repository, %tag, %error, "upstream has deleted an imported tag, which stays in the catalogue; remove it with roadstead rm");
        }
    }

    /// The manifest that the newest of these records names, fresh or not, if it is stored.
    async fn named_before(
        &self,
        source: &Source,
        records: &[TagRecord],
        class: AcceptClass,
    ) -> Option<Arc<Manifest>> {
        self.local
            .named(source, freshness::last_known(records, class)?)
            .await
    }

    /// Asks in a hurry who has an old answer, and once more with patience when that is none to the
    /// failure.
    async fn ask_patiently(
        self: &Arc<Self>,
        question: Question<'_>,
        policy: &Policy,
        has_old: bool,
        asker: Asker,
    ) -> Result<Kept, MirrorError> {
        let answer = self
            .ask_upstream(question, Limits::of(has_old, asker))
            .await;
        match answer {
            Err(error)
                if has_old
                    && asker == Asker::Client
                    && policy.demands_patience(error.failure()) =>
            {
                self.ask_upstream(question, Limits::of(false, asker)).await
            }
            answer => answer,
        }
    }

    async fn ask_upstream(
        self: &Arc<Self>,
        question: Question<'_>,
        limits: Limits,
    ) -> Result<Kept, MirrorError> {
        let Question {
            source,
            tag,
            accept,
            ..
        } = question;
        let asking = async {
            let stale = match self.ask_node(question).await? {
                Some(kept) if kept.outcome != Outcome::Stale => return Ok(kept),
                other => other,
            };
            let answer = match question.known {
                Some(known) => self.revalidate(question, known, limits).await,
                None => self.get_tag(question, limits.patience).await,
            };
            let policy = self.policies.of_tag(source, tag);
            match (answer, stale) {
                // It is what the other node would answer its own clients with.
                (Err(error), Some(stale)) if policy.serves_stale(error.failure()) => Ok(stale),
                (answer, _) => answer,
            }
        };
        let what = What::Manifest(Reference::Tag(tag.clone()), accept.clone());
        let asking = Box::pin(self.negative.unless_unknown(source, what, asking));
        let asked = tokio::time::timeout(limits.all, asking).await;
        asked.unwrap_or(Err(MirrorError::Timeout(FetchError::Timeout("a tag"))))
    }

    /// Asks with HEAD, which costs no quota, whether a tag still names `known`.
    async fn revalidate(
        self: &Arc<Self>,
        question: Question<'_>,
        known: &TagRecord,
        limits: Limits,
    ) -> Result<Kept, MirrorError> {
        let Question {
            source,
            tag,
            accept,
            ..
        } = question;
        let reference = Reference::Tag(tag.clone());
        let upstream = self.upstreams.of(source)?;
        let (repository, accepted) = (&source.repository, accept.clone());
        let head = upstream.manifest_head(repository, &reference, accepted, limits.patience);
        let head = tokio::time::timeout(limits.head, head).await;
        let digest = match head.unwrap_or(Err(FetchError::Timeout("a tag's digest"))) {
            Ok(head) => head.digest,
            // HEAD may be refused, redirected or unknown where GET is answered; that a tag is gone GET says, too.
            Err(error) if error.refuses_head() => {
                let kept = self.get_tag(question, limits.patience).await;
                if kept.is_ok() {
                    upstream.refused_manifest_head(&source.repository);
                }
                return kept;
            }
            Err(error) => return Err(MirrorError::of_fetch(Kind::Manifest, error)),
        };
        // An upstream that does not say the digest must be asked for the manifest itself.
        let Some(digest) = digest else {
            return self.get_tag(question, limits.patience).await;
        };
        // It may name what has come from another upstream alone: that is asked for by its digest then.
        let named = Link::of(ChildKind::Manifest, None);
        let before = self.store.metadata().link(source, &digest).await;
        let named = named.union(before.unwrap_or_default());
        let ours = self.store.quotas().vouches(source, &digest, &named);
        let found = match self.local.read_for(source, &digest).await {
            Some(manifest) if ours => {
                self.fetcher.relink(source, &manifest).await;
                Ok(Kept::hit(manifest))
            }
            Some(_) | None => {
                self.manifests
                    .by_digest_in(source, &digest, accept, limits.patience)
                    .await
            }
        };
        match found {
            Ok(kept) => {
                if digest != known.digest {
                    tracing::info!(upstream = %source.upstream, repository = %source.repository, %tag, old = %known.digest, new = %digest, "a tag has moved");
                }
                let now = self.clock.now();
                self.note_tag(question, &kept.manifest, now).await;
                Ok(kept)
            }
            // What HEAD named is no stored manifest but one converted for this client.
            Err(error) if error.is_unknown() => self.get_tag(question, limits.patience).await,
            // Signed schema 1 is named by another digest than that of its bytes.
            Err(MirrorError::WrongContent { .. })
                if accept.class.allows(media::DOCKER_SCHEMA1_SIGNED) =>
            {
                self.get_tag(question, limits.patience).await
            }
            Err(error) => Err(error),
        }
    }

    async fn get_tag(
        &self,
        question: Question<'_>,
        patience: Patience,
    ) -> Result<Kept, MirrorError> {
        let Question {
            source,
            tag,
            accept,
            ..
        } = question;
        let reference = Reference::Tag(tag.clone());
        let kept = self
            .fetcher
            .fetch(source, &reference, accept, patience)
            .await?;
        if kept.outcome != Outcome::Bypass {
            let now = self.clock.now();
            self.note_tag(question, &kept.manifest, now).await;
        }
        Ok(kept)
    }

    /// `checked`: the time at which upstream said so.
    async fn note_tag(&self, question: Question<'_>, manifest: &Manifest, checked: Timestamp) {
        let record = TagRecord {
            class: question.accept.class,
            digest: manifest.digest,
            media_type: manifest.media_type.to_string(),
            checked,
            origin: Origin::Upstream,
        };
        self.store
            .metadata()
            .record_tag(question.source, question.tag, record)
            .await;
        self.store.events().tell(Event::TagMoved {
            source: question.source.clone(),
            tag: question.tag.clone(),
            digest: manifest.digest,
            before: question.known.map(|known| known.digest),
        });
    }

    fn tell_deleted(&self, source: &Source, tag: &Tag, kept: bool) {
        self.store.events().tell(Event::TagDeleted {
            source: source.clone(),
            tag: tag.clone(),
            kept,
        });
    }
}

/// The tags whose last revalidation failed: none yet.
fn failed_tags() -> Cache<(Source, Tag), LastFailure> {
    let weigh = |(source, tag): &(Source, Tag), _: &LastFailure| {
        let names = source.upstream.as_str().len() + source.repository.as_str().len();
        u32::try_from(FAILED_TAG_BYTES + names + tag.as_str().len()).unwrap_or(u32::MAX)
    };
    Cache::builder()
        .max_capacity(FAILED_TAGS_BYTES_MAX)
        .weigher(weigh)
        .build()
}

impl Policy {
    /// True if this is a failure that passes, and that the old answer is not served for.
    pub(super) fn demands_patience(&self, failure: Failure) -> bool {
        let passes = match failure {
            Failure::Unreachable | Failure::ServerError | Failure::RateLimited => true,
            Failure::Denied | Failure::Deleted => false,
        };
        passes && !self.serves_stale(failure)
    }
}

impl Limits {
    /// The limits of a question. A client that has nothing else waits as long as anybody may.
    fn of(has_old: bool, asker: Asker) -> Self {
        let patience = if has_old {
            Patience::Now
        } else {
            Patience::Wait
        };
        let (head, all) = match (has_old, asker) {
            (true, Asker::Client) => (REVALIDATE_WAIT, STALE_WAIT_MAX),
            (false, Asker::Client) | (_, Asker::Nobody) => (ANSWER_WAIT_MAX, ANSWER_WAIT_MAX),
        };
        Self {
            patience,
            head,
            all,
        }
    }
}

/// True if others get another answer: by another way upstream may well say it, and another credential may open it. Nobody
/// should be given something old for that.
fn is_the_askers(error: &MirrorError) -> bool {
    let goes_round = matches!(error, MirrorError::Loop(_));
    (goes_round && OnBehalf::current().came_through_others())
        || matches!(error, MirrorError::Challenged(_))
}

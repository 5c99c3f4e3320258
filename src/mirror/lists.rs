//! Lists: tags and referrers, asked of upstream each time, and the catalog of
//! what is here.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::answer::ListAnswer;
use super::core::{Core, Tasks, Upstreams, in_time};
use super::lent::Lent;
use super::manifest::WARNING_STALE;
use super::negative::{List, Negative, What};
use super::referrers::Referrers;
use super::seen_lists::SeenLists;
use super::single_flight::{Role, SingleFlight};
use super::tag::Tags;
use super::{MirrorError, Policies, Source, StaleOn};
use crate::clock::Clock;
use crate::oci::link::NextPage;
use crate::oci::list::{self, ListError};
use crate::oci::{Digest, Page, Repository, UpstreamName};
use crate::store::Store;
use crate::telemetry::{Kind, Outcome};
use crate::upstream::{FetchError, Patience, in_request_scope};

/// Entries on a page of the catalog, whatever the client asks for.
const CATALOG_PAGE_MAX: usize = 1000;

/// Looks into the index for one page: past so many thousand repositories that a client may not see, the list ends.
const CATALOG_LOOKS_MAX: usize = 100;

/// Time that a client who could be given an old list waits for upstream. What it says later is kept for the next.
const STALE_WAIT: Duration = Duration::from_secs(10);

/// Lists of more bytes are not looked through on the threads that serve requests.
const AT_ONCE_BYTES_MAX: usize = 64 * 1024;

/// A list, as all who asked for it share it.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) bytes: Bytes,
    pub(super) next: Option<NextPage>,
    /// True if only one artifact type is in it.
    pub(super) filtered: bool,
    /// True if nothing refers to what was asked about.
    pub(super) empty: bool,
    pub(super) outcome: Outcome,
    pub(super) warnings: Vec<String>,
}

impl Listed {
    /// The list as it was seen before, because upstream does not say what is now.
    pub(super) fn as_stale(&self) -> Self {
        Self {
            outcome: Outcome::Stale,
            warnings: vec![WARNING_STALE.to_owned()],
            ..self.clone()
        }
    }

    fn answer(self, media_type: &'static str, role: Role) -> ListAnswer {
        ListAnswer {
            media_type,
            bytes: self.bytes,
            next: self.next,
            filtered: self.filtered,
            outcome: match (self.outcome, role) {
                (Outcome::Bypass | Outcome::Miss, Role::Follower) => Outcome::Collapsed,
                (outcome, _) => outcome,
            },
            warnings: self.warnings,
        }
    }
}

/// Lists, asked of upstream each time, and what was seen of them.
#[derive(Debug)]
pub struct Lists {
    policies: Policies,
    upstreams: Upstreams,
    store: Store,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    negative: Arc<Negative>,
    referrers: Referrers,
    lent: Lent,
    requests: Arc<SingleFlight<(Source, List), Result<Listed, MirrorError>>>,
    seen: SeenLists,
}

impl Lists {
    pub(super) fn new(
        core: &Core,
        negative: &Arc<Negative>,
        tags: &Arc<Tags>,
        lent: &Lent,
    ) -> Self {
        Self {
            policies: core.policies.clone(),
            upstreams: core.upstreams.clone(),
            store: core.store.clone(),
            clock: Arc::clone(&core.clock),
            tasks: core.tasks.clone(),
            negative: Arc::clone(negative),
            referrers: Referrers::new(core, negative, tags),
            lent: lent.clone(),
            requests: Arc::default(),
            seen: SeenLists::default(),
        }
    }

    /// The tags of a repository, as upstream lists them now; or as it did, while it cannot say.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub async fn tags(
        self: &Arc<Self>,
        source: &Source,
        page: &Page,
    ) -> Result<ListAnswer, MirrorError> {
        if page.limit == Some(0) {
            // dist-spec, "Listing tags": an empty list, and no `Link`.
            return Ok(ListAnswer {
                media_type: list::TAGS,
                bytes: list::tags_body(source.repository.as_str(), &[]).into(),
                next: None,
                filtered: false,
                outcome: Outcome::Hit,
                warnings: Vec::new(),
            });
        }
        let list = List::Tags(NextPage::of(page).query);
        let (listed, role) = in_time(self.list(source, list)).await?;
        self.lend_list(listed.answer(list::TAGS, role))
    }

    /// Lists the manifests that refer to a digest, with the beginning of the next page. Where upstream has no referrers API, the
    /// referrers tag (dist-spec, "Referrers tag schema") is looked up instead. Where nothing refers to it, an
    /// empty list: clients take the one 404 among other answers for a failure.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub async fn referrers(
        self: &Arc<Self>,
        source: &Source,
        digest: &Digest,
        artifact_type: Option<&str>,
        cursor: &[(String, String)],
    ) -> Result<ListAnswer, MirrorError> {
        let wanted = artifact_type.map(|text| ("artifactType".to_owned(), text.to_owned()));
        let query = wanted.into_iter().chain(cursor.iter().cloned());
        let list = List::Referrers(*digest, query.collect());
        let (listed, role) = in_time(self.list(source, list)).await?;
        self.lend_list(listed.answer(list::REFERRERS, role))
    }

    /// The repositories that something is cached of and that somebody `sees`, as `upstream/repository`, sorted, and
    /// where the next page begins.
    pub async fn catalog(
        &self,
        page: &Page,
        sees: &(dyn Fn(&Source) -> bool + Sync),
    ) -> (Vec<String>, Option<NextPage>) {
        let limit = page.limit.unwrap_or(CATALOG_PAGE_MAX).min(CATALOG_PAGE_MAX);
        let mut after = page.last.as_deref().and_then(parse_entry);
        let mut names: Vec<String> = Vec::new();
        for _ in 0..CATALOG_LOOKS_MAX {
            let pages = self.store.pages();
            let found = pages.repositories(after.as_ref(), CATALOG_PAGE_MAX).await;
            let is_last = found.len() < CATALOG_PAGE_MAX;
            after = found.last().cloned();
            for source in found.iter().filter(|source| sees(source)) {
                if names.len() == limit {
                    // The link names what was shown, never what was not.
                    let next = names.last().map(|last| {
                        NextPage::of(&Page {
                            limit: Some(limit),
                            last: Some(last.clone()),
                            ..Page::default()
                        })
                    });
                    return (names, next);
                }
                names.push(format!("{}/{}", source.upstream, source.repository));
            }
            if is_last {
                break;
            }
        }
        (names, None)
    }

    /// A list for the client of this request.
    fn lend_list(&self, answer: ListAnswer) -> Result<ListAnswer, MirrorError> {
        Ok(ListAnswer {
            bytes: self.lent.lend_to_client(answer.bytes)?,
            ..answer
        })
    }

    /// A list, asked of upstream once for all who want it now.
    async fn list(
        self: &Arc<Self>,
        source: &Source,
        list: List,
    ) -> Result<(Listed, Role), MirrorError> {
        if let Some(seen) = self.seen.get(source, &list) {
            let policy = self.policies.of_repository(source);
            if let Some(listed) = seen.at_once(&policy, self.clock.now()) {
                return Ok((listed, Role::Leader));
            }
        }
        let (lists, asked, wanted) = (Arc::clone(self), source.clone(), list.clone());
        let ask = move || async move { lists.ask_or_recall(&asked, &wanted).await };
        let key = (source.clone(), list);
        let (listed, role) = self
            .requests
            .run(key, self.tasks.runway(source), ask)
            .await?;
        listed.map(|listed| (listed, role))
    }

    /// A list as upstream gives it; or as it was, by the rules that tags have.
    async fn ask_or_recall(
        self: &Arc<Self>,
        source: &Source,
        list: &List,
    ) -> Result<Listed, MirrorError> {
        let policy = self.policies.of_repository(source);
        let now = self.clock.now();
        let old = self.seen.recall(source, list);
        let in_time = old
            .as_ref()
            .is_some_and(|old| old.may_be_stale(&policy, now));
        let answer = if in_time && policy.stale_on != StaleOn::NOTHING {
            match self.ask_in_haste(source, list).await {
                Err(error) if policy.demands_patience(error.failure()) => {
                    self.ask_list(source, list, Patience::Wait).await
                }
                answer => answer,
            }
        } else {
            self.ask_list(source, list, Patience::Wait).await
        };
        let error = match answer {
            Ok(listed) => return Ok(listed),
            Err(error) => error,
        };
        let usable = policy.serves_stale(error.failure()) && (in_time || error.is_unknown());
        if let Some(old) = old.filter(|_| usable) {
            let kind = list.kind().label();
            tracing::warn!(
                upstream = %source.upstream, repository = %source.repository, list = kind, %error,
                "upstream does not give a list; serving it as it was"
            );
            let now = self.clock.now();
            self.seen.failed(source, list, &old, now);
            return Ok(old.listed.as_stale());
        }
        if error.is_unknown() {
            self.seen.forget(source, list);
        }
        Err(error)
    }

    /// Asks for somebody who has an old list. Whatever upstream says too late is for those who ask next.
    async fn ask_in_haste(
        self: &Arc<Self>,
        source: &Source,
        list: &List,
    ) -> Result<Listed, MirrorError> {
        let (lists, source, list) = (Arc::clone(self), source.clone(), list.clone());
        let asking = self.tasks.spawn(in_request_scope(async move {
            lists.ask_list(&source, &list, Patience::Now).await
        }));
        match tokio::time::timeout(STALE_WAIT, asking).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(MirrorError::Busy("a request to upstream was given up")),
            Err(_) => Err(MirrorError::Timeout(FetchError::Timeout("a list"))),
        }
    }

    /// Asks upstream for a list, and keeps it in mind.
    async fn ask_list(
        self: &Arc<Self>,
        source: &Source,
        list: &List,
        patience: Patience,
    ) -> Result<Listed, MirrorError> {
        let listed = match list {
            List::Tags(query) => {
                let ask = self.ask_tags(source, query, patience);
                let what = What::List(list.clone());
                self.negative.unless_unknown(source, what, ask).await?
            }
            List::Referrers(digest, query) => {
                self.referrers.ask(source, digest, query, patience).await?
            }
        };
        if listed.outcome != Outcome::Stale {
            let now = self.clock.now();
            self.seen.note(source, list, listed.clone(), now);
        }
        Ok(listed)
    }

    async fn ask_tags(
        &self,
        source: &Source,
        query: &[(String, String)],
        patience: Patience,
    ) -> Result<Listed, MirrorError> {
        let (upstream, repository) = (self.upstreams.of(source)?, &source.repository);
        let fetched = upstream.tags(repository, query, patience).await;
        let fetched = fetched.map_err(|error| MirrorError::of_fetch(Kind::Tags, error))?;
        let bytes = fetched.bytes.clone();
        let name = repository.to_string();
        let bytes = look_through(fetched.bytes, move |bytes| {
            let found = list::tags(bytes)?;
            // What can be no tag cannot be pulled either.
            Ok((found.unfit > 0).then(|| list::tags_body(&name, &list::fit_tags(bytes))))
        })
        .await?
        .map_or(bytes, Bytes::from);
        Ok(Listed {
            bytes,
            next: other_page(fetched.next, query),
            filtered: false,
            empty: false,
            outcome: Outcome::Bypass,
            warnings: Vec::new(),
        })
    }
}

impl List {
    fn kind(&self) -> Kind {
        match self {
            Self::Tags(_) => Kind::Tags,
            Self::Referrers(..) => Kind::Referrers,
        }
    }
}

/// Reads a list, off the threads that serve requests if it is long.
///
/// # Errors
/// It is no list: upstream answered nonsense.
pub(super) async fn look_through<T: Send + 'static>(
    bytes: Bytes,
    look: impl FnOnce(&[u8]) -> Result<T, ListError> + Send + 'static,
) -> Result<T, MirrorError> {
    let looked = if bytes.len() <= AT_ONCE_BYTES_MAX {
        look(&bytes)
    } else {
        let looking = tokio::task::spawn_blocking(move || look(&bytes));
        let gone = MirrorError::Busy("a list was given up");
        looking.await.map_err(|_| gone)?
    };
    looked.map_err(|error| MirrorError::Upstream(FetchError::Protocol(error.to_string())))
}

/// The next page, unless it is the one that was asked for: whoever follows the links would never end.
pub(super) fn other_page(next: Option<NextPage>, query: &[(String, String)]) -> Option<NextPage> {
    next.filter(|next| next.query != query)
}

fn parse_entry(text: &str) -> Option<Source> {
    let (upstream, repository) = text.split_once('/')?;
    Some(Source {
        upstream: UpstreamName::parse(upstream).ok()?,
        repository: Repository::parse(repository).ok()?,
    })
}

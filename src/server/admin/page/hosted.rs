//! `/hosted`: what is hosted here, its repositories and their tags, uploads, and the garbage collector's queue.

use super::frame::Frame;
use super::show::{self, Moment, Show};
use crate::clock::Timestamp;
use crate::hosted::{
    AtLeast, Holdings, Hosted, HostedError, Looked, Namespace, RepositoryRow, Search, SessionInfo,
    TagRow, Visibility,
};
use crate::mirror::inspect::When;
use crate::oci::Repository;
use askama::Template;
use url::form_urlencoded;

pub(super) const HOME: &str = "/hosted";
pub(super) const REPOSITORIES: &str = "/hosted/repositories";
pub(super) const TAGS: &str = "/hosted/tags";

/// Rows of a list on a page.
pub(super) const ROWS_MAX: usize = 50;

/// Uploads that are shown, the oldest: the API lists all.
const UPLOADS_MAX: usize = 100;

/// A list that is searched and goes on page by page.
struct List {
    query: String,
    /// The links to the first page and the next one.
    first: Option<String>,
    next: Option<String>,
}

impl List {
    fn of<T>(
        path: &str,
        repository: Option<&str>,
        Search { part, after, .. }: &Search,
        found: &Looked<T>,
    ) -> Self {
        let link = |after: Option<&str>| {
            let pairs = [("repository", repository), ("q", Some(part.as_str()))];
            let pairs = pairs.into_iter().chain([("after", after)]);
            link(path, pairs)
        };
        Self {
            first: (!after.is_empty()).then(|| link(None)),
            next: found.next.as_deref().map(|after| link(Some(after))),
            query: part.clone(),
        }
    }
}

fn link<'a>(path: &str, pairs: impl IntoIterator<Item = (&'a str, Option<&'a str>)>) -> String {
    let mut text = form_urlencoded::Serializer::new(String::new());
    for (name, value) in pairs {
        if let Some(value) = value.filter(|it| !it.is_empty()) {
            text.append_pair(name, value);
        }
    }
    let text = text.finish();
    if text.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{text}")
    }
}

/// The page of all that is hosted.
#[derive(Template)]
#[template(path = "hosted.html")]
pub(super) struct Home {
    frame: Frame,
    is_on: bool,
    trouble: String,
    cards: Vec<Card>,
    namespaces: Vec<NamespaceLine>,
    list: List,
    uploads: Vec<UploadLine>,
    /// Uploads that are not shown.
    others: String,
}

struct Card {
    title: &'static str,
    value: String,
    note: String,
    /// A part of a hundred.
    percent: Option<u64>,
}

impl Home {
    /// The page of a process that hosts nothing.
    pub(super) fn of_nothing(frame: Frame) -> Self {
        Self {
            frame,
            is_on: false,
            trouble: String::new(),
            cards: Vec::new(),
            namespaces: Vec::new(),
            list: List {
                query: String::new(),
                first: None,
                next: None,
            },
            uploads: Vec::new(),
            others: String::new(),
        }
    }

    /// The page of what is hosted, with some namespaces.
    pub(super) async fn of(
        hosted: &Hosted,
        frame: Frame,
        search: Search,
        show: Show,
    ) -> Result<Self, HostedError> {
        let holdings = hosted.holdings().await?;
        let found = hosted.namespace_page(search.clone()).await?;
        let mut sessions = hosted.sessions();
        sessions.sort_by(|one, other| (one.begun, &one.id).cmp(&(other.begun, &other.id)));
        let others = sessions.len().saturating_sub(UPLOADS_MAX);
        sessions.truncate(UPLOADS_MAX);
        let uploads = sessions.iter().map(|it| UploadLine::of(it, show));
        Ok(Self {
            is_on: true,
            trouble: hosted.trouble().unwrap_or_default(),
            cards: cards(&holdings, show),
            namespaces: found
                .rows
                .iter()
                .map(|it| NamespaceLine::of(it, show))
                .collect(),
            list: List::of(HOME, None, &search, &found),
            uploads: uploads.collect(),
            others: if others > 0 {
                show::count(others as u64)
            } else {
                String::new()
            },
            frame,
        })
    }
}

fn cards(holdings: &Holdings, show: Show) -> Vec<Card> {
    let t = show.texts();
    let (used, max) = (holdings.bytes, holdings.max_bytes);
    let free = holdings
        .free_bytes
        .map_or_else(|| "–".to_owned(), show::size);
    let queue = holdings.queue;
    let due = match queue.oldest_due {
        None => t.queue_empty.to_owned(),
        Some(due) if due > show.now => {
            format!("{} {}", t.due_in, show.lasted(due.since(show.now)))
        }
        Some(_) => t.due_now.to_owned(),
    };
    vec![
        Card {
            title: t.hosted_usage,
            value: format!("{} {} {}", show::size(used), t.of, show::size(max)),
            note: format!(
                "{} {}, {free} {}",
                show::count(holdings.blobs),
                t.blobs,
                t.disk_free
            ),
            percent: Some(percent_of(used.min(max), max)),
        },
        Card {
            title: t.uploads,
            value: show::count(holdings.uploads as u64),
            note: t.uploads_note.to_owned(),
            percent: None,
        },
        Card {
            title: t.collector,
            value: at_least(queue.length, show::count),
            note: due,
            percent: None,
        },
        Card {
            title: t.condemned,
            value: at_least(queue.bytes, show::size),
            note: t.condemned_note.to_owned(),
            percent: None,
        },
    ]
}

fn at_least(it: AtLeast, show: impl FnOnce(u64) -> String) -> String {
    let more = if it.more { "+" } else { "" };
    format!("{}{more}", show(it.number))
}

fn moment(show: Show, at: Timestamp) -> Moment {
    show.moment(Some(When(at)))
}

struct NamespaceLine {
    name: String,
    link: String,
    visibility: &'static str,
    used: String,
    quota: String,
    /// A part of a hundred.
    percent: Option<u64>,
    created: Moment,
}

impl NamespaceLine {
    fn of(namespace: &Namespace, show: Show) -> Self {
        let t = show.texts();
        let (wanted, bytes) = (&namespace.wanted, namespace.bytes);
        let beginning = format!("{}/", wanted.name);
        Self {
            link: link(REPOSITORIES, [("q", Some(beginning.as_str()))]),
            visibility: match wanted.visibility {
                Visibility::Public => t.public,
                Visibility::Private => t.private,
            },
            used: show::size(bytes),
            quota: wanted.quota.map_or_else(|| "–".to_owned(), show::size),
            percent: wanted
                .quota
                .map(|quota| percent_of(bytes.min(quota), quota)),
            created: moment(show, namespace.created),
            name: wanted.name.clone(),
        }
    }
}

/// A part of a hundred; of nothing it is all.
fn percent_of(part: u64, whole: u64) -> u64 {
    let hundredth = u128::from(part) * 100 / u128::from(whole.max(1));
    if whole == 0 {
        return 100;
    }
    u64::try_from(hundredth).unwrap_or(100)
}

struct UploadLine {
    repository: String,
    owner: String,
    client: String,
    begun: Moment,
    last: Moment,
    bytes: String,
}

impl UploadLine {
    fn of(upload: &SessionInfo, show: Show) -> Self {
        Self {
            repository: upload.repository.clone(),
            owner: upload.owner.clone(),
            client: upload.client.to_string(),
            begun: moment(show, upload.begun),
            last: moment(show, upload.last),
            bytes: show::size(upload.bytes),
        }
    }
}

/// The page of repositories.
#[derive(Template)]
#[template(path = "repositories.html")]
pub(super) struct Repositories {
    frame: Frame,
    list: List,
    rows: Vec<Row>,
}

impl Repositories {
    /// The page of some repositories.
    pub(super) async fn of(
        hosted: &Hosted,
        frame: Frame,
        search: Search,
        show: Show,
    ) -> Result<Self, HostedError> {
        let found = hosted.repository_page(search.clone()).await?;
        Ok(Self {
            rows: found.rows.iter().map(|it| Row::of(it, show)).collect(),
            list: List::of(REPOSITORIES, None, &search, &found),
            frame,
        })
    }
}

struct Row {
    path: String,
    link: String,
    tags: String,
    created: Moment,
}

impl Row {
    fn of(repository: &RepositoryRow, show: Show) -> Self {
        Self {
            link: link(TAGS, [("repository", Some(repository.path.as_str()))]),
            tags: at_least(repository.tags, show::count),
            created: moment(show, repository.created),
            path: repository.path.clone(),
        }
    }
}

/// The page of a repository's tags.
#[derive(Template)]
#[template(path = "tags.html")]
pub(super) struct Tags {
    frame: Frame,
    repository: String,
    list: List,
    rows: Vec<TagLine>,
}

impl Tags {
    /// The page of some tags of a repository.
    pub(super) async fn of(
        hosted: &Hosted,
        repository: &Repository,
        frame: Frame,
        search: Search,
        show: Show,
    ) -> Result<Self, HostedError> {
        let found = hosted.tag_page(repository, search.clone()).await?;
        Ok(Self {
            rows: found.rows.iter().map(|it| TagLine::of(it, show)).collect(),
            list: List::of(TAGS, Some(repository.as_str()), &search, &found),
            repository: repository.to_string(),
            frame,
        })
    }
}

struct TagLine {
    name: String,
    digest: String,
    short: String,
    media_type: String,
    size: String,
    pushed: Moment,
    by: String,
}

impl TagLine {
    fn of(tag: &TagRow, show: Show) -> Self {
        let digest = tag.digest.to_string();
        Self {
            name: tag.name.clone(),
            short: show::digest(&digest),
            digest,
            media_type: tag.media_type.clone(),
            size: at_least(tag.bytes, show::size),
            pushed: moment(show, tag.pushed),
            by: tag.by.clone(),
        }
    }
}

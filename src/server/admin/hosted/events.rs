//! `/api/v1/events` and `/api/v1/tags/history`: what has changed, and who has done it.

use super::removal::repository;
use super::{Answer, json};
use crate::clock::Timestamp;
use crate::hosted::{EventPage, EventRow, Hosted};
use crate::mirror::inspect::When;
use crate::oci::Tag;
use crate::server::admin::error::AdminError;
use crate::server::admin::query::Query;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use std::time::{Duration, UNIX_EPOCH};
use tokio_util::sync::CancellationToken;

/// Events in an answer, unless another number is asked for; more than 1,000 are never in one.
const LIMIT_DEFAULT: usize = 100;

/// The longest time that a request waits for an event.
const WAIT_MAX: Duration = Duration::from_mins(1);

/// The longest pattern of repositories.
const PATTERN_BYTES_MAX: usize = 512;

/// A change of what is hosted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventInfo {
    /// Its number: one more than that of the change before.
    pub seq: i64,
    /// When.
    pub time: When,
    /// What: `tag.moved` and so on.
    pub kind: String,
    /// The repository or namespace.
    pub repository: String,
    /// The tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Who.
    pub by: String,
    /// The rule by which it was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

/// Some changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventList {
    /// They, the oldest first.
    pub events: Vec<EventInfo>,
    /// To be given as `after` for what follows.
    pub next: i64,
    /// The number of the last change.
    pub last: i64,
    /// Changes that were asked for and are not kept any more.
    pub missed: u64,
}

/// A change of a tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagMoveInfo {
    /// Its number, to be given as `before` for what was earlier.
    pub seq: i64,
    /// What the tag named before; nothing, if there was none.
    pub from: Option<String>,
    /// What it named then; nothing: it was deleted.
    pub to: Option<String>,
    /// When.
    pub time: When,
    /// Who.
    pub by: String,
}

/// The history of a tag, the latest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagHistory {
    /// It.
    pub history: Vec<TagMoveInfo>,
}

/// What is asked for.
struct Wanted {
    after: Option<i64>,
    pattern: Option<String>,
    limit: usize,
    wait: Duration,
}

/// Answers with changes, and waits for some if that is asked for.
pub(super) async fn events(
    hosted: &Hosted,
    stop: &CancellationToken,
    method: &Method,
    mut query: Query,
) -> Answer {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(AdminError::method("GET, HEAD"));
    }
    let wanted = wanted(hosted, &mut query).await?;
    query.end()?;
    let page = read(hosted, stop, wanted).await?;
    let list = EventList {
        events: page.events.into_iter().map(event).collect(),
        next: page.next,
        last: page.last,
        missed: page.missed,
    };
    json(StatusCode::OK, &list)
}

async fn wanted(hosted: &Hosted, query: &mut Query) -> Result<Wanted, AdminError> {
    let after = query.take("after")?.map(|text| text.parse::<i64>());
    let after = after
        .transpose()
        .ok()
        .filter(|it| it.is_none_or(|it| it >= 0));
    let after = after.ok_or_else(|| AdminError::bad("after must be the number of an event"))?;
    let since = query.take("since")?.map(|text| time(&text)).transpose()?;
    let after = match (after, since) {
        (Some(_), Some(_)) => return Err(AdminError::bad("write after or since, not both")),
        (after, None) => after,
        (None, Some(since)) => Some(hosted.events_before(since).await?),
    };
    let pattern = query.take("repository")?;
    if pattern
        .as_ref()
        .is_some_and(|it| it.len() > PATTERN_BYTES_MAX)
    {
        return Err(AdminError::bad("repository is too long a pattern"));
    }
    let wait = query.number("wait")?.unwrap_or_default();
    let wait = Duration::from_secs(u64::try_from(wait).unwrap_or(u64::MAX));
    Ok(Wanted {
        after,
        pattern,
        limit: query.number("limit")?.unwrap_or(LIMIT_DEFAULT),
        wait: wait.min(WAIT_MAX),
    })
}

async fn read(
    hosted: &Hosted,
    stop: &CancellationToken,
    wanted: Wanted,
) -> Result<EventPage, AdminError> {
    let Wanted {
        mut after,
        pattern,
        limit,
        wait,
    } = wanted;
    let mut follower = (!wait.is_zero()).then(|| hosted.follower()).transpose()?;
    let end = tokio::time::Instant::now() + wait;
    let mut missed = 0;
    loop {
        let mut page = hosted.events(after, pattern.as_deref(), limit).await?;
        if page.next > page.last {
            let why = format!(
                "there is no event {} yet: the last is {}. If an older catalogue was restored, begin there",
                page.next, page.last
            );
            return Err(AdminError::new(StatusCode::CONFLICT, why));
        }
        missed += page.missed;
        page.missed = missed;
        let Some(follower) = follower.as_mut().filter(|_| page.events.is_empty()) else {
            return Ok(page);
        };
        after = Some(page.next);
        if page.next < page.last {
            continue;
        }
        tokio::select! {
            () = follower.wait() => {}
            () = tokio::time::sleep_until(end) => return Ok(page),
            () = stop.cancelled() => return Ok(page),
        }
    }
}

/// The history of a tag.
pub(super) async fn history(hosted: &Hosted, method: &Method, mut query: Query) -> Answer {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(AdminError::method("GET, HEAD"));
    }
    let repository = repository(&mut query)?;
    let tag = Tag::parse(&query.need("tag")?);
    let tag = tag.map_err(|error| AdminError::bad(format!("tag: {error}")))?;
    let before = query.number("before")?;
    let before = before.map(|it| i64::try_from(it).unwrap_or(i64::MAX));
    let limit = query.number("limit")?.unwrap_or(LIMIT_DEFAULT);
    query.end()?;
    let moves = hosted.tag_history(&repository, &tag, before, limit).await?;
    let history = moves.into_iter().map(|it| TagMoveInfo {
        seq: it.seq,
        from: it.from.map(|digest| digest.to_string()),
        to: it.to.map(|digest| digest.to_string()),
        time: When(it.at),
        by: it.by,
    });
    let history = history.collect();
    json(StatusCode::OK, &TagHistory { history })
}

fn event(row: EventRow) -> EventInfo {
    EventInfo {
        seq: row.seq,
        time: When(row.at),
        kind: row.kind,
        repository: row.repository,
        tag: row.tag,
        digest: row.digest.map(|it| it.to_string()),
        by: row.by,
        rule: row.rule,
    }
}

fn time(text: &str) -> Result<Timestamp, AdminError> {
    let read = humantime::parse_rfc3339_weak(text).ok();
    let since = read.and_then(|it| it.duration_since(UNIX_EPOCH).ok());
    let ms = since.and_then(|it| u64::try_from(it.as_millis()).ok());
    ms.map(Timestamp)
        .ok_or_else(|| AdminError::bad("since must be a time like 2026-11-21T19:34:54Z"))
}

//! Records, and how they are written. Nothing in one is a secret.

use crate::clock::Timestamp;
use crate::format;
use serde::Serialize;
use serde_json::Value;
use std::time::{Duration, UNIX_EPOCH};

/// An identity.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Who<'a> {
    /// `anonymous`, `user`, `robot` and so on.
    pub kind: &'a str,
    /// Its name.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub name: &'a str,
}

/// The one who asks for something.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Asker<'a> {
    /// The identity.
    pub who: Who<'a>,
    /// The id of the token that was used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<&'a str>,
    /// The address.
    pub client: &'a str,
    /// The request's id, as in the access line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<&'a str>,
}

/// An event.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event<'a> {
    /// Content was asked for, and was not denied.
    Pull(Pull<'a>),
    /// Credentials were checked.
    Login(Login<'a>),
    /// The rules have denied something, or would have.
    Denied(Denial<'a>),
    /// An operator has changed something.
    Admin(Act<'a>),
}

/// A pull, when its answer has ended.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Pull<'a> {
    /// `GET` or `HEAD`.
    pub method: &'a str,
    /// The upstream.
    pub upstream: &'a str,
    /// The repository.
    pub repository: &'a str,
    /// The tag or digest that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<&'a str>,
    /// The digest, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<&'a str>,
    /// The status.
    pub status: u16,
    /// Bytes of the body that were sent.
    pub bytes: u64,
    /// The way it was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<&'a str>,
    /// `complete`, `cancelled` or `failed`.
    pub ended: &'a str,
}

/// Credentials that were checked.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Login<'a> {
    /// The kind of credentials.
    pub method: &'a str,
    /// `accepted`, `rejected`, `limited` or `unavailable`.
    pub result: &'a str,
    /// The user name that came with them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<&'a str>,
}

/// A denial.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Denial<'a> {
    /// The action.
    pub action: &'static str,
    /// The resource.
    pub resource: &'a str,
    /// The deciding statement: `policy#n`, `default`, or a key of the configuration.
    pub statement: &'a str,
    /// True if it was refused; false where the rules are not enforced.
    pub enforced: bool,
}

/// An operator's request.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Act<'a> {
    /// The method.
    pub method: &'a str,
    /// The path and query.
    pub path: &'a str,
    /// The status of the answer.
    pub status: u16,
    /// All that it has changed.
    pub changes: &'a [Change],
}

/// One change.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// The act: `user added`.
    pub change: &'static str,
    /// The object: a name, or a token's id.
    pub name: String,
    /// As it was.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub before: Value,
    /// As it is.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub after: Value,
}

/// The claim of a record to room in the queue, the weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// A busy mirror has thousands a second.
    Pull,
    /// Anybody can cause them.
    Login,
    /// An operator's.
    Act,
}

impl Event<'_> {
    /// The claim to room.
    pub(super) fn weight(&self) -> Weight {
        match self {
            Self::Pull(_) => Weight::Pull,
            Self::Login(_) | Self::Denied(_) => Weight::Login,
            Self::Admin(_) => Weight::Act,
        }
    }
}

/// A record as it is written.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(flatten)]
    event: &'a Event<'a>,
    #[serde(flatten)]
    asker: &'a Asker<'a>,
}

/// A change of what is hosted, as its own log has it. It has the number that it has there: who reads two of the same reads one.
#[derive(Clone, Copy, Debug)]
pub struct HostedRecord<'a> {
    /// Its number.
    pub seq: i64,
    /// When it was made.
    pub at: Timestamp,
    /// What was changed.
    pub change: &'a str,
    /// The repository or namespace.
    pub repository: &'a str,
    /// The tag.
    pub tag: Option<&'a str>,
    /// The digest.
    pub digest: Option<&'a str>,
    /// Who has done it.
    pub by: &'a str,
    /// The rule by which it was done.
    pub rule: Option<&'a str>,
}

/// A change of what is hosted, as it is written.
#[derive(Serialize)]
struct HostedLine<'a> {
    time: String,
    event: &'static str,
    seq: i64,
    change: &'a str,
    repository: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<&'a str>,
    by: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
}

/// Says that changes of what is hosted were gone before they could be read.
#[derive(Serialize)]
struct Missed {
    time: String,
    event: &'static str,
    changes: u64,
}

/// Says that records were dropped.
#[derive(Serialize)]
struct Dropped {
    time: String,
    event: &'static str,
    records: u64,
}

/// The line of a record, with its end.
pub(super) fn line(now: Timestamp, asker: &Asker<'_>, event: &Event<'_>) -> String {
    let time = time(now);
    written(&Line { time, event, asker })
}

/// The line of a change of what is hosted.
pub(super) fn hosted_line(record: &HostedRecord<'_>) -> String {
    written(&HostedLine {
        time: time(record.at),
        event: HOSTED,
        seq: record.seq,
        change: record.change,
        repository: record.repository,
        tag: record.tag,
        digest: record.digest,
        by: record.by,
        rule: record.rule,
    })
}

/// The line that says how many changes of what is hosted are not recorded before it.
pub(super) fn missed(now: Timestamp, changes: u64) -> String {
    let (time, event) = (time(now), "missed");
    written(&Missed {
        time,
        event,
        changes,
    })
}

/// The number of the change that a line is about, if it is about one.
pub(super) fn hosted_seq(line: &[u8]) -> Option<i64> {
    let value: Value = serde_json::from_slice(line).ok()?;
    let is_hosted = value.get("event").and_then(Value::as_str) == Some(HOSTED);
    value.get("seq").filter(|_| is_hosted)?.as_i64()
}

/// The name of the event.
const HOSTED: &str = "hosted";

/// The line that says how many records were dropped before it.
pub(super) fn dropped(now: Timestamp, records: u64) -> String {
    let (time, event) = (time(now), "dropped");
    written(&Dropped {
        time,
        event,
        records,
    })
}

fn written(value: &impl Serialize) -> String {
    // Maps with text for keys always have a JSON form.
    let json = serde_json::to_string(value).unwrap_or_default();
    let mut line = format::escaped(&json).into_owned();
    line.push('\n');
    line
}

fn time(now: Timestamp) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(now.0);
    humantime::format_rfc3339_millis(at).to_string()
}

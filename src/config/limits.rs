//! `[[access.limit]]` and `[audit]`.

use std::num::NonZeroU32;

use serde_json::{Value as Json, json};
use toml::de::DeValue;

use super::table::{About, Context, Given, Scalar, Values as _, name, table};
use super::values::{Path, Rate, Size, UpTo};
use crate::access::limits::{LIMITS_MAX, Limit, Meaning};
use crate::audit;

/// More than a mirror answers.
const REQUESTS_MAX: usize = 1_000_000;
/// As `server.max_connections`.
const CONNECTIONS_MAX: usize = 1_000_000;
/// Each is renamed when the file is rotated.
const KEEP_MAX: usize = 1000;

table! {
    /// `[[access.limit]]`.
    LimitKey {
        /// The clients that it limits, each by itself: `user:NAME`, `robot:NAME`, `certificate:NAME`, `workload:NAME` (`*` is every name), `group:NAME`, `anonymous`, `address`, a network, or `*`. Anonymous clients are told apart by their addresses (of IPv6, by the /64), and so are all with `address` and a network. Required.
        pattern as "match": Meanings,
        /// Requests per second, with a burst of one second's worth; further requests get 429.
        requests: UpTo<REQUESTS_MAX>,
        /// Bytes of bodies a second; what is over is slowed down.
        bytes: Size,
        /// Client connections at the same time; requests on further ones are answered with 429.
        connections: UpTo<CONNECTIONS_MAX>,
        /// Bytes of bodies in a day of UTC; then requests are answered with 429 until the next. Counted in memory: a restart begins anew.
        bytes_per_day: Size,
    }
}

table! {
    /// `[audit]`.
    AuditKey {
        /// The file, which a JSON object is appended to for each pull, login, denial and admin act. Required.
        path: Path,
        /// The size at which it is renamed to `path.1`, `path.1` to `path.2` and so on; `0` turns that off, for `logrotate` and SIGUSR1. Default: `100MB`.
        max_size: Rate,
        /// The number of older files that are kept. Default: `5`.
        keep: UpTo<KEEP_MAX>,
    }
}

/// Whom a limit means.
pub(super) enum Meanings {}

impl Scalar for Meanings {
    type Value = Meaning;

    fn parse(written: &DeValue<'_>) -> Result<Meaning, String> {
        written.as_str().ok_or("must be text")?.parse()
    }
    fn schema() -> Json {
        json!({
            "type": "string",
            "pattern": r"^(\*|address|anonymous|[0-9a-fA-F:.]+(/[0-9]{1,3})?|(user|group|robot|certificate|workload):.+)$"
        })
    }
}

impl About for LimitKey {
    const MAX: usize = LIMITS_MAX;

    fn about_list() -> String {
        "must be an array of tables, each under [[access.limit]]".to_owned()
    }
}

/// Resolves the limits.
pub(super) fn resolve(
    given: Option<&Given<Vec<Given<LimitKey>>>>,
    context: &Context<'_>,
) -> Vec<Limit> {
    let given = given.iter().flat_map(|given| &given.value);
    given
        .filter_map(|given| limit(&given.value, context))
        .collect()
}

fn limit(keys: &LimitKey, context: &Context<'_>) -> Option<Limit> {
    let table = &keys.keys;
    let why = "is missing; write match = \"anonymous\", \"user:NAME\" or \"*\"";
    let meaning = table
        .required(keys.pattern.as_ref(), "match", why, context)
        .ok()?;
    let figures = ["requests", "bytes", "connections", "bytes_per_day"];
    if figures.iter().all(|name| table.place_of(name).is_none()) {
        let why = "limits nothing; add requests, bytes, connections or bytes_per_day";
        context.wrong(&meaning.place, why);
    }
    let requests = keys.requests.value().and_then(|it| u32::try_from(it).ok());
    Some(Limit {
        meaning: meaning.value.clone(),
        requests: requests.and_then(NonZeroU32::new),
        bytes: keys.bytes.value(),
        connections: keys.connections.value(),
        bytes_per_day: keys.bytes_per_day.value(),
    })
}

/// Resolves `[audit]`.
pub(super) fn audit(
    given: Option<&Given<AuditKey>>,
    context: &Context<'_>,
) -> Option<audit::Config> {
    let keys = &given?.value;
    let why = "is missing; write path = \"/var/log/roadstead/audit.log\"";
    let path = keys
        .keys
        .required(keys.path.as_ref(), "path", why, context)
        .ok()?;
    Some(audit::Config {
        path: path.value.clone(),
        max_size: keys.max_size.value_or(audit::MAX_SIZE),
        keep: keys.keep.value_or(audit::KEEP),
    })
}

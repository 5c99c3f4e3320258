//! What connections may take.

use super::error::Problem;
use super::raw::{self, Value};
use super::{resolve_or, values};
use crate::server;

/// The limits of `[server]`.
pub(super) fn resolve(raw: &raw::Server) -> Result<server::Limits, Problem> {
    let usual = server::Limits::default();
    Ok(server::Limits {
        max_connections: resolve_or(
            raw.max_connections.as_ref(),
            "server.max_connections",
            connections,
            usual.max_connections,
        )?,
        head_timeout: resolve_or(
            raw.head_timeout.as_ref(),
            "server.head_timeout",
            values::time_limit,
            usual.head_timeout,
        )?,
        idle_timeout: resolve_or(
            raw.idle_timeout.as_ref(),
            "server.idle_timeout",
            values::time_limit,
            usual.idle_timeout,
        )?,
        body_stall_timeout: resolve_or(
            raw.body_stall_timeout.as_ref(),
            "server.body_stall_timeout",
            values::time_limit,
            usual.body_stall_timeout,
        )?,
        body_min_rate: resolve_or(
            raw.body_min_rate.as_ref(),
            "server.body_min_rate",
            rate,
            usual.body_min_rate,
        )?,
    })
}

fn connections(value: &Value) -> Result<usize, String> {
    values::number(value, CONNECTIONS_MAX)
}

/// Bytes a second: a size, or 0 for none.
fn rate(value: &Value) -> Result<u64, String> {
    let is_zero = match value {
        Value::Integer(number) => *number == 0,
        Value::Text(text) => matches!(text.trim(), "0" | "0B"),
        Value::Boolean(_) | Value::List(_) | Value::Table(_) | Value::Other => false,
    };
    if is_zero { Ok(0) } else { values::size(value) }
}

/// More descriptors than a process is let have.
const CONNECTIONS_MAX: usize = 1_000_000;

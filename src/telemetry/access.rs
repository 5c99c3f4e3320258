//! The access line, written without the log library's machinery, which would cost more than all else about a small
//! answer. It looks as if the library had written it.

use std::cell::RefCell;
use std::fmt::{self, Display, Write as _};
use std::time::{Duration, SystemTime};

use super::logging::LogFormat;

/// The target of access lines.
pub const TARGET: &str = "roadstead::access";

/// What an access line says; `None` is left away.
#[derive(Clone, Copy)]
#[expect(missing_docs, reason = "the names are those of docs/logs.md")]
pub struct AccessLine<'a> {
    pub request_id: &'a dyn Display,
    pub client: &'a str,
    pub method: &'a str,
    pub path: &'a str,
    pub upstream: Option<&'a str>,
    pub repository: Option<&'a str>,
    pub reference: Option<&'a dyn Display>,
    pub digest: Option<&'a dyn Display>,
    pub status: u16,
    pub outcome: Option<&'a str>,
    pub bytes: u64,
    pub ttfb: Option<Duration>,
    pub total: Duration,
    pub ended: &'a str,
    pub cause: Option<&'a str>,
    pub user_agent: Option<&'a str>,
}

impl fmt::Debug for AccessLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLine")
            .field("path", &self.path)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// One value.
enum Value<'a> {
    /// What needs no quotes where a person reads it.
    Shown(&'a dyn Display),
    /// The same, as text.
    Plain(&'a str),
    Text(&'a str),
    Number(u64),
    Milliseconds(Duration),
}

impl AccessLine<'_> {
    /// Gives the line, with its end, to `take`.
    pub(super) fn render(&self, format: LogFormat, at: SystemTime, take: impl FnOnce(&[u8])) {
        thread_local! {
            static LINE: RefCell<String> = const { RefCell::new(String::new()) };
        }
        LINE.with_borrow_mut(|line| {
            line.clear();
            // Writing to a string does not fail.
            let written = match format {
                LogFormat::Text => self.text(line, at),
                LogFormat::Json => self.json(line, at),
            };
            if written.is_ok() {
                take(line.as_bytes());
            }
        });
    }

    fn text(&self, line: &mut String, at: SystemTime) -> fmt::Result {
        write!(
            line,
            "{}  INFO {TARGET}: request",
            humantime::format_rfc3339_micros(at)
        )?;
        self.each(|name, value| {
            line.push(' ');
            line.push_str(name);
            line.push('=');
            match value {
                Value::Shown(value) => write!(line, "{value}"),
                Value::Plain(text) => line.write_str(text),
                Value::Text(text) if is_harmless(text) => {
                    line.push('"');
                    line.push_str(text);
                    line.push('"');
                    Ok(())
                }
                Value::Text(text) => write!(line, "{text:?}"),
                Value::Number(number) => write!(line, "{number}"),
                Value::Milliseconds(wait) => milliseconds(line, wait),
            }
        })?;
        line.push('\n');
        Ok(())
    }

    fn json(&self, line: &mut String, at: SystemTime) -> fmt::Result {
        write!(
            line,
            r#"{{"timestamp":"{}","level":"INFO","message":"request""#,
            humantime::format_rfc3339_micros(at)
        )?;
        self.each(|name, value| {
            line.push_str(",\"");
            line.push_str(name);
            line.push_str("\":");
            match value {
                // Names of upstreams, repositories, tags, digests and addresses, whose grammars have neither
                // quotes nor backslashes.
                Value::Shown(value) => write!(line, "\"{value}\""),
                Value::Plain(text) => write!(line, "\"{text}\""),
                Value::Text(text) if is_harmless(text) => {
                    line.push('"');
                    line.push_str(text);
                    line.push('"');
                    Ok(())
                }
                Value::Text(text) => {
                    let quoted = serde_json::to_string(text).map_err(|_| fmt::Error)?;
                    line.push_str(&quoted);
                    Ok(())
                }
                Value::Number(number) => write!(line, "{number}"),
                Value::Milliseconds(wait) => milliseconds(line, wait),
            }
        })?;
        writeln!(line, r#","target":"{TARGET}"}}"#)
    }

    /// All that there is, in the order of the library's line.
    fn each(&self, mut say: impl FnMut(&str, Value<'_>) -> fmt::Result) -> fmt::Result {
        say("request_id", Value::Shown(self.request_id))?;
        say("client", Value::Plain(self.client))?;
        say("method", Value::Plain(self.method))?;
        say("path", Value::Text(self.path))?;
        for (name, value) in [("upstream", self.upstream), ("repository", self.repository)] {
            if let Some(text) = value {
                say(name, Value::Plain(text))?;
            }
        }
        for (name, value) in [("reference", self.reference), ("digest", self.digest)] {
            if let Some(value) = value {
                say(name, Value::Shown(value))?;
            }
        }
        say("status", Value::Number(self.status.into()))?;
        if let Some(outcome) = self.outcome {
            say("outcome", Value::Text(outcome))?;
        }
        say("bytes", Value::Number(self.bytes))?;
        if let Some(ttfb) = self.ttfb {
            say("ttfb_ms", Value::Milliseconds(ttfb))?;
        }
        say("total_ms", Value::Milliseconds(self.total))?;
        say("ended", Value::Text(self.ended))?;
        for (name, value) in [("cause", self.cause), ("user_agent", self.user_agent)] {
            if let Some(value) = value {
                say(name, Value::Text(value))?;
            }
        }
        Ok(())
    }
}

/// Milliseconds with three places: a hit takes fractions of one.
fn milliseconds(line: &mut String, wait: Duration) -> fmt::Result {
    let micros = wait.as_micros();
    write!(line, "{}.{:03}", micros / 1000, micros % 1000)
}

/// Whether text stands between quotes as it is, for people and in JSON.
fn is_harmless(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    const LINE: AccessLine<'static> = AccessLine {
        request_id: &"ab-1",
        client: "192.0.2.1:4711",
        method: "GET",
        path: "/v2/\"x\"\n/blobs",
        upstream: Some("docker.io"),
        repository: None,
        reference: Some(&"v1"),
        digest: None,
        status: 404,
        outcome: Some("error"),
        bytes: 7,
        ttfb: Some(Duration::from_micros(1_050)),
        total: Duration::from_nanos(12_000_400),
        ended: "complete",
        cause: Some("back\\slash"),
        user_agent: Some("docker/1"),
    };

    fn rendered(format: LogFormat) -> String {
        let mut whole = String::new();
        let at = UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_042);
        LINE.render(format, at, |line| {
            whole.push_str(std::str::from_utf8(line).unwrap());
        });
        whole
    }

    #[test]
    fn for_people() {
        assert_eq!(
            rendered(LogFormat::Text),
            "2023-11-14T22:13:20.000042Z  INFO roadstead::access: request request_id=ab-1 client=192.0.2.1:4711 \
             method=GET path=\"/v2/\\\"x\\\"\\n/blobs\" upstream=docker.io reference=v1 status=404 outcome=\"error\" \
             bytes=7 ttfb_ms=1.050 total_ms=12.000 ended=\"complete\" cause=\"back\\\\slash\" user_agent=\"docker/1\"\n"
        );
    }

    #[test]
    fn for_programs() {
        let line = rendered(LogFormat::Json);
        assert!(line.ends_with("}\n"));
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let expected = serde_json::json!({
            "timestamp": "2023-11-14T22:13:20.000042Z", "level": "INFO", "message": "request",
            "request_id": "ab-1", "client": "192.0.2.1:4711", "method": "GET", "path": "/v2/\"x\"\n/blobs",
            "upstream": "docker.io", "reference": "v1", "status": 404, "outcome": "error", "bytes": 7,
            "ttfb_ms": 1.05, "total_ms": 12.0, "ended": "complete", "cause": "back\\slash",
            "user_agent": "docker/1", "target": "roadstead::access",
        });
        assert_eq!(line, expected);
    }
}

//! The access line, written without the log library's machinery, which would cost more than all else about a small
//! answer. It looks as if the library had written it.

use std::cell::RefCell;
use std::fmt::{self, Display, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::format::LogFormat;
use crate::format;

/// The target of access lines.
pub const TARGET: &str = "roadstead::access";

/// The fields of an access line; `None` is left away.
#[derive(Clone, Copy)]
#[expect(missing_docs, reason = "the names are those of docs/operations.md")]
pub struct AccessLine<'a> {
    pub request_id: &'a dyn Display,
    pub trace_id: Option<u128>,
    pub client: &'a str,
    pub user: Option<&'a str>,
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

/// A name with what stands around it, so that it is written in one go.
struct Name {
    text: &'static str,
    json: &'static str,
}

macro_rules! named {
    ($name:literal) => {
        Name {
            text: concat!(" ", $name, "="),
            json: concat!(",\"", $name, "\":"),
        }
    };
}

/// One value.
enum Value<'a> {
    /// Text that needs no quotes where a person reads it.
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
            match format {
                LogFormat::Text => self.text(line, at),
                LogFormat::Json => self.json(line, at),
            }
            take(line.as_bytes());
        });
    }

    fn text(&self, line: &mut String, at: SystemTime) {
        time(line, at);
        line.push_str("  INFO ");
        line.push_str(TARGET);
        line.push_str(": request");
        self.each(|name, value| {
            line.push_str(name.text);
            match value {
                Value::Shown(value) => show(line, value),
                Value::Plain(text) => line.push_str(text),
                Value::Text(text) if is_harmless(text) => quote(line, text),
                Value::Text(text) => show(line, &format_args!("{text:?}")),
                Value::Number(number) => line.push_str(itoa::Buffer::new().format(number)),
                Value::Milliseconds(wait) => milliseconds(line, wait),
            }
        });
        line.push('\n');
    }

    fn json(&self, line: &mut String, at: SystemTime) {
        line.push_str("{\"timestamp\":\"");
        time(line, at);
        line.push_str("\",\"level\":\"INFO\",\"message\":\"request\"");
        self.each(|name, value| {
            line.push_str(name.json);
            match value {
                // Names of upstreams, repositories, tags, digests and addresses, whose grammars have neither
                // quotes nor backslashes.
                Value::Shown(value) => {
                    line.push('"');
                    show(line, value);
                    line.push('"');
                }
                Value::Plain(text) => quote(line, text),
                Value::Text(text) if is_harmless(text) => quote(line, text),
                // Text always has a JSON form.
                Value::Text(text) => line.push_str(&format::json(&text).unwrap_or_default()),
                Value::Number(number) => line.push_str(itoa::Buffer::new().format(number)),
                Value::Milliseconds(wait) => milliseconds(line, wait),
            }
        });
        line.push_str(",\"target\":\"");
        line.push_str(TARGET);
        line.push_str("\"}\n");
    }

    /// All that there is, in the order of the library's line.
    fn each(&self, mut say: impl FnMut(&Name, Value<'_>)) {
        say(&named!("request_id"), Value::Shown(self.request_id));
        if let Some(id) = self.trace_id {
            say(
                &named!("trace_id"),
                Value::Shown(&format_args!("{id:032x}")),
            );
        }
        say(&named!("client"), Value::Plain(self.client));
        if let Some(user) = self.user {
            say(&named!("user"), Value::Text(user));
        }
        say(&named!("method"), Value::Plain(self.method));
        say(&named!("path"), Value::Text(self.path));
        let mut say_some = |name: &Name, value: Option<Value<'_>>| {
            if let Some(value) = value {
                say(name, value);
            }
        };
        say_some(&named!("upstream"), self.upstream.map(Value::Plain));
        say_some(&named!("repository"), self.repository.map(Value::Plain));
        say_some(&named!("reference"), self.reference.map(Value::Shown));
        say_some(&named!("digest"), self.digest.map(Value::Shown));
        say_some(&named!("status"), Some(Value::Number(self.status.into())));
        say_some(&named!("outcome"), self.outcome.map(Value::Text));
        say_some(&named!("bytes"), Some(Value::Number(self.bytes)));
        say_some(&named!("ttfb_ms"), self.ttfb.map(Value::Milliseconds));
        say_some(&named!("total_ms"), Some(Value::Milliseconds(self.total)));
        say_some(&named!("ended"), Some(Value::Text(self.ended)));
        say_some(&named!("cause"), self.cause.map(Value::Text));
        say_some(&named!("user_agent"), self.user_agent.map(Value::Text));
    }
}

/// The line that says how many others were dropped, with its end.
pub(super) fn dropped(format: LogFormat, at: SystemTime, lines: u64) -> String {
    let mut line = String::new();
    let mut now = String::new();
    time(&mut now, at);
    let message = "dropped log lines, since nobody read standard error";
    let target = "roadstead::telemetry";
    let written = match format {
        LogFormat::Text => writeln!(line, "{now}  WARN {target}: {message} lines={lines}"),
        LogFormat::Json => writeln!(
            line,
            "{{\"timestamp\":\"{now}\",\"level\":\"WARN\",\"message\":\"{message}\",\"lines\":{lines},\"target\":\"{target}\"}}"
        ),
    };
    // Writing to a string does not fail.
    let _written = written.is_ok();
    line
}

fn show(line: &mut String, value: &dyn Display) {
    // Writing to a string does not fail.
    let _written = write!(line, "{value}").is_ok();
}

fn quote(line: &mut String, text: &str) {
    line.push('"');
    line.push_str(text);
    line.push('"');
}

/// Milliseconds with three places: a hit takes fractions of one.
fn milliseconds(line: &mut String, wait: Duration) {
    let micros = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
    line.push_str(itoa::Buffer::new().format(micros / 1000));
    line.push('.');
    padded(line, micros % 1000, 3);
}

/// The time, as RFC 3339 has it, to the microsecond.
fn time(line: &mut String, at: SystemTime) {
    thread_local! {
        /// The last seconds, and their text.
        static SECONDS: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
    }
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    SECONDS.with_borrow_mut(|(seconds, text)| {
        if *seconds != since.as_secs() {
            *seconds = since.as_secs();
            let whole = UNIX_EPOCH + Duration::from_secs(*seconds);
            *text = humantime::format_rfc3339_seconds(whole).to_string();
            text.pop();
        }
        line.push_str(text);
    });
    line.push('.');
    padded(line, since.subsec_micros().into(), 6);
    line.push('Z');
}

/// A number with zeros before it.
fn padded(line: &mut String, number: u64, places: usize) {
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(number);
    for _ in digits.len()..places {
        line.push('0');
    }
    line.push_str(digits);
}

/// True if text stands between quotes as it is, for people and in JSON.
fn is_harmless(text: &str) -> bool {
    // Counted to the end, so that many bytes are looked at in one go.
    let harmless = |byte: &u8| matches!(byte, b' ' | b'!' | b'#'..=b'[' | b']'..=b'~');
    text.bytes().filter(harmless).count() == text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: AccessLine<'static> = AccessLine {
        request_id: &"ab-1",
        trace_id: Some(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c),
        client: "192.0.2.1:4711",
        user: Some("robot:ci"),
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
            "2023-11-14T22:13:20.000042Z  INFO roadstead::access: request request_id=ab-1 trace_id=0af7651916cd43dd8448eb211c80319c client=192.0.2.1:4711 \
             user=\"robot:ci\" method=GET path=\"/v2/\\\"x\\\"\\n/blobs\" upstream=docker.io reference=v1 status=404 outcome=\"error\" \
             bytes=7 ttfb_ms=1.050 total_ms=12.000 ended=\"complete\" cause=\"back\\\\slash\" user_agent=\"docker/1\"\n"
        );
    }

    /// A path may have any character that UTF-8 has.
    #[test]
    fn what_clients_say_gives_no_commands() {
        let nasty = "/v2/\u{202e}x\u{9b}31m\u{200b}\u{1b}[2J\nforged";
        for format in [LogFormat::Text, LogFormat::Json] {
            let line = AccessLine {
                path: nasty,
                user: Some(nasty),
                user_agent: Some(nasty),
                ..LINE
            };
            let mut whole = String::new();
            line.render(format, UNIX_EPOCH, |line| {
                whole.push_str(std::str::from_utf8(line).unwrap());
            });
            assert!(!whole.trim_end().contains(format::is_odd), "{whole:?}");
            if format == LogFormat::Json {
                let back: serde_json::Value = serde_json::from_str(&whole).unwrap();
                assert_eq!(back["path"], nasty);
            }
        }
    }

    #[test]
    fn lines_that_were_dropped_are_said_like_any_other() {
        let at = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(
            dropped(LogFormat::Text, at, 7),
            "2023-11-14T22:13:20.000000Z  WARN roadstead::telemetry: dropped log lines, since nobody read standard error \
             lines=7\n"
        );
        let line: serde_json::Value =
            serde_json::from_str(&dropped(LogFormat::Json, at, 7)).unwrap();
        assert_eq!(
            (&line["level"], &line["lines"]),
            (&"WARN".into(), &7.into())
        );
    }

    #[test]
    fn for_programs() {
        let line = rendered(LogFormat::Json);
        assert!(line.ends_with("}\n"));
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let expected = serde_json::json!({
            "timestamp": "2023-11-14T22:13:20.000042Z", "level": "INFO", "message": "request",
            "request_id": "ab-1",
            "trace_id": "0af7651916cd43dd8448eb211c80319c", "client": "192.0.2.1:4711", "user": "robot:ci", "method": "GET", "path": "/v2/\"x\"\n/blobs",
            "upstream": "docker.io", "reference": "v1", "status": 404, "outcome": "error", "bytes": 7,
            "ttfb_ms": 1.05, "total_ms": 12.0, "ended": "complete", "cause": "back\\slash",
            "user_agent": "docker/1", "target": "roadstead::access",
        });
        assert_eq!(line, expected);
    }
}

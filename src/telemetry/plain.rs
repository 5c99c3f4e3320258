//! Log lines in which nothing is a command: what clients, registries and images say stands in them.

use std::borrow::Cow;
use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

use super::format::LogFormat;
use crate::format;

/// Writes lines that do no harm, each in one piece, as the log library gives them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plain<M> {
    inner: M,
    format: LogFormat,
}

/// The writer of one line.
#[derive(Debug)]
pub(super) struct PlainWriter<W> {
    inner: W,
    format: LogFormat,
}

impl<M> Plain<M> {
    pub(super) fn new(inner: M, format: LogFormat) -> Self {
        Self { inner, format }
    }
}

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for Plain<M> {
    type Writer = PlainWriter<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        PlainWriter {
            inner: self.inner.make_writer(),
            format: self.format,
        }
    }
}

impl<W: Write> Write for PlainWriter<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.inner.write_all(&plain(line, self.format))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The line, with its end, on one line, and nothing odd in it.
fn plain(line: &[u8], format: LogFormat) -> Cow<'_, [u8]> {
    let is_harmless = |byte: &u8| matches!(byte, b' '..=b'~');
    let body = line.strip_suffix(b"\n").unwrap_or(line);
    if body.iter().all(is_harmless) {
        return Cow::Borrowed(line);
    }
    let body = String::from_utf8_lossy(body);
    let mut plain = match format {
        // A line's end within it would begin a line that somebody else has written.
        LogFormat::Text => format::shown(&body).replace('\n', "\\n"),
        LogFormat::Json => format::escaped(&body).into_owned(),
    };
    plain.push('\n');
    Cow::Owned(plain.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(line: &str, format: LogFormat) -> String {
        let mut out = Vec::new();
        let mut writer = PlainWriter {
            inner: &mut out,
            format,
        };
        writer.write_all(line.as_bytes()).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_is_one_line_without_commands() {
        let nasty =
            "\u{1b}[2mINFO\u{1b}[0m x: a\u{1b}]0;t\u{7}\nERROR forged \u{202e}b\u{9b}31m é\n";
        assert_eq!(
            written(nasty, LogFormat::Text),
            "\u{1b}[2mINFO\u{1b}[0m x: a\u{fffd}]0;t\u{fffd}\\nERROR forged \u{fffd}b\u{fffd}31m é\n"
        );
        let json = serde_json::json!({ "why": nasty }).to_string() + "\n";
        let line = written(&json, LogFormat::Json);
        assert!(!line.contains(|c| format::is_odd(c) && c != '\n'), "{line}");
        assert_eq!(line.lines().count(), 1);
        let back: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(back["why"], nasty);
        assert_eq!(written("plain\n", LogFormat::Text), "plain\n");
    }
}

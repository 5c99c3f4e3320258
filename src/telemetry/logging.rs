//! Log set-up.

use std::io::IsTerminal as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::access::{self, AccessLine};
use super::sink::Sink;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The one variable that is not read by `config`: logging must work before the configuration does.
/// Its grammar is that of [`EnvFilter`]: `debug`, `warn,roadstead::mirror=trace`.
pub const FILTER_VARIABLE: &str = "ROADSTEAD_LOG";

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged unless [`FILTER_VARIABLE`] says otherwise. What the HTTP and TLS libraries warn of is a client's
/// business (a bad handshake, an idle connection that hyper closes) and would bury what is the operator's,
/// and in their debug lines stand headers: they must be asked for by name, as in `hyper=debug`.
const FILTER_DEFAULT: &str = "info,hyper=error,hyper_util=error,h2=error,rustls=error";

/// What a command logs: its answer is what the user waits for.
const FILTER_QUIET: &str = "warn,hyper=error,hyper_util=error,h2=error,rustls=error";

/// Sends log lines to standard error, from `info` upwards unless [`FILTER_VARIABLE`] says otherwise.
/// What is wrong in that variable is reported there and passed over. Only the first call in a process
/// counts: tests start many servers in one.
pub fn init(format: LogFormat) {
    start(format, FILTER_DEFAULT);
}

/// The same for a command that answers somebody who waits: from `warn` upwards.
pub fn init_quiet() {
    start(LogFormat::Text, FILTER_QUIET);
}

/// Where lines go when nobody watches them on a terminal.
static SINK: OnceLock<(LogFormat, Sink)> = OnceLock::new();

/// Whether access lines go there by a shorter way.
static DIRECT: AtomicBool = AtomicBool::new(false);

/// From now on access lines are written without the log library, unless they go to a terminal. For the program that
/// has called [`init`] and serves: who collects lines through the library would miss these.
pub fn write_access_lines_directly() {
    let Some((_, sink)) = SINK.get().filter(|_| wants_access_lines()) else {
        return;
    };
    let thread = std::thread::Builder::new().name("log".to_owned());
    match thread.spawn(|| sink.run()) {
        Ok(_runs_to_the_end) => DIRECT.store(true, Ordering::Relaxed),
        Err(error) => tracing::warn!(%error, "no thread for the log; lines are written one by one"),
    }
}

/// Writes out the lines that wait.
pub fn flush() {
    if let Some((_, sink)) = SINK.get() {
        sink.flush();
    }
}

/// Whether anybody wants to read access lines.
#[must_use]
pub fn wants_access_lines() -> bool {
    // Where they are written directly, this was asked when that began: the filter does not change.
    DIRECT.load(Ordering::Relaxed)
        || tracing::enabled!(target: access::TARGET, tracing::Level::INFO)
}

/// Writes an access line; false if that is the log library's business. Whether anybody wants to read it has been
/// asked before.
#[must_use]
pub fn access(line: &AccessLine<'_>) -> bool {
    let Some((format, sink)) = SINK.get().filter(|_| DIRECT.load(Ordering::Relaxed)) else {
        return false;
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "a line has the time of all other lines, which is the system's"
    )]
    let now = std::time::SystemTime::now();
    line.render(*format, now, |line| sink.push(line));
    true
}

fn start(format: LogFormat, default: &str) {
    #[expect(
        clippy::disallowed_methods,
        reason = "logging must work before the configuration does"
    )]
    let asked = std::env::var(FILTER_VARIABLE).unwrap_or_default();
    let filter = filter(default, &asked);
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    let result = if format == LogFormat::Text && std::io::stderr().is_terminal() {
        builder.with_writer(std::io::stderr).finish().try_init()
    } else {
        let (_, sink) = SINK.get_or_init(|| (format, Sink::default()));
        let builder = builder.with_writer(sink).with_ansi(false);
        match format {
            LogFormat::Text => builder.finish().try_init(),
            // Fields beside the message and the level, where log collectors look for them.
            LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
        }
    };
    if result.is_err() {
        tracing::debug!("logging is set up already");
    }
}

/// The default filter, and what was asked for on top of it: of two directives for one target the later counts.
fn filter(default: &str, asked: &str) -> EnvFilter {
    EnvFilter::builder().parse_lossy(format!("{default},{asked}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_speak_only_when_asked_by_name() {
        let has = |asked: &str, directive: &str| {
            let filter = filter(FILTER_DEFAULT, asked).to_string();
            filter.split(',').any(|each| each == directive)
        };
        for asked in ["", "debug", "roadstead=trace", "no such=level"] {
            assert!(has(asked, "hyper=error"), "{asked}");
        }
        assert!(has("", "info"));
        assert!(has("debug", "debug") && !has("debug", "info"));
        assert!(has("hyper=debug", "hyper=debug") && !has("hyper=debug", "hyper=error"));
    }

    #[test]
    fn a_second_set_up_is_passed_over() {
        init(LogFormat::Json);
        init(LogFormat::Text);
        assert!(tracing::dispatcher::has_been_set());
    }
}

//! Log set-up.

use std::backtrace::BacktraceStatus;
use std::io::{IsTerminal as _, Write as _};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::access::{self, AccessLine};
use super::format::LogFormat;
use super::plain::Plain;
use super::sink::Sink;
use crate::format;
use tracing_subscriber::filter::Directive;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// The one variable that is not read by `config`: logging must work before the configuration does.
/// Its grammar is that of [`EnvFilter`]: `debug`, `warn,roadstead::mirror=trace`.
pub const FILTER_VARIABLE: &str = "ROADSTEAD_LOG";

/// Libraries that speak only when asked by name, as in `hyper=debug`. What the HTTP and TLS libraries warn of is a
/// client's business (a bad handshake, an idle connection that hyper closes) and would bury what is the operator's,
/// and in their debug lines stand headers.
const QUIET_LIBRARIES: &str = "hyper=error,hyper_util=error,h2=error,rustls=error";

/// The levels by their names.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The longest time that the end of the process is held up for lines that nobody reads.
pub const FLUSH_WAIT_MAX: Duration = Duration::from_secs(1);

/// Sends log lines to standard error: what the filter says, or else from this level upwards. Only the first call in a
/// process counts: tests start many servers in one.
pub fn init(format: LogFormat, filter: Option<&str>, level: &str) {
    let asked = filter.unwrap_or_default().to_owned();
    let (filter, handle) = reload::Layer::new(with_defaults(level, &asked));
    let registry = tracing_subscriber::registry().with(filter);
    let is_for_people = format == LogFormat::Text && std::io::stderr().is_terminal();
    let Some(sink) = sink(format) else {
        let writer = Plain::new(std::io::stderr, format);
        let lines = fmt::layer().with_writer(writer);
        if registry.with(lines).try_init().is_ok() {
            tracing::warn!("no thread for the log: requests wait for standard error");
        }
        return;
    };
    let lines = fmt::layer()
        .with_writer(Plain::new(sink, format))
        .with_ansi(is_for_people);
    let result = match format {
        LogFormat::Text => registry.with(lines).try_init(),
        // Fields beside the message and the level, where log collectors look for them.
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    if result.is_ok() {
        FILTER.get_or_init(|| (handle, asked));
    } else {
        tracing::debug!("logging is set up already");
    }
}

/// Logs what another level, or other directives, say from now on; [`FILTER_VARIABLE`] goes on to count on top of them.
pub fn set_level(level: &str) {
    let Some((handle, asked)) = FILTER.get() else {
        return;
    };
    if let Err(error) = handle.reload(with_defaults(level, asked)) {
        tracing::error!(%error, "the log level stays as it was");
    }
    if IS_SERVING.load(Ordering::Relaxed) {
        DIRECT.store(false, Ordering::Relaxed);
        write_access_lines_directly();
    }
}

/// The filter that [`FILTER_VARIABLE`] sets.
///
/// # Errors
/// One line: it is none.
pub fn filter_of_environment() -> Result<Option<String>, String> {
    let Some(value) = std::env::var_os(FILTER_VARIABLE).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let checked = match value.to_str() {
        Some(text) => checked(text),
        None => Err("it is no text".to_owned()),
    };
    checked.map(Some).map_err(|why| {
        let shown = value.to_string_lossy();
        format!("{FILTER_VARIABLE}={}: {why}", format::harmless(&shown))
    })
}

/// A filter that means something. A word that is neither a level nor a module's path would silence everything, since
/// the grammar takes it for the name of a module.
///
/// # Errors
/// One line.
pub fn checked(filter: &str) -> Result<String, String> {
    let directives = filter.split(',').map(str::trim);
    let mut directives = directives.filter(|it| !it.is_empty()).peekable();
    if directives.peek().is_none() {
        return Err("name a level: error, warn, info, debug, trace or off".to_owned());
    }
    for directive in directives {
        let is_level = LEVELS
            .iter()
            .any(|level| directive.eq_ignore_ascii_case(level));
        let names_something = directive.contains(['=', '[', ':']) || directive == "roadstead";
        let parses = || directive.parse::<Directive>().is_ok();
        if !(is_level || (names_something && parses())) {
            return Err(format!(
                "{directive:?} is no level; write error, warn, info, debug, trace or off, or directives such as info,roadstead::upstream=debug"
            ));
        }
    }
    Ok(filter.to_owned())
}

/// The sink of lines, once there is a thread that writes them.
static SINK: OnceLock<Sink> = OnceLock::new();

/// The filter of the logger that was set up, and what was asked for on top of its level.
static FILTER: OnceLock<(reload::Handle<EnvFilter, Registry>, String)> = OnceLock::new();

/// True if the program that set up the log serves.
static IS_SERVING: AtomicBool = AtomicBool::new(false);

/// True if access lines go there by a shorter way.
static DIRECT: AtomicBool = AtomicBool::new(false);

/// From now on access lines are written without the log library, unless they go to a terminal. For the program that
/// has called [`init`] and serves: who collects lines through the library would miss these.
pub fn write_access_lines_directly() {
    IS_SERVING.store(true, Ordering::Relaxed);
    let is_for_a_terminal = std::io::stderr().is_terminal();
    if SINK.get().is_some() && !is_for_a_terminal && wants_access_lines() {
        DIRECT.store(true, Ordering::Relaxed);
    }
}

/// Panics are log lines from now on, since what the standard library prints of them would wait for standard error.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::capture();
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        if backtrace.status() == BacktraceStatus::Captured {
            tracing::error!(thread, "{panic}\n{backtrace}");
        } else {
            tracing::error!(thread, "{panic}");
        }
        if thread == "main" {
            flush(FLUSH_WAIT_MAX);
        }
    }));
}

/// Says something beside the log, in order with its lines, whatever is logged.
pub fn say(line: &str) {
    match SINK.get() {
        Some(sink) => sink.push_now(line.as_bytes()),
        // There is nowhere else to complain.
        None => drop(std::io::stderr().write_all(line.as_bytes())),
    }
}

/// Waits until the lines that wait are written, but no longer than this.
pub fn flush(wait_max: Duration) {
    if let Some(sink) = SINK.get() {
        sink.flush(wait_max);
    }
}

/// The sink of lines: made, with its thread, at the first call. `None` if there is no thread to be had.
fn sink(format: LogFormat) -> Option<&'static Sink> {
    if SINK.get().is_none() {
        let thread = std::thread::Builder::new().name("log".to_owned());
        thread
            .spawn(move || SINK.get_or_init(|| Sink::new(format)).run())
            .ok()?;
    }
    Some(SINK.get_or_init(|| Sink::new(format)))
}

/// True if anybody wants to read access lines.
#[must_use]
pub fn wants_access_lines() -> bool {
    // Where they are written directly, this was asked when that began, or the filter was last replaced.
    DIRECT.load(Ordering::Relaxed)
        || tracing::enabled!(target: access::TARGET, tracing::Level::INFO)
}

/// Writes an access line; false if that is the log library's business. Whether anybody wants to read it has been
/// asked before.
#[must_use]
pub fn access(line: &AccessLine<'_>) -> bool {
    let Some(sink) = SINK.get().filter(|_| DIRECT.load(Ordering::Relaxed)) else {
        return false;
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "a line has the time of all other lines, which is the system's"
    )]
    let now = std::time::SystemTime::now();
    line.render(sink.format(), now, |line| sink.push(line));
    true
}

/// The default filter, and what was asked for on top of it: of two directives for one target the later counts.
fn with_defaults(level: &str, asked: &str) -> EnvFilter {
    EnvFilter::builder().parse_lossy(format!("{level},{QUIET_LIBRARIES},{asked}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_speak_only_when_asked_by_name() {
        let has = |asked: &str, directive: &str| {
            let filter = with_defaults("info", asked).to_string();
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
    fn words_that_mean_nothing_are_no_filter() {
        for text in [
            "info",
            "WARN",
            "off",
            "info,roadstead::upstream=debug",
            "hyper=debug",
            "debug, h2=off",
            "roadstead[x]=info",
            "info,",
        ] {
            assert_eq!(checked(text).as_deref(), Ok(text));
        }
        for text in ["nonsense", "info,verbose", "roadstead=loud"] {
            assert!(checked(text).unwrap_err().contains("is no level"), "{text}");
        }
    }

    #[test]
    fn a_second_set_up_is_passed_over() {
        init(LogFormat::Json, None, "info");
        init(LogFormat::Text, None, "info");
        assert!(tracing::dispatcher::has_been_set());
    }
}

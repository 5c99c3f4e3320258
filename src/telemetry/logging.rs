//! Log set-up.

use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
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

/// Sends log lines to standard error, from `info` upwards unless [`FILTER_VARIABLE`] says otherwise.
/// What is wrong in that variable is reported there and passed over. Only the first call in a process
/// counts: tests start many servers in one.
pub fn init(format: LogFormat) {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .with_env_var(FILTER_VARIABLE)
        .from_env_lossy();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let result = match format {
        LogFormat::Text => builder
            .with_ansi(std::io::stderr().is_terminal())
            .finish()
            .try_init(),
        // Fields beside the message and the level, where log collectors look for them.
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
    };
    if result.is_err() {
        tracing::debug!("logging is set up already");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_set_up_is_passed_over() {
        init(LogFormat::Json);
        init(LogFormat::Text);
        assert!(tracing::dispatcher::has_been_set());
    }
}

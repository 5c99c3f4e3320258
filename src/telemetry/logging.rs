//! Log set-up.

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
// pub fn init(format: LogFormat): tracing-subscriber to standard error; filter from ROADSTEAD_LOG (default "info").

//! Flags of the command line.

use std::path::PathBuf;

/// The flags of the command line for the configuration. The values are as they were typed: they are
/// checked like those of the file.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Overrides {
    /// The configuration file [default: ./roadstead.toml, then /etc/roadstead/config.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Client listener, such as 0.0.0.0:5000
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Admin listener: metrics, health and the admin API
    #[arg(long, value_name = "ADDR")]
    pub admin_listen: Option<String>,
    /// Directory of the cache
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<String>,
    /// Directory for state that cannot be fetched again: imported names, pins, users, tokens
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<String>,
    /// Disk space for the cache, such as 200GB, or 80% of the file system
    #[arg(long, value_name = "SIZE")]
    pub cache_size: Option<String>,
    /// An upstream registry and its endpoints, instead of those of the file; may be repeated
    #[arg(long, value_name = "NAME=URL[,URL…]")]
    pub upstream: Vec<String>,
    /// The upstream of requests that name none
    #[arg(long, value_name = "NAME")]
    pub default_upstream: Option<String>,
    /// Format of log lines
    #[arg(long, value_name = "FORMAT", value_parser = ["text", "json"])]
    pub log_format: Option<String>,
    /// The log level: a flag of every command.
    #[arg(skip)]
    pub log_level: Option<String>,
}

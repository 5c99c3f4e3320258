//! Configuration: one file, the environment and flags, resolved into each module's own `Config`.
//!
//! The layers, strongest first:
//!
//! 1. Flags ([`Overrides`]). `--upstream` replaces all upstreams of the file.
//! 2. The environment: `ROADSTEAD_` and the key's path in upper case, joined by `__`, as in
//!    `ROADSTEAD_CACHE__MAX_SIZE`. In an upstream's name whatever is not a letter or digit is `_`:
//!    `ROADSTEAD_UPSTREAM__DOCKER_IO__USERNAME`; only configured upstreams can be named. Arrays are
//!    written with commas; the tables of `[[tags.rule]]` and `[[cache.pin]]` cannot be written. A variable that means no key is an error, but for `ROADSTEAD_LOG` (the log
//!    filter), `ROADSTEAD_ADMIN` and `ROADSTEAD_SERVER` (where commands find a server), those that a `password_env` names, and those that Kubernetes sets for a Service.
//! 3. The file: `--config`, or else `./roadstead.toml`, or else `/etc/roadstead/config.toml`. One
//!    with any `[upstream]` table replaces the built-in upstreams.
//! 4. The defaults.
//!
//! Every `*_env` key names a variable as `password_env` does. Variables of other programs
//! (`HTTPS_PROXY`, `AWS_REGION`, …) are no layer: `upstreams` looks at them where a key says so.
//!
//! Every error is one line that names the place, the key and the reason.

mod defaults;
mod error;
mod file;
mod layers;
mod limits;
mod pins;
mod raw;
mod show;
mod tags;
mod upstreams;
mod values;

use std::ffi::OsString;
use std::path::PathBuf;

use crate::telemetry::logging::{self, LogFormat};
use crate::{mirror, server, store, upstream};
use error::Problem;
use layers::Environment;
use raw::{Leaf, Origin, Value};

pub use error::ConfigError;

/// Everything `serve` needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Listeners.
    pub server: server::Config,
    /// The store.
    pub cache: store::Config,
    /// What comes of a blob of which a part was asked for.
    pub fill_on_range: mirror::FillOnRange,
    /// What is done about which tag.
    pub tags: mirror::Config,
    /// The upstreams, in the order of the file; at least one, at most one of them the default.
    pub upstreams: Vec<upstream::Config>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// What is logged: a level, or directives.
    pub log_level: String,
}

/// What the command line says about the configuration. The values are as they were typed: they are
/// checked like those of the file.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Overrides {
    /// The configuration file [default: ./roadstead.toml, then /etc/roadstead/config.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where clients connect, e.g. 0.0.0.0:5000
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Where metrics, health and the admin API are served
    #[arg(long, value_name = "ADDR")]
    pub admin_listen: Option<String>,
    /// Where the cache is kept
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<String>,
    /// What the cache may take on disk, e.g. 200GB, or 80% of the file system
    #[arg(long, value_name = "SIZE")]
    pub cache_size: Option<String>,
    /// An upstream registry and its endpoints, instead of those of the file; may be repeated
    #[arg(long, value_name = "NAME=URL[,URL…]")]
    pub upstream: Vec<String>,
    /// The upstream of requests that name none
    #[arg(long, value_name = "NAME")]
    pub default_upstream: Option<String>,
    /// How log lines look
    #[arg(long, value_name = "FORMAT", value_parser = ["text", "json"])]
    pub log_format: Option<String>,
    /// What is logged: a flag of every command.
    #[arg(skip)]
    pub log_level: Option<String>,
}

impl Config {
    /// The configuration of this process: its flags, its environment, its file.
    ///
    /// # Errors
    /// [`ConfigError`]: a file that cannot be read or parsed, or a value that makes no sense.
    pub fn load(flags: &Overrides) -> Result<Self, ConfigError> {
        let candidates = FILES.map(PathBuf::from);
        Self::from_layers(flags, std::env::vars_os(), &candidates)
    }

    /// The file that [`Config::load`] reads, if there is one.
    #[must_use]
    pub fn file_of(flags: &Overrides) -> Option<PathBuf> {
        let candidates = FILES.iter().map(PathBuf::from);
        flags
            .config
            .clone()
            .or_else(|| candidates.into_iter().find(|file| file.exists()))
    }

    /// The configuration of these flags, this environment, and, unless the flags name a file, the
    /// first of these files that exists.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_layers(
        flags: &Overrides,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        files: &[PathBuf],
    ) -> Result<Self, ConfigError> {
        let environment = Environment::new(environment);
        let source = file::find(flags.config.as_deref(), files)?;
        file::parse(&source)
            .and_then(|file| layers::lay(file, &environment, flags))
            .and_then(|raw| resolve(&raw, &environment))
            .map_err(|problem| problem.render(&source))
    }

    /// The effective configuration as TOML, which can be read back; secrets are masked.
    #[must_use]
    pub fn to_toml(&self) -> String {
        show::to_toml(self)
    }

    /// Every key that a file can have, with `*` for the name of an upstream.
    #[must_use]
    pub fn known_keys() -> Vec<String> {
        raw::File::known_keys()
    }
}

fn resolve(raw: &raw::File, environment: &Environment) -> Result<Config, Problem> {
    Ok(Config {
        server: resolve_server(&raw.server)?,
        cache: resolve_cache(&raw.cache, &raw.upstream.0)?,
        fill_on_range: resolve_or(
            raw.cache.fill_on_range.as_ref(),
            "cache.fill_on_range",
            values::fill_on_range,
            mirror::FillOnRange::default(),
        )?,
        tags: mirror::Config {
            pins: pins::resolve(raw.cache.pin.as_ref())?,
            ..tags::resolve(&raw.tags)?
        },
        upstreams: upstreams::resolve(&raw.upstream.0, environment)?,
        log_format: resolve_or(
            raw.log.format.as_ref(),
            "log.format",
            log_format,
            LogFormat::default(),
        )?,
        log_level: resolve_or(
            raw.log.level.as_ref(),
            "log.level",
            |value| values::text(value).and_then(|text| logging::checked(&text)),
            defaults::LOG_LEVEL.to_owned(),
        )?,
    })
}

fn resolve_server(raw: &raw::Server) -> Result<server::Config, Problem> {
    let listen = resolve_or(
        raw.listen.as_ref(),
        "server.listen",
        values::address,
        defaults::LISTEN,
    )?;
    let admin_listen = resolve_or(
        raw.admin_listen.as_ref(),
        "server.admin_listen",
        values::address,
        defaults::ADMIN_LISTEN,
    )?;
    // Port 0 is a different port each time.
    if listen == admin_listen && listen.port() != 0 {
        let given = raw.admin_listen.as_ref().or(raw.listen.as_ref());
        let origin = given.map_or(Origin::Default, |leaf| leaf.origin.clone());
        let why = format!("{admin_listen} is the address of server.listen too");
        return Err(Problem::new(&origin, "server.admin_listen", why));
    }
    Ok(server::Config {
        listen,
        admin_listen,
        tls: resolve_tls(raw)?,
        drain_timeout: resolve_or(
            raw.drain_timeout.as_ref(),
            "server.drain_timeout",
            values::duration,
            defaults::DRAIN_TIMEOUT,
        )?,
        limits: limits::resolve(raw)?,
    })
}

fn resolve_cache(raw: &raw::Cache, upstreams: &[raw::Named]) -> Result<store::Config, Problem> {
    Ok(store::Config {
        dir: resolve_or(
            raw.dir.as_ref(),
            "cache.dir",
            values::path,
            defaults::cache_dir(),
        )?,
        max_size: resolve_or(
            raw.max_size.as_ref(),
            "cache.max_size",
            values::max_size,
            defaults::MAX_SIZE,
        )?,
        min_free: resolve_or(
            raw.min_free.as_ref(),
            "cache.min_free",
            values::min_free,
            defaults::MIN_FREE,
        )?,
        max_age: resolve_or(raw.max_age.as_ref(), "cache.max_age", values::max_age, None)?,
        shares: upstreams::shares(upstreams)?,
        meter: store::Meter::default(),
        injection: store::Injection::default(),
        scrub: resolve_or(
            raw.scrub.as_ref(),
            "cache.scrub",
            values::scrub,
            defaults::SCRUB,
        )?,
    })
}

/// A `[server.tls]` that is there must be whole: half a table must not mean plain HTTP.
fn resolve_tls(raw: &raw::Server) -> Result<Option<server::TlsConfig>, Problem> {
    let Some(table) = &raw.tls else {
        return Ok(None);
    };
    let tls = table.get_ref();
    let given = tls.cert.as_ref().or(tls.key.as_ref());
    let origin = given.map_or(Origin::File(table.span().start), |leaf| leaf.origin.clone());
    let file = |leaf: &Option<Leaf>, key: &str| match leaf {
        Some(leaf) => values::path(&leaf.value).map_err(|why| Problem::new(&leaf.origin, key, why)),
        None => Err(Problem::new(
            &origin,
            key,
            "is missing; TLS needs a certificate and its key",
        )),
    };
    Ok(Some(server::TlsConfig {
        cert: file(&tls.cert, "server.tls.cert")?,
        key: file(&tls.key, "server.tls.key")?,
    }))
}

fn log_format(value: &Value) -> Result<LogFormat, String> {
    match value {
        Value::Text(text) if text == "text" => Ok(LogFormat::Text),
        Value::Text(text) if text == "json" => Ok(LogFormat::Json),
        Value::Text(_)
        | Value::Integer(_)
        | Value::Boolean(_)
        | Value::List(_)
        | Value::Table(_)
        | Value::Other => Err("must be \"text\" or \"json\"".to_owned()),
    }
}

/// A value, or its default where none was given.
fn resolve_or<T>(
    leaf: Option<&Leaf>,
    key: &str,
    parse: impl Fn(&Value) -> Result<T, String>,
    default: T,
) -> Result<T, Problem> {
    leaf.map_or(Ok(default), |leaf| {
        parse(&leaf.value).map_err(|why| Problem::new(&leaf.origin, key, why))
    })
}

/// Where the file is looked for when no flag names it.
const FILES: [&str; 2] = ["./roadstead.toml", "/etc/roadstead/config.toml"];

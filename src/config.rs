//! Configuration: one file, the environment and flags, resolved into each module's own `Config`.
//!
//! The layers, strongest first:
//!
//! 1. Flags ([`Overrides`]). `--upstream` replaces all upstreams of the file.
//! 2. The environment: `ROADSTEAD_` and the key's path in upper case, joined by `__`, as in
//!    `ROADSTEAD_CACHE__MAX_SIZE`. In an upstream's name whatever is not a letter or digit is `_`:
//!    `ROADSTEAD_UPSTREAM__DOCKER_IO__USERNAME`; only configured upstreams can be named. Arrays are
//!    written with commas; the tables of `[[tags.rule]]` and `[[cache.pin]]` cannot be written. A variable that means no key is an error, but for `ROADSTEAD_LOG` (the log
//!    filter), `ROADSTEAD_ADMIN`, `ROADSTEAD_SERVER` and `ROADSTEAD_TOKEN` (of commands), those that a `password_env` names, and those that Kubernetes sets for a Service.
//! 3. The file: `--config`, or else `./roadstead.toml`, or else `/etc/roadstead/config.toml`. One
//!    with any `[upstream]` table replaces the built-in upstreams.
//! 4. The defaults.
//!
//! Every `*_env` key names a variable as `password_env` does. Variables of other programs
//! (`HTTPS_PROXY`, `AWS_REGION`, …) are no layer: `upstreams` looks at them where a key says so.
//!
//! All that is wrong is said at once, each error on a line that names the place, the key and the reason.
//!
//! A key is in three places: its table in `keys` (name, kind, meaning), its default (`defaults`, or the `Config` of the
//! module that uses it), and `config.example.toml`. The JSON Schema and the reference of keys are made of these.

mod access;
mod cluster;
mod defaults;
mod document;
mod environment;
mod error;
mod file;
mod hosted;
mod keys;
mod layers;
mod ldap;
mod limits;
mod listeners;
mod origin;
mod overrides;
mod renamed;
mod schema;
mod show;
mod snapshot;
mod table;
mod tags;
mod telemetry;
mod tier;
mod transparent;
mod upstreams;
mod values;

use std::ffi::OsString;
use std::path::PathBuf;

use crate::stamp::Stamp;
use crate::telemetry::LogFormat;
use crate::upstream::Visibility;
use crate::{catalogue, mirror, server, store, upstream};
use environment::Environment;
use error::Source;
use keys::File;
use layers::Layers;
use origin::Origins;
use table::{Context, Place, Read as _, Values as _};

pub use error::ConfigError;
pub use file::ConfigFile;
pub use overrides::Overrides;
pub use snapshot::{Changes, Snapshot};

/// Places in which the file is looked for when no flag names it.
const FILES: [&str; 2] = ["./roadstead.toml", "/etc/roadstead/config.toml"];

/// Everything `serve` needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Listeners.
    pub server: server::Config,
    /// Access: who may come in, and who may do what.
    pub access: crate::access::Config,
    /// The audit log, if there is one.
    pub audit: Option<crate::audit::Config>,
    /// The state directory.
    pub state: catalogue::Config,
    /// The store.
    pub cache: store::Config,
    /// The fate of a blob of which a part was asked for.
    pub fill_on_range: mirror::FillOnRange,
    /// The policies of tags.
    pub tags: mirror::Config,
    /// The upstreams, in the order of the file; at least one, at most one of them the default.
    pub upstreams: Vec<upstream::Config>,
    /// The format of log lines.
    pub log_format: LogFormat,
    /// The log level: a level, or directives.
    pub log_level: String,
    /// The collector that traces are sent to, if there is one.
    pub otlp: Option<Box<crate::otlp::Config>>,
    /// Hosted repositories, if the file has anything about them.
    pub hosted: Option<Box<crate::hosted::Config>>,
    /// Its cluster, if the process is a node of one.
    pub cluster: Option<Box<crate::cluster::Config>>,
    /// The object store beside the cache, if there is one.
    pub tier: Option<Box<crate::tier::Config>>,
}

impl Config {
    /// The configuration of this process: its flags, its environment, its file.
    ///
    /// # Errors
    /// [`ConfigError`]: a file that cannot be read or parsed, or a value that makes no sense.
    pub fn load(flags: &Overrides) -> Result<Self, ConfigError> {
        Self::load_with_notes(flags).map(|loaded| loaded.config)
    }

    /// The configuration of this process, and notes on it.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_with_notes(flags: &Overrides) -> Result<Loaded, ConfigError> {
        Self::read_file(flags)?.load(flags)
    }

    /// Reads the file of this process, or an empty one where there is none.
    ///
    /// # Errors
    /// [`ConfigError`]: it cannot be read.
    pub fn read_file(flags: &Overrides) -> Result<ConfigFile, ConfigError> {
        let candidates = FILES.map(PathBuf::from);
        file::find(flags.config.as_deref(), &candidates).map(ConfigFile)
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
        let source = file::find(flags.config.as_deref(), files)?;
        Self::resolve_layers(flags, environment, &source).map(|loaded| loaded.config)
    }

    fn resolve_layers(
        flags: &Overrides,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        source: &Source,
    ) -> Result<Loaded, ConfigError> {
        let environment = Environment::new(environment);
        let (table, mut problems) = file::parse(source);
        if !problems.iter().all(file::is_harmless) {
            // Behind a syntax error tables may be lost, and what is in them be said to be missing.
            return Err(ConfigError::of(problems, source));
        }
        let origins = Origins::new(&source.text);
        let layers = Layers::lay(table, origins, &environment, flags);
        problems.extend(layers.problems);
        let context = Context::new(&environment, layers.origins);
        let document = toml::Spanned::new(0..0, toml::de::DeValue::Table(layers.table));
        let config =
            File::read(&document, &Place::default(), &context).map(|file| resolve(&file, &context));
        if let Some(replaced) = &layers.replaced {
            let place =
                Place::default().under("upstream", context.origins.of(replaced.span().start));
            // Only for the report.
            upstreams::UpstreamsKey::read(replaced, &place, &context).ok();
        }
        problems.extend(context.problems());
        let notes = layers.notes.iter();
        let notes = notes.map(|(origin, note)| source.note(origin, note));
        match config {
            Ok(config) if problems.is_empty() => Ok(Loaded {
                config,
                notes: notes.collect(),
                stamp: source.stamp,
            }),
            Ok(_) | Err(_) => Err(ConfigError::of(problems, source)),
        }
    }

    /// The effective configuration as TOML, which can be read back; secrets are masked.
    #[must_use]
    pub fn to_toml(&self) -> String {
        show::to_toml(self)
    }

    /// Every key that a file can have, with `*` for the name of an upstream.
    #[must_use]
    pub fn known_keys() -> Vec<String> {
        schema::known_keys()
    }

    /// The names that transparent mode would answer at by default.
    #[must_use]
    pub fn transparent_hosts(&self) -> Vec<server::transparent::TransparentHost> {
        transparent::own(&self.upstreams)
    }

    /// The JSON Schema of a file, for editors.
    #[must_use]
    pub fn schema() -> String {
        schema::print()
    }

    /// Tables of all keys and variables for the documentation, in Markdown.
    #[must_use]
    pub fn reference() -> String {
        schema::reference()
    }
}

/// A configuration, and what is to be said of it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// It.
    pub config: Config,
    /// Old names of keys that were used: a line each, with its place.
    pub notes: Vec<String>,
    /// The state of the file when it was read. `None` where there is no file.
    pub stamp: Option<Stamp>,
}

/// The configuration that was written, as far as it makes sense: it is used only where nothing was reported.
fn resolve(file: &File, context: &Context<'_>) -> Config {
    let server = file.server.value().unwrap_or_default();
    let state = file.state.value().unwrap_or_default();
    let cache = file.cache.value().unwrap_or_default();
    let tags = file.tags.value().unwrap_or_default();
    let log = file.log.value().unwrap_or_default();
    let upstreams = file.upstream.value().unwrap_or_default();
    let server_keys = server;
    let mut server = listeners::resolve(&server_keys, context);
    let shows_certificates = server
        .tls
        .as_ref()
        .is_some_and(|tls| tls.client_ca.is_some());
    let access = crate::access::Config {
        certificates: shows_certificates,
        ..access::resolve(file.access.as_ref(), context)
    };
    let surroundings = upstreams::Surroundings {
        is_reachable: server.is_reachable(),
        has_access: file.access.is_some(),
        has_identities: access.has_identities(),
    };
    let shares = upstreams::shares(&upstreams);
    let upstreams = upstreams::resolve(&upstreams, surroundings, context);
    let state = catalogue::Config::of(state.dir.value().unwrap_or_else(defaults::state_dir));
    let tls = server.tls.take();
    server.tls = transparent::resolve(&server_keys, tls, &upstreams, &state.dir, context);
    let ruled = upstreams
        .iter()
        .filter(|it| it.visibility == Visibility::Rules);
    let access = crate::access::Config {
        ruled: ruled.map(|it| it.name.as_str().to_owned()).collect(),
        ..access
    };
    let cluster = cluster::resolve(file, context);
    let hosted = hosted::resolve(file, &upstreams, context);
    Config {
        server,
        access,
        audit: limits::audit(file.audit.as_ref(), context),
        state,
        cache: resolve_cache(&cache, shares),
        fill_on_range: cache.fill_on_range.value_or(mirror::FillOnRange::default()),
        tags: tags::resolve(&tags, &cache, context),
        upstreams,
        log_format: log.format.value_or(LogFormat::default()),
        log_level: log
            .level
            .value()
            .unwrap_or_else(|| defaults::LOG_LEVEL.to_owned()),
        otlp: telemetry::resolve(file.telemetry.as_ref(), context),
        tier: tier::resolve(file, cluster.as_deref(), context),
        cluster,
        hosted,
    }
}

fn resolve_cache(keys: &keys::Cache, shares: Vec<store::Share>) -> store::Config {
    store::Config {
        dir: keys.dir.value().unwrap_or_else(defaults::cache_dir),
        max_size: keys.max_size.value_or(defaults::MAX_SIZE),
        min_free: keys.min_free.value_or(defaults::MIN_FREE),
        max_age: keys.max_age.value_or(None),
        shares,
        meter: store::Meter::default(),
        injection: store::Injection::default(),
        scrub: keys.scrub.value_or(defaults::SCRUB),
        permanent: false,
    }
}

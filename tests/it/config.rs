//! Configuration: what is refused and with which words, which layer wins, what `check` prints.
#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests are tests too, which clippy does not see"
)]

mod listeners;
mod logins;
mod mistakes;
mod recipes;
mod schema;
mod upstreams;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use roadstead::config::{Config, Overrides};
use roadstead::mirror::{self, Policy, Ttl};
use roadstead::store::Amount;
use roadstead::telemetry::LogFormat;
use roadstead::upstream::{LoginConfig, Secret, Text};
use tempfile::TempDir;

const REFUSED: &str = include_str!("config/refused.txt");
const EXAMPLE: &str = include_str!("../../config.example.toml");

/// A directory with the file `config.toml` in it.
struct Written {
    dir: TempDir,
}

impl Written {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test's own file, outside any store"
    )]
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.toml"), text).unwrap();
        Self { dir }
    }
    fn path(&self) -> PathBuf {
        self.dir.path().join("config.toml")
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "a test's own file, outside any store"
    )]
    fn with(self, name: &str, text: &str) -> Self {
        std::fs::write(self.dir.path().join(name), text).unwrap();
        self
    }
    fn load(&self, environment: &[(&str, &str)], mut flags: Overrides) -> Result<Config, String> {
        flags.config = Some(self.path());
        let prefix = format!("{}/", self.dir.path().display());
        Config::from_layers(&flags, variables(environment), &[])
            .map_err(|error| error.to_string().replace(&prefix, ""))
    }
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs
        .iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

fn file(text: &str) -> Result<Config, String> {
    Written::new(text).load(&[], Overrides::default())
}

fn environment(pairs: &[(&str, &str)]) -> Result<Config, String> {
    layers(pairs, &Overrides::default())
}

fn layers(pairs: &[(&str, &str)], flags: &Overrides) -> Result<Config, String> {
    Config::from_layers(flags, variables(pairs), &[]).map_err(|error| error.to_string())
}

fn literal(text: &str) -> Text {
    Text::Literal(Secret::new(text.to_owned()))
}

fn login(username: &str, password: &str) -> LoginConfig {
    LoginConfig::Password {
        username: literal(username),
        password: literal(password),
    }
}

fn upstream<'c>(config: &'c Config, name: &str) -> &'c roadstead::upstream::Config {
    config
        .upstreams
        .iter()
        .find(|upstream| upstream.name.as_str() == name)
        .unwrap()
}

fn default_of(config: &Config) -> Option<&str> {
    let mut defaults = config.upstreams.iter().filter(|upstream| upstream.default);
    let first = defaults.next().map(|upstream| upstream.name.as_str());
    assert!(defaults.next().is_none(), "two defaults");
    first
}

fn ttl_of(config: &Config) -> Duration {
    match config.tags.defaults.ttl {
        Ttl::For(ttl) => ttl,
        Ttl::Forever => Duration::MAX,
    }
}

fn names(config: &Config) -> Vec<&str> {
    config
        .upstreams
        .iter()
        .map(|upstream| upstream.name.as_str())
        .collect()
}

#[test]
fn what_is_wrong_is_said_with_file_line_key_and_reason() {
    // Each case is a line `--- MESSAGE` and the file that it is said of.
    let cases = REFUSED.split("--- ").skip(1);
    let mut count = 0;
    for (expected, text) in cases.filter_map(|case| case.split_once('\n')) {
        assert_eq!(file(text).unwrap_err(), expected, "for:\n{text}");
        count += 1;
    }
    assert!(count > 40, "{count} cases");
}

#[test]
fn what_is_not_toml_is_named_with_its_line_and_without_its_secret() {
    let text = "[upstream.\"docker.io\"]\nendpoints = [\"https://d\"]\nusername = \"u\"\npassword = hunter2\n";
    let error = file(text).unwrap_err();
    assert!(
        error.starts_with("config.toml:4: upstream.\"docker.io\".password: "),
        "{error}"
    );
    assert!(
        !error.contains("hunter2") && !error.contains('\n'),
        "{error}"
    );
    let error = file("[server\n").unwrap_err();
    assert!(error.starts_with("config.toml:1: "), "{error}");
}

#[test]
fn nothing_said_means_the_defaults() {
    let config = environment(&[]).unwrap();
    assert_eq!(config.server.listen().to_string(), "127.0.0.1:5000");
    assert_eq!(config.server.admin_listen.to_string(), "127.0.0.1:5001");
    assert_eq!(config.server.drain_timeout, Duration::from_secs(30));
    assert_eq!(config.server.limits.idle_timeout, Duration::from_secs(100));
    assert_eq!(config.server.limits.body_min_rate, 1024);
    assert_eq!(config.server.tls, None);
    assert!(config.cache.dir.ends_with("roadstead"));
    assert_eq!(config.cache.max_size, Amount::Bytes(50_000_000_000));
    assert_eq!(config.cache.min_free, Amount::Percent(1));
    assert_eq!(config.fill_on_range, mirror::FillOnRange::Always);
    assert_eq!(config.cache.scrub, Some(Duration::from_hours(30 * 24)));
    assert_eq!(config.tags, mirror::Config::of(Policy::default()));
    assert_eq!(ttl_of(&config), Duration::from_mins(1));
    let tags = config.tags.defaults;
    assert_eq!(tags.stale_if_error, Duration::from_hours(30 * 24));
    assert_eq!(tags.negative_ttl, Duration::from_secs(10));
    assert_eq!(config.log_format, LogFormat::Text);
    assert_eq!(
        names(&config),
        [
            "docker.io",
            "quay.io",
            "ghcr.io",
            "gcr.io",
            "registry.k8s.io",
            "mcr.microsoft.com",
            "public.ecr.aws",
            "nvcr.io",
            "registry.gitlab.com"
        ]
    );
    assert_eq!(default_of(&config), Some("docker.io"));
    let hub = upstream(&config, "docker.io");
    assert_eq!(
        hub.endpoints[0].url.as_str(),
        "https://registry-1.docker.io/"
    );
    assert_eq!(
        (
            hub.connect_timeout,
            hub.header_timeout,
            hub.idle_timeout,
            hub.parallel.connections
        ),
        (
            Duration::from_secs(5),
            Duration::from_secs(20),
            Duration::from_secs(30),
            4
        )
    );
}

#[test]
fn flags_beat_the_environment_beats_the_file_beats_the_defaults() {
    let written = Written::new(
        "[cache]\nmax_size = \"1GB\"\n[tags]\nttl = \"1s\"\n[log]\nformat = \"json\"\n",
    );
    let size = |environment: &[(&str, &str)], flag: Option<&str>| {
        let flags = Overrides {
            cache_size: flag.map(str::to_owned),
            ..Overrides::default()
        };
        let config = written.load(environment, flags).unwrap();
        assert_eq!(
            ttl_of(&config),
            Duration::from_secs(1),
            "what is not overridden stays"
        );
        assert_eq!(config.log_format, LogFormat::Json);
        let stale_if_error = config.tags.defaults.stale_if_error;
        assert_eq!(stale_if_error, Duration::from_hours(30 * 24));
        config.cache.max_size
    };
    let two = [("ROADSTEAD_CACHE__MAX_SIZE", "2GB")];
    assert_eq!(size(&[], None), Amount::Bytes(1_000_000_000));
    assert_eq!(size(&two, None), Amount::Bytes(2_000_000_000));
    assert_eq!(size(&two, Some("80%")), Amount::Percent(80));
    assert_eq!(size(&[], Some("3GB")), Amount::Bytes(3_000_000_000));
}

#[test]
fn every_flag_has_its_effect() {
    let text = |text: &str| Some(text.to_owned());
    let flags = Overrides {
        listen: text(":0"),
        admin_listen: text("localhost:0"),
        state_dir: text("/s"),
        cache_dir: text("/c"),
        cache_size: text("1MiB"),
        upstream: vec![
            "a.io=http://a,https://b/x".to_owned(),
            "b.io=http://c".to_owned(),
        ],
        default_upstream: text("B.io"),
        log_format: text("json"),
        log_level: text("debug"),
        config: None,
    };
    let config = layers(&[], &flags).unwrap();
    assert_eq!(config.server.listen().to_string(), "0.0.0.0:0");
    assert_eq!(config.server.admin_listen.to_string(), "127.0.0.1:0");
    assert_eq!(config.state.dir, Path::new("/s"));
    assert_eq!(config.cache.dir, Path::new("/c"));
    assert_eq!(config.cache.max_size, Amount::Bytes(1 << 20));
    assert_eq!(names(&config), ["a.io", "b.io"]);
    assert_eq!(default_of(&config), Some("b.io"));
    assert_eq!(
        upstream(&config, "a.io").endpoints[1].url.as_str(),
        "https://b/x"
    );
    assert_eq!(config.log_format, LogFormat::Json);
}

#[test]
fn every_key_can_be_set_by_the_environment() {
    let config = environment(&[
        ("ROADSTEAD_SERVER__LISTEN", ":1"),
        ("ROADSTEAD_SERVER__ADMIN_LISTEN", ":2"),
        ("ROADSTEAD_SERVER__DRAIN_TIMEOUT", "3s"),
        ("ROADSTEAD_SERVER__TLS__CERT", "/c"),
        ("ROADSTEAD_SERVER__TLS__KEY", "/k"),
        ("ROADSTEAD_CACHE__DIR", "/d"),
        ("ROADSTEAD_CACHE__MAX_SIZE", "4194304"),
        ("ROADSTEAD_TAGS__TTL", "0s"),
        ("ROADSTEAD_TAGS__STALE_IF_ERROR", "1d"),
        ("ROADSTEAD_LOG__FORMAT", "json"),
        (
            "ROADSTEAD_UPSTREAM__MCR_MICROSOFT_COM__ENDPOINTS",
            "http://a, http://b",
        ),
        ("ROADSTEAD_UPSTREAM__MCR_MICROSOFT_COM__DEFAULT", "true"),
        ("ROADSTEAD_UPSTREAM__MCR_MICROSOFT_COM__HOSTS", "m1,m2:5000"),
        ("ROADSTEAD_UPSTREAM__MCR_MICROSOFT_COM__USERNAME", "12345"),
        ("ROADSTEAD_UPSTREAM__MCR_MICROSOFT_COM__PASSWORD", "true"),
        (
            "ROADSTEAD_UPSTREAM__MCR_MICROSOFT_COM__CONNECT_TIMEOUT",
            "1s",
        ),
        (
            "ROADSTEAD_UPSTREAM__MCR_MICROSOFT_COM__HEADER_TIMEOUT",
            "2s",
        ),
        ("ROADSTEAD_UPSTREAM__MCR_MICROSOFT_COM__IDLE_TIMEOUT", "3s"),
        ("ROADSTEAD_UPSTREAM__MCR_MICROSOFT_COM__PARALLEL", "7"),
        ("UNRELATED", "x"),
    ])
    .unwrap();
    assert_eq!(config.server.listen().port(), 1);
    assert_eq!(
        config.server.tls.as_ref().unwrap().pairs[0].key,
        Path::new("/k")
    );
    assert_eq!(config.cache.max_size, Amount::Bytes(4_194_304));
    assert_eq!(ttl_of(&config), Duration::ZERO);
    assert_eq!(config.log_format, LogFormat::Json);
    assert_eq!(
        default_of(&config),
        Some("mcr.microsoft.com"),
        "beats the built-in docker.io"
    );
    let mcr = upstream(&config, "mcr.microsoft.com");
    assert_eq!(mcr.endpoints.len(), 2);
    assert_eq!(mcr.hosts, ["m1", "m2:5000"]);
    assert_eq!(mcr.logins, [login("12345", "true")]);
    assert_eq!(
        (mcr.header_timeout, mcr.parallel.connections),
        (Duration::from_secs(2), 7)
    );
}

#[test]
fn a_wrong_variable_is_named() {
    for (name, value, expected) in [
        (
            "ROADSTEAD_CACHE_MAX_SIZE",
            "1GB",
            "ROADSTEAD_CACHE_MAX_SIZE: no key has this name; did you mean ROADSTEAD_CACHE__MAX_SIZE?",
        ),
        (
            "ROADSTEAD_LISTEN_PORT",
            "5000",
            "ROADSTEAD_LISTEN_PORT: no key has this name",
        ),
        (
            "ROADSTEAD_CACHE__SIZE",
            "1GB",
            "ROADSTEAD_CACHE__SIZE: no key has this name",
        ),
        (
            "ROADSTEAD_cache__max_size",
            "1GB",
            "ROADSTEAD_cache__max_size: no key has this name; did you mean ROADSTEAD_CACHE__MAX_SIZE?",
        ),
        (
            "ROADSTEAD_SERVER__TLS__CA",
            "x",
            "ROADSTEAD_SERVER__TLS__CA: no key has this name",
        ),
        (
            "ROADSTEAD_UPSTREAM__GHCR_IO__COLOUR",
            "x",
            "ROADSTEAD_UPSTREAM__GHCR_IO__COLOUR: no key has this name",
        ),
        (
            "ROADSTEAD_UPSTREAM__ELSEWHERE__USERNAME",
            "x",
            "ROADSTEAD_UPSTREAM__ELSEWHERE__USERNAME: no upstream of this name is configured",
        ),
        (
            "ROADSTEAD_UPSTREAM__GHCR_IO__CREDENTIALS",
            "hunter2",
            "ROADSTEAD_UPSTREAM__GHCR_IO__CREDENTIALS: credentials can only be set in a file; a variable can set username and password",
        ),
        (
            "ROADSTEAD_UPSTREAM__GHCR_IO__STRATEGY",
            "random",
            "ROADSTEAD_UPSTREAM__GHCR_IO__STRATEGY: upstream.\"ghcr.io\".strategy: must be \"ordered\" or \"fastest\"",
        ),
        (
            "ROADSTEAD_TAGS__TTL",
            "60",
            "ROADSTEAD_TAGS__TTL: tags.ttl: \"60\" is not a duration like \"30s\", \"5m\" or \"7d\"",
        ),
        (
            "ROADSTEAD_SERVER__TLS__CERT",
            "c",
            "ROADSTEAD_SERVER__TLS__CERT: server.tls.key: is missing; TLS needs a certificate and its key",
        ),
    ] {
        assert_eq!(environment(&[(name, value)]).unwrap_err(), expected);
    }
}

#[test]
fn a_wrong_flag_is_named() {
    let size = Overrides {
        cache_size: Some("x".to_owned()),
        ..Overrides::default()
    };
    let error = layers(&[], &size).unwrap_err();
    assert!(
        error.starts_with("--cache-size: cache.max_size: \"x\" is not a size"),
        "{error}"
    );
    let flag = |upstream: &str| Overrides {
        upstream: vec![upstream.to_owned()],
        ..Overrides::default()
    };
    assert_eq!(
        layers(&[], &flag("a.io")).unwrap_err(),
        "--upstream: \"a.io\" is not NAME=URL[,URL…]"
    );
    assert_eq!(
        layers(&[], &flag("a.io=b")).unwrap_err(),
        "--upstream: upstream.\"a.io\".endpoints: \"b\" is not an http:// or https:// URL"
    );
    let mut flags = flag("a.io=http://a");
    flags.default_upstream = Some("docker.io".to_owned());
    assert_eq!(
        layers(&[], &flags).unwrap_err(),
        "--default-upstream: \"docker.io\" is not configured; configured: a.io"
    );
}

#[test]
fn variables_that_others_set_do_no_harm() {
    // A pod beside a Service called `roadstead` has all of these, and used to be thought misconfigured.
    let pairs = [
        "ROADSTEAD_LOG",
        "ROADSTEAD_SERVICE_HOST",
        "ROADSTEAD_SERVICE_PORT",
        "ROADSTEAD_SERVICE_PORT_HTTP",
        "ROADSTEAD_PORT",
        "ROADSTEAD_PORT_5000_TCP",
        "ROADSTEAD_PORT_5000_TCP_ADDR",
        "ROADSTEAD_PORT_5000_TCP_PORT",
        "ROADSTEAD_PORT_5000_TCP_PROTO",
        "ROADSTEAD_ADMIN_SERVICE_HOST",
        "ROADSTEAD_ADMIN_PORT_5001_TCP",
    ]
    .map(|name| (name, "tcp://10.96.0.7:5000"));
    assert_eq!(environment(&pairs), environment(&[]));
}

#[test]
fn an_ambiguous_variable_is_refused() {
    let written = Written::new(
        "[upstream.\"a-b.io\"]\nendpoints = [\"http://a\"]\n[upstream.\"a.b.io\"]\nendpoints = [\"http://b\"]\n",
    );
    let error = written.load(
        &[("ROADSTEAD_UPSTREAM__A_B_IO__PARALLEL", "2")],
        Overrides::default(),
    );
    assert_eq!(
        error.unwrap_err(),
        "ROADSTEAD_UPSTREAM__A_B_IO__PARALLEL: may mean any of the upstreams \"a-b.io\", \"a.b.io\""
    );
}

#[test]
fn a_file_with_upstreams_replaces_the_built_in_ones_and_keeps_its_order() {
    let config = file("[upstream.\"z.io\"]\nendpoints = [\"http://z\"]\n[upstream.\"a.io\"]\nendpoints = [\"http://a\"]\n").unwrap();
    assert_eq!(names(&config), ["z.io", "a.io"]);
    assert_eq!(
        default_of(&config),
        None,
        "nobody said so, and there are two"
    );
    assert_eq!(names(&file("[tags]\nttl = \"1s\"\n").unwrap()).len(), 9);
}

#[test]
fn the_first_file_that_exists_is_read() {
    let first = Written::new("[tags]\nttl = \"1s\"\n");
    let second = Written::new("[tags]\nttl = \"2s\"\n");
    let missing = first.dir.path().join("missing.toml");
    let ttl = |files: &[PathBuf]| {
        Config::from_layers(&Overrides::default(), Vec::new(), files)
            .map(|config| ttl_of(&config).as_secs())
    };
    assert_eq!(ttl(&[first.path(), second.path()]), Ok(1));
    assert_eq!(ttl(&[missing.clone(), second.path()]), Ok(2));
    assert_eq!(ttl(std::slice::from_ref(&missing)), Ok(60));
    // One that is there and cannot be read is not passed over.
    assert!(ttl(&[first.dir.path().to_owned(), second.path()]).is_err());
    let asked = Overrides {
        config: Some(missing.clone()),
        ..Overrides::default()
    };
    let error = Config::from_layers(&asked, Vec::new(), &[second.path()])
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        format!(
            "{}: cannot be read: No such file or directory (os error 2)",
            missing.display()
        )
    );
}

#[test]
fn what_check_prints_is_the_same_configuration() {
    let full = "
        [server]\nlisten = \"[::1]:5000\"\nadmin_listen = \"localhost:0\"\ndrain_timeout = \"1500ms\"
        max_connections = 100\nhead_timeout = \"1s\"\nidle_timeout = \"2m\"\nbody_stall_timeout = \"90s\"\nbody_min_rate = 0
        [access]\nadmin = \"identity\"
        [[access.limit]]\nmatch = \"user:*\"\nrequests = 100\nbytes = \"100MB\"\nconnections = 50\nbytes_per_day = \"1TB\"
        [[access.limit]]\nmatch = \"10.0.0.0/8\"\nbytes = 1234567
        [audit]\npath = '/a \"b\"'\nmax_size = 0\nkeep = 7
        [server.tls]\ncert = '/a \"b\" \\c'\nkey = \"k\"
         [state]\ndir = \"/s\"
         [cache]\ndir = \"/d\"\nmax_size = 1234567\nmin_free = \"3%\"\nmax_age = \"90d\"\nfill_on_range = \"over 25%\"\nscrub = \"off\"
        [[cache.pin]]\nmatch = \"registry.k8s.io/pause*\"
        [[cache.pin]]\nmatch = \"**:lts\"
        [tags]\nttl = \"0s\"\nstale_if_error = \"400d\"\nstale_on = []\nkeep_deleted = true
        [[tags.rule]]\nmatch = \"Docker.io/library/*:latest\"\nttl = \"90s\"\nrevalidate = \"background\"
        [[tags.rule]]\nmatch = \"**\"\nttl = \"forever\"\nstale_on = [\"denied\", \"5xx\"]
        keep_deleted = false\nnegative_ttl = \"1500ms\"
        [log]\nformat = \"json\"\n[telemetry.otlp]\nendpoint = \"http://c:4318/x\"\nsample = 0.25\ntimeout = \"3s\"\nproxy = \"http://p:1\"
        [upstream.\"localhost:5000\"]
        endpoints = [\"http://a/prefix/\", { url = \"https://b\", ca_file = \"/ca.pem\" }]
        default = false\nhosts = [\"M.corp\"]\nusername = 'u\"x'\npassword = \"hunter2\"
        connect_timeout = \"90s\"\nheader_timeout = \"1s\"\nidle_timeout = \"2h\"\nparallel = 64
        max_size = \"5GB\"\nmax_age = \"7d\"\n";
    for text in [full, "", EXAMPLE] {
        let mut config = file(text).unwrap();
        let printed = config.to_toml();
        assert!(!printed.contains("hunter2"), "{printed}");
        for upstream in &mut config.upstreams {
            for login in &mut upstream.logins {
                if let LoginConfig::Password { password, .. } = login {
                    *password = literal("***");
                }
            }
        }
        assert_eq!(file(&printed).unwrap(), config, "{printed}");
    }
}

#[test]
fn the_example_has_the_defaults() {
    assert_eq!(file(EXAMPLE).unwrap(), environment(&[]).unwrap());
}

#[test]
fn the_example_has_every_key_and_no_other() {
    // A commented key is one that is `#key = …` or `#[table]` without a space.
    let lines = EXAMPLE
        .lines()
        .filter(|line| !line.starts_with("#endpoints"));
    let uncommented = lines.map(|line| {
        line.strip_prefix('#')
            .filter(|rest| !rest.starts_with(' '))
            .unwrap_or(line)
    });
    let whole = uncommented.collect::<Vec<_>>().join("\n");
    let table: toml::Table = whole.parse().unwrap();
    let mut present = BTreeSet::new();
    for (section, value) in &table {
        collect(section, value, &mut present);
    }
    let known: BTreeSet<String> = Config::known_keys().into_iter().collect();
    // Inside of tables it is said once that a text may be in a file or in a variable.
    let base = |key: &String| {
        let nested = key.matches('.').count() > 2 && key.starts_with("upstream.");
        let base = key.strip_suffix("_file").or(key.strip_suffix("_env"));
        let base = base.filter(|base| nested && known.contains(*base));
        base.unwrap_or(key).to_owned()
    };
    let once = |keys: &BTreeSet<String>| keys.iter().map(base).collect::<BTreeSet<_>>();
    assert_eq!(once(&present), once(&known));
    // The commented keys parse too: three kinds of password are the one thing wrong with them.
    let error = file(&whole).unwrap_err();
    assert!(error.contains("only one of them can be"), "{error}");
}

/// Every key in the tables of a file, with `*` for an upstream's name.
fn collect(path: &str, value: &toml::Value, present: &mut BTreeSet<String>) {
    // The names of headers are not ours.
    if [".headers", ".claim", ".claims"]
        .iter()
        .any(|end| path.ends_with(end))
    {
        present.insert(path.to_owned());
        return;
    }
    if let toml::Value::Array(items) = value {
        // Tables in a list are nothing but their keys.
        let is_list = items.iter().any(toml::Value::is_table) && !path.starts_with("upstream.");
        if !is_list {
            present.insert(path.to_owned());
        }
        let tables = items.iter().filter(|item| item.is_table());
        tables.for_each(|item| collect(path, item, present));
        return;
    }
    let toml::Value::Table(table) = value else {
        present.insert(path.to_owned());
        return;
    };
    for (key, value) in table {
        let key = if path == "upstream" { "*" } else { key };
        collect(&format!("{path}.{key}"), value, present);
    }
}

//! The mirror under test: `App::start` on a temporary directory and port 0.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use roadstead::app::{App, StartError};
use roadstead::clock::{ManualClock, Timestamp};
use roadstead::config::Config;
use roadstead::oci::UpstreamName;
use roadstead::telemetry::LogFormat;
use roadstead::{catalogue, mirror, server, store, upstream};
use tempfile::TempDir;

use super::client::{Answer, Client, Streaming};
use super::{FakeRegistry, WAIT_MAX};

/// Tags are fresh this long in the tests.
pub const TTL: Duration = Duration::from_mins(1);
/// Past that they may be served this long when upstream cannot answer.
pub const STALE_IF_ERROR: Duration = Duration::from_hours(1);
/// The header of a request to the admin API that changes something.
pub const ADMIN: (&str, &str) = ("x-roadstead-admin", "1");
/// What is not there is asked again each time, so that a test need not move the clock between a
/// failure and its repair; `tests/it/policies.rs` is about what happens otherwise.
pub const NEGATIVE_TTL: Duration = Duration::ZERO;

/// An upstream's configuration with short time limits.
pub fn upstream_config(name: &str, url: &str) -> upstream::Config {
    let endpoint = upstream::EndpointConfig::at(url.parse().unwrap());
    upstream::Config {
        connect_timeout: Duration::from_secs(1),
        header_timeout: Duration::from_secs(3),
        idle_timeout: Duration::from_secs(3),
        retry_delay: Duration::from_millis(5),
        ..upstream::Config::of(UpstreamName::parse(name).unwrap(), vec![endpoint])
    }
}

/// Where the partial file is of what this upstream has sent of a blob.
pub fn part_path(store: &Path, upstream: &str, digest: &str) -> PathBuf {
    let (algorithm, hex) = digest.split_once(':').unwrap();
    let upstream = super::images::sha256(upstream.as_bytes());
    let upstream = &upstream["sha256:".len()..][..32];
    let fills = store.join("fills").join(algorithm);
    fills.join(format!("{hex}@{upstream}.part"))
}

/// Credentials for an upstream.
pub fn credentials(username: &str, password: &str) -> upstream::LoginConfig {
    let literal = |text: &str| upstream::Text::Literal(upstream::Secret::new(text.to_owned()));
    upstream::LoginConfig::Password {
        username: literal(username),
        password: literal(password),
    }
}

/// Gives the first listener these certificates.
pub fn secure(config: &mut Config, tls: server::TlsConfig) {
    config.server.tls = Some(tls);
    config.server.listeners[0].tls = true;
}

/// A mirror to be.
#[derive(Debug)]
pub struct MirrorBuilder {
    config: Config,
    dir: Arc<TempDir>,
}

impl MirrorBuilder {
    /// The default upstream is `docker.io`, answered by this registry.
    pub fn of(registry: &FakeRegistry) -> Self {
        Self::new().upstream("docker.io", registry, |upstream| upstream.default = true)
    }

    /// No upstream yet.
    pub fn new() -> Self {
        let dir = Arc::new(TempDir::new().unwrap());
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = Config {
            server: server::Config {
                listeners: vec![server::ListenerConfig::at(any)],
                admin_listen: any,
                tls: None,
                admin_tls: None,
                admin_socket: None,
                admin_hosts: Vec::new(),
                trusted_proxies: Vec::new(),
                watch_config: false,
                drain_timeout: Duration::from_secs(10),
                limits: server::Limits::default(),
            },
            access: roadstead::access::Config::default(),
            audit: None,
            state: catalogue::Config::of(dir.path().join("state")),
            cache: store::Config::of(dir.path().join("cache"), store::Amount::Bytes(1 << 30)),
            tags: mirror::Config::of(mirror::Policy {
                ttl: mirror::Ttl::For(TTL),
                stale_if_error: STALE_IF_ERROR,
                negative_ttl: NEGATIVE_TTL,
                ..mirror::Policy::default()
            }),
            fill_on_range: mirror::FillOnRange::default(),
            upstreams: Vec::new(),
            log_format: LogFormat::Text,
            log_level: "info".to_owned(),
            otlp: None,
            cluster: None,
            tier: None,
            hosted: None,
        };
        Self { config, dir }
    }

    /// The upstreams of these names, none of which is there; the first one is the default.
    pub fn secluded(names: &[&str]) -> Self {
        let (held, address) = super::fake_registry::refused_port().unwrap();
        // Never listens: it only keeps the port from somebody who would.
        std::mem::forget(held);
        let url = format!("http://{address}");
        names
            .iter()
            .enumerate()
            .fold(Self::new(), |to_be, (at, name)| {
                to_be.upstream_at(name, &url, |upstream| upstream.default = at == 0)
            })
    }

    /// Adds an upstream answered by this registry.
    pub fn upstream(
        self,
        name: &str,
        registry: &FakeRegistry,
        change: impl FnOnce(&mut upstream::Config),
    ) -> Self {
        self.upstream_at(name, &registry.url(), change)
    }

    /// Adds an upstream at this URL.
    pub fn upstream_at(
        mut self,
        name: &str,
        url: &str,
        change: impl FnOnce(&mut upstream::Config),
    ) -> Self {
        let mut upstream = upstream_config(name, url);
        change(&mut upstream);
        self.config.upstreams.push(upstream);
        self
    }

    /// Changes anything else.
    pub fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// A directory that lives as long as the mirror.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts it.
    pub async fn start(self) -> Mirror {
        self.try_start().await.unwrap()
    }

    /// Starts it, or says why not.
    pub async fn try_start(self) -> Result<Mirror, StartError> {
        let clock = Arc::new(ManualClock::new(Timestamp(1_790_000_000_000)));
        Mirror::run(self.config, self.dir, clock).await
    }
}

impl Default for MirrorBuilder {
    fn default() -> Self {
        Self::new()
    }
}

/// A running mirror.
#[derive(Debug)]
pub struct Mirror {
    app: App,
    config: Config,
    dir: Arc<TempDir>,
    pub clock: Arc<ManualClock>,
    pub client: Client,
    pub admin: Client,
}

impl Mirror {
    /// A mirror of one registry, as the default upstream `docker.io`.
    pub async fn of(registry: &FakeRegistry) -> Self {
        MirrorBuilder::of(registry).start().await
    }

    async fn run(
        config: Config,
        dir: Arc<TempDir>,
        clock: Arc<ManualClock>,
    ) -> Result<Self, StartError> {
        let app = App::start(config.clone(), Arc::clone(&clock) as _).await?;
        Ok(Self {
            client: Client(app.address()),
            admin: Client(app.admin_address()),
            app,
            config,
            dir,
            clock,
        })
    }

    /// Another listener of clients, by its number.
    pub fn listener(&self, number: usize) -> Client {
        Client(self.app.addresses()[number])
    }

    /// The front door.
    pub fn guard(&self) -> &roadstead::access::Guard {
        self.app.guard()
    }

    /// What is hosted there.
    pub fn hosted(&self) -> &roadstead::hosted::Hosted {
        self.app.hosted().unwrap()
    }

    /// Its cluster.
    pub fn cluster(&self) -> &roadstead::cluster::Cluster {
        self.app.cluster().unwrap()
    }

    /// The configuration of its listeners.
    pub fn server_config(&self) -> &server::Config {
        &self.config.server
    }

    /// The certificates.
    pub fn certificates(&self) -> &server::Certificates {
        self.app.certificates()
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.client.0
    }

    /// `http://host:port`
    pub fn url(&self) -> String {
        format!("http://{}", self.client.0)
    }

    /// The store's directory.
    pub fn store(&self) -> PathBuf {
        self.config.cache.dir.clone()
    }

    /// The state directory.
    pub fn state(&self) -> PathBuf {
        self.config.state.dir.clone()
    }

    /// The file of a committed blob (DESIGN section 5).
    pub fn blob_path(&self, digest: &str) -> PathBuf {
        let (algorithm, hex) = digest.split_once(':').unwrap();
        let shard = &hex[..2];
        self.store()
            .join("blobs")
            .join(algorithm)
            .join(shard)
            .join(hex)
    }

    /// Drains and stops.
    pub async fn stop(self) {
        self.app.stop().await;
    }

    /// Drains, stops, and starts again on the same directory and clock.
    pub async fn restart(self) -> Self {
        self.restart_after(|_| {}).await
    }

    /// Drains, stops, lets the test meddle with the store's directory, starts again.
    pub async fn restart_after(self, meddle: impl FnOnce(&Path)) -> Self {
        let Self {
            app,
            config,
            dir,
            clock,
            ..
        } = self;
        app.stop().await;
        meddle(&config.cache.dir);
        Self::run(config, dir, clock).await.unwrap()
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        self.client.get(path).await
    }

    /// GET with headers.
    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.client.get_with(path, headers).await
    }

    /// HEAD.
    pub async fn head(&self, path: &str) -> Answer {
        self.client.head(path).await
    }

    /// GET of what upstream has again: a limit or a breaker may spare it for some seconds yet, so it is
    /// asked for until it is not refused.
    pub async fn get_when_spared_no_more(&self, path: &str) -> Answer {
        let deadline = tokio::time::Instant::now() + WAIT_MAX;
        loop {
            let answer = self.get(path).await;
            let refused = matches!(answer.status, 429 | 502 | 503 | 504);
            if !refused || tokio::time::Instant::now() > deadline {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// GET, to be read piece by piece.
    pub async fn open(&self, path: &str) -> Streaming {
        self.client.open(path, &[]).await
    }

    /// What `/readyz` says to clients that are served.
    pub async fn readyz(&self) -> String {
        let answer = super::within("readiness", self.admin.get("/readyz")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text()
    }

    /// What `/metrics` says now.
    pub async fn metrics(&self) -> Samples {
        let answer = self.admin.get("/metrics").await;
        assert_eq!(answer.status, 200);
        Samples::parse(&answer.text())
    }

    /// Waits until the metrics satisfy `wanted`. They are asked for again and again, since
    /// nothing announces them; the wait has a generous end.
    pub async fn wait_for_metrics(&self, what: &str, wanted: impl Fn(&Samples) -> bool) {
        let deadline = tokio::time::Instant::now() + WAIT_MAX;
        loop {
            let samples = self.metrics().await;
            if wanted(&samples) {
                return;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "waited in vain for {what}; metrics: {samples:#?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until no fill runs.
    pub async fn wait_for_fills(&self) {
        self.wait_for_metrics("fills to end", |samples| {
            samples.sum("roadstead_fills_in_flight", &[]) == 0.0
        })
        .await;
    }
}

/// Parsed metrics.
#[derive(Clone, Debug, Default)]
pub struct Samples(pub Vec<Sample>);

/// One line of `/metrics`.
#[derive(Clone, Debug)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Samples {
    /// Reads the text exposition.
    pub fn parse(text: &str) -> Self {
        let lines = text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty());
        Self(lines.map(Sample::parse).collect())
    }

    /// The sum over every sample of this name that has these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |sample: &&Sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(label, value)| sample.labels.get(*label).is_some_and(|v| v == value))
        };
        self.0.iter().filter(fits).map(|sample| sample.value).sum()
    }

    /// Whether a sample of this name exists.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|sample| sample.name == name)
    }
}

impl Sample {
    fn parse(line: &str) -> Self {
        let (head, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = head.split_once('{').unwrap_or((head, "}"));
        let labels = labels.strip_suffix('}').unwrap();
        let pairs = labels
            .split(',')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (label, value) = pair.split_once('=').unwrap();
                (label.to_owned(), value.trim_matches('"').to_owned())
            });
        Self {
            name: name.to_owned(),
            labels: pairs.collect(),
            value: value.parse().unwrap(),
        }
    }
}

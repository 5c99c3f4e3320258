//! Puts the parts together, runs them, drains them.

mod changes;
mod describe;
mod hosted;
mod node;
pub mod reload;
pub mod start;
mod succession;
mod tier;
mod upstreams;
mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::{self, AccessError, Guard, Registrar};
use crate::audit::{Audit, AuditError};
use crate::catalogue::Catalogue;
use crate::clock::Clock;
use crate::cluster::{Cluster, Identity};
use crate::config::{Config, Overrides, Snapshot};
use crate::hosted::Hosted;
use crate::mirror::{Mirror, OpenMode, Opened, Parts, Policies};
use crate::otlp::Exporter;
use crate::server::{BindError, Bound, Certificates, Inherited, Leaving, Process};
use crate::stamp::Stamp;
use crate::store::{OpenError, Store};
use crate::telemetry::Metrics;
use crate::tier::Tier;
use crate::upstream::{OwnListeners, SetupError};
pub use describe::ClientSetups;
use describe::Description;
use reload::{Reload, Running};
use start::Start;
pub use succession::TakeOverError;
use succession::{HandOver, Taken};
use upstreams::Made;

/// A mirror on its directory that serves nobody: what runs, without the listeners.
#[derive(Debug)]
pub struct Unserved {
    /// The mirror.
    pub mirror: Mirror,
    /// Its store.
    pub store: Store,
    /// State that cannot be fetched again.
    pub catalogue: Catalogue,
    /// The metrics of both.
    pub metrics: Metrics,
    upstreams: Made,
    /// Its cluster, if it is a node of one.
    cluster: Option<Cluster>,
    /// The object store, if there is one.
    tier: Option<Arc<Tier>>,
}

impl Unserved {
    /// Opens the store, and puts the mirror together. No upstream is dialled.
    ///
    /// # Errors
    /// [`StartError`]: another process has the directory, for example.
    pub async fn open(config: Config, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let config = Snapshot::new(config);
        let own = OwnListeners::default();
        Self::open_by(OpenMode::Write, &config, clock, &own, None, None).await
    }

    /// Opens a directory in which nothing is changed, and nothing evicted, whatever the configuration's bounds are.
    ///
    /// # Errors
    /// [`StartError`]: there is no cache in it, for example.
    pub async fn look_into(mut config: Config, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        config.cache = config.cache.unbounded();
        let config = Snapshot::new(config);
        let own = OwnListeners::default();
        Self::open_by(OpenMode::Look, &config, clock, &own, None, None).await
    }

    /// Opens what is hosted beside it, if anything is; to write, or to look at it.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn hosted(
        &self,
        config: &Config,
        clock: Arc<dyn Clock>,
        writes: bool,
    ) -> Result<Option<Hosted>, StartError> {
        let opening = if writes {
            hosted::Opening::Write
        } else {
            hosted::Opening::Look
        };
        hosted::open(config, &self.catalogue, &clock, &self.metrics, opening).await
    }

    /// Opens the store in a process that listens at `own`: no upstream may lead there. `before`: the process that has it
    /// until now, which lets go of it when all else is seen to. `identity`: the keys of a node of a cluster.
    async fn open_by(
        mode: OpenMode,
        snapshot: &Snapshot,
        clock: Arc<dyn Clock>,
        own: &OwnListeners,
        before: Option<&mut Taken>,
        identity: Option<&Identity>,
    ) -> Result<Self, StartError> {
        let config = snapshot.now();
        let metrics = Metrics::new(config.upstreams.iter().map(|u| u.name.as_str()));
        let upstreams = Made::of(&config, &Made::default(), &metrics, own)?;
        let mode = match before {
            None => mode,
            Some(before) => {
                before.release().await?;
                OpenMode::TakeOver
            }
        };
        let Opened { store, catalogue } = {
            let (clock, metrics) = (Arc::clone(&clock), metrics.clone());
            let may_move = mode.writes();
            Opened::open(
                mode,
                config.cache.clone().found(&config.state.dir, may_move),
                config.state.clone(),
                clock,
                metrics,
            )
            .await?
        };
        let cluster = match config.cluster.as_deref().zip(identity) {
            Some((config, identity)) => {
                let node = Cluster::new(config.clone(), identity, &catalogue, metrics.clone());
                Some(node.await.map_err(StartError::Cluster)?)
            }
            None => None,
        };
        let tier = tier::open(&config, &store, &clock, &metrics, own)?;
        let parts = Parts {
            policies: Policies::new(snapshot.part(|config| &config.tags)),
            fill_on_range: config.fill_on_range,
            upstreams: upstreams.set(),
            store: store.clone(),
            catalogue: catalogue.clone(),
            clock,
            metrics: metrics.clone(),
        };
        let beside = tier::beside(cluster.as_ref(), tier.as_ref());
        let mirror = Mirror::among(parts, beside);
        Ok(Self {
            mirror,
            store,
            catalogue,
            metrics,
            upstreams,
            cluster,
            tier,
        })
    }
}

/// The interval at which it is written down when tokens were last used.
const NOTE_USES_EVERY: Duration = Duration::from_mins(1);

/// Writes down when tokens were last used, now and then and at the end.
async fn note_uses(guard: Guard, stop: CancellationToken) {
    let mut stopped = false;
    while !stopped {
        tokio::select! {
            () = tokio::time::sleep(NOTE_USES_EVERY) => {}
            () = stop.cancelled() => stopped = true,
        }
        if let Err(error) = Registrar::of(&guard).note_uses().await {
            tracing::debug!(%error, "when tokens were last used could not be written down");
        }
    }
}

/// The listeners of this process, to which no upstream may lead.
fn own_listeners(bound: &Bound) -> OwnListeners {
    let own = OwnListeners::default();
    let mut addresses = bound.addresses();
    addresses.push(bound.admin_address());
    addresses.extend(bound.node_address());
    own.are(addresses);
    own
}

/// The export of traces, if there is any.
fn exporter(config: &Config, metrics: &Metrics) -> Result<Exporter, StartError> {
    Exporter::of(config.otlp.as_deref(), metrics.clone()).map_err(StartError::Otlp)
}

/// The front door, and the audit log behind it.
async fn open_guard(
    config: &Config,
    catalogue: Catalogue,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
    identity: Option<&Identity>,
) -> Result<Guard, StartError> {
    let access = access::Config {
        cluster: identity.map(node::sharing),
        ..config.access.clone()
    };
    let catalogue = Some(catalogue);
    let guard = Guard::open(access, catalogue, Arc::clone(clock), metrics.clone()).await?;
    if let Some(audit) = &config.audit {
        guard.audit_to(Audit::open(audit, Arc::clone(clock), metrics.clone())?);
    }
    Ok(guard)
}

/// The longest time that the end waits for the last records of the audit log.
const AUDIT_WAIT_MAX: Duration = Duration::from_secs(2);

/// The way in which a process was started.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// The flags that lead to its configuration. `None`: a program gave it, and it is nowhere to be read.
    pub flags: Option<Overrides>,
    /// The state of its file when it was read.
    pub stamp: Option<Stamp>,
    /// Makes the files of clients.
    pub clients: Option<ClientSetups>,
    /// If another process has the directories, it hands them over, and its sockets.
    pub takes_over: bool,
}

impl Launch {
    /// The file that is read again when it has changed, and its state when it was read.
    fn watched(&self, config: &Config) -> Option<(PathBuf, Option<Stamp>)> {
        let flags = self.flags.as_ref();
        let flags = flags.filter(|_| config.server.watch_config)?;
        Some((Config::file_of(flags)?, self.stamp))
    }
}

/// Tasks that are stopped together.
#[derive(Debug, Default)]
struct Stage {
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A running roadstead.
#[derive(Debug)]
pub struct App {
    address: SocketAddr,
    addresses: Vec<SocketAddr>,
    reload: Arc<Reload>,
    admin_address: SocketAddr,
    guard: Guard,
    mirror: Mirror,
    serving: Stage,
    storing: Stage,
    leaving: Leaving,
    cluster: Option<Cluster>,
    tier: Option<Arc<Tier>>,
    hosted: Option<Hosted>,
}

/// The reason that it did not start: one line.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener or the certificate.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The cache directory.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// Users or policies.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// An upstream's CA file or the like.
    #[error(transparent)]
    Upstream(#[from] SetupError),
    /// The collector of traces: its CA file or the like.
    #[error("{0}")]
    Otlp(String),
    /// The keys of a node of a cluster.
    #[error("{0}")]
    Cluster(String),
    /// The object store: its CA file, its secret or the like.
    #[error("{0}")]
    Tier(String),
    /// The other process did not hand over.
    #[error(transparent)]
    TakeOver(#[from] TakeOverError),
}

impl App {
    /// Binds, opens the store, and serves in the background of the current
    /// tokio runtime. No upstream is dialled.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: Config, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        // Boxed: it is large, and futures that await a start would be as large.
        Box::pin(Self::start_with(
            Snapshot::new(config),
            Launch::default(),
            clock,
            Inherited::default(),
        ))
        .await
    }

    /// Starts with a configuration that may be replaced while it runs, and sockets that are bound already.
    ///
    /// # Errors
    /// As [`App::start`].
    pub async fn start_with(
        snapshot: Snapshot,
        launch: Launch,
        clock: Arc<dyn Clock>,
        inherited: Inherited,
    ) -> Result<Self, StartError> {
        let config = snapshot.now();
        let (mut before, passed) = Taken::ask(launch.takes_over, &config.state.dir).await?;
        let (identity, nodes) = node::identify(&config)?.unzip();
        let binding = Bound::bind(&config.server, Arc::clone(&clock), inherited, passed, nodes);
        let bound = Box::pin(binding).await?;
        let (addresses, admin_address) = (bound.addresses(), bound.admin_address());
        let own = own_listeners(&bound);
        let start = Start::of(&config, &addresses, admin_address);
        let Unserved {
            mirror,
            store,
            catalogue,
            metrics,
            upstreams,
            cluster,
            tier,
        } = {
            let (mode, clock) = (OpenMode::Write, Arc::clone(&clock));
            let (before, identity) = (before.as_mut(), identity.as_ref());
            Unserved::open_by(mode, &snapshot, clock, &own, before, identity).await?
        };
        let takes_over = launch.takes_over;
        let opening = hosted::Opening::Serve { takes_over };
        let hosted = hosted::open(&config, &catalogue, &clock, &metrics, opening).await?;
        let guard = open_guard(&config, catalogue, &clock, &metrics, identity.as_ref()).await?;
        start.tell(&store).await;
        let running = Running {
            guard: guard.clone(),
            certificates: bound.certificates(),
            mirror: mirror.clone(),
            store: store.clone(),
            metrics: metrics.clone(),
            own,
            clock: Arc::clone(&clock),
            exporter: exporter(&config, &metrics)?,
            hosted: hosted.clone(),
        };
        let watched = launch.watched(&config);
        let describe = Arc::new(Description::new(snapshot.clone(), launch.clients));
        let reload = Arc::new(Reload::new(snapshot, launch.flags, running, upstreams));
        let serving = Stage::default();
        let app = Self {
            address: addresses.first().copied().unwrap_or(config.server.listen()),
            addresses,
            reload,
            admin_address,
            guard,
            mirror,
            leaving: Leaving::new(serving.stop.clone()),
            serving,
            storing: Stage::default(),
            cluster,
            tier,
            hosted,
        };
        app.begin(&config, store, watched);
        app.offer(&bound, config.state.dir.clone())?;
        app.serve(bound, metrics, app.process(describe, clock));
        if let Some(before) = before {
            before.serves().await;
        }
        Ok(app)
    }

    /// Serves, until it is told to stop.
    fn serve(&self, bound: Bound, metrics: Metrics, process: Process) {
        let (mirror, guard) = (self.mirror.clone(), self.guard.clone());
        let (leave, stop) = (self.leaving.clone(), self.serving.stop.clone());
        let serving = bound.serve(mirror, metrics, guard, process, leave, stop);
        self.serving.tasks.spawn(serving);
    }

    /// The process, as its operators ask it.
    fn process(&self, describe: Arc<Description>, clock: Arc<dyn Clock>) -> Process {
        Process {
            desk: self.cluster.as_ref().map(node::desk),
            tier: self.tier.as_ref().map(tier::described),
            hosted: self.hosted.clone(),
            reloader: Arc::clone(&self.reload) as _,
            describe,
            clock,
            tracer: self.reload.exporter().tracer().clone(),
        }
    }

    /// Begins what goes on beside the serving. `watched`: the configuration's file, and its
    /// state when it was read.
    fn begin(&self, config: &Config, store: Store, watched: Option<(PathBuf, Option<Stamp>)>) {
        let stop = || self.storing.stop.clone();
        self.mirror.operator().pins().watch();
        self.mirror.restore_imports();
        self.mirror.visibility().keep_verdicts();
        if let Some(period) = config.cache.scrub {
            let scrubbing = self.mirror.clone().scrub(store.clone(), period, stop());
            self.storing.tasks.spawn(scrubbing);
        }
        self.storing
            .tasks
            .spawn(note_uses(self.guard.clone(), stop()));
        if let Some((file, stamp)) = watched {
            let watching = watch::watch(Arc::clone(&self.reload), file, stamp, stop());
            self.storing.tasks.spawn(watching);
        }
        if let Some(cluster) = self.cluster.clone() {
            self.storing.tasks.spawn(cluster.run(stop()));
        }
        if let Some(tier) = self.tier.as_deref().cloned() {
            let peers = self.cluster.as_ref().map(|it| Arc::clone(it.peers()) as _);
            self.storing
                .tasks
                .spawn(tier.run(self.mirror.clone(), peers, stop()));
        }
        if let Some(hosted) = self.hosted.clone() {
            let audit = self.guard.audit().clone();
            if audit.is_on() {
                let recording = changes::record(hosted.clone(), audit, stop());
                self.storing.tasks.spawn(recording);
            }
            self.storing.tasks.spawn(hosted.run(stop()));
        }
        self.storing
            .tasks
            .spawn(self.reload.exporter().clone().run(stop()));
        self.storing.tasks.spawn(store.run(stop()));
    }

    /// Lets another process take over.
    fn offer(&self, bound: &Bound, state_dir: PathBuf) -> Result<(), StartError> {
        let sockets = bound.passable().map_err(|source| BindError::Listen {
            address: self.address,
            source,
        })?;
        let hand_over = HandOver {
            sockets,
            leaving: self.leaving.clone(),
            mirror: self.mirror.clone(),
            guard: self.guard.clone(),
            hosted: self.hosted.clone(),
            is_under_way: AtomicBool::new(false),
        };
        self.serving
            .tasks
            .spawn(hand_over.run(state_dir, self.serving.stop.clone()));
        Ok(())
    }

    /// Waits until another process has taken over: then there is nothing left but to [stop](App::stop), which lets
    /// everything under way come to its end.
    pub async fn handed_over(&self) {
        self.leaving.handed_over().await;
    }

    /// The longest time that [`App::stop`] leaves to what is under way.
    #[must_use]
    pub fn finish_max(&self, drain_timeout: Duration) -> Duration {
        self.leaving.finish_max(drain_timeout)
    }

    /// This node of a cluster, if it is one.
    #[must_use]
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// What is hosted here, if anything is.
    #[must_use]
    pub fn hosted(&self) -> Option<&Hosted> {
        self.hosted.as_ref()
    }

    /// The first client listener's real address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The real addresses of all client listeners, in their order.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Certificates, whose files can be read again.
    #[must_use]
    pub fn certificates(&self) -> &Certificates {
        self.reload.certificates()
    }

    /// Reads the configuration again.
    #[must_use]
    pub fn reload(&self) -> &Arc<Reload> {
        &self.reload
    }

    /// The admin listener's real address.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// The front door.
    #[must_use]
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Drains and stops: no new connections, running bodies finish up to the
    /// drain bound, fills are left resumable, the index is written. Returns
    /// when nothing runs any more.
    pub async fn stop(self) {
        if let Some(cluster) = &self.cluster {
            // From now on what other nodes own is theirs to fetch.
            cluster.leave(true);
        }
        self.serving.stop.cancel();
        self.serving.tasks.close();
        self.serving.tasks.wait().await;
        let audit = self.guard.audit().clone();
        if audit.is_on() {
            let closing = move || audit.close(AUDIT_WAIT_MAX);
            self.storing.tasks.spawn_blocking(closing);
        }
        if let Some(hosted) = &self.hosted {
            hosted.end().await;
        }
        // Only now: bodies that were still running may have followed a fill.
        self.mirror.stop().await;
        self.storing.stop.cancel();
        self.storing.tasks.close();
        self.storing.tasks.wait().await;
    }
}

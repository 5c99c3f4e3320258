//! Puts the parts together, runs them, drains them.

pub mod reload;
pub mod start;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::{AccessError, Guard, Registrar};
use crate::audit::{Audit, AuditError};
use crate::catalogue::Catalogue;
use crate::clock::Clock;
use crate::config::{Config, Snapshot};
use crate::mirror::{Mirror, OpenMode, Opened, Parts, Policies, PublicView};
use crate::oci::Directory;
use crate::oci::directory::Entry;
use crate::server::{BindError, Bound, Certificates, Inherited};
use crate::store::{OpenError, Store};
use crate::telemetry::Metrics;
use crate::upstream::{self, OwnListeners, SetupError, Upstream, Visibility};
use start::Start;

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
}

impl Unserved {
    /// Opens the store, and puts the mirror together. No upstream is dialled.
    ///
    /// # Errors
    /// [`StartError`]: another process has the directory, for example.
    pub async fn open(config: Config, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let config = Snapshot::new(config);
        Self::open_by(OpenMode::Write, &config, clock, &OwnListeners::default()).await
    }

    /// Opens a directory in which nothing is changed, and nothing evicted, whatever the configuration's bounds are.
    ///
    /// # Errors
    /// [`StartError`]: there is no cache in it, for example.
    pub async fn look_into(mut config: Config, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        config.cache = config.cache.unbounded();
        let config = Snapshot::new(config);
        Self::open_by(OpenMode::Look, &config, clock, &OwnListeners::default()).await
    }

    /// Opens the store in a process that listens at `own`: no upstream may lead there.
    async fn open_by(
        mode: OpenMode,
        snapshot: &Snapshot,
        clock: Arc<dyn Clock>,
        own: &OwnListeners,
    ) -> Result<Self, StartError> {
        let config = snapshot.now();
        let metrics = Metrics::new(config.upstreams.iter().map(|u| u.name.as_str()));
        let upstreams = config
            .upstreams
            .iter()
            .map(|u| Upstream::beside(u, metrics.clone(), own));
        let upstreams = upstreams.collect::<Result<Vec<_>, _>>()?;
        let views = |visibility, seen: fn(&upstream::Config) -> upstream::Config| {
            let views = config.upstreams.iter();
            let views = views.filter(move |it| it.visibility == visibility);
            let views = views.map(|it| {
                let upstream = Upstream::beside(&seen(it), metrics.clone(), own)?;
                Ok::<_, SetupError>(PublicView {
                    upstream,
                    ttl: it.visibility_ttl,
                })
            });
            views.collect::<Result<Vec<_>, _>>()
        };
        let public_views = views(Visibility::Public, upstream::Config::without_secrets)?;
        let client_views = views(Visibility::Upstream, upstream::Config::for_clients)?;
        let Opened { store, catalogue } = {
            let (clock, metrics) = (Arc::clone(&clock), metrics.clone());
            let may_move = mode == OpenMode::Write;
            Opened::open(
                mode,
                config.cache.clone().found(&config.state.dir, may_move),
                config.state.clone(),
                clock,
                metrics,
            )
            .await?
        };
        let entries = config.upstreams.iter().map(|u| Entry {
            name: u.name.clone(),
            default: u.default,
            hosts: u.hosts.clone(),
        });
        let mirror = Mirror::new(Parts {
            policies: Policies::new(snapshot.part(|config| &config.tags)),
            fill_on_range: config.fill_on_range,
            directory: Directory::new(entries.collect()),
            upstreams,
            public_views,
            client_views,
            store: store.clone(),
            catalogue: catalogue.clone(),
            clock,
            metrics: metrics.clone(),
        });
        Ok(Self {
            mirror,
            store,
            catalogue,
            metrics,
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

/// The longest time that the end waits for the last records of the audit log.
const AUDIT_WAIT_MAX: Duration = Duration::from_secs(2);

/// A running roadstead.
#[derive(Debug)]
pub struct App {
    address: SocketAddr,
    addresses: Vec<SocketAddr>,
    certificates: Certificates,
    admin_address: SocketAddr,
    guard: Guard,
    mirror: Mirror,
    serving: TaskTracker,
    stop_serving: CancellationToken,
    storing: TaskTracker,
    stop_storing: CancellationToken,
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
        clock: Arc<dyn Clock>,
        inherited: Inherited,
    ) -> Result<Self, StartError> {
        let config = snapshot.now();
        let bound = Box::pin(Bound::bind(&config.server, Arc::clone(&clock), inherited)).await?;
        let (addresses, admin_address) = (bound.addresses(), bound.admin_address());
        let address = addresses.first().copied().unwrap_or(config.server.listen());
        let certificates = bound.certificates();
        let own = OwnListeners::default();
        own.are([&addresses[..], &[admin_address]].concat());
        let scrub = config.cache.scrub;
        let start = Start::of(&config, &addresses, admin_address);
        let Unserved {
            mirror,
            store,
            catalogue,
            metrics,
        } = Unserved::open_by(OpenMode::Write, &snapshot, Arc::clone(&clock), &own).await?;
        let guard = Guard::open(
            config.access.clone(),
            Some(catalogue),
            Arc::clone(&clock),
            metrics.clone(),
        )
        .await?;
        if let Some(audit) = &config.audit {
            guard.audit_to(Audit::open(audit, Arc::clone(&clock), metrics.clone())?);
        }
        start.tell(&store).await;
        let app = Self {
            address,
            addresses,
            certificates,
            admin_address,
            guard: guard.clone(),
            mirror: mirror.clone(),
            serving: TaskTracker::new(),
            stop_serving: CancellationToken::new(),
            storing: TaskTracker::new(),
            stop_storing: CancellationToken::new(),
        };
        mirror.operator().pins().watch();
        mirror.restore_imports();
        mirror.keep_verdicts();
        if let Some(period) = scrub {
            let scrubbing = mirror
                .clone()
                .scrub(store.clone(), period, app.stop_storing.clone());
            app.storing.spawn(scrubbing);
        }
        app.storing
            .spawn(note_uses(guard.clone(), app.stop_storing.clone()));
        app.storing.spawn(store.run(app.stop_storing.clone()));
        app.serving
            .spawn(bound.serve(mirror, metrics, guard, clock, app.stop_serving.clone()));
        Ok(app)
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
        &self.certificates
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
        self.stop_serving.cancel();
        self.serving.close();
        self.serving.wait().await;
        let audit = self.guard.audit().clone();
        if audit.is_on() {
            let closing = move || audit.close(AUDIT_WAIT_MAX);
            self.storing.spawn_blocking(closing);
        }
        // Only now: bodies that were still running may have followed a fill.
        self.mirror.stop().await;
        self.stop_storing.cancel();
        self.storing.close();
        self.storing.wait().await;
    }
}

//! HTTP in: listeners, TLS, routing, bodies, the access log, the operator's listener.
//!
//! A connection is accepted, secured, counted and served by `conn`; `clients` and `operators` say by which steps. Each
//! request becomes an `http::context::Request` and goes through `registry::handler`, which asks the mirror; what it says
//! becomes a response in `registry::reply`, and what it cannot say one in `http::error`. The bytes leave through
//! `http::body`, which at its end, however that comes, drops the request's `http::access_log::Exchange` and so writes its
//! line. The operator's listener is `admin`.

use crate::access::Guard;
use crate::clock::Clock;
use crate::mirror::Mirror;
use crate::server::http::forwarded::Proxies;
use crate::telemetry::{Listener, Metrics};
use admin::Admin;
pub use admin::{
    AdminApi, DeletedContent, DeletedInfo, DeletedList, EventInfo, EventList, Expired, ExpiringTag,
    ExpiryPlan, HostedChange, HostedImage, HostedPage, HostedRepositoryUsage, HostedUsage,
    NamespaceInfo, NamespaceList, PeopleApi, TagHistory, TagMoveInfo, UploadList,
};
pub use bind_error::BindError;
use clients::{Entrance, Front};
pub use config::{ClientAuth, Config, ListenerConfig, PairConfig, TlsConfig};
use conn::buffers::Buffers;
use conn::fd_limit;
pub use conn::limits::Limits;
pub use conn::proxy_protocol;
use conn::table::Table;
use conn::tls::{Prepared, Tls};
pub use describe::{ClientFile, ClientSetup, Describe};
pub use inherited::Inherited;
pub use leaving::Leaving;
pub use nodes::{ClusterMember, ClusterReport, NodeDesk, NodeListener, ThisNode};
use operators::Operators;
pub use passed::{Passed, Role};
pub use process::Process;
pub use registry::door::Asks;
use registry::door::Door;
use registry::handler::Handler;
pub(crate) use registry::hosted::SOURCE;
pub use reload::{KeyChange, ReloadError, Reloaded, Reloader};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
pub use tier::{ThisTier, TierStatus};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use transparent::Authority;
pub use verification::verify;
pub(crate) use visits::ClientList;
use visits::Visits;

mod admin;
mod bind_error;
mod clients;
mod config;
mod conn;
mod describe;
mod http;
mod inherited;
mod leaving;
mod nodes;
mod operators;
mod passed;
mod process;
mod registry;
mod reload;
#[cfg(test)]
mod testing;
mod tier;
pub mod transparent;
pub(crate) mod unix;
mod verification;
mod visits;

/// The most admin connections at once: a few scrapers and probes, which get in all the same when all are taken.
const ADMIN_CONNECTIONS_MAX: usize = 64;

/// Reads the authority of transparent mode from its files.
///
/// # Errors
/// [`BindError::Tls`], which names the file at fault.
pub fn read_authority(cert: &Path, key: &Path) -> Result<Authority, BindError> {
    conn::tls::read_authority(cert, key)
}

/// Reads certificates, keys and authorities as a start does, and says whether they can be used. Blocks.
///
/// # Errors
/// [`BindError::Tls`], which names the file at fault.
pub fn check_tls(config: &TlsConfig, clock: Arc<dyn Clock>) -> Result<(), BindError> {
    Tls::load(config, clock).map(drop)
}

/// Bound listeners, not serving yet.
#[derive(Debug)]
pub struct Bound {
    /// Client listeners with their configuration.
    clients: Vec<(Endpoint, ListenerConfig)>,
    /// The listener for other nodes.
    nodes: Option<(Endpoint, Tls)>,
    admin: Endpoint,
    admin_hosts: Vec<String>,
    admin_socket: Option<UnixListener>,
    tls: Option<Tls>,
    admin_tls: Option<Tls>,
    proxies: Proxies,
    drain_timeout: Duration,
    limits: Limits,
}

/// The certificates of a server that runs. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Certificates {
    clients: Option<Tls>,
    admin: Option<Tls>,
}

/// Certificates of another configuration, which can be used.
#[derive(Debug)]
pub struct NewCertificates {
    clients: Option<Prepared>,
    admin: Option<Prepared>,
}

impl Certificates {
    /// Reads their files again. What cannot be used is logged, and stays as it was: the reasons. Blocks.
    #[must_use]
    pub fn reload(&self) -> Vec<String> {
        self.all().flat_map(Tls::reload).collect()
    }

    /// Reads the files of another configuration, for the listeners that speak TLS and go on to. Nothing is changed. Blocks.
    ///
    /// # Errors
    /// [`BindError::Tls`], which names the file at fault.
    pub fn prepare(&self, config: &Config) -> Result<NewCertificates, BindError> {
        let read = |tls: &Option<Tls>, config: &Option<TlsConfig>| {
            let both = tls.as_ref().zip(config.as_ref());
            both.map(|(tls, config)| tls.prepare(config)).transpose()
        };
        Ok(NewCertificates {
            clients: read(&self.clients, &config.tls)?,
            admin: read(&self.admin, &config.admin_tls)?,
        })
    }

    /// Takes over what was read.
    pub fn replace(&self, new: NewCertificates) {
        let clients = self.clients.iter().zip(new.clients);
        let admin = self.admin.iter().zip(new.admin);
        clients.chain(admin).for_each(|(tls, new)| tls.replace(new));
    }

    fn all(&self) -> impl Iterator<Item = &Tls> {
        self.clients.iter().chain(&self.admin)
    }

    /// Reads those again that have changed, for as long as it is polled.
    async fn watch_files(&self) {
        futures_util::future::join_all(self.all().map(Tls::watch_files)).await;
        std::future::pending::<()>().await;
    }
}

#[derive(Debug)]
struct Endpoint {
    listener: TcpListener,
    address: SocketAddr,
    /// The address of the configuration, whose port may be 0.
    configured: SocketAddr,
}

impl Endpoint {
    /// An endpoint at a socket that is bound already, or at this address.
    async fn new(
        bound: Option<std::net::TcpListener>,
        address: SocketAddr,
    ) -> Result<Self, BindError> {
        let bound = async {
            let listener = match bound {
                Some(bound) => {
                    bound.set_nonblocking(true)?;
                    TcpListener::from_std(bound)?
                }
                None => TcpListener::bind(address).await?,
            };
            io::Result::Ok(Self {
                address: listener.local_addr()?,
                listener,
                configured: address,
            })
        };
        bound
            .await
            .map_err(|source| BindError::Listen { address, source })
    }
}

impl Bound {
    /// Binds all listeners that are not bound already, and reads certificates. Raises the process's limit on open files, too.
    ///
    /// # Errors
    /// [`BindError`].
    pub async fn bind(
        config: &Config,
        clock: Arc<dyn Clock>,
        inherited: Inherited,
        passed: Vec<Passed>,
        nodes: Option<NodeListener>,
    ) -> Result<Self, BindError> {
        fd_limit::raise_limit();
        let mut inherited = inherited.assign(config)?;
        let nodes_at = nodes.as_ref().map(|nodes| nodes.address);
        inherited.complete(passed, config, nodes_at);
        // The certificates first: nobody should connect to a listener that then goes away.
        let load = |tls| Tls::load(tls, Arc::clone(&clock));
        let tls = config.tls.as_ref().map(load).transpose()?;
        let admin_tls = config.admin_tls.as_ref().map(load).transpose()?;
        let mut clients = Vec::new();
        for (listener, bound) in config.listeners.iter().zip(inherited.clients) {
            let endpoint = Endpoint::new(bound, listener.address).await?;
            clients.push((endpoint, listener.clone()));
        }
        for bound in inherited.more {
            let first = config.first();
            let endpoint = Endpoint::new(Some(bound), first.address).await?;
            clients.push((endpoint, first));
        }
        let nodes = match nodes {
            Some(NodeListener { address, tls }) => {
                let endpoint = Endpoint::new(inherited.nodes, address).await?;
                Some((endpoint, Tls::fixed(tls, clock)))
            }
            None => None,
        };
        let admin = Endpoint::new(inherited.admin, config.admin_listen).await?;
        // The last one: a server that cannot start leaves the socket of one that runs.
        let admin_socket = match (inherited.admin_socket, &config.admin_socket) {
            (Some(bound), path) => Some(unix::of(bound, path.as_deref())?),
            (None, path) => path.as_deref().map(unix::bind).transpose()?,
        };
        Ok(Self {
            clients,
            nodes,
            admin,
            admin_socket,
            admin_hosts: config.admin_hosts.clone(),
            tls,
            admin_tls,
            proxies: Proxies::new(config.trusted_proxies.clone()),
            drain_timeout: config.drain_timeout,
            limits: config.limits.clone(),
        })
    }

    /// Copies of all sockets, for the process that takes over.
    ///
    /// # Errors
    /// The operating system's: there are too many descriptors.
    pub fn passable(&self) -> io::Result<Vec<Passed>> {
        let clients = self.clients.iter().map(|(endpoint, config)| {
            let role = Role::Client {
                name: config.name.clone(),
                address: endpoint.configured,
            };
            Passed::copy(role, endpoint.listener.as_fd())
        });
        let address = self.admin.configured;
        let admin = Passed::copy(Role::Admin { address }, self.admin.listener.as_fd());
        let socket = self.admin_socket.iter().map(|socket| {
            let address = socket.local_addr()?;
            let path = address.as_pathname().map(Path::to_owned);
            Passed::copy(Role::AdminSocket { path }, socket.as_fd())
        });
        let nodes = self.nodes.iter().map(|(endpoint, _)| {
            let address = endpoint.configured;
            Passed::copy(Role::Nodes { address }, endpoint.listener.as_fd())
        });
        clients.chain(nodes).chain([admin]).chain(socket).collect()
    }

    /// The real address of the listener for other nodes.
    #[must_use]
    pub fn node_address(&self) -> Option<SocketAddr> {
        self.nodes.as_ref().map(|(endpoint, _)| endpoint.address)
    }

    /// The real addresses of the client listeners, in their order.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let listeners = self.clients.iter();
        listeners.map(|(listener, _)| listener.address).collect()
    }

    /// The admin listener's real address.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address
    }

    /// All certificates.
    #[must_use]
    pub fn certificates(&self) -> Certificates {
        Certificates {
            clients: self.tls.clone(),
            admin: self.admin_tls.clone(),
        }
    }

    /// Serves until `stop` is cancelled; then takes no new connection, lets running requests and bodies
    /// finish for `drain_timeout`, and returns. The admin listener answers until the very end.
    pub async fn serve(
        self,
        mirror: Mirror,
        metrics: Metrics,
        guard: Guard,
        process: Process,
        leaving: Leaving,
        stop: CancellationToken,
    ) {
        let around = process.clone();
        let certificates = self.certificates();
        let buffers = Buffers::default();
        let wanted = self.limits.max_connections;
        let connections_max = fd_limit::connections_max(wanted, mirror.open_files_max());
        let table = |listener, connections_max| {
            let (limits, metrics) = (self.limits.clone(), metrics.clone());
            Table::new(listener, connections_max, limits, metrics, buffers.clone())
        };
        let clients = table(Listener::Client, connections_max);
        let operators = table(Listener::Admin, ADMIN_CONNECTIONS_MAX);
        let visits = Visits::new(Arc::clone(&around.clock));
        let admin = Admin::new(
            mirror.clone(),
            &guard,
            metrics.clone(),
            self.admin_hosts,
            process,
            visits.clone(),
            stop.clone(),
        );
        let operators = Operators {
            admin: Arc::new(admin),
            tls: self.admin_tls,
            table: operators,
            leaving: leaving.clone(),
        };
        let mut entrances = entrances(self.clients, &guard, self.tls.as_ref());
        let nodes = self.nodes.zip(around.desk.clone());
        entrances.extend(nodes.map(|(nodes, desk)| Entrance::for_nodes(nodes, desk, &guard)));
        let front = Front {
            handler: Handler::new(mirror, metrics.clone(), buffers, visits.clone(), &around),
            table: clients,
            proxies: self.proxies,
            metrics,
            leaving,
        };
        let front = Arc::new(front);
        let drained = CancellationToken::new();
        let serve_clients = async {
            clients::serve(entrances, &front, &stop, self.drain_timeout).await;
            drained.cancel();
        };
        let serve_admin = operators.serve(self.admin.listener, self.admin_socket, &drained);
        let serve = async { tokio::join!(serve_clients, serve_admin) };
        tokio::select! {
            _served = serve => {}
            () = front.table.keep_order() => {}
            () = operators.table.keep_order() => {}
            () = certificates.watch_files() => {}
            () = visits.keep(&front.metrics) => {}
        }
        visits.finish();
    }
}

/// The client listeners with their doors.
fn entrances(
    clients: Vec<(Endpoint, ListenerConfig)>,
    guard: &Guard,
    tls: Option<&Tls>,
) -> Vec<Entrance> {
    let entrance = |(endpoint, config): (Endpoint, ListenerConfig)| {
        let tls = tls.filter(|_| config.tls);
        let names = tls.map(Tls::stand_in).unwrap_or_default();
        Entrance {
            door: Door::new(guard.clone(), config.asks, config.tls).standing_in(names),
            tls: tls.cloned(),
            endpoint,
            config,
        }
    };
    clients.into_iter().map(entrance).collect()
}

impl Entrance {
    /// The listener for other nodes.
    fn for_nodes((endpoint, tls): (Endpoint, Tls), desk: NodeDesk, guard: &Guard) -> Self {
        let config = ListenerConfig {
            name: Some("cluster".to_owned()),
            tls: true,
            asks: Asks::Nobody,
            ..ListenerConfig::at(endpoint.address)
        };
        Self {
            door: Door::new(guard.clone(), config.asks, config.tls).for_nodes(desk),
            tls: Some(tls),
            endpoint,
            config,
        }
    }
}

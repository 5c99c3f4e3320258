//! `listener`, `admin-listener`: a server that runs answers there, or else nobody has the address.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::PathBuf;

use futures_util::future::join_all;
use http::header::SERVER;
use socket2::{Domain, Protocol, Socket, Type};
use url::Url;

use super::admin::{Admin, Answer};
use super::finding::Finding;
use super::process::{self, Program};
use crate::commands::target::AdminServer;
use crate::net::near;
use crate::server::{ClientAuth, Config, ListenerConfig};

/// The header by which a registry shows itself.
const REGISTRY: &str = "docker-distribution-api-version";

/// A client listener, as it is looked at.
struct Door {
    id: String,
    key: &'static str,
    address: SocketAddr,
    tls: bool,
    /// The certificate that it should show.
    own: Option<PathBuf>,
    /// Nothing can be asked without what clients bring: a head of the PROXY protocol, a certificate.
    wants: Option<&'static str>,
}

/// Checks the listeners. `runs`: a roadstead answers at the admin address.
pub(super) async fn check(config: &Config, runs: bool) -> Vec<Finding> {
    let listeners = config.listeners.iter().enumerate();
    let doors: Vec<Door> = listeners
        .map(|(number, listener)| Door::of(config, listener, number))
        .collect();
    let mut findings = join_all(doors.iter().map(|door| door.check(runs))).await;
    let admin = Door {
        id: "admin-listener".to_owned(),
        key: "server.admin_listen",
        address: config.admin_listen,
        tls: config.admin_tls.is_some(),
        own: None,
        wants: None,
    };
    findings.push(if runs {
        let address = config.admin_listen;
        Finding::ok(&admin.id, format!("{address}: the server answers"))
    } else {
        admin.check_free().await
    });
    findings
}

impl Door {
    fn of(config: &Config, listener: &ListenerConfig, number: usize) -> Self {
        let tls = config.tls.as_ref().filter(|_| listener.tls);
        let asks = tls
            .is_some_and(|tls| tls.client_ca.is_some() && tls.client_auth == ClientAuth::Required);
        let wants = if listener.proxy_protocol {
            Some("the PROXY protocol")
        } else {
            asks.then_some("a certificate of the client")
        };
        Self {
            id: match number {
                0 => "listener".to_owned(),
                _ => format!("listener:{}", listener.address),
            },
            key: "server.listen",
            address: listener.address,
            tls: listener.tls,
            own: tls.and_then(|tls| tls.pairs.first().map(|pair| pair.cert.clone())),
            wants,
        }
    }

    async fn check(&self, runs: bool) -> Finding {
        if !runs || self.address.port() == 0 {
            return self.check_free().await;
        }
        let (id, at) = (self.id.as_str(), self.address);
        if let Some(wants) = self.wants {
            return match self.bind() {
                Err(error) if error.kind() == ErrorKind::AddrInUse => {
                    let summary = format!("{at}: in use; it wants {wants}, and was not asked");
                    Finding::ok(id, summary)
                }
                Ok(()) | Err(_) => self.nobody(),
            };
        }
        match self.ask(self.tls).await {
            Ok(answer) if is_registry(&answer) => {
                let scheme = if self.tls { "https" } else { "http" };
                let status = answer.status.as_u16();
                let summary = format!("{scheme}://{at} answers {status} at /v2/");
                Finding::ok(id, summary)
            }
            Ok(answer) => self.taken(Some(&answer)),
            Err(why) if self.bind().is_ok() => {
                tracing::debug!(why, "nobody listens");
                self.nobody()
            }
            Err(why) => {
                let summary = format!("{at} is in use, and does not answer at /v2/: {why}");
                let advice = "if the certificate was replaced, `roadstead reload`; else look into the server's log";
                Finding::fail(id, summary, advice)
            }
        }
    }

    /// Checks an address that nobody should have.
    async fn check_free(&self) -> Finding {
        let (id, at, key) = (self.id.as_str(), self.address, self.key);
        if at.port() == 0 {
            let summary = format!("{at}: the system chooses a port at each start");
            return Finding::ok(id, summary);
        }
        let Err(error) = self.bind() else {
            return Finding::ok(id, format!("{at} is free: no server runs there yet"));
        };
        let kind = error.kind();
        if kind == ErrorKind::AddrInUse {
            let mut answer = self.ask(false).await;
            if answer.is_err() {
                answer = self.ask(true).await;
            }
            return self.taken(answer.ok().as_ref());
        }
        if kind == ErrorKind::PermissionDenied {
            return Finding::warn(
                id,
                format!("{at}: this user may not listen at a port below 1024"),
                format!(
                    "the service needs CAP_NET_BIND_SERVICE (AmbientCapabilities= in its unit), or another port in {key}"
                ),
            );
        }
        let summary = if kind == ErrorKind::AddrNotAvailable {
            format!("{at}: no interface of this machine has this address")
        } else {
            format!("{at} cannot be listened at: {error}")
        };
        let advice =
            format!("set {key} to an address of this machine, or to 0.0.0.0 for all of them");
        Finding::fail(id, summary, advice)
    }

    /// The finding where somebody has the address; `answer`: what it says at `/v2/`.
    fn taken(&self, answer: Option<&Answer>) -> Finding {
        let (at, key) = (self.address, self.key);
        let owner = process::listener(at);
        let by = match &owner {
            Some(Program { pid, name }) => format!("{name} (process {pid})"),
            None => "another program".to_owned(),
        };
        if owner.as_ref().is_some_and(|it| it.name == "systemd") {
            let summary = format!("{at}: systemd holds the socket for the service");
            return Finding::ok(&self.id, summary);
        }
        let says = match answer {
            Some(answer) if is_registry(answer) => {
                "it answers at /v2/ as a registry does".to_owned()
            }
            Some(answer) => {
                let name = answer.headers.get(SERVER);
                let name = name.map(|it| String::from_utf8_lossy(it.as_bytes()).into_owned());
                let name = name.map_or(String::new(), |name| format!(" (Server: {name})"));
                format!("it answers {} at /v2/{name}", answer.status.as_u16())
            }
            None => "it does not answer in HTTP".to_owned(),
        };
        let advice = if owner.is_some_and(|it| it.name == "roadstead") {
            "a roadstead runs there with another admin listener: name that with --admin".to_owned()
        } else {
            format!("stop it, or set {key} to another address")
        };
        Finding::fail(&self.id, format!("{at} is taken by {by}: {says}"), advice)
    }

    fn nobody(&self) -> Finding {
        Finding::fail(
            &self.id,
            format!("a roadstead runs, and nobody listens at {}", self.address),
            format!(
                "it was started with another address: restart it, so that {} is used",
                self.key
            ),
        )
    }

    /// Binds the address for a moment, without listening: nobody can connect to it meanwhile.
    fn bind(&self) -> io::Result<()> {
        let domain = Domain::for_address(self.address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        // As the server does it: connections that have ended keep nobody from the address.
        socket.set_reuse_address(true)?;
        socket.bind(&self.address.into())
    }

    /// Asks `/v2/`.
    async fn ask(&self, tls: bool) -> Result<Answer, String> {
        let scheme = if tls { "https" } else { "http" };
        let url = format!("{scheme}://{}", near(self.address));
        let url: Url = url.parse().map_err(|_| format!("{url} is no URL"))?;
        let mut server = AdminServer::at(url);
        server.trust.own.clone_from(&self.own);
        Admin::new(&server)?.get("/v2/").await
    }
}

fn is_registry(answer: &Answer) -> bool {
    answer.headers.contains_key(REGISTRY)
}

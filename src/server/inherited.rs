//! Sockets that the service manager has bound before the start (`sd_listen_fds(3)`): no connection is refused while the
//! server is restarted, and a port below 1024 takes no privilege.
//!
//! A socket is for `server.listen` or a `[[server.listener]]` where its name (`FileDescriptorName=`) is `client` or the
//! listener's own, for the admin listener where it is `admin`, and else for the one that has its address. One that is for
//! none of them is an error: somebody expects answers there.

use super::bind_error::BindError;
use super::config::{Config, ListenerConfig};
use listenfd::ListenFd;
use socket2::SockRef;
use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

/// The first of the numbers (`SD_LISTEN_FDS_START`).
const FIRST: usize = 3;

/// The most sockets that are taken: some for each listener that can be configured.
const SOCKETS_MAX: usize = 1024;

/// The name of sockets for clients.
const CLIENT: &str = "client";

/// The name of sockets for operators.
const ADMIN: &str = "admin";

/// The variable with the names. Programs that log in to upstreams do not get it.
const NAMES_VARIABLE: &str = "LISTEN_FDNAMES";

/// Inherited sockets.
#[derive(Debug, Default)]
pub struct Inherited(Vec<Inheritance>);

#[derive(Debug)]
struct Inheritance {
    /// The number of its descriptor.
    number: usize,
    name: String,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener, SocketAddr),
    /// With its path, if it has one.
    Unix(UnixListener, Option<PathBuf>),
}

/// Inherited sockets by the listener that they are for.
#[derive(Debug, Default)]
pub(super) struct Assigned {
    /// Those of the client listeners, in the order of the configuration.
    pub(super) clients: Vec<Option<TcpListener>>,
    /// Further ones of an only client listener.
    pub(super) more: Vec<TcpListener>,
    pub(super) admin: Option<TcpListener>,
    pub(super) admin_socket: Option<UnixListener>,
    pub(super) nodes: Option<TcpListener>,
}

impl Inherited {
    /// Takes those of this process. The variables that tell of them are gone then, and children do not inherit them.
    /// To be called before there are threads, and once.
    ///
    /// # Errors
    /// [`BindError::Inherited`]: one is none that connections can be accepted at.
    pub fn take() -> Result<Self, BindError> {
        let mut names = None;
        let mut is_meant = false;
        for (variable, value) in std::env::vars_os() {
            if variable == NAMES_VARIABLE {
                names = value.into_string().ok();
            } else if variable == "LISTEN_PID" {
                is_meant = !value.is_empty();
            }
        }
        if !is_meant {
            return Ok(Self::default());
        }
        // It compares the process's number, and takes the variables away.
        let mut given = ListenFd::from_env();
        let names = names.unwrap_or_default();
        let mut names = names.split(':');
        if given.len() > SOCKETS_MAX {
            let why = format!("there are more than {SOCKETS_MAX}");
            return Err(unusable("LISTEN_FDS", &why));
        }
        let sockets = (0..given.len()).map(|at| {
            let name = names.next().unwrap_or_default().to_owned();
            Inheritance::take(&mut given, at, name)
        });
        sockets.collect::<Result<_, _>>().map(Self)
    }

    /// Gives each to the listener that it is for.
    ///
    /// # Errors
    /// [`BindError::Inherited`]: one is for none, or for one that has another already.
    pub(super) fn assign(self, config: &Config) -> Result<Assigned, BindError> {
        let mut assigned = Assigned::default();
        assigned
            .clients
            .resize_with(config.listeners.len(), || None);
        // Those first that leave no choice.
        let (exact, others): (Vec<_>, Vec<_>) = self
            .0
            .into_iter()
            .partition(|it| it.exact(&config.listeners).is_some());
        for inheritance in exact.into_iter().chain(others) {
            inheritance.assign(config, &mut assigned)?;
        }
        Ok(assigned)
    }
}

impl Inheritance {
    fn take(given: &mut ListenFd, at: usize, name: String) -> Result<Self, BindError> {
        let number = FIRST + at;
        let shown = format!("{name:?} (descriptor {number})");
        let socket = if let Ok(Some(listener)) = given.take_tcp_listener(at) {
            let address = listener.local_addr();
            let address = address.map_err(|error| unusable(&shown, &error.to_string()))?;
            Socket::Tcp(listener, address)
        } else if let Ok(Some(listener)) = given.take_unix_listener(at) {
            let address = listener.local_addr();
            let address = address.map_err(|error| unusable(&shown, &error.to_string()))?;
            let path = address.as_pathname().map(ToOwned::to_owned);
            Socket::Unix(listener, path)
        } else {
            let why = "it is neither a TCP nor a Unix stream socket: write ListenStream=";
            return Err(unusable(&shown, why));
        };
        let is_listening = match &socket {
            Socket::Tcp(listener, _) => SockRef::from(listener).is_listener(),
            Socket::Unix(listener, _) => SockRef::from(listener).is_listener(),
        };
        if !is_listening.unwrap_or_default() {
            let why = "it is a connection and accepts none: write Accept=no";
            return Err(unusable(&shown, why));
        }
        Ok(Self {
            number,
            name,
            socket,
        })
    }

    /// The client listener whose name or address it has.
    fn exact(&self, listeners: &[ListenerConfig]) -> Option<usize> {
        let by_name = |it: &ListenerConfig| it.name.as_ref() == Some(&self.name);
        let by_address = |it: &ListenerConfig| {
            let Socket::Tcp(_, address) = &self.socket else {
                return false;
            };
            it.address == *address && self.name != ADMIN
        };
        let named = listeners.iter().position(by_name);
        named.or_else(|| listeners.iter().position(by_address))
    }

    fn assign(self, config: &Config, assigned: &mut Assigned) -> Result<(), BindError> {
        let shown = self.to_string();
        let exact = self.exact(&config.listeners);
        match self.socket {
            Socket::Tcp(listener, address) => {
                if let Some(at) = exact {
                    return put(assigned.clients.get_mut(at), listener, &shown);
                }
                if self.name == CLIENT {
                    let free = assigned.clients.iter_mut().find(|it| it.is_none());
                    if free.is_some() {
                        return put(free, listener, &shown);
                    }
                    // One listener at an IPv4 and an IPv6 address is two sockets.
                    if config.listeners.len() == 1 {
                        assigned.more.push(listener);
                        return Ok(());
                    }
                }
                if self.name == ADMIN || address == config.admin_listen {
                    return put(Some(&mut assigned.admin), listener, &shown);
                }
            }
            Socket::Unix(listener, path) => {
                let is_admin =
                    self.name == ADMIN || (path.is_some() && path == config.admin_socket);
                if is_admin {
                    return put(Some(&mut assigned.admin_socket), listener, &shown);
                }
                if self.name == CLIENT || exact.is_some() {
                    let why = "clients connect by TCP: a Unix socket is for `admin`";
                    return Err(unusable(&shown, why));
                }
            }
        }
        let why = "it is for no listener: name it `client` or `admin` (FileDescriptorName=), as a [[server.listener]] is named, or give it the address of one";
        Err(unusable(&shown, why))
    }
}

impl fmt::Display for Inheritance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} (descriptor {}", self.name, self.number)?;
        match &self.socket {
            Socket::Tcp(_, address) => write!(f, ", {address})"),
            Socket::Unix(_, Some(path)) => write!(f, ", {})", path.display()),
            Socket::Unix(_, None) => f.write_str(", a Unix socket without a name)"),
        }
    }
}

fn put<T>(place: Option<&mut Option<T>>, socket: T, shown: &str) -> Result<(), BindError> {
    match place {
        Some(place @ None) => {
            *place = Some(socket);
            Ok(())
        }
        Some(Some(_)) | None => Err(unusable(shown, "its listener has another one already")),
    }
}

fn unusable(socket: &str, why: &str) -> BindError {
    BindError::Inherited {
        socket: socket.to_owned(),
        why: why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::conn::limits::Limits;
    use std::time::Duration;

    fn tcp(name: &str, number: usize) -> Inheritance {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        Inheritance {
            number,
            name: name.to_owned(),
            socket: Socket::Tcp(listener, address),
        }
    }

    fn address(inheritance: &Inheritance) -> SocketAddr {
        match &inheritance.socket {
            Socket::Tcp(_, address) => *address,
            Socket::Unix(..) => panic!("a Unix socket"),
        }
    }

    fn config(listeners: &[(&str, SocketAddr)], admin: SocketAddr) -> Config {
        let listeners = listeners.iter().map(|(name, address)| ListenerConfig {
            name: (!name.is_empty()).then(|| (*name).to_owned()),
            ..ListenerConfig::at(*address)
        });
        Config {
            listeners: listeners.collect(),
            admin_listen: admin,
            admin_socket: Some("/run/admin.sock".into()),
            tls: None,
            admin_tls: None,
            admin_hosts: Vec::new(),
            trusted_proxies: Vec::new(),
            watch_config: false,
            drain_timeout: Duration::ZERO,
            limits: Limits::default(),
        }
    }

    fn any(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[tokio::test]
    async fn sockets_are_given_by_name_and_else_by_address() {
        let all = vec![
            tcp("client", 3),
            tcp("two", 4),
            tcp("roadstead.socket", 5),
            tcp("admin", 6),
        ];
        let addresses: Vec<_> = all.iter().map(address).collect();
        let config = config(
            &[("one", any(1)), ("two", any(2)), ("", addresses[2])],
            any(4),
        );
        let assigned = Inherited(all).assign(&config).unwrap();
        let given: Vec<_> = assigned
            .clients
            .iter()
            .map(|it| it.as_ref().map(|it| it.local_addr().unwrap()))
            .collect();
        assert_eq!(
            given,
            [Some(addresses[0]), Some(addresses[1]), Some(addresses[2])]
        );
        assert_eq!(assigned.admin.unwrap().local_addr().unwrap(), addresses[3]);
        assert!(assigned.more.is_empty() && assigned.admin_socket.is_none());
    }

    #[tokio::test]
    async fn one_listener_may_have_several_and_several_may_not() {
        let both = || vec![tcp("client", 3), tcp("client", 4)];
        let one = config(&[("", any(1))], any(2));
        let assigned = Inherited(both()).assign(&one).unwrap();
        assert_eq!(assigned.more.len(), 1);
        let mut three = both();
        three.push(tcp("client", 5));
        let two = config(&[("", any(1)), ("", any(3))], any(2));
        let error = Inherited(three).assign(&two).unwrap_err().to_string();
        assert!(error.contains("\"client\" (descriptor 5"), "{error}");
    }

    #[tokio::test]
    async fn one_that_is_for_nobody_is_an_error_that_names_it() {
        let config = config(&[("", any(1))], any(2));
        for (inheritance, expected) in [
            (vec![tcp("roadstead.socket", 3)], "for no listener"),
            (
                vec![tcp("admin", 3), tcp("admin", 4)],
                "another one already",
            ),
        ] {
            let error = Inherited(inheritance).assign(&config).unwrap_err();
            let error = error.to_string();
            assert!(error.contains(expected), "{error}");
            assert!(
                error.contains("127.0.0.1:") && error.contains("descriptor"),
                "{error}"
            );
        }
        let dir = tempfile::tempdir().unwrap();
        let unix = |name: &str| {
            let path = dir.path().join(format!("{name}.sock"));
            Inheritance {
                number: 3,
                name: name.to_owned(),
                socket: Socket::Unix(UnixListener::bind(&path).unwrap(), Some(path)),
            }
        };
        let error = Inherited(vec![unix("client")]).assign(&config).unwrap_err();
        assert!(
            error.to_string().contains("clients connect by TCP"),
            "{error}"
        );
        let assigned = Inherited(vec![unix("admin")]).assign(&config).unwrap();
        assert!(assigned.admin_socket.is_some());
    }
}

//! A client's connection, as far as its requests need to know of it.

use super::door::{Door, Memory};
use crate::access::Principal;
use crate::server::http::access_log::Client;
use crate::server::http::forwarded::Proxies;
use http::request;
use std::net::IpAddr;
use std::sync::Arc;

/// A connection, from its handshake to its end.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// The door by which it came.
    pub(crate) door: Door,
    /// Credentials of the last request.
    pub(crate) memory: Memory,
    client: Client,
    /// The identity in the client's certificate.
    certificate: Option<Arc<Principal>>,
    /// Proxies that its headers may name; none where it comes from no trusted one.
    proxies: Option<Proxies>,
}

/// The client of one request.
#[derive(Clone, Debug)]
pub(crate) struct Caller<'a> {
    pub(crate) arrival: &'a Arrival,
    /// The client: that of the connection, or the one that its proxy speaks for.
    pub(crate) client: Client,
    /// The certificate that the client has shown, and no proxy before it.
    pub(crate) certificate: Option<&'a Arc<Principal>>,
    /// True if it reaches the mirror by HTTPS.
    pub(crate) is_secure: bool,
}

impl Arrival {
    /// A connection of `client`, whose requests may come through `proxies`.
    pub(crate) fn new(
        door: Door,
        client: Client,
        certificate: Option<Arc<Principal>>,
        proxies: &Proxies,
    ) -> Self {
        let is_trusted = proxies.trust(client.ip());
        Self {
            door,
            memory: Memory::default(),
            client,
            certificate,
            proxies: is_trusted.then(|| proxies.clone()),
        }
    }

    /// The client of a request.
    pub(crate) fn caller(&self, head: &request::Parts) -> Caller<'_> {
        let proxies = self.proxies.as_ref();
        let behind = proxies.and_then(|proxies| proxies.client(&head.headers));
        let is_secure = proxies.and_then(|_| Proxies::is_secure(&head.headers));
        Caller {
            arrival: self,
            client: behind.map_or_else(|| self.client.clone(), |it| self.client.behind(it)),
            // That of a proxy would make whoever comes through it the proxy.
            certificate: self.certificate.as_ref().filter(|_| behind.is_none()),
            is_secure: is_secure.unwrap_or(self.door.is_secure()),
        }
    }
}

impl Caller<'_> {
    /// True if the request comes from this machine, and through no proxy that would have said so of others, too.
    pub(crate) fn is_this_machine(&self, head: &request::Parts) -> bool {
        let is_passed_on = ["x-forwarded-for", "forwarded", "x-real-ip"];
        let is_passed_on = is_passed_on.iter().any(|it| head.headers.contains_key(*it));
        self.source().is_loopback() && !is_passed_on
    }

    /// The client's address.
    pub(crate) fn source(&self) -> IpAddr {
        self.client.ip()
    }
}

//! For whom something is asked: which client, by way of which mirrors, and as part of which work.
//!
//! It belongs to a client's request and is needed where that, perhaps after several tasks, becomes a request to an
//! upstream. It travels as a task-local: [`OnBehalf::scope`] sets it, [`in_request_scope`] takes it along to a spawned
//! task, and whoever sends or waits for its turn looks it up.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use http::HeaderValue;

use super::client_credential::ClientCredential;
use super::via::Via;
use super::work::Work;
use crate::oci::UpstreamName;
use crate::telemetry::trace::{Span, SpanKind, Trace};

tokio::task_local! {
    static ON_BEHALF: OnBehalf;
}

/// A client, as far as shares go: one address, one connection of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId {
    /// Whose shares it has.
    pub address: Address,
    /// Different for each connection of the process.
    pub connection: u64,
}

/// An address that is given to one client. Of IPv6 that is a network of 64 bits (RFC 6177): whoever has one has 2^64
/// addresses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(Option<IpAddr>);

impl Address {
    /// The address; `None`: this mirror itself.
    #[must_use]
    pub const fn ip(self) -> Option<IpAddr> {
        self.0
    }
}

impl ClientId {
    /// The client of work that this mirror does by itself.
    pub const OURSELVES: Self = Self {
        address: Address(None),
        connection: 0,
    };

    /// A connection from this address.
    #[must_use]
    pub fn new(address: IpAddr, connection: u64) -> Self {
        Self {
            address: Address::of(address),
            connection,
        }
    }
}

impl Address {
    /// What is given to the client that has this address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        Self(Some(match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() >> 64 << 64;
                IpAddr::V6(Ipv6Addr::from_bits(network))
            }
            address @ IpAddr::V4(_) => address,
        }))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(IpAddr::V6(network)) => write!(f, "{network}/64"),
            Some(IpAddr::V4(address)) => write!(f, "{address}"),
            None => f.write_str("this mirror"),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// For whom work is done.
#[derive(Clone, Debug)]
pub struct OnBehalf {
    via: Option<Via>,
    client: ClientId,
    /// The work that it is a part of, if others may wait for that, too.
    work: Option<Arc<Work>>,
    /// The credential that it has sent for an upstream.
    credential: Option<ClientCredential>,
    /// The trace that it belongs to, and the span in it.
    trace: Option<Trace>,
    /// True if another node of the cluster asks, for a client of its own.
    for_node: bool,
}

impl OnBehalf {
    /// A client's request, which came this way.
    #[must_use]
    pub fn of(client: ClientId, via: Via) -> Self {
        Self {
            via: Some(via),
            client,
            work: None,
            credential: None,
            trace: None,
            for_node: false,
        }
    }

    /// The same for another node of the cluster, which waits for what this one gets: no node may be waited for.
    #[must_use]
    pub fn for_node(self) -> Self {
        Self {
            for_node: true,
            ..self
        }
    }

    /// True if another node of the cluster waits for what is done now.
    #[must_use]
    pub fn is_for_node() -> bool {
        ON_BEHALF.try_with(|this| this.for_node).unwrap_or_default()
    }

    /// True if other nodes of the cluster may be asked: none of them waits for this, and none would need the credential of
    /// the client, which is for the upstream alone.
    #[must_use]
    pub fn may_ask_nodes() -> bool {
        let may = |this: &Self| !this.for_node && this.credential.is_none();
        ON_BEHALF.try_with(may).unwrap_or(true)
    }

    /// The same, with what the client has sent for an upstream.
    #[must_use]
    pub fn with_credential(self, credential: Option<ClientCredential>) -> Self {
        Self { credential, ..self }
    }

    /// The same, as a part of a span.
    #[must_use]
    pub fn with_trace(self, trace: Option<Trace>) -> Self {
        Self { trace, ..self }
    }

    /// The credential that it has sent for an upstream.
    #[must_use]
    pub fn credential(&self) -> Option<&ClientCredential> {
        self.credential.as_ref()
    }

    /// That of the request that this work belongs to, for work that goes on when others poll it. What no request
    /// has caused this mirror does by itself.
    #[must_use]
    pub fn current() -> Self {
        ON_BEHALF.try_with(Clone::clone).unwrap_or(Self {
            via: None,
            client: ClientId::OURSELVES,
            work: None,
            credential: None,
            trace: None,
            for_node: false,
        })
    }

    /// The span that it is a part of.
    #[must_use]
    pub fn trace(&self) -> Option<&Trace> {
        self.trace.as_ref()
    }

    /// Does something with the span of what is done now, if that is traced.
    pub fn traced<T>(act: impl FnOnce(&Trace) -> T) -> Option<T> {
        let act = |this: &Self| this.trace.as_ref().map(act);
        ON_BEHALF.try_with(act).ok().flatten()
    }

    /// A span of a part of what is done now, if that is recorded.
    #[must_use]
    pub fn span(name: &'static str) -> Option<Span> {
        Self::traced(|trace| trace.child(name, SpanKind::Internal)).flatten()
    }

    /// The client.
    #[must_use]
    pub fn client(&self) -> ClientId {
        self.client
    }

    /// True if the client's request had passed through other mirrors.
    #[must_use]
    pub fn came_through_others(&self) -> bool {
        self.via.as_ref().is_some_and(Via::came_through_others)
    }

    /// The work that it is a part of.
    #[must_use]
    pub fn work(&self) -> Option<&Arc<Work>> {
        self.work.as_ref()
    }

    /// The same, as a part of `work`.
    #[must_use]
    pub fn as_part_of(self, work: Arc<Work>) -> Self {
        Self {
            work: Some(work),
            ..self
        }
    }

    /// Runs `doing` as a part of the request that this belongs to.
    pub fn scope<T>(self, doing: impl Future<Output = T>) -> impl Future<Output = T> {
        // An async function would hold it twice: as its argument, and as what it awaits.
        ON_BEHALF.scope(self, doing)
    }

    /// `Via` for what is sent now; `None` for what no request has caused.
    pub(crate) fn via() -> Option<HeaderValue> {
        let via = |this: &Self| this.via.as_ref().map(|via| via.header().clone());
        ON_BEHALF.try_with(via).ok().flatten()
    }

    /// `Authorization` that the client has sent for this upstream.
    pub(crate) fn authorization(upstream: &UpstreamName) -> Option<HeaderValue> {
        let authorization = |this: &Self| {
            let credential = this.credential.as_ref()?;
            credential.header_for(upstream).cloned()
        };
        ON_BEHALF.try_with(authorization).ok().flatten()
    }
}

/// Takes the present request along with work that is about to be spawned.
pub fn in_request_scope<F: Future>(doing: F) -> impl Future<Output = F::Output> {
    let current = ON_BEHALF.try_with(Clone::clone).ok();
    // It is large, and would be there once for each way below.
    let doing = Box::pin(doing);
    async move {
        match current {
            Some(current) => current.scope(doing).await,
            None => doing.await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Pseudonym;

    #[test]
    fn a_network_is_one_client() {
        let address = |text: &str| ClientId::new(text.parse().unwrap(), 7).address;
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:2"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
        assert_ne!(address("192.0.2.2"), address("192.0.2.1"));
        assert_eq!(address("2001:db8::1").to_string(), "2001:db8::/64");
        assert_ne!(address("::"), ClientId::OURSELVES.address);
    }

    #[tokio::test]
    #[allow(
        clippy::disallowed_methods,
        reason = "a test awaits what it spawns itself"
    )]
    async fn spawned_work_belongs_to_the_request_that_caused_it() {
        assert!(OnBehalf::via().is_none());
        let via = Pseudonym::random().join(std::iter::empty()).unwrap();
        let expected = via.header().clone();
        let client = ClientId::new([192, 0, 2, 1].into(), 7);
        let seen = OnBehalf::of(client, via).scope(async {
            let seen = async { (OnBehalf::via(), OnBehalf::current().client()) };
            tokio::spawn(in_request_scope(seen)).await
        });
        assert_eq!(seen.await.unwrap(), (Some(expected), client));
        let without = tokio::spawn(in_request_scope(async { OnBehalf::via() }));
        assert!(without.await.unwrap().is_none());
        assert_eq!(OnBehalf::current().client(), ClientId::OURSELVES);
    }
}

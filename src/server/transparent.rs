//! Transparent mode: a listener that answers at the upstreams' own host names, to clients that a DNS override leads here.
//!
//! An [`Authority`] that the operator has made and installed at the clients signs short-lived certificates, for configured
//! names and no others. All of them are minted ahead, so that no handshake waits for a signature, no client can ask for
//! one, and their number is that of the names. A request whose `Host` is one of the names goes to that upstream.

mod authority;
mod config;
mod names;

pub(crate) use authority::Minted;
pub use authority::{Authority, AuthorityError, LEAF_LIFETIME, NewAuthority, make};
pub use config::{TransparentConfig, TransparentHost};
pub(crate) use names::StandIn;

//! Whom a limit means.

use super::super::{Kind, Principal};
use crate::net::Network;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Whom a limit means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// `*`: everybody, each identity by itself, and anonymous clients by their addresses.
    Everybody,
    /// `address`: everybody, by the address alone.
    Address,
    /// A network: everybody in it, by the address alone.
    Network(Network),
    /// `anonymous`: clients that have not said who they are, by their addresses.
    Anonymous,
    /// `group:dev`: everybody in a group, each by himself.
    Group(String),
    /// `user:alice`, `robot:*`: an identity, or each of a kind by itself.
    Identity(Kind, Option<String>),
}

/// Kinds that a limit can name.
const KINDS: [Kind; 4] = [Kind::User, Kind::Robot, Kind::Certificate, Kind::Workload];

impl Meaning {
    /// True if it means this client.
    #[must_use]
    pub fn means(&self, who: &Principal, source: IpAddr) -> bool {
        match self {
            Self::Everybody | Self::Address => true,
            Self::Network(network) => network.contains(source.to_canonical()),
            Self::Anonymous => who.is_anonymous(),
            Self::Group(group) => who.groups.iter().any(|it| it == group),
            Self::Identity(kind, name) => {
                who.kind == *kind && name.as_ref().is_none_or(|name| **name == *who.name)
            }
        }
    }

    /// True if it means places, whoever comes from there.
    #[must_use]
    pub fn is_of_places(&self) -> bool {
        match self {
            Self::Address | Self::Network(_) => true,
            Self::Everybody | Self::Anonymous | Self::Group(_) | Self::Identity(..) => false,
        }
    }

    /// True if clients are told apart by their addresses, whoever they are.
    #[must_use]
    pub fn is_by_address(&self) -> bool {
        match self {
            Self::Address | Self::Network(_) | Self::Anonymous => true,
            Self::Everybody | Self::Group(_) | Self::Identity(..) => false,
        }
    }
}

impl FromStr for Meaning {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "*" => return Ok(Self::Everybody),
            "address" => return Ok(Self::Address),
            "anonymous" => return Ok(Self::Anonymous),
            _ => {}
        }
        let wrong = || {
            "must be \"user:NAME\", \"group:NAME\", \"robot:NAME\", \"certificate:NAME\" or \"workload:NAME\" (NAME may be *), \
             \"anonymous\", \"address\", a network, or \"*\""
                .to_owned()
        };
        if let Ok(network) = text.parse() {
            return Ok(Self::Network(network));
        }
        let (kind, name) = text.split_once(':').ok_or_else(wrong)?;
        if name.is_empty() || (name != "*" && name.contains('*')) {
            return Err(wrong());
        }
        if kind == "group" && name != "*" {
            return Ok(Self::Group(name.to_owned()));
        }
        let kind = KINDS
            .into_iter()
            .find(|it| it.name() == kind)
            .ok_or_else(wrong)?;
        Ok(Self::Identity(kind, (name != "*").then(|| name.to_owned())))
    }
}

impl fmt::Display for Meaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everybody => f.write_str("*"),
            Self::Address => f.write_str("address"),
            Self::Network(network) => write!(f, "{network}"),
            Self::Anonymous => f.write_str("anonymous"),
            Self::Group(name) => write!(f, "group:{name}"),
            Self::Identity(kind, name) => {
                write!(f, "{}:{}", kind.name(), name.as_deref().unwrap_or("*"))
            }
        }
    }
}

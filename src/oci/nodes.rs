//! The words that nodes of a cluster have for each other, beside those of the registry's API.

use http::HeaderName;

/// The path of the greeting, at the listener for nodes.
pub const HELLO_PATH: &str = "/cluster/v1/hello";

/// The path by which a node is told to own nothing from now on, or again.
pub const LEAVING_PATH: &str = "/cluster/v1/leaving";

/// Requests of nodes carry it: what they ask for is not asked of a node.
pub const HOP: HeaderName = HeaderName::from_static("roadstead-hop");

/// The name of the node that asks.
pub const NODE: HeaderName = HeaderName::from_static("roadstead-node");

/// The parts of the blob that the node that asks has, as in `Range` without the unit. They may be asked of it.
pub const HAVE: HeaderName = HeaderName::from_static("roadstead-have");

/// The value of `Cache-Control` that asks for what is there, and for nothing to be fetched.
pub const IF_STORED: &str = "only-if-cached";

/// The value of `Cache-Control` by which the upstream is asked what a tag names, however fresh it is.
pub const ASK_NOW: &str = "no-cache";

/// The size of the blob asked for, where the node that asks has the upstream's word that the repository has it.
pub const SIZE: HeaderName = HeaderName::from_static("roadstead-size");

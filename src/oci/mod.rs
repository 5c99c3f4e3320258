//! The grammar of the distribution protocol, and nothing else: no sockets, no
//! files, no runtime. Everything a request or an upstream says is parsed here,
//! once, into types that cannot hold nonsense.
//!
//! Sources: the OCI distribution specification (`dist-spec`), the OCI image
//! specification (`image-spec`), and the observed behaviour of clients.

pub mod accept;
pub mod challenge;
pub mod digest;
pub mod directory;
pub mod error;
pub mod image;
pub mod link;
pub mod list;
pub mod manifest;
pub mod media_type;
pub mod name;
pub mod nodes;
pub mod push;
pub mod range;
pub mod ranges;
pub mod referrer;
pub mod route;
mod span;

pub use accept::{Accept, AcceptClass};
pub use digest::{Algorithm, Digest, Hasher};
pub use directory::Directory;
pub use error::ErrorCode;
pub use image::ImageName;
pub use name::{Reference, Repository, Tag, UpstreamName};
pub use range::{ByteRange, Unsatisfiable};
pub use ranges::{ByteRanges, Part};
pub use route::{Page, Route};

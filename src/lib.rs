//! roadstead: a registry accelerator.
//!
//! A pull-through caching mirror for OCI and Docker registries. Whatever a
//! fleet pulls crosses the ocean once, is kept on local disk under its digest,
//! and is served to everybody else at wire speed.
//!
//! # Where things are
//!
//! | module | what it does | may use |
//! | --- | --- | --- |
//! | [`oci`] | the grammar of the protocol: digests, names, routes, ranges, manifests, errors. Pure. | nothing |
//! | [`store`] | bytes on disk: fills, coverage, committed blobs, the index, eviction | `oci` |
//! | [`upstream`] | the only code that dials: requests, tokens, redirects, time limits | `oci` |
//! | [`mirror`] | the decisions: hit or miss, fresh or stale, who joins which fill | `store`, `upstream`, `oci` |
//! | [`server`] | HTTP in: listeners, TLS, routing, bodies, access log, admin | `mirror`, `oci` |
//! | [`config`] | one file, the environment and flags, resolved into each module's own configuration | all `Config`s |
//! | [`warm`] | the command that pulls images through a running mirror | `upstream`, `oci` |
//! | [`verify`] | the command that has everything hashed, through a server or on its directory | `app`, `config`, `mirror`, `upstream`, `oci` |
//! | [`carry`] | the commands `export` and `import`: images out of a running mirror and into one | `warm`, `upstream`, `oci` |
//! | [`bench`] | the command that pulls an image many times at once, to measure registries | `warm`, `upstream`, `oci` |
//! | [`app`] | puts the parts together, runs them, drains them | all |
//! | [`telemetry`], [`clock`] | metrics, logs and time, used by all | nothing |
//!
//! A pull enters in `server::registry::handler`, becomes a `oci::route::Route`, asks
//! `mirror::Mirror`, and leaves through `server::http::body`.
//!
//! # Invariants
//!
//! 1. A file at a digest's path has been hashed in full. Commit order: write,
//!    fsync, check size, check digest, rename, fsync directory; extras
//!    afterwards may fail with a log line.
//! 2. No reader gets a complete wrong body with a clean ending.
//! 3. A closed progress channel without `Done` means `Failed`.
//! 4. digest → bytes has no lifetime; tag → digest is the only thing that is
//!    fresh or stale.
//! 5. Space is reserved before the first byte; an open blob is pinned;
//!    eviction names victims, the store deletes them.
//! 6. A broken cache entry is a miss and a warning, never a client's error.
//!    The index can be deleted and is rebuilt from the files.
//! 7. Credentials live in a type that cannot be printed, and go only to the
//!    endpoint (and token realm) they were configured for, never across a
//!    redirect to another host.
//! 8. Every queue, body, header, redirect, retry and wait has a named bound.
//!    Nothing read from a network is collected without a limit.
//! 9. A request answers, or fails, within a bound well under containerd's 30 s
//!    header timeout.
//! 10. A cached blob is served in a repository only where a link says that the
//!     repository has it (a cheap upstream HEAD makes the link).
//! 16. Nothing of one upstream that is unverified (bytes, size, type,
//!     existence, slowness) reaches another upstream's clients.

pub mod admin;
pub mod app;
pub mod bench;
pub mod carry;
pub mod cli;
pub mod clock;
pub mod config;
pub mod mirror;
pub mod oci;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod upstream;
pub mod verify;
pub mod warm;
pub mod words;

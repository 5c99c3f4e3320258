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
//! | [`catalogue`] | what nobody can be asked for again: imported names and links, pins, users, tokens; in the state directory | `oci` |
//! | [`access`] | identities, permissions, and the one function that decides | `catalogue`, `net`, `oci` |
//! | [`net`] | the outbound HTTP client, the only code that dials: connections, proxies, TLS | `oci` |
//! | [`upstream`] | registries: endpoints, accounts, requests, tokens, redirects, limits | `net`, `oci` |
//! | [`hosted`] | what is pushed here: uploads, manifests, tags, the garbage collector | `store`, `catalogue`, `oci` |
//! | [`backup`] | copies of what is hosted, made beside the server, and their restoration | `store`, `catalogue`, `oci` |
//! | [`mirror`] | the decisions: hit or miss, fresh or stale, who joins which fill | `store`, `catalogue`, `upstream`, `oci` |
//! | [`cluster`] | several nodes: finding them, and asking them for blobs and manifests | `mirror`, `catalogue`, `upstream`, `net`, `oci` |
//! | [`tier`] | an object store beside the cache: read before upstreams, written after the commit | `mirror`, `store`, `upstream`, `net`, `oci` |
//! | [`otlp`] | traces, exported to an OpenTelemetry collector | `net`, `oci` |
//! | [`audit`] | records of who did what: a bounded queue, a thread, a file that is rotated | nothing |
//! | [`server`] | HTTP in: listeners, TLS, routing, bodies, access log, admin | `mirror`, `hosted`, `access`, `audit`, `oci` |
//! | [`config`] | one file, the environment and flags, resolved into each module's own configuration | all `Config`s |
//! | [`commands`] | the commands: clients of a running mirror (`warm`, `export`, `import`, `verify`, operators' commands), or of any registry (`bench`) | `app`, `config`, `server`, `mirror`, `store`, `upstream`, `net`, `oci` |
//! | [`app`] | puts the parts together, runs them, drains them | all |
//! | [`telemetry`], [`clock`], [`format`], [`stamp`] | metrics, logs, traces, time, text that does no harm where it is printed, and when a file has changed; used by all | nothing |
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
//!    The index can be deleted and is rebuilt from the files; the whole cache
//!    directory can, and is filled again. The state directory is never begun
//!    anew by itself: where its catalogue cannot be opened, cached pulls go on,
//!    what would have to be written there is refused (503), and nothing is
//!    evicted that it may hold.
//! 7. Credentials live in a type that cannot be printed, and go only to the
//!    endpoint (and token realm) they were configured for, never across a
//!    redirect to another host.
//! 8. Every queue, body, header, redirect, retry and wait has a named bound.
//!    Nothing read from a network is collected without a limit.
//! 9. A request answers, or fails, within a bound well under containerd's 30 s
//!    header timeout.
//! 10. A cached blob is served in a repository only where a link says that the
//!     repository has it (a cheap upstream HEAD makes the link).
//! 11. An acknowledged write of the catalogue is durable, and deleting the
//!     cache directory loses none.
//! 12. A hosted blob is never a victim of eviction.
//! 13. One decision function answers every question of permission.
//! 14. Every change of hosted state has exactly one row for those who follow,
//!     in its transaction.
//! 15. Two names never mean one place.
//! 16. Nothing of one upstream that is unverified (bytes, size, type,
//!     existence, slowness) reaches another upstream's clients.
//! 18. What another node of a cluster asks never waits for a node.
//! 19. No correctness rests on agreement about the nodes of a cluster, on
//!     clocks, or on a condition that an object store checks.

pub mod access;
pub mod app;
pub mod audit;
pub mod backup;
pub mod catalogue;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod commands;
pub mod config;
pub mod format;
pub mod hosted;
pub mod mirror;
pub mod net;
pub mod oci;
pub mod otlp;
pub mod server;
pub mod stamp;
pub mod store;
pub mod telemetry;
pub mod tier;
pub mod upstream;

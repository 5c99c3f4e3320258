//! Defaults.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::store::Amount;

/// `server.listen`: nobody but this machine, until somebody decides otherwise.
pub(super) const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5000);
/// `server.admin_listen`.
pub(super) const ADMIN_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5001);
/// `server.drain_timeout`: Kubernetes kills a pod 30 s after SIGTERM, `docker stop` sooner.
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// `cache.max_size`: some hundreds of images, and room on any node's disk.
pub(super) const MAX_SIZE: Amount = Amount::Bytes(50_000_000_000);
/// `cache.min_free`: a cache must not be what fills a disk. A part and no number of bytes, so that it fits a disk
/// of 64 MB and one of 20 TB, and a small one, so that a disk of the cache's own is used.
pub(super) const MIN_FREE: Amount = Amount::Percent(1);
/// `cache.scrub`: a sector that goes bad is found before its copy elsewhere is likely to, and a terabyte in a
/// month is 400 kB a second, which no disk notices.
pub(super) const SCRUB: Option<Duration> = Some(Duration::from_hours(30 * 24));
/// The upstream that requests without a name mean, as they do in dockerd.
pub(super) const DEFAULT_UPSTREAM: &str = "docker.io";
/// `log.level`: what happens, without how.
pub(super) const LOG_LEVEL: &str = "info";

/// `timeout` of an `exec` login: a helper that asks a cloud takes a second or two, and a client waits
/// for at most 25 s.
pub(super) const EXEC_TIMEOUT: Duration = Duration::from_secs(10);
/// `ttl` of an `exec` login: the shortest-lived tokens of registries live five minutes.
pub(super) const EXEC_TTL: Duration = Duration::from_mins(5);

/// `cache.dir`: `roadstead` in the platform's cache directory, or in `/var/cache` for a user without
/// a home, as a service often is.
pub(super) fn cache_dir() -> PathBuf {
    let base = directories::BaseDirs::new();
    base.map_or_else(
        || PathBuf::from("/var/cache"),
        |base| base.cache_dir().to_owned(),
    )
    .join("roadstead")
}

/// `state.dir`: `roadstead` in the user's directory for state, or in `/var/lib` for a user without a home: a service
/// and a container have `/` for one.
pub(super) fn state_dir() -> PathBuf {
    let base = directories::BaseDirs::new();
    let base = base.filter(|base| base.home_dir() != Path::new("/"));
    let state = base.and_then(|base| base.state_dir().map(Path::to_owned));
    state
        .unwrap_or_else(|| PathBuf::from("/var/lib"))
        .join("roadstead")
}

/// The public registries, and where each answers: only Docker Hub's name is not its address.
pub(super) const UPSTREAMS: &[(&str, &str)] = &[
    ("docker.io", "https://registry-1.docker.io"),
    ("quay.io", "https://quay.io"),
    ("ghcr.io", "https://ghcr.io"),
    ("gcr.io", "https://gcr.io"),
    ("registry.k8s.io", "https://registry.k8s.io"),
    ("mcr.microsoft.com", "https://mcr.microsoft.com"),
    ("public.ecr.aws", "https://public.ecr.aws"),
    ("nvcr.io", "https://nvcr.io"),
    ("registry.gitlab.com", "https://registry.gitlab.com"),
];

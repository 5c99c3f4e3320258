//! This process as a part of what is measured: what it takes of the machine.

use std::num::NonZero;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use url::{Host, Url};

/// Raises the soft limit on open files to the hard one, as the server does for itself: each pull has a connection
/// for each blob at once. Where that fails, connections do, and are counted.
pub(super) fn raise_descriptor_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised).ok();
}

/// The CPU time that this process has used.
pub(super) fn cpu_time() -> Duration {
    // It is never negative.
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// Number of CPUs that this process may use.
pub(super) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// True if the URL's host is surely this machine: then the registry and the client take each other's CPU.
pub(super) fn is_here(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => {
            let mapped = address.to_ipv4_mapped();
            address.is_loopback() || mapped.is_some_and(|address| address.is_loopback())
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_this_machine() {
        let here = |url: &str| is_here(&Url::parse(url).unwrap());
        for url in [
            "http://localhost:5000",
            "http://127.0.0.1",
            "https://[::1]:5000",
            "http://[::ffff:127.0.0.1]",
        ] {
            assert!(here(url), "{url}");
        }
        assert!(!here("https://registry-1.docker.io"));
        assert!(!here("http://10.0.0.1:5000"));
    }

    #[test]
    fn cpu_time_passes() {
        let before = cpu_time();
        let work: u64 = (0..1_000_000_u64).map(std::hint::black_box).sum();
        assert!(work > 0);
        assert!(cpu_time() > before && cpus() > 0);
    }
}

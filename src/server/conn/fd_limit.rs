//! File descriptors, which clients must not use up: each connection costs one, but so does each open blob
//! and each connection to an upstream, and without these nobody is served.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises this process's soft limit on open files to the hard one. The soft limit is 1024 on most systems,
/// for the sake of programs that use `select`; roadstead does not.
pub(crate) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, limit = limit.current, "cannot raise the limit on open files");
    }
}

/// The most client connections: at most `wanted`, and fewer when the limit on open files is low. Says
/// in the log what the limit allows, these and the `open_files` that the store keeps.
pub(crate) fn connections_max(wanted: usize, open_files: usize) -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    let connections = within(wanted, limit);
    tracing::info!(
        limit,
        connections,
        open_files,
        "file descriptors: the limit, and the most client connections and open blobs at once"
    );
    if connections < wanted {
        tracing::warn!(
            limit,
            connections,
            "the limit on open files is low, so fewer clients are served at once; raise it (ulimit -n, LimitNOFILE)"
        );
    }
    connections
}

/// A half of the descriptors is for clients (`None`: there is no limit); the rest is for blobs and upstreams.
fn within(wanted: usize, limit: Option<u64>) -> usize {
    let half = limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit / 2).unwrap_or(usize::MAX)
    });
    wanted.min(half.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_half_of_the_descriptors() {
        for (limit, connections) in [
            (None, 8192),
            (Some(1 << 20), 8192),
            (Some(1024), 512),
            (Some(64), 32),
            (Some(1), 1),
        ] {
            assert_eq!(within(8192, limit), connections, "{limit:?}");
        }
    }

    #[test]
    fn the_limit_is_raised_as_far_as_it_goes() {
        let before = getrlimit(Resource::Nofile);
        let lower = Rlimit {
            current: Some(512),
            maximum: before.maximum,
        };
        setrlimit(Resource::Nofile, lower).unwrap();
        raise_limit();
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
    }
}

//! Names at which a listener answers for upstreams.

use super::config::TransparentHost;
use crate::oci::UpstreamName;
use crate::oci::directory::token_server;
use crate::oci::name::split_port;
use arc_swap::ArcSwapOption;
use std::collections::HashMap;
use std::sync::Arc;

/// The names in use; none where the listener has no transparent mode. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct StandIn(Option<Arc<ArcSwapOption<Names>>>);

#[derive(Debug, Default)]
struct Names {
    /// Upstreams by host, each with its port if that is not the one of HTTPS.
    hosts: HashMap<String, Vec<(Option<u16>, UpstreamName)>>,
    /// Token servers of the upstreams that are on hosts of their own.
    token_servers: HashMap<String, UpstreamName>,
}

impl StandIn {
    /// For these names.
    pub(crate) fn of(hosts: &[TransparentHost]) -> Self {
        let stand_in = Self(Some(Arc::default()));
        stand_in.replace(hosts);
        stand_in
    }

    /// Takes other names, for requests from now on.
    pub(crate) fn replace(&self, hosts: &[TransparentHost]) {
        let mut names = Names::default();
        for TransparentHost {
            host,
            port,
            upstream,
        } in hosts
        {
            let known = names.hosts.entry(host.clone()).or_default();
            known.push((*port, upstream.clone()));
            if let Some(server) = token_server(upstream) {
                names
                    .token_servers
                    .insert(server.to_owned(), upstream.clone());
            }
        }
        if let Some(current) = &self.0 {
            current.store(Some(Arc::new(names)));
        }
    }

    /// The upstream that a request's `Host` is a name of.
    pub(crate) fn upstream(&self, host: &str) -> Option<UpstreamName> {
        let names = self.0.as_ref()?.load();
        let (host, port) = split(host);
        let known = names.as_ref()?.hosts.get(&host)?;
        let exact = known.iter().find(|(own, _)| *own == port);
        // A name without a port is found at any: the listener's may have been forwarded.
        let any = || known.iter().find(|(own, _)| own.is_none());
        exact.or_else(any).map(|(_, upstream)| upstream.clone())
    }

    /// The upstream whose token server a request was meant for.
    pub(crate) fn token_server_of(&self, host: &str) -> Option<UpstreamName> {
        let names = self.0.as_ref()?.load();
        let (host, _) = split(host);
        names.as_ref()?.token_servers.get(&host).cloned()
    }
}

/// Host and port of a `Host` header, in the form that names are kept in.
fn split(header: &str) -> (String, Option<u16>) {
    let (host, port) = split_port(header.trim());
    let port = port.and_then(|port| port.parse().ok());
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    (host, port.filter(|port| *port != 443))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(host: &str, port: Option<u16>, upstream: &str) -> TransparentHost {
        TransparentHost {
            host: host.to_owned(),
            port,
            upstream: UpstreamName::parse(upstream).unwrap(),
        }
    }

    #[test]
    fn a_host_is_found_by_name_and_port() {
        let names = StandIn::of(&[
            host("registry-1.docker.io", None, "docker.io"),
            host("registry.corp", Some(5000), "registry.corp:5000"),
            host("registry.corp", Some(5001), "registry.corp:5001"),
            host("quay.io", None, "quay.io"),
        ]);
        for (header, expected) in [
            ("registry-1.docker.io", Some("docker.io")),
            ("Registry-1.Docker.IO.:443", Some("docker.io")),
            ("registry-1.docker.io:8443", Some("docker.io")),
            ("registry.corp:5001", Some("registry.corp:5001")),
            ("registry.corp:5000", Some("registry.corp:5000")),
            ("registry.corp", None),
            ("registry.corp:5002", None),
            ("auth.docker.io", None),
            ("x.quay.io", None),
            ("quay.io.evil.test", None),
            ("[::1]:443", None),
            ("", None),
            (":", None),
        ] {
            let found = names.upstream(header);
            let found = found.as_ref().map(UpstreamName::as_str);
            assert_eq!(found, expected, "{header:?}");
        }
        let server = |host| names.token_server_of(host).map(|it| it.to_string());
        assert_eq!(server("AUTH.docker.io:443").as_deref(), Some("docker.io"));
        assert_eq!(server("quay.io"), None);
        names.replace(&[host("quay.io", None, "quay.io")]);
        assert_eq!(names.upstream("registry-1.docker.io"), None);
        assert_eq!(server("auth.docker.io"), None);
        assert_eq!(StandIn::default().upstream("quay.io"), None);
    }
}

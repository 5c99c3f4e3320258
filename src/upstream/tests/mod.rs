//! The upstream client against a scripted server on loopback.

mod answers;
mod auth;
mod bodies;
mod faults;
mod redirects;
mod server;
mod tls;

use std::time::Duration;

use url::Url;

use super::{Config, Credentials, EndpointConfig, Secret, Upstream};
use crate::oci::{Algorithm, Digest, Reference, Repository, Tag, UpstreamName};
use crate::telemetry::Metrics;

/// The name under which the metrics count.
const NAME: &str = "test.example";
/// Must never be seen anywhere but in `Authorization` and a token form.
const PASSWORD: &str = "pa55-w0rd";

pub(super) fn config(endpoints: &[&str]) -> Config {
    let endpoint = |url: &&str| EndpointConfig {
        url: Url::parse(url).unwrap(),
        ca_file: None,
    };
    Config {
        name: UpstreamName::parse(NAME).unwrap(),
        endpoints: endpoints.iter().map(endpoint).collect(),
        default: false,
        hosts: Vec::new(),
        credentials: None,
        connect_timeout: Duration::from_secs(2),
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(10),
        parallel: 1,
    }
}

fn credentials() -> Credentials {
    Credentials {
        username: "robot".to_owned(),
        password: Secret::new(PASSWORD.to_owned()),
    }
}

fn metrics() -> Metrics {
    Metrics::new(std::iter::once(NAME))
}

fn upstream(config: &Config) -> Upstream {
    Upstream::new(config, metrics()).unwrap()
}

/// An anonymous upstream with one endpoint and the usual limits.
fn simple(endpoint: &str) -> Upstream {
    upstream(&config(&[endpoint]))
}

fn repository() -> Repository {
    Repository::parse("library/app").unwrap()
}

fn latest() -> Reference {
    Reference::Tag(Tag::parse("latest").unwrap())
}

fn digest() -> Digest {
    Digest::of(Algorithm::Sha256, b"content")
}

#[test]
fn questions_can_be_asked_from_any_thread_and_are_small() {
    fn size<F: Future + Send>(future: &F) -> usize {
        size_of_val(future)
    }
    let upstream = simple("https://x.example");
    let (repository, digest) = (repository(), digest());
    // clippy's bound for large futures: a caller would have to box them.
    assert!(size(&upstream.blob(&repository, &digest, 0)) < 16_384);
    assert!(size(&upstream.tags(&repository, &[])) < 16_384);
}

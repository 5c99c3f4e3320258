//! The upstream client against a scripted server on loopback.

mod answers;
mod auth;
mod bodies;
mod breaker;
mod budget;
mod connections;
mod failover;
mod faults;
mod gone;
mod inside;
mod login;
mod proxies;
mod proxy_server;
mod rate_limit;
mod redirects;
pub(super) mod server;
mod tls;

use std::time::Duration;

use url::Url;

use super::timings::Timings;
use super::{
    BlobFetch, BlobRequest, Config, EndpointConfig, FetchError, LoginConfig, ManifestFetch,
    OwnListeners, Patience, Secret, Text, Upstream,
};
use crate::oci::{AcceptClass, Algorithm, Digest, Reference, Repository, Tag, UpstreamName};
use crate::telemetry::Metrics;

/// The name under which the metrics count.
const NAME: &str = "test.example";
/// Must never be seen anywhere but in `Authorization` and a token form.
const PASSWORD: &str = "pa55-w0rd";

pub(super) fn config(endpoints: &[&str]) -> Config {
    let endpoint = |url: &&str| EndpointConfig::at(Url::parse(url).unwrap());
    let endpoints = endpoints.iter().map(endpoint).collect();
    Config {
        connect_timeout: Duration::from_secs(2),
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(10),
        ..Config::of(UpstreamName::parse(NAME).unwrap(), endpoints)
    }
}

fn credentials() -> LoginConfig {
    let literal = |text: &str| Text::Literal(Secret::new(text.to_owned()));
    LoginConfig::Password {
        username: literal("robot"),
        password: literal(PASSWORD),
    }
}

/// GET of the blob from `start` on.
async fn blob(upstream: &Upstream, start: u64) -> Result<BlobFetch, FetchError> {
    let (repository, digest) = (repository(), digest());
    let ask = BlobRequest {
        start,
        ..BlobRequest::whole(&repository, &digest)
    };
    upstream.blob(&ask).await
}

/// Another blob for each number.
async fn blob_of(upstream: &Upstream, number: u8) -> Result<BlobFetch, FetchError> {
    let (repository, digest) = (repository(), Digest::Sha256([number; 32]));
    let ask = BlobRequest::whole(&repository, &digest);
    upstream.blob(&ask).await
}

/// The manifest of `latest`.
async fn pull(upstream: &Upstream, patience: Patience) -> Result<ManifestFetch, FetchError> {
    let all = AcceptClass::ALL;
    upstream
        .manifest(&repository(), &latest(), all, patience)
        .await
}

/// The manifest of a tag of its own for each number: an endpoint that fails for one thing alone is not
/// taken for ill.
async fn pull_of(
    upstream: &Upstream,
    number: usize,
    patience: Patience,
) -> Result<ManifestFetch, FetchError> {
    let tag = Reference::Tag(Tag::parse(&format!("v{number}")).unwrap());
    let all = AcceptClass::ALL;
    upstream.manifest(&repository(), &tag, all, patience).await
}

/// The URL of a port that nobody listens on.
async fn nobody() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// An upstream with quick times, and its metrics.
fn quick(config: &Config, timings: Timings) -> (Upstream, Metrics) {
    let metrics = metrics();
    let upstream =
        Upstream::with(config, metrics.clone(), timings, &OwnListeners::default()).unwrap();
    (upstream, metrics)
}

/// The value of a metric of the upstream, without a fraction.
fn value(metrics: &Metrics, name: &str) -> u64 {
    let text = metrics.render();
    let series = format!("{name}{{upstream=\"{NAME}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&series));
    let whole = value.unwrap().split('.').next().unwrap();
    whole.parse().unwrap()
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
    assert!(size(&upstream.blob(&BlobRequest::whole(&repository, &digest))) < 16_384);
    assert!(size(&upstream.tags(&repository, &[], Patience::Now)) < 16_384);
}

//! Each cloud against a scripted double of its services.

mod alibaba;
mod azure;
mod ecr;
mod failures;
mod gar;
mod tcr;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use url::Url;

use super::input::Keys;
use super::{Caller, Fetched};
use crate::clock::{ManualClock, Timestamp};
use crate::net::Deadline;
use crate::net::HttpClient;
use crate::oci::UpstreamName;
use crate::telemetry::Metrics;
use crate::upstream::login::{CloudConfig, CloudUrls, Login, Text};
use crate::upstream::tests::server::{Reply, Seen, Server, answer};
use crate::upstream::{FetchError, OwnListeners, ProxyConfig, Secret};

/// The example key of RFC 7515, appendix A.2, which everybody knows.
pub(in crate::upstream::login::cloud) const RSA_KEY: &str = include_str!("rfc7515-a2.pem");

/// 2015-08-30T12:36:00Z, the time of AWS's test suite.
const NOW: Timestamp = Timestamp(1_440_938_160_000);
const NAME: &str = "test.example";
/// Must be seen in no error, and in no request that is not meant to hold it.
const KEY_SECRET: &str = "k3y-s3cr3t";
const KEY_ID: &str = "AKIDEXAMPLE";

pub(in crate::upstream::login::cloud) fn keys(id: &str, secret: &str, token: Option<&str>) -> Keys {
    let secret_of = |text: &str| Secret::new(text.to_owned());
    Keys {
        id: secret_of(id),
        secret: secret_of(secret),
        token: token.map(secret_of),
    }
}

fn literal(text: &str) -> Text {
    Text::Literal(Secret::new(text.to_owned()))
}

/// The configuration of static keys.
fn static_keys() -> (Text, Text) {
    (literal(KEY_ID), literal(KEY_SECRET))
}

/// All services are at this server.
fn urls(server: &Server) -> CloudUrls {
    let url = || Some(Url::parse(&server.url()).unwrap());
    CloudUrls {
        api: url(),
        identity: url(),
        metadata: url(),
    }
}

async fn ask(config: &CloudConfig, registry: &str) -> Result<Fetched, FetchError> {
    ask_within(config, registry, Duration::from_secs(10)).await
}

async fn ask_within(
    config: &CloudConfig,
    registry: &str,
    time: Duration,
) -> Result<Fetched, FetchError> {
    let api = client();
    let clock = ManualClock::new(NOW);
    let caller = Caller {
        api: &api,
        deadline: Deadline::after(time),
        clock: &clock,
    };
    super::ask(config, registry, caller).await
}

fn client() -> HttpClient {
    let name = UpstreamName::parse(NAME).unwrap();
    let metrics = Metrics::new(std::iter::once(NAME));
    HttpClient::api(
        name,
        metrics,
        &ProxyConfig::Direct,
        Duration::from_secs(2),
        OwnListeners::default(),
    )
    .unwrap()
}

/// The text of the errors, after a check that they hold no secret.
fn text(error: &FetchError) -> String {
    let text = format!("{error}");
    let debug = format!("{error:?}");
    for secret in [KEY_SECRET, KEY_ID, "s3ss10n", "1d3nt1ty"] {
        assert!(!text.contains(secret) && !debug.contains(secret), "{debug}");
    }
    assert!(!text.contains('?') && !text.contains("//"), "{text}");
    text
}

/// The user name and password that were given.
fn pair(fetched: &Fetched) -> (&str, &str) {
    let Login::Basic(credentials) = &fetched.login else {
        panic!("another kind of login");
    };
    (&credentials.username, credentials.password.expose())
}

/// A form or query, decoded.
fn pairs(encoded: &[u8]) -> BTreeMap<String, String> {
    url::form_urlencoded::parse(encoded).into_owned().collect()
}

fn query(seen: &Seen) -> BTreeMap<String, String> {
    let (_, query) = seen.target.split_once('?').unwrap_or_default();
    pairs(query.as_bytes())
}

/// A file in a folder of its own.
fn file(content: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    write(&path, content);
    (folder, path)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a file of the test's own, not the store's"
)]
fn write(path: &Path, content: &str) {
    std::fs::write(path, content).unwrap();
}

fn ok(body: impl Into<bytes::Bytes>) -> Reply {
    answer(200, &[], body).into()
}

/// The metadata service has no such thing.
fn missing() -> Reply {
    answer(404, &[], "").into()
}

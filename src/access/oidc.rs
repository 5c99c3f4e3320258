//! Workloads: tokens of other issuers (`OpenID` Connect), such as Kubernetes service accounts and CI jobs.
//!
//! An issuer's keys are fetched when the first of its tokens comes, again when a token names a key that is not known, and
//! when they are old: at most once in ten seconds. While the issuer does not answer, the keys that were fetched are believed
//! for a day.

use super::found::{Found, IdentifyError};
use super::resource::glob;
use super::{Kind, Principal};
use crate::clock::Timestamp;
use crate::net::{Deadline, HttpClient, OwnListeners, Peer, ProxyConfig, Way};
use crate::oci::UpstreamName;
use crate::telemetry::{self, Metrics};
use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// Keys are asked for again at most so often.
const FETCH_EVERY: Duration = Duration::from_secs(10);

/// Keys that are as old as this are fetched again although they are known: one that was withdrawn opens nothing any more.
const REFRESH_AFTER: Duration = Duration::from_mins(10);

/// So long a token of a known key waits for that.
const REFRESH_WAIT_MAX: Duration = Duration::from_secs(1);

/// Keys of an issuer that does not answer are believed for so long.
const KEYS_AGE_MAX: Duration = Duration::from_hours(24);

/// Tolerance for the issuer's clock.
const LEEWAY_SECONDS: u64 = 60;

/// `docker login` waits 15 s in all.
const FETCH_WAIT_MAX: Duration = Duration::from_secs(5);

/// Documents of issuers are some kilobytes.
const DOCUMENT_BYTES_MAX: usize = 512 * 1024;

/// The most keys of an issuer that are looked at.
const KEYS_MAX: usize = 100;

/// The most claims of a token, and the most bytes of one: what is more is left out.
const CLAIMS_MAX: usize = 100;
const CLAIM_BYTES_MAX: usize = 1024;

/// Signatures that are taken: of public keys alone. `none` and those with a shared secret are not among them.
const ALGORITHMS: [Algorithm; 7] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// Whose tokens are believed, and which of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// The name of the robot that such a token is.
    pub name: String,
    /// The issuer, as its tokens name it.
    pub issuer: Url,
    /// Audiences, one of which a token must be for.
    pub audience: Vec<String>,
    /// Patterns of claims that it must have.
    pub claims: BTreeMap<String, Vec<String>>,
    /// A PEM file of certificates that the issuer's may be signed by, besides the system's.
    pub ca_file: Option<PathBuf>,
}

/// Issuers and their keys.
#[derive(Debug, Default)]
pub(super) struct Oidc {
    entries: Vec<(Trust, Issuer)>,
}

/// An issuer.
struct Issuer {
    http: HttpClient,
    /// The keys, and when they were fetched.
    keys: ArcSwapOption<(JwkSet, Timestamp)>,
    /// One fetch at a time; tokens of keys that are not known wait for it. When it was tried last.
    fetching: tokio::sync::Mutex<Option<Timestamp>>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Oidc {
    /// Issuers, none of which is dialled yet.
    ///
    /// # Errors
    /// One line that names the file or the issuer.
    pub(super) fn new(trusts: &[Trust], metrics: &Metrics) -> Result<Self, String> {
        let entry = |trust: &Trust| {
            let issuer = Issuer::new(trust, metrics);
            Ok((trust.clone(), issuer?))
        };
        let entries = trusts.iter().map(entry).collect::<Result<_, String>>()?;
        Ok(Self { entries })
    }

    /// True if this may be a token of an issuer rather than a password.
    pub(super) fn may_be(&self, text: &str) -> bool {
        !self.entries.is_empty() && text.starts_with("ey") && text.matches('.').count() == 2
    }

    /// True if a token says that one of these issuers has made it.
    pub(super) fn names(&self, text: &str) -> bool {
        let issuer = || {
            let body = URL_SAFE_NO_PAD.decode(text.split('.').nth(1)?).ok()?;
            let claims: Map<String, Value> = serde_json::from_slice(&body).ok()?;
            let issuer = claims.get("iss")?.as_str()?;
            let issuer = issuer.trim_end_matches('/');
            let mut entries = self.entries.iter();
            let is_its = |trust: &Trust| trust.issuer.as_str().trim_end_matches('/') == issuer;
            Some(entries.any(|(trust, _)| is_its(trust)))
        };
        self.may_be(text) && issuer().unwrap_or(false)
    }

    /// True if an entry has this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|(trust, _)| trust.name == name)
    }

    /// The workload that has this token.
    ///
    /// # Errors
    /// [`IdentifyError::Invalid`]; [`IdentifyError::Unavailable`] where the issuer's keys are not to be had.
    pub(super) async fn identify(
        &self,
        token: &str,
        now: Timestamp,
    ) -> Result<Found, IdentifyError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| IdentifyError::Invalid)?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(IdentifyError::Invalid);
        }
        let claimed = claimed_issuer(token).ok_or(IdentifyError::Invalid)?;
        let mut verified = None;
        for (trust, issuer) in &self.entries {
            if !is_same(&trust.issuer, &claimed) {
                continue;
            }
            if verified.is_none() {
                let key = header.kid.as_deref();
                let claims = issuer.verify(trust, token, key, header.alg, now).await?;
                verified = Some(claims);
            }
            if let Some(found) = verified.as_ref().and_then(|it| trust.accept(it, now)) {
                return Ok(found);
            }
        }
        Err(IdentifyError::Invalid)
    }
}

impl Trust {
    /// The workload with these claims, whose signature is right, if it is one that is meant.
    fn accept(&self, claims: &Map<String, Value>, now: Timestamp) -> Option<Found> {
        let seconds = now.0 / 1000;
        let time = |name: &str| claims.get(name).and_then(Value::as_f64);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a time before 1970 or after the end of u64 saturates, and is refused"
        )]
        let (end, begin) = (time("exp")? as u64, time("nbf").unwrap_or(0.0) as u64);
        let holds = seconds < end.saturating_add(LEEWAY_SECONDS)
            && begin <= seconds.saturating_add(LEEWAY_SECONDS);
        let is_for = |audience: &Value| {
            let audience = audience.as_str();
            audience.is_some_and(|it| self.audience.iter().any(|own| own == it))
        };
        let is_for_us = match claims.get("aud")? {
            Value::Array(audiences) => audiences.iter().any(is_for),
            Value::String(_) => is_for(claims.get("aud")?),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
        };
        let flat = flatten(claims);
        let fits = self.claims.iter().all(|(name, patterns)| {
            let value = flat.get(name);
            value.is_some_and(|value| patterns.iter().any(|pattern| glob(pattern, value)))
        });
        (holds && is_for_us && fits).then(|| Found {
            principal: Principal {
                groups: groups(claims),
                claims: flat,
                ..Principal::of(Kind::Workload, &self.name)
            },
            credential: format!("{CREDENTIAL}{}", self.name),
            until: Some(Timestamp(end.saturating_mul(1000))),
        })
    }
}

/// The beginning of credentials of workloads, in tokens that are given for them.
pub(super) const CREDENTIAL: &str = "oidc:";

impl Issuer {
    fn new(trust: &Trust, metrics: &Metrics) -> Result<Self, String> {
        let url = &trust.issuer;
        let wrong = || format!("access.oidc {:?}: {url} is no URL of an issuer", trust.name);
        let host = url.host_str().ok_or_else(wrong)?;
        let name = UpstreamName::parse(host).map_err(|_| wrong())?;
        let peer = Peer {
            url,
            ca_file: trust.ca_file.as_deref(),
            client_certificate: None,
            insecure_skip_verify: false,
            proxy: &ProxyConfig::Direct,
            resolve: &[],
            redirect_networks: &[],
        };
        let own = OwnListeners::default();
        let http = HttpClient::new(name, metrics.clone(), &peer, FETCH_WAIT_MAX, 1, own);
        Ok(Self {
            http: http.map_err(|why| format!("access.oidc {:?}: {why}", trust.name))?,
            keys: ArcSwapOption::empty(),
            fetching: tokio::sync::Mutex::default(),
        })
    }

    /// The claims of a token that one of the issuer's keys has signed.
    async fn verify(
        &self,
        trust: &Trust,
        token: &str,
        key: Option<&str>,
        algorithm: Algorithm,
        now: Timestamp,
    ) -> Result<Map<String, Value>, IdentifyError> {
        self.look_for_keys(trust, key, now).await;
        let set = self.believed(now);
        let Some(set) = set.as_deref() else {
            let why = format!("the keys of {} cannot be had", trust.issuer);
            return Err(IdentifyError::Unavailable(why));
        };
        let set = &set.0;
        let fits = set
            .keys
            .iter()
            .filter(|it| key.is_none() || it.common.key_id.as_deref() == key);
        let fits = fits.take(KEYS_MAX);
        let mut decoded =
            fits.filter_map(|it| decode(token, &DecodingKey::from_jwk(it).ok()?, algorithm));
        decoded.next().ok_or(IdentifyError::Invalid)
    }

    /// The keys, as long as they are believed.
    fn believed(&self, now: Timestamp) -> Option<Arc<(JwkSet, Timestamp)>> {
        let keys = self.keys.load_full();
        keys.filter(|keys| now.since(keys.1) < KEYS_AGE_MAX)
    }

    /// Fetches the keys where that may help a token that names this one. A known key waits for nobody's unknown one.
    async fn look_for_keys(&self, trust: &Trust, key: Option<&str>, now: Timestamp) {
        let known = || {
            let keys = self.believed(now)?;
            let is_there = key.is_none_or(|key| keys.0.find(key).is_some());
            is_there.then(|| now.since(keys.1))
        };
        match known() {
            Some(age) if age < REFRESH_AFTER => {}
            Some(_) => {
                if let Ok(tried) = self.fetching.try_lock() {
                    let fetched = self.fetch_at_times(trust, tried, now);
                    // Else the next one tries again; this one's key is believed meanwhile.
                    let _late = tokio::time::timeout(REFRESH_WAIT_MAX, fetched).await;
                }
            }
            None => {
                let tried = self.fetching.lock().await;
                // Somebody may have fetched it meanwhile.
                if known().is_none() {
                    self.fetch_at_times(trust, tried, now).await;
                }
            }
        }
    }

    /// Fetches the keys, unless that was tried a moment ago.
    async fn fetch_at_times(
        &self,
        trust: &Trust,
        mut tried: tokio::sync::MutexGuard<'_, Option<Timestamp>>,
        now: Timestamp,
    ) {
        if tried.is_some_and(|at| now.since(at) < FETCH_EVERY) {
            return;
        }
        *tried = Some(now);
        match self.fetch(trust).await {
            Ok(set) => self.keys.store(Some(Arc::new((set, now)))),
            Err(error) => tracing::warn!(
                issuer = %trust.issuer, error,
                "the keys of an issuer of tokens cannot be fetched: those of before are believed for a day"
            ),
        }
    }

    /// Asks the issuer for its keys (`OpenID` Connect Discovery 1.0, section 4).
    async fn fetch(&self, trust: &Trust) -> Result<JwkSet, String> {
        let base = trust.issuer.as_str().trim_end_matches('/');
        let discovery = format!("{base}/.well-known/openid-configuration");
        let discovery: Discovery = self.get(&discovery, Way::Lane(0)).await?;
        if !is_same(&trust.issuer, &discovery.issuer) {
            return Err(format!("it says that it is {}", discovery.issuer));
        }
        let keys: Url = discovery
            .jwks_uri
            .parse()
            .map_err(|_| "it names no keys".to_owned())?;
        let is_home = keys.origin() == trust.issuer.origin();
        let way = if is_home {
            Way::Lane(0)
        } else {
            Way::Unchecked
        };
        self.get(keys.as_str(), way).await
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, url: &str, way: Way) -> Result<T, String> {
        let deadline = Deadline::after(FETCH_WAIT_MAX);
        let request = Request::builder().uri(url).body(Full::new(Bytes::new()));
        let request = request.map_err(|error| error.to_string())?;
        let answer = self
            .http
            .send(telemetry::Kind::Other, request, deadline, way);
        let answer = answer.await.map_err(|error| error.to_string())?;
        if answer.status() != StatusCode::OK {
            return Err(format!("it answers {}", answer.status()));
        }
        let whole = Limited::new(answer.into_body(), DOCUMENT_BYTES_MAX).collect();
        let whole = tokio::time::timeout(FETCH_WAIT_MAX, whole).await;
        let whole = whole.map_err(|_late| "it does not send its answer".to_owned())?;
        let whole = whole.map_err(|error| error.to_string())?;
        serde_json::from_slice(&whole.to_bytes()).map_err(|error| format!("its answer: {error}"))
    }
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").finish_non_exhaustive()
    }
}

/// The claims, if this key has signed them with this algorithm. When they hold is looked at by our own clock.
fn decode(token: &str, key: &DecodingKey, algorithm: Algorithm) -> Option<Map<String, Value>> {
    let mut validation = Validation::new(algorithm);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let decoded = jsonwebtoken::decode::<Map<String, Value>>(token, key, &validation);
    decoded.ok().map(|decoded| decoded.claims)
}

/// The issuer that a token names, which nobody has checked yet.
fn claimed_issuer(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Claimed {
        iss: String,
    }
    let body = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claimed: Claimed = serde_json::from_slice(&body).ok()?;
    Some(claimed.iss)
}

/// True if both are one issuer. A URL with an empty path is written with a slash, which many leave away.
fn is_same(issuer: &Url, text: &str) -> bool {
    issuer.as_str().trim_end_matches('/') == text.trim_end_matches('/')
}

/// Claims as texts, those within others with dots between: `kubernetes.io.namespace`.
fn flatten(claims: &Map<String, Value>) -> BTreeMap<String, String> {
    let mut flat = BTreeMap::new();
    let mut waiting: Vec<(String, &Value)> = claims
        .iter()
        .map(|(name, value)| (name.clone(), value))
        .collect();
    while let Some((name, value)) = waiting.pop() {
        if flat.len() >= CLAIMS_MAX {
            break;
        }
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(is) => is.to_string(),
            Value::Object(inner) => {
                let inner = inner.iter();
                waiting.extend(inner.map(|(key, value)| (format!("{name}.{key}"), value)));
                continue;
            }
            Value::Array(_) | Value::Null => continue,
        };
        if name.len() + text.len() <= CLAIM_BYTES_MAX {
            flat.insert(name, text);
        }
    }
    flat
}

fn groups(claims: &Map<String, Value>) -> Vec<String> {
    let groups = claims.get("groups").and_then(Value::as_array);
    let groups = groups.into_iter().flatten().filter_map(Value::as_str);
    groups.take(CLAIMS_MAX).map(str::to_owned).collect()
}

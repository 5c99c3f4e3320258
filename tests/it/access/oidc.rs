//! Workloads: tokens of another issuer, by a scripted one.

use super::{House, basic};
use crate::common::Mirror;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;

const ALPINE: &str = "/v2/library/alpine/manifests/v1";
const SECRET: &str = "/v2/acme/secret/manifests/v1";
/// The clock of mirrors in tests.
const NOW: u64 = 1_790_000_000;

/// A signing key, and what an issuer publishes of it.
pub(super) struct Key {
    id: &'static str,
    signing: EncodingKey,
    public: Value,
}

impl Key {
    pub(super) fn new(id: &'static str) -> Self {
        let random = SystemRandom::new();
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref()).unwrap();
        let point = pair.public_key().as_ref();
        let part = |from: usize| URL_SAFE_NO_PAD.encode(&point[from..from + 32]);
        Self {
            id,
            signing: EncodingKey::from_ec_der(document.as_ref()),
            public: json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": id, "x": part(1), "y": part(33) }),
        }
    }

    pub(super) fn sign(&self, claims: &Value) -> String {
        let header = Header {
            kid: Some(self.id.to_owned()),
            ..Header::new(Algorithm::ES256)
        };
        jsonwebtoken::encode(&header, claims, &self.signing).unwrap()
    }
}

/// An issuer.
pub(super) struct Issuer {
    address: SocketAddr,
    keys: Arc<Mutex<Vec<Value>>>,
    is_down: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    pub(super) async fn start(keys: &[&Key]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = Self {
            address: listener.local_addr().unwrap(),
            keys: Arc::new(Mutex::new(
                keys.iter().map(|key| key.public.clone()).collect(),
            )),
            is_down: Arc::default(),
            asked: Arc::default(),
        };
        let url = issuer.url();
        let (keys, is_down, asked) = (
            Arc::clone(&issuer.keys),
            Arc::clone(&issuer.is_down),
            Arc::clone(&issuer.asked),
        );
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (url, keys, is_down, asked) = (
                    url.clone(),
                    Arc::clone(&keys),
                    Arc::clone(&is_down),
                    Arc::clone(&asked),
                );
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let body = match request.uri().path() {
                        "/.well-known/openid-configuration" => {
                            asked.fetch_add(1, Ordering::SeqCst);
                            json!({ "issuer": url, "jwks_uri": format!("{url}/keys") })
                        }
                        _ => json!({ "keys": *keys.lock().unwrap() }),
                    };
                    let status = if is_down.load(Ordering::SeqCst) {
                        503
                    } else {
                        200
                    };
                    let answer = Response::builder().status(status);
                    let answer = answer
                        .body(Full::new(Bytes::from(body.to_string())))
                        .unwrap();
                    async move { Ok::<_, Infallible>(answer) }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        issuer
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// What a job of acme says of itself.
    pub(super) fn claims(&self) -> Value {
        json!({
            "iss": self.url(), "aud": "roadstead", "sub": "repo:acme/app:ref:refs/heads/main",
            "exp": NOW + 3600, "nbf": NOW - 10,
            "kubernetes.io": { "namespace": "acme" },
        })
    }

    async fn house(&self) -> House {
        let rules = format!(
            r#"
            [access]
            [[access.oidc]]
            name = "ci"
            issuer = "{}"
            audience = "roadstead"
            claims = {{ sub = "repo:acme/*" }}
            [[access.policy]]
            name = "official"
            [[access.policy.statement]]
            effect = "allow"
            actions = ["pull"]
            resources = ["mirror/docker.io/library/*"]
            [[access.attach]]
            robot = "ci"
            policies = ["official"]
            [[access.attach]]
            claim = {{ "kubernetes.io.namespace" = "acme" }}
            policies = ["read-only"]
            "#,
            self.url()
        );
        House::with(&[], &rules).await
    }
}

async fn pull(mirror: &Mirror, token: &str, path: &str) -> u16 {
    let (bearer, password) = (format!("Bearer {token}"), basic("whoever", token));
    let one = mirror
        .get_with(path, &[("authorization", &bearer)])
        .await
        .status;
    let other = mirror
        .get_with(path, &[("authorization", &password)])
        .await
        .status;
    assert_eq!(one, other, "as a bearer token and as a password");
    one
}

fn with(claims: &Value, name: &str, value: Value) -> Value {
    let mut claims = claims.clone();
    claims[name] = value;
    claims
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_pulls_with_the_token_that_it_has() {
    let key = Key::new("one");
    let issuer = Issuer::start(&[&key]).await;
    let house = issuer.house().await;
    let claims = issuer.claims();
    assert_eq!(pull(&house.mirror, &key.sign(&claims), ALPINE).await, 200);
    assert_eq!(pull(&house.mirror, &key.sign(&claims), SECRET).await, 200);
    // Another namespace has what its robot has.
    let other = with(&claims, "kubernetes.io", json!({ "namespace": "other" }));
    assert_eq!(pull(&house.mirror, &key.sign(&other), ALPINE).await, 200);
    assert_eq!(pull(&house.mirror, &key.sign(&other), SECRET).await, 403);
    let several = with(&claims, "aud", json!(["https://other", "roadstead"]));
    assert_eq!(pull(&house.mirror, &key.sign(&several), ALPINE).await, 200);
    assert_eq!(issuer.asked(), 1, "keys are remembered");
    // `docker login` with it, and what it gets in return.
    let login = basic("x", &key.sign(&claims));
    let path = "/token?offline_token=true&scope=repository:acme/secret:pull";
    let answer = house
        .mirror
        .get_with(path, &[("authorization", &login)])
        .await;
    let token: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(token["scope"], "repository:acme/secret:pull");
    assert_eq!(
        token.get("refresh_token"),
        None,
        "it must not outlive the job"
    );
    let bearer = format!("Bearer {}", token["token"].as_str().unwrap());
    let answer = house
        .mirror
        .get_with(SECRET, &[("authorization", &bearer)])
        .await;
    assert_eq!(answer.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_are_not_meant_open_nothing() {
    let (key, strange) = (Key::new("one"), Key::new("one"));
    let issuer = Issuer::start(&[&key]).await;
    let house = issuer.house().await;
    let claims = issuer.claims();
    let table = [
        (
            "another audience",
            key.sign(&with(&claims, "aud", json!("other"))),
        ),
        ("no audience", key.sign(&with(&claims, "aud", Value::Null))),
        (
            "another issuer",
            key.sign(&with(&claims, "iss", json!("https://evil.example"))),
        ),
        (
            "another subject",
            key.sign(&with(&claims, "sub", json!("repo:evil/app"))),
        ),
        ("expired", key.sign(&with(&claims, "exp", json!(NOW - 61)))),
        (
            "without an end",
            key.sign(&with(&claims, "exp", Value::Null)),
        ),
        (
            "too early",
            key.sign(&with(&claims, "nbf", json!(NOW + 61))),
        ),
        ("another key of the same name", strange.sign(&claims)),
    ];
    for (what, token) in &table {
        assert_eq!(pull(&house.mirror, token, ALPINE).await, 401, "{what}");
    }
    let token = key.sign(&claims);
    let parts: Vec<&str> = token.split('.').collect();
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
    let secret = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT","kid":"one"}"#);
    for forged in [
        format!("{none}.{}.", parts[1]),
        format!("{secret}.{}.{}", parts[1], parts[2]),
    ] {
        assert_eq!(pull(&house.mirror, &forged, ALPINE).await, 401, "{forged}");
    }
    assert_eq!(pull(&house.mirror, &token, ALPINE).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_change_and_issuers_are_down() {
    let (old, new) = (Key::new("old"), Key::new("new"));
    let issuer = Issuer::start(&[&old]).await;
    let house = issuer.house().await;
    let claims = with(&issuer.claims(), "exp", json!(NOW + 1_000_000));
    // Nobody knows its keys: that is no fault of the token's.
    issuer.is_down.store(true, Ordering::SeqCst);
    assert_eq!(pull(&house.mirror, &old.sign(&claims), ALPINE).await, 503);
    issuer.is_down.store(false, Ordering::SeqCst);
    let minute = Duration::from_secs(61);
    house.mirror.clock.advance(minute);
    assert_eq!(pull(&house.mirror, &old.sign(&claims), ALPINE).await, 200);
    // A key that is not known is asked for at most once a minute.
    issuer.keys.lock().unwrap().push(new.public.clone());
    let asked = issuer.asked();
    assert_eq!(pull(&house.mirror, &new.sign(&claims), ALPINE).await, 401);
    assert_eq!(issuer.asked(), asked);
    house.mirror.clock.advance(minute);
    assert_eq!(pull(&house.mirror, &new.sign(&claims), ALPINE).await, 200);
    // Keys are believed for a day without their issuer.
    issuer.is_down.store(true, Ordering::SeqCst);
    house.mirror.clock.advance(Duration::from_hours(23));
    assert_eq!(pull(&house.mirror, &new.sign(&claims), ALPINE).await, 200);
    house.mirror.clock.advance(Duration::from_hours(2));
    assert_eq!(pull(&house.mirror, &new.sign(&claims), ALPINE).await, 503);
}

//! Google: the metadata server, and service accounts.

use aws_lc_rs::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::*;

const REGISTRY: &str = "europe-docker.pkg.dev";
const ACCESS_TOKEN: &str =
    r#"{"access_token":"ya29.t0ken","expires_in":3599,"token_type":"Bearer"}"#;

fn config(key_file: Option<std::path::PathBuf>, server: &Server) -> CloudConfig {
    CloudConfig::Gar {
        key_file,
        urls: urls(server),
    }
}

fn check_login(fetched: &Fetched) {
    assert_eq!(pair(fetched), ("oauth2accesstoken", "ya29.t0ken"));
    assert_eq!(fetched.good_for, Duration::from_secs(3599));
}

#[tokio::test]
async fn a_machine_asks_the_metadata_server() {
    let server = Server::start(|request| match request.header("metadata-flavor") {
        Some("Google") => ok(ACCESS_TOKEN),
        _ => answer(403, &[], "").into(),
    })
    .await;
    check_login(&ask(&config(None, &server), REGISTRY).await.unwrap());
    let seen = &server.seen()[0];
    assert_eq!(seen.method, "GET");
    assert_eq!(
        seen.target,
        "/computeMetadata/v1/instance/service-accounts/default/token"
    );
}

fn account(kind: &str) -> String {
    json!({
        "type": kind,
        "project_id": "p",
        "private_key_id": "k1",
        "private_key": RSA_KEY,
        "client_email": "pull@p.iam.gserviceaccount.com",
        "token_uri": "https://oauth2.googleapis.com/token",
    })
    .to_string()
}

/// The claims of a token whose signature is good.
fn checked(assertion: &str) -> (Value, Value) {
    let der = PrivatePkcs8KeyDer::from_pem_slice(RSA_KEY.as_bytes()).unwrap();
    let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap();
    let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public_key().as_ref());
    let (input, signature) = assertion.rsplit_once('.').unwrap();
    let signature = BASE64URL.decode(signature).unwrap();
    key.verify(input.as_bytes(), &signature).unwrap();
    let (header, claims) = input.split_once('.').unwrap();
    let part = |text| serde_json::from_slice(&BASE64URL.decode(text).unwrap()).unwrap();
    (part(header), part(claims))
}

#[tokio::test]
async fn a_service_account_signs_for_a_token() {
    let server = Server::start(|_| ok(ACCESS_TOKEN)).await;
    let (_folder, path) = file(&account("service_account"));
    check_login(&ask(&config(Some(path), &server), REGISTRY).await.unwrap());
    let seen = &server.seen()[0];
    assert_eq!(seen.method, "POST");
    let form = pairs(&seen.body);
    assert_eq!(
        form["grant_type"],
        "urn:ietf:params:oauth:grant-type:jwt-bearer"
    );
    let (header, claims) = checked(&form["assertion"]);
    assert_eq!(header, json!({"alg": "RS256", "typ": "JWT", "kid": "k1"}));
    let expected = json!({
        "iss": "pull@p.iam.gserviceaccount.com",
        "scope": "https://www.googleapis.com/auth/cloud-platform",
        "aud": "https://oauth2.googleapis.com/token",
        "iat": 1_440_938_160,
        "exp": 1_440_941_760,
    });
    assert_eq!(claims, expected);
}

#[tokio::test]
async fn a_key_that_cannot_be_used_is_an_error_without_it() {
    let server = Server::start(|_| ok(ACCESS_TOKEN)).await;
    let user = account("authorized_user");
    let bad_key = account("service_account").replace("BEGIN PRIVATE", KEY_SECRET);
    let cases = [
        (user.as_str(), "not the key of a service account"),
        (bad_key.as_str(), "the private key is not PKCS #8 in PEM"),
        (KEY_SECRET, "not the JSON key of a service account"),
        ("", "empty"),
    ];
    for (content, why) in cases {
        let (_folder, path) = file(content);
        let error = ask(&config(Some(path.clone()), &server), REGISTRY).await;
        let error = error.unwrap_err();
        assert!(!format!("{error:?}").contains(KEY_SECRET));
        assert_eq!(
            error,
            FetchError::Login(format!("{}: {why}", path.display()))
        );
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_refusal_names_its_code() {
    let server = Server::start(|_| {
        let body = r#"{"error":"invalid_grant","error_description":"Invalid JWT: k3y-s3cr3t"}"#;
        answer(400, &[], body).into()
    })
    .await;
    let (_folder, path) = file(&account("service_account"));
    let error = ask(&config(Some(path), &server), REGISTRY).await;
    assert_eq!(
        text(&error.unwrap_err()),
        "credentials: Google OAuth 127.0.0.1: status 400 invalid_grant"
    );
}

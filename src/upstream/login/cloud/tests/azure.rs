//! Azure: the platform's tokens, and the registry's exchange.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;

use super::*;

const REGISTRY: &str = "acme.azurecr.io";
const NOBODY: &str = "00000000-0000-0000-0000-000000000000";

/// A refresh token as the registry gives it, ending so many seconds from now.
fn refresh_token(seconds: i64) -> String {
    let end = i64::try_from(NOW.0 / 1000).unwrap() + seconds;
    let claims = format!(r#"{{"jti":"x","exp":{end},"aud":"{REGISTRY}"}}"#);
    format!("aGVhZGVy.{}.c2ln", BASE64URL.encode(claims))
}

/// The platform, its metadata service, and a registry that gives this refresh token.
async fn azure(refresh_token: String) -> Server {
    Server::start(move |request| {
        let path = request.target.split('?').next().unwrap();
        match (request.method.as_str(), path) {
            ("POST", "/acme.example/oauth2/v2.0/token") => {
                ok(r#"{"token_type":"Bearer","expires_in":3599,"access_token":"aad-t0ken"}"#)
            }
            ("GET", "/metadata/identity/oauth2/token")
                if request.header("metadata") == Some("true") =>
            {
                ok(r#"{"access_token":"aad-t0ken","expires_in":"3599","token_type":"Bearer"}"#)
            }
            ("POST", "/oauth2/exchange") => ok(format!(r#"{{"refresh_token":"{refresh_token}"}}"#)),
            _ => missing(),
        }
    })
    .await
}

fn principal(server: &Server) -> CloudConfig {
    CloudConfig::AzureAcr {
        tenant: Some("acme.example".to_owned()),
        client_id: Some("cl1ent".to_owned()),
        client_secret: Some(literal(KEY_SECRET)),
        urls: urls(server),
    }
}

fn machine(client_id: Option<&str>, server: &Server) -> CloudConfig {
    CloudConfig::AzureAcr {
        tenant: None,
        client_id: client_id.map(str::to_owned),
        client_secret: None,
        urls: urls(server),
    }
}

fn form(expected: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    expected.iter().map(owned).collect()
}

#[tokio::test]
async fn a_service_principal_is_exchanged() {
    let server = azure(refresh_token(3600)).await;
    let fetched = ask(&principal(&server), REGISTRY).await.unwrap();
    assert_eq!(pair(&fetched), (NOBODY, refresh_token(3600).as_str()));
    assert_eq!(fetched.good_for, Duration::from_hours(1));
    let [login, exchange] = &server.seen()[..] else {
        panic!("two requests");
    };
    let expected = [
        ("grant_type", "client_credentials"),
        ("client_id", "cl1ent"),
        ("client_secret", KEY_SECRET),
        ("scope", "https://containerregistry.azure.net/.default"),
    ];
    assert_eq!(pairs(&login.body), form(&expected));
    let expected = [
        ("grant_type", "access_token"),
        ("service", REGISTRY),
        ("tenant", "acme.example"),
        ("access_token", "aad-t0ken"),
    ];
    assert_eq!(pairs(&exchange.body), form(&expected));
    let form_type = Some("application/x-www-form-urlencoded");
    assert_eq!(exchange.header("content-type"), form_type);
}

#[tokio::test]
async fn a_managed_identity_is_exchanged() {
    for client_id in [None, Some("us3r-assigned")] {
        let server = azure(refresh_token(3600)).await;
        let fetched = ask(&machine(client_id, &server), REGISTRY).await.unwrap();
        assert_eq!(pair(&fetched).0, NOBODY);
        let [token, exchange] = &server.seen()[..] else {
            panic!("two requests");
        };
        let asked = query(token);
        assert_eq!(asked["api-version"], "2018-02-01");
        assert_eq!(asked["resource"], "https://containerregistry.azure.net/");
        assert_eq!(asked.get("client_id").map(String::as_str), client_id);
        let expected = [
            ("grant_type", "access_token"),
            ("service", REGISTRY),
            ("access_token", "aad-t0ken"),
        ];
        assert_eq!(pairs(&exchange.body), form(&expected));
    }
}

#[tokio::test]
async fn the_life_is_the_tokens_own() {
    let cases = [
        ("opaque".to_owned(), Some(170)),
        (refresh_token(600), Some(10)),
        (refresh_token(10_000_000), Some(170)),
        (refresh_token(0), None),
        (refresh_token(-5), None),
    ];
    for (token, minutes) in cases {
        let server = azure(token.clone()).await;
        let fetched = ask(&machine(None, &server), REGISTRY).await;
        match (fetched, minutes) {
            (Ok(fetched), Some(minutes)) => {
                assert_eq!(fetched.good_for, Duration::from_mins(minutes), "{token}");
            }
            (Err(error), None) => assert_eq!(
                text(&error),
                "credentials: Azure ACR 127.0.0.1: the token has expired already (or the clock is wrong)"
            ),
            (other, _) => panic!("{token}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn what_is_configured_by_half_is_told() {
    let server = azure(refresh_token(3600)).await;
    let config = |tenant: Option<&str>| CloudConfig::AzureAcr {
        tenant: tenant.map(str::to_owned),
        client_id: Some("c".to_owned()),
        client_secret: Some(literal(KEY_SECRET)),
        urls: urls(&server),
    };
    for tenant in [None, Some("a/../b"), Some("..")] {
        let error = ask(&config(tenant), REGISTRY).await.unwrap_err();
        assert!(text(&error).contains("tenant"), "{error}");
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_refusal_of_the_registry_names_its_code() {
    let server = Server::start(|request| {
        if request.target.starts_with("/oauth2/exchange") {
            let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"aad-t0ken is bad"}]}"#;
            return answer(401, &[], body).into();
        }
        ok(r#"{"access_token":"aad-t0ken"}"#)
    })
    .await;
    let error = ask(&machine(None, &server), REGISTRY).await.unwrap_err();
    assert_eq!(
        text(&error),
        "credentials: Azure ACR 127.0.0.1: status 401 UNAUTHORIZED"
    );
}

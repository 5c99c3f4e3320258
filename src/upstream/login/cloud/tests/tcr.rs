//! Tencent: TCR's API, and the metadata service.

use super::*;
use crate::clock::{Clock, SystemClock};
use crate::upstream::login::cloud::{fetch, tc3};

const REGISTRY: &str = "acme.tencentcloudcr.com";
const TOKEN: &str = r#"{"Response":{"Username":"100012","Token":"t3mp","ExpTime":1440941760000,
    "TokenId":"","RequestId":"r"}}"#;

fn config(keys: Option<(Text, Text)>, role: Option<&str>, server: &Server) -> CloudConfig {
    CloudConfig::Tcr {
        region: "ap-guangzhou".to_owned(),
        instance_id: "tcr-1".to_owned(),
        session_token: keys.as_ref().map(|_| literal("s3ss10n")),
        keys,
        role: role.map(str::to_owned),
        urls: urls(server),
    }
}

fn check_request(seen: &Seen, keys: &Keys, token: &str) {
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/"));
    assert_eq!(seen.header("x-tc-action"), Some("CreateInstanceToken"));
    assert_eq!(seen.header("x-tc-version"), Some("2019-09-24"));
    assert_eq!(seen.header("x-tc-timestamp"), Some("1440938160"));
    assert_eq!(seen.header("x-tc-region"), Some("ap-guangzhou"));
    assert_eq!(seen.header("x-tc-token"), Some(token));
    let body: serde_json::Value = serde_json::from_slice(&seen.body).unwrap();
    let expected = serde_json::json!({"RegistryId": "tcr-1", "TokenType": "temp"});
    assert_eq!(body, expected);
    let request = tc3::Request {
        service: "tcr",
        host: seen.header("host").unwrap(),
        content_type: seen.header("content-type").unwrap(),
        body: &seen.body,
    };
    let expected = tc3::authorization(keys, &request, NOW);
    assert_eq!(seen.header("authorization"), Some(expected.as_str()));
}

#[tokio::test]
async fn static_keys_sign_the_request() {
    let server = Server::start(|_| ok(TOKEN)).await;
    let config = config(Some(static_keys()), None, &server);
    let fetched = ask(&config, REGISTRY).await.unwrap();
    assert_eq!(pair(&fetched), ("100012", "t3mp"));
    assert_eq!(fetched.good_for, Duration::from_hours(1));
    let keys = keys(KEY_ID, KEY_SECRET, None);
    check_request(&server.seen()[0], &keys, "s3ss10n");
}

#[tokio::test]
async fn the_systems_clock_signs() {
    // The year 2096.
    let token = TOKEN.replace("1440941760000", "4000000000000");
    let server = Server::start(move |_| ok(token.clone())).await;
    let config = config(Some(static_keys()), None, &server);
    let before = SystemClock.now().0 / 1000;
    let deadline = Deadline::after(Duration::from_secs(10));
    let fetched = fetch(&config, REGISTRY, &client(), deadline).await.unwrap();
    assert_eq!(pair(&fetched), ("100012", "t3mp"));
    // No longer life is believed.
    assert_eq!(fetched.good_for, Duration::from_hours(24));
    let signed: u64 = server.seen()[0]
        .header("x-tc-timestamp")
        .unwrap()
        .parse()
        .unwrap();
    assert!((before..=SystemClock.now().0 / 1000).contains(&signed));
}

#[tokio::test]
async fn a_user_name_may_be_a_number() {
    let server = Server::start(|_| ok(TOKEN.replace("\"100012\"", "100012"))).await;
    let config = config(Some(static_keys()), None, &server);
    assert_eq!(pair(&ask(&config, REGISTRY).await.unwrap()).0, "100012");
}

#[tokio::test]
async fn a_machine_has_the_keys_of_its_role() {
    const ROLES: &str = "/latest/meta-data/cam/security-credentials/";
    for (role, requests) in [(None, 3), (Some("pull"), 2)] {
        let server = Server::start(|request| match request.target.as_str() {
            ROLES => ok("pull"),
            "/" => ok(TOKEN),
            path if path.strip_prefix(ROLES) == Some("pull") => ok(
                r#"{"TmpSecretId":"AKIDx","TmpSecretKey":"r0le","Token":"t0k","Code":"Success",
                   "ExpiredTime":1440959760,"Expiration":"2015-08-30T18:36:00Z"}"#,
            ),
            _ => missing(),
        })
        .await;
        let fetched = ask(&config(None, role, &server), REGISTRY).await.unwrap();
        assert_eq!(pair(&fetched), ("100012", "t3mp"));
        let seen = server.seen();
        assert_eq!(seen.len(), requests);
        check_request(seen.last().unwrap(), &keys("AKIDx", "r0le", None), "t0k");
    }
}

#[tokio::test]
async fn a_refusal_comes_as_a_success_and_names_its_code() {
    let server = Server::start(|_| {
        ok(
            r#"{"Response":{"Error":{"Code":"AuthFailure.SignatureFailure",
           "Message":"k3y-s3cr3t"},"RequestId":"r"}}"#,
        )
    })
    .await;
    let error = ask(&config(Some(static_keys()), None, &server), REGISTRY).await;
    assert_eq!(
        text(&error.unwrap_err()),
        "credentials: Tencent TCR 127.0.0.1: refused with AuthFailure.SignatureFailure"
    );
}

#[tokio::test]
async fn a_failed_role_names_its_code() {
    let server = Server::start(|request| {
        if request.target.ends_with('/') {
            ok("pull")
        } else {
            ok(r#"{"Code":"RoleNotBound"}"#)
        }
    })
    .await;
    let error = ask(&config(None, None, &server), REGISTRY).await;
    assert_eq!(
        text(&error.unwrap_err()),
        "credentials: Tencent metadata 127.0.0.1: refused with RoleNotBound"
    );
}

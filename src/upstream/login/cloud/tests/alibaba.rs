//! Alibaba Cloud: both APIs of the registry, and the metadata service.

use super::*;
use crate::upstream::login::cloud::alibaba_signature::{Roa, roa_authorization, rpc_query};

const REGISTRY: &str = "acme-registry.cn-hangzhou.cr.aliyuncs.com";
/// One hour after `NOW`.
const END: u64 = 1_440_941_760_000;

fn config(
    instance: Option<&str>,
    keys: Option<(Text, Text)>,
    role: Option<&str>,
    server: &Server,
) -> CloudConfig {
    CloudConfig::AlibabaAcr {
        region: None,
        instance_id: instance.map(str::to_owned),
        session_token: keys.as_ref().map(|_| literal("s3ss10n")),
        keys,
        role: role.map(str::to_owned),
        urls: urls(server),
    }
}

fn enterprise_answer() -> Reply {
    ok(format!(
        r#"{{"Code":"success","IsSuccess":true,"RequestId":"r","TempUsername":"cr_temp_user",
           "AuthorizationToken":"t3mp","ExpireTime":{END}}}"#
    ))
}

fn personal_answer() -> Reply {
    ok(format!(
        r#"{{"data":{{"authorizationToken":"t3mp","tempUserName":"cr_temp_user",
           "expireDate":{END}}},"requestId":"r"}}"#
    ))
}

fn check_login(fetched: &Fetched) {
    assert_eq!(pair(fetched), ("cr_temp_user", "t3mp"));
    assert_eq!(fetched.good_for, Duration::from_hours(1));
}

/// Checks an RPC request as the gateway does: from the query that it received.
fn check_rpc(seen: &Seen, expected: &[(&str, &str)], secret: &str) {
    assert_eq!(seen.method, "GET");
    let mut received = query(seen);
    assert!(received.remove("Signature").is_some());
    let borrowed: BTreeMap<&str, &str> = received
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let signed = rpc_query("GET", &borrowed, secret);
    assert_eq!(seen.target, format!("/?{signed}"));
    assert_eq!(received.remove("SignatureNonce").unwrap().len(), 32);
    let common = [
        ("Action", "GetAuthorizationToken"),
        ("Format", "JSON"),
        ("InstanceId", "cri-1"),
        ("SignatureMethod", "HMAC-SHA1"),
        ("SignatureVersion", "1.0"),
        ("Timestamp", "2015-08-30T12:36:00Z"),
        ("Version", "2018-12-01"),
    ];
    let all = common.iter().chain(expected);
    let all: BTreeMap<String, String> = all
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    assert_eq!(received, all);
}

#[tokio::test]
async fn an_enterprise_instance_is_asked_by_rpc() {
    let server = Server::start(|_| enterprise_answer()).await;
    let config = config(Some("cri-1"), Some(static_keys()), None, &server);
    check_login(&ask(&config, REGISTRY).await.unwrap());
    ask(&config, REGISTRY).await.unwrap();
    let seen = server.seen();
    let expected = [("AccessKeyId", KEY_ID), ("SecurityToken", "s3ss10n")];
    check_rpc(&seen[0], &expected, KEY_SECRET);
    // A request that is seen twice is refused.
    assert_ne!(
        query(&seen[0])["SignatureNonce"],
        query(&seen[1])["SignatureNonce"]
    );
}

#[tokio::test]
async fn personal_is_asked_by_roa() {
    let server = Server::start(|_| personal_answer()).await;
    let config = config(None, Some(static_keys()), None, &server);
    let registry = "registry-vpc.cn-hangzhou.aliyuncs.com";
    check_login(&ask(&config, registry).await.unwrap());
    let seen = &server.seen()[0];
    assert_eq!(
        (seen.method.as_str(), seen.target.as_str()),
        ("GET", "/tokens")
    );
    assert_eq!(seen.header("date"), Some("Sun, 30 Aug 2015 12:36:00 GMT"));
    assert_eq!(seen.header("x-acs-version"), Some("2016-06-07"));
    assert_eq!(seen.header("x-acs-security-token"), Some("s3ss10n"));
    let names = [
        "x-acs-security-token",
        "x-acs-signature-method",
        "x-acs-signature-nonce",
        "x-acs-signature-version",
        "x-acs-version",
    ];
    let acs = BTreeMap::from(names.map(|name| (name, seen.header(name).unwrap().to_owned())));
    let received = seen.headers.keys().map(http::HeaderName::as_str);
    assert_eq!(
        received.filter(|name| name.starts_with("x-acs-")).count(),
        names.len()
    );
    let roa = Roa {
        method: "GET",
        accept: seen.header("accept").unwrap(),
        content_md5: seen.header("content-md5").unwrap(),
        content_type: seen.header("content-type").unwrap(),
        date: seen.header("date").unwrap(),
        acs: &acs,
        resource: "/tokens",
    };
    let expected = roa_authorization(&keys(KEY_ID, KEY_SECRET, None), &roa);
    assert_eq!(seen.header("authorization"), Some(expected.as_str()));
}

/// The metadata service, hardened or not, and the API behind it.
async fn machine(hardened: bool) -> Server {
    const ROLES: &str = "/latest/meta-data/ram/security-credentials/";
    Server::start(move |request| {
        let session = request.header("x-aliyun-ecs-metadata-token");
        match (request.method.as_str(), request.target.as_str()) {
            ("PUT", "/latest/api/token") if hardened => {
                let life = request.header("x-aliyun-ecs-metadata-token-ttl-seconds");
                assert!(life.unwrap().parse::<u32>().unwrap() > 0);
                ok("h4rdened==")
            }
            ("GET", path) if path.starts_with("/latest") && (session.is_some() != hardened) => {
                answer(403, &[], "").into()
            }
            ("GET", ROLES) => ok("pull"),
            ("GET", path) if path.strip_prefix(ROLES) == Some("pull") => ok(
                r#"{"AccessKeyId":"STS.x","AccessKeySecret":"r0le","SecurityToken":"st/t+k=",
                   "Expiration":"2015-08-30T18:00:00Z","Code":"Success"}"#,
            ),
            ("GET", path) if path.starts_with("/?") => enterprise_answer(),
            _ => missing(),
        }
    })
    .await
}

#[tokio::test]
async fn a_machine_has_the_keys_of_its_role() {
    for (hardened, role, requests) in [(true, None, 4), (false, None, 4), (true, Some("pull"), 3)] {
        let server = machine(hardened).await;
        let config = config(Some("cri-1"), None, role, &server);
        check_login(&ask(&config, REGISTRY).await.unwrap());
        let seen = server.seen();
        assert_eq!(seen.len(), requests, "{hardened} {role:?}");
        let expected = [("AccessKeyId", "STS.x"), ("SecurityToken", "st/t+k=")];
        check_rpc(seen.last().unwrap(), &expected, "r0le");
    }
}

#[tokio::test]
async fn a_role_leads_to_no_other_place() {
    let server = machine(true).await;
    for role in ["../../x", "a/b", ".."] {
        let config = config(Some("cri-1"), None, Some(role), &server);
        let error = ask(&config, REGISTRY).await.unwrap_err();
        assert!(text(&error).contains("role"), "{error}");
    }
    assert!(server.seen_at("/latest/meta-data").is_empty());
}

#[tokio::test]
async fn refusals_name_their_codes() {
    let rpc = r#"{"Code":"INSTANCE_NOT_EXIST","IsSuccess":false,"RequestId":"r"}"#;
    let gateway =
        r#"{"Code":"SignatureDoesNotMatch","Message":"string to sign is GET&k3y-s3cr3t"}"#;
    let cases = [
        (200, rpc, "refused with INSTANCE_NOT_EXIST"),
        (403, gateway, "status 403 SignatureDoesNotMatch"),
        (200, "{}", "the answer holds no TempUsername"),
    ];
    for (status, body, why) in cases {
        let server = Server::start(move |_| answer(status, &[], body).into()).await;
        let config = config(Some("cri-1"), Some(static_keys()), None, &server);
        let error = ask(&config, REGISTRY).await.unwrap_err();
        assert_eq!(
            text(&error),
            format!("credentials: Alibaba ACR 127.0.0.1: {why}")
        );
    }
}

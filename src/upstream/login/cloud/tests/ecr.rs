//! AWS: ECR, STS and the metadata service (`IMDSv2`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::*;
use crate::upstream::login::cloud::sigv4;

const REGISTRY: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";

fn config(keys: Option<(Text, Text)>, session: Option<&str>, server: &Server) -> CloudConfig {
    CloudConfig::Ecr {
        region: None,
        keys,
        session_token: session.map(literal),
        web_identity: None,
        urls: urls(server),
    }
}

/// ECR's answer; the password ends in an hour.
fn authorization_data() -> String {
    let token = BASE64.encode("AWS:p4ss:w0rd");
    format!(
        r#"{{"authorizationData":[{{"authorizationToken":"{token}","expiresAt":1.44094176E9,
           "proxyEndpoint":"https://{REGISTRY}"}}]}}"#
    )
}

/// Checks the signature of a request as AWS does: from what was received.
fn check_signature(seen: &Seen, keys: &Keys, region: &str, service: &str) {
    let authorization = seen.header("authorization").unwrap();
    let (_, rest) = authorization.split_once("SignedHeaders=").unwrap();
    let (signed, _) = rest.split_once(',').unwrap();
    let headers: Vec<(&str, &str)> = signed
        .split(';')
        .map(|name| (name, seen.header(name).unwrap()))
        .collect();
    for needed in ["content-type", "host", "x-amz-date", "x-amz-target"] {
        assert!(signed.split(';').any(|name| name == needed), "{signed}");
    }
    let request = sigv4::Request {
        method: seen.method.as_str(),
        headers: &headers,
        body: &seen.body,
    };
    let scope = sigv4::Scope { region, service };
    assert_eq!(
        authorization,
        sigv4::authorization(keys, &scope, &request, NOW)
    );
}

fn check_ecr_request(seen: &Seen) {
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/"));
    assert_eq!(
        seen.header("x-amz-target"),
        Some("AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken")
    );
    assert_eq!(
        seen.header("content-type"),
        Some("application/x-amz-json-1.1")
    );
    assert_eq!(seen.header("x-amz-date"), Some("20150830T123600Z"));
    assert_eq!(seen.body, "{}");
}

#[tokio::test]
async fn static_keys_sign_the_request() {
    let server = Server::start(|_| ok(authorization_data())).await;
    let config = config(Some(static_keys()), Some("s3ss10n"), &server);
    let fetched = ask(&config, REGISTRY).await.unwrap();
    assert_eq!(pair(&fetched), ("AWS", "p4ss:w0rd"));
    assert_eq!(fetched.good_for, Duration::from_hours(1));
    let seen = server.seen();
    assert_eq!(seen.len(), 1);
    check_ecr_request(&seen[0]);
    assert_eq!(seen[0].header("x-amz-security-token"), Some("s3ss10n"));
    let authorization = seen[0].header("authorization").unwrap();
    assert!(authorization.contains("x-amz-security-token"));
    let keys = keys(KEY_ID, KEY_SECRET, None);
    check_signature(&seen[0], &keys, "eu-west-1", "ecr");
}

#[tokio::test]
async fn keys_in_files_are_read_each_time() {
    let server = Server::start(|_| ok(authorization_data())).await;
    let (_folder, path) = file("0ld\n");
    let pair = Some((literal(KEY_ID), Text::File(path.clone())));
    let config = config(pair, None, &server);
    ask(&config, REGISTRY).await.unwrap();
    write(&path, "n3w\r\n");
    ask(&config, REGISTRY).await.unwrap();
    let seen = server.seen();
    check_signature(&seen[0], &keys(KEY_ID, "0ld", None), "eu-west-1", "ecr");
    check_signature(&seen[1], &keys(KEY_ID, "n3w", None), "eu-west-1", "ecr");
}

#[tokio::test]
async fn the_public_registry_has_an_api_of_its_own() {
    let server = Server::start(|_| {
        let token = BASE64.encode("AWS:publ1c");
        ok(format!(
            r#"{{"authorizationData":{{"authorizationToken":"{token}","expiresAt":1440941760}}}}"#
        ))
    })
    .await;
    let config = config(Some(static_keys()), None, &server);
    let fetched = ask(&config, "public.ecr.aws").await.unwrap();
    assert_eq!(pair(&fetched), ("AWS", "publ1c"));
    let seen = &server.seen()[0];
    assert_eq!(
        seen.header("x-amz-target"),
        Some("SpencerFrontendService.GetAuthorizationToken")
    );
    let keys = keys(KEY_ID, KEY_SECRET, None);
    check_signature(seen, &keys, "us-east-1", "ecr-public");
}

/// As the reference of `AssumeRoleWithWebIdentity` shows it.
const ASSUMED: &str = r#"<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <AssumeRoleWithWebIdentityResult>
    <SubjectFromWebIdentityToken>system:serviceaccount:a:b</SubjectFromWebIdentityToken>
    <Credentials>
      <SessionToken>assum3d+t0ken/==</SessionToken>
      <SecretAccessKey>assum3d-s3cret</SecretAccessKey>
      <Expiration>2015-08-30T13:36:00Z</Expiration>
      <AccessKeyId>ASIAASSUMED</AccessKeyId>
    </Credentials>
  </AssumeRoleWithWebIdentityResult>
</AssumeRoleWithWebIdentityResponse>"#;

#[tokio::test]
async fn a_web_identity_assumes_its_role() {
    let server = Server::start(|request| {
        if request.header("x-amz-target").is_some() {
            ok(authorization_data())
        } else {
            ok(ASSUMED)
        }
    })
    .await;
    let (_folder, path) = file("1d3nt1ty.t0ken\n");
    let role = "arn:aws:iam::123456789012:role/pull";
    let config = CloudConfig::Ecr {
        region: None,
        keys: None,
        session_token: None,
        web_identity: Some((role.to_owned(), path)),
        urls: urls(&server),
    };
    let fetched = ask(&config, REGISTRY).await.unwrap();
    assert_eq!(pair(&fetched), ("AWS", "p4ss:w0rd"));
    let [sts, ecr] = &server.seen()[..] else {
        panic!("two requests");
    };
    assert_eq!((sts.method.as_str(), sts.target.as_str()), ("POST", "/"));
    // The token is the proof, and must be in no address.
    assert_eq!(sts.header("authorization"), None);
    let form = pairs(&sts.body);
    let expected = [
        ("Action", "AssumeRoleWithWebIdentity"),
        ("Version", "2011-06-15"),
        ("RoleArn", role),
        ("RoleSessionName", "roadstead"),
        ("WebIdentityToken", "1d3nt1ty.t0ken"),
    ];
    let owned = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(form, BTreeMap::from(owned));
    check_ecr_request(ecr);
    assert_eq!(ecr.header("x-amz-security-token"), Some("assum3d+t0ken/=="));
    let keys = keys("ASIAASSUMED", "assum3d-s3cret", None);
    check_signature(ecr, &keys, "eu-west-1", "ecr");
}

/// `IMDSv2`, and ECR behind it.
async fn machine() -> Server {
    const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
    Server::start(|request| {
        let session = request.header("x-aws-ec2-metadata-token");
        match (request.method.as_str(), request.target.as_str(), session) {
            ("PUT", "/latest/api/token", None) => {
                let life = request.header("x-aws-ec2-metadata-token-ttl-seconds");
                assert!(life.unwrap().parse::<u32>().unwrap() > 0);
                ok("1mds-t0ken==")
            }
            ("GET", ROLES, Some("1mds-t0ken==")) => ok("pull-role\n"),
            ("GET", path, Some("1mds-t0ken=="))
                if path.strip_prefix(ROLES) == Some("pull-role") =>
            {
                ok(
                    r#"{"Code":"Success","LastUpdated":"2015-08-30T12:00:00Z","Type":"AWS-HMAC",
                    "AccessKeyId":"ASIAMACHINE","SecretAccessKey":"mach1ne","Token":"m-t0ken",
                    "Expiration":"2015-08-30T18:00:00Z"}"#,
                )
            }
            ("POST", "/", None) => ok(authorization_data()),
            _ => answer(401, &[], "").into(),
        }
    })
    .await
}

#[tokio::test]
async fn a_machine_has_the_keys_of_its_role() {
    let server = machine().await;
    let fetched = ask(&config(None, None, &server), REGISTRY).await.unwrap();
    assert_eq!(pair(&fetched), ("AWS", "p4ss:w0rd"));
    let seen = server.seen();
    assert_eq!(seen.len(), 4);
    assert_eq!(seen[3].header("x-amz-security-token"), Some("m-t0ken"));
    let keys = keys("ASIAMACHINE", "mach1ne", None);
    check_signature(&seen[3], &keys, "eu-west-1", "ecr");
}

#[tokio::test]
async fn what_is_no_login_is_an_error() {
    let no_pair = format!(
        r#"{{"authorizationData":[{{"authorizationToken":"{}","expiresAt":1440941760}}]}}"#,
        BASE64.encode("no colon")
    );
    let past = authorization_data().replace("1.44094176E9", "1440938159");
    let cases = [
        (
            no_pair.as_str(),
            "the token is not a user name and password",
        ),
        (
            past.as_str(),
            "what it gave has expired already (or the clock is wrong)",
        ),
        (
            r#"{"authorizationData":[]}"#,
            "the answer holds no authorizationData/0/authorizationToken",
        ),
        ("<html>", "the answer is not JSON"),
    ];
    for (body, why) in cases {
        let body = body.to_owned();
        let server = Server::start(move |_| ok(body.clone())).await;
        let error = ask(&config(Some(static_keys()), None, &server), REGISTRY).await;
        let error = text(&error.unwrap_err());
        assert_eq!(error, format!("credentials: ECR 127.0.0.1: {why}"));
    }
}

#[tokio::test]
async fn a_refusal_of_sts_names_its_code() {
    let server = Server::start(|_| {
        let body = "<ErrorResponse><Error><Type>Sender</Type><Code>ExpiredTokenException</Code>\
                    <Message>Token expired: 1d3nt1ty</Message></Error></ErrorResponse>";
        answer(400, &[], body).into()
    })
    .await;
    let (_folder, path) = file("1d3nt1ty");
    let config = CloudConfig::Ecr {
        region: Some("eu-west-1".to_owned()),
        keys: None,
        session_token: None,
        web_identity: Some(("arn".to_owned(), path)),
        urls: urls(&server),
    };
    let error = ask(&config, "registry.example").await.unwrap_err();
    assert_eq!(
        text(&error),
        "credentials: AWS STS 127.0.0.1: status 400 ExpiredTokenException"
    );
}

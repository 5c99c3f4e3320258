//! Failures that every cloud has: no answer, a wrong one, too much of one.

use super::*;

/// Each cloud with keys that are configured, or with a machine's identity.
fn configs(server: &Server, machine: bool) -> Vec<(&'static str, CloudConfig)> {
    let keys = || (!machine).then(static_keys);
    let urls = || urls(server);
    let name = |configured, of_machine| if machine { of_machine } else { configured };
    vec![
        (
            name("ECR", "AWS metadata"),
            CloudConfig::Ecr {
                region: Some("eu-west-1".to_owned()),
                keys: keys(),
                session_token: None,
                web_identity: None,
                urls: urls(),
            },
        ),
        (
            name("Google metadata", "Google metadata"),
            CloudConfig::Gar {
                key_file: None,
                urls: urls(),
            },
        ),
        (
            name("Azure AD", "Azure metadata"),
            CloudConfig::AzureAcr {
                tenant: Some("t".to_owned()),
                client_id: Some("c".to_owned()),
                client_secret: (!machine).then(|| literal(KEY_SECRET)),
                urls: urls(),
            },
        ),
        (
            name("Alibaba ACR", "Alibaba metadata"),
            CloudConfig::AlibabaAcr {
                region: Some("cn-hangzhou".to_owned()),
                instance_id: Some("cri-1".to_owned()),
                keys: keys(),
                session_token: None,
                role: None,
                urls: urls(),
            },
        ),
        (
            name("Tencent TCR", "Tencent metadata"),
            CloudConfig::Tcr {
                region: "ap-guangzhou".to_owned(),
                instance_id: "tcr-1".to_owned(),
                keys: keys(),
                session_token: None,
                role: None,
                urls: urls(),
            },
        ),
    ]
}

/// Every cloud, asked with a server that always answers so, says this of its first service.
async fn all_say(script: impl Fn() -> Reply + Clone + Send + Sync + 'static, why: &str) {
    for machine in [false, true] {
        let script = script.clone();
        let server = Server::start(move |_| script()).await;
        for (service, config) in configs(&server, machine) {
            let error = ask(&config, "registry.example").await.unwrap_err();
            let text = text(&error);
            assert!(matches!(error, FetchError::Login(_)), "{text}");
            assert!(
                text.starts_with(&format!("credentials: {service} 127.0.0.1: ")),
                "{text}"
            );
            assert!(text.ends_with(why), "{text}");
        }
    }
}

#[tokio::test]
async fn a_refusal_tells_the_status() {
    all_say(|| answer(403, &[], "<html>").into(), ": status 403").await;
}

#[tokio::test]
async fn a_code_is_told_when_it_is_one() {
    let script = || answer(403, &[], r#"{"Code":"Forbidden.RAM"}"#).into();
    all_say(script, ": status 403 Forbidden.RAM").await;
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let script = || answer(302, &[("location", "/elsewhere")], "").into();
    all_say(script, ": status 302").await;
}

#[tokio::test]
async fn garbage_is_no_login() {
    all_say(|| ok("\u{1}\u{2} <>"), "").await;
}

#[tokio::test]
async fn too_much_is_not_read() {
    let script = || ok(vec![b' '; 64 * 1024 + 1]);
    all_say(script, "the answer is larger than 65536 bytes").await;
}

#[tokio::test]
async fn a_closed_connection_is_told() {
    let server = Server::start(|_| Reply::Close).await;
    for (service, config) in configs(&server, false) {
        let error = ask(&config, "registry.example").await.unwrap_err();
        let start = format!("credentials: {service} 127.0.0.1: connection broken: ");
        assert!(text(&error).starts_with(&start), "{error}");
    }
}

#[tokio::test]
async fn silence_ends_with_the_deadline() {
    let server = Server::start(|_| Reply::Hang).await;
    for machine in [false, true] {
        for (_, config) in configs(&server, machine) {
            let time = Duration::from_millis(50);
            let asked = ask_within(&config, "registry.example", time);
            let error = tokio::time::timeout(Duration::from_secs(10), asked).await;
            let error = error.unwrap().unwrap_err();
            assert!(matches!(error, FetchError::Timeout(_)), "{error:?}");
        }
    }
}

/// Nobody answers if there is no metadata service: that must not take all the time there is, and
/// is not the fault of the one whose time it took.
#[tokio::test]
async fn a_silent_metadata_service_is_given_up_early() {
    let server = Server::start(|_| Reply::Hang).await;
    let (service, config) = configs(&server, true).swap_remove(0);
    let asked = ask_within(&config, "registry.example", Duration::from_hours(1));
    let error = tokio::time::timeout(Duration::from_secs(30), asked).await;
    assert_eq!(
        text(&error.unwrap().unwrap_err()),
        format!("credentials: {service} 127.0.0.1: timed out waiting for the response header")
    );
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_named() {
    let server = Server::start(|_| missing()).await;
    let (_folder, path) = file(&"x".repeat(64 * 1024 + 1));
    let absent = path.with_file_name("absent");
    for (path, why) in [(path, "too large"), (absent, "entity not found")] {
        let config = CloudConfig::Ecr {
            region: Some("eu-west-1".to_owned()),
            keys: Some((literal(KEY_ID), Text::File(path.clone()))),
            session_token: None,
            web_identity: None,
            urls: urls(&server),
        };
        let error = ask(&config, "registry.example").await.unwrap_err();
        assert_eq!(
            error,
            FetchError::Login(format!("{}: {why}", path.display()))
        );
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_key_that_fits_no_header_is_not_told() {
    let server = Server::start(|_| missing()).await;
    let config = CloudConfig::Tcr {
        region: "ap-guangzhou".to_owned(),
        instance_id: "tcr-1".to_owned(),
        keys: Some(static_keys()),
        session_token: Some(literal("s3ss10n\nx")),
        role: None,
        urls: urls(&server),
    };
    let error = ask(&config, "registry.example").await.unwrap_err();
    assert_eq!(
        text(&error),
        "credentials: Tencent TCR 127.0.0.1: x-tc-token cannot be sent"
    );
}

#[tokio::test]
async fn a_host_without_a_region_needs_one_configured() {
    let server = Server::start(|_| missing()).await;
    let config = CloudConfig::Ecr {
        region: None,
        keys: Some(static_keys()),
        session_token: None,
        web_identity: None,
        urls: urls(&server),
    };
    let error = ask(&config, "registry.example").await.unwrap_err();
    assert!(
        text(&error).ends_with("names no region: configure it"),
        "{error}"
    );
}

//! Manifests, lists, and errors.

use super::server::{Server, answer, pieces};
use super::*;
use crate::oci::AcceptClass;
use crate::oci::manifest::{MANIFEST_BYTES_MAX, media};
use crate::upstream::{FetchError, ManifestFetch};

async fn pull(url: &str) -> Result<ManifestFetch, FetchError> {
    let all = AcceptClass::ALL;
    simple(url)
        .manifest(&repository(), &latest(), all, Patience::Now)
        .await
}

#[tokio::test]
async fn a_manifest_comes_with_what_its_headers_say() {
    let digest = digest();
    let text = digest.to_string();
    let server = Server::start(move |_| {
        let headers = [
            ("content-type", media::OCI_INDEX),
            ("docker-content-digest", text.as_str()),
            ("warning", r#"299 - "soon gone""#),
            ("warning", r#"199 - "not for us""#),
        ];
        answer(200, &headers, "{ }").into()
    })
    .await;
    let prefixed = format!("{}/mirror/", server.url());
    let fetch = pull(&prefixed).await.unwrap();
    assert_eq!(fetch.bytes, "{ }");
    assert_eq!(fetch.content_type.as_deref(), Some(media::OCI_INDEX));
    assert_eq!(fetch.digest_header, Some(digest));
    assert_eq!(fetch.warnings, [r#"299 - "soon gone""#]);
    let seen = &server.seen()[0];
    assert_eq!(seen.target, "/mirror/v2/library/app/manifests/latest");
    let agent = concat!("roadstead/", env!("CARGO_PKG_VERSION"));
    assert_eq!(seen.header("user-agent"), Some(agent));
}

#[tokio::test]
async fn head_of_a_manifest() {
    let digest = digest();
    let text = digest.to_string();
    let server = Server::start(move |request| match request.target.as_str() {
        "/v2/library/app/manifests/latest" => {
            let headers = [
                ("docker-content-digest", text.as_str()),
                ("content-length", "7"),
            ];
            answer(200, &headers, "").into()
        }
        _ => answer(405, &[], "").into(),
    })
    .await;
    let upstream = simple(&server.url());
    let all = AcceptClass::ALL;
    let head = upstream
        .manifest_head(&repository(), &latest(), all, Patience::Wait)
        .await
        .unwrap();
    assert_eq!(
        (head.digest, head.size, head.content_type),
        (Some(digest), Some(7), None)
    );
    let other = Reference::Digest(digest);
    let error = upstream
        .manifest_head(&repository(), &other, all, Patience::Wait)
        .await
        .unwrap_err();
    assert_eq!(error, FetchError::Status(405));
}

static HALF: [u8; MANIFEST_BYTES_MAX / 2 + 1] = [b' '; MANIFEST_BYTES_MAX / 2 + 1];

#[tokio::test]
async fn a_manifest_over_the_bound_is_refused_said_or_not() {
    let said = Server::start(|_| answer(200, &[], vec![b' '; MANIFEST_BYTES_MAX + 1]).into()).await;
    let unsaid = Server::start(|_| pieces(&[&HALF, &HALF]).into()).await;
    for server in [said, unsaid] {
        let error = pull(&server.url()).await.unwrap_err();
        let limit = MANIFEST_BYTES_MAX;
        assert_eq!(
            error,
            FetchError::TooLarge {
                what: "a manifest",
                limit
            }
        );
    }
    let most = Server::start(|_| answer(200, &[], vec![b' '; MANIFEST_BYTES_MAX]).into()).await;
    assert_eq!(
        pull(&most.url()).await.unwrap().bytes.len(),
        MANIFEST_BYTES_MAX
    );
}

type Headers = Vec<(&'static str, &'static str)>;

#[tokio::test]
async fn statuses_become_errors() {
    let unknown = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"x"}]}"#;
    let code = Some("MANIFEST_UNKNOWN".to_owned());
    let limited = |seconds: Option<u64>| FetchError::RateLimited {
        retry_after: seconds.map(Duration::from_secs),
    };
    let unavailable = |seconds| FetchError::Unavailable {
        retry_after: Duration::from_secs(seconds),
    };
    let date = "Wed, 21 Oct 2015 07:28:00 GMT";
    let later = "Wed, 21 Oct 2015 07:28:09 GMT";
    let cases: Vec<(u16, Headers, &str, FetchError)> = vec![
        (404, vec![], unknown, FetchError::NotFound { code }),
        (404, vec![], "<html>", FetchError::NotFound { code: None }),
        (401, vec![], "", FetchError::Unauthorized),
        (403, vec![], "", FetchError::Denied),
        (429, vec![], "", limited(Some(1))),
        (503, vec![("retry-after", "7")], "", unavailable(7)),
        (503, vec![("retry-after", "86400")], "", unavailable(60)),
        (503, vec![("retry-after", "0")], "", FetchError::Status(503)),
        (503, vec![], "", FetchError::Status(503)),
        (429, vec![("retry-after", "7")], "", limited(Some(7))),
        (
            429,
            vec![("retry-after", later), ("date", date)],
            "",
            limited(Some(9)),
        ),
        (500, vec![], "", FetchError::Status(500)),
        (418, vec![], "", FetchError::Status(418)),
        (304, vec![], "", FetchError::Status(304)),
    ];
    for (status, headers, body, expected) in cases {
        let server = Server::start(move |_| answer(status, &headers, body).into()).await;
        assert_eq!(pull(&server.url()).await.unwrap_err(), expected, "{status}");
    }
}

#[tokio::test]
async fn who_says_that_we_asked_ourselves_is_named() {
    let server = Server::start(|_| answer(508, &[], "").into()).await;
    let host = server.url().replace("http://", "");
    let error = pull(&server.url()).await.unwrap_err();
    assert_eq!(error, FetchError::Loop(host));
}

#[tokio::test]
async fn lists_are_asked_for_with_their_query_and_give_the_next_page() {
    let server = Server::start(|request| {
        let link = (
            "link",
            r#"</v2/library/app/tags/list?n=2&last=b%2Bc>; rel="next""#,
        );
        let filters = ("oci-filters-applied", "artifactType");
        if request.target.contains("/tags/") {
            answer(200, &[link], r#"{"tags":[]}"#).into()
        } else {
            answer(200, &[filters], "{}").into()
        }
    })
    .await;
    let upstream = simple(&server.url());
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let query = [pair("n", "2"), pair("last", "a&b=c")];
    let tags = upstream
        .tags(&repository(), &query, Patience::Wait)
        .await
        .unwrap();
    assert_eq!(tags.bytes, r#"{"tags":[]}"#);
    let next = tags.next.unwrap().query;
    assert_eq!(next, [pair("n", "2"), pair("last", "b+c")]);

    let all = upstream.tags(&repository(), &[], Patience::Now).await;
    assert!(!all.unwrap().filtered);
    let kind = [pair("artifactType", "application/vnd.x+json")];
    let list = upstream
        .referrers(&repository(), &digest(), &kind, Patience::Wait)
        .await
        .unwrap();
    assert!(list.filtered);

    let seen = server.seen();
    let targets: Vec<_> = seen.iter().map(|seen| seen.target.clone()).collect();
    let referrers = format!(
        "/v2/library/app/referrers/{}?artifactType=application%2Fvnd.x%2Bjson",
        digest()
    );
    let expected = [
        "/v2/library/app/tags/list?n=2&last=a%26b%3Dc",
        "/v2/library/app/tags/list",
        &referrers,
    ];
    assert_eq!(targets, expected);
    assert_eq!(seen[2].header("accept"), Some(media::OCI_INDEX));
}

#[tokio::test]
async fn requests_and_the_rate_limit_are_counted() {
    let limit = ("ratelimit-remaining", "97;w=21600");
    let server = Server::start(move |_| answer(404, &[limit], "").into()).await;
    let metrics = metrics();
    let upstream = Upstream::new(&config(&[&server.url()]), metrics.clone()).unwrap();
    let all = AcceptClass::ALL;
    let result = upstream
        .manifest(&repository(), &latest(), all, Patience::Wait)
        .await;
    assert!(result.is_err());
    let text = metrics.render();
    for line in [
        format!(r#"roadstead_upstream_ratelimit_remaining{{upstream="{NAME}"}} 97"#),
        format!(
            r#"roadstead_upstream_requests_total{{kind="manifest",status="404",upstream="{NAME}"}} 1"#
        ),
    ] {
        assert!(text.contains(&line), "{line} not in {text}");
    }
}

#[test]
fn a_wrong_setting_is_named() {
    assert!(Upstream::new(&config(&[]), metrics()).is_err());
    for url in ["ftp://x.example", "https://u:p@x.example"] {
        assert!(Upstream::new(&config(&[url]), metrics()).is_err());
    }
    let mut config = config(&["https://x.example"]);
    config.endpoints[0].ca_file = Some("/does/not/exist.pem".into());
    let error = Upstream::new(&config, metrics()).unwrap_err().to_string();
    assert!(
        error.starts_with("upstream test.example: ca_file /does/not/exist.pem: "),
        "{error}"
    );
}

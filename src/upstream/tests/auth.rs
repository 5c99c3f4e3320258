//! Challenges and tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use tokio::sync::Semaphore;

use super::server::{Body, Reply, Seen, Server, answer};
use super::*;
use crate::oci::AcceptClass;
use crate::upstream::{FetchError, ManifestFetch};

const TOKEN_PATH: &str = "/token";

/// A registry that is its own token server: it gives the tokens `t1`, `t2`, … and takes those from
/// `accepted` on.
async fn registry(accepted: Arc<AtomicUsize>) -> Server {
    let given = AtomicUsize::new(0);
    Server::start(move |request| {
        if request.target.starts_with(TOKEN_PATH) {
            let number = given.fetch_add(1, Ordering::SeqCst) + 1;
            return answer(200, &[], format!(r#"{{"token":"t{number}"}}"#)).into();
        }
        let number = request
            .header("authorization")
            .and_then(|value| value.strip_prefix("Bearer t")?.parse::<usize>().ok());
        if number.is_some_and(|number| number >= accepted.load(Ordering::SeqCst)) {
            answer(200, &[], "{}").into()
        } else {
            challenge(request, "").into()
        }
    })
    .await
}

/// 401 with a Bearer challenge whose realm is at the host that was asked.
fn challenge(request: &Seen, more: &str) -> http::Response<Body> {
    let host = request.header("host").unwrap();
    let value = format!(r#"Bearer realm="http://{host}{TOKEN_PATH}",service="reg"{more}"#);
    answer(401, &[("www-authenticate", &value)], "{}")
}

async fn pull(upstream: &Upstream) -> Result<ManifestFetch, FetchError> {
    let (repository, reference) = (repository(), latest());
    let all = AcceptClass::ALL;
    upstream
        .manifest(&repository, &reference, all, Patience::Wait)
        .await
}

fn with_credentials(url: &str) -> Upstream {
    let mut config = config(&[url]);
    config.logins = vec![credentials()];
    upstream(&config)
}

#[tokio::test]
async fn an_anonymous_token_is_fetched_once_and_kept() {
    let server = registry(Arc::new(AtomicUsize::new(1))).await;
    let upstream = simple(&server.url());
    for _ in 0..3 {
        pull(&upstream).await.unwrap();
    }
    let tokens = server.seen_at(TOKEN_PATH);
    let targets: Vec<_> = tokens.iter().map(|seen| seen.target.as_str()).collect();
    assert_eq!(
        targets,
        ["/token?service=reg&scope=repository%3Alibrary%2Fapp%3Apull"]
    );
    assert_eq!(tokens[0].header("authorization"), None);
    // One 401, and then a token at once with each request.
    assert_eq!(server.seen_at("/v2/").len(), 4);
}

#[tokio::test]
async fn fifty_requests_share_one_token_request() {
    let challenged = AtomicUsize::new(0);
    let all_wait = Arc::new(Semaphore::new(0));
    let server = Server::start(move |request| {
        if request.target.starts_with(TOKEN_PATH) {
            let token = answer(200, &[], r#"{"access_token":"t"}"#);
            return Reply::When(Arc::clone(&all_wait), token);
        }
        if request.header("authorization") == Some("Bearer t") {
            return answer(200, &[], "{}").into();
        }
        if challenged.fetch_add(1, Ordering::SeqCst) + 1 == 50 {
            all_wait.add_permits(50);
        }
        challenge(request, "").into()
    })
    .await;
    let upstream = simple(&server.url());
    let pulls = join_all((0..50).map(|_| pull(&upstream))).await;
    assert!(pulls.iter().all(Result::is_ok), "{pulls:?}");
    assert_eq!(server.seen_at(TOKEN_PATH).len(), 1);
}

#[tokio::test]
async fn a_refused_token_is_replaced_once() {
    let accepted = Arc::new(AtomicUsize::new(1));
    let server = registry(Arc::clone(&accepted)).await;
    let upstream = simple(&server.url());
    pull(&upstream).await.unwrap();
    accepted.store(2, Ordering::SeqCst);
    pull(&upstream).await.unwrap();
    assert_eq!(server.seen_at(TOKEN_PATH).len(), 2);

    // No token is good any more: one more is tried, and then it is over.
    accepted.store(usize::MAX, Ordering::SeqCst);
    let before = server.seen_at("/v2/").len();
    assert_eq!(pull(&upstream).await.unwrap_err(), FetchError::Unauthorized);
    assert_eq!(server.seen_at(TOKEN_PATH).len(), 3);
    assert_eq!(server.seen_at("/v2/").len(), before + 2);
}

#[tokio::test]
async fn credentials_go_to_the_token_server_by_basic() {
    let server = registry(Arc::new(AtomicUsize::new(1))).await;
    pull(&with_credentials(&server.url())).await.unwrap();
    let token = &server.seen_at(TOKEN_PATH)[0];
    // "robot:pa55-w0rd"
    let basic = "Basic cm9ib3Q6cGE1NS13MHJk";
    assert_eq!(token.header("authorization"), Some(basic));
    assert!(token.target.ends_with("&account=robot"));
    for request in server.seen_at("/v2/") {
        assert_ne!(request.header("authorization"), Some(basic));
    }
}

#[tokio::test]
async fn a_token_server_without_get_is_asked_by_form() {
    let server = Server::start(|request| {
        if request.target.starts_with(TOKEN_PATH) {
            return match request.method {
                http::Method::POST => answer(200, &[], r#"{"access_token":"t"}"#).into(),
                _ => answer(405, &[], "").into(),
            };
        }
        match request.header("authorization") {
            Some("Bearer t") => answer(200, &[], "{}").into(),
            _ => challenge(request, r#",scope="repository:x:pull""#).into(),
        }
    })
    .await;
    pull(&with_credentials(&server.url())).await.unwrap();
    let form = &server.seen_at(TOKEN_PATH)[1];
    assert_eq!(
        form.body,
        "grant_type=password&client_id=roadstead&service=reg\
         &scope=repository%3Ax%3Apull+repository%3Alibrary%2Fapp%3Apull\
         &username=robot&password=pa55-w0rd"
    );
    assert_eq!(form.target, TOKEN_PATH);
}

#[tokio::test]
async fn basic_is_answered_with_the_credentials_if_there_are_any() {
    let server = Server::start(|request| match request.header("authorization") {
        Some("Basic cm9ib3Q6cGE1NS13MHJk") => answer(200, &[], "{}").into(),
        _ => answer(401, &[("www-authenticate", r#"Basic realm="x""#)], "").into(),
    })
    .await;
    let error = pull(&simple(&server.url())).await.unwrap_err();
    assert_eq!(error, FetchError::Unauthorized);
    assert_eq!(server.seen().len(), 1);

    let upstream = with_credentials(&server.url());
    pull(&upstream).await.unwrap();
    pull(&upstream).await.unwrap();
    assert_eq!(
        server.seen().len(),
        4,
        "the second pull must send it at once"
    );
}

#[tokio::test]
async fn what_a_token_server_says_is_told_apart() {
    let cases = [
        (401, "{}", FetchError::Unauthorized),
        (403, "{}", FetchError::Denied),
        (503, "", FetchError::Token("answered status 503".to_owned())),
        (204, "", FetchError::Token("answered status 204".to_owned())),
        (
            200,
            "{}",
            FetchError::Token("the answer holds no token".to_owned()),
        ),
    ];
    for (status, body, expected) in cases {
        let server = Server::start(move |request| {
            if request.target.starts_with(TOKEN_PATH) {
                answer(status, &[("location", "/elsewhere")], body).into()
            } else {
                challenge(request, "").into()
            }
        })
        .await;
        assert_eq!(pull(&simple(&server.url())).await.unwrap_err(), expected);
        // What may pass in a moment is asked twice.
        let asked = if status == 503 { 2 } else { 1 };
        assert_eq!(server.seen_at(TOKEN_PATH).len(), asked, "{status}");
    }
}

#[tokio::test]
async fn a_huge_token_answer_is_not_read() {
    let server = Server::start(|request| {
        if request.target.starts_with(TOKEN_PATH) {
            answer(200, &[], vec![b' '; 1 << 20]).into()
        } else {
            challenge(request, "").into()
        }
    })
    .await;
    let error = pull(&simple(&server.url())).await.unwrap_err();
    assert!(matches!(error, FetchError::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn a_realm_at_a_metadata_address_is_not_asked() {
    let server = Server::start(|_| {
        let value = r#"Bearer realm="http://169.254.169.254/latest/meta-data/""#;
        answer(401, &[("www-authenticate", value)], "").into()
    })
    .await;
    let error = pull(&simple(&server.url())).await.unwrap_err();
    let expected = "169.254.169.254:80 (a link-local address or that of a metadata service)";
    assert_eq!(error, FetchError::Inside(expected.to_owned()));
}

#[tokio::test]
async fn secrets_are_never_printed() {
    let server = registry(Arc::new(AtomicUsize::new(usize::MAX))).await;
    let mut config = config(&[&server.url()]);
    config.logins = vec![credentials()];
    let upstream = upstream(&config);
    let error = pull(&upstream).await.unwrap_err();
    for text in [
        format!("{config:?}"),
        format!("{upstream:?}"),
        format!("{error:?} {error}"),
    ] {
        assert!(!text.contains(PASSWORD) && !text.contains("t1"), "{text}");
    }
}

#[tokio::test]
async fn a_token_server_that_moved_is_found_again() {
    // 0: at /old; 1: no token is good; 2: at /new, and /old is gone.
    let stage = Arc::new(AtomicUsize::new(0));
    let now = Arc::clone(&stage);
    let server = Server::start(move |request| {
        let stage = now.load(Ordering::SeqCst);
        match (request.target.split('?').next().unwrap(), stage) {
            ("/old", 0 | 1) => return answer(200, &[], r#"{"token":"old"}"#).into(),
            ("/old", _) => return answer(404, &[], "").into(),
            ("/new", _) => return answer(200, &[], r#"{"token":"new"}"#).into(),
            _ => {}
        }
        let good = ["Bearer old", "Bearer none", "Bearer new"][stage];
        if request.header("authorization") == Some(good) {
            return answer(200, &[], "{}").into();
        }
        let host = request.header("host").unwrap();
        let path = ["old", "old", "new"][stage];
        let value = format!(r#"Bearer realm="http://{host}/{path}""#);
        answer(401, &[("www-authenticate", &value)], "").into()
    })
    .await;
    let upstream = simple(&server.url());
    pull(&upstream).await.unwrap();
    stage.store(1, Ordering::SeqCst);
    assert_eq!(pull(&upstream).await.unwrap_err(), FetchError::Unauthorized);
    stage.store(2, Ordering::SeqCst);
    let error = pull(&upstream).await.unwrap_err();
    assert_eq!(error, FetchError::Token("answered status 404".to_owned()));
    pull(&upstream).await.unwrap();
    assert_eq!(server.seen_at("/new").len(), 1);
}

/// A registry whose token server answers by a script; what it takes is the token `good`.
async fn scripted(token: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> Server {
    let asked = AtomicUsize::new(0);
    Server::start(move |request| {
        if !request.target.starts_with("/v2/") {
            return token(request, asked.fetch_add(1, Ordering::SeqCst));
        }
        match request.header("authorization") {
            Some("Bearer good") => answer(200, &[], "{}").into(),
            _ => challenge(request, "").into(),
        }
    })
    .await
}

const GOOD: &str = r#"{"token":"good"}"#;

#[tokio::test]
async fn a_token_server_that_fails_for_a_moment_is_asked_again() {
    let failures: [fn() -> Reply; 3] = [
        || answer(500, &[], "").into(),
        || answer(503, &[], "").into(),
        || Reply::Close,
    ];
    for failure in failures {
        let server = scripted(move |_, number| match number {
            0 => failure(),
            _ => answer(200, &[], GOOD).into(),
        })
        .await;
        pull(&simple(&server.url())).await.unwrap();
        assert_eq!(server.seen_at(TOKEN_PATH).len(), 2);
    }
}

#[tokio::test]
async fn other_successes_are_taken() {
    for status in [200, 201, 203] {
        let server = scripted(move |_, _| answer(status, &[], GOOD).into()).await;
        pull(&simple(&server.url())).await.unwrap();
    }
}

#[tokio::test]
async fn an_encoded_token_is_read_within_its_bound() {
    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    }
    for (coding, body) in [
        ("gzip", gzip(GOOD.as_bytes())),
        ("x-gzip", gzip(GOOD.as_bytes())),
        ("gzip", GOOD.as_bytes().to_vec()),
    ] {
        let coded =
            move |_: &Seen, _| answer(200, &[("content-encoding", coding)], body.clone()).into();
        pull(&simple(&scripted(coded).await.url())).await.unwrap();
    }
    let bomb = gzip(&vec![b' '; 10 << 20]);
    let coded =
        move |_: &Seen, _| answer(200, &[("content-encoding", "gzip")], bomb.clone()).into();
    let error = pull(&simple(&scripted(coded).await.url()))
        .await
        .unwrap_err();
    assert!(matches!(error, FetchError::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn a_question_for_an_anonymous_token_goes_where_it_is_sent() {
    let elsewhere = Server::start(|_| answer(200, &[], GOOD).into()).await;
    let target = format!("{}/elsewhere?scope=x", elsewhere.url());
    let away = move |_: &Seen, _| answer(307, &[("location", &target)], "").into();
    let server = scripted(away.clone()).await;
    pull(&simple(&server.url())).await.unwrap();
    assert_eq!(elsewhere.seen()[0].target, "/elsewhere?scope=x");

    // A password goes to the token server alone.
    let server = scripted(away).await;
    let error = pull(&with_credentials(&server.url())).await.unwrap_err();
    assert!(
        matches!(&error, FetchError::Token(why) if why.contains("another host")),
        "{error}"
    );
    assert_eq!(elsewhere.seen().len(), 1);
    let server = scripted(|request, _| match request.target.split('?').next() {
        Some(TOKEN_PATH) => answer(301, &[("location", "/token/?again")], "").into(),
        _ => answer(200, &[], GOOD).into(),
    })
    .await;
    pull(&with_credentials(&server.url())).await.unwrap();
    assert!(
        server.seen_at("/token/")[0]
            .header("authorization")
            .is_some()
    );

    for bad in ["http://10.255.255.1/", "/token", "ftp://x/", ""] {
        let server = scripted(move |_, _| answer(302, &[("location", bad)], "").into()).await;
        pull(&simple(&server.url())).await.unwrap_err();
        assert!(server.seen_at("/token").len() <= 2, "{bad}");
    }
}

#[tokio::test]
async fn pull_on_the_repository_is_asked_for_whatever_the_challenge_says() {
    for (asked, wanted) in [
        (
            "repository:x:pull",
            "&scope=repository%3Ax%3Apull&scope=repository%3Alibrary%2Fapp%3Apull",
        ),
        (
            "repository:library/app:push",
            "&scope=repository%3Alibrary%2Fapp%3Apush&scope=repository%3Alibrary%2Fapp%3Apull",
        ),
        (
            "repository:library/app:push,pull",
            "&scope=repository%3Alibrary%2Fapp%3Apush%2Cpull",
        ),
    ] {
        let server = Server::start(move |request| {
            if request.target.starts_with(TOKEN_PATH) {
                return answer(200, &[], GOOD).into();
            }
            match request.header("authorization") {
                Some("Bearer good") => answer(200, &[], "{}").into(),
                _ => challenge(request, &format!(r#",scope="{asked}""#)).into(),
            }
        })
        .await;
        pull(&simple(&server.url())).await.unwrap();
        let target = format!("/token?service=reg{wanted}");
        assert_eq!(server.seen_at(TOKEN_PATH)[0].target, target);
    }
}

#[tokio::test]
async fn a_token_server_that_knows_the_repository_by_another_name_is_asked_for_that_alone() {
    let server = Server::start(|request| {
        if request.target.starts_with(TOKEN_PATH) {
            return if request.target.contains("library") {
                answer(403, &[], "{}").into()
            } else {
                answer(200, &[], GOOD).into()
            };
        }
        match request.header("authorization") {
            Some("Bearer good") => answer(200, &[], "{}").into(),
            _ => challenge(request, r#",scope="repository:mirror/app:pull""#).into(),
        }
    })
    .await;
    pull(&simple(&server.url())).await.unwrap();
    assert_eq!(server.seen_at(TOKEN_PATH).len(), 2);
}

#[tokio::test]
async fn a_challenge_is_read_however_it_is_written() {
    for (before, after) in [
        (
            "Basic realm=\"R\u{e9}gistre, \\\"v2\\\"\", Bearer SERVICE = reg ,, realm=\"",
            "\"",
        ),
        ("Negotiate YII==, bearer realm=", ",service=reg"),
        (
            "Bearer realm=\"http://10.255.255.1/t\", Bearer service=\"reg\", realm=\"",
            "\"",
        ),
    ] {
        let server = Server::start(move |request| {
            if request.target.starts_with(TOKEN_PATH) {
                return answer(200, &[], GOOD).into();
            }
            if request.header("authorization") == Some("Bearer good") {
                return answer(200, &[], "{}").into();
            }
            let host = request.header("host").unwrap();
            let value = format!("{before}http://{host}{TOKEN_PATH}{after}");
            let mut response = answer(401, &[], "");
            let value = http::HeaderValue::from_bytes(value.as_bytes()).unwrap();
            response.headers_mut().insert("www-authenticate", value);
            response.into()
        })
        .await;
        pull(&simple(&server.url()))
            .await
            .unwrap_or_else(|error| panic!("{before}: {error}"));
    }
}

//! Logins: what a registry and its token server see of them, and when.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::server::{Reply, Seen, Server, answer};
use super::*;
use crate::oci::AcceptClass;
use crate::upstream::ManifestFetch;

const REFUSED: &str =
    "credentials: the registry refused the user name and password less than a minute ago";

/// Rules of a registry and its token server for logins.
#[derive(Default)]
struct Rules {
    /// The right password of `robot`.
    password: Mutex<String>,
    /// The status of the token server's answer, unless it is 0.
    token_status: AtomicU16,
    /// True if tokens are good for nothing.
    blind: AtomicBool,
}

impl Rules {
    fn of(password: &str) -> Arc<Self> {
        let rules = Self::default();
        rules.set(password);
        Arc::new(rules)
    }

    fn set(&self, password: &str) {
        password.clone_into(&mut self.password.lock().unwrap());
    }

    fn basic(&self) -> String {
        let pair = format!("robot:{}", self.password.lock().unwrap());
        format!("Basic {}", BASE64.encode(pair))
    }
}

/// A registry with a token server, which gives the password as the token.
async fn token_registry(rules: &Arc<Rules>) -> Server {
    let rules = Arc::clone(rules);
    Server::start(move |request| {
        let password = rules.password.lock().unwrap().clone();
        if request.target.starts_with("/token") {
            return give_token(&rules, request, &password);
        }
        let bearer = format!("Bearer {password}");
        let known = !rules.blind.load(Ordering::SeqCst);
        if known && request.header("authorization") == Some(&bearer) {
            return answer(200, &[], "{}").into();
        }
        let host = request.header("host").unwrap();
        let value = format!(r#"Bearer realm="http://{host}/token",service="reg""#);
        answer(401, &[("www-authenticate", &value)], "{}").into()
    })
    .await
}

fn give_token(rules: &Rules, request: &Seen, password: &str) -> Reply {
    let status = rules.token_status.load(Ordering::SeqCst);
    if status != 0 {
        let body = r#"{"error":"invalid_grant"}"#;
        return answer(status, &[("retry-after", "7")], body).into();
    }
    let form = request.method == http::Method::POST;
    let good = if form {
        let token = format!("refresh_token={password}");
        request.body.ends_with(token.as_bytes())
    } else {
        request.header("authorization") == Some(&rules.basic())
    };
    if good {
        let body = format!(r#"{{"access_token":"{password}","expires_in":3600}}"#);
        answer(200, &[], body).into()
    } else {
        answer(401, &[], "{}").into()
    }
}

/// A registry that wants the user name and password itself.
async fn basic_registry(rules: &Arc<Rules>) -> Server {
    let rules = Arc::clone(rules);
    Server::start(move |request| {
        if request.header("authorization") == Some(&rules.basic()) {
            answer(200, &[], "{}").into()
        } else {
            answer(401, &[("www-authenticate", r#"Basic realm="x""#)], "").into()
        }
    })
    .await
}

fn with(server: &Server, login: LoginConfig) -> Upstream {
    let mut config = config(&[&server.url()]);
    config.logins = vec![login];
    upstream(&config)
}

/// The upstream, and the file that the password of `robot` is in.
fn with_password_file(server: &Server, dir: &Path, password: &str) -> (Upstream, PathBuf) {
    let path = dir.join("password");
    write(&path, password);
    let login = LoginConfig::Password {
        username: Text::Literal(Secret::new("robot".to_owned())),
        password: Text::File(path.clone()),
    };
    (with(server, login), path)
}

/// An upstream whose Docker configuration has this entry for the registry.
fn with_docker_entry(server: &Server, dir: &Path, entry: &str) -> Upstream {
    let path = dir.join("config.json");
    let url = Url::parse(&server.url()).unwrap();
    let (host, port) = (url.host_str().unwrap(), url.port().unwrap());
    let json = format!(r#"{{"auths":{{"{host}:{port}":{entry},"{host}":{entry}}}}}"#);
    write(&path, &json);
    with(server, LoginConfig::DockerConfig(path))
}

#[expect(clippy::disallowed_methods, reason = "the test owns its files")]
fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

async fn pull_from(upstream: &Upstream, repository: &str) -> Result<ManifestFetch, FetchError> {
    let repository = Repository::parse(repository).unwrap();
    let (reference, all) = (latest(), AcceptClass::ALL);
    let pull = upstream.manifest(&repository, &reference, all, Patience::Now);
    let result = pull.await;
    if let Err(error) = &result {
        let text = format!("{error} {error:?} {upstream:?}");
        assert!(
            !text.contains(PASSWORD) && !text.contains("wrong"),
            "{text}"
        );
    }
    result
}

async fn pull(upstream: &Upstream) -> Result<ManifestFetch, FetchError> {
    pull_from(upstream, "library/app").await
}

async fn error(upstream: &Upstream) -> String {
    pull(upstream).await.unwrap_err().to_string()
}

/// Moves time on: it must run as usual while sockets are in use.
async fn seconds(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn an_identity_token_is_exchanged_for_a_token() {
    let rules = Rules::of(PASSWORD);
    let server = token_registry(&rules).await;
    let dir = tempfile::tempdir().unwrap();
    let entry = format!(r#"{{"auth":"MDAwMDo=","identitytoken":"{PASSWORD}"}}"#);
    let upstream = with_docker_entry(&server, dir.path(), &entry);
    pull(&upstream).await.unwrap();
    pull(&upstream).await.unwrap();
    let asked = server.seen_at("/token");
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].target, "/token");
    assert_eq!(asked[0].header("authorization"), None);
    assert_eq!(
        asked[0].body,
        format!(
            "grant_type=refresh_token&client_id=roadstead&service=reg\
             &scope=repository%3Alibrary%2Fapp%3Apull&refresh_token={PASSWORD}"
        )
    );
}

#[tokio::test]
async fn an_identity_token_that_is_no_good_rests_for_a_minute() {
    for status in [400, 401, 403] {
        let rules = Rules::of(PASSWORD);
        rules.token_status.store(status, Ordering::SeqCst);
        let server = token_registry(&rules).await;
        let dir = tempfile::tempdir().unwrap();
        let entry = format!(r#"{{"identitytoken":"{PASSWORD}"}}"#);
        let upstream = with_docker_entry(&server, dir.path(), &entry);
        let expected = match status {
            403 => FetchError::Denied,
            _ => FetchError::Unauthorized,
        };
        assert_eq!(pull(&upstream).await.unwrap_err(), expected);
        let text = error(&upstream).await;
        assert!(
            text.contains("config.json less than a minute ago"),
            "{text}"
        );
        assert_eq!(server.seen_at("/token").len(), 1);
    }
}

#[tokio::test]
async fn a_registry_token_is_sent_as_it_is() {
    let rules = Rules::of(PASSWORD);
    let server = token_registry(&rules).await;
    let dir = tempfile::tempdir().unwrap();
    let entry = format!(r#"{{"registrytoken":"{PASSWORD}"}}"#);
    let upstream = with_docker_entry(&server, dir.path(), &entry);
    pull(&upstream).await.unwrap();
    pull(&upstream).await.unwrap();
    assert_eq!(server.seen_at("/token").len(), 0);
    assert_eq!(server.seen().len(), 3, "one challenge");

    // It may be for some repositories only: what is refused of it says nothing of the others.
    rules.blind.store(true, Ordering::SeqCst);
    assert_eq!(pull(&upstream).await.unwrap_err(), FetchError::Unauthorized);
    rules.blind.store(false, Ordering::SeqCst);
    pull(&upstream).await.unwrap();
}

#[tokio::test]
async fn a_token_server_is_not_asked_with_what_it_refused_a_minute_ago() {
    let rules = Rules::of("another");
    let server = token_registry(&rules).await;
    let upstream = with(&server, credentials());
    assert_eq!(pull(&upstream).await.unwrap_err(), FetchError::Unauthorized);
    for repository in ["library/app", "library/other", "library/app"] {
        let error = pull_from(&upstream, repository).await.unwrap_err();
        assert!(matches!(error, FetchError::LoginRefused(_)), "{error:?}");
        assert_eq!(error.to_string(), REFUSED);
    }
    assert_eq!(server.seen_at("/token").len(), 1);
    rules.set(PASSWORD);
    seconds(61).await;
    pull(&upstream).await.unwrap();
    assert_eq!(server.seen_at("/token").len(), 2);
}

#[tokio::test]
async fn a_registry_is_not_asked_with_what_it_refused_a_minute_ago() {
    let rules = Rules::of("another");
    let server = basic_registry(&rules).await;
    let upstream = with(&server, credentials());
    assert_eq!(pull(&upstream).await.unwrap_err(), FetchError::Unauthorized);
    assert_eq!(server.seen().len(), 2);
    assert_eq!(error(&upstream).await, REFUSED);
    assert_eq!(error(&upstream).await, REFUSED);
    let with_password = |request: &&Seen| request.header("authorization").is_some();
    assert_eq!(server.seen().iter().filter(with_password).count(), 1);
    rules.set(PASSWORD);
    seconds(61).await;
    pull(&upstream).await.unwrap();
}

#[tokio::test]
async fn a_registry_that_now_wants_tokens_gets_them_after_the_minute() {
    let rules = Rules::of(PASSWORD);
    let wants_tokens = Arc::new(AtomicBool::new(false));
    let (rules_now, wants_now) = (Arc::clone(&rules), Arc::clone(&wants_tokens));
    let server = Server::start(move |request| {
        let authorization = request.header("authorization");
        if request.target.starts_with("/token") {
            return give_token(&rules_now, request, PASSWORD);
        }
        let tokens = wants_now.load(Ordering::SeqCst);
        let good = if tokens {
            authorization == Some(&format!("Bearer {PASSWORD}"))
        } else {
            authorization == Some(&rules_now.basic())
        };
        if good {
            return answer(200, &[], "{}").into();
        }
        let host = request.header("host").unwrap();
        let value = if tokens {
            format!(r#"Bearer realm="http://{host}/token""#)
        } else {
            r#"Basic realm="x""#.to_owned()
        };
        answer(401, &[("www-authenticate", &value)], "").into()
    })
    .await;
    let upstream = with(&server, credentials());
    pull(&upstream).await.unwrap();
    wants_tokens.store(true, Ordering::SeqCst);
    assert_eq!(error(&upstream).await, REFUSED);
    seconds(61).await;
    pull(&upstream).await.unwrap();
}

#[tokio::test]
async fn a_token_refused_for_one_repository_does_not_blame_the_login() {
    let rules = Rules::of(PASSWORD);
    let server = token_registry(&rules).await;
    let upstream = with(&server, credentials());
    rules.blind.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        let error = pull_from(&upstream, "library/unknown").await.unwrap_err();
        assert_eq!(error, FetchError::Unauthorized);
    }
    rules.blind.store(false, Ordering::SeqCst);
    pull(&upstream).await.unwrap();

    // Some say so at the token server already, by 403: not to a login that has had tokens.
    rules.token_status.store(403, Ordering::SeqCst);
    let error = pull_from(&upstream, "library/secret").await.unwrap_err();
    assert_eq!(error, FetchError::Denied);
    rules.token_status.store(0, Ordering::SeqCst);
    pull_from(&upstream, "library/more").await.unwrap();
}

#[tokio::test]
async fn a_limit_of_the_token_server_does_not_blame_the_login() {
    let rules = Rules::of(PASSWORD);
    rules.token_status.store(429, Ordering::SeqCst);
    let server = token_registry(&rules).await;
    let upstream = with(&server, credentials());
    let limited = FetchError::RateLimited {
        retry_after: Some(Duration::from_secs(7)),
    };
    assert_eq!(pull(&upstream).await.unwrap_err(), limited);
    rules.token_status.store(0, Ordering::SeqCst);
    seconds(10).await;
    pull(&upstream).await.unwrap();
}

#[tokio::test]
async fn a_new_password_in_the_file_is_used_and_the_old_tokens_are_not() {
    let rules = Rules::of("one");
    let dir = tempfile::tempdir().unwrap();
    for server in [token_registry(&rules).await, basic_registry(&rules).await] {
        rules.set("one");
        let (upstream, path) = with_password_file(&server, dir.path(), "one\n");
        pull(&upstream).await.unwrap();
        let before = server.seen().len();
        rules.set("number-two");
        write(&path, "number-two\n");
        seconds(1).await;
        pull(&upstream).await.unwrap();
        for request in &server.seen()[before..] {
            let sent = request.header("authorization");
            assert_ne!(sent, Some("Bearer one"), "an old token");
            // "robot:one"
            assert_ne!(sent, Some("Basic cm9ib3Q6b25l"), "the old password");
        }
    }
}

#[tokio::test]
async fn a_changed_file_is_tried_in_the_same_minute() {
    let rules = Rules::of(PASSWORD);
    let dir = tempfile::tempdir().unwrap();
    for server in [token_registry(&rules).await, basic_registry(&rules).await] {
        let (upstream, path) = with_password_file(&server, dir.path(), "wrong");
        assert_eq!(pull(&upstream).await.unwrap_err(), FetchError::Unauthorized);
        let text = error(&upstream).await;
        assert!(
            text.starts_with("credentials: the registry refused"),
            "{text}"
        );
        assert!(text.contains("/password less than a minute ago"), "{text}");
        write(&path, PASSWORD);
        seconds(1).await;
        pull(&upstream).await.unwrap();
    }
}

#[tokio::test]
async fn a_file_that_is_not_there_yet_is_named_and_read_when_it_comes() {
    let rules = Rules::of(PASSWORD);
    let server = token_registry(&rules).await;
    let dir = tempfile::tempdir().unwrap();
    let (upstream, path) = with_password_file(&server, dir.path(), "");
    let expected = format!("credentials: cannot use {}: it is empty", path.display());
    assert_eq!(error(&upstream).await, expected);
    write(&path, PASSWORD);
    seconds(1).await;
    pull(&upstream).await.unwrap();
}

/// A program whose login has the password that is in the file, and lasts an hour.
fn exec(dir: &Path) -> LoginConfig {
    let file = dir.join("password");
    let script = format!(
        r#"echo run >>'{0}.runs'; printf '{{"Username":"robot","Secret":"%s","ExpiresIn":3600}}' "$(cat '{0}')""#,
        file.display()
    );
    LoginConfig::Exec {
        command: vec!["/bin/sh".to_owned(), "-c".to_owned(), script],
        timeout: Duration::from_secs(20),
        ttl: Duration::from_mins(5),
    }
}

fn runs(dir: &Path) -> usize {
    let runs = std::fs::read_to_string(dir.join("password.runs")).unwrap();
    runs.lines().count()
}

#[tokio::test]
async fn a_program_is_asked_again_at_once_when_its_login_is_refused() {
    let rules = Rules::of("one");
    for server in [token_registry(&rules).await, basic_registry(&rules).await] {
        let dir = tempfile::tempdir().unwrap();
        rules.set("one");
        write(&dir.path().join("password"), "one");
        let upstream = with(&server, exec(dir.path()));
        pull(&upstream).await.unwrap();
        pull_from(&upstream, "library/other").await.unwrap();
        assert_eq!(runs(dir.path()), 1);

        // The pull itself gets the new one.
        rules.set(PASSWORD);
        write(&dir.path().join("password"), PASSWORD);
        pull(&upstream).await.unwrap();
        assert_eq!(runs(dir.path()), 2);

        // What it gives is no good: it is asked no more than once a minute.
        rules.set("three");
        for _ in 0..4 {
            pull(&upstream).await.unwrap_err();
        }
        assert_eq!(runs(dir.path()), 2);
        rules.set(PASSWORD);
        seconds(61).await;
        pull(&upstream).await.unwrap();
    }
}

#[tokio::test]
async fn a_program_that_fails_is_named_and_asked_again_soon() {
    let rules = Rules::of(PASSWORD);
    let server = token_registry(&rules).await;
    let dir = tempfile::tempdir().unwrap();
    let ready = dir.path().join("ready");
    let script = format!(
        r#"test -e '{}' || exit 9; echo '{{"Username":"robot","Secret":"{PASSWORD}"}}'"#,
        ready.display()
    );
    let login = LoginConfig::Exec {
        command: vec!["/bin/sh".to_owned(), "-c".to_owned(), script],
        timeout: Duration::from_secs(20),
        ttl: Duration::from_mins(5),
    };
    let upstream = with(&server, login);
    let expected = "credentials: sh: failed with exit status: 9";
    assert_eq!(error(&upstream).await, expected);
    write(&ready, "");
    assert_eq!(error(&upstream).await, expected);
    seconds(11).await;
    pull(&upstream).await.unwrap();
}

#[tokio::test]
async fn a_registry_without_an_entry_is_asked_by_nobody_in_particular() {
    let server = Server::start(|request| match request.header("authorization") {
        None => answer(200, &[], "{}").into(),
        Some(_) => answer(401, &[], "").into(),
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let upstream = with_docker_entry(&server, dir.path(), "{}");
    pull(&upstream).await.unwrap();
}

#[test]
fn what_can_be_checked_at_the_start_is() {
    let refused = |login: LoginConfig| {
        let mut config = config(&["https://r.example"]);
        config.logins = vec![login];
        Upstream::new(&config, metrics()).unwrap_err().why
    };
    let exec = |command: &[&str]| LoginConfig::Exec {
        command: command.iter().map(|&word| word.to_owned()).collect(),
        timeout: Duration::from_secs(1),
        ttl: Duration::from_secs(1),
    };
    assert_eq!(refused(exec(&[])), "a login by `exec` names no program");
    assert_eq!(refused(exec(&[""])), "a login by `exec` names no program");
    let literal = |text: &str| Text::Literal(Secret::new(text.to_owned()));
    let colon = LoginConfig::Password {
        username: literal("a:b"),
        password: literal("c"),
    };
    assert_eq!(refused(colon), "a user name must not hold a colon");
}

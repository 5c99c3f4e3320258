//! Users of a directory, by a scripted one.

mod server;

use self::server::{Asked, Directory, Mood};
use super::{House, basic};
use crate::common::{Answer, Mirror};
use roadstead::access::{Guard, IdentifyError};
use roadstead::clock::{Clock as _, ManualClock, Timestamp};
use roadstead::telemetry::Metrics;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const ALPINE: &str = "/v2/library/alpine/manifests/v1";
const SECRET: &str = "/v2/acme/secret/manifests/v1";

/// Everybody may pull official images, and the group `g137` the rest; `mallory` may nothing.
const RULES: &str = r#"
[[access.policy]]
name = "official"
[[access.policy.statement]]
effect = "allow"
actions = ["pull"]
resources = ["mirror/docker.io/library/*"]
[[access.policy]]
name = "nothing"
[[access.policy.statement]]
effect = "deny"
actions = ["*"]
resources = ["*"]
[[access.attach]]
user = "*"
policies = ["official"]
[[access.attach]]
group = "g137"
policies = ["read-only"]
[[access.attach]]
user = "mallory"
policies = ["nothing"]
"#;

/// Users are searched for by an account.
fn by_search(directory: &Directory, dir: &Path) -> String {
    let file = dir.join("reader");
    std::fs::write(&file, "reader-secret\n").unwrap();
    format!(
        r#"
        [access.ldap]
        url = "ldap://{}"
        search_bind_dn = "cn=reader,dc=corp"
        search_bind_password_file = "{}"
        base = "ou=people,dc=corp"
        group_base = "ou=groups,dc=corp"
        "#,
        directory.address,
        file.display()
    )
}

/// Users bind by their names.
fn by_name(directory: &Directory) -> String {
    format!(
        r#"
        [access.ldap]
        url = "ldap://{}"
        bind_dn = "uid={{user}},ou=people,dc=corp"
        member_of = "memberOf"
        "#,
        directory.address
    )
}

/// A house with this table, in which `local` has a password of this server.
async fn house(table: &str) -> House {
    House::with(
        &["local"],
        &format!("[access]\nhtpasswd = HTPASSWD\n{table}\n{RULES}"),
    )
    .await
}

async fn ask(mirror: &Mirror, user: &str, password: &str, path: &str) -> Answer {
    let authorization = basic(user, password);
    mirror
        .get_with(path, &[("authorization", &authorization)])
        .await
}

async fn status(house: &House, user: &str, path: &str) -> u16 {
    ask(&house.mirror, user, &format!("{user}!"), path)
        .await
        .status
}

fn searches(asked: &[Asked]) -> usize {
    let is_search = |it: &&Asked| matches!(it, Asked::Search(..));
    asked.iter().filter(is_search).count()
}

fn counted(asked: &[Asked], what: &Asked) -> usize {
    asked.iter().filter(|it| *it == what).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_searches_find_a_user_and_200_groups() {
    let directory = Directory::start(None).await;
    let groups: Vec<String> = (0..200).map(|number| format!("g{number}")).collect();
    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    directory.person("alice", &groups);
    directory.person("bob", &["g1"]);
    let dir = tempfile::tempdir().unwrap();
    let house = house(&by_search(&directory, dir.path())).await;
    assert_eq!(status(&house, "alice", SECRET).await, 200);
    let asked = directory.asked();
    assert_eq!(searches(&asked), 2, "{asked:?}");
    assert_eq!(counted(&asked, &Asked::Connection), 1);
    let dn = "uid=alice,ou=people,dc=corp";
    let group = Asked::Search(
        "ou=groups,dc=corp".to_owned(),
        format!("(member={dn})"),
        vec!["cn".to_owned()],
    );
    assert!(asked.contains(&group), "{asked:?}");
    // What was right is remembered, and so are the groups.
    assert_eq!(status(&house, "alice", SECRET).await, 200);
    assert_eq!(status(&house, "alice", ALPINE).await, 200);
    assert_eq!(directory.asked(), []);

    assert_eq!(status(&house, "bob", ALPINE).await, 200);
    assert_eq!(status(&house, "bob", SECRET).await, 403);
    assert_eq!(searches(&directory.asked()), 2);
    let wrong = ask(&house.mirror, "alice", "wrong", ALPINE).await;
    assert_eq!((wrong.status, wrong.code().as_str()), (401, "UNAUTHORIZED"));
    assert_eq!(
        ask(&house.mirror, "carol", "carol!", ALPINE).await.status,
        401
    );
    assert!(
        searches(&directory.asked()) <= 2,
        "one for each user, and none for groups"
    );

    let metrics = house.mirror.metrics().await;
    let logins = |result| {
        metrics.sum(
            "roadstead_auth_total",
            &[("method", "ldap"), ("result", result)],
        )
    };
    assert!(logins("accepted") >= 2.0 && logins("rejected") >= 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_has_the_groups_and_there_is_no_refresh_token() {
    let directory = Directory::start(None).await;
    directory.person("alice", &["g137", "g1"]);
    let dir = tempfile::tempdir().unwrap();
    let house = house(&by_search(&directory, dir.path())).await;
    let path = "/token?service=roadstead&offline_token=true&scope=repository:acme/secret:pull";
    let given = ask(&house.mirror, "alice", "alice!", path).await;
    let given: serde_json::Value = serde_json::from_slice(&given.body).unwrap();
    assert_eq!(given["scope"], "repository:acme/secret:pull");
    assert_eq!(
        given.get("refresh_token"),
        None,
        "a password is asked of the directory"
    );
    let bearer = format!("Bearer {}", given["token"].as_str().unwrap());
    let headers = [("authorization", bearer.as_str())];
    assert_eq!(house.mirror.get_with(SECRET, &headers).await.status, 200);
    // Another login of hers finds fewer groups: her tokens can do no more.
    directory.person("alice", &["g1"]);
    house.mirror.clock.advance(Duration::from_secs(11));
    assert_eq!(
        ask(&house.mirror, "ALICE", "alice!", ALPINE).await.status,
        200
    );
    assert_eq!(house.mirror.get_with(SECRET, &headers).await.status, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_stays_one_value_and_an_empty_password_binds_nobody() {
    let directory = Directory::start(None).await;
    directory.person("alice", &[]);
    directory.add("uid=root,ou=admin,ou=people,dc=corp", &[], "alice!", &[]);
    let dir = tempfile::tempdir().unwrap();
    for table in [by_search(&directory, dir.path()), by_name(&directory)] {
        let house = house(&table).await;
        for user in [
            "*",
            "*)(uid=*",
            "alice)(|(uid=*",
            "root,ou=admin",
            "alice,ou=admin",
            "a\\",
            "alice\u{ad}",
            " alice",
            "",
            "alice\0",
            &"a".repeat(300),
        ] {
            let answer = ask(&house.mirror, user, "alice!", ALPINE).await;
            assert_eq!(answer.status, 401, "{user:?} {table}");
        }
        for asked in directory.asked() {
            if let Asked::Search(_, filter, _) = &asked {
                assert!(filter.starts_with("(uid="), "{asked:?}");
            }
            if let Asked::Bind(name, _) = &asked {
                let is_escaped = name.split(',').count() <= 3;
                assert!(is_escaped, "{asked:?}");
            }
        }
        for user in ["alice", "cn=reader", "nobody", ""] {
            assert_eq!(ask(&house.mirror, user, "", ALPINE).await.status, 401);
        }
        let asked = directory.asked();
        assert_eq!(asked, [], "nothing is asked without a password");
        assert_eq!(status(&house, "alice", ALPINE).await, 200);
        directory.asked();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_user_is_one_name_however_it_is_written() {
    let directory = Directory::start(None).await;
    directory.person("mallory", &["g137"]);
    directory.person("local", &["g137"]);
    directory.add(
        "uid=z,ou=people,dc=corp",
        &["zoe", "adam"],
        "zoe!",
        &["g137"],
    );
    directory.add("uid=MALLORY,ou=people,dc=corp", &[], "mallory!", &[]);
    let dir = tempfile::tempdir().unwrap();
    let searching = house(&by_search(&directory, dir.path())).await;
    let binding = house(&by_name(&directory)).await;
    for house in [&searching, &binding] {
        for user in ["mallory", "MALLORY"] {
            let answer = ask(&house.mirror, user, "mallory!", ALPINE).await;
            assert_eq!(answer.status, 403, "{user}: {}", answer.text());
            assert!(
                answer.text().contains("user mallory may not"),
                "{}",
                answer.text()
            );
        }
        // A user of this server is somebody else, and is not to be had by another spelling.
        assert_eq!(
            ask(&house.mirror, "LOCAL", "local!", ALPINE).await.status,
            401
        );
        assert_eq!(status(house, "local", ALPINE).await, 200);
        assert_eq!(
            status(house, "local", SECRET).await,
            403,
            "of this server, without groups"
        );
    }
    let answer = ask(
        &searching.mirror,
        "zoe",
        "zoe!",
        "/v2/acme/none/manifests/v1",
    )
    .await;
    assert_eq!(answer.status, 404, "{}", answer.text());
    assert_eq!(
        ask(&searching.mirror, "adam", "zoe!", SECRET).await.status,
        200
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_fails_is_503_and_disturbs_nobody_else() {
    let directory = Directory::start(None).await;
    directory.person("alice", &["g137"]);
    let dir = tempfile::tempdir().unwrap();
    let house = house(&by_search(&directory, dir.path())).await;
    let token = super::people::make(
        &house.mirror,
        serde_json::json!({ "kind": "robot", "owner": "ci", "policies": ["read-only"] }),
    )
    .await;
    let token = token["token"].as_str().unwrap().to_owned();
    let while_left_alone = Duration::from_secs(10);
    for mood in [
        Mood::HangsUp,
        Mood::Cuts,
        Mood::Http,
        Mood::Busy,
        Mood::Endless,
        Mood::Astray,
    ] {
        directory.is(mood);
        for number in 0..5 {
            let answer = ask(&house.mirror, "alice", "alice!", ALPINE).await;
            assert_eq!(answer.status, 503, "{mood:?}");
            assert_ne!(answer.header("retry-after"), "", "{mood:?}");
            assert_eq!(answer.header("www-authenticate"), "", "{mood:?}");
            let connections = counted(&directory.asked(), &Asked::Connection);
            assert!(connections <= 1, "{mood:?} {number}");
            if number >= 3 {
                assert_eq!(connections, 0, "{mood:?}: it is left alone");
            }
        }
        assert_eq!(status(&house, "local", ALPINE).await, 200, "{mood:?}");
        assert_eq!(ask(&house.mirror, "x", &token, SECRET).await.status, 200);
        directory.is(Mood::Well);
        house.mirror.clock.advance(while_left_alone);
        let wrong = ask(&house.mirror, "alice", "wrong", ALPINE).await;
        assert_eq!(wrong.status, 401, "{mood:?}: it answers again");
        directory.asked();
    }
    // An answer that is about one user is no reason to leave it alone.
    directory.is(Mood::Refers);
    for _ in 0..5 {
        assert_eq!(status(&house, "alice", ALPINE).await, 503);
    }
    directory.is(Mood::Well);
    assert_eq!(status(&house, "alice", ALPINE).await, 200);
    // Who was right before is remembered.
    directory.is(Mood::HangsUp);
    assert_eq!(status(&house, "alice", SECRET).await, 200);
    directory.is(Mood::Well);
    // Its own account is no user's fault.
    std::fs::write(dir.path().join("reader"), "other\n").unwrap();
    directory.person("bob", &[]);
    assert_eq!(status(&house, "bob", ALPINE).await, 503);
    std::fs::write(dir.path().join("reader"), "\n").unwrap();
    assert_eq!(status(&house, "bob", ALPINE).await, 503);
    std::fs::write(dir.path().join("reader"), "reader-secret").unwrap();
    assert_eq!(status(&house, "bob", ALPINE).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_that_come_in_part_are_no_groups() {
    let directory = Directory::start(None).await;
    directory.person("alice", &["g137"]);
    let house = house(&by_name(&directory)).await;
    directory.is(Mood::InPart);
    assert_eq!(status(&house, "alice", ALPINE).await, 503);
    directory.is(Mood::Well);
    assert_eq!(status(&house, "alice", SECRET).await, 200);
    let asked = directory.asked();
    assert!(searches(&asked) <= 2, "{asked:?}");
    let many: Vec<String> = (0..3000).map(|number| format!("x{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    directory.person("bob", &many);
    assert_eq!(status(&house, "bob", ALPINE).await, 503);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_directory_that_says_nothing_costs_five_seconds_and_no_more() {
    let directory = Directory::start(None).await;
    directory.person("alice", &[]);
    let house = house(&by_name(&directory)).await;
    directory.is(Mood::Silent);
    let begun = Instant::now();
    let logins = (0..12).map(|number| {
        let mirror = &house.mirror;
        async move {
            ask(mirror, "alice", &format!("password {number}"), ALPINE)
                .await
                .status
        }
    });
    let (logins, local) = tokio::join!(futures_util::future::join_all(logins), async {
        let local = status(&house, "local", ALPINE).await;
        (local, begun.elapsed())
    });
    assert!(logins.iter().all(|status| *status == 503), "{logins:?}");
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert_eq!(local.0, 200);
    assert!(local.1 < Duration::from_secs(4), "{:?}", local.1);
    let connections = counted(&directory.asked(), &Asked::Connection);
    assert!(connections <= 8, "{connections} connections");
    // And then it is not even asked.
    let begun = Instant::now();
    assert_eq!(status(&house, "alice", ALPINE).await, 503);
    assert!(begun.elapsed() < Duration::from_secs(4));
    assert_eq!(directory.asked(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guesses_are_slowed_down_in_whatever_case() {
    let directory = Directory::start(None).await;
    directory.person("alice", &[]);
    let house = house(&by_name(&directory)).await;
    for number in 0..10 {
        let user = if number % 2 == 0 { "alice" } else { "Alice" };
        let answer = ask(&house.mirror, user, &format!("guess {number}"), ALPINE).await;
        assert_eq!(answer.status, 401);
    }
    let answer = ask(&house.mirror, "ALICE", "alice!", ALPINE).await;
    assert_eq!(answer.status, 429);
    let binds = directory.asked().len();
    assert_eq!(binds, 20, "a connection and a bind for each guess");
    house.mirror.clock.advance(Duration::from_secs(31));
    assert_eq!(status(&house, "alice", ALPINE).await, 200);
}

/// A certificate for 127.0.0.1, in a file, and a server with it.
fn tls(dir: &Path) -> (tokio_rustls::TlsAcceptor, String) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let file = dir.join("ca.pem");
    std::fs::write(&file, made.cert.pem()).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (Arc::new(config).into(), file.display().to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_said_before_tls() {
    let dir = tempfile::tempdir().unwrap();
    for at_once in [true, false] {
        let (acceptor, ca) = tls(dir.path());
        let directory = Directory::start(Some((acceptor, at_once))).await;
        directory.person("alice", &[]);
        let address = directory.address;
        let url = if at_once {
            format!("url = \"ldaps://{address}\"")
        } else {
            format!("url = \"ldap://{address}\"\nstart_tls = true")
        };
        let table = |ca: &str| {
            format!("[access.ldap]\n{url}\nbind_dn = \"uid={{user}},ou=people,dc=corp\"\n{ca}\n")
        };
        let believing = house(&table(&format!("ca_file = {ca:?}"))).await;
        assert_eq!(status(&believing, "alice", ALPINE).await, 200);
        assert_eq!(directory.asked().contains(&Asked::StartTls), !at_once);
        // A server whose certificate nobody has signed hears no password.
        let doubting = house(&table("")).await;
        assert_eq!(status(&doubting, "alice", ALPINE).await, 503);
        let asked = directory.asked();
        assert!(
            !asked.iter().any(|it| matches!(it, Asked::Bind(..))),
            "{asked:?}"
        );
    }
    // One that has no TLS is not spoken to without.
    let directory = Directory::start(None).await;
    directory.person("alice", &[]);
    let table = format!(
        "[access.ldap]\nurl = \"ldap://{}\"\nstart_tls = true\nbind_dn = \"uid={{user}},ou=people,dc=corp\"\n",
        directory.address
    );
    let house = house(&table).await;
    assert_eq!(status(&house, "alice", ALPINE).await, 503);
    assert_eq!(directory.asked(), [Asked::Connection]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_takes_over_another_directory() {
    let (one, other) = (Directory::start(None).await, Directory::start(None).await);
    one.person("alice", &["g137"]);
    let clock = Arc::new(ManualClock::new(Timestamp(1_790_000_000_000)));
    let access = |directory: &Directory, more: &str| {
        super::access(&format!(
            "[access]\n{}\n{RULES}\n{more}",
            by_name(directory)
        ))
    };
    let metrics = Metrics::new(std::iter::empty());
    let guard = Guard::open(access(&one, ""), None, Arc::clone(&clock) as _, metrics)
        .await
        .unwrap();
    let alice = basic("alice", "alice!");
    let source = [127, 0, 0, 1].into();
    let found = guard.identify(&alice, source).await.unwrap();
    assert_eq!(found.principal.groups, ["g137"]);
    assert_eq!(one.asked().len(), 3, "a connection, a bind, a search");
    // The same directory: who was right is remembered, and groups that now mean something are known.
    one.person("alice", &["g137", "g1"]);
    let more = "[[access.attach]]\ngroup = \"g1\"\npolicies = [\"read-only\"]";
    guard.reload(access(&one, more)).unwrap();
    assert!(!guard.holds(&found));
    guard.identify(&alice, source).await.unwrap();
    assert_eq!(one.asked(), []);
    // Another one does not know her.
    guard.reload(access(&other, "")).unwrap();
    let refused = guard.identify(&alice, source).await;
    assert_eq!(refused.err(), Some(IdentifyError::Invalid));
    // None at all.
    guard
        .reload(super::access(&format!("[access]\n{RULES}")))
        .unwrap();
    let refused = guard.identify(&alice, source).await;
    assert_eq!(refused.err(), Some(IdentifyError::Invalid));
    assert_eq!(one.asked(), []);
    assert!(clock.now() > Timestamp(0));
}

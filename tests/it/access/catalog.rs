//! The catalog is exactly what may be pulled, with whatever policies.

use super::{access, basic, htpasswd};
use crate::common::images;
use crate::common::{Dialect, FakeRegistry, Mirror, MirrorBuilder};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

const USERS: [&str; 3] = ["alice", "bob", "carol"];
/// And nobody in particular.
const IDENTITIES: [&str; 4] = ["", USERS[0], USERS[1], USERS[2]];
const UPSTREAMS: [&str; 2] = ["docker.io", "ghcr.io"];
const REPOSITORIES: [&str; 5] = ["library/a", "library/ab", "team/a", "team/a/b", "x"];
const PATTERNS: [&str; 12] = [
    "mirror/*",
    "*",
    "mirror/docker.io/*",
    "mirror/ghcr.io/*",
    "mirror/*/library/*",
    "mirror/*/team/a",
    "mirror/*a",
    "mirror/docker.io/library/a*",
    "mirror/ghcr.io/team/*/b",
    "mirror/docker.io/library/x",
    "repository/*",
    "mirror/*b",
];
const ACTIONS: [&str; 4] = ["pull", "list", "*", "push"];
/// Every client of a test is at 127.0.0.1.
const SOURCES: [(&str, bool); 3] = [("", true), ("127.0.0.0/8", true), ("10.0.0.0/8", false)];
const ROUNDS: usize = 12;

/// Numbers that look random (Steele et al., "Fast splittable pseudorandom number generators").
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % end as u64).unwrap()
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// A statement, as this test has it.
#[derive(Debug)]
struct Statement {
    allows: bool,
    action: &'static str,
    pattern: &'static str,
    source: (&'static str, bool),
}

/// Policies, and whom each is attached to: a user, or anonymous clients (`""`).
#[derive(Debug)]
struct Policies(Vec<(Vec<Statement>, Vec<&'static str>)>);

impl Policies {
    fn random(random: &mut Random) -> Self {
        let policy = |random: &mut Random| {
            let statements = (0..=random.below(3)).map(|_| Statement {
                allows: random.below(3) > 0,
                action: random.of(&ACTIONS),
                pattern: random.of(&PATTERNS),
                source: random.of(&SOURCES),
            });
            let statements = statements.collect();
            let whom: BTreeSet<_> = (0..=random.below(2))
                .map(|_| random.of(&IDENTITIES))
                .collect();
            (statements, whom.into_iter().collect())
        };
        Self((0..4).map(|_| policy(random)).collect())
    }

    /// As a configuration.
    fn text(&self, users: &str) -> String {
        let mut text = format!("[access]\nhtpasswd = {users:?}\n");
        for (number, (statements, whom)) in self.0.iter().enumerate() {
            writeln!(text, "[[access.policy]]\nname = \"p{number}\"").unwrap();
            for it in statements {
                let effect = if it.allows { "allow" } else { "deny" };
                let (action, pattern) = (it.action, it.pattern);
                writeln!(text, "[[access.policy.statement]]\neffect = {effect:?}").unwrap();
                writeln!(text, "actions = [{action:?}]\nresources = [{pattern:?}]").unwrap();
                if !it.source.0.is_empty() {
                    writeln!(text, "condition = {{ source_ip = {:?} }}", it.source.0).unwrap();
                }
            }
            for who in whom {
                let subject = match *who {
                    "" => "anonymous = true".to_owned(),
                    user => format!("user = {user:?}"),
                };
                writeln!(
                    text,
                    "[[access.attach]]\n{subject}\npolicies = [\"p{number}\"]"
                )
                .unwrap();
            }
        }
        text
    }

    /// True if somebody may pull: every statement that concerns it is looked at, in the plainest way.
    fn may_pull(&self, who: &str, resource: &str) -> bool {
        let own = self
            .0
            .iter()
            .filter(|(_, whom)| whom.contains(&who) || whom.contains(&""));
        let statements = own.flat_map(|(statements, _)| statements);
        let concerned: Vec<_> = statements
            .filter(|it| matches!(it.action, "pull" | "*") && it.source.1)
            .filter(|it| matches(it.pattern.as_bytes(), resource.as_bytes()))
            .collect();
        concerned.iter().any(|it| it.allows) && concerned.iter().all(|it| it.allows)
    }
}

/// A pattern with `*` for anything.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            matches(rest, text) || (!text.is_empty() && matches(pattern, &text[1..]))
        }
        (Some((one, rest)), Some((other, others))) => one == other && matches(rest, others),
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// The catalog of somebody.
async fn listed(mirror: &Mirror, headers: &[(&str, &str)]) -> BTreeSet<String> {
    let catalog = mirror.get_with("/v2/_catalog?n=100", headers).await;
    assert_eq!(catalog.status, 200, "{}", catalog.text());
    let catalog: Value = serde_json::from_slice(&catalog.body).unwrap();
    let listed = catalog["repositories"].as_array().unwrap().iter();
    listed.map(|it| it.as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_catalog_is_what_may_be_pulled_whatever_the_policies() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = std::env::var("CATALOG_SEED").ok();
    let seed = seed.map_or(now.as_secs(), |seed| seed.parse().unwrap());
    println!("CATALOG_SEED={seed}");
    let mut random = Random(seed);
    let image = images::image(1, &[100], Dialect::Oci);
    let (hub, ghcr) = (FakeRegistry::start().await, FakeRegistry::start().await);
    for registry in [&hub, &ghcr] {
        for repository in REPOSITORIES.into_iter().chain(["library/x"]) {
            registry.put_image(repository, Some("v1"), &image);
        }
    }
    let builder = MirrorBuilder::of(&hub).upstream("ghcr.io", &ghcr, |_| {});
    let users = htpasswd(builder.dir(), &USERS);
    let mirror = builder.start().await;
    // As they are listed: Docker Hub's official images have no other name.
    let mut known = BTreeSet::new();
    for upstream in UPSTREAMS {
        for repository in REPOSITORIES {
            let path = format!("{upstream}/{repository}");
            let answer = mirror.get(&format!("/v2/{path}/manifests/v1")).await;
            assert_eq!(answer.status, 200, "{path}");
            known.insert(path.replace("docker.io/x", "docker.io/library/x"));
        }
    }
    let mut shown = 0;
    for round in 0..ROUNDS {
        let policies = Policies::random(&mut random);
        let config = access(&policies.text(&users));
        let guard = mirror.guard().clone();
        tokio::task::spawn_blocking(move || guard.reload(config).unwrap())
            .await
            .unwrap();
        for who in IDENTITIES {
            let authorization = basic(who, &format!("{who}!"));
            let headers = [("authorization", authorization.as_str())];
            let headers = if who.is_empty() {
                &[][..]
            } else {
                &headers[..]
            };
            let at = format!("CATALOG_SEED={seed}, round {round}, {who:?}: {policies:#?}");
            let listed = listed(&mirror, headers).await;
            let (mut pulled, mut expected) = (BTreeSet::new(), BTreeSet::new());
            for path in &known {
                let manifest = format!("/v2/{path}/manifests/v1");
                let status = mirror.get_with(&manifest, headers).await.status;
                let refused = if who.is_empty() { 401 } else { 403 };
                assert!(status == 200 || status == refused, "{path} {status} {at}");
                if status == 200 {
                    pulled.insert(path.clone());
                }
                if policies.may_pull(who, &format!("mirror/{path}")) {
                    expected.insert(path.clone());
                }
            }
            assert_eq!(listed, expected, "listed; {at}");
            assert_eq!(pulled, expected, "pulled; {at}");
            shown += expected.len();
        }
    }
    let all = ROUNDS * 4 * known.len();
    assert!(
        shown > 0 && shown < all,
        "{shown} of {all}: nothing is tested"
    );
}

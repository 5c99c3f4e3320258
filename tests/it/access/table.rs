//! Identity, action, resource, visibility and endpoint: `table.txt` says what each of their meetings is answered with.

use super::oidc::{Issuer, Key};
use super::{basic, config, htpasswd};
use crate::common::images::{self, Image};
use crate::common::mirror::credentials;
use crate::common::{Auth, Client, Dialect, FakeRegistry, Mirror, MirrorBuilder};
use crate::tls::pki::{self, Authority, Pair};
use http::Method;
use roadstead::access;
use roadstead::server::{Asks, ClientAuth, ListenerConfig, PairConfig, TlsConfig};
use roadstead::upstream::Visibility;
use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

const TABLE: &str = include_str!("table.txt");

/// Upstreams, and their repositories.
const UPSTREAMS: [(&str, Visibility); 5] = [
    ("a", Visibility::Anyone),
    ("p", Visibility::Public),
    ("r", Visibility::Rules),
    ("u", Visibility::Upstream),
    ("x", Visibility::Anyone),
];
const REPOSITORIES: [&str; 4] = ["team/app", "team/private", "secret/app", "alien/app"];
const OWN_HOST: &str = "u.mirror.corp";

const RULES: &str = r#"
[access]
htpasswd = HTPASSWD
admin = "identity"
[[access.oidc]]
name = "job"
issuer = ISSUER
audience = "roadstead"
[[access.policy]]
name = "team"
[[access.policy.statement]]
effect = "allow"
actions = ["pull"]
resources = ["mirror/*/team/*"]
[[access.policy.statement]]
effect = "deny"
actions = ["*"]
resources = ["mirror/*/secret/*"]
[[access.policy]]
name = "some"
[[access.policy.statement]]
effect = "allow"
actions = ["pull"]
resources = ["mirror/a.test/team/*", "mirror/p.test/team/*", "mirror/u.test/team/*"]
[[access.attach]]
anonymous = true
policies = ["some"]
[[access.attach]]
user = "alice"
policies = ["team"]
[[access.attach]]
user = "node"
policies = ["team"]
[[access.attach]]
robot = "job"
policies = ["team"]
[[access.attach]]
user = "root"
policies = ["admin"]
[[access.attach]]
user = "auditor"
policies = ["auditor"]
"#;

/// All that the cells of the table are asked of.
struct World {
    mirror: Mirror,
    image: Image,
    authority: Authority,
    node: Pair,
    /// `Authorization` of identities that have one that does not change.
    sent: BTreeMap<&'static str, String>,
    /// Wrong passwords so far: each is another user's, so that none is slowed down.
    guesses: Cell<usize>,
    _registries: Vec<FakeRegistry>,
}

impl World {
    async fn new() -> Self {
        let image = images::image(1, &[2000], Dialect::Oci);
        let (key, authority) = (Key::new("k1"), Authority::new("authority"));
        let issuer = Issuer::start(&[&key]).await;
        let (mut builder, mut registries) = (MirrorBuilder::new(), Vec::new());
        for (name, visibility) in UPSTREAMS {
            let registry = registry(&image, visibility).await;
            builder = builder.upstream(&format!("{name}.test"), &registry, |upstream| {
                upstream.visibility = visibility;
                if visibility == Visibility::Upstream {
                    upstream.hosts = vec![OWN_HOST.to_owned()];
                } else {
                    upstream.logins = vec![credentials("robot", "hub")];
                }
            });
            registries.push(registry);
        }
        let file = htpasswd(builder.dir(), &["alice", "root", "auditor"]);
        let rules = RULES.replace("HTPASSWD", &format!("{file:?}"));
        let rules = config(&rules.replace("ISSUER", &format!("{:?}", issuer.url()))).access;
        let client_ca = builder.dir().join("clients.pem");
        std::fs::write(&client_ca, authority.pem()).unwrap();
        let PairConfig { cert, key: private } = authority
            .host(&["mirror.test"])
            .write(builder.dir(), "server");
        let builder = builder.with(|all| {
            all.access = access::Config {
                certificates: true,
                ruled: vec!["r.test".to_owned()],
                ..rules
            };
            all.server.tls = Some(TlsConfig {
                client_ca: Some(client_ca),
                client_auth: ClientAuth::Optional,
                ..TlsConfig::of(cert, private)
            });
            let asking = all.server.listeners[0].clone();
            all.server.listeners = vec![
                asking.clone(),
                ListenerConfig {
                    asks: Asks::Nobody,
                    ..asking.clone()
                },
                ListenerConfig {
                    tls: true,
                    ..asking
                },
            ];
        });
        let mirror = builder.start().await;
        let sent = sent(&mirror, &key.sign(&issuer.claims())).await;
        Self {
            mirror,
            image,
            node: authority.client("node", Vec::new()),
            authority,
            sent,
            guesses: Cell::new(0),
            _registries: registries,
        }
    }

    /// The `Authorization` of somebody; nothing for whoever has none.
    fn authorization(&self, identity: &str) -> String {
        if identity == "wrong" {
            let number = self.guesses.replace(self.guesses.get() + 1);
            return basic(&format!("nobody{number}"), "guess");
        }
        self.sent.get(identity).cloned().unwrap_or_default()
    }

    /// The status and body of an answer.
    async fn ask(
        &self,
        endpoint: &str,
        identity: &str,
        method: Method,
        path: &str,
    ) -> (u16, String) {
        let authorization = self.authorization(identity);
        let mut headers = vec![("x-roadstead-admin", "1")];
        if !authorization.is_empty() {
            headers.push(("authorization", authorization.as_str()));
        }
        let client = match endpoint {
            "tls" => return self.ask_tls(identity, method, path, &headers).await,
            "open" => self.mirror.listener(1),
            "admin" => self.mirror.admin,
            "own" => {
                headers.push(("host", OWN_HOST));
                self.mirror.listener(0)
            }
            _ => self.mirror.listener(0),
        };
        let answer = Client(client.0).ask(method, path, &headers).await;
        (answer.status, answer.text())
    }

    async fn ask_tls(
        &self,
        identity: &str,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> (u16, String) {
        let shows = matches!(identity, "certificate" | "wrong");
        let node = shows.then_some(&self.node);
        let address = self.mirror.listener(2).0;
        let connection = pki::connect(address, "mirror.test", &self.authority, node).await;
        let answer = connection.unwrap().send(method, path, headers).await;
        let (status, _, text) = answer.unwrap();
        (status, text)
    }

    /// The requests of a row's columns.
    fn requests(&self, endpoint: &str, repository: &str) -> [(Method, String); 7] {
        let (upstream, name) = repository.split_once('/').unwrap();
        let name = if endpoint == "own" {
            name.to_owned()
        } else {
            format!("{upstream}.test/{name}")
        };
        let (manifest, layer) = (&self.image.manifest.digest, &self.image.layers[0].digest);
        [
            (Method::GET, format!("/v2/{name}/manifests/v1")),
            (Method::GET, format!("/v2/{name}/manifests/{manifest}")),
            (Method::GET, format!("/v2/{name}/blobs/{layer}")),
            (Method::GET, format!("/v2/{name}/tags/list")),
            (Method::GET, format!("/v2/{name}/referrers/{manifest}")),
            (Method::PUT, format!("/v2/{name}/manifests/v2")),
            (Method::DELETE, format!("/v2/{name}/manifests/{manifest}")),
        ]
    }
}

/// A registry with all repositories, of which `team/app` is public.
async fn registry(image: &Image, visibility: Visibility) -> FakeRegistry {
    let registry = FakeRegistry::start().await;
    for repository in REPOSITORIES {
        registry.put_image(repository, Some("v1"), image);
    }
    registry.grant("guest-token", "team/private");
    registry.options(|options| {
        options.public = vec!["team/app"];
        options.auth = match visibility {
            Visibility::Upstream => Auth::token_for("guest", "guest-password"),
            Visibility::Anyone | Visibility::Public | Visibility::Rules => {
                Auth::basic("robot", "hub")
            }
        };
    });
    registry
}

/// What identities send.
async fn sent(mirror: &Mirror, job: &str) -> BTreeMap<&'static str, String> {
    let root = basic("root", "root!");
    let ask = async |method: Method, path: &str, body: Value| {
        let headers = [
            ("authorization", root.as_str()),
            ("content-type", "application/json"),
            ("x-roadstead-admin", "1"),
        ];
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let answer = mirror.admin.ask_with(method, path, &headers, body.into());
        let answer = answer.await;
        assert!(answer.status < 300, "{}", answer.text());
        serde_json::from_slice::<Value>(&answer.body).unwrap_or_default()
    };
    let make = async |wanted: Value| ask(Method::POST, "/api/v1/tokens", wanted).await;
    let text = |made: &Value| made["token"].as_str().unwrap().to_owned();
    let token = make(json!({ "kind": "token", "owner": "alice" })).await;
    let temporary = make(json!({ "kind": "temporary", "owner": "alice" })).await;
    let program = make(json!({ "kind": "robot", "owner": "ci", "policies": ["team"] })).await;
    let revoked = make(json!({ "kind": "token", "owner": "alice" })).await;
    let id = revoked["id"].as_str().unwrap();
    ask(
        Method::DELETE,
        &format!("/api/v1/tokens?id={id}"),
        Value::Null,
    )
    .await;
    BTreeMap::from([
        ("password", basic("alice", "alice!")),
        ("token", basic("whoever", &text(&token))),
        ("temporary", format!("Bearer {}", text(&temporary))),
        ("robot", format!("Bearer {}", text(&program))),
        ("workload", basic("whoever", job)),
        ("revoked", format!("Bearer {}", text(&revoked))),
        ("guest", "Bearer guest-token".to_owned()),
        ("root", root),
        ("auditor", basic("auditor", "auditor!")),
    ])
}

/// The rows of the table, in their columns.
fn rows(kind: impl Fn(&str) -> bool) -> impl Iterator<Item = Vec<Vec<&'static str>>> {
    let lines = TABLE.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let rows = lines.map(|line| {
        let columns = line.split('|');
        columns
            .map(|column| column.split_whitespace().collect::<Vec<_>>())
            .collect::<Vec<_>>()
    });
    rows.filter(move |row| kind(row[0][0]))
}

/// Identities of each endpoint, all of which the table must have.
const ENDPOINTS: [(&str, &str, &str); 4] = [
    (
        "rules",
        "anonymous password token temporary robot workload wrong revoked",
        "aprux",
    ),
    (
        "open",
        "anonymous password token temporary robot workload wrong revoked",
        "aprux",
    ),
    ("tls", "anonymous certificate password wrong", "aprux"),
    (
        "own",
        "anonymous guest password token temporary robot workload wrong revoked",
        "u",
    ),
];

#[test]
fn the_table_has_each_cell_once() {
    let mut found = BTreeSet::new();
    for row in rows(|kind| !matches!(kind, "catalog" | "admin")) {
        assert_eq!(row[3].len(), 7, "{row:?}");
        for identity in &row[1] {
            for repository in &row[2] {
                let is_new = found.insert((row[0][0], *identity, (*repository).to_owned()));
                assert!(
                    is_new,
                    "{} {identity} {repository} is there twice",
                    row[0][0]
                );
            }
        }
    }
    for (endpoint, identities, upstreams) in ENDPOINTS {
        for identity in identities.split(' ') {
            for upstream in upstreams.chars() {
                let repositories = if upstream == 'x' {
                    &["alien/app"][..]
                } else {
                    &REPOSITORIES[..3]
                };
                for repository in repositories {
                    let cell = (endpoint, identity, format!("{upstream}/{repository}"));
                    assert!(found.remove(&cell), "{cell:?} is missing");
                }
            }
        }
    }
    assert_eq!(found, BTreeSet::new(), "cells of nothing");
}

/// The cells of pulls and pushes that are answered otherwise, and the number of all.
async fn wrong_cells(world: &World) -> (String, usize) {
    let (mut wrong, mut cells) = (String::new(), 0);
    for row in rows(|kind| !matches!(kind, "catalog" | "admin")) {
        let endpoint = row[0][0];
        for identity in &row[1] {
            for repository in &row[2] {
                let requests = world.requests(endpoint, repository);
                for ((method, path), expected) in requests.into_iter().zip(&row[3]) {
                    let shown = format!("{endpoint} {identity} {method} {path}");
                    let (status, text) = world.ask(endpoint, identity, method, &path).await;
                    cells += 1;
                    if status.to_string() != **expected {
                        writeln!(wrong, "{shown}: {status}, not {expected}: {text}").unwrap();
                    }
                }
            }
        }
    }
    (wrong, cells)
}

/// The same of catalogs.
async fn wrong_catalogs(world: &World) -> String {
    let mut wrong = String::new();
    for row in rows(|kind| kind == "catalog") {
        let endpoint = row[0][1];
        for identity in &row[1] {
            let path = "/v2/_catalog?n=100";
            let (status, text) = world.ask(endpoint, identity, Method::GET, path).await;
            let found: Value = serde_json::from_str(&text).unwrap_or_default();
            let listed = found["repositories"].as_array().into_iter().flatten();
            let listed: BTreeSet<_> = listed
                .map(|it| it.as_str().unwrap().replacen(".test/", "/", 1))
                .collect();
            let expected: BTreeSet<_> = row[2].iter().map(|it| (*it).to_owned()).collect();
            let is_right = match row[2][0] {
                "401" => status == 401,
                _ => status == 200 && listed == expected,
            };
            if !is_right {
                writeln!(wrong, "catalog {endpoint} {identity}: {status} {listed:?}").unwrap();
            }
        }
    }
    wrong
}

/// The same of the admin API.
async fn wrong_admin(world: &World) -> String {
    let mut wrong = String::new();
    for row in rows(|kind| kind == "admin") {
        for identity in &row[1] {
            let requests = [
                (Method::GET, "/api/v1/status"),
                (Method::POST, "/api/v1/gc?dry_run=true"),
            ];
            for ((method, path), expected) in requests.into_iter().zip(&row[2]) {
                let shown = format!("admin {identity} {method} {path}");
                let (status, text) = world.ask("admin", identity, method, path).await;
                if status.to_string() != **expected {
                    writeln!(wrong, "{shown}: {status}, not {expected}: {text}").unwrap();
                }
            }
        }
    }
    wrong
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_gets_what_the_table_says() {
    let world = World::new().await;
    let (wrong, cells) = wrong_cells(&world).await;
    assert!(cells > 1900, "only {cells} cells");
    // Catalogs have what was asked for before.
    let wrong = wrong + &wrong_catalogs(&world).await + &wrong_admin(&world).await;
    assert!(wrong.is_empty(), "{wrong}");
}

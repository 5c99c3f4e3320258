//! Transparent mode: a listener that answers at the upstreams' own names.

mod process;

use super::pki::{self, Authority, Connection};
use crate::common::images::{self, Dialect, Image};
use crate::common::{Auth, FakeRegistry, Mirror, MirrorBuilder, Record, WAIT_MAX, secure};
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::Empty;
use roadstead::access;
use roadstead::clock::{Clock, ManualClock, SystemClock, Timestamp};
use roadstead::config::{Config, Overrides};
use roadstead::oci::UpstreamName;
use roadstead::server::transparent::{NewAuthority, TransparentConfig, TransparentHost, make};
use roadstead::server::{PairConfig, TlsConfig};
use roadstead::upstream::Visibility;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const NOW: Timestamp = Timestamp(1_790_000_000_000);
const DAY: Duration = Duration::from_hours(24);
const HUB: &str = "registry-1.docker.io";

/// A client's clock: that of the mirror.
#[derive(Debug)]
struct Time(Arc<ManualClock>);

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let now = Duration::from_millis(self.0.now().0);
        Some(UnixTime::since_unix_epoch(now))
    }
}

/// A mirror of Docker Hub and quay.io in transparent mode, with a certificate of its own or without.
struct House {
    ordinary: Authority,
    authority: NewAuthority,
    mirror: Mirror,
    hub: FakeRegistry,
    quay: FakeRegistry,
    image: Image,
    other: Image,
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|it| (*it).to_owned()).collect()
}

fn host(host: &str, upstream: &str) -> TransparentHost {
    TransparentHost {
        host: host.to_owned(),
        port: None,
        upstream: UpstreamName::parse(upstream).unwrap(),
    }
}

fn write(dir: &Path, authority: &NewAuthority) {
    let key = dir.join("ca.key");
    std::fs::write(dir.join("ca.crt"), &authority.cert).unwrap();
    std::fs::write(&key, &authority.key).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn config(dir: &Path) -> TransparentConfig {
    TransparentConfig {
        ca: dir.join("ca.crt"),
        ca_key: dir.join("ca.key"),
        hosts: vec![
            host("docker.io", "docker.io"),
            host(HUB, "docker.io"),
            host("quay.io", "quay.io"),
        ],
    }
}

impl House {
    async fn new() -> Self {
        Self::with(true, |_| {}).await
    }

    async fn with(has_own: bool, change: impl FnOnce(&mut Config)) -> Self {
        let (hub, quay) = (FakeRegistry::start().await, FakeRegistry::start().await);
        let image = images::image(1, &[2000, 3000], Dialect::Docker);
        let other = images::image(2, &[4000], Dialect::Oci);
        hub.put_image("library/nginx", Some("1.27"), &image);
        quay.put_image("org/app", Some("v1"), &other);
        let ordinary = Authority::new("ordinary");
        let builder = MirrorBuilder::of(&hub).upstream("quay.io", &quay, |_| {});
        let dir = builder.dir().to_owned();
        let hosts = names(&["docker.io", HUB, "quay.io"]);
        let authority = make(&hosts, &names(&["auth.docker.io"]), NOW).unwrap();
        write(&dir, &authority);
        let PairConfig { cert, key } = ordinary.host(&["mirror.test"]).write(&dir, "own");
        let tls = if has_own {
            TlsConfig::of(cert, key)
        } else {
            TlsConfig::without_certificate()
        };
        let tls = TlsConfig {
            transparent: Some(config(&dir)),
            ..tls
        };
        let builder = builder.with(|config| {
            secure(config, tls);
            change(config);
        });
        Self {
            ordinary,
            authority,
            mirror: builder.start().await,
            hub,
            quay,
            image,
            other,
        }
    }

    /// Connects to a name, trusting the authority of transparent mode alone.
    async fn connect(&self, name: &str) -> std::io::Result<Connection> {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(self.authority.cert.as_bytes()).unwrap();
        roots.add(authority).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let time = Arc::new(Time(Arc::clone(&self.mirror.clock)));
        let config = ClientConfig::builder_with_details(provider, time)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        pki::dial(config, self.mirror.address(), name).await
    }

    /// The answer to a request to a name, for which a client connects to it.
    async fn ask(&self, method: &str, name: &str, path: &str) -> (u16, HeaderMap, String) {
        let mut connection = self.connect(name).await.unwrap();
        connection.ask(request(method, name, path)).await.unwrap()
    }

    async fn status(&self, name: &str, path: &str) -> u16 {
        self.ask("GET", name, path).await.0
    }

    /// The files that cannot be used.
    async fn reload(&self) -> Vec<String> {
        let certificates = self.mirror.certificates().clone();
        let reload = move || certificates.reload();
        tokio::task::spawn_blocking(reload).await.unwrap()
    }

    fn dir(&self) -> std::path::PathBuf {
        self.mirror.store().parent().unwrap().to_owned()
    }
}

fn request(method: &str, host: &str, path: &str) -> Request<Empty<Bytes>> {
    let request = Request::builder().method(method).uri(path);
    request.header("host", host).body(Empty::new()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_leads_to_its_upstream() {
    let house = House::new().await;
    for (name, path, image) in [
        (HUB, "/v2/library/nginx/manifests/1.27", &house.image),
        (
            "docker.io",
            "/v2/library/nginx/manifests/1.27",
            &house.image,
        ),
        ("quay.io", "/v2/org/app/manifests/v1", &house.other),
    ] {
        assert_eq!(house.status(name, "/v2/").await, 200, "{name}");
        let (status, headers, _) = house.ask("GET", name, path).await;
        assert_eq!(status, 200, "{name}");
        assert_eq!(
            headers["docker-content-digest"],
            image.manifest.digest.as_str()
        );
        // Nobody named an upstream, so that none is echoed.
        assert!(!headers.contains_key("oci-namespace"));
        let repository = path.split("/manifests/").next().unwrap();
        let blob = format!("{repository}/blobs/{}", image.layers[0].digest);
        assert_eq!(house.status(name, &blob).await, 200, "{name}");
    }
    // The name decides, and not the default upstream.
    let asked = house.hub.counters().records.len();
    assert_eq!(
        house
            .status("quay.io", "/v2/library/nginx/manifests/1.27")
            .await,
        404
    );
    assert_eq!(house.hub.counters().records.len(), asked);
    assert_eq!(house.status(HUB, "/v2/org/app/manifests/v1").await, 404);
    // A page of a list leads on at the same name.
    let (status, ..) = house.ask("GET", "quay.io", "/v2/org/app/tags/list").await;
    assert_eq!(status, 200);
    // `ns` goes before it, as before any other.
    let by_ns = "/v2/org/app/manifests/v1?ns=quay.io";
    assert_eq!(house.status(HUB, by_ns).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_names_get_what_they_got_before() {
    let house = House::new().await;
    for name in ["ghcr.io", "auth.docker.io", "sub.quay.io", "mirror.test"] {
        assert!(house.connect(name).await.is_err(), "{name}");
    }
    // The certificate of a stranger's name is the ordinary one: nothing is minted for it.
    let address = house.mirror.address();
    for (name, expected) in [("mirror.test", true), ("ghcr.io", false)] {
        let connection = pki::connect(address, name, &house.ordinary, None).await;
        assert_eq!(connection.is_ok(), expected, "{name}");
    }
    let alone = House::with(false, |_| {}).await;
    assert_eq!(alone.status(HUB, "/v2/").await, 200);
    let error = alone.connect("ghcr.io").await.err().unwrap().to_string();
    assert!(error.contains("alert"), "no certificate at all: {error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_are_refused_with_the_reason() {
    let house = House::new().await;
    for (method, path) in [
        ("POST", "/v2/library/nginx/blobs/uploads/"),
        ("PUT", "/v2/library/nginx/manifests/1.27"),
        ("PATCH", "/v2/library/nginx/blobs/uploads/1"),
        ("DELETE", "/v2/library/nginx/manifests/1.27"),
        ("GET", "/v2/library/nginx/blobs/uploads/1"),
    ] {
        let (status, _, text) = house.ask(method, HUB, path).await;
        assert_eq!(status, 405, "{method}: {text}");
        let error: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(error["errors"][0]["code"], "UNSUPPORTED", "{method}");
        let message = error["errors"][0]["message"].as_str().unwrap();
        assert!(
            message.contains("registry-1.docker.io leads to a read-only mirror of docker.io"),
            "{message}"
        );
    }
    // At a name of the mirror's own nothing is said of an override.
    let address = house.mirror.address();
    let own = pki::connect(address, "mirror.test", &house.ordinary, None).await;
    let push = request("POST", "mirror.test", "/v2/library/nginx/blobs/uploads/");
    let (status, _, text) = own.unwrap().ask(push).await.unwrap();
    assert!(status == 405 && !text.contains("transparent"), "{text}");
    assert_eq!(house.hub.counters().records.len(), 0);
    assert_eq!(house.quay.counters().records.len(), 0);
}

/// Users may pull, and nobody else.
async fn with_users() -> House {
    with_users_and(|_| {}).await
}

async fn with_users_and(change: impl FnOnce(&mut Config)) -> House {
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("htpasswd");
    let line = format!("alice:{}\n", bcrypt::hash("alice!", 4).unwrap());
    std::fs::write(&users, line).unwrap();
    let file = dir.path().join("rules.toml");
    let rules = format!("[access]\nhtpasswd = {:?}\n", users.display().to_string());
    std::fs::write(&file, rules).unwrap();
    let flags = Overrides {
        config: Some(file),
        ..Overrides::default()
    };
    let access: access::Config = Config::from_layers(&flags, [], &[]).unwrap().access;
    House::with(true, |config| {
        config.access = access;
        change(config);
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn token_servers_are_told_apart_by_name() {
    let house = with_users().await;
    let (status, headers, _) = house.ask("GET", HUB, "/v2/").await;
    assert_eq!(status, 401);
    let challenge = headers["www-authenticate"].to_str().unwrap();
    assert!(
        challenge.contains("realm=\"https://registry-1.docker.io/token\""),
        "a name that the client reaches: {challenge}"
    );
    // Ours, at the name at which we challenge.
    let mut connection = house.connect(HUB).await.unwrap();
    let scope = "scope=repository:library/nginx:pull";
    let mut wanted = request("GET", HUB, &format!("/token?service=roadstead&{scope}"));
    let alice = "Basic YWxpY2U6YWxpY2Uh".parse().unwrap();
    wanted.headers_mut().insert("authorization", alice);
    let (status, _, text) = connection.ask(wanted).await.unwrap();
    assert_eq!(status, 200, "{text}");
    let granted: serde_json::Value = serde_json::from_str(&text).unwrap();
    let token = granted["token"].as_str().unwrap();
    let mut pull = request("GET", HUB, "/v2/library/nginx/manifests/1.27");
    let bearer = format!("Bearer {token}").parse().unwrap();
    pull.headers_mut().insert("authorization", bearer);
    let (status, _, text) = connection.ask(pull).await.unwrap();
    assert_eq!(status, 200, "{text}");
    // Docker Hub's own: whatever comes there is meant for somebody else.
    for path in ["/token?service=registry.docker.io", "/v2/", "/"] {
        let mut wanted = request("GET", "auth.docker.io", path);
        let alice = "Basic YWxpY2U6YWxpY2Uh".parse().unwrap();
        wanted.headers_mut().insert("authorization", alice);
        let (status, headers, text) = connection.ask(wanted).await.unwrap();
        assert_eq!(status, 421, "{path}: {text}");
        assert!(text.contains("token server of docker.io"), "{text}");
        assert!(!text.contains("access_token") && !headers.contains_key("www-authenticate"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_decides_for_each_client_has_its_own_logins_there() {
    let house = with_users_and(|config| {
        config.upstreams[1].visibility = Visibility::Upstream;
        config.access.attachments = vec![access::Attachment {
            subject: access::Subject::Anonymous,
            policies: vec!["read-only".to_owned()],
        }];
    })
    .await;
    house
        .quay
        .options(|options| options.auth = Auth::token_for("alice", "quay-password"));
    house.quay.grant("t1", "org/app");
    let (status, headers, _) = house.ask("GET", "quay.io", "/v2/").await;
    let challenge = headers["www-authenticate"].to_str().unwrap();
    assert_eq!(status, 401);
    let realm = format!("realm=\"{}/token\"", house.quay.url());
    assert!(challenge.contains(&realm), "{challenge}");
    let mut connection = house.connect("quay.io").await.unwrap();
    for (sent, expected) in [("Bearer t1", 200), ("Bearer wrong", 401)] {
        let mut pull = request("GET", "quay.io", "/v2/org/app/manifests/v1");
        let headers = pull.headers_mut();
        headers.insert("authorization", sent.parse().unwrap());
        let (status, _, text) = connection.ask(pull).await.unwrap();
        assert_eq!(status, expected, "{sent}: {text}");
    }
    // For another upstream by that name it is none of ours, and nobody's.
    let mut other = request(
        "GET",
        "quay.io",
        "/v2/library/nginx/manifests/1.27?ns=docker.io",
    );
    let bearer = "Bearer t1".parse().unwrap();
    other.headers_mut().insert("authorization", bearer);
    let (status, _, text) = connection.ask(other).await.unwrap();
    assert_eq!(status, 401, "{text}");
    let sent = |it: &Record| !it.header("authorization").is_empty();
    assert_eq!(house.hub.counters().count(sent), 0);
    // A password for its token server is not taken for one of ours.
    let mut wanted = request("GET", "quay.io", "/token?service=quay.io");
    let alice = "Basic YWxpY2U6YWxpY2Uh".parse().unwrap();
    wanted.headers_mut().insert("authorization", alice);
    let (status, _, text) = connection.ask(wanted).await.unwrap();
    assert_eq!(status, 421, "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_replaced_before_they_end() {
    let house = House::new().await;
    let first = house.connect(HUB).await.unwrap().certificate;
    house.mirror.clock.advance(3 * DAY);
    assert_eq!(house.reload().await, [""; 0]);
    let same = house.connect(HUB).await.unwrap().certificate;
    assert_eq!(first, same, "half of its time is left");
    house.mirror.clock.advance(2 * DAY);
    // The task that looks at files notices by itself.
    let deadline = tokio::time::Instant::now() + WAIT_MAX;
    while house.connect(HUB).await.unwrap().certificate == first {
        assert!(tokio::time::Instant::now() < deadline, "it is not replaced");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    house.mirror.clock.advance(4 * DAY);
    assert_eq!(house.reload().await, [""; 0]);
    assert_eq!(house.status(HUB, "/v2/").await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_authority_and_other_names_hold_for_new_connections() {
    let mut house = House::new().await;
    let mut old = house.connect(HUB).await.unwrap();
    // One that covers a part: the others have none.
    let narrow = make(&names(&["quay.io"]), &[], NOW).unwrap();
    write(&house.dir(), &narrow);
    assert_eq!(house.reload().await, [""; 0]);
    assert!(
        house.connect("quay.io").await.is_err(),
        "the old authority signs no more"
    );
    house.authority = narrow;
    assert_eq!(house.status("quay.io", "/v2/").await, 200);
    assert!(house.connect(HUB).await.is_err());
    let pull = request("GET", HUB, "/v2/library/nginx/manifests/1.27");
    assert_eq!(
        old.ask(pull).await.unwrap().0,
        200,
        "what was there goes on"
    );
    // One that cannot be used changes nothing.
    let key = house.dir().join("ca.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(house.dir().join("ca.crt"), "nothing").unwrap();
    assert_eq!(house.reload().await.len(), 1);
    assert_eq!(house.status("quay.io", "/v2/").await, 200);
    // Other names, as a reload of the configuration brings them.
    let wide = make(&names(&["docker.io", "quay.io"]), &[], NOW).unwrap();
    write(&house.dir(), &wide);
    let fewer = TransparentConfig {
        hosts: vec![host(HUB, "docker.io")],
        ..config(&house.dir())
    };
    let certificates = house.mirror.certificates().clone();
    let mut server = house.mirror.server_config().clone();
    server.tls.as_mut().unwrap().transparent = Some(fewer);
    let set = move || certificates.replace(certificates.prepare(&server).unwrap());
    tokio::task::spawn_blocking(set).await.unwrap();
    house.authority = wide;
    assert_eq!(house.status(HUB, "/v2/").await, 200);
    assert!(house.connect("quay.io").await.is_err());
    let mut connection = house.connect(HUB).await.unwrap();
    let elsewhere = request("GET", "quay.io", "/v2/org/app/manifests/v1");
    assert_eq!(
        connection.ask(elsewhere).await.unwrap().0,
        404,
        "no name any more"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_the_authority_is_said_at_the_start() {
    let start = async |meddle: &dyn Fn(&Path)| {
        let registry = FakeRegistry::start().await;
        let builder = MirrorBuilder::of(&registry);
        let dir = builder.dir().to_owned();
        let made = make(&names(&["docker.io"]), &[], NOW).unwrap();
        write(&dir, &made);
        meddle(&dir);
        let tls = TlsConfig {
            transparent: Some(TransparentConfig {
                hosts: vec![host("docker.io", "docker.io"), host("quay.io", "quay.io")],
                ..config(&dir)
            }),
            ..TlsConfig::without_certificate()
        };
        let started = builder.with(|config| secure(config, tls)).try_start().await;
        match started {
            Ok(mirror) => {
                mirror.stop().await;
                String::new()
            }
            Err(error) => error.to_string(),
        }
    };
    // A name that is not covered is left out, with a warning.
    assert_eq!(start(&|_| {}).await, "");
    let others_read = |dir: &Path| {
        let mode = std::fs::Permissions::from_mode(0o640);
        std::fs::set_permissions(dir.join("ca.key"), mode).unwrap();
    };
    let text = start(&others_read).await;
    assert!(text.contains("ca.key: its mode is 0640"), "{text}");
    let gone = |dir: &Path| std::fs::remove_file(dir.join("ca.crt")).unwrap();
    let text = start(&gone).await;
    assert!(
        text.contains("ca.crt") && text.contains("ca init"),
        "{text}"
    );
    let other = |dir: &Path| write(dir, &make(&names(&["ghcr.io"]), &[], NOW).unwrap());
    let text = start(&other).await;
    assert!(
        text.contains("cover none of docker.io, quay.io") && text.contains("ca init"),
        "{text}"
    );
    let over = |dir: &Path| {
        let long_ago = Timestamp(NOW.0 - 11 * 365 * 24 * 3_600_000);
        write(dir, &make(&names(&["docker.io"]), &[], long_ago).unwrap());
    };
    let text = start(&over).await;
    assert!(
        text.contains("its time was over") && text.contains("ca init"),
        "{text}"
    );
}

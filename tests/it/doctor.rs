//! `doctor`: a healthy server, set-ups that are broken on purpose, each found and named, and nodes whose clients go past
//! the mirror.

mod node;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::common::{Auth, FakeRegistry, Mirror, MirrorBuilder, secure, within};
use crate::process::Process;
use crate::tls::pki::Authority;
use roadstead::server::TlsConfig;

/// The checks of a run.
#[derive(Debug)]
pub(super) struct Checks {
    pub(super) code: i32,
    by_id: BTreeMap<String, Value>,
    /// All that was printed.
    pub(super) text: String,
}

impl Checks {
    fn of(output: Output) -> Self {
        let text = String::from_utf8(output.stdout).unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let report: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{errors}"));
        let checks = report["checks"].as_array().unwrap().iter();
        let checks = checks.map(|it| (it["id"].as_str().unwrap().to_owned(), it.clone()));
        let code = output.status.code().unwrap();
        assert_eq!(report["healthy"], Value::Bool(code == 0), "{text}");
        Self {
            code,
            by_id: checks.collect(),
            text: text + &errors,
        }
    }

    #[track_caller]
    pub(super) fn status(&self, id: &str) -> &str {
        let check = self.by_id.get(id);
        let check = check.unwrap_or_else(|| panic!("no {id} in {}", self.text));
        check["status"].as_str().unwrap()
    }

    /// The check has this status, and its text has these parts.
    #[track_caller]
    pub(super) fn is(&self, id: &str, status: &str, parts: &[&str]) {
        assert_eq!(self.status(id), status, "{id} in {}", self.text);
        let check = &self.by_id[id];
        let text = format!("{}\n{}", check["summary"], check["advice"]);
        for part in parts {
            assert!(text.contains(part), "{part:?} in {id}: {text}");
        }
        let needs_advice = matches!(status, "fail" | "warn");
        assert_eq!(check.get("advice").is_some(), needs_advice, "{text}");
    }

    /// This check alone has failed.
    #[track_caller]
    fn only(&self, id: &str, parts: &[&str]) {
        self.is(id, "fail", parts);
        let failed = self.by_id.iter().filter(|(_, it)| it["status"] == "fail");
        let failed: Vec<&String> = failed.map(|(id, _)| id).collect();
        assert_eq!(failed, [id], "{}", self.text);
        assert_eq!(self.code, 1);
    }
}

/// A configuration in a directory of its own.
#[derive(Debug)]
struct Setup {
    dir: TempDir,
    server: String,
    cache: String,
    upstream: String,
}

impl Setup {
    /// A mirror of this registry, which listens nowhere in particular.
    fn of(upstream: &str) -> Self {
        Self {
            dir: TempDir::new().unwrap(),
            server: "listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n".to_owned(),
            cache: "dir = \"cache\"\nmax_size = \"100MB\"\n".to_owned(),
            upstream: format!("endpoints = [\"{upstream}\"]\n"),
        }
    }

    fn write(&self) -> PathBuf {
        let Self {
            server,
            cache,
            upstream,
            ..
        } = self;
        let text = format!(
            "[server]\n{server}[cache]\n{cache}[state]\ndir = \"state\"\n[upstream.\"docker.io\"]\n{upstream}"
        );
        let path = self.dir.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    async fn doctor(&self, more: &[&str]) -> Checks {
        let config = self.write().display().to_string();
        let mut arguments = vec!["--config", &config, "--json"];
        arguments.extend(more);
        doctor(self.dir.path(), &arguments, &[]).await
    }
}

/// Runs the program; its checks.
pub(super) async fn doctor(dir: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Checks {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roadstead"));
    command
        .arg("doctor")
        .args(arguments)
        .current_dir(dir)
        .env_clear()
        .envs(environment.iter().copied());
    let running = tokio::task::spawn_blocking(move || command.output());
    Checks::of(within("doctor", running).await.unwrap().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_server_is_well_running_or_not() {
    let registry = FakeRegistry::start().await;
    let setup = Setup::of(&registry.url());
    let checks = setup.doctor(&[]).await;
    assert_eq!(checks.code, 0, "{}", checks.text);
    checks.is("service", "skipped", &[]);
    let config = setup.write().display().to_string();
    let mut process = Process::start(setup.dir, &["serve", "--config", &config]);
    let (client, admin, _output) = process.ready();
    let (client, admin) = (client.0.to_string(), admin.0.to_string());
    let arguments = [
        "--json",
        "--config",
        &config,
        "--listen",
        &client,
        "--admin-listen",
        &admin,
    ];
    let checks = doctor(process.dir.path(), &arguments, &[]).await;
    assert_eq!(checks.code, 0, "{}", checks.text);
    for id in [
        "configuration",
        "exposure",
        "listener",
        "admin-listener",
        "upstream:docker.io",
        "clock",
        "state",
        "service",
    ] {
        assert_eq!(checks.status(id), "ok", "{id}: {}", checks.text);
    }
    // These depend on the machine: what is in its way, and how many descriptors a shell has.
    for id in ["disk", "descriptors"] {
        assert!(
            ["ok", "warn"].contains(&checks.status(id)),
            "{}",
            checks.text
        );
    }
    for id in [
        "tls-certificate",
        "access",
        "dns:docker.io",
        "login:docker.io",
        "rate-limit:docker.io",
        "clients",
    ] {
        assert_eq!(checks.status(id), "skipped", "{id}: {}", checks.text);
    }
    checks.is("service", "ok", &["healthy, version"]);
    checks.is("listener", "ok", &["answers 200 at /v2/"]);
    // A look is no load: the registry was asked at its base alone.
    let asked = registry.counters();
    assert!(asked.records.len() <= 2, "{asked:?}");
    // Written again, the file is newer than what the server has read.
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text).unwrap();
    let checks = doctor(process.dir.path(), &arguments, &[]).await;
    checks.is("service", "warn", &["changed after", "roadstead reload"]);
    assert_eq!(checks.code, 0, "{}", checks.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_the_configuration_are_all_named() {
    let registry = FakeRegistry::start().await;
    let mut setup = Setup::of(&registry.url());
    setup.server += "lisen = \"x\"\n";
    setup.cache += "max_sise = 1\n";
    let checks = setup.doctor(&[]).await;
    checks.only(
        "configuration",
        &["2 errors", "lisen", "max_sise", "config.toml:"],
    );
    for id in ["listener", "upstreams", "disk", "service"] {
        assert_eq!(checks.status(id), "skipped");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_of_another_program_is_found_with_what_answers() {
    let registry = FakeRegistry::start().await;
    let other = Answers::with("Server: nginx/1.27\r\n").await;
    let mut setup = Setup::of(&registry.url());
    setup.server = format!(
        "listen = \"{}\"\nadmin_listen = \"127.0.0.1:0\"\n",
        other.address
    );
    let checks = setup.doctor(&[]).await;
    checks.only(
        "listener",
        &["is taken by", "(process ", "nginx/1.27", "server.listen"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_clients_refuse_are_found() {
    let registry = FakeRegistry::start().await;
    let mut setup = Setup::of(&registry.url());
    let dir = setup.dir.path().to_owned();
    let authority = Authority::new("test");
    let first = authority.host(&["mirror.test"]).write(&dir, "first");
    let other = authority.host(&["mirror.test"]).write(&dir, "other");
    let tls = |cert: &Path, key: &Path| format!("[server.tls]\ncert = {cert:?}\nkey = {key:?}\n");
    let listen = setup.server.clone();
    setup.server = listen.clone() + &tls(&first.cert, &first.key);
    let checks = setup.doctor(&[]).await;
    checks.is("tls-certificate", "ok", &["mirror.test"]);
    assert_eq!(checks.code, 0, "{}", checks.text);

    setup.server = listen.clone() + &tls(&first.cert, &other.key);
    let checks = setup.doctor(&[]).await;
    checks.only("tls-certificate", &["first.crt", "server.tls.key"]);

    let mut params = CertificateParams::new(vec!["mirror.test".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let key = KeyPair::generate().unwrap();
    let expired = params.self_signed(&key).unwrap();
    let (cert, secret) = (dir.join("old.crt"), dir.join("old.key"));
    std::fs::write(&cert, expired.pem()).unwrap();
    std::fs::write(&secret, key.serialize_pem()).unwrap();
    setup.server = listen.clone() + &tls(&cert, &secret);
    let checks = setup.doctor(&[]).await;
    checks.only("tls-certificate", &["old.crt expired", "renew it"]);

    // The issuer stands before the leaf's own issuer would.
    let pem = std::fs::read_to_string(&first.cert).unwrap();
    std::fs::write(&first.cert, pem.clone() + &expired.pem()).unwrap();
    setup.server = listen + &tls(&first.cert, &first.key);
    let checks = setup.doctor(&[]).await;
    checks.only("tls-chain", &["certificate 2", "order the file"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_refuses_connections_is_found() {
    let registry = FakeRegistry::start().await;
    registry.go_down().await;
    let setup = Setup::of(&registry.url());
    let checks = setup.doctor(&[]).await;
    let parts = ["refused", "[upstream.\\\"docker.io\\\"]", "firewall"];
    checks.only("upstream:docker.io", &parts);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_says_nothing_is_found_in_time() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let setup = Setup::of(&format!("http://{}", silent.local_addr().unwrap()));
    let began = tokio::time::Instant::now();
    let checks = setup.doctor(&[]).await;
    checks.only("upstream:docker.io", &["timed out waiting for", "proxy of"]);
    assert!(began.elapsed().as_secs() < 15);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_its_own_certificate_is_asked_over_it() {
    let registry = FakeRegistry::start().await;
    let mut setup = Setup::of(&registry.url());
    let authority = Authority::new("own");
    let pair = authority
        .host(&["mirror.test"])
        .write(setup.dir.path(), "mirror");
    let tls = TlsConfig::of(pair.cert.clone(), pair.key.clone());
    let mirror = MirrorBuilder::of(&registry)
        .with(|config| secure(config, tls))
        .start()
        .await;
    setup.server = format!(
        "listen = \"{}\"\nadmin_listen = \"{}\"\n[server.tls]\ncert = {:?}\nkey = {:?}\n",
        mirror.client.0, mirror.admin.0, pair.cert, pair.key
    );
    let checks = setup.doctor(&[]).await;
    checks.is("listener", "ok", &["https://127.0.0.1", "answers 200"]);
    checks.is("tls-certificate", "ok", &["for mirror.test", "left"]);
    checks.is("tls-chain", "ok", &["clients need it as their CA"]);
    assert_eq!(checks.code, 0, "{}", checks.text);
    // Another address than the one that it was started with.
    setup.server = format!(
        "listen = \"127.0.0.1:1\"\nadmin_listen = \"{}\"\n",
        mirror.admin.0
    );
    let checks = setup.doctor(&[]).await;
    checks.only("listener", &["nobody listens at 127.0.0.1:1", "restart"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_of_an_unknown_authority_is_found() {
    let registry = FakeRegistry::start().await;
    let dir = TempDir::new().unwrap();
    let authority = Authority::new("own");
    let pair = authority.host(&["localhost"]).write(dir.path(), "up");
    let tls = TlsConfig::of(pair.cert, pair.key);
    let above: Mirror = MirrorBuilder::of(&registry)
        .with(|config| secure(config, tls))
        .start()
        .await;
    let port = above.client.0.port();
    let mut setup = Setup::of(&format!("https://localhost:{port}"));
    let checks = setup.doctor(&[]).await;
    checks.only("upstream:docker.io", &["UnknownIssuer", "ca_file"]);
    checks.is("dns:docker.io", "ok", &["localhost has"]);

    let ca = dir.path().join("ca.crt");
    std::fs::write(&ca, authority.pem()).unwrap();
    setup.upstream =
        format!("endpoints = [{{ url = \"https://localhost:{port}\", ca_file = {ca:?} }}]\n");
    let checks = setup.doctor(&[]).await;
    checks.is("upstream:docker.io", "ok", &["answers 200"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_tried_as_the_registry_wants_it() {
    let registry = FakeRegistry::start().await;
    let robot = ("robot".to_owned(), "pa55-w0rd".to_owned());
    let by_token = Auth::Token {
        credentials: Some(robot.clone()),
        expires_in: Some(300),
        realm: None,
        field: "token",
    };
    let by_password = Auth::Basic {
        username: robot.0,
        password: robot.1,
    };
    let mut setup = Setup::of(&registry.url());
    let endpoints = setup.upstream.clone();
    for auth in [by_password, by_token] {
        registry.options(|options| options.auth = auth.clone());
        setup.upstream = endpoints.clone() + "username = \"robot\"\npassword = \"pa55-w0rd\"\n";
        let checks = setup.doctor(&[]).await;
        checks.is("login:docker.io", "ok", &["1 login accepted"]);
        setup.upstream = endpoints.clone() + "username = \"robot\"\npassword = \"hunter2\"\n";
        let checks = setup.doctor(&[]).await;
        checks.only(
            "login:docker.io",
            &["refused (401)", "username and password"],
        );
        assert!(!checks.text.contains("hunter2"), "{}", checks.text);
        checks.is("upstream:docker.io", "ok", &["answers 401"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_off_is_found() {
    let past = Answers::with("Date: Wed, 21 Oct 2015 07:28:00 GMT\r\n").await;
    let setup = Setup::of(&format!("http://{}", past.address));
    let checks = setup.doctor(&[]).await;
    checks.only("clock", &["ahead of", "NTP"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_without_a_place_is_found() {
    let registry = FakeRegistry::start().await;
    let mut setup = Setup::of(&registry.url());
    std::fs::write(setup.dir.path().join("file"), "").unwrap();
    setup.cache = "dir = \"file\"\n".to_owned();
    let checks = setup.doctor(&[]).await;
    checks.only("disk", &["no directory", "cache.dir"]);

    setup.cache = "dir = \"cache\"\nmax_size = \"900TB\"\n".to_owned();
    let checks = setup.doctor(&[]).await;
    checks.only("disk", &["cache.max_size (900.0 TB)", "80%"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn people_read_a_line_for_each_check_and_advice_below() {
    let registry = FakeRegistry::start().await;
    registry.go_down().await;
    let setup = Setup::of(&registry.url());
    let config = setup.write();
    let mut command = Command::new(env!("CARGO_BIN_EXE_roadstead"));
    command
        .args(["doctor", "--color", "always", "--config"])
        .arg(config)
        .current_dir(setup.dir.path())
        .env_clear();
    let running = tokio::task::spawn_blocking(move || command.output());
    let output = within("doctor", running).await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("\u{1b}[32mok\u{1b}[0m      configuration"),
        "{text}"
    );
    let failed = text.lines().skip_while(|line| !line.contains("FAIL"));
    let failed: Vec<&str> = failed.take(2).collect();
    assert!(failed[0].contains("upstream:docker.io"), "{text}");
    assert!(
        failed[1].starts_with("          is the registry up"),
        "{text}"
    );
    let last = text.lines().last().unwrap();
    assert!(last.contains(" 1 failure, "), "{last}");
}

/// A program that answers every request with 200 and these headers.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) address: std::net::SocketAddr,
}

impl Answers {
    async fn with(headers: &str) -> Self {
        let head = format!("{headers}Content-Length: 0\r\n");
        Self::by(Arc::new(move |_path: &str| {
            format!("HTTP/1.1 200 OK\r\n{head}\r\n")
        }))
        .await
    }

    /// The whole answer is made of the path.
    pub(super) async fn by(answer: Arc<dyn Fn(&str) -> String + Send + Sync>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let answer = Arc::clone(&answer);
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    let mut part = [0; 4096];
                    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                        match stream.read(&mut part).await {
                            Ok(0) | Err(_) => return,
                            Ok(read) => head.extend_from_slice(&part[..read]),
                        }
                    }
                    let head = String::from_utf8_lossy(&head).into_owned();
                    let path = head.split(' ').nth(1).unwrap_or_default();
                    stream.write_all(answer(path).as_bytes()).await.ok();
                });
            }
        });
        Self { address }
    }
}

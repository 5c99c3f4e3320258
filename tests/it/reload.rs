//! SIGHUP: a new configuration is taken over as far as it can be, or, with an error in it, not at all.

mod takes_over;

use std::io::{BufRead as _, BufReader};
use std::process::ChildStderr;
use std::sync::mpsc::{Receiver, channel};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::common::images::{self, Dialect};
use crate::common::{Client, FakeRegistry, WAIT_MAX};
use crate::process::Process;

const TAG: &str = "/v2/team/app/manifests/v1";

/// The real program with a file that can be written again.
struct Reloaded {
    process: Process,
    client: Client,
    log: Receiver<String>,
    upstream: String,
}

impl Reloaded {
    fn start(registry: &FakeRegistry, tags: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let upstream = registry.url();
        write(&dir, &upstream, tags, "");
        let mut process = Process::start(dir, &["serve", "--config", "config.toml"]);
        let log = lines(process.child.stderr.take().unwrap());
        let (client, _admin, _output) = process.ready();
        Self {
            process,
            client,
            log,
            upstream,
        }
    }

    /// Reloads, and returns the log up to a line with this.
    fn reload(&self, tags: &str, server: &str, until: &str) -> String {
        write(&self.process.dir, &self.upstream, tags, server);
        self.process.signal(Signal::HUP);
        let mut text = String::new();
        loop {
            let line = self
                .log
                .recv_timeout(WAIT_MAX)
                .unwrap_or_else(|_| panic!("no {until:?} in:\n{text}"));
            text.push_str(&line);
            text.push('\n');
            if line.contains(until) {
                return text;
            }
        }
    }
}

fn write(dir: &TempDir, upstream: &str, tags: &str, server: &str) {
    let cache = dir.path().join("cache").display().to_string();
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n{server}
[cache]\ndir = {cache:?}\n[tags]\n{tags}\n[upstream.\"docker.io\"]\nendpoints = [{upstream:?}]\n"
    );
    std::fs::write(dir.path().join("config.toml"), text).unwrap();
}

fn lines(errors: ChildStderr) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(errors).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_file_holds_for_the_next_request_and_the_rest_is_named() {
    let registry = FakeRegistry::start().await;
    let old = images::image(301, &[1000], Dialect::Oci);
    let new = images::image(302, &[1000], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &old);
    let server = Reloaded::start(&registry, "ttl = \"1h\"");
    let manifest = async |image: &images::Image| {
        let answer = server.client.get(TAG).await;
        answer.assert_bytes(200, &image.manifest.bytes);
    };
    manifest(&old).await;
    registry.put_image("team/app", Some("v1"), &new);
    manifest(&old).await;

    let log = server.reload("ttl = \"0s\"", "drain_timeout = \"7s\"", "before a restart");
    assert!(log.contains("configuration reloaded"), "{log}");
    assert!(log.contains("tags.ttl"), "{log}");
    assert!(log.contains("server.drain_timeout"), "{log}");
    manifest(&new).await;

    let log = server.reload("ttl = \"0s\"", "", "nothing has changed");
    assert!(!log.contains("tags.ttl"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_with_errors_changes_nothing_and_all_of_them_are_logged() {
    let registry = FakeRegistry::start().await;
    let image = images::image(303, &[1000], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    let server = Reloaded::start(&registry, "ttl = \"1h\"");
    assert_eq!(server.client.get(TAG).await.status, 200);
    registry.put_image(
        "team/app",
        Some("v1"),
        &images::image(304, &[1000], Dialect::Oci),
    );

    let wrong = "ttl = \"0s\"\nnegative_ttl = 10\nkeep_deletd = true";
    let log = server.reload(wrong, "", "nothing is changed");
    assert!(log.contains("tags.negative_ttl: 10 has no unit"), "{log}");
    assert!(log.contains("did you mean `keep_deleted`?"), "{log}");
    let answer = server.client.get(TAG).await;
    answer.assert_bytes(200, &image.manifest.bytes);
}

/// Clients were asked for certificates that no listener took yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_certificates_count_after_a_restart() {
    let registry = FakeRegistry::start().await;
    let access = "ttl = \"1h\"\n[access]\nallow = [\"127.0.0.0/8\"]";
    let server = Reloaded::start(&registry, access);
    assert_eq!(server.client.get("/v2/").await.status, 200);
    let tls = "tls = { cert = \"a\", key = \"b\", client_ca = \"c\" }";
    let log = server.reload(access, tls, "before a restart");
    assert!(log.contains("server.tls.client_ca"), "{log}");
    assert_eq!(server.client.get("/v2/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_cannot_be_used_is_named_and_the_one_before_stays() {
    let dir = TempDir::new().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["mirror.test".to_owned()]).unwrap();
    std::fs::write(dir.path().join("tls.crt"), made.cert.pem()).unwrap();
    let key = dir.path().join("tls.key");
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let cache = dir.path().join("cache").display().to_string();
    let text = format!(
        "[server]\nadmin_listen = \"127.0.0.1:0\"\n[server.tls]\ncert = \"tls.crt\"\nkey = \"tls.key\"
[[server.listener]]\naddress = \"127.0.0.1:0\"\ntls = false
[[server.listener]]\nname = \"secure\"\naddress = \"127.0.0.1:0\"\n[cache]\ndir = {cache:?}\n"
    );
    std::fs::write(dir.path().join("config.toml"), text).unwrap();
    let mut process = Process::start(dir, &["serve", "--config", "config.toml"]);
    let log = lines(process.child.stderr.take().unwrap());
    let (client, _admin, _output) = process.ready();
    let line = |part: &str| loop {
        let line = log
            .recv_timeout(WAIT_MAX)
            .unwrap_or_else(|_| panic!("no {part:?}"));
        if line.contains(part) {
            return line;
        }
    };
    let listening = line("name=\"secure\"");
    assert!(listening.contains("listening for clients"), "{listening}");
    std::fs::write(&key, "nonsense").unwrap();
    process.signal(Signal::HUP);
    let refused = line("cannot be used");
    assert!(
        refused.contains("tls.key: there is no private key in it"),
        "{refused}"
    );
    assert!(refused.contains("those from before stay"), "{refused}");
    assert_eq!(client.get("/v2/").await.status, 200);
    // Once, until the file changes again.
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    process.signal(Signal::HUP);
    line("nothing has changed");
}

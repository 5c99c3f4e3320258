//! The real program in transparent mode.

use std::net::SocketAddr;

use rustix::process::Signal;
use tempfile::TempDir;

use super::*;
use crate::process::Process;

/// A mirror of Docker Hub and quay.io that answers at some of their names.
struct Server {
    process: Process,
    address: SocketAddr,
    /// Of a node, which has been given nothing but the authority.
    trust: ClientConfig,
    upstreams: String,
}

impl Server {
    fn start(hub: &FakeRegistry, quay: &FakeRegistry, names: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let hosts = self::names(&["docker.io", HUB, "quay.io"]);
        let authority = make(&hosts, &[], SystemClock.now()).unwrap();
        super::write(dir.path(), &authority);
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_slice(authority.cert.as_bytes()).unwrap();
        roots.add(certificate).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let trust = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (hub, quay) = (hub.url(), quay.url());
        let upstreams = format!(
            "[upstream.\"docker.io\"]\ndefault = true\nendpoints = [{hub:?}]\n[upstream.\"quay.io\"]\nendpoints = [{quay:?}]\n"
        );
        write(&dir, names, &upstreams);
        let mut process = Process::start(dir, &["serve", "--config", "config.toml"]);
        let (client, _admin, _output) = process.ready();
        // Nobody reads it, and the server waits for nobody.
        drop(process.child.stderr.take());
        Self {
            process,
            address: client.0,
            trust,
            upstreams,
        }
    }

    async fn connect(&self, name: &str) -> std::io::Result<Connection> {
        pki::dial(self.trust.clone(), self.address, name).await
    }

    /// Waits until a pull at this name has this status; 0: no connection.
    async fn answers(&self, name: &str, path: &str, expected: u16) {
        let seen = async {
            loop {
                let status = match self.connect(name).await {
                    Ok(mut connection) => connection.ask(request("GET", name, path)).await,
                    Err(_) => None,
                };
                if status.map_or(0, |(status, ..)| status) == expected {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let seen = tokio::time::timeout(WAIT_MAX, seen).await;
        seen.unwrap_or_else(|_| panic!("{name} has never answered {expected}"));
    }
}

fn write(dir: &TempDir, names: &str, upstreams: &str) {
    let root = dir.path().display();
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n[server.transparent]\n\
         ca = \"{root}/ca.crt\"\nca_key = \"{root}/ca.key\"\nnames = [{names}]\n{upstreams}\
         [state]\ndir = \"{root}/state\"\n[cache]\ndir = \"{root}/cache\"\n"
    );
    std::fs::write(dir.path().join("config.toml"), text).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_brings_a_name_and_takes_one_away() {
    let (hub, quay) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let image = images::image(11, &[2000], Dialect::Docker);
    let other = images::image(12, &[4000], Dialect::Oci);
    hub.put_image("library/nginx", Some("1.27"), &image);
    quay.put_image("org/app", Some("v1"), &other);
    let (of_hub, of_quay) = (
        "/v2/library/nginx/manifests/1.27",
        "/v2/org/app/manifests/v1",
    );
    let server = Server::start(&hub, &quay, "\"registry-1.docker.io\"");
    server.answers(HUB, of_hub, 200).await;
    assert!(server.connect("quay.io").await.is_err());
    let mut old = server.connect(HUB).await.unwrap();
    assert_eq!(old.ask(request("GET", HUB, of_hub)).await.unwrap().0, 200);

    write(&server.process.dir, "\"quay.io\"", &server.upstreams);
    server.process.signal(Signal::HUP);
    server.answers("quay.io", of_quay, 200).await;
    server.answers(HUB, of_hub, 0).await;
    // The connection from before goes on; at the name that is gone it asks the default upstream, as at any other name.
    assert_eq!(old.ask(request("GET", HUB, of_hub)).await.unwrap().0, 200);

    // A name that the authority must not sign for is an error in the file: all stays.
    write(&server.process.dir, "\"ghcr.io\"", &server.upstreams);
    server.process.signal(Signal::HUP);
    server.answers("quay.io", of_quay, 200).await;
    assert!(server.connect("ghcr.io").await.is_err());
}

//! Revocation lists of client certificates.

use super::pki::{self, Authority, Pair};
use crate::common::{FakeRegistry, Mirror, MirrorBuilder, WAIT_MAX, secure};
use roadstead::server::{ClientAuth, PairConfig, TlsConfig};
use std::path::PathBuf;
use std::time::Duration;

struct House {
    server: Authority,
    mirror: Mirror,
    lists: PathBuf,
    _registry: FakeRegistry,
}

impl House {
    /// Clients of `authorities` are let in, unless these lists name them.
    async fn new(authorities: &[&Authority], lists: &[u8]) -> Result<Self, String> {
        let (registry, server) = (FakeRegistry::start().await, Authority::new("server"));
        let builder = MirrorBuilder::of(&registry);
        let dir = builder.dir().to_owned();
        let PairConfig { cert, key } = server.host(&["mirror.test"]).write(&dir, "server");
        let client_ca = dir.join("clients.pem");
        let all: Vec<String> = authorities.iter().map(|it| it.pem()).collect();
        std::fs::write(&client_ca, all.concat()).unwrap();
        let client_crl = dir.join("revoked.pem");
        std::fs::write(&client_crl, lists).unwrap();
        let tls = TlsConfig {
            client_ca: Some(client_ca),
            client_crl: Some(client_crl.clone()),
            client_auth: ClientAuth::Required,
            ..TlsConfig::of(cert, key)
        };
        let started = builder.with(|config| secure(config, tls)).try_start().await;
        Ok(Self {
            server,
            mirror: started.map_err(|error| error.to_string())?,
            lists: client_crl,
            _registry: registry,
        })
    }

    async fn status(&self, client: &Pair) -> u16 {
        let address = self.mirror.address();
        let connection = pki::connect(address, "mirror.test", &self.server, Some(client)).await;
        match connection {
            Ok(mut connection) => connection.status("/v2/").await,
            Err(_) => 0,
        }
    }

    /// The files that cannot be used.
    async fn reload(&self) -> Vec<String> {
        let certificates = self.mirror.certificates().clone();
        let reload = move || certificates.reload();
        tokio::task::spawn_blocking(reload).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_certificate_opens_nothing_from_then_on() {
    let clients = Authority::new("clients");
    let (good, bad) = (
        clients.client("good", Vec::new()),
        clients.client("bad", Vec::new()),
    );
    let none = clients.revoke(&[], 4000).pem().unwrap();
    let house = House::new(&[&clients], none.as_bytes()).await.unwrap();
    assert_eq!(
        (house.status(&good).await, house.status(&bad).await),
        (200, 200)
    );
    let address = house.mirror.address();
    let connect = |client| pki::connect(address, "mirror.test", &house.server, Some(client));
    let mut open = connect(&bad).await.unwrap();
    assert_eq!(open.status("/v2/").await, 200);
    // In DER, too, as authorities publish it.
    let one = clients.revoke(&[&bad], 4000);
    std::fs::write(&house.lists, one.der().as_ref()).unwrap();
    assert_eq!(house.reload().await, [""; 0]);
    assert_eq!(
        (house.status(&good).await, house.status(&bad).await),
        (200, 0)
    );
    house
        .mirror
        .wait_for_metrics("a refusal", |samples| {
            let labels = [("method", "certificate"), ("result", "rejected")];
            samples.sum("roadstead_auth_total", &labels) == 1.0
        })
        .await;
    let deadline = tokio::time::Instant::now() + WAIT_MAX;
    while open.status("/v2/").await != 0 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the connection lives on"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // A file that cannot be used changes nothing.
    std::fs::write(&house.lists, "nothing").unwrap();
    assert_eq!(house.reload().await.len(), 1);
    assert_eq!(
        (house.status(&good).await, house.status(&bad).await),
        (200, 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_list_goes_on_to_count() {
    let clients = Authority::new("clients");
    let (good, bad) = (
        clients.client("good", Vec::new()),
        clients.client("bad", Vec::new()),
    );
    let old = clients.revoke(&[&bad], 2021).pem().unwrap();
    let house = House::new(&[&clients], old.as_bytes()).await.unwrap();
    assert_eq!(
        (house.status(&good).await, house.status(&bad).await),
        (200, 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_authority_needs_its_list() {
    let (one, other) = (Authority::new("one"), Authority::new("other"));
    let (of_one, of_other) = (
        one.client("node", Vec::new()),
        other.client("node", Vec::new()),
    );
    let list = one.revoke(&[], 4000).pem().unwrap();
    let house = House::new(&[&one, &other], list.as_bytes()).await.unwrap();
    assert_eq!(house.status(&of_one).await, 200);
    assert_eq!(
        house.status(&of_other).await,
        0,
        "nobody knows whether it is revoked"
    );
    let both = list + &other.revoke(&[], 4000).pem().unwrap();
    std::fs::write(&house.lists, both).unwrap();
    assert_eq!(house.reload().await, [""; 0]);
    assert_eq!(house.status(&of_other).await, 200);
    // A list of a stranger with the same name is none.
    let stranger = Authority::new("one").revoke(&[], 4000).pem().unwrap();
    std::fs::write(&house.lists, stranger).unwrap();
    assert_eq!(house.reload().await, [""; 0]);
    assert_eq!(house.status(&of_one).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_list_is_an_error_at_the_start() {
    let clients = Authority::new("clients");
    for (text, expected) in [
        (&b""[..], "revoked.pem: there is no revocation list in it"),
        (b"\x30\x03\x02\x01\x01", "revoked.pem"),
        (
            clients.pem().as_bytes(),
            "there is no revocation list in it",
        ),
    ] {
        let error = House::new(&[&clients], text).await.err().unwrap();
        assert!(error.contains(expected), "{error}");
    }
}

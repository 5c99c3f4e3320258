//! Several certificates, and files that change.

use super::pki::{self, Authority, Pair};
use crate::common::{FakeRegistry, Mirror, MirrorBuilder, WAIT_MAX, secure};
use roadstead::server::{PairConfig, TlsConfig};
use std::path::Path;
use std::time::Duration;

async fn mirror(registry: &FakeRegistry, pairs: impl FnOnce(&Path) -> Vec<PairConfig>) -> Mirror {
    let builder = MirrorBuilder::of(registry);
    let pairs = pairs(builder.dir());
    let [PairConfig { cert, key }, ..] = pairs.as_slice() else {
        panic!("no certificate")
    };
    let tls = TlsConfig {
        pairs: pairs.clone(),
        ..TlsConfig::of(cert.clone(), key.clone())
    };
    builder.with(|config| secure(config, tls)).start().await
}

async fn shown(mirror: &Mirror, host: &str, roots: &Authority) -> Option<Vec<u8>> {
    let connection = pki::connect(mirror.address(), host, roots, None)
        .await
        .ok()?;
    Some(connection.certificate.to_vec())
}

/// Waits until new connections get this certificate.
async fn wait_for(mirror: &Mirror, host: &str, roots: &Authority, pair: &Pair) {
    let deadline = tokio::time::Instant::now() + WAIT_MAX;
    while shown(mirror, host, roots).await.as_deref() != Some(&pair.cert.der()[..]) {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the new certificate is not used"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_host_gets_the_certificate_that_names_it() {
    let (registry, authority) = (FakeRegistry::start().await, Authority::new("authority"));
    let first = authority.host(&["mirror.test", "other.test"]);
    let wild = authority.host(&["*.mirror.test"]);
    let exact = authority.host(&["ghcr.mirror.test"]);
    let mirror = mirror(&registry, |dir| {
        let pairs = [(&first, "first"), (&wild, "wild"), (&exact, "exact")];
        pairs
            .iter()
            .map(|(pair, name)| pair.write(dir, name))
            .collect()
    });
    let mirror = mirror.await;
    for (host, expected) in [
        ("mirror.test", &first),
        ("other.test", &first),
        ("ghcr.mirror.test", &exact),
        ("GHCR.mirror.test", &exact),
        ("quay.mirror.test", &wild),
    ] {
        let got = shown(&mirror, host, &authority).await;
        assert_eq!(got.as_deref(), Some(&expected.cert.der()[..]), "{host}");
    }
    // A host that none names gets the first, which its client does not take.
    assert_eq!(shown(&mirror, "stranger.test", &authority).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_files_hold_for_new_connections() {
    let (registry, authority) = (FakeRegistry::start().await, Authority::new("authority"));
    let (one, other) = (
        authority.host(&["mirror.test"]),
        authority.host(&["other.test"]),
    );
    let mirror = mirror(&registry, |dir| {
        vec![one.write(dir, "one"), other.write(dir, "other")]
    });
    let mirror = mirror.await;
    let dir = mirror.store();
    let dir = dir.parent().unwrap();
    let mut old = pki::connect(mirror.address(), "mirror.test", &authority, None)
        .await
        .unwrap();
    assert_eq!(old.status("/v2/").await, 200);

    let newer = authority.host(&["mirror.test"]);
    newer.write(dir, "one");
    wait_for(&mirror, "mirror.test", &authority, &newer).await;
    assert_eq!(old.status("/v2/").await, 200, "what was there goes on");

    // A key that is not the certificate's: that pair stays as it was, and the others do not.
    let stranger = authority.host(&["mirror.test"]);
    std::fs::write(dir.join("one.key"), stranger.key.serialize_pem()).unwrap();
    let newest = authority.host(&["other.test"]);
    newest.write(dir, "other");
    wait_for(&mirror, "other.test", &authority, &newest).await;
    let kept = shown(&mirror, "mirror.test", &authority).await;
    assert_eq!(kept.as_deref(), Some(&newer.cert.der()[..]));

    // SIGHUP does the same.
    stranger.write(dir, "one");
    let certificates = mirror.certificates().clone();
    let unusable = tokio::task::spawn_blocking(move || certificates.reload()).await;
    assert_eq!(unusable.unwrap(), Vec::<String>::new());
    let got = shown(&mirror, "mirror.test", &authority).await;
    assert_eq!(got.as_deref(), Some(&stranger.cert.der()[..]));
    // A file that is gone changes nothing.
    std::fs::remove_file(dir.join("one.crt")).unwrap();
    let certificates = mirror.certificates().clone();
    let unusable = tokio::task::spawn_blocking(move || certificates.reload()).await;
    // It is told to those who asked for the reload.
    assert!(
        matches!(&unusable.unwrap()[..], [why] if why.contains("one.crt")),
        "one.crt is gone"
    );
    let got = shown(&mirror, "mirror.test", &authority).await;
    assert_eq!(got.as_deref(), Some(&stranger.cert.der()[..]));
}

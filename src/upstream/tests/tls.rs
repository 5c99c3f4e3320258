//! HTTPS with a certificate of one's own.

use std::path::Path;
use std::sync::Arc;

use rustls_pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

use super::server::{Server, answer};
use super::*;
use crate::oci::AcceptClass;
use crate::upstream::{FetchError, ManifestFetch};

/// A server with a fresh certificate for 127.0.0.1, which is written to `ca_file`.
async fn server(ca_file: &Path, protocols: &[&[u8]]) -> Server {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    #[expect(
        clippy::disallowed_methods,
        reason = "a test's own file, not the store's"
    )]
    std::fs::write(ca_file, made.cert.pem()).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    Server::listen(Some(acceptor), |_| answer(200, &[], "{}").into()).await
}

async fn pull(upstream: &Upstream) -> Result<ManifestFetch, FetchError> {
    let all = AcceptClass::ALL;
    upstream
        .manifest(&repository(), &latest(), all, Patience::Wait)
        .await
}

#[tokio::test]
async fn a_ca_file_is_trusted_and_alpn_chooses_the_protocol() {
    let directory = tempfile::tempdir().unwrap();
    let ca_file = directory.path().join("ca.pem");
    let cases: [(&[&[u8]], http::Version); 3] = [
        (&[b"h2", b"http/1.1"], http::Version::HTTP_2),
        (&[b"http/1.1"], http::Version::HTTP_11),
        (&[], http::Version::HTTP_11),
    ];
    for (protocols, version) in cases {
        let server = server(&ca_file, protocols).await;
        let mut config = config(&[&server.url()]);
        config.endpoints[0].ca_file = Some(ca_file.clone());
        let upstream = upstream(&config);
        for _ in 0..2 {
            pull(&upstream).await.unwrap();
        }
        let blob = blob(&upstream, 0).await.unwrap();
        assert_eq!(blob.total, Some(2));
        assert!(server.seen().iter().all(|seen| seen.version == version));
        assert_eq!(server.connections(), 1);
    }
}

#[tokio::test]
async fn an_unknown_certificate_is_not_trusted() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(&directory.path().join("ca.pem"), &[b"h2"]).await;
    let error = pull(&simple(&server.url())).await.unwrap_err();
    let FetchError::Connect(why) = &error else {
        panic!("{error:?}")
    };
    assert!(why.contains("certificate"), "{why}");
    assert_eq!(server.seen().len(), 0);
}

//! Which certificates an upstream is believed by.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject};

/// The TLS configuration for an endpoint: the system's roots, and those in `ca_file`.
///
/// # Errors
/// One line naming the file.
pub(super) fn config(ca_file: Option<&Path>) -> Result<ClientConfig, String> {
    let mut roots = native_roots().clone();
    if let Some(path) = ca_file {
        add_file(&mut roots, path).map_err(|why| format!("ca_file {}: {why}", path.display()))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())?;
    let mut added = 0_usize;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
        added += 1;
    }
    if added == 0 {
        return Err("no certificate in it".to_owned());
    }
    Ok(())
}

/// The system's roots, read once for all upstreams. A machine without a CA bundle still starts:
/// its upstreams may be plain HTTP or have a `ca_file`.
fn native_roots() -> &'static RootCertStore {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "cannot read some of the system's root certificates");
        }
        let mut roots = RootCertStore::empty();
        let (added, _ignored) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            tracing::warn!("the system has no root certificates: HTTPS upstreams need a `ca_file`");
        }
        roots
    })
}

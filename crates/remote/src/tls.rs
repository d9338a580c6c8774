//! TLS.
//!
//! Owns: whom we trust. Promises: the system's roots and what `--ca` adds, TLS 1.2 and 1.3, and no way to trust anyone else. Leaves out:
//! which hosts need none (`connect`).

use crate::fail::local;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use securereg::{Error, ErrorKind, Result};
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::TlsConnector;

/// A connector that trusts the system's roots and those in `ca`.
pub(crate) fn connector(ca: Option<&Path>) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(system.certs);
    if let Some(ca) = ca {
        let bad = |why: &dyn std::fmt::Display| {
            Error::new(ErrorKind::InvalidInput, format!("{}: {why}: give certificates in PEM", ca.display()))
        };
        let text = std::fs::read(ca).map_err(|e| local(format_args!("reading {}", ca.display()), e))?;
        let mut found = 0;
        for certificate in CertificateDer::pem_slice_iter(&text) {
            roots.add(certificate.map_err(|e| bad(&e))?).map_err(|e| bad(&e))?;
            found += 1;
        }
        if found == 0 {
            return Err(bad(&"it holds no certificate"));
        }
    }
    if roots.is_empty() {
        tracing::warn!("no trusted certificates were found on this system: install ca-certificates, or give --ca");
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::new(ErrorKind::Unsupported, format!("TLS cannot be set up: {e}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

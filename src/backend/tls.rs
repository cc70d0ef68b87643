//! TLS of clients, by rustls on ring.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::settings::TlsSettings;

/// The settings of a client: the authorities in `ca_file` or the system's, and the certificate of the client if there is one.
///
/// # Errors
/// What is wrong with the files.
pub(super) fn client_config(settings: Option<&TlsSettings>) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be used: {error}"))?;
    let mut roots = RootCertStore::empty();
    match settings.and_then(|tls| tls.ca_file.as_deref()) {
        Some(file) => {
            roots.add_parsable_certificates(certificates(file)?);
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let builder = builder.with_root_certificates(roots);
    match settings.and_then(|tls| tls.cert_file.as_deref().zip(tls.key_file.as_deref())) {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => {
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, &error))?;
            let all = certificates(certificate)?;
            let problem = |error| format!("the client's certificate and key cannot be used: {error}");
            builder.with_client_auth_cert(all, key).map_err(problem)
        }
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = || CertificateDer::pem_file_iter(file)?.collect::<Result<Vec<_>, _>>();
    let all = read().map_err(|error| unreadable(file, &error))?;
    if all.is_empty() { Err(format!("the file {} has no certificate", file.display())) } else { Ok(all) }
}

fn unreadable(file: &Path, error: &dyn Error) -> String {
    format!("the file {} cannot be read: {error}", file.display())
}

//! The certificates for TLS to Redis.

use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use redis::{ClientTlsConfig, TlsCertificates};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

use crate::settings::TlsSettings;

/// Reads the files of the settings. Without authorities of its own, those of the system.
pub(super) fn read(settings: Option<&TlsSettings>) -> Result<TlsCertificates, String> {
    let authorities = settings.and_then(|tls| tls.ca_file.as_deref()).map(file).transpose()?;
    let client = settings.and_then(|tls| tls.cert_file.as_deref().zip(tls.key_file.as_deref()));
    let client_tls = client.map(|(certificate, key)| {
        Ok::<_, String>(ClientTlsConfig { client_cert: file(certificate)?, client_key: file(key)? })
    });
    Ok(TlsCertificates {
        client_tls: client_tls.transpose()?,
        root_cert: Some(authorities.unwrap_or_else(of_the_system)),
    })
}

fn file(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("the file {} cannot be read: {error}", path.display()))
}

/// The system's authorities in PEM, without those that cannot be used: the driver would refuse all because of one.
fn of_the_system() -> Vec<u8> {
    let all = rustls_native_certs::load_native_certs().certs;
    let is_usable = |certificate: &CertificateDer<'static>| RootCertStore::empty().add(certificate.clone()).is_ok();
    let pem = |certificate: CertificateDer<'static>| {
        let text = BASE64_STANDARD.encode(&certificate);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    };
    all.into_iter().filter(is_usable).map(pem).collect::<String>().into_bytes()
}

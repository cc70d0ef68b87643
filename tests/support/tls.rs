//! Certificates for tests: an authority, and a server on `localhost` that it has signed.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// The files of a server's certificate, its key, and the authority's certificate, in one folder.
pub(crate) struct Identity {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) authority: PathBuf,
}

impl Identity {
    /// Also the certificate and the key of a client with this name, in files next to the server's.
    pub(crate) fn with_client(folder: &Path, name: &str) -> (Self, PathBuf, PathBuf) {
        let (identity, authority) = Self::signed(folder);
        let key = KeyPair::generate().unwrap();
        let mut client = CertificateParams::new(Vec::new()).unwrap();
        client.distinguished_name.push(DnType::CommonName, name);
        let client = client.signed_by(&key, &authority).unwrap();
        let (certificate_file, key_file) = (folder.join("client.crt"), folder.join("client.key"));
        std::fs::write(&certificate_file, client.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        std::fs::set_permissions(&key_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        (identity, certificate_file, key_file)
    }

    pub(crate) fn write(folder: &Path) -> Self {
        Self::signed(folder).0
    }

    fn signed(folder: &Path) -> (Self, CertifiedIssuer<'static, KeyPair>) {
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut server = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        // Another name than the authority's, or OpenSSL takes it for its own issuer.
        server.distinguished_name.push(DnType::CommonName, "localhost");
        let server = server.signed_by(&key, &authority).unwrap();
        let identity = Self {
            certificate: folder.join("server.crt"),
            key: folder.join("server.key"),
            authority: folder.join("authority.crt"),
        };
        std::fs::write(&identity.certificate, server.pem()).unwrap();
        std::fs::write(&identity.key, key.serialize_pem()).unwrap();
        std::fs::write(&identity.authority, authority.pem()).unwrap();
        (identity, authority)
    }
}

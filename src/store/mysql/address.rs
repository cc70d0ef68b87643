//! The address of a database: `mysql://user:password@host:port/database?sslmode=…&sslrootcert=…`, or `mariadb://`.

use std::net::IpAddr;
use std::time::Duration;

use mysql_async::{Opts, OptsBuilder, SslOpts};
use percent_encoding::percent_decode_str;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use url::Url;

use crate::error::StoreError;
use crate::settings::Secret;

type Result<T, E = String> = std::result::Result<T, E>;

/// How long connecting may take.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// How the connection is protected.
enum Protection {
    None,
    /// With TLS. The server is not verified.
    Encrypted,
    /// With TLS, and a certificate of one of these authorities for the host.
    Verified(Vec<CertificateDer<'static>>),
}

impl Protection {
    /// Reads `sslmode` and `sslrootcert`, and the authorities that they name.
    fn read(url: &Url) -> Result<Self> {
        let (mut mode, mut authorities) = ("disable".into(), None);
        for (name, value) in url.query_pairs() {
            match &*name {
                "sslmode" => mode = value,
                "sslrootcert" => authorities = Some(value),
                _ => return Err("has an unknown parameter; `sslmode` and `sslrootcert` are supported".to_owned()),
            }
        }
        match (&*mode, authorities.as_deref()) {
            ("verify-full", None | Some("system")) => {
                Ok(Self::Verified(usable(rustls_native_certs::load_native_certs().certs)))
            }
            ("verify-full", Some(file)) => Ok(Self::Verified(usable(certificates_in(file)?))),
            ("disable" | "require", Some(_)) => {
                Err("has an sslrootcert without sslmode=verify-full, which alone verifies the server".to_owned())
            }
            ("disable", None) => Ok(Self::None),
            ("require", None) => Ok(Self::Encrypted),
            _ => Err("has an unknown sslmode; use disable, require, verify-full".to_owned()),
        }
    }

    fn options(self) -> Option<SslOpts> {
        match self {
            Self::None => None,
            Self::Encrypted => {
                Some(SslOpts::default().with_danger_accept_invalid_certs(true).with_danger_skip_domain_validation(true))
            }
            Self::Verified(authorities) => {
                let authorities = authorities.iter().map(|authority| authority.to_vec().into()).collect();
                // The built-in ones are those of Mozilla when the driver was published.
                Some(SslOpts::default().with_disable_built_in_roots(true).with_root_certs(authorities))
            }
        }
    }
}

/// Without those that the driver would refuse, and with them all others.
fn usable(mut authorities: Vec<CertificateDer<'static>>) -> Vec<CertificateDer<'static>> {
    authorities.retain(|authority| RootCertStore::empty().add(authority.clone()).is_ok());
    authorities
}

fn certificates_in(file: &str) -> Result<Vec<CertificateDer<'static>>> {
    let read = || CertificateDer::pem_file_iter(file)?.collect::<Result<Vec<_>, _>>();
    match read() {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(format!("has an sslrootcert without a certificate: {file}")),
        Err(error) => Err(format!("has an sslrootcert that cannot be read: {file}: {error}")),
    }
}

/// Where the database is. The address is read again for each connection, since its source may change.
#[derive(Clone)]
pub(crate) struct Address {
    url: Secret,
    /// Without the password, for messages.
    pub(crate) shown: String,
    is_unverified: bool,
}

impl Address {
    /// # Errors
    /// What is wrong with the address, without the address.
    pub(super) fn parse(url: Secret) -> Result<Self> {
        let text = url.read().map_err(|error| error.to_string())?;
        let parsed = Parsed::parse(&text)?;
        let is_unverified = !matches!(parsed.protection, Protection::Verified(_)) && !is_local(&parsed.host);
        let shown = parsed.shown();
        drop(text);
        Ok(Self { url, shown, is_unverified })
    }

    /// The server on another machine that connections do not verify.
    pub(super) fn unverified(&self) -> Option<String> {
        self.is_unverified.then(|| self.shown.clone())
    }

    pub(super) fn unreachable(&self, reason: impl ToString) -> StoreError {
        StoreError::Unreachable { target: self.shown.clone(), reason: reason.to_string() }
    }

    pub(super) fn not_migrated(&self, state: &'static str) -> StoreError {
        StoreError::NotMigrated { target: self.shown.clone(), state }
    }

    /// What the driver needs for a connection now. Reading the address may block.
    pub(super) async fn options(&self, setup: &[&str]) -> std::result::Result<Opts, StoreError> {
        let url = self.url.clone();
        let read = move || Parsed::parse(&url.read().map_err(|error| error.to_string())?);
        let parsed = tokio::task::spawn_blocking(read).await.map_err(|panic| self.unreachable(panic))?;
        parsed.map(|parsed| parsed.options(setup)).map_err(|reason| self.unreachable(reason))
    }
}

struct Parsed {
    host: String,
    port: u16,
    user: Option<String>,
    password: Option<String>,
    database: String,
    protection: Protection,
}

impl Parsed {
    fn parse(text: &str) -> Result<Self> {
        let url = Url::parse(text).map_err(|_| "is not a valid mysql:// address".to_owned())?;
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or("names no host")?;
        let database = decode(url.path().trim_start_matches('/'))?;
        if database.is_empty() || database.contains('/') {
            return Err("names no database: write mysql://user@host/database".to_owned());
        }
        let user = Some(decode(url.username())?).filter(|user| !user.is_empty());
        let password = url.password().map(decode).transpose()?;
        let protection = Protection::read(&url)?;
        let host = host.trim_matches(['[', ']']).to_owned();
        Ok(Self { host, port: url.port().unwrap_or(3306), user, password, database, protection })
    }

    fn shown(&self) -> String {
        let user = self.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("mysql://{user}{host}:{}/{}", self.port, self.database)
    }

    fn options(self, setup: &[&str]) -> Opts {
        let builder = OptsBuilder::default()
            .ip_or_hostname(self.host)
            .tcp_port(self.port)
            .user(self.user)
            .pass(self.password)
            .db_name(Some(self.database))
            .prefer_socket(false)
            .init(setup.iter().map(|&statement| statement.to_owned()).collect::<Vec<_>>());
        let ssl = self.protection.options();
        if ssl.is_some() {
            choose_tls_provider();
        }
        builder.ssl_opts(ssl).into()
    }
}

/// The driver asks rustls for the process' provider, which panics if several are linked and none was chosen. A choice of the
/// application stays.
fn choose_tls_provider() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Fails if another thread chooses at the same moment; then there is one.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

fn is_local(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
}

fn decode(text: &str) -> Result<String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(String::from).map_err(|_| "has a part that is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        for (url, shown) in [
            ("mysql://ann:s%40cret@db.example:3307/app?sslmode=verify-full", "mysql://ann@db.example:3307/app"),
            ("mariadb://localhost/app", "mysql://localhost:3306/app"),
            ("mysql://ann@[::1]/app", "mysql://ann@[::1]:3306/app"),
        ] {
            assert_eq!(Address::parse(url.into()).unwrap().shown, shown);
        }
    }

    #[test]
    fn an_address_that_is_not_valid_is_refused_without_being_shown() {
        for url in ["mysql:", "mysql://secret@host", "mysql://host/a/secret", "mysql://host/app?sslmode=secret"] {
            let problem = Address::parse(url.into()).err().unwrap();
            assert!(!problem.contains("secret"), "{problem}");
        }
    }

    #[test]
    fn authorities_are_read_for_a_server_that_is_verified_and_refused_for_one_that_is_not() {
        for (parameters, expected) in [
            ("sslrootcert=/nowhere/ca.crt&sslmode=verify-full", "/nowhere/ca.crt"),
            ("sslrootcert=Cargo.toml&sslmode=verify-full", "without a certificate"),
            ("sslrootcert=ca.crt", "sslmode=verify-full"),
            ("sslrootcert=ca.crt&sslmode=require", "sslmode=verify-full"),
            ("sslcert=client.crt", "`sslmode` and `sslrootcert`"),
        ] {
            let problem = Address::parse(format!("mysql://host/app?{parameters}").into()).err().unwrap();
            assert!(problem.contains(expected), "{problem}");
        }
        assert!(Address::parse("mysql://host/app?sslmode=verify-full&sslrootcert=system".into()).is_ok());
    }

    #[test]
    fn a_server_on_another_machine_is_verified_by_verify_full_alone() {
        let is_unverified = |url: &str| Address::parse(url.into()).unwrap().unverified().is_some();
        assert!(is_unverified("mysql://db.example/app") && is_unverified("mysql://db.example/app?sslmode=require"));
        assert!(
            !is_unverified("mysql://127.0.0.1/app") && !is_unverified("mysql://db.example/app?sslmode=verify-full")
        );
    }
}

//! The address of a database, read as libpq reads it: `postgres://user:password@host:port,host:port/database?parameters`.
//!
//! The driver reads what one server needs. Several hosts and the parameters of TLS are read here.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;
use tokio_postgres::config::Host;

use super::auth_guard::{AuthMethod, AuthMethods};
use super::errors::chain;

type Result<T, E = String> = std::result::Result<T, E>;

/// The value of an environment variable.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// How the connection is protected, as libpq's `sslmode` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SslMode {
    /// Without TLS.
    Disable,
    /// Without TLS if the server accepts that, otherwise with TLS.
    Allow,
    /// With TLS if the server has it. The server is not verified.
    Prefer,
    /// With TLS. The server is not verified.
    Require,
    /// With TLS, and a certificate of a known authority.
    VerifyCa,
    /// With TLS, and a certificate of a known authority for the host.
    VerifyFull,
}

impl SslMode {
    const ALL: [(&str, Self); 6] = [
        ("disable", Self::Disable),
        ("allow", Self::Allow),
        ("prefer", Self::Prefer),
        ("require", Self::Require),
        ("verify-ca", Self::VerifyCa),
        ("verify-full", Self::VerifyFull),
    ];

    pub(super) fn is_verified(self) -> bool {
        matches!(self, Self::VerifyCa | Self::VerifyFull)
    }
}

impl FromStr for SslMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self> {
        named(&Self::ALL, text).ok_or_else(|| format!("has an unknown sslmode; use {}", names(&Self::ALL)))
    }
}

impl fmt::Display for SslMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(_, mode)| mode == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

fn named<T: Copy>(all: &[(&str, T)], text: &str) -> Option<T> {
    all.iter().find(|(name, _)| *name == text).map(|(_, value)| *value)
}

fn names<T>(all: &[(&str, T)]) -> String {
    all.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// The certificates that verify a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RootCertificates {
    System,
    File(PathBuf),
}

/// The parameters of TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TlsParameters {
    pub(super) mode: SslMode,
    pub(super) roots: RootCertificates,
    /// The files of the client's certificates and of its key.
    pub(super) client: Option<(PathBuf, PathBuf)>,
}

/// A server of the address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) host: Host,
    /// The address to connect to instead of looking up the host.
    pub(super) hostaddr: Option<IpAddr>,
    pub(super) port: u16,
}

impl Server {
    /// Whether what is sent stays on this machine.
    pub(super) fn is_local(&self) -> bool {
        let is_loopback = |name: &str| {
            name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
        };
        match (&self.host, self.hostaddr) {
            (_, Some(address)) => address.to_canonical().is_loopback(),
            (Host::Unix(_), None) => true,
            (Host::Tcp(name), None) => is_loopback(name),
        }
    }

    pub(super) fn is_socket(&self) -> bool {
        matches!((&self.host, self.hostaddr), (Host::Unix(_), None))
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        match host {
            Host::Unix(folder) => write!(f, "{}/.s.PGSQL.{port}", folder.display()),
            Host::Tcp(name) if name.contains(':') => write!(f, "[{name}]:{port}"),
            Host::Tcp(name) => write!(f, "{name}:{port}"),
        }
    }
}

/// An address, read.
#[derive(Debug, Clone)]
pub(super) struct Address {
    /// What all servers have in common; it names none of them.
    pub(super) config: Config,
    /// In the order in which they are tried; never empty.
    pub(super) servers: Vec<Server>,
    pub(super) tls: TlsParameters,
    /// The methods of authentication that a server may ask for.
    pub(super) methods: AuthMethods,
}

/// Servers and database, without the user and the password.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers: Vec<String> = self.servers.iter().map(ToString::to_string).collect();
        write!(f, "postgres://{}/{}", servers.join(","), self.config.get_dbname().unwrap_or_default())
    }
}

const DEFAULT_PORT: u16 = 5432;

/// Parameters that libpq knows and that mean nothing here.
const IGNORED: [&str; 4] = ["client_encoding", "gssencmode", "sslcompression", "sslsni"];

impl Address {
    /// Reads an address; `environment` gives what it leaves open.
    ///
    /// # Errors
    /// The address is not valid. The text names no part of it that may be a password.
    pub(super) fn read(text: &str, environment: Environment<'_>) -> Result<Self> {
        let text = text.trim();
        let rest = ["postgres://", "postgresql://"].iter().find_map(|scheme| text.strip_prefix(scheme));
        let rest = rest.ok_or_else(|| "is not a URL that begins with postgres://".to_owned())?;
        let (base, query) = rest.split_once('?').map_or((rest, ""), |(base, query)| (base, query));
        let (authority, database) = base.split_once('/').map_or((base, ""), |(authority, path)| (authority, path));
        let (credentials, hosts) = credentials(authority, database, query)?;
        let mut parameters = Parameters::read(query)?;
        parameters.fill(environment);
        let servers = servers(hosts, &mut parameters)?;
        let tls = tls(&mut parameters)?;
        let methods = parameters.take("require_auth").map_or(Ok(AuthMethods::ANY), |list| list.parse())?;
        let mut config = parameters.config(credentials, database)?;
        if config.get_application_name().is_none() {
            config.application_name("actix-outbox");
        }
        Ok(Self { config, servers, tls, methods })
    }

    /// Whether the password may be sent to this server as it is.
    pub(super) fn may_send_password_in_clear(&self, server: &Server) -> bool {
        self.tls.mode.is_verified() || server.is_local() || self.methods.names(AuthMethod::Password)
    }

    /// Servers that anyone in between can pretend to be.
    pub(super) fn unverified(&self) -> Option<String> {
        let unverified = |server: &&Server| !self.tls.mode.is_verified() && !server.is_local();
        let servers: Vec<String> = self.servers.iter().filter(unverified).map(ToString::to_string).collect();
        (!servers.is_empty()).then(|| servers.join(", "))
    }
}

/// The part before the `@`, and the hosts. An `@` further behind is of a password that is not escaped.
fn credentials<'a>(authority: &'a str, database: &str, query: &str) -> Result<(&'a str, &'a str)> {
    let parameter_name = query.split_once('=').map_or(query, |(name, _)| name);
    if database.contains('@') || parameter_name.contains('@') {
        return Err("has an @ behind a / or a ?; in a user name or a password write / as %2F and ? as %3F".to_owned());
    }
    let (credentials, hosts) = authority.split_once('@').unwrap_or(("", authority));
    if hosts.contains('@') {
        return Err("has a second @; in a user name or a password write @ as %40".to_owned());
    }
    Ok((credentials, hosts))
}

/// The address' parameters in their order, decoded.
struct Parameters(Vec<(String, String)>);

impl Parameters {
    fn read(query: &str) -> Result<Self> {
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').ok_or_else(|| "has a parameter without a value".to_owned())?;
            let name = decode(name)?;
            // Libraries write a space as in a form; libpq's options have no plus.
            let value = if name == "options" { value.replace('+', "%20") } else { value.to_owned() };
            Ok((name, decode(&value)?))
        };
        query.split('&').filter(|pair| !pair.is_empty()).map(pair).collect::<Result<_>>().map(Self)
    }

    /// Adds what the environment says about parameters that the address does not have.
    fn fill(&mut self, environment: Environment<'_>) {
        const VARIABLES: [(&str, &str); 8] = [
            ("PGSSLMODE", "sslmode"),
            ("PGSSLROOTCERT", "sslrootcert"),
            ("PGSSLCERT", "sslcert"),
            ("PGSSLKEY", "sslkey"),
            ("PGSSLNEGOTIATION", "sslnegotiation"),
            ("PGCHANNELBINDING", "channel_binding"),
            ("PGREQUIREAUTH", "require_auth"),
            ("PGTARGETSESSIONATTRS", "target_session_attrs"),
        ];
        for (variable, name) in VARIABLES {
            let is_open = self.0.iter().all(|(given, _)| given != name);
            if let Some(value) = environment(variable).filter(|value| is_open && !value.is_empty()) {
                self.0.push((name.to_owned(), value));
            }
        }
    }

    /// Removes a parameter; the last one counts.
    fn take(&mut self, name: &str) -> Option<String> {
        self.take_all(name).pop()
    }

    fn take_all(&mut self, name: &str) -> Vec<String> {
        self.0.extract_if(.., |(given, _)| given == name).map(|(_, value)| value).collect()
    }

    /// What the driver reads of an address.
    fn config(mut self, credentials: &str, database: &str) -> Result<Config> {
        for name in IGNORED {
            self.take(name);
        }
        if let Some(name) = self.take("fallback_application_name")
            && !self.0.iter().any(|(given, _)| given == "application_name")
        {
            self.0.push(("application_name".to_owned(), name));
        }
        self.check_session()?;
        let encoded =
            |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
        let query: Vec<String> =
            self.0.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
        let at = if credentials.is_empty() { "" } else { "@" };
        let text = format!("postgres://{credentials}{at}/{database}?{}", query.join("&"));
        text.parse()
            .map_err(|error| format!("is not a valid PostgreSQL URL: {}", chain::<tokio_postgres::Error>(&error)))
    }

    /// An outbox needs a server that accepts writes; the check is made for each connection.
    fn check_session(&mut self) -> Result<()> {
        match self.take("target_session_attrs").as_deref() {
            None | Some("any" | "read-write" | "primary") => Ok(()),
            Some(_) => Err("has a target_session_attrs that does not select a primary; use read-write".to_owned()),
        }
    }
}

fn decode(text: &str) -> Result<String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(|text| text.into_owned()).map_err(|_| "has an escape that is not UTF-8".to_owned())
}

/// The servers of `host:port,host:port`, or of the parameters `host`, `hostaddr` and `port`.
fn servers(hosts: &str, parameters: &mut Parameters) -> Result<Vec<Server>> {
    let mut listed = |name| -> Vec<String> {
        let values = parameters.take_all(name);
        values.iter().flat_map(|value| value.split(',')).map(str::to_owned).collect()
    };
    let (names, addresses, ports) = (listed("host"), listed("hostaddr"), listed("port"));
    let from_address: Vec<(String, Option<u16>)> =
        hosts.split(',').filter(|_| !hosts.is_empty()).map(host_and_port).collect::<Result<_>>()?;
    let count = names.len().max(addresses.len()).max(from_address.len()).max(1);
    if names.len() > 1 && from_address.iter().any(|(name, _)| !name.is_empty()) {
        return Err("names hosts twice: before the database, and as the parameter host".to_owned());
    }
    for (what, given) in [("host", names.len()), ("hostaddr", addresses.len()), ("port", ports.len())] {
        if given > 1 && given != count {
            return Err(format!("has {given} values of {what} for {count} servers"));
        }
    }
    (0..count)
        .map(|n| {
            let (name, port) = from_address.get(n).cloned().unwrap_or_default();
            let given = names.get(n).or(names.first().filter(|_| names.len() == 1)).filter(|name| !name.is_empty());
            let hostaddr = addresses
                .get(n)
                .filter(|address| !address.is_empty())
                .map(|address| address.parse().map_err(|_| "has a hostaddr that is not an IP address".to_owned()));
            let hostaddr = hostaddr.transpose()?;
            let default = hostaddr.map_or_else(|| "localhost".to_owned(), |address: IpAddr| address.to_string());
            let name = given.cloned().or(Some(name).filter(|name| !name.is_empty())).unwrap_or(default);
            let named_port = ports.get(n).or(ports.first()).filter(|port| !port.is_empty()).map(|port| number(port));
            let port = named_port.transpose()?.or(port).unwrap_or(DEFAULT_PORT);
            let host = if name.starts_with(['/', '@']) { Host::Unix(name.into()) } else { Host::Tcp(name) };
            Ok(Server { host, hostaddr, port })
        })
        .collect()
}

/// `host`, `host:port`, `[IPv6]` or `[IPv6]:port`; each may be empty.
fn host_and_port(text: &str) -> Result<(String, Option<u16>)> {
    let (name, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, "")) => (name, None),
        Some((name, rest)) => (name, Some(rest.strip_prefix(':').ok_or("has text behind an IPv6 address")?)),
        None => text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port))),
    };
    let port = port.filter(|port| !port.is_empty()).map(number).transpose()?;
    Ok((decode(name)?, port))
}

fn number(port: &str) -> Result<u16> {
    port.parse().map_err(|_| "has a port that is not a number from 0 to 65535".to_owned())
}

fn tls(parameters: &mut Parameters) -> Result<TlsParameters> {
    let roots = parameters.take("sslrootcert").filter(|file| !file.is_empty());
    let is_system = roots.as_deref() == Some("system");
    let mode = parameters.take("sslmode").map(|mode| mode.parse()).transpose()?;
    let mode = match (mode, &roots) {
        (None, Some(_)) if is_system => SslMode::VerifyFull,
        (Some(mode), Some(_)) if is_system && mode != SslMode::VerifyFull => {
            return Err(format!("has sslmode={mode} with sslrootcert=system; use sslmode=verify-full"));
        }
        // As libpq does: with an authority to compare with, an encrypted connection is verified.
        (Some(SslMode::Require), Some(_)) => SslMode::VerifyCa,
        (mode, _) => mode.unwrap_or(SslMode::Prefer),
    };
    let roots = match roots {
        Some(file) if !is_system => RootCertificates::File(file.into()),
        _ => RootCertificates::System,
    };
    let client = match (parameters.take("sslcert"), parameters.take("sslkey")) {
        (Some(certificates), Some(key)) => Some((certificates.into(), key.into())),
        (None, None) => None,
        _ => return Err("has one of sslcert and sslkey; a client's certificate needs both".to_owned()),
    };
    Ok(TlsParameters { mode, roots, client })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Address> {
        Address::read(text, &|_| None)
    }

    fn shown(text: &str) -> String {
        read(text).map_or_else(|error| error, |address| address.to_string())
    }

    #[test]
    fn servers_are_read_as_libpq_reads_them() {
        for (given, expected) in [
            ("postgres://h1:5432,h2:5433/app", "postgres://h1:5432,h2:5433/app"),
            ("postgresql://ann:pw@h1,h2:6000/app", "postgres://h1:5432,h2:6000/app"),
            ("postgres:///app?host=a,b&port=1,2", "postgres://a:1,b:2/app"),
            ("postgres:///app?host=a&host=b&port=7", "postgres://a:7,b:7/app"),
            ("postgres://?host=a", "postgres://a:5432/"),
            ("postgres://", "postgres://localhost:5432/"),
            ("postgres:///app", "postgres://localhost:5432/app"),
            ("postgres://:6000/app", "postgres://localhost:6000/app"),
            ("postgres://h1/app?port=6000", "postgres://h1:6000/app"),
            ("postgres://h1/app?hostaddr=10.0.0.1", "postgres://h1:5432/app"),
            ("postgres:///app?hostaddr=10.0.0.1,10.0.0.2", "postgres://10.0.0.1:5432,10.0.0.2:5432/app"),
            ("postgres://[::1]:6000,[fe80::1]/app", "postgres://[::1]:6000,[fe80::1]:5432/app"),
            ("postgres://%2Fvar%2Frun%2Fpostgresql/app", "postgres:///var/run/postgresql/.s.PGSQL.5432/app"),
            ("postgres:///app?host=/tmp", "postgres:///tmp/.s.PGSQL.5432/app"),
            ("postgres://ann%40srv:p%2Fw%40@db/app", "postgres://db:5432/app"),
            (" postgres://db/app\n", "postgres://db:5432/app"),
            ("postgres://db/app?gssencmode=disable&sslsni=1&client_encoding=UTF8", "postgres://db:5432/app"),
        ] {
            assert_eq!(shown(given), expected, "{given}");
        }
    }

    #[test]
    fn an_address_that_is_not_valid_says_what_to_write() {
        for (given, expected) in [
            ("mysql://db/app", "begins with postgres://"),
            ("postgres://ann:12/34@host/app", "%2F"),
            ("postgres://ann:p?w@host/app", "%3F"),
            ("postgres://ann:p@w@host/app", "%40"),
            ("postgres://h1:99999/app", "0 to 65535"),
            ("postgres://h1,h2/app?host=a,b", "names hosts twice"),
            ("postgres:///app?host=a,b,c&port=1,2", "2 values of port for 3 servers"),
            ("postgres:///app?hostaddr=db", "not an IP address"),
            ("postgres://db/app?sslmode=on", "disable, allow, prefer, require, verify-ca, verify-full"),
            ("postgres://db/app?sslrootcert=system&sslmode=require", "verify-full"),
            ("postgres://db/app?sslcert=a.pem", "needs both"),
            ("postgres://db/app?require_auth=ldap", "password, md5, scram-sha-256, none"),
            ("postgres://db/app?target_session_attrs=standby", "read-write"),
            ("postgres://db/app?colour=red", "colour"),
            ("postgres://db/app?sslmode", "without a value"),
            ("postgres://d%FFb/app", "not UTF-8"),
        ] {
            let error = read(given).map(|address| address.to_string()).unwrap_err();
            assert!(error.contains(expected), "{given}: {error}");
            assert!(!error.contains("34") && !error.contains("p?w"), "{given}: {error}");
        }
    }

    #[test]
    fn an_address_leaves_tls_to_the_environment_and_then_to_prefer() {
        let from = |text: &str, mode: &'static str| {
            let environment = move |name: &str| (name == "PGSSLMODE").then(|| mode.to_owned());
            Address::read(text, &environment).unwrap().tls.mode
        };
        assert_eq!(from("postgres://db/app", ""), SslMode::Prefer);
        assert_eq!(from("postgres://db/app", "verify-full"), SslMode::VerifyFull);
        assert_eq!(from("postgres://db/app?sslmode=disable", "verify-full"), SslMode::Disable);
        assert_eq!(from("postgres://db/app?sslrootcert=system", ""), SslMode::VerifyFull);
        assert_eq!(from("postgres://db/app?sslmode=require&sslrootcert=ca.pem", ""), SslMode::VerifyCa);
    }

    #[test]
    fn a_password_is_sent_as_it_is_only_where_it_is_safe_or_asked_for() {
        let may = |text: &str| {
            let address = read(text).unwrap();
            address.may_send_password_in_clear(&address.servers[0])
        };
        for (given, expected) in [
            ("postgres://db/app", false),
            ("postgres://db/app?sslmode=require", false),
            ("postgres://db/app?sslmode=verify-ca", true),
            ("postgres://db/app?sslmode=disable&require_auth=password", true),
            ("postgres://db/app?sslmode=disable&require_auth=!md5", false),
            ("postgres://localhost/app", true),
            ("postgres://127.1.2.3/app", true),
            ("postgres://[::1]/app", true),
            ("postgres://db/app?hostaddr=127.0.0.1", true),
            ("postgres://localhost/app?hostaddr=10.0.0.1", false),
            ("postgres:///app?host=/tmp", true),
        ] {
            assert_eq!(may(given), expected, "{given}");
        }
    }
}

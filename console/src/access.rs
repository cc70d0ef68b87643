//! Access to the console: a user signs in with a secret and then sends a signed cookie; a program sends a bearer token.

use std::net::IpAddr;

use actix_web::cookie::time::Duration as CookieSpan;
use actix_web::cookie::{Cookie, CookieJar, Key, SameSite};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use ipnet::IpNet;
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use super::WebError;
use actix_outbox::{Secret, WebSettings};

/// The minimum length of a secret in bytes, so that it cannot be guessed.
const SHORTEST_SECRET: usize = 16;

/// The cookie name under which a session is signed; the browser's cookie also has the port in its name.
const COOKIE: &str = "outbox_session";

/// How long a session lasts.
const SESSION: TimeDelta = TimeDelta::hours(12);

/// The access rules of the console.
#[derive(Clone)]
pub struct Access {
    keyrings: CredentialSet,
    hosts: Vec<String>,
    proxies: Vec<IpNet>,
}

#[derive(Clone)]
enum CredentialSet {
    /// No secret; only this machine has access.
    None(Key),
    Secrets {
        operator: RoleKey,
        reader: Option<RoleKey>,
    },
}

/// What is kept of a secret: enough to recognise it, too little to reveal it.
#[derive(Clone)]
struct RoleKey {
    digest: [u8; 32],
    /// Signs the sessions of this secret's users. Each role has its own key, so that a reader's cookie reveals nothing of the
    /// operators' secret, and remains a reader's if that secret becomes the operators'.
    key: Key,
}

impl RoleKey {
    fn new(secret: &Secret, role: Role) -> Self {
        let digest = digest(secret.expose());
        let purpose: &[u8] = match role {
            Role::Operator => b"sessions of outbox operators",
            Role::Reader => b"sessions of outbox readers",
        };
        let key = Sha512::new().chain_update(purpose).chain_update(digest).finalize();
        Self { digest, key: Key::from(&key) }
    }
}

/// What a user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Read.
    Reader,
    /// Read, and change events.
    Operator,
}

/// A signed-in user. The role is that of the key which signs the cookie.
#[derive(Debug, Clone)]
pub(crate) struct SignIn {
    pub(crate) role: Role,
    /// The token that each form and each request that changes something has to repeat.
    pub(crate) csrf: Uuid,
    begun_at: DateTime<Utc>,
}

impl SignIn {
    pub(crate) fn new(role: Role) -> Self {
        Self { role, csrf: Uuid::new_v4(), begun_at: Utc::now() }
    }

    fn is_expired(&self) -> bool {
        !(TimeDelta::zero()..SESSION).contains(&(Utc::now() - self.begun_at))
    }
}

impl Access {
    /// Full access for every user of this machine; requests from other addresses are refused.
    #[must_use]
    pub fn loopback() -> Self {
        Self { keyrings: CredentialSet::None(Key::generate()), hosts: Vec::new(), proxies: Vec::new() }
    }

    /// Full access with the secret `operator`, read-only access with `reader`. A session is valid as long as its secret stays
    /// the same, on every server with the same secret.
    ///
    /// # Errors
    /// [`WebError::ShortSecret`] for a secret of less than 16 bytes.
    pub fn secrets(operator: &Secret, reader: Option<&Secret>) -> Result<Self, WebError> {
        for secret in std::iter::once(operator).chain(reader) {
            if secret.expose().len() < SHORTEST_SECRET {
                return Err(WebError::ShortSecret { shortest: SHORTEST_SECRET });
            }
        }
        let reader = reader.map(|reader| RoleKey::new(reader, Role::Reader));
        let keyrings = CredentialSet::Secrets { operator: RoleKey::new(operator, Role::Operator), reader };
        Ok(Self { keyrings, hosts: Vec::new(), proxies: Vec::new() })
    }

    /// The access that `[web]` configures; [`loopback`](Self::loopback) if it has no secret.
    ///
    /// # Errors
    /// [`WebError::SecretFile`], [`WebError::ShortSecret`], [`WebError::ReadersAlone`], [`WebError::HostName`], and
    /// [`WebError::Proxy`].
    pub fn from_settings(settings: &WebSettings) -> Result<Self, WebError> {
        let operator = given(settings.operator_secret.as_ref(), settings.operator_secret_file.as_deref())?;
        let reader = given(settings.reader_secret.as_ref(), settings.reader_secret_file.as_deref())?;
        let access = match (operator, reader) {
            (Some(operator), reader) => Self::secrets(&operator, reader.as_ref())?,
            (None, Some(_)) => return Err(WebError::ReadersAlone),
            (None, None) => Self::loopback(),
        };
        access.hosts(&settings.hosts)?.proxies(&settings.proxies)
    }

    /// The names by which browsers may call the server, such as `outbox.example.com`; `localhost` and loopback addresses are
    /// always allowed. Without names, every name is allowed if a secret is configured, and no other if not.
    ///
    /// # Errors
    /// [`WebError::HostName`] for a text that is not a name without a port.
    pub fn hosts<T: AsRef<str>>(mut self, names: impl IntoIterator<Item = T>) -> Result<Self, WebError> {
        let name = |name: T| {
            let name = name.as_ref().to_ascii_lowercase();
            let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&name).to_owned();
            let is_address = bare.parse::<IpAddr>().is_ok();
            let is_name = !bare.is_empty() && !bare.contains([':', '/', '@', ' ', '[', ']']);
            if is_address || is_name { Ok(bare) } else { Err(WebError::HostName { name }) }
        };
        self.hosts = names.into_iter().map(name).collect::<Result<_, _>>()?;
        Ok(self)
    }

    /// The addresses of proxies, such as `10.0.0.7`, or networks of them, such as `10.0.0.0/24`, whose `X-Forwarded-For` is
    /// trusted: the rate limits then apply to the clients before them.
    ///
    /// # Errors
    /// [`WebError::Proxy`] for a text that is neither an address nor a network.
    pub fn proxies<T: AsRef<str>>(mut self, addresses: impl IntoIterator<Item = T>) -> Result<Self, WebError> {
        let network = |address: T| {
            let address = address.as_ref();
            let network = address.parse().or_else(|_| address.parse::<IpAddr>().map(IpNet::from));
            network.map_err(|_| WebError::Proxy { address: address.to_owned() })
        };
        self.proxies = addresses.into_iter().map(network).collect::<Result<_, _>>()?;
        Ok(self)
    }

    /// Whether only this machine has access: no secret is configured.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        matches!(self.keyrings, CredentialSet::None(_))
    }

    /// The client's address of a request from `peer`: the last address in `forwarded_for` (the nearest is last) that is not a
    /// configured proxy. Any client can forge the addresses before it.
    pub(crate) fn origin<'a>(&self, peer: IpAddr, forwarded_for: impl DoubleEndedIterator<Item = &'a str>) -> IpAddr {
        let is_proxy = |address: IpAddr| self.proxies.iter().any(|network| network.contains(&address.to_canonical()));
        let mut origin = peer;
        for address in forwarded_for.rev() {
            if !is_proxy(origin) {
                break;
            }
            let Ok(address) = address.trim().parse() else { break };
            origin = address;
        }
        origin
    }

    /// Whether a request to `host` (with a port or without) is allowed; another site's name that points here (DNS
    /// rebinding) is not.
    pub(crate) fn knows_host(&self, host: &str) -> bool {
        let Some(name) = without_port(host).map(str::to_ascii_lowercase) else { return false };
        if is_loopback_name(&name) || self.hosts.contains(&name) {
            return true;
        }
        self.hosts.is_empty() && !self.is_loopback()
    }

    /// The role of this secret. Takes as long for a wrong secret as for a right one.
    pub(crate) fn role_of(&self, secret: &str) -> Option<Role> {
        let CredentialSet::Secrets { operator, reader } = &self.keyrings else { return None };
        let given = digest(secret);
        let is_operator = bool::from(given.ct_eq(&operator.digest));
        let is_reader = reader.as_ref().is_some_and(|reader| bool::from(given.ct_eq(&reader.digest)));
        match (is_operator, is_reader) {
            (true, _) => Some(Role::Operator),
            (false, true) => Some(Role::Reader),
            (false, false) => None,
        }
    }

    /// The session in a cookie's value, if it was signed with one of our keys and has not expired.
    pub(crate) fn session(&self, value: &str) -> Option<SignIn> {
        let mut jar = CookieJar::new();
        jar.add_original(Cookie::new(COOKIE, value.to_owned()));
        let signed = |role| jar.signed(self.key(role)?).get(COOKIE).map(|cookie| (role, cookie));
        let (role, cookie) = signed(Role::Operator).or_else(|| signed(Role::Reader))?;
        let (csrf, begun_at) = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(cookie.value()).ok()?).ok()?;
        let session = SignIn { role, csrf, begun_at };
        (!session.is_expired()).then_some(session)
    }

    /// The cookie that contains a session.
    pub(crate) fn cookie(&self, session: &SignIn, scope: &CookieScope) -> Cookie<'static> {
        let value = BASE64_URL_SAFE_NO_PAD.encode(serde_json::json!((session.csrf, session.begun_at)).to_string());
        let mut jar = CookieJar::new();
        if let Some(key) = self.key(session.role) {
            jar.signed_mut(key).add(Cookie::new(COOKIE, value));
        }
        let signed = jar.get(COOKIE).map(|cookie| cookie.value().to_owned()).unwrap_or_default();
        let mut cookie = scope.cookie(signed);
        cookie.set_max_age(CookieSpan::seconds(SESSION.num_seconds()));
        cookie
    }

    fn key(&self, role: Role) -> Option<&Key> {
        match (&self.keyrings, role) {
            (CredentialSet::None(key), _) => Some(key),
            (CredentialSet::Secrets { operator, .. }, Role::Operator) => Some(&operator.key),
            (CredentialSet::Secrets { reader, .. }, Role::Reader) => reader.as_ref().map(|reader| &reader.key),
        }
    }
}

/// The name and scope of a browser's session cookie.
#[derive(Debug, Clone, Default)]
pub(crate) struct CookieScope {
    pub(crate) name: String,
    /// The console's path.
    path: String,
    is_secure: bool,
}

impl CookieScope {
    /// `host`: the name to which the request was sent. Browsers share cookies among the ports of a host, which may serve two
    /// consoles, so the port is part of the cookie's name.
    pub(crate) fn new(host: &str, path: &str, is_secure: bool) -> Self {
        let port = host.rsplit_once(':').map(|(_, port)| port).filter(|port| port.parse::<u16>().is_ok());
        let name = port.map_or_else(|| COOKIE.to_owned(), |port| format!("{COOKIE}_{port}"));
        let path = if path.is_empty() { "/" } else { path };
        Self { name, path: path.to_owned(), is_secure }
    }

    fn cookie(&self, value: String) -> Cookie<'static> {
        let mut cookie = Cookie::new(self.name.clone(), value);
        cookie.set_path(self.path.clone());
        cookie.set_http_only(true);
        cookie.set_same_site(SameSite::Strict);
        cookie.set_secure(self.is_secure);
        cookie
    }

    /// A cookie that ends the session in the browser that gets it.
    pub(crate) fn removal(&self) -> Cookie<'static> {
        let mut cookie = self.cookie(String::new());
        cookie.make_removal();
        cookie
    }
}

/// A secret from the settings, or from a file, whose trailing line ends are ignored.
fn given(secret: Option<&Secret>, file: Option<&str>) -> Result<Option<Secret>, WebError> {
    let Some(path) = file.filter(|_| secret.is_none()) else { return Ok(secret.cloned()) };
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim_end_matches(['\n', '\r']).into())),
        Err(reason) => Err(WebError::SecretFile { path: path.to_owned(), reason }),
    }
}

fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}

/// The host without its port; none if it is not a valid host.
fn without_port(host: &str) -> Option<&str> {
    let (name, rest) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some(bracketed) => bracketed,
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let is_port = |port: &str| port.chars().all(|digit| digit.is_ascii_digit());
    (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port)).then_some(name)
}

fn is_loopback_name(name: &str) -> bool {
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPERATOR: &str = "the operators' secret";
    const READER: &str = "the readers' secret";

    fn access() -> Access {
        Access::secrets(&OPERATOR.into(), Some(&READER.into())).unwrap()
    }

    fn web_settings(set: impl FnOnce(&mut WebSettings)) -> WebSettings {
        let mut web = WebSettings::default();
        set(&mut web);
        web
    }

    #[test]
    fn a_secret_tells_the_role_and_a_wrong_one_none() {
        let access = access();
        assert_eq!(access.role_of(OPERATOR), Some(Role::Operator));
        assert_eq!(access.role_of(READER), Some(Role::Reader));
        for wrong in ["", "the operators' secre", "the operators' secret ", "\0"] {
            assert_eq!(access.role_of(wrong), None, "{wrong:?}");
        }
        let operators_alone = Access::secrets(&OPERATOR.into(), None).unwrap();
        assert_eq!(operators_alone.role_of(READER), None);
        assert_eq!(Access::loopback().role_of(""), None);
        assert!(Access::secrets(&"short".into(), None).is_err());
        assert!(Access::secrets(&OPERATOR.into(), Some(&"".into())).is_err());
    }

    #[test]
    fn a_secret_is_read_from_a_file_without_its_line_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, format!("{OPERATOR}\n")).unwrap();
        let file = path.display().to_string();
        let settings = web_settings(|web| web.operator_secret_file = Some(file.clone()));
        assert_eq!(Access::from_settings(&settings).unwrap().role_of(OPERATOR), Some(Role::Operator));
        assert!(Access::from_settings(&WebSettings::default()).unwrap().is_loopback());
        let nowhere = web_settings(|web| web.operator_secret_file = Some(file + ".not"));
        assert!(matches!(Access::from_settings(&nowhere), Err(WebError::SecretFile { .. })));
        let readers = web_settings(|web| web.reader_secret = Some(READER.into()));
        assert!(matches!(Access::from_settings(&readers), Err(WebError::ReadersAlone)));
    }

    #[test]
    fn a_session_is_ours_while_its_signature_and_its_age_hold() {
        let access = access();
        let session = SignIn::new(Role::Reader);
        let scope = CookieScope::new("localhost", "", true);
        let cookie = access.cookie(&session, &scope);
        let back = access.session(cookie.value()).unwrap();
        assert_eq!((back.role, back.csrf), (Role::Reader, session.csrf));

        let same_secrets = Access::secrets(&OPERATOR.into(), Some(&READER.into())).unwrap();
        assert!(same_secrets.session(cookie.value()).is_some());
        let others = Access::secrets(&READER.into(), Some(&OPERATOR.into())).unwrap();
        assert!(
            others.session(cookie.value()).is_none(),
            "a cookie signed with the readers' secret gives no operator's role"
        );
        assert!(Access::secrets(&OPERATOR.into(), None).unwrap().session(cookie.value()).is_none());
        let encode = |session: &SignIn| {
            BASE64_URL_SAFE_NO_PAD.encode(serde_json::json!((session.csrf, session.begun_at)).to_string())
        };
        let unsigned = encode(&session);
        let (signature, rest) = cookie.value().split_at(cookie.value().len() - unsigned.len());
        assert_eq!(rest, unsigned);
        let another = encode(&SignIn::new(Role::Reader));
        for forged in [unsigned, format!("{signature}{another}"), signature.to_owned(), String::new()] {
            assert!(access.session(&forged).is_none());
        }
        for begun_at in [Utc::now() - SESSION, Utc::now() + TimeDelta::hours(1)] {
            let strange = SignIn { begun_at, ..session.clone() };
            assert!(access.session(access.cookie(&strange, &scope).value()).is_none());
        }
    }

    #[test]
    fn a_cookie_is_for_this_console_and_no_script() {
        let scope = CookieScope::new("outbox.example.com:8443", "/outbox", true);
        let text = access().cookie(&SignIn::new(Role::Operator), &scope).to_string();
        for word in ["outbox_session_8443=", "HttpOnly", "SameSite=Strict", "Secure", "Path=/outbox", "Max-Age=43200"] {
            assert!(text.contains(word), "{word} in {text}");
        }
        for host in ["outbox.example.com", "[::1]", "localhost:", "localhost:http", ""] {
            assert_eq!(CookieScope::new(host, "", false).name, COOKIE, "{host}");
        }
    }

    #[test]
    fn a_proxy_of_ours_is_believed_where_a_request_comes_from() {
        let origin = |proxies: &[&str], peer: &str, forwarded_for: &[&str]| {
            let access = access().proxies(proxies).unwrap();
            access.origin(peer.parse().unwrap(), forwarded_for.iter().copied()).to_string()
        };
        let ours = ["10.0.0.0/24", "::1"];
        assert_eq!(origin(&[], "10.0.0.7", &["192.0.2.1"]), "10.0.0.7");
        assert_eq!(origin(&ours, "10.0.0.7", &[]), "10.0.0.7");
        assert_eq!(origin(&ours, "10.0.0.7", &["192.0.2.1"]), "192.0.2.1");
        assert_eq!(origin(&ours, "::ffff:10.0.0.7", &["192.0.2.1"]), "192.0.2.1");
        assert_eq!(origin(&ours, "::1", &["192.0.2.9", " 192.0.2.1", " 10.0.0.8"]), "192.0.2.1");
        assert_eq!(origin(&ours, "10.0.1.7", &["192.0.2.1"]), "10.0.1.7");
        assert_eq!(origin(&ours, "10.0.0.7", &["192.0.2.1", "unknown"]), "10.0.0.7");
        assert!(matches!(access().proxies(["proxy.example"]), Err(WebError::Proxy { .. })));
    }

    #[test]
    fn a_host_that_is_not_ours_is_not_known() {
        let loopback = Access::loopback();
        for host in ["localhost", "LOCALHOST:9750", "127.0.0.1:9750", "127.8.0.1", "[::1]:9750", "[::1]"] {
            assert!(loopback.knows_host(host), "{host}");
        }
        for host in ["[::1].evil.example", "localhost:80@evil.example", "127.0.0.1:9750:evil", "[::1"] {
            assert!(!loopback.knows_host(host), "{host}");
        }
        for host in ["", "evil.example", "localhost.evil.example:80", "10.0.0.1", "[::2]:1", "127.0.0.1.evil.example"] {
            assert!(!loopback.knows_host(host), "{host}");
        }
        assert!(access().knows_host("anything.example"));
        let named = access().hosts(["Outbox.example.com", "[2001:db8::1]"]).unwrap();
        assert!(named.knows_host("[2001:db8::1]:443"));
        for wrong in ["outbox.example.com:443", "https://outbox.example.com", ""] {
            assert!(matches!(access().hosts([wrong]), Err(WebError::HostName { .. })), "{wrong}");
        }
        assert!(named.knows_host("outbox.example.com:443") && named.knows_host("localhost"));
        assert!(!named.knows_host("evil.example"));
    }
}

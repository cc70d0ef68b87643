//! Who may use the console, and how that is shown: by a secret once, by a signed cookie or a bearer token with each request.

use actix_web::cookie::time::Duration as CookieSpan;
use actix_web::cookie::{Cookie, CookieJar, Key, SameSite};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use super::WebError;
use crate::settings::{Secret, WebSettings};

/// A secret that can be guessed is none.
const SHORTEST_SECRET: usize = 16;

const COOKIE: &str = "outbox_session";

/// How long a session lasts.
const SESSION: TimeDelta = TimeDelta::hours(12);

/// Who may use the console.
#[derive(Clone)]
pub struct Access {
    secrets: Option<Secrets>,
    hosts: Vec<String>,
    key: Key,
}

/// What is left of the secrets: enough to know one, too little to tell it.
#[derive(Clone)]
struct Secrets {
    operator: [u8; 32],
    reader: Option<[u8; 32]>,
}

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Look.
    Reader,
    /// Look, and change events.
    Operator,
}

/// Somebody who has shown who they are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) role: Role,
    /// What each form and each request that changes something has to repeat.
    pub(crate) csrf: Uuid,
    begun_at: DateTime<Utc>,
}

impl Session {
    pub(crate) fn new(role: Role) -> Self {
        Self { role, csrf: Uuid::new_v4(), begun_at: Utc::now() }
    }

    fn is_over(&self) -> bool {
        !(TimeDelta::zero()..SESSION).contains(&(Utc::now() - self.begun_at))
    }
}

impl Access {
    /// Everybody on this machine may do everything, and nobody else anything: requests from other addresses are refused.
    #[must_use]
    pub fn loopback() -> Self {
        Self { secrets: None, hosts: Vec::new(), key: Key::generate() }
    }

    /// Whoever knows `operator` may do everything, whoever knows `reader` may look. Sessions last as long as the secrets
    /// stay the same, and with every server that has the same ones.
    ///
    /// # Errors
    /// [`WebError::ShortSecret`] for one of less than 16 bytes.
    pub fn secrets(operator: &Secret, reader: Option<&Secret>) -> Result<Self, WebError> {
        for secret in std::iter::once(operator).chain(reader) {
            if secret.expose().len() < SHORTEST_SECRET {
                return Err(WebError::ShortSecret { shortest: SHORTEST_SECRET });
            }
        }
        let secrets =
            Secrets { operator: digest(operator.expose()), reader: reader.map(|reader| digest(reader.expose())) };
        let key = Sha512::new()
            .chain_update(b"outbox session")
            .chain_update(secrets.operator)
            .chain_update(secrets.reader.unwrap_or_default())
            .finalize();
        Ok(Self { secrets: Some(secrets), hosts: Vec::new(), key: Key::from(&key) })
    }

    /// What `[web]` says; [`loopback`](Self::loopback) where it names no secret.
    ///
    /// # Errors
    /// [`WebError::SecretFile`], [`WebError::ShortSecret`], and [`WebError::ReadersAlone`].
    pub fn from_settings(settings: &WebSettings) -> Result<Self, WebError> {
        let operator = given(settings.operator_secret.as_ref(), settings.operator_secret_file.as_deref())?;
        let reader = given(settings.reader_secret.as_ref(), settings.reader_secret_file.as_deref())?;
        let access = match (operator, reader) {
            (Some(operator), reader) => Self::secrets(&operator, reader.as_ref())?,
            (None, Some(_)) => return Err(WebError::ReadersAlone),
            (None, None) => Self::loopback(),
        };
        Ok(access.hosts(settings.hosts.iter().cloned()))
    }

    /// The names by which browsers may call the server, such as `outbox.example.com`; `localhost` and loopback addresses
    /// always may. Without any, every name may where a secret is asked for, and none where not.
    #[must_use]
    pub fn hosts(mut self, names: impl IntoIterator<Item = String>) -> Self {
        self.hosts = names.into_iter().map(|name| name.to_ascii_lowercase()).collect();
        self
    }

    /// Only who is on this machine may use it.
    pub(crate) fn is_loopback(&self) -> bool {
        self.secrets.is_none()
    }

    /// Whether a browser that was sent to `host` (with a port or without) may be answered: a name that somebody else lets
    /// point here is none of ours.
    pub(crate) fn knows_host(&self, host: &str) -> bool {
        let name = without_port(host).to_ascii_lowercase();
        if is_loopback_name(&name) || self.hosts.contains(&name) {
            return true;
        }
        self.hosts.is_empty() && !self.is_loopback()
    }

    /// The role of whoever knows this secret. Takes as long for a wrong one as for a right one.
    pub(crate) fn role_of(&self, secret: &str) -> Option<Role> {
        let secrets = self.secrets.as_ref()?;
        let given = digest(secret);
        let is_operator = bool::from(given.ct_eq(&secrets.operator));
        let is_reader = bool::from(given.ct_eq(&secrets.reader.unwrap_or_default())) && secrets.reader.is_some();
        match (is_operator, is_reader) {
            (true, _) => Some(Role::Operator),
            (false, true) => Some(Role::Reader),
            (false, false) => None,
        }
    }

    /// The session that a request's cookie holds, where we signed it and it is not over.
    pub(crate) fn session(&self, cookie: Cookie<'static>) -> Option<Session> {
        let signed = {
            let mut jar = CookieJar::new();
            jar.add_original(cookie);
            jar.signed(&self.key).get(COOKIE)?
        };
        let session: Session = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(signed.value()).ok()?).ok()?;
        (!session.is_over()).then_some(session)
    }

    /// The cookie that holds a session. `path`: where the console stands.
    pub(crate) fn cookie(&self, session: &Session, path: &str, is_secure: bool) -> Cookie<'static> {
        let value = BASE64_URL_SAFE_NO_PAD.encode(serde_json::json!(session).to_string());
        let mut jar = CookieJar::new();
        jar.signed_mut(&self.key).add(Cookie::new(COOKIE, value));
        let mut cookie = jar.get(COOKIE).cloned().unwrap_or_else(|| Cookie::new(COOKIE, ""));
        cookie.set_max_age(CookieSpan::seconds(SESSION.num_seconds()));
        limit(&mut cookie, path, is_secure);
        cookie
    }
}

/// The name of the cookie that holds a session.
pub(crate) fn cookie_name() -> &'static str {
    COOKIE
}

/// A cookie that ends the session in the browser that gets it.
pub(crate) fn no_cookie(path: &str, is_secure: bool) -> Cookie<'static> {
    let mut cookie = Cookie::new(COOKIE, "");
    limit(&mut cookie, path, is_secure);
    cookie.make_removal();
    cookie
}

fn limit(cookie: &mut Cookie<'static>, path: &str, is_secure: bool) {
    cookie.set_path(path.to_owned());
    cookie.set_http_only(true);
    cookie.set_same_site(SameSite::Strict);
    cookie.set_secure(is_secure);
}

/// A secret from the settings, or from a file, in which a line's end does not count.
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

fn without_port(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    }
}

fn is_loopback_name(name: &str) -> bool {
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPERATOR: &str = "the operators' secret";
    const READER: &str = "the readers' secret";

    fn access() -> Access {
        Access::secrets(&OPERATOR.into(), Some(&READER.into())).unwrap()
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
        let settings = WebSettings { operator_secret_file: Some(file.clone()), ..WebSettings::default() };
        assert_eq!(Access::from_settings(&settings).unwrap().role_of(OPERATOR), Some(Role::Operator));
        assert!(Access::from_settings(&WebSettings::default()).unwrap().is_loopback());
        let nowhere = WebSettings { operator_secret_file: Some(file + ".not"), ..WebSettings::default() };
        assert!(matches!(Access::from_settings(&nowhere), Err(WebError::SecretFile { .. })));
        let readers = WebSettings { reader_secret: Some(READER.into()), ..WebSettings::default() };
        assert!(matches!(Access::from_settings(&readers), Err(WebError::ReadersAlone)));
    }

    #[test]
    fn a_session_is_ours_while_its_signature_and_its_age_hold() {
        let access = access();
        let session = Session::new(Role::Reader);
        let cookie = access.cookie(&session, "/", true);
        let back = access.session(cookie.clone()).unwrap();
        assert_eq!((back.role, back.csrf), (Role::Reader, session.csrf));

        let same_secrets = Access::secrets(&OPERATOR.into(), Some(&READER.into())).unwrap();
        assert!(same_secrets.session(cookie.clone()).is_some());
        let others = Access::secrets(&OPERATOR.into(), None).unwrap();
        assert!(others.session(cookie.clone()).is_none());
        let unsigned = BASE64_URL_SAFE_NO_PAD.encode(serde_json::json!(session).to_string());
        let (signature, _) = cookie.value().split_at(cookie.value().len() - unsigned.len());
        let operator = BASE64_URL_SAFE_NO_PAD.encode(serde_json::json!(Session::new(Role::Operator)).to_string());
        for forged in [unsigned, format!("{signature}{operator}"), signature.to_owned(), String::new()] {
            assert!(access.session(Cookie::new(COOKIE, forged)).is_none());
        }
        for begun_at in [Utc::now() - SESSION, Utc::now() + TimeDelta::hours(1)] {
            let strange = Session { begun_at, ..session.clone() };
            assert!(access.session(access.cookie(&strange, "/", true)).is_none());
        }
    }

    #[test]
    fn a_cookie_is_for_this_site_and_no_script() {
        let cookie = access().cookie(&Session::new(Role::Operator), "/outbox", true);
        let text = cookie.to_string();
        for word in ["HttpOnly", "SameSite=Strict", "Secure", "Path=/outbox", "Max-Age=43200"] {
            assert!(text.contains(word), "{word} in {text}");
        }
    }

    #[test]
    fn a_host_that_is_not_ours_is_not_known() {
        let loopback = Access::loopback();
        for host in ["localhost", "LOCALHOST:9750", "127.0.0.1:9750", "127.8.0.1", "[::1]:9750", "[::1]"] {
            assert!(loopback.knows_host(host), "{host}");
        }
        for host in ["", "evil.example", "localhost.evil.example:80", "10.0.0.1", "[::2]:1", "127.0.0.1.evil.example"] {
            assert!(!loopback.knows_host(host), "{host}");
        }
        assert!(access().knows_host("anything.example"));
        let named = access().hosts(["Outbox.example.com".to_owned()]);
        assert!(named.knows_host("outbox.example.com:443") && named.knows_host("localhost"));
        assert!(!named.knows_host("evil.example"));
    }
}

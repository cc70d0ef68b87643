//! Signed-in sessions, and how a request identifies its client.

use actix_web::cookie::time::Duration as CookieSpan;
use actix_web::cookie::{Cookie, CookieJar, Key};
use actix_web::dev::ServiceRequest;
use actix_web::http::header;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::cookie::{COOKIE, CookieScope};
use super::credentials::Credentials;
use super::user::{Role, User};

/// How long a session lasts.
pub(super) const SESSION: TimeDelta = TimeDelta::hours(12);

/// A signed-in user: the one whose key signs the cookie.
#[derive(Debug, Clone)]
pub(crate) struct SignIn {
    pub(crate) user: User,
    /// The token that each form and each request that changes something has to repeat.
    pub(crate) csrf: Uuid,
    pub(super) begun_at: DateTime<Utc>,
}

impl SignIn {
    pub(crate) fn new(user: User) -> Self {
        Self { user, csrf: Uuid::new_v4(), begun_at: Utc::now() }
    }

    /// A user of the application's own login, whose token is the same as long as the server runs.
    fn of_application(user: User, key: &Key) -> Self {
        let role: &[u8] = if user.role() == Role::Operator { b"operator" } else { b"reader" };
        let token = Sha256::new().chain_update(key.master()).chain_update(role).chain_update(user.name()).finalize();
        let csrf = Uuid::from_slice(&token[..16]).unwrap_or_else(|_| Uuid::new_v4());
        Self { user, csrf, begun_at: Utc::now() }
    }

    fn is_expired(&self) -> bool {
        !(TimeDelta::zero()..SESSION).contains(&(Utc::now() - self.begun_at))
    }

    /// The session in a cookie's value, if it was signed with one of our keys and has not expired.
    fn from_cookie(value: &str, credentials: &Credentials) -> Option<Self> {
        if credentials.is_none() {
            return Self::signed_by(value, credentials.own_key(), User::unnamed(Role::Operator));
        }
        let keys = credentials.keys();
        keys.iter().find_map(|key| Self::signed_by(value, &key.key, key.user.clone()))
    }

    fn signed_by(value: &str, key: &Key, user: User) -> Option<Self> {
        let mut jar = CookieJar::new();
        jar.add_original(Cookie::new(COOKIE, value.to_owned()));
        let cookie = jar.signed(key).get(COOKIE)?;
        let (csrf, begun_at) = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(cookie.value()).ok()?).ok()?;
        let session = Self { user, csrf, begun_at };
        (!session.is_expired()).then_some(session)
    }

    /// The cookie that contains the session.
    pub(super) fn to_cookie(&self, credentials: &Credentials, scope: &CookieScope) -> Cookie<'static> {
        let value = BASE64_URL_SAFE_NO_PAD.encode(serde_json::json!((self.csrf, self.begun_at)).to_string());
        let mut jar = CookieJar::new();
        if let Some(key) = credentials.key_of(&self.user) {
            jar.signed_mut(&key).add(Cookie::new(COOKIE, value));
        }
        let signed = jar.get(COOKIE).map(|cookie| cookie.value().to_owned()).unwrap_or_default();
        let mut cookie = scope.cookie(signed);
        cookie.set_max_age(CookieSpan::seconds(SESSION.num_seconds()));
        cookie
    }
}

/// How the client is identified.
pub(crate) enum Identity {
    Token(User),
    Cookie(SignIn),
    /// By the application's own login.
    Application(SignIn),
    /// On this machine, without a configured secret.
    Loopback(SignIn),
}

impl Identity {
    /// The client that the bearer token names.
    pub(super) fn of_token(request: &ServiceRequest, credentials: &Credentials) -> Option<Self> {
        credentials.user_of(bearer(request)?).map(Self::Token)
    }

    /// The client of the session in the cookie of this name.
    pub(super) fn of_cookie(request: &ServiceRequest, cookie: &str, credentials: &Credentials) -> Option<SignIn> {
        SignIn::from_cookie(request.cookie(cookie)?.value(), credentials)
    }

    pub(super) fn of_application(user: User, credentials: &Credentials) -> Self {
        Self::Application(SignIn::of_application(user, credentials.own_key()))
    }

    pub(super) fn of_loopback() -> Self {
        Self::Loopback(SignIn::new(User::unnamed(Role::Operator)))
    }

    pub(crate) fn session(&self) -> SignIn {
        match self {
            Self::Token(user) => SignIn::new(user.clone()),
            Self::Cookie(session) | Self::Application(session) | Self::Loopback(session) => session.clone(),
        }
    }

    pub(crate) fn role(&self) -> Role {
        match self {
            Self::Token(user) => user.role(),
            Self::Cookie(session) | Self::Application(session) | Self::Loopback(session) => session.user.role(),
        }
    }
}

/// The bearer token. Other schemes, such as a proxy's own login, are ignored.
pub(crate) fn bearer(request: &ServiceRequest) -> Option<&str> {
    let given = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = given.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPERATOR: &str = "the operators' secret";
    const READER: &str = "the readers' secret";

    fn credentials(operator: &str, reader: Option<&str>) -> Credentials {
        Credentials::secrets(&operator.into(), reader.map(Into::into).as_ref()).unwrap()
    }

    #[test]
    fn a_session_is_ours_while_its_signature_and_its_age_hold() {
        let ours = credentials(OPERATOR, Some(READER));
        let session = SignIn::new(User::reader("reader"));
        let scope = CookieScope::new("localhost", "", true);
        let cookie = session.to_cookie(&ours, &scope);
        assert_eq!(cookie.max_age(), Some(CookieSpan::hours(12)));
        let back = SignIn::from_cookie(cookie.value(), &ours).unwrap();
        assert_eq!((back.user, back.csrf), (User::reader("reader"), session.csrf));

        let same_secrets = credentials(OPERATOR, Some(READER));
        assert!(SignIn::from_cookie(cookie.value(), &same_secrets).is_some());
        let others = credentials(READER, Some(OPERATOR));
        assert!(
            SignIn::from_cookie(cookie.value(), &others).is_none(),
            "a cookie signed with the readers' secret gives no operator's role"
        );
        assert!(SignIn::from_cookie(cookie.value(), &credentials(OPERATOR, None)).is_none());
        let encode = |session: &SignIn| {
            BASE64_URL_SAFE_NO_PAD.encode(serde_json::json!((session.csrf, session.begun_at)).to_string())
        };
        let unsigned = encode(&session);
        let (signature, rest) = cookie.value().split_at(cookie.value().len() - unsigned.len());
        assert_eq!(rest, unsigned);
        let another = encode(&SignIn::new(User::reader("reader")));
        for forged in [unsigned, format!("{signature}{another}"), signature.to_owned(), String::new()] {
            assert!(SignIn::from_cookie(&forged, &ours).is_none());
        }
        for begun_at in [Utc::now() - SESSION, Utc::now() + TimeDelta::hours(1)] {
            let strange = SignIn { begun_at, ..session.clone() };
            assert!(SignIn::from_cookie(strange.to_cookie(&ours, &scope).value(), &ours).is_none());
        }
    }
}

//! Signed-in sessions, and how a request identifies its client.

use actix_web::cookie::time::Duration as CookieSpan;
use actix_web::cookie::{Cookie, CookieJar};
use actix_web::dev::ServiceRequest;
use actix_web::http::header;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::cookie::{COOKIE, CookieScope};
use super::credentials::{Credentials, Role};
use super::error::AccessError;

/// How long a session lasts.
const SESSION: TimeDelta = TimeDelta::hours(12);

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

    /// The session in a cookie's value, if it was signed with one of our keys and has not expired.
    fn from_cookie(value: &str, credentials: &Credentials) -> Option<Self> {
        let mut jar = CookieJar::new();
        jar.add_original(Cookie::new(COOKIE, value.to_owned()));
        let signed = |role| jar.signed(credentials.key(role)?).get(COOKIE).map(|cookie| (role, cookie));
        let (role, cookie) = signed(Role::Operator).or_else(|| signed(Role::Reader))?;
        let (csrf, begun_at) = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(cookie.value()).ok()?).ok()?;
        let session = Self { role, csrf, begun_at };
        (!session.is_expired()).then_some(session)
    }

    /// The cookie that contains the session.
    pub(super) fn to_cookie(&self, credentials: &Credentials, scope: &CookieScope) -> Cookie<'static> {
        let value = BASE64_URL_SAFE_NO_PAD.encode(serde_json::json!((self.csrf, self.begun_at)).to_string());
        let mut jar = CookieJar::new();
        if let Some(key) = credentials.key(self.role) {
            jar.signed_mut(key).add(Cookie::new(COOKIE, value));
        }
        let signed = jar.get(COOKIE).map(|cookie| cookie.value().to_owned()).unwrap_or_default();
        let mut cookie = scope.cookie(signed);
        cookie.set_max_age(CookieSpan::seconds(SESSION.num_seconds()));
        cookie
    }
}

/// How the client is identified.
pub(crate) enum Identity {
    Token(Role),
    Cookie(SignIn),
    /// On this machine, without a configured secret.
    Loopback(SignIn),
}

impl Identity {
    /// Identifies the client by its bearer token, or by the session in the cookie of this name.
    pub(super) fn of(request: &ServiceRequest, cookie: &str, credentials: &Credentials) -> Result<Self, AccessError> {
        if let Some(token) = bearer(request) {
            return credentials.role_of(token).map(Self::Token).ok_or(AccessError::Unknown);
        }
        let session = request.cookie(cookie).and_then(|cookie| SignIn::from_cookie(cookie.value(), credentials));
        match session {
            Some(session) => Ok(Self::Cookie(session)),
            None if credentials.is_none() => Ok(Self::Loopback(SignIn::new(Role::Operator))),
            None => Err(AccessError::Unknown),
        }
    }

    pub(crate) fn session(&self) -> SignIn {
        match self {
            Self::Token(role) => SignIn::new(*role),
            Self::Cookie(session) | Self::Loopback(session) => session.clone(),
        }
    }

    pub(crate) fn role(&self) -> Role {
        match self {
            Self::Token(role) => *role,
            Self::Cookie(session) | Self::Loopback(session) => session.role,
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
        let session = SignIn::new(Role::Reader);
        let scope = CookieScope::new("localhost", "", true);
        let cookie = session.to_cookie(&ours, &scope);
        assert_eq!(cookie.max_age(), Some(CookieSpan::hours(12)));
        let back = SignIn::from_cookie(cookie.value(), &ours).unwrap();
        assert_eq!((back.role, back.csrf), (Role::Reader, session.csrf));

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
        let another = encode(&SignIn::new(Role::Reader));
        for forged in [unsigned, format!("{signature}{another}"), signature.to_owned(), String::new()] {
            assert!(SignIn::from_cookie(&forged, &ours).is_none());
        }
        for begun_at in [Utc::now() - SESSION, Utc::now() + TimeDelta::hours(1)] {
            let strange = SignIn { begun_at, ..session.clone() };
            assert!(SignIn::from_cookie(strange.to_cookie(&ours, &scope).value(), &ours).is_none());
        }
    }
}

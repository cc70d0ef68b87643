//! Who may use the console: a user signs in with a secret and then sends a signed cookie; a program sends a bearer token.

mod cookie;
mod credentials;
mod csrf;
mod error;
mod link;
mod origin;
mod session;

use std::net::IpAddr;

use actix_outbox::{Secret, WebSettings};
use actix_web::cookie::Cookie;
use actix_web::dev::ServiceRequest;
use uuid::Uuid;

pub(crate) use self::cookie::CookieScope;
use self::credentials::Credentials;
pub(crate) use self::credentials::Role;
pub(crate) use self::csrf::{CSRF_FIELD, check_csrf};
pub(crate) use self::error::AccessError;
use self::link::SignInLink;
use self::origin::{HostNames, Proxies};
pub(crate) use self::origin::{check_origin, has_origin, host, is_secure};
pub(crate) use self::session::{Identity, SignIn, bearer};
use crate::error::WebError;
use crate::request_info::SIGN_IN;

/// The access rules of the console.
#[derive(Clone)]
pub struct Access {
    credentials: Credentials,
    hosts: HostNames,
    proxies: Proxies,
    link: SignInLink,
}

impl Access {
    /// Full access for every program and user of this machine, without a secret: also for other users, for containers in its
    /// network, and for a proxy on it with all its clients. Requests from other addresses are refused.
    #[must_use]
    pub fn insecure() -> Self {
        Credentials::none().into()
    }

    /// Full access with the secret `operator`, read-only access with `reader`. A session is valid as long as its secret stays
    /// the same, on every server with the same secret.
    ///
    /// # Errors
    /// [`WebError::ShortSecret`] for a secret of less than 16 bytes.
    pub fn secrets(operator: &Secret, reader: Option<&Secret>) -> Result<Self, WebError> {
        Credentials::secrets(operator, reader).map(Self::from)
    }

    /// The access that `[web]` configures.
    ///
    /// # Errors
    /// [`WebError::NoSecret`] without a secret. [`WebError::Secret`], [`WebError::ShortSecret`], [`WebError::EqualSecrets`], [`WebError::ReadersAlone`], [`WebError::HostName`], and
    /// [`WebError::Proxy`].
    pub fn from_settings(settings: &WebSettings) -> Result<Self, WebError> {
        let credentials = Credentials::from_settings(settings)?;
        if credentials.is_none() {
            return Err(WebError::NoSecret);
        }
        let access = Self::from(credentials);
        access.hosts(&settings.hosts)?.proxies(&settings.proxies)
    }

    /// The names by which browsers may call the server, such as `outbox.example.com`; `localhost` and loopback addresses are
    /// always allowed. Without names, every name is allowed if a secret is configured; otherwise only these.
    ///
    /// # Errors
    /// [`WebError::HostName`] for a text that is not a name without a port.
    pub fn hosts<T: AsRef<str>>(mut self, names: impl IntoIterator<Item = T>) -> Result<Self, WebError> {
        self.hosts = HostNames::parse(names)?;
        Ok(self)
    }

    /// The addresses of proxies, such as `10.0.0.7`, or networks of them, such as `10.0.0.0/24`, whose `X-Forwarded-For` is
    /// trusted: the rate limits then apply to the clients before them.
    ///
    /// # Errors
    /// [`WebError::Proxy`] for a text that is neither an address nor a network.
    pub fn proxies<T: AsRef<str>>(mut self, addresses: impl IntoIterator<Item = T>) -> Result<Self, WebError> {
        self.proxies = Proxies::parse(addresses)?;
        Ok(self)
    }

    /// The path and query of a page that signs an operator in, once. An earlier link no longer works.
    #[must_use]
    pub fn sign_in_link(&self) -> String {
        let token = [Uuid::new_v4(), Uuid::new_v4()].map(|part| part.simple().to_string()).concat();
        let link = format!("{SIGN_IN}?token={token}");
        self.link.set(token);
        link
    }

    /// Whether this is the token of the link; it is spent then.
    pub(crate) fn redeem(&self, token: &str) -> bool {
        self.link.redeem(token)
    }

    /// Whether only this machine has access: no secret is configured.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.credentials.is_none()
    }

    /// The address of the client that sent the request, to this server or to the configured proxies before it.
    pub(crate) fn client_address(&self, request: &ServiceRequest) -> IpAddr {
        self.proxies.client_address(request)
    }

    pub(crate) fn check_host(&self, request: &ServiceRequest) -> Result<(), AccessError> {
        // Without a secret, another site's name that points here (DNS rebinding) would give that site access.
        let is_any_allowed = !self.is_loopback();
        if self.hosts.allow(&host(request), is_any_allowed) { Ok(()) } else { Err(AccessError::Host) }
    }

    pub(crate) fn check_peer(&self, request: &ServiceRequest) -> Result<(), AccessError> {
        if self.is_loopback() { origin::check_loopback(request) } else { Ok(()) }
    }

    /// Identifies the client by its bearer token, or by the session in this cookie.
    pub(crate) fn identify(&self, request: &ServiceRequest, cookie: &str) -> Result<Identity, AccessError> {
        Identity::of(request, cookie, &self.credentials)
    }

    /// The role of this secret. Takes as long for a wrong secret as for a right one.
    pub(crate) fn role_of(&self, secret: &str) -> Option<Role> {
        self.credentials.role_of(secret)
    }

    /// The cookie that contains a session.
    pub(crate) fn cookie(&self, session: &SignIn, scope: &CookieScope) -> Cookie<'static> {
        session.to_cookie(&self.credentials, scope)
    }
}

impl From<Credentials> for Access {
    fn from(credentials: Credentials) -> Self {
        Self { credentials, hosts: HostNames::default(), proxies: Proxies::default(), link: SignInLink::default() }
    }
}

//! Who may use the console: a user signs in with a secret and then sends a signed cookie; a program sends a bearer token; an
//! application has a login of its own.

mod cookie;
mod credentials;
mod csrf;
mod ended;
mod error;
mod link;
mod login;
mod origin;
mod prefix;
mod session;
mod user;

use std::net::IpAddr;
use std::sync::Arc;

use actix_outbox::{Secret, WebSettings};
use actix_web::HttpRequest;
use actix_web::cookie::Cookie;
use actix_web::dev::ServiceRequest;
use uuid::Uuid;

pub(crate) use self::cookie::CookieScope;
use self::credentials::Credentials;
pub(crate) use self::csrf::{CSRF_FIELD, check_csrf};
use self::ended::EndedSessions;
pub(crate) use self::error::AccessError;
use self::link::SignInLink;
use self::login::ApplicationLogin;
use self::origin::{HostNames, Proxies};
pub(crate) use self::origin::{has_origin, host, is_secure, sent};
pub(crate) use self::session::{Identity, SignIn, bearer};
pub(crate) use self::user::Role;
pub use self::user::User;
use crate::error::WebError;
use crate::request_info::SIGN_IN;

/// The access rules of the console.
#[derive(Clone)]
pub struct Access {
    credentials: Credentials,
    hosts: HostNames,
    proxies: Proxies,
    link: SignInLink,
    login: Option<ApplicationLogin>,
    ended: Arc<EndedSessions>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").finish_non_exhaustive()
    }
}

impl Access {
    /// Full access for every program and user of this machine, without a secret: also for other users, for containers in its
    /// network, and for a proxy on it with all its clients. Requests from other addresses are refused.
    #[must_use]
    pub fn insecure() -> Self {
        Credentials::none().into()
    }

    /// Access for the users of the application's own login and no other user: `find` returns the user of a request, if it has
    /// one, for example from what the application's middleware left in the request's extensions. The console then shows no
    /// sign-in page of its own.
    ///
    /// Requests that change something must come from a page of the console, as with secrets.
    ///
    /// ```
    /// use actix_outbox_console::{Access, User};
    /// use actix_web::HttpMessage;
    ///
    /// /// What the application's own middleware finds.
    /// struct Employee {
    ///     name: String,
    ///     is_on_call: bool,
    /// }
    ///
    /// let access = Access::application_login(|request| {
    ///     let extensions = request.extensions();
    ///     let employee = extensions.get::<Employee>()?;
    ///     let name = &employee.name;
    ///     Some(if employee.is_on_call { User::operator(name) } else { User::reader(name) })
    /// });
    /// ```
    #[must_use]
    pub fn application_login(find: impl Fn(&HttpRequest) -> Option<User> + Send + Sync + 'static) -> Self {
        Self { login: Some(ApplicationLogin::new(find)), ..Credentials::none().into() }
    }

    /// Full access with the secret `operator`, read-only access with `reader`. A session is valid for twelve hours as long as
    /// its secret stays the same, on every server with the same secret that was started before it.
    ///
    /// # Errors
    /// [`WebError::ShortSecret`] for a secret of less than 16 bytes.
    pub fn secrets(operator: &Secret, reader: Option<&Secret>) -> Result<Self, WebError> {
        Credentials::secrets(operator, reader).map(Self::from)
    }

    /// The access that `[web]` configures.
    ///
    /// # Errors
    /// [`WebError::NoSecret`] without a secret. [`WebError::Secret`], [`WebError::ShortSecret`], [`WebError::EqualSecrets`],
    /// [`WebError::EqualNames`], [`WebError::ReadersAlone`], [`WebError::HostName`], and [`WebError::Proxy`].
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

    /// The addresses of proxies, such as `10.0.0.7`, or networks of them, such as `10.0.0.0/24`, whose `X-Forwarded-For` and
    /// `X-Forwarded-Prefix` are trusted: rate limits and records then name the clients before them, and links begin with the
    /// prefix that the proxy takes off.
    ///
    /// # Errors
    /// [`WebError::Proxy`] for a text that is neither an address nor a network.
    pub fn proxies<T: AsRef<str>>(mut self, addresses: impl IntoIterator<Item = T>) -> Result<Self, WebError> {
        self.proxies = Proxies::parse(addresses)?;
        Ok(self)
    }

    /// The path below the console's, and the query, of a page that signs an operator in, once. An earlier link no longer works.
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
        self.credentials.is_none() && self.login.is_none()
    }

    /// Whether users sign in with a secret.
    pub(crate) fn has_secrets(&self) -> bool {
        !self.credentials.is_none()
    }

    /// The console's path as browsers see it.
    pub(crate) fn base_path(&self, request: &ServiceRequest) -> String {
        let prefix = prefix::forwarded_prefix(request).filter(|_| self.proxies.sent(request));
        format!("{}{}", prefix.unwrap_or_default(), prefix::mount_path(request))
    }

    /// The address of the client that sent the request, to this server or to the configured proxies before it.
    pub(crate) fn client_address(&self, request: &ServiceRequest) -> IpAddr {
        self.proxies.client_address(request)
    }

    pub(crate) fn check_host(&self, request: &ServiceRequest) -> Result<(), AccessError> {
        // Without a secret, another site's name that points here (DNS rebinding) would give that site access.
        let is_any_allowed = !self.is_loopback();
        if self.hosts.allow(&host(request), is_any_allowed) { Ok(()) } else { Err(AccessError::Host(sent(request))) }
    }

    pub(crate) fn check_origin(&self, request: &ServiceRequest) -> Result<(), AccessError> {
        self.hosts.check_origin(request)
    }

    pub(crate) fn check_peer(&self, request: &ServiceRequest) -> Result<(), AccessError> {
        if self.is_loopback() { origin::check_loopback(request) } else { Ok(()) }
    }

    /// Reads the secrets again if that is due.
    pub(crate) async fn refresh_secrets(&self) {
        self.credentials.refresh().await;
    }

    /// Identifies the client by its bearer token, by the session in this cookie, or by the application's login.
    pub(crate) fn identify(&self, request: &ServiceRequest, cookie: &str) -> Result<Identity, AccessError> {
        if bearer(request).is_some() && self.login.is_none() {
            return Identity::of_token(request, &self.credentials).ok_or(AccessError::Unknown);
        }
        let by_token = || Identity::of_token(request, &self.credentials);
        let by_cookie = || {
            let session = Identity::of_cookie(request, cookie, &self.credentials)?;
            (!self.ended.contain(session.csrf, session.begun_at)).then_some(Identity::Cookie(session))
        };
        let by_login = || {
            let user = self.login.as_ref()?.user_of(request)?;
            Some(Identity::of_application(user, &self.credentials))
        };
        let anyone = || self.is_loopback().then(Identity::of_loopback);
        by_token().or_else(by_cookie).or_else(by_login).or_else(anyone).ok_or(AccessError::Unknown)
    }

    /// The user with this secret. Takes as long for a wrong secret as for a right one.
    pub(crate) fn user_of(&self, secret: &str) -> Option<User> {
        self.credentials.user_of(secret)
    }

    /// Ends a session: its cookie and all copies of it are refused from now on.
    pub(crate) fn end(&self, session: &SignIn) {
        self.ended.end(session.csrf, session.begun_at);
    }

    /// The cookie that contains a session.
    pub(crate) fn cookie(&self, session: &SignIn, scope: &CookieScope) -> Cookie<'static> {
        session.to_cookie(&self.credentials, scope)
    }
}

impl From<Credentials> for Access {
    fn from(credentials: Credentials) -> Self {
        Self {
            credentials,
            hosts: HostNames::default(),
            proxies: Proxies::default(),
            link: SignInLink::default(),
            login: None,
            ended: Arc::default(),
        }
    }
}

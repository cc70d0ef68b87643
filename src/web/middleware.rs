//! What stands before every page: who asks, from where, and whether a change was meant.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::InternalError;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};
use subtle::ConstantTimeEq;
use tokio::time::{Instant, timeout_at};

use super::Console;
use super::access::{CookieScope, Role, SignIn};
use super::{api, pages};

/// A request that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(30);

const CSRF_HEADER: &str = "x-csrf-token";
pub(super) const CSRF_FIELD: &str = "csrf";

pub(super) const SIGN_IN: &str = "/sign-in";
pub(super) const ASSETS: &str = "/assets/";
pub(super) const API: &str = "/api/";

/// What proxies add, beside `X-Forwarded-` of anything.
const FORWARDED: [&str; 7] =
    ["forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "cf-connecting-ip"];

/// Nothing from elsewhere, no script or style but our own files, no frame around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 7] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    // Not `no-referrer`, with which browsers hide a form's origin.
    (header::REFERRER_POLICY, "same-origin"),
    (header::CROSS_ORIGIN_OPENER_POLICY, "same-origin"),
    (header::CROSS_ORIGIN_RESOURCE_POLICY, "same-origin"),
    (header::PERMISSIONS_POLICY, "camera=(), geolocation=(), microphone=()"),
];

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AccessError {
    /// It was sent to a name that is not ours.
    Host,
    /// It comes from another machine, and no secret was set.
    Peer,
    /// Nobody has said who they are.
    Unknown,
    /// The role may only look.
    Reader,
    /// It comes from a page of another site.
    Origin,
    /// Its token is missing or wrong: another site may have made the browser send it.
    Csrf,
    /// Too much at once.
    TooMany,
    /// Its body is too large or broken.
    Body,
    /// It took too long.
    Late,
}

impl AccessError {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::Unknown => StatusCode::UNAUTHORIZED,
            Self::Peer | Self::Reader | Self::Origin | Self::Csrf => StatusCode::FORBIDDEN,
            Self::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Self::Body => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Late => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub(super) fn says(self) -> &'static str {
        match self {
            Self::Host => "This server is not called by that name; `hosts` under [web] lists its names.",
            Self::Peer => "Without a secret the console is for this machine alone.",
            Self::Unknown => "Sign in, or send the secret as a bearer token.",
            Self::Reader => "This secret may only look.",
            Self::Origin => {
                "The request comes from another site, or does not say from which; or a proxy does not pass Host on."
            }
            Self::Csrf => "The form is from another session; load the page again.",
            Self::TooMany => "Too many requests; wait a moment.",
            Self::Body => "The request is too large, or broken.",
            Self::Late => "It took too long.",
        }
    }
}

/// How it is known who asks.
enum Identity {
    Token(Role),
    Cookie(SignIn),
    /// Nothing is asked for on this machine.
    RoleKey(SignIn),
}

impl Identity {
    fn session(&self) -> SignIn {
        match self {
            Self::Token(role) => SignIn::new(*role),
            Self::Cookie(session) | Self::RoleKey(session) => session.clone(),
        }
    }
}

/// Where the console stands: what its links begin with.
#[derive(Debug, Clone, Default)]
pub(super) struct Base {
    pub(super) path: String,
    /// A secret is asked for.
    pub(super) signs_in: bool,
    pub(super) cookie: CookieScope,
}

/// What is asked for, as far as a refusal has to know.
pub(super) struct RequestInfo {
    /// Below where the console stands, with its query.
    pub(super) path: String,
    pub(super) base: Base,
    /// A page keeps itself fresh.
    pub(super) is_refresh: bool,
    pub(super) is_change: bool,
}

pub(super) async fn guard<B: MessageBody + 'static>(
    console: Console,
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let path = request.match_info().unprocessed().to_owned();
    let before = request.path().strip_suffix(path.as_str()).unwrap_or_default().trim_end_matches('/').to_owned();
    let cookie = CookieScope::new(&host(&request), &before, is_secure(request.request()));
    let base = Base { path: before, signs_in: !console.access.is_loopback(), cookie };
    request.extensions_mut().insert(base.clone());
    let query = request.uri().query().map_or_else(String::new, |query| format!("?{query}"));
    let is_refresh = request.headers().contains_key("hx-request");
    let is_change = changes(&request);
    let asked = RequestInfo { path: format!("{path}{query}"), base: base.clone(), is_refresh, is_change };
    let deadline = Instant::now() + PATIENCE;
    let admitting = timeout_at(deadline, admit(&console, &mut request, &path, &base.cookie.name));
    let admitted = admitting.await.unwrap_or(Err(AccessError::Late));
    let mut response = match admitted {
        Ok(shown) => {
            let fresh = matches!(shown, Some(Identity::RoleKey(_)));
            let session = shown.as_ref().map(Identity::session);
            if let Some(session) = session.clone() {
                request.extensions_mut().insert(session);
            }
            let Ok(answered) = timeout_at(deadline, next.call(request)).await else {
                // The request is gone with what was asked of it.
                let mut late = refuse(AccessError::Late, &asked);
                protect(late.headers_mut(), false);
                return Err(InternalError::from_response("too late", late).into());
            };
            let mut response = answered?.map_into_boxed_body();
            if let Some(session) = session.filter(|_| fresh) {
                let cookie = console.access.cookie(&session, &base.cookie);
                response.response_mut().add_cookie(&cookie)?;
            }
            response
        }
        Err(refusal) => {
            tracing::debug!(?refusal, method = %request.method(), "a request to the console was refused");
            request.into_response(refuse(refusal, &asked))
        }
    };
    protect(response.headers_mut(), path.starts_with(ASSETS));
    Ok(response)
}

/// Who asks, where what is asked for is not open to everybody.
async fn admit(
    console: &Console,
    request: &mut ServiceRequest,
    path: &str,
    cookie: &str,
) -> Result<Option<Identity>, AccessError> {
    let access = &console.access;
    let peer = request.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
    let from = access.origin(peer, forwarded_for(request));
    if !console.limits.allow_request(from) {
        return Err(AccessError::TooMany);
    }
    if !access.knows_host(&host(request)) {
        return Err(AccessError::Host);
    }
    if access.is_loopback() && (!peer.to_canonical().is_loopback() || is_forwarded(request)) {
        return Err(AccessError::Peer);
    }
    let changes = changes(request);
    if changes && is_foreign(request) {
        return Err(AccessError::Origin);
    }
    if path.starts_with(ASSETS) {
        return Ok(None);
    }
    if path == SIGN_IN {
        if changes && !console.limits.allow_try(from) {
            return Err(AccessError::TooMany);
        }
        return Ok(None);
    }
    let shown = identify(console, request, cookie)?;
    if !changes {
        return Ok(Some(shown));
    }
    match &shown {
        Identity::Token(_) => {}
        Identity::Cookie(session) => {
            // Browsers always say which page a change comes from.
            if !request.headers().contains_key(header::ORIGIN) {
                return Err(AccessError::Origin);
            }
            check_csrf(request, session).await?;
        }
        // Its token is in no cookie yet, so no form can have it.
        Identity::RoleKey(_) => return Err(AccessError::Csrf),
    }
    if shown.session().role != Role::Operator && path != pages::SIGN_OUT {
        return Err(AccessError::Reader);
    }
    Ok(Some(shown))
}

fn changes(request: &ServiceRequest) -> bool {
    ![Method::GET, Method::HEAD].contains(request.method())
}

fn identify(console: &Console, request: &ServiceRequest, cookie: &str) -> Result<Identity, AccessError> {
    if let Some(token) = bearer(request) {
        return console.access.role_of(token).map(Identity::Token).ok_or(AccessError::Unknown);
    }
    let session = request.cookie(cookie).and_then(|cookie| console.access.session(cookie.value()));
    match session {
        Some(session) => Ok(Identity::Cookie(session)),
        None if console.access.is_loopback() => Ok(Identity::RoleKey(SignIn::new(Role::Operator))),
        None => Err(AccessError::Unknown),
    }
}

/// A proxy's own scheme is none of ours.
fn bearer(request: &ServiceRequest) -> Option<&str> {
    let given = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = given.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

/// Whether a proxy has said that the request came to it, from wherever.
fn is_forwarded(request: &ServiceRequest) -> bool {
    let is_theirs = |name: &str| name.starts_with("x-forwarded") || FORWARDED.contains(&name);
    request.headers().keys().any(|name| is_theirs(name.as_str()))
}

/// Whom proxies say a request comes from, the nearest last.
fn forwarded_for(request: &ServiceRequest) -> impl DoubleEndedIterator<Item = &str> {
    let lines: Vec<&str> = request.headers().get_all("x-forwarded-for").filter_map(|line| line.to_str().ok()).collect();
    lines.into_iter().flat_map(|line| line.split(','))
}

/// The name that the browser was sent to; not what a proxy says of it.
fn host(request: &ServiceRequest) -> String {
    let named = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    named.or_else(|| request.uri().authority().map(|authority| authority.as_str())).unwrap_or_default().to_owned()
}

/// A browser says which site a change comes from; programs do not.
fn is_foreign(request: &ServiceRequest) -> bool {
    let Some(origin) = request.headers().get(header::ORIGIN) else { return false };
    let site = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, site)| site);
    site.is_none_or(|site| !site.eq_ignore_ascii_case(&host(request)))
}

/// Over TLS, here or at the proxy before it.
fn is_secure(request: &HttpRequest) -> bool {
    request.connection_info().scheme() == "https"
}

async fn check_csrf(request: &mut ServiceRequest, session: &SignIn) -> Result<(), AccessError> {
    let header = request.headers().get(CSRF_HEADER).and_then(|token| token.to_str().ok()).map(str::to_owned);
    let token = match header {
        Some(token) => token,
        None => csrf_field(request).await?,
    };
    let right = session.csrf.simple().to_string();
    if bool::from(token.as_bytes().ct_eq(right.as_bytes())) { Ok(()) } else { Err(AccessError::Csrf) }
}

/// The field of the form that was sent, which can be read again afterwards.
async fn csrf_field(request: &mut ServiceRequest) -> Result<String, AccessError> {
    if request.content_type() != "application/x-www-form-urlencoded" {
        return Err(AccessError::Csrf);
    }
    let body = request.extract::<web::Bytes>().await.map_err(|_| AccessError::Body)?;
    let field = url::form_urlencoded::parse(&body).find(|(name, _)| name == CSRF_FIELD);
    let token = field.map(|(_, token)| token.into_owned()).ok_or(AccessError::Csrf);
    let again = futures_util::stream::once(std::future::ready(Ok(body)));
    request.set_payload(Payload::Stream { payload: Box::pin(again) });
    token
}

fn refuse(refusal: AccessError, asked: &RequestInfo) -> HttpResponse {
    if asked.path.starts_with(API) { api::refused(refusal) } else { pages::refused(refusal, asked) }
}

fn protect(headers: &mut HeaderMap, is_asset: bool) {
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if !is_asset {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

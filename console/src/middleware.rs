//! The checks before every request: the client's identity, its address, and whether a change was intended.

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

/// A request that takes longer is refused.
const PATIENCE: Duration = Duration::from_secs(30);

const CSRF_HEADER: &str = "x-csrf-token";
pub(super) const CSRF_FIELD: &str = "csrf";

pub(super) const SIGN_IN: &str = "/sign-in";
pub(super) const ASSETS: &str = "/assets/";
pub(super) const API: &str = "/api/";

/// Headers that proxies add, in addition to all that begin with `X-Forwarded`.
const FORWARDED: [&str; 7] =
    ["forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "cf-connecting-ip"];

/// Nothing from other sites, no scripts or styles except the console's own files, and no frame around a page.
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

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AccessError {
    /// It was sent to a name that is not the server's.
    Host,
    /// It comes from another machine, and no secret is configured.
    Peer,
    /// It has neither a session nor a valid token.
    Unknown,
    /// Its role is read-only.
    Reader,
    /// It comes from a page of another site.
    Origin,
    /// Its token is missing or wrong: another site may have made the browser send it.
    Csrf,
    /// Its address has reached a rate limit.
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

    pub(super) fn message(self) -> &'static str {
        match self {
            Self::Host => "The host name of the request is not one of this server's; add it to `hosts` under [web].",
            Self::Peer => "Without a secret only this machine has access; set operator_secret_file under [web].",
            Self::Unknown => "Sign in, or send the secret as a bearer token.",
            Self::Reader => "This secret is read-only; sign in with the operators' secret.",
            Self::Origin => {
                "The request comes from another site or has no Origin header, or a proxy does not forward Host."
            }
            Self::Csrf => "The form is from another session; reload the page.",
            Self::TooMany => "Too many requests from this address; wait a moment.",
            Self::Body => "The request's body is too large or cannot be read.",
            Self::Late => "The request took longer than 30 s; try again later.",
        }
    }
}

/// How the client is identified.
enum Identity {
    Token(Role),
    Cookie(SignIn),
    /// On this machine, without a configured secret.
    Loopback(SignIn),
}

impl Identity {
    fn session(&self) -> SignIn {
        match self {
            Self::Token(role) => SignIn::new(*role),
            Self::Cookie(session) | Self::Loopback(session) => session.clone(),
        }
    }
}

/// The path that the console is mounted at, and what its responses need with it.
#[derive(Debug, Clone, Default)]
pub(super) struct Base {
    pub(super) path: String,
    /// Clients have to sign in.
    pub(super) signs_in: bool,
    pub(super) cookie: CookieScope,
}

/// What a refusal needs to know of the request.
pub(super) struct RequestInfo {
    /// Below the console's path, with its query.
    pub(super) path: String,
    pub(super) base: Base,
    /// A page refreshes itself.
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
        Ok(identity) => {
            let fresh = matches!(identity, Some(Identity::Loopback(_)));
            let session = identity.as_ref().map(Identity::session);
            if let Some(session) = session.clone() {
                request.extensions_mut().insert(session);
            }
            let Ok(answered) = timeout_at(deadline, next.call(request)).await else {
                // The request was dropped with its handler.
                let mut late = refuse(AccessError::Late, &asked);
                protect(late.headers_mut(), false);
                return Err(InternalError::from_response("the request took too long", late).into());
            };
            let mut response = answered?.map_into_boxed_body();
            if let Some(session) = session.filter(|_| fresh) {
                let cookie = console.access.cookie(&session, &base.cookie);
                response.response_mut().add_cookie(&cookie)?;
            }
            response
        }
        Err(refusal) => {
            tracing::debug!(?refusal, method = %request.method(), "request to the console refused");
            request.into_response(refuse(refusal, &asked))
        }
    };
    protect(response.headers_mut(), path.starts_with(ASSETS));
    Ok(response)
}

/// Checks a request and identifies its client; none for the assets and the sign-in page, which need no identity.
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
    let identity = identify(console, request, cookie)?;
    if !changes {
        return Ok(Some(identity));
    }
    match &identity {
        Identity::Token(_) => {}
        Identity::Cookie(session) => {
            // Browsers always send the origin of a change.
            if !request.headers().contains_key(header::ORIGIN) {
                return Err(AccessError::Origin);
            }
            check_csrf(request, session).await?;
        }
        // Its token is in no cookie yet, so no form can contain it.
        Identity::Loopback(_) => return Err(AccessError::Csrf),
    }
    if identity.session().role != Role::Operator && path != pages::SIGN_OUT {
        return Err(AccessError::Reader);
    }
    Ok(Some(identity))
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
        None if console.access.is_loopback() => Ok(Identity::Loopback(SignIn::new(Role::Operator))),
        None => Err(AccessError::Unknown),
    }
}

/// The bearer token. Other schemes, such as a proxy's own login, are ignored.
fn bearer(request: &ServiceRequest) -> Option<&str> {
    let given = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = given.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

/// Whether a proxy forwarded the request.
fn is_forwarded(request: &ServiceRequest) -> bool {
    let is_proxy_header = |name: &str| name.starts_with("x-forwarded") || FORWARDED.contains(&name);
    request.headers().keys().any(|name| is_proxy_header(name.as_str()))
}

/// The client's addresses according to proxies, the nearest proxy's last.
fn forwarded_for(request: &ServiceRequest) -> impl DoubleEndedIterator<Item = &str> {
    let lines: Vec<&str> = request.headers().get_all("x-forwarded-for").filter_map(|line| line.to_str().ok()).collect();
    lines.into_iter().flat_map(|line| line.split(','))
}

/// The host name to which the client sent the request; headers of proxies are ignored.
fn host(request: &ServiceRequest) -> String {
    let named = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    named.or_else(|| request.uri().authority().map(|authority| authority.as_str())).unwrap_or_default().to_owned()
}

/// Whether the request comes from another site. Browsers send the origin of a change; programs do not.
fn is_foreign(request: &ServiceRequest) -> bool {
    let Some(origin) = request.headers().get(header::ORIGIN) else { return false };
    let site = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, site)| site);
    site.is_none_or(|site| !site.eq_ignore_ascii_case(&host(request)))
}

/// Whether the client uses TLS, to this server or to the proxy before it.
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

/// The token in the form. The body can be read again afterwards.
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

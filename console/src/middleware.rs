//! The checks before every request and their order, its deadline, and the headers of every response.

use std::sync::Arc;
use std::time::Duration;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::InternalError;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{HttpMessage, HttpResponse};
use tokio::time::{Instant, timeout_at};

use super::auth::{Access, AccessError, Identity, Role, bearer, check_csrf, has_origin, sent};
use super::limits::Limits;
use super::request_info::{ASSETS, Author, Base, RequestInfo, SIGN_IN, SIGN_OUT};

/// A request that takes longer is refused.
const PATIENCE: Duration = Duration::from_secs(30);

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

/// What the checks need.
#[derive(Clone)]
pub(super) struct Checks {
    pub(super) access: Arc<Access>,
    pub(super) limits: Arc<Limits>,
    /// Renders a refusal, also for a path without a route; so it is chosen by the path.
    pub(super) refused: fn(AccessError, &RequestInfo) -> HttpResponse,
}

pub(super) async fn guard<B: MessageBody + 'static>(
    checks: Checks,
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let info = RequestInfo::new(&request, &checks.access);
    request.extensions_mut().insert(info.base.clone());
    let from = checks.access.client_address(&request);
    let deadline = Instant::now() + PATIENCE;
    let admitting = timeout_at(deadline, admit(&checks, &mut request, &info));
    let admitted = admitting.await.unwrap_or(Err(AccessError::Late));
    let mut response = match admitted {
        Ok(identity) => {
            let fresh = matches!(identity, Some(Identity::Loopback(_)));
            let session = identity.as_ref().map(Identity::session);
            if let Some(session) = session.clone() {
                let mut extensions = request.extensions_mut();
                extensions.insert(Author::new(&session.user, from));
                extensions.insert(session);
            }
            if matches!(identity, Some(Identity::Application(_))) {
                // The application ends its own sessions.
                request.extensions_mut().insert(Base { signs_in: false, ..info.base.clone() });
            }
            let Ok(answered) = timeout_at(deadline, next.call(request)).await else {
                // The request was dropped with its handler.
                let mut late = (checks.refused)(AccessError::Late, &info);
                protect(late.headers_mut(), false);
                return Err(InternalError::from_response("the request took too long", late).into());
            };
            let mut response = answered?.map_into_boxed_body();
            if info.path == SIGN_IN && info.is_change && response.status() == StatusCode::FORBIDDEN {
                tracing::warn!(%from, "sign-in to the console refused: the secret is wrong");
            }
            if let Some(session) = session.filter(|_| fresh) {
                let cookie = checks.access.cookie(&session, &info.base.cookie);
                response.response_mut().add_cookie(&cookie)?;
            }
            response
        }
        Err(refusal) => {
            if refusal == AccessError::Unknown && bearer(&request).is_some() && checks.limits.log_wrong_token(from) {
                tracing::warn!(%from, "request to the console refused: the token is wrong");
            }
            tracing::debug!(?refusal, method = %request.method(), "request to the console refused");
            request.into_response((checks.refused)(refusal, &info))
        }
    };
    protect(response.headers_mut(), info.path.starts_with(ASSETS));
    Ok(response)
}

/// Checks a request and identifies its client; none for the assets and the sign-in page, which need no identity.
async fn admit(
    checks: &Checks,
    request: &mut ServiceRequest,
    info: &RequestInfo,
) -> Result<Option<Identity>, AccessError> {
    let Checks { access, limits, .. } = checks;
    let from = access.client_address(request);
    if !limits.allow_request(from) {
        return Err(AccessError::TooMany);
    }
    access.check_host(request)?;
    access.check_peer(request)?;
    if info.is_change {
        access.check_origin(request)?;
    }
    if info.path.starts_with(ASSETS) {
        return Ok(None);
    }
    if info.path == SIGN_IN {
        if info.is_change && !limits.allow_try(from) {
            return Err(AccessError::TooMany);
        }
        access.refresh_secrets().await;
        return Ok(None);
    }
    access.refresh_secrets().await;
    let identity = access.identify(request, &info.base.cookie.name)?;
    if info.is_change {
        admit_change(request, &identity, info).await?;
    }
    Ok(Some(identity))
}

async fn admit_change(
    request: &mut ServiceRequest,
    identity: &Identity,
    info: &RequestInfo,
) -> Result<(), AccessError> {
    match identity {
        Identity::Token(_) => {}
        Identity::Cookie(session) | Identity::Application(session) => {
            // Browsers always send the origin of a change.
            if !has_origin(request) {
                return Err(AccessError::Origin(sent(request)));
            }
            check_csrf(request, session).await?;
        }
        // Its token is in no cookie yet, so no form can contain it.
        Identity::Loopback(_) => return Err(AccessError::Csrf),
    }
    if identity.role() != Role::Operator && info.path != SIGN_OUT {
        return Err(AccessError::Reader);
    }
    Ok(())
}

fn protect(headers: &mut HeaderMap, is_asset: bool) {
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if !is_asset {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

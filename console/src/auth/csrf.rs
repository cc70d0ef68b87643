//! The token that a request with a session has to repeat, so that another site cannot make a browser change something.

use actix_web::HttpMessage;
use actix_web::dev::{Payload, ServiceRequest};
use actix_web::web;
use subtle::ConstantTimeEq;

use super::error::AccessError;
use super::session::SignIn;

const CSRF_HEADER: &str = "x-csrf-token";
pub(crate) const CSRF_FIELD: &str = "csrf";

/// Checks the token in the header, or else in the form.
pub(crate) async fn check_csrf(request: &mut ServiceRequest, session: &SignIn) -> Result<(), AccessError> {
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

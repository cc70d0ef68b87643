//! Paths and the methods that they answer.

use std::future::ready;

use actix_web::http::header::ALLOW;
use actix_web::{FromRequest, Handler, HttpResponse, Resource, Responder, Route, guard, web};

/// A path that shows something: HEAD is answered as GET is, without the body, and everything else is refused.
pub(super) fn get<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    let shows = guard::Any(guard::Get()).or(guard::Head());
    web::resource(path).route(web::route().guard(shows).to(handler)).default_service(refuse_but("GET, HEAD"))
}

/// A path that changes something.
pub(super) fn post<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    web::resource(path).route(web::post().to(handler)).default_service(refuse_but("POST"))
}

/// What every other method than these is told.
pub(super) fn refuse_but(allowed: &'static str) -> Route {
    let error = format!("this path answers {allowed} alone");
    web::to(move || {
        let said = serde_json::json!({ "error": error });
        ready(HttpResponse::MethodNotAllowed().insert_header((ALLOW, allowed)).json(said))
    })
}

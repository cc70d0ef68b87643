//! Paths and the HTTP methods that they allow.

use std::future::ready;

use actix_web::http::header::ALLOW;
use actix_web::{FromRequest, Handler, HttpResponse, Resource, Responder, Route, guard, web};

/// A path that shows something: it handles GET and HEAD, which has no body, and refuses all other methods.
pub(super) fn get<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    let reads = guard::Any(guard::Get()).or(guard::Head());
    web::resource(path).route(web::route().guard(reads).to(handler)).default_service(refuse_but("GET, HEAD"))
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

/// The response to every method except these.
pub(super) fn refuse_but(allowed: &'static str) -> Route {
    let error = format!("the method is not allowed; this path allows {allowed}");
    web::to(move || {
        let problem = serde_json::json!({ "error": error });
        ready(HttpResponse::MethodNotAllowed().insert_header((ALLOW, allowed)).json(problem))
    })
}

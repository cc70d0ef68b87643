//! The pages' static files, embedded in the program.

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_web::{HttpResponse, web};

use super::methods::get;

/// The files by name. Their addresses contain the version, so that a browser may cache them.
const FILES: &[(&str, &str, &str)] = &[
    ("console.css", "text/css; charset=utf-8", include_str!("assets/console.css")),
    ("console.js", "text/javascript; charset=utf-8", include_str!("assets/console.js")),
    ("icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
    ("htmx.js", "text/javascript; charset=utf-8", include_str!("assets/htmx.min.js")),
];

/// The address of a file, below the console's path.
pub(super) fn address(name: &str) -> String {
    format!("/assets/{}/{name}", env!("CARGO_PKG_VERSION"))
}

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config.service(get("/assets/{version}/{name}", serve));
}

async fn serve(path: web::Path<(String, String)>) -> HttpResponse {
    let (version, name) = path.into_inner();
    match FILES.iter().find(|(known, ..)| *known == name) {
        Some((_, kind, text)) if version == env!("CARGO_PKG_VERSION") => HttpResponse::Ok()
            .insert_header((CONTENT_TYPE, *kind))
            .insert_header((CACHE_CONTROL, "public, max-age=86400"))
            .body(*text),
        _ => HttpResponse::NotFound().finish(),
    }
}

//! The pages' static files, embedded in the program.

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_web::{HttpResponse, web};

use super::methods::get;

/// The files by name. Their addresses contain the version and a hash, so that a browser may cache them.
const FILES: &[(&str, &str, &str)] = &[
    ("console.css", "text/css; charset=utf-8", include_str!("assets/console.css")),
    ("console.js", "text/javascript; charset=utf-8", include_str!("assets/console.js")),
    ("times.js", "text/javascript; charset=utf-8", include_str!("assets/times.js")),
    ("charts.js", "text/javascript; charset=utf-8", include_str!("assets/charts.js")),
    ("copy.js", "text/javascript; charset=utf-8", include_str!("assets/copy.js")),
    ("keys.js", "text/javascript; charset=utf-8", include_str!("assets/keys.js")),
    ("icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
    ("htmx.js", "text/javascript; charset=utf-8", include_str!("assets/htmx.min.js")),
];

/// The scripts of every page, in their order.
pub(super) const SCRIPTS: [&str; 6] = ["htmx.js", "console.js", "times.js", "charts.js", "copy.js", "keys.js"];

/// FNV-1a over all files: pages of one build of a version do not get the files of another from a browser's cache.
const HASH: u32 = {
    let (mut hash, mut file) = (0x811c_9dc5_u32, 0);
    while file < FILES.len() {
        let (bytes, mut n) = (FILES[file].2.as_bytes(), 0);
        while n < bytes.len() {
            hash = (hash ^ bytes[n] as u32).wrapping_mul(0x0100_0193);
            n += 1;
        }
        file += 1;
    }
    hash
};

fn version() -> String {
    format!("{}-{HASH:08x}", env!("CARGO_PKG_VERSION"))
}

/// The address of a file, below the console's path.
pub(super) fn address(name: &str) -> String {
    format!("/assets/{}/{name}", version())
}

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config.service(get("/assets/{version}/{name}", serve));
}

async fn serve(path: web::Path<(String, String)>) -> HttpResponse {
    let (version, name) = path.into_inner();
    match FILES.iter().find(|(known, ..)| *known == name) {
        Some((_, kind, text)) if version == self::version() => HttpResponse::Ok()
            .insert_header((CONTENT_TYPE, *kind))
            .insert_header((CACHE_CONTROL, "public, max-age=86400"))
            .body(*text),
        _ => HttpResponse::NotFound().finish(),
    }
}

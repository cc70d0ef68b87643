//! The HTML pages. They work without JavaScript; with it, they refresh themselves.

mod audit;
mod backends;
mod changing;
mod chart;
mod charts;
#[cfg(feature = "consumer")]
mod consumers;
mod doctor;
mod error;
mod event;
mod events;
mod format;
mod forms;
#[cfg(feature = "consumer")]
mod groups;
mod hints;
mod layout;
mod overview;
mod payload;
mod sign_in;
mod trace;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};

use self::layout::PageLayout;
pub(super) use self::trace::TraceUrl;
use super::auth::AccessError;
use super::methods::{get, post, refuse_but};
use super::request_info::{RequestInfo, SIGN_IN, SIGN_OUT};

pub(super) fn routes(config: &mut web::ServiceConfig) {
    #[cfg(feature = "consumer")]
    config
        .service(get("/consumers", consumers::show))
        .service(get("/consumers/dead", consumers::list))
        .service(get("/consumers/confirm", consumers::confirm))
        .service(post("/consumers/change", consumers::change));
    config
        .service(get("", home))
        .service(get("/", overview::show))
        .service(get("/events", events::show))
        .service(get("/events/{id}", event::show))
        .service(get("/events/{id}/data", event::data_file))
        .service(get("/doctor", doctor::show))
        .service(get("/audit", audit::show))
        .service(get("/confirm", changing::confirm))
        .service(post("/change", changing::change))
        .service(get("/backends/confirm", backends::confirm))
        .service(post("/backends/change", backends::change))
        .service(
            get(SIGN_IN, sign_in::show)
                .route(web::post().to(sign_in::sign_in))
                .default_service(refuse_but("GET, HEAD, POST")),
        )
        .service(post(SIGN_OUT, sign_in::sign_out))
        .default_service(web::to(not_found));
}

async fn home(layout: PageLayout) -> HttpResponse {
    layout.see_other("/")
}

async fn not_found(layout: PageLayout) -> HttpResponse {
    layout.error_page(StatusCode::NOT_FOUND, "No page has this address.")
}

/// The response to a refused request for a page: a redirect to the sign-in page if signing in helps, else an error page.
pub(super) fn refused(refusal: &AccessError, request: &RequestInfo) -> HttpResponse {
    if *refusal == AccessError::Unknown && request.is_refresh {
        // The browser reloads the whole page, and is then redirected to the sign-in page.
        return HttpResponse::build(refusal.status()).insert_header(("hx-refresh", "true")).finish();
    }
    let layout = PageLayout::anonymous(request.base.clone());
    if *refusal == AccessError::Unknown && request.base.signs_in {
        // The change is not repeated after the sign-in.
        let page = if request.is_change { "/".to_owned() } else { request.address() };
        let then = url::form_urlencoded::byte_serialize(page.as_bytes()).collect::<String>();
        return layout.see_other(&format!("{SIGN_IN}?then={then}"));
    }
    layout.error_page(refusal.status(), &refusal.message())
}

//! The HTML pages. They work without JavaScript; with it, they refresh themselves.

mod changing;
mod chart;
mod event;
mod events;
mod layout;
mod overview;
mod sign_in;

use std::borrow::Borrow;

use actix_web::http::header::LOCATION;
use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, ResponseError, web};
use chrono::SecondsFormat;
use maud::html;

use self::layout::PageLayout;
use super::methods::{get, post, refuse_but};
use super::middleware::{AccessError, RequestInfo, SIGN_IN};
use actix_outbox::Status;
use actix_outbox::StoreError;

/// In the order in which pages show them.
const STATUSES: [Status; 5] = [Status::Pending, Status::Retry, Status::Failed, Status::Published, Status::Processing];

pub(super) const SIGN_OUT: &str = "/sign-out";

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .service(get("", home))
        .service(get("/", overview::show))
        .service(get("/events", events::show))
        .service(get("/events/{id}", event::show))
        .service(get("/confirm", changing::confirm))
        .service(post("/change", changing::change))
        .service(
            get(SIGN_IN, sign_in::show)
                .route(web::post().to(sign_in::sign_in))
                .default_service(refuse_but("GET, HEAD, POST")),
        )
        .service(post(SIGN_OUT, sign_in::sign_out))
        .default_service(web::to(not_found));
}

async fn home(layout: PageLayout) -> HttpResponse {
    see_other(&layout.link("/"))
}

async fn not_found(layout: PageLayout) -> HttpResponse {
    layout.error_page(StatusCode::NOT_FOUND, "No page has this address.")
}

fn see_other(address: &str) -> HttpResponse {
    HttpResponse::SeeOther().insert_header((LOCATION, address)).finish()
}

/// An error page in place of the requested one.
#[derive(Debug)]
struct PageError {
    layout: PageLayout,
    status: StatusCode,
    message: String,
}

impl PageError {
    fn bad_request(layout: &PageLayout, message: impl Into<String>) -> Self {
        Self { layout: layout.clone(), status: StatusCode::BAD_REQUEST, message: message.into() }
    }

    fn from_store<E: Borrow<StoreError>>(layout: &PageLayout) -> impl FnOnce(E) -> Self {
        let layout = layout.clone();
        move |error| {
            let error = error.borrow();
            Self { layout, status: super::status_of(error), message: error.to_string() }
        }
    }
}

impl std::fmt::Display for PageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl ResponseError for PageError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        self.layout.error_page(self.status, &self.message)
    }
}

type PageResult = Result<HttpResponse, PageError>;

/// The response to a refused request for a page: a redirect to the sign-in page if signing in helps, else an error page.
pub(super) fn refused(refusal: AccessError, asked: &RequestInfo) -> HttpResponse {
    if refusal == AccessError::Unknown && asked.is_refresh {
        // The browser reloads the whole page, and is then redirected to the sign-in page.
        return HttpResponse::build(refusal.status()).insert_header(("hx-refresh", "true")).finish();
    }
    if refusal == AccessError::Unknown {
        // The change is not repeated after the sign-in.
        let page = if asked.is_change { "/" } else { &asked.path };
        let then = url::form_urlencoded::byte_serialize(page.as_bytes()).collect::<String>();
        return see_other(&format!("{}{SIGN_IN}?then={then}", asked.base.path));
    }
    PageLayout::anonymous(asked.base.clone()).error_page(refusal.status(), refusal.message())
}

/// A form's content without its empty fields.
fn without_empty(form: &str) -> String {
    let filled = url::form_urlencoded::parse(form.as_bytes()).filter(|(_, value)| !value.is_empty());
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(filled).finish()
}

/// Parses a form.
fn read<T: serde::de::DeserializeOwned>(form: &str) -> Result<T, String> {
    web::Query::from_query(form).map(web::Query::into_inner).map_err(|error| error.to_string())
}

/// The response with a page.
fn page(status: StatusCode, markup: maud::Markup) -> HttpResponse {
    HttpResponse::build(status)
        .insert_header((header::CONTENT_TYPE, "text/html; charset=utf-8"))
        .body(markup.into_string())
}

/// A time as text, with the element's `datetime` for browsers.
fn time(time: chrono::DateTime<chrono::Utc>) -> maud::Markup {
    let exact = time.to_rfc3339_opts(SecondsFormat::Micros, true);
    html! { time datetime=(exact) { (time.format("%Y-%m-%d %H:%M:%S")) " UTC" } }
}

fn status(status: Status) -> maud::Markup {
    html! { span class={ "status " (status) } { (status) } }
}

fn events_count(count: usize) -> String {
    if count == 1 {
        "1 event".to_owned()
    } else {
        format!("{} events", grouped(i64::try_from(count).unwrap_or(i64::MAX)))
    }
}

/// A text that may be long, such as an error, shortened to 2,000 characters.
fn shortened(text: &str) -> String {
    const LONGEST: usize = 2_000;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text.to_owned(),
    }
}

/// A number with a comma between thousands.
fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_told_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (-12_345, "-12,345"), (1_234_567, "1,234,567")]
        {
            assert_eq!(grouped(number), text);
        }
    }
}

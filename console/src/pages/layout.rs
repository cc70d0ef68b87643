//! The layout of every page: head, navigation and error pages; and redirects to another page.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::http::{StatusCode, header};
use actix_web::{FromRequest, HttpMessage, HttpRequest, HttpResponse};
use maud::{DOCTYPE, Markup, html};

use super::format::prose;
use crate::assets;
use crate::auth::{CSRF_FIELD, Role, SignIn};
use crate::request_info::{Base, SIGN_OUT};

/// htmx: no styles of its own, no code in attributes, no requests to other sites.
const HTMX: &str =
    r#"{"includeIndicatorStyles":false,"allowEval":false,"selfRequestsOnly":true,"historyEnabled":false}"#;

const PAGES: &[(&str, &str)] = &[
    ("/", "Overview"),
    ("/events", "Events"),
    #[cfg(feature = "consumer")]
    ("/consumers", "Consumers"),
    ("/audit", "Changes"),
    ("/doctor", "Doctor"),
];

/// The console's path, and the session of the request.
#[derive(Debug, Clone)]
pub(super) struct PageLayout {
    base: Base,
    session: Option<SignIn>,
}

impl FromRequest for PageLayout {
    type Error = actix_web::Error;
    type Future = Ready<Result<Self, Self::Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let extensions = request.extensions();
        let base = extensions.get::<Base>().cloned().unwrap_or_default();
        ready(Ok(Self { base, session: extensions.get::<SignIn>().cloned() }))
    }
}

impl PageLayout {
    pub(super) fn anonymous(base: Base) -> Self {
        Self { base, session: None }
    }

    pub(super) fn base(&self) -> &Base {
        &self.base
    }

    pub(super) fn session(&self) -> Option<&SignIn> {
        self.session.as_ref()
    }

    /// The address of a page of the console.
    pub(super) fn link(&self, path: &str) -> String {
        format!("{}{path}", self.base.path)
    }

    /// A redirect to a page of the console.
    pub(super) fn see_other(&self, path: &str) -> HttpResponse {
        HttpResponse::SeeOther().insert_header((header::LOCATION, self.link(path))).finish()
    }

    pub(super) fn may_change(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.user.role() == Role::Operator)
    }

    /// The CSRF token, for each form that changes something.
    pub(super) fn token(&self) -> Markup {
        html! {
            @if let Some(session) = &self.session {
                input type="hidden" name=(CSRF_FIELD) value=(session.csrf.simple());
            }
        }
    }

    /// A page. `at` is its path in the navigation.
    pub(super) fn page(&self, title: &str, at: &str, content: &Markup) -> HttpResponse {
        page(StatusCode::OK, self.document(title, at, content))
    }

    pub(super) fn error_page(&self, status: StatusCode, message: &str) -> HttpResponse {
        let title = status.canonical_reason().unwrap_or("Error");
        let content = html! {
            h1 { (title) }
            p class="notice bad" role="alert" { (prose(message)) }
            p { a href=(self.link("/")) { "Back to the overview" } }
        };
        page(status, self.document(title, "", &content))
    }

    fn document(&self, title: &str, at: &str, content: &Markup) -> Markup {
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    meta name="htmx-config" content=(HTMX);
                    title { (title) " · outbox" }
                    link rel="icon" href=(self.link(&assets::address("icon.svg")));
                    link rel="stylesheet" href=(self.link(&assets::address("console.css")));
                    @for name in assets::SCRIPTS { script src=(self.link(&assets::address(name))) defer {} }
                }
                body {
                    a class="skip" href="#content" { "To the content" }
                    header class="top" {
                        strong { "outbox" }
                        @if self.session.is_some() { (self.navigation(at)) }
                    }
                    main id="content" {
                        p id="stale" role="status" hidden { "This page is out of date: the outbox does not respond; retrying every 2 s." }
                        (content)
                    }
                    @if self.session.is_some() { footer { p id="zone" { "Times are in UTC." } } }
                }
            }
        }
    }

    fn navigation(&self, at: &str) -> Markup {
        html! {
            nav aria-label="Pages" {
                @for (path, name) in PAGES {
                    a href=(self.link(path)) data-page=(path) aria-current=[(*path == at).then_some("page")] { (name) }
                }
            }
            @if self.base.signs_in {
                form method="post" action=(self.link(SIGN_OUT)) {
                    (self.token())
                    button { "Sign out" }
                }
            }
        }
    }
}

/// The response with a page.
fn page(status: StatusCode, markup: maud::Markup) -> HttpResponse {
    HttpResponse::build(status)
        .insert_header((header::CONTENT_TYPE, "text/html; charset=utf-8"))
        .body(markup.into_string())
}

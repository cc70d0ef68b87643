//! Pausing and resuming a backend, after a confirmation page.

use actix_outbox::OutboxAdmin;
use actix_web::{HttpRequest, web};
use maud::{Markup, html};

use super::error::{PageError, PageResult};
use super::forms::read;
use super::layout::PageLayout;
use crate::auth::{AccessError, CSRF_FIELD};
use crate::queries;
use crate::request_info::Author;
use crate::requests::{BackendAction, BackendChange};
use crate::responses::BackendChanged;

fn parse(form: &str) -> Result<BackendChange, String> {
    let pairs = url::form_urlencoded::parse(form.as_bytes()).filter(|(name, _)| name != CSRF_FIELD);
    read(&url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish())
}

fn heading(action: BackendAction) -> &'static str {
    match action {
        BackendAction::Pause => "Pause",
        BackendAction::Resume => "Resume",
    }
}

fn description(action: BackendAction) -> &'static str {
    match action {
        BackendAction::Pause => {
            "Workers finish what they are sending to it and then send nothing until it is resumed. Its events wait, and no retry is spent. Health checks do not fail because of it."
        }
        BackendAction::Resume => "Workers begin to send to it with their next heartbeat.",
    }
}

pub(super) async fn confirm(layout: PageLayout, request: HttpRequest) -> PageResult {
    if !layout.may_change() {
        return Ok(layout.error_page(AccessError::Reader.status(), &AccessError::Reader.message()));
    }
    let bad = |reason| PageError::bad_request(&layout, reason);
    let BackendChange { action, name, .. } = parse(request.query_string()).map_err(bad)?;
    let title = format!("{} backend {name}?", heading(action));
    let content = html! {
        h1 { (title) }
        p { (description(action)) }
        form method="post" action=(layout.link("/backends/change")) {
            (layout.token())
            input type="hidden" name="name" value=(name);
            @if action == BackendAction::Pause {
                label { "Reason (for other operators)" input name="reason" maxlength="500"; }
            }
            div class="actions" {
                button class="main" name="action" value=(heading(action).to_lowercase()) { (heading(action)) " " (name) }
                a href=(layout.link("/")) { "Cancel" }
            }
        }
    };
    Ok(layout.page(&title, "/", &content))
}

pub(super) async fn change(
    layout: PageLayout,
    admin: web::Data<OutboxAdmin>,
    author: web::ReqData<Author>,
    form: String,
) -> PageResult {
    let change = parse(&form).map_err(|reason| PageError::bad_request(&layout, reason))?;
    let done = queries::change_backend(&admin, &change, &author).await.map_err(PageError::refused(&layout))?;
    let title = format!("Backend {} {}", change.name, outcome(change.action, &done));
    let content = html! {
        h1 { (title) }
        (senders(&done.senders))
        p { a href=(layout.link("/")) { "Back to the overview" } }
    };
    Ok(layout.page(&title, "/", &content))
}

fn outcome(action: BackendAction, done: &BackendChanged) -> &'static str {
    match (action, done.changed) {
        (BackendAction::Pause, true) => "is paused",
        (BackendAction::Pause, false) => "was paused before",
        (BackendAction::Resume, true) => "is resumed",
        (BackendAction::Resume, false) => "was not paused",
    }
}

fn senders(senders: &[String]) -> Markup {
    html! {
        @if !senders.is_empty() {
            p class="notice" role="status" {
                "Until their next heartbeat, these workers may still be sending to it: " (senders.join(", ")) "."
            }
        }
    }
}

//! The page of one event.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, web};
use maud::{Markup, html};
use serde::Deserialize;
use uuid::Uuid;

use super::changing;
use super::error::{PageError, PageResult};
use super::events;
use super::format::{shortened, status, time};
use super::layout::PageLayout;
use crate::data::MOST_INLINE;
use crate::queries;
use crate::request_info::is_refresh;
use crate::responses::{Detail, EventState};
use actix_outbox::admin::{DataPart, Unreadable};
use actix_outbox::{Explanation, OutboxAdmin, OutboxEvent, Status};

const NO_UUID: &str = "No event has this id: it is not a valid UUID.";

pub(super) async fn show(
    layout: PageLayout,
    admin: web::Data<OutboxAdmin>,
    id: web::Path<String>,
    request: HttpRequest,
) -> PageResult {
    let Ok(id) = id.parse::<Uuid>() else { return Ok(layout.error_page(StatusCode::NOT_FOUND, NO_UUID)) };
    if is_refresh(request.headers()) {
        // An open page asks every two seconds, and its data may be large.
        let EventState { event, explanation } =
            queries::event_state(&admin, id).await.map_err(PageError::from_store(&layout))?;
        return Ok(layout.page(&format!("Event {id}"), "/events", &live(&layout, id, &event, &explanation)));
    }
    let Detail { event, data_bytes, explanation, neighbours } =
        queries::event(&admin, id).await.map_err(PageError::from_store(&layout))?;
    let beginning = match &event {
        Ok(event) if event.data.is_none() && event.data_binary.is_none() && data_bytes > 0 => {
            let part = admin.data(id, 0..MOST_INLINE).await.map_err(PageError::from_store(&layout))?;
            Some(part).filter(|part| !part.is_binary)
        }
        _ => None,
    };
    let content = html! {
        h1 { "Event " code { (id) } }
        @if layout.may_change() { (actions(&layout, id)) }
        (live(&layout, id, &event, &explanation))
        @if let Ok(event) = &event { (data(&layout, event, data_bytes, beginning.as_ref())) }
        @if !neighbours.is_empty() {
            h2 { "Events with the same key" }
            (events::table(&layout, &neighbours, false))
        }
    };
    Ok(layout.page(&format!("Event {id}"), "/events", &content))
}

/// The data of an event as a file.
pub(super) async fn data_file(
    layout: PageLayout,
    admin: web::Data<OutboxAdmin>,
    id: web::Path<String>,
    request: HttpRequest,
) -> PageResult {
    let Ok(id) = id.parse::<Uuid>() else { return Ok(layout.error_page(StatusCode::NOT_FOUND, NO_UUID)) };
    let file = crate::data::file(&admin, id, &request).await.map_err(PageError::from_store(&layout))?;
    Ok(file.unwrap_or_else(|| layout.error_page(StatusCode::NOT_FOUND, "This event has no data.")))
}

/// The part of the page that refreshes itself, from the same page.
fn live(layout: &PageLayout, id: Uuid, event: &Result<OutboxEvent, Unreadable>, explanation: &Explanation) -> Markup {
    html! {
        div id="live" hx-get=(layout.link(&format!("/events/{id}"))) hx-select="#live" hx-swap="outerHTML" hx-trigger="every 2s" {
            p class="notice" { (shortened(&explanation.sentence)) }
            @match event {
                Ok(event) => { (attributes(event)) (history(event)) }
                Err(unreadable) => p class="notice bad" { "The row is not a readable event: " (shortened(&unreadable.reason)) }
            }
        }
    }
}

fn actions(layout: &PageLayout, id: Uuid) -> Markup {
    html! {
        form method="get" action=(layout.link("/confirm")) class="actions" {
            input type="hidden" name="id" value=(id);
            (changing::buttons())
        }
    }
}

fn attributes(event: &OutboxEvent) -> Markup {
    let cloud_event_id = event.cloud_event_id();
    let texts: [(&str, &str); 8] = [
        ("Id in the CloudEvent", &cloud_event_id),
        ("Type", &event.event_type),
        ("Source", &event.source),
        ("Subject", &event.subject),
        ("Content type", &event.data_content_type),
        ("Schema", &event.data_schema),
        ("Backend", &event.publisher_backend),
        ("Partition key", &event.partition_key),
    ];
    html! {
        h2 { "The CloudEvent" }
        dl {
            dt { "Status" } dd { (status(event.status)) }
            @for (name, text) in texts {
                @if !text.is_empty() { dt { (name) } dd { (text) } }
            }
            @if event.extensions.as_str() != "{}" { dt { "Extensions" } dd { code { (event.extensions.as_str()) } } }
            @if let Some(handlers) = &event.pending_handlers {
                dt { "Handlers still to run" } dd { (handlers.join(", ")) }
            }
        }
    }
}

/// The data, or the beginning of it if it is large.
fn data(layout: &PageLayout, event: &OutboxEvent, total: u64, beginning: Option<&DataPart>) -> Markup {
    let file = layout.link(&format!("/events/{}/data", event.id));
    html! {
        h2 { "Data" }
        @if let Some(json) = &event.data {
            pre tabindex="0" { (json.as_str()) }
        } @else if let Some(part) = beginning {
            pre tabindex="0" { (text_of(&part.bytes)) }
            p { "The first " (part.bytes.len()) " bytes. " a href=(file) { "All " (total) " bytes" } }
        } @else if total > 0 {
            p { a href=(file) { (total) " bytes of binary data" } }
        } @else {
            p class="soft" { "none" }
        }
    }
}

/// The text of the beginning of a JSON text, which may end within a character.
fn text_of(bytes: &[u8]) -> &str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    }
}

/// One of the last failures, as the column `errors` stores them.
#[derive(Deserialize)]
struct AttemptError {
    #[serde(default)]
    at: String,
    #[serde(default)]
    error: String,
}

fn history(event: &OutboxEvent) -> Markup {
    let kept: Vec<serde_json::Value> =
        event.errors.as_ref().and_then(|errors| serde_json::from_str(errors.as_str()).ok()).unwrap_or_default();
    let failures: Vec<AttemptError> = kept.iter().filter_map(|kept| AttemptError::deserialize(kept).ok()).collect();
    let unreadable = kept.len() - failures.len();
    html! {
        h2 { "History" }
        div class="wide" {
            table {
                thead { tr { th scope="col" { "When" } th scope="col" { "What" } } }
                tbody {
                    tr { td { (time(event.created_at)) } td { "created" } }
                    tr { td { (time(event.scheduled_at)) } td { "scheduled for this time" } }
                    @for failure in &failures {
                        tr { td { (failure.at) } td { span class="bad" { "rejected: " } (shortened(&failure.error)) } }
                    }
                    @if unreadable > 0 { tr { td {} td { (unreadable) " more failures that cannot be read" } } }
                    @match (event.status, event.retry_at) {
                        (Status::Retry, Some(at)) => tr { td { (time(at)) } td { "next attempt" } },
                        (Status::Failed, Some(at)) => tr { td { (time(at)) } td { "marked as failed by an operator" } },
                        (Status::Failed, None) => tr { td { (time(event.updated_at)) } td { "failed" } },
                        _ => {}
                    }
                    @if let Some(at) = event.published_at { tr { td { (time(at)) } td { "published" } } }
                }
            }
        }
        p class="soft" {
            "Rejected " (event.retry_count) " of " (event.max_retries) " times since the event was written or last retried by an operator; the last ten failures are kept."
        }
    }
}

//! The page of one event.

use actix_web::http::StatusCode;
use actix_web::web;
use maud::{Markup, html};
use serde::Deserialize;
use uuid::Uuid;

use super::error::{PageError, PageResult};
use super::events;
use super::format::{shortened, status, time};
use super::layout::PageLayout;
use crate::queries;
use crate::responses::Detail;
use actix_outbox::OutboxAdmin;
use actix_outbox::{JsonText, OutboxEvent, Status};

/// The largest data in bytes that is shown whole; of larger data, the beginning is shown.
const MOST_SHOWN: usize = 64 * 1024;

pub(super) async fn show(layout: PageLayout, admin: web::Data<OutboxAdmin>, id: web::Path<String>) -> PageResult {
    let Ok(id) = id.parse::<Uuid>() else {
        return Ok(layout.error_page(StatusCode::NOT_FOUND, "No event has this id: it is not a valid UUID."));
    };
    let Detail { event, explanation, neighbours } =
        queries::event(&admin, id).await.map_err(PageError::from_store(&layout))?;
    let content = html! {
        h1 { "Event " code { (id) } }
        @if layout.may_change() { (actions(&layout, id)) }
        // Refreshes itself from the same page.
        div id="live" hx-get=(layout.link(&format!("/events/{id}"))) hx-select="#live" hx-swap="outerHTML" hx-trigger="every 2s" {
            p class="notice" { (shortened(&explanation.sentence)) }
            @match &event {
                Ok(event) => { (attributes(event)) (history(event)) }
                Err(unreadable) => p class="notice bad" { "The row is not a readable event: " (shortened(&unreadable.reason)) }
            }
        }
        @if let Ok(event) = &event { (data(event)) }
        @if !neighbours.is_empty() {
            h2 { "Events with the same key" }
            (events::table(&layout, &neighbours, false))
        }
    };
    Ok(layout.page(&format!("Event {id}"), "/events", &content))
}

fn actions(layout: &PageLayout, id: Uuid) -> Markup {
    html! {
        form method="get" action=(layout.link("/confirm")) class="actions" {
            input type="hidden" name="id" value=(id);
            button name="action" value="retry" { "Retry…" }
            button name="action" value="fail" { "Fail…" }
            button name="action" value="replay" { "Replay…" }
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

fn data(event: &OutboxEvent) -> Markup {
    html! {
        h2 { "Data" }
        @if let Some(bytes) = &event.data_binary {
            p { (bytes.len()) " bytes of binary data" }
        } @else if let Some(json) = &event.data {
            (beginning(json))
        } @else {
            p class="soft" { "none" }
        }
    }
}

fn beginning(json: &JsonText) -> Markup {
    let text = json.as_str();
    let end = (0..=MOST_SHOWN.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    html! {
        pre tabindex="0" { (text[..end]) }
        @if end < text.len() { p class="soft" { "The first " (end) " of " (text.len()) " bytes." } }
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

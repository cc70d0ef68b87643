//! The page of one event.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, web};
use maud::{Markup, html};
use serde::Deserialize;
use uuid::Uuid;

use super::changing;
use super::error::{PageError, PageResult};
use super::events;
use super::format::{advice, number, recorded, shortened, status, time};
#[cfg(feature = "consumer")]
use super::groups;
use super::hints;
use super::layout::PageLayout;
use super::payload;
use super::trace::TraceUrl;
use crate::data::MOST_INLINE;
use crate::queries;
use crate::request_info::is_refresh;
use crate::responses::{Detail, EventState};
use actix_outbox::{OutboxAdmin, OutboxEvent, Status};

const NO_UUID: &str = "No event has this id: it is not a valid UUID.";

pub(super) async fn show(
    layout: PageLayout,
    admin: web::Data<OutboxAdmin>,
    traces: web::Data<TraceUrl>,
    id: web::Path<String>,
    request: HttpRequest,
) -> PageResult {
    let Ok(id) = id.parse::<Uuid>() else { return Ok(layout.error_page(StatusCode::NOT_FOUND, NO_UUID)) };
    if is_refresh(request.headers()) {
        // An open page asks every two seconds, and its data may be large.
        let state = queries::event_state(&admin, id).await.map_err(PageError::from_store(&layout))?;
        return Ok(layout.page(&format!("Event {id}"), "/events", &live(&layout, &state, &traces)));
    }
    #[cfg(feature = "consumer")]
    let (detail, groups) = tokio::join!(queries::event(&admin, id), admin.event_groups(id));
    #[cfg(not(feature = "consumer"))]
    let detail = queries::event(&admin, id).await;
    let Detail { state, data_bytes, neighbours } = detail.map_err(PageError::from_store(&layout))?;
    let event = &state.event;
    let beginning = match event {
        Ok(event) if event.data.is_none() && event.data_binary.is_none() && data_bytes > 0 => {
            let part = admin.data(id, 0..MOST_INLINE).await.map_err(PageError::from_store(&layout))?;
            Some(part).filter(|part| !part.is_binary)
        }
        _ => None,
    };
    #[cfg(feature = "consumer")]
    let groups = html! { @if let Ok(Some(found)) = &groups { (groups::show(&layout, found)) } };
    #[cfg(not(feature = "consumer"))]
    let groups = html! {};
    let content = html! {
        h1 { "Event " code data-copy { (id) } }
        @if layout.may_change() { (actions(&layout, id)) }
        (live(&layout, &state, &traces))
        (groups)
        @if let Ok(event) = event { (payload::show(&layout, event, data_bytes, beginning.as_ref())) }
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
fn live(layout: &PageLayout, state: &EventState, traces: &TraceUrl) -> Markup {
    let EventState { event, explanation } = state;
    let id = explanation.id;
    html! {
        div id="live" hx-get=(layout.link(&format!("/events/{id}"))) hx-select="#live" hx-swap="outerHTML" hx-trigger="every 2s" {
            div class="notice" {
                p { (advice(&explanation.sentence)) }
                (hints::of_event(layout, explanation))
            }
            @match event {
                Ok(event) => { (attributes(layout, event, traces)) (history(event)) }
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

fn attributes(layout: &PageLayout, event: &OutboxEvent, traces: &TraceUrl) -> Markup {
    let cloud_event_id = event.cloud_event_id();
    // With the filter that finds other events like it.
    let texts: [(&str, &str, Option<&str>); 8] = [
        ("Id in the CloudEvent", &cloud_event_id, None),
        ("Type", &event.event_type, Some("type")),
        ("Source", &event.source, Some("source")),
        ("Subject", &event.subject, Some("subject")),
        ("Content type", &event.data_content_type, None),
        ("Schema", &event.data_schema, None),
        ("Backend", &event.publisher_backend, Some("backend")),
        ("Partition key", &event.partition_key, Some("key")),
    ];
    html! {
        h2 { "The CloudEvent" }
        dl {
            dt { "Status" } dd { (status(event.status)) }
            @for (name, text, filter) in texts {
                @if !text.is_empty() {
                    dt { (name) }
                    dd { @match filter { Some(filter) => (events::like(layout, filter, text)), None => (text) } }
                }
            }
            (traces.entry(event))
            @if event.extensions.as_str() != "{}" { dt { "Extensions" } dd { code { (event.extensions.as_str()) } } }
            @if let Some(handlers) = &event.pending_handlers {
                dt { "Handlers still to run" } dd { (handlers.join(", ")) }
            }
        }
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
                        tr { td { (recorded(&failure.at)) } td { span class="bad" { "rejected: " } (shortened(&failure.error)) } }
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
            "Rejected " (number(event.retry_count)) " of " (number(event.max_retries)) " times since the event was written or last retried by an operator; the last ten failures are kept."
        }
    }
}

//! The changes that operators made.

use actix_outbox::OutboxAdmin;
use actix_outbox::admin::AuditEntry;
use actix_web::{HttpRequest, web};
use maud::{Markup, html};

use super::error::{PageError, PageResult};
use super::format::{events_count, number, prose, shortened, time};
use super::forms::{read, without_empty};
use super::layout::PageLayout;
use crate::queries;
use crate::requests::AuditQuery;

/// Ids that a row links to.
const MOST_LINKS: usize = 3;

pub(super) async fn show(layout: PageLayout, admin: web::Data<OutboxAdmin>, request: HttpRequest) -> PageResult {
    let bad = |reason: String| PageError::bad_request(&layout, reason);
    let query: AuditQuery = read(&without_empty(request.query_string())).map_err(bad)?;
    let found = queries::audit(&admin, query.before, query.limit().map_err(bad)?).await;
    let found = found.map_err(PageError::from_store(&layout))?;
    let content = html! {
        h1 { "Changes by operators" }
        p class="soft" { "Of the last 30 days, newest first; one row for at most 500 events." }
        @if found.entries.is_empty() {
            p class="notice" role="status" {
                (if query.before.is_none() {
                    "No operator has changed anything. Retries, pauses and other changes by the console, the command line or the API are listed here."
                } else { "There are no more changes." })
            }
        } @else {
            (table(&layout, &found.entries))
        }
        nav class="actions" aria-label="Pages of the list" {
            @if query.before.is_some() { a href=(layout.link("/audit")) { "First page" } }
            @if let Some(next) = found.next { a rel="next" href=(layout.link(&format!("/audit?before={next}"))) { "Next page" } }
        }
    };
    Ok(layout.page("Changes", "/audit", &content))
}

fn table(layout: &PageLayout, entries: &[AuditEntry]) -> Markup {
    html! {
        div class="wide" {
            table class="stack" {
                thead { tr {
                    th scope="col" { "When" }
                    th scope="col" { "Who" }
                    th scope="col" { "From" }
                    th scope="col" { "What" }
                    th scope="col" { "Selected by" }
                    th scope="col" { "Events" }
                    th scope="col" { "Reason" }
                } }
                tbody { @for entry in entries { (row(layout, entry)) } }
            }
        }
    }
}

fn row(layout: &PageLayout, entry: &AuditEntry) -> Markup {
    let is_of_backend = ["pause", "resume"].contains(&&*entry.action);
    let is_of_letters = ["retry_dead", "delete_dead"].contains(&&*entry.action);
    html! {
        tr {
            td { (time(entry.at)) }
            td { (shortened(&entry.who)) }
            td data-label="From" { (shortened(&entry.from)) }
            td { (entry.action) }
            td data-label="Selected by" { @if let Some(filter) = &entry.filter { (prose(filter)) } @else { "id" } }
            td {
                @if is_of_letters { (number(entry.events)) " dead" } @else if !is_of_backend { (events(layout, entry)) }
            }
            td class="rest" data-label="Reason" { (prose(&entry.reason)) }
        }
    }
}

fn events(layout: &PageLayout, entry: &AuditEntry) -> Markup {
    let count = usize::try_from(entry.events).unwrap_or(usize::MAX);
    let are_gone = entry.action == "delete";
    html! {
        (events_count(count))
        @for id in entry.ids.iter().take(MOST_LINKS) {
            br;
            @if are_gone { code { (id) } } @else { a href=(layout.link(&format!("/events/{id}"))) { code { (id) } } }
        }
        @if count > MOST_LINKS { br; span class="soft" { "and more" } }
    }
}

//! The overview page.

use std::sync::Arc;
use std::time::Duration;

use actix_web::{HttpRequest, web};
use maud::{Markup, html};

use super::charts::{self, ChartQuery};
use super::error::{PageError, PageResult};
use super::format::{STATUSES, grouped, number, shortened, span, time};
use super::forms::{read, without_empty};
use super::layout::PageLayout;
use crate::queries::OverviewCache;
use crate::request_info::refreshed_part;
use crate::responses::Overview;
use crate::single_flight::CachedValue;
use crate::timeline::TimelineCache;
use actix_outbox::admin::{BackendStatus, WorkerStatus};
use actix_outbox::{OutboxAdmin, Status, StoreError};

/// How long a page waits for the counts before it is shown without them.
const PATIENCE: Duration = Duration::from_millis(50);

pub(super) async fn show(
    layout: PageLayout,
    admin: web::Data<OutboxAdmin>,
    cache: web::Data<OverviewCache>,
    timelines: web::Data<TimelineCache>,
    request: HttpRequest,
) -> PageResult {
    let query = read(&without_empty(request.query_string()));
    let query: ChartQuery = query.map_err(|reason| PageError::bad_request(&layout, reason))?;
    let CachedValue { answer: overview, failure } = cache.get(&admin, PATIENCE).await;
    if let (None, Some(error)) = (&overview, &failure) {
        return Err(PageError::from_store(&layout)(Arc::clone(error)));
    }
    let counted = || live(&layout, overview.as_ref(), failure.as_deref());
    let charts = async || {
        let timeline = timelines.get(&admin, query.range, query.backend.as_deref(), PATIENCE).await;
        charts::section(&layout, &query, &timeline, overview.as_ref())
    };
    // An open page asks for its parts one by one.
    let content = match refreshed_part(request.headers()) {
        Some("live") => counted(),
        Some("charts") => charts().await,
        _ => html! { h1 { "Overview" } (counted()) (charts().await) },
    };
    Ok(layout.page("Overview", "/", &content))
}

/// The part of the page that refreshes itself, from the same page.
fn live(layout: &PageLayout, overview: Option<&Overview>, failure: Option<&StoreError>) -> Markup {
    html! {
        div id="live" hx-get=(layout.link("/")) hx-select="#live" hx-swap="outerHTML" hx-trigger="every 2s" {
            @if let Some(error) = failure {
                p class="notice bad" role="alert" { "Overview may be out of date: " (error) }
            }
            @if let Some(overview) = overview {
                (counts(layout, overview))
                (backends(layout, overview))
                (workers(&overview.workers))
                p class="soft" { "Counted at " (time(overview.counted_at)) }
            } @else {
                p class="notice" role="status" { "Counting events; the page refreshes itself." }
                noscript { p { a href=(layout.link("/")) { "Reload" } } }
            }
        }
    }
}

fn counts(layout: &PageLayout, overview: &Overview) -> Markup {
    html! {
        section aria-label="Events by status" {
            ul class="cards" {
                @for (other, count) in overview.counts.iter().filter(|(name, _)| name.parse::<Status>().is_err()) {
                    li { b { (grouped(*count)) } span class="bad" { (shortened(other)) " (unknown)" } }
                }
                @for status in STATUSES {
                    @let count = overview.counts.get(status.as_str()).copied().unwrap_or(0);
                    @if count > 0 || status != Status::Processing {
                        li {
                            b {
                                @if status == Status::Published && overview.published_is_estimate { "about " }
                                (grouped(count))
                            }
                            a href=(layout.link(&format!("/events?status={status}"))) { (status) }
                        }
                    }
                }
            }
        }
    }
}

fn backends(layout: &PageLayout, overview: &Overview) -> Markup {
    html! {
        h2 { "Backends" }
        div class="wide" {
            table {
                thead { tr {
                    th scope="col" { "Name" }
                    th scope="col" class="number" { "Due" }
                    th scope="col" class="number" { "Oldest due" }
                    th scope="col" { "Health" }
                    th scope="col" class="number" { "Published per minute" }
                    th scope="col" class="number" { "Rate limit" }
                    @if layout.may_change() { th scope="col" { "Action" } }
                } }
                tbody {
                    @for backend in &overview.backends {
                        tr {
                            td { (if backend.name.is_empty() { "(default)" } else { &backend.name }) }
                            td class="number" { (grouped(backend.due)) }
                            td class="number" { (backend.oldest_due_seconds.map(span).unwrap_or_default()) }
                            td {
                                @if backend.paused { (pause(backend)) br; }
                                @if !backend.paused_hosts.is_empty() {
                                    span class="retry" { "paused hosts: " } (backend.paused_hosts.join(", ")) br;
                                }
                                span class=(if backend.is_ok() { "ok" } else { "bad" }) { (backend.health) }
                                @if let Some(since) = backend.since { " (breaker open since " (time(since)) ")" }
                            }
                            td class="number" { (number(overview.published_a_minute.get(&backend.name).copied().unwrap_or(0))) }
                            td class="number" {
                                @if let Some(rate) = backend.per_second { (grouped(i64::from(rate))) " /s" } @else { "none" }
                            }
                            @if layout.may_change() { td { @if !backend.name.is_empty() { (action(layout, backend)) } } }
                        }
                    }
                }
            }
        }
    }
}

/// That it is paused, since when, by whom and why.
fn pause(backend: &BackendStatus) -> Markup {
    html! {
        span class="retry" { "paused" }
        @if let Some(since) = backend.paused_since { " since " (time(since)) }
        @if let Some(by) = &backend.paused_by { " by " (shortened(by)) }
        @if let Some(reason) = &backend.pause_reason { ": " (shortened(reason)) }
    }
}

fn action(layout: &PageLayout, backend: &BackendStatus) -> Markup {
    let (action, label) = if backend.paused { ("resume", "Resume…") } else { ("pause", "Pause…") };
    html! {
        form method="get" action=(layout.link("/backends/confirm")) {
            input type="hidden" name="name" value=(backend.name);
            button name="action" value=(action) aria-label={ (label) " " (backend.name) } { (label) }
        }
    }
}

fn workers(workers: &[WorkerStatus]) -> Markup {
    html! {
        h2 { "Workers" }
        @if workers.is_empty() {
            p class="notice bad" { "No worker has sent a heartbeat, so no event is sent. Start one: " code data-copy { "outbox worker" } }
        } @else {
            div class="wide" {
                table {
                    thead { tr {
                        th scope="col" { "Name" }
                        th scope="col" { "State" }
                        th scope="col" { "Last heartbeat" }
                        th scope="col" { "Shards" }
                    } }
                    tbody {
                        @for worker in workers {
                            tr {
                                td { (worker.name) }
                                td {
                                    span class=(if worker.alive { "ok" } else { "bad" }) {
                                        (if worker.alive { "alive" } else { "silent" })
                                    }
                                }
                                td { (time(worker.heartbeat_at)) }
                                td {
                                    @if worker.shards.is_empty() { "none" }
                                    @for (n, (name, count)) in worker.shards.iter().enumerate() {
                                        @if n > 0 { ", " }
                                        (if name.is_empty() { "(default)" } else { name }) ": " (grouped(*count))
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

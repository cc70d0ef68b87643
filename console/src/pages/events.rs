//! The list of events.

use actix_web::{HttpRequest, web};
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use maud::{Markup, html};
use serde::Deserialize;
use uuid::Uuid;

use super::changing;
use super::error::{PageError, PageResult};
use super::format::{STATUSES, number, shortened, status, time};
use super::forms::{read, without_empty};
use super::layout::PageLayout;
use crate::queries;
use crate::requests::{Filter, Order, PageQuery, text};
use crate::responses::EventListItem;
use actix_outbox::OutboxAdmin;

const ORDERS: [(&str, &str); 2] = [("newest", "newest first"), ("oldest", "oldest first")];

/// The search box's parameter, in addition to the filter.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct EventSearch {
    /// An id, or a subject.
    #[serde(deserialize_with = "text")]
    search: Option<String>,
}

pub(super) async fn show(layout: PageLayout, admin: web::Data<OutboxAdmin>, request: HttpRequest) -> PageResult {
    let query = without_empty(request.query_string());
    let bad = |reason: String| PageError::bad_request(&layout, reason);
    let mut filter: Filter = read(&query).map_err(bad)?;
    let part: PageQuery = read(&query).map_err(bad)?;
    let EventSearch { search } = read(&query).map_err(bad)?;
    let search = search.unwrap_or_default().trim().to_owned();
    if let Ok(id) = search.parse::<Uuid>() {
        return Ok(layout.see_other(&format!("/events/{id}")));
    }
    if !search.is_empty() {
        filter.subject = Some(search);
    }
    let wanted = part.wanted().map_err(bad)?;
    let is_first = wanted.after.is_none();
    let limit = wanted.limit.to_string();
    let shown = [("order", name_of(part.order)), ("limit", &limit)];
    let found = queries::events(&admin, &filter, wanted).await.map_err(PageError::from_store(&layout))?;
    let content = html! {
        h1 { "Events" }
        (filters(&layout, &filter, part.order))
        (lately(&layout, &filter, part.order))
        @if found.events.is_empty() {
            @if found.stopped_at.is_none() { (nothing(&layout, &filter, is_first)) }
        } @else {
            @if layout.may_change() {
                form method="get" action=(layout.link("/confirm")) {
                    (table(&layout, &found.events, true))
                    (selected())
                }
            } @else {
                (table(&layout, &found.events, false))
            }
        }
        @if let Some(at) = found.stopped_at {
            p class="notice" role="status" {
                "No index exists for this filter, so events are scanned. The scan stopped at events created at " (time(at)) "."
            }
        }
        nav class="actions" aria-label="Pages of the list" {
            @if !is_first { a href=(address(&layout, &filter, &shown)) { "First page" } }
            @if let Some(next) = &found.next {
                @let next = address(&layout, &filter, &[shown[0], shown[1], ("after", &next.to_string())]);
                @if found.stopped_at.is_some() {
                    a rel="next" href=(next) { "Continue" }
                    a href={ (next) "&patient=true" } { "Continue for ten seconds" }
                } @else {
                    a rel="next" href=(next) { "Next page" }
                }
            }
        }
        @if layout.may_change() && !found.events.is_empty() { (all_that_match(&layout, &filter)) }
    };
    Ok(layout.page("Events", "/events", &content))
}

/// What to do about a list without events.
fn nothing(layout: &PageLayout, filter: &Filter, is_first: bool) -> Markup {
    let is_filtered = !fields(filter).is_empty();
    html! {
        div class="notice" role="status" {
            @if !is_first {
                p { "There are no more events." }
            } @else if is_filtered {
                p { "No event matches. Fields are compared exactly, and times are those of creation." }
                p { a href=(layout.link("/events")) { "Show all events" } }
            } @else {
                p { "The outbox has no events yet. Publish one from an application, or try it: "
                    code data-copy { "outbox publish order.placed --source /shop --data '{\"order\": 1}'" }
                }
            }
        }
    }
}

/// Links that show the events created lately, with the rest of the filter.
fn lately(layout: &PageLayout, filter: &Filter, order: Order) -> Markup {
    const TIMES: [(&str, i64); 3] = [("last 15 minutes", 15), ("last hour", 60), ("last day", 24 * 60)];
    let now = Utc::now().trunc_subsecs(0);
    let address = |minutes| {
        let filter = Filter { since: Some(now - TimeDelta::minutes(minutes)), until: None, ..filter.clone() };
        address(layout, &filter, &[("order", name_of(order))])
    };
    html! {
        p class="actions" {
            span class="soft" { "Created in the" }
            @for (label, minutes) in TIMES { a href=(address(minutes)) { (label) } }
            @if !fields(filter).is_empty() { a href=(layout.link("/events")) { "Clear the filter" } }
        }
    }
}

fn name_of(order: Order) -> &'static str {
    if order == Order::Oldest { "oldest" } else { "newest" }
}

fn filters(layout: &PageLayout, filter: &Filter, order: Order) -> Markup {
    let text = |name: &'static str, label: &'static str, value: &Option<String>| {
        html! { label { (label) input name=(name) value=(value.as_deref().unwrap_or_default()); } }
    };
    let moment = |name: &'static str, label: &'static str, value: Option<DateTime<Utc>>| {
        let value = value.map(|time| time.format("%Y-%m-%dT%H:%M:%S").to_string()).unwrap_or_default();
        html! { label { span { (label) span data-zone { " (UTC)" } } input type="datetime-local" step="1" name=(name) value=(value) data-utc=(value); } }
    };
    html! {
        form class="filters" method="get" data-tidy action=(layout.link("/events")) role="search" {
            label { "Id or subject" input type="search" name="search" value=(filter.subject.as_deref().unwrap_or_default()); }
            label { "Status"
                select name="status" {
                    option value="" { "any" }
                    @for status in STATUSES {
                        option value=(status) selected[filter.status == Some(status)] { (status) }
                    }
                }
            }
            (text("type", "Type", &filter.event_type))
            (text("source", "Source", &filter.source))
            (text("backend", "Backend", &filter.backend))
            (text("key", "Partition key", &filter.key))
            (moment("since", "Created since", filter.since))
            (moment("until", "Created before", filter.until))
            label { "Order"
                select name="order" {
                    @for (value, label) in ORDERS {
                        option value=(value) selected[(order == Order::Oldest) == (value == "oldest")] { (label) }
                    }
                }
            }
            div { button class="main" { "Show" } }
        }
    }
}

pub(super) fn table(layout: &PageLayout, events: &[EventListItem], selectable: bool) -> Markup {
    html! {
        div class="wide" {
            table class="stack" {
                thead { tr {
                    @if selectable { th scope="col" { input type="checkbox" data-all aria-label="Select all on this page"; } }
                    th scope="col" { "Event" }
                    th scope="col" { "Status" }
                    th scope="col" { "Type" }
                    th scope="col" { "Subject" }
                    th scope="col" { "Backend" }
                    th scope="col" { "Key" }
                    th scope="col" { "Created" }
                    th scope="col" { "Last error" }
                } }
                tbody { @for event in events { (row(layout, event, selectable)) } }
            }
        }
    }
}

fn row(layout: &PageLayout, event: &EventListItem, selectable: bool) -> Markup {
    let id = event.id();
    html! {
        tr {
            @if selectable { td { input type="checkbox" name="id" value=(id) aria-label={ "Select " (id) }; } }
            td { a href=(layout.link(&format!("/events/{id}"))) { (super::format::id(id)) } }
            @match event {
                EventListItem::Event(event) => {
                    td { (status(event.status)) @if event.retry_count > 0 { " " span class="soft" { "×" (number(event.retry_count)) } } }
                    td { (like(layout, "type", &event.event_type)) }
                    td data-label="Subject" { (event.subject) }
                    td data-label="Backend" { (like(layout, "backend", &event.backend)) }
                    td data-label="Key" { (like(layout, "key", &event.key)) }
                    td data-label="Created" { (time(event.created_at)) }
                    td class="rest" { (shortened(&event.last_error)) }
                }
                EventListItem::Unreadable { unreadable, .. } => {
                    td colspan="7" { span class="bad" { "unreadable: " (shortened(unreadable)) } }
                }
            }
        }
    }
}

/// A value of an event, which links to the events that have it too.
pub(super) fn like(layout: &PageLayout, filter: &str, value: &str) -> Markup {
    let query = url::form_urlencoded::Serializer::new(String::new()).append_pair(filter, value).finish();
    html! { @if !value.is_empty() { a class="like" href=(layout.link(&format!("/events?{query}"))) { (value) } } }
}

fn selected() -> Markup {
    html! {
        div class="actions" {
            span { "Selected events:" }
            (changing::buttons())
        }
    }
}

fn all_that_match(layout: &PageLayout, filter: &Filter) -> Markup {
    html! {
        form method="get" action=(layout.link("/confirm")) class="actions" {
            (hidden(filter))
            input type="hidden" name="all" value="1";
            span { "All matching events:" }
            (changing::buttons())
        }
    }
}

/// A filter as the names and values of a form: only texts and times.
pub(super) fn fields(filter: &Filter) -> Vec<(String, String)> {
    let json = serde_json::json!(filter);
    let pairs = json.as_object().into_iter().flatten();
    pairs.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

/// A filter as the hidden fields of a form.
pub(super) fn hidden(filter: &Filter) -> Markup {
    html! { @for (name, value) in fields(filter) { input type="hidden" name=(name) value=(value); } }
}

/// The address of another page of this list.
fn address(layout: &PageLayout, filter: &Filter, part: &[(&str, &str)]) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(fields(filter)).extend_pairs(part);
    layout.link(&format!("/events?{}", query.finish()))
}

//! The actions retry, fail and replay, after a confirmation page with the number of events.

use actix_outbox::OutboxAdmin;
use actix_outbox::admin::Selection;
use actix_web::{HttpRequest, web};
use maud::{Markup, html};
use uuid::Uuid;

use super::error::{PageError, PageResult};
use super::events;
use super::format::events_count;
use super::forms::{read, without_empty};
use super::layout::PageLayout;
use crate::auth::{AccessError, CSRF_FIELD};
use crate::queries;
use crate::request_info::Author;
use crate::requests::{ActionName, Cursor, Filter, known_names};

/// Selected events in one request, at most.
const MOST_IDS: usize = 200;

const DEFAULT_REASON: &str = "marked as failed in the console";

/// A form's action and the events that it applies to.
struct BulkAction {
    action: ActionName,
    /// Why events are failed.
    reason: String,
    selected: Selected,
}

/// The events that a form selects, as it selects them.
enum Selected {
    These(Vec<Uuid>),
    AllThatMatch {
        filter: Box<Filter>,
        /// Where the request before this one stopped.
        after: Option<Cursor>,
    },
}

impl Selected {
    fn selection(&self) -> Selection {
        match self {
            Self::These(ids) => Selection::Ids(ids.clone()),
            Self::AllThatMatch { filter, after } => {
                Selection::Matching { filter: Box::new((&**filter).into()), after: after.map(|cursor| cursor.0) }
            }
        }
    }
}

/// Parses a form's action and the events it applies to.
fn parse(form: &str) -> Result<BulkAction, String> {
    let form = without_empty(form);
    known_names(&form, &["action", "all", "id", "reason", "after", CSRF_FIELD])?;
    let pairs: Vec<(String, String)> = url::form_urlencoded::parse(form.as_bytes()).into_owned().collect();
    let last = |name: &str| pairs.iter().rev().find(|(other, _)| other == name).map(|(_, value)| value.as_str());
    let action = match last("action") {
        Some("retry") => ActionName::Retry,
        Some("fail") => ActionName::Fail,
        Some("replay") => ActionName::Replay,
        _ => return Err("The action is missing; it must be retry, fail or replay.".to_owned()),
    };
    let selected = if last("all").is_some() {
        let after = last("after")
            .map(|after| Cursor::try_from(after.to_owned()).map_err(|error| error.to_string()))
            .transpose()?;
        Selected::AllThatMatch { filter: Box::new(read(&form)?), after }
    } else {
        Selected::These(ids(&pairs)?)
    };
    Ok(BulkAction { action, reason: last("reason").unwrap_or(DEFAULT_REASON).to_owned(), selected })
}

/// An action and its events as the hidden fields of a form.
fn hidden(action: ActionName, selected: &Selected) -> Markup {
    html! {
        input type="hidden" name="action" value=(name(action));
        @match selected {
            Selected::These(ids) => { @for id in ids { input type="hidden" name="id" value=(id); } }
            Selected::AllThatMatch { filter, .. } => {
                input type="hidden" name="all" value="1";
                (events::hidden(filter))
            }
        }
    }
}

fn ids(pairs: &[(String, String)]) -> Result<Vec<Uuid>, String> {
    let ids: Result<Vec<Uuid>, _> =
        pairs.iter().filter(|(name, _)| name == "id").map(|(_, value)| value.parse()).collect();
    let ids = ids.map(|mut ids| {
        ids.sort_unstable();
        ids.dedup();
        ids
    });
    match ids {
        Ok(ids) if ids.is_empty() => Err("No event is selected.".to_owned()),
        Ok(ids) if ids.len() > MOST_IDS => {
            Err(format!("Too many events are selected; at most {MOST_IDS} are allowed."))
        }
        Ok(ids) => Ok(ids),
        Err(_) => Err("An id is not a valid UUID.".to_owned()),
    }
}

fn name(action: ActionName) -> &'static str {
    match action {
        ActionName::Retry => "retry",
        ActionName::Fail => "fail",
        ActionName::Replay => "replay",
    }
}

fn heading(action: ActionName) -> &'static str {
    match action {
        ActionName::Retry => "Retry",
        ActionName::Fail => "Fail",
        ActionName::Replay => "Replay",
    }
}

fn past_tense(action: ActionName) -> &'static str {
    match action {
        ActionName::Retry => "retried",
        ActionName::Fail => "marked as failed",
        ActionName::Replay => "replayed",
    }
}

fn description(action: ActionName) -> &'static str {
    match action {
        ActionName::Retry => {
            "The events become pending again, as if they had never been rejected, and keep their order. Published events are not changed; pending ones are only if you selected them or their status."
        }
        ActionName::Fail => {
            "The events become failed, are not sent, and do not block later events of their keys. Published events are not changed. A failed event that you selected loses its last error."
        }
        ActionName::Replay => {
            "The events are published again with their old ids, so consumers receive them twice. Only published events are replayed."
        }
    }
}

pub(super) async fn confirm(layout: PageLayout, admin: web::Data<OutboxAdmin>, request: HttpRequest) -> PageResult {
    if !layout.may_change() {
        return Ok(layout.error_page(AccessError::Reader.status(), &AccessError::Reader.message()));
    }
    let bulk = parse(request.query_string()).map_err(|reason| PageError::bad_request(&layout, reason))?;
    let (action, selection) = (bulk.action.with_reason(""), bulk.selected.selection());
    let count = queries::count(&admin, &action, &selection).await.map_err(PageError::from_store(&layout))?;
    let how_many = events_count(count.count) + if count.more { " or more" } else { "" };
    let is_none = count.count == 0 && !count.more;
    let title = format!("{} {how_many}?", heading(bulk.action));
    let content = html! {
        h1 { (title) }
        p { (description(bulk.action)) }
        @if let Selected::AllThatMatch { filter, .. } = &bulk.selected {
            dl { @for (name, value) in events::fields(filter) { dt { (name) } dd { (value) } } }
        }
        form method="post" action=(layout.link("/change")) {
            (layout.token())
            (hidden(bulk.action, &bulk.selected))
            @if bulk.action == ActionName::Fail {
                label { "Reason (stored as their last error)" input name="reason" maxlength="500" value=(DEFAULT_REASON); }
            }
            div class="actions" {
                button class="main" disabled[is_none] { (heading(bulk.action)) " " (how_many) }
                a href=(layout.link("/events")) { "Cancel" }
            }
        }
    };
    Ok(layout.page(&title, "/events", &content))
}

pub(super) async fn change(
    layout: PageLayout,
    admin: web::Data<OutboxAdmin>,
    author: web::ReqData<Author>,
    form: String,
) -> PageResult {
    let bulk = parse(&form).map_err(|reason| PageError::bad_request(&layout, reason))?;
    let (action, reason, form) = (bulk.action, bulk.reason.clone(), hidden(bulk.action, &bulk.selected));
    let these = if let Selected::These(ids) = &bulk.selected { ids.clone() } else { Vec::new() };
    let change = queries::change(&admin, action.with_reason(&*reason), bulk.selected.selection(), author.into_inner());
    let changed = change.await.map_err(PageError::from_store(&layout))?;
    let title = format!("{} {}", events_count(changed.changed), past_tense(action));
    let content = html! {
        h1 { (title) }
        @if let Some(error) = &changed.error {
            p class="notice bad" role="alert" { "Not all events were changed: " (error) }
        }
        @if let Some(next) = &changed.next {
            p { "More events may match." }
            form method="post" action=(layout.link("/change")) class="actions" {
                (layout.token())
                (form)
                input type="hidden" name="reason" value=(reason);
                input type="hidden" name="after" value=(next);
                button class="main" { "Continue" }
            }
        }
        @if changed.changed < these.len() && changed.error.is_none() {
            p class="notice" { "The other events no longer exist, or their status does not allow this action." }
        }
        ul { @for id in these { li { a href=(layout.link(&format!("/events/{id}"))) { code { (id) } } } } }
        p { a href=(layout.link("/events")) { "Back to the events" } }
    };
    Ok(layout.page(&title, "/events", &content))
}

//! The actions on events, after a confirmation page with the number of events.

use actix_outbox::admin::{Action, Selection};
use actix_outbox::{OutboxAdmin, StoreError};
use actix_web::{HttpRequest, web};
use maud::{Markup, html};
use uuid::Uuid;

use super::error::{PageError, PageResult};
use super::events;
use super::format::{events_count, recorded, shortened};
use super::forms::{read, without_empty};
use super::layout::PageLayout;
use crate::auth::{AccessError, CSRF_FIELD};
use crate::queries;
use crate::request_info::Author;
use crate::requests::{ActionName, Cursor, Filter, known_names};
use crate::responses::Changed;

/// Selected events in one request, at most.
const MOST_IDS: usize = 200;

/// Skipped events that a page names.
const MOST_SKIPPED: usize = 20;

const DEFAULT_REASON: &str = "marked as failed in the console";

/// A form's action and the events that it applies to.
struct BulkAction {
    name: ActionName,
    /// Why events are failed.
    reason: String,
    /// The backend that events are moved to.
    to: Option<String>,
    selected: Selected,
}

impl BulkAction {
    fn action(&self) -> Result<Action, String> {
        match (self.name, &self.to) {
            (ActionName::Fail, _) => Ok(Action::Fail { reason: self.reason.clone() }),
            (ActionName::Move, Some(to)) => Action::move_to(to).map_err(|error| error.to_string()),
            (ActionName::Move, None) => Err("The new backend is missing.".to_owned()),
            (name, _) => Ok(name.counted()),
        }
    }
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
    known_names(&form, &["action", "all", "id", "reason", "to", "after", CSRF_FIELD])?;
    let pairs: Vec<(String, String)> = url::form_urlencoded::parse(form.as_bytes()).into_owned().collect();
    let last = |name: &str| pairs.iter().rev().find(|(other, _)| other == name).map(|(_, value)| value.as_str());
    let given = last("action").unwrap_or_default();
    let Some(action) = ACTIONS.into_iter().find(|action| name(*action) == given) else {
        return Err(format!("The action is missing; it must be {}.", ACTIONS.map(name).join(", ")));
    };
    let selected = if last("all").is_some() {
        let after = last("after")
            .map(|after| Cursor::try_from(after.to_owned()).map_err(|error| error.to_string()))
            .transpose()?;
        Selected::AllThatMatch { filter: Box::new(read(&form)?), after }
    } else {
        Selected::These(ids(&pairs)?)
    };
    let (reason, to) = (last("reason").unwrap_or(DEFAULT_REASON).to_owned(), last("to").map(str::to_owned));
    Ok(BulkAction { name: action, reason, to, selected })
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

const ACTIONS: [ActionName; 5] =
    [ActionName::Retry, ActionName::Fail, ActionName::Replay, ActionName::Move, ActionName::Delete];

/// The buttons that lead to a confirmation.
pub(super) fn buttons() -> Markup {
    html! {
        @for action in ACTIONS { button name="action" value=(name(action)) { (heading(action)) "…" } }
    }
}

fn name(action: ActionName) -> &'static str {
    action.counted().name()
}

fn heading(action: ActionName) -> &'static str {
    match action {
        ActionName::Retry => "Retry",
        ActionName::Fail => "Fail",
        ActionName::Replay => "Replay",
        ActionName::Move => "Move",
        ActionName::Delete => "Delete",
    }
}

fn past_tense(action: ActionName) -> &'static str {
    match action {
        ActionName::Retry => "retried",
        ActionName::Fail => "marked as failed",
        ActionName::Replay => "replayed",
        ActionName::Move => "moved",
        ActionName::Delete => "deleted",
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
            "The events are published again with their old ids, so consumers receive them twice. Only published events are replayed; one that was deleted when it was done cannot be."
        }
        ActionName::Move => {
            "The events get another backend, with their status, at their old time. An event that was sent is not moved. For a moment, workers release the events' former backends."
        }
        ActionName::Delete => {
            "The events are deleted for good, with their data and their history; this cannot be undone, and they cannot be replayed. Consumers and handlers that have not got an event never will; what a backend already has stays there. An event that was sent and is not recorded as sent yet is not deleted. For a moment, workers release the events' backends."
        }
    }
}

pub(super) async fn confirm(layout: PageLayout, admin: web::Data<OutboxAdmin>, request: HttpRequest) -> PageResult {
    if !layout.may_change() {
        return Ok(layout.error_page(AccessError::Reader.status(), &AccessError::Reader.message()));
    }
    let bulk = parse(request.query_string()).map_err(|reason| PageError::bad_request(&layout, reason))?;
    let (action, selection) = (bulk.name.counted(), bulk.selected.selection());
    let count = queries::count(&admin, &action, &selection).await.map_err(PageError::from_store(&layout))?;
    let lost = match bulk.name {
        ActionName::Delete => Some(unsent(&admin, &selection).await.map_err(PageError::from_store(&layout))?),
        _ => None,
    };
    let how_many = events_count(count.count) + if count.more { " or more" } else { "" };
    let is_none = count.count == 0 && !count.more;
    let title = format!("{} {how_many}?", heading(bulk.name));
    let content = html! {
        h1 { (title) }
        p { (description(bulk.name)) }
        @if let Some(lost) = lost.filter(|_| !is_none) { p class="notice bad" { (lost) } }
        @if let Selected::AllThatMatch { filter, .. } = &bulk.selected {
            @if events::fields(filter).is_empty() { p { "No filter is set, so this applies to all events of the outbox." } }
            dl { @for (name, value) in events::fields(filter) { dt { (name) } dd { (recorded(&value)) } } }
        }
        form method="post" action=(layout.link("/change")) {
            (layout.token())
            (hidden(bulk.name, &bulk.selected))
            @if bulk.name == ActionName::Move {
                label { "New backend" input name="to" maxlength="100" required pattern="[a-z0-9_.\\-]+"; }
            }
            @if bulk.name == ActionName::Fail {
                label { "Reason (stored as their last error)" input name="reason" maxlength="500" value=(DEFAULT_REASON); }
            }
            div class="actions" {
                button class="main" disabled[is_none] { (heading(bulk.name)) " " (how_many) }
                a href=(layout.link("/events")) { "Cancel" }
            }
        }
    };
    Ok(layout.page(&title, "/events", &content))
}

/// How many of the events were not published.
async fn unsent(admin: &OutboxAdmin, selection: &Selection) -> Result<String, StoreError> {
    // The events that were not published are those that can be moved.
    let count = queries::count(admin, &ActionName::Move.counted(), selection).await?;
    let more = if count.more { " or more" } else { "" };
    Ok(match count.count {
        0 if !count.more => "All of them were published.".to_owned(),
        unsent => format!("Not published: {}{more}.", events_count(unsent)),
    })
}

pub(super) async fn change(
    layout: PageLayout,
    admin: web::Data<OutboxAdmin>,
    author: web::ReqData<Author>,
    form: String,
) -> PageResult {
    let bad = |reason| PageError::bad_request(&layout, reason);
    let bulk = parse(&form).map_err(bad)?;
    let action = bulk.action().map_err(bad)?;
    let change = queries::change(&admin, action, bulk.selected.selection(), author.into_inner());
    let changed = change.await.map_err(PageError::from_store(&layout))?;
    let title = format!("{} {}", events_count(changed.changed), past_tense(bulk.name));
    let content = html! {
        h1 { (title) }
        @if let Some(error) = &changed.error {
            p class="notice bad" role="alert" { "Not all events were changed: " (error) }
        }
        @if let Some(next) = &changed.next {
            p { "More events may match." }
            form method="post" action=(layout.link("/change")) class="actions" {
                (layout.token())
                (hidden(bulk.name, &bulk.selected))
                input type="hidden" name="reason" value=(bulk.reason);
                @if let Some(to) = &bulk.to { input type="hidden" name="to" value=(to); }
                input type="hidden" name="after" value=(next);
                button class="main" { "Continue" }
            }
        }
        (skipped(&layout, &changed))
        @if let Selected::These(ids) = &bulk.selected {
            @let left = ids.iter().filter(|id| changed.skipped.iter().all(|skipped| skipped.id != **id));
            @if bulk.name != ActionName::Delete {
                ul { @for id in left { li { a href=(layout.link(&format!("/events/{id}"))) { code { (id) } } } } }
            }
        }
        p { a href=(layout.link("/events")) { "Back to the events" } }
    };
    Ok(layout.page(&title, "/events", &content))
}

/// The events that were not changed, and why.
fn skipped(layout: &PageLayout, changed: &Changed) -> Markup {
    let count = changed.skipped.len() + changed.more_skipped;
    html! {
        @if count > 0 {
            h2 { (events_count(count)) " skipped" }
            ul class="skipped" {
                @for skipped in changed.skipped.iter().take(MOST_SKIPPED) {
                    @let id = skipped.id.to_string();
                    @let reason = skipped.reason.strip_prefix(&format!("event {id}")).unwrap_or(&skipped.reason);
                    li { a href=(layout.link(&format!("/events/{id}"))) { code { (id) } } " " (shortened(reason.trim_start_matches([':', ' ']))) }
                }
                @if count > MOST_SKIPPED { li class="soft" { "and " (events_count(count - MOST_SKIPPED)) " more" } }
            }
        }
    }
}

//! Retrying, failing and replaying, after a page that says how many.

use actix_web::{HttpRequest, web};
use maud::{Markup, html};
use uuid::Uuid;

use super::layout::PageLayout;
use super::{PageError, PageResult, events, events_count, read, without_empty};
use crate::web::access::Role;
use crate::web::desk::Desk;
use crate::web::middleware::{AccessError, CSRF_FIELD};
use crate::web::requests::{Action, BulkAction, Cursor, Selection, known_names};

/// Events by id on one page, at most.
const MOST_IDS: usize = 200;

const GIVEN_UP: &str = "given up in the console";

/// What a form says is to be done, and to what.
fn parse(form: &str) -> Result<BulkAction, String> {
    let form = without_empty(form);
    known_names(&form, &["action", "all", "id", "reason", "after", CSRF_FIELD])?;
    let pairs: Vec<(String, String)> = url::form_urlencoded::parse(form.as_bytes()).into_owned().collect();
    let last = |name: &str| pairs.iter().rev().find(|(other, _)| other == name).map(|(_, value)| value.as_str());
    let action = match last("action") {
        Some("retry") => Action::Retry,
        Some("fail") => Action::Fail,
        Some("replay") => Action::Replay,
        _ => return Err("Say what is to be done: retry, fail or replay.".to_owned()),
    };
    let meant = if last("all").is_some() {
        let after = last("after").map(|after| Cursor::try_from(after.to_owned())).transpose()?;
        Selection::AllThatMatch { filter: Box::new(read(&form)?), after }
    } else {
        Selection::These(ids(&pairs)?)
    };
    Ok(BulkAction { action, reason: last("reason").unwrap_or(GIVEN_UP).to_owned(), meant })
}

/// As the hidden fields of a form.
fn hidden(action: Action, meant: &Selection) -> Markup {
    html! {
        input type="hidden" name="action" value=(word(action));
        @match meant {
            Selection::These(ids) => { @for id in ids { input type="hidden" name="id" value=(id); } }
            Selection::AllThatMatch { filter, .. } => {
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
        Ok(ids) if ids.len() > MOST_IDS => Err(format!("At most {MOST_IDS} events can be selected at once.")),
        Ok(ids) => Ok(ids),
        Err(_) => Err("An id is no UUID.".to_owned()),
    }
}

fn word(action: Action) -> &'static str {
    match action {
        Action::Retry => "retry",
        Action::Fail => "fail",
        Action::Replay => "replay",
    }
}

fn heading(action: Action) -> &'static str {
    match action {
        Action::Retry => "Retry",
        Action::Fail => "Give up",
        Action::Replay => "Publish once more",
    }
}

fn past(action: Action) -> &'static str {
    match action {
        Action::Retry => "retried",
        Action::Fail => "given up",
        Action::Replay => "published once more",
    }
}

fn means(action: Action) -> &'static str {
    match action {
        Action::Retry => {
            "They become pending again, as if they had never been rejected, in their old places. Published ones are left alone, and pending ones stay as they are."
        }
        Action::Fail => {
            "They become failed, are not sent, and do not hold their keys. Published ones are left alone. One that has failed and is named loses its last error."
        }
        Action::Replay => {
            "They are sent again as new events of their old ids: consumers see them twice. Only published ones are."
        }
    }
}

pub(super) async fn confirm(layout: PageLayout, desk: web::Data<Desk>, request: HttpRequest) -> PageResult {
    if !layout.may_change() {
        return Ok(layout.trouble(AccessError::Reader.status(), AccessError::Reader.says()));
    }
    let instruction = parse(request.query_string()).map_err(|reason| PageError::bad_request(&layout, reason))?;
    let count = match &instruction.meant {
        Selection::These(ids) => desk.count_these(instruction.action, ids).await.map_err(PageError::of(&layout))?,
        Selection::AllThatMatch { filter, .. } => {
            desk.count(instruction.action, filter).await.map_err(PageError::of(&layout))?
        }
    };
    let how_many = events_count(count.count) + if count.more { " or more" } else { "" };
    let is_none = count.count == 0 && !count.more;
    let title = format!("{} {how_many}?", heading(instruction.action));
    let content = html! {
        h1 { (title) }
        p { (means(instruction.action)) }
        @if let Selection::AllThatMatch { filter, .. } = &instruction.meant {
            dl { @for (name, value) in events::fields(filter) { dt { (name) } dd { (value) } } }
        }
        form method="post" action=(layout.link("/change")) {
            (layout.token())
            (hidden(instruction.action, &instruction.meant))
            @if instruction.action == Action::Fail {
                label { "Why (kept as their last error)" input name="reason" maxlength="500" value=(GIVEN_UP); }
            }
            div class="actions" {
                button class="main" disabled[is_none] { (heading(instruction.action)) " " (how_many) }
                a href=(layout.link("/events")) { "Do nothing" }
            }
        }
    };
    Ok(layout.page(&title, "/events", &content))
}

pub(super) async fn change(layout: PageLayout, desk: web::Data<Desk>, form: String) -> PageResult {
    let instruction = parse(&form).map_err(|reason| PageError::bad_request(&layout, reason))?;
    // A form of nobody does not get here.
    let by = layout.session().map_or(Role::Reader, |session| session.role);
    let (action, reason, form) =
        (instruction.action, instruction.reason.clone(), hidden(instruction.action, &instruction.meant));
    let these = if let Selection::These(ids) = &instruction.meant { ids.clone() } else { Vec::new() };
    let changed = desk.into_inner().change(instruction, by).await.map_err(PageError::of(&layout))?;
    let title = format!("{} {}", events_count(changed.changed), past(action));
    let content = html! {
        h1 { (title) }
        @if let Some(error) = &changed.error {
            p class="notice bad" role="alert" { "Not all were: " (error) }
        }
        @if let Some(next) = &changed.next {
            p { "There may be more that match." }
            form method="post" action=(layout.link("/change")) class="actions" {
                (layout.token())
                (form)
                input type="hidden" name="reason" value=(reason);
                input type="hidden" name="after" value=(next);
                button class="main" { "Go on" }
            }
        }
        @if changed.changed < these.len() && changed.error.is_none() {
            p class="notice" { "The others are gone, or in a status that does not allow it." }
        }
        ul { @for id in these { li { a href=(layout.link(&format!("/events/{id}"))) { code { (id) } } } } }
        p { a href=(layout.link("/events")) { "To the events" } }
    };
    Ok(layout.page(&title, "/events", &content))
}

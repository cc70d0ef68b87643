//! Retrying, failing and replaying, after a page that says how many.

use actix_web::{HttpRequest, web};
use maud::{Markup, html};
use uuid::Uuid;

use super::frame::Frame;
use super::{Answer, Trouble, events, events_count, read, without_empty};
use crate::web::api;
use crate::web::asked::{Action, Cursor, Filter};
use crate::web::desk::{Count, Desk};

/// Events by id on one page, at most.
const MOST_IDS: usize = 200;

const GIVEN_UP: &str = "given up in the console";

/// What a form says is to be done, and to what.
struct Order {
    action: Action,
    meant: Meant,
    reason: String,
    after: Option<Cursor>,
}

enum Meant {
    These(Vec<Uuid>),
    AllThatMatch(Box<Filter>),
}

impl Order {
    fn parse(form: &str) -> Result<Self, String> {
        let form = without_empty(form);
        let pairs: Vec<(String, String)> = url::form_urlencoded::parse(form.as_bytes()).into_owned().collect();
        let last = |name: &str| pairs.iter().rev().find(|(other, _)| other == name).map(|(_, value)| value.as_str());
        let action = match last("action") {
            Some("retry") => Action::Retry,
            Some("fail") => Action::Fail,
            Some("replay") => Action::Replay,
            _ => return Err("Say what is to be done: retry, fail or replay.".to_owned()),
        };
        let meant = if last("all").is_some() {
            Meant::AllThatMatch(Box::new(read::<Filter>(&form)?))
        } else {
            Meant::These(ids(&pairs)?)
        };
        let reason = last("reason").unwrap_or(GIVEN_UP).to_owned();
        let after = last("after").map(|after| Cursor::try_from(after.to_owned())).transpose()?;
        Ok(Self { action, meant, reason, after })
    }

    /// As the hidden fields of a form.
    fn hidden(&self) -> Markup {
        html! {
            input type="hidden" name="action" value=(word(self.action));
            @match &self.meant {
                Meant::These(ids) => { @for id in ids { input type="hidden" name="id" value=(id); } }
                Meant::AllThatMatch(filter) => {
                    input type="hidden" name="all" value="1";
                    (events::hidden(filter))
                }
            }
        }
    }
}

fn ids(pairs: &[(String, String)]) -> Result<Vec<Uuid>, String> {
    let ids: Result<Vec<Uuid>, _> =
        pairs.iter().filter(|(name, _)| name == "id").map(|(_, value)| value.parse()).collect();
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
            "They become pending again, as if they had never been rejected, in their old places. Published ones are left alone."
        }
        Action::Fail => "They become failed, are not sent, and do not hold their keys. Published ones are left alone.",
        Action::Replay => {
            "They are sent again as new events of their old ids: consumers see them twice. Only published ones are."
        }
    }
}

pub(super) async fn confirm(frame: Frame, desk: web::Data<Desk>, request: HttpRequest) -> Answer {
    let order = Order::parse(request.query_string()).map_err(|reason| Trouble::bad_request(&frame, reason))?;
    let count = match &order.meant {
        Meant::These(ids) => Count { count: ids.len(), more: false },
        Meant::AllThatMatch(filter) => desk.count(order.action, filter).await.map_err(Trouble::of(&frame))?,
    };
    let how_many = events_count(count.count) + if count.more { " or more" } else { "" };
    let is_none = count.count == 0 && !count.more;
    let title = format!("{} {how_many}?", heading(order.action));
    let content = html! {
        h1 { (title) }
        p { (means(order.action)) }
        @if let Meant::AllThatMatch(filter) = &order.meant {
            dl { @for (name, value) in events::fields(filter) { dt { (name) } dd { (value) } } }
        }
        form method="post" action=(frame.link("/change")) {
            (frame.token())
            (order.hidden())
            @if order.action == Action::Fail {
                label { "Why (kept as their last error)" input name="reason" maxlength="500" value=(GIVEN_UP); }
            }
            div class="actions" {
                button class="main" disabled[is_none] { (heading(order.action)) " " (how_many) }
                a href=(frame.link("/events")) { "Do nothing" }
            }
        }
    };
    Ok(frame.page(&title, "/events", &content))
}

pub(super) async fn change(frame: Frame, desk: web::Data<Desk>, form: String) -> Answer {
    let order = Order::parse(&form).map_err(|reason| Trouble::bad_request(&frame, reason))?;
    let changed = match &order.meant {
        Meant::These(ids) => desk.change(order.action, &order.reason, ids).await,
        Meant::AllThatMatch(filter) => desk.change_all(order.action, &order.reason, filter, order.after).await,
    };
    let changed = changed.map_err(Trouble::of(&frame))?;
    if let Some(session) = frame.session() {
        api::note(order.action, session, changed.changed);
    }
    let title = format!("{} {}", events_count(changed.changed), past(order.action));
    let content = html! {
        h1 { (title) }
        @if let Some(next) = &changed.next {
            p { "There may be more that match." }
            form method="post" action=(frame.link("/change")) class="actions" {
                (frame.token())
                (order.hidden())
                input type="hidden" name="reason" value=(order.reason);
                input type="hidden" name="after" value=(next);
                button class="main" { "Go on" }
            }
        }
        @if let Meant::These(ids) = &order.meant {
            @if changed.changed < ids.len() {
                p class="notice" { "The others are in a status that does not allow it." }
            }
            ul { @for id in ids { li { a href=(frame.link(&format!("/events/{id}"))) { code { (id) } } } } }
        }
        p { a href=(frame.link("/events")) { "To the events" } }
    };
    Ok(frame.page(&title, "/events", &content))
}

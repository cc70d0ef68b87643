//! The consumers, and their dead letters with the actions on them.

use std::collections::BTreeMap;
use std::time::Duration;

use actix_outbox::admin::AdminError;
use actix_outbox::{
    ConsumerStatus, DeadLetters, LetterFacts, LetterId, OutboxAdmin, Settings, StreamStatus, SystemError,
};
use actix_web::{HttpRequest, web};
use maud::{Markup, html};
use uuid::Uuid;

use super::error::{PageError, PageResult};
use super::format::{number, prose, shortened, span, time};
use super::layout::PageLayout;
use crate::auth::{AccessError, CSRF_FIELD};
use crate::letters::{self, LetterAction, Letters, MOST, PAGE};
use crate::request_info::Author;

/// How long a page waits for each consumer's server, and for each publisher's.
const PATIENCE: Duration = Duration::from_secs(3);

/// More streams of one publisher are folded.
const FEW_STREAMS: usize = 40;

const ACTIONS: [(LetterAction, &str, &str); 2] =
    [(LetterAction::Retry, "retry", "Retry"), (LetterAction::Delete, "delete", "Delete")];

pub(super) async fn show(
    layout: PageLayout,
    settings: web::Data<Settings>,
    admin: web::Data<OutboxAdmin>,
) -> PageResult {
    let (consumers, streams) = tokio::join!(letters::consumers(&settings, PATIENCE), admin.streams(PATIENCE));
    let content = html! {
        h1 { "Consumers" }
        p class="soft" { "What the consumers of this console's settings have not handled." }
        @if consumers.is_empty() {
            div class="notice" role="status" {
                p { "This console's settings have no consumer. To see what one has not handled, add it to the settings file, as:" }
                pre data-copy { "[consumers.mailer]\nsource = \"default\"   # the publisher whose streams it reads" }
            }
        }
        @for (name, status) in &consumers { (consumer(&layout, name, status)) }
        (streams_of_publishers(&streams))
    };
    Ok(layout.page("Consumers", "/consumers", &content))
}

/// The streams of publishers that have several.
fn streams_of_publishers(publishers: &BTreeMap<String, Result<Vec<String>, AdminError>>) -> Markup {
    html! {
        @if !publishers.is_empty() {
            h2 { "Streams of publishers" }
            p class="soft" { "Of publishers with partitions, or with placeholders in their stream's name: those that events went to." }
        }
        @for (name, streams) in publishers {
            @match streams {
                Err(error) => (problem(&format!("Publisher {name}"), error)),
                Ok(streams) => {
                    details open[streams.len() <= FEW_STREAMS] {
                        summary { (name) ": " (number(streams.len() as u64)) @if streams.len() == 1 { " stream" } @else { " streams" } }
                        @if streams.is_empty() { p class="soft" { "No event went to any yet." } }
                        ul class="streams" { @for stream in streams { li { code { (shortened(stream)) } } } }
                    }
                }
            }
        }
    }
}

/// Why a part of the page is missing.
fn problem(of: &str, error: &dyn std::fmt::Display) -> Markup {
    html! { p class="notice bad" role="status" { (of) ": " (shortened(&error.to_string())) ". Reload the page to try again." } }
}

fn consumer(layout: &PageLayout, name: &str, status: &Result<ConsumerStatus, SystemError>) -> Markup {
    html! {
        h2 { (name) }
        @match status {
            Err(error) => (problem(&format!("Consumer {name}"), error)),
            Ok(status) if status.streams.is_empty() => {
                p class="notice" role="status" {
                    "Group " (status.group) ": none of its streams exists yet. A stream begins with the first event that a worker sends to it."
                }
            }
            Ok(status) => {
                p class="soft" { "Group " (status.group) }
                (streams(layout, name, &status.streams))
            }
        }
    }
}

fn streams(layout: &PageLayout, name: &str, streams: &[StreamStatus]) -> Markup {
    let link = layout.link(&format!("/consumers/dead?{}", query(&[("consumer", name)])));
    html! {
        div class="wide" {
            table {
                thead { tr {
                    th scope="col" { "Stream" }
                    th scope="col" class="number" { "Unread" }
                    th scope="col" class="number" { "Pending" }
                    th scope="col" class="number" { "Oldest pending" }
                    th scope="col" class="number" { "Dead letters" }
                } }
                tbody {
                    @for stream in streams {
                        tr {
                            td { (shortened(&stream.stream)) }
                            td class="number" { @match stream.unread { Some(unread) => (number(unread)), None => "unknown" } }
                            td class="number" { (number(stream.pending)) }
                            td class="number" { @if let Some(age) = stream.oldest_pending_seconds { (span(age)) } }
                            td class="number" { @if stream.dead_letters > 0 { a href=(link) { (number(stream.dead_letters)) } } @else { "0" } }
                        }
                    }
                }
            }
        }
    }
}

/// What a query or a form names.
#[derive(Default)]
struct Request {
    consumer: String,
    action: Option<LetterAction>,
    ids: Vec<LetterId>,
    all: bool,
    after: Option<LetterId>,
}

fn parse(form: &str) -> Result<Request, String> {
    let mut request = Request::default();
    for (name, value) in url::form_urlencoded::parse(form.as_bytes()).filter(|(_, value)| !value.is_empty()) {
        match name.as_ref() {
            "consumer" => request.consumer = value.into_owned(),
            "action" => {
                let known = ACTIONS.iter().find(|(_, name, _)| *name == value).map(|(action, ..)| *action);
                request.action = Some(known.ok_or("The action must be retry or delete.")?);
            }
            "id" => request.ids.push(value.parse()?),
            "all" => request.all = true,
            "after" => request.after = Some(value.parse()?),
            CSRF_FIELD => {}
            other => return Err(format!("parameter {other:?} is unknown")),
        }
    }
    if request.ids.len() > MOST {
        return Err(format!("Too many dead letters are selected; at most {MOST} are allowed."));
    }
    Ok(request)
}

impl Request {
    fn change(self) -> Result<(String, LetterAction, Letters), String> {
        let action = self.action.ok_or("The action is missing; it must be retry or delete.")?;
        match (self.all, self.ids) {
            (true, _) => Ok((self.consumer, action, Letters::All)),
            (false, ids) if ids.is_empty() => Err("No dead letter is selected.".to_owned()),
            (false, ids) => Ok((self.consumer, action, Letters::These(ids))),
        }
    }
}

pub(super) async fn list(layout: PageLayout, settings: web::Data<Settings>, request: HttpRequest) -> PageResult {
    let asked = parse(request.query_string()).map_err(|reason| PageError::bad_request(&layout, reason))?;
    let dead = DeadLetters::of(&settings, &asked.consumer).map_err(PageError::from_system(&layout))?;
    let count = dead.count().await.map_err(PageError::from_system(&layout))?;
    let found = dead.list(asked.after.as_ref(), PAGE).await.map_err(PageError::from_system(&layout))?;
    let next = found.last().filter(|_| found.len() == PAGE).map(|letter| letter.id.to_string());
    let title = format!("Dead letters of {}", asked.consumer);
    let content = html! {
        h1 { (title) }
        p class="soft" { (number(count)) " in all, by stream, oldest first." }
        @if found.is_empty() {
            p class="notice" role="status" {
                @if count == 0 { "There are none: the consumer has handled, or is still retrying, what it read." } @else { "There are no more." }
            }
        } @else {
            form method="get" action=(layout.link("/consumers/confirm")) {
                input type="hidden" name="consumer" value=(asked.consumer);
                (table(&layout, &found))
                @if layout.may_change() {
                    div class="actions" {
                        @for (_, name, heading) in ACTIONS { button name="action" value=(name) { (heading) " selected…" } }
                        label { input type="checkbox" name="all" value="1"; " all of them" }
                    }
                }
            }
        }
        nav class="actions" aria-label="Pages of the list" {
            a href=(layout.link("/consumers")) { "Back to the consumers" }
            @if let Some(next) = next {
                a rel="next" href=(layout.link(&format!("/consumers/dead?{}", query(&[("consumer", &asked.consumer), ("after", &next)])))) { "Next page" }
            }
        }
    };
    Ok(layout.page(&title, "/consumers", &content))
}

fn table(layout: &PageLayout, letters: &[LetterFacts]) -> Markup {
    html! {
        div class="wide" {
            table class="stack" {
                thead { tr {
                    @if layout.may_change() { th scope="col" { input type="checkbox" data-all aria-label="Select all on this page"; } }
                    th scope="col" { "When" }
                    th scope="col" { "Stream" }
                    th scope="col" { "Type" }
                    th scope="col" { "Event" }
                    th scope="col" { "Deliveries" }
                    th scope="col" { "Reason" }
                } }
                tbody {
                    @for letter in letters {
                        tr {
                            @if layout.may_change() {
                                td { input type="checkbox" name="id" value=(letter.id) aria-label={ "Select " (letter.id) }; }
                            }
                            td { (time(letter.at)) }
                            td data-label="Stream" { (shortened(&letter.stream)) }
                            td data-label="Type" { (shortened(&letter.event_type)) }
                            td data-label="Event" {
                                @match letter.event_id.parse::<Uuid>() {
                                    Ok(id) => a href=(layout.link(&format!("/events/{id}"))) { (super::format::id(id)) },
                                    Err(_) => (shortened(&letter.event_id)),
                                }
                            }
                            td data-label="Deliveries" { (number(letter.deliveries)) }
                            td class="rest" { (prose(&letter.reason)) }
                        }
                    }
                }
            }
        }
    }
}

pub(super) async fn confirm(layout: PageLayout, settings: web::Data<Settings>, request: HttpRequest) -> PageResult {
    if !layout.may_change() {
        return Ok(layout.error_page(AccessError::Reader.status(), &AccessError::Reader.message()));
    }
    let bad = |reason: String| PageError::bad_request(&layout, reason);
    let (consumer, action, letters) = parse(request.query_string()).and_then(Request::change).map_err(bad)?;
    let dead = DeadLetters::of(&settings, &consumer).map_err(PageError::from_system(&layout))?;
    let count = match &letters {
        Letters::These(ids) => ids.len() as u64,
        Letters::All => dead.count().await.map_err(PageError::from_system(&layout))?.min(MOST as u64),
    };
    let title = format!("{} {}?", heading(action), counted(count));
    let description = match action {
        LetterAction::Retry => "Consumer {} receives each of them again as if it were new, and no other group does.",
        LetterAction::Delete => {
            "They are deleted for good, and consumer {} does not handle them. This cannot be undone."
        }
    };
    let content = html! {
        h1 { (title) }
        p { (description.replace("{}", &consumer)) }
        form method="post" action=(layout.link("/consumers/change")) {
            (layout.token())
            input type="hidden" name="consumer" value=(consumer);
            @match &letters {
                Letters::These(ids) => { @for id in ids { input type="hidden" name="id" value=(id); } }
                Letters::All => { input type="hidden" name="all" value="1"; }
            }
            div class="actions" {
                button class="main" name="action" value=(heading(action).to_lowercase()) { (heading(action)) " " (counted(count)) }
                a href=(layout.link(&format!("/consumers/dead?{}", query(&[("consumer", &consumer)])))) { "Cancel" }
            }
        }
    };
    Ok(layout.page(&title, "/consumers", &content))
}

pub(super) async fn change(
    layout: PageLayout,
    settings: web::Data<Settings>,
    admin: web::Data<OutboxAdmin>,
    author: web::ReqData<Author>,
    form: String,
) -> PageResult {
    let bad = |reason: String| PageError::bad_request(&layout, reason);
    let (consumer, action, letters) = parse(&form).and_then(Request::change).map_err(bad)?;
    let changed = letters::change(&settings, &admin, &consumer, action, letters, &author).await;
    let changed = changed.map_err(PageError::from_system(&layout))?;
    let past = match action {
        LetterAction::Retry => "retried",
        LetterAction::Delete => "deleted",
    };
    let title = format!("{} {past}", counted(changed.changed as u64));
    let content = html! {
        h1 { (title) }
        @if !changed.missing.is_empty() {
            p class="notice" role="status" { (counted(changed.missing.len() as u64)) " skipped, which are not there any more." }
        }
        p { a href=(layout.link(&format!("/consumers/dead?{}", query(&[("consumer", &consumer)])))) { "Back to the dead letters" } }
    };
    Ok(layout.page(&title, "/consumers", &content))
}

fn heading(action: LetterAction) -> &'static str {
    match action {
        LetterAction::Retry => "Retry",
        LetterAction::Delete => "Delete",
    }
}

fn query(pairs: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

fn counted(letters: u64) -> String {
    if letters == 1 { "1 dead letter".to_owned() } else { format!("{} dead letters", number(letters)) }
}

//! The commands of the program that a page names, as buttons that lead to the console's page for the same.

use actix_outbox::{Explanation, Reason};
use maud::{Markup, html};
use uuid::Uuid;

use super::layout::PageLayout;

/// A button: its label, the page, and the fields of its form.
#[derive(Debug, PartialEq, Eq)]
struct Hint {
    label: String,
    path: String,
    fields: Vec<(&'static str, String)>,
    /// It leads to a change, so readers do not see it.
    is_change: bool,
}

impl Hint {
    fn page(label: &str, path: impl Into<String>, fields: &[(&'static str, &str)]) -> Self {
        let fields = fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Self { label: label.to_owned(), path: path.into(), fields, is_change: false }
    }

    fn change(label: &str, path: &str, fields: &[(&'static str, &str)]) -> Self {
        Self { is_change: true, ..Self::page(label, path, fields) }
    }
}

/// What an operator can do about an event, by the reason for its state.
fn of_reason(id: Uuid, reason: &Reason) -> Vec<Hint> {
    let retry =
        |id: Uuid| Hint::change("Retry this event…", "/confirm", &[("id", &id.to_string()), ("action", "retry")]);
    let fail = |id: Uuid| Hint::change("Fail this event…", "/confirm", &[("id", &id.to_string()), ("action", "fail")]);
    match reason {
        Reason::Failed { .. } | Reason::Processing { .. } => vec![retry(id)],
        Reason::UnknownBackend { .. } => {
            vec![Hint::change("Move this event…", "/confirm", &[("id", &id.to_string()), ("action", "move")]), fail(id)]
        }
        Reason::BackendPaused { pause, .. } => vec![resume(&pause.backend)],
        Reason::BehindKey { event, .. } => vec![Hint::page("Show that event", format!("/events/{event}"), &[])],
        _ => Vec::new(),
    }
}

fn resume(backend: &str) -> Hint {
    Hint::change(&format!("Resume {backend}…"), "/backends/confirm", &[("name", backend), ("action", "resume")])
}

/// What the console has for a command; none if it cannot do it.
fn of_command(command: &str) -> Option<Hint> {
    let words: Vec<&str> = command.split_whitespace().collect();
    Some(match words.as_slice() {
        ["outbox", "events", "explain", "ID"] => {
            Hint::page("Show the oldest pending events", "/events", &[("status", "pending"), ("order", "oldest")])
        }
        ["outbox", "events", "list", "--status", status] => {
            Hint::page(&format!("Show {status} events"), "/events", &[("status", status)])
        }
        ["outbox", "events", "replay"] => Hint::page("Show published events", "/events", &[("status", "published")]),
        ["outbox", "backends", "resume", name] => resume(name),
        _ => return None,
    })
}

/// The commands in a text: what is in backticks, or the whole text.
fn commands(text: &str) -> impl Iterator<Item = &str> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.chain([text]).filter(|command| command.starts_with("outbox "))
}

/// The buttons for an event's explanation.
pub(super) fn of_event(layout: &PageLayout, explanation: &Explanation) -> Markup {
    buttons(layout, of_reason(explanation.id, &explanation.reason))
}

/// The buttons for the commands in a finding's advice.
pub(super) fn of_advice(layout: &PageLayout, advice: &str) -> Markup {
    buttons(layout, commands(advice).filter_map(of_command).collect())
}

fn buttons(layout: &PageLayout, mut hints: Vec<Hint>) -> Markup {
    hints.retain(|hint| layout.may_change() || !hint.is_change);
    html! {
        @if !hints.is_empty() {
            div class="actions hints" {
                @for hint in &hints {
                    form method="get" action=(layout.link(&hint.path)) {
                        @for (name, value) in &hint.fields { input type="hidden" name=(name) value=(value); }
                        button { (hint.label) }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_in_an_advice_is_a_button_if_the_console_can_do_it() {
        for (advice, expected) in [
            ("`outbox backends resume orders` ends that.", &["Resume orders…"][..]),
            ("outbox backends resume orders", &["Resume orders…"]),
            ("`outbox events list --status failed`, then retry, fail or delete them", &["Show failed events"]),
            ("`outbox events explain ID` says more", &["Show the oldest pending events"]),
            ("raise max_len; `outbox events replay` sends lost entries again", &["Show published events"]),
            ("start `outbox worker`", &[]),
            ("the error says `rm -rf /` and outbox backends resume orders", &[]),
        ] {
            let labels: Vec<String> = commands(advice).filter_map(of_command).map(|hint| hint.label).collect();
            assert_eq!(labels, expected, "{advice}");
        }
    }
}

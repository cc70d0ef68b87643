//! What the consumer groups of an event's stream have done with it.

use actix_outbox::admin::{EventGroup, EventGroups, GroupState};
use maud::{Markup, html};

use super::format::{number, prose, shortened, time};
use super::layout::PageLayout;

pub(super) fn show(layout: &PageLayout, found: &EventGroups) -> Markup {
    html! {
        h2 { "Consumer groups" }
        @if let Some(problem) = &found.problem {
            p class="notice" role="status" {
                "What the groups of stream " code { (found.stream) } " have done with it is unknown: " (shortened(problem)) "."
            }
        } @else if found.groups.is_empty() {
            p class="notice" role="status" {
                "Stream " code { (found.stream) } " has it, and no group reads that. A consumer makes its group when it starts: "
                code data-copy { "outbox consume NAME" }
            }
        } @else {
            p class="soft" {
                "Of stream " code { (found.stream) }
                @if let Some(entry) = &found.entry { ", entry " code { (entry) } }
                ", when this page was opened."
            }
            div class="wide" {
                table class="stack" {
                    thead { tr {
                        th scope="col" { "Group" }
                        th scope="col" { "State" }
                        th scope="col" { "Details" }
                    } }
                    tbody { @for group in &found.groups { (row(layout, group)) } }
                }
            }
        }
    }
}

fn row(layout: &PageLayout, EventGroup { group, configured_as, state, .. }: &EventGroup) -> Markup {
    let (class, name) = match state {
        GroupState::Acknowledged => ("ok", "acknowledged"),
        GroupState::Pending { .. } => ("retry", "pending"),
        GroupState::Retried => ("retry", "retried"),
        GroupState::Dead { .. } => ("bad", "dead letter"),
        _ => ("", "unread"),
    };
    html! {
        tr {
            td { (shortened(group)) }
            td { span class={ "status " (class) } { (name) } }
            td {
                @match state {
                    GroupState::Pending { since, consumer, deliveries } => {
                        "With consumer " (shortened(consumer)) ", delivery " (number(*deliveries)) "; the stream has had it since " (time(*since))
                    }
                    GroupState::Dead { letter, deliveries, error } => {
                        "After delivery " (number(*deliveries)) ": " (prose(error))
                        (retry(layout, configured_as.as_deref(), letter))
                    }
                    GroupState::Retried => "An operator has retried its dead letter; it waits for the group.",
                    GroupState::Acknowledged => "Or the group began behind it.",
                    _ => "The group has not read it."
                }
            }
        }
    }
}

/// The button for a dead letter, if the settings have the consumer that it is one of.
fn retry(layout: &PageLayout, consumer: Option<&str>, letter: &str) -> Markup {
    html! {
        @if let Some(consumer) = consumer.filter(|_| layout.may_change()) {
            form class="actions" method="get" action=(layout.link("/consumers/confirm")) {
                input type="hidden" name="consumer" value=(consumer);
                input type="hidden" name="id" value=(letter);
                button name="action" value="retry" { "Retry this dead letter…" }
            }
        }
    }
}

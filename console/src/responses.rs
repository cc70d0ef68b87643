//! The console's responses, for pages and the API alike.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::requests::Cursor;
use actix_outbox::Explanation;
use actix_outbox::admin::{AuditEntry, BackendStatus, Finding, WorkerStatus};
use actix_outbox::admin::{HistoryBucket, Unreadable};
use actix_outbox::{OutboxEvent, Status};

/// The state of the outbox.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Overview {
    /// When the events were counted: a few seconds ago, or longer if counting takes long.
    pub(crate) counted_at: DateTime<Utc>,
    /// Events by status.
    pub(crate) counts: BTreeMap<String, i64>,
    /// The number of published events is an estimate: if there are many, it is the database's estimate of its table's size.
    pub(crate) published_is_estimate: bool,
    pub(crate) backends: Vec<BackendStatus>,
    pub(crate) workers: Vec<WorkerStatus>,
    /// Events that each backend published in the last complete minute; without backends that published none.
    pub(crate) published_a_minute: BTreeMap<String, u64>,
    /// Outcomes in each minute of the last hour; without empty minutes.
    pub(crate) minutes: Vec<Outcome>,
    /// Outcomes in each hour of the last day; without empty hours.
    pub(crate) hours: Vec<Outcome>,
}

/// Outcomes of all backends in a minute or an hour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Outcome {
    pub(crate) began_at: DateTime<Utc>,
    pub(crate) published: u64,
    pub(crate) rejected: u64,
    pub(crate) failed: u64,
}

impl Outcome {
    /// Sums the outcomes of all backends, in the order of time.
    pub(super) fn sum_backends(buckets: Vec<HistoryBucket>) -> Vec<Self> {
        let mut all: BTreeMap<DateTime<Utc>, Self> = BTreeMap::new();
        for HistoryBucket { began_at, outcomes, .. } in buckets {
            let one = all.entry(began_at).or_insert(Self { began_at, published: 0, rejected: 0, failed: 0 });
            one.published += outcomes.published;
            one.rejected += outcomes.rejected;
            one.failed += outcomes.failed;
        }
        all.into_values().collect()
    }
}

/// A text that may be long, such as an error, shortened to 2,000 characters.
pub(crate) fn shortened(text: &str) -> String {
    const LONGEST: usize = 2_000;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text.to_owned(),
    }
}

/// An event without its data; of longer texts, the first 2,000 characters.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Summary {
    pub(crate) id: Uuid,
    pub(crate) status: Status,
    #[serde(rename = "type")]
    pub(crate) event_type: String,
    pub(crate) source: String,
    pub(crate) subject: String,
    pub(crate) backend: String,
    pub(crate) key: String,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) scheduled_at: DateTime<Utc>,
    pub(crate) published_at: Option<DateTime<Utc>>,
    pub(crate) retry_count: i32,
    pub(crate) last_error: String,
}

/// A row of the list: an event, or why the row is not a readable event.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum EventListItem {
    Event(Box<Summary>),
    Unreadable { id: Uuid, unreadable: String },
}

impl From<Result<OutboxEvent, Unreadable>> for EventListItem {
    fn from(row: Result<OutboxEvent, Unreadable>) -> Self {
        match row {
            Ok(event) => Self::Event(Box::new(Summary {
                id: event.id,
                status: event.status,
                event_type: shortened(&event.event_type),
                source: shortened(&event.source),
                subject: shortened(&event.subject),
                backend: shortened(&event.publisher_backend),
                key: shortened(&event.partition_key),
                created_at: event.created_at,
                scheduled_at: event.scheduled_at,
                published_at: event.published_at,
                retry_count: event.retry_count,
                last_error: shortened(&event.last_error),
            })),
            Err(Unreadable { id, reason, .. }) => Self::Unreadable { id, unreadable: shortened(&reason) },
        }
    }
}

impl EventListItem {
    pub(crate) fn id(&self) -> Uuid {
        match self {
            Self::Event(event) => event.id,
            Self::Unreadable { id, .. } => *id,
        }
    }
}

/// A page of events.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Events {
    pub(crate) events: Vec<EventListItem>,
    /// `after` of the next page; none on the last page.
    pub(crate) next: Option<Cursor>,
    /// The scan took too long and stopped at events created at this time; `next` continues from there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stopped_at: Option<DateTime<Utc>>,
}

/// A page of operators' changes.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Audit {
    /// The changes, newest first.
    pub(crate) entries: Vec<AuditEntry>,
    /// `before` of the next page; none on the last page.
    pub(crate) next: Option<i64>,
}

/// A number of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Count {
    pub(crate) count: usize,
    /// There may be more: counting took too long and stopped.
    pub(crate) more: bool,
}

/// One event without its data, and its explanation.
pub(crate) struct EventState {
    pub(crate) event: Result<OutboxEvent, Unreadable>,
    pub(crate) explanation: Explanation,
}

/// One event with its explanation and neighbours, and with its data unless that is large.
pub(crate) struct Detail {
    pub(crate) state: EventState,
    /// The length of its data.
    pub(crate) data_bytes: u64,
    /// Other events with its key, newest first.
    pub(crate) neighbours: Vec<EventListItem>,
}

/// An event that was not changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Skipped {
    pub(crate) id: Uuid,
    /// Why not.
    pub(crate) reason: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// The result of a change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Changed {
    /// Events that were changed.
    pub(crate) changed: usize,
    /// The first 1,000 of the events that were visited and not changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) skipped: Vec<Skipped>,
    /// How many further events were not changed.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) more_skipped: usize,
    /// Why not all selected events were changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// `after` of the next request, if more events may match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<Cursor>,
}

/// The result of a change of a backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct BackendChanged {
    /// Whether the backend was not paused before, or was paused before it was resumed.
    pub(crate) changed: bool,
    /// `pause`: the live workers that may still be sending to it.
    pub(crate) senders: Vec<String>,
}

/// What endangers the outbox.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Diagnosis {
    /// When the diagnosis ended, by this machine's clock.
    pub(crate) diagnosed_at: DateTime<Utc>,
    /// The worst first; empty if nothing was found.
    pub(crate) findings: Vec<Finding>,
}

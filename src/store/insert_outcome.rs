//! The outcome of an insert for each of its events, in the order given.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::content::first_difference;
use crate::error::{IdConflict, StoreError};
use crate::event::{JsonText, OutboxEvent, Status};
use crate::publish::{InsertResult, ValidEvent};

/// Collects the result for each event of one call; an id may have been given twice.
pub(crate) struct InsertOutcomes(Vec<InsertOutcome>);

enum InsertOutcome {
    #[cfg_attr(
        not(any(feature = "mysql", feature = "postgres")),
        allow(dead_code, reason = "on SQLite every event is compared with its row")
    )]
    Known(InsertResult),
    /// The event must be compared with the row that has its id.
    Unknown(ValidEvent),
}

/// The row that has an event's id.
pub(crate) struct FoundRow {
    /// The event, or why the row is not a valid event.
    pub(crate) event: Result<OutboxEvent, String>,
    pub(crate) data: SameData,
}

/// Whether a row has the same data as an event that is published again under its id.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SameData {
    pub(crate) json: bool,
    pub(crate) binary: bool,
}

impl InsertOutcomes {
    #[cfg(any(feature = "mysql", feature = "sqlite"))]
    pub(crate) fn unknown(events: Vec<ValidEvent>) -> Self {
        Self(events.into_iter().map(InsertOutcome::Unknown).collect())
    }

    /// Outcomes of events of which some were written, in order; one that was written out of order is unknown, like those
    /// that existed before.
    #[cfg(any(feature = "mysql", feature = "postgres"))]
    pub(crate) fn written(events: Vec<ValidEvent>, written: Vec<Written>) -> Self {
        let mut written = written.into_iter().peekable();
        let answer = |event: ValidEvent| match written.next_if(|written| written.id == event.id) {
            Some(written) => InsertOutcome::Known(Ok(event.stored(written))),
            None => InsertOutcome::Unknown(event),
        };
        Self(events.into_iter().map(answer).collect())
    }

    /// The events whose outcome is unknown.
    #[cfg(feature = "postgres")]
    pub(crate) fn missing(&self) -> Vec<&ValidEvent> {
        let unknown = self.0.iter().filter_map(|answer| match answer {
            InsertOutcome::Known(_) => None,
            InsertOutcome::Unknown(event) => Some(event),
        });
        unknown.collect()
    }

    /// Resolves the unknown outcomes: `find` receives the index of each and returns the row with its id,
    /// if there is one.
    pub(crate) fn finish(self, mut find: impl FnMut(usize, &ValidEvent) -> Option<FoundRow>) -> Vec<InsertResult> {
        let mut number = 0..;
        let answer = |answer| match answer {
            InsertOutcome::Known(stored) => stored,
            InsertOutcome::Unknown(event) => {
                let found = number.next().and_then(|number| find(number, &event));
                event.compared_with(found)
            }
        };
        self.0.into_iter().map(answer).collect()
    }
}

impl ValidEvent {
    /// The outcome of an event whose insert found a row with its id.
    fn compared_with(self, found: Option<FoundRow>) -> InsertResult {
        let id = self.id;
        // The insert found a row and the read did not: the event was stored before, delivered, and deleted in between.
        let Some(FoundRow { event, data }) = found else { return Ok(self.deleted()) };
        let stored = event.map_err(|reason| StoreError::Query {
            operation: "read a stored event",
            reason: format!("the event {id} cannot be read: {reason}"),
            transient: false,
        })?;
        match first_difference(&self, &stored, data) {
            Some(field) => Err(IdConflict { id, field }.into()),
            None => Ok(OutboxEvent { data: self.data.map(JsonText::new), data_binary: self.data_binary, ..stored }),
        }
    }

    /// The event as it would be stored now, with `seq` 0.
    #[cfg(feature = "testing")]
    pub(crate) fn preview(self) -> OutboxEvent {
        let now = Utc::now();
        let scheduled_at = self.scheduled_micros.and_then(DateTime::from_timestamp_micros);
        let scheduled_at = scheduled_at.unwrap_or_else(|| now + chrono::TimeDelta::microseconds(self.delay_micros));
        let id = self.id;
        self.stored(Written { id, created_at: now, scheduled_at, seq: 0 })
    }

    /// The event as it was given: no more is known of it.
    fn deleted(self) -> OutboxEvent {
        let now = Utc::now();
        let scheduled_at = self.scheduled_micros.and_then(DateTime::from_timestamp_micros).unwrap_or(now);
        let written = Written { id: self.id, created_at: now, scheduled_at, seq: 0 };
        OutboxEvent { status: Status::Published, ..self.stored(written) }
    }
}

/// Values that the database assigned when it wrote an event.
pub(crate) struct Written {
    #[cfg_attr(
        not(any(feature = "mysql", feature = "postgres")),
        allow(dead_code, reason = "SQLite writes one event at a time")
    )]
    pub(crate) id: Uuid,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) scheduled_at: DateTime<Utc>,
    pub(crate) seq: i64,
}

impl ValidEvent {
    pub(crate) fn stored(self, written: Written) -> OutboxEvent {
        OutboxEvent {
            id: self.id,
            spec_version: "1.0".to_owned(),
            event_type: self.event_type,
            source: self.source,
            subject: self.subject,
            data_content_type: self.data_content_type,
            data_schema: self.data_schema,
            data: self.data.map(JsonText::new),
            data_binary: self.data_binary,
            status: Status::Pending,
            created_at: written.created_at,
            updated_at: written.created_at,
            scheduled_at: written.scheduled_at,
            published_at: None,
            retry_count: 0,
            max_retries: self.max_retries,
            last_error: String::new(),
            publisher_backend: self.publisher_backend,
            publisher_config: JsonText::new(self.publisher_config),
            seq: written.seq,
            retry_at: None,
            cloud_event_id: self.cloud_event_id,
            extensions: JsonText::new(self.extensions),
            partition_key: self.partition_key,
            pending_handlers: None,
            errors: None,
            event_time: self.event_micros.and_then(DateTime::from_timestamp_micros),
        }
    }
}

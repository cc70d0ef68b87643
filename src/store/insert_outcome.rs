//! The outcome of an insert for each of its events, in the order in which they were given.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::content::first_difference;
use crate::error::{IdConflict, StoreError};
use crate::event::{JsonText, OutboxEvent, Status};
use crate::publish::{InsertResult, ValidEvent};

/// Collects what was stored for each event of one call; an id may have been given twice.
pub(crate) struct InsertOutcomes(Vec<InsertOutcome>);

enum InsertOutcome {
    Known(InsertResult),
    /// To be compared with the row of its id.
    Unknown(ValidEvent),
}

/// The row that stands under an event's id.
pub(crate) struct FoundRow {
    /// The event, or why the row cannot be one.
    pub(crate) event: Result<OutboxEvent, String>,
    pub(crate) data: SameData,
}

/// Whether a row carries what is published again under its id.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SameData {
    pub(crate) json: bool,
    pub(crate) binary: bool,
}

impl InsertOutcomes {
    #[cfg(feature = "sqlite")]
    pub(crate) fn unknown(events: Vec<ValidEvent>) -> Self {
        Self(events.into_iter().map(InsertOutcome::Unknown).collect())
    }

    /// To events of which some were written, in their order; one that was written out of it is unknown, like those that
    /// were there before.
    #[cfg(feature = "postgres")]
    pub(crate) fn written(events: Vec<ValidEvent>, written: Vec<Written>) -> Self {
        let mut written = written.into_iter().peekable();
        let answer = |event: ValidEvent| match written.next_if(|written| written.id == event.id) {
            Some(written) => InsertOutcome::Known(Ok(event.stored(written))),
            None => InsertOutcome::Unknown(event),
        };
        Self(events.into_iter().map(answer).collect())
    }

    /// The events that no answer is known to.
    pub(crate) fn missing(&self) -> Vec<&ValidEvent> {
        let unknown = self.0.iter().filter_map(|answer| match answer {
            InsertOutcome::Known(_) => None,
            InsertOutcome::Unknown(event) => Some(event),
        });
        unknown.collect()
    }

    /// InsertOutcomes what is [`missing`](Self::missing): `find` is given the number of each there and returns the row that stands
    /// under its id, if one does.
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
    /// The answer to an event whose insert met the row of its id.
    fn compared_with(self, found: Option<FoundRow>) -> InsertResult {
        let id = self.id;
        // The insert met it and the read did not: it was stored before, has been delivered and was deleted in between.
        let Some(FoundRow { event, data }) = found else { return Ok(self.deleted()) };
        let stored = event.map_err(|reason| StoreError::Query {
            operation: "read what is stored",
            reason: format!("the event {id} cannot be read: {reason}"),
            transient: false,
        })?;
        match first_difference(&self, &stored, data) {
            Some(field) => Err(IdConflict { id, field }.into()),
            None => Ok(OutboxEvent { data: self.data.map(JsonText::new), data_binary: self.data_binary, ..stored }),
        }
    }

    /// As it was given: nothing else is known of it any more.
    fn deleted(self) -> OutboxEvent {
        let now = Utc::now();
        let scheduled_at = self.scheduled_micros.and_then(DateTime::from_timestamp_micros).unwrap_or(now);
        let written = Written { id: self.id, created_at: now, scheduled_at, seq: 0 };
        OutboxEvent { status: Status::Published, ..self.stored(written) }
    }
}

/// What the database gave an event when it was written.
pub(crate) struct Written {
    pub(crate) id: Uuid,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) scheduled_at: DateTime<Utc>,
    pub(crate) seq: i64,
}

impl ValidEvent {
    fn stored(self, written: Written) -> OutboxEvent {
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
        }
    }
}

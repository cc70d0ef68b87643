//! What was stored, in the order in which it was asked for.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::ReadyEvent;
use crate::error::{PublishError, StoreError};
use crate::event::{JsonText, OutboxEvent, Status};

/// Collects the stored events of one call; an id may have been given twice.
pub(crate) struct Answers {
    ids: Vec<Uuid>,
    found: HashMap<Uuid, OutboxEvent>,
}

impl Answers {
    pub(crate) fn to(events: &[ReadyEvent]) -> Self {
        Self { ids: events.iter().map(|event| event.id).collect(), found: HashMap::with_capacity(events.len()) }
    }

    /// Takes rows as the database gave them.
    pub(crate) fn add(
        &mut self,
        rows: impl IntoIterator<Item = (Uuid, Result<OutboxEvent, String>)>,
    ) -> Result<(), PublishError> {
        for (id, event) in rows {
            let event = event.map_err(|reason| StoreError::Query {
                operation: "read what is stored",
                reason: format!("the event {id} cannot be read: {reason}"),
                transient: false,
            })?;
            self.found.insert(id, event);
        }
        Ok(())
    }

    /// Takes those of the events that are stored since now, with what the database gave each.
    #[cfg(feature = "postgres")]
    pub(crate) fn add_written(&mut self, events: Vec<ReadyEvent>, mut written: HashMap<Uuid, Written>) {
        // An id that was given twice was written once, and first.
        let stored = events.into_iter().filter_map(|event| {
            let written = written.remove(&event.id)?;
            Some((event.id, event.stored(written)))
        });
        self.found.extend(stored);
    }

    /// The ids that no row was seen of: they were in the outbox before.
    pub(crate) fn missing(&self) -> Vec<Uuid> {
        self.ids.iter().copied().filter(|id| !self.found.contains_key(id)).collect()
    }

    pub(crate) fn finish(mut self) -> Result<Vec<OutboxEvent>, PublishError> {
        let no_id_twice = self.found.len() == self.ids.len();
        let mut answer = |id: &Uuid| {
            let event = if no_id_twice { self.found.remove(id) } else { self.found.get(id).cloned() };
            // Deleted between the two statements, which needs a caller without a transaction.
            event.ok_or_else(|| StoreError::NotFound(*id).into())
        };
        self.ids.iter().map(&mut answer).collect()
    }
}

/// What the database gave an event when it was written.
#[cfg(feature = "postgres")]
pub(crate) struct Written {
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) scheduled_at: DateTime<Utc>,
    pub(crate) seq: i64,
}

#[cfg(feature = "postgres")]
impl ReadyEvent {
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

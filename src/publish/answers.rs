//! What was stored, in the order in which it was asked for.

use std::collections::HashMap;

#[cfg(feature = "postgres")]
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::ReadyEvent;
use crate::error::{PublishError, StoreError};
use crate::event::OutboxEvent;
#[cfg(feature = "postgres")]
use crate::event::{JsonText, Status};

/// Collects the stored events of one call; an id may have been given twice.
pub(crate) struct Answers(Vec<(Uuid, Option<OutboxEvent>)>);

impl Answers {
    #[cfg(feature = "sqlite")]
    pub(crate) fn to(events: &[ReadyEvent]) -> Self {
        Self(events.iter().map(|event| (event.id, None)).collect())
    }

    /// To events of which some were written, in their order; one that was written out of it is missing, like those that
    /// were there before.
    #[cfg(feature = "postgres")]
    pub(crate) fn written(events: Vec<ReadyEvent>, written: Vec<Written>) -> Self {
        let mut written = written.into_iter().peekable();
        let answer = |event: ReadyEvent| {
            let id = event.id;
            (id, written.next_if(|written| written.id == id).map(|written| event.stored(written)))
        };
        Self(events.into_iter().map(answer).collect())
    }

    /// The ids that no answer is known to.
    pub(crate) fn missing(&self) -> Vec<Uuid> {
        self.0.iter().filter(|(_, event)| event.is_none()).map(|(id, _)| *id).collect()
    }

    /// Takes rows as the database gave them.
    pub(crate) fn add(
        &mut self,
        rows: impl IntoIterator<Item = (Uuid, Result<OutboxEvent, String>)>,
    ) -> Result<(), PublishError> {
        let mut found = HashMap::new();
        for (id, event) in rows {
            let event = event.map_err(|reason| StoreError::Query {
                operation: "read what is stored",
                reason: format!("the event {id} cannot be read: {reason}"),
                transient: false,
            })?;
            found.insert(id, event);
        }
        let missing: Vec<_> = self.0.iter_mut().filter(|(_, event)| event.is_none()).collect();
        let no_id_twice = found.len() == missing.len();
        for (id, event) in missing {
            *event = if no_id_twice { found.remove(id) } else { found.get(id).cloned() };
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<Vec<OutboxEvent>, PublishError> {
        // Deleted between the two statements, after this call had found it there.
        let found = |(id, event): (Uuid, Option<OutboxEvent>)| event.ok_or_else(|| StoreError::NotFound(id).into());
        self.0.into_iter().map(found).collect()
    }
}

/// What the database gave an event when it was written.
#[cfg(feature = "postgres")]
pub(crate) struct Written {
    pub(crate) id: Uuid,
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

//! What was stored, in the order in which it was asked for.

use std::collections::HashMap;

use uuid::Uuid;

use super::ReadyEvent;
use crate::error::{PublishError, StoreError};
use crate::event::OutboxEvent;

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

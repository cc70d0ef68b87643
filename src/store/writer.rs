//! The role of a store in publishing.

use async_trait::async_trait;

use super::Result;
use crate::error::{PublishError, StoreError};
use crate::event::OutboxEvent;
use crate::publish::{InsertResult, NewEvent};

/// Returns the events to write, once there is a connection.
pub(crate) type TakeEvents = Box<dyn FnOnce() -> Vec<NewEvent> + Send>;

/// Why events were not inserted.
#[derive(Debug)]
pub(crate) enum NotInserted {
    /// The database answered: none of them was inserted.
    Answered(PublishError),
    /// The database did not answer, so they may be inserted.
    InDoubt(PublishError),
}

impl From<NotInserted> for PublishError {
    fn from(failure: NotInserted) -> Self {
        match failure {
            NotInserted::Answered(error) | NotInserted::InDoubt(error) => error,
        }
    }
}

/// Writing events in transactions of the store's own.
#[async_trait]
pub(crate) trait EventWriter: Send + Sync {
    /// Writes events, all or none, and returns them as stored, in the order given. An id that already exists returns its
    /// stored event, if the content is the same.
    async fn insert(&self, events: Vec<NewEvent>) -> Result<Vec<OutboxEvent>, PublishError>;

    /// Writes independent events: if the id of one belongs to another event, the others are still written.
    async fn insert_each(&self, events: TakeEvents) -> Result<Vec<InsertResult>, NotInserted>;

    /// The reason for which the database refuses these events. `None` if it accepts them, fails for a reason of its own, or
    /// does not answer. Writes nothing.
    async fn refusal(&self, events: Vec<NewEvent>) -> Option<StoreError>;
}

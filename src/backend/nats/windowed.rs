//! Servers without atomic batches: each event by itself, at least once, and once within the stream's duplicate window.

use async_nats::Client;
use async_nats::header::NATS_EXPECTED_STREAM;
use async_trait::async_trait;

use super::batch;
use super::errors::Refusal;
use super::message::Message;
use super::stream::{Stream, WantedStream};
use crate::backend::{BackendError, PublisherBackend};
use crate::event::OutboxEvent;
use crate::settings::ContentMode;

/// How many keys are served concurrently.
const CONCURRENCY: usize = 256;

pub(super) struct Windowed {
    pub(super) client: Client,
    pub(super) wanted: WantedStream,
    pub(super) stream: Stream,
    pub(super) mode: ContentMode,
}

#[async_trait]
impl PublisherBackend for Windowed {
    async fn publish(&self, event: &OutboxEvent) -> Result<(), BackendError> {
        let mut message = Message::new(self.mode, &self.wanted.subject, event).map_err(BackendError::Invalid)?;
        message.headers.insert(NATS_EXPECTED_STREAM, self.wanted.name.as_str());
        if let Some(problem) = self.stream.objection(&message.subject, message.size()) {
            return Err(BackendError::Invalid(problem));
        }
        match batch::store_one(&self.client, message).await {
            // A duplicate is acknowledged as such: the stream has it.
            Ok(_) | Err(Refusal::Duplicate) => Ok(()),
            Err(Refusal::Fenced) => Err(BackendError::Unavailable("JetStream: wrong last sequence".to_owned())),
            Err(Refusal::Unavailable(unavailable)) => Err(unavailable.into()),
        }
    }

    async fn health_check(&self) -> Result<(), BackendError> {
        let info = self.stream.handle.get_info().await;
        info.map(drop).map_err(|error| BackendError::Unavailable(format!("NATS: {error}")))
    }

    fn concurrency(&self) -> usize {
        CONCURRENCY
    }
}

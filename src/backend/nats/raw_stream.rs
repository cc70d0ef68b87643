//! A stream of JetStream without the outbox, for the limit that `outbox bench --backend` measures.

use std::sync::Arc;

use async_nats::Client;
use async_nats::jetstream::Context;

use super::batch;
use super::connection::Address;
use super::errors::Refusal;
use super::message::Message;
use super::stream::WantedStream;
use crate::backend::BackendError;
use crate::event::OutboxEvent;
use crate::settings::{ContentMode, PublisherSettings};

/// A connection to one stream.
pub(crate) struct RawStream {
    client: Client,
    context: Context,
    wanted: WantedStream,
    mode: ContentMode,
}

impl RawStream {
    /// Connects with a publisher's settings, and finds or creates the stream.
    pub(crate) async fn connect(settings: &PublisherSettings) -> Result<Self, BackendError> {
        let wanted = WantedStream::new(settings).map_err(BackendError::Unavailable)?;
        let (client, _) = Address::new(settings).map_err(BackendError::Unavailable)?.connect().await?;
        let context = async_nats::jetstream::new(client.clone());
        wanted.find(&client, &context, true).await?;
        Ok(Self { client, context, wanted, mode: settings.mode })
    }

    /// Stores these events in one atomic batch, without a journal.
    pub(crate) async fn add(&self, events: &[Arc<OutboxEvent>]) -> Result<(), BackendError> {
        let message = |event: &Arc<OutboxEvent>| {
            let mut message = Message::new(self.mode, &self.wanted.subject, event)?;
            // The same events are added again and again.
            message.headers.insert(super::message::MESSAGE_ID, uuid::Uuid::new_v4().to_string());
            Ok(message)
        };
        let messages: Vec<Message> =
            events.iter().map(message).collect::<Result<_, String>>().map_err(BackendError::Invalid)?;
        match batch::store(&self.client, messages).await {
            Ok(_) => Ok(()),
            Err(Refusal::Unavailable(unavailable)) => Err(unavailable.into()),
            Err(Refusal::Fenced | Refusal::Duplicate) => {
                Err(BackendError::Unavailable("JetStream: refused".to_owned()))
            }
        }
    }

    /// Removes the stream.
    pub(crate) async fn remove(&self) -> Result<(), BackendError> {
        let removed = self.context.delete_stream(&self.wanted.name).await;
        removed.map(drop).map_err(|error| BackendError::Unavailable(format!("NATS: {error}")))
    }
}

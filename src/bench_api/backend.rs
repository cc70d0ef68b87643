//! A backend without the outbox: the fastest that its client alone can send.

use std::sync::Arc;

use uuid::Uuid;

use super::RawStream;
use crate::backend::BackendError;
use crate::backend::session::{BackendSession, OutgoingEvent, SendResult};
use crate::event::OutboxEvent;
use crate::settings::PublisherSettings;
use crate::system::Backends;

/// A connection to one backend, for the limit that `outbox bench --backend` measures.
pub struct BackendAlone(Way);

enum Way {
    /// XADD in a pipeline.
    RedisStream(RawStream),
    /// Atomic batches without a journal.
    #[cfg(feature = "nats")]
    Nats(Box<crate::backend::nats::raw_stream::RawStream>),
    /// As a worker sends, in batches.
    Session(Box<dyn BackendSession>),
}

impl BackendAlone {
    /// Connects with a publisher's settings.
    ///
    /// # Errors
    /// If the settings are wrong or the backend does not answer.
    pub async fn connect(settings: &PublisherSettings) -> Result<Self, BackendError> {
        let way = match settings.backend.as_str() {
            "redis_stream" => Way::RedisStream(RawStream::connect(settings).await?),
            #[cfg(feature = "nats")]
            "nats" => Way::Nats(Box::new(crate::backend::nats::raw_stream::RawStream::connect(settings).await?)),
            _ => {
                let made = Backends::default().session("measured", settings, Uuid::now_v7());
                let mut session = made.map_err(|error| BackendError::Unavailable(error.to_string()))?();
                session.open(&[(super::shard(0), 1)]).await?;
                Way::Session(session)
            }
        };
        Ok(Self(way))
    }

    /// Sends these events and waits until the backend has them.
    ///
    /// # Errors
    /// If it does not accept one.
    pub async fn send(&mut self, events: &[Arc<OutboxEvent>]) -> Result<(), BackendError> {
        match &mut self.0 {
            Way::RedisStream(stream) => stream.add(events).await,
            #[cfg(feature = "nats")]
            Way::Nats(stream) => stream.add(events).await,
            Way::Session(session) => {
                let outgoing =
                    |event: &Arc<OutboxEvent>| OutgoingEvent { shard: super::shard(0), event: Arc::clone(event) };
                let batch: Vec<OutgoingEvent> = events.iter().map(outgoing).collect();
                let sent = session.send(&batch).await;
                match sent.answers.iter().find(|answer| **answer != SendResult::Accepted) {
                    None => Ok(()),
                    Some(answer) => {
                        let reason =
                            sent.unavailable.map_or_else(|| format!("{answer:?}"), |unavailable| unavailable.reason);
                        Err(BackendError::Unavailable(reason))
                    }
                }
            }
        }
    }

    /// Removes what the measurement has stored, where that is known.
    ///
    /// # Errors
    /// If the backend does not answer.
    pub async fn remove(&mut self, settings: &PublisherSettings) -> Result<(), BackendError> {
        match &mut self.0 {
            Way::RedisStream(stream) => stream.remove().await,
            #[cfg(feature = "nats")]
            Way::Nats(stream) => stream.remove().await,
            Way::Session(_) if settings.backend == "redis_list" => RawStream::connect(settings).await?.remove().await,
            Way::Session(_) => Ok(()),
        }
    }
}

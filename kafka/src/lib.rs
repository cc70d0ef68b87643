//! The Kafka backend of [actix-outbox](actix_outbox): an idempotent producer by librdkafka, at least once and in order of each
//! key.
//!
//! [`register`] makes `backend = "kafka"` known to a builder, of a system or of a program with the commands of `outbox`:
//! `actix_outbox_cli::run(actix_outbox_kafka::register(OutboxSystem::builder(Settings::default())))`.

mod config;
mod errors;
mod record;
mod sending;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_outbox::{BackendError, Builder, OutboxEvent, PublisherBackend, PublisherSettings};
use async_trait::async_trait;
use rdkafka::metadata::Metadata;
use rdkafka::producer::Producer;

use self::config::{Client, Config};

/// Registers the kind `kafka`, for `backend = "kafka"` in `[publishers.*]`.
#[must_use]
pub fn register(builder: Builder) -> Builder {
    builder.backend("kafka", Kafka::new)
}

/// Produces each event as a record.
pub struct Kafka {
    config: Config,
    /// Made when it is first needed, and again after a fatal error.
    client: Mutex<Option<Client>>,
}

impl Kafka {
    /// A backend with the settings of a publisher.
    ///
    /// # Errors
    /// The setting that cannot be used.
    pub fn new(settings: &PublisherSettings) -> Result<Self, String> {
        Ok(Self { config: Config::new(settings)?, client: Mutex::default() })
    }

    /// The client, or a new one.
    async fn client(&self) -> Result<Client, BackendError> {
        if let Some(client) = self.current() {
            return Ok(client);
        }
        let config = self.config.clone();
        let made = tokio::task::spawn_blocking(move || config.client()).await;
        let made = made.unwrap_or_else(|error| Err(error.to_string())).map_err(BackendError::Unavailable)?;
        let mut slot = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(slot.insert(made).clone())
    }

    fn current(&self) -> Option<Client> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Drops a client that can produce nothing more.
    async fn discard(&self, client: Client) {
        let kept = self.client.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Waits for librdkafka's threads.
        let _ = tokio::task::spawn_blocking(move || drop((kept, client))).await;
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        if let Some(client) = self.client.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            std::thread::spawn(move || drop(client));
        }
    }
}

#[async_trait]
impl PublisherBackend for Kafka {
    async fn publish(&self, event: &OutboxEvent) -> Result<(), BackendError> {
        let sent = self.send_batch(&[Arc::new(event.clone())]).await.pop().flatten();
        sent.unwrap_or_else(|| Err(BackendError::Unavailable("it was not sent".to_owned())))
    }

    async fn publish_batch(&self, events: &[Arc<OutboxEvent>]) -> Vec<Option<Result<(), BackendError>>> {
        self.send_batch(events).await
    }

    /// Asks for the topic, or for any broker if each event has its own topic.
    async fn health_check(&self) -> Result<(), BackendError> {
        let client = self.client().await?;
        let (topic, limit) = (self.config.fixed_topic().map(str::to_owned), self.config.reply_timeout);
        let asking = client.producer.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let metadata = asking.client().fetch_metadata(topic.as_deref(), limit);
            // Another one's error is not this publisher's.
            let asked = |all: &Metadata| topic.as_ref().and_then(|_| all.topics().first()?.error());
            metadata.map(|all| asked(&all).map(Into::into))
        });
        let reason = match asked.await {
            Ok(Ok(None)) => return Ok(()),
            Ok(Ok(Some(code))) => errors::of_topic(code, self.config.topic()),
            Ok(Err(error)) => errors::explain(&error, client.context.last_error()),
            Err(error) => error.to_string(),
        };
        Err(BackendError::Unavailable(reason))
    }

    /// Longer than the limits inside, whose errors say more.
    fn timeout(&self) -> Duration {
        self.config.delivery_timeout() * 2
    }

    /// Records of all keys are on their way at the same time.
    fn concurrency(&self) -> usize {
        usize::MAX
    }
}

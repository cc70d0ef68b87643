//! A transactional outbox. An application writes events into a table in its own database transaction; a worker publishes the
//! committed events to Redis Streams or NATS JetStream, once and in order per key, or to webhooks, RabbitMQ or Kafka.
//!
//! | to | use |
//! |---|---|
//! | write an event in a transaction | [`publish()`], [`publish_many`], [`blocking`], [`Outbox::transaction`], [`Outbox::send`], with a [`NewEvent`] |
//! | run a worker in an application | [`OutboxSystem`] with [`Settings`] |
//! | receive events in an actor | [`Subscribe`], [`HandleEvent`], [`HandleTyped`], [`HandlerError`] |
//! | send events elsewhere | [`PublisherBackend`] |
//! | list, explain, retry and replay events | [`OutboxAdmin`] |
//! | consume a stream in another service | `OutboxConsumer`, and `inbox` for once in effect, with the features `consumer` and `inbox` |
//! | test an application | `testing`, with the feature `testing` |
//!
//! ```no_run
//! use actix::prelude::*;
//! use actix_outbox::{HandleEvent, HandlerError, LoadOptions, NewEvent, OutboxSystem, Settings, Subscribe};
//!
//! struct Mailer;
//!
//! impl Actor for Mailer {
//!     type Context = Context<Self>;
//! }
//!
//! impl Handler<HandleEvent> for Mailer {
//!     type Result = Result<(), HandlerError>;
//!
//!     fn handle(&mut self, message: HandleEvent, _: &mut Self::Context) -> Self::Result {
//!         println!("{} {}", message.event.event_type, message.event.id);
//!         Ok(())
//!     }
//! }
//!
//! #[actix::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let settings = Settings::load(&LoadOptions::from_process())?; // outbox.toml, and the environment over it
//!     let mailer = Subscribe::new("mailer", "user.*", Mailer.start().recipient());
//!     let outbox = OutboxSystem::builder(settings).migrate(true).subscribe(mailer).start().await?;
//!     outbox.send(NewEvent::new("user.created", "user-service").subject("Ada")).await?;
//!     tokio::signal::ctrl_c().await?;
//!     outbox.shutdown().await?;
//!     Ok(())
//! }
//! ```
//!
//! The book is in the folder `docs` of the source: begin with its `getting-started.md`.
//!
//! # Layout
//!
//! The stages in the order in which an event passes them; folders and files are named after them.
//!
//! 1. An application makes a [`NewEvent`]; [`publish()`], [`publish_many`], [`blocking`] and [`Outbox::send`] check
//!    it and write it into the table (`publish`, `store`).
//! 2. [`OutboxSystem`] receives messages; a supervisor starts and replaces the actors below (`system`).
//! 3. The lease keeper holds this worker's share of the shards, by a heartbeat on a thread of its own.
//! 4. The poller fetches due events of those shards, from a cursor, up to the publishers' credit.
//! 5. A publisher for each named backend limits the rate, keeps the session and the breaker, and sends batches.
//! 6. A backend receives them: Redis, JetStream, webhooks, RabbitMQ, a file, the handlers alone, or a [`PublisherBackend`] of
//!    the application's own (`backend`).
//! 7. The registry passes what the backend accepted to the handler actors that [`Subscribe`] named, as [`HandleEvent`].
//! 8. The completer records what is done, many events in one UPDATE.
//! 9. The retry actor records rejections: a retry after [`RetryBackoff`], or the final failure.
//! 10. The janitor deletes events that are older than [`RetentionSettings`] keep.
//!
//! In addition, [`Outbox::explain`] says why an event has not been sent, and [`OutboxAdmin`] lists, retries, fails and
//! replays events (`admin`). The modules `actix_web` and `testing` are for applications and their tests.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says by a panic that it failed"))]

#[cfg(not(any(feature = "mysql", feature = "postgres", feature = "sqlite")))]
compile_error!("an outbox needs a database: turn on the feature `postgres`, `mysql`, `sqlite` or `sqlite-bundled`");

#[cfg(feature = "actix-web")]
pub mod actix_web;
pub mod admin;
mod backend;
mod backoff;
#[cfg(feature = "bench-api")]
#[doc(hidden)]
#[allow(missing_debug_implementations, reason = "no program prints what benches use")]
pub mod bench_api;
pub mod blocking;
mod clock;
mod cloud_event;
#[cfg(feature = "consumer")]
mod consumer;
mod error;
mod event;
mod fault_injection;
#[cfg(any(test, feature = "bench-api", feature = "unstable-sessions"))]
mod fixtures;
mod handlers;
#[cfg(feature = "inbox")]
pub mod inbox;
pub mod metrics;
mod opaque_debug;
mod publish;
mod runtime;
#[cfg(feature = "unstable-sessions")]
pub mod sessions;
mod settings;
mod store;
mod system;
#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod test_support;
#[cfg(feature = "testing")]
pub mod testing;
mod trace;
mod transaction;

pub use admin::{Explanation, OutboxAdmin, Reason};
pub use backend::{BackendError, DEFAULT_CONCURRENCY, DEFAULT_TIMEOUT, PublisherBackend};
pub use cloud_event::CLOUD_EVENT_NAMESPACE;
#[cfg(all(feature = "consumer", feature = "http-backend"))]
pub use consumer::WebhookHandler;
#[cfg(feature = "consumer")]
pub use consumer::{
    ConsumerBuilder, ConsumerHealth, ConsumerStatus, DeadLetters, LetterAction, LetterFacts, LetterId, LettersChanged,
    OutboxConsumer, StreamStatus, StreamTail,
};
pub use error::{IdConflict, InvalidEvent, PublishError, SettingsError, StoreError, SystemError};
pub use event::{DataError, JsonText, OutboxEvent, Status, TypedEvent};
pub use handlers::{Attempt, EventTypes, HandleEvent, HandleTyped, HandlerError, Subscribe};
#[cfg(feature = "mysql-async")]
pub use publish::adapters::mysql_async;
#[cfg(feature = "rusqlite")]
pub use publish::adapters::rusqlite;
#[cfg(feature = "sea-orm-1")]
pub use publish::adapters::sea_orm_1;
#[cfg(feature = "sea-orm-2")]
pub use publish::adapters::sea_orm_2;
#[cfg(feature = "sqlx-0_8")]
pub use publish::adapters::sqlx_0_8;
#[cfg(feature = "sqlx-0_9")]
pub use publish::adapters::sqlx_0_9;
#[cfg(feature = "tokio-postgres")]
pub use publish::adapters::tokio_postgres;
pub use publish::{
    DEFAULT_MAX_EVENT_BYTES, Dialect, NewEvent, OutboxDatabase, PreparedEvent, PublishEvent, publish, publish_many,
};
pub use settings::{
    ConsumerSettings, ContentMode, DURATION_FORMATS, DatabaseSettings, LoadOptions, OnFailed, PublisherSettings,
    RateLimit, RetentionSettings, RetryBackoff, Route, SaslSettings, Secret, SecretError, SentinelSettings, Settings,
    StartAt, TlsSettings, WaitReplicas, WebSettings, WebUser, WorkerSettings, parse_duration,
};
pub use store::OutboxConnection;
#[cfg(feature = "fault-injection")]
pub use system::Panic;
pub use system::{ActorKind, Builder, Drained, Health, HealthReport, Outbox, OutboxSystem, Shutdown};
pub use transaction::{Rollback, TransactionError};

/// The Rust code of the README and the book.
#[cfg(doctest)]
mod chapters {
    #[cfg(all(feature = "actix-web", feature = "postgres"))]
    #[doc = include_str!("../README.md")]
    mod readme {}
    #[doc = include_str!("../docs/publishing.md")]
    mod publishing {}
    #[doc = include_str!("../docs/handlers.md")]
    mod handlers {}
    #[doc = include_str!("../docs/backends.md")]
    mod backends {}
    #[cfg(feature = "unstable-sessions")]
    #[doc = include_str!("../docs/sessions.md")]
    mod sessions {}
    #[cfg(feature = "consumer")]
    #[doc = include_str!("../docs/consumers.md")]
    mod consumers {}
    #[doc = include_str!("../docs/consuming.md")]
    mod consuming {}
    #[doc = include_str!("../docs/webhooks.md")]
    mod webhooks {}
    #[doc = include_str!("../docs/getting-started.md")]
    mod getting_started {}
    #[doc = include_str!("../docs/observability.md")]
    mod observability {}
}

#![doc = include_str!("../README.md")]
#![cfg_attr(not(feature = "cli"), allow(dead_code, reason = "what only the command line asks of the store"))]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says by a panic that it failed"))]

#[cfg(not(any(feature = "postgres", feature = "sqlite")))]
compile_error!("an outbox needs a database: turn on the feature `postgres`, `sqlite` or `sqlite-bundled`");

mod backend;
mod backoff;
pub mod blocking;
#[cfg(feature = "cli")]
pub mod cli;
mod cloud_event;
mod error;
mod event;
mod publish;
#[cfg(test)]
mod sample;
mod settings;
mod store;
mod system;
#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod test_support;

pub use backend::{BackendError, DEFAULT_CONCURRENCY, DEFAULT_TIMEOUT, PublisherBackend};
pub use error::{InvalidEvent, PublishError, SettingsError, StoreError, SystemError};
pub use event::{JsonText, OutboxEvent, Status};
pub use publish::{
    CLOUD_EVENT_NAMESPACE, DEFAULT_MAX_EVENT_BYTES, NewEvent, OutboxDatabase, PublishEvent, publish, publish_many,
};
pub use settings::{
    DatabaseSettings, LoadOptions, OnFailed, PublisherSettings, RateLimit, RetentionSettings, RetryBackoff, Secret,
    Settings, WorkerSettings,
};
#[cfg(feature = "fault-injection")]
pub use system::Panic;
pub use system::{
    ActorKind, Builder, EventTypes, HandleEvent, HandlerError, Health, HealthReport, Outbox, OutboxSystem, Shutdown,
    Subscribe,
};

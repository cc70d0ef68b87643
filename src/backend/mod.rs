//! Backends: the [`PublisherBackend`] trait and the backends that come with the library.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, StreamExt};

use crate::event::OutboxEvent;

#[cfg(feature = "consumer")]
pub(crate) mod event_source;
pub(crate) mod guarded;
#[cfg(feature = "http-backend")]
mod http;
#[cfg_attr(not(feature = "unstable-sessions"), allow(unreachable_pub, reason = "public with the sessions"))]
pub(crate) mod inspection;
#[cfg(any(feature = "redis", feature = "nats"))]
pub(crate) mod journal;
mod jsonl;
mod local;
#[cfg(feature = "nats")]
pub(crate) mod nats;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
#[cfg(feature = "redis")]
pub(crate) mod redis;
#[cfg_attr(not(feature = "unstable-sessions"), allow(unreachable_pub, reason = "public with the sessions"))]
#[cfg_attr(
    not(any(feature = "redis", feature = "nats", feature = "unstable-sessions")),
    allow(dead_code, reason = "only backends with a journal use all of it")
)]
pub(crate) mod session;
#[cfg(any(feature = "http-backend", feature = "nats", feature = "rabbitmq"))]
mod tls;

#[cfg(feature = "http-backend")]
pub(crate) use http::Http;
#[cfg(all(feature = "http-backend", feature = "consumer"))]
pub(crate) use http::NotAccepted;
pub(crate) use jsonl::Jsonl;
pub(crate) use local::Local;
#[cfg(feature = "nats")]
pub(crate) use nats::Nats;
#[cfg(feature = "rabbitmq")]
pub(crate) use rabbitmq::RabbitMq;
#[cfg(feature = "redis")]
pub(crate) use redis::RedisStream;

/// How many keys [`PublisherBackend::publish_batch`] serves concurrently unless a backend says otherwise.
pub const DEFAULT_CONCURRENCY: usize = 16;

/// How long one event may take unless a backend says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// The error of a backend that did not accept an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The backend cannot accept any event now. The worker pauses it and tries again; no retry is spent.
    #[error("backend unavailable: {0}")]
    Unavailable(String),
    /// The backend rejected this event. It is retried with backoff until its retries are spent.
    #[error("event rejected: {0}")]
    Rejected(String),
    /// The backend rejected this event and knows when it may accept it. A retry is spent, and the next try is after this
    /// time instead of the backoff.
    #[error("event rejected for {delay:?}: {reason}")]
    RejectedFor {
        /// The reason, without secrets or payload.
        reason: String,
        /// The time until the next try; ten years at most.
        delay: Duration,
    },
    /// The part of the backend that this event is for is unavailable, such as one of many hosts. The event waits for this time,
    /// no retry is spent, and other events continue.
    #[error("unavailable for this event, for {delay:?}: {reason}")]
    Deferred {
        /// The reason, without secrets or payload.
        reason: String,
        /// The time until the next try; ten years at most.
        delay: Duration,
    },
    /// The host that this event is for is gone: it will never accept an event. This one becomes `failed` immediately, and the
    /// host is paused until an operator resumes it.
    #[error("{host} is gone: {reason}")]
    Gone {
        /// The host.
        host: String,
        /// The reason, without secrets or payload.
        reason: String,
    },
    /// The backend will never accept this event. It becomes `failed` immediately.
    #[error("event rejected permanently: {0}")]
    Invalid(String),
}

impl BackendError {
    /// Whether the backend as a whole is unavailable, as opposed to an event that was rejected.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// A destination of events. Implement it and register it by name to send events anywhere.
///
/// Each event arrives at least once, with an id that stays the same, and events of one partition key arrive in order. Calls
/// run on the outbox's own tokio runtime. A call that takes longer than [`timeout`](Self::timeout) is dropped and counts as
/// [`BackendError::Unavailable`]; if a call blocks its thread, no other is made until it has returned.
///
/// A panic of [`publish`](Self::publish) counts as [`BackendError::Rejected`]; one of a
/// [`publish_batch`](Self::publish_batch) of your own, of [`health_check`](Self::health_check) or of anything else counts as
/// [`BackendError::Unavailable`]. Its message is kept as the reason.
#[async_trait]
pub trait PublisherBackend: Send + Sync + 'static {
    /// Publishes one event.
    ///
    /// # Errors
    /// The error decides what happens next: see [`BackendError`].
    async fn publish(&self, event: &OutboxEvent) -> Result<(), BackendError>;

    /// Publishes several events and returns a result for each, in the order given.
    ///
    /// The default sends one key's events one after the other, stopping at the key's first failure, and different keys
    /// concurrently, at most [`concurrency`](Self::concurrency) of them. `None` means that an event was not tried, because
    /// an earlier one of its key failed or the backend became unavailable; so does a result that is missing at the end.
    ///
    /// The whole batch may take [`timeout`](Self::timeout) once for every [`concurrency`](Self::concurrency) of its events
    /// and once more. After that, the outcome of its events is unknown, and they are sent again.
    async fn publish_batch(&self, events: &[Arc<OutboxEvent>]) -> Vec<Option<Result<(), BackendError>>> {
        publish_by_key(self, events).await
    }

    /// Checks whether the backend can accept events now; called before the first event of a share, after it was unavailable,
    /// and every two seconds while nothing is sent.
    ///
    /// After publishing has failed, success only allows one event to be tried: the outage is over when an event is accepted.
    ///
    /// # Errors
    /// Any error means that the backend cannot accept events, and is shown as the reason.
    async fn health_check(&self) -> Result<(), BackendError>;

    /// The longest that one event may take; 5 seconds unless a backend says otherwise.
    fn timeout(&self) -> Duration {
        DEFAULT_TIMEOUT
    }

    /// Learns which of its hosts are paused, by an operator or since they were [`BackendError::Gone`]. A backend that leads to
    /// many hosts answers [`BackendError::Deferred`] for their events. Called before each batch.
    fn set_paused_hosts(&self, _hosts: &[String]) {}

    /// How many keys the default [`publish_batch`](Self::publish_batch) serves concurrently; [`DEFAULT_CONCURRENCY`] unless
    /// a backend says otherwise.
    fn concurrency(&self) -> usize {
        DEFAULT_CONCURRENCY
    }
}

async fn publish_by_key<B: PublisherBackend + ?Sized>(
    backend: &B,
    events: &[Arc<OutboxEvent>],
) -> Vec<Option<Result<(), BackendError>>> {
    let results = stream::iter(chains(events))
        .map(|chain| async move {
            let mut answers = Vec::with_capacity(chain.len());
            for index in chain {
                let answer = publish_one(backend, &events[index]).await;
                let failed = answer.is_err();
                answers.push((index, answer));
                if failed {
                    break;
                }
            }
            answers
        })
        .buffer_unordered(backend.concurrency().max(1))
        .collect::<Vec<_>>()
        .await;
    let mut out = vec![None; events.len()];
    for (index, answer) in results.into_iter().flatten() {
        out[index] = Some(answer);
    }
    out
}

/// Publishes one event. A panic says nothing about the other events: it is this event's rejection.
async fn publish_one<B: PublisherBackend + ?Sized>(backend: &B, event: &OutboxEvent) -> Result<(), BackendError> {
    let limit = backend.timeout();
    match tokio::time::timeout(limit, guarded::catch(async { backend.publish(event).await })).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(panic)) => Err(BackendError::Rejected(panic)),
        Err(_) => Err(BackendError::Unavailable(format!("no answer within {limit:?}"))),
    }
}

/// The positions of each key's events, in order; an event without a key is a chain of its own.
fn chains(events: &[Arc<OutboxEvent>]) -> Vec<Vec<usize>> {
    let mut by_key: HashMap<&str, usize> = HashMap::new();
    let mut chains: Vec<Vec<usize>> = Vec::new();
    for (index, event) in events.iter().enumerate() {
        if event.partition_key.is_empty() {
            chains.push(vec![index]);
            continue;
        }
        let chain = *by_key.entry(&event.partition_key).or_insert(chains.len());
        if chain == chains.len() {
            chains.push(Vec::new());
        }
        chains[chain].push(index);
    }
    chains
}

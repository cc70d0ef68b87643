//! Where events go: the [`PublisherBackend`] trait and the backends that come with the library.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, StreamExt};

use crate::event::OutboxEvent;

pub(crate) mod guarded;
mod jsonl;
mod local;
#[cfg(feature = "redis")]
pub(crate) mod redis_stream;
pub(crate) mod session;

pub(crate) use jsonl::Jsonl;
pub(crate) use local::Local;

/// How many keys [`PublisherBackend::publish_batch`] serves side by side unless a backend says otherwise.
pub const DEFAULT_CONCURRENCY: usize = 16;

/// How long one event may take unless a backend says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a backend did not take an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The backend cannot take any event now. The worker pauses it and tries again; no retry is spent.
    #[error("backend unavailable: {0}")]
    Unavailable(String),
    /// The backend refused this event. It is tried again with backoff until its retries are spent.
    #[error("event rejected: {0}")]
    Rejected(String),
    /// The backend will never take this event. It becomes `failed` at once.
    #[error("event rejected for good: {0}")]
    Invalid(String),
}

impl BackendError {
    /// The backend as a whole is away, not this event refused.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// A place that events are published to. Implement it and register it by name to send events anywhere.
///
/// Each event arrives at least once, with an id that stays the same, and events of one partition key
/// arrive in their order. Calls run on the outbox's own tokio runtime. One that takes longer than
/// [`timeout`](Self::timeout) is dropped and counts as [`BackendError::Unavailable`]; until a call that blocks its thread has
/// returned, no other is made.
///
/// A panic of [`publish`](Self::publish) counts as [`BackendError::Rejected`]; one of a
/// [`publish_batch`](Self::publish_batch) of your own, of [`health_check`](Self::health_check) or of anything else counts as
/// [`BackendError::Unavailable`]. Its message is kept as the reason.
#[async_trait]
pub trait PublisherBackend: Send + Sync + 'static {
    /// Publishes one event.
    ///
    /// # Errors
    /// The error decides what follows: see [`BackendError`].
    async fn publish(&self, event: &OutboxEvent) -> Result<(), BackendError>;

    /// Publishes several events and answers for each, in the order given.
    ///
    /// The default sends one key's events one after the other, stopping at the key's first failure, and different keys
    /// side by side, at most [`concurrency`](Self::concurrency) at once. `None` says that an event was not tried, because
    /// an earlier one of its key failed or the backend became unavailable; so does an answer that is missing at the end.
    ///
    /// The whole batch may take [`timeout`](Self::timeout) once for every [`concurrency`](Self::concurrency) of its events
    /// and once more. After that, what became of its events is not known, and they are sent again.
    async fn publish_batch(&self, events: &[Arc<OutboxEvent>]) -> Vec<Option<Result<(), BackendError>>> {
        publish_by_key(self, events).await
    }

    /// Whether the backend can take events now; asked before the first event of a share, after it was unavailable, and
    /// every two seconds while nothing is sent.
    ///
    /// After publishing had failed, it only says that an event may be tried: the outage is over when one is accepted.
    ///
    /// # Errors
    /// Any error says that it cannot, and is shown as the reason.
    async fn health_check(&self) -> Result<(), BackendError>;

    /// The longest that one event may take; 5 seconds unless a backend says otherwise.
    fn timeout(&self) -> Duration {
        DEFAULT_TIMEOUT
    }

    /// How many keys the default [`publish_batch`](Self::publish_batch) serves side by side;
    /// [`DEFAULT_CONCURRENCY`] unless a backend says otherwise.
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

/// A panic over one event says nothing of the others: it is that event's rejection.
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

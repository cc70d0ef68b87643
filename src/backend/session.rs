//! A session: one connection's life with a backend. Shards are opened, then batches are sent under them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::Instrument;
use uuid::Uuid;

use super::{BackendError, PublisherBackend};
use crate::event::OutboxEvent;
use crate::store::Shard;

/// What opening found.
#[derive(Debug, Default)]
pub(crate) struct ShardsOpened {
    /// Shards under which a newer token stands, with its lease epoch.
    pub(crate) refused: Vec<(Shard, i64)>,
    /// What earlier sessions sent: accepted by the backend, perhaps not yet recorded in the database.
    pub(crate) sent: Vec<(Shard, Uuid, i64)>,
}

/// One event of a batch.
#[derive(Debug, Clone)]
pub(crate) struct OutgoingEvent {
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "only a journal is kept by shard"))]
    pub(crate) shard: Shard,
    pub(crate) event: Arc<OutboxEvent>,
}

/// What became of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SendResult {
    Accepted,
    /// The backend refused this event.
    Rejected(String),
    /// No backend can take this event.
    Invalid(String),
    /// It was not sent, or its fate is not known: what the next open finds decides.
    NotSent,
}

/// Why a backend takes nothing now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("backend unavailable: {reason}")]
pub(crate) struct Unavailable {
    pub(crate) reason: String,
    /// The backend answered and named a state of its own, such as having no memory left: no event is the cause.
    pub(crate) is_its_state: bool,
}

impl Unavailable {
    /// An event that was on its way may be the cause.
    pub(crate) fn perhaps_by_an_event(reason: String) -> Self {
        Self { reason, is_its_state: false }
    }
}

impl From<BackendError> for Unavailable {
    fn from(error: BackendError) -> Self {
        let (BackendError::Unavailable(reason) | BackendError::Rejected(reason) | BackendError::Invalid(reason)) =
            error;
        Self::perhaps_by_an_event(reason)
    }
}

impl From<Unavailable> for BackendError {
    fn from(unavailable: Unavailable) -> Self {
        Self::Unavailable(unavailable.reason)
    }
}

/// What became of a batch.
#[derive(Debug)]
pub(crate) struct BatchResult {
    /// In the batch's order.
    pub(crate) answers: Vec<SendResult>,
    /// The backend is away: pause.
    pub(crate) unavailable: Option<Unavailable>,
    /// Shards that have to be opened again before anything more is sent under them.
    pub(crate) closed: Vec<Shard>,
}

/// One field of what a backend keeps beside the events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JournalEntry {
    pub(crate) outbox: Uuid,
    pub(crate) shard: Shard,
    /// What was sent by (id, seq); none: it is the token of who may send.
    pub(crate) sent: Option<Vec<(Uuid, i64)>>,
    pub(crate) field: String,
    pub(crate) value: Vec<u8>,
}

/// One backend as a publisher actor uses it.
#[async_trait]
pub(crate) trait BackendSession: Send + Sync {
    /// Shuts earlier sessions out of these shards (each with its lease epoch) and reads what they sent.
    async fn open(&mut self, shards: &[(Shard, i64)]) -> Result<ShardsOpened, BackendError>;

    /// Sends a batch under shards that are open.
    async fn send(&mut self, batch: &[OutgoingEvent]) -> BatchResult;

    /// The database has these events: what was kept about them may go, with a later batch or at [`flush`](Self::flush).
    fn settled(&mut self, events: &[(Uuid, i64)]);

    /// Drops what is kept about settled events now.
    async fn flush(&mut self) -> Result<(), BackendError>;

    /// Whether the backend can take events.
    async fn health_check(&mut self) -> Result<(), BackendError>;

    /// Whether a health check that passes shows that events would be taken, and not only that the backend answers.
    fn proves_writing(&self) -> bool {
        false
    }

    /// Whether the backend is still there, asked every few seconds while nothing is sent. After an error the session is
    /// over.
    async fn is_alive(&mut self) -> Result<(), BackendError> {
        self.health_check().await
    }

    /// Everything that is kept beside the events, of whatever outbox.
    async fn entries(&mut self) -> Result<Vec<JournalEntry>, BackendError> {
        Ok(Vec::new())
    }

    /// Removes those of the entries that are still as they were read; returns how many.
    async fn remove(&mut self, _records: &[JournalEntry]) -> Result<usize, BackendError> {
        Ok(0)
    }
}

/// How long a call that was dropped has to return before its thread counts as blocked.
const GRACE: Duration = Duration::from_secs(1);

/// A backend without a journal: at least once.
pub(crate) struct AtLeastOnce {
    backend: Arc<dyn PublisherBackend>,
    /// A call that did not return in time and was told to end.
    overdue: Option<JoinHandle<()>>,
}

impl AtLeastOnce {
    pub(crate) fn new(backend: Arc<dyn PublisherBackend>) -> Self {
        Self { backend, overdue: None }
    }

    /// Calls the backend in a task of its own, so that one which blocks its thread holds up nothing else.
    async fn call<T, F>(
        &mut self,
        limit: Duration,
        call: impl FnOnce(Arc<dyn PublisherBackend>) -> F,
    ) -> Result<T, BackendError>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.wait_for_overdue().await?;
        let (answer, answered) = oneshot::channel();
        let work = call(Arc::clone(&self.backend));
        let mut task = tokio::spawn(async move { drop(answer.send(work.await)) }.in_current_span());
        match tokio::time::timeout(limit, &mut task).await {
            Ok(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Ok(_) => answered.await.map_err(|_| BackendError::Unavailable("the runtime has stopped".to_owned())),
            Err(_) => {
                task.abort();
                self.overdue = Some(task);
                Err(BackendError::Unavailable(format!("no answer within {limit:?}")))
            }
        }
    }

    /// No call begins before the one that was given up is over: at most one thread is blocked, and a key's events cannot
    /// overtake each other.
    async fn wait_for_overdue(&mut self) -> Result<(), BackendError> {
        let Some(mut overdue) = self.overdue.take() else { return Ok(()) };
        if tokio::time::timeout(GRACE, &mut overdue).await.is_ok() {
            return Ok(());
        }
        self.overdue = Some(overdue);
        let reason = "a call took too long and has still not returned: it blocks its thread";
        Err(BackendError::Unavailable(reason.to_owned()))
    }
}

#[async_trait]
impl BackendSession for AtLeastOnce {
    async fn open(&mut self, _shards: &[(Shard, i64)]) -> Result<ShardsOpened, BackendError> {
        self.health_check().await.map(|()| ShardsOpened::default())
    }

    async fn send(&mut self, batch: &[OutgoingEvent]) -> BatchResult {
        let events: Vec<Arc<OutboxEvent>> = batch.iter().map(|event| Arc::clone(&event.event)).collect();
        // Default batches bound each event, and a key's events go one after the other; this bounds a batch form that a
        // backend brings itself, and must not cut off a default one that is slow but answers.
        let longest = super::chains(&events).iter().map(Vec::len).max().unwrap_or(0);
        let rounds =
            u32::try_from(events.len().div_ceil(self.backend.concurrency().max(1)) + longest).unwrap_or(u32::MAX);
        let limit = self.backend.timeout().saturating_mul(rounds);
        let count = events.len();
        let sent = self.call(limit, |backend| async move { backend.publish_batch(&events).await }).await;
        let mut unavailable = None;
        let answers = match sent {
            Ok(mut answers) => {
                answers.resize(count, None);
                answers.into_iter().map(|answer| read(answer, &mut unavailable)).collect()
            }
            Err(error) => {
                unavailable = Some(error.into());
                vec![SendResult::NotSent; count]
            }
        };
        BatchResult { answers, unavailable, closed: Vec::new() }
    }

    fn settled(&mut self, _events: &[(Uuid, i64)]) {}

    async fn flush(&mut self) -> Result<(), BackendError> {
        Ok(())
    }

    async fn health_check(&mut self) -> Result<(), BackendError> {
        let limit = self.backend.timeout();
        self.call(limit, |backend| async move { backend.health_check().await }).await?
    }
}

fn read(answer: Option<Result<(), BackendError>>, unavailable: &mut Option<Unavailable>) -> SendResult {
    match answer {
        None => SendResult::NotSent,
        Some(Ok(())) => SendResult::Accepted,
        Some(Err(BackendError::Rejected(reason))) => SendResult::Rejected(reason),
        Some(Err(BackendError::Invalid(reason))) => SendResult::Invalid(reason),
        Some(Err(BackendError::Unavailable(reason))) => {
            unavailable.get_or_insert_with(|| Unavailable::perhaps_by_an_event(reason));
            SendResult::NotSent
        }
    }
}

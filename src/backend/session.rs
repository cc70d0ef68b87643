//! A session: the lifetime of one connection to a backend. Shards are opened, then batches are sent under them.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::Instrument;
use uuid::Uuid;

use super::inspection::BackendFacts;
use super::{BackendError, PublisherBackend};
use crate::event::OutboxEvent;
use crate::store::Shard;

/// The result of [`BackendSession::open`].
#[derive(Debug, Default)]
pub struct ShardsOpened {
    /// Refused shards, each with the lease epoch of the newer token that the backend has.
    pub refused: Vec<(Shard, i64)>,
    /// The journal of the opened shards: events that sessions have sent, by id and `seq`, and that the database may not have
    /// as sent.
    pub sent: Vec<(Shard, Uuid, i64)>,
}

/// One event of a batch.
#[derive(Debug, Clone)]
pub struct OutgoingEvent {
    /// The shard under which it is sent.
    pub shard: Shard,
    /// The event.
    pub event: Arc<OutboxEvent>,
}

/// The outcome of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendResult {
    /// The backend has it.
    Accepted,
    /// The backend rejected this event.
    Rejected(String),
    /// The backend rejected this event and may accept it after this time.
    RejectedFor(String, Duration),
    /// The part of the backend that it is for is unavailable for this time.
    Deferred(String, Duration),
    /// The host that it is for is gone.
    Gone {
        /// The host.
        host: String,
        /// The reason, without secrets or payload.
        reason: String,
    },
    /// The backend will never accept this event.
    Invalid(String),
    /// It was not sent, or its outcome is unknown: the result of the next open decides.
    NotSent,
}

/// The reason why a backend accepts nothing now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("backend unavailable: {reason}")]
pub struct Unavailable {
    /// The reason, without secrets or payload.
    pub reason: String,
    /// The backend answered and named a state of its own, such as having no memory left: no event is the cause.
    pub is_its_state: bool,
}

impl Unavailable {
    /// A failure that an event of the call may have caused.
    #[must_use]
    pub fn perhaps_by_an_event(reason: String) -> Self {
        Self { reason, is_its_state: false }
    }
}

impl From<BackendError> for Unavailable {
    fn from(error: BackendError) -> Self {
        let (BackendError::Unavailable(reason)
        | BackendError::Rejected(reason)
        | BackendError::RejectedFor { reason, .. }
        | BackendError::Deferred { reason, .. }
        | BackendError::Gone { reason, .. }
        | BackendError::Invalid(reason)) = error;
        Self::perhaps_by_an_event(reason)
    }
}

impl From<Unavailable> for BackendError {
    fn from(unavailable: Unavailable) -> Self {
        Self::Unavailable(unavailable.reason)
    }
}

/// The outcome of a batch.
#[derive(Debug)]
pub struct BatchResult {
    /// In the batch's order.
    pub answers: Vec<SendResult>,
    /// The backend is unavailable: the publisher pauses.
    pub unavailable: Option<Unavailable>,
    /// Shards that must be opened again before anything more is sent under them.
    pub closed: Vec<Shard>,
}

/// One entry of what a backend stores in addition to the events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEntry {
    /// The outbox that it belongs to.
    pub outbox: Uuid,
    /// The shard that it belongs to.
    pub shard: Shard,
    /// The events that were sent, by id and `seq`; `None`: it is the token of the session that may send.
    pub sent: Option<Vec<(Uuid, i64)>>,
    /// Its name in the backend.
    pub field: String,
    /// What it holds.
    pub value: Vec<u8>,
}

/// One backend as a publisher actor uses it, with a journal: events reach the backend once.
///
/// The workers of an outbox divide each lane into shards. A worker that holds a shard's lease, at an epoch that grows with
/// every change of the holder, *opens* the shard and then sends its events in batches. Any doubt about what the backend did
/// (an answer that is lost or late, a connection that is cut) closes the shards of the batch, and the next open decides.
///
/// What an implementation owes:
///
/// - **Fencing.** After an open has returned, nothing that an earlier session of its shards has sent, or sends later, arrives
///   any more; also not a request that is still on its way. A token is the lease epoch and then a counter that grows with
///   each open of this process; an open under a token that is not newer is refused.
/// - **Atomicity.** An event and its entry in the journal arrive together or not at all.
/// - **The journal.** It names each event that was sent, by id and `seq`, until [`settled`](Self::settled) was called with it,
///   and belongs to the outbox's id. An open returns it as it is at the moment of the fence.
/// - **Order.** Events arrive in the batch's order. An event that is not accepted holds back the later ones of its key in the
///   batch.
/// - **Outcomes.** [`SendResult::Rejected`] and [`SendResult::Invalid`] are for an event that the backend has refused for
///   certain; a failure of the backend is [`Unavailable`], and spends no retry.
/// - **Bounds.** What is stored in addition to the events is bounded by what is in flight. A call ends within its time limit.
///
/// The conformance suite, `session_conformance!`, checks this on a real server. A backend that cannot keep a journal
/// implements [`PublisherBackend`] instead: each event arrives at least once.
#[async_trait]
pub trait BackendSession: Send + Sync {
    /// Fences earlier sessions of these shards (each with its lease epoch) and reads what they sent.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`]; nothing is open then.
    async fn open(&mut self, shards: &[(Shard, i64)]) -> Result<ShardsOpened, BackendError>;

    /// Sends a batch under shards that are open. Those that are not are named as closed, and nothing is sent.
    async fn send(&mut self, batch: &[OutgoingEvent]) -> BatchResult;

    /// Learns which hosts of the backend are paused.
    fn set_paused_hosts(&mut self, _hosts: &[String]) {}

    /// Notes that the database has these events: their journal entries may be removed, with a later batch or by
    /// [`flush`](Self::flush).
    fn settled(&mut self, events: &[(Uuid, i64)]);

    /// Removes journal entries of settled events now.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`].
    async fn flush(&mut self) -> Result<(), BackendError>;

    /// Checks whether the backend can accept events.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`], with the reason.
    async fn health_check(&mut self) -> Result<(), BackendError>;

    /// Whether a successful health check shows that events would be accepted, and not only that the backend answers.
    fn proves_writing(&self) -> bool {
        false
    }

    /// Checks whether the backend still answers, every few seconds while nothing is sent. After an error the session is
    /// over.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`], with the reason.
    async fn is_alive(&mut self) -> Result<(), BackendError> {
        self.health_check().await
    }

    /// What the backend says about itself.
    #[doc(hidden)]
    async fn inspect(&mut self) -> Result<BackendFacts, BackendError> {
        Ok(BackendFacts::default())
    }

    /// The streams, or whatever else it divides events into, that it has sent events to, as far as it knows them.
    async fn streams(&mut self) -> Result<Vec<String>, BackendError> {
        Ok(Vec::new())
    }

    /// Everything that is stored in addition to the events, for any outbox.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`].
    async fn entries(&mut self) -> Result<Vec<JournalEntry>, BackendError> {
        Ok(Vec::new())
    }

    /// Removes entries that are unchanged since they were read; returns how many.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`].
    async fn remove(&mut self, _entries: &[JournalEntry]) -> Result<usize, BackendError> {
        Ok(0)
    }
}

/// The second part of a session's token: the number of the open in this process.
pub fn next_token() -> i64 {
    static COUNTER: AtomicI64 = AtomicI64::new(1);
    COUNTER.fetch_add(1, Ordering::Relaxed)
}

/// A session that could not be made, for this reason.
pub(crate) struct Unmade(pub(crate) String);

impl Unmade {
    fn error<T>(&self) -> Result<T, BackendError> {
        Err(BackendError::Unavailable(self.0.clone()))
    }
}

#[async_trait]
impl BackendSession for Unmade {
    async fn open(&mut self, _shards: &[(Shard, i64)]) -> Result<ShardsOpened, BackendError> {
        self.error()
    }

    async fn send(&mut self, batch: &[OutgoingEvent]) -> BatchResult {
        let unavailable = Some(Unavailable { reason: self.0.clone(), is_its_state: true });
        BatchResult { answers: vec![SendResult::NotSent; batch.len()], unavailable, closed: Vec::new() }
    }

    fn settled(&mut self, _events: &[(Uuid, i64)]) {}

    async fn flush(&mut self) -> Result<(), BackendError> {
        self.error()
    }

    async fn health_check(&mut self) -> Result<(), BackendError> {
        self.error()
    }
}

/// How long a call that was dropped has to return before its thread counts as blocked.
const GRACE: Duration = Duration::from_secs(1);

/// A backend without a journal: at least once.
pub(crate) struct AtLeastOnce {
    backend: Arc<dyn PublisherBackend>,
    /// A call that did not return in time and was cancelled.
    overdue: Option<JoinHandle<()>>,
}

impl AtLeastOnce {
    pub(crate) fn new(backend: Arc<dyn PublisherBackend>) -> Self {
        Self { backend, overdue: None }
    }

    /// Calls the backend in a task of its own, so that a call that blocks its thread holds up nothing else.
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

    /// Waits until a cancelled call is over, before another begins: at most one thread is blocked, and a key's events cannot
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
        // Default batches limit each event, and a key's events go one after the other; this limits a batch method of a
        // backend's own, and must not interrupt a default one that is slow but answers.
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

    fn set_paused_hosts(&mut self, hosts: &[String]) {
        self.backend.set_paused_hosts(hosts);
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
        Some(Err(BackendError::RejectedFor { reason, delay })) => SendResult::RejectedFor(reason, delay),
        Some(Err(BackendError::Deferred { reason, delay })) => SendResult::Deferred(reason, delay),
        Some(Err(BackendError::Gone { host, reason })) => SendResult::Gone { host, reason },
        Some(Err(BackendError::Invalid(reason))) => SendResult::Invalid(reason),
        Some(Err(BackendError::Unavailable(reason))) => {
            unavailable.get_or_insert_with(|| Unavailable::perhaps_by_an_event(reason));
            SendResult::NotSent
        }
    }
}

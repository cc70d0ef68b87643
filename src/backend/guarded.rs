//! A session that survives a panic of its backend.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::FutureExt;
use uuid::Uuid;

use super::BackendError;
use super::inspection::BackendFacts;
use super::session::{BackendSession, BatchResult, JournalEntry, OutgoingEvent, SendResult, ShardsOpened};
use crate::store::Shard;

/// The most characters of a panic's message that are kept.
const MAX_MESSAGE: usize = 500;

/// Makes a publisher's session, at its start and after a panic.
pub(crate) type SessionFactory = Box<dyn Fn() -> Box<dyn BackendSession> + Send + Sync>;

/// A session that treats a panic of the backend as unavailability. Its state may be inconsistent then, so a new session
/// replaces it; its shards are opened again, which fences the old session.
pub(crate) struct Guarded {
    make: Arc<SessionFactory>,
    session: Box<dyn BackendSession>,
}

impl Guarded {
    pub(crate) fn new(make: Arc<SessionFactory>) -> Self {
        let session = make();
        Self { make, session }
    }

    fn replace_after<T>(&mut self, caught: Result<T, String>) -> Result<T, BackendError> {
        caught.map_err(|reason| {
            self.session = (self.make)();
            BackendError::Unavailable(reason)
        })
    }
}

#[async_trait]
impl BackendSession for Guarded {
    async fn open(&mut self, shards: &[(Shard, i64)]) -> Result<ShardsOpened, BackendError> {
        let opened = catch(self.session.open(shards)).await;
        self.replace_after(opened)?
    }

    async fn send(&mut self, batch: &[OutgoingEvent]) -> BatchResult {
        let sent = catch(self.session.send(batch)).await;
        self.replace_after(sent).unwrap_or_else(|error| BatchResult {
            answers: vec![SendResult::NotSent; batch.len()],
            unavailable: Some(error.into()),
            closed: Vec::new(),
        })
    }

    fn set_paused_hosts(&mut self, hosts: &[String]) {
        self.session.set_paused_hosts(hosts);
    }

    fn settled(&mut self, events: &[(Uuid, i64)]) {
        self.session.settled(events);
    }

    async fn flush(&mut self) -> Result<(), BackendError> {
        let flushed = catch(self.session.flush()).await;
        self.replace_after(flushed)?
    }

    async fn health_check(&mut self) -> Result<(), BackendError> {
        let checked = catch(self.session.health_check()).await;
        self.replace_after(checked)?
    }

    fn proves_writing(&self) -> bool {
        self.session.proves_writing()
    }

    async fn is_alive(&mut self) -> Result<(), BackendError> {
        let checked = catch(self.session.is_alive()).await;
        self.replace_after(checked)?
    }

    async fn inspect(&mut self) -> Result<BackendFacts, BackendError> {
        let facts = catch(self.session.inspect()).await;
        self.replace_after(facts)?
    }

    async fn streams(&mut self) -> Result<Vec<String>, BackendError> {
        let streams = catch(self.session.streams()).await;
        self.replace_after(streams)?
    }

    async fn entries(&mut self) -> Result<Vec<JournalEntry>, BackendError> {
        let entries = catch(self.session.entries()).await;
        self.replace_after(entries)?
    }

    async fn remove(&mut self, entries: &[JournalEntry]) -> Result<usize, BackendError> {
        let removed = catch(self.session.remove(entries)).await;
        self.replace_after(removed)?
    }
}

/// Runs foreign code to its end; returns the message if it panics.
pub(super) async fn catch<T>(work: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| describe(&*panic))
}

/// The message of a panic, for operators.
pub(crate) fn describe(panic: &(dyn Any + Send)) -> String {
    let message = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    match message {
        Some(message) => format!("the backend panicked: {}", message.chars().take(MAX_MESSAGE).collect::<String>()),
        None => "the backend panicked".to_owned(),
    }
}

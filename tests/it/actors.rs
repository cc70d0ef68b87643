//! Handler actors and backends with scripted answers, and views of a system inside the test.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::{Actor, AtomicResponse, Context, Handler, ResponseFuture, WrapFuture};
use actix_outbox::{
    BackendError, EventTypes, HandleEvent, HandlerError, NewEvent, OutboxEvent, PublisherBackend, Subscribe,
};
use async_trait::async_trait;
use tokio_postgres::Client;

use crate::support::{PATIENCE, eventually};

/// Retries without a pause, as a line of `[worker]`.
pub(crate) const QUICK_RETRIES: &str = "retry_backoff = { base = \"10ms\", factor = 1, max = \"20ms\", jitter = 0 }\n";

/// An event for tests, identified by its subject.
pub(crate) fn event(subject: &str) -> NewEvent {
    NewEvent::new("thing.happened", "tests").subject(subject)
}

/// A log of what happened, in order.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn add(&self, line: impl Into<String>) {
        self.0.lock().unwrap().push(line.into());
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// The lines that begin with `start`, in order.
    pub(crate) fn of(&self, start: &str) -> Vec<String> {
        self.lines().into_iter().filter(|line| line.starts_with(start)).collect()
    }

    pub(crate) fn count(&self, line: &str) -> usize {
        self.lines().iter().filter(|other| *other == line).count()
    }

    /// Waits until there are this many lines.
    pub(crate) async fn wait(&self, lines: usize) {
        eventually(&format!("{lines} lines are in the log"), PATIENCE, async || self.lines().len() >= lines).await;
    }
}

pub(crate) type Handling = Pin<Box<dyn Future<Output = Result<(), HandlerError>>>>;

/// A handler's immediate answer.
pub(crate) fn answer(result: Result<(), &'static str>) -> Handling {
    Box::pin(std::future::ready(result.map_err(HandlerError::retry)))
}

struct Probe<F>(F);

impl<F: Unpin + 'static> Actor for Probe<F> {
    type Context = Context<Self>;
}

impl<F: FnMut(Arc<OutboxEvent>) -> Handling + Unpin + 'static> Handler<HandleEvent> for Probe<F> {
    type Result = ResponseFuture<Result<(), HandlerError>>;

    fn handle(&mut self, message: HandleEvent, _: &mut Self::Context) -> Self::Result {
        (self.0)(message.event)
    }
}

/// Starts a handler actor and subscribes it.
pub(crate) fn handler(
    name: &str,
    events: impl Into<EventTypes>,
    handle: impl FnMut(Arc<OutboxEvent>) -> Handling + Unpin + 'static,
) -> Subscribe {
    Subscribe::new(name, events, Probe(handle).start().recipient())
}

struct Rejecting(Log);

impl Actor for Rejecting {
    type Context = Context<Self>;
}

impl Handler<HandleEvent> for Rejecting {
    type Result = Result<(), HandlerError>;

    fn handle(&mut self, HandleEvent { attempt, .. }: HandleEvent, _: &mut Self::Context) -> Self::Result {
        self.0.add(format!(
            "{} of {}{}",
            attempt.number,
            attempt.max,
            if attempt.is_last() { ", the last" } else { "" }
        ));
        Err(HandlerError::retry("the mail server is unavailable"))
    }
}

/// Rejects every event and records the numbers of its attempts.
pub(crate) fn rejecting(name: &str, log: &Log) -> Subscribe {
    Subscribe::new(name, EventTypes::All, Rejecting(log.clone()).start().recipient())
}

struct OneByOne<F>(F);

impl<F: Unpin + 'static> Actor for OneByOne<F> {
    type Context = Context<Self>;
}

impl<F: FnMut(Arc<OutboxEvent>) -> Handling + Unpin + 'static> Handler<HandleEvent> for OneByOne<F> {
    type Result = AtomicResponse<Self, Result<(), HandlerError>>;

    fn handle(&mut self, message: HandleEvent, _: &mut Self::Context) -> Self::Result {
        AtomicResponse::new(Box::pin((self.0)(message.event).into_actor(self)))
    }
}

/// Like [`handler`], but the next event waits in the mailbox until the previous one is answered.
pub(crate) fn handler_of_one_at_a_time(
    name: &str,
    events: impl Into<EventTypes>,
    handle: impl FnMut(Arc<OutboxEvent>) -> Handling + Unpin + 'static,
) -> Subscribe {
    Subscribe::new(name, events, OneByOne(handle).start().recipient())
}

/// What a backend does with an event.
pub(crate) enum Reply {
    Accept,
    Refuse(BackendError),
    /// Never answers.
    Hang,
}

/// A backend with scripted answers.
#[derive(Clone)]
pub(crate) struct Scripted {
    reply: Arc<dyn Fn(&OutboxEvent) -> Reply + Send + Sync>,
    timeout: Duration,
}

impl Scripted {
    pub(crate) fn new(reply: impl Fn(&OutboxEvent) -> Reply + Send + Sync + 'static) -> Self {
        Self { reply: Arc::new(reply), timeout: PATIENCE }
    }

    pub(crate) fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }
}

#[async_trait]
impl PublisherBackend for Scripted {
    async fn publish(&self, event: &OutboxEvent) -> Result<(), BackendError> {
        match (self.reply)(event) {
            Reply::Accept => Ok(()),
            Reply::Refuse(error) => Err(error),
            Reply::Hang => std::future::pending().await,
        }
    }

    async fn health_check(&self) -> Result<(), BackendError> {
        Ok(())
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// An event's row.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) status: String,
    pub(crate) retry_count: i32,
    pub(crate) last_error: String,
    /// The number of stored failures.
    pub(crate) errors: i32,
    pub(crate) pending_handlers: Option<String>,
    pub(crate) is_with_the_backend: bool,
}

/// The row of the event with this subject.
pub(crate) async fn row(sql: &Client, subject: &str) -> Row {
    let query = "SELECT status, retry_count, last_error, coalesce(jsonb_array_length(errors), 0),
            pending_handlers::text, published_at IS NOT NULL
        FROM outbox_events WHERE subject = $1";
    let row = sql.query_one(query, &[&subject]).await.unwrap();
    Row {
        status: row.get(0),
        retry_count: row.get(1),
        last_error: row.get(2),
        errors: row.get(3),
        pending_handlers: row.get(4),
        is_with_the_backend: row.get(5),
    }
}

/// Waits until the event with this subject has this status.
pub(crate) async fn wait_status(sql: &Client, subject: &str, status: &str) -> Row {
    let what = format!("{subject} is {status}");
    eventually(&what, PATIENCE, async || row(sql, subject).await.status == status).await;
    row(sql, subject).await
}

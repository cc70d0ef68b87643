//! Connections that are counted, whatever hangs.
//!
//! One that is dropped is open at the server until the server sees that: not before a statement has its lock, and not while
//! the server is frozen. So each holds a permit until it has ended, or until the server has answered something that was
//! sent later: then it is at work, and has seen both the end of this one and the request to cancel its statement.

use std::future::ready;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use diesel_async::AsyncPgConnection;
use diesel_async::pooled_connection::PoolableConnection;
use futures_util::TryStreamExt;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio_postgres::error::Severity;
use tokio_postgres::{AsyncMessage, CancelToken, Client};

use super::Result;
use super::connect::{CONNECT_LIMIT, Messages, Target};
use super::index_plans::PlannerOptions;
use crate::error::StoreError;

/// How soon a statement ends that was cancelled, at a server that is at work.
const CANCELLED_LIMIT: Duration = Duration::from_secs(1);

/// Requests to cancel one statement, each of which may get lost.
const CANCELS: usize = 3;

/// Who makes connections for one purpose, and how many may be open.
pub(super) struct Connections {
    pub(super) target: Arc<Target>,
    permits: Arc<Semaphore>,
    planner: Option<PlannerOptions>,
}

/// A connection that nobody reads yet.
pub(super) struct Opened {
    pub(super) client: Client,
    pub(super) messages: Messages,
    pub(super) index_plans: bool,
    pub(super) permit: ConnectionPermit,
}

/// Whether the server has warned of something. A commit whose wait for a standby is cancelled is a success with a warning.
#[derive(Clone, Default)]
pub(super) struct Warned(Arc<AtomicBool>);

impl Warned {
    /// Reads what the server says until the connection ends. A warning is read before the answer that follows it.
    pub(super) async fn read(self, messages: Messages) {
        let read = messages.try_for_each(|message| {
            self.0.fetch_or(is_warning(&message), Ordering::AcqRel);
            ready(Ok(()))
        });
        let _ = read.await;
    }

    pub(super) fn forget(&self) {
        self.0.store(false, Ordering::Release);
    }

    /// An error where the statement since [`forget`](Self::forget) was committed without waiting for a standby.
    pub(super) fn check(&self, operation: &'static str) -> Result<()> {
        if !self.0.load(Ordering::Acquire) {
            return Ok(());
        }
        let reason = "committed, but the server did not wait for its synchronous standby".to_owned();
        Err(StoreError::Query { operation, transient: true, reason })
    }
}

/// A user's trigger may raise warnings of its own.
fn is_warning(message: &AsyncMessage) -> bool {
    const RAISED_IN_PLPGSQL: &str = "exec_stmt_raise";
    matches!(message, AsyncMessage::Notice(notice)
        if notice.parsed_severity() == Some(Severity::Warning) && notice.routine() != Some(RAISED_IN_PLPGSQL))
}

/// The right to one connection.
pub(super) struct ConnectionPermit {
    target: Arc<Target>,
    held: Option<OwnedSemaphorePermit>,
}

impl Connections {
    pub(super) fn new(target: &Arc<Target>, most: usize) -> Self {
        Self { target: Arc::clone(target), permits: Arc::new(Semaphore::new(most)), planner: None }
    }

    /// For statements that are cached; see `index_plans`.
    pub(super) fn with_planner_options(target: &Arc<Target>, most: usize, planner: PlannerOptions) -> Self {
        Self { planner: Some(planner), ..Self::new(target, most) }
    }

    /// Whether a connection was made while options did not reach the server, and they may by now.
    pub(super) fn is_outdated(&self, can_cache_statements: bool) -> bool {
        self.planner.is_some() && !can_cache_statements && self.target.tries_index_plans()
    }

    /// A connection whose driver runs as a task of the current runtime.
    pub(super) async fn connect(&self) -> Result<Connection> {
        self.open().await.map(Connection::new)
    }

    /// What was begun goes on when nobody waits for it any more: another at its side would be one too many.
    pub(super) async fn open(&self) -> Result<Opened> {
        let permit = tokio::time::timeout(CONNECT_LIMIT, Arc::clone(&self.permits).acquire_owned()).await;
        let Ok(Ok(permit)) = permit else {
            return Err(self.target.unreachable("it has not ended the connections that were given up"));
        };
        let (give, taken) = oneshot::channel();
        tokio::spawn(open(Arc::clone(&self.target), self.planner, permit, give));
        match tokio::time::timeout(CONNECT_LIMIT, taken).await {
            Ok(Ok(opened)) => opened,
            _ => Err(self.target.unreachable(format!("no answer within {CONNECT_LIMIT:?}"))),
        }
    }
}

async fn open(
    target: Arc<Target>,
    planner: Option<PlannerOptions>,
    permit: OwnedSemaphorePermit,
    give: oneshot::Sender<Result<Opened>>,
) {
    let began = Instant::now();
    let opening = async {
        match planner {
            Some(planner) => target.open_with_planner_options(planner).await,
            None => target.open().await.map(|(client, messages)| (client, messages, false)),
        }
    };
    let opened = tokio::select! {
        opened = opening => opened,
        () = silence(&target, began) => return,
    };
    target.pulse.note_connection(began);
    let opened = opened.map(|(client, messages, index_plans)| {
        let permit = ConnectionPermit { target: Arc::clone(&target), held: Some(permit) };
        Opened { client, messages, index_plans, permit }
    });
    // Who has asked may be gone.
    let _ = give.send(opened);
}

/// Ends when this connection is not going to be answered, although the server answers.
async fn silence(target: &Target, began: Instant) {
    tokio::time::sleep(CONNECT_LIMIT).await;
    target.accepts_since(began).await;
}

impl ConnectionPermit {
    /// The connection has ended, also at the server.
    pub(super) fn release(mut self) {
        self.held = None;
    }
}

/// The connection was dropped, which the server may not have seen.
impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let (Some(held), Ok(runtime)) = (self.held.take(), Handle::try_current()) else { return };
        let (target, began) = (Arc::clone(&self.target), Instant::now());
        runtime.spawn(async move {
            target.answers_since(began).await;
            drop(held);
        });
    }
}

/// A connection that is driven by a task.
///
/// Dropped while it is [`busy`](Self::set_busy) it was given up: what it is at is cancelled.
pub(super) struct Connection {
    pub(super) client: Client,
    driver: Driver,
}

impl Connection {
    fn new(opened: Opened) -> Self {
        let (client, _, driver) = drive(opened);
        Self { client, driver }
    }

    /// Whether an answer is still to come.
    pub(super) fn set_busy(&mut self, busy: bool) {
        self.driver.busy = busy;
    }
}

/// The task that reads what the server says on a connection.
struct Driver {
    target: Arc<Target>,
    task: Option<JoinHandle<()>>,
    token: CancelToken,
    warned: Warned,
    busy: bool,
}

fn drive(opened: Opened) -> (Client, bool, Driver) {
    let Opened { client, messages, index_plans, permit } = opened;
    let (target, token) = (Arc::clone(&permit.target), client.cancel_token());
    let warned = Warned::default();
    let reading = warned.clone().read(messages);
    let task = tokio::spawn(async move {
        reading.await;
        permit.release();
    });
    (client, index_plans, Driver { target, task: Some(task), token, warned, busy: false })
}

impl Drop for Driver {
    fn drop(&mut self) {
        let Some(task) = self.task.take().filter(|_| self.busy) else { return };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(end(Arc::clone(&self.target), task, self.token.clone()))),
            Err(_) => task.abort(),
        }
    }
}

/// Ends a connection whose statement was given up: it must neither go on for nothing nor be done after all when its caller
/// was told otherwise.
async fn end(target: Arc<Target>, mut driver: JoinHandle<()>, token: CancelToken) {
    for _ in 0..CANCELS {
        let began = Instant::now();
        target.cancel(&token).await;
        if tokio::time::timeout(CANCELLED_LIMIT, &mut driver).await.is_ok() {
            return;
        }
        tokio::select! {
            _ = &mut driver => return,
            () = target.answers_since(began) => {}
        }
    }
    driver.abort();
}

/// Makes a pool's connections.
impl managed::Manager for Connections {
    type Type = Pooled;
    type Error = StoreError;

    async fn create(&self) -> Result<Pooled> {
        let (client, index_plans, mut driver) = drive(self.open().await?);
        driver.busy = true;
        let conn = AsyncPgConnection::try_from(client).await.map_err(|error| self.target.unreachable(error))?;
        driver.busy = false;
        Ok(Pooled { conn, index_plans, driver })
    }

    async fn recycle(&self, pooled: &mut Pooled, _: &Metrics) -> RecycleResult<Self::Error> {
        if self.is_outdated(pooled.index_plans) || pooled.driver.busy || pooled.conn.is_broken() {
            return Err(RecycleError::message("it is of no use any more"));
        }
        Ok(())
    }
}

pub(super) type Pool = managed::Pool<Connections>;

/// A connection of a pool's.
pub(super) struct Pooled {
    conn: AsyncPgConnection,
    index_plans: bool,
    driver: Driver,
}

impl Pooled {
    /// Whether an answer is still to come.
    pub(super) fn set_busy(&mut self, busy: bool) {
        self.driver.busy = busy;
    }

    pub(super) fn warned(&self) -> &Warned {
        &self.driver.warned
    }
}

impl Deref for Pooled {
    type Target = AsyncPgConnection;

    fn deref(&self) -> &AsyncPgConnection {
        &self.conn
    }
}

impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut AsyncPgConnection {
        &mut self.conn
    }
}

/// Dropped after a pooled connection: one that came back busy was given up, and does not stay in the pool.
pub(super) struct Sweep<'a>(pub(super) &'a Pool);

impl Drop for Sweep<'_> {
    fn drop(&mut self) {
        self.0.retain(|pooled, _| !pooled.driver.busy);
    }
}

/// Why a pool has no connection to give.
pub(super) fn no_connection(target: &Target, error: managed::PoolError<StoreError>) -> StoreError {
    match error {
        managed::PoolError::Backend(error) => error,
        error => target.unreachable(error),
    }
}

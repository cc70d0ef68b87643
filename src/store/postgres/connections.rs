//! Connections with a limit that holds even if the server hangs.
//!
//! A dropped connection stays open at the server until the server notices: not before a statement has its lock, and not
//! while the server is frozen. So each connection holds a permit until it has ended, or until the server has answered a
//! later request: then it works, and has seen the end of the connection and the request to cancel its statement.

use std::future::ready;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use diesel_async::AsyncPgConnection;
use futures_util::TryStreamExt;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio_postgres::error::Severity;
use tokio_postgres::{AsyncMessage, CancelToken, Client};

use super::Result;
use super::connect::{Messages, Target};
use super::index_plans::PlannerOptions;
use super::schema::Schema;
use super::schema_connection::SchemaConnection;
use super::session::Session;
use crate::error::StoreError;

/// The time within which a working server ends a cancelled statement.
const CANCELLED_LIMIT: Duration = Duration::from_secs(1);

/// The number of requests to cancel one statement, each of which may be lost.
const CANCELS: usize = 3;

/// Creates connections for one purpose, up to a limit.
pub(super) struct Connections {
    pub(super) target: Arc<Target>,
    permits: Arc<Semaphore>,
    planner: Option<PlannerOptions>,
}

/// A connection whose messages no task reads yet.
pub(super) struct Opened {
    pub(super) client: Client,
    pub(super) messages: Messages,
    pub(super) index_plans: bool,
    pub(super) schema: Arc<Schema>,
    pub(super) permit: ConnectionPermit,
}

/// Whether the server has sent a warning. A commit whose wait for a standby was cancelled succeeds with a warning.
#[derive(Clone, Default)]
pub(super) struct Warned(Arc<AtomicBool>);

impl Warned {
    /// Reads the server's messages until the connection ends. A warning is read before the reply that follows it.
    pub(super) async fn read(self, messages: Messages) {
        let read = messages.try_for_each(|message| {
            self.0.fetch_or(is_warning(&message), Ordering::AcqRel);
            ready(Ok(()))
        });
        let _ = read.await;
    }

    pub(super) fn reset(&self) {
        self.0.store(false, Ordering::Release);
    }

    /// An error if the statement since [`reset`](Self::reset) was committed without waiting for a standby.
    pub(super) fn check(&self, operation: &'static str) -> Result<()> {
        if !self.0.load(Ordering::Acquire) {
            return Ok(());
        }
        let reason = "committed, but the server did not wait for its synchronous standby".to_owned();
        Err(StoreError::Query { operation, transient: true, reason })
    }
}

/// Whether the server itself warns; a user's trigger may raise warnings of its own.
fn is_warning(message: &AsyncMessage) -> bool {
    const RAISED_IN_PLPGSQL: &str = "exec_stmt_raise";
    matches!(message, AsyncMessage::Notice(notice)
        if notice.parsed_severity() == Some(Severity::Warning) && notice.routine() != Some(RAISED_IN_PLPGSQL))
}

/// The permit for one connection.
pub(super) struct ConnectionPermit {
    target: Arc<Target>,
    held: Option<OwnedSemaphorePermit>,
}

impl Connections {
    pub(super) fn new(target: &Arc<Target>, most: usize) -> Self {
        Self { target: Arc::clone(target), permits: Arc::new(Semaphore::new(most)), planner: None }
    }

    /// Connections for cached statements; see `index_plans`.
    pub(super) fn with_planner_options(target: &Arc<Target>, most: usize, planner: PlannerOptions) -> Self {
        Self { planner: Some(planner), ..Self::new(target, most) }
    }

    /// Whether a connection was made while its options did not reach the server, and they may now.
    pub(super) fn is_outdated(&self, can_cache_statements: bool) -> bool {
        self.planner.is_some() && !can_cache_statements && self.target.tries_index_plans()
    }

    /// A connection whose driver runs as a task of the current runtime.
    pub(super) async fn connect(&self) -> Result<Connection> {
        self.open().await.map(Connection::new)
    }

    /// Opens a connection. An attempt continues if its caller stops waiting: a second one next to it would exceed the limit.
    pub(super) async fn open(&self) -> Result<Opened> {
        let limit = self.target.connect_limit();
        let permit = tokio::time::timeout(limit, Arc::clone(&self.permits).acquire_owned()).await;
        let Ok(Ok(permit)) = permit else {
            return Err(self.target.unreachable("it has not ended abandoned connections yet"));
        };
        let (give, taken) = oneshot::channel();
        tokio::spawn(open(Arc::clone(&self.target), self.planner, permit, give));
        match tokio::time::timeout(limit, taken).await {
            Ok(Ok(opened)) => opened,
            _ => Err(self.target.unreachable(format!("no answer within {limit:?}"))),
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
    let opened = tokio::select! {
        opened = target.open_session(planner) => opened,
        () = silence(&target, began) => return,
    };
    match opened {
        Ok(Session { client, messages, index_plans, schema }) => {
            let permit = ConnectionPermit { target, held: Some(permit) };
            // The caller may have stopped waiting.
            let _ = give.send(Ok(Opened { client, messages, index_plans, schema, permit }));
        }
        Err(error) => {
            let _ = give.send(Err(error));
            // A silent server may hold the connection.
            target.accepts_since(began).await;
            drop(permit);
        }
    }
}

/// Ends when the server has answered later requests but not this connection.
async fn silence(target: &Target, began: Instant) {
    tokio::time::sleep(target.connect_limit()).await;
    target.accepts_since(began).await;
}

impl ConnectionPermit {
    /// Returns the permit of a connection that has ended at the server too.
    pub(super) fn release(mut self) {
        self.held = None;
    }
}

/// Handles a dropped connection, which the server may not have noticed.
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

/// A connection whose driver runs as a task.
///
/// If it is dropped while [`busy`](Self::set_busy), its caller has stopped waiting: the statement is cancelled.
pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) schema: Arc<Schema>,
    driver: Driver,
}

impl Connection {
    fn new(opened: Opened) -> Self {
        let schema = Arc::clone(&opened.schema);
        let (client, _, driver) = drive(opened);
        Self { client, schema, driver }
    }

    /// Sets whether a reply is outstanding.
    pub(super) fn set_busy(&mut self, busy: bool) {
        self.driver.busy = busy;
    }
}

/// The task that reads the server's messages on a connection.
struct Driver {
    target: Arc<Target>,
    task: Option<JoinHandle<()>>,
    token: CancelToken,
    warned: Warned,
    busy: bool,
}

fn drive(opened: Opened) -> (Client, bool, Driver) {
    let Opened { client, messages, index_plans, permit, .. } = opened;
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

/// Ends a connection whose caller stopped waiting: its statement must not run on for nothing, and not succeed after its
/// caller was told otherwise.
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

/// Creates a pool's connections.
impl managed::Manager for Connections {
    type Type = Pooled;
    type Error = StoreError;

    async fn create(&self) -> Result<Pooled> {
        let opened = self.open().await?;
        let schema = Arc::clone(&opened.schema);
        let (client, index_plans, mut driver) = drive(opened);
        driver.busy = true;
        let conn = AsyncPgConnection::try_from(client).await.map_err(|error| self.target.unreachable(error))?;
        driver.busy = false;
        Ok(Pooled { conn: SchemaConnection::new(conn, schema), index_plans, driver })
    }

    async fn recycle(&self, pooled: &mut Pooled, _: &Metrics) -> RecycleResult<Self::Error> {
        if self.is_outdated(pooled.index_plans) || pooled.driver.busy || pooled.conn.is_broken() {
            return Err(RecycleError::message("no longer usable"));
        }
        Ok(())
    }
}

pub(super) type Pool = managed::Pool<Connections>;

/// A connection of a pool.
pub(super) struct Pooled {
    conn: SchemaConnection,
    index_plans: bool,
    driver: Driver,
}

impl Pooled {
    /// Sets whether a reply is outstanding.
    pub(super) fn set_busy(&mut self, busy: bool) {
        self.driver.busy = busy;
    }

    pub(super) fn warned(&self) -> &Warned {
        &self.driver.warned
    }
}

impl Deref for Pooled {
    type Target = SchemaConnection;

    fn deref(&self) -> &SchemaConnection {
        &self.conn
    }
}

impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut SchemaConnection {
        &mut self.conn
    }
}

/// Dropped after a pooled connection: removes connections that were returned busy from the pool.
pub(super) struct Sweep<'a>(pub(super) &'a Pool);

impl Drop for Sweep<'_> {
    fn drop(&mut self) {
        self.0.retain(|pooled, _| !pooled.driver.busy);
    }
}

/// The error of a pool that has no connection available.
pub(super) fn no_connection(target: &Target, error: managed::PoolError<StoreError>) -> StoreError {
    match error {
        managed::PoolError::Backend(error) => error,
        error => target.unreachable(error),
    }
}

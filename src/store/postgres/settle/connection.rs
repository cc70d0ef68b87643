//! Connections for settling.
//!
//! The commit of a settle may wait for a synchronous standby. Such a settle is neither cancelled nor repeated in parallel: a
//! cancelled wait makes the commit visible without being durable, and a repetition finds the rows locked. So its caller
//! waits as long as its connection lives, the address leads to the same server, and that server runs the statement. A server
//! that is idle has replied, and the reply is lost.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use deadpool::managed::{self, Metrics, Object, Pool, RecycleError, RecycleResult};
use diesel::sql_types::{BigInt, Integer};
use diesel::{QueryResult, sql_query};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row, Statement};

use super::accepted::Usual;
use crate::error::StoreError;
use crate::store::Result;
use crate::store::postgres::connect::Target;
use crate::store::postgres::connections::{self, Connections, Opened, Warned, no_connection};
use crate::store::postgres::index_plans::SETTLING;
use crate::store::postgres::schema::Schema;
use crate::store::postgres::schema_connection::SchemaConnection;
use crate::store::postgres::{STATEMENT_LIMIT, run_on};

type DriverError = tokio_postgres::Error;

/// How often a waiting settle checks whether the address still leads to its server.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a settle waits before it asks the server about its statement.
const FIRST_PATIENCE: Duration = Duration::from_secs(2);

/// Behind a pooler, the server may be asked about another connection than this one, and a statement that still waits be
/// abandoned. So each settle waits twice as long as the one before, until one is answered.
const LONGEST_PATIENCE: Duration = Duration::from_secs(600);

pub(in crate::store::postgres) struct SettlePool {
    target: Arc<Target>,
    pool: Pool<Manager>,
    /// For queries about this pool's connections.
    others: connections::Pool,
    /// How long the next settle waits before it asks the server about its statement.
    patience: Mutex<Duration>,
}

struct Manager(Connections);

pub(super) struct SettleConnection {
    client: Client,
    schema: Arc<Schema>,
    driver: Driver,
    server: i64,
    backend: ServerProcess,
    index_plans: bool,
    /// The statements that the server caches, by number, if it accepted the planner options.
    cached: [OnceCell<Statement>; Usual::COUNT],
}

/// A connection as the server knows it: its process, and when that started, in microseconds since 1970.
#[derive(Debug, Clone, Copy)]
struct ServerProcess {
    pid: i32,
    began: i64,
}

/// Reads the server's messages.
struct Driver {
    task: JoinHandle<()>,
    warned: Warned,
    /// Whether a reply is outstanding.
    busy: bool,
}

/// Drops a connection without a request to cancel: its commit may be waiting.
impl Drop for Driver {
    fn drop(&mut self) {
        if self.busy {
            self.task.abort();
        }
    }
}

impl managed::Manager for Manager {
    type Type = SettleConnection;
    type Error = StoreError;

    async fn create(&self) -> Result<SettleConnection> {
        let Opened { client, messages, index_plans, schema, permit } = self.0.open().await?;
        let warned = Warned::default();
        let reading = warned.clone().read(messages);
        let task = tokio::spawn(async move {
            reading.await;
            permit.release();
        });
        let mut driver = Driver { task, warned, busy: true };
        let server = self.0.target.identify(&client).await?;
        let backend = ServerProcess::identify(&client).await.map_err(|error| self.0.target.connect_error(&error))?;
        driver.busy = false;
        Ok(SettleConnection { client, schema, driver, server, backend, index_plans, cached: Default::default() })
    }

    async fn recycle(&self, connection: &mut SettleConnection, _: &Metrics) -> RecycleResult<StoreError> {
        let is_outdated = self.0.is_outdated(connection.index_plans);
        match is_outdated || connection.driver.busy || connection.client.is_closed() {
            true => Err(RecycleError::message("no longer usable")),
            false => Ok(()),
        }
    }
}

impl SettleConnection {
    /// Runs a settle, whose text never changes. If the server cannot cache it, it is planned again for each batch.
    pub(super) async fn settle(
        &self,
        statement: Usual,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<u64, DriverError> {
        if !self.index_plans {
            return self.execute(statement.sql(), parameters).await;
        }
        let cached = &self.cached[statement.number()];
        let types: Vec<Type> = parameters.iter().map(|(_, of)| of.clone()).collect();
        let cached = cached.get_or_try_init(|| self.prepare(statement.sql(), &types)).await?;
        let values: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(|(value, _)| *value).collect();
        self.client.execute(cached, &values).await
    }

    async fn prepare(&self, sql: &str, types: &[Type]) -> Result<Statement, DriverError> {
        self.client.prepare_typed(&self.schema.qualify(sql), types).await
    }

    pub(super) async fn execute(
        &self,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<u64, DriverError> {
        self.client.execute_typed(&self.schema.qualify(sql), parameters).await
    }

    pub(super) async fn query(
        &self,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, DriverError> {
        self.client.query_typed(&self.schema.qualify(sql), parameters).await
    }
}

impl ServerProcess {
    async fn identify(client: &Client) -> Result<Self, DriverError> {
        const OWN: &str = "SELECT pid, (extract(epoch FROM backend_start) * 1000000)::bigint \
            FROM pg_stat_get_activity(pg_backend_pid())";
        let row = client.query_typed_one(OWN, &[]).await?;
        Ok(Self { pid: row.try_get(0)?, began: row.try_get(1)? })
    }

    /// Whether the process runs a statement. A process of another user, which only a pooler can lead to, does not tell.
    async fn is_busy(self, conn: &mut SchemaConnection) -> QueryResult<bool> {
        const BUSY: &str = "SELECT FROM pg_stat_get_activity($1) \
            WHERE (extract(epoch FROM backend_start) * 1000000)::bigint = $2 AND state IS DISTINCT FROM 'idle'";
        let busy = sql_query(BUSY).bind::<Integer, _>(self.pid).bind::<BigInt, _>(self.began);
        Ok(diesel_async::RunQueryDsl::execute(busy, conn).await? > 0)
    }
}

impl SettlePool {
    /// Creates the pool; `others` are connections that do not settle.
    pub(in crate::store::postgres) fn new(
        target: &Arc<Target>,
        connections: usize,
        others: &connections::Pool,
    ) -> Result<Self> {
        let pool = Pool::builder(Manager(Connections::with_planner_options(target, connections, SETTLING)))
            .max_size(connections)
            .runtime(deadpool::Runtime::Tokio1)
            .wait_timeout(Some(STATEMENT_LIMIT))
            .create_timeout(Some(target.connect_limit() * 2))
            .build()
            .map_err(|error| target.unreachable(error))?;
        let patience = Mutex::new(FIRST_PATIENCE);
        Ok(Self { target: Arc::clone(target), pool, others: others.clone(), patience })
    }

    pub(in crate::store::postgres) fn max_size(&self) -> usize {
        self.pool.status().max_size
    }

    /// Sends a statement and waits for its reply. After an error that is not a refusal, the outcome is in doubt.
    pub(super) async fn run<T>(
        &self,
        operation: &'static str,
        statement: impl for<'c> FnOnce(&'c SettleConnection) -> BoxFuture<'c, Result<T, DriverError>> + Send,
    ) -> Result<T> {
        let mut connection = self.pool.get().await.map_err(|error| no_connection(&self.target, error))?;
        connection.driver.warned.reset();
        connection.driver.busy = true;
        let answer = self.answer(operation, &connection, statement(&connection)).await;
        connection.driver.busy =
            !connection.client.is_closed() && matches!(answer, Err(StoreError::Unreachable { .. }));
        if answer.as_ref().is_err_and(|error| !error.is_refusal()) {
            drop(Object::take(connection));
        }
        answer
    }

    async fn answer<T>(
        &self,
        operation: &'static str,
        connection: &SettleConnection,
        answer: BoxFuture<'_, Result<T, DriverError>>,
    ) -> Result<T> {
        match self.while_there(operation, connection, answer).await? {
            Ok(answer) => connection.driver.warned.check(operation).map(|()| answer),
            Err(error) => Err(self.target.driver_error(operation, &error)),
        }
    }

    async fn while_there<T>(
        &self,
        operation: &'static str,
        connection: &SettleConnection,
        mut answer: BoxFuture<'_, T>,
    ) -> Result<T> {
        let (began, mut patience) = (Instant::now(), *self.patience());
        let (mut is_lost, mut has_warned) = (false, false);
        loop {
            if let Ok(answer) = tokio::time::timeout(CHECK_INTERVAL, &mut answer).await {
                *self.patience() = FIRST_PATIENCE;
                if !connection.client.is_closed() {
                    self.target.pulse.note_statement(began);
                }
                return Ok(answer);
            }
            if self.target.has_moved_from(connection.server) {
                return Err(self.target.unreachable("the address leads to another server now"));
            }
            // The server was idle at the last check, and the reply has not arrived since.
            if is_lost {
                *self.patience() = patience.min(LONGEST_PATIENCE);
                return Err(self.target.unreachable("its reply was lost"));
            }
            if began.elapsed() >= STATEMENT_LIMIT && !std::mem::replace(&mut has_warned, true) {
                tracing::warn!(operation, "the database has not answered for {STATEMENT_LIMIT:?}; still waiting");
            }
            if began.elapsed() >= patience {
                is_lost = self.is_idle(connection.backend).await;
                patience += patience.min(LONGEST_PATIENCE);
            }
        }
    }

    fn patience(&self) -> MutexGuard<'_, Duration> {
        self.patience.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the server reports that this connection runs no statement.
    async fn is_idle(&self, backend: ServerProcess) -> bool {
        let busy = run_on(&self.target, &self.others, STATEMENT_LIMIT, "check a settle that waits", |conn| {
            backend.is_busy(conn).boxed()
        });
        busy.await.is_ok_and(|busy| !busy)
    }
}

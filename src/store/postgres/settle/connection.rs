//! Connections for settling.
//!
//! The commit of a settle may wait for a synchronous standby. Such a settle is neither cancelled nor repeated beside
//! itself: a cancelled wait makes the commit visible without being durable, and a repetition finds the rows locked. So
//! its answer is waited for as long as its connection lives and the address leads to the same server.

use std::sync::Arc;
use std::time::Duration;

use deadpool::managed::{self, Metrics, Object, Pool, RecycleError, RecycleResult};
use futures_util::future::BoxFuture;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Statement};

use crate::error::StoreError;
use crate::store::Result;
use crate::store::postgres::STATEMENT_LIMIT;
use crate::store::postgres::connect::{CONNECT_LIMIT, Target};
use crate::store::postgres::connections::{Connections, Opened, Warned, no_connection};
use crate::store::postgres::index_plans::SETTLING;

type DriverError = tokio_postgres::Error;

/// How often a settle that waits looks whether its server is still the one.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

pub(in crate::store::postgres) struct SettlePool {
    target: Arc<Target>,
    pool: Pool<Manager>,
}

struct Manager(Connections);

pub(super) struct SettleConnection {
    pub(super) client: Client,
    driver: Driver,
    server: i64,
    index_plans: bool,
    /// The settle that the server caches, if it has taken the planner options.
    cached: OnceCell<Statement>,
}

/// Reads what the server says.
struct Driver {
    task: JoinHandle<()>,
    warned: Warned,
    /// An answer is still to come.
    busy: bool,
}

/// Given up without a request to cancel: its commit may be waiting.
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
        let Opened { client, messages, index_plans, permit } = self.0.open().await?;
        let warned = Warned::default();
        let reading = warned.clone().read(messages);
        let task = tokio::spawn(async move {
            reading.await;
            permit.release();
        });
        let mut driver = Driver { task, warned, busy: true };
        let server = self.0.target.identify(&client).await?;
        driver.busy = false;
        Ok(SettleConnection { client, driver, server, index_plans, cached: OnceCell::new() })
    }

    async fn recycle(&self, connection: &mut SettleConnection, _: &Metrics) -> RecycleResult<StoreError> {
        let is_outdated = self.0.is_outdated(connection.index_plans);
        match is_outdated || connection.driver.busy || connection.client.is_closed() {
            true => Err(RecycleError::message("it is of no use any more")),
            false => Ok(()),
        }
    }
}

impl SettleConnection {
    /// Runs the settle, whose text never changes. Where the server cannot keep it, it is planned anew for each batch.
    pub(super) async fn settle(
        &self,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<u64, DriverError> {
        if !self.index_plans {
            return self.client.execute_typed(sql, parameters).await;
        }
        let types: Vec<Type> = parameters.iter().map(|(_, of)| of.clone()).collect();
        let cached = self.cached.get_or_try_init(|| self.client.prepare_typed(sql, &types)).await?;
        let values: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(|(value, _)| *value).collect();
        self.client.execute(cached, &values).await
    }
}

impl SettlePool {
    pub(in crate::store::postgres) fn new(target: &Arc<Target>, connections: usize) -> Result<Self> {
        let pool = Pool::builder(Manager(Connections::with_planner_options(target, connections, SETTLING)))
            .max_size(connections)
            .runtime(deadpool::Runtime::Tokio1)
            .wait_timeout(Some(STATEMENT_LIMIT))
            .create_timeout(Some(CONNECT_LIMIT * 2))
            .build()
            .map_err(|error| target.unreachable(error))?;
        Ok(Self { target: Arc::clone(target), pool })
    }

    pub(in crate::store::postgres) fn max_size(&self) -> usize {
        self.pool.status().max_size
    }

    /// Sends a statement and waits for its answer. An error that is not a refusal leaves it in doubt.
    pub(super) async fn run<T>(
        &self,
        operation: &'static str,
        statement: impl for<'c> FnOnce(&'c SettleConnection) -> BoxFuture<'c, Result<T, DriverError>> + Send,
    ) -> Result<T> {
        let mut connection = self.pool.get().await.map_err(|error| no_connection(&self.target, error))?;
        connection.driver.warned.forget();
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
        let mut waited = Duration::ZERO;
        loop {
            if let Ok(answer) = tokio::time::timeout(LOOK_INTERVAL, &mut answer).await {
                return Ok(answer);
            }
            waited += LOOK_INTERVAL;
            if self.target.has_moved_from(connection.server) {
                return Err(self.target.unreachable("the address leads to another server now"));
            }
            if waited == STATEMENT_LIMIT {
                tracing::warn!(operation, "the database has not answered for {waited:?}; still waiting");
            }
        }
    }
}

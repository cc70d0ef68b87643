//! The outbox in PostgreSQL.

use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool::managed::Object;
use diesel::result::QueryResult;
use futures_util::future::BoxFuture;

use self::connections::{Connections, Pool, Sweep, no_connection};
use self::schema_connection::SchemaConnection;
use super::Result;
use crate::error::StoreError;

mod access;
mod address;
mod admin;
mod adopt;
mod application;
mod audit;
mod auth_guard;
mod change;
mod claimed;
mod connect;
#[cfg(test)]
mod connect_tests;
mod connections;
#[cfg(test)]
mod connections_tests;
mod data;
mod diagnosis;
mod errors;
mod fetch;
#[cfg(test)]
pub(crate) mod fixture;
mod handlers;
mod history;
mod inbox;
mod index_plans;
pub(crate) mod insert;
mod inspection;
mod leases;
mod migrate;
mod notify;
mod overview;
mod pauses;
#[cfg(test)]
mod plans_tests;
#[cfg(test)]
mod primary_tests;
#[cfg(test)]
mod publish_tests;
mod pulse;
mod queue_position;
mod refusal;
mod retention;
mod roles;
pub(crate) mod row;
mod schema;
mod schema_client;
mod schema_connection;
mod session;
mod settle;
mod statement;
#[cfg(feature = "testing")]
mod testing;
mod tls;
mod trigger;
mod version;
mod waits;

pub(crate) use connect::Target;
#[cfg(feature = "tokio-postgres")]
pub(crate) use errors::chain;
#[cfg(feature = "bench-api")]
pub(crate) use schema_client::SchemaClient;
use settle::{SettlePool, Settling};

/// The number of shards in a lane; `outbox_shard` masks with one less.
pub(crate) const SHARDS: i16 = 32;

/// The default number of connections for fetching, settling and publishing.
fn connections_for_this_machine() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (processors * 4).clamp(8, 32)
}

/// With more, the write-ahead log is the bottleneck, not the connections.
const MOST_SETTLES: usize = 8;

/// A time limit that no statement of ours reaches on a healthy server. A statement that does is abandoned together with its
/// connection, so that its late reply is never read.
const STATEMENT_LIMIT: Duration = Duration::from_secs(10);

/// The limit for statements of operators, which may read the whole table.
const LONG_STATEMENT_LIMIT: Duration = Duration::from_secs(600);

/// Connections to one database.
pub(crate) struct PostgresStore {
    target: Arc<Target>,
    pool: Pool,
    /// For the statements that a worker repeats all the time; see `index_plans`.
    reading: Pool,
    settling: Settling,
    listening: Connections,
    /// The progress of the janitor's rounds.
    rounds: handlers::Rounds,
}

impl PostgresStore {
    /// Prepares pools; the first statement connects.
    pub(crate) fn new(target: Target, connections: Option<usize>) -> Result<Self> {
        let target = Arc::new(target);
        let connections = connections.unwrap_or_else(connections_for_this_machine);
        let reading = (connections / 2).max(1);
        let rest = connections.saturating_sub(reading);
        let settles = (rest / 2).clamp(1, MOST_SETTLES);
        let writing = rest.saturating_sub(settles).max(1);
        let pool = new_pool(&target, Connections::new(&target, writing), writing)?;
        let reading =
            new_pool(&target, Connections::with_planner_options(&target, reading, index_plans::READING), reading)?;
        let settling = Settling::new(SettlePool::new(&target, settles, &pool)?);
        let listening = Connections::new(&target, 1);
        Ok(Self { target, pool, reading, settling, listening, rounds: handlers::Rounds::default() })
    }

    /// Receives notifications at an address of their own.
    pub(crate) fn listening_at(self, target: Target) -> Self {
        Self { listening: Connections::new(&Arc::new(target), 1), ..self }
    }

    /// Those of the pools, the heartbeat's and the listener's.
    fn most_connections(&self) -> usize {
        let pools = [self.pool.status().max_size, self.reading.status().max_size, self.settling.pool.max_size()];
        pools.iter().sum::<usize>() + 2
    }

    /// Runs statements on a pooled connection, with a time limit.
    async fn run<T: Send>(
        &self,
        operation: &'static str,
        statements: impl for<'c> FnOnce(&'c mut SchemaConnection) -> BoxFuture<'c, QueryResult<T>> + Send,
    ) -> Result<T> {
        self.run_within(STATEMENT_LIMIT, operation, statements).await
    }

    /// Runs statements on a pooled connection for reading, with a time limit.
    async fn read<T: Send>(
        &self,
        operation: &'static str,
        statements: impl for<'c> FnOnce(&'c mut SchemaConnection) -> BoxFuture<'c, QueryResult<T>> + Send,
    ) -> Result<T> {
        self.read_within(STATEMENT_LIMIT, operation, statements).await
    }

    async fn read_within<T: Send>(
        &self,
        limit: Duration,
        operation: &'static str,
        statements: impl for<'c> FnOnce(&'c mut SchemaConnection) -> BoxFuture<'c, QueryResult<T>> + Send,
    ) -> Result<T> {
        run_on(&self.target, &self.reading, limit, operation, statements).await
    }

    async fn run_within<T: Send>(
        &self,
        limit: Duration,
        operation: &'static str,
        statements: impl for<'c> FnOnce(&'c mut SchemaConnection) -> BoxFuture<'c, QueryResult<T>> + Send,
    ) -> Result<T> {
        run_on(&self.target, &self.pool, limit, operation, statements).await
    }
}

async fn run_on<T: Send>(
    target: &Target,
    pool: &Pool,
    limit: Duration,
    operation: &'static str,
    statements: impl for<'c> FnOnce(&'c mut SchemaConnection) -> BoxFuture<'c, QueryResult<T>> + Send,
) -> Result<T> {
    let _given_up = Sweep(pool);
    let mut conn = pool.get().await.map_err(|error| no_connection(target, error))?;
    conn.set_busy(true);
    let sent = Instant::now();
    let answering = async {
        match statements(&mut conn).await {
            Err(error) if diagnosis::is_unexplained(&error) => {
                let cause = diagnosis::find_cause(&mut conn).await.ok().flatten();
                Err((error, cause))
            }
            answer => answer.map_err(|error| (error, None)),
        }
    };
    let Ok(answer) = tokio::time::timeout(limit, answering).await else {
        return Err(StoreError::Timeout { operation, limit });
    };
    conn.set_busy(false);
    if !conn.is_broken() {
        target.pulse.note_statement(sent);
    }
    let answer = answer.map_err(|(error, cause)| target.explained_error(operation, &error, cause));
    if answer.as_ref().is_err_and(StoreError::is_transient) {
        drop(Object::take(conn));
    }
    answer
}

fn new_pool(target: &Target, manager: Connections, connections: usize) -> Result<Pool> {
    Pool::builder(manager)
        .max_size(connections)
        .runtime(deadpool::Runtime::Tokio1)
        .wait_timeout(Some(STATEMENT_LIMIT))
        .create_timeout(Some(target.connect_limit() * 2))
        .build()
        .map_err(|error| target.unreachable(error))
}

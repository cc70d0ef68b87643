//! The connections to the server, each used by one caller at a time.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use diesel::dsl::sql;
use diesel::sql_types::BigInt;
use diesel_async::{AsyncMysqlConnection, RunQueryDsl, SimpleAsyncConnection};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::address::{Address, CONNECT_LIMIT};
use super::error::connect_error;
use super::session::{ANSWER_LIMIT, Session};
use crate::error::StoreError;
#[cfg(feature = "bench-api")]
use crate::settings::Secret;
use crate::store::Result;

/// A session of the outbox's own: what it reads is committed, its times are in UTC, and no value is cut to fit. Statements have
/// a limit at the server, too, where it knows one (`max_statement_time`, MariaDB). If a process stops within a transaction, the
/// server rolls it back after 10 s (`idle_transaction_timeout`, MariaDB) or with the connection, so that its locks end. MariaDB
/// would make a join of a list of a thousand ids, and read a whole table for an EXISTS.
const SETUP: &[&str] = &[
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SET SESSION time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,\
     ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION', innodb_lock_wait_timeout = 1, lock_wait_timeout = 5, \
     autocommit = 1, wait_timeout = 60 /*M!100300 , max_statement_time = 10, idle_transaction_timeout = 10, \
     in_predicate_conversion_threshold = 0, optimizer_switch = 'exists_to_in=off' */",
];

/// After [`SETUP`], for leases: lists of workers of any length.
const LEASES: &str = "SET SESSION group_concat_max_len = 1000000";

/// Whether the server is read-only, and whether its binary log holds statements, with which it refuses writes of sessions that
/// read what is committed.
const MODES: &str = "SELECT CAST(@@global.read_only AS SIGNED), \
    CAST(@@global.log_bin = 1 AND @@session.binlog_format = 'STATEMENT' AS SIGNED)";

/// How long a connection may be unused before it is tested: the server closes it after twice as long.
pub(super) const TRUSTED: Duration = Duration::from_secs(30);

pub(super) struct Pool {
    pub(super) address: Address,
    permits: Semaphore,
    idle: Mutex<Vec<(AsyncMysqlConnection, Instant)>>,
}

impl Pool {
    pub(super) fn new(address: Address, size: usize) -> Self {
        Self { address, permits: Semaphore::new(size), idle: Mutex::default() }
    }

    /// A session for one caller. An unused connection, or a new one.
    pub(super) async fn session(&self, operation: &'static str) -> Result<Session<'_>> {
        let late = |_| StoreError::Timeout { operation, limit: ANSWER_LIMIT };
        let waiting = timeout(ANSWER_LIMIT, self.permits.acquire()).await.map_err(late)?;
        let permit = waiting.map_err(|closed| self.address.unreachable(closed))?;
        let connection = match self.take_idle().await {
            Some(connection) => connection,
            None => connect(&self.address).await?,
        };
        Ok(Session::new(self, permit, connection, operation))
    }

    pub(super) fn put_back(&self, connection: AsyncMysqlConnection) {
        self.idle().push((connection, Instant::now()));
    }

    /// Closes the unused connections: the server of one of them has ended it.
    pub(super) fn distrust_idle(&self) {
        self.idle().clear();
    }

    async fn take_idle(&self) -> Option<AsyncMysqlConnection> {
        loop {
            let (mut connection, since) = self.idle().pop()?;
            if since.elapsed() < TRUSTED || is_alive(&mut connection).await {
                return Some(connection);
            }
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<(AsyncMysqlConnection, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn is_alive(connection: &mut AsyncMysqlConnection) -> bool {
    timeout(Duration::from_secs(1), connection.batch_execute("DO 0")).await.is_ok_and(|done| done.is_ok())
}

/// A connection with the server's own settings of a session.
#[cfg(feature = "bench-api")]
pub(crate) async fn connect_plain(url: Secret) -> Result<Conn> {
    let invalid = |reason| StoreError::Query { operation: "connect", reason, transient: false };
    let address = Address::parse(url).map_err(invalid)?;
    let connected = timeout(CONNECT_LIMIT, Conn::new(address.options(&[]).await?)).await;
    connected.map_err(|late| address.unreachable(late))?.map_err(|error| connect_error(&address, &error))
}

/// A connection of the outbox's own to a server that accepts writes.
pub(super) async fn connect(address: &Address) -> Result<AsyncMysqlConnection> {
    let mut connection = open(address, SETUP).await?;
    let modes = sql::<(BigInt, BigInt)>(MODES).get_result(&mut connection).await;
    check(address, modes.map_err(|error| address.unreachable(error))?)?;
    Ok(connection)
}

fn check(address: &Address, (read_only, logs_statements): (i64, i64)) -> Result<()> {
    let target = || address.shown.clone();
    if read_only != 0 {
        return Err(StoreError::ReadOnly { target: target() });
    }
    if logs_statements != 0 {
        let problem = "its binary log holds statements: set binlog_format to ROW or MIXED".to_owned();
        return Err(StoreError::Unsuitable { target: target(), problem });
    }
    Ok(())
}

/// A connection for leases, to a server that accepts writes.
pub(super) async fn open_for_leases(address: &Address) -> Result<Conn> {
    let options = address.options(SETUP).await?;
    let opening = async {
        let mut connection = Conn::new(options).await?;
        connection.query_drop(LEASES).await?;
        let modes = connection.query_first(MODES).await?;
        Ok((connection, modes))
    };
    let (connection, modes) = limited(address, opening).await?.map_err(|error| connect_error(address, &error))?;
    check(address, modes.unwrap_or_default())?;
    Ok(connection)
}

/// A connection of the application's, with the server's defaults.
pub(super) async fn open(address: &Address, setup: &[&str]) -> Result<AsyncMysqlConnection> {
    let options = address.options(setup).await?;
    let opening = async {
        let connection = Conn::new(options).await.map_err(|error| connect_error(address, &error))?;
        AsyncMysqlConnection::try_from(connection).await.map_err(|error| address.unreachable(error))
    };
    limited(address, opening).await?
}

async fn limited<T>(address: &Address, opening: impl Future<Output = T>) -> Result<T> {
    let late = |_| address.unreachable(format!("no answer within {CONNECT_LIMIT:?}"));
    timeout(CONNECT_LIMIT, opening).await.map_err(late)
}

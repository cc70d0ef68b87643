//! A connection in the hands of one caller. All statements of the store are executed here, under a limit, and what they fail
//! with is a number.

use std::time::Duration;

use diesel::QueryResult;
use diesel::mysql::Mysql;
use diesel::query_builder::{QueryFragment, QueryId};
use diesel::sql_types::BigInt;
use diesel_async::methods::LoadQuery;
use diesel_async::{AsyncMysqlConnection, RunQueryDsl, SimpleAsyncConnection};
use futures_util::TryStreamExt;
use tokio::sync::SemaphorePermit;
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use uuid::Uuid;

use super::diagnosis::diagnose;
use super::error::{Failure, FailureKind};
use super::insert::insert;
use super::pool::Pool;
use super::statement::{Statement, id_text};
use crate::error::StoreError;
use crate::publish::{InsertResult, ValidEvent};
use crate::store::Result;
use crate::store::inbox::{InboxStatement, TextQueries};

/// How long a statement may take, and how long a caller waits for a connection.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(12);

/// Whether the server is read-only, and whether it shows commits before they are on the disk. It does not if its binary log is on
/// the disk first; `innodb_flush_log_at_trx_commit = 0`: no commit waits for the disk.
const IS_READ_ONLY: &str = "SELECT CAST(@@global.read_only AS SIGNED), \
    CAST(@@global.innodb_flush_log_at_trx_commit <> 0 \
        AND NOT (@@global.log_bin = 1 AND @@global.sync_binlog = 1) AS SIGNED)";

/// For statements that take as long as a table is large, and wait for the transactions that use it.
const PATIENT: &str =
    "SET SESSION lock_wait_timeout = 60, innodb_lock_wait_timeout = 60 /*M!100300 , max_statement_time = 0 */";

/// What a session has otherwise.
const USUAL: &str =
    "SET SESSION lock_wait_timeout = 5, innodb_lock_wait_timeout = 1 /*M!100300 , max_statement_time = 10 */";

/// How often a transaction is tried that the server rolls back because of another one.
const MOST_TRIES: u32 = 10;

/// When the server shows what was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ShowsCommits {
    /// Once a crash cannot undo it.
    OnDisk,
    /// Before.
    Early,
}

/// Dropped inside a transaction, or during a statement, it closes its connection.
pub(super) struct Session<'a> {
    pool: &'a Pool,
    /// `None`: the connection is closed.
    connection: Option<AsyncMysqlConnection>,
    is_clean: bool,
    pub(super) operation: &'static str,
    _permit: SemaphorePermit<'a>,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        pool: &'a Pool,
        permit: SemaphorePermit<'a>,
        connection: AsyncMysqlConnection,
        operation: &'static str,
    ) -> Self {
        Self { pool, connection: Some(connection), is_clean: true, operation, _permit: permit }
    }

    /// The rows of a query.
    pub(super) async fn load<'q, Q, U>(&mut self, query: Q) -> Result<Vec<U>, Failure>
    where
        U: Send,
        Q: LoadQuery<'q, AsyncMysqlConnection, U> + Send + 'q,
    {
        let was_clean = self.begin_statement();
        let answer = timeout(ANSWER_LIMIT, query.load(self.connection()?)).await;
        self.end_statement(answer, was_clean).await
    }

    /// Passes on the rows of a query until `take` wants no more; the others are not kept.
    pub(super) async fn load_while<'q, Q, U>(
        &mut self,
        query: Q,
        mut take: impl FnMut(U) -> bool + Send,
    ) -> Result<(), Failure>
    where
        U: Send,
        Q: LoadQuery<'q, AsyncMysqlConnection, U> + Send + 'q,
    {
        let was_clean = self.begin_statement();
        let connection = self.connection()?;
        let reading = async {
            let mut rows = std::pin::pin!(query.load_stream::<U>(connection).await?);
            while let Some(row) = rows.try_next().await? {
                if !take(row) {
                    break;
                }
            }
            Ok(())
        };
        let answer = timeout(ANSWER_LIMIT, reading).await;
        self.end_statement(answer, was_clean).await
    }

    /// The only row of a query.
    pub(super) async fn load_one<'q, Q, U>(&mut self, query: Q) -> Result<U, Failure>
    where
        U: Send,
        Q: LoadQuery<'q, AsyncMysqlConnection, U> + Send + 'q,
    {
        let row = self.load(query).await?.into_iter().next();
        row.ok_or_else(|| Failure::client("the server returned no row"))
    }

    /// The number of rows that a statement has changed; a row that it leaves as it was does not count.
    pub(super) async fn execute<Q>(&mut self, statement: Q) -> Result<usize, Failure>
    where
        Q: QueryFragment<Mysql> + QueryId + RunQueryDsl<AsyncMysqlConnection> + Send,
    {
        let was_clean = self.begin_statement();
        let answer = timeout(ANSWER_LIMIT, statement.execute(self.connection()?)).await;
        self.end_statement(answer, was_clean).await
    }

    /// Ends a reading. Fails if the server accepts no writes by now, so that what was read may be old. If something is sent
    /// because of what was read, waits until that is on the disk.
    pub(super) async fn confirm_read(&mut self, leads_to_sending: bool) -> Result<(), Failure> {
        let shows_commits = self.confirm_primary().await?;
        if leads_to_sending && shows_commits == ShowsCommits::Early {
            self.confirm_durable().await?;
        }
        Ok(())
    }

    /// Fails if the server accepts no writes by now. Returns whether it shows what may be lost.
    async fn confirm_primary(&mut self) -> Result<ShowsCommits, Failure> {
        let state = Statement::<(BigInt, BigInt)>::new(IS_READ_ONLY, []);
        let (read_only, early): (i64, i64) = self.load_one(state).await?;
        match read_only {
            0 => Ok(if early == 0 { ShowsCommits::OnDisk } else { ShowsCommits::Early }),
            _ => self.end_diagnosed(Err(Failure::read_only()), true),
        }
    }

    /// Waits until everything that this session has read is on the disk: the commit of a write waits for the log up to it.
    async fn confirm_durable(&mut self) -> Result<(), Failure> {
        let id = id_text(Uuid::now_v7());
        self.is_clean = false;
        self.run(&format!(
            "START TRANSACTION; INSERT INTO outbox_confirmations (id) VALUES ('{id}'); \
             DELETE FROM outbox_confirmations WHERE id = '{id}'; COMMIT"
        ))
        .await?;
        self.is_clean = true;
        Ok(())
    }

    /// Writes new events, except those whose id is in use.
    pub(super) async fn insert(&mut self, events: Vec<ValidEvent>) -> Result<Vec<InsertResult>, Failure> {
        let was_clean = self.begin_statement();
        let answer = timeout(ANSWER_LIMIT, insert(self.connection()?, events)).await;
        self.end_diagnosed(answer.unwrap_or_else(|late| Err(Failure::late(late))), was_clean)
    }

    /// The texts of a statement of the inbox.
    pub(super) async fn texts(&mut self, statement: InboxStatement) -> Result<Vec<String>, Failure> {
        let was_clean = self.begin_statement();
        let answer = timeout(ANSWER_LIMIT, Mysql::texts(self.connection()?, statement)).await;
        self.end_statement(answer, was_clean).await
    }

    /// Executes a statement without values.
    pub(super) async fn run(&mut self, sql: &str) -> Result<(), Failure> {
        let was_clean = self.begin_statement();
        let answer = timeout(ANSWER_LIMIT, self.connection()?.batch_execute(sql)).await;
        self.end_statement(answer, was_clean).await
    }

    /// Until [`be_as_usual`](Self::be_as_usual), the server sets no limit to statements.
    pub(super) async fn be_patient(&mut self) -> Result<(), Failure> {
        self.run(PATIENT).await?;
        self.is_clean = false;
        Ok(())
    }

    pub(super) async fn be_as_usual(&mut self) -> Result<(), Failure> {
        self.run(USUAL).await?;
        self.is_clean = true;
        Ok(())
    }

    /// [`load`](Self::load) without a limit.
    pub(super) async fn load_long<'q, Q, U>(&mut self, query: Q) -> Result<Vec<U>, Failure>
    where
        U: Send,
        Q: LoadQuery<'q, AsyncMysqlConnection, U> + Send + 'q,
    {
        let was_clean = self.begin_statement();
        let answer = query.load(self.connection()?).await;
        self.end_statement(Ok(answer), was_clean).await
    }

    /// [`execute`](Self::execute) without a limit.
    pub(super) async fn execute_long<Q>(&mut self, statement: Q) -> Result<usize, Failure>
    where
        Q: QueryFragment<Mysql> + QueryId + RunQueryDsl<AsyncMysqlConnection> + Send,
    {
        let was_clean = self.begin_statement();
        let answer = statement.execute(self.connection()?).await;
        self.end_statement(Ok(answer), was_clean).await
    }

    /// Executes a statement that may take as long as it needs.
    pub(super) async fn run_long(&mut self, sql: &str) -> Result<(), Failure> {
        let was_clean = self.begin_statement();
        let answer = self.connection()?.batch_execute(sql).await;
        self.end_statement(Ok(answer), was_clean).await
    }

    /// Begins a transaction, which [`commit`](Self::commit) or [`rollback`](Self::rollback) ends.
    pub(super) async fn begin(&mut self) -> Result<(), Failure> {
        self.run("START TRANSACTION").await?;
        self.is_clean = false;
        Ok(())
    }

    /// Begins a transaction of which all queries read one snapshot.
    pub(super) async fn begin_snapshot(&mut self) -> Result<(), Failure> {
        const BEGIN: &str = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; \
            START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";
        self.run(BEGIN).await?;
        self.is_clean = false;
        Ok(())
    }

    pub(super) async fn commit(&mut self) -> Result<(), Failure> {
        self.run("COMMIT").await?;
        self.is_clean = true;
        Ok(())
    }

    pub(super) async fn rollback(&mut self) -> Result<(), Failure> {
        self.run("ROLLBACK").await?;
        self.is_clean = true;
        Ok(())
    }

    fn connection(&mut self) -> Result<&mut AsyncMysqlConnection, Failure> {
        self.connection.as_mut().ok_or_else(|| Failure::lost("the connection is closed"))
    }

    pub(super) fn error(&self, failure: Failure) -> StoreError {
        failure.into_store_error(&self.pool.address.shown, self.operation)
    }

    /// Ends a transaction by what it came to. `None`: it was rolled back; try it again.
    pub(super) async fn end<T>(&mut self, ended: Result<T, Failure>, tries: &mut Tries) -> Result<Option<T>> {
        let failure = match ended {
            Ok(value) => match self.commit().await {
                Ok(()) => return Ok(Some(value)),
                Err(failure) => failure,
            },
            Err(failure) => failure,
        };
        // If it fails, the connection is closed, which does the same.
        let _ = self.rollback().await;
        if failure.is_conflict() && tries.again().await { Ok(None) } else { Err(self.error(failure)) }
    }

    /// Until the statement ends, the connection must not be used by another caller. Returns whether it might be before.
    fn begin_statement(&mut self) -> bool {
        std::mem::replace(&mut self.is_clean, false)
    }

    async fn end_statement<T>(
        &mut self,
        answer: Result<QueryResult<T>, Elapsed>,
        was_clean: bool,
    ) -> Result<T, Failure> {
        let answer = match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(diagnose(self.connection()?, &error).await),
            Err(late) => Err(Failure::late(late)),
        };
        self.end_diagnosed(answer, was_clean)
    }

    fn end_diagnosed<T>(&mut self, answer: Result<T, Failure>, was_clean: bool) -> Result<T, Failure> {
        if answer.as_ref().is_err_and(Failure::is_read_only) {
            // Another server may be the one that accepts writes.
            self.connection = None;
            self.pool.distrust_idle();
            return answer;
        }
        match answer.as_ref().map_err(|failure| failure.kind) {
            Ok(_) | Err(FailureKind::Server(_)) => self.is_clean = was_clean,
            Err(FailureKind::Client) => {}
            Err(FailureKind::Lost) => {
                self.connection = None;
                self.pool.distrust_idle();
            }
            Err(FailureKind::Late) => self.cancel(),
        }
        answer
    }

    /// Ends the running statement at the server, which does not notice that its client has gone.
    fn cancel(&mut self) {
        if let Some(connection) = self.connection.take() {
            let token = connection.cancel_token();
            tokio::spawn(async move { timeout(ANSWER_LIMIT, token.cancel_query()).await });
        }
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if self.is_clean
            && let Some(connection) = self.connection.take()
        {
            self.pool.put_back(connection);
        }
    }
}

/// The tries of one transaction.
#[derive(Debug, Default)]
pub(super) struct Tries(u32);

impl Tries {
    /// Whether it may be tried again; pauses before it is.
    async fn again(&mut self) -> bool {
        self.0 += 1;
        if self.0 >= MOST_TRIES {
            return false;
        }
        let longest = 5 * u64::from(self.0);
        tokio::time::sleep(Duration::from_millis(rand::random_range(1..=longest))).await;
        true
    }
}

/// Runs a transaction, again if the server rolled it back because of another one. `$work` is a future of a
/// `Result<T, Failure>`; it may not hold anything from an earlier try.
macro_rules! in_transaction {
    ($pool:expr, $operation:expr, |$session:ident| $work:expr) => {{
        let mut tries = $crate::store::mysql::session::Tries::default();
        loop {
            let mut session = $pool.session($operation).await?;
            if let Err(failure) = session.begin().await {
                break Err(session.error(failure));
            }
            let ended = {
                let $session = &mut session;
                $work.await
            };
            match session.end(ended, &mut tries).await {
                Ok(None) => {}
                Ok(Some(value)) => break Ok(value),
                Err(error) => break Err(error),
            }
        }
    }};
}
pub(super) use in_transaction;

/// Runs a query or a single statement, which is its own transaction. `$work` as for [`in_transaction`].
macro_rules! on_session {
    ($pool:expr, $operation:expr, |$session:ident| $work:expr) => {{
        let mut session = $pool.session($operation).await?;
        let ended = {
            let $session = &mut session;
            $work.await
        };
        ended.map_err(|failure| session.error(failure))
    }};
}
pub(super) use on_session;

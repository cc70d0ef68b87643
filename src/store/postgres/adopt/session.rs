//! A connection that changes a table while other connections write to it.

use std::time::{Duration, Instant};

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use super::{Result, catalog};
use crate::error::StoreError;
use crate::store::postgres::connect::Target;
use crate::store::postgres::errors::chain;
use crate::store::postgres::migrate::lock_key;
use crate::store::postgres::schema::Schema;
use crate::store::postgres::schema_client::SchemaClient;

/// The number of tries for a lock, the wait in each, and the pause between, in which other transactions get theirs.
struct Patience {
    lock_timeout: Duration,
    tries: u32,
    pause: Duration,
}

/// For statements that block writers while they wait for their lock. Longer than `deadlock_timeout` (1 s by default), after
/// which autovacuum yields its lock.
const BRIEF: Patience =
    Patience { lock_timeout: Duration::from_millis(1_500), tries: 40, pause: Duration::from_secs(1) };

/// For statements that wait for older transactions and block no writer.
const LONG: Patience = Patience { lock_timeout: Duration::from_secs(600), tries: 3, pause: Duration::from_secs(1) };

/// The wait for another adoption. After a kill the server needs a second to notice that the client is gone.
pub(super) const ADOPTION_WAIT: Duration = Duration::from_secs(10);

/// The wait for another upgrade, which may build an index of a large table.
pub(super) const UPGRADE_WAIT: Duration = Duration::from_secs(3_600);
const MIGRATION_POLL: Duration = Duration::from_millis(100);

/// The connection of an adoption, of which only one runs at a time.
pub(in crate::store::postgres) struct AdoptSession<'a> {
    target: &'a Target,
    client: &'a SchemaClient,
}

impl<'a> AdoptSession<'a> {
    /// Waits until no other migration runs.
    pub(in crate::store::postgres) async fn begin(target: &'a Target, client: &'a SchemaClient) -> Result<Self> {
        Self::begin_within(ADOPTION_WAIT, target, client).await
    }

    /// Waits as long as this until no other migration runs.
    ///
    /// Polls instead of letting the server wait: a waiting statement is a transaction, for which building an index
    /// concurrently would wait.
    pub(super) async fn begin_within(patience: Duration, target: &'a Target, client: &'a SchemaClient) -> Result<Self> {
        let session = Self { target, client };
        session.run("SET statement_timeout = 0").await?;
        // Makes a statement end soon after its client was killed. Not every system supports it, so a refusal is ignored.
        let _ = client.batch_execute("SET client_connection_check_interval = '500ms'").await;
        let began = Instant::now();
        while !session.try_lock().await? {
            if began.elapsed() > patience {
                return Err(
                    session.failure("another migration is running in this schema: wait until it ends".to_owned())
                );
            }
            tokio::time::sleep(MIGRATION_POLL).await;
        }
        Ok(session)
    }

    async fn try_lock(&self) -> Result<bool> {
        let key = lock_key(self.client.schema());
        let row = self.client.query_one(&format!("SELECT pg_try_advisory_lock({key})"), &[]).await;
        row.and_then(|row| row.try_get(0)).map_err(|error| self.error(&error))
    }

    pub(in crate::store::postgres) async fn end(self) -> Result<()> {
        let key = lock_key(self.client.schema());
        self.run(&format!("SELECT pg_advisory_unlock({key})")).await
    }

    /// Runs statements in one transaction and returns the first row's first column. They are sent together: no lock is held
    /// while this program is stopped or killed.
    pub(in crate::store::postgres) async fn transact(&self, sql: &str) -> Result<Option<String>> {
        let sql = transaction(self.client.schema(), sql);
        let mut tries = 1;
        loop {
            match self.client.simple_query(&sql).await {
                Ok(answer) => return Ok(answer.iter().find_map(catalog::first_column)),
                Err(error) => {
                    // On a lost connection this fails too, and the next statement reports it.
                    let _ = self.client.batch_execute("ROLLBACK").await;
                    self.pause_or_fail(&BRIEF, tries, &error).await?;
                }
            }
            tries += 1;
        }
    }

    /// Builds an index while others write. An index that an earlier try left unfinished is dropped first.
    pub(super) async fn build_index(&self, name: &str, sql: &str) -> Result<()> {
        self.run(&format!("SET lock_timeout = '{}ms'", LONG.lock_timeout.as_millis())).await?;
        let mut tries = 1;
        while let Err(error) = self.try_to_build(name, sql).await {
            self.pause_or_fail(&LONG, tries, &error).await?;
            tries += 1;
        }
        Ok(())
    }

    async fn try_to_build(&self, name: &str, sql: &str) -> std::result::Result<(), Error> {
        if catalog::is_unfinished(self.client, name).await? {
            self.client.batch_execute(&drop_index(self.client.schema(), name)).await?;
        }
        self.client.batch_execute(sql).await
    }

    pub(super) fn schema(&self) -> &Schema {
        self.client.schema()
    }

    pub(super) async fn count_pages(&self) -> Result<u64> {
        let pages = catalog::count_pages(self.client).await.map_err(|error| self.error(&error))?;
        Ok(u64::try_from(pages).unwrap_or(0))
    }

    /// The number of unpublished rows that still have no `seq`.
    pub(super) async fn count_unplaced(&self) -> Result<i64> {
        let counted = catalog::count_unpublished(self.client, true).await;
        counted.map(|(unplaced, _)| unplaced).map_err(|error| self.error(&error))
    }

    /// Handles a lock that was not acquired: pauses so that other transactions get theirs, or fails after the last try.
    async fn pause_or_fail(&self, patience: &Patience, tries: u32, error: &Error) -> Result<()> {
        if !is_contention(error) {
            return Err(self.error(error));
        }
        if tries >= patience.tries {
            let said = chain(error);
            return Err(self.failure(format!(
                "{said}, {tries} times: find the long transaction in pg_stat_activity. Finished steps are kept; run \
                 `outbox migrate` again"
            )));
        }
        tracing::info!(tries, error = chain(error), "lock not acquired; retrying");
        tokio::time::sleep(patience.pause).await;
        Ok(())
    }

    async fn run(&self, sql: &str) -> Result<()> {
        self.client.batch_execute(sql).await.map_err(|error| self.error(&error))
    }

    fn error(&self, error: &Error) -> StoreError {
        self.target.driver_error("migrate", error)
    }

    fn failure(&self, reason: String) -> StoreError {
        StoreError::Query { operation: "migrate", reason, transient: true }
    }
}

/// Statements as [`AdoptSession::transact`] sends them.
pub(in crate::store::postgres) fn transaction(schema: &Schema, sql: &str) -> String {
    let lock_timeout = BRIEF.lock_timeout.as_millis();
    let search_path = schema.set_local();
    format!("BEGIN;\nSET LOCAL lock_timeout = '{lock_timeout}ms';\n{search_path};\n\n{}\n\nCOMMIT;", sql.trim())
}

pub(super) fn drop_index(schema: &Schema, name: &str) -> String {
    format!("DROP INDEX CONCURRENTLY {}.{name};", schema.quoted())
}

fn is_contention(error: &Error) -> bool {
    matches!(error.code(), Some(&SqlState::LOCK_NOT_AVAILABLE | &SqlState::T_R_DEADLOCK_DETECTED))
}

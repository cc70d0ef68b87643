//! What a measurement cost the server.

use std::time::Duration;

use super::{BenchSchema, Result, refused};

/// How long connections may take to go, and with them their statistics to come.
const LEAVING: Duration = Duration::from_secs(10);

const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Notes when a worker's first heartbeat was; the row in `outbox_workers` goes when the worker does.
pub(super) const NOTE_STARTS: &str = "\
    CREATE TABLE bench_starts (at timestamptz NOT NULL DEFAULT clock_timestamp()); \
    CREATE FUNCTION note_start() RETURNS trigger LANGUAGE plpgsql AS \
        $$ BEGIN INSERT INTO bench_starts DEFAULT VALUES; RETURN NULL; END $$; \
    CREATE TRIGGER note_start AFTER INSERT ON outbox_workers FOR EACH ROW EXECUTE FUNCTION note_start()";

/// What the server has counted so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Marks {
    /// Bytes, of the whole server.
    pub(crate) wal: i64,
    /// Of the whole database.
    pub(crate) commits: i64,
    /// Row versions that an update or a delete left behind in this schema.
    pub(crate) dead: i64,
}

/// What a worker has done since it started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Drained {
    pub(crate) events: i64,
    /// From its first heartbeat to the last record of a published event, by the database's clock.
    pub(crate) seconds: f64,
}

impl BenchSchema {
    /// Waits until nobody else works here, for a connection hands in what it counted when it goes; then reads.
    pub(crate) async fn marks(&self) -> Result<Marks> {
        self.wait_quiet().await?;
        let question = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint, \
            (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()), \
            (SELECT coalesce(sum(n_tup_upd + n_tup_del), 0)::bigint FROM pg_stat_user_tables \
             WHERE schemaname = current_schema())";
        let row = self.client.query_one(question, &[]).await.map_err(|error| self.failed(&error))?;
        let get = |column| row.try_get(column).map_err(|error| self.failed(&error));
        Ok(Marks { wal: get(0)?, commits: get(1)?, dead: get(2)? })
    }

    /// How many connections there are in this schema, but for the one that asks.
    pub(crate) async fn connections(&self) -> Result<i64> {
        let question = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND pid <> pg_backend_pid()";
        let row = self.client.query_one(question, &[&self.name]).await;
        row.and_then(|row| row.try_get(0)).map_err(|error| self.failed(&error))
    }

    async fn wait_quiet(&self) -> Result<()> {
        let deadline = tokio::time::Instant::now() + LEAVING;
        while self.connections().await? > 0 {
            if tokio::time::Instant::now() > deadline {
                return Err(refused(format!("connections of {} are still there after {LEAVING:?}", self.name)));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }

    /// What the last worker has done.
    pub(crate) async fn drained(&self) -> Result<Drained> {
        let question = "SELECT count(*), coalesce(extract(epoch FROM max(published_at) - \
            (SELECT max(at) FROM bench_starts)), 0)::float8 FROM outbox_events WHERE status = 'published'";
        let row = self.client.query_one(question, &[]).await.map_err(|error| self.failed(&error))?;
        let read = || Ok(Drained { events: row.try_get(0)?, seconds: row.try_get(1)? });
        read().map_err(|error| self.failed(&error))
    }
}

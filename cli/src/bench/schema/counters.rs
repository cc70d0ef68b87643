//! The cost of a measurement for the server.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{BenchSchema, MEASURE};

/// The wait for connections to end, after which their statistics are complete.
const LEAVING: Duration = Duration::from_secs(10);

const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Records the time of a worker's first heartbeat; a worker deletes its row in `outbox_workers` when it stops.
pub(super) const NOTE_STARTS: &str = "\
    CREATE TABLE bench_starts (at timestamptz NOT NULL DEFAULT clock_timestamp()); \
    CREATE FUNCTION note_start() RETURNS trigger LANGUAGE plpgsql AS \
        $$ BEGIN INSERT INTO bench_starts DEFAULT VALUES; RETURN NULL; END $$; \
    CREATE TRIGGER note_start AFTER INSERT ON outbox_workers FOR EACH ROW EXECUTE FUNCTION note_start()";

/// Records the time of each settle that deletes events.
pub(super) const NOTE_DELETIONS: &str = "\
    CREATE TABLE bench_deletions (at timestamptz NOT NULL DEFAULT clock_timestamp()); \
    CREATE FUNCTION note_deletion() RETURNS trigger LANGUAGE plpgsql AS \
        $$ BEGIN INSERT INTO bench_deletions DEFAULT VALUES; RETURN NULL; END $$; \
    CREATE TRIGGER note_deletion AFTER DELETE ON outbox_events FOR EACH STATEMENT EXECUTE FUNCTION note_deletion()";

/// A table with the least that an outbox needs.
pub(super) const MINIMAL_TABLE: &str = "\
    CREATE TABLE bench_minimal (id uuid PRIMARY KEY, event_type text NOT NULL, data jsonb, status text NOT NULL DEFAULT 'pending', \
        created_at timestamptz NOT NULL DEFAULT now(), seq bigserial); \
    CREATE INDEX ON bench_minimal (seq) WHERE status = 'pending'";

/// The server's counters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServerCounters {
    /// WAL bytes of the whole server.
    pub(crate) wal: i64,
    /// Commits in the whole database.
    pub(crate) commits: i64,
    /// Row versions that an update or a delete left behind in this schema.
    pub(crate) dead: i64,
}

/// The result of a worker since it started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Drained {
    pub(crate) events: i64,
    /// Seconds from its first heartbeat to the last settled event, by the database's clock.
    pub(crate) seconds: f64,
}

impl BenchSchema {
    /// Reads the counters after all other connections ended, because a connection reports its statistics when it ends.
    pub(crate) async fn counters(&self) -> Result<ServerCounters> {
        self.wait_quiet().await?;
        let question = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint, \
            (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()), \
            (SELECT coalesce(sum(n_tup_upd + n_tup_del), 0)::bigint FROM pg_stat_user_tables \
             WHERE schemaname = current_schema())";
        let row = self.client.query_one(question, &[]).await.context(MEASURE)?;
        let get = |column| row.try_get(column).context(MEASURE);
        Ok(ServerCounters { wal: get(0)?, commits: get(1)?, dead: get(2)? })
    }

    /// The number of connections in this schema, except the one that asks.
    pub(crate) async fn connections(&self) -> Result<i64> {
        let question = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND pid <> pg_backend_pid()";
        let row = self.client.query_one(question, &[&self.name]).await;
        row.and_then(|row| row.try_get(0)).context(MEASURE)
    }

    /// Commits so far in the whole database; a connection reports them within a second.
    pub(crate) async fn commits(&self) -> Result<i64> {
        self.number("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()").await
    }

    /// Leases that a live worker holds.
    pub(crate) async fn running_leases(&self) -> Result<i64> {
        self.number("SELECT count(*) FROM outbox_running_leases").await
    }

    /// Updates of events so far, with the same delay.
    pub(crate) async fn updates(&self) -> Result<i64> {
        let question = "SELECT n_tup_upd FROM pg_stat_user_tables \
            WHERE relname = 'outbox_events' AND schemaname = current_schema()";
        self.number(question).await
    }

    async fn number(&self, question: &str) -> Result<i64> {
        let row = self.client.query_one(question, &[]).await;
        row.and_then(|row| row.try_get(0)).context(MEASURE)
    }

    /// Waits until no other connection works in this schema.
    pub(crate) async fn wait_quiet(&self) -> Result<()> {
        let deadline = tokio::time::Instant::now() + LEAVING;
        while self.connections().await? > 0 {
            if tokio::time::Instant::now() > deadline {
                bail!("connections of {} are still open after {LEAVING:?}", self.name);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }

    /// The result of the last worker.
    pub(crate) async fn drained(&self) -> Result<Drained> {
        let question = "SELECT count(*), coalesce(extract(epoch FROM max(published_at) - max(s.at)), 0)::float8 \
            FROM outbox_events e, (SELECT max(at) AS at FROM bench_starts) s \
            WHERE e.status = 'published' AND e.published_at >= s.at";
        let row = self.client.query_one(question, &[]).await.context(MEASURE)?;
        let read = || Ok::<_, tokio_postgres::Error>(Drained { events: row.try_get(0)?, seconds: row.try_get(1)? });
        read().context(MEASURE)
    }

    /// The result of the last worker, which deletes: of `events`, those that are left are not done.
    pub(crate) async fn drained_by_deleting(&self, events: u32) -> Result<Drained> {
        let question = "SELECT $1 - (SELECT count(*) FROM outbox_events), \
            coalesce(extract(epoch FROM max(d.at) - max(s.at)), 0)::float8 FROM bench_starts s, bench_deletions d";
        let row = self.client.query_one(question, &[&i64::from(events)]).await.context(MEASURE)?;
        let read = || Ok::<_, tokio_postgres::Error>(Drained { events: row.try_get(0)?, seconds: row.try_get(1)? });
        read().context(MEASURE)
    }

    /// The server's process for this connection, which has a number on the server's machine.
    pub(crate) async fn process(&self) -> Result<i32> {
        let row = self.client.query_one("SELECT pg_backend_pid()", &[]).await;
        row.and_then(|row| row.try_get(0)).context(MEASURE)
    }

    /// The seconds that the last worker took for this many events.
    pub(crate) async fn seconds_for(&self, events: u32) -> Result<Option<f64>> {
        let question = "SELECT extract(epoch FROM e.published_at - s.at)::float8 \
            FROM outbox_events e, (SELECT max(at) AS at FROM bench_starts) s \
            WHERE e.status = 'published' AND e.published_at >= s.at ORDER BY e.published_at OFFSET $1 LIMIT 1";
        let row = self.client.query_opt(question, &[&(i64::from(events) - 1)]).await;
        row.and_then(|row| row.map(|row| row.try_get(0)).transpose()).context(MEASURE)
    }
}

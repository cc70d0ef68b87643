//! One worker that drains a backlog from PostgreSQL into Redis, and its time and memory.
//!
//! Both servers are started here with their default settings: PostgreSQL writes through to the disk before it answers.
//! Everything shares the machine.

#[path = "../../../tests/support/mod.rs"]
pub(crate) mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use support::process::Running;
use support::{PATIENCE, postgres, redis};

const POSTGRES: &[(&str, &str)] = &[("fsync", "on"), ("full_page_writes", "on"), ("shared_buffers", "256MB")];

/// The two servers.
pub(crate) struct Servers {
    postgres: postgres::Server,
    redis: redis::Server,
}

impl Servers {
    /// Starts the servers, with further settings for PostgreSQL.
    pub(crate) fn start(settings: &[(&str, &str)]) -> Self {
        Self {
            postgres: postgres::Server::start_with(&[POSTGRES, settings].concat()),
            redis: redis::Server::start(&[]),
        }
    }

    /// PostgreSQL's log so far.
    pub(crate) fn postgres_log(&self) -> String {
        self.postgres.log()
    }

    /// A database with the outbox's tables, and a stream.
    pub(crate) async fn outbox(&self) -> Outbox {
        let outbox =
            Outbox { database: self.postgres.database().await, redis_url: self.redis.url(), stream: redis::stream() };
        let mut migrate = Running::spawn(outbox.command().arg("migrate"));
        assert!(migrate.wait_exit(PATIENCE).await.success(), "{}", migrate.stderr());
        outbox
    }
}

pub(crate) struct Outbox {
    pub(crate) database: postgres::Database,
    redis_url: String,
    stream: String,
}

/// The time and memory of a drain, from the program's start to its end, which includes starting, taking the leases and
/// finding nothing more.
pub(crate) struct Drain {
    pub(crate) whole: Duration,
    pub(crate) peak_mebibytes: f64,
}

impl Outbox {
    pub(crate) fn command(&self) -> Command {
        self.command_of(env!("CARGO_BIN_EXE_outbox"))
    }

    /// Another program with the same settings.
    pub(crate) fn command_of(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("OUTBOX__DATABASE__URL", &self.database.url)
            .env("OUTBOX__PUBLISHERS__DEFAULT__BACKEND", "redis_stream")
            .env("OUTBOX__PUBLISHERS__DEFAULT__URL", &self.redis_url)
            .env("OUTBOX__PUBLISHERS__DEFAULT__STREAM_NAME", &self.stream)
            .env("OUTBOX__PUBLISHERS__DEFAULT__MAX_LEN", "0");
        command
    }

    /// Writes events with this many keys, or without; the table is vacuumed afterwards.
    pub(crate) async fn insert(&self, events: i32, keys: i32) {
        self.write(events, keys).await;
        self.execute("VACUUM ANALYZE outbox_events").await;
        self.execute("CHECKPOINT").await;
    }

    /// Writes events with this many keys, or without.
    pub(crate) async fn write(&self, events: i32, keys: i32) {
        let statement = "INSERT INTO outbox_events (id, event_type, source, subject, data, partition_key)
            SELECT gen_random_uuid(), 'order.placed', '/shop/orders', 'order-' || n,
                jsonb_build_object('order', n, 'customer', n % 5000, 'total', n * 1.17, 'currency', 'EUR', 'note', repeat('x', 100)),
                CASE WHEN $2 = 0 THEN '' ELSE 'customer-' || n % $2 END
            FROM generate_series(1, $1) n";
        self.database.connect().await.execute(statement, &[&events, &keys]).await.unwrap();
    }

    pub(crate) async fn execute(&self, statement: &str) {
        self.database.connect().await.batch_execute(statement).await.unwrap();
    }

    /// Runs a worker with these further settings until nothing is left.
    pub(crate) async fn drain(&self, settings: &[(&str, &str)]) -> Drain {
        let started = Instant::now();
        let mut worker =
            Running::spawn(self.command().args(["worker", "--until-empty"]).envs(settings.iter().copied()));
        let mut peak_mebibytes = 0.0;
        while worker.is_running() {
            peak_mebibytes = resident_mebibytes(worker.id()).unwrap_or(peak_mebibytes);
            assert!(started.elapsed() < 10 * PATIENCE, "it does not end: {}", worker.stderr());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let whole = started.elapsed();
        let status = worker.wait_exit(PATIENCE).await;
        assert!(status.success(), "{status}: {}", worker.stderr());
        Drain { whole, peak_mebibytes }
    }

    /// Checks that every event is in the stream once, and published.
    pub(crate) async fn check(&self, events: i32) {
        let expected = usize::try_from(events).unwrap();
        let mut ids = redis::event_ids(&self.redis_url, &self.stream).await;
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), expected, "different events in the stream");
        let length = redis::length(&mut redis::connect(&self.redis_url).await, &self.stream).await;
        assert_eq!(length, expected, "entries in the stream");
        assert_eq!(self.number("SELECT count(*) FROM outbox_events WHERE status <> 'published'").await, 0);
    }

    pub(crate) async fn number(&self, query: &str) -> i64 {
        self.database.connect().await.query_one(query, &[]).await.unwrap().get(0)
    }
}

/// The most memory that a process has had so far; `None` once it has ended.
fn resident_mebibytes(id: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<f64>().ok()? / 1024.0)
}

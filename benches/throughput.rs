//! How fast `outbox worker --until-empty` moves a backlog from PostgreSQL into Redis, and in how much memory.
//!
//! `scripts/throughput.sh` runs it. Both servers are started here and work as they do out of the box: PostgreSQL writes
//! through to the disk before it answers. Everything shares the machine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a measurement has no better answer to an error than to fail"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use support::process::Running;
use support::{PATIENCE, postgres, redis};

const EVENTS: u32 = 100_000;
const EVENTS_PER_SECOND: f64 = 30_000.0;
const MEBIBYTES: f64 = 64.0;

const POSTGRES: &[(&str, &str)] = &[("fsync", "on"), ("full_page_writes", "on"), ("shared_buffers", "256MB")];

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        println!("{EVENTS} events, {} processors", std::thread::available_parallelism().unwrap());
        let (postgres, redis) = (postgres::Server::start_with(POSTGRES), redis::Server::start(&[]));
        for (name, keys) in [("without keys", 0), ("with 1,000 keys", 1_000)] {
            measure(name, keys, &postgres, &redis.url()).await;
        }
    });
}

async fn measure(name: &str, keys: i32, postgres: &postgres::Server, redis_url: &str) {
    let database = postgres.database().await;
    let stream = redis::stream();
    let outbox = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outbox"));
        command
            .env("OUTBOX__DATABASE__URL", &database.url)
            .env("OUTBOX__PUBLISHERS__DEFAULT__BACKEND", "redis_stream")
            .env("OUTBOX__PUBLISHERS__DEFAULT__URL", redis_url)
            .env("OUTBOX__PUBLISHERS__DEFAULT__STREAM_NAME", &stream)
            .env("OUTBOX__PUBLISHERS__DEFAULT__MAX_LEN", "0");
        command
    };
    let mut migrate = Running::spawn(outbox().arg("migrate"));
    assert!(migrate.wait_exit(PATIENCE).await.success(), "{}", migrate.stderr());
    insert(&database, keys).await;

    let started = Instant::now();
    let mut worker = Running::spawn(outbox().args(["worker", "--until-empty"]));
    let mut peak = 0.0;
    while worker.is_running() {
        peak = resident_mebibytes(worker.id()).unwrap_or(peak);
        assert!(started.elapsed() < 10 * PATIENCE, "it does not end: {}", worker.stderr());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let whole = started.elapsed();
    let status = worker.wait_exit(PATIENCE).await;
    assert!(status.success(), "{status}: {}", worker.stderr());
    println!("{}", report(name, whole, peak));
    check(&database, redis_url, &stream).await;
}

async fn insert(database: &postgres::Database, keys: i32) {
    let statement = "INSERT INTO outbox_events (id, event_type, source, subject, data, partition_key)
        SELECT gen_random_uuid(), 'order.placed', '/shop/orders', 'order-' || n,
            jsonb_build_object('order', n, 'customer', n % 5000, 'total', n * 1.17, 'currency', 'EUR', 'note', repeat('x', 100)),
            CASE WHEN $2 = 0 THEN '' ELSE 'customer-' || n % $2 END
        FROM generate_series(1, $1) n";
    let sql = database.connect().await;
    sql.execute(statement, &[&(EVENTS as i32), &keys]).await.unwrap();
    sql.batch_execute("VACUUM ANALYZE outbox_events").await.unwrap();
    sql.batch_execute("CHECKPOINT").await.unwrap();
}

/// From the program's start to its end, so starting, taking the leases and finding nothing more are in it.
fn report(name: &str, whole: Duration, peak: f64) -> String {
    let rate = f64::from(EVENTS) / whole.as_secs_f64();
    let verdict = |met| if met { "met" } else { "missed" };
    let mut text = format!("{name}: {:.2} s from start to exit\n", whole.as_secs_f64());
    let met = verdict(rate >= EVENTS_PER_SECOND);
    writeln!(text, "  {rate:>8.0} events/s   (wanted: {EVENTS_PER_SECOND:.0} or more: {met})").unwrap();
    let met = verdict(peak < MEBIBYTES);
    write!(text, "  {peak:>8.1} MiB at peak (wanted: less than {MEBIBYTES:.0}: {met})").unwrap();
    text
}

/// The most memory that a process has had so far; `None` once it has ended.
fn resident_mebibytes(id: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<f64>().ok()? / 1024.0)
}

async fn check(database: &postgres::Database, redis_url: &str, stream: &str) {
    let mut ids = redis::event_ids(redis_url, stream).await;
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), EVENTS as usize, "different events in the stream");
    let length = redis::length(&mut redis::connect(redis_url).await, stream).await;
    assert_eq!(length, EVENTS as usize, "entries in the stream");
    let left = "SELECT count(*) FROM outbox_events WHERE status <> 'published'";
    let left: i64 = database.connect().await.query_one(left, &[]).await.unwrap().get(0);
    assert_eq!(left, 0, "events that are not published");
}

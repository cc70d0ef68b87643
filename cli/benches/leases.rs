//! A worker's heartbeat at first and after a day under one snapshot, which keeps vacuum from removing anything: its time and
//! the pages that it reads. More than half as much again fails the run. `scripts/leases.sh` runs it.
//!
//! A day is 52,000 beats of each of two workers, and 144 reports. They are written here without the workers' code; measured
//! are whole heartbeats, with the reading of leases, workers and heartbeats.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a measurement has no better answer to an error than to fail"
)]

#[allow(dead_code, reason = "each bench uses its own part")]
mod drain;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use actix_outbox::bench_api::Beats;
use drain::{Outbox, Servers};

const BEATS: i64 = 52_000;
const REPORTS: i64 = 144;
const STEPS: i64 = 52;
const MEASURED: usize = 300;
const MOST: f64 = 1.5;

/// The time until the server shows its counters.
const COUNTING: Duration = Duration::from_secs(2);

const PAGES: &str = "SELECT sum(coalesce(heap_blks_hit, 0) + coalesce(heap_blks_read, 0) + coalesce(idx_blks_hit, 0)
    + coalesce(idx_blks_read, 0) + coalesce(toast_blks_hit, 0))::bigint FROM pg_statio_user_tables WHERE relname LIKE 'outbox\\_%'";

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(compare())
}

async fn compare() -> ExitCode {
    let servers = Servers::start(&[("autovacuum", "on"), ("autovacuum_naptime", "1s"), ("fsync", "off")]);
    let (mut new, mut old) = (Beating::start(&servers).await, Beating::start(&servers).await);
    let holder = old.outbox.database.connect().await;
    let hold = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT FROM outbox_events LIMIT 1";
    holder.batch_execute(hold).await.unwrap();
    for _ in 0..STEPS {
        write_versions(&old.outbox).await;
        old.beat_both().await;
        new.beat_both().await;
    }
    // By turns, so that other load of the machine affects both.
    let (pages_new, pages_old) = (new.pages().await, old.pages().await);
    let (mut times_new, mut times_old) = (Vec::new(), Vec::new());
    for n in 0..MEASURED {
        times_new.push(new.beat(n % 2).await);
        times_old.push(old.beat(n % 2).await);
    }
    let (pages_new, pages_old) = (new.pages().await - pages_new, old.pages().await - pages_old);
    let (median_new, median_old) = (median(times_new), median(times_old));
    holder.batch_execute("ROLLBACK").await.unwrap();

    let times = median_old.as_secs_f64() / median_new.as_secs_f64();
    let each = |pages: i64| pages as f64 / MEASURED as f64;
    println!("a heartbeat of one of two workers, {MEASURED} times");
    println!("| | median | pages |\n|---|---|---|");
    println!("| at first | {median_new:.2?} | {:.0} |", each(pages_new));
    println!("| after {BEATS} of each under one snapshot | {median_old:.2?} | {:.0} |", each(pages_old));
    println!("| ratio, limit {MOST} | {times:.2} | {:.2} |", pages_old as f64 / pages_new as f64);
    if times <= MOST { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// An outbox with two workers' heartbeats.
struct Beating {
    outbox: Outbox,
    workers: [Beats; 2],
}

impl Beating {
    async fn start(servers: &Servers) -> Self {
        let outbox = servers.outbox().await;
        let workers = [(); 2].map(|()| Beats::new(&outbox.database.url).unwrap());
        let mut beating = Self { outbox, workers };
        // The first beat of all finds no other worker, and with one of them the newest protocol begins.
        beating.workers[0].beat().await;
        beating.workers[1].beat().await;
        beating.beat_both().await;
        beating
    }

    async fn beat(&mut self, worker: usize) -> Duration {
        let began = Instant::now();
        assert!(self.workers[worker].beat().await, "a heartbeat is answered and finds the other worker");
        began.elapsed()
    }

    /// After this, a row is at the place where it was last read.
    async fn beat_both(&mut self) {
        self.beat(0).await;
        self.beat(1).await;
    }

    /// Pages read so far, once the server has counted them all.
    async fn pages(&mut self) -> i64 {
        tokio::time::sleep(COUNTING).await;
        self.beat_both().await;
        self.outbox.number(PAGES).await
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// A part of a day.
async fn write_versions(outbox: &Outbox) {
    let statement = format!(
        "DO $$ BEGIN FOR n IN 1..{} LOOP
            UPDATE outbox_heartbeats SET heartbeat_at = clock_timestamp(), ends_at = clock_timestamp() + interval '1 minute';
            COMMIT;
        END LOOP;
        FOR n IN 1..{} LOOP UPDATE outbox_workers SET heartbeat_at = clock_timestamp(); COMMIT; END LOOP; END $$",
        BEATS / STEPS,
        REPORTS / STEPS + 1,
    );
    outbox.execute(&statement).await;
}

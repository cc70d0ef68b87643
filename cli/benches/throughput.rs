//! The rate at which `outbox worker --until-empty` moves a backlog from PostgreSQL into Redis, and its memory.
//!
//! `scripts/throughput.sh` runs it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a measurement has no better answer to an error than to fail"
)]

#[allow(dead_code, reason = "each bench uses its own part")]
mod drain;

use drain::{Drain, Servers};

const EVENTS: i32 = 100_000;
const EVENTS_PER_SECOND: f64 = 30_000.0;
const MEBIBYTES: f64 = 64.0;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        println!("{EVENTS} events, {} processors", std::thread::available_parallelism().unwrap());
        let servers = Servers::start(&[]);
        for (name, keys) in [("without keys", 0), ("with 1,000 keys", 1_000)] {
            let outbox = servers.outbox().await;
            outbox.insert(EVENTS, keys).await;
            report(name, &outbox.drain(&[]).await);
            outbox.check(EVENTS).await;
        }
    });
}

fn report(name: &str, drain: &Drain) {
    let rate = f64::from(EVENTS) / drain.whole.as_secs_f64();
    let verdict = |met| if met { "met" } else { "missed" };
    println!("{name}: {:.2} s from start to exit", drain.whole.as_secs_f64());
    let met = verdict(rate >= EVENTS_PER_SECOND);
    println!("  {rate:>8.0} events/s   (wanted: {EVENTS_PER_SECOND:.0} or more: {met})");
    let met = verdict(drain.peak_mebibytes < MEBIBYTES);
    println!("  {:>8.1} MiB at peak (wanted: less than {MEBIBYTES:.0}: {met})", drain.peak_mebibytes);
}

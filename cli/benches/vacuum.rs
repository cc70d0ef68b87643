//! The effect of the table's settings: bursts are written and drained one after the other in a table with half a million old
//! rows; for each variant it prints how often vacuum ran, how many dead rows were left, how much the table grew and the
//! rate.
//!
//! `scripts/vacuum.sh` runs it. The server checks for work once a second, not once a minute as by default, so that a
//! minute's run shows what an hour's would: events arrive that much faster here.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a measurement has no better answer to an error than to fail"
)]

#[allow(dead_code, reason = "each bench uses its own part")]
mod drain;

use std::time::Duration;

use drain::{Outbox, Servers};

const OLD: i32 = 500_000;
const BURSTS: i32 = 20;
const EVENTS: i32 = 20_000;
const ROUNDS: usize = 3;

/// The changes after the migration.
const VARIANTS: &[(&str, &str)] = &[
    ("the migration's", ""),
    (
        "PostgreSQL's own",
        "RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold, autovacuum_analyze_scale_factor)",
    ),
    ("without pauses", "SET (autovacuum_vacuum_cost_delay = 0)"),
    (
        "after a thousand rows, without pauses",
        "SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0)",
    ),
    ("after a tenth, without pauses", "SET (autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_cost_delay = 0)"),
    ("pages filled to 70 %, without pauses", "SET (fillfactor = 70, autovacuum_vacuum_cost_delay = 0)"),
];

/// The result of one variant, in the order of the columns.
struct Outcome {
    events_per_second: f64,
    vacuums: f64,
    most_dead: f64,
    grown_bytes_per_event: f64,
    hot_percent: f64,
    peak_mebibytes: f64,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        println!("{BURSTS} bursts of {EVENTS} events in a table with {OLD} old rows, {ROUNDS} rounds; medians");
        let servers = Servers::start(&[("autovacuum", "on"), ("autovacuum_naptime", "1s")]);
        let mut outcomes: Vec<Vec<Outcome>> = VARIANTS.iter().map(|_| Vec::new()).collect();
        for round in 0..ROUNDS {
            for step in 0..VARIANTS.len() {
                // By turns, so that none always runs first.
                let variant = (round + step) % VARIANTS.len();
                outcomes[variant].push(measure(&servers, VARIANTS[variant].1).await);
            }
        }
        println!(
            "| settings | pace | vacuums | most dead rows | growth, bytes an event | HOT updates | the worker's peak |"
        );
        println!("|---|---|---|---|---|---|---|");
        let first = median(&outcomes[0], |outcome| outcome.events_per_second);
        for ((name, _), outcomes) in VARIANTS.iter().zip(&outcomes) {
            println!(
                "| {name} | {:.2} | {:.0} | {:.0} | {:.0} | {:.1} % | {:.1} MiB |",
                median(outcomes, |outcome| outcome.events_per_second) / first,
                median(outcomes, |outcome| outcome.vacuums),
                median(outcomes, |outcome| outcome.most_dead),
                median(outcomes, |outcome| outcome.grown_bytes_per_event),
                median(outcomes, |outcome| outcome.hot_percent),
                median(outcomes, |outcome| outcome.peak_mebibytes),
            );
        }
    });
}

async fn measure(servers: &Servers, settings: &str) -> Outcome {
    let outbox = servers.outbox().await;
    outbox.insert(OLD, 0).await;
    outbox.execute("UPDATE outbox_events SET status = 'published', published_at = now()").await;
    outbox.execute("VACUUM FULL ANALYZE outbox_events").await;
    if !settings.is_empty() {
        outbox.execute(&format!("ALTER TABLE outbox_events {settings}")).await;
    }
    let size = || outbox.number("SELECT pg_total_relation_size('outbox_events')");
    let (size_before, vacuums_before) = (size().await, counter(&outbox, "autovacuum_count").await);
    let (updates_before, hot_before) = (counter(&outbox, "n_tup_upd").await, counter(&outbox, "n_tup_hot_upd").await);
    let (mut took, mut most_dead, mut peak_mebibytes) = (Duration::ZERO, 0, 0_f64);
    for _ in 0..BURSTS {
        outbox.write(EVENTS, 0).await;
        let drain = outbox.drain(KEEPING).await;
        took += drain.whole;
        peak_mebibytes = peak_mebibytes.max(drain.peak_mebibytes);
        most_dead = most_dead.max(counter(&outbox, "n_dead_tup").await);
    }
    outbox.check(BURSTS * EVENTS).await;
    let events = f64::from(BURSTS * EVENTS);
    let updates = counter(&outbox, "n_tup_upd").await - updates_before;
    Outcome {
        events_per_second: events / took.as_secs_f64(),
        vacuums: (counter(&outbox, "autovacuum_count").await - vacuums_before) as f64,
        most_dead: most_dead as f64,
        grown_bytes_per_event: (size().await - size_before) as f64 / events,
        hot_percent: (counter(&outbox, "n_tup_hot_upd").await - hot_before) as f64 * 100.0 / updates as f64,
        peak_mebibytes,
    }
}

async fn counter(outbox: &Outbox, name: &str) -> i64 {
    outbox.number(&format!("SELECT {name} FROM pg_stat_user_tables WHERE relname = 'outbox_events'")).await
}

/// The old rows stay.
const KEEPING: &[(&str, &str)] = &[("OUTBOX__RETENTION__CLEANUP_PUBLISHED", "false")];

fn median(outcomes: &[Outcome], of: impl Fn(&Outcome) -> f64) -> f64 {
    let mut values: Vec<f64> = outcomes.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

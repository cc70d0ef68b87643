//! The cost of retention for a worker at full speed: the same backlog is drained from a table with a million old rows, with
//! retention deleting them meanwhile and without, by turns.
//!
//! `scripts/retention.sh` runs it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a measurement has no better answer to an error than to fail"
)]

#[allow(dead_code, reason = "each bench uses its own part")]
mod drain;

use drain::{Outbox, Servers};

const EVENTS: i32 = 300_000;
const OLD: i64 = 1_000_000;
const ROUNDS: usize = 5;
const WANTED: f64 = 0.9;

const KEEPING: &[(&str, &str)] =
    &[("OUTBOX__RETENTION__CLEANUP_PUBLISHED", "false"), ("OUTBOX__RETENTION__FAILED_RETENTION_DAYS", "36500")];

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        println!("{EVENTS} events in a table with {OLD} old rows, {ROUNDS} rounds");
        let servers = Servers::start(&[]);
        let mut ratios = Vec::new();
        for round in 1..=ROUNDS {
            // By turns, so that neither always runs on the warmer machine.
            let (keeping, deleting) = if round % 2 == 0 {
                let deleting = rate(&servers, true).await;
                (rate(&servers, false).await, deleting)
            } else {
                (rate(&servers, false).await, rate(&servers, true).await)
            };
            ratios.push(deleting / keeping);
            println!("round {round}: {keeping:.0} events/s without, {deleting:.0} with: {:.3}", deleting / keeping);
        }
        ratios.sort_by(f64::total_cmp);
        let median = ratios[ROUNDS / 2];
        let verdict = if median >= WANTED { "met" } else { "missed" };
        println!("median {median:.3} (wanted: {WANTED} or more: {verdict})");
    });
}

async fn rate(servers: &Servers, deleting: bool) -> f64 {
    let outbox = servers.outbox().await;
    insert_old(&outbox).await;
    outbox.insert(EVENTS, 0).await;
    let drain = outbox.drain(if deleting { &[] } else { KEEPING }).await;
    let left = outbox.number("SELECT count(*) FROM outbox_events WHERE event_type = 'old'").await;
    assert_eq!(left < OLD, deleting, "{left} old rows are left");
    outbox.check(EVENTS).await;
    println!("  {} old rows deleted meanwhile, {:.1} MiB at peak", OLD - left, drain.peak_mebibytes);
    f64::from(EVENTS) / drain.whole.as_secs_f64()
}

async fn insert_old(outbox: &Outbox) {
    let statement = "INSERT INTO outbox_events
            (id, event_type, source, data, status, created_at, updated_at, scheduled_at, published_at)
        SELECT gen_random_uuid(), 'old', '/shop/orders', jsonb_build_object('order', n), 'published', t, t, t, t
        FROM generate_series(1, $1::bigint) n, LATERAL (SELECT now() - interval '30 days' + n * interval '1 second') AS s(t)";
    outbox.database.connect().await.execute(statement, &[&OLD]).await.unwrap();
}

//! The time to explain why an event has not been sent, with two million events in the table.
//!
//! `scripts/explain.sh` runs it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a measurement has no better answer to an error than to fail"
)]

#[allow(dead_code, reason = "nothing is drained")]
mod drain;

use std::time::{Duration, Instant};

use actix_outbox::{OutboxSystem, Settings};
use drain::Servers;
use uuid::Uuid;

const EVENTS: i32 = 2_000_000;
const KEYS: i32 = 1_000;
const ROUNDS: usize = 50;
const WANTED: Duration = Duration::from_millis(50);

/// The events that are explained.
const ASKED: &[(&str, &str)] = &[
    ("the first that is due", "status = 'pending' ORDER BY scheduled_at, seq"),
    (
        "the last of a key that is due, behind the others",
        "status = 'pending' AND partition_key <> '' ORDER BY scheduled_at DESC, seq DESC",
    ),
    (
        "the last that is due, without a key",
        "status = 'pending' AND partition_key = '' ORDER BY scheduled_at DESC, seq DESC",
    ),
    ("one that was published", "status = 'published'"),
];

fn main() {
    actix_rt::System::new().block_on(async {
        println!("{EVENTS} events, half of them with {KEYS} keys, a tenth published; {ROUNDS} rounds");
        let servers = Servers::start(&[]);
        let outbox = servers.outbox().await;
        outbox.write(EVENTS / 2, KEYS).await;
        outbox.write(EVENTS / 2, 0).await;
        let published = "UPDATE outbox_events SET status = 'published', published_at = now() WHERE seq % 10 = 0";
        outbox.execute(published).await;
        outbox.execute("VACUUM ANALYZE outbox_events").await;
        // A worker that owns every shard and does nothing: a busy worker looks the same.
        outbox.execute(WORKER).await;
        let settings = Settings::from_toml(&format!("[database]\nurl = \"{}\"", outbox.database.url)).unwrap();
        let system = OutboxSystem::builder(settings).publish_only(true).start().await.unwrap();
        for (name, condition) in ASKED {
            let query = format!("SELECT id::text FROM outbox_events WHERE {condition} LIMIT 1");
            let id: String = outbox.database.connect().await.query_one(&query, &[]).await.unwrap().get(0);
            let id = Uuid::parse_str(&id).unwrap();
            let mut took = Vec::new();
            let mut reason = String::new();
            for _ in 0..ROUNDS {
                let began = Instant::now();
                reason = system.explain(id).await.unwrap().to_string();
                took.push(began.elapsed());
            }
            took.sort_unstable();
            let (median, longest) = (took[ROUNDS / 2], took[ROUNDS - 1]);
            let verdict = if longest < WANTED { "met" } else { "missed" };
            println!(
                "{name}: median {median:.1?}, longest {longest:.1?} (wanted: {WANTED:?} or less: {verdict})\n  {reason}"
            );
        }
        system.shutdown().await.unwrap();
    });
}

const WORKER: &str = "
    INSERT INTO outbox_workers (id, name, version, backends, handlers, started_at, heartbeat_at)
        VALUES ('00000000-0000-0000-0000-000000000001', 'busy', '', '{\"\": \"ok\"}', '[]', now(), now() + interval '1 day');
    INSERT INTO outbox_heartbeats (worker, beat, heartbeat_at, ends_at)
        VALUES ('00000000-0000-0000-0000-000000000001', 1, now() + interval '1 day', now() + interval '1 day');
    INSERT INTO outbox_leases (backend, shard, owner, epoch, expires_at)
        SELECT '', n, '00000000-0000-0000-0000-000000000001', 1, now() + interval '1 day' FROM generate_series(0, 31) n";

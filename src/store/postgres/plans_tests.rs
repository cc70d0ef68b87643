//! R4: index scans even on a table that was analysed when it was empty and then filled.

use std::time::Duration;

use chrono::Utc;

use super::{PostgresStore, Target};
use crate::event::Status;
pub(super) use crate::store::conformance::hot_path::{accepted, ranges};
use crate::store::conformance::hot_path::{ask_everything, ask_of_nothing, own_every_shard};
use crate::store::{AdminStore, EventFilter, Page, SchemaStore, WaitQuery};
use crate::test_support::postgres::Server;

const ROWS: i32 = 1_000_000;

/// Enough calls for the server to choose a generic plan if it is no worse.
pub(super) const CALLS: usize = 8;

/// The most rows that one plan node may read and discard.
pub(super) const MOST_REMOVED: u64 = 20_000;

/// A server that logs every plan and gathers no statistics.
pub(super) fn explaining_server() -> Server {
    Server::start_with(&[
        ("session_preload_libraries", "auto_explain"),
        ("auto_explain.log_min_duration", "0"),
        ("auto_explain.log_analyze", "on"),
        ("auto_explain.log_timing", "off"),
        ("auto_explain.log_buffers", "on"),
        ("auto_explain.log_nested_statements", "on"),
        ("autovacuum", "off"),
        ("shared_buffers", "256MB"),
        ("max_wal_size", "4GB"),
        ("jit", "off"),
    ])
}

/// Six in ten events are published, three pending, the rest in retry and failed; half have a key, one key is hot.
fn fill() -> String {
    format!(
        "INSERT INTO outbox_events (id, event_type, source, publisher_backend, partition_key, status, \
            created_at, updated_at, scheduled_at, published_at, retry_at, retry_count) \
         SELECT gen_random_uuid(), 't', 's', CASE WHEN i % 7 = 0 THEN '' ELSE 'orders' END, \
            CASE WHEN i % 20 = 3 THEN 'hot' WHEN i % 2 = 1 THEN 'key-' || i % 5003 ELSE '' END, \
            s.status, at, at, at, CASE WHEN s.status = 'published' THEN at END, \
            CASE WHEN s.status = 'retry' THEN at + interval '5 days' END, \
            CASE WHEN s.status = 'retry' THEN 1 ELSE 0 END \
         FROM generate_series(1, {ROWS}) AS i, \
            LATERAL (SELECT now() - interval '10 days' + i * interval '500 milliseconds') AS t(at), \
            LATERAL (SELECT CASE WHEN i / 10 % 10 < 6 THEN 'published' WHEN i / 10 % 10 < 9 THEN 'pending' \
                WHEN i % 2 = 0 THEN 'retry' ELSE 'failed' END) AS s(status)"
    )
}

/// The plans of the statements in the server's log.
pub(super) fn plans(log: &str) -> Vec<&str> {
    log.split("Query Text: ")
        .skip(1)
        .filter(|plan| plan.contains("outbox_events") || plan.contains("outbox_handler"))
        .collect()
}

pub(super) fn removed_rows(plan: &str) -> u64 {
    let removed = plan.lines().filter(|line| line.contains("Rows Removed by"));
    removed.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).max().unwrap_or(0)
}

#[tokio::test]
async fn plans_are_index_scans_on_a_table_that_was_filled_after_analyze() {
    let server = explaining_server();
    let database = server.database().await;
    let open = || PostgresStore::new(Target::from_url(&database.url).unwrap(), None).unwrap();
    open().migrate(&|_| ()).await.unwrap();
    let client = database.connect().await;
    client.batch_execute("ANALYZE").await.unwrap();
    let early = open();
    ask_of_nothing(&early, CALLS).await;
    client.batch_execute(&fill()).await.unwrap();

    let (worker, epoch) = own_every_shard(&open()).await;
    let asked_from = server.log().len();
    ask_everything(&early, worker, epoch).await;
    for mode in ["auto", "force_generic_plan", "force_custom_plan"] {
        let set = format!("ALTER DATABASE {} SET plan_cache_mode = {mode}", database.name);
        client.batch_execute(&set).await.unwrap();
        let store = open();
        for _ in 0..if mode == "auto" { CALLS } else { 1 } {
            ask_everything(&store, worker, epoch).await;
        }
    }
    let log = server.log();
    let plans = plans(&log[asked_from..]);
    assert!(plans.len() >= CALLS * 15, "{} plans were written down", plans.len());
    for plan in plans {
        assert!(!plan.contains("Seq Scan on outbox_events"), "{plan}");
        assert!(removed_rows(plan) <= MOST_REMOVED, "{plan}");
    }
}

#[tokio::test]
async fn listing_the_newest_events_does_not_read_all_others_even_after_analyze() {
    let server = explaining_server();
    let database = server.database().await;
    let store = PostgresStore::new(Target::from_url(&database.url).unwrap(), None).unwrap();
    store.migrate(&|_| ()).await.unwrap();
    let fill = "INSERT INTO outbox_events (id, event_type, source, status, created_at) \
        SELECT gen_random_uuid(), 't', 's', CASE WHEN n > 270000 THEN 'pending' ELSE 'published' END, \
            now() - (300000 - n) * interval '1 second' FROM generate_series(1, 300000) n; \
        ANALYZE outbox_events";
    database.connect().await.batch_execute(fill).await.unwrap();
    let asked_from = server.log().len();
    for statuses in [&[Status::Pending][..], &[Status::Retry, Status::Pending]] {
        let filter = EventFilter { statuses: statuses.to_vec(), ..EventFilter::default() };
        for newest_first in [false, true] {
            let page = Page { newest_first, after: None, limit: 500 };
            assert_eq!(store.scan(&filter, page, 20_000).await.unwrap().places.len(), 500);
            assert_eq!(store.scan(&filter, page, 20_000).await.unwrap().places.len(), 500);
        }
    }
    let log = server.log();
    let plans = plans(&log[asked_from..]);
    assert!(plans.len() >= 8, "{} plans were written down", plans.len());
    for plan in plans {
        assert!(removed_rows(plan) <= MOST_REMOVED && !plan.contains("Seq Scan on outbox_events"), "{plan}");
    }
}

#[tokio::test]
async fn a_sample_of_waits_reads_no_more_than_it_returns() {
    let server = explaining_server();
    let database = server.database().await;
    let store = PostgresStore::new(Target::from_url(&database.url).unwrap(), None).unwrap();
    store.migrate(&|_| ()).await.unwrap();
    let client = database.connect().await;
    let fill = "INSERT INTO outbox_events (id, event_type, source, status, created_at, scheduled_at, published_at, publisher_backend) \
        SELECT gen_random_uuid(), 't', 's', CASE WHEN n % 3 = 0 THEN 'pending' ELSE 'published' END, at, at, \
            CASE WHEN n % 3 > 0 THEN at + interval '1 second' END, CASE WHEN n % 100 = 1 THEN 'rare' ELSE '' END \
        FROM generate_series(1, 300000) n, LATERAL (SELECT now() - n * interval '100 milliseconds') t(at)";
    client.batch_execute(fill).await.unwrap();
    let (period, periods, each) = (Duration::from_secs(60), 60, 20);
    for analyse in ["", "ANALYZE outbox_events"] {
        client.batch_execute(analyse).await.unwrap();
        // Four of 400 published events of a minute are of the rare backend, and three of the first 300.
        for (backends, most_read, found, most_removed) in
            [(Vec::new(), 0, 59 * 20..=60 * 20, 0), (vec!["rare".to_owned()], 300, 59 * 2..=60 * 4, 300)]
        {
            let from = Utc::now() - 60 * period;
            let query = WaitQuery { from, period, periods, each, backends, most_read };
            let asked_from = server.log().len();
            let waits = store.sample_waits(query).await.unwrap();
            assert!(found.contains(&waits.len()), "{}", waits.len());
            let log = server.log();
            let plans = plans(&log[asked_from..]);
            let [plan] = plans.as_slice() else { panic!("{} plans were written down", plans.len()) };
            assert!(plan.contains("outbox_events_published") && removed_rows(plan) <= most_removed, "{plan}");
            assert!(!plan.contains("Sort"), "{plan}");
        }
    }
}

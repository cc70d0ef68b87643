//! The order of events within a key.

use std::sync::Arc;

use tokio::sync::Barrier;

use crate::support::{PATIENCE, eventually};
use crate::test_outbox::TestOutbox;

const WRITERS: usize = 8;
const KEYS: usize = 40;
const EVENTS_PER_WRITER: usize = 250;

/// Writes an event and its aggregate's next version in a transaction that stays open for a while, so that events of
/// different keys are committed in another order than they were written in.
const WRITE: &str = "
    BEGIN;
    UPDATE aggregates SET version = version + 1 WHERE key = '{key}';
    INSERT INTO outbox_events (id, event_type, source, data, partition_key)
        SELECT gen_random_uuid(), 'thing.changed', 'tests', jsonb_build_object('version', version), key
        FROM aggregates WHERE key = '{key}';
    SELECT pg_sleep(random() * 0.01);
    COMMIT";

#[tokio::test]
async fn events_of_a_key_arrive_in_the_order_in_which_writers_took_turns_on_it() {
    let test = Arc::new(TestOutbox::new().await);
    let create = "CREATE TABLE aggregates AS SELECT 'key-' || n AS key, 0 AS version FROM generate_series(0, $1 - 1) n";
    test.sql().await.batch_execute(&create.replace("$1", &KEYS.to_string())).await.unwrap();
    let settings = test.settings().worker("lease = \"2s\"\nbatch_size = 50").write();
    let _workers = ["one", "other"].map(|name| test.worker(&settings, name));
    test.wait_owners(&["one", "other"]).await;

    let barrier = Arc::new(Barrier::new(WRITERS));
    let writers = (0..WRITERS).map(|writer| {
        let (test, barrier) = (Arc::clone(&test), Arc::clone(&barrier));
        tokio::spawn(async move {
            let sql = test.sql().await;
            barrier.wait().await;
            for n in 0..EVENTS_PER_WRITER {
                let key = format!("key-{}", (writer * 7 + n * 13) % KEYS);
                sql.batch_execute(&WRITE.replace("{key}", &key)).await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    test.wait_published().await;

    test.assert_delivered().await;
    let versions = "SELECT id::text, partition_key, (data->>'version')::int FROM outbox_events";
    let rows = test.sql().await.query(versions, &[]).await.unwrap();
    assert_eq!(rows.len(), WRITERS * EVENTS_PER_WRITER);
    let versions: std::collections::HashMap<String, (String, i32)> =
        rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
    let mut latest = std::collections::HashMap::new();
    for id in test.event_ids().await {
        let (key, version) = &versions[&id];
        let before = latest.insert(key, *version).unwrap_or(0);
        assert_eq!(*version, before + 1, "the versions of {key} follow one another");
    }
}

/// Due retries held by a failed event of their key, more of them than one fetch of retries returns.
#[tokio::test]
async fn retries_that_a_failed_event_holds_do_not_keep_others_from_being_read() {
    let test = TestOutbox::new().await;
    let write =
        "INSERT INTO outbox_events (id, event_type, source, partition_key, status, retry_count, scheduled_at, retry_at)
        SELECT gen_random_uuid(), 'thing.happened', 'tests', $1, $2::text, 1, now() - interval '1 hour',
            CASE WHEN $2::text = 'retry' THEN now() - interval '1 second' * (1 + $4::int) END
        FROM generate_series(1, $3::int)";
    let sql = test.sql().await;
    for (key, status, count, age) in [("held", "failed", 1, 0), ("held", "retry", 300, 600), ("", "retry", 20, 1)] {
        sql.execute(write, &[&key, &status, &count, &age]).await.unwrap();
    }
    let settings =
        test.settings().worker("max_in_flight = 40\nbatch_size = 20").publisher("on_failed = \"hold\"").write();
    let _worker = test.worker(&settings, "worker");
    test.wait_length(20).await;
    eventually("those without a key are published", PATIENCE, async || test.published().await == 20).await;
    assert_eq!(test.number("SELECT count(*) FROM outbox_events WHERE status = 'retry'").await, 300);
}

/// More events behind a failed one than one fetch reads.
#[tokio::test]
async fn a_held_key_with_many_events_hides_no_late_event_and_is_sent_in_order_once_it_is_free() {
    let test = TestOutbox::new().await;
    let sql = test.sql().await;
    let write = "INSERT INTO outbox_events (id, event_type, source, partition_key, status, scheduled_at)
        SELECT gen_random_uuid(), 'thing.happened', 'tests', $1, $2::text, now() - interval '1 second' * $4::int
        FROM generate_series(1, $3::int)";
    sql.execute(write, &[&"held", &"failed", &1, &7_200]).await.unwrap();
    sql.execute(write, &[&"held", &"pending", &5_000, &60]).await.unwrap();
    let settings = test.settings().publisher("on_failed = \"hold\"").write();
    let _worker = test.worker(&settings, "worker");
    for (sent, age) in [(1, 0), (2, 30), (3, 3_600)] {
        let key = format!("late-{age}");
        sql.execute(write, &[&key, &"pending", &1, &age]).await.unwrap();
        test.wait_length(sent).await;
    }
    sql.execute(write, &[&"held", &"pending", &1, &3_600]).await.unwrap();
    test.run(&["events", "retry", "--status", "failed"]).await;
    test.wait_published().await;
    test.assert_delivered().await;
    assert_eq!(test.length().await, 5_005);
}

/// A worker reads from a little before its cursor. Here more events are before it than one fetch reads.
#[tokio::test]
async fn events_committed_a_little_before_a_cursor_precede_those_behind_it() {
    let test = TestOutbox::new().await;
    let sql = test.sql().await;
    let _worker = test.worker(&test.settings().write(), "worker");
    test.wait_owners(&["worker"]).await;
    let key_of_its_shard = "SELECT 'cursor-' || n FROM generate_series(1, 10000) n, gen_random_uuid() id
        WHERE outbox_shard('cursor-' || n, id) = outbox_shard($1, id) LIMIT 1";
    let write = "INSERT INTO outbox_events (id, event_type, source, partition_key, scheduled_at)
        SELECT gen_random_uuid(), 'thing.happened', 'tests', $1,
            (SELECT coalesce(max(scheduled_at), clock_timestamp()) FROM outbox_events) + interval '30 us' * ($2 + n)
        FROM generate_series(1, $3::int) n";
    for round in 0..5 {
        let key = format!("key-{round}");
        let other: String = sql.query_one(key_of_its_shard, &[&key]).await.unwrap().get(0);
        sql.execute(write, &[&other, &0_i32, &1_i32]).await.unwrap();
        test.wait_published().await;
        sql.execute(write, &[&key, &-400_i32, &800_i32]).await.unwrap();
        test.wait_published().await;
    }
    test.assert_delivered().await;
}

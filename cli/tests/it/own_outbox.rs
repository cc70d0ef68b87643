//! The steps of docs/from-your-own-outbox.md, as in the text, under writers that never pause.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tokio::task::JoinHandle;

use crate::support::{PATIENCE, eventually, redis};
use crate::test_outbox::TestOutbox;

const PAGE: &str = include_str!("../../../docs/from-your-own-outbox.md");

const KEYS: usize = 4;

/// The page's block of SQL that contains these words.
fn step(words: &str) -> &'static str {
    let mut blocks = PAGE.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.find(|sql| sql.contains(words)).unwrap_or_else(|| panic!("no SQL with {words}"))
}

const OLD_WAY: &str = "INSERT INTO outbox (aggregate_id, event_type, payload) VALUES ($1, 'thing.happened', $2)";
const NEW_WAY: &str = "SELECT outbox_publish('thing.happened', 'shop', $2, partition_key => $1)";

/// Writes the events of one key one after the other, until it is told to stop; returns their number.
async fn write(test: &TestOutbox, key: usize, is_moved: Arc<AtomicBool>, stop: Arc<AtomicBool>) -> JoinHandle<i64> {
    let (sql, key) = (test.sql().await, format!("key-{key}"));
    tokio::spawn(async move {
        let mut count = 0;
        while !stop.load(Ordering::SeqCst) {
            let statement = if is_moved.load(Ordering::SeqCst) { NEW_WAY } else { OLD_WAY };
            sql.execute(statement, &[&key, &serde_json::json!({"n": count})]).await.unwrap();
            count += 1;
        }
        count
    })
}

/// The hand-written relay: it sends what is not marked, in order, and marks it. It ends between two rounds.
async fn relay(test: &TestOutbox, stop: Arc<AtomicBool>) -> JoinHandle<Vec<(String, i64)>> {
    let sql = test.sql().await;
    tokio::spawn(async move {
        let mut sent = Vec::new();
        while !stop.load(Ordering::SeqCst) {
            let next = "SELECT id, aggregate_id, payload FROM outbox WHERE processed_at IS NULL ORDER BY id LIMIT 20";
            for row in sql.query(next, &[]).await.unwrap() {
                sent.push((row.get(1), row.get::<_, Value>(2)["n"].as_i64().unwrap()));
                let mark = "UPDATE outbox SET processed_at = clock_timestamp() WHERE id = $1";
                sql.execute(mark, &[&row.get::<_, i64>(0)]).await.unwrap();
            }
        }
        sent
    })
}

#[tokio::test]
async fn a_hand_written_outbox_is_moved_under_writers_and_each_event_is_sent_once_in_order() {
    let test = TestOutbox::new().await;
    let sql = test.sql().await;
    sql.batch_execute(step("CREATE TABLE outbox (")).await.unwrap();
    let flag = || Arc::new(AtomicBool::new(false));
    let (is_moved, stop, stop_relay) = (flag(), flag(), flag());
    let mut writers = Vec::new();
    for key in 0..KEYS {
        writers.push(write(&test, key, Arc::clone(&is_moved), Arc::clone(&stop)).await);
    }
    let relay = relay(&test, Arc::clone(&stop_relay)).await;
    let more = async |table: &str, what: &str| {
        let count = async || test.number(&format!("SELECT count(*) FROM {table}")).await;
        let before = count().await;
        eventually(what, PATIENCE, async || count().await >= before + 100).await;
    };
    more("outbox WHERE processed_at IS NOT NULL", "the relay sends").await;
    sql.batch_execute(step("CREATE FUNCTION publish_own")).await.unwrap();

    stop_relay.store(true, Ordering::SeqCst);
    let sent = relay.await.unwrap();
    more("outbox WHERE processed_at IS NULL", "events wait").await;
    sql.batch_execute(step("LOCK TABLE outbox")).await.unwrap();
    let settings = test.settings().write();
    let _worker = test.worker(&settings, "new");
    more("outbox_events", "inserts into the old table are events").await;
    is_moved.store(true, Ordering::SeqCst);
    more("outbox_events", "writers publish").await;
    assert_eq!(test.number("SELECT count(*) FROM outbox WHERE processed_at IS NULL").await, 0);

    stop.store(true, Ordering::SeqCst);
    let mut written = 0;
    for writer in writers {
        written += writer.await.unwrap();
    }
    sql.batch_execute(step("DROP TABLE outbox")).await.unwrap();
    test.wait_published().await;
    let mut arrived: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for (key, n) in sent {
        arrived.entry(key).or_default().push(n);
    }
    for entry in redis::entries(test.redis_url(), test.stream_name()).await {
        let event: Value = serde_json::from_str(&entry["cloud_event"]).unwrap();
        let key = event["partitionkey"].as_str().unwrap().to_owned();
        arrived.entry(key).or_default().push(event["data"]["n"].as_i64().unwrap());
    }
    assert_eq!(arrived.len(), KEYS);
    assert_eq!(arrived.values().map(Vec::len).sum::<usize>(), written as usize);
    for (key, numbers) in arrived {
        assert!(numbers.iter().copied().eq(0..numbers.len() as i64), "{key}: {numbers:?}");
    }
}

/// An outbox to which the old table's rows are forwarded.
async fn forwarding() -> TestOutbox {
    let test = TestOutbox::new().await;
    for words in ["CREATE TABLE outbox (", "CREATE FUNCTION publish_own", "LOCK TABLE outbox"] {
        test.sql().await.batch_execute(step(words)).await.unwrap();
    }
    test
}

#[tokio::test]
async fn after_the_way_back_the_relay_has_what_was_inserted_since() {
    let test = forwarding().await;
    let sql = test.sql().await;
    let insert = async |n: i64| sql.execute(OLD_WAY, &[&"key", &serde_json::json!({"n": n})]).await.unwrap();
    insert(0).await;
    sql.batch_execute(step("DROP TRIGGER forward_own ON")).await.unwrap();
    test.drain(&test.settings().write()).await;
    insert(1).await;
    assert_eq!(test.length().await, 1);
    let stop = Arc::new(AtomicBool::new(false));
    let relay = relay(&test, Arc::clone(&stop)).await;
    let waiting = "SELECT count(*) FROM outbox WHERE processed_at IS NULL";
    eventually("the relay sends", PATIENCE, async || test.number(waiting).await == 0).await;
    stop.store(true, Ordering::SeqCst);
    assert_eq!(relay.await.unwrap(), [("key".to_owned(), 1)]);
}

#[tokio::test]
async fn events_that_no_worker_could_send_go_back_to_the_relay_under_their_ids() {
    let test = forwarding().await;
    let sql = test.sql().await;
    let insert = async |n: i64| sql.execute(OLD_WAY, &[&"key", &serde_json::json!({"n": n})]).await.unwrap();
    insert(0).await;
    test.drain(&test.settings().write()).await;
    for n in 1..=3 {
        insert(n).await;
    }
    sql.execute(NEW_WAY, &[&"other", &serde_json::json!({})]).await.unwrap();
    sql.batch_execute(step("DROP TRIGGER IF EXISTS forward_own")).await.unwrap();
    insert(4).await;
    assert_eq!(test.unpublished().await, 1, "the one that was published without the old table");
    let waiting = "SELECT count(*) FROM outbox WHERE processed_at IS NULL";
    assert_eq!(test.number(waiting).await, 4);
    let stop = Arc::new(AtomicBool::new(false));
    let relay = relay(&test, Arc::clone(&stop)).await;
    eventually("the relay sends", PATIENCE, async || test.number(waiting).await == 0).await;
    stop.store(true, Ordering::SeqCst);
    let sent: Vec<i64> = relay.await.unwrap().into_iter().map(|(_, n)| n).collect();
    assert_eq!(sent, [1, 2, 3, 4]);
}

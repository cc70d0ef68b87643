//! The journal next to the stream: its size, replays, and orphaned fields.

use std::collections::BTreeMap;
use std::process::Output;
use std::sync::Arc;

use actix_outbox::{EventTypes, OutboxSystem};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::actors::{Log, handler};
use crate::support::{PATIENCE, eventually};
use crate::test_outbox::TestOutbox;

fn meta_key(test: &TestOutbox) -> String {
    format!("{{{}}}:outbox", test.stream_name())
}

async fn command<T: ::redis::FromRedisValue>(test: &TestOutbox, words: &[&str]) -> T {
    let mut command = ::redis::Cmd::new();
    command.arg(words);
    command.query_async(&mut test.redis().await).await.unwrap()
}

/// The journal's fields with the events in them.
pub(crate) async fn sent(test: &TestOutbox) -> BTreeMap<String, Vec<u8>> {
    let mut all: BTreeMap<String, Vec<u8>> = command(test, &["HGETALL", &meta_key(test)]).await;
    all.retain(|field, _| field.starts_with("sent/"));
    all
}

async fn set(test: &TestOutbox, field: &str, value: &[u8]) {
    let mut command = ::redis::cmd("HSET");
    command.arg(meta_key(test)).arg(field).arg(value);
    let () = command.query_async(&mut test.redis().await).await.unwrap();
}

/// One event as the journal stores it.
fn entry(id: Uuid, seq: i64) -> Vec<u8> {
    [&id.as_bytes()[..], &seq.to_be_bytes()].concat()
}

async fn outbox_id(sql: &Client) -> Uuid {
    let id: String = sql.query_one("SELECT id::text FROM outbox_meta", &[]).await.unwrap().get(0);
    id.parse().unwrap()
}

/// Writes an event and returns its id, its `seq` and its shard.
async fn write(sql: &Client, backend: &str, status: &str) -> (Uuid, i64, i16) {
    let statement = "INSERT INTO outbox_events (id, event_type, source, publisher_backend, status, published_at)
        VALUES (gen_random_uuid(), 'thing.happened', 'tests', $1, $2::text, CASE $2::text WHEN 'published' THEN now() END)
        RETURNING id::text, seq, outbox_shard(partition_key, id)::smallint";
    let row = sql.query_one(statement, &[&backend, &status]).await.unwrap();
    (row.get::<_, String>(0).parse().unwrap(), row.get(1), row.get(2))
}

fn run(test: &TestOutbox, arguments: &[&str]) -> Output {
    test.outbox(&test.settings().write(), arguments).output().unwrap()
}

/// The output of a successful command.
fn said(test: &TestOutbox, arguments: &[&str]) -> String {
    let output = run(test, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn the_journal_stays_small_however_slowly_the_database_records_batches() {
    const MOST: usize = 200;
    let test = TestOutbox::new().await;
    test.insert(6_000, 300).await;
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_sleep(0.05); RETURN NULL; END';
        CREATE TRIGGER slow BEFORE UPDATE ON outbox_events FOR EACH STATEMENT EXECUTE FUNCTION slow()";
    test.sql().await.batch_execute(slow).await.unwrap();
    let worker = format!("max_in_flight = {MOST}\nbatch_size = 50");
    let _worker = test.worker(&test.settings().worker(&worker).write(), "worker");
    let mut seen = Vec::new();
    eventually("every event is published", crate::test_outbox::DRAIN, async || {
        let events: usize = sent(&test).await.values().map(|value| value.len() / 24).sum();
        seen.push(events);
        test.unpublished().await == 0
    })
    .await;
    // Events in flight, and as many that are recorded and are removed with the next batch.
    let largest = seen.iter().copied().max().unwrap();
    assert!((1..=2 * MOST).contains(&largest), "{largest} events in the journal");
    eventually("the journal is empty", PATIENCE, async || sent(&test).await.is_empty()).await;
    test.assert_delivered().await;
}

#[tokio::test]
async fn a_replay_is_published_again_even_if_a_take_over_finds_it_journaled() {
    let test = TestOutbox::new().await;
    let sql = test.sql().await;
    let (id, seq, shard) = write(&sql, "", "pending").await;
    test.drain(&test.settings().write()).await;
    assert_eq!(test.event_ids().await, [id.to_string()]);

    // The state after a worker dies before it removes recorded events.
    let field = format!("sent/{}//{shard}/1.999/1", outbox_id(&sql).await);
    set(&test, &field, &entry(id, seq)).await;
    said(&test, &["events", "replay", &id.to_string()]);
    test.drain(&test.settings().write()).await;
    assert_eq!(test.event_ids().await, [id.to_string(), id.to_string()]);
    eventually("the journal is empty", PATIENCE, async || sent(&test).await.is_empty()).await;

    // Killed again after the second sending: the journal contains the first and the second.
    let again = test.number("SELECT seq FROM outbox_events").await;
    assert!(again > seq);
    sql.execute("UPDATE outbox_events SET status = 'pending', published_at = NULL", &[]).await.unwrap();
    set(&test, &field, &[entry(id, seq), entry(id, again)].concat()).await;
    test.drain(&test.settings().write()).await;
    assert_eq!(test.event_ids().await.len(), 2, "an event with the same `seq` in the journal is not sent again");
    assert_eq!(sent(&test).await.len(), 0, "the journal is empty");
}

#[tokio::test]
async fn what_a_vanished_outbox_or_backend_left_behind_is_seen_and_removed() {
    let test = TestOutbox::new().await;
    let sql = test.sql().await;
    let (own, gone) = (outbox_id(&sql).await, Uuid::now_v7());
    test.insert(100, 10).await;
    test.drain(&test.settings().write()).await;
    let left_behind = || {
        let status: Value = serde_json::from_str(&said(&test, &["status", "--format", "json"])).unwrap();
        status["backends"][0]["left_behind"].clone()
    };
    assert_eq!(left_behind(), json!([]), "fields in use are not orphaned");

    let (published, pending) = (write(&sql, "old", "published").await, write(&sql, "old", "pending").await);
    for (shard, (id, seq, _)) in [(3, published), (4, pending)] {
        set(&test, &format!("owner/{own}/old/{shard}"), b"7:1").await;
        set(&test, &format!("sent/{own}/old/{shard}/7.1/1"), &entry(id, seq)).await;
    }
    set(&test, &format!("owner/{gone}//3"), b"9:1").await;
    set(&test, &format!("sent/{gone}//3/9.1/1"), &entry(Uuid::now_v7(), 5)).await;
    let mut expected = [
        json!({"outbox": own, "publisher_backend": "old", "fields": 4, "events": 2, "bytes": 256}),
        json!({"outbox": gone, "publisher_backend": "", "fields": 2, "events": 1, "bytes": 122}),
    ];
    expected.sort_by_key(|left| left["outbox"].to_string());
    assert_eq!(left_behind(), json!(expected));
    let table = said(&test, &["status"]);
    assert!(table.contains("Orphaned fields") && table.contains(&gone.to_string()), "{table}");

    let cleaned = said(&test, &["cleanup"]);
    assert!(cleaned.contains("removed 2 orphaned fields of this outbox from backend default"), "{cleaned}");
    assert!(cleaned.contains("kept fields with 1 events in backend default"), "{cleaned}");
    let fields: Vec<String> = sent(&test).await.into_keys().collect();
    let mut expected = [format!("sent/{own}/old/4/7.1/1"), format!("sent/{gone}//3/9.1/1")];
    expected.sort();
    assert_eq!(fields, expected, "the pending event would be sent again without it, and the other outbox may be alive");

    sql.execute("UPDATE outbox_events SET status = 'published', published_at = now()", &[]).await.unwrap();
    assert_eq!(run(&test, &["cleanup", "--gone", &own.to_string()]).status.code(), Some(2));
    let cleaned = said(&test, &["cleanup", "--gone", &gone.to_string()]);
    assert!(cleaned.contains(&format!("removed 2 orphaned fields of outbox {gone} from backend default")), "{cleaned}");
    assert_eq!(left_behind(), json!([]));
    assert!(sent(&test).await.is_empty());
}

#[tokio::test]
async fn if_redis_is_down_leftovers_are_unknown_and_the_rest_is_shown_and_done() {
    let test = TestOutbox::found_by("url = \"redis://127.0.0.1:1\"".to_owned(), String::new()).await;
    let status = run(&test, &["status", "--format", "json"]);
    assert!(status.status.success());
    let shown: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(shown["backends"][0]["left_behind"], Value::Null);
    assert!(String::from_utf8_lossy(&status.stderr).contains("orphaned fields in backend default cannot be read"));
    let cleaned = run(&test, &["cleanup"]);
    assert_eq!((cleaned.status.code(), cleaned.stdout), (Some(1), b"deleted 0 events\n".to_vec()));
}

/// Adds every event to the journal, as after workers that die between sending and settling.
async fn journal_all(test: &TestOutbox) {
    let sql = test.sql().await;
    let statement = "SELECT outbox_shard(partition_key, id)::smallint, array_agg(id::text), array_agg(seq)
        FROM outbox_events GROUP BY 1";
    let outbox = outbox_id(&sql).await;
    for row in sql.query(statement, &[]).await.unwrap() {
        let (shard, ids, seqs): (i16, Vec<String>, Vec<i64>) = (row.get(0), row.get(1), row.get(2));
        let entries = ids.iter().zip(seqs).flat_map(|(id, seq)| entry(id.parse().unwrap(), seq));
        set(test, &format!("sent/{outbox}//{shard}/1.999/1"), &entries.collect::<Vec<u8>>()).await;
    }
}

#[actix::test]
async fn journals_of_many_dead_workers_are_adopted_only_within_the_memory_bound() {
    const EVENTS: usize = 900;
    const MOST: usize = 100;
    let (test, log, gate) = (TestOutbox::new().await, Log::default(), Arc::new(Semaphore::new(0)));
    test.insert(EVENTS as i32, 300).await;
    journal_all(&test).await;
    let handling = {
        let (log, gate) = (log.clone(), Arc::clone(&gate));
        handler("handling", EventTypes::All, move |event| {
            log.add(event.id.to_string());
            let gate = Arc::clone(&gate);
            Box::pin(async move {
                gate.acquire().await.unwrap().forget();
                Ok(())
            })
        })
    };
    let tables = format!("[publishers.default]\n{}[worker]\nmax_in_flight = {MOST}\nlease = \"1s\"", test.stream());
    let builder = OutboxSystem::builder(test.system_settings(&tables)).subscribe(handling);
    let outbox = builder.start().await.unwrap();
    eventually("its health shows the unsettled events", PATIENCE, async || {
        let health = outbox.health().await.unwrap();
        matches!(&health.backends["default"], Err(reason) if reason.contains("not enough memory"))
    })
    .await;
    let mut largest = 0;
    eventually("every event is published", crate::test_outbox::DRAIN, async || {
        let health = outbox.health().await.unwrap();
        largest = largest.max(health.in_flight);
        gate.add_permits(5);
        test.unpublished().await == 0
    })
    .await;
    // Settled events stay in memory while an older fetch is running.
    assert!((MOST / 4..=2 * MOST).contains(&largest), "{largest} events in memory");
    assert!(outbox.health().await.unwrap().is_ok());
    let mut handled = log.lines();
    handled.sort_unstable();
    handled.dedup();
    assert_eq!((handled.len(), log.lines().len()), (EVENTS, EVENTS), "each was handled once");
    assert_eq!(test.length().await, 0, "nothing was sent again");
}

/// The worker logs the reason.
#[tokio::test]
async fn a_shard_whose_journal_exceeds_the_memory_bound_is_adopted_alone() {
    let test = TestOutbox::new().await;
    test.insert(300, 1).await;
    journal_all(&test).await;
    let settings = test.settings().worker("max_in_flight = 50").write();
    let worker = test.worker(&settings, "worker");
    test.wait_published().await;
    assert!(worker.stderr().contains("exceed the memory limit"), "{}", worker.stderr());
    assert_eq!(test.length().await, 0, "nothing was sent again");
    test.insert(100, 10).await;
    test.wait_length(100).await;
}

//! Partitions of one stream: once and in order, with workers that are killed, and what operators see.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::support::process::{Running, Signal};
use crate::support::{PATIENCE, eventually, redis};
use crate::test_outbox::TestOutbox;

const PARTITIONS: usize = 5;

fn settings(test: &TestOutbox) -> std::path::PathBuf {
    test.settings().publisher(format!("partitions = {PARTITIONS}")).worker("lease = \"1s\"").write()
}

fn name(test: &TestOutbox, n: usize) -> String {
    format!("{{{}}}.{n}", test.stream_name())
}

/// The partition of each entry with its `event_id`, in the order of each partition.
async fn sent(test: &TestOutbox) -> Vec<(usize, String)> {
    let mut sent = Vec::new();
    for n in 0..PARTITIONS {
        let ids = redis::event_ids(test.redis_url(), &name(test, n)).await;
        sent.extend(ids.into_iter().map(|id| (n, id)));
    }
    sent
}

/// Asserts that every event is sent once, in order per key, to the partition of its shard.
async fn assert_delivered(test: &TestOutbox) {
    let sent = sent(test).await;
    test.assert_delivered_as(&sent.iter().map(|(_, id)| id.clone()).collect::<Vec<_>>()).await;
    let statement = "SELECT id::text, outbox_shard(partition_key, id)::bigint % $1 FROM outbox_events";
    let rows = test.sql().await.query(statement, &[&(PARTITIONS as i64)]).await.unwrap();
    let expected: BTreeMap<String, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let misplaced = sent.iter().find(|(n, id)| expected[id] != *n as i64);
    assert_eq!(misplaced, None, "the partition is that of the shard");
}

#[tokio::test]
async fn each_event_is_once_and_in_order_in_the_partition_of_its_key_though_workers_are_killed() {
    let test = TestOutbox::new().await;
    let settings = settings(&test);
    let without_keys = "INSERT INTO outbox_events (id, event_type, source, data)
        SELECT gen_random_uuid(), 'thing.happened', 'tests', 'null' FROM generate_series(1, 300)";
    test.sql().await.batch_execute(without_keys).await.unwrap();
    test.insert(3_000, 50).await;
    for round in 0..4 {
        let mut workers = [0, 1].map(|n| test.worker(&settings, &format!("worker-{round}-{n}")));
        let published = test.published().await;
        eventually("a worker publishes", PATIENCE, async || test.published().await > published).await;
        workers[round % 2].signal(Signal::KILL);
        test.insert(1_000, 50).await;
        eventually("the other continues", PATIENCE, async || test.published().await > published + 100).await;
        workers[1 - round % 2].signal(Signal::KILL);
    }
    test.drain(&settings).await;
    assert_delivered(&test).await;
    assert_eq!(test.length().await, 0, "nothing is in a stream of the name itself");
}

#[tokio::test]
async fn partitions_change_after_the_workers_have_finished() {
    let test = TestOutbox::new().await;
    let one = test.settings().write();
    test.insert(200, 20).await;
    test.drain(&one).await;
    test.assert_delivered().await;
    test.insert(500, 20).await;
    test.drain(&settings(&test)).await;
    assert_eq!((test.length().await, sent(&test).await.len()), (200, 500));
    let mut all = test.event_ids().await;
    all.extend(sent(&test).await.into_iter().map(|(_, id)| id));
    test.assert_delivered_as(&all).await;
}

#[tokio::test]
async fn operators_see_all_partitions() {
    let test = TestOutbox::new().await;
    let limited = test.settings().publisher(format!("partitions = {PARTITIONS}")).write();
    let text = std::fs::read_to_string(&limited).unwrap().replace("max_len = 0", "max_len = 10");
    let limited = test.file(&text);
    test.insert(500, 100).await;
    test.drain(&limited).await;
    let run = async |arguments: &[&str]| output(&test, &limited, arguments).await;
    let status: Value = serde_json::from_str(&run(&["status", "--format", "json"]).await).unwrap();
    let names: Vec<String> = (0..PARTITIONS).map(|n| name(&test, n)).collect();
    assert_eq!(status["backends"][0]["streams"], serde_json::json!(names));
    assert_eq!(status["backends"][0]["left_behind"], serde_json::json!([]));
    let table = run(&["status"]).await;
    assert!(names.iter().all(|name| table.contains(name)), "{table}");

    let group = ["CREATE", &names[PARTITIONS - 1], "slow", "0"];
    let mut connection = test.redis().await;
    if !redis::counts_unread(&mut connection).await {
        return;
    }
    let () = ::redis::cmd("XGROUP").arg(&group).query_async(&mut connection).await.unwrap();
    let found: Vec<Value> = serde_json::from_str(&run(&["doctor", "--format", "json"]).await).unwrap();
    let lagging = found.iter().find(|finding| finding["check"] == "max_len").unwrap();
    assert!(lagging["problem"].as_str().unwrap().contains(&names[PARTITIONS - 1]), "{lagging}");
}

#[tokio::test]
async fn a_worker_on_sqlite_spreads_keys_over_the_same_partitions() {
    let test = TestOutbox::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    let text =
        std::fs::read_to_string(settings(&test)).unwrap().replace(test.url(), &format!("sqlite://{}", path.display()));
    let settings = test.file(&text);
    output(&test, &settings, &["migrate"]).await;
    insert_into_sqlite(&path);
    test.drain(&settings).await;
    let sql = test.sql().await;
    let mut latest: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    let mut count = 0;
    for n in 0..PARTITIONS {
        for entry in redis::entries(test.redis_url(), &name(&test, n)).await {
            let event: Value = serde_json::from_str(&entry["cloud_event"]).unwrap();
            let key = event["partitionkey"].as_str().unwrap_or_default().to_owned();
            let (place, number) = (n as i64, event["data"].as_i64().unwrap());
            if !key.is_empty() {
                let before = latest.insert(key.clone(), (place, number));
                assert!(before.is_none_or(|(there, last)| there == place && last < number), "{key}");
            }
            let statement = "SELECT outbox_shard($1, $2::text::uuid)::bigint % $3";
            let row = sql.query_one(statement, &[&key, &entry["event_id"], &(PARTITIONS as i64)]).await.unwrap();
            assert_eq!(row.get::<_, i64>(0), place, "as on PostgreSQL");
            count += 1;
        }
    }
    assert_eq!(count, 300);
}

/// Writes 300 events of several keys, and of none.
fn insert_into_sqlite(path: &Path) {
    let program = "import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
for n in range(300):
    key = '' if n % 10 == 0 else f'schlüssel-{n % 30}'
    db.execute('INSERT INTO outbox_publish (event_type, source, data, partition_key) VALUES (?, ?, ?, ?)', ('t', 's', str(n), key))
db.commit()";
    let output = std::process::Command::new("python3").arg("-c").arg(program).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

async fn output(test: &TestOutbox, settings: &Path, arguments: &[&str]) -> String {
    let mut program = Running::spawn(&mut test.outbox(settings, arguments));
    program.wait_exit(PATIENCE).await;
    program.stdout()
}

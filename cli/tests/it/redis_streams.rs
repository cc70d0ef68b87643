//! Several streams by template: once, with workers that are killed, and what operators see.

use serde_json::Value;

use crate::support::process::{Running, Signal};
use crate::support::{PATIENCE, eventually, redis};
use crate::test_outbox::TestOutbox;

const TYPES: usize = 5;

/// Settings with a stream for each type.
fn settings(test: &TestOutbox, publisher: &str) -> std::path::PathBuf {
    test.file(&format!(
        "[database]\nurl = \"{}\"\n[publishers.default]\nurl = \"{}\"\n{publisher}\n[worker]\nlease = \"1s\"",
        test.url(),
        test.redis_url(),
    ))
}

async fn insert(test: &TestOutbox, count: i32) {
    let statement = "INSERT INTO outbox_events (id, event_type, source, data, partition_key)
        SELECT gen_random_uuid(), 'type.' || n % $2, 'tests', 'null', 'key-' || n % 20 FROM generate_series(1, $1) n";
    test.sql().await.execute(statement, &[&count, &(TYPES as i32)]).await.unwrap();
}

#[tokio::test]
async fn each_event_is_once_in_the_stream_of_its_type_though_workers_are_killed() {
    let test = TestOutbox::new().await;
    let settings = settings(&test, &format!("stream_name = \"{}:{{type}}\"\nmax_len = 0", test.stream_name()));
    insert(&test, 3_000).await;
    for round in 0..3 {
        let mut worker = test.worker(&settings, &format!("worker-{round}"));
        let published = test.published().await;
        eventually("the worker publishes", PATIENCE, async || test.published().await > published).await;
        worker.signal(Signal::KILL);
        insert(&test, 1_000).await;
    }
    test.drain(&settings).await;
    for number in 0..TYPES {
        let mut sent = redis::event_ids(test.redis_url(), &format!("{}:type.{number}", test.stream_name())).await;
        sent.sort();
        let statement = "SELECT id::text FROM outbox_events WHERE event_type = $1 ORDER BY id::text";
        let rows = test.sql().await.query(statement, &[&format!("type.{number}")]).await.unwrap();
        let mut expected: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        expected.sort();
        assert_eq!(sent, expected);
    }
}

#[tokio::test]
async fn status_lists_the_streams_and_events_beyond_the_limit_fail_by_name() {
    let test = TestOutbox::new().await;
    let name = test.stream_name();
    let limited = settings(&test, &format!("stream_name = \"{name}:{{type}}\"\nmax_streams = 3\nmax_len = 10"));
    insert(&test, 100).await;
    test.drain(&limited).await;
    let failed = "SELECT count(*) FROM outbox_events WHERE status = 'failed'
        AND last_error LIKE '%type.%max_streams%'";
    assert_eq!((test.published().await, test.number(failed).await), (60, 40));

    let run = async |arguments: &[&str]| {
        let mut program = Running::spawn(&mut test.outbox(&limited, arguments));
        program.wait_exit(PATIENCE).await;
        program.stdout()
    };
    let status: Value = serde_json::from_str(&run(&["status", "--format", "json"]).await).unwrap();
    let streams = status["backends"][0]["streams"].as_array().unwrap();
    assert_eq!(streams.len(), 3);
    assert!(run(&["status"]).await.contains(streams[0].as_str().unwrap()));
    assert_eq!(status["backends"][0]["left_behind"], Value::Array(Vec::new()));

    let stream = streams[0].as_str().unwrap();
    let mut connection = test.redis().await;
    let () = ::redis::cmd("XGROUP").arg(&["CREATE", stream, "slow", "0"]).query_async(&mut connection).await.unwrap();
    let found: Vec<Value> = serde_json::from_str(&run(&["doctor", "--format", "json"]).await).unwrap();
    let checks: Vec<&str> = found.iter().map(|finding| finding["check"].as_str().unwrap()).collect();
    assert!(checks.contains(&"max_streams"), "{found:#?}");
    if !redis::counts_unread(&mut connection).await {
        return;
    }
    let lagging = found.iter().find(|finding| finding["check"] == "max_len").unwrap();
    assert!(lagging["problem"].as_str().unwrap().contains(stream), "{lagging}");
}

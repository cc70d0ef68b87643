//! Redis lists and channels: at least once, and in order per key.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use serde_json::Value;

use crate::support::process::{Running, Signal};
use crate::support::{PATIENCE, eventually, postgres, redis};
use crate::test_outbox::TestOutbox;

const LEASE: &str = "[worker]\nlease = \"1s\"";

fn settings(test: &TestOutbox, backend: &str, name: &str) -> PathBuf {
    test.file(&format!(
        "[database]\nurl = \"{}\"\n[publishers.default]\nbackend = \"{backend}\"\nurl = \"{}\"\nstream_name = \"{name}\"\n{LEASE}",
        test.url(),
        test.redis_url(),
    ))
}

/// The events of a list, in its order.
async fn list(url: &str, name: &str) -> Vec<Value> {
    let texts: Vec<String> =
        ::redis::cmd("LRANGE").arg(name).arg(&["0", "-1"]).query_async(&mut redis::connect(url).await).await.unwrap();
    texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
}

/// Asserts that all events are there, and that the first copies of each key's events are in order.
async fn assert_delivered(test: &TestOutbox, events: &[Value]) {
    let mut first: Vec<&str> = Vec::new();
    let mut seen = HashSet::new();
    first.extend(events.iter().map(|event| event["id"].as_str().unwrap()).filter(|id| seen.insert(*id)));
    let statement = "SELECT id::text, partition_key FROM outbox_events ORDER BY scheduled_at, seq";
    let rows = test.sql().await.query(statement, &[]).await.unwrap();
    assert_eq!(first.len(), rows.len());
    let places: HashMap<&str, usize> = first.into_iter().zip(0..).collect();
    let mut latest: HashMap<String, usize> = HashMap::new();
    for row in rows {
        let place = places[row.get::<_, &str>(0)];
        assert!(latest.insert(row.get(1), place).is_none_or(|earlier| earlier < place), "disordered: {row:?}");
    }
}

#[tokio::test]
async fn a_list_has_every_event_in_order_though_workers_and_redis_are_killed() {
    let mut server = redis::Server::start(redis::Server::DURABLE);
    let test = TestOutbox::on(postgres::database().await, server.url()).await;
    let settings = settings(&test, "redis_list", "jobs");
    test.insert(2_000, 20).await;
    let mut worker = test.worker(&settings, "first");
    let mut connection = test.redis().await;
    eventually("the list has events", PATIENCE, async || {
        ::redis::cmd("LLEN").arg("jobs").query_async::<usize>(&mut connection).await.unwrap() > 0
    })
    .await;
    worker.signal(Signal::KILL);
    let _second = test.worker(&settings, "second");
    test.insert(2_000, 20).await;
    server.kill();
    server.start_again();
    test.insert(1_000, 20).await;
    test.wait_published().await;
    assert_delivered(&test, &list(&server.url(), "jobs").await).await;
}

#[tokio::test]
async fn each_type_has_a_list_and_the_doctor_knows_what_endangers_it() {
    let server = redis::Server::start(&[]);
    let test = TestOutbox::on(postgres::database().await, server.url()).await;
    let settings = settings(&test, "redis_list", "jobs:{type}");
    test.insert(100, 5).await;
    test.drain(&settings).await;
    assert_delivered(&test, &list(&server.url(), "jobs:thing.happened").await).await;

    let mut doctor = Running::spawn(&mut test.outbox(&settings, &["doctor", "--format", "json"]));
    doctor.wait_exit(PATIENCE).await;
    let found: Vec<Value> = serde_json::from_str(&doctor.stdout()).unwrap();
    let about_redis = found.iter().filter(|finding| finding["part"] == "publisher default");
    assert_eq!(about_redis.map(|finding| finding["check"].as_str().unwrap()).collect::<Vec<_>>(), ["persistence"]);
}

#[tokio::test]
async fn events_for_a_channel_are_published_without_a_listener() {
    let test = TestOutbox::new().await;
    test.insert(100, 5).await;
    test.drain(&settings(&test, "redis_pubsub", "live.{type}")).await;
    assert_eq!(test.published().await, 100);
}

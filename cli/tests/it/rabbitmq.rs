//! The `rabbitmq` backend, from the program to the queues of real brokers.

use std::collections::{HashMap, HashSet};
use std::process::Command;

use serde_json::{Value, json};

use crate::actors::QUICK_RETRIES;
use crate::python::interpreter;
use crate::support::process::Running;
use crate::support::proxy::{Passage, Proxy};
use crate::support::rabbitmq::{self, Queue, Server, ids};
use crate::support::{PATIENCE, eventually};
use crate::test_outbox::TestOutbox;

/// A settings file with a publisher to this exchange.
fn settings(test: &TestOutbox, url: &str, exchange: &str, lines: &str) -> std::path::PathBuf {
    test.file(&format!(
        "[database]\nurl = \"{}\"\n[publishers.default]\nbackend = \"rabbitmq\"\nurl = \"{url}\"\n\
         exchange = \"{exchange}\"\n{lines}\n[worker]\n{QUICK_RETRIES}",
        test.url()
    ))
}

async fn says(worker: &Running, words: &str) {
    eventually(words, PATIENCE, async || worker.stderr().contains(words)).await;
}

/// Asserts that every event arrived, and that no event of a key arrived before an earlier one had.
async fn assert_arrived(test: &TestOutbox, queue: &Queue) {
    let arrived = ids(&queue.take().await);
    let sql = test.sql().await;
    let rows = sql.query("SELECT id::text, partition_key FROM outbox_events ORDER BY seq", &[]).await.unwrap();
    let mut expected: HashMap<String, Vec<String>> = HashMap::new();
    let mut key_of: HashMap<String, String> = HashMap::new();
    for row in rows {
        let (id, key): (String, String) = (row.get(0), row.get(1));
        expected.entry(key.clone()).or_default().push(id.clone());
        key_of.insert(id, key);
    }
    let (mut seen, mut first): (HashSet<&String>, HashMap<String, Vec<String>>) = Default::default();
    for id in arrived.iter().filter(|id| seen.insert(id)) {
        first.entry(key_of[id].clone()).or_default().push(id.clone());
    }
    assert_eq!(first.len(), expected.len());
    for (key, ids) in &expected {
        assert!(first.get(key) == Some(ids), "{key}: lost events or another order");
    }
}

#[tokio::test]
async fn the_python_sdk_reads_events_of_both_modes() {
    let (test, server) = (TestOutbox::new().await, rabbitmq::shared());
    let read = "import json, sys, pika
from cloudevents.core.bindings.amqp import AMQPMessage, from_amqp_event
channel = pika.BlockingConnection(pika.URLParameters(sys.argv[1])).channel()
method, properties, body = channel.basic_get(sys.argv[2], auto_ack=True)
event = from_amqp_event(AMQPMessage({'content-type': properties.content_type}, properties.headers, body))
print(json.dumps({**event.get_attributes(), 'data': event.get_data(), 'message_id': properties.message_id,
    'routing_key': method.routing_key, 'seq': properties.headers['outbox-seq'], 'kind': properties.type,
    'timestamp': properties.timestamp, 'delivery_mode': properties.delivery_mode}, default=str))";
    for mode in ["structured", "binary"] {
        let queue = Queue::new(server).await;
        let lines = format!("routing_key = \"{{type}}.{{key}}\"\nmode = \"{mode}\"");
        let file = settings(&test, &server.url(), &queue.name, &lines);
        let publish = [
            "publish",
            "thing.happened",
            "--source",
            "tests",
            "--subject",
            "a ü",
            "--key",
            "k",
            "--data",
            "{\"n\": 1}",
        ];
        let stored = test.outbox(&file, &publish).output().unwrap();
        assert!(stored.status.success(), "{}", String::from_utf8_lossy(&stored.stderr));
        test.drain(&file).await;
        let python = interpreter("amqp", &["cloudevents==2.2.0", "pika==1.3.2"]);
        let answer = Command::new(python).args(["-c", read, &server.url(), &queue.name]).output().unwrap();
        assert!(answer.status.success(), "{mode}: {}", String::from_utf8_lossy(&answer.stderr));
        let event: Value = serde_json::from_slice(&answer.stdout).unwrap();
        let sql = test.sql().await;
        let row = sql
            .query_one("SELECT id::text, seq::text FROM outbox_events ORDER BY seq DESC LIMIT 1", &[])
            .await
            .unwrap();
        for (name, value) in [
            ("id", row.get::<_, String>(0)),
            ("message_id", row.get(0)),
            ("seq", row.get(1)),
            ("type", "thing.happened".to_owned()),
            ("kind", "thing.happened".to_owned()),
            ("source", "tests".to_owned()),
            ("subject", "a ü".to_owned()),
            ("partitionkey", "k".to_owned()),
            ("routing_key", "thing.happened.k".to_owned()),
        ] {
            assert_eq!(event[name], value, "{mode}: {event}");
        }
        assert_eq!((&event["data"], &event["delivery_mode"]), (&json!({ "n": 1 }), &json!(2)), "{mode}");
        assert!(event["timestamp"].as_i64().is_some_and(|seconds| seconds > 1_700_000_000), "{event}");
    }
}

#[tokio::test]
async fn killed_workers_connections_and_brokers_lose_nothing_and_keep_the_order_of_keys() {
    let (test, mut server) = (TestOutbox::new().await, Server::start());
    let queue = Queue::new(&server).await;
    let proxy = Proxy::to(server.port()).await;
    let limits = "connect_timeout = 1\nsocket_timeout = 2";
    let file = settings(&test, &rabbitmq::url_at(proxy.port()), &queue.name, limits);
    let mut worker = test.worker(&file, "first");
    test.insert(1_000, 40).await;
    let some_more = async |than: i64| {
        eventually("some more are published", PATIENCE, async || test.published().await > than).await;
    };
    some_more(0).await;
    proxy.set(Passage::CutAtReply);
    says(&worker, "backend paused").await;
    proxy.set(Passage::Open);
    let before = test.published().await;
    test.insert(1_000, 40).await;
    some_more(before).await;
    worker.kill();
    let before = test.published().await;
    test.insert(1_000, 40).await;
    let worker = test.worker(&file, "second");
    some_more(before).await;
    server.kill();
    says(&worker, "backend paused").await;
    server.start_again();
    test.wait_published().await;
    let queue = queue.again(&server).await;
    assert_arrived(&test, &queue).await;
    assert_eq!(test.number("SELECT coalesce(max(retry_count), 0)::bigint FROM outbox_events").await, 0);
}

#[tokio::test]
async fn a_missing_exchange_costs_no_retries_and_an_unroutable_event_does() {
    let (test, server) = (TestOutbox::new().await, rabbitmq::shared());
    let queue = Queue::new(server).await;
    queue.delete_exchange().await;
    let file = settings(&test, &server.url(), &queue.name, "");
    let worker = test.worker(&file, "worker");
    test.insert(20, 5).await;
    says(&worker, &format!("declare exchange name={}", queue.name)).await;
    assert_eq!(test.number("SELECT count(*) FROM outbox_events WHERE retry_count > 0").await, 0);
    queue.declare_exchange().await;
    let row = "SELECT count(*) FROM outbox_events WHERE status = 'failed' AND retry_count = 3 AND last_error LIKE '%no queue is bound%'";
    eventually("events that are returned fail", PATIENCE, async || test.number(row).await == 20).await;
    queue.bind("thing.*").await;
    test.insert(20, 5).await;
    eventually("later events arrive", PATIENCE, async || test.published().await == 20).await;
    assert_eq!(queue.take().await.len(), 20);
    let log = worker.stderr();
    for secret in ["guest:guest", "\"n\"", "BasicReturnMessage"] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
}

//! The backend against librdkafka's mock cluster, and parts of it against the cluster at `KAFKA_URL` (`host:port,…`).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test has no better answer to an error than to fail")]

mod clusters;
mod faults;
#[path = "../../../tests/support/python.rs"]
mod python;

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use actix_outbox::{
    BackendError, NewEvent, Outbox, OutboxEvent, OutboxSystem, PublisherBackend, PublisherSettings, Settings,
};
use actix_outbox_kafka::{Kafka, register};
use serde_json::{Value, json};
use tempfile::TempDir;

use self::clusters::{Cluster, Received};

/// The settings of a publisher to this topic.
fn publisher(brokers: &str, topic: &str, lines: &str) -> PublisherSettings {
    let text = format!("[publishers.a]\nbackend = 'kafka'\nbrokers = ['{brokers}']\ntopic = '{topic}'\n{lines}");
    Settings::from_toml(&text).unwrap().publishers.remove("a").unwrap()
}

fn backend(brokers: &str, topic: &str, lines: &str) -> Kafka {
    Kafka::new(&publisher(brokers, topic, lines)).unwrap()
}

/// A SQLite outbox.
struct File(TempDir);

impl File {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn settings(&self, tables: &str) -> Settings {
        let path = self.0.path().join("app.db");
        Settings::from_toml(&format!("[database]\nurl = 'sqlite://{}'\n{tables}", path.display())).unwrap()
    }

    async fn writer(&self) -> Outbox {
        OutboxSystem::builder(self.settings("")).migrate(true).publish_only(true).start().await.unwrap()
    }
}

/// Events of these types and keys, as a worker reads them.
async fn events(kinds: &[(&str, &str)]) -> Vec<Arc<OutboxEvent>> {
    let file = File::new();
    let outbox = file.writer().await;
    let mut events = Vec::new();
    for (n, (event_type, key)) in kinds.iter().enumerate() {
        let event = NewEvent::new(*event_type, "tests").partition_key(*key).subject("a ü").data(json!({ "n": n }));
        events.push(Arc::new(outbox.send(event.extension("tenant", "t 1")).await.unwrap()));
    }
    outbox.shutdown().await.unwrap();
    events
}

fn subjects(received: &[Received], key: &str) -> Vec<i64> {
    let of_key = received.iter().filter(|record| record.key.as_deref() == Some(key));
    of_key
        .map(|record| serde_json::from_slice::<Value>(&record.value).unwrap()["data"]["n"].as_i64().unwrap())
        .collect()
}

fn all_accepted(results: &[Option<Result<(), BackendError>>]) -> bool {
    results.iter().all(|result| *result == Some(Ok(())))
}

#[actix_rt::test]
async fn the_python_sdk_reads_events_of_both_modes() {
    let read = "import json, sys
from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka_event
given = json.load(sys.stdin)
headers = {name: value.encode() for name, value in given['headers'].items()}
event = from_kafka_event(KafkaMessage(headers, given['key'].encode(), given['value'].encode()))
print(json.dumps({**event.get_attributes(), 'data': event.get_data()}, default=str))";
    for mode in ["structured", "binary"] {
        let cluster = Cluster::new().await;
        let topic = cluster.topic("events", 3).await;
        let events = events(&[("thing.happened", "k")]).await;
        let backend = backend(&cluster.brokers, &topic, &format!("mode = '{mode}'\ncompression = 'lz4'"));
        backend.health_check().await.unwrap();
        assert_eq!(backend.publish_batch(&events).await, [Some(Ok(()))], "{mode}");
        let received = cluster.read(&topic, 1).await.remove(0);
        assert_eq!(received.headers["outbox-seq"], events[0].seq.to_string());
        assert_eq!(
            (received.key.as_deref(), received.timestamp),
            (Some("k"), Some(events[0].time().timestamp_millis()))
        );
        let given =
            json!({ "headers": received.headers, "key": "k", "value": String::from_utf8_lossy(&received.value) });
        let mut sdk = Command::new(python::interpreter("cloudevents", &["cloudevents==2.2.0"]));
        let mut sdk = sdk.args(["-c", read]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut sdk.stdin.take().unwrap(), given.to_string().as_bytes()).unwrap();
        let event: Value = serde_json::from_slice(&sdk.wait_with_output().unwrap().stdout).unwrap();
        for (name, value) in [
            ("id", events[0].id.to_string().as_str()),
            ("type", "thing.happened"),
            ("source", "tests"),
            ("subject", "a ü"),
            ("partitionkey", "k"),
            ("tenant", "t 1"),
        ] {
            assert_eq!(event[name], value, "{mode}: {event}");
        }
        assert_eq!(event["data"], json!({ "n": 0 }), "{mode}: {event}");
    }
}

#[actix_rt::test]
async fn a_batch_arrives_in_order_of_each_key() {
    let cluster = Cluster::new().await;
    let topic = cluster.topic("events", 3).await;
    let keys = ["a", "b", "c", ""];
    let kinds: Vec<_> = (0..200).map(|n| ("t", keys[n % keys.len()])).collect();
    let events = events(&kinds).await;
    let backend = backend(&cluster.brokers, &topic, "");
    assert!(all_accepted(&backend.publish_batch(&events).await));
    let received = cluster.read(&topic, events.len()).await;
    for (first, key) in keys.iter().enumerate().take(3) {
        assert_eq!(subjects(&received, key), (0..50).map(|n| n * 4 + first as i64).collect::<Vec<_>>(), "{key}");
    }
    assert_eq!(received.iter().filter(|record| record.key.is_none()).count(), 50);
}

#[actix_rt::test]
async fn a_worker_delivers_what_waited_for_the_brokers_and_spends_no_retry() {
    let cluster = Cluster::new().await;
    let topic = cluster.topic("events", 3).await;
    cluster.down();
    let file = File::new();
    let writer = file.writer().await;
    for n in 0..100 {
        let event = NewEvent::new("t", "tests").partition_key(format!("k{}", n % 5)).data(json!({ "n": n }));
        writer.send(event).await.unwrap();
    }
    writer.shutdown().await.unwrap();
    let tables = format!(
        "[publishers.default]\nbackend = 'kafka'\nbrokers = ['{}']\ntopic = '{topic}'\nsocket_timeout = '1s'\n\
         [worker]\nmax_retries = 1",
        cluster.brokers
    );
    let start = async || register(OutboxSystem::builder(file.settings(&tables))).start().await.unwrap();
    let outbox = start().await;
    cluster.refused(&outbox).await;
    cluster.up();
    outbox.drained().await;
    outbox.shutdown().await.unwrap();
    let received = cluster.read(&topic, 100).await;
    for key in 0..5 {
        let mut arrived = subjects(&received, &format!("k{key}"));
        arrived.dedup();
        assert_eq!(arrived, (0..20).map(|n| n * 5 + key).collect::<Vec<_>>(), "k{key}");
    }
}

/// The program of `examples/worker.rs`, which `cargo test` builds with the tests unless it is given `--test`.
fn program(file: &File, tables: &str) -> Command {
    let tests = std::env::current_exe().unwrap();
    let program = tests.ancestors().nth(2).unwrap().join("examples/worker");
    assert!(program.exists(), "{}: run `cargo build --examples` first", program.display());
    let settings = file.0.path().join("outbox.toml");
    let database = format!("[database]\nurl = 'sqlite://{}'\n", file.0.path().join("app.db").display());
    std::fs::write(&settings, database + tables).unwrap();
    let mut command = Command::new(program);
    command.env_clear().arg("worker").arg("--config").arg(settings).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[actix_rt::test]
async fn a_killed_worker_loses_nothing_and_keeps_the_order_of_keys() {
    const EVENTS: i64 = 2_000;
    const KEYS: i64 = 20;
    let cluster = Cluster::new().await;
    let topic = cluster.topic("events", 3).await;
    let file = File::new();
    let writer = file.writer().await;
    for n in 0..EVENTS {
        let event = NewEvent::new("t", "tests").partition_key(format!("k{}", n % KEYS)).data(json!({ "n": n }));
        writer.send(event).await.unwrap();
    }
    writer.shutdown().await.unwrap();
    let tables = format!(
        "[publishers.default]\nbackend = 'kafka'\nbrokers = ['{}']\ntopic = '{topic}'\n\
         [worker]\nbatch_size = 100\nlease = '1s'\n",
        cluster.brokers
    );
    let mut killed = program(&file, &tables).spawn().unwrap();
    cluster.read(&topic, 200).await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    let ended = program(&file, &tables).arg("--until-empty").status().unwrap();
    assert!(ended.success());
    let received = cluster.read(&topic, EVENTS as usize).await;
    for key in 0..KEYS {
        let mut seen = std::collections::HashSet::new();
        let arrived = subjects(&received, &format!("k{key}"));
        let first: Vec<i64> = arrived.into_iter().filter(|n| seen.insert(*n)).collect();
        assert_eq!(first, (0..EVENTS / KEYS).map(|n| n * KEYS + key).collect::<Vec<_>>(), "k{key}");
    }
}

#[test]
fn settings_that_cannot_be_are_refused() {
    for (lines, words) in [
        ("brokers = []", "needs `brokers`"),
        ("brokers = ['h:1']\ntopic = ''", "topic: must not be empty"),
        ("brokers = ['h:1']\nmode = 'batch'", "a record has one event"),
        ("brokers = ['h:1']\ncompression = 'zip'", "one of none, gzip, snappy, lz4"),
        ("brokers = ['h:1']\nsasl = { username = 'u', password = 's3cret' }", "needs `mechanism`"),
        ("brokers = ['h:1']\ntls = { cert_file = 'c' }", "needs both"),
        ("brokers = ['h:1']\ntls = { ca_file = '/none.pem' }", "the file /none.pem cannot be read"),
    ] {
        let text = format!("[publishers.a]\nbackend = 'kafka'\n{lines}");
        let settings = Settings::from_toml(&text).unwrap();
        let problem = Kafka::new(&settings.publishers["a"]).err().unwrap();
        assert!(problem.contains(words) && !problem.contains("s3cret"), "{lines}: {problem}");
    }
}

/// The longest that a test waits for what takes moments.
const PATIENCE: Duration = Duration::from_secs(60);

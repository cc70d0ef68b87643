//! The `nats` backend, from the table to a consumer.

use std::process::Command;

use async_nats::jetstream;
use async_nats::jetstream::stream::RawMessageErrorKind;
use serde_json::Value;

use crate::python::interpreter;
use crate::support::nats::{Cluster, Server, WITHOUT_BATCHES};
use crate::support::process::{Running, Signal};
use crate::support::{PATIENCE, eventually, postgres};
use crate::test_outbox::TestOutbox;

/// Reads a consumer's messages and prints each event as the Python SDK understands it.
const CONSUMER: &str = r#"
import asyncio, sys, nats
from cloudevents.http import from_json, from_http

async def main(url, count):
    client = await nats.connect(url)
    subscription = await client.jetstream().pull_subscribe("events.>", "reader", stream="EVENTS")
    for message in await subscription.fetch(count, timeout=30):
        headers = {name.lower(): value for name, value in message.headers.items()}
        if headers.get("content-type", "").startswith("application/cloudevents"):
            event = from_json(message.data)
        else:
            headers["content-type"] = headers.pop("ce-datacontenttype")
            event = from_http(headers, message.data)
        print(message.subject, event["id"], event["type"], event["subject"], event["partitionkey"], event.data)
        await message.ack()
    await client.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"#;

async fn outbox() -> TestOutbox {
    TestOutbox::on(postgres::database().await, "redis://127.0.0.1:1".to_owned()).await
}

fn settings(test: &TestOutbox, url: &str, lines: &str) -> std::path::PathBuf {
    test.file(&format!(
        "[database]\nurl = \"{}\"\n[publishers.default]\nbackend = \"nats\"\nurl = \"{}\"\ncreate = true\n{lines}\n\
         [worker]\nlease = \"1s\"\n",
        test.url(),
        url
    ))
}

fn publish(test: &TestOutbox, settings: &std::path::Path, number: usize) {
    let (subject, data) = (format!("s{number}"), format!("{{\"n\": {number}}}"));
    let arguments =
        ["publish", "order.created", "--source", "/shop", "--subject", &subject, "--key", "k", "--data", &data];
    let published = test.outbox(settings, &arguments).output().unwrap();
    assert!(published.status.success(), "{}", String::from_utf8_lossy(&published.stderr));
}

#[tokio::test]
async fn a_python_consumer_reads_events_in_both_modes_and_no_journal() {
    let (test, server) = (outbox().await, Server::start());
    let python = interpreter("nats", &["nats-py==2.11.0", "cloudevents==1.12.0"]);
    let mut expected = String::new();
    for (number, mode) in ["structured", "binary"].into_iter().enumerate() {
        let settings = settings(&test, &server.url(), &format!("mode = \"{mode}\""));
        publish(&test, &settings, number);
        let sent = test.outbox(&settings, &["worker", "--until-empty"]).output().unwrap();
        assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
        expected += &format!("order.created s{number} k {{'n': {number}}}\n");
    }
    let read = Command::new(python).args(["-c", CONSUMER, &server.url(), "2"]).output().unwrap();
    let printed = String::from_utf8(read.stdout).unwrap();
    let events: String = printed.lines().map(|line| format!("{}\n", line.splitn(3, ' ').nth(2).unwrap())).collect();
    assert_eq!(events, expected, "{printed}{}", String::from_utf8_lossy(&read.stderr));
    assert!(printed.lines().all(|line| line.starts_with("events.order.created ")), "{printed}");
}

#[tokio::test]
async fn the_programs_consumer_reads_the_stream_and_its_dead_letters_are_for_operators() {
    let (test, server) = (outbox().await, Server::start());
    let mailer = "[consumers.mailer]\nsource = \"default\"\nreclaim_after = \"1s\"\nmax_deliveries = 2\n\
        retry_backoff = { base = \"1ms\", max = \"1ms\" }";
    let settings = settings(&test, &server.url(), mailer);
    (0..4).for_each(|number| publish(&test, &settings, number));
    let run = |arguments: &[&str]| {
        let output = test.outbox(&settings, arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let subjects = |printed: String| {
        let subject = |line: &str| serde_json::from_str::<Value>(line).unwrap()["subject"].as_str().unwrap().to_owned();
        printed.lines().map(subject).collect::<Vec<_>>()
    };
    run(&["worker", "--until-empty"]);
    assert_eq!(subjects(run(&["consume", "--from", "0", "--limit", "4"])), ["s0", "s1", "s2", "s3"]);
    assert_eq!(subjects(run(&["consume", "mailer", "--limit", "2"])), ["s0", "s1"]);

    let mut program = Command::new(env!("CARGO_BIN_EXE_outbox"));
    let script = r#"case "$(cat)" in *'"n": 2'*) exit 3;; esac"#;
    program.env("OUTBOX_CONFIG", &settings).args(["consume", "mailer", "--exec", "sh", "-c", script]);
    let mut consumer = Running::spawn(&mut program);
    let status = || {
        let status: Value = serde_json::from_str(&run(&["status", "--format", "json"])).unwrap();
        status["consumers"][0]["streams"][0].clone()
    };
    let done = serde_json::json!({
        "stream": "EVENTS", "has_group": true, "unread": 0, "pending": 0, "oldest_pending_seconds": null, "dead_letters": 1
    });
    eventually("one is dead and the other is done", PATIENCE, async || status() == done).await;
    consumer.signal(Signal::TERM);
    assert!(consumer.wait_exit(PATIENCE).await.success(), "{}", consumer.stderr());

    let letters: Value = serde_json::from_str(&run(&["dead", "list", "mailer", "--format", "json"])).unwrap();
    assert_eq!(letters[0]["reason"], "handler `mailer`: the command ended with exit status: 3");
    let entry = letters[0]["id"].as_str().unwrap();
    assert!(entry.starts_with("EVENTS:dead:mailer/"), "{entry}");
    let shown: Value = serde_json::from_str(&run(&["dead", "show", "mailer", entry])).unwrap();
    assert_eq!(shown["cloud_event"]["data"]["n"], 2);
    assert_eq!(run(&["dead", "retry", "mailer", "--all"]), "retried 1 dead letter\n");
    assert_eq!(subjects(run(&["consume", "mailer", "--limit", "1"])), ["s2"]);
    let group = ["consume", "--stream", "EVENTS", "--group", "other", "--limit", "4"];
    assert_eq!(subjects(run(&group)), ["s0", "s1", "s2", "s3"]);
}

#[tokio::test]
async fn killed_workers_and_servers_lose_nothing_and_double_nothing() {
    let (test, mut server) = (outbox().await, Server::start());
    let settings = settings(&test, &server.url(), "connect_timeout = 1\nsocket_timeout = 1");
    let events = 40;
    let mut worker = test.worker(&settings, "w");
    for number in 0..events {
        publish(&test, &settings, number);
        match number % 10 {
            4 => {
                worker.signal(Signal::KILL);
                worker.wait_exit(PATIENCE).await;
                worker = test.worker(&settings, "w");
            }
            9 => {
                server.kill();
                server.start_again();
            }
            _ => {}
        }
    }
    let client = test.database().connect().await;
    eventually("every event is published", PATIENCE, async || {
        let left = "SELECT count(*) FROM outbox_events WHERE status <> 'published' OR retry_count > 0";
        client.query_one(left, &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
    worker.signal(Signal::TERM);
    worker.wait_exit(PATIENCE).await;

    let context = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let stream = context.get_stream("EVENTS").await.unwrap();
    let mut subjects = Vec::new();
    for sequence in 1..=stream.cached_info().state.last_sequence {
        match stream.get_raw_message(sequence).await {
            Ok(message) if message.subject.starts_with("events.") => {
                let event: Value = serde_json::from_slice(&message.payload).unwrap();
                subjects.push(event["subject"].as_str().unwrap().to_owned());
            }
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), RawMessageErrorKind::NoMessageFound),
        }
    }
    let expected: Vec<String> = (0..events).map(|number| format!("s{number}")).collect();
    assert_eq!(subjects, expected);
}

#[tokio::test]
async fn the_journal_of_a_backend_that_is_gone_is_listed_and_removed() {
    let (test, server) = (outbox().await, Server::start());
    let old = settings(&test, &server.url(), "");
    publish(&test, &old, 1);
    assert!(test.outbox(&old, &["worker", "--until-empty"]).status().unwrap().success());
    let renamed = std::fs::read_to_string(&old).unwrap().replace("publishers.default", "publishers.other");
    let renamed = test.file(&renamed);
    let said = |arguments: &[&str]| {
        let output = test.outbox(&renamed, arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let left_behind = || {
        let status: Value = serde_json::from_str(&said(&["status", "--format", "json"])).unwrap();
        status["backends"][0]["left_behind"].clone()
    };
    // The lane of events that name no backend belongs to the default publisher, whatever its name.
    let left = left_behind();
    assert_eq!(
        (left[0]["publisher_backend"].as_str(), left[0]["fields"].as_u64()),
        (Some("default"), Some(32)),
        "{left}"
    );
    let cleaned = said(&["cleanup"]);
    assert!(cleaned.contains("removed 32 orphaned fields of this outbox from backend other"), "{cleaned}");
    assert_eq!(left_behind(), serde_json::json!([]));
}

/// What `outbox doctor` says about the publisher: the checks and how severe they are.
fn findings(test: &TestOutbox, settings: &std::path::Path) -> Vec<(String, String)> {
    let output = test.outbox(settings, &["doctor", "--format", "json"]).output().unwrap();
    let found: Vec<Value> = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap().to_owned();
    let of_publisher = found.iter().filter(|finding| finding["part"] == "publisher default");
    let mut found: Vec<_> = of_publisher.map(|finding| (text(finding, "check"), text(finding, "severity"))).collect();
    found.sort();
    found
}

fn expected(findings: &[(&str, &str)]) -> Vec<(String, String)> {
    findings.iter().map(|(check, severity)| ((*check).to_owned(), (*severity).to_owned())).collect()
}

#[tokio::test]
async fn the_doctor_names_streams_that_are_lost_or_full_and_old_servers() {
    let (test, server) = (outbox().await, Server::start());
    assert_eq!(findings(&test, &settings(&test, &server.url(), "")), [], "a stream as the outbox creates it");

    let context = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let fragile = jetstream::stream::Config {
        name: "FRAGILE".to_owned(),
        subjects: vec!["fragile.>".to_owned(), "_outbox.FRAGILE.>".to_owned()],
        storage: jetstream::stream::StorageType::Memory,
        discard: jetstream::stream::DiscardPolicy::New,
        max_messages: 10,
        allow_atomic_publish: true,
        allow_rollup: true,
        ..Default::default()
    };
    context.create_stream(fragile).await.unwrap();
    let settings_of = |stream: &str| format!("stream = \"{stream}\"\nsubject = \"{}.{{type}}\"", stream.to_lowercase());
    let fragile = settings(&test, &server.url(), &settings_of("FRAGILE"));
    for _ in 0..8 {
        context.publish("fragile.t", "".into()).await.unwrap().await.unwrap();
    }
    assert_eq!(findings(&test, &fragile), expected(&[("storage", "danger")]), "8 of 10 messages");
    context.publish("fragile.t", "".into()).await.unwrap().await.unwrap();
    assert_eq!(findings(&test, &fragile), expected(&[("limits", "danger"), ("storage", "danger")]), "9 of 10 messages");

    let old = Server::with(WITHOUT_BATCHES, "");
    assert_eq!(findings(&test, &settings(&test, &old.url(), "")), expected(&[("version", "advice")]));

    let cluster = Cluster::start(3);
    let replicated = settings(&test, &cluster.url(0), "replicas = 3");
    // Until its servers have elected a leader, the cluster creates no stream.
    eventually("the cluster is usable", PATIENCE, async || findings(&test, &replicated).is_empty()).await;
    let lone = settings(&test, &cluster.url(0), &format!("replicas = 1\n{}", settings_of("LONE")));
    assert_eq!(findings(&test, &lone), expected(&[("replicas", "advice")]));
}

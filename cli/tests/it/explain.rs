//! Explanations: each reason with a situation that causes it.

use std::path::Path;

use actix_outbox::{BackendError, OutboxSystem, Reason, StoreError, SystemError};
use serde_json::Value;
use uuid::Uuid;

use crate::actors::{Reply, Scripted, answer, event, handler, wait_status};
use crate::support::process::Running;
use crate::support::{PATIENCE, eventually, free_port};
use crate::takeover::Blockable;
use crate::test_outbox::TestOutbox;

/// Leases long enough that nothing changes during the test.
const LONG_LEASE: &str = "lease = \"60s\"";

/// Another process's explanation of an event.
fn explain(test: &TestOutbox, settings: &Path, id: &str) -> Value {
    let arguments = ["events", "explain", id, "--format", "json"];
    let output = test.outbox(settings, &arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let explanation: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(explanation["id"], id);
    explanation
}

/// Explains until the reason is the given one.
async fn wait_reason(test: &TestOutbox, settings: &Path, id: &str, reason: &str) -> Value {
    let mut last = Value::Null;
    eventually(&format!("the reason is {reason}"), PATIENCE, async || {
        last = explain(test, settings, id);
        last["reason"] == reason
    })
    .await;
    last
}

#[track_caller]
fn assert_says(explanation: &Value, words: &[&str]) {
    let sentence = explanation["sentence"].as_str().unwrap();
    assert!(words.iter().all(|word| sentence.contains(word)), "{words:?} in: {sentence}");
}

/// Inserts an event with these columns.
async fn insert(test: &TestOutbox, columns: &[(&str, &str)]) -> String {
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    let values: Vec<&str> = columns.iter().map(|(_, value)| *value).collect();
    let statement = format!(
        "INSERT INTO outbox_events (id, event_type, source, {}) VALUES (gen_random_uuid(), 't', 's', {}) RETURNING id::text",
        names.join(", "),
        values.join(", ")
    );
    test.sql().await.query_one(&statement, &[]).await.unwrap().get(0)
}

/// A worker that owns its shards and is frozen, while its leases are valid.
async fn stopped_worker(test: &TestOutbox, settings: &Path) -> Running {
    let mut worker = test.worker(settings, "stopped");
    test.wait_owners(&["stopped"]).await;
    worker.signal(rustix::process::Signal::STOP);
    worker
}

#[actix::test]
async fn an_event_says_what_its_row_alone_decides() {
    let test = TestOutbox::new().await;
    let settings = test.settings().write();
    for (columns, reason, words) in [
        (&[("scheduled_at", "now() + interval '1 hour'")][..], "scheduled", &["It is scheduled for 2"][..]),
        (&[("seq", "NULL")], "without_place", &["no place in the order"]),
        (&[("status", "'processing'")], "processing", &["django-broadcaster"]),
        (&[("extensions", "'[1]'")], "unreadable", &["not a valid event", "extensions"]),
        (&[("extensions", "'[1]'"), ("status", "'published'")], "published", &["It was published."]),
        (&[("status", "'published'"), ("published_at", "now()")], "published", &["It was published at 2"]),
        (
            &[("status", "'failed'"), ("retry_count", "3"), ("last_error", "'the stream is gone'")],
            "failed",
            &["after 3 tries: the stream is gone. Fix the cause; then `outbox events retry`"],
        ),
        (
            &[
                ("status", "'retry'"),
                ("retry_count", "1"),
                ("retry_at", "now() + interval '1 hour'"),
                ("last_error", "'no'"),
            ],
            "retrying",
            &["will be retried at 2", ": no."],
        ),
        (
            &[("status", "'retry'"), ("retry_at", "now() + interval '1 hour'"), ("last_error", "'h is paused'")],
            "retrying",
            &["It waits until 2", "has spent no retry: h is paused."],
        ),
        (&[("status", "'pending'")], "no_worker", &["No worker is alive. Start one: `outbox worker`."]),
    ] {
        let id = insert(&test, columns).await;
        let explanation = explain(&test, &settings, &id);
        assert_eq!(explanation["reason"], reason);
        assert_says(&explanation, words);
    }
}

#[actix::test]
async fn people_read_a_sentence_and_an_unknown_id_is_named() {
    let test = TestOutbox::new().await;
    let settings = test.settings().write();
    let id = insert(&test, &[("subject", "'1'")]).await;
    let run = |id: &str| test.outbox(&settings, &["events", "explain", id]).output().unwrap();
    assert_eq!(run(&id).stdout, b"No worker is alive. Start one: `outbox worker`.\n");
    let unknown = Uuid::now_v7().to_string();
    let refused = run(&unknown);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains(&format!("no event has the id {unknown}")));
}

#[actix::test]
async fn an_event_behind_others_of_its_key_names_the_first_of_them() {
    let test = TestOutbox::new().await;
    let tables = |on_failed: &str| {
        format!(
            "[publishers.default]\nbackend = \"scripted\"\non_failed = \"{on_failed}\"\n[worker]\n\
             retry_backoff = {{ base = \"1h\", factor = 1, max = \"1h\", jitter = 0 }}"
        )
    };
    let refusing = || {
        Scripted::new(|event| match event.subject.as_str() {
            "1" => Reply::Refuse(BackendError::Rejected("not before lunch".to_owned())),
            "2" => Reply::Refuse(BackendError::Invalid("not at all".to_owned())),
            _ => Reply::Accept,
        })
    };
    let builder = OutboxSystem::builder(test.system_settings(&tables("hold")));
    let outbox = builder.backend("scripted", move |_| Ok(refusing())).start().await.unwrap();
    let mut ids = Vec::new();
    for (subject, key) in [("1", "a"), ("behind 1", "a"), ("2", "b"), ("behind 2", "b")] {
        ids.push(outbox.send(event(subject).partition_key(key)).await.unwrap().id);
    }
    let sql = test.sql().await;
    wait_status(&sql, "1", "retry").await;
    wait_status(&sql, "2", "failed").await;
    let reason = async |id: Uuid| outbox.explain(id).await.unwrap().reason;
    assert!(matches!(reason(ids[0]).await, Reason::Retrying { attempts: 1, max_retries: 3, .. }));
    assert!(matches!(reason(ids[1]).await, Reason::BehindKey { event, .. } if event == ids[0]));
    assert!(matches!(reason(ids[2]).await, Reason::Failed { error, .. } if error == "not at all"));
    let held = outbox.explain(ids[3]).await.unwrap();
    assert!(matches!(held.reason, Reason::BehindKey { event, .. } if event == ids[2]));
    assert!(held.to_string().contains("failed and holds the key"), "{held}");
    let unknown = outbox.explain(Uuid::nil()).await.unwrap_err();
    assert!(matches!(unknown, SystemError::Store(StoreError::NotFound(id)) if id.is_nil()), "{unknown}");
}

#[actix::test]
async fn an_event_whose_handlers_failed_names_those_that_are_still_to_run() {
    let test = TestOutbox::new().await;
    let tables = format!(
        "[publishers.default]\n{}[worker]\nretry_backoff = {{ base = \"1h\", factor = 1, max = \"1h\", jitter = 0 }}",
        test.stream()
    );
    let outbox = OutboxSystem::builder(test.system_settings(&tables))
        .subscribe(handler("mailer", "thing.happened", |_| answer(Err("the mailbox is full"))))
        .subscribe(handler("search", "thing.happened", |_| answer(Ok(()))))
        .start()
        .await
        .unwrap();
    let id = outbox.send(event("1")).await.unwrap().id;
    wait_status(&test.sql().await, "1", "retry").await;
    let explanation = explain(&test, &test.settings().write(), &id.to_string());
    assert_eq!(explanation["reason"], "handlers");
    assert_eq!(explanation["handlers"], serde_json::json!(["mailer"]));
    assert_says(&explanation, &["Its backend has had it since 2", "must still run: mailer", "the mailbox is full"]);
}

#[actix::test]
async fn an_event_of_a_backend_that_no_worker_has_says_so() {
    let test = TestOutbox::new().await;
    let settings = test.settings().worker(LONG_LEASE).write();
    let id = insert(&test, &[("publisher_backend", "'billing'")]).await;
    let _worker = stopped_worker(&test, &settings).await;
    let explanation = explain(&test, &settings, &id);
    assert_eq!(explanation["reason"], "unknown_backend");
    assert_says(&explanation, &["No live worker serves backend \"billing\"; those alive are stopped."]);
}

#[actix::test]
async fn an_event_of_a_backend_that_is_away_says_since_when_and_why() {
    let test =
        TestOutbox::found_by(format!("url = \"redis://:hunter2@127.0.0.1:{}\"", free_port()), String::new()).await;
    let settings = test.settings().write();
    let id = insert(&test, &[("subject", "'1'")]).await;
    let _worker = test.worker(&settings, "cut off");
    let explanation = wait_reason(&test, &settings, &id, "paused").await;
    assert!(explanation["since"].as_str().unwrap().starts_with('2'), "{explanation}");
    assert_says(&explanation, &["The default backend has been unavailable since 2", "cut off", "no retry is spent"]);
    assert!(!explanation.to_string().contains("hunter2"), "{explanation}");
}

#[actix::test]
async fn an_event_at_a_limited_rate_says_which_and_how_many_come_first() {
    let test = TestOutbox::new().await;
    let settings = test.settings().publisher("rate_limit = { per_second = 1, burst = 1 }").write();
    test.insert(50, 50).await;
    let id = insert(&test, &[("subject", "'last'")]).await;
    let _worker = test.worker(&settings, "slow");
    let explanation = wait_reason(&test, &settings, &id, "rate_limited").await;
    assert_eq!(explanation["per_second"], 1);
    assert!((1..=50).contains(&explanation["ahead"].as_i64().unwrap()), "{explanation}");
    assert_says(&explanation, &["Worker slow may send 1 events a second to the default backend"]);
}

#[actix::test]
async fn a_due_event_names_its_worker_and_if_none_owns_it_the_possible_workers() {
    let test = TestOutbox::new().await;
    let settings = test.settings().worker(LONG_LEASE).write();
    let _worker = stopped_worker(&test, &settings).await;
    let first = insert(&test, &[("subject", "'1'")]).await;
    let second = insert(&test, &[("subject", "'2'")]).await;
    let explanation = explain(&test, &settings, &first);
    assert_eq!(
        (&explanation["reason"], &explanation["worker"], &explanation["ahead"]),
        (&"due".into(), &"stopped".into(), &0.into())
    );
    assert_eq!(explain(&test, &settings, &second)["ahead"], 1);
    test.sql().await.batch_execute("UPDATE outbox_leases SET owner = NULL").await.unwrap();
    let explanation = explain(&test, &settings, &first);
    assert_eq!(explanation["reason"], "no_owner");
    assert_says(&explanation, &["No worker owns its shard", ": stopped."]);
}

#[actix::test]
async fn an_event_explains_why_its_workers_stand_by_next_to_an_older_worker() {
    let test = TestOutbox::new().await;
    // Workers with newer rules keep the older ones while it is alive.
    let older = "INSERT INTO outbox_workers (id, name, version, backends, handlers, heartbeat_at)
        VALUES (gen_random_uuid(), 'older', '0.1.0', '{}', '[]', clock_timestamp() + interval '1 day')";
    test.sql().await.batch_execute(older).await.unwrap();
    let settings = test.settings().worker(LONG_LEASE).write();
    let tables = format!("[publishers.default]\n{}[worker]\n{LONG_LEASE}", test.stream());
    let _complete = OutboxSystem::builder(test.system_settings(&tables))
        .subscribe(handler("mailer", "thing.happened", |_| answer(Ok(()))))
        .start()
        .await
        .unwrap();
    let _lacking = test.worker(&settings, "lacking");
    let sql = test.sql().await;
    let told = "SELECT count(*) FROM outbox_workers WHERE name = 'lacking' AND backends->'default' ? 'standing_by'";
    eventually("it has reported that it stands by", PATIENCE, async || test.number(told).await == 1).await;
    let beats = "SELECT count(*) FROM outbox_heartbeats WHERE heartbeat_at > clock_timestamp() - interval '500 ms'";
    eventually("no heartbeat is being sent", PATIENCE, async || test.number(beats).await == 0).await;
    // The other worker's death, as the table shows it until the next heartbeat, a third of the lease later.
    sql.batch_execute("DELETE FROM outbox_workers WHERE name <> 'lacking'; UPDATE outbox_leases SET owner = NULL")
        .await
        .unwrap();
    let id = insert(&test, &[("subject", "'1'")]).await;
    let explanation = explain(&test, &settings, &id);
    assert_eq!(explanation["reason"], "standing_by");
    assert_says(&explanation, &["is standing by: lacking, because", "handlers that this one lacks: mailer"]);
}

#[actix::test]
async fn an_event_that_a_service_which_is_away_is_owed_says_so() {
    let test = TestOutbox::new().await;
    let tables = format!("[publishers.default]\n{}[worker]\nlease = \"1s\"", test.stream());
    let service = OutboxSystem::builder(test.system_settings(&tables))
        .subscribe(handler("mailer", "t", |_| answer(Ok(()))))
        .start()
        .await
        .unwrap();
    service.shutdown().await.unwrap();
    let settings = test.settings().worker("lease = \"1s\"").write();
    let _worker = test.worker(&settings, "worker");
    let id = insert(&test, &[("subject", "'1'")]).await;
    let explanation = wait_reason(&test, &settings, &id, "owed").await;
    assert_eq!(explanation["handlers"], serde_json::json!(["mailer"]));
    assert_says(&explanation, &["is owed to these handlers: mailer"]);
}

#[actix::test]
async fn an_event_whose_only_worker_hangs_says_so() {
    let test = TestOutbox::new().await;
    let worker = "lease = \"1s\"\nname = \"hanging\"";
    let tables = format!("[publishers.default]\n{}[worker]\n{worker}", test.stream());
    let Blockable { block, unblock, thread } = Blockable::start(test.system_settings(&tables));
    test.wait_owners(&["hanging"]).await;
    block.send(()).unwrap();
    let id = insert(&test, &[("subject", "'1'")]).await;
    let explanation = wait_reason(&test, &test.settings().worker("lease = \"1s\"").write(), &id, "stuck").await;
    assert_eq!(explanation["worker"], "hanging");
    assert_says(&explanation, &["hanging"]);
    unblock.send(()).unwrap();
    tokio::task::spawn_blocking(|| thread.join().unwrap()).await.unwrap();
}

//! Operators' changes next to running workers: events deleted and moved, backends paused.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::journal;
use crate::support::process::{Running, Signal};
use crate::support::proxy::{Passage, Proxy};
use crate::support::{PATIENCE, eventually, postgres, redis};
use crate::test_outbox::{DRAIN, TestOutbox};

const SHORT_LEASE: &str = "lease = \"2s\"";

/// Runs a command; returns its exit code, stdout and stderr.
async fn run(test: &TestOutbox, settings: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut program = Running::spawn(&mut test.outbox(settings, arguments));
    let status = program.wait_exit(DRAIN).await;
    (status.code(), program.stdout(), program.stderr())
}

/// Runs a command that must succeed; returns its stdout.
async fn done(test: &TestOutbox, settings: &Path, arguments: &[&str]) -> String {
    let (code, stdout, stderr) = run(test, settings, arguments).await;
    assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
    stdout
}

/// Settings with a second publisher, `audit`, and its stream.
fn with_second_stream(test: &TestOutbox) -> (PathBuf, String) {
    let stream = redis::stream();
    let audit = format!(
        "[publishers.audit]\nbackend = \"redis_stream\"\nurl = \"{}\"\nstream_name = \"{stream}\"\nmax_len = 0",
        test.redis_url()
    );
    (test.settings().worker(SHORT_LEASE).publisher(audit).write(), stream)
}

async fn ids(test: &TestOutbox, condition: &str) -> HashSet<String> {
    let statement = format!("SELECT id::text FROM outbox_events WHERE {condition}");
    let rows = test.sql().await.query(&statement, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// The changed events, of the answer `{"changed": n, …}`.
fn changed(answer: &str) -> usize {
    serde_json::from_str::<Value>(answer).unwrap()["changed"].as_u64().unwrap().try_into().unwrap()
}

#[tokio::test]
async fn an_event_that_is_deleted_before_it_was_sent_is_never_sent() {
    let test = TestOutbox::new().await;
    let settings = test.settings().worker(SHORT_LEASE).publisher("rate_limit = { per_second = 400 }").write();
    let _workers = ["one", "two"].map(|name| test.worker(&settings, name));
    test.wait_owners(&["one", "two"]).await;
    test.insert(4_000, 50).await;
    test.wait_length(200).await;
    let all = ids(&test, "true").await;
    let delete = ["events", "delete", "--status", "pending", "--key", "key-7", "--yes", "--format", "json"];
    let (_, answer, _) = run(&test, &settings, &delete).await;
    let deleted = changed(&answer);
    test.wait_published().await;
    let left = ids(&test, "true").await;
    let gone: HashSet<&String> = all.difference(&left).collect();
    assert!(deleted > 0 && gone.len() == deleted, "{deleted} deleted, {} gone", gone.len());
    assert!(test.event_ids().await.iter().all(|id| !gone.contains(id)));
    test.assert_delivered().await;
}

#[tokio::test]
async fn a_stopped_worker_does_not_send_what_was_deleted_meanwhile() {
    let server = redis::Server::start(&[]);
    let test = TestOutbox::on(postgres::database().await, server.url()).await;
    let proxy = Proxy::to(server.port()).await;
    let settings = test.settings().worker(SHORT_LEASE).write();
    let through = format!("redis://127.0.0.1:{}/0", proxy.port());
    let mut worker = Running::spawn(
        test.outbox(&settings, &["worker", "--name", "stopped"]).env("OUTBOX__PUBLISHERS__DEFAULT__URL", through),
    );
    test.insert(10, 3).await;
    test.wait_published().await;
    eventually("the journal is empty", PATIENCE, async || journal::sent(&test).await.is_empty()).await;
    proxy.set(Passage::HoldRequests);
    test.insert(10, 3).await;
    // More than a health check sends.
    eventually("a batch is on its way", PATIENCE, async || proxy.held_bytes() > 1_000).await;
    worker.signal(Signal::STOP);
    let delete = ["events", "delete", "--status", "pending", "--type", "thing.happened", "--yes"];
    assert_eq!(done(&test, &settings, &delete).await, "deleted 10 events\n");
    proxy.set(Passage::Open);
    worker.signal(Signal::CONT);
    test.insert(10, 3).await;
    test.wait_published().await;
    test.assert_delivered().await;
    assert_eq!(test.length().await, 20);
}

#[tokio::test]
async fn events_are_moved_under_load_and_each_reaches_one_stream_once() {
    let test = TestOutbox::new().await;
    let (settings, stream) = with_second_stream(&test);
    let _workers = ["one", "two"].map(|name| test.worker(&settings, name));
    test.wait_owners(&["one", "two"]).await;
    test.insert(6_000, 50).await;
    for to in ["audit", "default", "audit"] {
        let from = if to == "audit" { "" } else { "audit" };
        let moving = ["events", "move", "--backend", from, "--to", to, "--yes", "--format", "json"];
        let (_, stdout, stderr) = run(&test, &settings, &moving).await;
        assert!(serde_json::from_str::<Value>(&stdout).is_ok(), "{stderr}");
        test.insert(2_000, 50).await;
    }
    test.wait_published().await;
    let (first, second) = (test.event_ids().await, redis::event_ids(test.redis_url(), &stream).await);
    let distinct: HashSet<&String> = first.iter().chain(&second).collect();
    assert_eq!((first.len() + second.len(), distinct.len()), (12_000, 12_000));
    for (backend, stream) in [("publisher_backend = 'audit'", &second), ("publisher_backend <> 'audit'", &first)] {
        assert_eq!(ids(&test, backend).await, stream.iter().cloned().collect(), "{backend}");
    }
}

#[tokio::test]
async fn events_of_a_misspelt_backend_are_moved_to_the_right_one_and_sent() {
    let test = TestOutbox::new().await;
    let settings = test.settings().worker(SHORT_LEASE).write();
    test.insert(20, 3).await;
    let misspell = "UPDATE outbox_events SET publisher_backend = 'defualt'";
    test.sql().await.execute(misspell, &[]).await.unwrap();
    let _worker = test.worker(&settings, "worker");
    test.wait_owners(&["worker"]).await;
    let moving = ["events", "move", "--backend", "defualt", "--to", "default"];
    assert_eq!(done(&test, &settings, &moving).await, "moved 20 events\n");
    test.wait_published().await;
    test.assert_delivered().await;
    let (code, _, stderr) = run(&test, &settings, &["events", "move", "--backend", "x", "--to", "Not a name"]).await;
    assert!(code == Some(2) && stderr.contains("publisher_backend"), "{code:?} {stderr}");
}

#[tokio::test]
async fn an_event_that_was_sent_and_is_not_recorded_is_neither_deleted_nor_moved() {
    let test = TestOutbox::new().await;
    let (settings, _) = with_second_stream(&test);
    test.insert(5, 1).await;
    let locked: String =
        test.sql().await.query_one("SELECT id::text FROM outbox_events LIMIT 1", &[]).await.unwrap().get(0);
    let holder = test.sql().await;
    let lock = format!("BEGIN; SELECT FROM outbox_events WHERE id = '{locked}' FOR UPDATE");
    holder.batch_execute(&lock).await.unwrap();
    let _worker = test.worker(&settings, "worker");
    test.wait_length(5).await;
    eventually("the others are recorded", PATIENCE, async || test.unpublished().await == 1).await;
    for arguments in [&["events", "delete", &locked][..], &["events", "move", &locked, "--to", "audit"]] {
        let (code, stdout, stderr) = run(&test, &settings, &[arguments, &["--format", "json"]].concat()).await;
        let answer: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(
            (code, &answer["changed"], &answer["skipped"][0]["id"]),
            (Some(1), &0.into(), &locked.as_str().into())
        );
        let reason = answer["skipped"][0]["reason"].as_str().unwrap();
        assert!(reason.contains("was sent, and that is not recorded yet"), "{reason} {stderr}");
    }
    holder.batch_execute("ROLLBACK").await.unwrap();
    test.wait_published().await;
    test.assert_delivered().await;
    assert_eq!(done(&test, &settings, &["events", "delete", &locked]).await, "deleted 1 event\n");
}

#[tokio::test]
async fn without_a_worker_or_beside_a_dead_one_events_are_deleted_too() {
    let test = TestOutbox::new().await;
    let settings = test.settings().worker(SHORT_LEASE).write();
    test.insert(3, 1).await;
    let delete = ["events", "delete", "--key", "key-0"];
    assert_eq!(done(&test, &settings, &delete).await, "deleted 3 events\n");
    let mut worker = test.worker(&settings, "killed");
    test.wait_owners(&["killed"]).await;
    worker.kill();
    test.insert(3, 1).await;
    assert_eq!(done(&test, &settings, &delete).await, "deleted 3 events\n");
    assert_eq!(done(&test, &settings, &delete).await, "deleted 0 events\n");
    let (code, _, stderr) = run(&test, &settings, &["events", "delete"]).await;
    assert!(code == Some(2) && stderr.contains("say which events"), "{code:?} {stderr}");
}

async fn status(test: &TestOutbox, settings: &Path) -> Value {
    serde_json::from_str(&done(test, settings, &["status", "--format", "json"]).await).unwrap()
}

#[tokio::test]
async fn a_paused_backend_gets_nothing_from_any_worker_until_it_is_resumed() {
    let test = TestOutbox::new().await;
    let (settings, stream) = with_second_stream(&test);
    let _one = test.worker(&settings, "one");
    test.wait_owners(&["one"]).await;
    let reason = "the consumers are being moved";
    assert_eq!(done(&test, &settings, &["backends", "pause", "default", "--reason", reason]).await, "paused default\n");
    let _two = test.worker(&settings, "two");
    test.insert(50, 5).await;
    let other =
        "UPDATE outbox_events SET publisher_backend = 'audit' WHERE id IN (SELECT id FROM outbox_events LIMIT 20)";
    test.sql().await.execute(other, &[]).await.unwrap();
    eventually("the other backend has its events", PATIENCE, async || {
        redis::event_ids(test.redis_url(), &stream).await.len() == 20
    })
    .await;
    assert_eq!(test.length().await, 0);

    let shown = status(&test, &settings).await;
    let backend = shown["backends"].as_array().unwrap().iter().find(|backend| backend["name"] == "default").unwrap();
    assert_eq!((&backend["paused"], &backend["pause_reason"]), (&true.into(), &reason.into()), "{backend}");
    assert!(done(&test, &settings, &["backends", "list"]).await.contains(reason));
    let waiting = ids(&test, "status = 'pending'").await.into_iter().next().unwrap();
    let explained = done(&test, &settings, &["events", "explain", &waiting]).await;
    assert!(explained.contains("has been paused") && explained.contains(reason), "{explained}");
    done(&test, &settings, &["health"]).await;
    done(&test, &settings, &["worker", "--until-empty"]).await;
    assert_eq!(test.length().await, 0);
    let again = done(&test, &settings, &["backends", "pause", "default"]).await;
    assert_eq!(again, "was paused before: default\n");
    let (code, _, stderr) = run(&test, &settings, &["backends", "pause", "nothing"]).await;
    assert!(code == Some(1) && stderr.contains("\"nothing\""), "{code:?} {stderr}");

    assert_eq!(done(&test, &settings, &["backends", "resume", "default"]).await, "resumed default\n");
    test.wait_published().await;
    assert_eq!((test.length().await, redis::event_ids(test.redis_url(), &stream).await.len()), (30, 20));
    assert_eq!(done(&test, &settings, &["backends", "resume", "default"]).await, "was not paused: default\n");
    let shown = status(&test, &settings).await;
    assert!(shown["backends"].as_array().unwrap().iter().all(|backend| backend["paused"] == false), "{shown}");
}

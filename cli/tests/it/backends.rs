//! Custom backends: how their answers determine the outcome of events.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_outbox::{BackendError, Outbox, OutboxEvent, OutboxSystem};

use crate::actors::{Log, QUICK_RETRIES, Reply, Scripted, event, row, wait_status};
use crate::support::{PATIENCE, eventually};
use crate::test_outbox::TestOutbox;

/// A system whose default publisher is `redis_stream`, with another one named `mine` of the test's own backend.
async fn start(test: &TestOutbox, backend: Scripted, mine: &str, worker: &str) -> Outbox {
    let tables = format!(
        "[publishers.default]\n{}[publishers.mine]\nbackend = \"scripted\"\n{mine}\n[worker]\n{QUICK_RETRIES}{worker}\n",
        test.stream()
    );
    let builder = OutboxSystem::builder(test.system_settings(&tables));
    builder.backend("scripted", move |_| Ok(backend.clone())).start().await.unwrap()
}

/// Rejects an event the first `times` attempts, and records every attempt.
fn refusing(subject: &'static str, times: usize, why: fn(String) -> BackendError, log: &Log) -> Scripted {
    let log = log.clone();
    Scripted::new(move |event: &OutboxEvent| {
        log.add(&event.subject);
        if event.subject == subject && log.count(subject) <= times {
            return Reply::Refuse(why("not before lunch".to_owned()));
        }
        Reply::Accept
    })
}

async fn send(outbox: &Outbox, subjects: &[&str], key: &str) {
    for subject in subjects {
        outbox.send(event(subject).backend("mine").partition_key(key)).await.unwrap();
    }
}

/// The number of events of `mine` that have changed since they were written.
const TOUCHED: &str = "SELECT count(*) FROM outbox_events
    WHERE publisher_backend = 'mine' AND (status <> 'pending' OR retry_count <> 0)";

#[actix::test]
async fn a_backend_that_never_answers_holds_up_its_own_events_alone() {
    let (test, asked) = (TestOutbox::new().await, Log::default());
    let hanging = {
        let asked = asked.clone();
        Scripted::new(move |event: &OutboxEvent| {
            asked.add(&event.subject);
            Reply::Hang
        })
    };
    let outbox = start(&test, hanging, "", "max_in_flight = 40").await;
    for n in 0..60 {
        outbox.send(event(&format!("stuck {n}")).backend("mine").max_retries(0)).await.unwrap();
    }
    asked.wait(1).await;
    test.insert(2_000, 50).await;
    outbox.wake();
    test.wait_length(2_000).await;
    let unpublished = "SELECT count(*) FROM outbox_events WHERE publisher_backend = '' AND status <> 'published'";
    eventually("the others' events are settled", PATIENCE, async || test.number(unpublished).await == 0).await;
    assert_eq!(test.number(TOUCHED).await, 0);
}

/// Its health says why.
#[actix::test]
async fn a_backend_that_stops_answering_is_paused_costs_no_retries_and_resumes() {
    let (test, asked, hangs) = (TestOutbox::new().await, Log::default(), Arc::new(AtomicBool::new(true)));
    let backend = {
        let (asked, hangs) = (asked.clone(), Arc::clone(&hangs));
        Scripted::new(move |event: &OutboxEvent| {
            let hang = hangs.load(Ordering::SeqCst);
            asked.add(format!("{} {}", if hang { "hung" } else { "took" }, event.subject));
            if hang { Reply::Hang } else { Reply::Accept }
        })
    };
    let outbox = start(&test, backend.timeout(Duration::from_millis(20)), "", "max_retries = 1").await;
    send(&outbox, &["1", "2", "3"], "key").await;
    // Often enough that the first event is sent alone, and is suspected as the cause.
    asked.wait(10).await;
    eventually("its health contains the reason", PATIENCE, async || {
        let health = outbox.health().await.unwrap();
        !health.is_ok() && matches!(&health.backends["mine"], Err(reason) if reason.contains("no answer within 20ms"))
    })
    .await;
    assert_eq!(outbox.health().await.unwrap().backends["default"], Ok(()));
    assert_eq!(test.number(TOUCHED).await, 0);

    hangs.store(false, Ordering::SeqCst);
    test.wait_published().await;
    assert_eq!(asked.of("took"), ["took 1", "took 2", "took 3"]);
    assert_eq!(test.number("SELECT sum(retry_count) FROM outbox_events").await, 0);
    assert!(outbox.health().await.unwrap().is_ok());
}

#[actix::test]
async fn a_backend_that_is_unavailable_is_paused_and_costs_no_retries() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let outbox = start(&test, refusing("1", 3, BackendError::Unavailable, &log), "", "max_retries = 1").await;
    send(&outbox, &["1", "2"], "key").await;
    log.wait(2).await;
    eventually("its health contains the reason", PATIENCE, async || {
        let health = outbox.health().await.unwrap();
        matches!(&health.backends["mine"], Err(reason) if reason.contains("not before lunch"))
    })
    .await;
    test.wait_published().await;
    assert_eq!(log.lines(), ["1", "1", "1", "1", "2"]);
    let row = row(&test.sql().await, "1").await;
    assert_eq!((row.retry_count, row.errors), (0, 0), "{row:?}");
}

#[actix::test]
async fn a_rejected_event_is_tried_as_often_as_it_may_and_then_has_failed() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let outbox = start(&test, refusing("1", usize::MAX, BackendError::Rejected, &log), "", "").await;
    outbox.send(event("1").backend("mine").max_retries(3)).await.unwrap();
    let row = wait_status(&test.sql().await, "1", "failed").await;
    assert_eq!((row.retry_count, row.errors), (3, 3));
    assert_eq!(row.last_error, "not before lunch");
    assert!(!row.is_with_the_backend);
    assert_eq!(log.lines(), ["1", "1", "1"]);
    assert!(outbox.health().await.unwrap().is_ok(), "one rejected event is not an outage");
}

#[actix::test]
async fn an_event_rejected_for_good_has_failed_at_once() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let outbox = start(&test, refusing("1", usize::MAX, BackendError::Invalid, &log), "", "").await;
    outbox.send(event("1").backend("mine").max_retries(3)).await.unwrap();
    let row = wait_status(&test.sql().await, "1", "failed").await;
    assert_eq!((row.last_error.as_str(), row.errors), ("not before lunch", 1));
    assert_eq!(log.lines(), ["1"]);
}

#[actix::test]
async fn later_events_of_a_key_wait_for_a_rejected_one_and_other_keys_go_on() {
    let (test, log, open) = (TestOutbox::new().await, Log::default(), Arc::new(AtomicBool::new(false)));
    let backend = {
        let (log, open) = (log.clone(), Arc::clone(&open));
        Scripted::new(move |event: &OutboxEvent| {
            if event.subject == "a2" && !open.load(Ordering::SeqCst) {
                return Reply::Refuse(BackendError::Rejected("not yet".to_owned()));
            }
            log.add(&event.subject);
            Reply::Accept
        })
    };
    let outbox = start(&test, backend, "", "max_retries = 1000000").await;
    send(&outbox, &["a1", "a2", "a3", "a4"], "a").await;
    send(&outbox, &["b1", "b2", "b3"], "b").await;
    let sql = test.sql().await;
    wait_status(&sql, "b3", "published").await;
    eventually("it was rejected again", PATIENCE, async || row(&sql, "a2").await.retry_count > 1).await;
    for subject in ["a3", "a4"] {
        let row = row(&sql, subject).await;
        assert_eq!((row.status.as_str(), row.retry_count), ("pending", 0), "{subject}: {row:?}");
    }
    open.store(true, Ordering::SeqCst);
    test.wait_published().await;
    assert_eq!(log.of("a"), ["a1", "a2", "a3", "a4"]);
    assert_eq!(log.of("b"), ["b1", "b2", "b3"]);
}

#[actix::test]
async fn later_events_of_a_key_wait_for_a_rejected_one_even_in_a_later_batch() {
    const KEYS: usize = 5;
    const EVENTS: usize = 200;
    let (test, log) = (TestOutbox::new().await, Log::default());
    let backend = {
        let (log, tries) = (log.clone(), Log::default());
        Scripted::new(move |event: &OutboxEvent| {
            tries.add(&event.subject);
            if event.subject.ends_with("33") && tries.count(&event.subject) == 1 {
                return Reply::Refuse(BackendError::Rejected("not at first".to_owned()));
            }
            log.add(&event.subject);
            Reply::Accept
        })
    };
    let insert = "INSERT INTO outbox_events (id, event_type, source, publisher_backend, partition_key, subject)
        SELECT gen_random_uuid(), 'thing.happened', 'tests', 'mine', 'key', k || ' ' || n
        FROM generate_series(1, 200) n, generate_series(1, 5) k ORDER BY n";
    let insert = insert.replace("'key'", "'key-' || k");
    test.sql().await.execute(&insert, &[]).await.unwrap();
    // Small batches, with pauses that are longer than recording a rejection takes.
    let slowly = "rate_limit = { per_second = 1000, burst = 20 }";
    let _outbox = start(&test, backend, slowly, "batch_size = 10").await;
    test.wait_published().await;
    for key in 1..=KEYS {
        let expected: Vec<String> = (1..=EVENTS).map(|n| format!("{key} {n}")).collect();
        assert_eq!(log.of(&format!("{key} ")), expected);
    }
}

#[actix::test]
async fn after_a_failed_event_its_key_goes_on_where_the_settings_say_continue() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let backend = refusing("a2", usize::MAX, BackendError::Rejected, &log);
    let outbox = start(&test, backend, "on_failed = \"continue\"", "max_retries = 2").await;
    send(&outbox, &["a1", "a2", "a3", "a4"], "a").await;
    let sql = test.sql().await;
    wait_status(&sql, "a4", "published").await;
    assert_eq!(row(&sql, "a2").await.status, "failed");
    assert_eq!(log.lines(), ["a1", "a2", "a2", "a3", "a4"]);
}

#[actix::test]
async fn on_failed_hold_a_failed_event_blocks_its_key_until_it_is_retried() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let backend = refusing("a2", 2, BackendError::Rejected, &log);
    let outbox = start(&test, backend, "on_failed = \"hold\"", "max_retries = 2").await;
    send(&outbox, &["a1", "a2", "a3"], "a").await;
    let sql = test.sql().await;
    wait_status(&sql, "a2", "failed").await;
    send(&outbox, &["a4"], "a").await;
    send(&outbox, &["b1"], "b").await;
    wait_status(&sql, "b1", "published").await;
    // Held events do not count.
    tokio::time::timeout(PATIENCE, outbox.drained()).await.unwrap();
    assert_eq!(log.of("a"), ["a1", "a2", "a2"]);
    for subject in ["a3", "a4"] {
        assert_eq!(row(&sql, subject).await.status, "pending", "{subject}");
    }
    test.run(&["events", "retry", "--status", "failed"]).await;
    test.wait_published().await;
    assert_eq!(log.of("a"), ["a1", "a2", "a2", "a2", "a3", "a4"]);
}

#[actix::test]
async fn a_held_key_goes_on_without_the_failed_event_that_a_person_gives_up() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let backend = refusing("a1", usize::MAX, BackendError::Rejected, &log);
    let outbox = start(&test, backend, "on_failed = \"hold\"", "max_retries = 1").await;
    send(&outbox, &["a1", "a2"], "a").await;
    wait_status(&test.sql().await, "a1", "failed").await;
    tokio::time::timeout(PATIENCE, outbox.drained()).await.unwrap();
    assert_eq!(log.of("a"), ["a1"]);
    test.run(&["events", "fail", "--status", "failed"]).await;
    wait_status(&test.sql().await, "a2", "published").await;
    assert_eq!(log.of("a"), ["a1", "a2"]);
}

#[actix::test]
async fn an_event_that_a_backend_refuses_for_a_time_is_retried_after_it() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let for_an_hour = |reason| BackendError::RejectedFor { reason, delay: Duration::from_secs(3_600) };
    let outbox = start(&test, refusing("1", usize::MAX, for_an_hour, &log), "", "").await;
    send(&outbox, &["1"], "").await;
    let row = wait_status(&test.sql().await, "1", "retry").await;
    assert_eq!((row.retry_count, log.count("1")), (1, 1));
    let waits = "SELECT count(*) FROM outbox_events WHERE retry_at > now() + interval '58 minutes'";
    assert_eq!(test.number(waits).await, 1);
}

#[actix::test]
async fn an_event_whose_part_of_the_backend_is_unavailable_waits_without_a_retry_and_others_go_on() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let deferred = |reason| BackendError::Deferred { reason, delay: Duration::from_millis(100) };
    // More often than it has retries.
    let outbox = start(&test, refusing("1", 5, deferred, &log), "", "").await;
    send(&outbox, &["1", "2"], "key").await;
    send(&outbox, &["3"], "other").await;
    let sql = test.sql().await;
    wait_status(&sql, "3", "published").await;
    wait_status(&sql, "2", "published").await;
    let row = wait_status(&sql, "1", "published").await;
    assert_eq!((row.retry_count, log.count("1")), (0, 6));
    assert!(row.errors == 5 && row.last_error.contains("no"), "{row:?}");
    let sent = log.lines();
    assert!(sent.iter().rposition(|line| line == "1") < sent.iter().position(|line| line == "2"), "{sent:?}");
    outbox.shutdown().await.unwrap();
}

/// The program contains `kafka` if it is built with this feature, which compiles librdkafka.
#[tokio::test]
async fn kafka_is_refused_with_what_it_lacks() {
    let test = TestOutbox::new().await;
    let settings =
        test.file(&format!("[database]\nurl = \"{}\"\n[publishers.default]\nbackend = \"kafka\"\n", test.url()));
    let output = test.outbox(&settings, &["worker", "--until-empty"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    let lacking = if cfg!(feature = "kafka") { "`brokers`" } else { "the feature kafka" };
    assert!(said.contains("publishers.default") && said.contains(lacking), "{said}");
}

#[tokio::test]
async fn a_worker_until_empty_names_the_backends_whose_events_it_leaves() {
    let test = TestOutbox::new().await;
    test.insert(5, 5).await;
    let elsewhere = "UPDATE outbox_events SET publisher_backend = 'elsewhere' WHERE partition_key < 'key-3'";
    test.sql().await.batch_execute(elsewhere).await.unwrap();
    let settings = test.settings().write();
    let drain = || {
        let output = test.outbox(&settings, &["worker", "--until-empty"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said.lines().filter(|line| line.contains("its due events are left")).map(str::to_owned).collect::<Vec<_>>()
    };
    let left = drain();
    assert!(matches!(&*left, [line] if line.contains("elsewhere") && line.contains("due=3")), "{left:?}");
    assert_eq!(test.length().await, 2);

    test.sql().await.batch_execute("UPDATE outbox_events SET publisher_backend = ''").await.unwrap();
    test.run(&["backends", "pause", "default"]).await;
    let left = drain();
    assert!(matches!(&*left, [line] if line.contains("default") && line.contains("due=3")), "{left:?}");
    test.run(&["backends", "resume", "default"]).await;
    assert_eq!(drain(), Vec::<String>::new());
    assert_eq!(test.length().await, 5);
}

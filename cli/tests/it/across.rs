//! Handlers in other processes than the delivering worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_outbox::{Builder, EventTypes, HandlerError, NewEvent, Outbox, OutboxSystem, Subscribe};
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::actors::{Log, QUICK_RETRIES, answer, event, handler, rejecting, row, wait_status};
use crate::support::proxy::{Passage, Proxy};
use crate::support::{PATIENCE, eventually};
use crate::test_outbox::TestOutbox;

const SHORT_LEASE: &str = "lease = \"1s\"\n";

/// Times with which an application finds what it is owed by a wake-up, and not by a poll.
const NEVER_POLLING: &str = "lease = \"3h\"\npoll_interval = \"1h\"\n";

/// A service that delivers, with these handlers.
async fn service(test: &TestOutbox, handlers: impl IntoIterator<Item = Subscribe>) -> Outbox {
    let tables = format!("[publishers.default]\n{}[worker]\n{QUICK_RETRIES}{SHORT_LEASE}", test.stream());
    let builder = OutboxSystem::builder(test.system_settings(&tables));
    handlers.into_iter().fold(builder, Builder::subscribe).start().await.unwrap()
}

/// An application that publishes and handles events, and does not deliver.
async fn application(test: &TestOutbox, handlers: impl IntoIterator<Item = Subscribe>) -> Outbox {
    let tables = format!("[publishers.default]\n{}[worker]\n{QUICK_RETRIES}{SHORT_LEASE}", test.stream());
    let builder = OutboxSystem::builder(test.system_settings(&tables)).publish_only(true);
    handlers.into_iter().fold(builder, Builder::subscribe).start().await.unwrap()
}

/// Like [`service`], with `on_failed = "hold"`.
async fn holding_service(
    test: &TestOutbox,
    publish_only: bool,
    handlers: impl IntoIterator<Item = Subscribe>,
) -> Outbox {
    let tables =
        format!("[publishers.default]\n{}on_failed = \"hold\"\n[worker]\n{QUICK_RETRIES}{SHORT_LEASE}", test.stream());
    let builder = OutboxSystem::builder(test.system_settings(&tables)).publish_only(publish_only);
    handlers.into_iter().fold(builder, Builder::subscribe).start().await.unwrap()
}

/// Accepts every event and records it.
fn recorder(name: &'static str, events: impl Into<EventTypes>, log: &Log) -> Subscribe {
    let log = log.clone();
    handler(name, events, move |event| {
        log.add(format!("{name} {}", event.subject));
        answer(Ok(()))
    })
}

async fn send(outbox: &Outbox, range: std::ops::Range<usize>) {
    for n in range {
        let event = event(&n.to_string()).partition_key(format!("key-{}", n % 5));
        outbox.send(event).await.unwrap();
    }
}

/// Asserts that each event was handled once, and each key's events in order.
fn assert_met(log: &Log, name: &str, range: std::ops::Range<usize>) {
    let met: Vec<usize> =
        log.of(&format!("{name} ")).iter().map(|line| line.split(' ').nth(1).unwrap().parse().unwrap()).collect();
    let mut sorted = met.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, range.collect::<Vec<_>>(), "{name}");
    for key in 0..5 {
        let of_key: Vec<usize> = met.iter().copied().filter(|n| n % 5 == key).collect();
        assert!(of_key.is_sorted(), "{name}: {of_key:?}");
    }
}

#[actix::test]
async fn a_worker_without_handlers_publishes_and_an_application_handles() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let worker = test.worker(&test.settings().worker(SHORT_LEASE).write(), "worker");
    test.wait_owners(&["worker"]).await;
    let application = application(&test, [recorder("mail", EventTypes::All, &log)]).await;
    send(&application, 0..40).await;
    log.wait(40).await;
    test.wait_published().await;
    assert_met(&log, "mail", 0..40);
    test.assert_delivered().await;
    assert!(!worker.stderr().contains("standing by"), "{}", worker.stderr());
    application.shutdown().await.unwrap();
}

#[actix::test]
async fn each_handler_of_two_services_receives_every_event_of_its_type() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let mail =
        service(&test, [recorder("mail", "thing.happened", &log), recorder("both", EventTypes::All, &log)]).await;
    let audit = service(&test, [recorder("audit", "thing.*", &log)]).await;
    eventually("both workers own shards", PATIENCE, async || {
        let shards = async |service: &Outbox| service.health().await.unwrap().shards.get("default").copied();
        shards(&mail).await == Some(16) && shards(&audit).await == Some(16)
    })
    .await;
    send(&mail, 0..20).await;
    send(&audit, 20..40).await;
    log.wait(120).await;
    test.wait_published().await;
    for name in ["mail", "both", "audit"] {
        assert_met(&log, name, 0..40);
    }
    test.assert_delivered().await;
    for service in [mail, audit] {
        assert!(service.health().await.unwrap().is_ready());
        service.shutdown().await.unwrap();
    }
}

#[actix::test]
async fn a_service_that_was_down_receives_the_events_owed_to_it_in_order() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let mail = service(&test, [recorder("mail", EventTypes::All, &log)]).await;
    let audit = service(&test, [recorder("audit", EventTypes::All, &log)]).await;
    send(&mail, 0..10).await;
    log.wait(20).await;
    audit.shutdown().await.unwrap();
    send(&mail, 10..30).await;
    let sql = test.sql().await;
    for n in 10..30 {
        let row = wait_status(&sql, &n.to_string(), "processing").await;
        assert_eq!(row.pending_handlers.as_deref(), Some(r#"["audit"]"#));
        assert!(row.is_with_the_backend);
    }
    assert_met(&log, "mail", 0..30);
    assert_eq!(test.length().await, 30, "publishing does not wait for handlers in other processes");
    let status = test.outbox(&test.settings().write(), &["status", "--format", "json"]).output().unwrap();
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    let owed: Vec<_> = status["handlers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|handler| (&handler["name"], &handler["owed"], &handler["alive"]))
        .collect();
    assert_eq!(owed, [(&"audit".into(), &20.into(), &false.into()), (&"mail".into(), &0.into(), &true.into())]);

    let audit = service(&test, [recorder("audit", EventTypes::All, &log)]).await;
    send(&audit, 30..40).await;
    log.wait(80).await;
    test.wait_published().await;
    assert_met(&log, "audit", 0..40);
    for service in [mail, audit] {
        service.shutdown().await.unwrap();
    }
}

#[actix::test]
async fn a_service_that_was_away_for_longer_than_its_events_are_owed_is_reported() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let mail = service(&test, [recorder("mail", EventTypes::All, &log)]).await;
    let audit = service(&test, [recorder("audit", EventTypes::All, &log)]).await;
    audit.shutdown().await.unwrap();
    let settings = test.settings().write();
    let run = |arguments: &[&str]| {
        let output = test.outbox(&settings, arguments).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), serde_json::from_str::<Value>(&text).unwrap_or_else(|_| panic!("{text}")))
    };
    let expired =
        |status: &Value| status["handlers"].as_array().unwrap().iter().map(|it| it["expired"] == true).collect();
    let health = ["health", "--format", "json"];
    assert_eq!(
        (expired(&run(&["status", "--format", "json"]).1), run(&health).1.get("handlers")),
        (vec![false; 2], None)
    );

    let gone = "UPDATE outbox_handlers SET seen_at = now() - interval '8 days' WHERE name = 'audit'";
    test.sql().await.batch_execute(gone).await.unwrap();
    send(&mail, 0..1).await;
    test.wait_published().await;
    assert_eq!(expired(&run(&["status", "--format", "json"]).1), [true, false]);
    let (code, health) = run(&health);
    assert_eq!(code, Some(0), "this process is well: {health}");
    assert!(health["handlers"]["audit"].as_str().unwrap().contains("new events are not owed"), "{health}");
    let (_, findings) = run(&["doctor", "--format", "json"]);
    let found = findings.as_array().unwrap().iter().any(|finding| finding["check"] == "handlers_expired");
    assert!(found, "{findings}");
    mail.shutdown().await.unwrap();
}

#[actix::test]
async fn an_event_after_a_subscription_is_owed_before_the_worker_knows_of_it() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    // Its next heartbeat is much later.
    let _worker = test.worker(&test.settings().worker("lease = \"1h\"").write(), "worker");
    test.wait_owners(&["worker"]).await;
    let protocol = "SELECT protocol::bigint FROM outbox_meta";
    assert_eq!(test.number(protocol).await, 2);
    let application = application(&test, []).await;
    application.subscribe(recorder("late", EventTypes::All, &log)).await.unwrap();
    test.insert(20, 5).await;
    log.wait(20).await;
    test.wait_published().await;
    application.shutdown().await.unwrap();
}

#[actix::test]
async fn a_remote_handlers_rejections_fail_the_event_and_others_still_handle_it() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let _worker = test.worker(&test.settings().worker(SHORT_LEASE).write(), "worker");
    test.wait_owners(&["worker"]).await;
    let met = log.clone();
    let shaky = handler("shaky", EventTypes::All, move |event| {
        met.add(format!("shaky {}", event.subject));
        answer(if event.subject == "bad" { Err("the mail server is unavailable") } else { Ok(()) })
    });
    let application = application(&test, [shaky, recorder("steady", EventTypes::All, &log)]).await;
    application.send(event("bad").max_retries(3).partition_key("k")).await.unwrap();
    application.send(event("good").partition_key("k")).await.unwrap();
    let sql = test.sql().await;
    let failed = wait_status(&sql, "bad", "failed").await;
    assert!(failed.last_error.contains("`shaky`: the mail server is unavailable"), "{failed:?}");
    assert_eq!(failed.pending_handlers.as_deref(), Some(r#"["shaky"]"#));
    wait_status(&sql, "good", "published").await;
    assert_eq!((log.count("shaky bad"), log.count("steady bad"), log.count("shaky good")), (3, 1, 1));
    assert_eq!(test.length().await, 2);

    // An operator retries: only that handler gets the event, and nothing is sent again.
    test.run(&["events", "retry", "--status", "failed"]).await;
    eventually("it gets the event again", PATIENCE, async || log.count("shaky bad") > 3).await;
    assert_eq!(log.count("steady bad"), 1);
    assert_eq!(test.length().await, 2);
    application.shutdown().await.unwrap();
}

#[actix::test]
async fn a_remote_handler_knows_the_number_of_its_attempt_whatever_other_handlers_do() {
    let (test, logs) = (TestOutbox::new().await, [Log::default(), Log::default()]);
    let _worker = test.worker(&test.settings().worker(SHORT_LEASE).write(), "worker");
    test.wait_owners(&["worker"]).await;
    let handlers = [rejecting("first", &logs[0]), rejecting("second", &logs[1])];
    let application = application(&test, handlers).await;
    application.send(event("a").max_retries(3)).await.unwrap();
    for log in &logs {
        log.wait(3).await;
        assert_eq!(log.lines(), ["1 of 3", "2 of 3", "3 of 3, the last"]);
    }
    wait_status(&test.sql().await, "a", "failed").await;
    application.shutdown().await.unwrap();
}

#[actix::test]
async fn on_failed_hold_an_event_that_a_handler_failed_blocks_that_handler_only() {
    for elsewhere in [false, true] {
        let (test, log, open) = (TestOutbox::new().await, Log::default(), Arc::new(AtomicBool::new(false)));
        let shaky = {
            let (log, open) = (log.clone(), Arc::clone(&open));
            handler("shaky", EventTypes::All, move |event| {
                log.add(format!("shaky {}", event.subject));
                let refuses = event.subject == "1" && !open.load(Ordering::SeqCst);
                answer(if refuses { Err("not yet") } else { Ok(()) })
            })
        };
        let steady = recorder("steady", EventTypes::All, &log);
        let outbox = holding_service(&test, elsewhere, [shaky, steady]).await;
        let _deliverer = if elsewhere { Some(holding_service(&test, false, []).await) } else { None };
        for subject in ["1", "2", "3"] {
            outbox.send(event(subject).partition_key("k").max_retries(1)).await.unwrap();
        }
        let sql = test.sql().await;
        wait_status(&sql, "1", "failed").await;
        for later in ["2", "3"] {
            eventually("it waits only for that handler", PATIENCE, async || {
                let row = wait_status(&sql, later, "processing").await;
                row.pending_handlers.as_deref() == Some(r#"["shaky"]"#)
            })
            .await;
        }
        assert!(outbox.drained().await.unrecorded.is_empty(), "it does not wait for what is held");
        assert_eq!(test.length().await, 3, "the backend continues");
        assert_eq!((log.of("shaky "), log.of("steady ")), (lines("shaky", &["1"]), lines("steady", &["1", "2", "3"])));

        open.store(true, Ordering::SeqCst);
        test.run(&["events", "retry", "--status", "failed"]).await;
        test.wait_published().await;
        assert_eq!(log.of("shaky "), lines("shaky", &["1", "1", "2", "3"]), "elsewhere: {elsewhere}");
        assert_eq!((log.count("steady 1"), test.length().await), (1, 3));
        outbox.shutdown().await.unwrap();
    }
}

fn lines(name: &str, subjects: &[&str]) -> Vec<String> {
    subjects.iter().map(|subject| format!("{name} {subject}")).collect()
}

#[actix::test]
async fn events_of_a_type_no_longer_handled_are_shown_and_kept_until_it_is() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let _worker = test.worker(&test.settings().worker(SHORT_LEASE).write(), "worker");
    test.wait_owners(&["worker"]).await;
    let mail = |types: &[&str]| recorder("mail", types.to_vec(), &log);
    application(&test, [mail(&["user.created", "user.deleted"])]).await.shutdown().await.unwrap();
    let publisher = application(&test, []).await;
    for (subject, event_type) in [("1", "user.deleted"), ("2", "user.created"), ("3", "user.created")] {
        let key = if subject == "3" { "other" } else { "k" };
        publisher.send(NewEvent::new(event_type, "tests").subject(subject).partition_key(key)).await.unwrap();
    }
    let sql = test.sql().await;
    for subject in ["1", "2", "3"] {
        wait_status(&sql, subject, "processing").await;
    }
    let narrower = application(&test, [mail(&["user.created"])]).await;
    eventually("it is postponed and shown", PATIENCE, async || {
        let status = test.outbox(&test.settings().write(), &["status", "--format", "json"]).output().unwrap();
        let status: Value = serde_json::from_slice(&status.stdout).unwrap();
        let handler = &status["handlers"][0];
        (&handler["owed"], &handler["types_no_longer_handled"]) == (&2.into(), &1.into())
    })
    .await;
    log.wait(1).await;
    assert_eq!(log.lines(), ["mail 3"], "the other event of its key comes after it");
    assert_eq!(row(&sql, "1").await.retry_count, 0);
    narrower.shutdown().await.unwrap();

    let wider = application(&test, [mail(&["user.*"])]).await;
    test.wait_published().await;
    assert_eq!(log.lines(), ["mail 3", "mail 1", "mail 2"]);
    for service in [publisher, wider] {
        service.shutdown().await.unwrap();
    }
}

#[actix::test]
async fn a_stopped_handler_receives_its_owed_events_soon_after_resubscribing() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let doomed = handler("doomed", EventTypes::All, |event| {
        assert_ne!(event.subject, "bad", "a handler that panics");
        answer(Ok(()))
    });
    let outbox = service(&test, [doomed, recorder("steady", EventTypes::All, &log)]).await;
    outbox.send(event("bad")).await.unwrap();
    eventually("health says so", PATIENCE, async || !outbox.health().await.unwrap().is_ok()).await;
    outbox.send(NewEvent::new("thing.happened", "tests").subject("good")).await.unwrap();
    wait_status(&test.sql().await, "good", "processing").await;
    assert_eq!(row(&test.sql().await, "good").await.retry_count, 0);
    outbox.subscribe(recorder("doomed", EventTypes::All, &log)).await.unwrap();
    let soon = Duration::from_secs(5);
    eventually("it gets the events that wait for it", soon, async || log.count("doomed good") == 1).await;
    test.wait_published().await;
    assert!(outbox.health().await.unwrap().is_ok());
    outbox.shutdown().await.unwrap();
}

#[actix::test]
async fn a_handler_elsewhere_refuses_for_good_or_says_when_it_wants_the_event_again() {
    let test = TestOutbox::new().await;
    let deciding = handler("deciding", EventTypes::All, |event| {
        let refused = match event.subject.as_str() {
            "never" => HandlerError::permanent("no such user"),
            _ => HandlerError::after(Duration::from_secs(3_600), "too many"),
        };
        Box::pin(std::future::ready(Err(refused)))
    });
    let (service, application) = (service(&test, []).await, application(&test, [deciding]).await);
    for subject in ["never", "later"] {
        service.send(event(subject).max_retries(5)).await.unwrap();
    }
    let failed = wait_status(&test.sql().await, "never", "failed").await;
    assert!(failed.last_error.contains("no such user"), "{failed:?}");
    let put_off =
        "SELECT count(*) FROM outbox_handler_deliveries WHERE attempts = 1 AND next_at > now() + interval '58 minutes'";
    eventually("the delivery waits for an hour", PATIENCE, async || test.number(put_off).await == 1).await;
    application.shutdown().await.unwrap();
    service.shutdown().await.unwrap();
}

/// An application that handles events as it is woken, and whose database answers after up to this long.
async fn woken_application(
    test: &TestOutbox,
    delay: Duration,
    handlers: impl IntoIterator<Item = Subscribe>,
) -> (Proxy, Outbox) {
    let proxy = Proxy::to(url::Url::parse(test.url()).unwrap().port().unwrap()).await;
    let mut settings = test
        .system_settings(&format!("[publishers.default]\n{}[worker]\n{QUICK_RETRIES}{NEVER_POLLING}", test.stream()));
    let mut url = url::Url::parse(test.url()).unwrap();
    url.set_port(Some(proxy.port())).unwrap();
    settings.database.url = url.as_str().into();
    let builder = OutboxSystem::builder(settings).publish_only(true);
    let handlers: Vec<Subscribe> = handlers.into_iter().collect();
    let has_handlers = !handlers.is_empty();
    let application = handlers.into_iter().fold(builder, Builder::subscribe).start().await.unwrap();
    if has_handlers {
        wait_leased(test).await;
    }
    proxy.set(Passage::Delay(delay));
    (proxy, application)
}

/// Waits until a process has all leases of the handler.
async fn wait_leased(test: &TestOutbox) {
    let held =
        "SELECT count(*) FROM outbox_leases l JOIN outbox_workers w ON w.id = l.owner WHERE l.backend = 'handler:mail'";
    eventually("its handler's leases are held", PATIENCE, async || test.number(held).await == 32).await;
}

#[actix::test]
async fn an_event_that_is_delivered_during_a_fetch_is_handled_without_a_poll() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let handlers = [recorder("mail", EventTypes::All, &log)];
    let (_proxy, application) = woken_application(&test, Duration::from_millis(200), handlers).await;
    let _worker = test.worker(&test.settings().worker(SHORT_LEASE).write(), "worker");
    for round in 1..=5 {
        for n in 1..=10 {
            test.insert(1, 1).await;
            test.wait_length((round - 1) * 10 + n).await;
        }
        log.wait(round * 10).await;
    }
    application.shutdown().await.unwrap();
}

#[actix::test]
async fn more_events_than_fit_into_memory_are_handled_without_a_poll() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let may_begin = Arc::new(Semaphore::new(0));
    let (met, gate) = (log.clone(), Arc::clone(&may_begin));
    let slow = handler("mail", EventTypes::All, move |event| {
        let (met, gate) = (met.clone(), Arc::clone(&gate));
        Box::pin(async move {
            let _ = gate.acquire().await;
            met.add(format!("mail {}", event.subject));
            Ok(())
        })
    });
    let (_proxy, application) = woken_application(&test, Duration::ZERO, [slow]).await;
    // A quarter of the 16 MiB of `max_in_flight_bytes` is for handlers.
    let insert = "INSERT INTO outbox_events (id, event_type, source, data, partition_key) \
        SELECT gen_random_uuid(), 'thing.happened', 'tests', to_jsonb(repeat('x', 200000)), n FROM generate_series(1, 64) n";
    test.sql().await.batch_execute(insert).await.unwrap();
    let _worker = test.worker(&test.settings().worker(SHORT_LEASE).write(), "worker");
    wait_quiet(&test, |owed| owed == 64).await;
    may_begin.add_permits(64);
    log.wait(64).await;
    test.wait_published().await;
    application.shutdown().await.unwrap();
}

#[actix::test]
async fn many_events_of_a_key_are_handled_without_a_poll() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let handlers = [recorder("mail", EventTypes::All, &log)];
    let (_proxy, application) = woken_application(&test, Duration::ZERO, handlers).await;
    test.insert(600, 1).await;
    let _worker = test.worker(&test.settings().worker(SHORT_LEASE).write(), "worker");
    log.wait(600).await;
    test.wait_published().await;
    application.shutdown().await.unwrap();
}

/// Waits until this holds for what is owed, and half a second later still: the last wake-ups have arrived. On a machine that
/// is too slow for that, the test shows less.
async fn wait_quiet(test: &TestOutbox, is_quiet: impl Fn(i64) -> bool) {
    let owed = async || test.number("SELECT count(*) FROM outbox_handler_deliveries").await;
    eventually("what is owed does not change", PATIENCE, async || {
        let before = owed().await;
        if !is_quiet(before) {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        owed().await == before && is_quiet(before)
    })
    .await;
}

#[actix::test]
async fn a_rejected_event_is_retried_and_its_followers_go_on_without_a_poll() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let may_begin = Arc::new(Semaphore::new(0));
    let (met, gate) = (log.clone(), Arc::clone(&may_begin));
    let shaky = handler("mail", EventTypes::All, move |event| {
        met.add(format!("mail {}", event.subject));
        let tries = met.count(&format!("mail {}", event.subject));
        let refused = match (event.subject.as_str(), tries) {
            ("never", _) => Err(HandlerError::permanent("no such user")),
            ("once", 1) => Err(HandlerError::after(Duration::from_secs(1), "not now")),
            _ => Ok(()),
        };
        let gate = Arc::clone(&gate);
        Box::pin(async move {
            let _ = gate.acquire().await;
            refused
        })
    });
    let (_proxy, application) = woken_application(&test, Duration::ZERO, [shaky]).await;
    let _worker = test.worker(&test.settings().worker(SHORT_LEASE).write(), "worker");
    test.wait_owners(&["worker"]).await;
    let insert = "INSERT INTO outbox_events (id, event_type, source, data, partition_key, subject, scheduled_at) \
        SELECT gen_random_uuid(), 'thing.happened', 'tests', '{}', k, CASE n WHEN 1 THEN k ELSE 'then' END, \
            now() + n * interval '1 us' FROM unnest(ARRAY['once', 'never']) k, generate_series(1, 3) n";
    test.sql().await.batch_execute(insert).await.unwrap();
    wait_quiet(&test, |owed| owed == 6).await;
    may_begin.add_permits(100);
    eventually("all are handled", PATIENCE, async || log.count("mail then") == 4).await;
    assert_eq!((log.count("mail once"), log.count("mail never")), (2, 1), "{:?}", log.lines());
    application.shutdown().await.unwrap();
}

#[actix::test]
async fn the_first_handler_of_a_running_process_is_woken() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let (_proxy, application) = woken_application(&test, Duration::ZERO, []).await;
    let _worker = test.worker(&test.settings().worker(SHORT_LEASE).write(), "worker");
    test.wait_owners(&["worker"]).await;
    application.subscribe(recorder("mail", EventTypes::All, &log)).await.unwrap();
    wait_leased(&test).await;
    for n in 1..=10 {
        test.insert(1, 1).await;
        log.wait(n).await;
    }
    application.shutdown().await.unwrap();
}

#[actix::test]
async fn what_was_owed_before_shards_were_taken_is_handled_without_a_poll() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let may_end = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&may_end);
    let slow = handler("mail", EventTypes::All, move |_| {
        let gate = Arc::clone(&gate);
        Box::pin(async move {
            let _ = gate.acquire().await;
            Ok(())
        })
    });
    let leaving = application(&test, [slow]).await;
    wait_leased(&test).await;
    let (_proxy, staying) = woken_application(&test, Duration::ZERO, [recorder("mail", EventTypes::All, &log)]).await;
    let owners = "SELECT count(*) FROM (SELECT owner FROM outbox_leases WHERE backend = 'handler:mail' GROUP BY owner \
        HAVING count(*) = 16) o";
    eventually("they share the shards", PATIENCE, async || test.number(owners).await == 2).await;
    let _worker = test.worker(&test.settings().worker(SHORT_LEASE).write(), "worker");
    test.insert(64, 64).await;
    let handled = || i64::try_from(log.count("mail ")).unwrap();
    wait_quiet(&test, |owed| owed > 0 && owed + handled() == 64).await;
    let shutdown = actix::spawn(async move { leaving.shutdown().await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    test.insert(64, 64).await;
    wait_quiet(&test, |owed| owed + handled() == 128).await;
    may_end.add_permits(1_000);
    shutdown.await.unwrap().unwrap();
    wait_quiet(&test, |owed| owed == 0).await;
    staying.shutdown().await.unwrap();
}

#[actix::test]
async fn an_event_that_waits_for_an_earlier_one_of_its_key_is_handled_elsewhere_without_a_poll() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let may_end = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&may_end);
    let slow = handler("slow", "first.happened", move |_| {
        let gate = Arc::clone(&gate);
        Box::pin(async move {
            let _ = gate.acquire().await;
            Ok(())
        })
    });
    let service = service(&test, [slow]).await;
    let (_proxy, application) =
        woken_application(&test, Duration::ZERO, [recorder("mail", "then.happened", &log)]).await;
    for event_type in ["first.happened", "then.happened"] {
        service.send(NewEvent::new(event_type, "tests").partition_key("k")).await.unwrap();
    }
    wait_quiet(&test, |owed| owed == 1).await;
    assert_eq!(log.lines().len(), 0, "the first one is not handled");
    may_end.add_permits(1);
    log.wait(1).await;
    application.shutdown().await.unwrap();
    service.shutdown().await.unwrap();
}

//! Local handlers that fail, panic, hang or are slow.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_outbox::{EventTypes, HandlerError, NewEvent, Outbox, OutboxSystem, Settings, Subscribe, SystemError};
use futures_util::future::join_all;
use tokio::sync::Barrier;

use crate::actors::{
    Log, QUICK_RETRIES, answer, event, handler, handler_of_one_at_a_time, rejecting, row, wait_status,
};
use crate::support::{PATIENCE, eventually, unique};
use crate::test_outbox::TestOutbox;

/// A system that publishes into the test's stream, with these lines of `[worker]`.
async fn start(test: &TestOutbox, worker: &str, handlers: impl IntoIterator<Item = Subscribe>) -> Outbox {
    let tables = format!("[publishers.default]\n{}[worker]\n{QUICK_RETRIES}{worker}\n", test.stream());
    let builder = OutboxSystem::builder(test.system_settings(&tables));
    handlers.into_iter().fold(builder, |builder, handler| builder.subscribe(handler)).start().await.unwrap()
}

/// Accepts every event and records it.
fn recorder(name: &'static str, events: impl Into<EventTypes>, log: &Log) -> Subscribe {
    let log = log.clone();
    handler(name, events, move |event| {
        log.add(format!("{name} {}", event.subject));
        answer(Ok(()))
    })
}

/// Rejects an event the first `times` it gets it, and records every attempt.
fn shaky(subject: &'static str, times: usize, log: &Log) -> Subscribe {
    let log = log.clone();
    handler("shaky", EventTypes::All, move |event| {
        let line = format!("shaky {}", event.subject);
        log.add(&line);
        let refused = event.subject == subject && log.count(&line) <= times;
        answer(if refused { Err("the mail server is unavailable") } else { Ok(()) })
    })
}

#[actix::test]
async fn only_the_handler_that_failed_runs_again_and_the_event_is_sent_once() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let outbox = start(&test, "", [recorder("steady", EventTypes::All, &log), shaky("a", 1, &log)]).await;
    let stored = outbox.send(event("a")).await.unwrap();
    let row = wait_status(&test.sql().await, "a", "published").await;
    assert_eq!((log.count("steady a"), log.count("shaky a")), (1, 2));
    assert_eq!(test.event_ids().await, [stored.id.to_string()]);
    assert_eq!((row.retry_count, row.errors), (1, 1));
    assert!(row.last_error.contains("`shaky`: the mail server is unavailable"), "{row:?}");
}

#[actix::test]
async fn a_handler_knows_the_number_of_its_attempt() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let outbox = start(&test, "", [rejecting("rejecting", &log)]).await;
    outbox.send(event("a").max_retries(3)).await.unwrap();
    wait_status(&test.sql().await, "a", "failed").await;
    assert_eq!(log.lines(), ["1 of 3", "2 of 3", "3 of 3, the last"]);
}

/// The row keeps the error of each attempt.
#[actix::test]
async fn an_event_whose_handler_keeps_failing_fails_with_that_handler_pending() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let outbox = start(&test, "", [recorder("steady", EventTypes::All, &log), shaky("a", usize::MAX, &log)]).await;
    outbox.send(event("a").max_retries(3)).await.unwrap();
    let row = wait_status(&test.sql().await, "a", "failed").await;
    assert_eq!((row.retry_count, row.errors), (3, 3));
    assert_eq!(row.pending_handlers.as_deref(), Some(r#"["shaky"]"#));
    assert!(row.is_with_the_backend && row.last_error.contains("the mail server is unavailable"), "{row:?}");
    assert_eq!((log.count("steady a"), log.count("shaky a")), (1, 3));
    assert_eq!(test.length().await, 1);
}

#[actix::test]
async fn events_of_a_panicked_handler_wait_without_retries_until_resubscribed() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let doomed = handler("doomed", "thing.happened", |event| {
        assert_ne!(event.subject, "bad", "a handler that panics");
        answer(Ok(()))
    });
    let outbox = start(&test, "", [doomed, recorder("steady", EventTypes::All, &log)]).await;
    let sql = test.sql().await;

    outbox.send(event("bad")).await.unwrap();
    eventually("its panic counts as a failure", PATIENCE, async || row(&sql, "bad").await.retry_count == 1).await;
    for subject in ["good", "keyed"] {
        outbox.send(event(subject).partition_key(subject)).await.unwrap();
    }
    outbox.send(actix_outbox::NewEvent::new("other.thing", "tests").subject("other")).await.unwrap();
    wait_status(&sql, "other", "published").await;
    for (subject, retries) in [("bad", 1), ("good", 0), ("keyed", 0)] {
        let row = wait_status(&sql, subject, "processing").await;
        assert_eq!(row.retry_count, retries, "{subject}: {row:?}");
        assert_eq!(row.pending_handlers.as_deref(), Some(r#"["doomed"]"#), "{subject}");
        assert_eq!(log.count(&format!("steady {subject}")), 1, "{subject}");
    }
    assert!(row(&sql, "bad").await.last_error.contains("`doomed`: stopped while it handled the event"));

    outbox.subscribe(recorder("doomed", "thing.happened", &log)).await.unwrap();
    test.wait_published().await;
    for subject in ["bad", "good", "keyed"] {
        assert_eq!(log.count(&format!("doomed {subject}")), 1, "{subject}");
    }
    test.assert_delivered().await;
}

#[actix::test]
async fn a_handler_that_hangs_fails_after_its_timeout_and_delays_no_other() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let hanging = handler("hanging", "thing.hangs", |_| Box::pin(std::future::pending()));
    let handlers = [hanging, recorder("steady", "thing.happened", &log)];
    let outbox = start(&test, "handler_timeout = \"200ms\"", handlers).await;
    let sql = test.sql().await;
    outbox.send(actix_outbox::NewEvent::new("thing.hangs", "tests").subject("stuck").max_retries(2)).await.unwrap();
    outbox.send(event("a")).await.unwrap();
    wait_status(&sql, "a", "published").await;
    let row = wait_status(&sql, "stuck", "failed").await;
    assert_eq!((row.retry_count, row.errors), (2, 2));
    assert!(row.last_error.contains("`hanging`: no answer within 200ms"), "{row:?}");
    test.assert_delivered().await;
}

#[actix::test]
async fn events_in_a_mailbox_longer_than_the_handler_timeout_spend_no_retries() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let slow = {
        let log = log.clone();
        handler_of_one_at_a_time("slow", EventTypes::All, move |event| {
            log.add(&event.subject);
            Box::pin(async {
                tokio::time::sleep(Duration::from_millis(10)).await;
                Ok(())
            })
        })
    };
    let events: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    let outbox = start(&test, "handler_timeout = \"400ms\"", [slow]).await;
    for sent in join_all(events.iter().map(|subject| outbox.send(event(subject)))).await {
        sent.unwrap();
    }
    test.wait_published().await;
    assert_eq!(test.number("SELECT sum(retry_count) FROM outbox_events").await, 0);
    assert!(events.iter().all(|subject| log.count(subject) == 1), "each was handled once: {:?}", log.lines());
    test.assert_delivered().await;
}

/// An event `bad` inside the handler, and ten more in its mailbox.
async fn a_crowd_behind(bad: impl Future<Output = ()> + Unpin + 'static, worker: &str) -> (TestOutbox, Outbox) {
    let test = TestOutbox::new().await;
    let mut bad = Some(bad);
    let doomed = handler_of_one_at_a_time("doomed", EventTypes::All, move |event| match bad.take() {
        Some(bad) if event.subject == "bad" => Box::pin(async {
            bad.await;
            Ok(())
        }),
        _ => answer(Ok(())),
    });
    let outbox = start(&test, worker, [doomed]).await;
    outbox.send(event("bad")).await.unwrap();
    eventually("the first is published", PATIENCE, async || test.length().await == 1).await;
    for n in 0..10 {
        outbox.send(event(&n.to_string())).await.unwrap();
    }
    (test, outbox)
}

/// Asserts that only the first spends a retry, and that all are handled when the handler runs again.
async fn assert_the_first_alone_is_refused(test: TestOutbox, outbox: Outbox, reason: &str) {
    let (sql, log) = (test.sql().await, Log::default());
    eventually("the first is rejected", PATIENCE, async || row(&sql, "bad").await.retry_count == 1).await;
    outbox.subscribe(recorder("doomed", EventTypes::All, &log)).await.unwrap();
    test.wait_published().await;
    assert_eq!(test.number("SELECT sum(retry_count) FROM outbox_events").await, 1);
    let bad = row(&sql, "bad").await;
    assert!(bad.retry_count == 1 && bad.last_error.contains(reason), "{bad:?}");
    assert_eq!(log.lines().len(), 11, "{:?}", log.lines());
    test.assert_delivered().await;
}

#[actix::test]
async fn behind_an_event_that_hangs_the_others_in_the_mailbox_spend_no_retries() {
    let (test, outbox) = a_crowd_behind(std::future::pending(), "handler_timeout = \"2s\"").await;
    assert_the_first_alone_is_refused(test, outbox, "no answer within 2s").await;
}

#[actix::test]
async fn behind_an_event_that_panics_the_others_in_the_mailbox_spend_no_retries() {
    let (panic_now, signal) = tokio::sync::oneshot::channel::<()>();
    let bad = Box::pin(async move {
        signal.await.unwrap();
        panic!("a handler that panics");
    });
    let (test, outbox) = a_crowd_behind(bad, "").await;
    eventually("all are published", PATIENCE, async || test.length().await == 11).await;
    panic_now.send(()).unwrap();
    assert_the_first_alone_is_refused(test, outbox, "stopped while it handled the event").await;
}

/// It counts as sent, and its handler does not run again.
#[actix::test]
async fn an_event_that_an_operator_fails_during_handling_stays_failed() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let (let_it_fail, signal) = tokio::sync::oneshot::channel::<()>();
    let mut signal = Some(signal);
    let handlers = {
        let log = log.clone();
        handler("doomed", EventTypes::All, move |event| {
            log.add(&event.subject);
            let Some(signal) = signal.take() else { return answer(Ok(())) };
            Box::pin(async {
                signal.await.unwrap();
                Err(HandlerError::retry("too late"))
            })
        })
    };
    let outbox = start(&test, "", [handlers]).await;
    outbox.send(event("failed").partition_key("key")).await.unwrap();
    log.wait(1).await;
    let sql = test.sql().await;
    sql.execute("UPDATE outbox_events SET status = 'failed', last_error = 'by hand'", &[]).await.unwrap();
    let_it_fail.send(()).unwrap();
    eventually("it is recorded as sent", PATIENCE, async || row(&sql, "failed").await.is_with_the_backend).await;
    outbox.send(event("later").partition_key("key")).await.unwrap();
    wait_status(&sql, "later", "published").await;
    let row = row(&sql, "failed").await;
    assert_eq!((row.status.as_str(), row.retry_count, row.last_error.as_str()), ("failed", 0, "by hand"));
    assert_eq!(log.lines(), ["failed", "later"]);
    assert_eq!(test.length().await, 2);
}

#[actix::test]
async fn slow_handlers_take_one_key_in_order_and_different_keys_side_by_side() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    // Each event of the one key waits inside the handler until its counterpart of the other key is inside too.
    let both = Arc::new(Barrier::new(2));
    let slow = {
        let log = log.clone();
        handler("slow", EventTypes::All, move |event| {
            let (log, both) = (log.clone(), Arc::clone(&both));
            Box::pin(async move {
                log.add(format!("{} in", event.subject));
                both.wait().await;
                log.add(format!("{} out", event.subject));
                Ok(())
            })
        })
    };
    let outbox = start(&test, "", [slow]).await;
    for n in 1..=5 {
        for key in ["a", "b"] {
            outbox.send(event(&format!("{key}{n}")).partition_key(key)).await.unwrap();
        }
    }
    test.wait_published().await;
    for key in ["a", "b"] {
        let expected: Vec<String> = (1..=5).flat_map(|n| [format!("{key}{n} in"), format!("{key}{n} out")]).collect();
        assert_eq!(log.of(key), expected);
    }
    test.assert_delivered().await;
}

#[actix::test]
async fn after_a_handler_fails_later_events_of_the_key_follow_in_order_and_once() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let outbox = start(&test, "", [shaky("2", 2, &log)]).await;
    for n in 1..=5 {
        outbox.send(event(&n.to_string()).partition_key("key")).await.unwrap();
    }
    test.wait_published().await;
    assert_eq!(log.lines(), ["1", "2", "2", "2", "3", "4", "5"].map(|subject| format!("shaky {subject}")));
    let spent = "SELECT sum(retry_count) FROM outbox_events";
    assert_eq!(test.number(spent).await, 2, "those of the failed event");
    test.assert_delivered().await;
}

#[actix::test]
async fn an_event_that_failed_for_its_handler_lets_the_keys_later_events_go_on() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let outbox = start(&test, "", [shaky("1", usize::MAX, &log)]).await;
    for n in 1..=3 {
        outbox.send(event(&n.to_string()).partition_key("key").max_retries(2)).await.unwrap();
    }
    let sql = test.sql().await;
    wait_status(&sql, "3", "published").await;
    assert_eq!(row(&sql, "1").await.status, "failed");
    assert_eq!(log.lines(), ["1", "1", "2", "3"].map(|subject| format!("shaky {subject}")));
    test.assert_delivered().await;
}

#[actix::test]
async fn a_handler_receives_its_event_type_and_one_for_all_types_every_event() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let handlers = [recorder("one", "thing.happened", &log), recorder("all", EventTypes::All, &log)];
    let outbox = start(&test, "", handlers).await;
    outbox.send(event("a")).await.unwrap();
    outbox.send(actix_outbox::NewEvent::new("thing.happened.else", "tests").subject("b")).await.unwrap();
    test.wait_published().await;
    assert_eq!(log.of("one"), ["one a"]);
    let mut all = log.of("all");
    all.sort();
    assert_eq!(all, ["all a", "all b"]);
}

#[actix::test]
async fn a_handler_of_several_types_and_prefixes_meets_those_and_no_others() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let outbox = start(&test, "", [recorder("some", ["user.created", "order.*"], &log)]).await;
    for event_type in ["user.created", "user.deleted", "order.paid", "order.sent", "orders"] {
        outbox.send(NewEvent::new(event_type, "tests").subject(event_type)).await.unwrap();
    }
    test.wait_published().await;
    let mut met = log.lines();
    met.sort();
    assert_eq!(met, ["some order.paid", "some order.sent", "some user.created"]);
}

/// Answers an event with this error, each time.
fn answering(name: &'static str, error: fn() -> HandlerError, log: &Log) -> Subscribe {
    let log = log.clone();
    handler(name, EventTypes::All, move |event| {
        log.add(format!("{name} {}", event.subject));
        Box::pin(std::future::ready(Err(error())))
    })
}

const AN_HOUR: Duration = Duration::from_secs(3_600);

/// The seconds until the retry of the event with this subject, or of its delivery.
async fn seconds_until_retry(test: &TestOutbox) -> i64 {
    let seconds = "SELECT coalesce(extract(epoch FROM coalesce(max(e.retry_at), max(d.next_at)) - now()), 0)::bigint
        FROM outbox_events e LEFT JOIN outbox_handler_deliveries d ON d.event_id = e.id";
    test.number(seconds).await
}

#[actix::test]
async fn an_event_that_a_handler_refuses_for_good_fails_at_its_first_try() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let outbox = start(&test, "", [answering("strict", || HandlerError::permanent("no such user"), &log)]).await;
    outbox.send(event("a").max_retries(5)).await.unwrap();
    let row = wait_status(&test.sql().await, "a", "failed").await;
    assert_eq!((row.retry_count, row.errors, log.count("strict a")), (1, 1, 1));
    assert!(row.last_error.contains("`strict`: no such user"), "{row:?}");
}

#[actix::test]
async fn an_event_is_retried_when_its_handler_asked_to_be_and_not_by_the_backoff() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let outbox = start(&test, "", [answering("later", || HandlerError::after(AN_HOUR, "too many"), &log)]).await;
    outbox.send(event("a").max_retries(5)).await.unwrap();
    let row = wait_status(&test.sql().await, "a", "retry").await;
    assert_eq!((row.retry_count, log.count("later a")), (1, 1));
    let seconds = seconds_until_retry(&test).await;
    assert!((3_500..=3_600).contains(&seconds), "{seconds}");
}

#[actix::test]
async fn a_handler_that_refuses_for_good_ends_no_other_handlers_tries() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let strict = answering("strict", || HandlerError::permanent("no such user"), &log);
    let outbox = start(&test, "", [strict, shaky("a", 2, &log)]).await;
    outbox.send(event("a").max_retries(5)).await.unwrap();
    let row = wait_status(&test.sql().await, "a", "failed").await;
    assert_eq!(log.count("shaky a"), 3);
    assert_eq!(row.pending_handlers.as_deref(), Some(r#"["strict"]"#));
}

#[actix::test]
async fn of_handlers_of_one_name_at_once_the_one_that_is_announced_has_it() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let outbox = start(&test, "", [] as [Subscribe; 0]).await;
    for name in ["a", "b", "c", "d", "e", "f"] {
        let types = ["user.created", "user.deleted", "order.paid", "order.sent"];
        let subscribing = types.map(|event_type| outbox.subscribe(recorder(name, event_type, &log)));
        let answers = join_all(subscribing).await;
        let accepted: Vec<&str> = types
            .into_iter()
            .zip(&answers)
            .filter_map(|(event_type, answer)| answer.is_ok().then_some(event_type))
            .collect();
        assert_eq!(accepted.len(), 1, "{answers:?}");
        let announced = format!(
            "SELECT count(*) FROM outbox_handlers WHERE name = '{name}' AND types = '[\"{}\"]'::jsonb",
            accepted[0]
        );
        assert_eq!(test.number(&announced).await, 1, "the types of {name} are {}", accepted[0]);
    }
    outbox.shutdown().await.unwrap();
}

#[actix::test]
async fn a_handler_whose_subscriber_gave_up_is_registered_and_met() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let outbox = start(&test, "", [] as [Subscribe; 0]).await;
    let locking = test.sql().await;
    locking.batch_execute("BEGIN; LOCK TABLE outbox_handlers").await.unwrap();
    let giving_up = outbox.subscribe(recorder("mailer", "thing.happened", &log));
    assert!(tokio::time::timeout(Duration::from_millis(300), giving_up).await.is_err());
    locking.batch_execute("COMMIT").await.unwrap();
    eventually("the handler is announced", PATIENCE, async || {
        test.number("SELECT count(*) FROM outbox_handlers WHERE name = 'mailer'").await == 1
    })
    .await;
    outbox.send(event("1")).await.unwrap();
    log.wait(1).await;
    outbox.shutdown().await.unwrap();
}

#[actix::test]
async fn a_second_handler_of_one_name_is_an_error_and_drops_nobody() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let settings = || test.system_settings("[publishers.default]\nbackend = \"local\"");
    let builder = || OutboxSystem::builder(settings()).subscribe(recorder("mailer", "thing.happened", &log));
    let other = log.clone();
    for twice in [
        builder().subscribe(recorder("mailer", "other", &log)),
        builder().subscribe_with(move |_| recorder("mailer", "other", &other)),
    ] {
        let refused = twice.start().await.err().unwrap();
        assert!(matches!(&refused, SystemError::HandlerNameTaken { name } if name == "mailer"), "{refused}");
    }
    assert_eq!(test.number("SELECT count(*) FROM outbox_workers").await, 0, "nothing was started");

    let outbox = builder().start().await.unwrap();
    let refused = outbox.subscribe(recorder("mailer", "other", &log)).await;
    assert!(matches!(refused, Err(SystemError::HandlerNameTaken { .. })), "{refused:?}");
    let refused = outbox.addr().unwrap().send(recorder("mailer", "other", &log)).await.unwrap();
    assert!(matches!(refused, Err(SystemError::HandlerNameTaken { .. })), "{refused:?}");
    outbox.send(event("1")).await.unwrap();
    log.wait(1).await;
    // Another handler for the same events replaces it.
    let next = log.clone();
    let successor = handler("mailer", "thing.happened", move |event| {
        next.add(format!("successor {}", event.subject));
        answer(Ok(()))
    });
    outbox.subscribe(successor).await.unwrap();
    outbox.send(event("2")).await.unwrap();
    log.wait(2).await;
    assert_eq!(log.lines(), ["mailer 1", "successor 2"]);
    outbox.shutdown().await.unwrap();
}

#[actix::test]
async fn a_handler_that_holds_the_outbox_misses_no_event_and_ends_with_it() {
    const EVENTS: usize = 100;
    let (test, log, mark) = (TestOutbox::new().await, Log::default(), Arc::new(()));
    test.insert(EVENTS as i32, 10).await;
    let (seen, kept) = (log.clone(), Arc::clone(&mark));
    let answering = move |outbox: Outbox| {
        handler("answering", "thing.happened", move |event| {
            let _ = &kept;
            seen.add(event.id.to_string());
            let (outbox, reply) =
                (outbox.clone(), NewEvent::new("thing.answered", "tests").subject(event.id.to_string()));
            Box::pin(async move { Ok(outbox.send(reply).await.map(drop)?) })
        })
    };
    let settings = test.system_settings(&format!("[publishers.default]\n{}", test.stream()));
    let outbox = OutboxSystem::builder(settings).subscribe_with(answering).start().await.unwrap();
    log.wait(EVENTS).await;
    test.wait_published().await;
    outbox.drained().await;
    let answered = "SELECT count(DISTINCT subject) FROM outbox_events WHERE event_type = 'thing.answered'";
    assert_eq!((log.lines().len(), test.number(answered).await), (EVENTS, EVENTS as i64));
    outbox.shutdown().await.unwrap();
    drop(outbox);
    eventually("the handler has ended", PATIENCE, async || Arc::strong_count(&mark) == 1).await;
}

#[actix::test]
async fn sqlite_and_the_local_backend_are_a_durable_event_bus_in_one_process() {
    let (folder, log) = (tempfile::tempdir().unwrap(), Log::default());
    let file = folder.path().join(unique("outbox"));
    let settings = || {
        let url = file.display();
        Settings::from_toml(&format!(
            "[database]\nurl = \"sqlite://{url}\"\n[publishers.default]\nbackend = \"local\"\n[worker]\n{QUICK_RETRIES}"
        ))
        .unwrap()
    };
    let first = OutboxSystem::builder(settings()).migrate(true).start().await.unwrap();
    first.send(event("later").scheduled_in(Duration::from_millis(300))).await.unwrap();
    first.shutdown().await.unwrap();

    let second = OutboxSystem::builder(settings()).subscribe(shaky("2", 1, &log)).start().await.unwrap();
    for n in 1..=3 {
        second.send(event(&n.to_string()).partition_key("key")).await.unwrap();
    }
    log.wait(5).await;
    second.drained().await;
    assert_eq!(log.count("shaky later"), 1, "the event that the first process left");
    let keyed: Vec<String> = log.lines().into_iter().filter(|line| line != "shaky later").collect();
    assert_eq!(keyed, ["1", "2", "2", "3"].map(|subject| format!("shaky {subject}")));
    second.shutdown().await.unwrap();
}

/// A later event was sent while a handler had the first, which it rejected. The rejection was recorded, and the later
/// event's outcome could not be: the next session finds it in the journal before it fetches the retry.
#[actix::test]
async fn journaled_events_reach_handlers_after_an_earlier_retry_of_their_key() {
    let (test, log, open) = (TestOutbox::new().await, Log::default(), Arc::new(AtomicBool::new(false)));
    let trigger = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql
            AS $$ BEGIN RAISE EXCEPTION 'this row is evidence'; END $$;
        CREATE TRIGGER refuse BEFORE UPDATE ON outbox_events FOR EACH ROW WHEN (OLD.subject = '2') EXECUTE FUNCTION refuse()";
    let sql = test.sql().await;
    sql.batch_execute(trigger).await.unwrap();
    let mail = || {
        let (log, open) = (log.clone(), Arc::clone(&open));
        handler("mail", EventTypes::All, move |event| {
            if !open.load(Ordering::SeqCst) {
                return answer(Err("not yet"));
            }
            log.add(&event.subject);
            answer(Ok(()))
        })
    };
    let insert = "INSERT INTO outbox_events (id, event_type, source, subject, partition_key, max_retries)
        SELECT gen_random_uuid(), 'thing.happened', 'tests', n::text, 'k', 1000 FROM generate_series(1, 2) n";
    sql.batch_execute(insert).await.unwrap();
    let first = start(&test, "shutdown_timeout = \"2s\"", [mail()]).await;
    test.wait_length(2).await;
    let rejected = "SELECT count(*) FROM outbox_events WHERE subject = '1' AND retry_count > 0";
    eventually("the first is rejected", PATIENCE, async || test.number(rejected).await == 1).await;
    let _ = first.shutdown().await;

    sql.batch_execute("DROP TRIGGER refuse ON outbox_events").await.unwrap();
    let unrecorded = "SELECT count(*) FROM outbox_events WHERE subject = '2' AND published_at IS NULL";
    assert_eq!(test.number(unrecorded).await, 1);
    open.store(true, Ordering::SeqCst);
    let second = start(&test, "shutdown_timeout = \"2s\"", [mail()]).await;
    test.wait_published().await;
    assert_eq!(log.lines(), ["1", "2"]);
    assert_eq!(test.length().await, 2);
    second.shutdown().await.unwrap();
}

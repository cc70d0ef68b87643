//! Actors that panic during their work, and the shutdown of a system.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use actix_outbox::{ActorKind, EventTypes, Outbox, OutboxSystem, Panic, PublishError, SystemError};

use crate::actors::{Log, QUICK_RETRIES, Reply, Scripted, answer, event, handler};
use crate::support::{PATIENCE, eventually};
use crate::test_outbox::{DRAIN, TestOutbox};

fn every_kind() -> [ActorKind; 10] {
    [
        ActorKind::OutboxSystem,
        ActorKind::Supervisor,
        ActorKind::LeaseKeeper,
        ActorKind::Poller,
        ActorKind::Publisher("default".to_owned()),
        ActorKind::Registry,
        ActorKind::Completer,
        ActorKind::Retry,
        ActorKind::Janitor,
        ActorKind::Notifier,
    ]
}

/// Makes an actor panic, once the actor that forwards the message runs.
async fn panic_in(outbox: &Outbox, kind: &ActorKind) {
    eventually(&format!("{kind:?} panics"), PATIENCE, async || {
        let Ok(system) = outbox.addr() else { return false };
        let passed_on = system.send(Panic(kind.clone())).await.is_ok();
        // The actor's panic drops the answer.
        passed_on || *kind == ActorKind::OutboxSystem
    })
    .await;
}

async fn wait_healthy(outbox: &Outbox) {
    eventually("the system is healthy", PATIENCE, async || outbox.health().await.is_ok_and(|health| health.is_ok()))
        .await;
}

#[actix::test]
async fn every_event_arrives_once_although_an_actor_of_each_kind_panics() {
    const ROUNDS: usize = 3;
    let (test, handled) = (TestOutbox::new().await, Arc::new(Mutex::new(HashSet::new())));
    let tables =
        format!("[publishers.default]\n{}[worker]\n{QUICK_RETRIES}batch_size = 20\nmax_in_flight = 200", test.stream());
    let seen = Arc::clone(&handled);
    let collecting = handler("collecting", EventTypes::All, move |event| {
        let first = seen.lock().unwrap().insert(event.id.to_string());
        // Some events are rejected at first, so that there are retries to record.
        answer(if first && event.id.as_u128() % 50 == 0 { Err("not yet") } else { Ok(()) })
    });
    let outbox = OutboxSystem::builder(test.system_settings(&tables)).subscribe(collecting).start().await.unwrap();
    for kind in (0..ROUNDS).flat_map(|_| every_kind()) {
        let before = test.length().await;
        test.insert(400, 40).await;
        test.wait_length(before + 50).await;
        panic_in(&outbox, &kind).await;
        test.wait_length(before + 100).await;
    }
    test.wait_published().await;
    test.assert_delivered().await;
    let ids: HashSet<String> = test.event_ids().await.into_iter().collect();
    assert_eq!(*handled.lock().unwrap(), ids, "the handler's events");

    tokio::time::timeout(DRAIN, outbox.drained()).await.expect("it is drained");
    wait_healthy(&outbox).await;
    outbox.shutdown().await.unwrap();
    assert_eq!(test.number("SELECT count(*) FROM outbox_workers").await, 0, "workers that it left behind");
}

#[actix::test]
async fn after_each_kinds_panic_a_system_at_rest_takes_events_again() {
    let test = TestOutbox::new().await;
    let tables = format!("[publishers.default]\n{}[worker]\n{QUICK_RETRIES}", test.stream());
    let outbox = OutboxSystem::builder(test.system_settings(&tables)).start().await.unwrap();
    for (sent, kind) in every_kind().iter().enumerate() {
        panic_in(&outbox, kind).await;
        // Immediately: a message to a supervisor that is being replaced is for its successor.
        outbox.send(event("after").partition_key("key")).await.unwrap();
        test.wait_length(sent + 1).await;
    }
    test.wait_published().await;
    test.assert_delivered().await;
    outbox.shutdown().await.unwrap();
}

/// Records the connection of each heartbeat; heartbeats have their own connection.
const NOTE_BEATS: &str = "
    CREATE TABLE beats (number bigserial, connection int DEFAULT pg_backend_pid());
    CREATE FUNCTION note_beat() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO beats DEFAULT VALUES; RETURN NULL; END $$;
    CREATE TRIGGER beats AFTER INSERT OR UPDATE ON outbox_heartbeats FOR EACH ROW EXECUTE FUNCTION note_beat()";

#[actix::test]
async fn a_supervisor_that_was_replaced_leaves_one_heartbeat() {
    let test = TestOutbox::new().await;
    test.sql().await.batch_execute(NOTE_BEATS).await.unwrap();
    let tables = format!("[publishers.default]\n{}[worker]\nlease = \"1s\"", test.stream());
    let outbox = OutboxSystem::builder(test.system_settings(&tables)).start().await.unwrap();
    outbox.send(event("1")).await.unwrap();
    test.wait_published().await;
    let first = test.number("SELECT min(connection)::bigint FROM beats").await;
    panic_in(&outbox, &ActorKind::Supervisor).await;
    // All heartbeats have the same interval, so another connection would be among the last of these.
    let second = format!("SELECT count(*) FROM beats WHERE connection <> {first}");
    eventually("the new actor sends heartbeats", PATIENCE, async || test.number(&second).await >= 5).await;
    let last =
        "SELECT count(DISTINCT connection) FROM (SELECT connection FROM beats ORDER BY number DESC LIMIT 3) last";
    assert_eq!(test.number(last).await, 1);
    assert_eq!(test.number("SELECT count(DISTINCT connection) FROM beats").await, 2);
    wait_healthy(&outbox).await;
    outbox.send(event("2")).await.unwrap();
    test.wait_published().await;
}

#[actix::test]
async fn a_lease_keeper_that_was_replaced_goes_on_with_the_same_leases() {
    let test = TestOutbox::new().await;
    let tables = format!("[publishers.default]\n{}[worker]\nlease = \"2s\"", test.stream());
    let outbox = OutboxSystem::builder(test.system_settings(&tables)).start().await.unwrap();
    let taken = "SELECT count(*) FROM outbox_running_leases WHERE epoch = 1";
    eventually("every shard is owned", PATIENCE, async || test.number(taken).await == 64).await;
    panic_in(&outbox, &ActorKind::LeaseKeeper).await;
    let last = test.number("SELECT (extract(epoch FROM max(ends_at)) * 1000000)::bigint FROM outbox_heartbeats").await;
    let extended = format!(
        "SELECT count(*) FROM outbox_heartbeats WHERE extract(epoch FROM ends_at) * 1000000 > {last} + 2000000"
    );
    eventually("its successor has extended them", PATIENCE, async || test.number(&extended).await == 1).await;
    assert_eq!(test.number(taken).await, 64, "no lease was acquired again");
    outbox.shutdown().await.unwrap();
}

#[actix::test]
async fn a_system_that_was_shut_down_lets_go_of_its_backends_and_its_handlers() {
    let (test, mark) = (TestOutbox::new().await, Arc::new(()));
    let (kept_by_backend, kept_by_handler) = (Arc::clone(&mark), Arc::clone(&mark));
    let backend = Scripted::new(move |_| {
        let _ = &kept_by_backend;
        Reply::Accept
    });
    let handling = handler("handling", EventTypes::All, move |_| {
        let _ = &kept_by_handler;
        answer(Ok(()))
    });
    let settings = test.system_settings("[publishers.mine]\nbackend = \"scripted\"");
    let outbox = OutboxSystem::builder(settings)
        .backend("scripted", move |_| Ok(backend.clone()))
        .subscribe(handling)
        .start()
        .await
        .unwrap();
    outbox.send(event("1")).await.unwrap();
    test.wait_published().await;
    outbox.shutdown().await.unwrap();
    drop(outbox);
    eventually("no reference is left", PATIENCE, async || Arc::strong_count(&mark) == 1).await;
}

#[actix::test]
async fn a_shutdown_settles_events_in_flight_and_releases_the_leases() {
    let test = TestOutbox::new().await;
    let tables = format!(
        "[publishers.default]\n{}rate_limit = {{ per_second = 500, burst = 100 }}\n[worker]\nbatch_size = 50\nmax_in_flight = 200",
        test.stream()
    );
    test.insert(3_000, 100).await;
    let outbox = OutboxSystem::builder(test.system_settings(&tables)).start().await.unwrap();
    test.wait_length(200).await;
    outbox.shutdown().await.unwrap();
    assert_eq!(test.published().await, test.length().await as i64, "in the stream and settled");
    assert!(test.unpublished().await > 0, "it was in the middle of its work");
    let held = "SELECT count(*) FROM outbox_running_leases";
    assert_eq!(test.number(held).await, 0, "leases that it left behind");

    let tables = format!("[publishers.default]\n{}", test.stream());
    let next = OutboxSystem::builder(test.system_settings(&tables)).start().await.unwrap();
    next.drained().await;
    test.assert_delivered().await;
    next.shutdown().await.unwrap();
}

#[actix::test]
async fn a_system_that_was_shut_down_answers_with_errors() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let tables = format!("[publishers.default]\n{}", test.stream());
    let outbox = OutboxSystem::builder(test.system_settings(&tables)).start().await.unwrap();
    let address = outbox.addr().unwrap();
    let same = outbox.clone();
    outbox.shutdown().await.unwrap();

    assert!(matches!(same.shutdown().await, Err(SystemError::Stopped)));
    assert!(matches!(outbox.shutdown().await, Err(SystemError::Stopped)));
    assert!(matches!(outbox.addr(), Err(SystemError::Stopped)));
    assert!(matches!(outbox.health().await, Err(SystemError::Stopped)));
    assert!(matches!(outbox.send(event("1")).await, Err(PublishError::Stopped)));
    let late = handler("late", EventTypes::All, move |event| {
        log.add(&event.subject);
        answer(Ok(()))
    });
    assert!(matches!(outbox.subscribe(late).await, Err(SystemError::Stopped)));
    assert!(matches!(address.send(event("2")).await, Err(_) | Ok(Err(PublishError::Stopped))));
    outbox.wake();
    assert_eq!(test.number("SELECT count(*) FROM outbox_events").await, 0);
}

#[actix::test]
async fn health_names_what_is_owned_and_what_is_served() {
    let test = TestOutbox::new().await;
    let tables = format!("[publishers.default]\n{}[publishers.other]\nbackend = \"local\"", test.stream());
    let outbox = OutboxSystem::builder(test.system_settings(&tables)).start().await.unwrap();
    eventually("every shard is owned", PATIENCE, async || {
        let health = outbox.health().await.unwrap();
        ["", "default", "other"].iter().all(|lane| health.shards.get(*lane) == Some(&32))
    })
    .await;
    let health = outbox.health().await.unwrap();
    assert!(health.is_ok() && health.standing_by.is_empty(), "{health:?}");
    assert_eq!(health.backends.keys().collect::<Vec<_>>(), ["default", "other"]);
    assert_eq!(health.in_flight, 0);
}

//! Workers that are woken by other processes.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actix_outbox::{NewEvent, Outbox, OutboxSystem};
use diesel_async::{AsyncConnection, AsyncPgConnection};
use futures_util::StreamExt;
use futures_util::stream::poll_fn;
use tokio_postgres::{AsyncMessage, NoTls};

use crate::actors::event;
use crate::support::pooler::Pooler;
use crate::support::postgres::{self, Stop};
use crate::support::process::Running;
use crate::support::{PATIENCE, eventually, redis};
use crate::test_outbox::TestOutbox;

/// The time within which an event is found only with a wake-up, not by polling.
const NEVER_POLLING: &str = "poll_interval = \"1h\"";

const LISTENERS: &str = "FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'";

/// A worker that polls once when it starts, and then only listens.
async fn listening_worker(test: &TestOutbox) -> Running {
    let worker = test.worker(&test.settings().worker(NEVER_POLLING).write(), "worker");
    test.wait_owners(&["worker"]).await;
    wait_listening(test, "").await;
    worker
}

/// Waits until a session listens that is not one of these.
async fn wait_listening(test: &TestOutbox, but: &str) {
    let query = format!(
        "SELECT count(*) {LISTENERS} AND state = 'idle' AND NOT pid::text = ANY (string_to_array('{but}', ','))"
    );
    eventually("the worker listens", PATIENCE, async || test.number(&query).await > 0).await;
}

async fn publisher(test: &TestOutbox) -> Outbox {
    OutboxSystem::builder(test.system_settings("")).publish_only(true).start().await.unwrap()
}

/// Sends some events, each after the previous one has arrived: the first may be found when the worker starts to listen.
async fn assert_woken(test: &TestOutbox, outbox: &Outbox) {
    let before = test.length().await;
    for n in 1..=4 {
        let sent = async || outbox.send(event("woken")).await.is_ok();
        eventually("the event is stored", PATIENCE, sent).await;
        test.wait_length(before + n).await;
    }
}

async fn channel(test: &TestOutbox) -> String {
    let query = "SELECT 'outbox_' || replace(id::text, '-', '') FROM outbox_meta";
    test.sql().await.query_one(query, &[]).await.unwrap().get(0)
}

/// Collects the payloads of notifications after this call.
pub(crate) async fn announcements(test: &TestOutbox) -> Arc<Mutex<Vec<String>>> {
    let (client, mut connection) = tokio_postgres::connect(test.url(), NoTls).await.unwrap();
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = Arc::clone(&heard);
    tokio::spawn(async move {
        let mut messages = poll_fn(move |cx| connection.poll_message(cx));
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notification(said) = message {
                kept.lock().unwrap().push(said.payload().to_owned());
            }
        }
    });
    client.batch_execute(&format!("LISTEN {}", channel(test).await)).await.unwrap();
    tokio::spawn(async move {
        std::future::pending::<()>().await;
        drop(client);
    });
    heard
}

/// The number of notifications until now: they arrive in order, so the last one is a marker.
async fn count_to_the_end(test: &TestOutbox, heard: &Mutex<Vec<String>>) -> usize {
    let end = format!("NOTIFY {}, 'the end'", channel(test).await);
    test.sql().await.batch_execute(&end).await.unwrap();
    let is_last = async || heard.lock().unwrap().last().is_some_and(|payload| payload == "the end");
    eventually("the marker arrives", PATIENCE, is_last).await;
    heard.lock().unwrap().len() - 1
}

#[actix::test]
async fn whatever_publishes_in_another_process_wakes_the_worker() {
    let test = TestOutbox::new().await;
    let _worker = listening_worker(&test).await;
    let outbox = publisher(&test).await;
    assert_woken(&test, &outbox).await;

    let mut conn = AsyncPgConnection::establish(test.url()).await.unwrap();
    let published =
        outbox.transaction(&mut conn, async |conn| Ok(actix_outbox::publish(conn, event("in a transaction")).await?));
    published.await.unwrap();
    test.wait_length(5).await;

    test.insert(1, 1).await;
    outbox.wake();
    test.wait_length(6).await;

    test.run(&["publish", "thing.happened", "--source", "tests"]).await;
    test.wait_length(7).await;

    let batch = test.settings().write().with_extension("jsonl");
    std::fs::write(&batch, r#"{"specversion":"1.0","id":"a","type":"t","source":"s","data":{}}"#).unwrap();
    test.run(&["publish", "--batch", batch.to_str().unwrap()]).await;
    test.wait_length(8).await;
    test.wait_published().await;
    test.assert_delivered().await;

    // An operator too; what is behind the worker's cursor by then is found by its next sweep.
    let id: String = test.sql().await.query_one("SELECT min(id::text) FROM outbox_events", &[]).await.unwrap().get(0);
    let heard = announcements(&test).await;
    let before = heard.lock().unwrap().len();
    test.run(&["events", "replay", &id]).await;
    eventually("the workers are notified", PATIENCE, async || heard.lock().unwrap().len() > before).await;
}

#[actix::test]
async fn a_program_that_sends_an_event_and_ends_has_woken_the_worker() {
    let test = TestOutbox::new().await;
    let _worker = listening_worker(&test).await;
    for n in 1..=4 {
        let outbox = publisher(&test).await;
        let heard = announcements(&test).await;
        // After this many, the next wake-up is delayed by 20 ms.
        (0..100).for_each(|_| outbox.wake());
        eventually("a notification is sent", PATIENCE, async || !heard.lock().unwrap().is_empty()).await;
        outbox.send(event("the last act")).await.unwrap();
        outbox.shutdown().await.unwrap();
        test.wait_length(n).await;
    }
}

#[actix::test]
async fn a_worker_whose_listener_was_cut_off_finds_missed_events_and_relistens() {
    let test = TestOutbox::new().await;
    let _worker = listening_worker(&test).await;
    let outbox = publisher(&test).await;
    assert_woken(&test, &outbox).await;

    // Its writer sends no notification.
    test.insert(1, 1).await;
    let pids: String = test
        .sql()
        .await
        .query_one(&format!("SELECT string_agg(pid::text, ',') {LISTENERS}"), &[])
        .await
        .unwrap()
        .get(0);
    assert!(test.number(&format!("SELECT count(pg_terminate_backend(pid)) {LISTENERS}")).await > 0);
    test.wait_length(5).await;
    wait_listening(&test, &pids).await;
    assert_woken(&test, &outbox).await;
}

#[actix::test]
async fn a_worker_is_woken_again_after_a_restart_of_the_database() {
    let mut server = postgres::Server::start();
    let test = TestOutbox::on(server.database().await, redis::url()).await;
    let worker = listening_worker(&test).await;
    let outbox = publisher(&test).await;
    assert_woken(&test, &outbox).await;
    server.restart(Stop::Fast);
    eventually("the worker listens again", PATIENCE, async || worker.stderr().contains("notifications again")).await;
    assert_woken(&test, &outbox).await;
}

#[actix::test]
async fn a_worker_that_hears_nothing_through_a_pooler_says_so_once_and_polls() {
    let server = postgres::Server::start();
    let pooler = Pooler::to(server.port()).await;
    let test = TestOutbox::on(server.database().await, redis::url()).await.through(pooler.port());
    let worker = test.worker(&test.settings().write(), "worker");
    let said = "listening for notifications failed; polling every 100ms";
    eventually("the worker says so", PATIENCE, async || worker.stderr().contains(said)).await;
    let outbox = publisher(&test).await;
    for n in 1..=3 {
        outbox.send(event("polled")).await.unwrap();
        test.wait_length(n).await;
    }
    let stderr = worker.stderr();
    assert_eq!(stderr.matches(said).count(), 1, "{stderr}");
    assert!(stderr.contains("is it a pooler in transaction mode?"), "{stderr}");
}

#[actix::test]
async fn publishing_goes_on_where_nobody_may_be_woken() {
    let server = postgres::Server::start();
    let test = TestOutbox::on(server.database().await, redis::url()).await;
    let rights = "CREATE ROLE writer LOGIN; GRANT SELECT, INSERT ON outbox_events TO writer;
        GRANT SELECT ON outbox_meta, outbox_migrations TO writer; GRANT USAGE ON SEQUENCE outbox_events_seq TO writer;
        REVOKE EXECUTE ON FUNCTION pg_notify FROM PUBLIC";
    test.sql().await.batch_execute(rights).await.unwrap();
    let mut url = url::Url::parse(test.url()).unwrap();
    url.set_username("writer").unwrap();
    let settings = actix_outbox::Settings::from_toml(&format!("[database]\nurl = \"{url}\"")).unwrap();
    let outbox = OutboxSystem::builder(settings).publish_only(true).start().await.unwrap();
    let heard = announcements(&test).await;
    let _worker = test.worker(&test.settings().write(), "worker");
    for n in 1..=20 {
        outbox.send(event("all the same")).await.unwrap();
        test.wait_length(n).await;
    }
    outbox.shutdown().await.unwrap();
    assert_eq!(count_to_the_end(&test, &heard).await, 0, "no notification could be sent");
}

#[actix::test]
async fn ten_thousand_wake_ups_become_a_few_notifications() {
    let test = TestOutbox::new().await;
    let heard = announcements(&test).await;
    let outbox = publisher(&test).await;
    outbox.wake();
    eventually("the first notification arrives", PATIENCE, async || !heard.lock().unwrap().is_empty()).await;
    let began = Instant::now();
    for _ in 0..10_000 {
        outbox.wake();
        let next = Instant::now() + Duration::from_micros(20);
        while Instant::now() < next {
            std::hint::spin_loop();
        }
    }
    // One in 50 ms, once many are detected.
    let most = usize::try_from(began.elapsed().as_millis()).unwrap() / 50 + 10;
    outbox.shutdown().await.unwrap();
    let heard = count_to_the_end(&test, &heard).await;
    assert!((1..=most).contains(&heard), "{heard} rather than {most}");
}

#[actix::test]
async fn a_worker_that_owns_every_shard_of_a_lane_wakes_nobody_for_it() {
    let test = TestOutbox::new().await;
    let tables = format!(
        "[publishers.default]\n{}[publishers.other]\nbackend = \"local\"\n[worker]\nbackends = [\"default\"]",
        test.stream()
    );
    let outbox = OutboxSystem::builder(test.system_settings(&tables)).start().await.unwrap();
    let owned = async || outbox.health().await.unwrap().shards.get("") == Some(&32);
    eventually("it owns every shard", PATIENCE, owned).await;
    let heard = announcements(&test).await;
    for n in 1..=5 {
        outbox.send(event("for itself")).await.unwrap();
        test.wait_length(n).await;
    }
    outbox.send(NewEvent::new("thing.happened", "tests").backend("other")).await.unwrap();
    eventually("others are woken", PATIENCE, async || !heard.lock().unwrap().is_empty()).await;
    assert!(heard.lock().unwrap().iter().all(|payload| payload.ends_with("/other")), "only for the other lane");
}

#[actix::test]
async fn the_trigger_wakes_for_writers_who_know_nothing_until_it_is_taken_away() {
    let test = TestOutbox::new().await;
    let heard = announcements(&test).await;
    test.insert(1, 1).await;
    for _ in 0..2 {
        test.run(&["migrate", "--notify-trigger"]).await;
    }
    test.run(&["migrate"]).await;
    let _worker = listening_worker(&test).await;
    for n in 2..=4 {
        test.insert(1, 1).await;
        test.wait_length(n).await;
    }
    assert_eq!(count_to_the_end(&test, &heard).await, 3);
    let printed =
        test.outbox(&test.settings().write(), &["migrate", "--notify-trigger", "--dry-run"]).output().unwrap();
    assert!(printed.stdout.is_empty(), "no statement would run");
    let printed =
        test.outbox(&test.settings().write(), &["migrate", "--no-notify-trigger", "--dry-run"]).output().unwrap();
    assert!(String::from_utf8_lossy(&printed.stdout).contains("DROP TRIGGER"));
    test.run(&["migrate", "--no-notify-trigger"]).await;
    let left = "SELECT (SELECT count(*) FROM pg_trigger WHERE tgname = 'outbox_events_notify') +
        (SELECT count(*) FROM pg_proc WHERE proname = 'outbox_notify')";
    assert_eq!(test.number(left).await, 0);
}

#[actix::test]
async fn events_that_an_operator_replays_or_retries_are_sent_without_a_poll() {
    let test = TestOutbox::new().await;
    let _worker = listening_worker(&test).await;
    let outbox = publisher(&test).await;
    assert_woken(&test, &outbox).await;
    test.wait_published().await;
    let ids = test.event_ids().await;
    // Far behind the worker's cursor.
    let age = "UPDATE outbox_events SET scheduled_at = scheduled_at - interval '1 hour' WHERE id::text = ANY ($1)";
    test.sql().await.execute(age, &[&&ids[..2]]).await.unwrap();
    test.run(&["events", "replay", &ids[0]]).await;
    test.wait_length(5).await;
    test.wait_published().await;
    let fail = format!("UPDATE outbox_events SET status = 'failed', published_at = NULL WHERE id = '{}'", ids[1]);
    test.sql().await.execute(&fail, &[]).await.unwrap();
    test.run(&["events", "retry", &ids[1]]).await;
    eventually("the event is published", PATIENCE, async || test.unpublished().await == 0).await;
    outbox.shutdown().await.unwrap();
}

/// The answer that nothing is due replaces polls and sweeps until the next question, in an hour.
#[tokio::test]
async fn an_operators_replay_is_sent_by_a_worker_that_knew_that_nothing_was_due() {
    let test = TestOutbox::new().await;
    test.insert(1, 1).await;
    test.drain(&test.settings().write()).await;
    let _worker = listening_worker(&test).await;
    let asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND state = 'idle' AND query LIKE '%any_event%'";
    eventually("the worker has asked what is due", PATIENCE, async || test.number(asked).await > 0).await;
    let id = test.event_ids().await.remove(0);
    test.run(&["events", "replay", &id]).await;
    test.wait_length(2).await;
    test.wait_published().await;
}

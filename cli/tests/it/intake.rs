//! Events that applications send while the database hangs or refuses some of them.

use std::time::Duration;

use actix::prelude::SendError;
use actix_outbox::{Health, Outbox, OutboxEvent, OutboxSystem, PublishError};
use futures_util::future::join_all;
use tokio_postgres::Client;

use crate::actors::event;
use crate::support::{PATIENCE, eventually};
use crate::test_outbox::TestOutbox;

async fn start(test: &TestOutbox) -> Outbox {
    OutboxSystem::builder(test.system_settings("")).publish_only(true).start().await.unwrap()
}

/// Locks the table: no session can write until the connection is dropped.
async fn hang(test: &TestOutbox) -> Client {
    let sql = test.sql().await;
    sql.batch_execute("BEGIN; LOCK TABLE outbox_events IN ACCESS EXCLUSIVE MODE").await.unwrap();
    sql
}

async fn wait_until_an_insert_hangs(test: &TestOutbox) {
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("an insert waits", PATIENCE, async || test.number(waiting).await > 0).await;
}

#[actix::test]
async fn what_waits_for_a_database_that_hangs_is_bounded_and_the_mailbox_fills() {
    let test = TestOutbox::new().await;
    let outbox = start(&test).await;
    let system = outbox.addr().unwrap();
    let lock = hang(&test).await;
    let mut accepted = 0;
    let refused = loop {
        match system.try_send(event(&accepted.to_string())) {
            Ok(()) => accepted += 1,
            Err(refused) => break refused,
        }
        assert!(accepted < 5_000, "the intake never refuses");
        tokio::task::yield_now().await;
    };
    assert!(matches!(refused, SendError::Full(_)), "{refused:?}");
    // Callers that wait for an answer are slowed down; the handle's other methods are not.
    let mut waiting = std::pin::pin!(outbox.send(event("waits")));
    assert!(tokio::time::timeout(Duration::from_millis(1), &mut waiting).await.is_err());
    outbox.health().await.unwrap();
    drop(lock);
    waiting.await.unwrap();
    assert_eq!(test.number("SELECT count(*) FROM outbox_events").await, accepted + 1, "accepted events are stored");
    outbox.shutdown().await.unwrap();
}

#[actix::test]
async fn an_event_whose_caller_gave_up_is_not_written_later() {
    let test = TestOutbox::new().await;
    let outbox = start(&test).await;
    let lock = hang(&test).await;
    let first = {
        let outbox = outbox.clone();
        actix::spawn(async move { outbox.send(event("first")).await })
    };
    wait_until_an_insert_hangs(&test).await;
    let given_up = {
        let outbox = outbox.clone();
        actix::spawn(async move { outbox.send(event("cancelled")).await })
    };
    tokio::task::yield_now().await;
    // Answered after the event: by then it is queued.
    outbox.addr().unwrap().send(Health).await.unwrap();
    given_up.abort();
    assert!(given_up.await.unwrap_err().is_cancelled());
    drop(lock);
    first.await.unwrap().unwrap();
    outbox.send(event("last")).await.unwrap();
    let subjects = "SELECT string_agg(subject, ' ' ORDER BY seq) FROM outbox_events";
    let subjects: String = test.sql().await.query_one(subjects, &[]).await.unwrap().get(0);
    assert_eq!(subjects, "first last");
}

/// Refuses the events of a subject by a trigger, and counts the statements that insert.
async fn refuse(test: &TestOutbox, subject: &str, sqlstate: &str) {
    let trigger = format!(
        "CREATE SEQUENCE statements;
        CREATE FUNCTION count_statement() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM nextval('statements'); RETURN NULL; END $$;
        CREATE TRIGGER statements BEFORE INSERT ON outbox_events EXECUTE FUNCTION count_statement();
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE 'not on a Sunday' USING ERRCODE = '{sqlstate}'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON outbox_events FOR EACH ROW
            WHEN (NEW.subject LIKE '{subject}') EXECUTE FUNCTION refuse()"
    );
    test.sql().await.batch_execute(&trigger).await.unwrap();
}

async fn statements(test: &TestOutbox) -> i64 {
    test.number("SELECT last_value FROM statements").await
}

async fn send_together(
    outbox: &Outbox,
    subjects: impl Iterator<Item = String>,
) -> Vec<Result<OutboxEvent, PublishError>> {
    let system = outbox.addr().unwrap();
    join_all(subjects.map(|subject| system.send(event(&subject)))).await.into_iter().map(Result::unwrap).collect()
}

fn numbered(n: usize) -> String {
    if n == 70 { "bad".to_owned() } else { n.to_string() }
}

#[actix::test]
async fn an_event_that_the_database_refuses_does_not_fail_others_in_its_insert() {
    const EVENTS: usize = 200;
    let test = TestOutbox::new().await;
    refuse(&test, "bad", "P0001").await;
    let outbox = start(&test).await;
    for (n, answer) in send_together(&outbox, (0..EVENTS).map(numbered)).await.into_iter().enumerate() {
        match answer {
            Ok(stored) => assert_eq!(stored.subject, n.to_string()),
            Err(error) => {
                let is_permanent = matches!(&error, PublishError::Store(error) if !error.is_transient());
                assert!(n == 70 && is_permanent && error.to_string().contains("not on a Sunday"), "{n}: {error}");
            }
        }
    }
    assert_eq!(test.number("SELECT count(*) FROM outbox_events").await, EVENTS as i64 - 1);
    let unordered = "SELECT count(*) FROM (SELECT subject::int, lag(subject::int) OVER (ORDER BY seq) AS before
        FROM outbox_events) e WHERE before > subject";
    assert_eq!(test.number(unordered).await, 0, "events out of the order in which they were sent");
    assert!(statements(&test).await <= 40, "{} statements", statements(&test).await);
}

#[actix::test]
async fn a_state_of_the_server_is_not_divided_and_stays_transient() {
    let test = TestOutbox::new().await;
    refuse(&test, "bad", "53100").await;
    let outbox = start(&test).await;
    // This event is alone in its statement, so the next ones share one.
    outbox.send(event("first")).await.unwrap();
    let before = statements(&test).await;
    let answers = send_together(&outbox, (0..200).map(numbered)).await;
    let failed: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    assert!(!failed.is_empty());
    for error in failed {
        assert!(matches!(error, PublishError::Store(error) if error.is_transient()), "{error}");
    }
    let used = statements(&test).await - before;
    assert!(used <= 6, "{used} statements");
}

#[actix::test]
async fn where_every_event_is_refused_dividing_ends() {
    let test = TestOutbox::new().await;
    refuse(&test, "%", "42501").await;
    let outbox = start(&test).await;
    let answers = send_together(&outbox, (0..200).map(|n| n.to_string())).await;
    assert!(answers.iter().all(Result::is_err));
    let used = statements(&test).await;
    assert!(used <= 80, "{used} statements");
}

//! `wait_replicas`: an event counts as sent once the replicas have it.

use crate::support::process::Signal;
use crate::support::{PATIENCE, eventually, postgres, redis};
use crate::test_outbox::TestOutbox;

#[tokio::test]
async fn no_event_settles_until_the_replica_answers_and_each_arrives_once() {
    let master = redis::Server::start(&[]);
    let mut replica = redis::Server::replica_of(&master, &[]).await;
    let test = TestOutbox::on(postgres::database().await, master.url()).await;
    let wait = "wait_replicas = { count = 1, timeout = \"200ms\" }";
    let worker = test.worker(&test.settings().publisher(wait).write(), "worker");
    test.insert(500, 20).await;
    test.wait_published().await;

    replica.signal(Signal::STOP);
    test.insert(1_000, 20).await;
    // The master has some of the events.
    test.wait_length(501).await;
    eventually("the worker logs why it waits", PATIENCE, async || {
        worker.stderr().contains("0 of its replicas confirmed within 200ms, and `wait_replicas` wants 1")
    })
    .await;
    assert_eq!(test.unpublished().await, 1_000);
    assert_eq!(test.number("SELECT count(*) FROM outbox_events WHERE published_at IS NOT NULL").await, 500);

    replica.signal(Signal::CONT);
    test.wait_published().await;
    test.assert_delivered().await;
    assert_eq!(test.number("SELECT max(retry_count)::bigint FROM outbox_events").await, 0);
}

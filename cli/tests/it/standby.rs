//! Databases that turn out to be a standby: workers do not fetch from them.

use actix_outbox::{NewEvent, OutboxSystem, Settings};

use crate::support::postgres::replication::{Pair, Replication};
use crate::support::process::Running;
use crate::support::proxy::Proxy;
use crate::support::{PATIENCE, eventually, redis};
use crate::test_outbox::TestOutbox;

#[tokio::test]
async fn a_worker_moved_to_a_lagging_standby_says_so_and_sends_nothing_twice() {
    let pair = Pair::start(Replication::Asynchronous).await;
    let proxy = Proxy::to(pair.primary.port()).await;
    let test = TestOutbox::on(pair.database().await, redis::url()).await;
    // Events that the standby shows as pending after this are published on the primary.
    test.insert(500, 20).await;
    pair.wait_replayed().await;
    pair.standby.pause_replay().await;
    let mut through = url::Url::parse(test.url()).unwrap();
    through.set_port(Some(proxy.port())).unwrap();
    let mut command = test.outbox(&test.settings().write(), &["worker", "--name", "worker"]);
    let worker = Running::spawn(command.env("DATABASE_URL", through.as_str()));
    test.wait_published().await;

    proxy.switch_to(pair.standby.port());
    eventually("the worker logs that it is on a standby", PATIENCE, async || {
        worker.stderr().contains("is read-only: it is a standby")
    })
    .await;
    // It could fetch and send while its leases are valid.
    let running = "SELECT count(*) FROM outbox_running_leases";
    eventually("its leases have expired", PATIENCE, async || test.number(running).await == 0).await;
    assert_eq!(test.length().await, 500);

    proxy.switch_to(pair.primary.port());
    test.insert(100, 20).await;
    test.wait_published().await;
    test.assert_delivered().await;
}

/// An address that names both servers of a pair.
fn both(pair: &Pair, database: &str) -> String {
    let (primary, standby) = (pair.primary.port(), pair.standby.port());
    format!("postgres:///{database}?user=outbox&host=127.0.0.1&host=127.0.0.1&port={primary},{standby}")
}

#[actix::test]
async fn an_application_that_publishes_gets_away_from_a_demoted_primary() {
    let mut pair = Pair::start(Replication::Asynchronous).await;
    let test = TestOutbox::on(pair.database().await, redis::url()).await;
    let url = both(&pair, &test.database().name);
    let settings = Settings::from_toml(&format!("[database]\nurl = \"{url}\"")).unwrap();
    let outbox = OutboxSystem::builder(settings).publish_only(true).start().await.unwrap();
    outbox.send(NewEvent::new("thing.happened", "tests")).await.unwrap();
    pair.wait_replayed().await;

    pair.primary.demote();
    eventually("no write is possible, and its health shows it", PATIENCE, async || {
        let sent = outbox.send(NewEvent::new("thing.happened", "tests")).await;
        sent.is_err_and(|error| error.to_string().contains("is read-only: it is a standby"))
    })
    .await;
    let health = outbox.health().await.unwrap().database;
    assert!(health.as_ref().is_err_and(|error| error.contains("is read-only")), "{health:?}");

    pair.standby.promote().await;
    eventually("it writes to the new primary", PATIENCE, async || {
        outbox.send(NewEvent::new("thing.happened", "tests")).await.is_ok()
    })
    .await;
    assert!(outbox.health().await.unwrap().database.is_ok());
    outbox.shutdown().await.unwrap();
}

#[tokio::test]
async fn health_beside_a_standby_fails_and_says_so() {
    let pair = Pair::start(Replication::Asynchronous).await;
    let test = TestOutbox::on(pair.database().await, redis::url()).await;
    pair.wait_replayed().await;
    let mut standby = url::Url::parse(test.url()).unwrap();
    standby.set_port(Some(pair.standby.port())).unwrap();
    let mut command = test.outbox(&test.settings().write(), &["health"]);
    let health = command.env("DATABASE_URL", standby.as_str()).output().unwrap();
    let said = String::from_utf8_lossy(&health.stdout).into_owned();
    assert!(health.status.code() == Some(1) && said.contains("is read-only: it is a standby"), "{said}");
}

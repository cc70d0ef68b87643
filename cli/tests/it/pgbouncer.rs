//! A real PgBouncer in transaction mode, which most machines lack: `scripts/matrix.sh pgbouncer` runs these.

use std::path::Path;
use std::process::Command;

use crate::support::postgres::pgbouncer::PgBouncer;
use crate::support::postgres::{self, Server};
use crate::support::process::Running;
use crate::support::{PATIENCE, eventually, redis};
use crate::test_outbox::TestOutbox;

/// A migrated outbox on a server of its own.
async fn direct(server: &Server) -> TestOutbox {
    TestOutbox::on(server.database().await, redis::url()).await
}

fn worker(test: &TestOutbox, pooler: &PgBouncer, name: &str) -> Running {
    Running::spawn(&mut through(pooler, test, &test.settings().write(), name))
}

/// A worker whose database's address is the pooler's.
fn through(pooler: &PgBouncer, test: &TestOutbox, settings: &Path, name: &str) -> Command {
    let mut url = url::Url::parse(test.url()).unwrap();
    url.set_port(Some(pooler.port())).unwrap();
    let mut command = test.outbox(settings, &["worker", "--name", name]);
    command.env("DATABASE_URL", url.as_str()).env("OUTBOX__DATABASE__SCHEMA", "public");
    command
}

/// Fewer connections to the server than the workers have, so that transactions of several share each of them.
#[tokio::test]
#[ignore = "needs PgBouncer 1.21 or later"]
async fn workers_share_few_connections_and_deliver_each_event_once_and_in_order() {
    let server = Server::start();
    let test = direct(&server).await;
    let pooler = PgBouncer::to(server.port(), 3);
    let mut workers = ["a", "b", "c"].map(|name| worker(&test, &pooler, name));
    test.wait_owners(&["a", "b", "c"]).await;
    for round in 0..5 {
        test.insert(500, 50).await;
        if round == 2 {
            workers[0].kill();
        }
        test.wait_published().await;
    }
    test.assert_delivered().await;
    let stderr = workers[1].stderr();
    assert!(stderr.contains("is it a pooler in transaction mode?"), "{stderr}");
}

/// It polls once an hour, so only a wake-up brings an event.
#[tokio::test]
#[ignore = "needs PgBouncer 1.21 or later"]
async fn a_worker_that_listens_at_the_servers_own_address_is_woken_for_each_event() {
    let server = Server::start();
    let test = direct(&server).await;
    let pooler = PgBouncer::to(server.port(), 3);
    let settings = test.settings().worker("poll_interval = \"1h\"").write();
    let mut command = through(&pooler, &test, &settings, "worker");
    let worker = Running::spawn(command.env("OUTBOX__DATABASE__LISTEN_URL", test.url()));
    test.wait_owners(&["worker"]).await;
    for n in 1..=5 {
        test.run(&["publish", "thing.happened", "--source", "tests"]).await;
        test.wait_length(n).await;
    }
    let stderr = worker.stderr();
    assert!(!stderr.contains("pooler"), "{stderr}");
}

#[tokio::test]
#[ignore = "needs PgBouncer 1.21 or later"]
async fn a_statement_that_waits_too_long_is_cancelled_at_the_server() {
    let server = Server::start();
    let test = direct(&server).await;
    let pooler = PgBouncer::to(server.port(), 20);
    let _worker = worker(&test, &pooler, "worker");
    test.wait_owners(&["worker"]).await;
    let locker = test.sql().await;
    locker.batch_execute("BEGIN; LOCK outbox_leases IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let cancelled = "canceling statement due to user request";
    eventually("the server cancels a statement", PATIENCE, async || server.log().contains(cancelled)).await;
    locker.batch_execute("ROLLBACK").await.unwrap();
    test.insert(100, 10).await;
    test.wait_published().await;
    test.assert_delivered().await;
}

/// PgBouncer refuses the level as an option of the connection.
#[tokio::test]
#[ignore = "needs PgBouncer 1.21 or later"]
async fn a_worker_whose_options_are_refused_says_what_its_role_needs() {
    let server = Server::start();
    let test = direct(&server).await;
    let role = "ALTER ROLE outbox SET default_transaction_isolation = 'serializable'";
    postgres::connect(&server.url("postgres")).await.batch_execute(role).await.unwrap();
    let pooler = PgBouncer::to(server.port(), 20);
    let worker = worker(&test, &pooler, "worker");
    eventually("it says so", PATIENCE, async || worker.stderr().contains("not READ COMMITTED")).await;
    test.insert(100, 10).await;
    test.wait_published().await;
    test.assert_delivered().await;
}

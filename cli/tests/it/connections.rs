//! The number of a worker's connections, also when the server hangs.

use std::time::{Duration, Instant};

use crate::support::postgres;
use crate::support::process::Running;
use crate::support::proxy::Proxy;
use crate::support::{PATIENCE, eventually, redis};
use crate::test_outbox::TestOutbox;

/// The connections that these workers' settings allow for fetching and settling.
const CONNECTIONS: usize = 4;

/// In addition, the heartbeat's and the listener's.
const PROMISED: usize = CONNECTIONS + 2;

/// Longer than every time limit of a statement.
const LONG: Duration = Duration::from_secs(25);

fn worker(test: &TestOutbox) -> Running {
    let mut command = test.outbox(&test.settings().write(), &["worker", "--name", "worker"]);
    Running::spawn(command.env("OUTBOX__DATABASE__CONNECTIONS", CONNECTIONS.to_string()))
}

/// The highest `count` within the time.
async fn most_within(time: Duration, mut count: impl AsyncFnMut() -> usize) -> usize {
    let (started, mut most) = (Instant::now(), 0);
    while started.elapsed() < time {
        most = most.max(count().await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    most
}

async fn at_the_server(test: &TestOutbox) -> usize {
    let query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() \
        AND application_name = 'actix-outbox'";
    usize::try_from(test.number(query).await).unwrap()
}

#[tokio::test]
async fn a_worker_whose_leases_are_locked_has_no_more_connections_than_promised() {
    let test = TestOutbox::new().await;
    let _worker = worker(&test);
    test.insert(100, 10).await;
    test.wait_published().await;

    let locker = test.sql().await;
    locker.batch_execute("BEGIN; LOCK outbox_leases IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let most = most_within(LONG, async || at_the_server(&test).await).await;
    assert!(most <= PROMISED, "{most} connections");
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("no abandoned statement still waits", PATIENCE, async || test.number(waiting).await <= 1).await;

    locker.batch_execute("ROLLBACK").await.unwrap();
    test.insert(100, 10).await;
    test.wait_published().await;
    test.assert_delivered().await;
}

#[tokio::test]
async fn a_worker_keeps_its_connection_limit_while_the_server_is_frozen() {
    let mut server = postgres::Server::start();
    let proxy = Proxy::to(server.port()).await;
    let test = TestOutbox::on(server.database().await, redis::url()).await.through(proxy.port());
    let _worker = worker(&test);
    test.insert(100, 10).await;
    test.wait_published().await;

    server.freeze();
    let most = most_within(LONG * 2, async || proxy.open()).await;
    server.thaw();
    // Each abandoned connection causes a cancel request, a connection that does not count against the server's limit. One
    // more checks whether the server responds again.
    assert!(most <= 2 * PROMISED + 1, "{most} connections");
    test.insert(100, 10).await;
    test.wait_published().await;
    test.assert_delivered().await;
}

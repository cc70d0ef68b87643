//! The number of a worker's connections, also when the server hangs.

use std::time::{Duration, Instant};

use actix_outbox::{NewEvent, OutboxSystem};

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

const LONGER_THAN_A_LEASE: Duration = Duration::from_secs(8);

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

#[tokio::test]
async fn a_worker_says_at_its_start_how_many_connections_it_has_at_most() {
    let test = TestOutbox::new().await;
    let worker = worker(&test);
    let promise = format!("most_connections={PROMISED}");
    eventually("it says so", PATIENCE, async || worker.stderr().contains(&promise)).await;
    test.insert(3_000, 500).await;
    let most = most_within(Duration::from_secs(3), async || at_the_server(&test).await).await;
    assert!(most <= PROMISED, "{most} connections");
}

/// A role that may have this many connections.
async fn limited(test: &TestOutbox, connections: usize) -> String {
    let role = format!("limited_{}", test.database().name);
    let create = format!(
        "CREATE ROLE {role} LOGIN CONNECTION LIMIT {connections}; \
         GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}"
    );
    test.sql().await.batch_execute(&create).await.unwrap();
    let mut url = url::Url::parse(test.url()).unwrap();
    url.set_username(&role).unwrap();
    url.into()
}

/// The leases with their owners, which change when a lease moves.
async fn leases(test: &TestOutbox) -> Vec<String> {
    let query = "SELECT concat_ws(' ', backend, shard, owner, epoch) FROM outbox_leases ORDER BY backend, shard";
    test.sql().await.query(query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn a_worker_with_its_connections_goes_on_when_the_server_gives_no_more() {
    let test = TestOutbox::new().await;
    let url = limited(&test, PROMISED).await;
    let mut command = test.outbox(&test.settings().write(), &["worker", "--name", "worker"]);
    command.env("DATABASE_URL", &url).env("OUTBOX__DATABASE__CONNECTIONS", CONNECTIONS.to_string());
    let worker = Running::spawn(&mut command);
    test.wait_owners(&["worker"]).await;
    test.insert(10, 10).await;
    test.wait_published().await;
    // Others have the rest of the connections from now on.
    let mut others = Vec::new();
    while let Ok((client, connection)) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await {
        tokio::spawn(connection);
        others.push(client);
    }
    let before = leases(&test).await;
    for _ in 0..10 {
        test.insert(500, 400).await;
        test.wait_published().await;
    }
    test.assert_delivered().await;
    assert_eq!(leases(&test).await, before, "{}", worker.stderr());
}

#[tokio::test]
async fn a_worker_that_gets_no_connection_says_what_to_do_and_waits() {
    let test = TestOutbox::new().await;
    let url = limited(&test, 0).await;
    let mut command = test.outbox(&test.settings().write(), &["worker", "--name", "worker"]);
    let worker = Running::spawn(command.env("DATABASE_URL", &url));
    let remedy = "Raise max_connections or the CONNECTION LIMIT";
    eventually("it says what to do", PATIENCE, async || worker.stderr().contains(remedy)).await;
    let role = url::Url::parse(&url).unwrap().username().to_owned();
    test.sql().await.batch_execute(&format!("ALTER ROLE {role} CONNECTION LIMIT -1")).await.unwrap();
    test.insert(10, 10).await;
    test.wait_published().await;
}

#[tokio::test]
async fn a_worker_that_lacks_connections_keeps_its_leases_and_says_what_to_do() {
    let test = TestOutbox::new().await;
    // For its start, the heartbeat, the listener and a fetch, but not for a settle.
    let url = limited(&test, 4).await;
    let mut command = test.outbox(&test.settings().write(), &["worker", "--name", "worker"]);
    let worker = Running::spawn(command.env("DATABASE_URL", &url));
    test.wait_owners(&["worker"]).await;
    let before = leases(&test).await;
    test.insert(500, 50).await;
    let remedy = "Raise max_connections or the CONNECTION LIMIT";
    eventually("it says what to do", PATIENCE, async || worker.stderr().contains(remedy)).await;
    let moved = async || usize::from(leases(&test).await != before);
    assert_eq!(most_within(LONGER_THAN_A_LEASE, moved).await, 0, "{}", worker.stderr());
    let role = url::Url::parse(&url).unwrap().username().to_owned();
    test.sql().await.batch_execute(&format!("ALTER ROLE {role} CONNECTION LIMIT -1")).await.unwrap();
    test.wait_published().await;
    test.assert_delivered().await;
}

#[actix::test]
async fn a_system_that_only_publishes_has_a_quarter_of_the_connections() {
    let test = TestOutbox::new().await;
    let mut settings = test.system_settings("");
    settings.database.connections = Some(8);
    let outbox = OutboxSystem::builder(settings).publish_only(true).start().await.unwrap();
    let sending = async {
        for _ in 0..20 {
            let sends = (0..200).map(|_| outbox.send(NewEvent::new("thing.happened", "tests")));
            for sent in futures_util::future::join_all(sends).await {
                sent.unwrap();
            }
            assert!(outbox.health().await.unwrap().database.is_ok());
        }
    };
    let (most, ()) = tokio::join!(most_within(Duration::from_secs(3), async || at_the_server(&test).await), sending);
    assert!(most <= 2, "{most} connections");
    outbox.shutdown().await.unwrap();
}

//! Tests of the test support itself.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::time::Duration;

#[cfg(feature = "mysql")]
use crate::support::mysql;
use crate::support::postgres::replication::{Pair, Replication};
use crate::support::postgres::{self, Stop};
use crate::support::process::{Running, Signal};
use crate::support::proxy::Proxy;
use crate::support::{PATIENCE, eventually, redis};

/// Whether something listens on a loopback port.
fn listens(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}

#[tokio::test]
async fn each_test_gets_a_database_of_its_own_on_one_server() {
    let (one, other) = (postgres::database().await, postgres::database().await);
    assert_ne!(one.name, other.name);
    one.connect().await.batch_execute("CREATE TABLE mine ()").await.unwrap();
    let client = other.connect().await;
    let row = client.query_one("SELECT current_database(), to_regclass('mine')::text", &[]).await.unwrap();
    assert_eq!((row.get(0), row.get(1)), (other.name.as_str(), None::<&str>));
}

#[tokio::test]
async fn a_stream_is_read_in_full_and_in_order() {
    let (url, stream) = (redis::url(), redis::stream());
    let mut connection = redis::connect(&url).await;
    let script = "for i = 1, 12000 do redis.call('XADD', KEYS[1], '*', 'event_id', i, 'n', 'é' .. i) end";
    let () = ::redis::cmd("EVAL").arg(script).arg(1).arg(&stream).query_async(&mut connection).await.unwrap();
    let ids = redis::event_ids(&url, &stream).await;
    assert!(ids.iter().map(|id| id.parse::<usize>().unwrap()).eq(1..=12_000));
    assert_eq!(redis::entries(&url, &stream).await[0]["n"], "é1");
}

#[tokio::test]
async fn a_postgres_comes_back_on_its_port_with_its_rows() {
    let mut server = postgres::Server::start_with(&[("fsync", "on")]);
    let database = server.database().await;
    let client = database.connect().await;
    client.batch_execute("CREATE TABLE kept AS SELECT 1 AS n").await.unwrap();
    for how in [Stop::Fast, Stop::Immediate] {
        server.restart(how);
        let row =
            database.connect().await.query_one("SELECT n, current_setting('fsync') FROM kept", &[]).await.unwrap();
        assert_eq!((row.get(0), row.get(1)), (1, "on"));
    }
    server.stop(Stop::Fast);
    assert!(!listens(server.port()));
    server.start_again();
    assert!(listens(server.port()));
}

#[tokio::test]
async fn a_commit_waits_for_a_frozen_sync_standby_and_survives_a_failover() {
    let mut pair = Pair::start(Replication::Synchronous).await;
    let proxy = Proxy::to(pair.primary.port()).await;
    let database = pair.database().await.at(proxy.port());
    let client = database.connect().await;
    client.batch_execute("CREATE TABLE kept (n int)").await.unwrap();

    pair.standby.freeze();
    let waiting = tokio::spawn(async move { client.batch_execute("INSERT INTO kept VALUES (1)").await });
    let sql = database.connect().await;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    eventually("the commit waits", PATIENCE, async || sql.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 1)
        .await;
    assert!(!waiting.is_finished());
    pair.standby.thaw();
    waiting.await.unwrap().unwrap();

    proxy.switch_to(pair.standby.port());
    pair.fail_over().await;
    let client = database.connect().await;
    assert_eq!(client.query_one("SELECT count(*) FROM kept", &[]).await.unwrap().get::<_, i64>(0), 1);
    client.batch_execute("INSERT INTO kept VALUES (2)").await.unwrap();
    assert!(sql.batch_execute("SELECT 1").await.is_err(), "the old primary's connections are cut");
}

#[tokio::test]
async fn a_standby_shows_what_it_has_replayed_and_refuses_writes() {
    let mut pair = Pair::start(Replication::Asynchronous).await;
    let database = pair.database().await;
    let primary = database.connect().await;
    primary.batch_execute("CREATE TABLE kept AS SELECT 1 AS n; CREATE TABLE ticks (n serial)").await.unwrap();
    pair.wait_replayed().await;
    let standby = postgres::connect(&pair.standby.url(&database.name)).await;
    let count = async || standby.query_one("SELECT count(*) FROM kept", &[]).await.unwrap().get::<_, i64>(0);

    pair.standby.pause_replay().await;
    primary.batch_execute("INSERT INTO kept VALUES (2)").await.unwrap();
    assert_eq!(count().await, 1);
    pair.standby.resume_replay().await;
    pair.wait_replayed().await;
    assert_eq!(count().await, 2);

    pair.standby.lag(PATIENCE * 10).await;
    let received = "SELECT (pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn())";
    eventually("it has received more than it shows", PATIENCE, async || {
        // The server applies a new setting with a delay.
        primary.batch_execute("INSERT INTO ticks DEFAULT VALUES").await.unwrap();
        standby.query_one(received, &[]).await.unwrap().get(0)
    })
    .await;
    primary.batch_execute("INSERT INTO kept VALUES (3)").await.unwrap();
    assert_eq!(count().await, 2);

    pair.primary.demote();
    for url in [pair.primary.url(&database.name), pair.standby.url(&database.name)] {
        let refused = postgres::connect(&url).await.batch_execute("INSERT INTO kept VALUES (4)").await.unwrap_err();
        assert_eq!(refused.code(), Some(&tokio_postgres::error::SqlState::READ_ONLY_SQL_TRANSACTION));
    }
}

#[cfg(feature = "mysql")]
#[tokio::test]
async fn a_mariadb_comes_back_on_its_port_with_its_rows() {
    use mysql_async::prelude::Queryable;

    let mut server = mysql::Server::start();
    let database = server.database().await;
    let mut connection = database.connect().await;
    connection.query_drop("CREATE TABLE kept (n integer)").await.unwrap();
    for (n, stop) in [mysql::Server::stop, mysql::Server::kill].into_iter().enumerate() {
        connection.query_drop(format!("INSERT INTO kept VALUES ({n})")).await.unwrap();
        stop(&mut server);
        assert!(!listens(server.port()));
        server.start_again();
        connection = database.connect().await;
        let rows: Option<usize> = connection.query_first("SELECT count(*) FROM kept").await.unwrap();
        assert_eq!(rows, Some(n + 1));
    }
}

#[tokio::test]
async fn a_durable_redis_comes_back_on_its_port_with_its_entries() {
    let mut server = redis::Server::start(redis::Server::DURABLE);
    let (url, port) = (server.url(), server.port());
    for number in 1..=2 {
        let mut connection = redis::connect(&url).await;
        let () = ::redis::cmd("XADD").arg(&["s", "*", "event_id", "x"]).query_async(&mut connection).await.unwrap();
        if number == 1 {
            server.stop()
        } else {
            server.kill()
        }
        assert!(!listens(port));
        server.start_again();
        assert_eq!(redis::event_ids(&url, "s").await.len(), number);
    }
}

#[test]
fn a_server_stops_when_its_test_panics() {
    let mut ports = Vec::new();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let (postgres, redis) = (postgres::Server::start(), redis::Server::start(&[]));
        ports.extend([postgres.port(), redis.port()]);
        assert!(ports.iter().copied().all(listens));
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    assert_eq!(ports.len(), 2);
    assert!(!ports.into_iter().any(listens));
}

/// Run by the next test in a separate process, which is then killed.
#[tokio::test]
#[ignore = "waits to be killed"]
async fn servers_wait_to_be_killed() {
    let (postgres, redis) = (postgres::Server::start(), redis::Server::start(&[]));
    println!("ports {} {}", postgres.port(), redis.port());
    let _sleeper = Running::spawn(Command::new("sleep").arg("600"));
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn servers_stop_when_the_test_process_is_killed() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let mut tests =
        Running::spawn(command.args(["--ignored", "--nocapture", "--exact", "harness::servers_wait_to_be_killed"]));
    let ports = |output: &str| -> Vec<u16> {
        let line = output.lines().find_map(|line| line.split_once("ports ")).map_or("", |(_, ports)| ports);
        line.split_whitespace().map(|port| port.parse().unwrap()).collect()
    };
    eventually("both servers run", PATIENCE, async || ports(&tests.stdout()).len() == 2).await;
    let ports = ports(&tests.stdout());
    assert!(ports.iter().copied().all(listens));
    tests.kill();
    eventually("both servers are gone", PATIENCE, async || !ports.iter().copied().any(listens)).await;
}

#[tokio::test]
async fn a_program_is_signalled_and_what_it_said_is_kept() {
    let script = "trap 'echo bye >&2; exit 3' TERM; echo hello; while :; do sleep 0.01; done";
    let mut program = Running::spawn(Command::new("sh").args(["-c", script]));
    eventually("it says hello", PATIENCE, async || program.stdout() == "hello\n").await;
    program.signal(Signal::STOP);
    program.signal(Signal::CONT);
    assert!(program.is_running());
    program.signal(Signal::TERM);
    assert_eq!(program.wait_exit(Duration::from_secs(20)).await.code(), Some(3));
    assert_eq!(program.stderr(), "bye\n");
}

//! Fetches on a server that shows commits before they are on the disk.

use std::sync::Arc;

use mysql_async::prelude::Queryable;

use crate::publish::NewEvent;
use crate::store::conformance::Fixture;
use crate::store::mysql::fixture::{MysqlFixture, store_at};
use crate::store::{DispatchStore, EventWriter, FetchRequest, FetchedRow, KeyStart, Position, Range, SchemaStore};
use crate::test_support::mysql::Server;
use crate::test_support::{PATIENCE, eventually};

/// All pending events of a lane.
pub(super) fn pending(lane: &str) -> FetchRequest {
    let range = |shard| Range { shard, from: Position::START, to: None, limit: 10 };
    FetchRequest::of_ranges(Arc::from(lane), (0..32).map(range).collect())
}

/// A trigger waits for the test's lock, as a commit waits for the disk.
#[tokio::test]
async fn events_are_returned_once_their_transactions_are_durable() {
    let fixture = MysqlFixture::fresh().await;
    let store = fixture.store();
    let lock = &fixture.database.name;
    let wait = format!("SET @waited = GET_LOCK('{lock}', 60) + RELEASE_LOCK('{lock}')");
    fixture.execute(&format!("CREATE TRIGGER wait BEFORE DELETE ON outbox_confirmations FOR EACH ROW {wait}")).await;
    store.insert(vec![NewEvent::new("t", "s")]).await.unwrap();
    let mut holder = fixture.database.connect().await;
    holder.query_drop(format!("DO GET_LOCK('{lock}', 0)")).await.unwrap();

    let fetching = tokio::spawn(async move { store.fetch(&pending("")).await });
    let waiting = "SELECT count(*) FROM information_schema.processlist WHERE db = DATABASE() AND state = 'User lock'";
    eventually("the fetch waits", PATIENCE, async || fixture.number(waiting).await > 0).await;
    assert!(!fetching.is_finished());
    assert!(fixture.store().fetch(&pending("other")).await.unwrap().rows.is_empty(), "nothing to wait for");
    holder.query_drop(format!("DO RELEASE_LOCK('{lock}')")).await.unwrap();
    assert_eq!(fetching.await.unwrap().unwrap().rows.len(), 1);
    assert_eq!(fixture.number("SELECT count(*) FROM outbox_confirmations").await, 0);
}

#[tokio::test]
async fn a_fetch_writes_nothing_on_a_server_whose_binary_log_is_synchronised() {
    let server = Server::start_with(&[("log-bin", "binlog"), ("binlog-format", "ROW"), ("sync-binlog", "1")]);
    let database = server.database().await;
    let store = store_at(&database.url);
    store.migrate(&|_| ()).await.unwrap();
    store.insert(vec![NewEvent::new("t", "s")]).await.unwrap();
    let mut admin = database.connect().await;
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON outbox_confirmations FOR EACH ROW SIGNAL SQLSTATE '45000'";
    admin.query_drop(refuse).await.unwrap();
    assert_eq!(store.fetch(&pending("")).await.unwrap().rows.len(), 1);
    admin.query_drop("SET GLOBAL sync_binlog = 0").await.unwrap();
    assert!(store.fetch(&pending("")).await.is_err());
    admin.query_drop("SET GLOBAL sync_binlog = 1").await.unwrap();
    assert_eq!(store.fetch(&pending("")).await.unwrap().rows.len(), 1);
}

const POSITIONS: &str = "SELECT event_type FROM outbox_events ORDER BY scheduled_at, seq";

/// Within a trigger, the time of each statement is the start of the one that has called it.
#[tokio::test]
async fn what_a_trigger_writes_late_is_scheduled_late() {
    let fixture = MysqlFixture::fresh().await;
    let lock = &fixture.database.name;
    let insert = |kind: &str| {
        format!("INSERT INTO outbox_events (id, event_type, source) VALUES (REPLACE(UUID(), '-', ''), '{kind}', 's')")
    };
    fixture.execute("CREATE TABLE orders (id integer)").await;
    fixture
        .execute(&format!(
            "CREATE TRIGGER write_slowly AFTER INSERT ON orders FOR EACH ROW BEGIN \
             {}; DO GET_LOCK('{lock}', 60); {}; DO RELEASE_LOCK('{lock}'); END",
            insert("first"),
            insert("third")
        ))
        .await;
    let mut holder = fixture.database.connect().await;
    holder.query_drop(format!("DO GET_LOCK('{lock}', 0)")).await.unwrap();
    let mut writer = fixture.database.connect().await;
    writer.query_drop("SET time_zone = '+05:30'").await.unwrap();
    let writing = tokio::spawn(async move { writer.query_drop("INSERT INTO orders VALUES (1)").await });
    let waiting = "SELECT count(*) FROM information_schema.processlist WHERE db = DATABASE() AND state = 'User lock'";
    eventually("the writer waits", PATIENCE, async || fixture.number(waiting).await > 0).await;
    fixture.execute(&insert("second")).await;
    holder.query_drop(format!("DO RELEASE_LOCK('{lock}')")).await.unwrap();
    writing.await.unwrap().unwrap();
    let written: Vec<String> = holder.query(POSITIONS).await.unwrap();
    assert_eq!(written, ["first", "second", "third"]);
    let late =
        "SELECT count(*) FROM outbox_events WHERE ABS(TIMESTAMPDIFF(SECOND, scheduled_at, UTC_TIMESTAMP())) > 60";
    assert_eq!(fixture.number(late).await, 0, "in UTC, whatever the writer's time zone is");
}

/// The server's slow log has the rows that each statement has read.
#[tokio::test]
async fn events_in_flight_elsewhere_are_not_read_again_by_a_fetch() {
    let server = Server::start_with(&[("slow-query-log", "ON"), ("long-query-time", "0"), ("log-output", "TABLE")]);
    let database = server.database().await;
    let store = store_at(&database.url);
    store.migrate(&|_| ()).await.unwrap();
    let keyed = |n: usize| NewEvent::new("t", "s").partition_key(format!("key-{}", n % 100));
    store.insert((0..6_000).map(keyed).collect()).await.unwrap();
    let range = |shard| Range { shard, from: Position::START, to: None, limit: 100 };
    let in_flight = store.fetch(&FetchRequest::of_ranges(Arc::from(""), (0..32).map(range).collect())).await.unwrap();
    assert!(in_flight.rows.len() > 2_000);
    let last = |shard| in_flight.rows.iter().filter(|row| row.shard == shard).map(|row| row.position).max();
    let next = |shard| Some(Range { shard, from: last(shard)?, to: None, limit: 10 });
    let request = FetchRequest {
        except: in_flight.rows.iter().map(FetchedRow::excepted).collect(),
        keys: vec![KeyStart::whole("absent")],
        ..FetchRequest::of_ranges(Arc::from(""), (0..32).filter_map(next).collect())
    };
    let mut admin = database.connect().await;
    admin.query_drop("TRUNCATE mysql.slow_log").await.unwrap();
    let found = store.fetch(&request).await.unwrap().rows;
    assert!(found.len() > 200 && found.iter().all(|row| row.in_range), "{}", found.len());
    let read = "SELECT CAST(MAX(rows_examined) AS unsigned) FROM mysql.slow_log WHERE db = DATABASE()";
    let most: usize = admin.query_first(read).await.unwrap().unwrap();
    assert!(most <= 2 * found.len(), "{most} rows were read for {}", found.len());
}

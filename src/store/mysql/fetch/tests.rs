//! Fetches on a server that shows commits before they are on the disk.

use std::sync::Arc;

use mysql_async::prelude::Queryable;

use crate::publish::NewEvent;
use crate::store::conformance::Fixture;
use crate::store::mysql::fixture::{MysqlFixture, store_at};
use crate::store::{
    Acceptance, Announcement, Care, DeliveryRequest, DispatchStore, EventWriter, FetchRequest, FetchedRow, KeyStart,
    Position, PredecessorQuery, Range, SchemaStore,
};
use crate::test_support::mysql::Server;
use crate::test_support::{PATIENCE, eventually};

/// All pending events of a lane.
pub(super) fn pending(lane: &str) -> FetchRequest {
    let range = |shard| Range { shard, from: Position::START, to: None, limit: 10 };
    FetchRequest::of_ranges(Arc::from(lane), (0..32).map(range).collect())
}

/// A session that has to wait for the disk fails.
const REFUSE: &str = "CREATE TRIGGER refuse BEFORE INSERT ON outbox_confirmations FOR EACH ROW SIGNAL SQLSTATE '45000'";

fn announcement(handler: &str) -> Announcement {
    Announcement { name: handler.to_owned(), types: vec!["*".to_owned()], owed_for: PATIENCE }
}

/// All deliveries of a handler.
fn owed_by(handler: &str) -> DeliveryRequest {
    DeliveryRequest {
        handler: handler.to_owned(),
        shards: (0..32).collect(),
        except: Vec::new(),
        max_events: 10,
        max_bytes: usize::MAX,
        max_event_bytes: usize::MAX,
    }
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
    admin.query_drop(REFUSE).await.unwrap();
    assert_eq!(store.fetch(&pending("")).await.unwrap().rows.len(), 1);
    admin.query_drop("SET GLOBAL sync_binlog = 0").await.unwrap();
    assert!(store.fetch(&pending("")).await.is_err());
    admin.query_drop("SET GLOBAL sync_binlog = 1").await.unwrap();
    assert_eq!(store.fetch(&pending("")).await.unwrap().rows.len(), 1);
}

/// The end of an earlier event, an operator's for example, is believed once no crash can undo it.
#[tokio::test]
async fn later_events_of_a_key_pass_once_the_end_of_the_earlier_one_is_durable() {
    let fixture = MysqlFixture::fresh().await;
    let store = fixture.store();
    let keyed = || NewEvent::new("t", "s").partition_key("k");
    store.insert(vec![keyed(), keyed()]).await.unwrap();
    let rows = store.fetch(&pending("")).await.unwrap().rows;
    let before = |row: &FetchedRow| PredecessorQuery {
        key: "k".to_owned(),
        from: Position::START,
        before: row.position,
        except: Vec::new(),
    };
    fixture.execute(REFUSE).await;

    assert_eq!(store.blockers("", true, &[before(&rows[1])]).await.unwrap()["k"].id, rows[0].id);
    fixture.execute("UPDATE outbox_events SET status = 'failed' ORDER BY seq LIMIT 1").await;
    assert!(store.blockers("", false, &[before(&rows[1])]).await.is_err());
    assert!(store.blocker("", false, before(&rows[1])).await.unwrap().is_none(), "a reader writes nothing");
}

#[tokio::test]
async fn deliveries_are_returned_once_what_was_read_is_durable() {
    let fixture = MysqlFixture::fresh().await;
    let store = fixture.store();
    store.announce(&[announcement("mail")]).await.unwrap();
    store.insert(vec![NewEvent::new("t", "s")]).await.unwrap();
    let row = store.fetch(&pending("")).await.unwrap().rows.remove(0);
    let accepted = Acceptance {
        id: row.id,
        seq: row.position.seq,
        place: None,
        asked: Arc::default(),
        left: Vec::new(),
        deletes: false,
    };
    store.settle_published(&[accepted], Care::Usual).await.unwrap();
    assert_eq!(store.fetch_deliveries(&owed_by("mail")).await.unwrap().len(), 1);
    fixture.execute(REFUSE).await;
    assert!(store.fetch_deliveries(&owed_by("mail")).await.is_err());
    assert!(store.fetch_deliveries(&owed_by("other")).await.unwrap().is_empty(), "nothing to wait for");
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

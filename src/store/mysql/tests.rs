use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use diesel::dsl::sql;
use diesel::sql_types::BigInt;
use diesel_async::{AsyncConnection, AsyncMysqlConnection};
use mysql_async::prelude::Queryable;
use url::Url;
use uuid::Uuid;

use super::MysqlStore;
use super::error::Failure;
use super::fixture::{MysqlFixture, store_at};
use super::session::{Session, in_transaction, on_session};
use crate::error::{PublishError, StoreError};
use crate::publish::{NewEvent, publish};
use crate::store::conformance::Fixture;
use crate::store::{
    Acceptance, AdminStore, Care, DispatchStore, EventWriter, FetchRequest, Position, Range, Result, SchemaStore, Store,
};
use crate::test_support::mysql::Server;
use crate::test_support::{PATIENCE, eventually};

const DEADLOCK: &str = "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'text'";

async fn insert_after_deadlocks(session: &mut Session<'_>, tries: &AtomicU32, deadlocks: u32) -> Result<(), Failure> {
    session.run("INSERT INTO tried VALUES (1)").await?;
    if tries.fetch_add(1, Ordering::Relaxed) < deadlocks { session.run(DEADLOCK).await } else { Ok(()) }
}

async fn transact(store: &MysqlStore, tries: &AtomicU32, deadlocks: u32) -> Result<()> {
    in_transaction!(store.pool, "test", |session| insert_after_deadlocks(session, tries, deadlocks))
}

#[tokio::test]
async fn a_transaction_that_a_deadlock_ended_is_tried_again() {
    let fixture = MysqlFixture::empty().await;
    let store = store_at(&fixture.database.url);
    fixture.execute("CREATE TABLE tried (n integer)").await;
    transact(&store, &AtomicU32::new(0), 3).await.unwrap();
    assert_eq!(fixture.number("SELECT count(*) FROM tried").await, 1);
    let error = transact(&store, &AtomicU32::new(0), u32::MAX).await.unwrap_err();
    assert!(matches!(error, StoreError::Query { transient: true, .. }), "{error}");
    assert_eq!(fixture.number("SELECT count(*) FROM tried").await, 1);
}

#[tokio::test]
async fn a_lost_connection_is_a_passing_error_and_the_next_use_has_another() {
    let fixture = MysqlFixture::empty().await;
    let store = store_at(&fixture.database.url);
    let number = || sql::<BigInt>("SELECT CONNECTION_ID()");
    let first: Result<i64> = async { on_session!(store.pool, "test", |session| session.load_one(number())) }.await;
    let first = first.unwrap();
    let mut other = fixture.database.connect().await;
    other.query_drop(format!("KILL {first}")).await.unwrap();
    let lost: Result<i64> = async { on_session!(store.pool, "test", |session| session.load_one(number())) }.await;
    assert!(lost.unwrap_err().is_transient());
    let next: Result<i64> = async { on_session!(store.pool, "test", |session| session.load_one(number())) }.await;
    assert_ne!(next.unwrap(), first);
}

#[tokio::test]
async fn a_login_that_is_refused_is_named_without_its_password() {
    let fixture = MysqlFixture::empty().await;
    let mut address = Url::parse(&fixture.database.url).unwrap();
    address.set_password(Some("wrong-one")).unwrap();
    let error = store_at(address.as_str()).outbox_id().await.unwrap_err();
    assert!(matches!(error, StoreError::NoAccess { .. }) && !error.to_string().contains("wrong-one"), "{error}");
}

#[tokio::test]
async fn a_server_whose_binary_log_holds_statements_is_refused() {
    let server = Server::start_with(&[("log-bin", "binlog"), ("binlog-format", "STATEMENT")]);
    let database = server.database().await;
    let store = store_at(&database.url);
    let error = store.migrate(&|_| ()).await.unwrap_err();
    assert!(matches!(error, StoreError::Unsuitable { .. }) && error.to_string().contains("binlog_format"), "{error}");
    let error = store.leases().leave(Uuid::now_v7()).await.unwrap_err();
    assert!(matches!(error, StoreError::Unsuitable { .. }), "{error}");
    database.connect().await.query_drop("SET GLOBAL binlog_format = 'MIXED'").await.unwrap();
    store.migrate(&|_| ()).await.unwrap();
    let stored = store.insert(vec![NewEvent::new("t", "s")]).await.unwrap().remove(0);
    assert_eq!(store.find(stored.id).await.unwrap(), Some(stored));
}

/// As the old primary after a switchover: its connections stay open, and what they read becomes old.
#[tokio::test]
async fn a_server_that_accepts_no_writes_any_more_is_not_read_and_its_connections_are_closed() {
    let server = Server::start();
    let database = server.database().await;
    let mut admin = database.connect().await;
    let role = format!("CREATE USER worker IDENTIFIED BY 'secret'; GRANT ALL ON {}.* TO worker", database.name);
    for statement in role.split("; ") {
        admin.query_drop(statement).await.unwrap();
    }
    let mut url = url::Url::parse(&database.url).unwrap();
    url.set_username("worker").unwrap();
    url.set_password(Some("secret")).unwrap();
    let store = store_at(url.as_str());
    store.migrate(&|_| ()).await.unwrap();
    store.insert(vec![NewEvent::new("t", "s")]).await.unwrap();
    let range = |shard| Range { shard, from: Position::START, to: None, limit: 10 };
    let request = FetchRequest::of_ranges(Arc::from(""), (0..32).map(range).collect());
    assert_eq!(store.fetch(&request).await.unwrap().rows.len(), 1);
    let mut leases = store.leases();
    leases.leave(Uuid::now_v7()).await.unwrap();

    admin.query_drop("SET GLOBAL read_only = 1").await.unwrap();
    let error = store.fetch(&request).await.unwrap_err();
    assert!(matches!(error, StoreError::ReadOnly { .. }), "{error}");
    let error = leases.leave(Uuid::now_v7()).await.unwrap_err();
    assert!(matches!(error, StoreError::ReadOnly { .. }), "{error}");
    eventually("no connection is left", PATIENCE, async || {
        let open = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'worker'";
        admin.query_first(open).await.unwrap() == Some(0_i64)
    })
    .await;
    admin.query_drop("SET GLOBAL read_only = 0").await.unwrap();
    assert_eq!(store.fetch(&request).await.unwrap().rows.len(), 1);
}

#[tokio::test]
async fn an_event_is_part_of_the_callers_transaction() {
    let fixture = MysqlFixture::fresh().await;
    let store = store_at(&fixture.database.url);
    let mut conn = AsyncMysqlConnection::establish(&fixture.database.url).await.unwrap();
    let id = Uuid::now_v7();
    let rolled_back: Result<(), PublishError> = conn
        .transaction(async |conn| {
            publish(conn, NewEvent::new("t", "s").id(id)).await?;
            Err(diesel::result::Error::RollbackTransaction.into())
        })
        .await;
    assert!(rolled_back.is_err() && store.find(id).await.unwrap().is_none());
    let stored: Result<_, PublishError> =
        conn.transaction(async |conn| publish(conn, NewEvent::new("t", "s").id(id)).await).await;
    assert_eq!(store.find(id).await.unwrap(), Some(stored.unwrap()));
}

#[tokio::test]
async fn an_event_that_was_committed_after_the_callers_snapshot_is_found() {
    let fixture = MysqlFixture::fresh().await;
    let mut conn = AsyncMysqlConnection::establish(&fixture.database.url).await.unwrap();
    let id = Uuid::now_v7();
    let event = || NewEvent::new("t", "s").id(id);
    let again: Result<_, PublishError> = conn
        .transaction(async |conn| {
            let count = sql::<BigInt>("SELECT count(*) FROM outbox_events");
            let none: i64 = diesel_async::RunQueryDsl::get_result(count, conn).await?;
            assert_eq!(none, 0);
            let first = fixture.store().insert(vec![event()]).await?.remove(0);
            Ok((first, publish(conn, event()).await?))
        })
        .await;
    let (first, again) = again.unwrap();
    assert_eq!(first, again);
}

#[tokio::test]
async fn what_the_server_refuses_on_the_callers_connection_is_told_apart_by_number() {
    let fixture = MysqlFixture::empty().await;
    let mut conn = AsyncMysqlConnection::establish(&fixture.database.url).await.unwrap();
    let error = publish(&mut conn, NewEvent::new("t", "s")).await.unwrap_err();
    assert!(matches!(error, PublishError::Store(StoreError::NotMigrated { state: "missing", .. })), "{error}");
    fixture.store().migrate(&|_| ()).await.unwrap();
    fixture.execute("ALTER TABLE outbox_events DROP COLUMN event_time").await;
    let error = publish(&mut conn, NewEvent::new("t", "s")).await.unwrap_err();
    assert!(matches!(error, PublishError::Store(StoreError::NotMigrated { state: "out of date", .. })), "{error}");
}

#[tokio::test]
async fn an_interrupted_migration_goes_on_and_another_programs_table_is_refused() {
    let fixture = MysqlFixture::fresh().await;
    let store = fixture.store();
    let id = store.outbox_id().await.unwrap();
    fixture.execute("DROP TABLE outbox_audit").await;
    fixture.execute("DELETE FROM outbox_migrations").await;
    assert!(store.outbox_id().await.is_err());
    store.migrate(&|_| ()).await.unwrap();
    assert_eq!((store.outbox_id().await.unwrap(), fixture.number("SELECT count(*) FROM outbox_audit").await), (id, 0));

    let foreign = MysqlFixture::empty().await;
    foreign.execute("CREATE TABLE outbox_events (id integer)").await;
    let error = foreign.store().migrate(&|_| ()).await.unwrap_err();
    assert!(matches!(error, StoreError::NotAdoptable { .. }), "{error}");
}

/// Writers on older servers, or of older versions of Django, have `char(32)`.
#[tokio::test]
async fn ids_may_be_text() {
    let fixture = MysqlFixture::fresh().await;
    fixture
        .execute(
            "ALTER TABLE outbox_events MODIFY shard tinyint, MODIFY due_shard tinyint, MODIFY id char(32) NOT NULL",
        )
        .await;
    let store = fixture.store();
    let stored =
        store.insert(vec![NewEvent::new("t", "s").cloud_event_id("7"), NewEvent::new("t", "s")]).await.unwrap();
    for event in stored {
        assert_eq!(store.find(event.id).await.unwrap(), Some(event));
    }
}

/// What is committed and not yet durable may be seen: a repetition that finds nothing to do must not be durable before it.
#[tokio::test]
async fn a_repeated_settle_and_a_comparison_with_a_journal_write_something() {
    let fixture = MysqlFixture::fresh().await;
    let store = fixture.store();
    let sent = store.insert(vec![NewEvent::new("t", "s")]).await.unwrap().remove(0);
    fixture.execute("CREATE TABLE seen (id integer AUTO_INCREMENT PRIMARY KEY)").await;
    fixture
        .execute(
            "CREATE TRIGGER see BEFORE DELETE ON outbox_confirmations FOR EACH ROW INSERT INTO seen VALUES (DEFAULT)",
        )
        .await;
    for (deletes, care) in
        [(false, Care::Usual), (false, Care::AfterDoubt), (true, Care::Usual), (true, Care::AfterDoubt)]
    {
        let (id, seq, asked) = (sent.id, sent.seq, std::sync::Arc::default());
        let acceptance = Acceptance { id, seq, place: None, asked, left: Vec::new(), deletes };
        store.settle_published(&[acceptance], care).await.unwrap();
    }
    assert_eq!(fixture.number("SELECT count(*) FROM seen").await, 3, "all but the first");
    assert!(store.find_unsettled("", &[(sent.id, sent.seq)]).await.unwrap().is_empty());
    assert_eq!(fixture.number("SELECT count(*) FROM seen").await, 4);
    assert_eq!(fixture.number("SELECT count(*) FROM outbox_confirmations").await, 0);
}

#[tokio::test]
async fn a_process_that_stops_within_a_transaction_loses_its_locks() {
    let fixture = MysqlFixture::fresh().await;
    let store = store_at(&fixture.database.url);
    let mut stopped = store.pool.session("test").await.unwrap();
    stopped.begin().await.unwrap();
    stopped.run("UPDATE outbox_meta SET protocol = 3").await.unwrap();
    let mut other = fixture.database.connect().await;
    let lock = "SELECT protocol FROM outbox_meta FOR UPDATE NOWAIT";
    assert!(other.query_drop(lock).await.is_err());
    eventually("the lock is free", PATIENCE * 2, async || other.query_drop(lock).await.is_ok()).await;
    assert!(stopped.commit().await.is_err());
    assert_eq!(fixture.number("SELECT CAST(protocol AS signed) FROM outbox_meta").await, 2);
}

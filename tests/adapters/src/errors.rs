//! Errors are those of `publish`, told apart by the database's code.

use actix_outbox::{NewEvent, PublishError, StoreError};
use mysql_async::prelude::Queryable;

use crate::database::{Kind, TestDatabase};
use crate::doors::{
    Door, End, MysqlAsync, Rusqlite, SeaOrm1, SeaOrm2, Sqlx8Mysql, Sqlx8Postgres, Sqlx8Sqlite, Sqlx9Mysql,
    Sqlx9Postgres, Sqlx9Sqlite, Step, TokioPostgres,
};

fn event() -> NewEvent {
    NewEvent::new("t", "tests")
}

fn state(error: PublishError) -> &'static str {
    match error {
        PublishError::Store(StoreError::NotMigrated { state, .. }) => state,
        other => panic!("{other}"),
    }
}

async fn missing_and_old_tables<D: Door>(kind: Kind) {
    let mut door = D::connect(&TestDatabase::empty(kind).await).await;
    assert_eq!(state(door.publish(event()).await.unwrap_err()), "missing");
    let database = TestDatabase::migrated(kind).await;
    let cascade = if kind == Kind::Postgres { " CASCADE" } else { "" };
    let view = if kind == Kind::Sqlite { "DROP VIEW outbox_publish; " } else { "" };
    database.execute(&format!("{view}ALTER TABLE outbox_events DROP COLUMN event_time{cascade}")).await;
    let mut door = D::connect(&database).await;
    for events in [1, 2] {
        let error = door.publish_many((0..events).map(|_| event()).collect()).await.unwrap_err();
        assert_eq!(state(error), "out of date");
    }
}

#[tokio::test]
async fn missing_and_old_tables_are_recognised() {
    missing_and_old_tables::<TokioPostgres>(Kind::Postgres).await;
    missing_and_old_tables::<Sqlx8Postgres>(Kind::Postgres).await;
    missing_and_old_tables::<Sqlx9Postgres>(Kind::Postgres).await;
    missing_and_old_tables::<SeaOrm1>(Kind::Postgres).await;
    missing_and_old_tables::<SeaOrm2>(Kind::Postgres).await;
    missing_and_old_tables::<MysqlAsync>(Kind::Mysql).await;
    missing_and_old_tables::<Sqlx8Mysql>(Kind::Mysql).await;
    missing_and_old_tables::<Sqlx9Mysql>(Kind::Mysql).await;
    missing_and_old_tables::<SeaOrm1>(Kind::Mysql).await;
    missing_and_old_tables::<SeaOrm2>(Kind::Mysql).await;
    missing_and_old_tables::<Rusqlite>(Kind::Sqlite).await;
    missing_and_old_tables::<Sqlx8Sqlite>(Kind::Sqlite).await;
    missing_and_old_tables::<Sqlx9Sqlite>(Kind::Sqlite).await;
    missing_and_old_tables::<SeaOrm1>(Kind::Sqlite).await;
    missing_and_old_tables::<SeaOrm2>(Kind::Sqlite).await;
}

async fn read_only<D: Door>() {
    let database = TestDatabase::migrated(Kind::Postgres).await;
    let mut door = D::connect(&database).await;
    let steps = vec![Step::Execute("SET TRANSACTION READ ONLY"), Step::Publish(event()), Step::Publish(event())];
    let published = door.transaction(steps, End::Rollback).await;
    let [read_only, aborted] = [0, 1].map(|n| published[n].as_ref().unwrap_err());
    assert!(matches!(read_only, PublishError::Store(StoreError::ReadOnly { .. })), "{read_only}");
    assert!(!aborted.is_transient(), "{aborted}");
}

#[tokio::test]
async fn a_read_only_and_an_aborted_transaction_are_recognised() {
    read_only::<TokioPostgres>().await;
    read_only::<Sqlx8Postgres>().await;
    read_only::<Sqlx9Postgres>().await;
    read_only::<SeaOrm1>().await;
    read_only::<SeaOrm2>().await;
}

async fn locked<D: Door>() {
    let database = TestDatabase::migrated(Kind::Sqlite).await;
    let mut door = D::connect(&database).await;
    let locker = rusqlite::Connection::open(database.path()).unwrap();
    locker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let locked = door.publish(event()).await.unwrap_err();
    assert!(locked.is_transient(), "{locked}");
}

#[tokio::test]
async fn a_locked_file_is_a_transient_error() {
    tokio::join!(locked::<Sqlx8Sqlite>(), locked::<Sqlx9Sqlite>(), locked::<SeaOrm1>(), locked::<SeaOrm2>());
    locked::<Rusqlite>().await;
}

/// Its SQLSTATE is that of many other errors.
async fn lock_wait<D: Door>() {
    let database = TestDatabase::migrated(Kind::Mysql).await;
    let (mut door, mut other) = (D::connect(&database).await, D::connect(&database).await);
    let id = other.publish(event()).await.unwrap();
    let mut holder = crate::support::mysql::connect(database.url()).await;
    holder.query_drop("BEGIN; UPDATE outbox_events SET subject = 'held'").await.unwrap();
    let steps = vec![Step::Execute("SET innodb_lock_wait_timeout = 1"), Step::Publish(event().id(id))];
    let error = door.transaction(steps, End::Rollback).await.remove(0).unwrap_err();
    assert!(error.is_transient(), "{error}");
}

#[tokio::test]
async fn a_lock_wait_is_a_transient_error() {
    tokio::join!(
        lock_wait::<MysqlAsync>(),
        lock_wait::<Sqlx8Mysql>(),
        lock_wait::<Sqlx9Mysql>(),
        lock_wait::<SeaOrm1>(),
        lock_wait::<SeaOrm2>()
    );
}

/// A constraint of the application's own refuses an event for good.
async fn refused<D: Door>(kind: Kind) {
    let database = TestDatabase::migrated(kind).await;
    let refuse = match kind {
        Kind::Postgres | Kind::Mysql => "ALTER TABLE outbox_events ADD CHECK (event_type <> 't')",
        Kind::Sqlite => {
            "CREATE TRIGGER refuse BEFORE INSERT ON outbox_events BEGIN SELECT RAISE(ABORT, 'not this one'); END"
        }
    };
    database.execute(refuse).await;
    let refused = D::connect(&database).await.publish(event()).await.unwrap_err();
    assert!(!refused.is_transient() && matches!(refused, PublishError::Store(_)), "{refused}");
}

#[tokio::test]
async fn a_refusal_of_the_database_is_permanent() {
    refused::<TokioPostgres>(Kind::Postgres).await;
    refused::<Sqlx8Postgres>(Kind::Postgres).await;
    refused::<SeaOrm2>(Kind::Postgres).await;
    refused::<MysqlAsync>(Kind::Mysql).await;
    refused::<Sqlx9Mysql>(Kind::Mysql).await;
    refused::<SeaOrm1>(Kind::Mysql).await;
    refused::<Rusqlite>(Kind::Sqlite).await;
    refused::<Sqlx9Sqlite>(Kind::Sqlite).await;
    refused::<SeaOrm1>(Kind::Sqlite).await;
}

//! What every door must do, diesel's first.

use std::time::Duration;

use actix_outbox::{NewEvent, PublishError};
use chrono::DateTime;
use uuid::Uuid;

use crate::database::{Kind, TestDatabase};
use crate::doors::{Door, End, Published, Step};

fn event(name: &str) -> NewEvent {
    NewEvent::new(name, "tests")
}

fn events(names: &[&str]) -> Vec<NewEvent> {
    names.iter().map(|name| event(name)).collect()
}

async fn an_event_is_committed_or_rolled_back_with_its_transaction<D: Door>(kind: Kind) {
    let database = TestDatabase::migrated(kind).await;
    let mut door = D::connect(&database).await;
    let id = door.publish(event("alone")).await.unwrap();
    assert_eq!(id.get_version_num(), 7);
    door.transaction(vec![Step::Publish(event("committed"))], End::Commit).await;
    for end in [End::Rollback, End::Drop] {
        let steps = vec![Step::Publish(event("ghost")), Step::PublishMany(events(&["ghost", "ghost"]))];
        let published = door.transaction(steps, end).await;
        assert!(published.iter().all(Result::is_ok), "{published:?}");
    }
    door.publish(event("later")).await.unwrap();
    assert_eq!(database.types().await, ["alone", "committed", "later"]);
}

async fn an_event_of_a_savepoint_is_rolled_back_with_it<D: Door>(kind: Kind) {
    let database = TestDatabase::migrated(kind).await;
    let mut door = D::connect(&database).await;
    let savepoint = |name, is_kept| Step::Savepoint { events: events(&[name]), is_kept };
    let steps = vec![
        Step::Publish(event("before")),
        savepoint("ghost", false),
        savepoint("kept", true),
        Step::Publish(event("after")),
    ];
    door.transaction(steps, End::Commit).await;
    assert_eq!(database.types().await, ["before", "kept", "after"]);
}

async fn a_batch_is_written_in_order_and_by_key<D: Door>(kind: Kind) {
    let database = TestDatabase::migrated(kind).await;
    let mut door = D::connect(&database).await;
    assert!(door.publish_many(Vec::new()).await.unwrap().is_empty());
    let names: Vec<_> = (0..1000).map(|n| n.to_string()).collect();
    let keyed = |n: usize| event(&names[n]).partition_key(format!("key-{}", n % 7));
    let ids = door.publish_many((0..500).map(keyed).collect()).await.unwrap();
    for n in 500..510 {
        door.publish(keyed(n)).await.unwrap();
    }
    let steps = vec![Step::PublishMany((510..999).map(keyed).collect()), Step::Publish(keyed(999))];
    door.transaction(steps, End::Commit).await;
    assert_eq!(database.types().await, names);
    let stored = "SELECT event_type FROM outbox_events WHERE partition_key = 'key-3' ORDER BY seq";
    assert!(database.texts(stored).await.iter().eq(names.iter().skip(3).step_by(7)));
    let id = match kind {
        Kind::Postgres => "SELECT id::text FROM outbox_events ORDER BY seq LIMIT 500",
        Kind::Mysql => "SELECT CAST(id AS char) FROM outbox_events ORDER BY seq LIMIT 500",
        Kind::Sqlite => "SELECT lower(hex(id)) FROM outbox_events ORDER BY seq LIMIT 500",
    };
    let stored: Vec<Uuid> = database.texts(id).await.iter().map(|text| text.parse().unwrap()).collect();
    assert_eq!(stored, ids);
}

async fn a_refused_event_writes_nothing_and_its_transaction_goes_on<D: Door>(kind: Kind) {
    let database = TestDatabase::migrated(kind).await;
    let mut door = D::connect(&database).await;
    let taken = door.publish(event("taken")).await.unwrap();
    let twice = Uuid::now_v7();
    let conflict = vec![event("a"), event("taken").id(taken), event("other").id(taken)];
    let accepted = vec![event("1"), event("taken").id(taken), event("2").id(twice), event("2").id(twice), event("3")];
    let steps = vec![
        Step::Publish(event("")),
        Step::PublishMany(events(&["a", ""])),
        Step::Publish(event("other").id(taken)),
        Step::PublishMany(conflict),
        Step::PublishMany(accepted),
    ];
    let published: [Published; 5] = door.transaction(steps, End::Commit).await.try_into().unwrap();
    let [invalid, invalid_in_batch, conflict, conflict_in_batch, accepted] = published;
    assert!(matches!(invalid, Err(PublishError::Invalid(_))), "{invalid:?}");
    assert!(matches!(invalid_in_batch, Err(PublishError::InvalidInBatch { index: 2, .. })), "{invalid_in_batch:?}");
    assert!(matches!(&conflict, Err(PublishError::IdConflict(error)) if error.field == "event_type"), "{conflict:?}");
    assert!(
        matches!(&conflict_in_batch, Err(PublishError::IdConflictInBatch { index: 3, error })
            if error.field == "event_type" && error.id == taken),
        "{conflict_in_batch:?}"
    );
    assert_eq!(accepted.unwrap()[1..4], [taken, twice, twice]);
    assert_eq!(database.types().await, ["taken", "1", "2", "3"]);
    // Without a transaction of the caller's, too, all or none.
    assert!(door.publish_many(vec![event("a"), event("other").id(taken)]).await.unwrap_err().is_conflict());
    door.publish_many(vec![event("4"), event("taken").id(taken)]).await.unwrap();
    assert_eq!(database.types().await, ["taken", "1", "2", "3", "4"]);
}

async fn the_same_id_again_is_the_same_event_or_a_conflict<D: Door>(kind: Kind) {
    let database = TestDatabase::migrated(kind).await;
    let mut door = D::connect(&database).await;
    let id = Uuid::now_v7();
    let minute = Duration::from_secs(60);
    let same = || event("t").id(id).data_json(r#"{"n": 1.0, "é": "\u00e9"}"#).scheduled_in(minute).max_retries(5);
    assert_eq!(door.publish(same()).await.unwrap(), id);
    for again in [same().data_json(r#"{"é":"é","n":1}"#), same().extension("traceparent", "00-a-b-01")] {
        assert_eq!(door.publish(again).await.unwrap(), id);
    }
    let time = DateTime::UNIX_EPOCH;
    for (other, field) in [
        (NewEvent::new("t", "x").id(id), "source"),
        (same().cloud_event_id("x"), "cloud_event_id"),
        (same().subject("x"), "subject"),
        (same().data_json(r#"{"n": 1, "é": "e"}"#), "data"),
        (same().data_json("2"), "data"),
        (event("t").id(id).binary([1]), "data"),
        (same().data_schema("urn:x"), "data_schema"),
        (same().content_type(""), "data_content_type"),
        (same().extension("x", 1), "extensions"),
        (same().partition_key("k"), "partition_key"),
        (same().backend("b"), "publisher_backend"),
        (same().publisher_config("x", 1), "publisher_config"),
        (same().scheduled_in(minute * 2), "scheduled_at"),
        (same().scheduled_at(time), "scheduled_at"),
        (same().time(time), "event_time"),
        (same().max_retries(4), "max_retries"),
    ] {
        let error = door.publish(other).await.unwrap_err();
        assert!(matches!(&error, PublishError::IdConflict(error) if error.field == field && error.id == id), "{error}");
    }
    let bytes = Uuid::now_v7();
    let binary = |bytes_: &[u8]| event("b").id(bytes).binary(bytes_).time(time);
    for _ in 0..2 {
        door.publish(binary(&[0, 255, 7])).await.unwrap();
    }
    let error = door.publish(binary(&[0, 255])).await.unwrap_err();
    assert!(matches!(&error, PublishError::IdConflict(error) if error.field == "data_binary"), "{error}");
    assert_eq!(database.types().await, ["t", "b"]);
}

/// A commit that writes nothing does not wait for a synchronous standby.
async fn a_repetition_writes_something<D: Door>(kind: Kind) {
    let database = TestDatabase::migrated(kind).await;
    let mut door = D::connect(&database).await;
    let id = door.publish(event("t")).await.unwrap();
    let wrote = "DO $$ BEGIN ASSERT pg_current_xact_id_if_assigned() IS NOT NULL; END $$";
    let steps = || vec![Step::Publish(event("t").id(id)), Step::Execute(wrote)];
    assert_eq!(door.transaction(steps(), End::Commit).await.remove(0).unwrap(), [id]);
    database.execute("REVOKE EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) FROM PUBLIC").await;
    assert_eq!(door.transaction(steps(), End::Commit).await.remove(0).unwrap(), [id]);
}

async fn an_event_of_a_dropped_future_does_not_exist<D: Door>(kind: Kind) {
    let database = TestDatabase::migrated(kind).await;
    let mut door = D::connect(&database).await;
    let steps = vec![Step::Publish(event("ghost"))];
    door.transaction(steps, End::DropFuture(Uuid::now_v7(), &database)).await;
    door.publish(event("later")).await.unwrap();
    assert_eq!(database.types().await, ["later"]);
}

async fn an_event_of_a_lost_connection_does_not_exist_and_the_error_is_transient<D: Door>(kind: Kind) {
    let database = TestDatabase::migrated(kind).await;
    let mut door = D::connect(&database).await;
    let disconnect = Step::Disconnect(database.url().to_owned());
    let steps = vec![Step::Publish(event("ghost")), disconnect, Step::Publish(event("ghost"))];
    let published = door.transaction(steps, End::Drop).await;
    assert!(published[0].is_ok());
    let lost = published[1].as_ref().unwrap_err();
    assert!(lost.is_transient(), "{lost}");
    assert!(database.types().await.is_empty());
}

macro_rules! conformance {
    ($kind:ident: $($name:ident $door:ident),* => $tests:tt) => {
        $(
            mod $name {
                use super::*;
                use crate::doors::$door;

                conformance!(@ $kind $door $tests);
            }
        )*
    };
    (@ $kind:ident $door:ident [$($test:ident),* $(,)?]) => {
        $(
            #[tokio::test]
            async fn $test() {
                super::$test::<$door>(Kind::$kind).await;
            }
        )*
    };
}

conformance!(Postgres: diesel_postgres DieselPostgres, tokio_postgres TokioPostgres, sqlx_0_8_postgres Sqlx8Postgres,
    sqlx_0_9_postgres Sqlx9Postgres, sea_orm_1_postgres SeaOrm1, sea_orm_2_postgres SeaOrm2 => [
    an_event_is_committed_or_rolled_back_with_its_transaction,
    an_event_of_a_savepoint_is_rolled_back_with_it,
    a_batch_is_written_in_order_and_by_key,
    a_refused_event_writes_nothing_and_its_transaction_goes_on,
    the_same_id_again_is_the_same_event_or_a_conflict,
    a_repetition_writes_something,
    an_event_of_a_dropped_future_does_not_exist,
    an_event_of_a_lost_connection_does_not_exist_and_the_error_is_transient,
]);

conformance!(Mysql: diesel_mysql DieselMysql, mysql_async MysqlAsync, sqlx_0_8_mysql Sqlx8Mysql,
    sqlx_0_9_mysql Sqlx9Mysql, sea_orm_1_mysql SeaOrm1, sea_orm_2_mysql SeaOrm2 => [
    an_event_is_committed_or_rolled_back_with_its_transaction,
    an_event_of_a_savepoint_is_rolled_back_with_it,
    a_batch_is_written_in_order_and_by_key,
    a_refused_event_writes_nothing_and_its_transaction_goes_on,
    the_same_id_again_is_the_same_event_or_a_conflict,
    an_event_of_a_dropped_future_does_not_exist,
    an_event_of_a_lost_connection_does_not_exist_and_the_error_is_transient,
]);

conformance!(Sqlite: diesel_sqlite DieselSqlite, rusqlite Rusqlite, sqlx_0_8_sqlite Sqlx8Sqlite,
    sqlx_0_9_sqlite Sqlx9Sqlite, sea_orm_1_sqlite SeaOrm1, sea_orm_2_sqlite SeaOrm2 => [
    an_event_is_committed_or_rolled_back_with_its_transaction,
    an_event_of_a_savepoint_is_rolled_back_with_it,
    a_batch_is_written_in_order_and_by_key,
    a_refused_event_writes_nothing_and_its_transaction_goes_on,
    the_same_id_again_is_the_same_event_or_a_conflict,
]);

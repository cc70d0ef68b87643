//! The driver's client and transaction publish as `publish` does.

use std::time::Duration;

use ::tokio_postgres::Client;
use chrono::DateTime;
use diesel_async::{AsyncConnection, AsyncPgConnection};
use uuid::Uuid;

use super::tokio_postgres::{publish, publish_many};
use crate::error::{PublishError, StoreError};
use crate::publish::NewEvent;
use crate::publish::random_events::random_events;
use crate::store::conformance::Fixture;
use crate::store::postgres::fixture::PostgresFixture;

/// The futures can move between threads.
#[expect(dead_code, reason = "it compiles")]
fn accepts(client: &mut Client, transaction: &mut ::tokio_postgres::Transaction<'_>) {
    fn is_send(_: impl Send) {}
    is_send(publish(client, event("t")));
    is_send(publish_many(client, vec![event("t")]));
    is_send(publish(transaction, event("t")));
    is_send(publish_many(transaction, [event("t")]));
}

fn event(name: &str) -> NewEvent {
    NewEvent::new(name, "tests")
}

async fn types(client: &Client) -> Vec<String> {
    let sql = "SELECT event_type FROM outbox_events ORDER BY seq";
    client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// The row without its id and the times of writing.
async fn row(client: &Client, id: Uuid, is_scheduled: bool) -> String {
    let own = ["id", "seq", "created_at", "updated_at", "scheduled_at"];
    let own = if is_scheduled { &own[..4] } else { &own };
    let sql = "SELECT (to_jsonb(e) - $2::text[])::text FROM outbox_events e WHERE id = $1";
    client.query_one(sql, &[&id, &own]).await.unwrap().get(0)
}

#[tokio::test]
async fn it_writes_the_row_that_diesel_writes() {
    let fixture = PostgresFixture::fresh().await;
    let mut client = fixture.database.connect().await;
    let mut conn = AsyncPgConnection::establish(&fixture.database.url).await.unwrap();
    let given = random_events(100);
    let many = publish_many(&mut client, given.iter().map(|given| given.event())).await.unwrap();
    for (given, id) in given.iter().zip(many) {
        let is_scheduled = given.scheduled_at.is_some();
        let stored = crate::publish(&mut conn, given.event()).await.unwrap();
        let expected = row(&client, stored.id, is_scheduled).await;
        let alone = publish(&mut client, given.event()).await.unwrap();
        assert_eq!(row(&client, alone, is_scheduled).await, expected, "{given:?}");
        assert_eq!(row(&client, id, is_scheduled).await, expected, "{given:?}");
    }
}

#[tokio::test]
async fn an_event_exists_if_and_only_if_its_transaction_and_savepoint_last() {
    let fixture = PostgresFixture::fresh().await;
    let mut client = fixture.database.connect().await;
    publish(&mut client, event("alone")).await.unwrap();
    let mut transaction = client.transaction().await.unwrap();
    publish(&mut transaction, event("kept")).await.unwrap();
    let mut savepoint = transaction.transaction().await.unwrap();
    publish_many(&mut savepoint, [event("ghost"), event("ghost")]).await.unwrap();
    savepoint.rollback().await.unwrap();
    transaction.commit().await.unwrap();
    let mut transaction = client.transaction().await.unwrap();
    publish(&mut transaction, event("ghost")).await.unwrap();
    drop(transaction);
    assert_eq!(types(&client).await, ["alone", "kept"]);
}

#[tokio::test]
async fn a_refused_event_reaches_no_database_and_a_batch_is_written_in_order_or_not_at_all() {
    let fixture = PostgresFixture::fresh().await;
    let mut client = fixture.database.connect().await;
    assert!(publish(&mut client, event("")).await.unwrap_err().is_invalid());
    let refused = publish_many(&mut client, [event("a"), event("")]).await.unwrap_err();
    assert!(matches!(refused, PublishError::InvalidInBatch { index: 2, .. }), "{refused}");
    assert!(publish_many(&mut client, []).await.unwrap().is_empty());
    let taken = publish(&mut client, event("taken")).await.unwrap();
    let mut transaction = client.transaction().await.unwrap();
    let batch = [event("a"), event("taken").id(taken), event("other").id(taken)];
    let refused = publish_many(&mut transaction, batch).await.unwrap_err();
    assert!(
        matches!(&refused, PublishError::IdConflictInBatch { index: 3, error } if error.field == "event_type"),
        "{refused}"
    );
    // The batch had a savepoint of its own.
    let twice = Uuid::now_v7();
    let batch = [event("1"), event("taken").id(taken), event("2").id(twice), event("2").id(twice), event("3")];
    let ids = publish_many(&mut transaction, batch).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!((ids[1], ids[2], ids[3]), (taken, twice, twice));
    assert_eq!(types(&client).await, ["taken", "1", "2", "3"]);
}

#[tokio::test]
async fn the_same_id_again_follows_the_rules_of_publish() {
    let fixture = PostgresFixture::fresh().await;
    let mut client = fixture.database.connect().await;
    let id = Uuid::now_v7();
    let minute = Duration::from_secs(60);
    let same = || event("t").id(id).data_json(r#"{"n": 1.0}"#).scheduled_in(minute).max_retries(5);
    publish(&mut client, same()).await.unwrap();
    let time = DateTime::UNIX_EPOCH;
    for again in
        [same().data_json(r#"{"n":1}"#), same().extension("traceparent", "00-a-b-01"), same().or_defaults(7, 1000)]
    {
        assert_eq!(publish(&mut client, again).await.unwrap(), id);
    }
    for (other, field) in [
        (NewEvent::new("t", "x").id(id), "source"),
        (same().subject("x"), "subject"),
        (same().data_json("2"), "data"),
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
        (same().cloud_event_id("x"), "cloud_event_id"),
    ] {
        let error = publish(&mut client, other).await.unwrap_err();
        assert!(matches!(&error, PublishError::IdConflict(error) if error.field == field && error.id == id), "{error}");
    }
    // A route may give it a backend later.
    client.execute("UPDATE outbox_events SET publisher_backend = 'b'", &[]).await.unwrap();
    for again in [same(), same().backend("b")] {
        assert_eq!(publish(&mut client, again).await.unwrap(), id);
    }
    assert!(publish(&mut client, same().backend("c")).await.unwrap_err().is_conflict());
    let mut transaction = client.transaction().await.unwrap();
    publish(&mut transaction, same()).await.unwrap();
    let wrote = transaction.query_one("SELECT pg_current_xact_id_if_assigned() IS NOT NULL", &[]).await.unwrap();
    assert!(wrote.get::<_, bool>(0), "its commit waits for a synchronous standby");
}

#[tokio::test]
async fn errors_are_those_of_publish() {
    let fixture = PostgresFixture::empty().await;
    let mut client = fixture.database.connect().await;
    let missing = publish(&mut client, event("t")).await.unwrap_err();
    assert!(matches!(missing, PublishError::Store(StoreError::NotMigrated { state: "missing", .. })), "{missing}");
    fixture.store().migrate(&|_| ()).await.unwrap();
    client.batch_execute("BEGIN READ ONLY").await.unwrap();
    let read_only = publish(&mut client, event("t")).await.unwrap_err();
    assert!(matches!(read_only, PublishError::Store(StoreError::ReadOnly { .. })), "{read_only}");
    let aborted = publish(&mut client, event("t")).await.unwrap_err();
    assert!(!aborted.is_transient() && !aborted.is_invalid(), "{aborted}");
    client.batch_execute("ROLLBACK; ALTER TABLE outbox_events DROP COLUMN extensions CASCADE").await.unwrap();
    let outdated = publish(&mut client, event("t")).await.unwrap_err();
    assert!(
        matches!(outdated, PublishError::Store(StoreError::NotMigrated { state: "out of date", .. })),
        "{outdated}"
    );
}

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Fixture;
use super::builders::*;
use crate::error::{PublishError, StoreError};
use crate::event::{JsonText, OutboxEvent};
use crate::publish::{InsertResult, NewEvent};
use crate::store::Store;

pub(super) async fn a_database_without_tables_is_named_as_such<F: Fixture>() {
    let error = F::empty().await.store().outbox_id().await.unwrap_err();
    assert!(matches!(error, StoreError::NotMigrated { state: "missing", .. }), "{error:?}");
}

pub(super) async fn a_dry_run_of_migrating_lists_the_statements_and_changes_nothing<F: Fixture>() {
    let store = F::empty().await;
    let store = store.store();
    let planned = store.plan_migration().await.unwrap();
    assert!(
        planned.steps.iter().any(|step| step.sql.contains("CREATE TABLE ") && step.sql.contains("outbox_events ("))
    );
    assert!(store.outbox_id().await.is_err());
    assert_eq!(store.migrate(&|_| ()).await.unwrap().steps, planned.steps);
}

pub(super) async fn migrating_twice_changes_nothing<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let outbox = store.outbox_id().await.unwrap();
    let id = TestRow::new().insert(&fixture).await;
    assert_eq!(store.migrate(&|_| ()).await.unwrap().steps, []);
    assert_eq!(store.outbox_id().await.unwrap(), outbox);
    assert_eq!(ids(&fetch_all(&store).await), [id]);
}

pub(super) async fn events_come_back_as_stored_in_the_order_given<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let events = (0..3).map(|n| NewEvent::new(format!("type.{n}"), "s").backend("orders").partition_key("k"));
    let stored = store.insert(events.collect()).await.unwrap();
    assert_eq!(stored.iter().map(|event| &*event.event_type).collect::<Vec<_>>(), ["type.0", "type.1", "type.2"]);
    let fetched = fetch_all(&store).await;
    assert_eq!(ids(&fetched), stored.iter().map(|event| event.id).collect::<Vec<_>>());
    assert_eq!(**fetched[1].event.as_ref().unwrap(), stored[1]);
}

/// An event with a value in every possible column, each different from those of another `n`.
fn detailed(n: i32) -> NewEvent {
    let event = NewEvent::new(format!("type.{n}"), format!("source/{n}"))
        .subject(format!("subject {n}"))
        .content_type(format!("application/vnd.{n}+json"))
        .data_schema(format!("https://example.com/{n}"))
        .extension("number", n)
        .partition_key(format!("key {n}"))
        .backend(format!("orders-{n}"))
        .max_retries(n)
        .publisher_config("tenant", format!("tenant {n}"))
        .time(DateTime::from_timestamp_micros(1_750_796_820_500_001 + i64::from(n)).unwrap());
    match n % 2 {
        0 => event.data(json!({ "n": n })).scheduled_in(Duration::from_secs(60) * n.unsigned_abs()),
        _ => event
            .binary(n.to_be_bytes())
            .scheduled_at(DateTime::from_timestamp(4_000_000_000 + i64::from(n), 0).unwrap())
            .cloud_event_id(format!("No. {n}")),
    }
}

/// The event with its JSON normalized.
fn normal(mut event: OutboxEvent) -> OutboxEvent {
    let rewrite = |text: &JsonText| JsonText::new(text.parse::<Value>().unwrap().to_string());
    event.data = event.data.as_ref().map(rewrite);
    event.extensions = rewrite(&event.extensions);
    event.publisher_config = rewrite(&event.publisher_config);
    event
}

async fn assert_returned_as_stored(store: &Arc<dyn Store>, events: Vec<NewEvent>) -> Vec<OutboxEvent> {
    let returned = store.insert(events).await.unwrap();
    for event in &returned {
        assert_eq!(normal(event.clone()), normal(find(store, event.id).await));
    }
    returned
}

pub(super) async fn events_that_differ_in_everything_are_stored_as_each_says<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let events = vec![detailed(1), NewEvent::new("plain", "s"), detailed(2), detailed(3)];
    let returned = assert_returned_as_stored(&store, events).await;
    assert_eq!((returned[0].max_retries, &*returned[0].publisher_backend), (1, "orders-1"));
    assert_eq!((returned[2].max_retries, &*returned[2].publisher_backend), (2, "orders-2"));
    assert_eq!(returned[3].scheduled_at.timestamp(), 4_000_000_003);
    assert_eq!(returned[3].event_time.map(|time| time.timestamp_micros()), Some(1_750_796_820_500_004));
    assert_eq!((returned[1].event_time, returned[1].time()), (None, returned[1].created_at));
    assert_eq!((returned[2].scheduled_at - returned[2].created_at).num_seconds(), 120);
    assert_eq!(returned[1].scheduled_at, returned[1].created_at);
}

pub(super) async fn events_that_have_all_but_themselves_in_common_are_stored_as_they_say<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let returned = assert_returned_as_stored(&store, vec![detailed(2).subject("a"), detailed(2).subject("b")]).await;
    assert_eq!([&*returned[0].subject, &*returned[1].subject], ["a", "b"]);
    assert_eq!(returned[1].extensions.parse::<Value>().unwrap(), json!({ "number": 2 }));
}

pub(super) async fn an_id_that_is_given_twice_or_was_there_is_one_event<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let (there, twice) = (Uuid::now_v7(), Uuid::now_v7());
    let first = store.insert(vec![NewEvent::new("there", "s").id(there)]).await.unwrap();
    let given = [("new", None), ("twice", Some(twice)), ("there", Some(there)), ("twice", Some(twice)), ("last", None)];
    let events = given.map(|(name, id)| id.into_iter().fold(NewEvent::new(name, "s"), NewEvent::id));
    let returned = store.insert(events.to_vec()).await.unwrap();
    let types: Vec<&str> = returned.iter().map(|event| &*event.event_type).collect();
    assert_eq!(types, ["new", "twice", "there", "twice", "last"]);
    assert_eq!((&returned[2], &returned[1]), (&first[0], &returned[3]));
    assert_eq!(fixture.number("SELECT count(*) FROM outbox_events").await, 4);
}

const HAPPENED_AT: DateTime<Utc> = DateTime::UNIX_EPOCH;

fn repeatable(id: Uuid) -> NewEvent {
    NewEvent::new("t", "s")
        .id(id)
        .time(HAPPENED_AT)
        .data_json(r#"{"n": 1.0, "list": [100, "\u00e9"]}"#)
        .extension("number", 1)
        .publisher_config("rate", 1.5)
}

pub(super) async fn the_same_content_again_is_the_stored_event_however_it_is_written<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let id = Uuid::now_v7();
    let first = store.insert(vec![repeatable(id).scheduled_in(Duration::from_secs(60))]).await.unwrap().remove(0);
    let rewritten = repeatable(id).data_json(r#"{"list":[1e2,"é"],"n":1}"#).publisher_config("rate", json!(1.50));
    let again = [
        repeatable(id).scheduled_in(Duration::from_secs(60)),
        repeatable(id).scheduled_at(first.scheduled_at),
        repeatable(id).max_retries(first.max_retries),
        repeatable(id).extension("traceparent", "00-1-2-01").extension("tracestate", "a=1"),
        // Values that the event does not set are not compared.
        rewritten.or_defaults(17, 10_000),
    ];
    for (n, event) in again.into_iter().enumerate() {
        let stored = store.insert(vec![event]).await.unwrap_or_else(|error| panic!("{n}: {error}")).remove(0);
        // The returned data is as it was given.
        assert_eq!(normal(OutboxEvent { data: first.data.clone(), ..stored }), normal(first.clone()), "{n}");
    }
    assert_eq!(fixture.number("SELECT count(*) FROM outbox_events").await, 1);
}

pub(super) async fn an_id_with_other_content_is_refused_and_the_first_difference_named<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let id = Uuid::now_v7();
    store.insert(vec![repeatable(id)]).await.unwrap();
    let at = DateTime::from_timestamp(4_000_000_000, 0).unwrap();
    let binary = |bytes: &[u8]| NewEvent::new("t", "s").id(id).binary(bytes);
    let others = [
        ("event_type", NewEvent::new("secret", "secret").id(id)),
        ("source", NewEvent::new("t", "secret").id(id)),
        ("cloud_event_id", repeatable(id).cloud_event_id("secret")),
        ("subject", repeatable(id).subject("secret")),
        ("data", repeatable(id).data_json(r#"{"n": 1, "list": [100, "secret"]}"#)),
        ("data", NewEvent::new("t", "s").id(id)),
        ("data", binary(b"secret")),
        ("data_schema", repeatable(id).data_schema("urn:secret")),
        ("data_content_type", repeatable(id).content_type("text/secret")),
        ("extensions", repeatable(id).extension("number", 2)),
        ("extensions", repeatable(id).extension("other", "secret")),
        ("partition_key", repeatable(id).partition_key("secret")),
        ("publisher_backend", repeatable(id).backend("secret")),
        ("publisher_config", repeatable(id).publisher_config("rate", "secret")),
        ("scheduled_at", repeatable(id).scheduled_at(at)),
        ("scheduled_at", repeatable(id).scheduled_in(Duration::from_secs(60))),
        ("event_time", repeatable(id).time(at)),
        ("max_retries", repeatable(id).max_retries(17)),
    ];
    for (field, other) in others {
        let error = store.insert(vec![other]).await.unwrap_err();
        assert!(
            matches!(&error, PublishError::IdConflictInBatch { index: 1, error } | PublishError::IdConflict(error)
            if error.id == id && error.field == field),
            "{field}: {error}"
        );
        assert!(error.is_conflict() && !error.to_string().contains("secret"), "{error}");
    }
    let id = Uuid::now_v7();
    let bytes = |bytes: &[u8]| NewEvent::new("t", "s").id(id).binary(bytes);
    store.insert(vec![bytes(b"one")]).await.unwrap();
    let error = store.insert(vec![bytes(b"one").time(at)]).await.unwrap_err();
    assert!(error.to_string().contains("`event_time`"), "{error}");
    store.insert(vec![bytes(b"one")]).await.unwrap();
    let error = store.insert(vec![bytes(b"two")]).await.unwrap_err();
    assert!(error.to_string().contains("`data_binary`"), "{error}");
}

pub(super) async fn an_id_conflict_fails_a_whole_batch_but_only_one_of_separate_events<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let (there, twice) = (Uuid::now_v7(), Uuid::now_v7());
    let event = |id, subject: &str| NewEvent::new("t", "s").id(id).subject(subject);
    store.insert(vec![event(there, "there")]).await.unwrap();
    for (at, others) in [(2, vec![event(there, "other")]), (3, vec![event(twice, "one"), event(twice, "two")])] {
        let batch: Vec<_> = [NewEvent::new("good", "s")].into_iter().chain(others).collect();
        let error = store.insert(batch.clone()).await.unwrap_err();
        assert!(matches!(error, PublishError::IdConflictInBatch { index, .. } if index == at), "{error}");
        assert_eq!(fixture.number("SELECT count(*) FROM outbox_events WHERE event_type = 'good'").await, 0);
        let each = store.insert_each(Box::new(move || batch)).await.unwrap();
        let refused = |stored: &InsertResult| stored.as_ref().is_err_and(PublishError::is_conflict);
        assert!(each.iter().enumerate().all(|(n, stored)| refused(stored) == (n + 1 == at)), "{at}");
        fixture.execute("DELETE FROM outbox_events WHERE event_type = 'good'").await;
    }
    let long = (0..1_200).map(|n| NewEvent::new("good", "s").subject(n.to_string()));
    let error = store.insert(long.chain([event(there, "other")]).collect()).await.unwrap_err();
    assert!(matches!(error, PublishError::IdConflictInBatch { index: 1_201, .. }), "{error}");
    assert_eq!(fixture.number("SELECT count(*) FROM outbox_events WHERE event_type = 'good'").await, 0);
}

pub(super) async fn an_id_that_is_there_returns_what_is_stored_under_it<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let id = Uuid::now_v7();
    let first = store.insert(vec![NewEvent::new("first", "s").id(id)]).await.unwrap();
    let again = store.insert(vec![NewEvent::new("first", "s").id(id), NewEvent::new("third", "s")]).await.unwrap();
    assert_eq!(again[0], first[0]);
    assert_eq!(again[1].event_type, "third");
    assert_eq!(fixture.number("SELECT count(*) FROM outbox_events").await, 2);
}

pub(super) async fn an_event_that_names_no_backend_is_the_one_that_a_route_gave_one<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let event = || NewEvent::new("t", "s").id(Uuid::from_u128(7));
    store.insert(vec![event()]).await.unwrap();
    fixture.execute("UPDATE outbox_events SET publisher_backend = 'orders'").await;
    for again in [event(), event().backend("orders"), event().routed_to("audit".to_owned())] {
        assert_eq!(store.insert(vec![again]).await.unwrap()[0].publisher_backend, "orders");
    }
    let other = store.insert(vec![event().backend("audit")]).await.unwrap_err();
    assert!(other.to_string().contains("publisher_backend"), "{other}");
}

pub(super) async fn a_rolled_back_transaction_leaves_no_event<F: Fixture>() {
    let fixture = F::fresh().await;
    let mut transaction = fixture.begin().await;
    transaction.execute(&TestRow::new().insert_sql(&fixture)).await;
    transaction.rollback().await;
    assert!(fetch_all(&fixture.store()).await.is_empty());
    assert_eq!(fixture.number("SELECT count(*) FROM outbox_events").await, 0);
}

pub(super) async fn an_event_committed_late_is_found_from_the_start<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let (late, early, transaction) = overtake(&fixture, TestRow::keyed("k"), TestRow::keyed("k").at(-30_000)).await;
    assert_eq!(ids(&fetch_all(&store).await), [early]);
    transaction.commit().await;
    assert_eq!(ids(&fetch_all(&store).await), [late, early]);
}

pub(super) async fn a_keyed_event_committed_late_blocks_the_later_ones<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let (late, early, transaction) = overtake(&fixture, TestRow::keyed("k"), TestRow::keyed("k").at(-30_000)).await;
    let question = [ask_before(&store, "k", early).await];
    assert!(store.blockers(&lane(), false, &question).await.unwrap().is_empty());
    transaction.commit().await;
    assert_eq!(store.blockers(&lane(), false, &question).await.unwrap()["k"].id, late);
}

/// Two events: the first of the order in an open transaction, and one that is already committed.
async fn overtake(
    fixture: &impl Fixture,
    late: TestRow,
    early: TestRow,
) -> (Uuid, Uuid, Box<dyn super::OpenTransaction>) {
    let (late_id, early_id) = (late.id, early.id);
    if !fixture.writers_overlap() {
        fixture.execute(&early.insert_sql(fixture)).await;
    }
    let mut transaction = fixture.begin().await;
    transaction.execute(&late.insert_sql(fixture)).await;
    if fixture.writers_overlap() {
        fixture.execute(&early.insert_sql(fixture)).await;
    }
    (late_id, early_id, transaction)
}

pub(super) async fn every_row_draws_its_own_seq<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let first = TestRow::new().insert(&fixture).await;
    let second = TestRow::new().insert(&fixture).await;
    assert!(find(&store, first).await.seq < find(&store, second).await.seq);
}

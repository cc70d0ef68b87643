use uuid::Uuid;

use super::Fixture;
use super::given::*;
use crate::error::StoreError;
use crate::publish::NewEvent;

pub(super) async fn a_database_without_tables_is_named_as_such<F: Fixture>() {
    let error = F::empty().await.store().outbox_id().await.unwrap_err();
    assert!(matches!(error, StoreError::NotMigrated { state: "missing", .. }), "{error:?}");
}

pub(super) async fn a_dry_run_of_migrating_lists_the_statements_and_changes_nothing<F: Fixture>() {
    let store = F::empty().await;
    let store = store.store();
    let planned = store.plan_migration().await.unwrap();
    assert!(planned.steps.iter().any(|step| step.sql.contains("CREATE TABLE outbox_events")));
    assert!(store.outbox_id().await.is_err());
    assert_eq!(store.migrate(&|_| ()).await.unwrap().steps, planned.steps);
}

pub(super) async fn migrating_twice_changes_nothing<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let outbox = store.outbox_id().await.unwrap();
    let id = Row::new().insert(&fixture).await;
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

pub(super) async fn an_id_that_is_there_returns_what_is_stored_under_it<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let id = Uuid::now_v7();
    let first = store.insert(vec![NewEvent::new("first", "s").id(id)]).await.unwrap();
    let again = store.insert(vec![NewEvent::new("second", "s").id(id), NewEvent::new("third", "s")]).await.unwrap();
    assert_eq!(again[0], first[0]);
    assert_eq!(again[1].event_type, "third");
    assert_eq!(fixture.number("SELECT count(*) FROM outbox_events").await, 2);
}

pub(super) async fn a_rolled_back_transaction_leaves_no_event<F: Fixture>() {
    let fixture = F::fresh().await;
    let mut transaction = fixture.begin().await;
    transaction.execute(&Row::new().insert_sql(&fixture)).await;
    transaction.rollback().await;
    assert!(fetch_all(&fixture.store()).await.is_empty());
    assert_eq!(fixture.number("SELECT count(*) FROM outbox_events").await, 0);
}

pub(super) async fn an_event_committed_late_is_found_from_the_start<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let (late, early, transaction) = overtake(&fixture, Row::keyed("k"), Row::keyed("k").at(-30_000)).await;
    assert_eq!(ids(&fetch_all(&store).await), [early]);
    transaction.commit().await;
    assert_eq!(ids(&fetch_all(&store).await), [late, early]);
}

pub(super) async fn a_keyed_event_committed_late_blocks_the_later_ones<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let (late, early, transaction) = overtake(&fixture, Row::keyed("k"), Row::keyed("k").at(-30_000)).await;
    let question = [ask_before(&store, "k", early).await];
    assert!(store.blockers(&lane(), false, &question).await.unwrap().is_empty());
    transaction.commit().await;
    assert_eq!(store.blockers(&lane(), false, &question).await.unwrap()["k"].id, late);
}

/// One event that stands first and whose transaction is still open, and one that is committed already.
async fn overtake(fixture: &impl Fixture, late: Row, early: Row) -> (Uuid, Uuid, Box<dyn super::OpenTransaction>) {
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
    let first = Row::new().insert(&fixture).await;
    let second = Row::new().insert(&fixture).await;
    assert!(find(&store, first).await.seq < find(&store, second).await.seq);
}

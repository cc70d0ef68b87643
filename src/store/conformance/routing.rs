use std::sync::Arc;

use uuid::Uuid;

use super::Fixture;
use super::builders::*;
use crate::event::Status;
use crate::store::{RoutedEvent, Settled, Shard, Store};

/// The route of fetched rows to a lane.
fn routed(worker: &TestWorker, rows: &[crate::store::FetchedRow], to: &str) -> Vec<RoutedEvent> {
    let one = |row: &crate::store::FetchedRow| RoutedEvent {
        id: row.id,
        seq: row.position.seq,
        shard: Shard { lane: lane(), number: row.shard },
        epoch: worker.epochs[&row.shard],
        key: row.partition_key.clone(),
        to: to.to_owned(),
    };
    rows.iter().map(one).collect()
}

async fn lane_of(store: &Arc<dyn Store>, id: Uuid) -> String {
    find(store, id).await.publisher_backend
}

pub(super) async fn routed_events_keep_their_place_and_are_read_in_their_new_lane<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let first = TestRow::keyed("k").at(-2000).insert(&fixture).await;
    let retried = TestRow::new().retry_in(&fixture, -1).insert(&fixture).await;
    let second = TestRow::keyed("k").at(-1000).insert(&fixture).await;
    let worker = TestWorker::owner(&store).await;
    let rows = fetch_all(&store).await;
    let before = find(&store, second).await;
    let given = routed(&worker, &rows, "elsewhere");
    for _ in 0..2 {
        assert_eq!(store.route(worker.id, &given).await.unwrap(), vec![Settled::Recorded; rows.len()]);
    }
    assert!(fetch_all(&store).await.is_empty());
    for id in [first, retried, second] {
        assert_eq!(lane_of(&store, id).await, "elsewhere");
    }
    let after = find(&store, second).await;
    assert_eq!((after.seq, after.scheduled_at, after.status), (before.seq, before.scheduled_at, Status::Pending));
    assert_eq!(find(&store, retried).await.retry_count, 1);
    assert_eq!(store.route(worker.id, &[]).await.unwrap(), []);
}

pub(super) async fn an_event_is_routed_only_unsent_and_under_its_lease<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let ids = [TestRow::new(), TestRow::new(), TestRow::new(), TestRow::new()];
    let mut events = Vec::new();
    for row in ids {
        events.push(row.insert(&fixture).await);
    }
    let mut worker = TestWorker::owner(&store).await;
    let mut given = routed(&worker, &fetch_all(&store).await, "elsewhere");
    given.sort_by_key(|event| event.id);
    events.sort();
    record(&store, &[(given[0].id, given[0].seq)]).await;
    fixture.execute(&format!("UPDATE outbox_events SET status = 'failed' WHERE id = {}", fixture.id(events[1]))).await;
    given[2].seq += 1_000;
    given[3].epoch += 1;
    assert_eq!(store.route(worker.id, &given).await.unwrap(), vec![Settled::Superseded; 4]);
    given[3].epoch -= 1;
    assert_eq!(store.route(Uuid::now_v7(), &given[3..]).await.unwrap(), [Settled::Superseded], "another worker's");
    worker.release_all().await;
    let mut other = TestWorker::idle(&store).await;
    other.take_all(&store).await;
    assert_eq!(store.route(worker.id, &given[3..]).await.unwrap(), [Settled::Superseded], "the lease has gone on");
    for id in events {
        assert_eq!(lane_of(&store, id).await, "orders");
    }
}

pub(super) async fn an_event_is_not_routed_past_an_earlier_one_of_its_key<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let first = TestRow::keyed("k").at(-3000).insert(&fixture).await;
    let second = TestRow::keyed("k").at(-2000).insert(&fixture).await;
    let other = TestRow::keyed("l").at(-1000).insert(&fixture).await;
    let worker = TestWorker::owner(&store).await;
    let mut rows = fetch_all(&store).await;
    rows.sort_by_key(|row| row.position);
    let given = routed(&worker, &rows, "elsewhere");
    fixture.execute(&format!("UPDATE outbox_events SET status = 'failed' WHERE id = {}", fixture.id(first))).await;
    let outcomes = store.route(worker.id, &given).await.unwrap();
    assert_eq!(outcomes, [Settled::Superseded, Settled::Locked, Settled::Recorded]);
    assert_eq!((lane_of(&store, second).await, lane_of(&store, other).await), ("orders".into(), "elsewhere".into()));
    assert_eq!(store.route(worker.id, &given[1..]).await.unwrap(), [Settled::Recorded, Settled::Recorded]);

    let refused = TestRow::keyed("n").insert(&fixture).await;
    fixture.refuse_updates(refused).await;
    let given: Vec<RoutedEvent> = routed(&worker, &fetch_all(&store).await, "elsewhere");
    let given: Vec<RoutedEvent> = given.into_iter().filter(|event| event.id == refused).collect();
    match store.route(worker.id, &given).await {
        Ok(outcomes) => assert!(matches!(&outcomes[..], [Settled::Refused(_)]), "{outcomes:?}"),
        Err(error) => assert!(error.is_refusal(), "{error}"),
    }
    assert_eq!(lane_of(&store, refused).await, "orders");
    fixture.execute(&format!("DELETE FROM outbox_events WHERE id = {}", fixture.id(refused))).await;

    if fixture.writers_overlap() {
        let locked = TestRow::keyed("m").insert(&fixture).await;
        let rows = fetch_all(&store).await;
        let given = routed(&worker, &rows, "elsewhere");
        let mut transaction = fixture.begin().await;
        let id = fixture.id(locked);
        transaction.execute(&format!("UPDATE outbox_events SET retry_count = 0 WHERE id = {id}")).await;
        assert_eq!(store.route(worker.id, &given).await.unwrap(), [Settled::Locked]);
        transaction.rollback().await;
        assert_eq!(store.route(worker.id, &given).await.unwrap(), [Settled::Recorded]);
    }
}

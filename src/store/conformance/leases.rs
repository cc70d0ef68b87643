use std::sync::Arc;

use super::Fixture;
use super::builders::*;
use crate::store::{Heartbeat, Shard, Store, forgotten_after};

fn all(store: &Arc<dyn Store>) -> usize {
    usize::try_from(store.shards()).unwrap()
}

pub(super) async fn two_workers_never_own_a_shard_at_once<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let (mut first, mut second) = (TestWorker::idle(&store).await, TestWorker::idle(&store).await);
    for _ in 0..5 {
        let (one, two) = tokio::join!(first.take_all(&store), second.take_all(&store));
        // A row that the other worker has locked at this moment is skipped and may stay free.
        let rest = first.take_all(&store).await;
        assert_eq!(one + two + rest, all(&store));
        assert!(first.epochs.keys().all(|shard| !second.epochs.contains_key(shard)));
        for worker in [&mut first, &mut second] {
            worker.release_all().await;
        }
    }
}

pub(super) async fn an_expired_lease_is_taken_by_another<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let mut first = TestWorker::owner(&store).await;
    let mut second = TestWorker::idle(&store).await;
    assert_eq!(second.take_all(&store).await, 0);
    expire_leases(&fixture).await;
    let view = second.beat().await;
    assert!(view.leases.iter().all(|lease| lease.expired && lease.owner == Some(first.id)));
    assert_eq!(second.take_all(&store).await, all(&store));
    let view = first.beat().await;
    assert!(view.renewed.is_empty());
    assert!(view.leases.iter().all(|lease| !lease.expired && lease.owner == Some(second.id)));
}

pub(super) async fn each_taking_raises_the_epoch_and_renewing_keeps_it<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let mut worker = TestWorker::owner(&store).await;
    assert!(worker.epochs.values().all(|&epoch| epoch == 1));
    for epoch in 2..4 {
        worker.release_all().await;
        worker.take_all(&store).await;
        assert!(worker.epochs.values().all(|&taken| taken == epoch));
        let view = worker.beat().await;
        assert_eq!(view.renewed.len(), all(&store));
        assert!(view.renewed.iter().all(|(_, renewed)| *renewed == epoch));
    }
}

pub(super) async fn a_released_lease_is_free_at_once<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let mut first = TestWorker::owner(&store).await;
    first.release_all().await;
    let view = first.beat().await;
    assert!(view.leases.iter().all(|lease| lease.owner.is_none()));
    assert_eq!(TestWorker::idle(&store).await.take_all(&store).await, all(&store));
}

pub(super) async fn a_worker_releases_only_what_is_its_own<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let mut first = TestWorker::owner(&store).await;
    let mut second = TestWorker::idle(&store).await;
    second.leases.release(second.id, &first.held()).await.unwrap();
    second.leases.leave(second.id).await.unwrap();
    assert_eq!(first.beat().await.renewed.len(), all(&store));
}

pub(super) async fn a_late_release_does_not_free_a_lease_that_was_taken_again<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let mut worker = TestWorker::owner(&store).await;
    let late = worker.held();
    worker.release_all().await;
    worker.take_all(&store).await;
    worker.leases.release(worker.id, &late).await.unwrap();
    let view = worker.beat().await;
    assert_eq!(view.renewed.len(), all(&store));
    assert!(view.leases.iter().all(|lease| !lease.expired && lease.owner == Some(worker.id)));
    assert_eq!(TestWorker::idle(&store).await.take_all(&store).await, 0);
}

pub(super) async fn a_late_renewal_does_not_take_back_what_was_released<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let mut worker = TestWorker::owner(&store).await;
    let late = Heartbeat { held: worker.held(), ..heartbeat(worker.id) };
    worker.release_all().await;
    let view = worker.leases.beat(&late).await.unwrap();
    assert!(view.renewed.is_empty());
    assert!(view.leases.iter().all(|lease| lease.owner.is_none()));
    // After a new acquisition, the lease is renewed under its new epoch only.
    worker.take_all(&store).await;
    assert!(worker.leases.beat(&late).await.unwrap().renewed.is_empty());
}

pub(super) async fn a_lease_whose_taking_was_not_answered_is_seen_and_given_up<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let mut worker = TestWorker::owner(&store).await;
    worker.epochs.clear();
    let view = worker.beat().await;
    assert!(view.renewed.is_empty(), "what a worker does not know of is not renewed");
    let own = view.leases.into_iter().filter(|lease| lease.owner == Some(worker.id));
    let seen: Vec<(Shard, i64)> = own.map(|lease| (lease.shard, lease.epoch)).collect();
    assert_eq!(seen.len(), all(&store));
    worker.leases.release(worker.id, &seen).await.unwrap();
    assert_eq!(TestWorker::idle(&store).await.take_all(&store).await, all(&store));
}

pub(super) async fn a_worker_takes_no_more_than_it_wants<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let mut worker = TestWorker::idle(&store).await;
    assert!(worker.leases.acquire(worker.id, &lane(), 0, LEASE).await.unwrap().is_empty());
    assert_eq!(worker.leases.acquire(worker.id, &lane(), 1, LEASE).await.unwrap().len(), 1);
    assert!(worker.leases.acquire(worker.id, &"other".into(), 1, LEASE).await.unwrap().is_empty());
}

pub(super) async fn an_expired_lease_that_nobody_took_is_renewed<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let mut worker = TestWorker::owner(&store).await;
    expire_leases(&fixture).await;
    let view = worker.beat().await;
    assert_eq!(view.renewed.len(), all(&store));
    assert!(view.leases.iter().all(|lease| !lease.expired));
}

pub(super) async fn a_worker_that_leaves_is_forgotten<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let mut first = TestWorker::owner(&store).await;
    let mut second = TestWorker::idle(&store).await;
    first.leases.leave(first.id).await.unwrap();
    let view = second.beat().await;
    assert_eq!(view.live_workers.iter().map(|live_worker| live_worker.id).collect::<Vec<_>>(), [second.id]);
    assert_eq!(second.take_all(&store).await, all(&store));
}

pub(super) async fn workers_see_each_other_while_they_are_alive<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let (mut first, second) = (TestWorker::idle(&store).await, TestWorker::idle(&store).await);
    let beat = Heartbeat { handlers: r#"["mail"]"#.to_owned(), ..heartbeat(first.id) };
    let view = first.leases.beat(&beat).await.unwrap();
    assert_eq!(view.live_workers.len(), 2);
    let own = view.live_workers.iter().find(|live_worker| live_worker.id == first.id).unwrap();
    assert_eq!(serde_json::from_str::<Vec<String>>(&own.handlers).unwrap(), ["mail"]);
    age_worker(&fixture, &second, 2 * LEASE.as_millis()).await;
    let view = first.leases.beat(&beat).await.unwrap();
    assert_eq!(view.live_workers.iter().map(|live_worker| live_worker.id).collect::<Vec<_>>(), [first.id]);
    age_worker(&fixture, &second, (forgotten_after(LEASE) - LEASE).as_millis()).await;
    first.leases.beat(&beat).await.unwrap();
    assert_eq!(fixture.number("SELECT count(*) FROM outbox_workers").await, 2, "people can still see it");
    age_worker(&fixture, &second, (forgotten_after(LEASE) + LEASE).as_millis()).await;
    first.leases.beat(&beat).await.unwrap();
    assert_eq!(fixture.number("SELECT count(*) FROM outbox_workers").await, 1);
}

async fn age_worker(fixture: &impl Fixture, worker: &TestWorker, age_ms: u128) {
    let seen = fixture.time(-i64::try_from(age_ms).unwrap());
    let id = fixture.id(worker.id);
    fixture.execute(&format!("UPDATE outbox_workers SET heartbeat_at = {seen} WHERE id = {id}")).await;
    fixture.execute(&format!("UPDATE outbox_heartbeats SET heartbeat_at = {seen} WHERE worker = {id}")).await;
}

pub(super) async fn a_worker_that_is_stuck_is_alive_and_lets_its_leases_end<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let mut first = TestWorker::owner(&store).await;
    let mut second = TestWorker::idle(&store).await;
    expire_leases(&fixture).await;
    let stuck = Heartbeat { held: first.held(), extends: false, ..heartbeat(first.id) };
    assert!(first.leases.beat(&stuck).await.unwrap().renewed.is_empty());
    let view = second.beat().await;
    assert!(view.live_workers.iter().any(|live_worker| live_worker.id == first.id));
    assert!(view.leases.iter().all(|lease| lease.expired));
    assert_eq!(second.take_all(&store).await, all(&store));
}

pub(super) async fn a_worker_whose_row_was_deleted_comes_back_without_a_lease<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let mut first = TestWorker::owner(&store).await;
    let mut second = TestWorker::idle(&store).await;
    fixture.execute(&format!("DELETE FROM outbox_workers WHERE id = {}", fixture.id(first.id))).await;
    let view = second.beat().await;
    assert!(view.leases.iter().all(|lease| lease.expired), "a lease whose owner has no row is free");
    assert!(first.beat().await.renewed.is_empty());
    first.epochs.clear();
    let view = first.beat().await;
    let seen: Vec<(Shard, i64)> = view.leases.into_iter().map(|lease| (lease.shard, lease.epoch)).collect();
    first.leases.release(first.id, &seen).await.unwrap();
    assert_eq!(first.take_all(&store).await, all(&store));
}

pub(super) async fn the_end_of_another_workers_leases_is_known_in_advance<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let _first = TestWorker::owner(&store).await;
    let mut second = TestWorker::idle(&store).await;
    let next_end = second.beat().await.next_end.unwrap();
    assert!(next_end <= LEASE && next_end > LEASE / 2, "{next_end:?}");
}

/// Writes its row and acquires a lease as version 0.1 does.
async fn register_older(fixture: &impl Fixture, seen_ms: i64) -> uuid::Uuid {
    let (worker, seen) = (uuid::Uuid::now_v7(), fixture.time(seen_ms));
    let id = fixture.id(worker);
    let row = format!(
        "INSERT INTO outbox_workers (id, name, version, backends, handlers, started_at, heartbeat_at) \
         VALUES ({id}, 'older', '0.1.0', '{{}}', '[]', {seen}, {seen})"
    );
    fixture.execute(&row).await;
    worker
}

async fn taken_by_older(fixture: &impl Fixture, worker: uuid::Uuid, ends_ms: i64) -> i64 {
    let (id, ends, now) = (fixture.id(worker), fixture.time(ends_ms), fixture.time(0));
    let take = format!(
        "UPDATE outbox_leases SET owner = {id}, epoch = epoch + 1, expires_at = {ends} \
         WHERE backend = 'orders' AND (owner IS NULL OR expires_at <= {now})"
    );
    fixture.execute(&take).await;
    fixture.number(&format!("SELECT CAST(count(*) AS bigint) FROM outbox_leases WHERE owner = {id}")).await
}

pub(super) async fn newer_rules_begin_once_no_older_worker_is_alive_or_holds_a_lease<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let protocol = "SELECT CAST(protocol AS bigint) FROM outbox_meta";
    let older = register_older(&fixture, 0).await;
    let mut newer = TestWorker::idle(&store).await;
    assert_eq!(fixture.number(protocol).await, 1);
    // Both follow protocol 1, and share the leases.
    assert_eq!(newer.leases.acquire(newer.id, &lane(), 1, LEASE).await.unwrap().len(), 1);
    let rest = i64::from(store.shards()) - 1;
    assert_eq!(taken_by_older(&fixture, older, 60_000).await, rest);
    // The older worker is silent, but its leases have not expired.
    let (seen, id) = (fixture.time(-600_000), fixture.id(older));
    fixture.execute(&format!("UPDATE outbox_workers SET heartbeat_at = {seen} WHERE id = {id}")).await;
    newer.beat().await;
    assert_eq!(fixture.number(protocol).await, if rest > 0 { 1 } else { 2 });
    let past = fixture.time(-1000);
    fixture.execute(&format!("UPDATE outbox_leases SET expires_at = {past} WHERE owner = {id}")).await;
    newer.beat().await;
    assert_eq!(fixture.number(protocol).await, 2);
    assert_eq!(taken_by_older(&fixture, older, 60_000).await, 0, "an older worker can take nothing any more");
    // Nor can it take a lease whose row it inserts itself.
    fixture.execute("INSERT INTO outbox_leases (backend, shard) VALUES ('orders', 99)").await;
    assert_eq!(taken_by_older(&fixture, older, 60_000).await, 0);
    fixture.execute("DELETE FROM outbox_leases WHERE shard = 99").await;
    newer.take_all(&store).await;
    newer.release_all().await;
    assert_eq!(taken_by_older(&fixture, older, 60_000).await, 0, "nor what a newer one releases");
}

pub(super) async fn a_lease_is_renewed_for_its_owner_alone<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let first = TestWorker::owner(&store).await;
    let mut second = TestWorker::idle(&store).await;
    expire_leases(&fixture).await;
    let beat = Heartbeat { held: first.held(), ..heartbeat(second.id) };
    let view = second.leases.beat(&beat).await.unwrap();
    assert!(view.renewed.is_empty());
    assert_eq!(view.leases.len(), all(&store));
    assert!(view.leases.iter().all(|lease| lease.owner == Some(first.id) && lease.expired));
}

pub(super) async fn an_epoch_is_raised_above_another_for_its_owner_alone<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let mut worker = TestWorker::owner(&store).await;
    let shard = Shard { lane: lane(), number: 0 };
    let epoch = worker.epochs[&0];
    assert!(!store.raise_epoch(uuid::Uuid::now_v7(), &shard, epoch, 40).await.unwrap());
    assert!(!store.raise_epoch(worker.id, &shard, epoch + 1, 40).await.unwrap());
    assert!(store.raise_epoch(worker.id, &shard, epoch, 40).await.unwrap());
    let view = worker.beat().await;
    let raised = view.leases.iter().find(|lease| lease.shard == shard).unwrap();
    assert!(raised.owner == Some(worker.id) && raised.epoch > 40);
    assert_eq!(view.renewed.len(), all(&store) - 1, "it is not renewed at an unknown epoch");
}

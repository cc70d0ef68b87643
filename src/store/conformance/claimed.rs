use std::sync::Arc;

use uuid::Uuid;

use super::Fixture;
use super::builders::*;
use crate::event::Status;
use crate::store::{AuditNote, AuditRow, LaneClaim, NewPause, Store};

/// A claim of [`lane`], and the worker that holds its leases.
async fn claim(store: &Arc<dyn Store>) -> (TestWorker, LaneClaim) {
    let worker = TestWorker::owner(store).await;
    let leases = worker.epochs.iter().map(|(shard, epoch)| (*shard, *epoch)).collect();
    let claim = LaneClaim { lane: lane(), owner: worker.id, leases };
    (worker, claim)
}

fn note() -> AuditNote {
    AuditNote::new("ann", "host", None)
}

fn row(who: &str, reason: &str) -> AuditRow {
    AuditNote::new(who, "host", Some("backend=orders".to_owned())).backend_row("pause", reason)
}

pub(super) async fn events_of_a_claimed_lane_are_deleted_whatever_their_status<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let rows = ["pending", "retry", "failed", "published", "processing"].map(|status| TestRow::new().status(status));
    let mut events = Vec::new();
    for row in rows {
        events.push(row.insert(&fixture).await);
    }
    let other = TestRow::new().lane("other").insert(&fixture).await;
    let (_worker, claim) = claim(&store).await;
    let given = [&events[..], &[other, Uuid::now_v7()]].concat();
    let failed = store.delete(&claim, &[Status::Failed], &given[..2], &note()).await.unwrap();
    assert_eq!(failed, Some(Vec::new()), "none of these has failed");
    let mut lanes = store.lanes_of(&given).await.unwrap();
    lanes.sort_by_key(|(id, _)| *id == other);
    assert_eq!((lanes.len(), &*lanes[0].1, &*lanes[5].1), (6, "orders", "other"));
    let mut deleted = store.delete(&claim, &Status::ALL, &given, &note()).await.unwrap().unwrap();
    deleted.sort();
    assert_eq!(deleted, events);
    assert_eq!(fixture.number("SELECT count(*) FROM outbox_events").await, 1);
    let [entry] = store.audit(None, 10).await.unwrap().try_into().unwrap();
    assert_eq!((&*entry.action, entry.events, entry.ids.len()), ("delete", 5, 5));
}

pub(super) async fn nothing_is_changed_once_another_worker_may_have_read_the_lane<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let event = TestRow::new().insert(&fixture).await;
    let (mut worker, claim) = claim(&store).await;
    worker.release_all().await;
    assert_eq!(store.delete(&claim, &Status::ALL, &[event], &note()).await.unwrap(), None);
    let mut other = TestWorker::idle(&store).await;
    other.take_all(&store).await;
    assert_eq!(store.delete(&claim, &Status::ALL, &[event], &note()).await.unwrap(), None);
    assert_eq!(store.transfer(&claim, "elsewhere", &Status::ALL, &[event], &note()).await.unwrap(), None);
    assert_eq!(find(&store, event).await.publisher_backend, "orders");
}

pub(super) async fn moved_events_are_new_ones_in_their_order_and_sent_ones_stay<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let later = TestRow::keyed("k").at(-1000).status("failed").insert(&fixture).await;
    let first = TestRow::keyed("k").at(-2000).insert(&fixture).await;
    let sent = TestRow::new().status("processing").with("published_at", fixture.time(0)).insert(&fixture).await;
    let published = TestRow::new().status("published").insert(&fixture).await;
    let newest = find(&store, published).await.seq;
    let (_worker, claim) = claim(&store).await;
    let mut moved = store
        .transfer(&claim, "elsewhere", &Status::ALL, &[sent, later, published, first], &note())
        .await
        .unwrap()
        .unwrap();
    moved.sort();
    let mut expected = [later, first];
    expected.sort();
    assert_eq!(moved, expected);
    let (first, later) = (find(&store, first).await, find(&store, later).await);
    assert_eq!((&*first.publisher_backend, &*later.publisher_backend), ("elsewhere", "elsewhere"));
    assert_eq!((first.status, later.status), (Status::Pending, Status::Failed));
    assert!(newest < first.seq && first.seq < later.seq, "{newest} {} {}", first.seq, later.seq);
    let stayed = [find(&store, sent).await, find(&store, published).await];
    assert!(stayed.iter().all(|event| event.publisher_backend == "orders"));
    // A late settle by the former backend finds another event.
    record(&store, &[(first.id, newest - 1)]).await;
    assert_eq!(find(&store, first.id).await.status, Status::Pending);
}

pub(super) async fn a_deleted_event_is_owed_to_nobody<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let event = TestRow::new().status("processing").with("published_at", fixture.time(0)).insert(&fixture).await;
    let seq = find(&store, event).await.seq;
    let deliver = format!(
        "INSERT INTO outbox_handler_deliveries (event_id, seq, handler, generation, lane, shard, partition_key, \
            scheduled_at, max_attempts, next_at, created_at) VALUES ({}, {seq}, 'mail', 0, 'orders', 0, '', {now}, 3, {now}, {now})",
        fixture.id(event),
        now = fixture.time(0),
    );
    fixture.execute(&deliver).await;
    let (_worker, claim) = claim(&store).await;
    assert_eq!(store.delete(&claim, &Status::ALL, &[event], &note()).await.unwrap().unwrap(), [event]);
    assert_eq!(fixture.number("SELECT count(*) FROM outbox_handler_deliveries").await, 0);
}

pub(super) async fn a_pause_is_seen_with_the_next_heartbeat_until_it_ends<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let mut worker = TestWorker::idle(&store).await;
    assert_eq!(worker.beat().await.pauses, []);
    let pausing = |host: &str, by: &str, reason: &str| {
        let (backend, host, by, reason) = ("orders".to_owned(), host.to_owned(), by.to_owned(), reason.to_owned());
        NewPause { backend, host, by, reason }
    };
    let first = pausing("", "ann \"a'\\", "because\nof \u{e9}");
    assert!(store.pause(&first, Some(row("ann", "because\nof \u{e9}"))).await.unwrap());
    assert!(!store.pause(&pausing("", "bob", "another"), Some(row("bob", "another"))).await.unwrap());
    // By a worker, which is no operator.
    assert!(store.pause(&pausing("h.example", "worker", "410"), None).await.unwrap());
    let pauses = store.pauses().await.unwrap();
    assert_eq!(worker.beat().await.pauses, pauses);
    let [pause, of_host] = &pauses[..] else { panic!("{pauses:?}") };
    assert_eq!((&*pause.backend, &*pause.by, &*pause.reason), ("orders", "ann \"a'\\", "because\nof \u{e9}"));
    assert!(pause.is_whole() && !of_host.is_whole());
    assert_eq!((&*of_host.host, &*of_host.by), ("h.example", "worker"));
    let resume =
        async |host: Option<&str>| store.resume("orders", host, note().backend_row("resume", "")).await.unwrap();
    assert!(resume(Some("h.example")).await && !resume(Some("h.example")).await);
    assert_eq!(worker.beat().await.pauses.len(), 1);
    assert!(store.pause(&pausing("other.example", "worker", "410"), None).await.unwrap());
    assert!(resume(None).await && !resume(None).await, "with its hosts");
    assert_eq!(worker.beat().await.pauses, []);
    let audit = store.audit(None, 10).await.unwrap();
    let entries: Vec<_> = audit.iter().map(|entry| (&*entry.action, entry.filter.as_deref(), &*entry.reason)).collect();
    assert_eq!(
        entries,
        [("resume", None, ""), ("resume", None, ""), ("pause", Some("backend=orders"), "because\nof \u{e9}")]
    );
}

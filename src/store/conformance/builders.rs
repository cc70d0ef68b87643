//! Builders of situations for tests.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::Fixture;
use crate::event::{OutboxEvent, Status};
use crate::store::{
    Acceptance, Care, FailureRecord, FetchRequest, FetchResult, FetchedRow, Heartbeat, KeyStart, LaneName,
    LeaseSnapshot, LeaseStore, Position, PredecessorQuery, Range, RetentionCursor, RetentionCutoff, Settled,
    SettledEvent, Shard, Store,
};

pub(super) const LEASE: Duration = Duration::from_secs(60);

pub(super) fn lane() -> LaneName {
    Arc::from("orders")
}

/// A row as another writer inserts it: due a minute ago, in the lane of [`lane`], without a key, unless set otherwise.
pub(super) struct TestRow {
    pub(super) id: Uuid,
    event_type: &'static str,
    scheduled_ms: i64,
    columns: Vec<(&'static str, String)>,
}

impl TestRow {
    pub(super) fn new() -> Self {
        Self {
            id: Uuid::now_v7(),
            event_type: "t",
            scheduled_ms: -60_000,
            columns: vec![("publisher_backend", "'orders'".to_owned())],
        }
    }

    pub(super) fn keyed(key: &str) -> Self {
        Self::new().with("partition_key", format!("'{key}'"))
    }

    pub(super) fn of_type(self, event_type: &'static str) -> Self {
        Self { event_type, ..self }
    }

    /// Schedules the event this many milliseconds from now.
    pub(super) fn at(self, scheduled_ms: i64) -> Self {
        Self { scheduled_ms, ..self }
    }

    pub(super) fn status(self, status: &str) -> Self {
        self.with("status", format!("'{status}'"))
    }

    pub(super) fn retry_in(self, fixture: &impl Fixture, offset_ms: i64) -> Self {
        let retry_at = fixture.time(offset_ms);
        self.status("retry").with("retry_at", retry_at).with("retry_count", "1")
    }

    pub(super) fn lane(self, lane: &str) -> Self {
        self.with("publisher_backend", format!("'{lane}'"))
    }

    /// Sets a column to an SQL expression.
    pub(super) fn with(mut self, column: &'static str, expression: impl Into<String>) -> Self {
        self.columns.retain(|(name, _)| *name != column);
        self.columns.push((column, expression.into()));
        self
    }

    pub(super) fn insert_sql(&self, fixture: &impl Fixture) -> String {
        let mut columns = self.columns.clone();
        if columns.iter().all(|(name, _)| *name != "scheduled_at") {
            columns.push(("scheduled_at", fixture.time(self.scheduled_ms)));
        }
        let names: Vec<_> = columns.iter().map(|(name, _)| *name).collect();
        let values: Vec<_> = columns.iter().map(|(_, value)| value.as_str()).collect();
        format!(
            "INSERT INTO outbox_events (id, event_type, source, {}) VALUES ({}, '{}', 's', {})",
            names.join(", "),
            fixture.id(self.id),
            self.event_type,
            values.join(", "),
        )
    }

    pub(super) async fn insert(self, fixture: &impl Fixture) -> Uuid {
        fixture.execute(&self.insert_sql(fixture)).await;
        self.id
    }
}

/// A request for everything that is due in [`lane`].
pub(super) fn everything(store: &Arc<dyn Store>) -> FetchRequest {
    let range = |shard| Range { shard, from: Position::START, to: None, limit: 1000 };
    let ranges = (0..store.shards()).map(range).collect();
    FetchRequest { retry_shards: (0..store.shards()).collect(), ..FetchRequest::of_ranges(lane(), ranges) }
}

/// A request for these keys only, without shards and retries.
pub(super) fn keys_alone(keys: &[&str], key_limit: i64, store: &Arc<dyn Store>) -> FetchRequest {
    FetchRequest {
        ranges: Vec::new(),
        retry_shards: Vec::new(),
        keys: keys.iter().map(|&key| KeyStart::whole(key)).collect(),
        key_limit,
        ..everything(store)
    }
}

pub(super) async fn fetch_all(store: &Arc<dyn Store>) -> Vec<FetchedRow> {
    store.fetch(&everything(store)).await.unwrap().rows
}

pub(super) async fn fetch_one(store: &Arc<dyn Store>, id: Uuid) -> FetchedRow {
    fetch_all(store).await.into_iter().find(|row| row.id == id).unwrap()
}

pub(super) fn ids(rows: &[FetchedRow]) -> Vec<Uuid> {
    rows.iter().map(|row| row.id).collect()
}

pub(super) fn sorted_ids(answer: &FetchResult) -> Vec<Uuid> {
    let mut ids = ids(&answer.rows);
    ids.sort();
    ids
}

pub(super) async fn find(store: &Arc<dyn Store>, id: Uuid) -> OutboxEvent {
    store.find(id).await.unwrap().unwrap()
}

/// Settles events as published; fails if one is refused or locked.
pub(super) async fn record(store: &Arc<dyn Store>, sent: &[(Uuid, i64)]) {
    for outcome in settle(store, sent, Care::Usual).await {
        assert!(matches!(outcome, Settled::Recorded | Settled::Superseded), "{outcome:?}");
    }
}

/// Settles events as published that are not owed to handlers elsewhere.
pub(super) async fn settle(store: &Arc<dyn Store>, sent: &[(Uuid, i64)], care: Care) -> Vec<Settled> {
    outcomes(store.settle_published(&accepted(sent), care).await.unwrap())
}

/// Acceptances of events for which no handler was asked.
pub(super) fn accepted(sent: &[(Uuid, i64)]) -> Vec<Acceptance> {
    sent.iter()
        .map(|&(id, seq)| Acceptance { id, seq, place: None, asked: Arc::default(), left: Vec::new(), deletes: false })
        .collect()
}

pub(super) fn outcomes(settled: Vec<SettledEvent>) -> Vec<Settled> {
    settled.into_iter().map(|event| event.outcome).collect()
}

/// Settles rejections, and returns the ids of those that were recorded.
pub(super) async fn reschedule(store: &Arc<dyn Store>, owner: Uuid, settles: &[FailureRecord]) -> Vec<Uuid> {
    let outcomes = outcomes(store.settle_rescheduled(owner, settles).await.unwrap());
    let recorded = settles.iter().zip(outcomes).filter(|(_, outcome)| *outcome == Settled::Recorded);
    recorded.map(|(settle, _)| settle.id).collect()
}

/// The position of an event that is not published, in the database's own microseconds.
pub(super) async fn position_of(store: &Arc<dyn Store>, id: Uuid) -> Position {
    let event = find(store, id).await;
    let rows = store.find_unsettled(&event.publisher_backend, &[(id, event.seq)]).await.unwrap();
    rows[0].position
}

pub(super) async fn ask_before(store: &Arc<dyn Store>, key: &str, id: Uuid) -> PredecessorQuery {
    PredecessorQuery {
        key: key.to_owned(),
        from: Position::START,
        before: position_of(store, id).await,
        except: Vec::new(),
    }
}

/// Deletes a batch of old events, the oldest first; returns how many.
pub(in crate::store) async fn delete_old(
    store: &Arc<dyn Store>,
    expiry: RetentionCutoff,
    failed_blocks: &[LaneName],
) -> usize {
    store.delete_expired(expiry, failed_blocks, RetentionCursor::default()).await.unwrap().deleted
}

pub(super) fn heartbeat(worker: Uuid) -> Heartbeat {
    Heartbeat {
        worker,
        name: "test".to_owned(),
        backends: r#"{"orders": "ok"}"#.to_owned(),
        handlers: "[]".to_owned(),
        lanes: vec![lane()],
        held: Vec::new(),
        extends: true,
        lease: LEASE,
    }
}

/// A worker with a connection of its own for leases.
pub(super) struct TestWorker {
    pub(super) id: Uuid,
    pub(super) leases: Box<dyn LeaseStore>,
    /// The epochs of its leases, by shard.
    pub(super) epochs: HashMap<i16, i64>,
}

impl TestWorker {
    pub(super) async fn idle(store: &Arc<dyn Store>) -> Self {
        let mut worker = Self { id: Uuid::now_v7(), leases: store.leases(), epochs: HashMap::new() };
        worker.leases.beat(&heartbeat(worker.id)).await.unwrap();
        worker
    }

    /// A worker that owns every shard of [`lane`].
    pub(super) async fn owner(store: &Arc<dyn Store>) -> Self {
        let mut worker = Self::idle(store).await;
        assert_eq!(worker.take_all(store).await, usize::try_from(store.shards()).unwrap());
        worker
    }

    /// Acquires every available lease and returns their number.
    pub(super) async fn take_all(&mut self, store: &Arc<dyn Store>) -> usize {
        let want = usize::try_from(store.shards()).unwrap();
        self.beat().await;
        let taken = self.leases.acquire(self.id, &lane(), want, LEASE).await.unwrap();
        let count = taken.len();
        self.epochs.extend(taken.into_iter().map(|(shard, epoch)| (shard.number, epoch)));
        count
    }

    /// The leases that the worker knows of, with their epochs.
    pub(super) fn held(&self) -> Vec<(Shard, i64)> {
        self.epochs.iter().map(|(&number, &epoch)| (Shard { lane: lane(), number }, epoch)).collect()
    }

    /// Renews the leases that the worker knows of.
    pub(super) async fn beat(&mut self) -> LeaseSnapshot {
        let beat = Heartbeat { held: self.held(), ..heartbeat(self.id) };
        self.leases.beat(&beat).await.unwrap()
    }

    pub(super) async fn release_all(&mut self) {
        self.leases.release(self.id, &self.held()).await.unwrap();
        self.epochs.clear();
    }

    /// A rejection whose retry is due in an hour.
    pub(super) fn reject(&self, row: &FetchedRow) -> FailureRecord {
        FailureRecord {
            id: row.id,
            seq: row.position.seq,
            shard: Shard { lane: lane(), number: row.shard },
            epoch: self.epochs[&row.shard],
            fetched_retry_count: row.retry_count,
            fetched_updated_at: row.updated_at,
            retry_count: row.retry_count + 1,
            status: Status::Retry,
            delay: Duration::from_secs(3600),
            error: Some("no such stream".to_owned()),
            published: false,
            pending_handlers: None,
            asked: Arc::default(),
            left: Vec::new(),
            holds_for_handlers: false,
        }
    }
}

/// Makes every worker's leases expire.
pub(super) async fn expire_leases(fixture: &impl Fixture) {
    let past = fixture.time(-1000);
    fixture.execute(&format!("UPDATE outbox_heartbeats SET ends_at = {past}")).await;
}

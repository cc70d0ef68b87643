//! The role of a store in delivery: fetches and settles.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::{Acceptance, Care, LaneName, Position, Result, Settled, SettledEvent, Shard};
use crate::event::{OutboxEvent, Status};

/// A request of one fetch: `from < position < to` of each shard, and retries that are due.
#[derive(Debug, Clone)]
pub(crate) struct FetchRequest {
    pub(crate) lane: LaneName,
    pub(crate) ranges: Vec<Range>,
    /// Events to skip: those in flight, as far as the request may find them.
    pub(crate) except: Vec<ExceptedEvent>,
    /// Keys whose events are left out of the ranges.
    pub(crate) except_keys: Vec<String>,
    /// Due retries of these shards, at most `retry_limit` in all.
    pub(crate) retry_shards: Vec<i16>,
    pub(crate) retry_limit: i64,
    /// Due retries that had to wait at the last fetch: the retries after them are read.
    pub(crate) passed_retries: Vec<Uuid>,
    /// Due events of these keys in each key's order, at most `key_limit` for each.
    pub(crate) keys: Vec<KeyStart>,
    pub(crate) key_limit: i64,
    /// Reading stops at this many events.
    pub(crate) max_events: usize,
    /// Reading stops, after at least one event, before the bytes read exceed this.
    pub(crate) max_bytes: usize,
    /// Larger events are returned with a reason instead.
    pub(crate) max_event_bytes: usize,
}

impl FetchRequest {
    /// A request for these ranges only, limited by nothing else.
    pub(crate) fn of_ranges(lane: LaneName, ranges: Vec<Range>) -> Self {
        Self {
            lane,
            ranges,
            except: Vec::new(),
            except_keys: Vec::new(),
            retry_shards: Vec::new(),
            retry_limit: i64::MAX,
            passed_retries: Vec::new(),
            keys: Vec::new(),
            key_limit: i64::MAX,
            max_events: usize::MAX,
            max_bytes: usize::MAX,
            max_event_bytes: usize::MAX,
        }
    }
}

/// An event that a fetch skips, in the place where the worker has read it.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "mysql"), allow(dead_code, reason = "the other databases exclude by the id alone"))]
pub(crate) struct ExceptedEvent {
    pub(crate) id: Uuid,
    pub(crate) shard: i16,
    pub(crate) position: Position,
    pub(crate) key: Option<Arc<str>>,
}

/// Pending events of one shard between two positions, both exclusive, at most `limit`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    pub(crate) shard: i16,
    pub(crate) from: Position,
    /// `None`: no upper bound.
    pub(crate) to: Option<Position>,
    pub(crate) limit: i64,
}

/// A row that was read.
#[derive(Debug, Clone)]
pub(crate) struct FetchedRow {
    pub(crate) shard: i16,
    pub(crate) position: Position,
    pub(crate) id: Uuid,
    pub(crate) partition_key: String,
    /// Read from `retry` rather than `pending`.
    pub(crate) retry: bool,
    /// Read as part of a range, so that a cursor may move to it.
    pub(crate) in_range: bool,
    pub(crate) retry_count: i32,
    pub(crate) max_retries: i32,
    /// In the database's own microseconds.
    pub(crate) updated_at: i64,
    /// The transaction that wrote this version of the row; `None`: the database does not tell.
    pub(crate) version: Option<TransactionId>,
    /// The place of this version; `None`: the database has none.
    pub(crate) place: Option<RowPlace>,
    /// The event, or why the row is not a valid event.
    pub(crate) event: std::result::Result<Arc<OutboxEvent>, String>,
}

#[cfg(test)]
impl FetchedRow {
    pub(crate) fn excepted(&self) -> ExceptedEvent {
        let key = (!self.partition_key.is_empty()).then(|| Arc::from(self.partition_key.as_str()));
        ExceptedEvent { id: self.id, shard: self.shard, position: self.position, key }
    }
}

/// The result of a fetch.
#[derive(Debug, Default)]
pub(crate) struct FetchResult {
    /// Ranges in each shard's order, then retries, then keys; an id may come twice.
    pub(crate) rows: Vec<FetchedRow>,
    /// `max_events` or `max_bytes` ended the reading, so there may be more.
    pub(crate) cut_short: bool,
    /// The database's clock before the fetch, if an open range began at the start and reading it again may be expensive.
    pub(crate) clock: Option<i64>,
}

/// A key and the position from which its events are read.
#[derive(Debug, Clone)]
pub(crate) struct KeyStart {
    pub(crate) key: String,
    pub(crate) from: Position,
}

#[cfg(test)]
impl KeyStart {
    pub(crate) fn whole(key: &str) -> Self {
        Self { key: key.to_owned(), from: Position::START }
    }
}

/// A query for the earlier unsettled events of an event's key.
#[derive(Debug, Clone)]
pub(crate) struct PredecessorQuery {
    pub(crate) key: String,
    /// Only events from this position on count.
    pub(crate) from: Position,
    /// Only events before this position count.
    pub(crate) before: Position,
    /// Events to skip, by id and `seq`: those in flight.
    pub(crate) except: Vec<(Uuid, i64)>,
}

/// A transaction of PostgreSQL, by its number, which wraps around.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TransactionId(pub(crate) u32);

impl TransactionId {
    /// Whether it has its number from before the other; not certain for numbers more than two billion apart.
    pub(crate) fn is_before(self, other: Self) -> bool {
        self.0.wrapping_sub(other.0) > u32::MAX / 2
    }
}

/// The place of a row's version in PostgreSQL's table (`ctid`), as it is sent. Another row may be there later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct RowPlace(pub(crate) [u8; 6]);

/// The answer to [`PredecessorQuery`]s, from one snapshot.
#[derive(Debug, Clone, Default)]
pub(crate) struct Blockers {
    /// The first unsettled event before each event, by key.
    pub(crate) found: HashMap<String, Blocker>,
    /// What the snapshot shows, if no event of the lane is a retry or, if failed events block, has failed and holds its key.
    /// `None`: the database does not tell, or there is one.
    pub(crate) snapshot: Option<Snapshot>,
}

/// What a query could see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Whatever earlier transactions have written.
    pub(crate) shows_before: TransactionId,
    /// The database's clock: an event that is scheduled later was not due.
    pub(crate) at: i64,
}

/// The blockers by key.
impl Deref for Blockers {
    type Target = HashMap<String, Blocker>;

    fn deref(&self) -> &Self::Target {
        &self.found
    }
}

/// The first unsettled event before the one in a query.
#[derive(Debug, Clone)]
pub(crate) struct Blocker {
    pub(crate) id: Uuid,
    pub(crate) position: Position,
    /// Whether it is due, so that fetching the key from its start makes progress.
    pub(crate) due: bool,
}

/// A settle other than published, fenced by the lease under which the event was dispatched.
#[derive(Debug, Clone)]
pub(crate) struct FailureRecord {
    pub(crate) id: Uuid,
    pub(crate) seq: i64,
    pub(crate) shard: Shard,
    pub(crate) epoch: i64,
    /// The values as fetched; the row must still have both. A row that was rejected once and retried by an operator has its
    /// first count again; Django's admin changes the count but not the time.
    pub(crate) fetched_retry_count: i32,
    pub(crate) fetched_updated_at: i64,
    pub(crate) retry_count: i32,
    /// `Retry`, `Failed`, or `Pending` for an event that is released without having failed.
    pub(crate) status: Status,
    /// The delay until it is due again, from the database's current time.
    pub(crate) delay: Duration,
    /// `None`: not a failure; `last_error` and `errors` stay unchanged.
    pub(crate) error: Option<String>,
    /// Whether the backend has accepted it.
    pub(crate) published: bool,
    /// The handlers that still have to run.
    pub(crate) pending_handlers: Option<Vec<String>>,
    /// As in [`Acceptance`]: if `published` is set and no acceptance was recorded before, this settle fixes what the event
    /// owes.
    pub(crate) asked: Arc<[String]>,
    /// As in [`Acceptance`].
    pub(crate) left: Vec<String>,
    /// Only handlers failed the event: it does not hold its key, and later deliveries of the key to these handlers wait
    /// until an operator decides about the event.
    pub(crate) holds_for_handlers: bool,
}

/// An event that names no backend and that a route leads to one, fenced by the lease under which it was fetched.
#[derive(Debug, Clone)]
pub(crate) struct RoutedEvent {
    pub(crate) id: Uuid,
    pub(crate) seq: i64,
    pub(crate) shard: Shard,
    pub(crate) epoch: i64,
    /// Its partition key.
    pub(crate) key: String,
    /// The backend.
    pub(crate) to: String,
}

/// The lanes in which something is due.
#[derive(Debug)]
pub(crate) struct DueLanes {
    pub(crate) lanes: Vec<DueLane>,
    /// How long the database took to find them, without the way there and back.
    pub(crate) took: Duration,
}

/// A lane in which something is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DueLane {
    pub(crate) lane: LaneName,
    pub(crate) kind: DueKind,
}

/// The status of the events that are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DueKind {
    Pending,
    Retry,
}

/// Events in memory whose outcome the database does not record.
#[derive(Debug, Clone, Default)]
pub(crate) struct UnrecordedEvents {
    /// Later events of their keys do not wait for them.
    pub(crate) sent: Vec<Uuid>,
    /// Later events of their keys wait for them.
    pub(crate) blocking: Vec<Uuid>,
}

impl UnrecordedEvents {
    pub(crate) fn all(&self) -> impl Iterator<Item = &Uuid> {
        self.sent.iter().chain(&self.blocking)
    }
}

/// Reading due events and recording their outcomes: the hot path of a worker.
#[async_trait]
pub(crate) trait DispatchStore: Send + Sync {
    /// Shards per lane: 32 on Postgres, 1 on SQLite.
    fn shards(&self) -> i16;

    /// The most batches that may be settled as published concurrently; more would queue for a shared resource.
    fn max_concurrent_settles(&self) -> usize {
        1
    }

    /// Reads due events.
    async fn fetch(&self, request: &FetchRequest) -> Result<FetchResult>;

    /// For each query, the first unsettled event before it (pending, retry, and failed if `failed_blocks`). That there is none
    /// is durable: no crash brings one back.
    async fn blockers(&self, lane: &str, failed_blocks: bool, questions: &[PredecessorQuery]) -> Result<Blockers>;

    /// Marks those of the sent (id, seq) that an operator failed meanwhile as accepted by the backend. They stay failed, and
    /// a retry does not send them again.
    async fn mark_failed_as_sent(&self, sent: &[(Uuid, i64)]) -> Result<Vec<Settled>>;

    /// Those of the sent (id, seq) that are not recorded as published, whatever their status. The recorded state is durable
    /// when this returns: no failover reverts it.
    async fn find_unsettled(&self, lane: &str, sent: &[(Uuid, i64)]) -> Result<Vec<FetchedRow>>;

    /// Records that the backends have accepted events, whatever their status; the outcomes are in the order given. The first
    /// statement that records an acceptance fixes the handlers elsewhere to which the event is owed; an event owed to none
    /// is published, or deleted. Recorded outcomes are durable. After an error nothing is known, and the next call for these
    /// events uses [`Care::AfterDoubt`].
    async fn settle_published(&self, events: &[Acceptance], care: Care) -> Result<Vec<SettledEvent>>;

    /// Records retries and failures, each only if its lease is still `owner`'s; the outcomes are in the order given.
    async fn settle_rescheduled(&self, owner: Uuid, events: &[FailureRecord]) -> Result<Vec<SettledEvent>>;

    /// Moves unsent events to other lanes, each only if its lease is still `owner`'s; the outcomes are in the order given. The
    /// events keep their `seq`. An event is not moved before the ones of its key that are given before it
    /// ([`Settled::Locked`]: try again). An event that has been moved already counts as recorded. A row that PostgreSQL refuses
    /// fails the call.
    async fn route(&self, owner: Uuid, events: &[RoutedEvent]) -> Result<Vec<Settled>>;

    /// Raises a lease's epoch above `above` if it is still `owner`'s at `epoch`; returns whether it did.
    async fn raise_epoch(&self, owner: Uuid, shard: &Shard, epoch: i64, above: i64) -> Result<bool>;

    /// Asks in one statement which lanes have a due event, blocked or not, in some of their shards: the `pending` ones and the
    /// `retry` ones. What it costs does not depend on the number of shards, unless events wait for their time. It reads from
    /// the start, and so also the dead rows there.
    async fn due_lanes(&self, lanes: &[(LaneName, Vec<i16>)]) -> Result<DueLanes>;

    /// Whether anything in these lanes is due and not held; `failed_blocks` are the lanes in which a failed event holds its
    /// key. `unrecorded` ones do not count.
    async fn has_due(
        &self,
        lanes: &[LaneName],
        failed_blocks: &[LaneName],
        unrecorded: &UnrecordedEvents,
    ) -> Result<bool>;
}

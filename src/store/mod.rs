//! The outbox in a database: one contract, [`Store`], with one suite of tests for every database.
//!
//! All SQL is in this module. Times are the database's own; a [`Position`] holds them in the database's representation.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::error::{PublishError, SettingsError, StoreError, SystemError};
use crate::event::{OutboxEvent, Status};
use crate::publish::{InsertResult, NewEvent};
use crate::settings::DatabaseSettings;
use migrate::{MigrationPlan, ProgressFn};

pub use self::cursor::{CreatedCursor, InvalidCursor};
pub(crate) use self::handlers::{
    Acceptance, Announcement, DeliveryRequest, FetchedDelivery, MOST_COUNTED, NOT_COVERED, OwedHandler,
    RejectedDelivery, SettledEvent, handler_lane, handler_of,
};
pub use self::history::{HistoryBucket, OutcomeCounts, Resolution};
pub use self::operations::{Action, CountMode, Unreadable};
pub(crate) use self::operations::{Backlog, EventCounts, MOST_AHEAD, QueuePosition, RetentionCutoff, WorkerRow};
pub(crate) use self::report::{LaneHealth, Unrecorded};
pub use self::selection::EventFilter;
pub(crate) use self::selection::{Page, ScanPage};
pub(crate) use self::settled::{Care, Settled};
pub(crate) use self::wakeup::{Notification, Wakeup};

#[cfg(test)]
pub(crate) mod conformance;
mod content;
mod cursor;
mod handlers;
mod history;
mod insert_outcome;
mod json_equality;
pub(crate) mod migrate;
mod operations;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
pub(crate) mod report;
mod selection;
mod settled;
#[cfg(feature = "sqlite")]
pub(crate) mod sqlite;
pub(crate) mod unserved;
mod wakeup;

/// Prepares access to the database in the settings; the first statement connects.
pub(crate) fn connect(settings: &DatabaseSettings) -> std::result::Result<Arc<dyn Store>, SystemError> {
    let url = settings.url.expose();
    let wrong = |problem: String| SettingsError::Invalid {
        key: "database.url".to_owned(),
        origin: "the settings".to_owned(),
        problem,
    };
    match url.split_once(':').map(|(scheme, _)| scheme) {
        #[cfg(feature = "postgres")]
        Some("postgres" | "postgresql") => {
            let target = postgres::Target::from_url(url).map_err(wrong)?;
            Ok(Arc::new(postgres::PostgresStore::new(target, settings.connections)?))
        }
        #[cfg(feature = "sqlite")]
        Some("sqlite") => Ok(Arc::new(sqlite::SqliteStore::connect(url)?)),
        _ => {
            Err(wrong("is neither a postgres:// nor a sqlite:// URL that this program was built for".to_owned()).into())
        }
    }
}

pub(crate) type Result<T, E = StoreError> = std::result::Result<T, E>;

/// A lane's name: the value of `publisher_backend` in its events. `""` and a backend's own name are two lanes.
pub(crate) type LaneName = Arc<str>;

/// One leased part of a lane.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Shard {
    pub(crate) lane: LaneName,
    pub(crate) number: i16,
}

/// A position in a lane's order: `scheduled_at` in the database's own microseconds, then `seq`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) scheduled_at: i64,
    pub(crate) seq: i64,
}

impl Position {
    pub(crate) const START: Self = Self { scheduled_at: i64::MIN, seq: i64::MIN };
}

/// A request of one fetch: `from < position < to` of each shard, and retries that are due.
#[derive(Debug, Clone)]
pub(crate) struct FetchRequest {
    pub(crate) lane: LaneName,
    pub(crate) ranges: Vec<Range>,
    /// Events to skip: those in flight, as far as the request may find them.
    pub(crate) except: Vec<Uuid>,
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
    /// Larger events are returned as [`Unreadable`].
    pub(crate) max_event_bytes: usize,
}

impl FetchRequest {
    /// A request for these ranges only, limited by nothing else.
    pub(crate) fn of_ranges(lane: LaneName, ranges: Vec<Range>) -> Self {
        Self {
            lane,
            ranges,
            except: Vec::new(),
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
    /// The event, or why the row is not a valid event.
    pub(crate) event: std::result::Result<Arc<OutboxEvent>, String>,
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
    /// Events to skip: those in flight.
    pub(crate) except: Vec<Uuid>,
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

/// Returns the events to write, once there is a connection.
pub(crate) type TakeEvents = Box<dyn FnOnce() -> Vec<NewEvent> + Send>;

/// Why events were not inserted.
#[derive(Debug)]
pub(crate) enum NotInserted {
    /// The database answered: none of them was inserted.
    Answered(PublishError),
    /// The database did not answer, so they may be inserted.
    InDoubt(PublishError),
}

impl From<NotInserted> for PublishError {
    fn from(failure: NotInserted) -> Self {
        match failure {
            NotInserted::Answered(error) | NotInserted::InDoubt(error) => error,
        }
    }
}

/// The outbox's tables in one database. Every method is one round trip or one transaction, may be repeated after a lost
/// reply, and has a time limit.
#[async_trait]
pub(crate) trait Store: Send + Sync + 'static {
    /// Shards per lane: 32 on Postgres, 1 on SQLite.
    fn shards(&self) -> i16;

    /// The most batches that may be settled as published concurrently; more would queue for a shared resource.
    fn max_concurrent_settles(&self) -> usize {
        1
    }

    /// The outbox's own id; an error if the tables are missing or out of date.
    async fn outbox_id(&self) -> Result<Uuid>;

    /// The steps that [`migrate`](Self::migrate) would run now; changes nothing.
    async fn plan_migration(&self) -> Result<MigrationPlan>;

    /// Creates, adopts or upgrades the tables, and returns the steps that it ran. Adopting a large table may take long.
    async fn migrate(&self, watch: &ProgressFn) -> Result<MigrationPlan>;

    /// Writes events, all or none, and returns them as stored, in the order given. An id that already exists returns its
    /// stored event, if the content is the same.
    async fn insert(&self, events: Vec<NewEvent>) -> Result<Vec<OutboxEvent>, PublishError>;

    /// Writes independent events: if the id of one belongs to another event, the others are still written.
    async fn insert_each(&self, events: TakeEvents) -> Result<Vec<InsertResult>, NotInserted>;

    /// The reason for which the database refuses these events. `None` if it accepts them, fails for a reason of its own, or
    /// does not answer. Writes nothing.
    async fn refusal(&self, events: Vec<NewEvent>) -> Option<StoreError>;

    /// Reads due events.
    async fn fetch(&self, request: &FetchRequest) -> Result<FetchResult>;

    /// For each query, the first unsettled event before it (pending, retry, and failed if `failed_blocks`).
    async fn blockers(
        &self,
        lane: &str,
        failed_blocks: bool,
        questions: &[PredecessorQuery],
    ) -> Result<HashMap<String, Blocker>>;

    /// Marks those of the sent (id, seq) that an operator failed meanwhile as accepted by the backend. They stay failed, and
    /// a retry does not send them again.
    async fn mark_failed_as_sent(&self, sent: &[(Uuid, i64)]) -> Result<Vec<Settled>>;

    /// Those of the sent (id, seq) that are not recorded as published, whatever their status. The recorded state is durable
    /// when this returns: no failover reverts it.
    async fn find_unsettled(&self, lane: &str, sent: &[(Uuid, i64)]) -> Result<Vec<FetchedRow>>;

    /// Records that the backends have accepted events, whatever their status; the outcomes are in the order given. The first
    /// statement that records an acceptance fixes the handlers elsewhere to which the event is owed; an event owed to none
    /// is published. Recorded outcomes are durable. After an error nothing is known, and the next call for these events uses
    /// [`Care::AfterDoubt`].
    async fn settle_published(&self, events: &[Acceptance], care: Care) -> Result<Vec<SettledEvent>>;

    /// Records retries and failures, each only if its lease is still `owner`'s; the outcomes are in the order given.
    async fn settle_rescheduled(&self, owner: Uuid, events: &[FailureRecord]) -> Result<Vec<SettledEvent>>;

    /// Announces handlers, durably: events that commit after the reply are owed to them.
    async fn announce(&self, handlers: &[Announcement]) -> Result<()>;

    /// Records that a live process has these handlers.
    async fn see_handlers(&self, names: &[String]) -> Result<()>;

    /// Ends a handler's announcement and its deliveries, in batches; returns how many deliveries ended. If the handler is
    /// announced again, it inherits nothing.
    async fn drop_handler(&self, name: &str) -> Result<usize>;

    /// Reads a handler's due deliveries in the order of their events. One with a key is returned only if, in one snapshot,
    /// no earlier event of the key is unsettled or owed to the handler, except those before it in the same result.
    async fn fetch_deliveries(&self, request: &DeliveryRequest) -> Result<Vec<FetchedDelivery>>;

    /// Records handlers' answers by (handler, id, seq), from any process; the last one publishes the event. As durable and
    /// as repeatable as [`settle_published`](Self::settle_published).
    async fn settle_handled(&self, handled: &[(String, Uuid, i64)], care: Care) -> Result<Vec<Settled>>;

    /// Records rejections by handlers, each only if the lease of its handler's lane is still `owner`'s.
    async fn settle_rejected_deliveries(&self, owner: Uuid, rejected: &[RejectedDelivery]) -> Result<Vec<Settled>>;

    /// Whether a delivery to these handlers is due, even if an earlier one blocks it.
    async fn has_due_deliveries(&self, handlers: &[String]) -> Result<bool>;

    /// For each of these keys, the handlers to which an event of it is owed.
    async fn owed_before(&self, lane: &str, keys: &[String]) -> Result<HashMap<String, Vec<String>>>;

    /// The handlers that are announced or to which something is owed, by name.
    async fn owed(&self) -> Result<Vec<OwedHandler>>;

    /// Publishes a small batch of events that are no longer owed to any handler, and ends deliveries whose handler was
    /// dropped; returns how many.
    async fn finish_settled(&self) -> Result<usize>;

    /// Raises a lease's epoch above `above` if it is still `owner`'s at `epoch`; returns whether it did.
    async fn raise_epoch(&self, owner: Uuid, shard: &Shard, epoch: i64, above: i64) -> Result<bool>;

    /// Whether anything in these lanes is due and not held; `failed_blocks` are the lanes in which a failed event holds its
    /// key.
    async fn has_due(&self, lanes: &[LaneName], failed_blocks: &[LaneName]) -> Result<bool>;

    /// Assigns a `seq` to unsettled rows that another writer inserted without one; returns how many.
    async fn repair_missing_seq(&self) -> Result<usize>;

    /// Deletes a small batch of events past retention; returns how many.
    /// `failed_blocks`: lanes in which a failed event with a key stays.
    async fn delete_expired(&self, expiry: RetentionCutoff, failed_blocks: &[LaneName]) -> Result<usize>;

    /// Adds outcomes of events, by publisher, to the current minute and hour by the database's clock, and deletes old
    /// buckets.
    async fn add_to_history(&self, outcomes: &[(String, OutcomeCounts)]) -> Result<()>;

    /// Outcomes of events since this long ago, in the order of time.
    async fn history(&self, span: Resolution, since: Duration) -> Result<Vec<HistoryBucket>>;

    /// One event.
    async fn find(&self, id: Uuid) -> Result<Option<OutboxEvent>>;

    /// The start of the database's own microseconds, as a [`CreatedCursor`] holds them.
    fn epoch(&self) -> DateTime<Utc>;

    /// The cursors of the matching events among the `most` events that it reads from the page's start, in the order of their
    /// creation: the cost is bounded for every filter.
    async fn scan(&self, filter: &EventFilter, page: Page, most: i64) -> Result<ScanPage>;

    /// These events, in the order given, without those that were deleted. A row that is not a valid event neither hides the
    /// others nor is hidden.
    async fn load(&self, ids: &[Uuid]) -> Result<Vec<Result<OutboxEvent, Unreadable>>>;

    /// Loads like [`load`](Self::load), without reading `data` and `data_binary`.
    async fn load_without_data(&self, ids: &[Uuid]) -> Result<Vec<Result<OutboxEvent, Unreadable>>>;

    /// Changes those of the events that allow it, in one transaction; returns their ids.
    async fn change(&self, change: &Action, ids: &[Uuid]) -> Result<Vec<Uuid>>;

    /// Counts of events by status.
    async fn overview(&self, counting: CountMode) -> Result<EventCounts>;

    /// The due events, by lane.
    async fn due(&self) -> Result<Vec<Backlog>>;

    /// The workers with a recent heartbeat row, alive or not.
    async fn workers(&self) -> Result<Vec<WorkerRow>>;

    /// The position of one event in its queue.
    async fn queue_position(&self, id: Uuid) -> Result<Option<QueuePosition>>;

    /// Leases on a connection of their own, which is made when it is first used.
    fn leases(&self) -> Box<dyn LeaseStore>;

    /// Wake-ups between processes; `None` if each process finds the events of others by polling only.
    fn notify_store(&self) -> Option<&dyn NotifyStore>;
}

/// Wake-ups between the processes that share an outbox. They may be lost; polling then finds the events.
#[async_trait]
pub(crate) trait NotifyStore: Send + Sync {
    /// Notifies other processes of what was committed, in a transaction of its own.
    async fn announce(&self, outbox: Uuid, sender: Uuid, wakeup: &Wakeup) -> Result<()>;

    /// Listens, on a connection of its own, for notifications of processes other than `reader` from now on. An error that is
    /// not transient: no notification arrives over this address.
    async fn subscribe(&self, outbox: Uuid, reader: Uuid) -> Result<Box<dyn Listener + '_>>;

    /// The steps that [`set_trigger`](Self::set_trigger) would run now; changes nothing.
    async fn plan_trigger(&self, wanted: bool) -> Result<MigrationPlan>;

    /// Creates or drops the trigger that sends notifications for writers that send none.
    async fn set_trigger(&self, wanted: bool) -> Result<MigrationPlan>;
}

/// A connection that receives notifications of other processes.
#[async_trait]
pub(crate) trait Listener: Send {
    /// The next notification. After an error the subscription has ended.
    async fn next(&mut self) -> Result<Notification>;
}

/// A worker's report in each heartbeat.
#[derive(Debug, Clone)]
pub(crate) struct Heartbeat {
    pub(crate) worker: Uuid,
    pub(crate) name: String,
    /// A JSON object: lane → [`LaneHealth`].
    pub(crate) backends: String,
    /// A JSON array of handler names.
    pub(crate) handlers: String,
    /// The lanes served; missing lease rows are inserted.
    pub(crate) lanes: Vec<LaneName>,
    /// The leases that the worker knows it holds, with their epochs.
    pub(crate) held: Vec<(Shard, i64)>,
    /// Whether the leases are extended; a worker that is stuck stays alive but lets them expire.
    pub(crate) extends: bool,
    pub(crate) lease: Duration,
}

/// A live worker's row.
#[derive(Debug, Clone)]
pub(crate) struct LiveWorker {
    pub(crate) id: Uuid,
    pub(crate) backends: String,
    pub(crate) handlers: String,
    /// Microseconds; larger is later.
    pub(crate) started_at: i64,
}

/// A lease row of a served lane.
#[derive(Debug, Clone)]
pub(crate) struct LeaseRow {
    pub(crate) shard: Shard,
    /// `None`: the lease is free.
    pub(crate) owner: Option<Uuid>,
    pub(crate) epoch: i64,
    /// Expired by the database's clock.
    pub(crate) expired: bool,
}

/// The state that a heartbeat reads after it was recorded.
#[derive(Debug, Clone, Default)]
pub(crate) struct LeaseSnapshot {
    /// Workers whose heartbeat is younger than the lease time, including this one.
    pub(crate) live_workers: Vec<LiveWorker>,
    pub(crate) leases: Vec<LeaseRow>,
    /// The leases that were extended, with their epochs.
    pub(crate) renewed: Vec<(Shard, i64)>,
    /// The database's clock at the time of the read.
    pub(crate) clock: Option<DateTime<Utc>>,
    /// The earliest end of another worker's lease, unless that worker extends it.
    pub(crate) next_end: Option<Duration>,
    /// The protocol in force; see [`PROTOCOL`].
    pub(crate) protocol: i16,
}

/// The newest protocol that this program knows; `outbox_meta.protocol` is the one that all workers follow.
///
/// Under protocol 1 each lease has an end of its own. Under 2 the end belongs to its owner's heartbeat. Protocol 2 begins in
/// one transaction, once no live worker and no running lease belongs to a program that does not know it.
pub(crate) const PROTOCOL: i16 = 2;

/// The owner of a free lease under protocol 2: a program of protocol 1 takes only leases without an owner.
pub(crate) const NO_OWNER: Uuid = Uuid::nil();

/// How long a dead worker's row is kept for operators to see: an hour, at the default lease.
pub(crate) fn forgotten_after(lease: Duration) -> Duration {
    lease.saturating_mul(720)
}

/// Leases. Each write is one simple-protocol statement (a worker that stops in its middle holds no lock), is durable when
/// answered, and skips rows that another transaction has locked.
///
/// A write whose reply was lost may still be executed, at any later time. So a heartbeat names its predecessor; renewals and
/// releases change a lease only at the epoch that they name; an acquisition changes no running lease and raises the epoch. A
/// late write thus frees nothing that its worker uses, and revives nothing. If it does change something, the worker sees
/// that in its next [`LeaseSnapshot`], and releases it.
#[async_trait]
pub(crate) trait LeaseStore: Send {
    /// Extends the worker's own end and so its leases at the known epoch, even an expired one that no worker took; then
    /// reads live workers and leases. A worker whose row was deleted is inserted again without leases.
    async fn beat(&mut self, beat: &Heartbeat) -> Result<LeaseSnapshot>;

    /// Whether a lease of these lanes is free; only reads. Leases that can have ended are known from the last snapshot.
    async fn has_free(&mut self, lanes: &[LaneName]) -> Result<bool>;

    /// Acquires up to `want` free or expired leases of a lane; returns them with their new epochs.
    async fn acquire(
        &mut self,
        worker: Uuid,
        lane: &LaneName,
        want: usize,
        lease: Duration,
    ) -> Result<Vec<(Shard, i64)>>;

    /// Releases leases immediately, each only at its epoch, and notifies other workers if it can.
    async fn release(&mut self, worker: Uuid, leases: &[(Shard, i64)]) -> Result<()>;

    /// Releases all leases and removes the worker, which acquires no more.
    async fn leave(&mut self, worker: Uuid) -> Result<()>;
}

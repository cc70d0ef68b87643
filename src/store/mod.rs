//! The outbox in a database: one contract, [`Store`], with one suite of tests for every database.
//!
//! All SQL stands below this module. Times are the database's own; a [`Position`] holds them as the database does.

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

pub(crate) use self::handlers::{
    Acceptance, Announcement, DeliveryRequest, FetchedDelivery, MOST_COUNTED, NOT_COVERED, OwedHandler,
    RejectedDelivery, SettledEvent, handler_lane, handler_of,
};
pub(crate) use self::history::{HistoryBucket, OutcomeCounts, Resolution};
pub(crate) use self::operations::{
    Backlog, Change, CountMode, EventCounts, MOST_AHEAD, QueuePosition, RetentionCutoff, Unreadable, WorkerRow,
};
pub(crate) use self::report::{LaneHealth, Unrecorded};
pub(crate) use self::selection::{CreatedCursor, EventFilter, Page, ScanPage};
pub(crate) use self::settled::{Care, Settled};
pub(crate) use self::wakeup::{Notification, Wakeup};

#[cfg(test)]
pub(crate) mod conformance;
mod content;
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

/// Prepares access to the database that the settings name; nothing is connected before the first statement.
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

/// A lane: the value of `publisher_backend` that its events carry. `""` and a backend's own name are two lanes.
pub(crate) type LaneName = Arc<str>;

/// One leased share of a lane.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Shard {
    pub(crate) lane: LaneName,
    pub(crate) number: i16,
}

/// A place in a lane's order: `scheduled_at` in the database's own microseconds, then `seq`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) scheduled_at: i64,
    pub(crate) seq: i64,
}

impl Position {
    pub(crate) const START: Self = Self { scheduled_at: i64::MIN, seq: i64::MIN };
}

/// What one fetch asks for: `from < position < to` of each shard, and what has come due in `retry`.
#[derive(Debug, Clone)]
pub(crate) struct FetchRequest {
    pub(crate) lane: LaneName,
    pub(crate) ranges: Vec<Range>,
    /// Events that do not count: those in flight, as far as the request may meet them.
    pub(crate) except: Vec<Uuid>,
    /// Due retries of these shards, at most `retry_limit` in all.
    pub(crate) retry_shards: Vec<i16>,
    pub(crate) retry_limit: i64,
    /// Due retries that had to wait a moment ago: those behind them are read.
    pub(crate) passed_retries: Vec<Uuid>,
    /// Due events of these keys in each key's order, at most `key_limit` for each.
    pub(crate) keys: Vec<KeyStart>,
    pub(crate) key_limit: i64,
    /// Reading stops at this many events.
    pub(crate) max_events: usize,
    /// Reading stops, after at least one event, where the bytes read would pass this.
    pub(crate) max_bytes: usize,
    /// Events larger than this come back as [`Unreadable`].
    pub(crate) max_event_bytes: usize,
}

impl FetchRequest {
    /// These ranges and nothing else, with no bound but theirs.
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
    /// Open where it is `None`.
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
    /// The event, or why it cannot be one.
    pub(crate) event: std::result::Result<Arc<OutboxEvent>, String>,
}

/// What a fetch found.
#[derive(Debug, Default)]
pub(crate) struct FetchResult {
    /// Ranges in each shard's order, then retries, then keys; an id may come twice.
    pub(crate) rows: Vec<FetchedRow>,
    /// `max_events` or `max_bytes` ended the reading: there may be more.
    pub(crate) cut_short: bool,
    /// Where an open range began at the start and walking there again may be dear: the database's clock from before.
    pub(crate) clock: Option<i64>,
}

/// A key whose events are read from this place on.
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

/// Asks what stands before an event in its key's order.
#[derive(Debug, Clone)]
pub(crate) struct PredecessorQuery {
    pub(crate) key: String,
    /// Only events from this place on count.
    pub(crate) from: Position,
    /// Only events before this place count.
    pub(crate) before: Position,
    /// Events that do not count: those in flight.
    pub(crate) except: Vec<Uuid>,
}

/// The first unsettled event that stands before the one asked about.
#[derive(Debug, Clone)]
pub(crate) struct Blocker {
    pub(crate) id: Uuid,
    pub(crate) position: Position,
    /// It is due, so fetching the key from its start makes progress.
    pub(crate) due: bool,
}

/// A settle that is not the final one, fenced by the lease it was dispatched under.
#[derive(Debug, Clone)]
pub(crate) struct FailureRecord {
    pub(crate) id: Uuid,
    pub(crate) seq: i64,
    pub(crate) shard: Shard,
    pub(crate) epoch: i64,
    /// As they were fetched; the row must still have both. Refused once and retried by a person, it has its first count
    /// again; Django's admin changes the count and leaves the time.
    pub(crate) fetched_retry_count: i32,
    pub(crate) fetched_updated_at: i64,
    pub(crate) retry_count: i32,
    /// `Retry`, `Failed`, or `Pending` for an event that goes back to its place without having failed.
    pub(crate) status: Status,
    /// From the database's now until it is due again.
    pub(crate) delay: Duration,
    /// `None`: this is no failure, `last_error` and `errors` stay.
    pub(crate) error: Option<String>,
    /// The backend has it.
    pub(crate) published: bool,
    /// The handlers still to run.
    pub(crate) pending_handlers: Option<Vec<String>>,
    /// As in [`Acceptance`]: with `published` and a backend that had not recorded it, what the event owes is fixed now.
    pub(crate) asked: Arc<[String]>,
    /// As in [`Acceptance`].
    pub(crate) left: Vec<String>,
    /// Failed by its handlers alone: it does not hold its key, and later deliveries of the key to these handlers wait until an
    /// operator decides about the event.
    pub(crate) holds_for_handlers: bool,
}

/// Gives the events to write, once there is a connection to write them on.
pub(crate) type TakeEvents = Box<dyn FnOnce() -> Vec<NewEvent> + Send>;

/// Why events were not inserted.
#[derive(Debug)]
pub(crate) enum NotInserted {
    /// The database says so: none of them was.
    Answered(PublishError),
    /// It did not answer, so they may have been.
    InDoubt(PublishError),
}

impl From<NotInserted> for PublishError {
    fn from(failure: NotInserted) -> Self {
        match failure {
            NotInserted::Answered(error) | NotInserted::InDoubt(error) => error,
        }
    }
}

/// The outbox's tables in one database. Every method is one round trip or one transaction, may be called again after a
/// lost answer, and is bounded in time.
#[async_trait]
pub(crate) trait Store: Send + Sync + 'static {
    /// Shards per lane: 32 on Postgres, 1 on SQLite.
    fn shards(&self) -> i16;

    /// How many batches may be recorded as published side by side; more take turns at something that they share.
    fn max_concurrent_settles(&self) -> usize {
        1
    }

    /// The outbox's own id; an error where the tables are missing or out of date.
    async fn outbox_id(&self) -> Result<Uuid>;

    /// What [`migrate`](Self::migrate) would run now; nothing is changed.
    async fn plan_migration(&self) -> Result<MigrationPlan>;

    /// Creates, adopts or upgrades the tables, and returns what it ran. May take long where it adopts a large table.
    async fn migrate(&self, watch: &ProgressFn) -> Result<MigrationPlan>;

    /// Writes events, all or none, and returns them as stored, in the order given. An id that is already there returns what is
    /// stored under it, if the content is the same.
    async fn insert(&self, events: Vec<NewEvent>) -> Result<Vec<OutboxEvent>, PublishError>;

    /// Writes events that have nothing to do with each other: one whose id is that of another event leaves the others alone.
    async fn insert_each(&self, events: TakeEvents) -> Result<Vec<InsertResult>, NotInserted>;

    /// Why the database refuses these events for what they are. `None` where it takes them, or fails for a reason of its own,
    /// or does not answer. Nothing is written.
    async fn refusal(&self, events: Vec<NewEvent>) -> Option<StoreError>;

    /// Reads what is due.
    async fn fetch(&self, request: &FetchRequest) -> Result<FetchResult>;

    /// For each question, the first unsettled event before it (pending, retry, and failed where `failed_blocks`).
    async fn blockers(
        &self,
        lane: &str,
        failed_blocks: bool,
        questions: &[PredecessorQuery],
    ) -> Result<HashMap<String, Blocker>>;

    /// Records that the backend has those of the sent (id, seq) which an operator failed meanwhile. They stay failed, and
    /// are not sent a second time when they are retried.
    async fn mark_failed_as_sent(&self, sent: &[(Uuid, i64)]) -> Result<Vec<Settled>>;

    /// Those of the sent (id, seq) that are not recorded as published, whatever their status. What is recorded is durable
    /// when this returns: no failover takes it back.
    async fn find_unsettled(&self, lane: &str, sent: &[(Uuid, i64)]) -> Result<Vec<FetchedRow>>;

    /// Records that the backends have events, over any other status; the outcomes are in the order given. The first
    /// statement that records it fixes which handlers elsewhere an event is owed to; one that is owed to none is published.
    /// What is recorded is durable. After an error nothing is known, and the next call for these events goes with
    /// [`Care::AfterDoubt`].
    async fn settle_published(&self, events: &[Acceptance], care: Care) -> Result<Vec<SettledEvent>>;

    /// Records retries and failures, each only while its lease is still `owner`'s; the outcomes are in the order given.
    async fn settle_rescheduled(&self, owner: Uuid, events: &[FailureRecord]) -> Result<Vec<SettledEvent>>;

    /// Announces handlers, durably: events that commit after the answer are owed to them.
    async fn announce(&self, handlers: &[Announcement]) -> Result<()>;

    /// Notes that a live process has these handlers.
    async fn see_handlers(&self, names: &[String]) -> Result<()>;

    /// Ends a handler's announcement and whatever it is owed, in batches; returns how many deliveries ended. Announced
    /// again, the handler inherits nothing.
    async fn drop_handler(&self, name: &str) -> Result<usize>;

    /// Reads a handler's due deliveries in the order of their events. One with a key comes only if, in one snapshot, no
    /// earlier event of the key is unsettled or owed to the handler, except those before it in the same answer.
    async fn fetch_deliveries(&self, request: &DeliveryRequest) -> Result<Vec<FetchedDelivery>>;

    /// Records answers by (handler, id, seq), whoever gives them; the last one publishes the event. As durable and as
    /// repeatable as [`settle_published`](Self::settle_published).
    async fn settle_handled(&self, handled: &[(String, Uuid, i64)], care: Care) -> Result<Vec<Settled>>;

    /// Records rejections by handlers, each only while the lease of its handler's lane is still `owner`'s.
    async fn settle_rejected_deliveries(&self, owner: Uuid, rejected: &[RejectedDelivery]) -> Result<Vec<Settled>>;

    /// Whether a delivery of these handlers is due, whether or not an earlier one holds it back.
    async fn has_due_deliveries(&self, handlers: &[String]) -> Result<bool>;

    /// For each of these keys the handlers that are owed an event of it.
    async fn owed_before(&self, lane: &str, keys: &[String]) -> Result<HashMap<String, Vec<String>>>;

    /// The handlers that are announced or owed something, by name.
    async fn owed(&self) -> Result<Vec<OwedHandler>>;

    /// Publishes a small batch of events that are owed to no handler any more, and ends deliveries whose handler was
    /// dropped; returns how many.
    async fn finish_settled(&self) -> Result<usize>;

    /// Raises a lease's epoch above `above` while it is still `owner`'s at `epoch`; returns whether it was.
    async fn raise_epoch(&self, owner: Uuid, shard: &Shard, epoch: i64, above: i64) -> Result<bool>;

    /// Whether anything of these lanes is due and not held; `failed_blocks` are the lanes where a failed event holds its key.
    async fn has_due(&self, lanes: &[LaneName], failed_blocks: &[LaneName]) -> Result<bool>;

    /// Gives a `seq` to unsettled rows that another writer left without one; returns how many.
    async fn repair_missing_seq(&self) -> Result<usize>;

    /// Deletes a small batch of events that are older than retention keeps; returns how many.
    /// `failed_blocks`: lanes in which a failed event with a key stays.
    async fn delete_expired(&self, expiry: RetentionCutoff, failed_blocks: &[LaneName]) -> Result<usize>;

    /// Adds what became of events, by publisher, to this minute and this hour by the database's clock, and forgets what is
    /// older than is kept.
    async fn add_to_history(&self, outcomes: &[(String, OutcomeCounts)]) -> Result<()>;

    /// What became of events since so long ago, in the order of time.
    async fn history(&self, span: Resolution, since: Duration) -> Result<Vec<HistoryBucket>>;

    /// One event.
    async fn find(&self, id: Uuid) -> Result<Option<OutboxEvent>>;

    /// When its own microseconds, as a [`CreatedCursor`] holds them, begin.
    fn epoch(&self) -> DateTime<Utc>;

    /// Where the events that are meant stand, in the order of their creation.
    async fn select(&self, filter: &EventFilter, page: Page) -> Result<Vec<CreatedCursor>>;

    /// The same, looking at so many events at most: what they cost is bounded, whatever is looked for.
    async fn scan(&self, filter: &EventFilter, page: Page, most: i64) -> Result<ScanPage>;

    /// These events, in the order given; those that are gone are left out. One row that is no event must not hide the
    /// others, nor be hidden.
    async fn load(&self, ids: &[Uuid]) -> Result<Vec<Result<OutboxEvent, Unreadable>>>;

    /// The same without what they carry: `data` and `data_binary` are not read.
    async fn load_without_data(&self, ids: &[Uuid]) -> Result<Vec<Result<OutboxEvent, Unreadable>>>;

    /// How many events are meant.
    async fn count(&self, filter: &EventFilter) -> Result<i64>;

    /// Changes those of the events that may be, in one transaction; returns which.
    async fn change(&self, change: &Change, ids: &[Uuid]) -> Result<Vec<Uuid>>;

    /// The outbox at a glance.
    async fn overview(&self, counting: CountMode) -> Result<EventCounts>;

    /// What is due, by lane.
    async fn due(&self) -> Result<Vec<Backlog>>;

    /// The workers that have said something of themselves lately, alive or not.
    async fn workers(&self) -> Result<Vec<WorkerRow>>;

    /// Where one event stands among the others.
    async fn queue_position(&self, id: Uuid) -> Result<Option<QueuePosition>>;

    /// A connection of its own for leases, made when it is first used.
    fn leases(&self) -> Box<dyn LeaseStore>;

    /// Wake-ups between processes; `None` where each finds by polling alone what another wrote.
    fn notify_store(&self) -> Option<&dyn NotifyStore>;
}

/// Wake-ups between the processes that share an outbox. They may get lost, and then polling finds what was written.
#[async_trait]
pub(crate) trait NotifyStore: Send + Sync {
    /// Tells other processes what was committed, in a transaction of its own.
    async fn announce(&self, outbox: Uuid, sender: Uuid, wakeup: &Wakeup) -> Result<()>;

    /// Listens, on a connection of its own, to what others than `reader` announce from now on. An error that is not
    /// transient: nothing is heard over this address.
    async fn subscribe(&self, outbox: Uuid, reader: Uuid) -> Result<Box<dyn Listener + '_>>;

    /// What [`set_trigger`](Self::set_trigger) would run now; nothing is changed.
    async fn plan_trigger(&self, wanted: bool) -> Result<MigrationPlan>;

    /// Puts the trigger in place that announces what writers insert who announce nothing, or takes it away.
    async fn set_trigger(&self, wanted: bool) -> Result<MigrationPlan>;
}

/// A connection that hears what others announce.
#[async_trait]
pub(crate) trait Listener: Send {
    /// The next that is heard. After an error the subscription is over.
    async fn next(&mut self) -> Result<Notification>;
}

/// What a worker says of itself with each heartbeat.
#[derive(Debug, Clone)]
pub(crate) struct Heartbeat {
    pub(crate) worker: Uuid,
    pub(crate) name: String,
    /// A JSON object: lane → [`LaneHealth`].
    pub(crate) backends: String,
    /// A JSON array of handler names.
    pub(crate) handlers: String,
    /// The lanes served; their lease rows are made where missing.
    pub(crate) lanes: Vec<LaneName>,
    /// The leases that the worker knows to be its own, with their epochs.
    pub(crate) held: Vec<(Shard, i64)>,
    /// Whether they go on; a worker that is stuck is alive and lets them end.
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
    /// `None`: free.
    pub(crate) owner: Option<Uuid>,
    pub(crate) epoch: i64,
    /// By the database's clock.
    pub(crate) expired: bool,
}

/// What a heartbeat sees after it was recorded.
#[derive(Debug, Clone, Default)]
pub(crate) struct LeaseSnapshot {
    /// Workers whose heartbeat is younger than the lease time, this one among them.
    pub(crate) live_workers: Vec<LiveWorker>,
    pub(crate) leases: Vec<LeaseRow>,
    /// The leases that go on, with their epochs.
    pub(crate) renewed: Vec<(Shard, i64)>,
    /// The database's clock, while it was asked.
    pub(crate) clock: Option<DateTime<Utc>>,
    /// When the first lease of another worker can end that it does not extend before.
    pub(crate) next_end: Option<Duration>,
    /// The rules that hold; see [`PROTOCOL`].
    pub(crate) protocol: i16,
}

/// The rules that this program keeps, at most; `outbox_meta.protocol` says which all workers keep.
///
/// Under protocol 1 each lease has an end of its own. Under 2 the end belongs to its owner's heartbeat. Protocol 2 begins in
/// one transaction, once no live worker and no running lease is of a program that does not know it.
pub(crate) const PROTOCOL: i16 = 2;

/// The owner of a free lease under protocol 2: a program of protocol 1 looks for leases without an owner.
pub(crate) const NO_OWNER: Uuid = Uuid::nil();

/// How long a worker that is gone stays in the table for people to see: an hour, at the default lease.
pub(crate) fn forgotten_after(lease: Duration) -> Duration {
    lease.saturating_mul(720)
}

/// Leases. Each write is one simple-protocol statement (a worker stopped in its middle holds no lock), is durable when
/// answered, and skips rows that another holds locked.
///
/// A write whose answer was lost may still be executed, at any later time. So a beat names the beat that it follows,
/// renewing and releasing touch a lease only at the epoch that they name, and taking touches none that runs and raises the
/// epoch: what comes late frees nothing that its worker acts on, and revives nothing. What it does change, the worker sees
/// in its next [`LeaseSnapshot`], and releases.
#[async_trait]
pub(crate) trait LeaseStore: Send {
    /// Extends the worker's own end and so its leases that are still at the epoch it knows, also one that ran out and that
    /// nobody took; then reads peers and leases. A worker whose row was deleted comes back with no lease.
    async fn beat(&mut self, beat: &Heartbeat) -> Result<LeaseSnapshot>;

    /// Whether a lease of these lanes is free; only reads. One that can have ended is known from the last view.
    async fn has_free(&mut self, lanes: &[LaneName]) -> Result<bool>;

    /// Takes up to `want` free or expired leases of a lane; returns them with their new epochs.
    async fn acquire(
        &mut self,
        worker: Uuid,
        lane: &LaneName,
        want: usize,
        lease: Duration,
    ) -> Result<Vec<(Shard, i64)>>;

    /// Gives leases up at once, each only at its epoch, and tells other workers where it can.
    async fn release(&mut self, worker: Uuid, leases: &[(Shard, i64)]) -> Result<()>;

    /// Gives everything up and forgets the worker, which takes nothing any more.
    async fn leave(&mut self, worker: Uuid) -> Result<()>;
}

//! The role of a store in operations: operators' queries and changes.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::report::by_lane;
use super::{
    AuditEntry, AuditNote, AuditRow, BackendPause, Blocker, DatabaseFacts, EventFilter, HistoryBucket, LaneClaim,
    LaneHealth, LaneName, NewPause, Page, Position, PredecessorQuery, Resolution, Result, ScanPage, Wait, WaitQuery,
};
use crate::error::InvalidEvent;
use crate::event::{OutboxEvent, Status};
use crate::publish::check_backend;

/// A row that is not a valid event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Its id.
    pub id: Uuid,
    /// The row's status, if that is valid.
    pub status: Option<Status>,
    /// What is wrong with it.
    pub reason: String,
}

/// A part of an event's data.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DataPart {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The length of the whole in bytes; 0 if the event has no data.
    pub total: u64,
    /// Whether the data is binary; else it is JSON.
    pub is_binary: bool,
}

impl DataPart {
    /// Whether this is all of it.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        u64::try_from(self.bytes.len()).is_ok_and(|length| length == self.total)
    }
}

/// An operator's action on events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Resets events that are not published to pending, as if they had never been rejected, at their old position.
    Retry,
    /// Marks events that are not published as failed; they do not hold their keys.
    Fail {
        /// Why; stored as the events' last error. Characters after the 500th, and NUL, are left out.
        reason: String,
    },
    /// Publishes published events again, as new events with the old ids.
    Replay,
    /// Deletes events, whatever their status, and drops what handlers of other processes are owed of them. Workers release
    /// the events' backends meanwhile. An event that was sent, and is not recorded as sent yet, is skipped.
    Delete,
    /// Gives events that were not sent to another backend, with their status, at their old time. Workers release the events'
    /// former backends meanwhile. An event that was sent is skipped.
    Move {
        /// The new `publisher_backend`.
        to: String,
    },
}

impl Action {
    /// A [`Move`](Self::Move) to a backend.
    ///
    /// # Errors
    /// The name is not one that an event can have.
    pub fn move_to(name: &str) -> std::result::Result<Self, InvalidEvent> {
        check_backend(name)?;
        Ok(Self::Move { to: name.to_owned() })
    }

    /// `retry`, `fail`, `replay`, `delete` or `move`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Fail { .. } => "fail",
            Self::Replay => "replay",
            Self::Delete => "delete",
            Self::Move { .. } => "move",
        }
    }

    /// Whether the action changes an event of this status.
    #[must_use]
    pub fn may_change(&self, status: Status) -> bool {
        match self {
            Self::Delete => true,
            Self::Replay => status == Status::Published,
            Self::Retry | Self::Fail { .. } | Self::Move { .. } => status != Status::Published,
        }
    }

    /// The filter of those matching events that the action changes; `None` if it changes none. Without a status in the
    /// filter, [`Retry`](Self::Retry) excludes pending events, and [`Fail`](Self::Fail) failed ones, which would lose their
    /// error.
    #[must_use]
    pub fn narrow(&self, filter: &EventFilter) -> Option<EventFilter> {
        let statuses: Vec<Status> = if filter.statuses.is_empty() {
            self.default_statuses().to_vec()
        } else {
            filter.statuses.iter().copied().filter(|status| self.may_change(*status)).collect()
        };
        (!statuses.is_empty()).then(|| EventFilter { statuses, ..filter.clone() })
    }

    fn default_statuses(&self) -> &'static [Status] {
        match self {
            Self::Retry => &[Status::Failed, Status::Retry, Status::Processing],
            Self::Fail { .. } => &[Status::Pending, Status::Retry, Status::Processing],
            Self::Replay => &[Status::Published],
            Self::Delete => &Status::ALL,
            Self::Move { .. } => &[Status::Pending, Status::Retry, Status::Failed, Status::Processing],
        }
    }
}

/// The precision of counts of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountMode {
    /// Counts all events, however long it takes.
    Exactly,
    /// Estimates a large number of published events from the database's statistics, if there are any.
    Roughly,
}

/// Counts of events by status.
#[derive(Debug, Clone)]
pub(crate) struct EventCounts {
    /// Events by each status in the table.
    pub(crate) counts: Vec<(String, i64)>,
    /// Whether the number of published events is an estimate.
    pub(crate) published_is_estimate: bool,
    pub(crate) due: Vec<Backlog>,
    pub(crate) workers: Vec<WorkerRow>,
}

/// The due events of a lane.
#[derive(Debug, Clone)]
pub(crate) struct Backlog {
    pub(crate) lane: LaneName,
    pub(crate) events: i64,
    /// How long the first one has been due.
    pub(crate) oldest: Duration,
}

/// The most events before one that are counted; slightly fewer if they are spread unevenly.
pub(crate) const MOST_AHEAD: i64 = 10_000;

/// The position of an event in its queue.
#[derive(Debug, Clone)]
pub(crate) struct QueuePosition {
    /// The time by the database's clock.
    pub(crate) now: DateTime<Utc>,
    pub(crate) position: Position,
    pub(crate) shard: i16,
    /// The worker that has the lease of its shard.
    pub(crate) owner: Option<Uuid>,
    /// Pending events of its lane before it.
    pub(crate) ahead: i64,
    /// Counting ended at [`MOST_AHEAD`], so there may be more.
    pub(crate) more_ahead: bool,
}

/// A worker with a recent heartbeat row, alive or not.
#[derive(Debug, Clone)]
pub(crate) struct WorkerRow {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) heartbeat_at: DateTime<Utc>,
    /// By the database's clock.
    pub(crate) silent_for: Duration,
    /// A JSON object: lane → [`LaneHealth`](super::LaneHealth).
    pub(crate) backends: String,
    /// The number of leases that the worker holds, by lane.
    pub(crate) shards: Vec<(LaneName, i64)>,
}

impl WorkerRow {
    /// Whether the worker is alive; one that holds a running lease is, whatever the lease time in its settings.
    pub(crate) fn is_alive(&self, lease: Duration) -> bool {
        self.silent_for < lease || !self.shards.is_empty()
    }

    /// The worker's report of each lane that it serves.
    pub(crate) fn reports(&self) -> BTreeMap<String, LaneHealth> {
        by_lane(&self.backends)
    }
}

/// Operators' queries and changes.
#[async_trait]
pub(crate) trait AdminStore: Send + Sync {
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

    /// Loads like [`load_without_data`](Self::load_without_data), and also finds a row whose data is not valid.
    async fn load_checked(&self, ids: &[Uuid]) -> Result<Vec<Result<OutboxEvent, Unreadable>>>;

    /// Bytes of one event's data from this one on.
    async fn data_part(&self, id: Uuid, from: i32, length: i32) -> Result<Option<DataPart>>;

    /// Changes those of the events that allow it and records that with the note, in one transaction; returns their ids.
    async fn change(&self, change: &Action, ids: &[Uuid], note: &AuditNote) -> Result<Vec<Uuid>>;

    /// Records a change that was made outside of the database.
    #[cfg(feature = "consumer")]
    async fn record(&self, row: AuditRow) -> Result<()>;

    /// Operators' changes, newest first: only those before this one.
    async fn audit(&self, before: Option<i64>, limit: i64) -> Result<Vec<AuditEntry>>;

    /// The lane of each of these events that exists.
    async fn lanes_of(&self, ids: &[Uuid]) -> Result<Vec<(Uuid, String)>>;

    /// Deletes those of the events that are in the claimed lane and in one of the statuses, with their deliveries, and
    /// records that, in one transaction; returns their ids. `None`: the leases are no longer the claim's, and nothing was changed.
    async fn delete(
        &self,
        claim: &LaneClaim,
        statuses: &[Status],
        ids: &[Uuid],
        note: &AuditNote,
    ) -> Result<Option<Vec<Uuid>>>;

    /// Moves those of the events that are in the claimed lane and in one of the statuses, and were not sent, to another
    /// lane, as new events at their old time, in one transaction; returns their ids. `None`: as in [`delete`](Self::delete).
    async fn transfer(
        &self,
        claim: &LaneClaim,
        to: &str,
        statuses: &[Status],
        ids: &[Uuid],
        note: &AuditNote,
    ) -> Result<Option<Vec<Uuid>>>;

    /// The pauses in force, by backend and host.
    async fn pauses(&self) -> Result<Vec<BackendPause>>;

    /// Pauses a backend or one of its hosts, and records that if it is an operator's, in one transaction; returns whether it
    /// was not paused before.
    async fn pause(&self, pause: &NewPause, row: Option<AuditRow>) -> Result<bool>;

    /// Ends the pause of a host, or of a backend with all of its hosts, and records that, in one transaction; returns whether
    /// there was one.
    async fn resume(&self, backend: &str, host: Option<&str>, row: AuditRow) -> Result<bool>;

    /// Counts of events by status.
    async fn overview(&self, counting: CountMode) -> Result<EventCounts>;

    /// The due events, by lane.
    async fn due(&self) -> Result<Vec<Backlog>>;

    /// The workers with a recent heartbeat row, alive or not.
    async fn workers(&self) -> Result<Vec<WorkerRow>>;

    /// The position of one event in its queue.
    async fn queue_position(&self, id: Uuid) -> Result<Option<QueuePosition>>;

    /// Answers one query as [`DispatchStore::blockers`] does, for a reader who sends nothing: it never writes.
    ///
    /// [`DispatchStore::blockers`]: super::DispatchStore::blockers
    async fn blocker(&self, lane: &str, failed_blocks: bool, query: PredecessorQuery) -> Result<Option<Blocker>>;

    /// What the database says about itself.
    async fn inspect(&self) -> Result<DatabaseFacts>;

    /// Outcomes of events since this long ago, in the order of time.
    async fn history(&self, span: Resolution, since: Duration) -> Result<Vec<HistoryBucket>>;

    /// How long published events waited. Reads no more rows than the query allows.
    async fn sample_waits(&self, query: WaitQuery) -> Result<Vec<Wait>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_narrows_a_filter_to_what_it_can_change() {
        let statuses = |action: &Action, statuses: &[Status]| {
            let filter = EventFilter { statuses: statuses.to_vec(), ..EventFilter::default() };
            action.narrow(&filter).map(|filter| filter.statuses)
        };
        let fail = Action::Fail { reason: String::new() };
        assert_eq!(statuses(&Action::Replay, &[]), Some(vec![Status::Published]));
        assert_eq!(statuses(&Action::Replay, &[Status::Failed]), None);
        assert_eq!(statuses(&Action::Retry, &[Status::Published]), None);
        assert_eq!(statuses(&Action::Retry, &[Status::Failed, Status::Published]), Some(vec![Status::Failed]));
        assert_eq!(statuses(&fail, &[Status::Failed]), Some(vec![Status::Failed]));
        assert!(!statuses(&fail, &[]).unwrap().contains(&Status::Failed), "it would lose its error");
    }
}

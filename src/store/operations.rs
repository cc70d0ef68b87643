//! Requests of operators and of retention.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::report::by_lane;
use super::{LaneHealth, LaneName, Position};
use crate::event::Status;
use crate::settings::RetentionSettings;

/// A row that is not a valid event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unreadable {
    pub(crate) id: Uuid,
    /// The row's status, if that is valid.
    pub(crate) status: Option<Status>,
    pub(crate) reason: String,
}

/// An operator's action on an event.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// Resets an event that is not published to pending, as if it had never been rejected, at its old position.
    Retry,
    /// Marks an event that is not published as failed, for this reason; it does not hold its key.
    Fail { reason: String },
    /// Publishes a published event again, as a new event with the old id.
    Replay,
}

/// The cutoff of retention: older events are deleted; `None` keeps them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RetentionCutoff {
    pub(crate) published: Option<Duration>,
    pub(crate) failed: Option<Duration>,
    /// The most events in one batch.
    pub(crate) limit: i64,
}

/// Deleted in one transaction, small enough that no other statement waits for long.
const EXPIRED_AT_ONCE: i64 = 1_000;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl From<RetentionSettings> for RetentionCutoff {
    fn from(retention: RetentionSettings) -> Self {
        Self {
            published: retention.cleanup_published.then_some(DAY * retention.published_retention_days),
            failed: Some(DAY * retention.failed_retention_days),
            limit: EXPIRED_AT_ONCE,
        }
    }
}

/// The precision of counts of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CountMode {
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

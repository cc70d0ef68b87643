//! What people and retention ask for.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::report::by_lane;
use super::{LaneHealth, LaneName, Position};
use crate::event::Status;
use crate::settings::RetentionSettings;

/// A row that is no event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unreadable {
    pub(crate) id: Uuid,
    /// Where that at least is one.
    pub(crate) status: Option<Status>,
    pub(crate) reason: String,
}

/// What a person does to an event.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// Pending again, as if it had never been rejected; in its old place. Not a published one.
    Retry,
    /// Failed, for this reason, and not holding its key. Not a published one.
    Fail { reason: String },
    /// Published again, as a new event of the old id. Only a published one.
    Replay,
}

/// What retention deletes: what is older than this; `None` keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RetentionCutoff {
    pub(crate) published: Option<Duration>,
    pub(crate) failed: Option<Duration>,
    /// At most so many at once.
    pub(crate) limit: i64,
}

/// Deleted in one transaction, so that nobody waits for it.
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

/// How events are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CountMode {
    /// All of them, however long it takes.
    Exactly,
    /// Many published ones by what the database knows of its table, where it knows anything.
    Roughly,
}

/// The outbox at a glance.
#[derive(Debug, Clone)]
pub(crate) struct EventCounts {
    /// Events of each status that the table holds.
    pub(crate) counts: Vec<(String, i64)>,
    /// So many are published about, and not exactly.
    pub(crate) published_is_estimate: bool,
    pub(crate) due: Vec<Backlog>,
    pub(crate) workers: Vec<WorkerRow>,
}

/// What is due of a lane.
#[derive(Debug, Clone)]
pub(crate) struct Backlog {
    pub(crate) lane: LaneName,
    pub(crate) events: i64,
    /// Since when the first one is.
    pub(crate) oldest: Duration,
}

/// How many events before one are counted, at most; a few less may be where they are spread unevenly.
pub(crate) const MOST_AHEAD: i64 = 10_000;

/// Where an event stands among the others.
#[derive(Debug, Clone)]
pub(crate) struct QueuePosition {
    /// By the database's clock.
    pub(crate) now: DateTime<Utc>,
    pub(crate) position: Position,
    pub(crate) shard: i16,
    /// The worker that has the lease of its shard.
    pub(crate) owner: Option<Uuid>,
    /// Pending events of its lane that come before it.
    pub(crate) ahead: i64,
    /// There may be more of them: counting ended at [`MOST_AHEAD`].
    pub(crate) more_ahead: bool,
}

/// A worker that has said something of itself lately, alive or not.
#[derive(Debug, Clone)]
pub(crate) struct WorkerRow {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) heartbeat_at: DateTime<Utc>,
    /// By the database's clock.
    pub(crate) silent_for: Duration,
    /// A JSON object: lane → [`LaneHealth`](super::LaneHealth).
    pub(crate) backends: String,
    /// Shards of each lane whose lease it has.
    pub(crate) shards: Vec<(LaneName, i64)>,
}

impl WorkerRow {
    /// Who holds a lease that runs is alive, too, whatever lease time it has in its settings.
    pub(crate) fn is_alive(&self, lease: Duration) -> bool {
        self.silent_for < lease || !self.shards.is_empty()
    }

    /// What it says of each lane that it serves.
    pub(crate) fn reports(&self) -> BTreeMap<String, LaneHealth> {
        by_lane(&self.backends)
    }
}

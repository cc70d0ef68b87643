//! The role of a store in sharing work: heartbeats and leases.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{BackendPause, LaneHealth, LaneName, Result, Shard};

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
    /// Its reports by lane.
    pub(crate) backends: BTreeMap<String, LaneHealth>,
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

/// All leases of a lane, held by one worker, as (shard, epoch).
#[derive(Debug, Clone)]
pub(crate) struct LaneClaim {
    pub(crate) lane: LaneName,
    pub(crate) owner: Uuid,
    pub(crate) leases: Vec<(i16, i64)>,
}

/// The state that a heartbeat reads after it was recorded.
#[derive(Debug, Clone, Default)]
pub(crate) struct LeaseSnapshot {
    /// Workers whose heartbeat is younger than the lease time, including this one.
    pub(crate) live_workers: Vec<LiveWorker>,
    /// Sorted by shard.
    pub(crate) leases: Vec<LeaseRow>,
    /// The leases that were extended, with their epochs.
    pub(crate) renewed: Vec<(Shard, i64)>,
    /// The database's clock at the time of the read.
    pub(crate) clock: Option<DateTime<Utc>>,
    /// The earliest end of another worker's lease, unless that worker extends it.
    pub(crate) next_end: Option<Duration>,
    /// The protocol in force; see [`PROTOCOL`].
    pub(crate) protocol: i16,
    pub(crate) pauses: Vec<BackendPause>,
}

impl LeaseSnapshot {
    /// The leases of a lane.
    pub(crate) fn of_lane(&self, lane: &str) -> &[LeaseRow] {
        let begin = self.leases.partition_point(|row| *row.shard.lane < *lane);
        let rest = &self.leases[begin..];
        &rest[..rest.partition_point(|row| *row.shard.lane == *lane)]
    }
}

/// The newest protocol that this program knows; `outbox_meta.protocol` is the one that all workers follow.
///
/// Under protocol 1 each lease has an end of its own. Under 2 the end belongs to its owner's heartbeat. Protocol 2 begins in
/// one transaction, once no live worker and no running lease belongs to a program that does not know it.
pub(crate) const PROTOCOL: i16 = 2;

/// The owner of a free lease under protocol 2: a program of protocol 1 takes only leases without an owner.
#[cfg(feature = "postgres")]
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

//! Workers and leases as they are read.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::DateTime;
use mysql_async::Row;
use mysql_async::prelude::FromValue;
use uuid::Uuid;

use crate::store::report::by_lane;
use crate::store::{BackendPause, Heartbeat, LiveWorker, Shard};

/// One result of several statements.
pub(super) type Rows = Vec<Row>;

#[derive(Debug)]
pub(super) struct ReadLease {
    pub(super) shard: Shard,
    pub(super) owner: Option<Uuid>,
    pub(super) epoch: i64,
}

impl ReadLease {
    pub(super) fn from_row(row: &Row) -> Option<Self> {
        let shard = Shard { lane: text(row, 0)?.into(), number: value(row, 1)? };
        let owner = value::<Option<String>>(row, 2)?.and_then(|owner| owner.parse().ok());
        Some(Self { shard, owner, epoch: value(row, 3)? })
    }
}

/// A lease that was acquired, and its new epoch.
pub(super) fn taken(row: &Row) -> Option<(Shard, i64)> {
    Some((Shard { lane: text(row, 0)?.into(), number: value(row, 1)? }, value(row, 2)?))
}

/// A worker's rows.
pub(super) struct WorkerState {
    pub(super) id: Uuid,
    pub(super) live_worker: LiveWorker,
    /// The time until its leases expire; zero: they have expired. `None`: it has sent no heartbeat.
    left: Option<Duration>,
    pub(super) silent_for: Duration,
}

impl WorkerState {
    pub(super) fn from_row(row: &Row) -> Option<Self> {
        let id: Uuid = text(row, 0)?.parse().ok()?;
        let live_worker =
            LiveWorker { id, backends: by_lane(&text(row, 1)?), handlers: text(row, 2)?, started_at: value(row, 3)? };
        let silent_for = span(value(row, 4)?);
        Some(Self { id, live_worker, left: value::<Option<i64>>(row, 5)?.map(span), silent_for })
    }

    pub(super) fn has_ended(&self) -> bool {
        self.left.is_some_and(|left| left.is_zero())
    }

    pub(super) fn has_heartbeat(&self) -> bool {
        self.left.is_some()
    }
}

/// The earliest end of another worker's lease. Leases end with their owners' heartbeats.
pub(super) fn next_end(beat: &Heartbeat, workers: &[WorkerState], leases: &[ReadLease]) -> Option<Duration> {
    let owners = leases.iter().filter_map(|lease| lease.owner);
    let others: BTreeSet<Uuid> = owners.filter(|id| *id != beat.worker).collect();
    let ends = workers.iter().filter(|worker| others.contains(&worker.id)).filter_map(|worker| worker.left);
    ends.filter(|left| !left.is_zero()).min()
}

pub(super) fn pause(row: &Row) -> Option<BackendPause> {
    Some(BackendPause {
        backend: text(row, 0)?,
        host: text(row, 1)?,
        since: DateTime::from_timestamp_micros(value(row, 2)?)?,
        by: text(row, 3)?,
        reason: text(row, 4)?,
    })
}

fn text(row: &Row, column: usize) -> Option<String> {
    value(row, column)
}

/// A column's value; `None` if it has another type.
pub(super) fn value<T: FromValue>(row: &Row, column: usize) -> Option<T> {
    row.get_opt(column)?.ok()
}

fn span(micros: i64) -> Duration {
    Duration::from_micros(micros.max(0).unsigned_abs())
}

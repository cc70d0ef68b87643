//! Leases as they are read: one row for all shards of a lane that one worker holds, however many they are.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::SimpleQueryRow;
use uuid::Uuid;

use super::span;
use crate::store::{BackendPause, LaneName, NO_OWNER, Shard};

/// The leases, and what is read together with them.
#[derive(Debug, Default)]
pub(super) struct ReadLeases {
    /// Sorted by shard.
    pub(super) leases: Vec<ReadLease>,
    /// The database's clock in microseconds.
    pub(super) clock: Option<i64>,
    pub(super) protocol: Option<i16>,
    pub(super) pauses: Vec<BackendPause>,
}

#[derive(Debug)]
pub(super) struct ReadLease {
    pub(super) shard: Shard,
    pub(super) epoch: i64,
    pub(super) owner: Option<Uuid>,
    /// The time until it expires by itself.
    pub(super) left: Duration,
}

impl ReadLeases {
    pub(super) fn from_rows(rows: &[SimpleQueryRow]) -> Self {
        let mut leases: Vec<ReadLease> = rows.iter().filter_map(of_owner).flatten().collect();
        leases.sort_unstable_by(|one, other| one.shard.cmp(&other.shard));
        let first = |column| rows.first().and_then(|row| row.get(column));
        Self {
            leases,
            clock: first(4).and_then(|clock| clock.parse().ok()),
            protocol: first(5).and_then(|protocol| protocol.parse().ok()),
            // Pauses that cannot be read are none: they are an operator's wish, not a part of the protocol.
            pauses: first(6).and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default(),
        }
    }
}

/// The leases of one row; shards and epochs are `SHARD:EPOCH,…`.
fn of_owner(row: &SimpleQueryRow) -> Option<Vec<ReadLease>> {
    let lane: LaneName = row.get(0)?.into();
    let owner = row.get(1).and_then(|text| text.parse().ok()).filter(|owner| *owner != NO_OWNER);
    let left = span(row.get(3));
    let lease = |text: &str| {
        let (number, epoch) = text.split_once(':')?;
        let shard = Shard { lane: Arc::clone(&lane), number: number.parse().ok()? };
        Some(ReadLease { shard, epoch: epoch.parse().ok()?, owner, left })
    };
    Some(row.get(2)?.split(',').filter_map(lease).collect())
}

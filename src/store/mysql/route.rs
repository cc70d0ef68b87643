//! Moves unsent events to the lanes that their routes give.

use std::collections::{BTreeMap, HashMap, HashSet};

use diesel::sql_types::{BigInt, Bool, Text};
use uuid::Uuid;

use super::error::Failure;
use super::session::Session;
use super::settle::{confirm, find_others};
use super::statement::{Statement, Value, list};
use crate::store::{RoutedEvent, Settled};

/// Locks the leases until the commit, so that no other worker can have read the events meanwhile. An event waits if its row is
/// locked, or if an earlier one of its key was given and is not moved.
pub(super) async fn route(
    session: &mut Session<'_>,
    owner: Uuid,
    events: &[RoutedEvent],
) -> Result<Vec<Settled>, Failure> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    let epochs = lock_leases(session, owner, events).await?;
    let rows = lock_rows(session, events).await?;
    let others = events.iter().filter(|event| !rows.contains_key(&event.id)).map(|event| (event.id, event.seq));
    let others = find_others(session, others).await?;
    let mut stuck: HashSet<&str> = HashSet::new();
    let mut moved: BTreeMap<&str, Vec<Uuid>> = BTreeMap::new();
    let mut outcomes = Vec::with_capacity(events.len());
    for event in events {
        let shard = (event.shard.lane.to_string(), i64::from(event.shard.number));
        let row = rows.get(&event.id).filter(|row| row.seq == event.seq);
        let outcome = match row {
            Some(row) if row.lane == event.to => Settled::Recorded,
            Some(row)
                if row.is_unsent && *row.lane == *event.shard.lane && epochs.get(&shard) == Some(&event.epoch) =>
            {
                if stuck.contains(event.key.as_str()) {
                    Settled::Locked
                } else {
                    Settled::Untried
                }
            }
            None if others.contains(&(event.id, event.seq)) => Settled::Locked,
            _ => Settled::Superseded,
        };
        if outcome == Settled::Untried {
            moved.entry(&event.to).or_default().push(event.id);
            outcomes.push(Settled::Recorded);
            continue;
        }
        if outcome != Settled::Recorded && !event.key.is_empty() {
            stuck.insert(&event.key);
        }
        outcomes.push(outcome);
    }
    for (to, ids) in moved {
        let sql = format!(
            "UPDATE outbox_events FORCE INDEX (PRIMARY) SET publisher_backend = ?, updated_at = UTC_TIMESTAMP(6) \
             WHERE id IN {}",
            list(ids.len())
        );
        let values: Vec<Value> = [to.into()].into_iter().chain(ids.into_iter().map(Value::from)).collect();
        session.execute(Statement::<()>::built(sql, values)).await?;
    }
    confirm(session).await?;
    Ok(outcomes)
}

/// The epochs of the worker's leases in the events' lanes.
async fn lock_leases(
    session: &mut Session<'_>,
    owner: Uuid,
    events: &[RoutedEvent],
) -> Result<HashMap<(String, i64), i64>, Failure> {
    let lanes: HashSet<&str> = events.iter().map(|event| &*event.shard.lane).collect();
    let sql = format!(
        "SELECT backend, CAST(shard AS signed), epoch FROM outbox_leases WHERE owner = ? AND backend IN {} \
         LOCK IN SHARE MODE",
        list(lanes.len())
    );
    let values: Vec<Value> = [owner.into()].into_iter().chain(lanes.into_iter().map(Value::from)).collect();
    let leases: Vec<(String, i64, i64)> = session.load(Statement::<(Text, BigInt, BigInt)>::built(sql, values)).await?;
    Ok(leases.into_iter().map(|(lane, shard, epoch)| ((lane, shard), epoch)).collect())
}

struct RowToMove {
    seq: i64,
    lane: String,
    is_unsent: bool,
}

async fn lock_rows(session: &mut Session<'_>, events: &[RoutedEvent]) -> Result<HashMap<Uuid, RowToMove>, Failure> {
    let sql = format!(
        "SELECT CAST(id AS char), seq, publisher_backend, status IN ('pending', 'retry') AND published_at IS NULL \
         FROM outbox_events FORCE INDEX (PRIMARY) WHERE id IN {} FOR UPDATE SKIP LOCKED",
        list(events.len())
    );
    let ids: Vec<Value> = events.iter().map(|event| Value::from(event.id)).collect();
    let rows: Vec<(String, i64, String, bool)> =
        session.load(Statement::<(Text, BigInt, Text, Bool)>::built(sql, ids)).await?;
    let row = |(id, seq, lane, is_unsent): (String, i64, String, bool)| {
        Some((id.parse().ok()?, RowToMove { seq, lane, is_unsent }))
    };
    Ok(rows.into_iter().filter_map(row).collect())
}

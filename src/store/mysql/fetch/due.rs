//! In which lanes anything is due.

use std::time::Duration;

use diesel::sql_types::{BigInt, Bool};

use crate::store::mysql::SHARDS;
use crate::store::mysql::error::Failure;
use crate::store::mysql::session::Session;
use crate::store::mysql::statement::{Statement, Value, list};
use crate::store::{DueKind, DueLane, DueLanes, LaneName, UnrecordedEvents};

/// The lanes that have a due event in one of these shards, from one statement.
pub(in crate::store::mysql) async fn due_lanes(
    session: &mut Session<'_>,
    lanes: &[(LaneName, Vec<i16>)],
) -> Result<DueLanes, Failure> {
    let (mut parts, mut values) = (Vec::new(), Vec::new());
    for (n, (lane, shards)) in lanes.iter().enumerate().filter(|(_, (_, shards))| !shards.is_empty()) {
        let shards = shards.iter().map(i16::to_string).collect::<Vec<_>>().join(", ");
        parts.push(format!(
            "(SELECT {n}, FALSE FROM outbox_events e FORCE INDEX (outbox_events_due) WHERE e.publisher_backend = ? \
             AND e.due_shard IN ({shards}) AND e.scheduled_at <= UTC_TIMESTAMP(6) LIMIT 1)"
        ));
        parts.push(format!(
            "(SELECT {n}, TRUE FROM outbox_events e FORCE INDEX (outbox_events_retry) WHERE e.publisher_backend = ? \
             AND e.shard IN ({shards}) AND e.due_again_at <= UTC_TIMESTAMP(6) LIMIT 1)"
        ));
        values.extend([lane.as_ref().into(), lane.as_ref().into()]);
    }
    // The last row: the time that the others took, since `SYSDATE` goes on while a statement runs.
    parts.push("(SELECT -1 - TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), SYSDATE(6)), FALSE)".to_owned());
    let query = Statement::<(BigInt, Bool)>::built(parts.join(" UNION ALL "), values);
    let mut due = DueLanes { lanes: Vec::new(), took: Duration::ZERO };
    for (n, is_retry) in session.load::<_, (i64, bool)>(query).await? {
        match usize::try_from(n) {
            Ok(n) => {
                let kind = if is_retry { DueKind::Retry } else { DueKind::Pending };
                due.lanes.extend(lanes.get(n).map(|(lane, _)| DueLane { lane: lane.clone(), kind }));
            }
            Err(_) => due.took = Duration::from_micros((-1 - n).max(0).unsigned_abs()),
        }
    }
    Ok(due)
}

/// Whether an event is due that nothing blocks.
pub(in crate::store::mysql) async fn has_due(
    session: &mut Session<'_>,
    lanes: &[LaneName],
    failed_blocks: &[LaneName],
    unrecorded: &UnrecordedEvents,
) -> Result<bool, Failure> {
    let waiting = waiting(unrecorded);
    for lane in lanes {
        let held = if failed_blocks.contains(lane) { HELD } else { "" };
        let shards = (0..SHARDS).map(|shard| shard.to_string()).collect::<Vec<_>>().join(", ");
        let pending = format!("outbox_events_due) WHERE e.due_shard IN ({shards}) AND e.scheduled_at");
        let retry = format!("outbox_events_retry) WHERE e.shard IN ({shards}) AND e.due_again_at");
        for source in [pending, retry] {
            let sql = format!(
                "SELECT EXISTS (SELECT 1 FROM outbox_events e FORCE INDEX ({source} <= UTC_TIMESTAMP(6) \
                 AND e.publisher_backend = ?{waiting}{held})"
            );
            let ids = unrecorded.all().chain(&unrecorded.blocking).map(|id| Value::from(*id));
            let values: Vec<Value> = [lane.as_ref().into()].into_iter().chain(ids).collect();
            if session.load_one(Statement::<Bool>::built(sql, values)).await? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// An earlier event that waits for its retry or its schedule, or that was rejected, blocks a later one of its key. All
/// unrecorded ids are bound, and then those that block.
fn waiting(unrecorded: &UnrecordedEvents) -> String {
    let ids =
        |start: &str, count: usize| if count == 0 { String::new() } else { format!("{start} IN {}", list(count)) };
    let but = ids(" AND e.id NOT", unrecorded.all().count());
    let or_rejected = ids(" OR b.id", unrecorded.blocking.len());
    format!(
        "{but} AND NOT EXISTS (SELECT 1 FROM outbox_events b FORCE INDEX (outbox_events_keys) \
         WHERE b.publisher_backend = e.publisher_backend AND b.unsettled_key = e.partition_key \
         AND b.scheduled_at <= e.scheduled_at AND (b.scheduled_at < e.scheduled_at OR b.seq < e.seq) \
         AND (COALESCE(b.due_again_at, b.scheduled_at) > UTC_TIMESTAMP(6){or_rejected}))"
    )
}

/// So does a failed one, where failed events hold their keys.
const HELD: &str = " AND NOT EXISTS (SELECT 1 FROM outbox_events h FORCE INDEX (outbox_events_held) \
    WHERE h.publisher_backend = e.publisher_backend AND h.held_key = e.partition_key \
    AND h.scheduled_at <= e.scheduled_at AND (h.scheduled_at < e.scheduled_at OR h.seq < e.seq))";

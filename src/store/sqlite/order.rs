//! Finds earlier events of an event's key.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use diesel::connection::DefaultLoadingMode;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Bool, Text};
use uuid::Uuid;

use super::clock::read_now;
use super::uuid_of;
use crate::store::{
    Blocker, Blockers, DueKind, DueLane, DueLanes, LaneName, Position, PredecessorQuery, UnrecordedEvents,
};

const UNSETTLED: &str = "outbox_events INDEXED BY outbox_events_keys
     WHERE status IN ('pending', 'retry') AND partition_key <> '' AND seq IS NOT NULL";
const FAILED: &str = "outbox_events INDEXED BY outbox_events_held
     WHERE status = 'failed' AND retry_at IS NULL AND partition_key <> '' AND seq IS NOT NULL";

/// Returns a blocker for each query that has one, from one snapshot.
pub(super) fn find_blockers(
    connection: &mut SqliteConnection,
    lane: &str,
    failed_blocks: bool,
    questions: &[PredecessorQuery],
) -> QueryResult<Blockers> {
    connection.transaction(|connection| {
        let now = read_now(connection)?;
        let mut blockers = HashMap::new();
        for question in questions {
            let unsettled = find_first(connection, UNSETTLED, lane, question, now)?;
            let failed = if failed_blocks { find_first(connection, FAILED, lane, question, now)? } else { None };
            let first = unsettled.into_iter().chain(failed).min_by_key(|blocker| blocker.position);
            blockers.extend(first.map(|blocker| (question.key.clone(), blocker)));
        }
        Ok(Blockers { found: blockers, snapshot: None })
    })
}

fn find_first(
    connection: &mut SqliteConnection,
    source: &str,
    lane: &str,
    question: &PredecessorQuery,
    now: i64,
) -> QueryResult<Option<Blocker>> {
    let except: HashSet<(Uuid, i64)> = question.except.iter().copied().collect();
    let rows = sql::<(Binary, BigInt, BigInt, Bool)>(
        "SELECT id, scheduled_at, seq,
           CASE status WHEN 'pending' THEN scheduled_at WHEN 'retry' THEN coalesce(retry_at, scheduled_at) END <= ",
    )
    .bind::<BigInt, _>(now)
    .sql(&format!(" IS TRUE FROM {source} AND publisher_backend = "))
    .bind::<Text, _>(lane)
    .sql(" AND partition_key = ")
    .bind::<Text, _>(&question.key)
    .sql(" AND (scheduled_at, seq) >= (")
    .bind::<BigInt, _>(question.from.scheduled_at)
    .sql(", ")
    .bind::<BigInt, _>(question.from.seq)
    .sql(") AND (scheduled_at, seq) < (")
    .bind::<BigInt, _>(question.before.scheduled_at)
    .sql(", ")
    .bind::<BigInt, _>(question.before.seq)
    .sql(") ORDER BY scheduled_at, seq")
    .load_iter::<(Vec<u8>, i64, i64, bool), DefaultLoadingMode>(connection)?;
    for row in rows {
        let (id, scheduled_at, seq, due) = row?;
        let id = uuid_of(&id)?;
        if !except.contains(&(id, seq)) {
            return Ok(Some(Blocker { id, position: Position { scheduled_at, seq }, due }));
        }
    }
    Ok(None)
}

/// The lanes that have a due event, from one snapshot.
pub(super) fn due_lanes(connection: &mut SqliteConnection, lanes: Vec<LaneName>) -> QueryResult<DueLanes> {
    let began = Instant::now();
    const PENDING: &str = "outbox_events_due WHERE status = 'pending' AND scheduled_at <= ";
    const RETRY: &str = "outbox_events_retry WHERE status = 'retry' AND coalesce(retry_at, scheduled_at) <= ";
    connection.transaction(|connection| {
        let now = read_now(connection)?;
        let mut due = Vec::new();
        for lane in lanes {
            for (which, kind) in [(PENDING, DueKind::Pending), (RETRY, DueKind::Retry)] {
                let is_due = sql::<Bool>(&format!("SELECT EXISTS (SELECT 1 FROM outbox_events INDEXED BY {which}"))
                    .bind::<BigInt, _>(now)
                    .sql(" AND publisher_backend = ")
                    .bind::<Text, _>(&*lane)
                    .sql(")")
                    .get_result::<bool>(connection)?;
                due.extend(is_due.then(|| DueLane { lane: lane.clone(), kind }));
            }
        }
        Ok(DueLanes { lanes: due, took: began.elapsed() })
    })
}

/// Whether an event is due that nothing blocks.
pub(super) fn has_due(
    connection: &mut SqliteConnection,
    lanes: &[LaneName],
    failed_blocks: &[LaneName],
    unrecorded: &UnrecordedEvents,
) -> QueryResult<bool> {
    connection.transaction(|connection| {
        let now = read_now(connection)?;
        for lane in lanes {
            let held = failed_blocks.contains(lane);
            if lane_has_due(connection, "pending", lane, held, unrecorded, now)?
                || lane_has_due(connection, "retry", lane, held, unrecorded, now)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    })
}

/// The ids as literals: SQLite has no arrays.
fn id_list<'i>(ids: impl IntoIterator<Item = &'i Uuid>) -> String {
    ids.into_iter().map(|id| format!("x'{}'", id.simple())).collect::<Vec<_>>().join(", ")
}

/// Whether a lane has such an event. An earlier event that waits for its retry or its schedule, or that was rejected, blocks
/// a later one of its key, and so does a failed one if `held`.
fn lane_has_due(
    connection: &mut SqliteConnection,
    status: &str,
    lane: &str,
    held: bool,
    unrecorded: &UnrecordedEvents,
    now: i64,
) -> QueryResult<bool> {
    let (index, time) = match status {
        "retry" => ("outbox_events_retry", "coalesce(e.retry_at, e.scheduled_at)"),
        _ => ("outbox_events_due", "e.scheduled_at"),
    };
    let failed = if held {
        " AND NOT EXISTS (
            SELECT 1 FROM outbox_events b INDEXED BY outbox_events_held
            WHERE b.status = 'failed' AND b.retry_at IS NULL AND b.partition_key <> ''
              AND b.publisher_backend = e.publisher_backend AND b.partition_key = e.partition_key
              AND (b.scheduled_at, b.seq) < (e.scheduled_at, e.seq))"
    } else {
        ""
    };
    sql::<Bool>(&format!(
        "SELECT EXISTS (
           SELECT 1 FROM outbox_events e INDEXED BY {index}
           WHERE e.status = '{status}' AND e.publisher_backend = "
    ))
    .bind::<Text, _>(lane)
    .sql(&format!(" AND {time} <= "))
    .bind::<BigInt, _>(now)
    .sql(&format!(
        " AND e.id NOT IN ({all}) AND NOT EXISTS (
            SELECT 1 FROM outbox_events b INDEXED BY outbox_events_keys
            WHERE b.status IN ('pending', 'retry') AND b.partition_key <> ''
              AND b.publisher_backend = e.publisher_backend AND b.partition_key = e.partition_key
              AND (b.scheduled_at, b.seq) < (e.scheduled_at, e.seq)
              AND (b.id IN ({blocking})
                OR CASE b.status WHEN 'retry' THEN coalesce(b.retry_at, b.scheduled_at) ELSE b.scheduled_at END > ",
        all = id_list(unrecorded.all()),
        blocking = id_list(&unrecorded.blocking)
    ))
    .bind::<BigInt, _>(now)
    .sql(&format!(")){failed})"))
    .get_result(connection)
}

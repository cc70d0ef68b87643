//! Actions of operators on events.

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Binary, Text};
use uuid::Uuid;

use super::audit;
use super::clock::read_now;
use crate::store::{Action, AuditNote};

/// Changes those of the events that allow it; returns their ids.
pub(super) fn change(
    connection: &mut SqliteConnection,
    change: &Action,
    ids: &[Uuid],
    note: &AuditNote,
) -> QueryResult<Vec<Uuid>> {
    connection.immediate_transaction(|connection| {
        let now = read_now(connection)?;
        let ids = if matches!(change, Action::Replay) { in_their_order(connection, ids)? } else { ids.to_vec() };
        let mut changed = Vec::with_capacity(ids.len());
        for id in ids {
            let rows = match change {
                Action::Retry => retry(connection, id, now)?,
                Action::Fail { reason } => fail(connection, id, reason, now)?,
                Action::Replay => replay(connection, id, now)?,
                // They need a claim.
                Action::Delete | Action::Move { .. } => 0,
            };
            if rows > 0 {
                changed.push(id);
            }
        }
        if !changed.is_empty() {
            audit::write(connection, &note.row(change, &changed), now)?;
        }
        Ok(changed)
    })
}

/// Keeps `scheduled_at` and `seq`, so the position stays, and `published_at`: an event that the backend has accepted is not
/// sent again. An event that is only owed to handlers elsewhere stays unchanged; its deliveries are retried now.
fn retry(connection: &mut SqliteConnection, id: Uuid, now: i64) -> QueryResult<usize> {
    sql_query(
        "UPDATE outbox_handler_deliveries SET attempts = 0, next_at = ?, last_error = ''
         WHERE (event_id, seq) IN (SELECT id, seq FROM outbox_events
           WHERE id = ? AND status = 'processing' AND published_at IS NOT NULL)",
    )
    .bind::<BigInt, _>(now)
    .bind::<Binary, _>(id.as_bytes().as_slice())
    .execute(connection)?;
    sql_query(
        "UPDATE outbox_events SET retry_count = 0, retry_at = NULL, last_error = '', updated_at = ?,
           status = CASE WHEN status = 'processing' AND published_at IS NOT NULL THEN status ELSE 'pending' END
         WHERE id = ? AND status <> 'published'",
    )
    .bind::<BigInt, _>(now)
    .bind::<Binary, _>(id.as_bytes().as_slice())
    .execute(connection)
}

pub(super) fn end_deliveries(connection: &mut SqliteConnection, id: Uuid) -> QueryResult<usize> {
    sql_query("DELETE FROM outbox_handler_deliveries WHERE event_id = ?")
        .bind::<Binary, _>(id.as_bytes().as_slice())
        .execute(connection)
}

/// An operator's failure sets `retry_at`, so the event does not hold its key. Its deliveries are dropped.
fn fail(connection: &mut SqliteConnection, id: Uuid, reason: &str, now: i64) -> QueryResult<usize> {
    let failed = sql_query(
        "UPDATE outbox_events SET status = 'failed', retry_at = ?, last_error = ?, updated_at = ?
         WHERE id = ? AND status <> 'published'",
    )
    .bind::<BigInt, _>(now)
    .bind::<Text, _>(reason)
    .bind::<BigInt, _>(now)
    .bind::<Binary, _>(id.as_bytes().as_slice())
    .execute(connection)?;
    if failed > 0 {
        end_deliveries(connection, id)?;
    }
    Ok(failed)
}

/// Draws a new `seq`, which makes it another event for journals and settles.
fn replay(connection: &mut SqliteConnection, id: Uuid, now: i64) -> QueryResult<usize> {
    let rows = sql_query(
        "UPDATE outbox_events SET status = 'pending', seq = (SELECT value + 1 FROM outbox_seq), published_at = NULL,
           pending_handlers = NULL, retry_count = 0, retry_at = NULL, last_error = '', updated_at = ?
         WHERE id = ? AND status = 'published'",
    )
    .bind::<BigInt, _>(now)
    .bind::<Binary, _>(id.as_bytes().as_slice())
    .execute(connection)?;
    if rows > 0 {
        end_deliveries(connection, id)?;
        sql_query("UPDATE outbox_seq SET value = value + 1").execute(connection)?;
    }
    Ok(rows)
}

pub(super) fn in_their_order(connection: &mut SqliteConnection, ids: &[Uuid]) -> QueryResult<Vec<Uuid>> {
    let mut placed = Vec::with_capacity(ids.len());
    for id in ids {
        let place = sql::<(BigInt, BigInt)>("SELECT scheduled_at, coalesce(seq, 0) FROM outbox_events WHERE id = ")
            .bind::<Binary, _>(id.as_bytes().as_slice())
            .get_result::<(i64, i64)>(connection)
            .optional()?;
        placed.extend(place.map(|place| (place, *id)));
    }
    placed.sort_unstable();
    Ok(placed.into_iter().map(|(_, id)| id).collect())
}

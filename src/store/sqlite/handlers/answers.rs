//! Records answers of handlers.

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Binary, Integer, Nullable, SmallInt, Text};
use serde_json::json;
use uuid::Uuid;

use super::owing::{HELD, Owing, decide};
use crate::store::sqlite::clock::micros;
use crate::store::sqlite::row::{Any, Cell, text_in};
use crate::store::sqlite::settle::record_each;
use crate::store::sqlite::uuid_of;
use crate::store::{HandledDelivery, RejectedDelivery, Settled, append_error, shorten};

pub(in crate::store::sqlite) fn record_handled(
    connection: &mut SqliteConnection,
    handled: &[HandledDelivery],
) -> QueryResult<Vec<Settled>> {
    record_each(connection, handled, |connection, answer, now| {
        let HandledDelivery { handler, id, seq, deletes } = answer;
        connection.transaction(|connection| {
            delete(connection, handler, *id, *seq)?;
            let Some(event) = Owing::find(connection, *id, *seq)? else { return Ok(Settled::Superseded) };
            if event.status == "processing" && event.published {
                decide(connection, *id, *seq, *deletes, now)?;
            }
            Ok(Settled::Recorded)
        })
    })
}

fn delete(connection: &mut SqliteConnection, handler: &str, id: Uuid, seq: i64) -> QueryResult<usize> {
    sql_query("DELETE FROM outbox_handler_deliveries WHERE event_id = ? AND seq = ? AND handler = ?")
        .bind::<Binary, _>(id.as_bytes().as_slice())
        .bind::<BigInt, _>(seq)
        .bind::<Text, _>(handler)
        .execute(connection)
}

/// Ends a handler's deliveries of these generations as if they were handled; returns how many.
pub(in crate::store::sqlite) fn end(
    connection: &mut SqliteConnection,
    handler: &str,
    (from, to): (i64, i64),
    most: i64,
) -> QueryResult<usize> {
    let rows: Vec<(Vec<u8>, i64)> = sql::<(Binary, BigInt)>(
        "SELECT event_id, seq FROM outbox_handler_deliveries INDEXED BY outbox_handler_deliveries_due WHERE handler = ",
    )
    .bind::<Text, _>(handler)
    .sql(" AND generation BETWEEN ")
    .bind::<BigInt, _>(from)
    .sql(" AND ")
    .bind::<BigInt, _>(to)
    .sql(" LIMIT ")
    .bind::<BigInt, _>(most)
    .load(connection)?;
    let named = |(id, seq): (Vec<u8>, i64)| Ok(HandledDelivery::kept(handler, uuid_of(&id)?, seq));
    let batch: QueryResult<Vec<_>> = rows.into_iter().map(named).collect();
    let outcomes = record_handled(connection, &batch?)?;
    Ok(outcomes.iter().filter(|outcome| !matches!(outcome, Settled::Refused(_))).count())
}

/// Records rejections, each under the lease of its handler's lane; a repeated call finds and reports its own work.
pub(in crate::store::sqlite) fn record_rejected(
    connection: &mut SqliteConnection,
    owner: Uuid,
    rejected: &[RejectedDelivery],
) -> QueryResult<Vec<Settled>> {
    record_each(connection, rejected, |connection, rejected, now| {
        let Some(event) = Owing::find(connection, rejected.id, rejected.seq)? else { return Ok(Settled::Superseded) };
        let recorded = match attempts(connection, rejected)? {
            None => rejected.gives_up && names_failed(connection, &event, rejected)?,
            Some(attempts) if attempts == rejected.fetched_attempts => {
                is_owned(connection, owner, rejected)?
                    && connection.transaction(|connection| reject(connection, &event, rejected, now))?
            }
            Some(attempts) => attempts == rejected.attempts,
        };
        Ok(if recorded { Settled::Recorded } else { Settled::Superseded })
    })
}

fn attempts(connection: &mut SqliteConnection, rejected: &RejectedDelivery) -> QueryResult<Option<i32>> {
    sql::<Integer>("SELECT attempts FROM outbox_handler_deliveries WHERE event_id = ")
        .bind::<Binary, _>(rejected.id.as_bytes().as_slice())
        .sql(" AND seq = ")
        .bind::<BigInt, _>(rejected.seq)
        .sql(" AND handler = ")
        .bind::<Text, _>(&rejected.handler)
        .get_result(connection)
        .optional()
}

fn is_owned(connection: &mut SqliteConnection, owner: Uuid, rejected: &RejectedDelivery) -> QueryResult<bool> {
    let epoch: Option<i64> = sql::<BigInt>("SELECT epoch FROM outbox_leases WHERE backend = ")
        .bind::<Text, _>(&*rejected.shard.lane)
        .sql(" AND shard = ")
        .bind::<SmallInt, _>(rejected.shard.number)
        .sql(" AND owner = ")
        .bind::<Binary, _>(owner.as_bytes().as_slice())
        .get_result(connection)
        .optional()?;
    Ok(epoch == Some(rejected.epoch))
}

/// Fails the event if the handler gives up; retries if handlers of the delivering process still have to answer.
fn reject(
    connection: &mut SqliteConnection,
    event: &Owing,
    rejected: &RejectedDelivery,
    now: i64,
) -> QueryResult<bool> {
    if rejected.gives_up && matches!(event.status.as_str(), "processing" | "failed") {
        match rejected.holds {
            true => drop(try_again_at(connection, rejected, HELD)?),
            false => drop(delete(connection, &rejected.handler, rejected.id, rejected.seq)?),
        }
        return fail(connection, event, rejected, now);
    }
    Ok(try_again_at(connection, rejected, now.saturating_add(micros(rejected.delay)))? > 0)
}

fn try_again_at(connection: &mut SqliteConnection, rejected: &RejectedDelivery, time: i64) -> QueryResult<usize> {
    sql_query(
        "UPDATE outbox_handler_deliveries SET attempts = ?, last_error = ?, next_at = ?
         WHERE event_id = ? AND seq = ? AND handler = ?",
    )
    .bind::<Integer, _>(rejected.attempts)
    .bind::<Text, _>(shorten(&rejected.error))
    .bind::<BigInt, _>(time)
    .bind::<Binary, _>(rejected.id.as_bytes().as_slice())
    .bind::<BigInt, _>(rejected.seq)
    .bind::<Text, _>(&rejected.handler)
    .execute(connection)
}

/// Fails the event. With a `retry_at` a failed event does not hold its key: its backend has accepted it.
fn fail(connection: &mut SqliteConnection, event: &Owing, rejected: &RejectedDelivery, now: i64) -> QueryResult<bool> {
    let said = format!("handler `{}`: {}", rejected.handler, rejected.error);
    let mut names = if event.status == "failed" { pending(connection, rejected)? } else { Vec::new() };
    names.push(rejected.handler.clone());
    names.sort_unstable();
    names.dedup();
    let errors = text_of(connection, "errors", rejected)?;
    let changed = sql_query(
        "UPDATE outbox_events SET status = 'failed', retry_at = ?1, updated_at = ?1, last_error = ?2,
           pending_handlers = ?3, errors = ?4 WHERE id = ?5 AND seq = ?6",
    )
    .bind::<BigInt, _>(now)
    .bind::<Text, _>(shorten(&said))
    .bind::<Text, _>(json!(names).to_string())
    .bind::<Nullable<Text>, _>(Some(append_error(errors.as_deref(), shorten(&said), now)))
    .bind::<Binary, _>(rejected.id.as_bytes().as_slice())
    .bind::<BigInt, _>(rejected.seq)
    .execute(connection)?;
    Ok(changed > 0)
}

fn names_failed(connection: &mut SqliteConnection, event: &Owing, rejected: &RejectedDelivery) -> QueryResult<bool> {
    Ok(event.status == "failed" && pending(connection, rejected)?.contains(&rejected.handler))
}

fn pending(connection: &mut SqliteConnection, rejected: &RejectedDelivery) -> QueryResult<Vec<String>> {
    let names = text_of(connection, "pending_handlers", rejected)?;
    Ok(names.and_then(|names| serde_json::from_str(&names).ok()).unwrap_or_default())
}

fn text_of(
    connection: &mut SqliteConnection,
    column: &str,
    rejected: &RejectedDelivery,
) -> QueryResult<Option<String>> {
    sql::<Any>(&format!("SELECT {column} FROM outbox_events WHERE id = "))
        .bind::<Binary, _>(rejected.id.as_bytes().as_slice())
        .get_result::<Option<Cell>>(connection)
        .map(text_in)
}

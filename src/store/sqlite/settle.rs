//! Records outcomes of events.

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::sql_query;
use diesel::sql_types::{BigInt, Binary, Bool, Integer, Nullable, SmallInt, Text};
use diesel::sqlite::Sqlite;
use serde_json::json;
use uuid::Uuid;

use super::clock::{micros, read_now};
use super::delete::delete_unpublished;
use super::error::is_transient;
use super::handlers::{Announced, Owing, decide};
use super::row::{Any, Cell, number, small, text_in};
use crate::event::Status;
use crate::store::{Acceptance, FailureRecord, Settled, SettledEvent, append_error, shorten};

/// Records that the backends have accepted events. A recorded acceptance is not written again.
pub(super) fn record_accepted(
    connection: &mut SqliteConnection,
    events: &[Acceptance],
) -> QueryResult<Vec<SettledEvent>> {
    connection.immediate_transaction(|connection| {
        let now = read_now(connection)?;
        let announced = Announced::read(connection, now)?;
        each(connection, events, |connection, event| record_one(connection, event, &announced, now))
    })
}

/// Records one event; one that is owed to no handler takes one statement, DELETE or UPDATE.
fn record_one(
    connection: &mut SqliteConnection,
    event: &Acceptance,
    announced: &Announced,
    now: i64,
) -> QueryResult<SettledEvent> {
    let Acceptance { id, seq, asked, left, deletes, place: _ } = event;
    let (id, seq) = (*id, *seq);
    if left.is_empty() && !announced.has_unasked(asked) {
        let is_deleted = *deletes && delete_unpublished(connection, id, seq)?;
        if is_deleted || (Published { id, seq, now }).execute(connection)? > 0 {
            return Ok(Settled::Recorded.into());
        }
    }
    let Some(owing) = Owing::find(connection, id, seq)? else { return Ok(Settled::Superseded.into()) };
    // It was failed after its backend accepted it: it stays failed.
    if owing.published && owing.status == "failed" {
        return Ok(Settled::Recorded.into());
    }
    connection.transaction(|connection| {
        owing.forget_held(connection, id, seq)?;
        let left = [left.clone(), owing.uncalled(asked)].concat();
        let owed = owing.owe(connection, (id, seq), asked, &left, &[], announced, now)?;
        decide(connection, id, seq, *deletes, now)?;
        Ok(SettledEvent { outcome: Settled::Recorded, owed })
    })
}

/// Writes row by row in one transaction, so that a refused row does not hold up the others. If all of several are refused,
/// no single row is to blame.
pub(super) fn record_each<E, S: From<Settled>>(
    connection: &mut SqliteConnection,
    events: &[E],
    write: impl Fn(&mut SqliteConnection, &E, i64) -> QueryResult<S>,
) -> QueryResult<Vec<S>> {
    connection.immediate_transaction(|connection| {
        let now = read_now(connection)?;
        each(connection, events, |connection, event| write(connection, event, now))
    })
}

fn each<E, S: From<Settled>>(
    connection: &mut SqliteConnection,
    events: &[E],
    write: impl Fn(&mut SqliteConnection, &E) -> QueryResult<S>,
) -> QueryResult<Vec<S>> {
    let (mut refused, mut refusal) = (0, None);
    let mut outcomes = Vec::with_capacity(events.len());
    for event in events {
        outcomes.push(match write(connection, event) {
            Err(error) if !is_transient(&error) => {
                let reason = error.to_string();
                refused += 1;
                refusal = Some(error);
                Settled::Refused(reason).into()
            }
            outcome => outcome?,
        });
    }
    match refusal {
        Some(error) if refused == events.len() && events.len() > 1 => Err(error),
        _ => Ok(outcomes),
    }
}

/// Publishes one event with a prepared statement. A join with many events would depend on the planner, which may read the
/// whole table for it.
#[derive(QueryId)]
struct Published {
    id: Uuid,
    seq: i64,
    now: i64,
}

impl QueryFragment<Sqlite> for Published {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        out.push_sql("UPDATE outbox_events SET status = 'published', published_at = ");
        out.push_bind_param::<BigInt, _>(&self.now)?;
        out.push_sql(", pending_handlers = NULL, updated_at = ");
        out.push_bind_param::<BigInt, _>(&self.now)?;
        out.push_sql(" WHERE id = ");
        out.push_bind_param::<Binary, _>(self.id.as_bytes().as_slice())?;
        out.push_sql(" AND seq = ");
        out.push_bind_param::<BigInt, _>(&self.seq)?;
        out.push_sql(" AND published_at IS NULL");
        Ok(())
    }
}

impl RunQueryDsl<SqliteConnection> for Published {}

/// Records that the backend has accepted events that an operator failed meanwhile. No handler was asked, so a retry must ask
/// all announced ones.
pub(super) fn mark_failed_as_sent(
    connection: &mut SqliteConnection,
    sent: &[(Uuid, i64)],
) -> QueryResult<Vec<Settled>> {
    record_each(connection, sent, |connection, (id, seq), now| {
        let Some(owing) = Owing::find(connection, *id, *seq)? else { return Ok(Settled::Recorded) };
        let names = Announced::read(connection, now)?.names_for(&owing.event_type);
        sql_query(
            "UPDATE outbox_events SET published_at = ?1, updated_at = ?1, pending_handlers = coalesce(pending_handlers, ?2)
             WHERE id = ?3 AND seq = ?4 AND status = 'failed' AND published_at IS NULL",
        )
        .bind::<BigInt, _>(now)
        .bind::<Nullable<Text>, _>(names)
        .bind::<Binary, _>(id.as_bytes().as_slice())
        .bind::<BigInt, _>(*seq)
        .execute(connection)
        .map(|_| Settled::Recorded)
    })
}

/// Records retries and failures; an event counts as recorded if its row has the outcome now, by this call or by an earlier
/// one whose reply was lost.
pub(super) fn record_rescheduled(
    connection: &mut SqliteConnection,
    owner: Uuid,
    events: &[FailureRecord],
) -> QueryResult<Vec<SettledEvent>> {
    record_each(connection, events, |connection, event, now| {
        let (Some(stored), Some(owing)) =
            (Stored::find(connection, event)?, Owing::find(connection, event.id, event.seq)?)
        else {
            return Ok(Settled::Superseded.into());
        };
        if stored.has_outcome(event) {
            return Ok(Settled::Recorded.into());
        }
        if !stored.is_as_fetched(event) || !stored.reschedule(connection, owner, event, now)? {
            return Ok(Settled::Superseded.into());
        }
        if !event.published && !owing.published {
            return Ok(Settled::Recorded.into());
        }
        let announced = Announced::read(connection, now)?;
        let held = event.pending_handlers.as_deref().filter(|_| event.holds_for_handlers).unwrap_or_default();
        let owed = owing.owe(connection, (event.id, event.seq), &event.asked, &event.left, held, &announced, now)?;
        Ok(SettledEvent { outcome: Settled::Recorded, owed })
    })
}

/// A row's failures, read as a fetch reads them: a value of the wrong type counts as missing.
struct Stored {
    status: Option<String>,
    retry_count: i32,
    published: bool,
    updated_at: i64,
    last_error: Option<String>,
    pending_handlers: Option<String>,
    errors: Option<String>,
}

impl Stored {
    fn find(connection: &mut SqliteConnection, event: &FailureRecord) -> QueryResult<Option<Self>> {
        let row = sql::<(Any, Any, Bool, Any, Any, Any, Any)>(
            "SELECT status, retry_count, published_at IS NOT NULL, updated_at, last_error, pending_handlers, errors
             FROM outbox_events WHERE id = ",
        )
        .bind::<Binary, _>(event.id.as_bytes().as_slice())
        .sql(" AND seq = ")
        .bind::<BigInt, _>(event.seq)
        .get_result::<(Option<Cell>, Option<Cell>, bool, Option<Cell>, Option<Cell>, Option<Cell>, Option<Cell>)>(
            connection,
        )
        .optional()?;
        Ok(row.map(|(status, retry_count, published, updated_at, last_error, pending_handlers, errors)| Self {
            status: text_in(status),
            retry_count: small(&retry_count),
            published,
            updated_at: number(&updated_at),
            last_error: text_in(last_error),
            pending_handlers: text_in(pending_handlers),
            errors: text_in(errors),
        }))
    }

    /// Whether this settle was recorded before. If it counts no failure, only the time tells.
    fn has_outcome(&self, event: &FailureRecord) -> bool {
        let counts = event.retry_count != event.fetched_retry_count || event.status == Status::Failed;
        (counts || self.updated_at != event.fetched_updated_at)
            && self.status.as_deref() == Some(event.status.as_str())
            && self.retry_count == event.retry_count
            && (self.published || !event.published)
            && self.pending_handlers == to_json_array(event)
            && event.error.as_deref().is_none_or(|error| self.last_error.as_deref() == Some(shorten(error)))
    }

    /// Whether the row is still as it was fetched.
    fn is_as_fetched(&self, event: &FailureRecord) -> bool {
        matches!(self.status.as_deref(), Some("pending" | "retry"))
            && (self.retry_count, self.updated_at) == (event.fetched_retry_count, event.fetched_updated_at)
    }

    fn reschedule(
        &self,
        connection: &mut SqliteConnection,
        owner: Uuid,
        event: &FailureRecord,
        now: i64,
    ) -> QueryResult<bool> {
        let retry_at = match event.status {
            Status::Retry => Some(now.saturating_add(micros(event.delay))),
            // With a `retry_at` a failed event does not hold its key.
            _ => event.holds_for_handlers.then_some(now),
        };
        let last_error = event.error.as_deref().map(shorten).or(self.last_error.as_deref()).unwrap_or_default();
        let errors = match &event.error {
            Some(error) => Some(append_error(self.errors.as_deref(), shorten(error), now)),
            None => self.errors.clone(),
        };
        let changed = sql_query(
            "UPDATE outbox_events
             SET status = ?, retry_count = ?, retry_at = ?, last_error = ?, errors = ?, pending_handlers = ?,
                 published_at = CASE WHEN ? THEN coalesce(published_at, ?) ELSE published_at END, updated_at = ?
             WHERE id = ? AND seq = ?
               AND EXISTS (SELECT 1 FROM outbox_leases WHERE backend = ? AND shard = ? AND owner = ? AND epoch = ?)",
        )
        .bind::<Text, _>(event.status.as_str())
        .bind::<Integer, _>(event.retry_count)
        .bind::<Nullable<BigInt>, _>(retry_at)
        .bind::<Text, _>(last_error)
        .bind::<Nullable<Text>, _>(errors)
        .bind::<Nullable<Text>, _>(to_json_array(event))
        .bind::<Bool, _>(event.published)
        .bind::<BigInt, _>(now)
        .bind::<BigInt, _>(now)
        .bind::<Binary, _>(event.id.as_bytes().as_slice())
        .bind::<BigInt, _>(event.seq)
        .bind::<Text, _>(&*event.shard.lane)
        .bind::<SmallInt, _>(event.shard.number)
        .bind::<Binary, _>(owner.as_bytes().as_slice())
        .bind::<BigInt, _>(event.epoch)
        .execute(connection)?;
        Ok(changed > 0)
    }
}

fn to_json_array(event: &FailureRecord) -> Option<String> {
    event.pending_handlers.as_ref().map(|handlers| json!(handlers).to_string())
}

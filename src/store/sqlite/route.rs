//! Moves unsent events to the lanes that their routes give.

use std::collections::HashSet;

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Binary, SmallInt, Text};
use uuid::Uuid;

use super::clock::read_now;
use super::error::is_transient;
use crate::store::{RoutedEvent, Settled};

/// Moves the events one by one, in one transaction; an event waits for the earlier ones of its key.
pub(super) fn route(
    connection: &mut SqliteConnection,
    owner: Uuid,
    events: &[RoutedEvent],
) -> QueryResult<Vec<Settled>> {
    connection.immediate_transaction(|connection| {
        let now = read_now(connection)?;
        let mut stuck: HashSet<&str> = HashSet::new();
        let mut outcomes = Vec::with_capacity(events.len());
        for event in events {
            let outcome = match stuck.contains(event.key.as_str()) {
                true => Settled::Locked,
                false => outcome_of(connection, owner, event, now)?,
            };
            if outcome != Settled::Recorded && !event.key.is_empty() {
                stuck.insert(&event.key);
            }
            outcomes.push(outcome);
        }
        Ok(outcomes)
    })
}

fn outcome_of(connection: &mut SqliteConnection, owner: Uuid, event: &RoutedEvent, now: i64) -> QueryResult<Settled> {
    match move_one(connection, owner, event, now) {
        Ok(true) => Ok(Settled::Recorded),
        Ok(false) if is_moved(connection, event)? => Ok(Settled::Recorded),
        Ok(false) => Ok(Settled::Superseded),
        Err(error) if is_transient(&error) => Err(error),
        Err(error) => Ok(Settled::Refused(error.to_string())),
    }
}

fn move_one(connection: &mut SqliteConnection, owner: Uuid, event: &RoutedEvent, now: i64) -> QueryResult<bool> {
    let moved = sql_query(
        "UPDATE outbox_events SET publisher_backend = ?, updated_at = ?
         WHERE id = ? AND seq = ? AND publisher_backend = ? AND status IN ('pending', 'retry') AND published_at IS NULL
           AND EXISTS (SELECT 1 FROM outbox_leases WHERE backend = ? AND shard = ? AND owner = ? AND epoch = ?)",
    )
    .bind::<Text, _>(&event.to)
    .bind::<BigInt, _>(now)
    .bind::<Binary, _>(event.id.as_bytes().as_slice())
    .bind::<BigInt, _>(event.seq)
    .bind::<Text, _>(&*event.shard.lane)
    .bind::<Text, _>(&*event.shard.lane)
    .bind::<SmallInt, _>(event.shard.number)
    .bind::<Binary, _>(owner.as_bytes().as_slice())
    .bind::<BigInt, _>(event.epoch)
    .execute(connection)?;
    Ok(moved > 0)
}

/// Whether an earlier call moved it.
fn is_moved(connection: &mut SqliteConnection, event: &RoutedEvent) -> QueryResult<bool> {
    let found = diesel::dsl::sql::<BigInt>("SELECT count(*) FROM outbox_events WHERE id = ")
        .bind::<Binary, _>(event.id.as_bytes().as_slice())
        .sql(" AND seq = ")
        .bind::<BigInt, _>(event.seq)
        .sql(" AND publisher_backend = ")
        .bind::<Text, _>(&event.to)
        .get_result::<i64>(connection)?;
    Ok(found > 0)
}

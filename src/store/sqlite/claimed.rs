//! Changes of events in a lane whose lease belongs to the caller.

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Binary, Bool, SmallInt, Text};
use uuid::Uuid;

use super::audit;
use super::change::{end_deliveries, in_their_order};
use super::clock::read_now;
use crate::event::Status;
use crate::store::{Action, AuditNote, LaneClaim};

/// The lane of each of these events that exists and names one.
pub(super) fn lanes_of(connection: &mut SqliteConnection, ids: &[Uuid]) -> QueryResult<Vec<(Uuid, String)>> {
    let mut lanes = Vec::with_capacity(ids.len());
    for id in ids {
        let lane = sql::<Text>("SELECT CAST(publisher_backend AS TEXT) FROM outbox_events WHERE id = ")
            .bind::<Binary, _>(id.as_bytes().as_slice())
            .get_result::<String>(connection)
            .optional()?;
        lanes.extend(lane.map(|lane| (*id, lane)));
    }
    Ok(lanes)
}

pub(super) fn delete(
    connection: &mut SqliteConnection,
    claim: &LaneClaim,
    statuses: &[Status],
    ids: &[Uuid],
    note: &AuditNote,
) -> QueryResult<Option<Vec<Uuid>>> {
    let statuses = one_of(statuses);
    change(connection, claim, ids, (&Action::Delete, note), |connection, id| {
        let deleted =
            sql_query(format!("DELETE FROM outbox_events WHERE id = ? AND publisher_backend = ? AND {statuses}"))
                .bind::<Binary, _>(id.as_bytes().as_slice())
                .bind::<Text, _>(&*claim.lane)
                .execute(connection)?;
        if deleted > 0 {
            end_deliveries(connection, id)?;
        }
        Ok(deleted > 0)
    })
}

/// Draws a new `seq`: a late settle by the former backend finds another event.
pub(super) fn transfer(
    connection: &mut SqliteConnection,
    claim: &LaneClaim,
    to: &str,
    statuses: &[Status],
    ids: &[Uuid],
    note: &AuditNote,
) -> QueryResult<Option<Vec<Uuid>>> {
    let statuses = one_of(statuses);
    let action = Action::Move { to: to.to_owned() };
    change(connection, claim, ids, (&action, note), |connection, id| {
        let moved = sql_query(format!(
            "UPDATE outbox_events SET publisher_backend = ?, seq = (SELECT value + 1 FROM outbox_seq), updated_at = ?
             WHERE id = ? AND publisher_backend = ? AND publisher_backend <> ? AND published_at IS NULL
               AND status <> 'published' AND {statuses}"
        ))
        .bind::<Text, _>(to)
        .bind::<BigInt, _>(read_now(connection)?)
        .bind::<Binary, _>(id.as_bytes().as_slice())
        .bind::<Text, _>(&*claim.lane)
        .bind::<Text, _>(to)
        .execute(connection)?;
        if moved > 0 {
            sql_query("UPDATE outbox_seq SET value = value + 1").execute(connection)?;
        }
        Ok(moved > 0)
    })
}

/// Changes events in their order, in one transaction, if the leases are still the claim's.
fn change(
    connection: &mut SqliteConnection,
    claim: &LaneClaim,
    ids: &[Uuid],
    (action, note): (&Action, &AuditNote),
    mut one: impl FnMut(&mut SqliteConnection, Uuid) -> QueryResult<bool>,
) -> QueryResult<Option<Vec<Uuid>>> {
    connection.immediate_transaction(|connection| {
        if !is_held(connection, claim)? {
            return Ok(None);
        }
        let mut changed = Vec::with_capacity(ids.len());
        for id in in_their_order(connection, ids)? {
            if one(connection, id)? {
                changed.push(id);
            }
        }
        if !changed.is_empty() {
            let now = read_now(connection)?;
            audit::write(connection, &note.row(action, &changed), now)?;
        }
        Ok(Some(changed))
    })
}

fn one_of(statuses: &[Status]) -> String {
    let named: Vec<String> = statuses.iter().map(|status| format!("'{status}'")).collect();
    format!("status IN ({})", named.join(", "))
}

fn is_held(connection: &mut SqliteConnection, claim: &LaneClaim) -> QueryResult<bool> {
    for (shard, epoch) in &claim.leases {
        let held = sql::<Bool>("SELECT EXISTS (SELECT 1 FROM outbox_leases WHERE backend = ")
            .bind::<Text, _>(&*claim.lane)
            .sql(" AND shard = ")
            .bind::<SmallInt, _>(*shard)
            .sql(" AND owner = ")
            .bind::<Binary, _>(claim.owner.as_bytes().as_slice())
            .sql(" AND epoch = ")
            .bind::<BigInt, _>(*epoch)
            .sql(")")
            .get_result::<bool>(connection)?;
        if !held {
            return Ok(false);
        }
    }
    Ok(true)
}

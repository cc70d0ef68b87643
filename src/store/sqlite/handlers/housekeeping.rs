//! Janitor work: ends deliveries to dropped handlers and of deleted events, and finds events that owe nothing more.

use std::sync::{Arc, Mutex, PoisonError};

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Bool, Text};

use super::answers::{end, record_handled};
use crate::store::HandledDelivery;
use crate::store::sqlite::uuid_of;

/// The number of rows of each kind that one call reads.
const BATCH: i64 = 1_000;

/// The progress of the rounds: the deliveries of an absent handler are read a few at a time.
#[derive(Clone, Default)]
pub(in crate::store::sqlite) struct Rounds(Arc<Mutex<(Events, Deliveries)>>);

/// `created_at` and rowid.
type Events = (i64, i64);
type Deliveries = (Vec<u8>, i64, String);

pub(in crate::store::sqlite) fn finish_settled(
    connection: &mut SqliteConnection,
    rounds: &Rounds,
) -> QueryResult<usize> {
    let (events, deliveries) = rounds.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut ended = end_dropped(connection)?;
    let (mut over, events) = events_without_deliveries(connection, events)?;
    let (gone, deliveries) = deliveries_without_events(connection, deliveries)?;
    over.extend(gone);
    ended += record_handled(connection, &over)?.len();
    *rounds.0.lock().unwrap_or_else(PoisonError::into_inner) = (events, deliveries);
    Ok(ended)
}

fn end_dropped(connection: &mut SqliteConnection) -> QueryResult<usize> {
    let dropped: Vec<(String, i64)> = sql::<(Text, BigInt)>(
        "WITH RECURSIVE known (handler, generation) AS (
           SELECT * FROM (SELECT handler, generation FROM outbox_handler_deliveries ORDER BY handler, generation LIMIT 1)
           UNION ALL SELECT d.handler, d.generation FROM known k JOIN outbox_handler_deliveries d
             ON (d.event_id, d.seq, d.handler) = (SELECT n.event_id, n.seq, n.handler FROM outbox_handler_deliveries n
               WHERE (n.handler, n.generation) > (k.handler, k.generation) ORDER BY n.handler, n.generation LIMIT 1))
         SELECT handler, generation FROM known k WHERE generation <> 0 AND NOT EXISTS (
           SELECT 1 FROM outbox_handlers h WHERE h.name = k.handler AND h.generation = k.generation)",
    )
    .load(connection)?;
    let mut ended = 0;
    for (handler, generation) in dropped {
        ended += end(connection, &handler, (generation, generation), BATCH)?;
    }
    Ok(ended)
}

type Over = Vec<HandledDelivery>;

/// Events without deliveries, named as answers of no handler.
fn events_without_deliveries(connection: &mut SqliteConnection, after: Events) -> QueryResult<(Over, Events)> {
    let rows: Vec<(i64, i64, Vec<u8>, i64, bool)> = sql::<(BigInt, BigInt, Binary, BigInt, Bool)>(
        "SELECT created_at, rowid, id, coalesce(seq, 0), published_at IS NOT NULL AND NOT EXISTS (
           SELECT 1 FROM outbox_handler_deliveries d WHERE d.event_id = e.id AND d.seq = e.seq)
         FROM outbox_events e INDEXED BY outbox_events_unpublished
         WHERE status <> 'published' AND status = 'processing' AND (created_at, rowid) > (",
    )
    .bind::<BigInt, _>(after.0)
    .sql(", ")
    .bind::<BigInt, _>(after.1)
    .sql(") ORDER BY created_at, rowid LIMIT ")
    .bind::<BigInt, _>(BATCH)
    .load(connection)?;
    let last = rows.last().filter(|_| is_full(rows.len())).map(|row| (row.0, row.1)).unwrap_or_default();
    let over = rows.into_iter().filter(|row| row.4).map(|row| Ok(HandledDelivery::kept("", uuid_of(&row.2)?, row.3)));
    Ok((over.collect::<QueryResult<_>>()?, last))
}

fn deliveries_without_events(connection: &mut SqliteConnection, after: Deliveries) -> QueryResult<(Over, Deliveries)> {
    let rows: Vec<(Vec<u8>, i64, String, bool)> = sql::<(Binary, BigInt, Text, Bool)>(
        "SELECT event_id, seq, handler, EXISTS (SELECT 1 FROM outbox_events e WHERE e.id = d.event_id AND e.seq = d.seq)
         FROM outbox_handler_deliveries d WHERE (event_id, seq, handler) > (",
    )
    .bind::<Binary, _>(&after.0)
    .sql(", ")
    .bind::<BigInt, _>(after.1)
    .sql(", ")
    .bind::<Text, _>(&after.2)
    .sql(") ORDER BY event_id, seq, handler LIMIT ")
    .bind::<BigInt, _>(BATCH)
    .load(connection)?;
    let last = rows.last().filter(|_| is_full(rows.len())).map(|row| (row.0.clone(), row.1, row.2.clone()));
    let over =
        rows.into_iter().filter(|row| !row.3).map(|row| Ok(HandledDelivery::kept(row.2, uuid_of(&row.0)?, row.1)));
    Ok((over.collect::<QueryResult<_>>()?, last.unwrap_or_default()))
}

fn is_full(rows: usize) -> bool {
    i64::try_from(rows).is_ok_and(|rows| rows >= BATCH)
}

//! Janitor work: ends deliveries to dropped handlers and of deleted events, and finds events that owe nothing more.
//!
//! Events and deliveries are read a few at a time, in rounds, so that the deliveries of an absent handler cost no more.

use std::sync::{Mutex, PoisonError};

use diesel::data_types::PgTimestamp;
use diesel::dsl::sql;
use diesel::sql_types::{BigInt, Bool, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncConnection, RunQueryDsl};
use futures_util::FutureExt;
use uuid::Uuid;

use super::answers;
use crate::store::postgres::admin::BY_INDEX;
use crate::store::postgres::schema_connection::SchemaConnection;
use crate::store::postgres::{PostgresStore, Result};
use crate::store::{Care, HandledDelivery, Settled};

/// The number of rows of each kind that one call reads.
const BATCH: i64 = 1_000;

/// The progress of the rounds.
pub(in crate::store::postgres) struct Rounds {
    events: Mutex<(PgTimestamp, Uuid)>,
    deliveries: Mutex<(Uuid, i64, String)>,
}

impl Default for Rounds {
    fn default() -> Self {
        Self { events: Mutex::new(START_OF_EVENTS), deliveries: Mutex::new(start_of_deliveries()) }
    }
}

const START_OF_EVENTS: (PgTimestamp, Uuid) = (PgTimestamp(i64::MIN), Uuid::nil());

fn start_of_deliveries() -> (Uuid, i64, String) {
    (Uuid::nil(), i64::MIN, String::new())
}

fn replace<T: Clone>(place: &Mutex<T>, by: Option<T>) -> T {
    let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
    let before = place.clone();
    if let Some(by) = by {
        *place = by;
    }
    before
}

pub(in crate::store::postgres) async fn finish_settled(store: &PostgresStore) -> Result<usize> {
    let mut ended = end_dropped(store).await?;
    let mut over = events_without_deliveries(store).await?;
    over.extend(deliveries_without_events(store).await?);
    if !over.is_empty() {
        let outcomes = answers::handled(store, &over, Care::Usual).await?;
        ended += outcomes.iter().filter(|outcome| **outcome != Settled::Locked).count();
    }
    Ok(ended)
}

/// Ends deliveries of settles that had read the announcement before it was dropped.
async fn end_dropped(store: &PostgresStore) -> Result<usize> {
    let dropped: Vec<(String, i64)> = store
        .run("find deliveries to dropped handlers", |conn| sql::<(Text, BigInt)>(DROPPED).load(conn).boxed())
        .await?;
    let mut ended = 0;
    for (handler, generation) in dropped {
        ended += answers::end(store, &handler, generation, generation, BATCH).await?;
    }
    Ok(ended)
}

/// Steps from one handler's generation to the next.
const DROPPED: &str = "WITH RECURSIVE known AS (\
        (SELECT handler, generation FROM outbox_handler_deliveries ORDER BY handler, generation LIMIT 1) \
        UNION ALL SELECT n.handler, n.generation FROM known k CROSS JOIN LATERAL (\
            SELECT d.handler, d.generation FROM outbox_handler_deliveries d \
            WHERE (d.handler, d.generation) > (k.handler, k.generation) ORDER BY d.handler, d.generation LIMIT 1) n) \
     SELECT k.handler::text, k.generation FROM known k WHERE k.generation <> 0 AND NOT EXISTS (\
        SELECT FROM outbox_handlers h WHERE h.name = k.handler AND h.generation = k.generation)";

// Neither of these asks with EXISTS: among its columns PostgreSQL 18 may hash that, and so read a whole table, although such
// plans are off.

/// Events without deliveries, named as answers of no handler: the event's row decides once it is locked.
async fn events_without_deliveries(store: &PostgresStore) -> Result<Vec<HandledDelivery>> {
    let (after, id) = replace(&store.rounds.events, None);
    let rows: Vec<(PgTimestamp, Uuid, i64, bool)> = store
        .run("find events without deliveries", |conn| {
            let read = async move |conn: &mut SchemaConnection| {
                diesel::sql_query(BY_INDEX).execute(conn).await?;
                sql::<(Timestamptz, SqlUuid, BigInt, Bool)>(
                    "SELECT e.created_at, e.id, coalesce(e.seq, 0), e.published_at IS NOT NULL AND (\
                        SELECT true FROM outbox_handler_deliveries d WHERE d.event_id = e.id AND d.seq = e.seq LIMIT 1) IS NULL \
                     FROM outbox_events e WHERE e.status = 'processing' AND e.created_at >= ",
                )
                .bind::<Timestamptz, _>(after)
                .sql(" AND (e.created_at, e.id) > (")
                .bind::<Timestamptz, _>(after)
                .sql(", ")
                .bind::<SqlUuid, _>(id)
                .sql(") ORDER BY e.created_at, e.id LIMIT ")
                .bind::<BigInt, _>(BATCH)
                .load(conn)
                .await
            };
            conn.transaction(read).boxed()
        })
        .await?;
    let last = rows.last().filter(|_| is_full(rows.len())).map(|(at, id, ..)| (*at, *id));
    replace(&store.rounds.events, Some(last.unwrap_or(START_OF_EVENTS)));
    Ok(rows.into_iter().filter(|row| row.3).map(|(_, id, seq, _)| HandledDelivery::kept("", id, seq)).collect())
}

async fn deliveries_without_events(store: &PostgresStore) -> Result<Vec<HandledDelivery>> {
    let (id, seq, handler) = replace(&store.rounds.deliveries, None);
    let rows: Vec<(Uuid, i64, String, bool)> = store
        .run("find deliveries of deleted events", |conn| {
            let read = async move |conn: &mut SchemaConnection| {
                diesel::sql_query(BY_INDEX).execute(conn).await?;
                sql::<(SqlUuid, BigInt, Text, Bool)>(
                    "SELECT d.event_id, d.seq, d.handler::text, \
                        (SELECT true FROM outbox_events e WHERE e.id = d.event_id AND e.seq = d.seq) IS NOT NULL \
                     FROM outbox_handler_deliveries d WHERE (d.event_id, d.seq, d.handler) > (",
                )
                .bind::<SqlUuid, _>(id)
                .sql(", ")
                .bind::<BigInt, _>(seq)
                .sql(", ")
                .bind::<Text, _>(handler)
                .sql(") ORDER BY d.event_id, d.seq, d.handler LIMIT ")
                .bind::<BigInt, _>(BATCH)
                .load(conn)
                .await
            };
            conn.transaction(read).boxed()
        })
        .await?;
    let last = rows.last().filter(|_| is_full(rows.len())).map(|(id, seq, handler, _)| (*id, *seq, handler.clone()));
    replace(&store.rounds.deliveries, Some(last.unwrap_or_else(start_of_deliveries)));
    Ok(rows
        .into_iter()
        .filter(|row| !row.3)
        .map(|(id, seq, handler, _)| HandledDelivery::kept(handler, id, seq))
        .collect())
}

fn is_full(rows: usize) -> bool {
    i64::try_from(rows).is_ok_and(|rows| rows >= BATCH)
}

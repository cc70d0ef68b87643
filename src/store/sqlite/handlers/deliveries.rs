//! Fetches the deliveries that are owed to a handler.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Binary, Bool, Integer, Nullable, Text};
use uuid::Uuid;

use crate::store::sqlite::admin::find_event;
use crate::store::sqlite::clock::read_now;
use crate::store::sqlite::fetch::refuse_oversize;
use crate::store::sqlite::row::COLUMNS;
use crate::store::sqlite::{SHARD, to_fetched, uuid_of};
use crate::store::{DeliveryRequest, FetchedDelivery, HandledDelivery, Position};

/// The result of a fetch.
#[derive(Default)]
pub(in crate::store::sqlite) struct Found {
    pub(in crate::store::sqlite) deliveries: Vec<FetchedDelivery>,
    /// Deliveries whose event was deleted.
    pub(in crate::store::sqlite) gone: Vec<HandledDelivery>,
    /// Deliveries that have to wait, and until when: if they were read again with each fetch they would hide others.
    pub(in crate::store::sqlite) waiting: Vec<(Uuid, i64, i64)>,
}

#[derive(Clone)]
struct Due {
    id: Uuid,
    position: Position,
    lane: String,
    key: String,
    attempts: i32,
    max_attempts: i32,
    next_at: i64,
}

/// The number of extra deliveries that are read to find some that need not wait.
const SPARE: usize = 1_000;

/// In microseconds: deliveries behind one that waits for an operator are checked again this often.
const LONGEST_PUT_OFF: i64 = 10_000_000;

pub(in crate::store::sqlite) fn fetch(
    connection: &mut SqliteConnection,
    request: &DeliveryRequest,
) -> QueryResult<Found> {
    if !request.shards.contains(&SHARD) {
        return Ok(Found::default());
    }
    connection.transaction(|connection| {
        let now = read_now(connection)?;
        let most = request.max_events + SPARE;
        let due = read_due(connection, request, now, most)?;
        let crowded = due.len() >= most;
        let ends = Ends::find(connection, &request.handler, &due)?;
        let mut found = Found::default();
        let mut bytes = 0;
        let mut full = false;
        for due in due {
            match ends.put_off_to(&due).map(|time| time.min(now.saturating_add(LONGEST_PUT_OFF))) {
                Some(time) if crowded && time > due.next_at => found.waiting.push((due.id, due.position.seq, time)),
                Some(_) => {}
                None => full = full || !found.take(connection, request, due, &mut bytes)?,
            }
        }
        Ok(found)
    })
}

impl Found {
    /// Returns whether the budget allowed the delivery. If not, later ones are not read: they may be of the same key.
    fn take(
        &mut self,
        connection: &mut SqliteConnection,
        request: &DeliveryRequest,
        due: Due,
        bytes: &mut usize,
    ) -> QueryResult<bool> {
        if self.deliveries.len() >= request.max_events {
            return Ok(false);
        }
        let row = find_event(connection, COLUMNS, due.id)?.filter(|row| row.position().seq == due.position.seq);
        let Some(row) = row else {
            self.gone.push(HandledDelivery::kept(&request.handler, due.id, due.position.seq));
            return Ok(true);
        };
        let event = refuse_oversize(to_fetched(row), request.max_event_bytes).event;
        let size = event.as_ref().map_or(0, |event| event.size());
        if !self.deliveries.is_empty() && *bytes + size > request.max_bytes {
            return Ok(false);
        }
        *bytes += size;
        self.deliveries.push(FetchedDelivery {
            handler: request.handler.clone(),
            shard: SHARD,
            lane: Arc::from(due.lane.as_str()),
            id: due.id,
            seq: due.position.seq,
            attempts: due.attempts,
            max_attempts: due.max_attempts,
            position: due.position,
            event,
        });
        Ok(true)
    }
}

/// The event, its `scheduled_at`, `seq`, lane and key; the attempts, the most attempts, and when the next is due.
type DueRow = (Vec<u8>, i64, i64, String, String, i32, i32, i64);

/// Reads due deliveries in the order of their events.
fn read_due(
    connection: &mut SqliteConnection,
    request: &DeliveryRequest,
    now: i64,
    most: usize,
) -> QueryResult<Vec<Due>> {
    let except: HashSet<&(Uuid, i64)> = request.except.iter().collect();
    let limit = i64::try_from(most + except.len()).unwrap_or(i64::MAX);
    let mut due = Vec::new();
    for generation in generations(connection, &request.handler)? {
        let rows: Vec<DueRow> = sql::<(Binary, BigInt, BigInt, Text, Text, Integer, Integer, BigInt)>(
            "SELECT event_id, scheduled_at, seq, lane, partition_key, attempts, max_attempts, next_at
                 FROM outbox_handler_deliveries INDEXED BY outbox_handler_deliveries_due WHERE handler = ",
        )
        .bind::<Text, _>(&request.handler)
        .sql(" AND generation = ")
        .bind::<BigInt, _>(generation)
        .sql(" AND shard = 0 AND next_at <= ")
        .bind::<BigInt, _>(now)
        .sql(" ORDER BY next_at, scheduled_at, seq LIMIT ")
        .bind::<BigInt, _>(limit)
        .load(connection)?;
        for (id, scheduled_at, seq, lane, key, attempts, max_attempts, next_at) in rows {
            let (id, position) = (uuid_of(&id)?, Position { scheduled_at, seq });
            if !except.contains(&(id, seq)) {
                due.push(Due { id, position, lane, key, attempts, max_attempts, next_at });
            }
        }
    }
    due.sort_by_key(|due| (due.next_at, due.position));
    due.truncate(most);
    due.sort_by_key(|due| due.position);
    Ok(due)
}

fn generations(connection: &mut SqliteConnection, handler: &str) -> QueryResult<Vec<i64>> {
    sql::<BigInt>("SELECT 0 UNION ALL SELECT generation FROM outbox_handlers WHERE name = ")
        .bind::<Text, _>(handler)
        .load(connection)
}

/// For each key, the first delivery that is not among those read, and the first unsettled event.
struct Ends(HashMap<(String, String), End>);

#[derive(Default)]
struct End {
    owed: Option<(Position, i64)>,
    open: Option<(Position, Option<i64>)>,
}

impl Ends {
    fn find(connection: &mut SqliteConnection, handler: &str, due: &[Due]) -> QueryResult<Self> {
        let read: HashSet<(Uuid, i64)> = due.iter().map(|due| (due.id, due.position.seq)).collect();
        let mut ends = HashMap::new();
        for due in due.iter().filter(|due| !due.key.is_empty()) {
            let key = (due.lane.clone(), due.key.clone());
            if let Entry::Vacant(entry) = ends.entry(key) {
                let owed = first_owed(connection, handler, entry.key(), &read)?;
                let open = first_open(connection, entry.key())?;
                entry.insert(End { owed, open });
            }
        }
        Ok(Self(ends))
    }

    /// The time until which a delivery has to wait; `None`: it need not wait.
    fn put_off_to(&self, due: &Due) -> Option<i64> {
        let end = self.0.get(&(due.lane.clone(), due.key.clone()))?;
        let owed = end.owed.filter(|(position, _)| *position < due.position).map(|(_, next_at)| next_at);
        let open = end.open.filter(|(position, _)| *position < due.position);
        let open = open.map(|(_, retry_at)| retry_at.unwrap_or(due.next_at));
        owed.into_iter().chain(open).max()
    }
}

fn first_owed(
    connection: &mut SqliteConnection,
    handler: &str,
    (lane, key): &(String, String),
    read: &HashSet<(Uuid, i64)>,
) -> QueryResult<Option<(Position, i64)>> {
    let rows = sql::<(Binary, BigInt, BigInt, BigInt)>(
        "SELECT event_id, scheduled_at, seq, next_at
         FROM outbox_handler_deliveries INDEXED BY outbox_handler_deliveries_keys WHERE partition_key <> '' AND lane = ",
    )
    .bind::<Text, _>(lane)
    .sql(" AND partition_key = ")
    .bind::<Text, _>(key)
    .sql(" AND handler = ")
    .bind::<Text, _>(handler)
    .sql(" AND (generation = 0 OR generation = (SELECT generation FROM outbox_handlers WHERE name = ")
    .bind::<Text, _>(handler)
    .sql(")) ORDER BY scheduled_at, seq")
    .load_iter::<(Vec<u8>, i64, i64, i64), diesel::connection::DefaultLoadingMode>(connection)?;
    for row in rows {
        let (id, scheduled_at, seq, next_at) = row?;
        if !read.contains(&(uuid_of(&id)?, seq)) {
            return Ok(Some((Position { scheduled_at, seq }, next_at)));
        }
    }
    Ok(None)
}

fn first_open(
    connection: &mut SqliteConnection,
    (lane, key): &(String, String),
) -> QueryResult<Option<(Position, Option<i64>)>> {
    let row = sql::<(BigInt, BigInt, Nullable<BigInt>)>(
        "SELECT scheduled_at, seq, retry_at FROM outbox_events INDEXED BY outbox_events_keys
         WHERE status IN ('pending', 'retry') AND partition_key <> '' AND seq IS NOT NULL AND publisher_backend = ",
    )
    .bind::<Text, _>(lane)
    .sql(" AND partition_key = ")
    .bind::<Text, _>(key)
    .sql(" ORDER BY scheduled_at, seq LIMIT 1")
    .get_result::<(i64, i64, Option<i64>)>(connection)
    .optional()?;
    Ok(row.map(|(scheduled_at, seq, retry_at)| (Position { scheduled_at, seq }, retry_at)))
}

/// Postpones deliveries that wait: each is found again once the delivery before it was handled, or at its time.
pub(in crate::store::sqlite) fn postpone(
    connection: &mut SqliteConnection,
    handler: &str,
    waiting: &[(Uuid, i64, i64)],
) -> QueryResult<()> {
    connection.immediate_transaction(|connection| {
        for (id, seq, time) in waiting {
            sql_query(
                "UPDATE outbox_handler_deliveries SET next_at = ?1
                 WHERE event_id = ?2 AND seq = ?3 AND handler = ?4 AND next_at < ?1",
            )
            .bind::<BigInt, _>(time)
            .bind::<Binary, _>(id.as_bytes().as_slice())
            .bind::<BigInt, _>(seq)
            .bind::<Text, _>(handler)
            .execute(connection)?;
        }
        Ok(())
    })
}

pub(in crate::store::sqlite) fn has_due(connection: &mut SqliteConnection, handlers: &[String]) -> QueryResult<bool> {
    connection.transaction(|connection| {
        let now = read_now(connection)?;
        for handler in handlers {
            for generation in generations(connection, handler)? {
                let due: bool = sql::<Bool>(
                    "SELECT EXISTS (SELECT 1 FROM outbox_handler_deliveries INDEXED BY outbox_handler_deliveries_due
                     WHERE handler = ",
                )
                .bind::<Text, _>(handler)
                .sql(" AND generation = ")
                .bind::<BigInt, _>(generation)
                .sql(" AND shard = 0 AND next_at <= ")
                .bind::<BigInt, _>(now)
                .sql(")")
                .get_result(connection)?;
                if due {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    })
}

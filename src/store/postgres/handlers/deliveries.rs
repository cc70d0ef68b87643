//! Fetches the deliveries that are owed to a handler.
//!
//! First the due deliveries are read, which are small, by the index on their times; those that the handler may not get yet
//! are left out in the same snapshot. Then their events. A delivery that waits for another of its key would be read again
//! with each fetch, so if there are many, it is postponed until the one that it waits for.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use diesel::QueryResult;
use diesel::data_types::PgTimestamp;
use diesel::sql_types::{Array, BigInt, Bool, Integer, Nullable, SmallInt, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use futures_util::{FutureExt, TryStreamExt};
use uuid::Uuid;

use super::answers;
use crate::event::OutboxEvent;
use crate::store::postgres::row::{DELIVERED, DeliveredRow, DeliveredTypes, FITS, TEXTS, sized};
use crate::store::postgres::schema_connection::SchemaConnection;
use crate::store::postgres::statement::{Statement, Value};
use crate::store::postgres::{PostgresStore, Result};
use crate::store::{Care, DeliveryRequest, FetchedDelivery, HandledDelivery, Position};

const FETCH: &str = "fetch deliveries to a handler";

pub(in crate::store::postgres) async fn fetch(
    store: &PostgresStore,
    request: &DeliveryRequest,
) -> Result<Vec<FetchedDelivery>> {
    let cached = store.target.can_cache_statements();
    let (wanted, work) = (request.clone(), request.clone());
    let (rows, read) = store
        .read(FETCH, |conn| {
            async move {
                let rows = due(conn, &wanted, cached).await?;
                let read = read_events(conn, &wanted, &rows, cached).await?;
                Ok((rows, read))
            }
            .boxed()
        })
        .await?;
    postpone(store, &request.handler, &rows).await?;
    let (fetched, gone) = join(&work, &rows, read);
    if !gone.is_empty() {
        answers::handled(store, &gone, Care::Usual).await?;
    }
    Ok(fetched)
}

type DueTypes = (SqlUuid, BigInt, Text, SmallInt, Timestamptz, Integer, Integer, Nullable<Timestamptz>);

/// A due delivery, and the time until which it is postponed if it has to wait.
#[derive(diesel::Queryable)]
struct Due {
    id: Uuid,
    seq: i64,
    lane: String,
    shard: i16,
    scheduled_at: PgTimestamp,
    attempts: i32,
    max_attempts: i32,
    put_off_to: Option<PgTimestamp>,
}

/// The number of extra deliveries of each shard that are read to find some that need not wait.
const SPARE: usize = 100;

async fn due(conn: &mut SchemaConnection, request: &DeliveryRequest, cached: bool) -> QueryResult<Vec<Due>> {
    let DeliveryRequest { handler, shards, except, max_events, .. } = request;
    let (ids, seqs): (Vec<Uuid>, Vec<i64>) = except.iter().copied().unzip();
    let number = |count: usize| Value::Number(i64::try_from(count).unwrap_or(i64::MAX));
    let most = max_events / shards.len().max(1) + SPARE;
    let values = [
        Value::Text(handler.clone()),
        Value::SmallNumbers(shards.clone()),
        Value::Text(handler.clone()),
        Value::Ids(ids),
        Value::Numbers(seqs),
        number(most),
        Value::Text(handler.clone()),
        number(*max_events),
        number(most),
    ];
    Statement::<DueTypes>::new(cached, DUE, values).load(conn).await
}

/// For each key, the first delivery that is not among those read decides, and the first unsettled event.
const DUE: &str = "WITH known AS MATERIALIZED (SELECT 0::bigint AS generation \
        UNION ALL SELECT h.generation FROM outbox_handlers h WHERE h.name = ?), \
     due AS MATERIALIZED (SELECT d.* FROM unnest(?) AS s(shard) CROSS JOIN known k CROSS JOIN LATERAL (\
        SELECT d.event_id, d.seq, d.lane, d.shard, d.partition_key, d.scheduled_at, d.attempts, d.max_attempts, d.next_at \
            FROM outbox_handler_deliveries d \
            WHERE d.handler = ? AND d.generation = k.generation AND d.shard = s.shard AND d.next_at <= now() \
                AND (d.event_id, d.seq) NOT IN (SELECT * FROM unnest(?, ?)) \
            ORDER BY d.next_at, d.scheduled_at, d.seq LIMIT ?) d), \
     numbered AS (SELECT due.*, \
            row_number() OVER (PARTITION BY lane, partition_key ORDER BY scheduled_at, seq) AS n FROM due), \
     ends AS MATERIALIZED (SELECT k.*, owed.scheduled_at AS owed_at, owed.seq AS owed_seq, owed.next_at AS owed_next, \
            open.scheduled_at AS open_at, open.seq AS open_seq, open.retry_at AS open_next FROM numbered k \
        LEFT JOIN LATERAL (SELECT d.scheduled_at, d.seq, d.next_at FROM outbox_handler_deliveries d \
            WHERE k.n = 1 AND d.lane = k.lane AND d.partition_key = k.partition_key AND d.partition_key <> '' \
                AND d.handler = ? AND d.generation IN (SELECT generation FROM known) \
                AND (d.event_id, d.seq) NOT IN (SELECT event_id, seq FROM due) \
            ORDER BY d.scheduled_at, d.seq LIMIT 1) owed ON true \
        LEFT JOIN LATERAL (SELECT e.scheduled_at, e.seq, e.retry_at FROM outbox_events e \
            WHERE k.n = 1 AND e.publisher_backend = k.lane AND e.partition_key = k.partition_key AND e.partition_key <> '' \
                AND e.status IN ('pending', 'retry') AND e.seq IS NOT NULL \
            ORDER BY e.scheduled_at, e.seq LIMIT 1) open ON true), \
     judged AS MATERIALIZED (SELECT event_id, seq, lane, shard, scheduled_at, attempts, max_attempts, next_at, \
            CASE WHEN (first_value(owed_at) OVER key, first_value(owed_seq) OVER key) < (scheduled_at, seq) \
                THEN first_value(owed_next) OVER key END AS after_owed, \
            CASE WHEN (first_value(open_at) OVER key, first_value(open_seq) OVER key) < (scheduled_at, seq) \
                THEN coalesce(first_value(open_next) OVER key, next_at) END AS after_open \
        FROM ends WINDOW key AS (PARTITION BY lane, partition_key ORDER BY n)) \
     (SELECT event_id, seq, lane, shard, scheduled_at, attempts, max_attempts, NULL::timestamptz AS put_off_to FROM judged \
        WHERE after_owed IS NULL AND after_open IS NULL ORDER BY scheduled_at, seq LIMIT ?) \
     UNION ALL \
     SELECT event_id, seq, lane, shard, scheduled_at, attempts, max_attempts, \
            least(greatest(after_owed, after_open), now() + interval '10 s') FROM judged \
        WHERE greatest(after_owed, after_open) > next_at \
            AND shard IN (SELECT shard FROM due GROUP BY shard HAVING count(*) >= ?)";

type Event = std::result::Result<Arc<OutboxEvent>, String>;

/// The events that were read, and whether the budget ended the reading.
struct Read {
    events: HashMap<Uuid, Event>,
    cut_short: bool,
}

async fn read_events(
    conn: &mut SchemaConnection,
    request: &DeliveryRequest,
    due: &[Due],
    cached: bool,
) -> QueryResult<Read> {
    let mut read = Read { events: HashMap::new(), cut_short: false };
    let (ids, seqs): (Vec<Uuid>, Vec<i64>) =
        due.iter().filter(|due| due.put_off_to.is_none()).map(|due| (due.id, due.seq)).unzip();
    if ids.is_empty() {
        return Ok(read);
    }
    let lanes: HashMap<Uuid, &str> = due.iter().map(|due| (due.id, due.lane.as_str())).collect();
    let most = i64::try_from(request.max_event_bytes).unwrap_or(i64::MAX);
    let values = [Value::Ids(ids), Value::Numbers(seqs), Value::Number(most)];
    let query = Statement::<DeliveredTypes>::new(cached, &EVENTS, values);
    let mut rows = std::pin::pin!(query.load_stream::<DeliveredRow>(conn).await?);
    let mut bytes = 0;
    while let Some(row) = rows.try_next().await? {
        let id = row.row.id;
        let event = row.decode(lanes.get(&id).copied().unwrap_or_default(), request.max_event_bytes);
        let size = event.as_ref().map_or(0, |event| event.size());
        if !read.events.is_empty() && bytes + size > request.max_bytes {
            read.cut_short = true;
            break;
        }
        bytes += size;
        read.events.insert(id, event);
    }
    Ok(read)
}

/// In the order of the ids, so that only a nested loop can join them.
static EVENTS: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT {DELIVERED} FROM unnest(?, ?) AS s(id, seq) CROSS JOIN LATERAL ({}) e {FITS}",
        sized(&format!("SELECT {TEXTS} FROM outbox_events e WHERE e.id = s.id AND e.seq = s.seq OFFSET 0"))
    )
});

/// Deliveries with their events, and those whose event was deleted. The first delivery whose event the budget left unread
/// ends the result, so that no later event of a key comes before an earlier one.
fn join(request: &DeliveryRequest, due: &[Due], mut read: Read) -> (Vec<FetchedDelivery>, Vec<HandledDelivery>) {
    let (mut fetched, mut gone) = (Vec::with_capacity(read.events.len()), Vec::new());
    for due in due.iter().filter(|due| due.put_off_to.is_none()) {
        match read.events.remove(&due.id) {
            Some(event) => fetched.push(due.fetched(&request.handler, event)),
            None if read.cut_short => break,
            None => gone.push(HandledDelivery::kept(&request.handler, due.id, due.seq)),
        }
    }
    (fetched, gone)
}

impl Due {
    fn fetched(&self, handler: &str, event: Event) -> FetchedDelivery {
        FetchedDelivery {
            handler: handler.to_owned(),
            shard: self.shard,
            lane: Arc::from(self.lane.as_str()),
            id: self.id,
            seq: self.seq,
            attempts: self.attempts,
            max_attempts: self.max_attempts,
            position: Position { scheduled_at: self.scheduled_at.0, seq: self.seq },
            event,
        }
    }
}

/// Postpones deliveries that wait: each is found again once the delivery before it was handled, or at its time.
async fn postpone(store: &PostgresStore, handler: &str, due: &[Due]) -> Result<()> {
    let waiting: Vec<(&Due, PgTimestamp)> = due.iter().filter_map(|due| Some((due, due.put_off_to?))).collect();
    if waiting.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = waiting.iter().map(|(due, _)| due.id).collect();
    let seqs: Vec<i64> = waiting.iter().map(|(due, _)| due.seq).collect();
    let times: Vec<PgTimestamp> = waiting.iter().map(|(_, time)| *time).collect();
    store
        .run("postpone deliveries", |conn| {
            diesel::sql_query(
                "UPDATE outbox_handler_deliveries d SET next_at = s.time FROM unnest($1, $2, $3) AS s(id, seq, time) \
                 WHERE d.event_id = s.id AND d.seq = s.seq AND d.handler = $4 AND d.next_at < s.time",
            )
            .bind::<Array<SqlUuid>, _>(ids)
            .bind::<Array<BigInt>, _>(seqs)
            .bind::<Array<Timestamptz>, _>(times)
            .bind::<Text, _>(handler)
            .execute(conn)
            .boxed()
        })
        .await
        .map(drop)
}

pub(in crate::store::postgres) async fn has_due(store: &PostgresStore, handlers: &[String]) -> Result<bool> {
    let query = Statement::<Bool>::new(store.target.can_cache_statements(), HAS_DUE, [Value::Texts(handlers.to_vec())]);
    store.read("check for due deliveries", |conn| query.get_result(conn).boxed()).await
}

const HAS_DUE: &str = "SELECT EXISTS (SELECT FROM unnest(?) AS n(name) \
    CROSS JOIN LATERAL (SELECT 0::bigint AS generation UNION ALL \
        SELECT h.generation FROM outbox_handlers h WHERE h.name = n.name) k \
    CROSS JOIN generate_series(0, 31) AS s(shard) CROSS JOIN LATERAL (SELECT d.seq FROM outbox_handler_deliveries d \
        WHERE d.handler = n.name AND d.generation = k.generation AND d.shard = s.shard::smallint AND d.next_at <= now() \
        ORDER BY d.next_at LIMIT 1) d)";

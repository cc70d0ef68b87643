//! Reading what is due, and what stands in its way.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use diesel::data_types::PgTimestamp;
use diesel::dsl::sql;
use diesel::result::QueryResult;
use diesel::sql_types::{Array, BigInt, Bool, SmallInt, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::{FutureExt, TryStreamExt};
use uuid::Uuid;

use super::row::{self, COLUMNS, Row};
use super::statement::{Statement, Value};
use super::{Lane, PostgresStore, Result};
use crate::store::{Blocker, FetchAnswer, FetchRequest, Fetched, KeyQuestion, Position};

type ShardAndRow = (SmallInt, row::SqlTypes);

/// Reads the ranges, then due retries, then keys, until the budget is spent.
pub(super) async fn fetch(store: &PostgresStore, request: &FetchRequest) -> Result<FetchAnswer> {
    let (request, kept) = (request.clone(), store.target.is_steered());
    store
        .read("fetch due events", |conn| {
            async move {
                let request = &request;
                let mut reader = Reader { request, kept, bytes: 0, answer: FetchAnswer::default() };
                // Dead rows stand at the start for as long as a transaction holds vacuum back.
                if request.ranges.iter().any(|range| range.from == Position::START && range.to.is_none()) {
                    reader.answer.clock = Some(clock(conn, reader.kept).await?);
                }
                if !request.ranges.is_empty() {
                    ranges(conn, &mut reader).await?;
                }
                if !request.retry_shards.is_empty() && !reader.answer.cut_short {
                    retries(conn, &mut reader).await?;
                }
                if !request.keys.is_empty() && !reader.answer.cut_short {
                    keys(conn, &mut reader).await?;
                }
                Ok(reader.answer)
            }
            .boxed()
        })
        .await
}

/// Collects rows until the budget of events or of bytes is spent.
struct Reader<'a> {
    request: &'a FetchRequest,
    kept: bool,
    bytes: usize,
    answer: FetchAnswer,
}

impl Reader<'_> {
    /// Returns whether there is room for another row.
    fn take(&mut self, shard: i16, row: Row, in_range: bool) -> bool {
        let fetched = Fetched { in_range, ..read(shard, row, self.request.max_event_bytes) };
        let size = fetched.event.as_ref().map_or(0, |event| event.size());
        let rows = self.answer.rows.len();
        if rows >= self.request.max_events || rows > 0 && self.bytes + size > self.request.max_bytes {
            self.answer.cut_short = true;
            return false;
        }
        self.bytes += size;
        self.answer.rows.push(fetched);
        true
    }
}

/// Reads a query's rows. What is left when the budget is spent stays in the socket and is thrown away by the driver.
macro_rules! read_into {
    ($reader:expr, $conn:expr, $query:expr, $in_range:expr) => {{
        let mut rows = std::pin::pin!($query.load_stream::<(i16, Row)>($conn).await?);
        while let Some((shard, row)) = rows.try_next().await? {
            if !$reader.take(shard, row, $in_range) {
                break;
            }
        }
        Ok(())
    }};
}

async fn clock(conn: &mut AsyncPgConnection, kept: bool) -> QueryResult<i64> {
    let PgTimestamp(now) = Statement::<Timestamptz>::new(kept, "SELECT now()", []).get_result(conn).await?;
    Ok(now)
}

async fn ranges(conn: &mut AsyncPgConnection, reader: &mut Reader<'_>) -> QueryResult<()> {
    let FetchRequest { lane, ranges, except, .. } = reader.request;
    let end = Position { scheduled_at: i64::MAX, seq: i64::MAX };
    let (from_at, from_seq) = split(ranges.iter().map(|range| range.from));
    let (to_at, to_seq) = split(ranges.iter().map(|range| range.to.unwrap_or(end)));
    let query = Statement::<ShardAndRow>::new(
        reader.kept,
        &RANGES,
        [
            Value::SmallNumbers(ranges.iter().map(|range| range.shard).collect()),
            Value::Times(from_at),
            Value::Numbers(from_seq),
            Value::Times(to_at),
            Value::Numbers(to_seq),
            Value::Numbers(ranges.iter().map(|range| range.limit).collect()),
            Value::Text(lane.to_string()),
            Value::Ids(except.clone()),
        ],
    );
    read_into!(reader, conn, query, true)
}

static RANGES: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT s.shard, {COLUMNS} FROM unnest(?, ?, ?, ?, ?, ?) AS s(shard, from_at, from_seq, to_at, to_seq, lim) \
         CROSS JOIN LATERAL (SELECT * FROM outbox_events e WHERE e.publisher_backend = ? \
            AND outbox_shard(e.partition_key, e.id) = s.shard AND e.status = 'pending' \
            AND (e.scheduled_at, e.seq) > (s.from_at, s.from_seq) AND (e.scheduled_at, e.seq) < (s.to_at, s.to_seq) \
            AND e.seq IS NOT NULL AND e.scheduled_at <= now() AND e.id NOT IN (SELECT unnest(?)) \
            ORDER BY e.scheduled_at, e.seq LIMIT s.lim) e"
    )
});

async fn retries(conn: &mut AsyncPgConnection, reader: &mut Reader<'_>) -> QueryResult<()> {
    let FetchRequest { lane, retry_shards, retry_limit, except, .. } = reader.request;
    let (lane, except, limit) =
        (|| Value::Text(lane.to_string()), || Value::Ids(except.clone()), || Value::Number(*retry_limit));
    let shards = Value::SmallNumbers(retry_shards.clone());
    let values = [shards, lane(), except(), limit(), lane(), except(), limit(), limit()];
    read_into!(reader, conn, Statement::<ShardAndRow>::new(reader.kept, &RETRIES, values), false)
}

// A row that another writer put into `retry` without a time is due like any other of its `scheduled_at`.
static RETRIES: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT s.shard, {COLUMNS} FROM unnest(?) AS s(shard) CROSS JOIN LATERAL (\
            (SELECT * FROM outbox_events e WHERE e.publisher_backend = ? \
                AND outbox_shard(e.partition_key, e.id) = s.shard AND e.status = 'retry' AND e.retry_at <= now() \
                AND e.seq IS NOT NULL AND e.id NOT IN (SELECT unnest(?)) ORDER BY e.retry_at LIMIT ?) \
            UNION ALL (SELECT * FROM outbox_events e WHERE e.publisher_backend = ? \
                AND outbox_shard(e.partition_key, e.id) = s.shard AND e.status = 'retry' AND e.retry_at IS NULL \
                AND e.scheduled_at <= now() AND e.seq IS NOT NULL AND e.id NOT IN (SELECT unnest(?)) LIMIT ?)) e LIMIT ?"
    )
});

async fn keys(conn: &mut AsyncPgConnection, reader: &mut Reader<'_>) -> QueryResult<()> {
    let FetchRequest { lane, keys, key_limit, except, .. } = reader.request;
    let values = [
        Value::Texts(keys.clone()),
        Value::Text(lane.to_string()),
        Value::Ids(except.clone()),
        Value::Number(*key_limit),
    ];
    read_into!(reader, conn, Statement::<ShardAndRow>::new(reader.kept, &KEYS, values), false)
}

static KEYS: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT outbox_shard(e.partition_key, e.id), {COLUMNS} FROM unnest(?) AS k(key) CROSS JOIN LATERAL (\
            SELECT * FROM outbox_events e WHERE e.publisher_backend = ? \
            AND e.partition_key = k.key AND e.partition_key <> '' AND e.status IN ('pending', 'retry') \
            AND e.seq IS NOT NULL AND e.scheduled_at <= now() \
            AND (e.status = 'pending' OR coalesce(e.retry_at, e.scheduled_at) <= now()) \
            AND e.id NOT IN (SELECT unnest(?)) ORDER BY e.scheduled_at, e.seq LIMIT ?) e"
    )
});

/// The first unsettled event before each position, by the `keys` and `held` indexes.
pub(super) async fn blockers(
    store: &PostgresStore,
    lane: &str,
    failed_blocks: bool,
    questions: &[KeyQuestion],
) -> Result<HashMap<String, Blocker>> {
    let (at, seq) = split(questions.iter().map(|question| question.before));
    let except: Vec<Uuid> = questions.iter().flat_map(|question| question.except.iter().copied()).collect();
    let query = Statement::<(Text, SqlUuid, Timestamptz, BigInt, Bool)>::new(
        store.target.is_steered(),
        BLOCKERS,
        [
            Value::Texts(questions.iter().map(|question| question.key.clone()).collect()),
            Value::Times(at),
            Value::Numbers(seq),
            Value::Text(lane.to_owned()),
            Value::Ids(except.clone()),
            Value::Text(lane.to_owned()),
            Value::Ids(except),
            Value::Bool(failed_blocks),
        ],
    );
    let rows = store
        .read("look for what stands before a key's events", |conn| {
            query.load::<(String, Uuid, PgTimestamp, i64, bool)>(conn).boxed()
        })
        .await?;
    let mut found: HashMap<String, Blocker> = HashMap::with_capacity(rows.len());
    for (key, id, PgTimestamp(scheduled_at), seq, due) in rows {
        let blocker = Blocker { id, position: Position { scheduled_at, seq }, due };
        let first = found.entry(key).or_insert_with(|| blocker.clone());
        if blocker.position < first.position {
            *first = blocker;
        }
    }
    Ok(found)
}

macro_rules! first_before {
    ($what:literal, $due:literal) => {
        concat!(
            "(SELECT e.id, e.scheduled_at, e.seq, ",
            $due,
            " AS due FROM outbox_events e WHERE ",
            $what,
            " AND e.partition_key <> '' AND e.partition_key = q.key AND e.publisher_backend = ? \
             AND e.seq IS NOT NULL AND (e.scheduled_at, e.seq) < (q.at, q.seq) AND e.id NOT IN (SELECT unnest(?))"
        )
    };
}

const BLOCKERS: &str = concat!(
    "SELECT q.key, b.id, b.scheduled_at, b.seq, b.due FROM unnest(?, ?, ?) AS q(key, at, seq) CROSS JOIN LATERAL (",
    first_before!(
        "e.status IN ('pending', 'retry')",
        "CASE e.status WHEN 'pending' THEN e.scheduled_at <= now() ELSE coalesce(e.retry_at, e.scheduled_at) <= now() END"
    ),
    " ORDER BY e.scheduled_at, e.seq LIMIT 1) UNION ALL ",
    first_before!("e.status = 'failed' AND e.retry_at IS NULL", "false"),
    " AND ? ORDER BY e.scheduled_at, e.seq LIMIT 1)) b"
);

/// The rows of what was sent that the table does not know as published.
pub(super) async fn unrecorded(store: &PostgresStore, lane: &str, sent: &[(Uuid, i64)]) -> Result<Vec<Fetched>> {
    let (ids, seqs): (Vec<Uuid>, Vec<i64>) = sent.iter().copied().unzip();
    let rows = store
        .run("look up what was sent", |conn| {
            sql::<ShardAndRow>("SELECT outbox_shard(e.partition_key, e.id), ")
                .sql(COLUMNS)
                .sql(" FROM unnest(")
                .bind::<Array<SqlUuid>, _>(ids)
                .sql(", ")
                .bind::<Array<BigInt>, _>(seqs)
                .sql(
                    ") AS s(id, seq) JOIN outbox_events e ON e.id = s.id AND e.seq = s.seq \
                     WHERE e.published_at IS NULL AND e.publisher_backend = ",
                )
                .bind::<Text, _>(lane)
                .sql(" ORDER BY e.scheduled_at, e.seq")
                .load::<(i16, Row)>(conn)
                .boxed()
        })
        .await?;
    Ok(rows.into_iter().map(|(shard, row)| read(shard, row, usize::MAX)).collect())
}

/// Whether a lane has an event that is due and has none before it that is not.
pub(super) async fn has_due(store: &PostgresStore, lanes: &[Lane], failed_blocks: &[Lane]) -> Result<bool> {
    let lanes: Vec<&str> = lanes.iter().map(AsRef::as_ref).collect();
    let holding: Vec<&str> = failed_blocks.iter().map(AsRef::as_ref).collect();
    store
        .run("look whether anything is due", |conn| {
            diesel::sql_query(HAS_DUE)
                .bind::<Array<Text>, _>(lanes)
                .bind::<Array<Text>, _>(holding)
                .get_result::<Answer>(conn)
                .boxed()
        })
        .await
        .map(|answer| answer.yes)
}

#[derive(diesel::QueryableByName)]
struct Answer {
    #[diesel(sql_type = Bool)]
    yes: bool,
}

/// Of a key only the first unsettled event counts: where it is due there is something due, where it waits all wait. Asked
/// so, the `keys` index answers with one row; asked for any event that waits, every retry of the lane would be read.
macro_rules! first_of_a_shard {
    ($due:literal) => {
        concat!(
            "(SELECT e.id FROM outbox_events e WHERE e.publisher_backend = l.lane \
                AND outbox_shard(e.partition_key, e.id) = n::smallint AND ",
            $due,
            " AND NOT EXISTS (SELECT FROM (SELECT w.status, w.retry_at, w.scheduled_at FROM outbox_events w \
                WHERE w.publisher_backend = l.lane AND w.status IN ('pending', 'retry') \
                AND w.partition_key = e.partition_key AND w.partition_key <> '' \
                AND (w.scheduled_at, w.seq) < (e.scheduled_at, e.seq) ORDER BY w.scheduled_at, w.seq LIMIT 1) first \
                WHERE CASE first.status WHEN 'pending' THEN first.scheduled_at \
                    ELSE coalesce(first.retry_at, first.scheduled_at) END > now()) \
            AND NOT (l.lane = ANY ($2) AND EXISTS (SELECT FROM outbox_events f WHERE f.publisher_backend = l.lane \
                AND f.status = 'failed' AND f.retry_at IS NULL AND f.partition_key = e.partition_key AND f.partition_key <> '' \
                AND (f.scheduled_at, f.seq) < (e.scheduled_at, e.seq))) LIMIT 1)"
        )
    };
}

const HAS_DUE: &str = concat!(
    "SELECT EXISTS (\
        SELECT FROM unnest($1) AS l(lane) CROSS JOIN generate_series(0, 31) AS n CROSS JOIN LATERAL (",
    first_of_a_shard!("e.status = 'retry' AND e.retry_at <= now()"),
    " UNION ALL ",
    first_of_a_shard!("e.status = 'retry' AND e.retry_at IS NULL AND e.scheduled_at <= now()"),
    " UNION ALL ",
    first_of_a_shard!("e.status = 'pending' AND e.scheduled_at <= now()"),
    ") e) AS yes"
);

/// Takes a row apart; what cannot be an event says why.
fn read(shard: i16, row: Row, max_event_bytes: usize) -> Fetched {
    Fetched {
        shard,
        position: row.position(),
        id: row.id,
        partition_key: row.partition_key.clone(),
        retry: row.status == "retry",
        in_range: false,
        retry_count: row.retry_count,
        max_retries: row.max_retries,
        updated_at: row.updated_at.0,
        event: row.decode().and_then(|event| match event.size() {
            size if size > max_event_bytes => {
                Err(format!("the event has {size} bytes, more than max_event_bytes = {max_event_bytes} allows"))
            }
            _ => Ok(Arc::new(event)),
        }),
    }
}

fn split(positions: impl Iterator<Item = Position>) -> (Vec<PgTimestamp>, Vec<i64>) {
    positions.map(|position| (PgTimestamp(position.scheduled_at), position.seq)).unzip()
}

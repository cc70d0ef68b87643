//! Reads due events, and the events before them.

mod apart;
mod due;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use diesel::data_types::PgTimestamp;
use diesel::result::{DatabaseErrorKind, Error as DieselError, QueryResult};
use diesel::sql_types::{Array, BigInt, Bool, SmallInt, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use futures_util::{FutureExt, TryStreamExt};
use uuid::Uuid;

pub(super) use self::due::due_lanes;
use super::row::{DELIVERED, DeliveredRow, DeliveredTypes, FITS, TEXTS, sized};
use super::schema_connection::SchemaConnection;
use super::statement::{Statement, Value, on_a_primary};
use super::{PostgresStore, Result};
use crate::error::StoreError;
use crate::store::LaneName;
use crate::store::{
    Blocker, Blockers, ExceptedEvent, FetchRequest, FetchResult, FetchedRow, Position, PredecessorQuery, Snapshot,
    TransactionId, UnrecordedEvents,
};

/// A row with its shard.
type Placed = (SmallInt, DeliveredTypes);
type PlacedRow = (i16, DeliveredRow);

/// Reads the ranges, then due retries, then keys, until the budget is spent. If one row makes that impossible, the rows are
/// read separately.
pub(super) async fn fetch(store: &PostgresStore, request: &FetchRequest) -> Result<FetchResult> {
    match fetch_together(store, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(refused)) => apart::fetch(store, request).await?.ok_or(refused),
        Err(late @ StoreError::Timeout { .. }) => apart::fetch(store, request).await?.ok_or(late),
        Err(error) => Err(error),
    }
}

/// The inner error is about a row, from the server or the driver.
async fn fetch_together(store: &PostgresStore, request: &FetchRequest) -> Result<Result<FetchResult>> {
    let (target, request, cached) = (Arc::clone(&store.target), request.clone(), store.target.can_cache_statements());
    store
        .read(FETCH, |conn| {
            async move {
                let mut reader = Reader::new(&request, cached);
                match read_due(conn, &mut reader).await {
                    Ok(()) => Ok(Ok(reader.answer)),
                    Err(error) if is_about_a_row(&error) => Ok(Err(target.query_error(FETCH, &error))),
                    Err(error) => Err(error),
                }
            }
            .boxed()
        })
        .await
}

const FETCH: &str = "fetch due events";

/// The initial capacity in rows.
const USUAL_ROWS: usize = 2_000;

async fn read_due(conn: &mut SchemaConnection, reader: &mut Reader<'_>) -> QueryResult<()> {
    let request = reader.request;
    // Dead rows stay at the start for as long as a transaction holds back vacuum.
    if request.ranges.iter().any(|range| range.from == Position::START && range.to.is_none()) {
        reader.answer.clock = Some(clock(conn, reader.cached).await?);
    }
    if !request.ranges.is_empty() {
        reader.read(conn, &RANGES, range_values(request), true).await?;
    }
    if !request.retry_shards.is_empty() && !reader.answer.cut_short {
        reader.read(conn, &RETRIES, retry_values(request), false).await?;
    }
    if !request.keys.is_empty() && !reader.answer.cut_short {
        reader.read(conn, &KEYS, key_values(request), false).await?;
    }
    Ok(())
}

/// Whether the error can be about a row: the connection and the transaction are in the expected state.
fn is_about_a_row(error: &DieselError) -> bool {
    use DatabaseErrorKind::{ClosedConnection, ReadOnlyTransaction, SerializationFailure, UnableToSendCommand};
    match error {
        DieselError::DatabaseError(kind, _) => {
            !matches!(kind, ClosedConnection | ReadOnlyTransaction | SerializationFailure | UnableToSendCommand)
        }
        DieselError::DeserializationError(_) => true,
        _ => false,
    }
}

/// Collects rows until the budget of events or of bytes is spent.
struct Reader<'a> {
    request: &'a FetchRequest,
    cached: bool,
    bytes: usize,
    answer: FetchResult,
}

impl<'a> Reader<'a> {
    fn new(request: &'a FetchRequest, cached: bool) -> Self {
        Self { request, cached, bytes: 0, answer: FetchResult::default() }
    }

    fn most_bytes(&self) -> Value {
        Value::Number(i64::try_from(self.request.max_event_bytes).unwrap_or(i64::MAX))
    }

    /// Returns whether the budget allows another row.
    fn push(&mut self, row: FetchedRow) -> bool {
        let size = row.event.as_ref().map_or(0, |event| event.size());
        let rows = self.answer.rows.len();
        if rows >= self.request.max_events || rows > 0 && self.bytes + size > self.request.max_bytes {
            self.answer.cut_short = true;
            return false;
        }
        self.bytes += size;
        if rows == 0 {
            self.answer.rows.reserve(self.request.max_events.min(USUAL_ROWS));
        }
        self.answer.rows.push(row);
        true
    }

    /// Reads a query's rows. Rows beyond the budget stay in the socket, and the driver discards them.
    async fn read(
        &mut self,
        conn: &mut SchemaConnection,
        sql: &'static str,
        mut values: Vec<Value>,
        in_range: bool,
    ) -> QueryResult<()> {
        values.push(self.most_bytes());
        let query = Statement::<Placed>::new(self.cached, sql, values);
        let mut rows = std::pin::pin!(query.load_stream::<PlacedRow>(conn).await?);
        while let Some(row) = rows.try_next().await? {
            if !self.push(FetchedRow { in_range, ..read(row, &self.request.lane, self.request.max_event_bytes) }) {
                break;
            }
        }
        Ok(())
    }
}

async fn clock(conn: &mut SchemaConnection, cached: bool) -> QueryResult<i64> {
    let PgTimestamp(now) = Statement::<Timestamptz>::new(cached, concat!("SELECT now() WHERE ", on_a_primary!()), [])
        .get_result(conn)
        .await?;
    Ok(now)
}

/// The columns that a fetch selects.
struct FetchSelection {
    columns: &'static str,
    /// The columns of the table from which the others are computed.
    inner: &'static str,
    fits: &'static str,
}

impl FetchSelection {
    /// Selects columns of the table unchanged.
    fn plain(columns: &'static str) -> Self {
        Self { columns, inner: "e.*", fits: "" }
    }

    fn delivered() -> Self {
        Self { columns: DELIVERED, inner: TEXTS, fits: FITS }
    }

    /// The query for the rows, in the form that the columns need.
    fn query(&self, rows: &str) -> String {
        if self.fits.is_empty() { rows.to_owned() } else { sized(rows) }
    }
}

static RANGES: LazyLock<String> = LazyLock::new(|| ranges_sql(&FetchSelection::delivered()));
static RETRIES: LazyLock<String> = LazyLock::new(|| retries_sql(&FetchSelection::delivered()));
static KEYS: LazyLock<String> = LazyLock::new(|| keys_sql(&FetchSelection::delivered()));

fn ranges_sql(selection: &FetchSelection) -> String {
    let FetchSelection { columns, inner, fits } = selection;
    let rows = selection.query(&format!(
        "SELECT {inner} FROM outbox_events e WHERE e.publisher_backend = ? \
            AND outbox_shard(e.partition_key, e.id) = s.shard AND e.status = 'pending' \
            AND (e.scheduled_at, e.seq) > (s.from_at, s.from_seq) AND (e.scheduled_at, e.seq) < (s.to_at, s.to_seq) \
            AND e.seq IS NOT NULL AND e.scheduled_at <= now() AND e.id NOT IN (SELECT unnest(?)) \
            AND e.partition_key <> ALL (?) ORDER BY e.scheduled_at, e.seq LIMIT s.lim"
    ));
    format!(
        "SELECT s.shard, {columns} FROM unnest(?, ?, ?, ?, ?, ?) AS s(shard, from_at, from_seq, to_at, to_seq, lim) \
         CROSS JOIN LATERAL ({rows}) e {fits} WHERE {}",
        on_a_primary!()
    )
}

fn range_values(request: &FetchRequest) -> Vec<Value> {
    let FetchRequest { lane, ranges, except, except_keys, .. } = request;
    let end = Position { scheduled_at: i64::MAX, seq: i64::MAX };
    let (from_at, from_seq) = split(ranges.iter().map(|range| range.from));
    let (to_at, to_seq) = split(ranges.iter().map(|range| range.to.unwrap_or(end)));
    vec![
        Value::SmallNumbers(ranges.iter().map(|range| range.shard).collect()),
        Value::Times(from_at),
        Value::Numbers(from_seq),
        Value::Times(to_at),
        Value::Numbers(to_seq),
        Value::Numbers(ranges.iter().map(|range| range.limit).collect()),
        Value::Text(lane.to_string()),
        Value::Ids(ids(except)),
        Value::Texts(except_keys.clone()),
    ]
}

/// A row that another writer set to `retry` without a time is due at its `scheduled_at`.
fn retries_sql(selection: &FetchSelection) -> String {
    let FetchSelection { columns, inner, fits } = selection;
    let rows = selection.query(&format!(
        "SELECT s.shard, e.* FROM unnest(?) AS s(shard) CROSS JOIN LATERAL (\
            (SELECT {inner} FROM outbox_events e WHERE e.publisher_backend = ? \
                AND outbox_shard(e.partition_key, e.id) = s.shard AND e.status = 'retry' AND e.retry_at <= now() \
                AND e.seq IS NOT NULL AND e.id NOT IN (SELECT unnest(?)) ORDER BY e.retry_at LIMIT ?) \
            UNION ALL (SELECT {inner} FROM outbox_events e WHERE e.publisher_backend = ? \
                AND outbox_shard(e.partition_key, e.id) = s.shard AND e.status = 'retry' AND e.retry_at IS NULL \
                AND e.scheduled_at <= now() AND e.seq IS NOT NULL AND e.id NOT IN (SELECT unnest(?)) LIMIT ?)) e LIMIT ?"
    ));
    format!("SELECT e.shard, {columns} FROM ({rows}) e {fits} WHERE {}", on_a_primary!())
}

fn retry_values(request: &FetchRequest) -> Vec<Value> {
    let FetchRequest { lane, retry_shards, retry_limit, passed_retries, except, .. } = request;
    let (lane, except, limit) = (
        || Value::Text(lane.to_string()),
        || Value::Ids([ids(except).as_slice(), passed_retries].concat()),
        || Value::Number(*retry_limit),
    );
    let shards = Value::SmallNumbers(retry_shards.clone());
    vec![shards, lane(), except(), limit(), lane(), except(), limit(), limit()]
}

fn keys_sql(selection: &FetchSelection) -> String {
    let FetchSelection { columns, inner, fits } = selection;
    let rows = selection.query(&format!(
        "SELECT {inner} FROM outbox_events e WHERE e.publisher_backend = ? \
            AND e.partition_key = k.key AND e.partition_key <> '' AND e.status IN ('pending', 'retry') \
            AND (e.scheduled_at, e.seq) >= (k.from_at, k.from_seq) AND e.seq IS NOT NULL AND e.scheduled_at <= now() \
            AND (e.status = 'pending' OR coalesce(e.retry_at, e.scheduled_at) <= now()) \
            AND e.id NOT IN (SELECT unnest(?)) ORDER BY e.scheduled_at, e.seq LIMIT ?"
    ));
    format!(
        "SELECT outbox_shard(e.partition_key, e.id), {columns} FROM unnest(?, ?, ?) AS k(key, from_at, from_seq) CROSS JOIN LATERAL ({rows}) e \
         {fits} WHERE {}",
        on_a_primary!()
    )
}

fn key_values(request: &FetchRequest) -> Vec<Value> {
    let FetchRequest { lane, keys, key_limit, except, .. } = request;
    let (from_at, from_seq) = split(keys.iter().map(|start| start.from));
    vec![
        Value::Texts(keys.iter().map(|start| start.key.clone()).collect()),
        Value::Times(from_at),
        Value::Numbers(from_seq),
        Value::Text(lane.to_string()),
        Value::Ids(ids(except)),
        Value::Number(*key_limit),
    ]
}

fn ids(except: &[ExceptedEvent]) -> Vec<Uuid> {
    except.iter().map(|event| event.id).collect()
}

/// The first unsettled event before each position, by the `keys` and `held` indexes.
pub(super) async fn blockers(
    store: &PostgresStore,
    lane: &str,
    failed_blocks: bool,
    questions: &[PredecessorQuery],
) -> Result<Blockers> {
    let (from_at, from_seq) = split(questions.iter().map(|question| question.from));
    let (at, seq) = split(questions.iter().map(|question| question.before));
    let except = questions.iter().flat_map(|question| question.except.iter().copied());
    let (ids, seqs): (Vec<Uuid>, Vec<i64>) = except.unzip();
    let query = Statement::<(Text, SqlUuid, Timestamptz, BigInt, Bool)>::new(
        store.target.can_cache_statements(),
        BLOCKERS,
        [
            Value::Texts(questions.iter().map(|question| question.key.clone()).collect()),
            Value::Times(from_at),
            Value::Numbers(from_seq),
            Value::Times(at),
            Value::Numbers(seq),
            Value::Text(lane.to_owned()),
            Value::Ids(ids.clone()),
            Value::Numbers(seqs.clone()),
            Value::Text(lane.to_owned()),
            Value::Ids(ids),
            Value::Numbers(seqs),
            Value::Bool(failed_blocks),
            Value::Text(lane.to_owned()),
            Value::Bool(failed_blocks),
            Value::Text(lane.to_owned()),
        ],
    );
    let rows =
        store.read("find blockers", |conn| query.load::<(String, Uuid, PgTimestamp, i64, bool)>(conn).boxed()).await?;
    let mut found: HashMap<String, Blocker> = HashMap::with_capacity(rows.len());
    let mut snapshot = None;
    for (key, id, PgTimestamp(scheduled_at), seq, due) in rows {
        if key.is_empty() {
            // The number's lower half, which rows have.
            let shows_before = TransactionId((seq & i64::from(u32::MAX)) as u32);
            snapshot = Some(Snapshot { shows_before, at: scheduled_at });
            continue;
        }
        let blocker = Blocker { id, position: Position { scheduled_at, seq }, due };
        let first = found.entry(key).or_insert_with(|| blocker.clone());
        if blocker.position < first.position {
            *first = blocker;
        }
    }
    Ok(Blockers { found, snapshot })
}

macro_rules! first_before {
    ($what:literal, $due:literal) => {
        concat!(
            "(SELECT e.id, e.scheduled_at, e.seq, ",
            $due,
            " AS due FROM outbox_events e WHERE ",
            $what,
            " AND e.partition_key <> '' AND e.partition_key = q.key AND e.publisher_backend = ? \
             AND e.seq IS NOT NULL AND (e.scheduled_at, e.seq) >= (q.from_at, q.from_seq) \
             AND (e.scheduled_at, e.seq) < (q.at, q.seq) AND (e.id, e.seq) NOT IN (SELECT * FROM unnest(?, ?))"
        )
    };
}

const BLOCKERS: &str = concat!(
    "SELECT q.key, b.id, b.scheduled_at, b.seq, b.due FROM unnest(?, ?, ?, ?, ?) AS q(key, from_at, from_seq, at, seq) CROSS JOIN LATERAL (",
    first_before!(
        "e.status IN ('pending', 'retry')",
        "CASE e.status WHEN 'pending' THEN e.scheduled_at <= now() ELSE coalesce(e.retry_at, e.scheduled_at) <= now() END"
    ),
    " ORDER BY e.scheduled_at, e.seq LIMIT 1) UNION ALL ",
    first_before!("e.status = 'failed' AND e.retry_at IS NULL", "false"),
    " AND ? ORDER BY e.scheduled_at, e.seq LIMIT 1)) b WHERE ",
    on_a_primary!(),
    // Under the empty key, which no query is about. Fetches do not return waiting retries, nor failed events, in their order.
    " UNION ALL SELECT '', '00000000-0000-0000-0000-000000000000'::uuid, now(), \
        pg_snapshot_xmin(pg_current_snapshot())::text::bigint, false \
        WHERE (SELECT true FROM outbox_events e WHERE e.publisher_backend = ? AND e.status = 'retry' \
            ORDER BY outbox_shard(e.partition_key, e.id), e.retry_at LIMIT 1) IS NULL \
        AND (SELECT true FROM outbox_events e WHERE ? AND e.publisher_backend = ? AND e.status = 'failed' \
            AND e.retry_at IS NULL AND e.partition_key <> '' ORDER BY e.partition_key, e.scheduled_at, e.seq LIMIT 1) IS NULL"
);

/// Those of the sent rows that are not recorded as published.
pub(super) async fn find_unsettled(store: &PostgresStore, lane: &str, sent: &[(Uuid, i64)]) -> Result<Vec<FetchedRow>> {
    let (ids, seqs): (Vec<Uuid>, Vec<i64>) = sent.iter().copied().unzip();
    let values = [Value::Ids(ids), Value::Numbers(seqs), Value::Text(lane.to_owned()), Value::Number(i64::MAX)];
    let query = Statement::<Placed>::new(false, &UNSETTLED_SENT, values);
    let confirmation = store.settling.confirmation();
    let looked_up = store.run("find unsettled events", |conn| {
        async move {
            let rows = query.load::<PlacedRow>(conn).await?;
            // On the connection that showed the recorded state: after a failover in between there is none to ask.
            diesel::sql_query(confirmation).execute(conn).await?;
            Ok(rows)
        }
        .boxed()
    });
    let rows = match looked_up.await {
        Err(error) => {
            store.settling.detect_privileges().await?;
            return Err(error);
        }
        Ok(rows) => rows,
    };
    Ok(rows.into_iter().map(|row| read(row, lane, usize::MAX)).collect())
}

static UNSETTLED_SENT: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT outbox_shard(e.partition_key, e.id), {DELIVERED} FROM unnest(?, ?) AS s(id, seq) CROSS JOIN LATERAL ({}) e {FITS} \
         WHERE {} ORDER BY e.scheduled_at, e.seq",
        sized(&format!(
            "SELECT {TEXTS} FROM outbox_events e WHERE e.id = s.id AND e.seq = s.seq AND e.published_at IS NULL \
                AND e.publisher_backend = ? OFFSET 0"
        )),
        on_a_primary!()
    )
});

/// Whether a lane has a due event without an earlier one that blocks it.
pub(super) async fn has_due(
    store: &PostgresStore,
    lanes: &[LaneName],
    failed_blocks: &[LaneName],
    unrecorded: &UnrecordedEvents,
) -> Result<bool> {
    let lanes: Vec<&str> = lanes.iter().map(AsRef::as_ref).collect();
    let holding: Vec<&str> = failed_blocks.iter().map(AsRef::as_ref).collect();
    store
        .run("check for due events", |conn| {
            diesel::sql_query(HAS_DUE)
                .bind::<Array<Text>, _>(lanes)
                .bind::<Array<Text>, _>(holding)
                .bind::<Array<SqlUuid>, _>(&unrecorded.sent)
                .bind::<Array<SqlUuid>, _>(&unrecorded.blocking)
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

/// Only the first unsettled event of a key counts: if it is due, something is due; if it waits, the whole key waits. This
/// way the `keys` index returns one row; a search for any waiting event would read every retry of the lane.
macro_rules! first_of_a_shard {
    ($due:literal) => {
        concat!(
            "(SELECT e.id FROM outbox_events e WHERE e.publisher_backend = l.lane \
                AND outbox_shard(e.partition_key, e.id) = n::smallint AND ",
            $due,
            " AND e.id <> ALL ($3) AND e.id <> ALL ($4) \
            AND NOT EXISTS (SELECT FROM (SELECT w.id, w.status, w.retry_at, w.scheduled_at FROM outbox_events w \
                WHERE w.publisher_backend = l.lane AND w.status IN ('pending', 'retry') \
                AND w.partition_key = e.partition_key AND w.partition_key <> '' AND w.id <> ALL ($3) \
                AND (w.scheduled_at, w.seq) < (e.scheduled_at, e.seq) ORDER BY w.scheduled_at, w.seq LIMIT 1) first \
                WHERE first.id = ANY ($4) OR CASE first.status WHEN 'pending' THEN first.scheduled_at \
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
    ") e) AS yes WHERE ",
    on_a_primary!()
);

/// Converts a row; one that is not a valid event gets a reason.
fn read((shard, delivered): PlacedRow, lane: &str, max_event_bytes: usize) -> FetchedRow {
    FetchedRow {
        shard,
        position: delivered.position(),
        id: delivered.row.id,
        partition_key: delivered.row.partition_key.clone(),
        retry: delivered.row.status == "retry",
        in_range: false,
        retry_count: delivered.row.retry_count,
        max_retries: delivered.row.max_retries,
        updated_at: delivered.row.updated_at.0,
        version: Some(delivered.version.0),
        place: Some(delivered.place.0),
        event: delivered.decode(lane, max_event_bytes),
    }
}

fn split(positions: impl Iterator<Item = Position>) -> (Vec<PgTimestamp>, Vec<i64>) {
    positions.map(|position| (PgTimestamp(position.scheduled_at), position.seq)).unzip()
}

//! Reads rows separately if one of them makes it impossible to read them together: its text is longer than the server can
//! create or than a statement may take, or is not valid in the connection's encoding.
//!
//! First the rows are read without their data. Then the data is read in small parts and, if a part cannot be read, row by
//! row. A row that cannot be read alone is not a valid event, for the reason in the error.

use std::sync::{Arc, LazyLock};

use diesel::data_types::PgTimestamp;
use diesel::result::QueryResult;
use diesel::sql_types::{BigInt, Binary, Bool, Integer, SmallInt, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use futures_util::{FutureExt, TryStreamExt};
use uuid::Uuid;

use super::{
    FETCH, FetchSelection, Placed, PlacedRow, Reader, clock, is_about_a_row, key_values, keys_sql, range_values,
    ranges_sql, read, retries_sql, retry_values,
};
use crate::error::StoreError;
use crate::store::postgres::row::{DELIVERED, FITS, TEXTS, sized};
use crate::store::postgres::schema_connection::SchemaConnection;
use crate::store::postgres::statement::{Statement, Value, on_a_primary};
use crate::store::postgres::{PostgresStore, Result};
use crate::store::{FetchRequest, FetchResult, FetchedRow, Position};

/// The most statements for one fetch. The next fetch reads the rest.
const MAX_STATEMENTS: usize = 128;

/// The rows of a part.
const PART: usize = 64;

/// The number of tries before a row that exceeds the statement's time limit is blamed.
const TRIES: usize = 2;

/// `None`: nothing is due, so no row is to blame.
pub(super) async fn fetch(store: &PostgresStore, request: &FetchRequest) -> Result<Option<FetchResult>> {
    let (clock, bare) = read_bare(store, request).await?;
    if bare.is_empty() {
        return Ok(None);
    }
    let mut apart = Apart { store, statements: 0, reader: Reader::new(request, false) };
    apart.reader.answer.clock = clock;
    apart.read(&bare).await?;
    Ok(Some(apart.reader.answer))
}

/// A row without its data; its key may be in any encoding.
type BareRow = (i16, Uuid, PgTimestamp, i64, PgTimestamp, i32, i32, bool, Vec<u8>);
type Bare = (SmallInt, SqlUuid, Timestamptz, BigInt, Timestamptz, Integer, Integer, Bool, Binary);

const BARE: &str = "e.id, e.scheduled_at, e.seq, e.updated_at, e.retry_count, e.max_retries, e.status = 'retry', \
    convert_to(e.partition_key, getdatabaseencoding())";

static BARE_RANGES: LazyLock<String> = LazyLock::new(|| ranges_sql(&FetchSelection::plain(BARE)));
static BARE_RETRIES: LazyLock<String> = LazyLock::new(|| retries_sql(&FetchSelection::plain(BARE)));
static BARE_KEYS: LazyLock<String> = LazyLock::new(|| keys_sql(&FetchSelection::plain(BARE)));

static BY_ID: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT outbox_shard(e.partition_key, e.id), {DELIVERED} FROM unnest(?, ?, ?) WITH ORDINALITY AS s(id, seq, updated_at, n) \
         CROSS JOIN LATERAL ({}) e {FITS} WHERE {} ORDER BY s.n",
        sized(&format!(
            "SELECT {TEXTS} FROM outbox_events e WHERE e.id = s.id AND e.seq = s.seq AND e.updated_at = s.updated_at \
                AND e.status IN ('pending', 'retry') OFFSET 0"
        )),
        on_a_primary!()
    )
});

async fn read_bare(store: &PostgresStore, request: &FetchRequest) -> Result<(Option<i64>, Vec<FetchedRow>)> {
    let request = request.clone();
    store
        .read(FETCH, |conn| {
            async move {
                let now = clock(conn, false).await?;
                let mut rows = Vec::new();
                for (sql, values, in_range) in [
                    (&*BARE_RANGES, range_values(&request), true),
                    (&*BARE_RETRIES, retry_values(&request), false),
                    (&*BARE_KEYS, key_values(&request), false),
                ] {
                    let found = Statement::<Bare>::new(false, sql, values).load::<BareRow>(conn).await?;
                    rows.extend(found.into_iter().map(|row| without_event(row, in_range)));
                }
                Ok((Some(now), rows))
            }
            .boxed()
        })
        .await
}

fn without_event(row: BareRow, in_range: bool) -> FetchedRow {
    let (shard, id, PgTimestamp(scheduled_at), seq, PgTimestamp(updated_at), retry_count, max_retries, retry, key) =
        row;
    let partition_key = String::from_utf8_lossy(&key).into_owned();
    let (position, event) = (Position { scheduled_at, seq }, Err(String::new()));
    FetchedRow {
        shard,
        position,
        id,
        partition_key,
        retry,
        in_range,
        retry_count,
        max_retries,
        updated_at,
        version: None,
        place: None,
        event,
    }
}

struct Apart<'a> {
    store: &'a PostgresStore,
    statements: usize,
    reader: Reader<'a>,
}

impl Apart<'_> {
    /// Reads the rows' events in order, so that the budget leaves out the last ones.
    async fn read(&mut self, rows: &[FetchedRow]) -> Result<()> {
        let mut parts: Vec<&[FetchedRow]> = rows.chunks(PART).rev().collect();
        while let Some(part) = parts.pop() {
            if self.statements >= MAX_STATEMENTS || self.reader.answer.cut_short {
                self.reader.answer.cut_short = true;
                return Ok(());
            }
            let Err(reason) = self.read_part(part).await? else { continue };
            match part {
                [row] => self.blame(row, &reason),
                _ => parts.extend(part.chunks(1).rev()),
            }
        }
        Ok(())
    }

    /// Reads a part; the inner error is about one of its rows.
    async fn read_part(&mut self, part: &[FetchedRow]) -> Result<Result<()>> {
        let tries = if part.len() == 1 { TRIES } else { 1 };
        let mut late = None;
        for _ in 0..tries {
            self.statements += 1;
            match load(self.store, part, self.reader.request).await {
                Ok(Ok((rows, stopped))) => {
                    self.take(part, rows);
                    self.reader.answer.cut_short |= stopped;
                    return Ok(Ok(()));
                }
                Ok(Err(refused)) => return Ok(Err(refused)),
                Err(error @ StoreError::Timeout { .. }) => late = Some(error),
                Err(error) => return Err(error),
            }
        }
        Ok(late.map_or(Ok(()), Err))
    }

    fn take(&mut self, part: &[FetchedRow], rows: Vec<FetchedRow>) {
        for row in rows {
            let in_range = part.iter().any(|bare| bare.id == row.id && bare.in_range);
            if !self.reader.push(FetchedRow { in_range, ..row }) {
                return;
            }
        }
    }

    fn blame(&mut self, row: &FetchedRow, reason: &StoreError) {
        tracing::warn!(event.id = %row.id, %reason, "event row cannot be read; recording the event as failed");
        self.reader.push(FetchedRow { event: Err(format!("its row cannot be read: {reason}")), ..row.clone() });
    }
}

/// Rows, and whether the byte budget ended the reading.
type Loaded = (Vec<FetchedRow>, bool);

/// Loads the rows of a part within the byte budget; a row that has changed since is left out.
async fn load(store: &PostgresStore, part: &[FetchedRow], request: &FetchRequest) -> Result<Result<Loaded>> {
    let (target, request) = (Arc::clone(&store.target), request.clone());
    let values = [
        Value::Ids(part.iter().map(|row| row.id).collect()),
        Value::Numbers(part.iter().map(|row| row.position.seq).collect()),
        Value::Times(part.iter().map(|row| PgTimestamp(row.updated_at)).collect()),
        Value::Number(i64::try_from(request.max_event_bytes).unwrap_or(i64::MAX)),
    ];
    store
        .read(FETCH, |conn| {
            async move {
                match stream(conn, values, &request).await {
                    Ok(loaded) => Ok(Ok(loaded)),
                    Err(error) if is_about_a_row(&error) => Ok(Err(target.query_error(FETCH, &error))),
                    Err(error) => Err(error),
                }
            }
            .boxed()
        })
        .await
}

async fn stream(conn: &mut SchemaConnection, values: [Value; 4], request: &FetchRequest) -> QueryResult<Loaded> {
    let query = Statement::<Placed>::new(false, &BY_ID, values);
    let mut found = std::pin::pin!(query.load_stream::<PlacedRow>(conn).await?);
    let (mut rows, mut bytes) = (Vec::new(), 0);
    while let Some(row) = found.try_next().await? {
        let row = read(row, &request.lane, request.max_event_bytes);
        bytes += row.event.as_ref().map_or(0, |event| event.size());
        rows.push(row);
        if bytes > request.max_bytes {
            return Ok((rows, true));
        }
    }
    Ok((rows, false))
}

//! Reads due events. Every query names its index: SQLite's planner would otherwise use statistics that may be old.

use std::collections::HashSet;

use diesel::connection::DefaultLoadingMode;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Text};
use uuid::Uuid;

use super::clock::read_now;
use super::row::{COLUMNS, Row, SqlTypes};
use super::{SHARD, to_fetched};
use crate::store::{FetchRequest, FetchResult, FetchedRow, KeyStart, Position, Range};

/// Answers a request from one snapshot.
pub(super) fn fetch_due(connection: &mut SqliteConnection, request: &FetchRequest) -> QueryResult<FetchResult> {
    connection.transaction(|connection| {
        let now = read_now(connection)?;
        let mut reading = Reading::new(request);
        for range in request.ranges.iter().filter(|range| range.shard == SHARD) {
            read_range(connection, request, range, now, &mut reading)?;
        }
        if request.retry_shards.contains(&SHARD) {
            read_retries(connection, request, now, &mut reading)?;
        }
        for start in &request.keys {
            read_key(connection, request, start, now, &mut reading)?;
        }
        Ok(reading.answer)
    })
}

/// The rows read so far, and the remaining budget.
struct Reading<'a> {
    except: HashSet<&'a Uuid>,
    bytes: usize,
    max_events: usize,
    max_bytes: usize,
    max_event_bytes: usize,
    answer: FetchResult,
}

impl<'a> Reading<'a> {
    fn new(request: &'a FetchRequest) -> Self {
        let FetchRequest { max_events, max_bytes, max_event_bytes, .. } = *request;
        let except = request.except.iter().map(|event| &event.id).collect();
        Self { except, bytes: 0, max_events, max_bytes, max_event_bytes, answer: FetchResult::default() }
    }

    /// A LIMIT that leaves `limit` rows after the excluded ones are skipped.
    fn sql_limit(&self, limit: i64) -> i64 {
        limit.saturating_add(i64::try_from(self.except.len()).unwrap_or(i64::MAX))
    }

    /// Reads rows one by one from the statement that yields them, so that memory never holds more than the budget.
    fn take(&mut self, rows: impl Iterator<Item = QueryResult<Row>>, in_range: bool) -> QueryResult<()> {
        for row in rows {
            let row = row?;
            if self.except.contains(&row.id()) {
                continue;
            }
            let fetched = FetchedRow { in_range, ..refuse_oversize(to_fetched(row), self.max_event_bytes) };
            // A row that is not a valid event is already small: only its reason is kept.
            let size = fetched.event.as_ref().map_or(0, |event| event.size());
            let count = self.answer.rows.len();
            if count >= self.max_events || count > 0 && self.bytes.saturating_add(size) > self.max_bytes {
                self.answer.cut_short = true;
                break;
            }
            self.bytes = self.bytes.saturating_add(size);
            self.answer.rows.push(fetched);
        }
        Ok(())
    }
}

pub(super) fn refuse_oversize(mut fetched: FetchedRow, max_event_bytes: usize) -> FetchedRow {
    let size = fetched.event.as_ref().map_or(0, |event| event.size());
    if size > max_event_bytes {
        fetched.event = Err(format!("the event has {size} bytes, and max_event_bytes allows {max_event_bytes}"));
    }
    fetched
}

fn read_range(
    connection: &mut SqliteConnection,
    request: &FetchRequest,
    range: &Range,
    now: i64,
    reading: &mut Reading<'_>,
) -> QueryResult<()> {
    if reading.answer.cut_short {
        return Ok(());
    }
    // One upper bound for both limits, since only one of them can bound the index scan.
    let end_of_due = Position { scheduled_at: now.saturating_add(1), seq: i64::MIN };
    let to = range.to.map_or(end_of_due, |to| to.min(end_of_due));
    let except_keys = serde_json::json!(request.except_keys).to_string();
    let rows = sql::<SqlTypes>(&format!(
        "SELECT {COLUMNS} FROM outbox_events AS e INDEXED BY outbox_events_due
         WHERE status = 'pending' AND seq IS NOT NULL AND publisher_backend = "
    ))
    .bind::<Text, _>(&*request.lane)
    .sql(" AND (scheduled_at, seq) > (")
    .bind::<BigInt, _>(range.from.scheduled_at)
    .sql(", ")
    .bind::<BigInt, _>(range.from.seq)
    .sql(") AND (scheduled_at, seq) < (")
    .bind::<BigInt, _>(to.scheduled_at)
    .sql(", ")
    .bind::<BigInt, _>(to.seq)
    .sql(") AND partition_key NOT IN (SELECT value FROM json_each(")
    .bind::<Text, _>(except_keys)
    .sql(")) ORDER BY scheduled_at, seq LIMIT ")
    .bind::<BigInt, _>(reading.sql_limit(range.limit))
    .load_iter::<Row, DefaultLoadingMode>(connection)?;
    reading.take(rows, true)
}

fn read_retries(
    connection: &mut SqliteConnection,
    request: &FetchRequest,
    now: i64,
    reading: &mut Reading<'_>,
) -> QueryResult<()> {
    if reading.answer.cut_short {
        return Ok(());
    }
    let passed: HashSet<&Uuid> = request.passed_retries.iter().collect();
    let limit = reading.sql_limit(request.retry_limit);
    let passing = limit.saturating_add(i64::try_from(passed.len()).unwrap_or(i64::MAX));
    let rows = sql::<SqlTypes>(&format!(
        "SELECT {COLUMNS} FROM outbox_events AS e INDEXED BY outbox_events_retry
         WHERE status = 'retry' AND seq IS NOT NULL AND publisher_backend = "
    ))
    .bind::<Text, _>(&*request.lane)
    .sql(" AND coalesce(retry_at, scheduled_at) <= ")
    .bind::<BigInt, _>(now)
    .sql(" ORDER BY coalesce(retry_at, scheduled_at) LIMIT ")
    .bind::<BigInt, _>(passing)
    .load_iter::<Row, DefaultLoadingMode>(connection)?;
    let is_left = |row: &QueryResult<Row>| !row.as_ref().is_ok_and(|row| passed.contains(&row.id()));
    reading.take(rows.filter(is_left).take(usize::try_from(limit).unwrap_or(usize::MAX)), false)
}

fn read_key(
    connection: &mut SqliteConnection,
    request: &FetchRequest,
    start: &KeyStart,
    now: i64,
    reading: &mut Reading<'_>,
) -> QueryResult<()> {
    if reading.answer.cut_short {
        return Ok(());
    }
    let rows = sql::<SqlTypes>(&format!(
        "SELECT {COLUMNS} FROM outbox_events AS e INDEXED BY outbox_events_keys
         WHERE status IN ('pending', 'retry') AND partition_key <> '' AND seq IS NOT NULL AND publisher_backend = "
    ))
    .bind::<Text, _>(&*request.lane)
    .sql(" AND partition_key = ")
    .bind::<Text, _>(&start.key)
    .sql(" AND (scheduled_at, seq) >= (")
    .bind::<BigInt, _>(start.from.scheduled_at)
    .sql(", ")
    .bind::<BigInt, _>(start.from.seq)
    .sql(") AND CASE status WHEN 'retry' THEN coalesce(retry_at, scheduled_at) ELSE scheduled_at END <= ")
    .bind::<BigInt, _>(now)
    .sql(" ORDER BY scheduled_at, seq LIMIT ")
    .bind::<BigInt, _>(reading.sql_limit(request.key_limit))
    .load_iter::<Row, DefaultLoadingMode>(connection)?;
    reading.take(rows, false)
}

/// Those rows of a journal that the database has not recorded as published.
pub(super) fn find_unsettled(
    connection: &mut SqliteConnection,
    lane: &str,
    sent: &[(Uuid, i64)],
) -> QueryResult<Vec<FetchedRow>> {
    connection.transaction(|connection| {
        let mut unrecorded = Vec::new();
        for (id, seq) in sent {
            let row = sql::<SqlTypes>(&format!(
                "SELECT {COLUMNS} FROM outbox_events AS e WHERE published_at IS NULL AND id = "
            ))
            .bind::<Binary, _>(id.as_bytes().as_slice())
            .sql(" AND seq = ")
            .bind::<BigInt, _>(*seq)
            .sql(" AND publisher_backend = ")
            .bind::<Text, _>(lane)
            .get_result::<Row>(connection)
            .optional()?;
            unrecorded.extend(row.map(to_fetched));
        }
        Ok(unrecorded)
    })
}

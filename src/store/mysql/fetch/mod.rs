//! Reads due events. Every query names its index, because the server's statistics may be from when the table was empty. Its
//! range is written out: `(a, b) > (x, y)` is not one for the server. The time is the statement's, `UTC_TIMESTAMP`: with the wall
//! clock, `SYSDATE`, a condition bounds no range.

mod blockers;
mod due;
pub(super) mod position;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use diesel::sql_types::BigInt;
use uuid::Uuid;

pub(super) use self::blockers::{find_blocker, find_blockers};
pub(super) use self::due::{due_lanes, has_due};
use self::position::{after, before, position};
use super::clock::micros;
use super::error::Failure;
use super::row::{COLUMNS, Row, SqlTypes};
use super::session::Session;
use super::statement::{Statement, Value, list};
use crate::store::{ExceptedEvent, FetchRequest, FetchResult, FetchedRow, Position};

pub(super) type Placed = (BigInt, SqlTypes);
pub(super) type PlacedRow = (i64, Row);

/// Reads the ranges, then due retries, then keys, until the budget is spent.
pub(super) async fn fetch(session: &mut Session<'_>, request: &FetchRequest) -> Result<FetchResult, Failure> {
    let mut reading = Reading::new(request);
    // Rows that were settled stay at the start for as long as a transaction holds back the purge.
    if request.ranges.iter().any(|range| range.from == Position::START && range.to.is_none()) {
        let clock = Statement::<BigInt>::new(concat!("SELECT ", micros!("UTC_TIMESTAMP(6)")), []);
        reading.answer.clock = Some(session.load_one(clock).await?);
    }
    if !request.ranges.is_empty() {
        session.load_while(ranges(&reading), |row| reading.take(row, true)).await?;
    }
    if !request.retry_shards.is_empty() && !reading.answer.cut_short {
        let passed: HashSet<Uuid> = request.passed_retries.iter().copied().collect();
        let query = retries(&reading);
        session.load_while(query, |row: PlacedRow| passed.contains(&row.1.id()) || reading.take(row, false)).await?;
    }
    if !request.keys.is_empty() && !reading.answer.cut_short {
        session.load_while(keys(&reading), |row| reading.take(row, false)).await?;
    }
    // An event whose transaction is lost in a crash must not have been sent.
    session.confirm_read(!reading.answer.rows.is_empty()).await?;
    Ok(reading.answer)
}

/// Those rows of a journal that the database has not recorded as published.
pub(super) async fn find_unsettled(
    session: &mut Session<'_>,
    lane: &str,
    sent: &[(Uuid, i64)],
) -> Result<Vec<FetchedRow>, Failure> {
    let seqs: HashMap<Uuid, i64> = sent.iter().copied().collect();
    let mut unsettled = Vec::new();
    for part in sent.chunks(MOST_IDS) {
        let sql = format!(
            "SELECT e.shard, {COLUMNS} FROM outbox_events e WHERE e.id IN {} AND e.published_at IS NULL \
             AND e.publisher_backend = ?",
            list(part.len())
        );
        let ids = part.iter().map(|(id, _)| Value::from(*id));
        let query = Statement::<Placed>::built(sql, ids.chain([lane.into()]).collect::<Vec<_>>());
        let rows = session.load::<_, PlacedRow>(query).await?.into_iter().map(|(shard, row)| to_fetched(shard, row));
        unsettled.extend(rows.filter(|row| seqs.get(&row.id) == Some(&row.position.seq)));
    }
    Ok(unsettled)
}

/// The most ids in one statement.
const MOST_IDS: usize = 1_000;

/// The rows read so far, and the remaining budget.
struct Reading<'a> {
    request: &'a FetchRequest,
    except: HashMap<Uuid, Position>,
    bytes: usize,
    answer: FetchResult,
}

impl<'a> Reading<'a> {
    fn new(request: &'a FetchRequest) -> Self {
        Self {
            request,
            except: request.except.iter().map(|event| (event.id, event.position)).collect(),
            bytes: 0,
            answer: FetchResult::default(),
        }
    }

    /// A LIMIT that leaves `limit` rows after these excluded ones are skipped.
    fn sql_limit(&self, limit: i64, is_read: impl Fn(&ExceptedEvent) -> bool) -> i64 {
        let skipped = self.request.except.iter().filter(|event| is_read(event)).count();
        limit.saturating_add(i64::try_from(skipped).unwrap_or(i64::MAX))
    }

    /// Returns whether the budget allows another row.
    fn take(&mut self, (shard, row): PlacedRow, in_range: bool) -> bool {
        // One with another position, a replay, has no room of its own.
        if self.except.get(&row.id()) == Some(&row.position()) {
            return true;
        }
        let fetched = FetchedRow { in_range, ..refuse_oversize(to_fetched(shard, row), self.request.max_event_bytes) };
        let size = fetched.event.as_ref().map_or(0, |event| event.size());
        let count = self.answer.rows.len();
        if count >= self.request.max_events || count > 0 && self.bytes.saturating_add(size) > self.request.max_bytes {
            self.answer.cut_short = true;
            return false;
        }
        self.bytes = self.bytes.saturating_add(size);
        self.answer.rows.push(fetched);
        true
    }
}

pub(super) fn refuse_oversize(mut fetched: FetchedRow, max_event_bytes: usize) -> FetchedRow {
    let size = fetched.event.as_ref().map_or(0, |event| event.size());
    if size > max_event_bytes {
        fetched.event = Err(format!("the event has {size} bytes, and max_event_bytes allows {max_event_bytes}"));
    }
    fetched
}

pub(super) fn to_fetched(shard: i64, row: Row) -> FetchedRow {
    FetchedRow {
        shard: i16::try_from(shard).unwrap_or_default(),
        position: row.position(),
        id: row.id(),
        partition_key: row.partition_key().to_owned(),
        retry: row.is_retry(),
        in_range: false,
        retry_count: row.retry_count(),
        max_retries: row.max_retries(),
        updated_at: row.updated_at(),
        version: None,
        place: None,
        event: row.decode().map(Arc::new),
    }
}

/// One query for each range, which the server reads one after the other.
fn ranges(reading: &Reading<'_>) -> Statement<Placed> {
    let request = reading.request;
    let other_keys = match request.except_keys.len() {
        0 => String::new(),
        count => format!(" AND e.partition_key NOT IN {}", list(count)),
    };
    let (mut parts, mut values) = (Vec::new(), Vec::new());
    for range in &request.ranges {
        let (after, from) = after(">", range.from);
        let before = if range.to.is_some() { concat!(" AND ", before!()) } else { "" };
        let is_read = |event: &ExceptedEvent| {
            event.shard == range.shard && event.position > range.from && range.to.is_none_or(|to| event.position < to)
        };
        parts.push(format!(
            "(SELECT e.shard, {COLUMNS} FROM outbox_events e FORCE INDEX (outbox_events_due) \
             WHERE e.publisher_backend = ? AND e.due_shard = {} AND {after}{before} \
             AND e.scheduled_at <= UTC_TIMESTAMP(6){other_keys} ORDER BY e.scheduled_at, e.seq LIMIT {})",
            range.shard,
            reading.sql_limit(range.limit, is_read)
        ));
        values.push(request.lane.as_ref().into());
        values.extend(from);
        values.extend(range.to.into_iter().flat_map(position));
        values.extend(request.except_keys.iter().map(|key| Value::from(key.as_str())));
    }
    Statement::built(parts.join(" UNION ALL "), values)
}

/// The first of each shard, found in the index alone: the server reads those of every shard, whatever the limit of all is.
fn retries(reading: &Reading<'_>) -> Statement<Placed> {
    let request = reading.request;
    let passed = i64::try_from(request.passed_retries.len()).unwrap_or(i64::MAX);
    let retry_limit = request.retry_limit.saturating_add(passed);
    let limit = reading.sql_limit(retry_limit, |_| true);
    let first_of = |shard: &i16| {
        format!(
            "(SELECT e.id FROM outbox_events e FORCE INDEX (outbox_events_retry) WHERE e.publisher_backend = ? \
             AND e.shard = {shard} AND e.due_again_at <= UTC_TIMESTAMP(6) ORDER BY e.due_again_at LIMIT {})",
            reading.sql_limit(retry_limit, |event| event.shard == *shard)
        )
    };
    let shards: Vec<String> = request.retry_shards.iter().map(first_of).collect();
    let sql = format!(
        "SELECT e.shard, {COLUMNS} FROM ({} LIMIT {limit}) AS due \
         STRAIGHT_JOIN outbox_events e FORCE INDEX (PRIMARY) ON e.id = due.id",
        shards.join(" UNION ALL ")
    );
    let lane = || Value::from(request.lane.as_ref());
    Statement::built(sql, shards.iter().map(|_| lane()).collect::<Vec<_>>())
}

fn keys(reading: &Reading<'_>) -> Statement<Placed> {
    let request = reading.request;
    let (mut parts, mut values) = (Vec::new(), Vec::new());
    for start in &request.keys {
        let (after, from) = after(">=", start.from);
        let is_read =
            |event: &ExceptedEvent| event.key.as_deref() == Some(start.key.as_str()) && event.position >= start.from;
        parts.push(format!(
            "(SELECT e.shard, {COLUMNS} FROM outbox_events e FORCE INDEX (outbox_events_keys) \
             WHERE e.publisher_backend = ? AND e.unsettled_key = ? AND {after} \
             AND COALESCE(e.due_again_at, e.scheduled_at) <= UTC_TIMESTAMP(6) \
             ORDER BY e.scheduled_at, e.seq LIMIT {})",
            reading.sql_limit(request.key_limit, is_read)
        ));
        values.extend([request.lane.as_ref().into(), start.key.as_str().into()]);
        values.extend(from);
    }
    Statement::built(parts.join(" UNION ALL "), values)
}

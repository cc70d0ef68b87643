//! Counts of events, lanes and workers.

use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Text};

use super::clock::read_now;
use super::uuid_of;
use crate::store::{Backlog, EventCounts, WorkerRow};

pub(super) fn overview(connection: &mut SqliteConnection) -> QueryResult<EventCounts> {
    connection.transaction(|connection| {
        let (counts, due, workers) = (counts(connection)?, due(connection)?, workers(connection)?);
        Ok(EventCounts { counts, published_is_estimate: false, due, workers })
    })
}

/// Counts each status by an index that is smaller than the table; the rest of all events is published.
fn counts(connection: &mut SqliteConnection) -> QueryResult<Vec<(String, i64)>> {
    let mut counts: Vec<(String, i64)> = sql::<(Text, BigInt)>(
        "SELECT CAST(status AS TEXT), count(*) FROM outbox_events WHERE status <> 'published' GROUP BY status",
    )
    .load(connection)?;
    let all: i64 = sql::<BigInt>("SELECT count(*) FROM outbox_events").get_result(connection)?;
    let published = all - counts.iter().map(|(_, count)| count).sum::<i64>();
    counts.extend((published > 0).then(|| ("published".to_owned(), published)));
    counts.sort_unstable();
    Ok(counts)
}

pub(super) fn due(connection: &mut SqliteConnection) -> QueryResult<Vec<Backlog>> {
    let now = read_now(connection)?;
    // Reads indexes only: in the rows, these columns are behind the events' data.
    let rows: Vec<(String, i64, i64)> = sql::<(Text, BigInt, BigInt)>(
        "SELECT CAST(lane AS TEXT), sum(events), min(since) FROM (
           SELECT publisher_backend AS lane, count(*) AS events, min(scheduled_at) AS since
           FROM outbox_events INDEXED BY outbox_events_due
           WHERE status = 'pending' AND scheduled_at <= ",
    )
    .bind::<BigInt, _>(now)
    .sql(
        " GROUP BY publisher_backend
           UNION ALL
           SELECT publisher_backend, count(*), min(coalesce(retry_at, scheduled_at))
           FROM outbox_events INDEXED BY outbox_events_retry
           WHERE status = 'retry' AND coalesce(retry_at, scheduled_at) <= ",
    )
    .bind::<BigInt, _>(now)
    .sql(" GROUP BY publisher_backend) GROUP BY lane ORDER BY lane")
    .load(connection)?;
    let due =
        |(lane, events, since)| Backlog { lane: Arc::from(String::as_str(&lane)), events, oldest: span(now, since) };
    Ok(rows.into_iter().map(due).collect())
}

pub(super) fn workers(connection: &mut SqliteConnection) -> QueryResult<Vec<WorkerRow>> {
    let now = read_now(connection)?;
    let workers: Vec<(Vec<u8>, String, i64, String)> = sql::<(Binary, Text, BigInt, Text)>(
        "SELECT id, name, heartbeat_at, backends FROM outbox_workers ORDER BY name, id",
    )
    .load(connection)?;
    let leases: Vec<(Vec<u8>, String)> =
        sql::<(Binary, Text)>("SELECT owner, backend FROM outbox_running_leases ORDER BY backend").load(connection)?;
    let row = |(id, name, heartbeat_at, backends): (Vec<u8>, String, i64, String)| {
        let shards = leases.iter().filter(|(owner, _)| *owner == id).map(|(_, lane)| (Arc::from(lane.as_str()), 1));
        Ok(WorkerRow {
            id: uuid_of(&id)?,
            name,
            heartbeat_at: DateTime::from_timestamp_micros(heartbeat_at).unwrap_or_default(),
            silent_for: span(now, heartbeat_at),
            backends,
            shards: shards.collect(),
        })
    };
    workers.into_iter().map(row).collect()
}

fn span(now: i64, since: i64) -> Duration {
    Duration::from_micros(u64::try_from(now.saturating_sub(since)).unwrap_or(0))
}

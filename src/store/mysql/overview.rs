//! Counts of events, lanes and workers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use diesel::sql_types::{BigInt, Nullable, Text};
use uuid::Uuid;

use super::SHARDS;
use super::clock::{micros, read_now};
use super::error::Failure;
use super::session::Session;
use super::statement::{Statement, Value};
use crate::store::{Backlog, CountMode, EventCounts, WorkerRow};

/// Fewer published events than this are counted exactly.
const MANY: i64 = 100_000;

pub(super) async fn overview(session: &mut Session<'_>, counting: CountMode) -> Result<EventCounts, Failure> {
    session.begin_snapshot().await?;
    let mut counts = counts_unpublished(session).await?;
    let unpublished: i64 = counts.iter().map(|(_, count)| count).sum();
    let rough = if counting == CountMode::Roughly { estimate(session).await? } else { None };
    let rough = rough.map(|all| all - unpublished).filter(|published| *published > MANY);
    let published = match rough {
        Some(published) => published,
        None => {
            session.load_one::<_, i64>(Statement::<BigInt>::new("SELECT COUNT(*) FROM outbox_events", [])).await?
                - unpublished
        }
    };
    counts.extend((published > 0).then(|| ("published".to_owned(), published)));
    counts.sort_unstable();
    let (due, workers) = (due(session).await?, workers(session).await?);
    session.commit().await?;
    Ok(EventCounts { counts, published_is_estimate: rough.is_some(), due, workers })
}

/// The server's estimate of all rows.
async fn estimate(session: &mut Session<'_>) -> Result<Option<i64>, Failure> {
    const READ: &str = "SELECT CAST(table_rows AS signed) FROM information_schema.tables \
        WHERE table_schema = DATABASE() AND table_name = 'outbox_events'";
    let rows: Vec<Option<i64>> = session.load(Statement::<Nullable<BigInt>>::new(READ, [])).await?;
    Ok(rows.into_iter().next().flatten())
}

/// Counts by indexes, in which these events are apart from the published ones.
async fn counts_unpublished(session: &mut Session<'_>) -> Result<Vec<(String, i64)>, Failure> {
    const LISTED: &str = "SELECT e.listed_status, COUNT(*) FROM outbox_events e FORCE INDEX (outbox_events_listed) \
        WHERE e.listed_status >= '' GROUP BY e.listed_status";
    let mut counts: Vec<(String, i64)> = session.load(Statement::<(Text, BigInt)>::new(LISTED, [])).await?;
    let mut pending = 0;
    for lane in lanes(session).await? {
        let sql = format!(
            "SELECT COUNT(*) FROM outbox_events e FORCE INDEX (outbox_events_due) \
             WHERE e.publisher_backend = ? AND e.due_shard IN ({})",
            shards()
        );
        pending += session.load_one::<_, i64>(Statement::<BigInt>::built(sql, [lane.into()])).await?;
    }
    counts.extend((pending > 0).then(|| ("pending".to_owned(), pending)));
    Ok(counts)
}

fn shards() -> String {
    (0..SHARDS).map(|shard| shard.to_string()).collect::<Vec<_>>().join(", ")
}

/// The lanes that have an event: one lookup for each.
async fn lanes(session: &mut Session<'_>) -> Result<Vec<String>, Failure> {
    const FIRST: &str = "SELECT MIN(e.publisher_backend) FROM outbox_events e";
    const NEXT: &str = "SELECT MIN(e.publisher_backend) FROM outbox_events e WHERE e.publisher_backend > ?";
    let mut lanes = Vec::new();
    let mut next: Option<String> = session.load_one(Statement::<Nullable<Text>>::new(FIRST, [])).await?;
    while let Some(lane) = next {
        next = session.load_one(Statement::<Nullable<Text>>::new(NEXT, [lane.as_str().into()])).await?;
        lanes.push(lane);
    }
    Ok(lanes)
}

pub(super) async fn due(session: &mut Session<'_>) -> Result<Vec<Backlog>, Failure> {
    let now = read_now(session).await?;
    let sql = format!(
        "SELECT COUNT(*), {} FROM outbox_events e FORCE INDEX (outbox_events_due) WHERE e.publisher_backend = ? \
         AND e.due_shard IN ({shards}) AND e.scheduled_at <= UTC_TIMESTAMP(6) \
         UNION ALL SELECT COUNT(*), {} FROM outbox_events e FORCE INDEX (outbox_events_retry) \
         WHERE e.publisher_backend = ? AND e.shard IN ({shards}) AND e.due_again_at <= UTC_TIMESTAMP(6)",
        micros!("MIN(e.scheduled_at)"),
        micros!("MIN(e.due_again_at)"),
        shards = shards()
    );
    let mut due = Vec::new();
    for lane in lanes(session).await? {
        let values: [Value; 2] = [lane.as_str().into(), lane.as_str().into()];
        let query = Statement::<(BigInt, Nullable<BigInt>)>::built(sql.clone(), values);
        let rows: Vec<(i64, Option<i64>)> = session.load(query).await?;
        let events = rows.iter().map(|(count, _)| count).sum();
        if let Some(since) = rows.iter().filter_map(|(_, since)| *since).min() {
            due.push(Backlog { lane: Arc::from(lane), events, oldest: span(now, since) });
        }
    }
    Ok(due)
}

type Worker = (String, String, i64, String);

pub(super) async fn workers(session: &mut Session<'_>) -> Result<Vec<WorkerRow>, Failure> {
    const WORKERS: &str = concat!(
        "SELECT CAST(w.id AS char), w.name, ",
        micros!("GREATEST(w.heartbeat_at, COALESCE(h.heartbeat_at, w.heartbeat_at))"),
        ", CAST(w.backends AS char) FROM outbox_workers w LEFT JOIN outbox_heartbeats h ON h.worker = w.id \
         ORDER BY w.name, w.id"
    );
    const LEASES: &str = "SELECT CAST(owner AS char), backend, COUNT(*) FROM outbox_running_leases \
        GROUP BY owner, backend ORDER BY backend";
    let now = read_now(session).await?;
    let workers: Vec<Worker> = session.load(Statement::<(Text, Text, BigInt, Text)>::new(WORKERS, [])).await?;
    let leases: Vec<(String, String, i64)> = session.load(Statement::<(Text, Text, BigInt)>::new(LEASES, [])).await?;
    let mut shards: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for (owner, lane, count) in leases {
        shards.entry(owner).or_default().push((Arc::from(lane), count));
    }
    let row = |(id, name, heartbeat_at, backends): Worker| {
        Ok(WorkerRow {
            name,
            heartbeat_at: DateTime::from_timestamp_micros(heartbeat_at).unwrap_or_default(),
            silent_for: span(now, heartbeat_at),
            backends,
            shards: shards.remove(&id).unwrap_or_default(),
            id: Uuid::try_parse(&id).map_err(Failure::client)?,
        })
    };
    workers.into_iter().map(row).collect()
}

fn span(now: i64, since: i64) -> Duration {
    Duration::from_micros(u64::try_from(now.saturating_sub(since)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::MANY;
    use crate::store::CountMode;
    use crate::store::conformance::Fixture;
    use crate::store::mysql::fixture::MysqlFixture;

    #[tokio::test]
    async fn many_published_events_are_estimated_and_all_others_counted() {
        let fixture = MysqlFixture::fresh().await;
        let insert = async |events: i64, status: &str| {
            let insert = format!(
                "INSERT INTO outbox_events (id, event_type, source, status) \
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {events}) \
                 SELECT REPLACE(UUID(), '-', ''), 't', 's', '{status}' FROM n"
            );
            fixture.execute(&insert).await;
        };
        let count = async |counting| {
            let counts = fixture.store().overview(counting).await.unwrap();
            (counts.counts, counts.published_is_estimate)
        };
        let counts = |counts: &[(&str, i64)]| -> Vec<(String, i64)> {
            counts.iter().map(|(status, count)| ((*status).to_owned(), *count)).collect()
        };
        insert(7, "failed").await;
        insert(5, "oops").await;
        insert(3, "pending").await;
        insert(30, "published").await;
        let few = counts(&[("failed", 7), ("oops", 5), ("pending", 3), ("published", 30)]);
        assert_eq!(count(CountMode::Roughly).await, (few, false));
        insert(3 * MANY / 2, "published").await;
        fixture.execute("ANALYZE TABLE outbox_events").await;
        let (rough, is_estimate) = count(CountMode::Roughly).await;
        assert!(is_estimate && rough[..3] == counts(&[("failed", 7), ("oops", 5), ("pending", 3)]), "{rough:?}");
        assert!((MANY..2 * MANY).contains(&rough[3].1), "{rough:?}");
        let (exact, is_estimate) = count(CountMode::Exactly).await;
        assert_eq!((exact[3].1, is_estimate), (3 * MANY / 2 + 30, false));
    }
}

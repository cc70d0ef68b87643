//! Counts of events, lanes and workers.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::dsl::sql;
use diesel::sql_types::{BigInt, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use futures_util::FutureExt;
use uuid::Uuid;

use super::{LONG_STATEMENT_LIMIT, PostgresStore, Result};
use crate::store::{Backlog, CountMode, EventCounts, WorkerRow};

/// Fewer published events than this are counted exactly.
const MANY: i64 = 100_000;

pub(super) async fn overview(store: &PostgresStore, counting: CountMode) -> Result<EventCounts> {
    let rough = if counting == CountMode::Roughly { rough_counts(store).await? } else { None };
    let published_is_estimate = rough.is_some();
    let counts = match rough {
        Some(counts) => counts,
        None => counts(store).await?,
    };
    let (due, workers) = (due(store).await?, workers(store).await?);
    Ok(EventCounts { counts, published_is_estimate, due, workers })
}

/// Estimated counts; `None` if there are few published events, or no statistics.
async fn rough_counts(store: &PostgresStore) -> Result<Option<Vec<(String, i64)>>> {
    let Some(all) = estimate(store).await?.filter(|all| *all > MANY) else { return Ok(None) };
    let mut counts = counts_unpublished(store).await?;
    let published = all - counts.iter().map(|(_, count)| count).sum::<i64>();
    counts.push(("published".to_owned(), published));
    Ok((published > MANY).then_some(counts))
}

async fn counts(store: &PostgresStore) -> Result<Vec<(String, i64)>> {
    let query = sql::<(Text, BigInt)>("SELECT status, count(*) FROM outbox_events GROUP BY status ORDER BY status");
    store.run_within(LONG_STATEMENT_LIMIT, "count events", |conn| query.load(conn).boxed()).await
}

/// Counts by an index that contains only these events.
async fn counts_unpublished(store: &PostgresStore) -> Result<Vec<(String, i64)>> {
    let query = sql::<(Text, BigInt)>(
        "SELECT status, count(*) FROM outbox_events WHERE status <> 'published' GROUP BY status ORDER BY status",
    );
    store.read_within(LONG_STATEMENT_LIMIT, "count events", |conn| query.load(conn).boxed()).await
}

/// The planner's estimate, from the events per page at the last analysis. `None` if the table was never analysed.
async fn estimate(store: &PostgresStore) -> Result<Option<i64>> {
    let query = sql::<Nullable<BigInt>>(
        "SELECT CASE WHEN reltuples > 0 AND relpages > 0 THEN \
            (reltuples / relpages * (pg_relation_size(oid) / current_setting('block_size')::bigint))::bigint END \
         FROM pg_class WHERE oid = to_regclass('outbox_events')",
    );
    store.run("estimate the number of events", |conn| query.get_result(conn).boxed()).await
}

pub(super) async fn due(store: &PostgresStore) -> Result<Vec<Backlog>> {
    let query = sql::<(Text, BigInt, BigInt)>(
        "SELECT lane, count(*), greatest((extract(epoch FROM now() - min(since)) * 1000000)::bigint, 0) FROM (\
            SELECT publisher_backend AS lane, scheduled_at AS since FROM outbox_events \
                WHERE status = 'pending' AND scheduled_at <= now() \
            UNION ALL \
            SELECT publisher_backend, coalesce(retry_at, scheduled_at) FROM outbox_events \
                WHERE status = 'retry' AND coalesce(retry_at, scheduled_at) <= now()) due \
         WHERE isfinite(since) GROUP BY lane ORDER BY lane",
    );
    let rows: Vec<(String, i64, i64)> =
        store.run_within(LONG_STATEMENT_LIMIT, "count due events", |conn| query.load(conn).boxed()).await?;
    Ok(rows
        .into_iter()
        .map(|(lane, events, micros)| Backlog { lane: Arc::from(lane), events, oldest: span(micros) })
        .collect())
}

pub(super) async fn workers(store: &PostgresStore) -> Result<Vec<WorkerRow>> {
    let query = sql::<(SqlUuid, Text, Timestamptz, BigInt, Text)>(
        "SELECT id, name, at, greatest((extract(epoch FROM now() - at) * 1000000)::bigint, 0), backends::text \
         FROM (SELECT w.*, greatest(w.heartbeat_at, h.heartbeat_at) AS at \
            FROM outbox_workers w LEFT JOIN outbox_heartbeats h ON h.worker = w.id) w ORDER BY name, id",
    );
    let workers: Vec<(Uuid, String, DateTime<Utc>, i64, String)> =
        store.run("read workers", |conn| query.load(conn).boxed()).await?;
    let query = sql::<(SqlUuid, Text, BigInt)>(
        "SELECT owner, backend, count(*) FROM outbox_running_leases GROUP BY owner, backend ORDER BY backend",
    );
    let leases: Vec<(Uuid, String, i64)> = store.run("read leases", |conn| query.load(conn).boxed()).await?;
    Ok(workers
        .into_iter()
        .map(|(id, name, heartbeat_at, silent, backends)| WorkerRow {
            id,
            name,
            heartbeat_at,
            silent_for: span(silent),
            backends,
            shards: leases
                .iter()
                .filter(|(owner, ..)| *owner == id)
                .map(|(_, lane, count)| (Arc::from(lane.as_str()), *count))
                .collect(),
        })
        .collect())
}

fn span(micros: i64) -> Duration {
    Duration::from_micros(micros.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::MANY;
    use crate::store::conformance::Fixture;
    use crate::store::postgres::fixture::PostgresFixture;
    use crate::store::{CountMode, EventCounts};

    #[tokio::test]
    async fn many_published_events_are_estimated_and_all_others_counted() {
        let fixture = PostgresFixture::fresh().await;
        let insert = |events: i64, status: &str| {
            format!(
                "INSERT INTO outbox_events (id, event_type, source, status) \
                 SELECT gen_random_uuid(), 't', 's', '{status}' FROM generate_series(1, {events})"
            )
        };
        let look = async || {
            let EventCounts { counts, published_is_estimate, .. } =
                fixture.store().overview(CountMode::Roughly).await.unwrap();
            (counts.into_iter().collect::<BTreeMap<_, _>>(), published_is_estimate)
        };
        // An analysis of its own, in the middle of an insert, would change the estimate.
        fixture.execute("ALTER TABLE outbox_events SET (autovacuum_enabled = false)").await;
        fixture.execute(&[insert(7, "failed"), insert(30, "published")].join(";")).await;
        for _ in 0..2 {
            let (counts, is_estimate) = look().await;
            assert_eq!((counts["failed"], counts["published"], is_estimate), (7, 30, false));
            fixture.execute("ANALYZE outbox_events").await;
        }
        fixture.execute(&insert(2 * MANY, "published")).await;
        fixture.execute("ANALYZE outbox_events").await;
        fixture.execute(&[insert(2 * MANY, "published"), insert(5, "oops")].join(";")).await;
        let (counts, is_estimate) = look().await;
        assert_eq!((counts["failed"], counts["oops"], is_estimate), (7, 5, true));
        assert!((4 * MANY - MANY / 10..4 * MANY + MANY / 10).contains(&counts["published"]), "{counts:?}");
        let exact = fixture.store().overview(CountMode::Exactly).await.unwrap();
        assert!(exact.counts.contains(&("published".to_owned(), 4 * MANY + 30)) && !exact.published_is_estimate);

        fixture.execute("TRUNCATE outbox_events").await;
        fixture.execute(&[insert(2 * MANY, "pending"), insert(12, "published")].join(";")).await;
        fixture.execute("ANALYZE outbox_events").await;
        let (counts, is_estimate) = look().await;
        assert_eq!((counts["published"], is_estimate), (12, false), "few published among many events");
    }
}

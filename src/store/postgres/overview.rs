//! The outbox at a glance.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::dsl::sql;
use diesel::sql_types::{BigInt, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use futures_util::FutureExt;
use uuid::Uuid;

use super::{LONG_STATEMENT_LIMIT, PostgresStore, Result};
use crate::store::{Due, Overview, WorkerRow};

pub(super) async fn overview(store: &PostgresStore) -> Result<Overview> {
    Ok(Overview { counts: counts(store).await?, due: due(store).await?, workers: workers(store).await? })
}

async fn counts(store: &PostgresStore) -> Result<Vec<(String, i64)>> {
    let query = sql::<(Text, BigInt)>("SELECT status, count(*) FROM outbox_events GROUP BY status ORDER BY status");
    store.run_within(LONG_STATEMENT_LIMIT, "count events", |conn| query.load(conn).boxed()).await
}

pub(super) async fn due(store: &PostgresStore) -> Result<Vec<Due>> {
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
        .map(|(lane, events, micros)| Due { lane: Arc::from(lane), events, oldest: span(micros) })
        .collect())
}

pub(super) async fn workers(store: &PostgresStore) -> Result<Vec<WorkerRow>> {
    let query = sql::<(SqlUuid, Text, Timestamptz, BigInt, Text)>(
        "SELECT id, name, heartbeat_at, greatest((extract(epoch FROM now() - heartbeat_at) * 1000000)::bigint, 0), \
            backends::text FROM outbox_workers ORDER BY name, id",
    );
    let workers: Vec<(Uuid, String, DateTime<Utc>, i64, String)> =
        store.run("read workers", |conn| query.load(conn).boxed()).await?;
    let query = sql::<(SqlUuid, Text, BigInt)>(
        "SELECT owner, backend, count(*) FROM outbox_leases WHERE owner IS NOT NULL AND expires_at > clock_timestamp() \
         GROUP BY owner, backend ORDER BY backend",
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

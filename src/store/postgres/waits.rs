//! How long published events waited.

use chrono::{DateTime, Utc};
use diesel::sql_types::{Array, BigInt, Double, Integer, Text, Timestamptz};
use diesel::{QueryableByName, sql_query};
use futures_util::FutureExt;

use super::admin::by_index;
use super::{PostgresStore, Result};
use crate::store::{Wait, WaitQuery};

/// `$1`: the begin of the first period; `$2`: the seconds of each; `$3`: their number; `$4`: the most events of each; `$5`: the
/// lanes, none for all; `$6`: the most events of a period that are read.
const SAMPLE: &str = "SELECT w.backend, w.due_at, w.published_at FROM generate_series(0, $3 - 1) AS n CROSS JOIN LATERAL (\
        SELECT r.* FROM (\
            SELECT e.publisher_backend AS backend, greatest(e.created_at, e.scheduled_at) AS due_at, e.published_at, e.created_at \
            FROM outbox_events e WHERE e.status = 'published' AND e.created_at >= $1 + n * $2 * interval '1 second' \
                AND e.created_at < $1 + (n + 1) * $2 * interval '1 second' ORDER BY e.created_at LIMIT $6) r \
        WHERE cardinality($5) = 0 OR r.backend = ANY($5) ORDER BY r.created_at LIMIT $4) w \
    WHERE isfinite(w.due_at) AND isfinite(w.published_at)";

#[derive(QueryableByName)]
struct WaitRow {
    #[diesel(sql_type = Text)]
    backend: String,
    #[diesel(sql_type = Timestamptz)]
    due_at: DateTime<Utc>,
    #[diesel(sql_type = Timestamptz)]
    published_at: DateTime<Utc>,
}

pub(super) async fn sample(store: &PostgresStore, query: WaitQuery) -> Result<Vec<Wait>> {
    let limit = query.limit();
    let WaitQuery { from, period, periods, each, backends, .. } = query;
    let sample = sql_query(SAMPLE)
        .into_boxed()
        .bind::<Timestamptz, _>(from)
        .bind::<Double, _>(period.as_secs_f64())
        .bind::<Integer, _>(i32::from(periods))
        .bind::<Integer, _>(i32::from(each))
        .bind::<Array<Text>, _>(backends)
        .bind::<BigInt, _>(limit);
    let rows: Vec<WaitRow> = store.run("sample waits", |conn| by_index(conn, sample).boxed()).await?;
    Ok(rows
        .into_iter()
        .map(|WaitRow { backend, due_at, published_at }| Wait { backend, due_at, published_at })
        .collect())
}

//! Outcomes of events, by minute and by hour.

use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::sql_types::{Array, BigInt, Double, SmallInt, Text, Timestamptz};
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;
use futures_util::FutureExt;

use super::{PostgresStore, Result};
use crate::store::{HistoryBucket, OutcomeCounts, Resolution};

/// `$1` to `$4`: one array for each column; `$5`, `$6`: the resolutions in minutes and the seconds for which each is kept.
const ADD: &str = "WITH spans AS MATERIALIZED (\
        SELECT s.span, to_timestamp(floor(extract(epoch FROM clock_timestamp()) / (s.span * 60)) * s.span * 60) AS began_at, \
            clock_timestamp() - s.kept * interval '1 second' AS kept_since FROM unnest($5, $6) AS s(span, kept)), \
    old AS (DELETE FROM outbox_history h USING spans s WHERE h.span = s.span AND h.began_at < s.kept_since) \
    INSERT INTO outbox_history AS h (span, began_at, backend, published, rejected, failed) \
    SELECT s.span, s.began_at, o.backend, o.published, o.rejected, o.failed \
    FROM spans s CROSS JOIN unnest($1, $2, $3, $4) AS o(backend, published, rejected, failed) ORDER BY s.span, o.backend \
    ON CONFLICT (span, began_at, backend) DO UPDATE SET published = h.published + excluded.published, \
        rejected = h.rejected + excluded.rejected, failed = h.failed + excluded.failed";

pub(super) async fn add(store: &PostgresStore, outcomes: &[(String, OutcomeCounts)]) -> Result<()> {
    let backends: Vec<&str> = outcomes.iter().map(|(backend, _)| backend.as_str()).collect();
    let column = |of: fn(&OutcomeCounts) -> u64| -> Vec<i64> {
        outcomes.iter().map(|(_, outcomes)| i64::try_from(of(outcomes)).unwrap_or(i64::MAX)).collect()
    };
    let spans: Vec<i16> = Resolution::ALL.map(Resolution::minutes).to_vec();
    let kept: Vec<f64> = Resolution::ALL.map(|span| span.kept_for().as_secs_f64()).to_vec();
    store
        .run("write the history", |conn| {
            sql_query(ADD)
                .bind::<Array<Text>, _>(backends)
                .bind::<Array<BigInt>, _>(column(|outcomes| outcomes.published))
                .bind::<Array<BigInt>, _>(column(|outcomes| outcomes.rejected))
                .bind::<Array<BigInt>, _>(column(|outcomes| outcomes.failed))
                .bind::<Array<SmallInt>, _>(spans)
                .bind::<Array<Double>, _>(kept)
                .execute(conn)
                .boxed()
        })
        .await
        .map(drop)
}

#[derive(QueryableByName)]
struct BucketRow {
    #[diesel(sql_type = Timestamptz)]
    began_at: DateTime<Utc>,
    #[diesel(sql_type = Text)]
    backend: String,
    #[diesel(sql_type = BigInt)]
    published: i64,
    #[diesel(sql_type = BigInt)]
    rejected: i64,
    #[diesel(sql_type = BigInt)]
    failed: i64,
}

pub(super) async fn read(store: &PostgresStore, span: Resolution, since: Duration) -> Result<Vec<HistoryBucket>> {
    const READ: &str = "SELECT began_at, backend, published, rejected, failed FROM outbox_history \
        WHERE span = $1 AND began_at >= clock_timestamp() - $2 * interval '1 second' ORDER BY began_at, backend";
    let rows: Vec<BucketRow> = store
        .run("read the history", |conn| {
            sql_query(READ)
                .bind::<SmallInt, _>(span.minutes())
                .bind::<Double, _>(since.as_secs_f64())
                .load(conn)
                .boxed()
        })
        .await?;
    Ok(rows.into_iter().map(HistoryBucket::from).collect())
}

impl From<BucketRow> for HistoryBucket {
    fn from(row: BucketRow) -> Self {
        let count = |count: i64| u64::try_from(count).unwrap_or(0);
        let outcomes =
            OutcomeCounts { published: count(row.published), rejected: count(row.rejected), failed: count(row.failed) };
        Self { began_at: row.began_at, backend: row.backend, outcomes }
    }
}

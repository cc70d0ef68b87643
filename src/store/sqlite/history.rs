//! Outcomes of events, by minute and by hour.

use std::time::Duration;

use chrono::DateTime;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, SmallInt, Text};

use super::clock::{micros, read_now};
use crate::store::{HistoryBucket, OutcomeCounts, Resolution};

const MINUTE: i64 = 60_000_000;

pub(super) fn add(connection: &mut SqliteConnection, outcomes: &[(String, OutcomeCounts)]) -> QueryResult<()> {
    connection.immediate_transaction(|connection| {
        let now = read_now(connection)?;
        for span in Resolution::ALL {
            let width = i64::from(span.minutes()) * MINUTE;
            for (backend, outcomes) in outcomes {
                add_one(connection, span, now - now.rem_euclid(width), backend, *outcomes)?;
            }
            sql_query("DELETE FROM outbox_history WHERE span = ? AND began_at < ?")
                .bind::<SmallInt, _>(span.minutes())
                .bind::<BigInt, _>(now - micros(span.kept_for()))
                .execute(connection)?;
        }
        Ok(())
    })
}

fn add_one(
    connection: &mut SqliteConnection,
    span: Resolution,
    began_at: i64,
    backend: &str,
    outcomes: OutcomeCounts,
) -> QueryResult<()> {
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    sql_query(
        "INSERT INTO outbox_history (span, began_at, backend, published, rejected, failed) VALUES (?, ?, ?, ?, ?, ?)
         ON CONFLICT (span, began_at, backend) DO UPDATE SET published = published + excluded.published,
           rejected = rejected + excluded.rejected, failed = failed + excluded.failed",
    )
    .bind::<SmallInt, _>(span.minutes())
    .bind::<BigInt, _>(began_at)
    .bind::<Text, _>(backend)
    .bind::<BigInt, _>(count(outcomes.published))
    .bind::<BigInt, _>(count(outcomes.rejected))
    .bind::<BigInt, _>(count(outcomes.failed))
    .execute(connection)
    .map(drop)
}

pub(super) fn read(
    connection: &mut SqliteConnection,
    span: Resolution,
    since: Duration,
) -> QueryResult<Vec<HistoryBucket>> {
    let now = read_now(connection)?;
    let rows: Vec<(i64, String, i64, i64, i64)> = sql::<(BigInt, Text, BigInt, BigInt, BigInt)>(
        "SELECT began_at, backend, published, rejected, failed FROM outbox_history WHERE span = ",
    )
    .bind::<SmallInt, _>(span.minutes())
    .sql(" AND began_at >= ")
    .bind::<BigInt, _>(now.saturating_sub(micros(since)))
    .sql(" ORDER BY began_at, backend")
    .load(connection)?;
    let count = |count: i64| u64::try_from(count).unwrap_or(0);
    let bucket = |(began_at, backend, published, rejected, failed)| HistoryBucket {
        began_at: DateTime::from_timestamp_micros(began_at).unwrap_or_default(),
        backend,
        outcomes: OutcomeCounts { published: count(published), rejected: count(rejected), failed: count(failed) },
    };
    Ok(rows.into_iter().map(bucket).collect())
}

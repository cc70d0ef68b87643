//! Outcomes of events, by minute and by hour.

use std::time::Duration;

use chrono::DateTime;
use diesel::sql_types::{BigInt, Text};

use super::clock::{limited, micros, read_now, time};
use super::error::Failure;
use super::session::Session;
use super::statement::{Statement, Value};
use crate::store::{HistoryBucket, OutcomeCounts, Resolution};

const MINUTE: i64 = 60_000_000;

/// In the order of names, so that two workers never deadlock.
pub(super) async fn add(session: &mut Session<'_>, outcomes: &[(String, OutcomeCounts)]) -> Result<(), Failure> {
    const DELETE: &str =
        concat!("DELETE FROM outbox_history WHERE span = ? AND began_at < ", time!(), " ORDER BY began_at LIMIT 10000");
    let now = read_now(session).await?;
    let mut outcomes: Vec<_> = outcomes.iter().collect();
    outcomes.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    for span in Resolution::ALL {
        let width = i64::from(span.minutes()) * MINUTE;
        for (backend, outcomes) in &outcomes {
            add_one(session, span, now - now.rem_euclid(width), backend, *outcomes).await?;
        }
        let end = now - i64::try_from(span.kept_for().as_micros()).unwrap_or(i64::MAX);
        session.execute(Statement::<()>::new(DELETE, [i64::from(span.minutes()).into(), limited(end).into()])).await?;
    }
    Ok(())
}

async fn add_one(
    session: &mut Session<'_>,
    span: Resolution,
    began_at: i64,
    backend: &str,
    outcomes: OutcomeCounts,
) -> Result<(), Failure> {
    const ADD: &str = concat!(
        "INSERT INTO outbox_history (span, began_at, backend, published, rejected, failed) VALUES (?, ",
        time!(),
        ", ?, ?, ?, ?) ON DUPLICATE KEY UPDATE published = published + VALUES(published), \
         rejected = rejected + VALUES(rejected), failed = failed + VALUES(failed)"
    );
    let count = |count: u64| Value::from(i64::try_from(count).unwrap_or(i64::MAX));
    let values: [Value; 6] = [
        i64::from(span.minutes()).into(),
        began_at.into(),
        backend.into(),
        count(outcomes.published),
        count(outcomes.rejected),
        count(outcomes.failed),
    ];
    session.execute(Statement::<()>::new(ADD, values)).await.map(drop)
}

pub(super) async fn read(
    session: &mut Session<'_>,
    span: Resolution,
    since: Duration,
) -> Result<Vec<HistoryBucket>, Failure> {
    const READ: &str = concat!(
        "SELECT ",
        micros!("began_at"),
        ", backend, published, rejected, failed FROM outbox_history WHERE span = ? AND began_at >= ",
        time!(),
        " ORDER BY began_at, backend"
    );
    let now = read_now(session).await?;
    let since = now.saturating_sub(i64::try_from(since.as_micros()).unwrap_or(i64::MAX));
    let query = Statement::<(BigInt, Text, BigInt, BigInt, BigInt)>::new(
        READ,
        [i64::from(span.minutes()).into(), limited(since).into()],
    );
    let rows: Vec<(i64, String, i64, i64, i64)> = session.load(query).await?;
    let count = |count: i64| u64::try_from(count).unwrap_or(0);
    let bucket = |(began_at, backend, published, rejected, failed)| HistoryBucket {
        began_at: DateTime::from_timestamp_micros(began_at).unwrap_or_default(),
        backend,
        outcomes: OutcomeCounts { published: count(published), rejected: count(rejected), failed: count(failed) },
    };
    Ok(rows.into_iter().map(bucket).collect())
}

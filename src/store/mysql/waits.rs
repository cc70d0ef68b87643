//! How long published events waited.

use diesel::sql_types::{BigInt, Nullable, Text};

use super::clock::{limited, micros, time};
use super::error::Failure;
use super::session::Session;
use super::statement::{Statement, Value, list};
use crate::store::{Wait, WaitQuery};

/// The first events of a period. No index has the published ones alone, so they are read whatever their status.
const FIRST: &str = concat!(
    "SELECT publisher_backend, ",
    micros!("GREATEST(created_at, scheduled_at)"),
    " AS due_at, IF(status = 'published', ",
    micros!("published_at"),
    ", NULL) AS published_at, created_at FROM outbox_events FORCE INDEX (outbox_events_created) WHERE created_at >= ",
    time!(),
    " AND created_at < ",
    time!(),
    " ORDER BY created_at LIMIT ?"
);

/// Periods that one statement reads.
const PERIODS: usize = 200;

type Row = (String, i64, Option<i64>);

pub(super) async fn sample(session: &mut Session<'_>, query: &WaitQuery) -> Result<Vec<Wait>, Failure> {
    let bounds: Vec<(i64, i64)> = query.bounds().collect();
    let mut waits = Vec::new();
    for periods in bounds.chunks(PERIODS) {
        let rows: Vec<Row> = session.load(statement(query, periods)).await?;
        waits.extend(
            rows.into_iter().filter_map(|(backend, due, published)| Wait::from_micros(backend, due, published)),
        );
    }
    Ok(waits)
}

fn statement(query: &WaitQuery, periods: &[(i64, i64)]) -> Statement<(Text, BigInt, Nullable<BigInt>)> {
    let mut values: Vec<Value> = Vec::new();
    for (from, until) in periods {
        values.extend([limited(*from).into(), limited(*until).into(), query.limit().into()]);
        values.extend(query.backends.iter().map(|backend| Value::from(backend.as_str())));
        values.push(i64::from(query.each).into());
    }
    Statement::built(vec![part(query); periods.len()].join(" UNION ALL "), values)
}

/// The sample of one period.
fn part(query: &WaitQuery) -> String {
    let meant = if query.backends.is_empty() {
        String::new()
    } else {
        format!("WHERE published_at IS NOT NULL AND publisher_backend IN {}", list(query.backends.len()))
    };
    format!("(SELECT publisher_backend, due_at, published_at FROM ({FIRST}) AS r {meant} ORDER BY created_at LIMIT ?)")
}

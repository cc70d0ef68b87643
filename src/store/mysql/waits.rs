//! How long published events waited.

use diesel::sql_types::{BigInt, Nullable, Text};

use super::clock::{limited, micros, time};
use super::error::Failure;
use super::session::Session;
use super::statement::Statement;
use crate::store::{Wait, WaitQuery};

/// No index has the published events alone, so the first ones of a period are read whatever their status.
const SAMPLE: &str = concat!(
    "SELECT publisher_backend, ",
    micros!("GREATEST(created_at, scheduled_at)"),
    ", IF(status = 'published', ",
    micros!("published_at"),
    ", NULL) FROM outbox_events FORCE INDEX (outbox_events_created) WHERE created_at >= ",
    time!(),
    " AND created_at < ",
    time!(),
    " ORDER BY created_at LIMIT ?"
);

pub(super) async fn sample(session: &mut Session<'_>, query: WaitQuery) -> Result<Vec<Wait>, Failure> {
    let mut waits = Vec::new();
    for (from, until) in query.bounds() {
        let values = [limited(from).into(), limited(until).into(), i64::from(query.each).into()];
        let rows: Vec<(String, i64, Option<i64>)> =
            session.load(Statement::<(Text, BigInt, Nullable<BigInt>)>::new(SAMPLE, values)).await?;
        waits.extend(
            rows.into_iter().filter_map(|(backend, due, published)| Wait::from_micros(backend, due, published)),
        );
    }
    Ok(waits)
}

//! How long published events waited.

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Nullable, Text};

use crate::store::{Wait, WaitQuery};

pub(super) fn sample(connection: &mut SqliteConnection, query: &WaitQuery) -> QueryResult<Vec<Wait>> {
    let backends = serde_json::json!(query.backends).to_string();
    let mut waits = Vec::new();
    for (from, until) in query.bounds() {
        let rows: Vec<(String, i64, Option<i64>)> = sql::<(Text, BigInt, Nullable<BigInt>)>(
            "SELECT publisher_backend, due_at, published_at FROM (
                SELECT publisher_backend, max(created_at, scheduled_at) AS due_at, published_at, created_at
                FROM outbox_events INDEXED BY outbox_events_published WHERE status = 'published' AND created_at >= ",
        )
        .bind::<BigInt, _>(from)
        .sql(" AND created_at < ")
        .bind::<BigInt, _>(until)
        .sql(" ORDER BY created_at LIMIT ")
        .bind::<BigInt, _>(query.limit())
        .sql(") WHERE ")
        .bind::<Bool, _>(query.backends.is_empty())
        .sql(" OR publisher_backend IN (SELECT value FROM json_each(")
        .bind::<Text, _>(&backends)
        .sql(")) ORDER BY created_at LIMIT ")
        .bind::<BigInt, _>(i64::from(query.each))
        .load(connection)?;
        waits.extend(
            rows.into_iter().filter_map(|(backend, due, published)| Wait::from_micros(backend, due, published)),
        );
    }
    Ok(waits)
}

//! Operators' pauses of backends.

use chrono::DateTime;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Text};

use crate::store::BackendPause;

pub(super) fn read(connection: &mut SqliteConnection) -> QueryResult<Vec<BackendPause>> {
    let rows: Vec<(String, i64, String, String)> = sql::<(Text, BigInt, Text, Text)>(
        "SELECT backend, paused_at, paused_by, reason FROM outbox_pauses WHERE host = '' ORDER BY backend",
    )
    .load(connection)?;
    let pause = |(backend, since, by, reason)| {
        let since = DateTime::from_timestamp_micros(since).unwrap_or_default();
        BackendPause { backend, since, by, reason }
    };
    Ok(rows.into_iter().map(pause).collect())
}

pub(super) fn pause(connection: &mut SqliteConnection, backend: &str, by: &str, reason: &str) -> QueryResult<bool> {
    let inserted =
        sql_query("INSERT INTO outbox_pauses (backend, paused_by, reason) VALUES (?, ?, ?) ON CONFLICT DO NOTHING")
            .bind::<Text, _>(backend)
            .bind::<Text, _>(by)
            .bind::<Text, _>(reason)
            .execute(connection)?;
    Ok(inserted > 0)
}

/// Ends the pauses of a backend, also those of its hosts.
pub(super) fn resume(connection: &mut SqliteConnection, backend: &str) -> QueryResult<bool> {
    let deleted =
        sql_query("DELETE FROM outbox_pauses WHERE backend = ?").bind::<Text, _>(backend).execute(connection)?;
    Ok(deleted > 0)
}

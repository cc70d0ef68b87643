//! Operators' pauses of backends.

use chrono::DateTime;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Text};

use super::audit;
use super::clock::read_now;
use crate::store::{AuditRow, BackendPause};

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

/// Returns whether the backend was not paused before.
pub(super) fn pause(connection: &mut SqliteConnection, backend: &str, row: &AuditRow) -> QueryResult<bool> {
    connection.immediate_transaction(|connection| {
        let inserted =
            sql_query("INSERT INTO outbox_pauses (backend, paused_by, reason) VALUES (?, ?, ?) ON CONFLICT DO NOTHING")
                .bind::<Text, _>(backend)
                .bind::<Text, _>(row.who())
                .bind::<Text, _>(&row.reason)
                .execute(connection)?;
        record(connection, row, inserted)
    })
}

/// Ends the pauses of a backend, also those of its hosts; returns whether there was one.
pub(super) fn resume(connection: &mut SqliteConnection, backend: &str, row: &AuditRow) -> QueryResult<bool> {
    connection.immediate_transaction(|connection| {
        let delete = sql_query("DELETE FROM outbox_pauses WHERE backend = ?");
        let deleted = delete.bind::<Text, _>(backend).execute(connection)?;
        record(connection, row, deleted)
    })
}

fn record(connection: &mut SqliteConnection, row: &AuditRow, changed: usize) -> QueryResult<bool> {
    if changed > 0 {
        let now = read_now(connection)?;
        audit::write(connection, row, now)?;
    }
    Ok(changed > 0)
}

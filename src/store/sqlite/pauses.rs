//! Pauses of backends and of their hosts.

use chrono::DateTime;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Nullable, Text};

use super::audit;
use super::clock::read_now;
use crate::store::{AuditRow, BackendPause, NewPause};

pub(super) fn read(connection: &mut SqliteConnection) -> QueryResult<Vec<BackendPause>> {
    let rows: Vec<(String, String, i64, String, String)> = sql::<(Text, Text, BigInt, Text, Text)>(
        "SELECT backend, host, paused_at, paused_by, reason FROM outbox_pauses ORDER BY backend, host",
    )
    .load(connection)?;
    let pause = |(backend, host, since, by, reason)| {
        let since = DateTime::from_timestamp_micros(since).unwrap_or_default();
        BackendPause { backend, host, since, by, reason }
    };
    Ok(rows.into_iter().map(pause).collect())
}

/// Returns whether it was not paused before.
pub(super) fn pause(connection: &mut SqliteConnection, pause: &NewPause, row: Option<&AuditRow>) -> QueryResult<bool> {
    connection.immediate_transaction(|connection| {
        let insert =
            "INSERT INTO outbox_pauses (backend, host, paused_by, reason) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING";
        let inserted = sql_query(insert)
            .bind::<Text, _>(&pause.backend)
            .bind::<Text, _>(&pause.host)
            .bind::<Text, _>(&pause.by)
            .bind::<Text, _>(&pause.reason)
            .execute(connection)?;
        record(connection, row, inserted)
    })
}

/// Ends the pause of a host, or of a backend and all of its hosts; returns whether there was one.
pub(super) fn resume(
    connection: &mut SqliteConnection,
    backend: &str,
    host: Option<&str>,
    row: &AuditRow,
) -> QueryResult<bool> {
    connection.immediate_transaction(|connection| {
        let delete = sql_query("DELETE FROM outbox_pauses WHERE backend = ? AND host = coalesce(?, host)");
        let deleted = delete.bind::<Text, _>(backend).bind::<Nullable<Text>, _>(host).execute(connection)?;
        record(connection, Some(row), deleted)
    })
}

fn record(connection: &mut SqliteConnection, row: Option<&AuditRow>, changed: usize) -> QueryResult<bool> {
    if changed > 0
        && let Some(row) = row
    {
        let now = read_now(connection)?;
        audit::write(connection, row, now)?;
    }
    Ok(changed > 0)
}

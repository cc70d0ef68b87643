//! Pauses of backends and of their hosts.

use chrono::DateTime;
use diesel::sql_types::{BigInt, Text};

use super::audit;
use super::clock::micros;
use super::error::Failure;
use super::session::Session;
use super::statement::{Statement, Value};
use crate::store::{AuditRow, BackendPause, NewPause};

pub(super) async fn read(session: &mut Session<'_>) -> Result<Vec<BackendPause>, Failure> {
    const READ: &str = concat!(
        "SELECT backend, host, ",
        micros!("paused_at"),
        ", paused_by, reason FROM outbox_pauses ORDER BY backend, host"
    );
    let query = Statement::<(Text, Text, BigInt, Text, Text)>::new(READ, []);
    let rows: Vec<(String, String, i64, String, String)> = session.load(query).await?;
    let pause = |(backend, host, since, by, reason)| {
        let since = DateTime::from_timestamp_micros(since).unwrap_or_default();
        BackendPause { backend, host, since, by, reason }
    };
    Ok(rows.into_iter().map(pause).collect())
}

/// Returns whether it was not paused before.
pub(super) async fn pause(
    session: &mut Session<'_>,
    pause: &NewPause,
    row: Option<&AuditRow>,
) -> Result<bool, Failure> {
    const INSERT: &str = "INSERT INTO outbox_pauses (backend, host, paused_by, reason) VALUES (?, ?, ?, ?) \
        ON DUPLICATE KEY UPDATE outbox_pauses.backend = outbox_pauses.backend";
    let values: [Value; 4] =
        [&pause.backend, &pause.host, &pause.by, &pause.reason].map(|text| Value::from(text.as_str()));
    let inserted = session.execute(Statement::<()>::new(INSERT, values)).await?;
    record(session, row, inserted).await
}

/// Ends the pause of a host, or of a backend and all of its hosts; returns whether there was one.
pub(super) async fn resume(
    session: &mut Session<'_>,
    backend: &str,
    host: Option<&str>,
    row: &AuditRow,
) -> Result<bool, Failure> {
    const DELETE: &str = "DELETE FROM outbox_pauses WHERE backend = ? AND host = COALESCE(?, host)";
    let deleted = session.execute(Statement::<()>::new(DELETE, [backend.into(), host.into()])).await?;
    record(session, Some(row), deleted).await
}

async fn record(session: &mut Session<'_>, row: Option<&AuditRow>, changed: usize) -> Result<bool, Failure> {
    if changed > 0
        && let Some(row) = row
    {
        audit::write(session, row).await?;
    }
    Ok(changed > 0)
}

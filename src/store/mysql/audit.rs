//! The table of operators' changes.

use chrono::DateTime;
use diesel::sql_types::{BigInt, Nullable, Text};

use super::clock::micros;
use super::error::Failure;
use super::session::Session;
use super::statement::{Statement, Value};
use crate::store::audit::{AuditEntry, AuditRow, EXPIRED_AT_ONCE, kept_for};

/// Writes a row in the caller's transaction.
pub(super) async fn write(session: &mut Session<'_>, row: &AuditRow) -> Result<(), Failure> {
    const INSERT: &str = "INSERT INTO outbox_audit (at, who, from_where, action, filter, events, ids, reason) \
        VALUES (SYSDATE(6), ?, ?, ?, ?, ?, ?, ?)";
    let values: [Value; 7] = [
        row.who().into(),
        row.from().into(),
        row.action.into(),
        row.filter().into(),
        row.events.into(),
        serde_json::json!(row.ids).to_string().into(),
        row.reason.as_str().into(),
    ];
    session.execute(Statement::<()>::new(INSERT, values)).await.map(drop)
}

type Columns = (BigInt, BigInt, Text, Text, Text, Nullable<Text>, BigInt, Text, Text);
type Row = (i64, i64, String, String, String, Option<String>, i64, String, String);

pub(super) async fn read(
    session: &mut Session<'_>,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<AuditEntry>, Failure> {
    const READ: &str = concat!(
        "SELECT id, ",
        micros!("at"),
        ", who, from_where, action, filter, events, CAST(ids AS char), reason FROM outbox_audit \
         WHERE id < ? ORDER BY id DESC LIMIT ?"
    );
    let values: [Value; 2] = [before.unwrap_or(i64::MAX).into(), limit.into()];
    let rows: Vec<Row> = session.load(Statement::<Columns>::new(READ, values)).await?;
    let entry = |(id, at, who, from, action, filter, events, ids, reason): Row| AuditEntry {
        id,
        at: DateTime::from_timestamp_micros(at).unwrap_or_default(),
        who,
        from,
        action,
        filter,
        events: u64::try_from(events).unwrap_or(0),
        ids: serde_json::from_str(&ids).unwrap_or_default(),
        reason,
    };
    Ok(rows.into_iter().map(entry).collect())
}

pub(super) async fn delete_old(session: &mut Session<'_>) -> Result<usize, Failure> {
    const DELETE: &str = "DELETE FROM outbox_audit WHERE at < UTC_TIMESTAMP(6) - INTERVAL ? SECOND ORDER BY at LIMIT ?";
    let seconds = i64::try_from(kept_for().as_secs()).unwrap_or(i64::MAX);
    session.execute(Statement::<()>::new(DELETE, [seconds.into(), EXPIRED_AT_ONCE.into()])).await
}

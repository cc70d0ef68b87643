//! The table of operators' changes.

use chrono::DateTime;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Nullable, Text};

use super::clock::{micros, read_now};
use crate::store::audit::{AuditEntry, AuditRow, EXPIRED_AT_ONCE, kept_for};

/// Writes a row in the caller's transaction.
pub(super) fn write(connection: &mut SqliteConnection, row: &AuditRow, now: i64) -> QueryResult<()> {
    let ids = serde_json::json!(row.ids).to_string();
    sql_query(
        "INSERT INTO outbox_audit (at, who, from_where, action, filter, events, ids, reason)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind::<BigInt, _>(now)
    .bind::<Text, _>(row.who())
    .bind::<Text, _>(row.from())
    .bind::<Text, _>(row.action)
    .bind::<Nullable<Text>, _>(row.filter())
    .bind::<BigInt, _>(row.events)
    .bind::<Text, _>(ids)
    .bind::<Text, _>(&row.reason)
    .execute(connection)
    .map(drop)
}

/// Writes a row in a transaction of its own.
#[cfg(feature = "consumer")]
pub(super) fn record(connection: &mut SqliteConnection, row: &AuditRow) -> QueryResult<()> {
    connection.immediate_transaction(|connection| {
        let now = read_now(connection)?;
        write(connection, row, now)
    })
}

type Columns = (BigInt, BigInt, Text, Text, Text, Nullable<Text>, BigInt, Text, Text);
type Row = (i64, i64, String, String, String, Option<String>, i64, String, String);

pub(super) fn read(connection: &mut SqliteConnection, before: Option<i64>, limit: i64) -> QueryResult<Vec<AuditEntry>> {
    let rows: Vec<Row> = sql::<Columns>(
        "SELECT id, at, who, from_where, action, filter, events, ids, reason FROM outbox_audit WHERE id < ",
    )
    .bind::<BigInt, _>(before.unwrap_or(i64::MAX))
    .sql(" ORDER BY id DESC LIMIT ")
    .bind::<BigInt, _>(limit)
    .load(connection)?;
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

pub(super) fn delete_old(connection: &mut SqliteConnection) -> QueryResult<usize> {
    connection.immediate_transaction(|connection| {
        let now = read_now(connection)?;
        sql_query("DELETE FROM outbox_audit WHERE id IN (SELECT id FROM outbox_audit WHERE at < ? ORDER BY at LIMIT ?)")
            .bind::<BigInt, _>(now - micros(kept_for()))
            .bind::<BigInt, _>(EXPIRED_AT_ONCE)
            .execute(connection)
    })
}

//! The table of operators' changes.

use chrono::{DateTime, Utc};
use diesel::sql_types::{Array, BigInt, Double, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::RunQueryDsl;
use futures_util::FutureExt;
use uuid::Uuid;

use super::schema_connection::SchemaConnection;
use super::{PostgresStore, Result};
use crate::store::audit::{AuditEntry, AuditRow, EXPIRED_AT_ONCE, kept_for};

/// Writes a row in the caller's transaction.
pub(super) async fn write(conn: &mut SchemaConnection, row: AuditRow) -> QueryResult<()> {
    const WRITE: &str = "INSERT INTO outbox_audit (who, from_where, action, filter, events, ids, reason) \
        VALUES ($1, $2, $3, $4, $5, $6, $7)";
    sql_query(WRITE)
        .bind::<Text, _>(row.who().to_owned())
        .bind::<Text, _>(row.from().to_owned())
        .bind::<Text, _>(row.action)
        .bind::<Nullable<Text>, _>(row.filter().map(str::to_owned))
        .bind::<BigInt, _>(row.events)
        .bind::<Array<SqlUuid>, _>(row.ids)
        .bind::<Text, _>(row.reason)
        .execute(conn)
        .await
        .map(drop)
}

/// Writes a row in a transaction of its own.
#[cfg(feature = "consumer")]
pub(super) async fn record(store: &PostgresStore, row: AuditRow) -> Result<()> {
    store.run("record an operator's change", |conn| write(conn, row).boxed()).await
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Timestamptz)]
    at: DateTime<Utc>,
    #[diesel(sql_type = Text)]
    who: String,
    #[diesel(sql_type = Text)]
    from_where: String,
    #[diesel(sql_type = Text)]
    action: String,
    #[diesel(sql_type = Nullable<Text>)]
    filter: Option<String>,
    #[diesel(sql_type = BigInt)]
    events: i64,
    #[diesel(sql_type = Array<SqlUuid>)]
    ids: Vec<Uuid>,
    #[diesel(sql_type = Text)]
    reason: String,
}

impl From<Row> for AuditEntry {
    fn from(row: Row) -> Self {
        let Row { id, at, who, from_where: from, action, filter, events, ids, reason } = row;
        Self { id, at, who, from, action, filter, events: u64::try_from(events).unwrap_or(0), ids, reason }
    }
}

pub(super) async fn read(store: &PostgresStore, before: Option<i64>, limit: i64) -> Result<Vec<AuditEntry>> {
    const READ: &str = "SELECT id, at, who, from_where, action, filter, events, ids, reason FROM outbox_audit \
        WHERE id < $1 ORDER BY id DESC LIMIT $2";
    let rows: Vec<Row> = store
        .run("read operators' changes", |conn| {
            let before = before.unwrap_or(i64::MAX);
            sql_query(READ).bind::<BigInt, _>(before).bind::<BigInt, _>(limit).load(conn).boxed()
        })
        .await?;
    Ok(rows.into_iter().map(AuditEntry::from).collect())
}

pub(super) async fn delete_old(store: &PostgresStore) -> Result<usize> {
    const DELETE: &str = "DELETE FROM outbox_audit WHERE id IN (SELECT id FROM outbox_audit \
        WHERE at < clock_timestamp() - $1 * interval '1 second' ORDER BY at LIMIT $2)";
    store
        .run("delete old changes of operators", |conn| {
            sql_query(DELETE)
                .bind::<Double, _>(kept_for().as_secs_f64())
                .bind::<BigInt, _>(EXPIRED_AT_ONCE)
                .execute(conn)
                .boxed()
        })
        .await
}

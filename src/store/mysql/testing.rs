//! What tests of applications read and change on a connection of their own.

use diesel::QueryResult;
use diesel::connection::LoadConnection;
use diesel::dsl::sql;
use diesel::mysql::Mysql;
use diesel_async::{AsyncConnection, RunQueryDsl};

use super::row::{COLUMNS, Row, SqlTypes};
use super::statement::Statement;
use crate::event::OutboxEvent;

/// Every event, in the order in which they were written.
pub(crate) async fn read<C: AsyncConnection<Backend = Mysql>>(
    conn: &mut C,
) -> QueryResult<Vec<Result<OutboxEvent, String>>> {
    let rows: Vec<Row> = sql::<SqlTypes>(&query()).load(conn).await?;
    Ok(rows.into_iter().map(Row::decode).collect())
}

pub(crate) fn read_blocking<C: LoadConnection<Backend = Mysql>>(
    conn: &mut C,
) -> QueryResult<Vec<Result<OutboxEvent, String>>> {
    let rows: Vec<Row> = diesel::RunQueryDsl::load(sql::<SqlTypes>(&query()), conn)?;
    Ok(rows.into_iter().map(Row::decode).collect())
}

fn query() -> String {
    format!("SELECT {COLUMNS} FROM outbox_events e ORDER BY e.seq, e.created_at, e.id")
}

/// Moves what is due later by this many microseconds; what becomes due is due now, in its order.
pub(crate) async fn advance<C: AsyncConnection<Backend = Mysql>>(conn: &mut C, micros: i64) -> QueryResult<()> {
    for statement in STATEMENTS {
        let values = vec![micros.into(); statement.matches('?').count()];
        Statement::<()>::new(statement, values).execute(conn).await?;
    }
    Ok(())
}

/// The time that a delivery which holds its key has for a time stays.
const STATEMENTS: &[&str] = &[
    "UPDATE outbox_events e JOIN (SELECT id, row_number() OVER (ORDER BY scheduled_at DESC, seq DESC) AS n \
         FROM outbox_events WHERE status = 'pending' AND scheduled_at > UTC_TIMESTAMP(6) \
         AND scheduled_at <= UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND) d ON d.id = e.id \
     SET e.scheduled_at = UTC_TIMESTAMP(6) - INTERVAL d.n MICROSECOND",
    "UPDATE outbox_events SET scheduled_at = scheduled_at - INTERVAL ? MICROSECOND \
     WHERE status = 'pending' AND scheduled_at > UTC_TIMESTAMP(6)",
    "UPDATE outbox_events SET retry_at = IF(retry_at <= UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, \
         LEAST(retry_at, UTC_TIMESTAMP(6)), retry_at - INTERVAL ? MICROSECOND) \
     WHERE status = 'retry' AND retry_at IS NOT NULL",
    "UPDATE outbox_handler_deliveries SET next_at = IF(next_at <= UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND, \
         LEAST(next_at, UTC_TIMESTAMP(6)), next_at - INTERVAL ? MICROSECOND) \
     WHERE next_at < TIMESTAMP'9999-12-31 23:59:59.999999'",
];

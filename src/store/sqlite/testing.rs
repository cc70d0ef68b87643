//! What tests of applications read and change on a connection of their own.

use diesel::QueryResult;
use diesel::connection::LoadConnection;
use diesel::dsl::sql;
use diesel::sql_query;
use diesel::sql_types::BigInt;
use diesel::sqlite::Sqlite;
use diesel_async::{AsyncConnection, RunQueryDsl};

use super::row::{COLUMNS, Row, SqlTypes};
use crate::event::OutboxEvent;

/// Every event, in the order in which they were written.
pub(crate) async fn read<C: AsyncConnection<Backend = Sqlite>>(
    conn: &mut C,
) -> QueryResult<Vec<Result<OutboxEvent, String>>> {
    let rows: Vec<Row> = sql::<SqlTypes>(&query()).load(conn).await?;
    Ok(rows.into_iter().map(Row::decode).collect())
}

pub(crate) fn read_blocking<C: LoadConnection<Backend = Sqlite>>(
    conn: &mut C,
) -> QueryResult<Vec<Result<OutboxEvent, String>>> {
    let rows: Vec<Row> = diesel::RunQueryDsl::load(sql::<SqlTypes>(&query()), conn)?;
    Ok(rows.into_iter().map(Row::decode).collect())
}

fn query() -> String {
    format!("SELECT {COLUMNS} FROM outbox_events e ORDER BY e.seq, e.created_at, e.id")
}

/// Moves what is due later by this many microseconds; what becomes due is due now, in its order.
pub(crate) async fn advance<C: AsyncConnection<Backend = Sqlite>>(conn: &mut C, micros: i64) -> QueryResult<()> {
    for statement in STATEMENTS {
        let statement = statement.replace("NOW", NOW);
        sql_query(statement).bind::<BigInt, _>(micros).execute(conn).await?;
    }
    Ok(())
}

const NOW: &str = "(strftime('%s', 'now') * 1000000 + substr(strftime('%f', 'now'), 4) * 1000)";

/// The number that a delivery which holds its key has for a time stays.
const STATEMENTS: &[&str] = &[
    "UPDATE outbox_events SET scheduled_at = NOW - d.n \
     FROM (SELECT id, row_number() OVER (ORDER BY scheduled_at DESC, seq DESC) AS n FROM outbox_events \
         WHERE status = 'pending' AND scheduled_at > NOW AND scheduled_at <= NOW + ?1) d \
     WHERE d.id = outbox_events.id",
    "UPDATE outbox_events SET scheduled_at = scheduled_at - ?1 WHERE status = 'pending' AND scheduled_at > NOW",
    "UPDATE outbox_events SET retry_at = CASE WHEN retry_at <= NOW + ?1 THEN min(retry_at, NOW) \
     ELSE retry_at - ?1 END WHERE status = 'retry' AND retry_at IS NOT NULL",
    "UPDATE outbox_handler_deliveries SET next_at = CASE WHEN next_at <= NOW + ?1 THEN min(next_at, NOW) \
     ELSE next_at - ?1 END WHERE next_at < 9223372036854775807",
];

//! What tests of applications read and change on a connection of their own.

use diesel::QueryResult;
use diesel::connection::LoadConnection;
use diesel::dsl::sql;
use diesel::pg::Pg;
use diesel::sql_query;
use diesel::sql_types::BigInt;
use diesel_async::{AsyncConnection, RunQueryDsl};

use super::row::{COLUMNS, Row, SqlTypes};
use crate::event::OutboxEvent;

/// Every event, in the order in which they were written.
pub(crate) async fn read<C: AsyncConnection<Backend = Pg>>(
    conn: &mut C,
) -> QueryResult<Vec<Result<OutboxEvent, String>>> {
    let rows: Vec<Row> = sql::<SqlTypes>(&query()).load(conn).await?;
    Ok(rows.into_iter().map(Row::decode).collect())
}

pub(crate) fn read_blocking<C: LoadConnection<Backend = Pg>>(
    conn: &mut C,
) -> QueryResult<Vec<Result<OutboxEvent, String>>> {
    let rows: Vec<Row> = diesel::RunQueryDsl::load(sql::<SqlTypes>(&query()), conn)?;
    Ok(rows.into_iter().map(Row::decode).collect())
}

fn query() -> String {
    format!("SELECT {COLUMNS} FROM outbox_events e ORDER BY e.seq NULLS FIRST, e.created_at, e.id")
}

/// Moves what is due later by this many microseconds; what becomes due is due now, in its order.
pub(crate) async fn advance<C: AsyncConnection<Backend = Pg>>(conn: &mut C, micros: i64) -> QueryResult<()> {
    for statement in STATEMENTS {
        sql_query(*statement).bind::<BigInt, _>(micros).execute(conn).await?;
    }
    Ok(())
}

const STATEMENTS: &[&str] = &[
    "UPDATE outbox_events e SET scheduled_at = statement_timestamp() - d.n * interval '1 microsecond' \
     FROM (SELECT id, row_number() OVER (ORDER BY scheduled_at DESC, seq DESC) AS n FROM outbox_events \
         WHERE status = 'pending' AND scheduled_at > statement_timestamp() \
             AND scheduled_at <= statement_timestamp() + $1 * interval '1 microsecond') d \
     WHERE d.id = e.id",
    "UPDATE outbox_events SET scheduled_at = scheduled_at - $1 * interval '1 microsecond' \
     WHERE status = 'pending' AND scheduled_at > statement_timestamp()",
    "UPDATE outbox_events SET retry_at = CASE WHEN retry_at <= statement_timestamp() + $1 * interval '1 microsecond' \
         THEN least(retry_at, statement_timestamp()) ELSE retry_at - $1 * interval '1 microsecond' END \
     WHERE status = 'retry' AND retry_at IS NOT NULL",
    "UPDATE outbox_handler_deliveries SET next_at = CASE \
         WHEN next_at <= statement_timestamp() + $1 * interval '1 microsecond' \
         THEN least(next_at, statement_timestamp()) ELSE next_at - $1 * interval '1 microsecond' END \
     WHERE next_at < 'infinity'",
];

//! Requests of operators.

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::query_builder::{BoxedSqlQuery, SqlQuery};
use diesel::sql_query;
use diesel::sql_types::{BigInt, Binary, Bool, Text};
use diesel::sqlite::Sqlite;
use uuid::Uuid;

use super::row::{Row, SqlTypes};
use super::uuid_of;
use crate::store::selection::{Comparand, Query};
use crate::store::{CreatedCursor, EventFilter, Page, ScanPage};

/// Rows without a `seq` are rare: the insert trigger assigns one to every row that is inserted without it.
const STRAYS_PER_REPAIR: i64 = 1000;

/// Assigns a `seq` to rows without one, in the order in which they were written.
pub(super) fn repair_missing_seq(connection: &mut SqliteConnection) -> QueryResult<usize> {
    connection.immediate_transaction(|connection| {
        let repaired = sql_query(
            "WITH stray AS (
               SELECT id, row_number() OVER (ORDER BY created_at, rowid) AS number
               FROM outbox_events INDEXED BY outbox_events_stray
               WHERE seq IS NULL AND status IN ('pending', 'retry') LIMIT ?
             )
             UPDATE outbox_events INDEXED BY sqlite_autoindex_outbox_events_1
             SET seq = (SELECT value FROM outbox_seq) + stray.number
             FROM stray WHERE outbox_events.id = stray.id",
        )
        .bind::<BigInt, _>(STRAYS_PER_REPAIR)
        .execute(connection)?;
        if repaired > 0 {
            sql_query("UPDATE outbox_seq SET value = value + ?")
                .bind::<BigInt, _>(i64::try_from(repaired).unwrap_or(i64::MAX))
                .execute(connection)?;
        }
        Ok(repaired)
    })
}

#[derive(QueryableByName)]
struct Found {
    #[diesel(sql_type = Binary)]
    id: Vec<u8>,
    #[diesel(sql_type = BigInt)]
    created_at: i64,
}

impl Found {
    fn place(self) -> QueryResult<CreatedCursor> {
        Ok(CreatedCursor { created_at: self.created_at, id: uuid_of(&self.id)? })
    }
}

/// Numbered, because one value may occur in several places.
fn placeholder(n: usize) -> String {
    format!("?{n}")
}

#[derive(QueryableByName)]
struct ScannedRow {
    #[diesel(embed)]
    found: Found,
    #[diesel(sql_type = Bool)]
    meant: bool,
}

/// The matching events among a bounded number of events.
pub(super) fn scan_events(
    connection: &mut SqliteConnection,
    filter: &EventFilter,
    page: Page,
    most: i64,
) -> QueryResult<ScanPage> {
    let seen: Vec<ScannedRow> = bind(filter.scan_query(page, most, placeholder)).load(connection)?;
    let rows: QueryResult<Vec<(CreatedCursor, bool)>> =
        seen.into_iter().map(|row| Ok((row.found.place()?, row.meant))).collect();
    Ok(ScanPage::from_rows(page, rows?))
}

fn bind(query: Query) -> BoxedSqlQuery<'static, Sqlite, SqlQuery> {
    let Query { sql, values, .. } = query;
    values.into_iter().fold(sql_query(sql).into_boxed(), |query, value| match value {
        Comparand::Text(text) => query.bind::<Text, _>(text),
        Comparand::Time(time) => query.bind::<BigInt, _>(time.timestamp_micros()),
        Comparand::Moment(moment) => query.bind::<BigInt, _>(moment),
        Comparand::Id(id) => query.bind::<Binary, _>(id.as_bytes().to_vec()),
    })
}

/// One event.
pub(super) fn find_event(connection: &mut SqliteConnection, columns: &str, id: Uuid) -> QueryResult<Option<Row>> {
    sql::<SqlTypes>(&format!("SELECT {columns} FROM outbox_events AS e WHERE id = "))
        .bind::<Binary, _>(id.as_bytes().as_slice())
        .get_result(connection)
        .optional()
}

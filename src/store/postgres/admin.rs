//! Requests of operators and of the janitor.

use std::collections::HashMap;

use deadpool::managed::Object;
use diesel::QueryableByName;
use diesel::data_types::PgTimestamp;
use diesel::dsl::sql;
use diesel::pg::Pg;
use diesel::query_builder::{BoxedSqlQuery, SqlQuery};
use diesel::result::{DatabaseErrorKind, Error, QueryResult};
use diesel::sql_types::{Array, Bool, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncConnection, RunQueryDsl};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use uuid::Uuid;

use super::connections::{Sweep, no_connection};
use super::row::{self, COLUMNS, Row};
use super::schema_connection::SchemaConnection;
use super::{PostgresStore, Result, STATEMENT_LIMIT};
use crate::error::{PublishError, StoreError};
use crate::event::OutboxEvent;
use crate::publish::sealed::Insert;
use crate::publish::{InsertResult, NewEvent, prepare_all, publish_many};
use crate::store::selection::{Comparand, Query};
use crate::store::{CreatedCursor, EventFilter, NotInserted, Page, ScanPage, TakeEvents, Unreadable};

/// Writes events in a transaction of their own.
pub(super) async fn insert(store: &PostgresStore, events: Vec<NewEvent>) -> Result<Vec<OutboxEvent>, PublishError> {
    write(store, |conn| publish_many(conn, events).boxed()).await
}

/// Writes events with one statement, whose transaction is their own.
pub(super) async fn insert_each(store: &PostgresStore, events: TakeEvents) -> Result<Vec<InsertResult>, NotInserted> {
    let inserted = write(store, |conn| {
        async move {
            let events = prepare_all(events())?;
            Ok(Pg::insert_each(conn, events).await)
        }
        .boxed()
    });
    match inserted.await {
        Ok(Ok(stored)) => Ok(stored),
        Ok(Err(error)) if is_answer(&error) => Err(NotInserted::Answered(error.into())),
        Ok(Err(error)) => Err(NotInserted::InDoubt(error.into())),
        Err(error) => Err(NotInserted::InDoubt(error)),
    }
}

/// Whether the server itself sent the error, rather than the connection ending first.
fn is_answer(error: &Error) -> bool {
    use DatabaseErrorKind::{ClosedConnection, UnableToSendCommand};
    matches!(error, Error::DatabaseError(kind, _) if !matches!(kind, ClosedConnection | UnableToSendCommand))
}

const WRITE: &str = "write events";

async fn write<T: Send>(
    store: &PostgresStore,
    statements: impl for<'c> FnOnce(&'c mut SchemaConnection) -> BoxFuture<'c, Result<T, PublishError>> + Send,
) -> Result<T, PublishError> {
    let _given_up = Sweep(&store.pool);
    let mut conn = store.pool.get().await.map_err(|error| no_connection(&store.target, error))?;
    conn.set_busy(true);
    conn.warned().reset();
    let Ok(answer) = tokio::time::timeout(STATEMENT_LIMIT, statements(&mut conn)).await else {
        return Err(StoreError::Timeout { operation: WRITE, limit: STATEMENT_LIMIT }.into());
    };
    conn.set_busy(false);
    if answer.is_ok() {
        conn.warned().check(WRITE)?;
    }
    if matches!(&answer, Err(PublishError::Store(error)) if error.is_transient()) {
        drop(Object::take(conn));
    }
    answer
}

pub(super) async fn find(store: &PostgresStore, id: Uuid) -> Result<Option<OutboxEvent>> {
    let rows = rows(store, COLUMNS, vec![id]).await?;
    let event = rows.into_iter().next().map(Row::decode).transpose();
    event.map_err(|reason| StoreError::Query {
        operation: "read an event",
        reason: format!("the row {id} cannot be read: {reason}"),
        transient: false,
    })
}

pub(super) async fn load(
    store: &PostgresStore,
    columns: &str,
    ids: &[Uuid],
) -> Result<Vec<Result<OutboxEvent, Unreadable>>> {
    let mut rows: HashMap<Uuid, Row> =
        rows(store, columns, ids.to_vec()).await?.into_iter().map(|row| (row.id, row)).collect();
    let decode = |id: &Uuid| {
        let row = rows.remove(id)?;
        let status = row.status.parse().ok();
        Some(row.decode().map_err(|reason| Unreadable { id: *id, status, reason }))
    };
    Ok(ids.iter().filter_map(decode).collect())
}

async fn rows(store: &PostgresStore, columns: &str, ids: Vec<Uuid>) -> Result<Vec<Row>> {
    store
        .run("load events", |conn| {
            sql::<row::SqlTypes>("SELECT ")
                .sql(columns)
                .sql(" FROM outbox_events e WHERE e.id = ANY (")
                .bind::<Array<SqlUuid>, _>(ids)
                .sql(")")
                .load::<Row>(conn)
                .boxed()
        })
        .await
}

#[derive(QueryableByName)]
struct Found {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Timestamptz)]
    created_at: PgTimestamp,
}

impl From<Found> for CreatedCursor {
    fn from(found: Found) -> Self {
        Self { created_at: found.created_at.0, id: found.id }
    }
}

fn placeholder(n: usize) -> String {
    format!("${n}")
}

#[derive(QueryableByName)]
struct ScannedRow {
    #[diesel(embed)]
    found: Found,
    #[diesel(sql_type = Bool)]
    meant: bool,
}

pub(super) async fn scan(store: &PostgresStore, filter: &EventFilter, page: Page, most: i64) -> Result<ScanPage> {
    let query = bind(filter.scan_query(page, most, placeholder));
    let seen: Vec<ScannedRow> = store.run("scan events", |conn| by_index(conn, query).boxed()).await?;
    Ok(ScanPage::from_rows(page, seen.into_iter().map(|row| (row.found.into(), row.meant))))
}

pub(super) async fn by_index<T>(
    conn: &mut SchemaConnection,
    query: BoxedSqlQuery<'static, Pg, SqlQuery>,
) -> QueryResult<Vec<T>>
where
    T: QueryableByName<Pg> + Send + 'static,
{
    let query = async move |conn: &mut SchemaConnection| {
        diesel::sql_query(BY_INDEX).execute(conn).await?;
        query.load(conn).await
    };
    conn.transaction(query).await
}

fn bind(query: Query) -> BoxedSqlQuery<'static, Pg, SqlQuery> {
    let Query { sql, values, .. } = query;
    values.into_iter().fold(diesel::sql_query(sql).into_boxed(), |query, value| match value {
        Comparand::Text(text) => query.bind::<Text, _>(text),
        Comparand::Time(time) => query.bind::<Timestamptz, _>(time),
        Comparand::Moment(moment) => query.bind::<Timestamptz, _>(PgTimestamp(moment)),
        Comparand::Id(id) => query.bind::<SqlUuid, _>(id),
    })
}

/// Assigns a `seq` to rows whose writer set it to NULL: they have no position, so no cursor would ever reach them.
pub(super) async fn repair_missing_seq(store: &PostgresStore) -> Result<usize> {
    store
        .run("repair missing seq", |conn| {
            diesel::sql_query(
                "WITH stray AS MATERIALIZED (SELECT id, created_at FROM outbox_events \
                    WHERE seq IS NULL AND status IN ('pending', 'retry') \
                    ORDER BY created_at LIMIT 1000 FOR UPDATE SKIP LOCKED), \
                 placed AS MATERIALIZED (\
                    SELECT id, nextval('outbox_events_seq') AS seq FROM (SELECT id FROM stray ORDER BY created_at) s) \
                 UPDATE outbox_events e SET seq = placed.seq FROM placed WHERE e.id = placed.id AND e.seq IS NULL",
            )
            .execute(conn)
            .boxed()
        })
        .await
}

/// Planner options for reading a batch at a time in the order of an index. Without statistics the planner expects few rows,
/// and would read and sort all of them for each batch. A step that it cannot avoid counts as expensive, so JIT would compile
/// it too. If reading pages had a cost, a large index in the table's order would look better than a small index of the
/// matching events.
pub(super) const BY_INDEX: &str = "SELECT set_config('enable_seqscan', 'off', true), \
    set_config('enable_bitmapscan', 'off', true), set_config('enable_sort', 'off', true), \
    set_config('enable_incremental_sort', 'on', true), set_config('seq_page_cost', '0', true), \
    set_config('random_page_cost', '0', true), set_config('max_parallel_workers_per_gather', '0', true), \
    set_config('jit', 'off', true)";

//! Writes new events: a statement for some hundreds, and one that reads what the server has assigned.

use std::collections::HashMap;

use chrono::NaiveDateTime;
use diesel::connection::LoadConnection;
use diesel::mysql::Mysql;
use diesel::result::QueryResult;
use diesel::sql_types::{BigInt, Datetime, Text};
use diesel_async::AsyncConnection;
use uuid::Uuid;

use super::diagnosis::{diagnose, diagnose_blocking};
use super::error::Failure;
use super::row::{COLUMNS, Row, SqlTypes};
use super::statement::{Statement, Value, list};
use crate::error::PublishError;
#[cfg(feature = "testing")]
use crate::event::OutboxEvent;
use crate::publish::sealed::Insert;
use crate::publish::{InsertResult, OutboxDatabase, ValidEvent};
use crate::store::insert_outcome::{FoundRow, InsertOutcomes, SameData, Written};

impl OutboxDatabase for Mysql {}

impl Insert for Mysql {
    /// The server allows 65535 parameters, and an event has 17.
    const MOST: usize = 500;

    async fn insert_each<C>(conn: &mut C, events: Vec<ValidEvent>) -> QueryResult<Vec<InsertResult>>
    where
        C: AsyncConnection<Backend = Self>,
    {
        Ok(insert(conn, events).await.unwrap_or_else(refused))
    }

    fn insert_each_blocking<C>(conn: &mut C, events: Vec<ValidEvent>) -> QueryResult<Vec<InsertResult>>
    where
        C: LoadConnection<Backend = Self>,
    {
        Ok(insert_blocking(conn, events).unwrap_or_else(refused))
    }

    #[cfg(feature = "testing")]
    async fn read_all<C>(conn: &mut C) -> QueryResult<Vec<Result<OutboxEvent, String>>>
    where
        C: AsyncConnection<Backend = Self>,
    {
        super::testing::read(conn).await
    }

    #[cfg(feature = "testing")]
    fn read_all_blocking<C>(conn: &mut C) -> QueryResult<Vec<Result<OutboxEvent, String>>>
    where
        C: LoadConnection<Backend = Self>,
    {
        super::testing::read_blocking(conn)
    }

    #[cfg(feature = "testing")]
    async fn advance<C>(conn: &mut C, micros: i64) -> QueryResult<()>
    where
        C: AsyncConnection<Backend = Self>,
    {
        super::testing::advance(conn, micros).await
    }
}

/// The outcome of a statement that failed, instead of diesel's error, which has no number.
fn refused(failure: Failure) -> Vec<InsertResult> {
    vec![Err(PublishError::Store(failure.into_store_error("of this connection", "write events")))]
}

/// Writes events, all or none, except those whose id is in use.
pub(super) async fn insert<C>(conn: &mut C, events: Vec<ValidEvent>) -> Result<Vec<InsertResult>, Failure>
where
    C: AsyncConnection<Backend = Mysql>,
{
    use diesel_async::RunQueryDsl;

    if events.is_empty() {
        return Ok(Vec::new());
    }
    if let Err(error) = insert_statement(&events).execute(conn).await {
        return Err(diagnose(conn, &error).await);
    }
    let read = match are_new(&events) {
        true => assigned_statement(&events).load(conn).await.map(|rows| written(events, rows)),
        false => find_statement(&events).load(conn).await.map(|rows| compared(events, rows)),
    };
    match read {
        Ok(outcomes) => Ok(outcomes),
        Err(error) => Err(diagnose(conn, &error).await),
    }
}

fn insert_blocking<C>(conn: &mut C, events: Vec<ValidEvent>) -> Result<Vec<InsertResult>, Failure>
where
    C: LoadConnection<Backend = Mysql>,
{
    use diesel::RunQueryDsl;

    if events.is_empty() {
        return Ok(Vec::new());
    }
    if let Err(error) = insert_statement(&events).execute(conn) {
        return Err(diagnose_blocking(conn, &error));
    }
    let read = match are_new(&events) {
        true => assigned_statement(&events).load(conn).map(|rows| written(events, rows)),
        false => find_statement(&events).load(conn).map(|rows| compared(events, rows)),
    };
    read.map_err(|error| diagnose_blocking(conn, &error))
}

/// Whether no other row can have their ids.
fn are_new(events: &[ValidEvent]) -> bool {
    events.iter().all(|event| event.is_new)
}

/// The clock is read once for a statement. An id that is in use leaves its row as it is: `IGNORE` would also ignore that a value
/// does not fit. (Not `seq`: MySQL refuses an assignment to it next to rows for which it draws a number.)
fn insert_statement(events: &[ValidEvent]) -> Statement {
    const EVENT: &str = "(?, '1.0', ?, ?, ?, ?, ?, ?, ?, 'pending', UTC_TIMESTAMP(6), UTC_TIMESTAMP(6), \
        COALESCE(TIMESTAMP'1970-01-01 00:00:00' + INTERVAL ? MICROSECOND, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND), \
        0, ?, '', ?, ?, ?, ?, ?, TIMESTAMP'1970-01-01 00:00:00' + INTERVAL ? MICROSECOND)";
    let mut sql = String::from(
        "INSERT INTO outbox_events (id, spec_version, event_type, source, subject, data_content_type, data_schema, data, \
         data_binary, status, created_at, updated_at, scheduled_at, retry_count, max_retries, last_error, \
         publisher_backend, publisher_config, cloud_event_id, extensions, partition_key, event_time) VALUES ",
    );
    for place in 0..events.len() {
        sql.push_str(if place == 0 { "" } else { ", " });
        sql.push_str(EVENT);
    }
    if !are_new(events) {
        sql.push_str(" ON DUPLICATE KEY UPDATE outbox_events.id = outbox_events.id");
    }
    Statement::built(sql, events.iter().flat_map(values).collect::<Vec<_>>())
}

fn values(event: &ValidEvent) -> [Value; 17] {
    [
        event.id.into(),
        event.event_type.as_str().into(),
        event.source.as_str().into(),
        event.subject.as_str().into(),
        event.data_content_type.as_str().into(),
        event.data_schema.as_str().into(),
        event.data.clone().into(),
        event.data_binary.clone().into(),
        event.scheduled_micros.into(),
        event.delay_micros.into(),
        i64::from(event.max_retries).into(),
        event.publisher_backend.as_str().into(),
        event.publisher_config.as_str().into(),
        event.cloud_event_id.as_str().into(),
        event.extensions.as_str().into(),
        event.partition_key.as_str().into(),
        event.event_micros.into(),
    ]
}

type AssignedTypes = (Text, Datetime, Datetime, BigInt);
type Assigned = (String, NaiveDateTime, NaiveDateTime, i64);

/// What the server has assigned.
fn assigned_statement(events: &[ValidEvent]) -> Statement<AssignedTypes> {
    let sql = format!(
        "SELECT CAST(id AS char), created_at, scheduled_at, seq FROM outbox_events WHERE id IN {} ORDER BY seq",
        list(events.len())
    );
    Statement::built(sql, ids(events))
}

fn written(events: Vec<ValidEvent>, rows: Vec<Assigned>) -> Vec<InsertResult> {
    let row = |(id, created_at, scheduled_at, seq): Assigned| Written {
        id: Uuid::try_parse(&id).unwrap_or_default(),
        created_at: created_at.and_utc(),
        scheduled_at: scheduled_at.and_utc(),
        seq,
    };
    InsertOutcomes::written(events, rows.into_iter().map(row).collect()).finish(|_, _| None)
}

/// The newest committed rows: the caller's transaction may have a snapshot from before an event was written by another one.
fn find_statement(events: &[ValidEvent]) -> Statement<SqlTypes> {
    let list = list(events.len());
    let sql = format!("SELECT {COLUMNS} FROM outbox_events e WHERE e.id IN {list} LOCK IN SHARE MODE");
    Statement::built(sql, ids(events))
}

fn ids(events: &[ValidEvent]) -> Vec<Value> {
    events.iter().map(|event| event.id.into()).collect()
}

/// It is not known which rows existed before, so each is compared; a new row equals its event.
fn compared(events: Vec<ValidEvent>, stored: Vec<Row>) -> Vec<InsertResult> {
    let mut found: HashMap<Uuid, _> = stored.into_iter().map(|row| (row.id(), row.decode())).collect();
    let no_id_twice = found.len() == events.len();
    InsertOutcomes::unknown(events).finish(|_, event| {
        let row = if no_id_twice { found.remove(&event.id) } else { found.get(&event.id).cloned() }?;
        let data =
            row.as_ref().map_or(SameData { json: false, binary: false }, |stored| SameData::compare(event, stored));
        Some(FoundRow { event: row, data })
    })
}

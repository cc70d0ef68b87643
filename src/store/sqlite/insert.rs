//! Writes new events: a statement for some hundreds, and one that reads them with the `seq` that a trigger assigned.

use std::collections::HashMap;

use diesel::connection::LoadConnection;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::result::QueryResult;
use diesel::sql_types::{BigInt, Binary, Integer, Nullable, Text};
use diesel::sqlite::Sqlite;
use diesel_async::AsyncConnection;
use uuid::Uuid;

use super::row::{COLUMNS, Row, SqlTypes};
use crate::event::OutboxEvent;
use crate::publish::sealed::Insert;
use crate::publish::{InsertResult, OutboxDatabase, ValidEvent};
use crate::store::insert_outcome::{FoundRow, InsertOutcomes, SameData};

impl OutboxDatabase for Sqlite {}

impl Insert for Sqlite {
    /// SQLite allows 32766 parameters, and an event has 17.
    const MOST: usize = 500;

    async fn insert_each<C>(conn: &mut C, events: Vec<ValidEvent>) -> QueryResult<Vec<InsertResult>>
    where
        C: AsyncConnection<Backend = Self>,
    {
        use diesel_async::RunQueryDsl;

        if events.is_empty() {
            return Ok(Vec::new());
        }
        InsertEvents { events: &events }.execute(conn).await?;
        let stored: Vec<Row> = FindEvents::new(&events).load(conn).await?;
        Ok(finish(events, stored))
    }

    fn insert_each_blocking<C>(conn: &mut C, events: Vec<ValidEvent>) -> QueryResult<Vec<InsertResult>>
    where
        C: LoadConnection<Backend = Self>,
    {
        use diesel::RunQueryDsl;

        if events.is_empty() {
            return Ok(Vec::new());
        }
        InsertEvents { events: &events }.execute(conn)?;
        let stored: Vec<Row> = FindEvents::new(&events).load(conn)?;
        Ok(finish(events, stored))
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

/// It is not known which rows existed before, so each is compared; a new row equals its event.
fn finish(events: Vec<ValidEvent>, stored: Vec<Row>) -> Vec<InsertResult> {
    let mut found: HashMap<Uuid, Result<OutboxEvent, String>> =
        stored.into_iter().map(|row| (row.id(), row.decode())).collect();
    let no_id_twice = found.len() == events.len();
    InsertOutcomes::unknown(events).finish(|_, event| {
        let row = if no_id_twice { found.remove(&event.id) } else { found.get(&event.id).cloned() }?;
        let data =
            row.as_ref().map_or(SameData { json: false, binary: false }, |stored| SameData::compare(event, stored));
        Some(FoundRow { event: row, data })
    })
}

/// New events: rows without `seq`, so that the table's trigger assigns it to each in turn.
struct InsertEvents<'a> {
    events: &'a [ValidEvent],
}

/// The statement depends on the number of events, so its text is its name among prepared statements.
impl QueryId for InsertEvents<'_> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl QueryFragment<Sqlite> for InsertEvents<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        if self.events.len() > 1 {
            out.unsafe_to_cache_prepared();
        }
        // SQLite reads its clock once per statement. `WHERE true` ends the SELECT, or ON would begin a join's condition.
        out.push_sql(
            "WITH clock(now) AS \
             (SELECT CAST(strftime('%s', 'now') AS INTEGER) * 1000000 + \
             CAST(substr(strftime('%f', 'now'), 4) AS INTEGER) * 1000), \
             n(place, id, event_type, source, subject, content_type, schema, data, bytes, scheduled_at, delay, \
             event_time, max_retries, backend, config, cloud_event_id, extensions, partition_key) AS (VALUES ",
        );
        for (place, event) in self.events.iter().enumerate() {
            out.push_sql(if place == 0 { "(" } else { ", (" });
            out.push_sql(&place.to_string());
            push_event(&mut out, event)?;
            out.push_sql(")");
        }
        out.push_sql(
            ") INSERT INTO outbox_events (id, spec_version, event_type, source, subject, data_content_type, \
             data_schema, data, data_binary, status, created_at, updated_at, scheduled_at, retry_count, max_retries, \
             last_error, publisher_backend, publisher_config, cloud_event_id, extensions, partition_key, event_time) \
             SELECT n.id, '1.0', n.event_type, n.source, n.subject, n.content_type, n.schema, n.data, n.bytes, \
             'pending', clock.now, clock.now, coalesce(n.scheduled_at, clock.now + n.delay), 0, n.max_retries, '', \
             n.backend, n.config, n.cloud_event_id, n.extensions, n.partition_key, n.event_time \
             FROM clock CROSS JOIN n WHERE true ORDER BY n.place ON CONFLICT (id) DO NOTHING",
        );
        Ok(())
    }
}

fn push_event<'b>(out: &mut AstPass<'_, 'b, Sqlite>, event: &'b ValidEvent) -> QueryResult<()> {
    fn text<'b>(out: &mut AstPass<'_, 'b, Sqlite>, value: &'b String) -> QueryResult<()> {
        out.push_sql(", ");
        out.push_bind_param::<Text, _>(value)
    }
    out.push_sql(", ");
    out.push_bind_param::<Binary, _>(event.id.as_bytes().as_slice())?;
    for value in [&event.event_type, &event.source, &event.subject, &event.data_content_type, &event.data_schema] {
        text(out, value)?;
    }
    out.push_sql(", ");
    out.push_bind_param::<Nullable<Text>, _>(&event.data)?;
    out.push_sql(", ");
    out.push_bind_param::<Nullable<Binary>, _>(&event.data_binary)?;
    out.push_sql(", ");
    out.push_bind_param::<Nullable<BigInt>, _>(&event.scheduled_micros)?;
    out.push_sql(", ");
    out.push_bind_param::<BigInt, _>(&event.delay_micros)?;
    out.push_sql(", ");
    out.push_bind_param::<Nullable<BigInt>, _>(&event.event_micros)?;
    out.push_sql(", ");
    out.push_bind_param::<Integer, _>(&event.max_retries)?;
    for value in [
        &event.publisher_backend,
        &event.publisher_config,
        &event.cloud_event_id,
        &event.extensions,
        &event.partition_key,
    ] {
        text(out, value)?;
    }
    Ok(())
}

impl<C> diesel::RunQueryDsl<C> for InsertEvents<'_> {}

/// Events by their ids.
struct FindEvents {
    ids: Vec<Uuid>,
}

impl FindEvents {
    fn new(events: &[ValidEvent]) -> Self {
        Self { ids: events.iter().map(|event| event.id).collect() }
    }
}

impl QueryId for FindEvents {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl QueryFragment<Sqlite> for FindEvents {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        if self.ids.len() > 1 {
            out.unsafe_to_cache_prepared();
        }
        out.push_sql("SELECT ");
        out.push_sql(COLUMNS);
        out.push_sql(" FROM outbox_events e WHERE e.id IN (");
        for (place, id) in self.ids.iter().enumerate() {
            if place > 0 {
                out.push_sql(", ");
            }
            out.push_bind_param::<Binary, _>(id.as_bytes().as_slice())?;
        }
        out.push_sql(")");
        Ok(())
    }
}

impl Query for FindEvents {
    type SqlType = SqlTypes;
}

impl<C> diesel::RunQueryDsl<C> for FindEvents {}

//! Writing new events: one statement for many.

use std::collections::HashMap;

use diesel::Queryable;
use diesel::connection::LoadConnection;
use diesel::data_types::PgTimestamp;
use diesel::pg::Pg;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::result::QueryResult;
use diesel::sql_types::{Array, BigInt, Binary, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::AsyncConnection;
use uuid::Uuid;

use super::row::{COLUMNS, EPOCH_MICROS, Row, SqlTypes, time};
use crate::error::{PublishError, StoreError};
use crate::event::OutboxEvent;
use crate::publish::sealed::Insert;
use crate::publish::{Answers, OutboxDatabase, ReadyEvent, Written};

impl OutboxDatabase for Pg {}

impl Insert for Pg {
    async fn insert<C>(conn: &mut C, events: Vec<ReadyEvent>) -> Result<Vec<OutboxEvent>, PublishError>
    where
        C: AsyncConnection<Backend = Self>,
    {
        use diesel_async::RunQueryDsl;

        if events.is_empty() {
            return Ok(Vec::new());
        }
        let mut answers = Answers::to(&events);
        let written: Vec<WrittenRow> = InsertEvents::new(&events).load(conn).await?;
        answers.add_written(events, given(written)?);
        let there_before = answers.missing();
        if !there_before.is_empty() {
            let stored: Vec<Row> = FindEvents { ids: there_before }.load(conn).await?;
            answers.add(stored.into_iter().map(decode))?;
        }
        answers.finish()
    }

    fn insert_blocking<C>(conn: &mut C, events: Vec<ReadyEvent>) -> Result<Vec<OutboxEvent>, PublishError>
    where
        C: LoadConnection<Backend = Self>,
    {
        use diesel::RunQueryDsl;

        if events.is_empty() {
            return Ok(Vec::new());
        }
        let mut answers = Answers::to(&events);
        let written: Vec<WrittenRow> = InsertEvents::new(&events).load(conn)?;
        answers.add_written(events, given(written)?);
        let there_before = answers.missing();
        if !there_before.is_empty() {
            let stored: Vec<Row> = FindEvents { ids: there_before }.load(conn)?;
            answers.add(stored.into_iter().map(decode))?;
        }
        answers.finish()
    }
}

/// What is not known before: the answer to many events is not much larger than to one.
#[derive(Queryable)]
struct WrittenRow {
    id: Uuid,
    created_at: PgTimestamp,
    scheduled_at: PgTimestamp,
    seq: Option<i64>,
}

const WRITTEN: &str = "e.id, e.created_at, e.scheduled_at, e.seq";

fn given(rows: Vec<WrittenRow>) -> Result<HashMap<Uuid, Written>, PublishError> {
    let decode = |row: WrittenRow| {
        let created_at = time("created_at", row.created_at)?;
        let scheduled_at = time("scheduled_at", row.scheduled_at)?;
        Ok((row.id, Written { created_at, scheduled_at, seq: row.seq.unwrap_or(0) }))
    };
    rows.into_iter()
        .map(decode)
        .collect::<Result<_, String>>()
        .map_err(|reason| StoreError::Query { operation: "read what is stored", reason, transient: false }.into())
}

fn decode(row: Row) -> (Uuid, Result<OutboxEvent, String>) {
    (row.id, row.decode())
}

/// New events, an array per column.
///
/// Every column without a default in a table that Django made is named. `seq` is drawn after the rows are in order, and
/// the clock is read once.
struct InsertEvents<'a> {
    ids: Vec<Uuid>,
    event_types: Vec<&'a String>,
    sources: Vec<&'a String>,
    subjects: Vec<&'a String>,
    content_types: Vec<&'a String>,
    schemas: Vec<&'a String>,
    data: Vec<Option<&'a str>>,
    binaries: Vec<Option<&'a [u8]>>,
    scheduled_at: Vec<Option<PgTimestamp>>,
    delays: Vec<i64>,
    max_retries: Vec<i32>,
    backends: Vec<&'a String>,
    configs: Vec<&'a String>,
    cloud_event_ids: Vec<&'a String>,
    extensions: Vec<&'a String>,
    partition_keys: Vec<&'a String>,
}

impl<'a> InsertEvents<'a> {
    fn new(events: &'a [ReadyEvent]) -> Self {
        fn column<'a, T>(events: &'a [ReadyEvent], value: impl Fn(&'a ReadyEvent) -> T) -> Vec<T> {
            events.iter().map(value).collect()
        }
        Self {
            ids: column(events, |event| event.id),
            event_types: column(events, |event| &event.event_type),
            sources: column(events, |event| &event.source),
            subjects: column(events, |event| &event.subject),
            content_types: column(events, |event| &event.data_content_type),
            schemas: column(events, |event| &event.data_schema),
            data: column(events, |event| event.data.as_deref()),
            binaries: column(events, |event| event.data_binary.as_deref()),
            scheduled_at: column(events, |event| {
                event.scheduled_micros.map(|micros| PgTimestamp(micros - EPOCH_MICROS))
            }),
            delays: column(events, |event| event.delay_micros),
            max_retries: column(events, |event| event.max_retries),
            backends: column(events, |event| &event.publisher_backend),
            configs: column(events, |event| &event.publisher_config),
            cloud_event_ids: column(events, |event| &event.cloud_event_id),
            extensions: column(events, |event| &event.extensions),
            partition_keys: column(events, |event| &event.partition_key),
        }
    }

    fn push_arrays<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_bind_param::<Array<SqlUuid>, _>(&self.ids)?;
        for texts in [&self.event_types, &self.sources, &self.subjects, &self.content_types, &self.schemas] {
            out.push_sql(", ");
            out.push_bind_param::<Array<Text>, _>(texts)?;
        }
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Text>>, _>(&self.data)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Binary>>, _>(&self.binaries)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Timestamptz>>, _>(&self.scheduled_at)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<BigInt>, _>(&self.delays)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Integer>, _>(&self.max_retries)?;
        for texts in [&self.backends, &self.configs, &self.cloud_event_ids, &self.extensions, &self.partition_keys] {
            out.push_sql(", ");
            out.push_bind_param::<Array<Text>, _>(texts)?;
        }
        Ok(())
    }
}

impl QueryFragment<Pg> for InsertEvents<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(
            "WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now) \
             INSERT INTO outbox_events AS e (id, spec_version, event_type, source, subject, data_content_type, \
             data_schema, data, data_binary, status, created_at, updated_at, scheduled_at, retry_count, max_retries, \
             last_error, publisher_backend, publisher_config, cloud_event_id, extensions, partition_key) \
             SELECT n.id, '1.0', n.event_type, n.source, n.subject, n.content_type, n.schema, n.data::jsonb, n.bytes, \
             'pending', clock.now, clock.now, \
             coalesce(n.scheduled_at, clock.now + n.delay * interval '1 microsecond'), 0, n.max_retries, '', \
             n.backend, n.config::jsonb, n.cloud_event_id, n.extensions::jsonb, n.partition_key \
             FROM clock CROSS JOIN unnest(",
        );
        self.push_arrays(out.reborrow())?;
        out.push_sql(
            ") WITH ORDINALITY AS n(id, event_type, source, subject, content_type, schema, data, bytes, scheduled_at, \
             delay, max_retries, backend, config, cloud_event_id, extensions, partition_key, place) \
             ORDER BY n.place ON CONFLICT (id) DO NOTHING RETURNING ",
        );
        out.push_sql(WRITTEN);
        Ok(())
    }
}

impl QueryId for InsertEvents<'_> {
    type QueryId = InsertEvents<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for InsertEvents<'_> {
    type SqlType = (SqlUuid, Timestamptz, Timestamptz, Nullable<BigInt>);
}

impl<C> diesel::RunQueryDsl<C> for InsertEvents<'_> {}

/// Events by their ids.
#[derive(QueryId)]
struct FindEvents {
    ids: Vec<Uuid>,
}

impl QueryFragment<Pg> for FindEvents {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("SELECT ");
        out.push_sql(COLUMNS);
        out.push_sql(" FROM outbox_events e WHERE e.id = ANY (");
        out.push_bind_param::<Array<SqlUuid>, _>(&self.ids)?;
        out.push_sql(")");
        Ok(())
    }
}

impl Query for FindEvents {
    type SqlType = SqlTypes;
}

impl<C> diesel::RunQueryDsl<C> for FindEvents {}

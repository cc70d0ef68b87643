//! Writes new events: one statement for many.

use std::collections::HashMap;

use diesel::connection::LoadConnection;
use diesel::data_types::PgTimestamp;
use diesel::dsl::sql;
use diesel::expression::SqlLiteral;
use diesel::pg::Pg;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId, SqlQuery};
use diesel::result::{Error, QueryResult};
use diesel::sql_types::{Array, BigInt, Binary, Bool, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel::{Queryable, sql_query};
use diesel_async::AsyncConnection;
use uuid::Uuid;

use super::row::{COLUMNS_WITHOUT_DATA, EPOCH_MICROS, Row, SqlTypes, time};
#[cfg(feature = "testing")]
use crate::event::OutboxEvent;
use crate::publish::sealed::Insert;
use crate::publish::{InsertResult, OutboxDatabase, ValidEvent};
use crate::store::insert_outcome::{FoundRow, InsertOutcomes, SameData, Written};

impl OutboxDatabase for Pg {}

impl Insert for Pg {
    const MOST: usize = usize::MAX;

    async fn insert_each<C>(conn: &mut C, events: Vec<ValidEvent>) -> QueryResult<Vec<InsertResult>>
    where
        C: AsyncConnection<Backend = Self>,
    {
        use diesel_async::RunQueryDsl;

        if events.is_empty() {
            return Ok(Vec::new());
        }
        let written: Vec<WrittenRow> = InsertEvents::new(&events).load(conn).await?;
        let answers = InsertOutcomes::written(events, given(written)?);
        let repeated = Repeated::new(&answers);
        if repeated.ids.is_empty() {
            return Ok(answers.finish(|_, _| None));
        }
        repeated.check()?;
        match may_write_to_log().get_result(conn).await? {
            true => write_to_log().execute(conn).await?,
            false => LockEvents { ids: &repeated.ids }.execute(conn).await?,
        };
        let stored: Vec<StoredRow> = FindEvents(&repeated).load(conn).await?;
        Ok(finish(answers, stored))
    }

    fn insert_each_blocking<C>(conn: &mut C, events: Vec<ValidEvent>) -> QueryResult<Vec<InsertResult>>
    where
        C: LoadConnection<Backend = Self>,
    {
        use diesel::RunQueryDsl;

        if events.is_empty() {
            return Ok(Vec::new());
        }
        let written: Vec<WrittenRow> = InsertEvents::new(&events).load(conn)?;
        let answers = InsertOutcomes::written(events, given(written)?);
        let repeated = Repeated::new(&answers);
        if repeated.ids.is_empty() {
            return Ok(answers.finish(|_, _| None));
        }
        repeated.check()?;
        match may_write_to_log().get_result(conn)? {
            true => write_to_log().execute(conn)?,
            false => LockEvents { ids: &repeated.ids }.execute(conn)?,
        };
        let stored: Vec<StoredRow> = FindEvents(&repeated).load(conn)?;
        Ok(finish(answers, stored))
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

fn finish(answers: InsertOutcomes, stored: Vec<StoredRow>) -> Vec<InsertResult> {
    let mut found: HashMap<usize, StoredRow> =
        stored.into_iter().map(|row| (usize::try_from(row.place).unwrap_or_default(), row)).collect();
    answers.finish(|number, _| {
        let row = found.remove(&(number + 1))?;
        let data = SameData { json: row.has_same_json, binary: row.has_same_binary };
        Some(FoundRow { event: row.row.decode(), data })
    })
}

/// The unknown columns only, so that the result for many events is hardly larger than for one.
#[derive(Queryable)]
struct WrittenRow {
    id: Uuid,
    created_at: PgTimestamp,
    scheduled_at: PgTimestamp,
    seq: Option<i64>,
}

const WRITTEN: &str = "e.id, e.created_at, e.scheduled_at, e.seq";

fn given(rows: Vec<WrittenRow>) -> QueryResult<Vec<Written>> {
    let decode = |row: WrittenRow| -> Result<Written, String> {
        let created_at = time("created_at", row.created_at)?;
        let scheduled_at = time("scheduled_at", row.scheduled_at)?;
        Ok(Written { id: row.id, created_at, scheduled_at, seq: row.seq.unwrap_or(0) })
    };
    let written: Result<_, String> = rows.into_iter().map(decode).collect();
    written.map_err(|reason| Error::DeserializationError(reason.into()))
}

/// An insert of new events, with an array for each column in which they differ.
///
/// Names every column without a default in a table that Django created. Draws `seq` after the rows are in order, and reads
/// the clock once.
struct InsertEvents<'a> {
    ids: Vec<Uuid>,
    event_types: Vec<&'a String>,
    sources: Vec<&'a String>,
    subjects: Vec<&'a String>,
    data: Vec<Option<&'a str>>,
    partition_keys: Vec<&'a String>,
    rest: Rest<'a>,
    are_new: bool,
}

/// The columns that most events of a batch have in common.
#[expect(clippy::large_enum_variant, reason = "there is one for each statement, and it is never moved around")]
enum Rest<'a> {
    /// All events have this event's values, so the server parses them once.
    Same { event: &'a ValidEvent, scheduled_at: Option<PgTimestamp>, event_time: Option<PgTimestamp> },
    Each {
        content_types: Vec<&'a String>,
        schemas: Vec<&'a String>,
        binaries: Vec<Option<&'a [u8]>>,
        scheduled_at: Vec<Option<PgTimestamp>>,
        delays: Vec<i64>,
        event_times: Vec<Option<PgTimestamp>>,
        max_retries: Vec<i32>,
        backends: Vec<&'a String>,
        configs: Vec<&'a String>,
        cloud_event_ids: Vec<&'a String>,
        extensions: Vec<&'a String>,
    },
}

fn column<'a, T>(events: &'a [ValidEvent], value: impl Fn(&'a ValidEvent) -> T) -> Vec<T> {
    events.iter().map(value).collect()
}

fn timestamp(micros: Option<i64>) -> Option<PgTimestamp> {
    micros.map(|micros| PgTimestamp(micros - EPOCH_MICROS))
}

/// Binds parameters one after the other.
macro_rules! push {
    ($out:ident, $($sql_type:ty: $value:expr),* $(,)?) => {{
        let mut comma = "";
        $(
            $out.push_sql(std::mem::replace(&mut comma, ", "));
            $out.push_bind_param::<$sql_type, _>($value)?;
        )*
        let _ = comma;
        Ok(())
    }};
}

impl<'a> InsertEvents<'a> {
    fn new(events: &'a [ValidEvent]) -> Self {
        Self {
            ids: column(events, |event| event.id),
            event_types: column(events, |event| &event.event_type),
            sources: column(events, |event| &event.source),
            subjects: column(events, |event| &event.subject),
            data: column(events, |event| event.data.as_deref()),
            partition_keys: column(events, |event| &event.partition_key),
            rest: Rest::new(events),
            are_new: events.iter().all(|event| event.is_new),
        }
    }

    /// Binds parameters in the order of [`EACH`].
    fn push_each<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        push!(
            out,
            Array<SqlUuid>: &self.ids,
            Array<Text>: &self.event_types,
            Array<Text>: &self.sources,
            Array<Text>: &self.subjects,
            Array<Nullable<Text>>: &self.data,
            Array<Text>: &self.partition_keys,
        )
    }
}

impl<'a> Rest<'a> {
    fn new(events: &'a [ValidEvent]) -> Self {
        match events {
            [first, others @ ..] if others.iter().all(|other| Self::is_same(first, other)) => {
                let scheduled_at = timestamp(first.scheduled_micros);
                Self::Same { event: first, scheduled_at, event_time: timestamp(first.event_micros) }
            }
            _ => Self::Each {
                content_types: column(events, |event| &event.data_content_type),
                schemas: column(events, |event| &event.data_schema),
                binaries: column(events, |event| event.data_binary.as_deref()),
                scheduled_at: column(events, |event| timestamp(event.scheduled_micros)),
                delays: column(events, |event| event.delay_micros),
                event_times: column(events, |event| timestamp(event.event_micros)),
                max_retries: column(events, |event| event.max_retries),
                backends: column(events, |event| &event.publisher_backend),
                configs: column(events, |event| &event.publisher_config),
                cloud_event_ids: column(events, |event| &event.cloud_event_id),
                extensions: column(events, |event| &event.extensions),
            },
        }
    }

    fn is_same(a: &ValidEvent, b: &ValidEvent) -> bool {
        a.data_content_type == b.data_content_type
            && a.data_schema == b.data_schema
            && a.data_binary == b.data_binary
            && a.scheduled_micros == b.scheduled_micros
            && a.delay_micros == b.delay_micros
            && a.event_micros == b.event_micros
            && a.max_retries == b.max_retries
            && a.publisher_backend == b.publisher_backend
            && a.publisher_config == b.publisher_config
            && a.cloud_event_id == b.cloud_event_id
            && a.extensions == b.extensions
    }

    /// Binds parameters in the order of [`REST`].
    fn push<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        match self {
            Self::Same { event, scheduled_at, event_time } => push!(out,
                Text: &event.data_content_type,
                Text: &event.data_schema,
                Nullable<Binary>: &event.data_binary,
                Nullable<Timestamptz>: scheduled_at,
                BigInt: &event.delay_micros,
                Nullable<Timestamptz>: event_time,
                Integer: &event.max_retries,
                Text: &event.publisher_backend,
                Text: &event.publisher_config,
                Text: &event.cloud_event_id,
                Text: &event.extensions,
            ),
            Self::Each {
                content_types,
                schemas,
                binaries,
                scheduled_at,
                delays,
                event_times,
                max_retries,
                backends,
                configs,
                cloud_event_ids,
                extensions,
            } => push!(out,
                Array<Text>: content_types,
                Array<Text>: schemas,
                Array<Nullable<Binary>>: binaries,
                Array<Nullable<Timestamptz>>: scheduled_at,
                Array<BigInt>: delays,
                Array<Nullable<Timestamptz>>: event_times,
                Array<Integer>: max_retries,
                Array<Text>: backends,
                Array<Text>: configs,
                Array<Text>: cloud_event_ids,
                Array<Text>: extensions,
            ),
        }
    }
}

/// The columns in which each event has its own value, by their names in the statement.
const EACH: &str = "id, event_type, source, subject, data, partition_key";

/// The columns of [`Rest`].
const REST: &str = "content_type, schema, bytes, scheduled_at, delay, event_time, max_retries, backend, config, cloud_event_id, extensions";

const INSERT: &str = "INSERT INTO outbox_events AS e (id, spec_version, event_type, source, subject, data_content_type, \
    data_schema, data, data_binary, status, created_at, updated_at, scheduled_at, retry_count, max_retries, last_error, \
    publisher_backend, publisher_config, cloud_event_id, extensions, partition_key, event_time) \
    SELECT id, '1.0', event_type, source, subject, content_type, schema, data::jsonb, bytes, 'pending', now, now, \
    coalesce(scheduled_at, now + delay * interval '1 microsecond'), 0, max_retries, '', backend, config::jsonb, \
    cloud_event_id, extensions::jsonb, partition_key, event_time FROM common CROSS JOIN unnest(";

/// The insert with a text array for each id and time, and a typed array for each other column, in the order of [`EACH`] and
/// [`REST`].
pub(super) fn insert_all_columns() -> String {
    let types = "text[]::uuid[] text[] text[] text[] text[] text[] text[] text[] bytea[] text[]::timestamptz[] bigint[] text[]::timestamptz[] int[] \
                 text[] text[] text[] text[]";
    let arrays: Vec<String> = types.split_whitespace().zip(1..).map(|(kind, n)| format!("${n}::{kind}")).collect();
    let arrays = arrays.join(", ");
    format!(
        "WITH common AS MATERIALIZED (SELECT clock_timestamp() AS now) {INSERT}{arrays}) \
         WITH ORDINALITY AS n({EACH}, {REST}, place) ORDER BY place ON CONFLICT (id) DO NOTHING"
    )
}

impl QueryFragment<Pg> for InsertEvents<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("WITH common AS MATERIALIZED (SELECT clock_timestamp() AS now");
        let is_same = matches!(self.rest, Rest::Same { .. });
        if is_same {
            // JSON is parsed once, here.
            for name in REST.split(", ") {
                out.push_sql(", ");
                out.push_sql(name);
                out.push_sql(if matches!(name, "config" | "extensions") { "::jsonb" } else { "" });
            }
            out.push_sql(" FROM (VALUES (");
            self.rest.push(out.reborrow())?;
            out.push_sql(")) AS v(");
            out.push_sql(REST);
            out.push_sql(")");
        }
        out.push_sql(") ");
        out.push_sql(INSERT);
        self.push_each(out.reborrow())?;
        if !is_same {
            out.push_sql(", ");
            self.rest.push(out.reborrow())?;
        }
        out.push_sql(") WITH ORDINALITY AS n(");
        out.push_sql(EACH);
        if !is_same {
            out.push_sql(", ");
            out.push_sql(REST);
        }
        out.push_sql(", place) ORDER BY place ");
        if !self.are_new {
            // A fifth of the statement's cost.
            out.push_sql("ON CONFLICT (id) DO NOTHING ");
        }
        out.push_sql("RETURNING ");
        out.push_sql(WRITTEN);
        Ok(())
    }
}

/// The text depends on the values that the events have in common.
impl QueryId for InsertEvents<'_> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for InsertEvents<'_> {
    type SqlType = (SqlUuid, Timestamptz, Timestamptz, Nullable<BigInt>);
}

impl<C> diesel::RunQueryDsl<C> for InsertEvents<'_> {}

/// Events whose insert found a row with their id.
struct Repeated<'a> {
    ids: Vec<Uuid>,
    data: Vec<Option<&'a str>>,
    binaries: Vec<Option<&'a [u8]>>,
    lost: Option<Uuid>,
}

impl<'a> Repeated<'a> {
    fn new(answers: &'a InsertOutcomes) -> Self {
        let events = answers.missing();
        Self {
            ids: events.iter().map(|event| event.id).collect(),
            data: events.iter().map(|event| event.data.as_deref()).collect(),
            binaries: events.iter().map(|event| event.data_binary.as_deref()).collect(),
            lost: events.iter().find(|event| event.is_new).map(|event| event.id),
        }
    }

    /// A new id cannot exist already: something in the database, such as a trigger, kept the event out.
    fn check(&self) -> QueryResult<()> {
        let Some(id) = self.lost else { return Ok(()) };
        Err(Error::DeserializationError(format!("the event {id} was inserted but is not in the table").into()))
    }
}

/// A repetition changes nothing, and a transaction that writes nothing commits without waiting for a synchronous standby: it
/// would acknowledge an event that only the primary has. So it writes something. Privileges decide what: a function that may
/// not be called fails the statement even if it is not reached.
fn may_write_to_log() -> SqlLiteral<Bool> {
    sql("SELECT coalesce(bool_and(has_function_privilege(oid, 'EXECUTE')), false) FROM pg_proc \
         WHERE proname = 'pg_logical_emit_message' AND pronamespace = 'pg_catalog'::regnamespace")
}

fn write_to_log() -> SqlQuery {
    sql_query("SELECT pg_logical_emit_message(true, 'actix-outbox', '')")
}

/// Locks rows as a foreign key does: this writes to the row, and a settle does not wait for it.
struct LockEvents<'a> {
    ids: &'a [Uuid],
}

impl QueryId for LockEvents<'_> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl QueryFragment<Pg> for LockEvents<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("SELECT FROM outbox_events e WHERE e.id = ANY (");
        out.push_bind_param::<Array<SqlUuid>, _>(self.ids)?;
        out.push_sql(") ORDER BY e.id FOR KEY SHARE");
        Ok(())
    }
}

impl<C> diesel::RunQueryDsl<C> for LockEvents<'_> {}

/// The rows of events, without their data, which the server compares.
struct FindEvents<'a>(&'a Repeated<'a>);

#[derive(Queryable)]
struct StoredRow {
    place: i64,
    has_same_json: bool,
    has_same_binary: bool,
    row: Row,
}

impl QueryFragment<Pg> for FindEvents<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(
            "SELECT n.place, nullif(e.data, 'null') IS NOT DISTINCT FROM n.data::jsonb, \
             e.data_binary IS NOT DISTINCT FROM n.bytes, ",
        );
        out.push_sql(COLUMNS_WITHOUT_DATA);
        out.push_sql(" FROM unnest(");
        let pushed: QueryResult<()> = push!(
            out,
            Array<SqlUuid>: &self.0.ids,
            Array<Nullable<Text>>: &self.0.data,
            Array<Nullable<Binary>>: &self.0.binaries,
        );
        pushed?;
        out.push_sql(") WITH ORDINALITY AS n(id, data, bytes, place) JOIN outbox_events e ON e.id = n.id");
        Ok(())
    }
}

impl QueryId for FindEvents<'_> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for FindEvents<'_> {
    type SqlType = (BigInt, Bool, Bool, SqlTypes);
}

impl<C> diesel::RunQueryDsl<C> for FindEvents<'_> {}

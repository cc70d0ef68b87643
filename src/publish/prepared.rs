//! Events as a statement and its parameters, for drivers that this library does not know.

use std::fmt;

use chrono::{DateTime, SecondsFormat};
use uuid::Uuid;

use super::NewEvent;
use super::validate::ValidEvent;
use crate::error::InvalidEvent;

/// The database for which a [`PreparedEvent`]'s statement is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dialect {
    /// PostgreSQL 14 or later, with the placeholders `$1` to `$17`.
    Postgres,
    /// SQLite 3.41 or later, with the placeholders `?1` to `?17`.
    Sqlite,
    /// MariaDB 10.6 or MySQL 8.0.17 or later, with 17 placeholders `?`.
    #[cfg(feature = "mysql")]
    Mysql,
}

/// An event that passed every rule, as a statement and its parameters: any driver of any version can send it, as a part of
/// the caller's transaction.
///
/// With diesel's `sql_query`, on SQLite:
///
/// ```
/// # #[cfg(feature = "sqlite")]
/// # mod example {
/// use actix_outbox::{Dialect, PreparedEvent};
/// use diesel::sql_types::{Nullable, Text};
/// use diesel::{QueryResult, RunQueryDsl, SqliteConnection, sql_query};
///
/// fn insert(conn: &mut SqliteConnection, event: &PreparedEvent) -> QueryResult<usize> {
///     let mut insert = sql_query(event.sql(Dialect::Sqlite)).into_boxed();
///     for text in event.params() {
///         insert = insert.bind::<Nullable<Text>, _>(text);
///     }
///     insert.execute(conn)
/// }
/// # }
/// ```
///
/// Unlike [`publish`](crate::publish()), the statement does not compare an event with one that is stored under the same id: a
/// repetition fails as the database's violation of a unique key (SQLSTATE 23505), and nothing is written.
///
/// `Debug` prints no payload.
#[derive(Clone, PartialEq, Eq)]
#[must_use = "an event is written when its statement is executed"]
pub struct PreparedEvent {
    id: Uuid,
    params: [Option<String>; PARAMS],
}

/// The number of parameters.
pub(super) const PARAMS: usize = 17;

/// The index of `max_retries` among them.
#[cfg(feature = "_adapters")]
pub(super) const MAX_RETRIES: usize = 11;

impl NewEvent {
    /// Checks every rule and returns a statement that writes the event, for drivers other than diesel.
    ///
    /// # Errors
    /// If the event breaks a rule.
    pub fn prepare(self) -> Result<PreparedEvent, InvalidEvent> {
        self.into_valid().map(PreparedEvent::new)
    }
}

impl PreparedEvent {
    pub(super) fn new(event: ValidEvent) -> Self {
        let params = [
            Some(event.id.to_string()),
            Some(event.event_type),
            Some(event.source),
            Some(event.subject),
            Some(event.data_content_type),
            Some(event.data_schema),
            event.data,
            event.data_binary.as_deref().map(hex),
            event.scheduled_micros.and_then(time),
            Some(event.delay_micros.to_string()),
            event.event_micros.and_then(time),
            Some(event.max_retries.to_string()),
            Some(event.publisher_backend),
            Some(event.publisher_config),
            Some(event.cloud_event_id),
            Some(event.extensions),
            Some(event.partition_key),
        ];
        Self { id: event.id, params }
    }

    /// The event's id.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// The statement: the same text for every event, so that a driver prepares it once. It returns no rows.
    ///
    /// It names the table without its schema, so the connection's `search_path` decides into which outbox it writes.
    pub fn sql(&self, dialect: Dialect) -> &'static str {
        match dialect {
            Dialect::Postgres => POSTGRES,
            Dialect::Sqlite => SQLITE,
            #[cfg(feature = "mysql")]
            Dialect::Mysql => MYSQL,
        }
    }

    /// The parameters in the order of their numbers, the same for every dialect: texts, or NULL.
    pub fn params(&self) -> &[Option<String>] {
        &self.params
    }
}

/// Payload and configuration stay out of logs.
impl fmt::Debug for PreparedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedEvent").field("id", &self.id).finish_non_exhaustive()
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write;

    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// In 27 characters, since the years are 1 to 9999.
fn time(micros: i64) -> Option<String> {
    Some(DateTime::from_timestamp_micros(micros)?.to_rfc3339_opts(SecondsFormat::Micros, true))
}

/// A text parameter with a cast takes a text from every driver, whatever type it would infer for the column. Without a subquery
/// or an ON CONFLICT that it does not need, the server plans it in half the time.
macro_rules! postgres_insert {
    () => {
        "INSERT INTO outbox_events (id, spec_version, event_type, source, subject, data_content_type, \
    data_schema, data, data_binary, status, created_at, updated_at, scheduled_at, retry_count, max_retries, last_error, \
    publisher_backend, publisher_config, cloud_event_id, extensions, partition_key, event_time) \
    VALUES ($1::text::uuid, '1.0', $2::text, $3::text, $4::text, $5::text, $6::text, $7::text::jsonb, decode($8::text, 'hex'), \
    'pending', statement_timestamp(), statement_timestamp(), \
    coalesce($9::text::timestamptz, statement_timestamp() + $10::text::bigint * interval '1 microsecond'), 0, \
    $12::text::integer, '', $13::text, $14::text::jsonb, $15::text, $16::text::jsonb, $17::text, $11::text::timestamptz)"
    };
}

const POSTGRES: &str = postgres_insert!();

/// SQLite reads its clock once per statement.
macro_rules! sqlite_insert {
    () => {
        "INSERT INTO outbox_events (id, spec_version, event_type, source, subject, data_content_type, \
    data_schema, data, data_binary, status, created_at, updated_at, scheduled_at, retry_count, max_retries, last_error, \
    publisher_backend, publisher_config, cloud_event_id, extensions, partition_key, event_time) \
    SELECT unhex(replace(?1, '-', '')), '1.0', ?2, ?3, ?4, ?5, ?6, ?7, unhex(?8), 'pending', clock.now, clock.now, \
    coalesce(CAST(strftime('%s', substr(?9, 1, 19)) AS INTEGER) * 1000000 + CAST(substr(?9, 21, 6) AS INTEGER), \
        clock.now + CAST(?10 AS INTEGER)), 0, CAST(?12 AS INTEGER), '', ?13, ?14, ?15, ?16, ?17, \
    CAST(strftime('%s', substr(?11, 1, 19)) AS INTEGER) * 1000000 + CAST(substr(?11, 21, 6) AS INTEGER) \
    FROM (SELECT CAST(strftime('%s', 'now') AS INTEGER) * 1000000 + \
        CAST(substr(strftime('%f', 'now'), 4) AS INTEGER) * 1000 AS now) AS clock"
    };
}

const SQLITE: &str = sqlite_insert!();

/// Placeholders have no numbers, so the columns are in the order of the parameters. The last letter of a time says UTC, which
/// the column is in.
#[cfg(feature = "mysql")]
macro_rules! mysql_insert {
    () => {
        "INSERT INTO outbox_events (id, event_type, source, subject, data_content_type, data_schema, data, \
    data_binary, scheduled_at, event_time, max_retries, publisher_backend, publisher_config, cloud_event_id, extensions, \
    partition_key) VALUES (REPLACE(?, '-', ''), ?, ?, ?, ?, ?, ?, UNHEX(?), \
    COALESCE(CAST(TRIM(TRAILING 'Z' FROM ?) AS datetime(6)), UTC_TIMESTAMP(6) + INTERVAL CAST(? AS SIGNED) MICROSECOND), \
    CAST(TRIM(TRAILING 'Z' FROM ?) AS datetime(6)), ?, ?, ?, ?, ?, ?)"
    };
}

#[cfg(feature = "mysql")]
const MYSQL: &str = mysql_insert!();

/// The statements of [`PreparedEvent`] that write nothing if the id is in use. On PostgreSQL and SQLite they return the id if
/// they wrote the event.
#[cfg(feature = "_adapters")]
pub(super) mod unless_taken {
    /// For a new id, which no row can have.
    pub(in crate::publish) const POSTGRES_NEW: &str = concat!(postgres_insert!(), " RETURNING outbox_events.id::text");

    pub(in crate::publish) const POSTGRES: &str =
        concat!(postgres_insert!(), " ON CONFLICT (id) DO NOTHING RETURNING outbox_events.id::text");

    /// Without `WHERE`, ON would begin a join's condition.
    pub(in crate::publish) const SQLITE: &str =
        concat!(sqlite_insert!(), " WHERE true ON CONFLICT (id) DO NOTHING RETURNING lower(hex(id))");

    /// For a new id, which no row can have.
    #[cfg(feature = "mysql")]
    pub(in crate::publish) const MYSQL_NEW: &str = super::MYSQL;

    #[cfg(feature = "mysql")]
    pub(in crate::publish) const MYSQL: &str =
        concat!(mysql_insert!(), " ON DUPLICATE KEY UPDATE outbox_events.id = outbox_events.id");
}

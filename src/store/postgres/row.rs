//! A row of the table as another writer may have left it.

use std::sync::{Arc, LazyLock};

use chrono::{DateTime, Utc};
use diesel::Queryable;
use diesel::data_types::PgTimestamp;
use diesel::sql_types::{BigInt, Binary, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use uuid::Uuid;

use crate::event::{JsonText, OutboxEvent};
use crate::store::Position;

/// The columns of [`Row`], of a table or a query named `e`. JSON is read as text, so that it stays unchanged.
pub(crate) const COLUMNS: &str = "e.id, e.spec_version, e.event_type, e.source, e.subject, e.data_content_type, \
    e.data_schema, e.data::text, e.status, e.created_at, e.updated_at, e.scheduled_at, e.published_at, e.retry_count, \
    e.max_retries, e.last_error, e.publisher_backend, e.publisher_config::text, e.seq, e.retry_at, e.cloud_event_id, \
    e.extensions::text, e.partition_key, e.data_binary, e.pending_handlers::text, e.errors::text";

/// The columns of [`DeliveredRow`], from a [`sized`] query named `e` with [`FITS`]: without earlier errors, and for an event
/// that is too large only those that identify it.
pub(super) const DELIVERED: &str = "CASE WHEN NOT b.fits THEN e.size END, e.id, e.spec_version, e.event_type, e.source, \
    e.subject, e.data_content_type, e.data_schema, CASE WHEN b.fits THEN e.data_text END, e.status, e.created_at, \
    e.updated_at, e.scheduled_at, e.published_at, e.retry_count, e.max_retries, CASE WHEN b.fits THEN e.config_text END, \
    e.seq, e.retry_at, e.cloud_event_id, CASE WHEN b.fits THEN e.extensions_text END, e.partition_key, \
    CASE WHEN b.fits THEN e.data_binary END, CASE WHEN b.fits THEN e.handlers_text END";

/// These columns of the table, with their JSON as text: a few bytes of JSON can be a long text (`1e131071`), so its length
/// is known only once it is made. In a query with a LIMIT or an OFFSET it is made once for each row. An empty object, which
/// most rows have, has at most 8 bytes (only an empty array is as small) and becomes NULL.
pub(super) const TEXTS: &str = "e.id, e.spec_version, e.event_type, e.source, e.subject, e.data_content_type, e.data_schema, \
    e.data::text AS data_text, e.status, e.created_at, e.updated_at, e.scheduled_at, e.published_at, e.retry_count, \
    e.max_retries, CASE WHEN pg_column_size(e.publisher_config) > 8 THEN e.publisher_config::text END AS config_text, e.seq, \
    e.retry_at, e.cloud_event_id, CASE WHEN pg_column_size(e.extensions) > 8 THEN e.extensions::text END AS extensions_text, \
    e.partition_key, e.data_binary, e.pending_handlers::text AS handlers_text";

/// Adds the event's size in bytes to such a query, computed once for each row instead of each column that uses it.
pub(super) fn sized(query: &str) -> String {
    format!(
        "SELECT e.*, (coalesce(octet_length(e.data_text), 0) + coalesce(octet_length(e.data_binary), 0) \
            + coalesce(octet_length(e.config_text), 0) + coalesce(octet_length(e.extensions_text), 0) \
            + coalesce(octet_length(e.handlers_text), 0))::bigint AS size FROM ({query}) e OFFSET 0"
    )
}

/// Joined to a sized query: whether the event's size is at most the parameter.
pub(super) const FITS: &str = "CROSS JOIN LATERAL (SELECT e.size <= ? AS fits) b";

/// [`COLUMNS`] without the events' data.
pub(super) static COLUMNS_WITHOUT_DATA: LazyLock<String> =
    LazyLock::new(|| COLUMNS.replace("e.data::text", "NULL::text").replace("e.data_binary", "NULL::bytea"));

/// The types of [`COLUMNS`].
pub(crate) type SqlTypes = (
    SqlUuid,
    Text,
    Text,
    Text,
    Text,
    Text,
    Text,
    Nullable<Text>,
    Text,
    Timestamptz,
    Timestamptz,
    Timestamptz,
    Nullable<Timestamptz>,
    Integer,
    Integer,
    Text,
    Text,
    Nullable<Text>,
    Nullable<BigInt>,
    Nullable<Timestamptz>,
    Text,
    Nullable<Text>,
    Text,
    Nullable<Binary>,
    Nullable<Text>,
    Nullable<Text>,
);

/// A row with any values; [`decode`](Self::decode) reports why it is not a valid event.
#[derive(Clone, Queryable)]
pub(crate) struct Row {
    pub(crate) id: Uuid,
    spec_version: String,
    event_type: String,
    source: String,
    subject: String,
    data_content_type: String,
    data_schema: String,
    data: Option<String>,
    pub(crate) status: String,
    created_at: PgTimestamp,
    pub(crate) updated_at: PgTimestamp,
    scheduled_at: PgTimestamp,
    published_at: Option<PgTimestamp>,
    pub(crate) retry_count: i32,
    pub(crate) max_retries: i32,
    last_error: String,
    publisher_backend: String,
    publisher_config: Option<String>,
    seq: Option<i64>,
    retry_at: Option<PgTimestamp>,
    cloud_event_id: String,
    extensions: Option<String>,
    pub(crate) partition_key: String,
    data_binary: Option<Vec<u8>>,
    pending_handlers: Option<String>,
    errors: Option<String>,
}

impl Row {
    /// The event, or why the row is not a valid event.
    pub(crate) fn decode(self) -> Result<OutboxEvent, String> {
        Ok(OutboxEvent {
            id: self.id,
            status: self.status.parse().map_err(|_| format!("status {:?} is unknown", self.status))?,
            created_at: time("created_at", self.created_at)?,
            updated_at: time("updated_at", self.updated_at)?,
            scheduled_at: time("scheduled_at", self.scheduled_at)?,
            published_at: self.published_at.map(|at| time("published_at", at)).transpose()?,
            retry_at: self.retry_at.map(|at| time("retry_at", at)).transpose()?,
            seq: self.seq.unwrap_or(0),
            publisher_config: object("publisher_config", self.publisher_config)?,
            extensions: object("extensions", self.extensions)?,
            pending_handlers: self.pending_handlers.map(names).transpose()?.flatten(),
            spec_version: self.spec_version,
            event_type: self.event_type,
            source: self.source,
            subject: self.subject,
            data_content_type: self.data_content_type,
            data_schema: self.data_schema,
            data: self.data.map(JsonText::new),
            data_binary: self.data_binary,
            retry_count: self.retry_count,
            max_retries: self.max_retries,
            last_error: self.last_error,
            publisher_backend: self.publisher_backend,
            cloud_event_id: self.cloud_event_id,
            partition_key: self.partition_key,
            errors: self.errors.map(JsonText::new),
        })
    }
}

/// The types of [`DELIVERED`].
pub(super) type DeliveredTypes = (
    Nullable<BigInt>,
    SqlUuid,
    Text,
    Text,
    Text,
    Text,
    Text,
    Text,
    Nullable<Text>,
    Text,
    Timestamptz,
    Timestamptz,
    Timestamptz,
    Nullable<Timestamptz>,
    Integer,
    Integer,
    Nullable<Text>,
    Nullable<BigInt>,
    Nullable<Timestamptz>,
    Text,
    Nullable<Text>,
    Text,
    Nullable<Binary>,
    Nullable<Text>,
);

/// A row that was read for a delivery.
#[derive(Queryable)]
pub(super) struct DeliveredRow {
    /// The event's size, if it is too large.
    oversize: Option<i64>,
    pub(super) id: Uuid,
    spec_version: String,
    event_type: String,
    source: String,
    subject: String,
    data_content_type: String,
    data_schema: String,
    data: Option<String>,
    pub(super) status: String,
    created_at: PgTimestamp,
    pub(super) updated_at: PgTimestamp,
    scheduled_at: PgTimestamp,
    published_at: Option<PgTimestamp>,
    pub(super) retry_count: i32,
    pub(super) max_retries: i32,
    publisher_config: Option<String>,
    seq: Option<i64>,
    retry_at: Option<PgTimestamp>,
    cloud_event_id: String,
    extensions: Option<String>,
    pub(super) partition_key: String,
    data_binary: Option<Vec<u8>>,
    pending_handlers: Option<String>,
}

impl DeliveredRow {
    /// The row's position; a row without `seq` is before those of its time.
    pub(super) fn position(&self) -> Position {
        Position { scheduled_at: self.scheduled_at.0, seq: self.seq.unwrap_or(i64::MIN) }
    }

    /// The event of a lane, or why the row is not a valid event.
    pub(super) fn decode(self, lane: &str, max_event_bytes: usize) -> Result<Arc<OutboxEvent>, String> {
        let too_large = |size: i64| {
            Err(format!("the event has {size} bytes, more than max_event_bytes = {max_event_bytes} allows"))
        };
        if let Some(size) = self.oversize {
            return too_large(size);
        }
        let event = self.row(lane).decode()?;
        match event.size() {
            size if size > max_event_bytes => too_large(i64::try_from(size).unwrap_or(i64::MAX)),
            _ => Ok(Arc::new(event)),
        }
    }

    fn row(self, lane: &str) -> Row {
        Row {
            id: self.id,
            spec_version: self.spec_version,
            event_type: self.event_type,
            source: self.source,
            subject: self.subject,
            data_content_type: self.data_content_type,
            data_schema: self.data_schema,
            data: self.data,
            status: self.status,
            created_at: self.created_at,
            updated_at: self.updated_at,
            scheduled_at: self.scheduled_at,
            published_at: self.published_at,
            retry_count: self.retry_count,
            max_retries: self.max_retries,
            last_error: String::new(),
            publisher_backend: lane.to_owned(),
            publisher_config: self.publisher_config,
            seq: self.seq,
            retry_at: self.retry_at,
            cloud_event_id: self.cloud_event_id,
            extensions: self.extensions,
            partition_key: self.partition_key,
            data_binary: self.data_binary,
            pending_handlers: self.pending_handlers,
            errors: None,
        }
    }
}

#[cfg(feature = "bench-api")]
impl Row {
    /// A typical row: pending, with data and a key.
    pub(crate) fn sample(data: String) -> Self {
        let at = PgTimestamp(850_000_000_000_000);
        Self {
            id: Uuid::now_v7(),
            spec_version: "1.0".to_owned(),
            event_type: "order.placed".to_owned(),
            source: "/shop/orders".to_owned(),
            subject: "order-4711".to_owned(),
            data_content_type: "application/json".to_owned(),
            data_schema: String::new(),
            data: Some(data),
            status: "pending".to_owned(),
            created_at: at,
            updated_at: at,
            scheduled_at: at,
            published_at: None,
            retry_count: 0,
            max_retries: 3,
            last_error: String::new(),
            publisher_backend: "orders".to_owned(),
            publisher_config: None,
            seq: Some(1),
            retry_at: None,
            cloud_event_id: String::new(),
            extensions: None,
            partition_key: "customer-7".to_owned(),
            data_binary: None,
            pending_handlers: None,
            errors: None,
        }
    }
}

/// From 1970 to 2000, where PostgreSQL's times begin.
pub(super) const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Converts a time; the lowest and the highest number mean `-infinity` and `infinity`.
pub(super) fn time(column: &str, raw: PgTimestamp) -> Result<DateTime<Utc>, String> {
    let micros = if raw.0 == i64::MIN { None } else { raw.0.checked_add(EPOCH_MICROS) };
    micros.and_then(DateTime::from_timestamp_micros).ok_or_else(|| format!("{column} is infinite or out of range"))
}

/// A JSON object. JSON null, which Django writes for `None`, and an empty array, which PHP writes for an empty object, are
/// read as an object without members, and so is NULL.
fn object(column: &str, json: Option<String>) -> Result<JsonText, String> {
    match json {
        Some(json) if json.starts_with('{') => Ok(JsonText::new(json)),
        Some(json) if json != "null" && json != "[]" => Err(format!("{column} is not a JSON object")),
        _ => Ok(JsonText::empty_object()),
    }
}

fn names(json: String) -> Result<Option<Vec<String>>, String> {
    serde_json::from_str(&json).map_err(|_| "pending_handlers is not an array of names".to_owned())
}

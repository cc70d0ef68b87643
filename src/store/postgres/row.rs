//! A row of the table as another writer may have left it.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::Queryable;
use diesel::data_types::PgTimestamp;
use diesel::sql_types::{BigInt, Binary, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use uuid::Uuid;

use super::version::{RawTid, RawXid, Tid, Xid};
use crate::event::{JsonText, OutboxEvent};
use crate::store::Position;
use crate::store::columns::with_columns;

/// The columns of a table or a query named `e`, after a text for each of them.
macro_rules! listed {
    ($column:ident; $($name:ident: $kind:ident),+ $(,)?) => {
        without_comma(concat!($(", ", $column!($kind $name)),+))
    };
}

const fn without_comma(list: &str) -> &str {
    list.split_at(2).1
}

/// JSON is read as text, so that it stays unchanged.
macro_rules! whole {
    (Json $name:ident) => {
        concat!("e.", stringify!($name), "::text")
    };
    (Object $name:ident) => {
        concat!("e.", stringify!($name), "::text")
    };
    (Names $name:ident) => {
        concat!("e.", stringify!($name), "::text")
    };
    ($kind:ident $name:ident) => {
        concat!("e.", stringify!($name))
    };
}

macro_rules! without_data {
    (Json data) => { "NULL::text" };
    (Bytes data_binary) => { "NULL::bytea" };
    ($kind:ident $name:ident) => { whole!($kind $name) };
}

macro_rules! with_texts {
    (Text last_error) => {
        "''::text AS last_error"
    };
    (Text publisher_backend) => {
        "''::text AS publisher_backend"
    };
    (Json errors) => {
        "NULL::text AS errors"
    };
    (Object $name:ident) => {
        concat!(
            "CASE WHEN pg_column_size(e.",
            stringify!($name),
            ") > 8 THEN e.",
            stringify!($name),
            "::text END AS ",
            stringify!($name)
        )
    };
    (Json $name:ident) => {
        concat!("e.", stringify!($name), "::text AS ", stringify!($name))
    };
    (Names $name:ident) => {
        concat!("e.", stringify!($name), "::text AS ", stringify!($name))
    };
    ($kind:ident $name:ident) => {
        concat!("e.", stringify!($name))
    };
}

macro_rules! if_it_fits {
    (Json $name:ident) => {
        concat!("CASE WHEN b.fits THEN e.", stringify!($name), " END")
    };
    (Object $name:ident) => {
        concat!("CASE WHEN b.fits THEN e.", stringify!($name), " END")
    };
    (Names $name:ident) => {
        concat!("CASE WHEN b.fits THEN e.", stringify!($name), " END")
    };
    (Bytes $name:ident) => {
        concat!("CASE WHEN b.fits THEN e.", stringify!($name), " END")
    };
    ($kind:ident $name:ident) => {
        concat!("e.", stringify!($name))
    };
}

macro_rules! sql_type {
    (Id) => { SqlUuid };
    (Text) => { Text };
    (Status) => { Text };
    (Time) => { Timestamptz };
    (OptionalTime) => { Nullable<Timestamptz> };
    (Count) => { Integer };
    (Seq) => { Nullable<BigInt> };
    (Bytes) => { Nullable<Binary> };
    ($json:ident) => { Nullable<Text> };
}

macro_rules! raw {
    (Id) => { Uuid };
    (Text) => { String };
    (Status) => { String };
    (Time) => { PgTimestamp };
    (OptionalTime) => { Option<PgTimestamp> };
    (Count) => { i32 };
    (Seq) => { Option<i64> };
    (Bytes) => { Option<Vec<u8>> };
    ($json:ident) => { Option<String> };
}

macro_rules! decoded {
    (Status $name:ident $raw:expr) => {
        $raw.parse().map_err(|_| format!("status {:?} is unknown", $raw))?
    };
    (Time $name:ident $raw:expr) => {
        time(stringify!($name), $raw)?
    };
    (OptionalTime $name:ident $raw:expr) => {
        $raw.map(|at| time(stringify!($name), at)).transpose()?
    };
    (Seq $name:ident $raw:expr) => {
        $raw.unwrap_or(0)
    };
    (Json $name:ident $raw:expr) => {
        $raw.map(JsonText::new)
    };
    (Object $name:ident $raw:expr) => {
        object(stringify!($name), $raw)?
    };
    (Names $name:ident $raw:expr) => {
        $raw.map(names).transpose()?.flatten()
    };
    ($kind:ident $name:ident $raw:expr) => {
        $raw
    };
}

macro_rules! make_row {
    ($($name:ident: $kind:ident,)+) => {
        /// The columns of [`Row`].
        pub(crate) const COLUMNS: &str = listed!(whole; $($name: $kind),+);

        /// [`COLUMNS`] without the events' data.
        pub(super) const COLUMNS_WITHOUT_DATA: &str = listed!(without_data; $($name: $kind),+);

        /// [`COLUMNS`] of a delivery: without those that it does not need, and with JSON as text: a few bytes of JSON can be a
        /// long text (`1e131071`), so its length is known only once it is made. In a query with a LIMIT or an OFFSET it is made
        /// once for each row. An empty object, which most rows have, has at most 8 bytes (only an empty array is as small) and
        /// becomes NULL.
        ///
        /// `version` is the transaction that wrote the row, and `place` where that version is.
        pub(super) const TEXTS: &str = concat!("e.xmin AS version, e.ctid AS place", $(", ", with_texts!($kind $name)),+);

        /// The columns of [`DeliveredRow`], from a [`sized`] query of [`TEXTS`] named `e` with [`FITS`]; of an event that is too
        /// large only those that identify it.
        pub(super) const DELIVERED: &str =
            concat!("CASE WHEN NOT b.fits THEN e.size END, e.version, e.place", $(", ", if_it_fits!($kind $name)),+);

        /// The types of [`COLUMNS`].
        pub(crate) type SqlTypes = ($(sql_type!($kind)),+);

        /// A row with any values; [`decode`](Self::decode) reports why it is not a valid event.
        #[derive(Clone, Queryable)]
        pub(crate) struct Row {
            $(pub(super) $name: raw!($kind),)+
        }

        impl Row {
            /// The event, or why the row is not a valid event.
            pub(crate) fn decode(self) -> Result<OutboxEvent, String> {
                Ok(OutboxEvent { $($name: decoded!($kind $name self.$name),)+ })
            }
        }
    };
}
with_columns!(make_row);

/// Adds the event's size in bytes to a query of [`TEXTS`], computed once for each row instead of each column that uses it.
pub(super) fn sized(query: &str) -> String {
    format!(
        "SELECT e.*, (coalesce(octet_length(e.data), 0) + coalesce(octet_length(e.data_binary), 0) \
            + coalesce(octet_length(e.publisher_config), 0) + coalesce(octet_length(e.extensions), 0) \
            + coalesce(octet_length(e.pending_handlers), 0))::bigint AS size FROM ({query}) e OFFSET 0"
    )
}

/// Joined to a sized query: whether the event's size is at most the parameter.
pub(super) const FITS: &str = "CROSS JOIN LATERAL (SELECT e.size <= ? AS fits) b";

/// The types of [`DELIVERED`].
pub(super) type DeliveredTypes = (Nullable<BigInt>, Xid, Tid, SqlTypes);

/// A row that was read for a delivery.
#[derive(Queryable)]
pub(super) struct DeliveredRow {
    /// The event's size, if it is too large.
    oversize: Option<i64>,
    pub(super) version: RawXid,
    pub(super) place: RawTid,
    pub(super) row: Row,
}

impl DeliveredRow {
    /// The row's position; a row without `seq` is before those of its time.
    pub(super) fn position(&self) -> Position {
        Position { scheduled_at: self.row.scheduled_at.0, seq: self.row.seq.unwrap_or(i64::MIN) }
    }

    /// The event of a lane, or why the row is not a valid event.
    pub(super) fn decode(self, lane: &str, max_event_bytes: usize) -> Result<Arc<OutboxEvent>, String> {
        let too_large = |size: i64| {
            Err(format!("the event has {size} bytes, more than max_event_bytes = {max_event_bytes} allows"))
        };
        if let Some(size) = self.oversize {
            return too_large(size);
        }
        let event = OutboxEvent { publisher_backend: lane.to_owned(), ..self.row.decode()? };
        match event.size() {
            size if size > max_event_bytes => too_large(i64::try_from(size).unwrap_or(i64::MAX)),
            _ => Ok(Arc::new(event)),
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
            event_time: None,
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

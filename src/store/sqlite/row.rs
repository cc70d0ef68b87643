//! A row of the table as another writer may have left it: in SQLite any column can hold any type.

use std::fmt::Display;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use diesel::Queryable;
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::sql_types::{Binary, Nullable};
use diesel::sqlite::{Sqlite, SqliteType, SqliteValue};
use uuid::Uuid;

use crate::event::{JsonText, OutboxEvent, Status};
use crate::store::Position;
use crate::store::columns::with_columns;

/// The type of a column that is read into a [`Cell`], whatever it holds.
pub(super) type Any = Nullable<Binary>;

/// A value of any type.
#[derive(Debug, FromSqlRow)]
pub(crate) enum Cell {
    Integer(i64),
    Text(String),
    Bytes(Vec<u8>),
    /// A real number, or text that is not UTF-8: none of our columns holds either.
    Odd,
}

impl FromSql<Binary, Sqlite> for Cell {
    fn from_sql(mut value: SqliteValue<'_, '_, '_>) -> deserialize::Result<Self> {
        Ok(match value.value_type() {
            Some(SqliteType::Integer | SqliteType::SmallInt | SqliteType::Long) => Self::Integer(value.read_long()),
            Some(SqliteType::Text) => String::from_utf8(value.read_blob().to_vec()).map_or(Self::Odd, Self::Text),
            Some(SqliteType::Binary) => Self::Bytes(value.read_blob().to_vec()),
            _ => Self::Odd,
        })
    }
}

macro_rules! any {
    ($name:ident) => {
        Any
    };
}

macro_rules! without_data {
    (data) => {
        ", NULL"
    };
    (data_binary) => {
        ", NULL"
    };
    ($name:ident) => {
        concat!(", e.", stringify!($name))
    };
}

/// A value that cannot be decoded, if the column's cannot; else nothing.
macro_rules! data_checked {
    (data) => {
        ", CASE WHEN e.data IS NULL THEN NULL WHEN typeof(e.data) <> 'text' THEN x'' WHEN NOT json_valid(e.data) THEN '?' END"
    };
    (data_binary) => {
        ", CASE WHEN typeof(e.data_binary) IN ('blob', 'null') THEN NULL ELSE '' END"
    };
    ($name:ident) => {
        concat!(", e.", stringify!($name))
    };
}

macro_rules! decoded {
    (Id $name:ident $cell:expr) => {
        id($cell)?
    };
    (Text $name:ident $cell:expr) => {
        text(stringify!($name), $cell)?
    };
    (Status $name:ident $cell:expr) => {
        parsed(stringify!($name), $cell)?
    };
    (Time $name:ident $cell:expr) => {
        time(stringify!($name), $cell)?
    };
    (OptionalTime $name:ident $cell:expr) => {
        optional(stringify!($name), $cell, time)?
    };
    (Count $name:ident $cell:expr) => {
        count(stringify!($name), $cell)?
    };
    (Seq $name:ident $cell:expr) => {
        integer(stringify!($name), $cell)?
    };
    (Json $name:ident $cell:expr) => {
        optional(stringify!($name), $cell, json)?
    };
    (Object $name:ident $cell:expr) => {
        object(stringify!($name), $cell)?
    };
    (Names $name:ident $cell:expr) => {
        optional(stringify!($name), $cell, names)?.flatten()
    };
    (Bytes $name:ident $cell:expr) => {
        optional(stringify!($name), $cell, bytes)?
    };
}

macro_rules! make_row {
    ($first:ident: $first_kind:ident, $($name:ident: $kind:ident,)+) => {
        /// The columns of [`Row`], of a table or a query named `e`.
        pub(crate) const COLUMNS: &str = concat!("e.", stringify!($first) $(, ", e.", stringify!($name))+);

        /// [`COLUMNS`] without the events' data.
        pub(super) const COLUMNS_WITHOUT_DATA: &str = concat!("e.", stringify!($first) $(, without_data!($name))+);

        /// [`COLUMNS_WITHOUT_DATA`], where data that is not valid makes the row invalid.
        pub(super) const COLUMNS_WITH_DATA_CHECKED: &str =
            concat!("e.", stringify!($first) $(, data_checked!($name))+);

        /// The types of [`COLUMNS`].
        pub(crate) type SqlTypes = (any!($first) $(, any!($name))+);

        /// A row with any values; [`decode`](Self::decode) reports why it is not a valid event.
        #[derive(Debug, Queryable)]
        pub(crate) struct Row {
            $first: Option<Cell>,
            $($name: Option<Cell>,)+
        }

        impl Row {
            /// The event, or why the row is not a valid event.
            pub(crate) fn decode(self) -> Result<OutboxEvent, String> {
                Ok(OutboxEvent {
                    $first: decoded!($first_kind $first self.$first),
                    $($name: decoded!($kind $name self.$name),)+
                })
            }
        }
    };
}
with_columns!(make_row);

impl Row {
    /// The row's id; nil if the column does not hold a UUID.
    pub(crate) fn id(&self) -> Uuid {
        match &self.id {
            Some(Cell::Bytes(bytes)) => Uuid::from_slice(bytes).unwrap_or_default(),
            _ => Uuid::nil(),
        }
    }

    /// The row's position; a value that is not a number sorts first.
    pub(crate) fn position(&self) -> Position {
        Position { scheduled_at: number(&self.scheduled_at), seq: number(&self.seq) }
    }

    /// The ordering scope; empty if the column does not hold text.
    pub(crate) fn partition_key(&self) -> &str {
        if let Some(Cell::Text(key)) = &self.partition_key { key } else { "" }
    }

    /// The status; `None` if the column does not hold a valid one.
    pub(crate) fn status(&self) -> Option<Status> {
        if let Some(Cell::Text(status)) = &self.status { status.parse().ok() } else { None }
    }

    /// Whether the row waits for a retry.
    pub(crate) fn is_retry(&self) -> bool {
        self.status() == Some(Status::Retry)
    }

    /// The number of rejections; 0 if the column does not hold a valid number.
    pub(crate) fn retry_count(&self) -> i32 {
        small(&self.retry_count)
    }

    /// The time of the last change; a value that is not a number sorts first.
    pub(crate) fn updated_at(&self) -> i64 {
        number(&self.updated_at)
    }

    /// The most rejections; 0 if the column does not hold a valid number.
    pub(crate) fn max_retries(&self) -> i32 {
        small(&self.max_retries)
    }
}

/// A number as a count; 0 if the cell does not hold one.
pub(super) fn small(cell: &Option<Cell>) -> i32 {
    if let Some(Cell::Integer(number)) = cell { i32::try_from(*number).unwrap_or_default() } else { 0 }
}

/// A cell's number; the lowest if it holds none.
pub(super) fn number(cell: &Option<Cell>) -> i64 {
    if let Some(Cell::Integer(number)) = cell { *number } else { i64::MIN }
}

/// A cell's text, if it holds one.
pub(super) fn text_in(cell: Option<Cell>) -> Option<String> {
    if let Some(Cell::Text(text)) = cell { Some(text) } else { None }
}

fn optional<T>(
    column: &str,
    cell: Option<Cell>,
    read: impl FnOnce(&str, Option<Cell>) -> Result<T, String>,
) -> Result<Option<T>, String> {
    if cell.is_none() { Ok(None) } else { read(column, cell).map(Some) }
}

fn id(cell: Option<Cell>) -> Result<Uuid, String> {
    Uuid::from_slice(&bytes("id", cell)?).map_err(|_| "id is not a blob of 16 bytes".to_owned())
}

fn text(column: &str, cell: Option<Cell>) -> Result<String, String> {
    match cell {
        Some(Cell::Text(text)) => Ok(text),
        _ => Err(format!("{column} is not UTF-8 text")),
    }
}

fn bytes(column: &str, cell: Option<Cell>) -> Result<Vec<u8>, String> {
    match cell {
        Some(Cell::Bytes(bytes)) => Ok(bytes),
        _ => Err(format!("{column} is not a blob")),
    }
}

fn integer(column: &str, cell: Option<Cell>) -> Result<i64, String> {
    match cell {
        Some(Cell::Integer(number)) => Ok(number),
        None => Err(format!("{column} is missing")),
        _ => Err(format!("{column} is not an integer")),
    }
}

fn count(column: &str, cell: Option<Cell>) -> Result<i32, String> {
    i32::try_from(integer(column, cell)?).map_err(|_| format!("{column} is out of range"))
}

fn time(column: &str, cell: Option<Cell>) -> Result<DateTime<Utc>, String> {
    DateTime::from_timestamp_micros(integer(column, cell)?).ok_or_else(|| format!("{column} is out of range"))
}

fn parsed<T: FromStr<Err: Display>>(column: &str, cell: Option<Cell>) -> Result<T, String> {
    let text = text(column, cell)?;
    text.parse().map_err(|_| format!("{column} {text:?} is unknown"))
}

fn json(column: &str, cell: Option<Cell>) -> Result<JsonText, String> {
    JsonText::checked(&text(column, cell)?).map_err(|problem| format!("{column} {problem}"))
}

fn object(column: &str, cell: Option<Cell>) -> Result<JsonText, String> {
    JsonText::checked_object(&text(column, cell)?).map_err(|problem| format!("{column} {problem}"))
}

fn names(column: &str, cell: Option<Cell>) -> Result<Option<Vec<String>>, String> {
    serde_json::from_str(&text(column, cell)?).map_err(|_| format!("{column} is not an array of names"))
}

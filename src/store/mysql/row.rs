//! A row of the table as another writer may have left it.

use std::fmt::Display;
use std::str::FromStr;

use chrono::{DateTime, NaiveDateTime, Utc};
use diesel::Queryable;
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::mysql::{Mysql, MysqlType, MysqlValue};
use diesel::sql_types::{BigInt, Binary, Datetime, Nullable};
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
    /// Text, JSON, a UUID, or a blob.
    Bytes(Vec<u8>),
    Time(DateTime<Utc>),
    /// A time that does not exist, such as MySQL's zero, or a number that is not an integer.
    Odd,
}

impl FromSql<Binary, Mysql> for Cell {
    fn from_sql(value: MysqlValue<'_>) -> deserialize::Result<Self> {
        Ok(match value.value_type() {
            MysqlType::Tiny
            | MysqlType::Short
            | MysqlType::Long
            | MysqlType::LongLong
            | MysqlType::UnsignedTiny
            | MysqlType::UnsignedShort
            | MysqlType::UnsignedLong
            | MysqlType::UnsignedLongLong => {
                <i64 as FromSql<BigInt, Mysql>>::from_sql(value).map_or(Self::Odd, Self::Integer)
            }
            MysqlType::DateTime | MysqlType::Timestamp | MysqlType::Date => {
                <NaiveDateTime as FromSql<Datetime, Mysql>>::from_sql(value)
                    .map_or(Self::Odd, |time| Self::Time(time.and_utc()))
            }
            MysqlType::String | MysqlType::Blob | MysqlType::Enum | MysqlType::Set => {
                Self::Bytes(value.as_bytes().to_vec())
            }
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
        ", IF(JSON_VALID(e.data) = 0, '-', NULL)"
    };
    (data_binary) => {
        ", NULL"
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
            Some(Cell::Bytes(text)) => Uuid::try_parse_ascii(text).unwrap_or_default(),
            _ => Uuid::nil(),
        }
    }

    /// The row's position, in microseconds since 1970; a value that is not one sorts first.
    pub(crate) fn position(&self) -> Position {
        Position { scheduled_at: micros(&self.scheduled_at), seq: number(&self.seq) }
    }

    /// The ordering scope; empty if the column does not hold text.
    pub(crate) fn partition_key(&self) -> &str {
        text_of(&self.partition_key).unwrap_or_default()
    }

    /// The status; `None` if the column does not hold a valid one.
    pub(crate) fn status(&self) -> Option<Status> {
        text_of(&self.status)?.parse().ok()
    }

    /// Whether the row waits for a retry.
    pub(crate) fn is_retry(&self) -> bool {
        self.status() == Some(Status::Retry)
    }

    /// The number of rejections; 0 if the column does not hold a valid number.
    pub(crate) fn retry_count(&self) -> i32 {
        small(&self.retry_count)
    }

    /// The time of the last change, in microseconds since 1970; a value that is not one sorts first.
    pub(crate) fn updated_at(&self) -> i64 {
        micros(&self.updated_at)
    }

    /// The most rejections; 0 if the column does not hold a valid number.
    pub(crate) fn max_retries(&self) -> i32 {
        small(&self.max_retries)
    }
}

fn small(cell: &Option<Cell>) -> i32 {
    if let Some(Cell::Integer(number)) = cell { i32::try_from(*number).unwrap_or_default() } else { 0 }
}

fn number(cell: &Option<Cell>) -> i64 {
    if let Some(Cell::Integer(number)) = cell { *number } else { i64::MIN }
}

fn micros(cell: &Option<Cell>) -> i64 {
    if let Some(Cell::Time(time)) = cell { time.timestamp_micros() } else { i64::MIN }
}

fn text_of(cell: &Option<Cell>) -> Option<&str> {
    if let Some(Cell::Bytes(bytes)) = cell { std::str::from_utf8(bytes).ok() } else { None }
}

fn optional<T>(
    column: &str,
    cell: Option<Cell>,
    read: impl FnOnce(&str, Option<Cell>) -> Result<T, String>,
) -> Result<Option<T>, String> {
    if cell.is_none() { Ok(None) } else { read(column, cell).map(Some) }
}

fn id(cell: Option<Cell>) -> Result<Uuid, String> {
    Uuid::try_parse_ascii(&bytes("id", cell)?).map_err(|_| "id is not a UUID".to_owned())
}

fn text(column: &str, cell: Option<Cell>) -> Result<String, String> {
    let text = String::from_utf8(bytes(column, cell)?);
    text.map_err(|_| format!("{column} is not UTF-8 text"))
}

fn bytes(column: &str, cell: Option<Cell>) -> Result<Vec<u8>, String> {
    match cell {
        Some(Cell::Bytes(bytes)) => Ok(bytes),
        None => Err(format!("{column} is missing")),
        _ => Err(format!("{column} has another type")),
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
    match cell {
        Some(Cell::Time(time)) => Ok(time),
        None => Err(format!("{column} is missing")),
        _ => Err(format!("{column} is not a time")),
    }
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

//! Statements as text with their values.

use std::borrow::Cow;
use std::marker::PhantomData;

use diesel::mysql::Mysql;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::result::QueryResult;
use diesel::sql_types::{BigInt, Binary, Nullable, Text};
use uuid::Uuid;

/// SQL with a `?` for each value, and the types of its rows.
pub(super) struct Statement<Rows = ()> {
    sql: Cow<'static, str>,
    values: Vec<Value>,
    rows: PhantomData<Rows>,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Number(i64),
    Text(String),
    Bytes(Vec<u8>),
    Null,
}

impl<Rows> Statement<Rows> {
    /// A statement whose text never changes: the server parses it once for each connection.
    pub(super) fn new(sql: &'static str, values: impl Into<Vec<Value>>) -> Self {
        Self::checked(Cow::Borrowed(sql), values.into())
    }

    /// A statement whose text depends on the number of its values: it is prepared for one use.
    pub(super) fn built(sql: String, values: impl Into<Vec<Value>>) -> Self {
        Self::checked(Cow::Owned(sql), values.into())
    }

    fn checked(sql: Cow<'static, str>, values: Vec<Value>) -> Self {
        debug_assert_eq!(sql.matches('?').count(), values.len(), "{sql}");
        Self { sql, values, rows: PhantomData }
    }
}

/// `(?, ?, …)`, for a list of this many values. A statement has at most 65535.
pub(super) fn list(count: usize) -> String {
    let mut text = String::from("(?");
    (1..count).for_each(|_| text.push_str(", ?"));
    text.push(')');
    text
}

/// Whether a delivery `d` is one of an event `e`. Both ids may be texts of different collations, which the server would not compare.
macro_rules! is_of_event {
    () => {
        "d.event_id = CONVERT(CAST(e.id AS char) USING ascii)"
    };
}
pub(super) use is_of_event;

/// The form in which ids are sent: a `uuid` and a `char(32)` column both take it.
pub(super) fn id_text(id: Uuid) -> String {
    id.simple().to_string()
}

impl From<Uuid> for Value {
    fn from(id: Uuid) -> Self {
        Self::Text(id_text(id))
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl Value {
    fn push<'b>(&'b self, out: &mut AstPass<'_, 'b, Mysql>) -> QueryResult<()> {
        match self {
            Self::Number(value) => out.push_bind_param::<BigInt, _>(value),
            Self::Text(value) => out.push_bind_param::<Text, _>(value),
            Self::Bytes(value) => out.push_bind_param::<Binary, _>(value),
            Self::Null => out.push_bind_param::<Nullable<Text>, _>(&None::<String>),
        }
    }
}

impl<Rows> QueryFragment<Mysql> for Statement<Rows> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Mysql>) -> QueryResult<()> {
        if matches!(self.sql, Cow::Owned(_)) {
            out.unsafe_to_cache_prepared();
        }
        let mut values = self.values.iter();
        for part in self.sql.split_inclusive('?') {
            match part.strip_suffix('?') {
                None => out.push_sql(part),
                Some(before) => {
                    out.push_sql(before);
                    values.next().map_or(Ok(()), |value| value.push(&mut out))?;
                }
            }
        }
        Ok(())
    }
}

/// Statements are told apart by their text.
impl<Rows> QueryId for Statement<Rows> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<Rows> Query for Statement<Rows> {
    type SqlType = Rows;
}

impl<C, Rows> diesel::RunQueryDsl<C> for Statement<Rows> {}

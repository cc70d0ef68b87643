//! Statements whose text never changes, so that the server parses each once per connection.
//!
//! Diesel prepares raw SQL again for each call, which costs one more round trip, parse and plan.

use std::marker::PhantomData;

use diesel::data_types::PgTimestamp;
use diesel::pg::Pg;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::result::QueryResult;
use diesel::sql_types::{Array, BigInt, Bool, SmallInt, Text, Timestamptz, Uuid as SqlUuid};
use uuid::Uuid;

/// SQL with a `?` for each value, and the types of its rows.
pub(super) struct Statement<Rows> {
    sql: &'static str,
    values: Vec<Value>,
    cached: bool,
    rows: PhantomData<Rows>,
}

/// A value, by its type at the server.
pub(super) enum Value {
    Bool(bool),
    Number(i64),
    Numbers(Vec<i64>),
    SmallNumbers(Vec<i16>),
    Text(String),
    Texts(Vec<String>),
    Times(Vec<PgTimestamp>),
    Ids(Vec<Uuid>),
}

impl<Rows> Statement<Rows> {
    /// Creates a statement; `cached`: the server may keep it and its plan.
    pub(super) fn new(cached: bool, sql: &'static str, values: impl Into<Vec<Value>>) -> Self {
        let values = values.into();
        debug_assert_eq!(sql.matches('?').count(), values.len(), "{sql}");
        Self { sql, values, cached, rows: PhantomData }
    }
}

impl<Rows> QueryFragment<Pg> for Statement<Rows> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        if !self.cached {
            out.unsafe_to_cache_prepared();
        }
        let mut values = self.values.iter();
        for part in self.sql.split_inclusive('?') {
            match part.strip_suffix('?') {
                None => out.push_sql(part),
                Some(before) => {
                    out.push_sql(before);
                    values.next().map_or(Ok(()), |value| value.push(out.reborrow()))?;
                }
            }
        }
        Ok(())
    }
}

impl Value {
    fn push<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        match self {
            Self::Bool(value) => out.push_bind_param::<Bool, _>(value),
            Self::Number(value) => out.push_bind_param::<BigInt, _>(value),
            Self::Numbers(values) => out.push_bind_param::<Array<BigInt>, _>(values),
            Self::SmallNumbers(values) => out.push_bind_param::<Array<SmallInt>, _>(values),
            Self::Text(value) => out.push_bind_param::<Text, _>(value),
            Self::Texts(values) => out.push_bind_param::<Array<Text>, _>(values),
            Self::Times(values) => out.push_bind_param::<Array<Timestamptz>, _>(values),
            Self::Ids(values) => out.push_bind_param::<Array<SqlUuid>, _>(values),
        }
    }
}

/// A condition that holds if the server accepts writes, and otherwise fails the statement. Behind a pooler or a floating
/// address, a connection that was checked when it was made may lead to a standby later, which shows events as pending that
/// were published since. `nextval`, which is never reached on a primary, fails there with an error code of its own.
macro_rules! on_a_primary {
    () => {
        "(SELECT CASE WHEN current_setting('transaction_read_only') = 'on' THEN nextval('outbox_events_seq') END) IS NULL"
    };
}
pub(super) use on_a_primary;

/// Statements are told apart by their text.
impl<Rows> QueryId for Statement<Rows> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<Rows> Query for Statement<Rows> {
    type SqlType = Rows;
}

impl<C, Rows> diesel::RunQueryDsl<C> for Statement<Rows> {}

//! Numbers of transactions.

use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::pg::{Pg, PgValue};
use diesel::query_builder::QueryId;
use diesel::sql_types::SqlType;

use crate::store::TransactionId;

/// The type `xid`.
#[derive(Debug, Clone, Copy, QueryId, SqlType)]
#[diesel(postgres_type(oid = 28, array_oid = 1011))]
pub(super) struct Xid;

/// A value of the type `xid`.
#[derive(Debug, Clone, Copy, FromSqlRow)]
pub(super) struct RawXid(pub(super) TransactionId);

impl FromSql<Xid, Pg> for RawXid {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let bytes = <[u8; 4]>::try_from(value.as_bytes())?;
        Ok(Self(TransactionId(u32::from_be_bytes(bytes))))
    }
}

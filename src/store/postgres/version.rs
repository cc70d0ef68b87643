//! System columns of a row's version: the transaction that wrote it, and its place in the table.

use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::pg::{Pg, PgValue};
use diesel::query_builder::QueryId;
use diesel::sql_types::SqlType;
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type, accepts, to_sql_checked};

use crate::store::{RowPlace, TransactionId};

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

/// The type `tid`.
#[derive(Debug, Clone, Copy, QueryId, SqlType)]
#[diesel(postgres_type(oid = 27, array_oid = 1010))]
pub(super) struct Tid;

/// A value of the type `tid`.
#[derive(Debug, Clone, Copy, FromSqlRow)]
pub(super) struct RawTid(pub(super) RowPlace);

impl FromSql<Tid, Pg> for RawTid {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        Ok(Self(RowPlace(<[u8; 6]>::try_from(value.as_bytes())?)))
    }
}

/// A place as a parameter.
#[derive(Debug)]
pub(super) struct PlaceParameter(pub(super) RowPlace);

impl ToSql for PlaceParameter {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&self.0.0);
        Ok(IsNull::No)
    }

    accepts!(TID);
    to_sql_checked!();
}

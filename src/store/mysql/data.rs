//! Parts of an event's data, which may be large.

use diesel::sql_types::{BigInt, Binary, Bool};
use uuid::Uuid;

use super::error::Failure;
use super::session::Session;
use super::statement::{Statement, Value};
use crate::store::DataPart;

const READ: &str = "SELECT SUBSTRING(d.bytes, ?, ?), CAST(OCTET_LENGTH(d.bytes) AS signed), d.is_binary FROM (\
    SELECT COALESCE(data_binary, CAST(CAST(data AS char) AS binary), CAST('' AS binary)) AS bytes, \
        data_binary IS NOT NULL AS is_binary FROM outbox_events WHERE id = ?) d";

pub(super) async fn read(
    session: &mut Session<'_>,
    id: Uuid,
    from: i32,
    length: i32,
) -> Result<Option<DataPart>, Failure> {
    let values: [Value; 3] = [(i64::from(from) + 1).into(), i64::from(length).into(), id.into()];
    let rows: Vec<(Vec<u8>, i64, bool)> = session.load(Statement::<(Binary, BigInt, Bool)>::new(READ, values)).await?;
    let part = |(bytes, total, is_binary): (Vec<u8>, i64, bool)| DataPart {
        bytes,
        total: u64::try_from(total).unwrap_or(0),
        is_binary,
    };
    Ok(rows.into_iter().next().map(part))
}

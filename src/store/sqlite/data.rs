//! Parts of an event's data, which may be large.

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Bool, Nullable};
use uuid::Uuid;

use crate::store::DataPart;

pub(super) fn read(
    connection: &mut SqliteConnection,
    id: Uuid,
    from: i32,
    length: i32,
) -> QueryResult<Option<DataPart>> {
    const BYTES: &str = "CAST(coalesce(data_binary, data, '') AS BLOB)";
    let row: Option<(Option<Vec<u8>>, i64, bool)> =
        sql::<(Nullable<Binary>, BigInt, Bool)>(&format!("SELECT substr({BYTES}, "))
            .bind::<BigInt, _>(i64::from(from) + 1)
            .sql(", ")
            .bind::<BigInt, _>(i64::from(length))
            .sql(&format!("), length({BYTES}), data_binary IS NOT NULL FROM outbox_events WHERE id = "))
            .bind::<Binary, _>(id.as_bytes().as_slice())
            .get_result(connection)
            .optional()?;
    Ok(row.map(|(bytes, total, is_binary)| DataPart {
        // SQLite takes a part of nothing for NULL.
        bytes: bytes.unwrap_or_default(),
        total: u64::try_from(total).unwrap_or(0),
        is_binary,
    }))
}

//! Parts of an event's data, which may be large.

use diesel::sql_types::{BigInt, Binary, Bool, Uuid as SqlUuid};
use diesel::{OptionalExtension, QueryableByName, sql_query};
use diesel_async::RunQueryDsl;
use futures_util::FutureExt;
use uuid::Uuid;

use super::{PostgresStore, Result};
use crate::store::DataPart;

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Binary)]
    bytes: Vec<u8>,
    #[diesel(sql_type = BigInt)]
    total: i64,
    #[diesel(sql_type = Bool)]
    is_binary: bool,
}

/// The value is unpacked once: OFFSET keeps the subquery apart.
const READ: &str = "SELECT substring(d.bytes FROM $2::int FOR $3::int) AS bytes, octet_length(d.bytes)::bigint AS total, \
        d.is_binary \
    FROM outbox_events e CROSS JOIN LATERAL (SELECT coalesce(e.data_binary, convert_to(e.data::text, 'UTF8'), '') AS bytes, \
        e.data_binary IS NOT NULL AS is_binary OFFSET 0) d \
    WHERE e.id = $1";

pub(super) async fn read(store: &PostgresStore, id: Uuid, from: i32, length: i32) -> Result<Option<DataPart>> {
    let row = store
        .run("read an event's data", |conn| {
            sql_query(READ)
                .bind::<SqlUuid, _>(id)
                .bind::<BigInt, _>(i64::from(from) + 1)
                .bind::<BigInt, _>(i64::from(length))
                .get_result::<Row>(conn)
                .map(OptionalExtension::optional)
                .boxed()
        })
        .await?;
    Ok(row.map(|Row { bytes, total, is_binary }| DataPart {
        bytes,
        total: u64::try_from(total).unwrap_or(0),
        is_binary,
    }))
}

//! One question about many lanes: in which of them anything is due.

use std::time::Duration;

use diesel::sql_types::{BigInt, Bool, Nullable, Text};
use diesel_async::RunQueryDsl;
use futures_util::FutureExt;

use crate::store::postgres::statement::{Statement, Value, on_a_primary};
use crate::store::postgres::{PostgresStore, Result};
use crate::store::{DueKind, DueLane, DueLanes, LaneName};

/// The lanes that have a due event in one of these shards.
pub(in crate::store::postgres) async fn due_lanes(
    store: &PostgresStore,
    lanes: &[(LaneName, Vec<i16>)],
) -> Result<DueLanes> {
    let names: Vec<String> = lanes.iter().map(|(lane, _)| lane.to_string()).collect();
    let masks: Vec<i64> = lanes.iter().map(|(_, shards)| mask(shards)).collect();
    let values = [names.clone(), names].map(Value::Texts).into_iter().zip([masks.clone(), masks].map(Value::Numbers));
    let query = Statement::<(Nullable<Text>, Bool, BigInt)>::new(
        store.target.can_cache_statements(),
        DUE_LANES,
        values.flat_map(|(names, masks)| [names, masks]).collect::<Vec<_>>(),
    );
    let rows = store
        .read("find lanes with due events", |conn| query.load::<(Option<String>, bool, i64)>(conn).boxed())
        .await?;
    let (mut found, mut took) = (DueLanes { lanes: Vec::new(), took: Duration::ZERO }, 0);
    for (lane, is_retry, micros) in rows {
        took = took.max(micros);
        let kind = if is_retry { DueKind::Retry } else { DueKind::Pending };
        found.lanes.extend(lane.map(|lane| DueLane { lane: lane.into(), kind }));
    }
    found.took = Duration::from_micros(took.unsigned_abs());
    Ok(found)
}

fn mask(shards: &[i16]) -> i64 {
    shards.iter().fold(0, |mask, shard| mask | 1 << (shard & 63))
}

/// The order is an index's, so the first row is one step into it. Only a lane that has such a row is searched by shard.
macro_rules! lanes_with {
    ($status:literal, $retries:literal, $order:literal, $due:literal) => {
        concat!(
            "SELECT l.lane, ",
            $retries,
            " AS retries, 0::bigint AS took FROM unnest(?, ?) AS l(lane, shards) CROSS JOIN LATERAL (\
                SELECT FROM outbox_events e WHERE e.publisher_backend = l.lane AND e.status = '",
            $status,
            "' ORDER BY outbox_shard(e.partition_key, e.id), ",
            $order,
            " LIMIT 1) any_event CROSS JOIN LATERAL (\
                SELECT FROM generate_series(0, 31) AS n CROSS JOIN LATERAL (",
            $due,
            ") due WHERE l.shards >> n & 1 = 1 LIMIT 1) found"
        )
    };
}

const DUE_LANES: &str = concat!(
    "SELECT d.lane, d.retries, d.took FROM (",
    lanes_with!(
        "pending",
        "false",
        "e.scheduled_at, e.seq",
        "SELECT FROM outbox_events e WHERE e.publisher_backend = l.lane \
            AND outbox_shard(e.partition_key, e.id) = n::smallint AND e.status = 'pending' AND e.scheduled_at <= now() \
            ORDER BY e.scheduled_at, e.seq LIMIT 1"
    ),
    " UNION ALL ",
    lanes_with!(
        "retry",
        "true",
        "e.retry_at",
        "(SELECT FROM outbox_events e WHERE e.publisher_backend = l.lane \
            AND outbox_shard(e.partition_key, e.id) = n::smallint AND e.status = 'retry' AND e.retry_at <= now() \
            ORDER BY e.retry_at LIMIT 1) UNION ALL (SELECT FROM outbox_events e WHERE e.publisher_backend = l.lane \
            AND outbox_shard(e.partition_key, e.id) = n::smallint AND e.status = 'retry' AND e.retry_at IS NULL \
            AND e.scheduled_at <= now() LIMIT 1)"
    ),
    // The last row: the time that the others took.
    " UNION ALL SELECT NULL, false, \
        greatest((extract(epoch FROM clock_timestamp() - statement_timestamp()) * 1000000)::bigint, 0)) d WHERE ",
    on_a_primary!()
);

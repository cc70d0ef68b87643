//! The position of one event in its queue.

use std::sync::LazyLock;

use chrono::{DateTime, Utc};
use diesel::data_types::PgTimestamp;
use diesel::sql_types::{BigInt, Bool, Nullable, SmallInt, Timestamptz, Uuid as SqlUuid};
use diesel::{OptionalExtension, QueryableByName};
use diesel_async::RunQueryDsl;
use futures_util::FutureExt;
use uuid::Uuid;

use super::{PostgresStore, Result, SHARDS};
use crate::store::{MOST_AHEAD, Position, QueuePosition};

#[derive(QueryableByName)]
struct Found {
    #[diesel(sql_type = Timestamptz)]
    now: DateTime<Utc>,
    #[diesel(sql_type = Timestamptz)]
    scheduled_at: PgTimestamp,
    #[diesel(sql_type = BigInt)]
    seq: i64,
    #[diesel(sql_type = SmallInt)]
    shard: i16,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    owner: Option<Uuid>,
    #[diesel(sql_type = BigInt)]
    ahead: i64,
    #[diesel(sql_type = Bool)]
    more_ahead: bool,
}

/// Counts each shard through the index for reading, up to its part of the maximum.
static QUERY: LazyLock<String> = LazyLock::new(|| {
    let most = MOST_AHEAD / i64::from(SHARDS);
    format!(
        "SELECT clock_timestamp() AS now, e.scheduled_at, coalesce(e.seq, 0) AS seq, e.shard, l.owner, a.ahead, a.more_ahead \
         FROM (SELECT *, outbox_shard(partition_key, id) AS shard FROM outbox_events WHERE id = $1) e \
         LEFT JOIN outbox_running_leases l ON l.backend = e.publisher_backend AND l.shard = e.shard \
         CROSS JOIN LATERAL (SELECT sum(n)::bigint AS ahead, bool_or(n >= {most}) AS more_ahead \
            FROM generate_series(0, {SHARDS} - 1) s CROSS JOIN LATERAL (SELECT count(*) AS n FROM (\
                SELECT FROM outbox_events o WHERE o.publisher_backend = e.publisher_backend \
                AND outbox_shard(o.partition_key, o.id) = s::smallint AND o.status = 'pending' \
                AND (o.scheduled_at, o.seq) < (e.scheduled_at, e.seq) LIMIT {most}) counted) shards) a"
    )
});

pub(super) async fn queue_position(store: &PostgresStore, id: Uuid) -> Result<Option<QueuePosition>> {
    let found: Option<Found> = store
        .read("read a queue position", |conn| {
            async move { diesel::sql_query(&*QUERY).bind::<SqlUuid, _>(id).get_result(conn).await.optional() }.boxed()
        })
        .await?;
    Ok(found.map(|found| QueuePosition {
        now: found.now,
        position: Position { scheduled_at: found.scheduled_at.0, seq: found.seq },
        shard: found.shard,
        owner: found.owner,
        ahead: found.ahead,
        more_ahead: found.more_ahead,
    }))
}

//! Moves unsent events to the lanes that their routes give.

use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::{Parameter, Settling, durable};
use crate::store::postgres::{PostgresStore, Result};
use crate::store::{RoutedEvent, Settled};

/// Not divided on a refusal: an event must not be moved without the earlier ones of its key.
pub(in crate::store::postgres) async fn routed(
    store: &PostgresStore,
    owner: Uuid,
    events: &[RoutedEvent],
) -> Result<Vec<Settled>> {
    store.settling.route(owner, events).await
}

impl Settling {
    async fn route(&self, owner: Uuid, events: &[RoutedEvent]) -> Result<Vec<Settled>> {
        self.write_and_wait(|barrier| async move {
            let rows = self.query("route events", sql(barrier), parameters(owner, events)).await?;
            Ok(rows.iter().map(outcome).collect())
        })
        .await
    }
}

fn outcome(row: &Row) -> Settled {
    match (row.get("moved"), row.get("waits"), row.get("there")) {
        (true, ..) => Settled::Recorded,
        (false, true, true) => Settled::Locked,
        _ => Settled::Superseded,
    }
}

/// Locks the leases until the commit, so that no other worker can have read the events meanwhile. An event waits if its row is
/// locked, or if an earlier one of its key was given and is not moved.
fn sql(barrier: &str) -> String {
    format!(
        "WITH {}, s AS MATERIALIZED (SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7) \
            WITH ORDINALITY AS s(id, seq, lane, shard, epoch, key, destination, n)), \
         leases AS MATERIALIZED (SELECT l.backend, l.shard, l.epoch FROM durable, outbox_leases l \
            WHERE l.backend IN (SELECT lane FROM s) AND l.owner = $8 FOR SHARE OF l), \
         mine AS MATERIALIZED (SELECT e.id, e.publisher_backend, e.status, e.published_at, s.n FROM s, durable, outbox_events e \
            WHERE e.id = s.id AND e.seq = s.seq FOR NO KEY UPDATE OF e SKIP LOCKED), \
         fit AS MATERIALIZED (SELECT s.n FROM s JOIN mine m ON m.n = s.n JOIN leases l \
                ON l.backend = s.lane AND l.shard = s.shard AND l.epoch = s.epoch \
            WHERE m.publisher_backend = s.lane AND m.status IN ('pending', 'retry') AND m.published_at IS NULL), \
         stuck AS MATERIALIZED (SELECT s.key, min(s.n) AS n FROM s LEFT JOIN fit ON fit.n = s.n LEFT JOIN mine m ON m.n = s.n \
            WHERE s.key <> '' AND fit.n IS NULL AND m.publisher_backend IS DISTINCT FROM s.destination GROUP BY s.key), \
         moved AS (UPDATE outbox_events e SET publisher_backend = s.destination, updated_at = now() FROM s JOIN fit ON fit.n = s.n \
            WHERE e.id = s.id AND e.seq = s.seq AND NOT EXISTS (SELECT FROM stuck WHERE stuck.key = s.key AND stuck.n < s.n) \
            RETURNING e.id) \
         SELECT moved.id IS NOT NULL OR coalesce(m.publisher_backend = s.destination, false) AS moved, \
            fit.n IS NOT NULL OR m.n IS NULL AS waits, e.id IS NOT NULL AS there \
         FROM durable, s LEFT JOIN moved ON moved.id = s.id LEFT JOIN mine m ON m.n = s.n LEFT JOIN fit ON fit.n = s.n \
            LEFT JOIN outbox_events e ON e.id = s.id AND e.seq = s.seq ORDER BY s.n",
        durable(&format!(", {barrier}"))
    )
}

fn parameters(owner: Uuid, events: &[RoutedEvent]) -> Vec<Parameter> {
    fn column<T>(events: &[RoutedEvent], of: impl Fn(&RoutedEvent) -> T, kind: Type) -> Parameter
    where
        T: ToSql + Send + Sync + 'static,
    {
        (Box::new(events.iter().map(of).collect::<Vec<T>>()), kind)
    }
    vec![
        column(events, |event| event.id, Type::UUID_ARRAY),
        column(events, |event| event.seq, Type::INT8_ARRAY),
        column(events, |event| event.shard.lane.to_string(), Type::TEXT_ARRAY),
        column(events, |event| event.shard.number, Type::INT2_ARRAY),
        column(events, |event| event.epoch, Type::INT8_ARRAY),
        column(events, |event| event.key.clone(), Type::TEXT_ARRAY),
        column(events, |event| event.to.clone(), Type::TEXT_ARRAY),
        (Box::new(owner), Type::UUID),
    ]
}

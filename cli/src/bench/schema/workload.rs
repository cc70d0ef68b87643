//! The events in the table before a measurement.

use anyhow::{Context, Result};

use super::{BenchSchema, MEASURE};

/// Events that are due.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Workload {
    pub(crate) events: u32,
    /// The length of each event's data in characters.
    pub(crate) data: u32,
    /// The number of keys; 0: no event has one.
    pub(crate) keys: u32,
    /// The values of `publisher_backend`, assigned in rotation.
    pub(crate) lanes: &'static [&'static str],
    /// Each event belongs to a trace, and one in this many traces is sampled; 0: no event does.
    pub(crate) sampled: u32,
}

impl BenchSchema {
    /// Empties the table and fills it.
    pub(crate) async fn refill(&self, workload: Workload) -> Result<()> {
        self.empty().await?;
        self.fill(workload).await
    }

    /// Removes all events.
    pub(crate) async fn empty(&self) -> Result<()> {
        self.run(
            "TRUNCATE outbox_events, outbox_workers, outbox_heartbeats, bench_starts, bench_deletions, bench_minimal",
        )
        .await
    }

    /// Adds events and vacuums the table, so that no measurement pays for earlier writes.
    pub(crate) async fn fill(&self, workload: Workload) -> Result<()> {
        let Workload { events, data, keys, lanes, sampled } = workload;
        let [events, data, keys, sampled] = [events, data, keys, sampled].map(i64::from);
        let inserted = self.client.execute(INSERT, &[&events, &data, &keys, &lanes, &sampled]).await;
        inserted.context(MEASURE)?;
        self.settle_down().await
    }

    /// Records all events as published long ago; each leaves a dead row.
    pub(crate) async fn publish_all(&self) -> Result<()> {
        self.run("UPDATE outbox_events SET status = 'published', published_at = '2000-01-01', updated_at = now()").await
    }

    async fn settle_down(&self) -> Result<()> {
        self.run("VACUUM (ANALYZE) outbox_events").await?;
        // Not every role may do this; otherwise the server writes its pages at a time of its own.
        let _ = self.client.batch_execute("CHECKPOINT").await;
        Ok(())
    }
}

/// Ids in the order of time, as this library makes them, and data that does not compress: `{"n": 7, "note": "…"}`, which has
/// 19 characters in addition to the digits and the note.
const INSERT: &str = "WITH pool AS MATERIALIZED (SELECT p, (SELECT string_agg(translate(encode(sha256((p + i * random())::text::bytea), \
            'base64'), '=', ''), '') FROM generate_series(0, $2::bigint / 43) i) AS text FROM generate_series(0, 63) p) \
         INSERT INTO outbox_events (id, event_type, source, data, partition_key, publisher_backend, extensions) \
         SELECT encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid()) \
                placing substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) \
                FROM 1 FOR 6), 52, 1), 53, 1), 'hex')::uuid, 'order.placed', '/shop/orders', \
            jsonb_build_object('n', n, 'note', left(pool.text, ($2 - 19 - length(n::text))::int)), \
            CASE WHEN $3::bigint = 0 THEN '' ELSE 'key-' || n % $3 END, ($4::text[])[1 + n % cardinality($4)], \
            CASE WHEN $5::bigint = 0 THEN '{}' ELSE jsonb_build_object('traceparent', \
                '00-' || md5(n::text) || '-' || left(md5('span ' || n), 16) || CASE WHEN n % $5 = 0 THEN '-01' ELSE '-00' END) END \
         FROM generate_series(1, $1::bigint) n JOIN pool ON pool.p = n % 64";

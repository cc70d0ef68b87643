//! Records rejections: retries and failures.

use serde_json::json;
use tokio_postgres::Row;
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type, accepts, to_sql_checked};
use uuid::Uuid;

use super::accepted::Sets;
use super::{Parameter, Settling, durable};
use crate::fault_injection::{self, ProtocolRule};
use crate::store::postgres::{PostgresStore, Result};
use crate::store::{FailureRecord, Settled, SettledEvent, divide};

/// Records retries and failures, each under the lease of its dispatch. A repeated statement finds and reports its own work,
/// so after a lost reply the same call is repeated.
pub(in crate::store::postgres) async fn rescheduled(
    store: &PostgresStore,
    owner: Uuid,
    events: &[FailureRecord],
) -> Result<Vec<SettledEvent>> {
    divide(events, |events| async move { store.settling.reschedule(owner, &events).await }).await
}

impl Settling {
    async fn reschedule(&self, owner: Uuid, events: &[FailureRecord]) -> Result<Vec<SettledEvent>> {
        self.write_and_wait(|barrier| async move {
            let rows = self.query("record retries and failures", sql(barrier), parameters(owner, events)).await?;
            Ok(rows.iter().map(settled).collect())
        })
        .await
    }
}

fn settled(row: &Row) -> SettledEvent {
    let owed: Option<Vec<String>> = row.get("owed");
    SettledEvent { outcome: found(row), owed: owed.unwrap_or_default() }
}

/// The outcome of a rejection in a result row with `recorded`, `held` and `there`.
pub(in crate::store::postgres) fn found(row: &Row) -> Settled {
    match (row.get("recorded"), row.get("held"), row.get("there")) {
        (true, ..) => Settled::Recorded,
        (false, false, true) => Settled::Locked,
        _ => Settled::Superseded,
    }
}

/// Locks the rows whatever their state: the lock shows their newest version, and the commit waits even if an earlier
/// execution has done the work.
fn sql(barrier: &str) -> String {
    format!(
        "WITH {durable}, s AS MATERIALIZED (SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $16, $17, $19) \
            WITH ORDINALITY AS s(id, seq, lane, shard, epoch, fetched, version, retries, status, delay, error, entry, \
            published, handlers, asked_set, rest, holds, n)), \
         mine AS MATERIALIZED (SELECT e.id, e.seq, e.status, e.retry_count, e.pending_handlers, e.updated_at, \
                e.published_at, e.event_type, e.publisher_backend, e.partition_key, e.scheduled_at, e.max_retries \
            FROM s, durable, outbox_events e WHERE e.id = s.id AND e.seq = s.seq FOR NO KEY UPDATE OF e SKIP LOCKED), \
         written AS (UPDATE outbox_events e SET status = s.status, retry_count = s.retries, updated_at = now(), \
            retry_at = CASE WHEN s.status = 'retry' THEN now() + s.delay * interval '1 microsecond' WHEN s.holds THEN now() END, \
            published_at = CASE WHEN s.published THEN coalesce(e.published_at, now()) ELSE e.published_at END, \
            pending_handlers = s.handlers, last_error = coalesce(s.error, e.last_error), \
            errors = CASE WHEN s.entry IS NULL THEN e.errors ELSE (\
                SELECT jsonb_agg(o.entry ORDER BY o.n) FROM (\
                    SELECT a.entry, a.n FROM jsonb_array_elements(CASE WHEN jsonb_typeof(e.errors) = 'array' \
                        THEN e.errors ELSE '[]' END || jsonb_build_array(s.entry::jsonb || \
                        jsonb_build_object('at', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')))) \
                        WITH ORDINALITY AS a(entry, n) ORDER BY a.n DESC LIMIT 10) o) END \
            FROM s, mine, outbox_leases l \
            WHERE mine.id = s.id AND mine.seq = s.seq AND e.id = mine.id AND e.seq = mine.seq \
                AND mine.status IN ('pending', 'retry') AND mine.retry_count = s.fetched \
                AND l.backend = s.lane AND l.shard = s.shard AND {fence} RETURNING e.id), \
         {owing}\
         SELECT written.id IS NOT NULL OR coalesce(mine.status = s.status AND mine.retry_count = s.retries \
                AND mine.pending_handlers IS NOT DISTINCT FROM s.handlers AND mine.updated_at <> s.version, false) AS recorded, \
            mine.id IS NOT NULL AS held, e.id IS NOT NULL AS there, \
            (SELECT array_agg(o.handler::text ORDER BY o.handler) FROM owed o WHERE o.event_id = s.id) AS owed \
         FROM durable, s LEFT JOIN written ON written.id = s.id LEFT JOIN mine ON mine.id = s.id AND mine.seq = s.seq \
            LEFT JOIN outbox_events e ON e.id = s.id AND e.seq = s.seq ORDER BY s.n",
        durable = durable(&format!(", {barrier}")),
        fence = fence(),
        owing = OWING,
    )
}

/// Creates the deliveries that the first recorded acceptance fixes, and those left to other processes; see `Acceptance`.
const OWING: &str = "accepted AS MATERIALIZED (SELECT m.*, s.asked_set, s.rest, \
                CASE WHEN s.holds THEN s.handlers ELSE '[]' END AS held, m.published_at IS NULL AS is_first \
            FROM written w JOIN mine m ON m.id = w.id JOIN s ON s.id = m.id AND s.seq = m.seq \
            WHERE s.published OR m.published_at IS NOT NULL), \
         owing AS (\
            SELECT a.id, h.name, h.generation FROM accepted a JOIN outbox_handlers h ON a.is_first \
                AND h.seen_at + h.owed_for > now() AND NOT ($18 -> a.asked_set) ? h.name::text \
                AND outbox_type_matches(h.types, a.event_type) \
            UNION SELECT a.id, l.name, coalesce(h.generation, 0) FROM accepted a \
                CROSS JOIN LATERAL jsonb_array_elements_text(a.rest || a.held) AS l(name) \
                LEFT JOIN outbox_handlers h ON h.name = l.name), \
         owed AS (INSERT INTO outbox_handler_deliveries \
                (event_id, seq, handler, generation, lane, shard, partition_key, scheduled_at, max_attempts, next_at) \
            SELECT a.id, a.seq, o.name, o.generation, a.publisher_backend, outbox_shard(a.partition_key, a.id), \
                a.partition_key, a.scheduled_at, a.max_retries, CASE WHEN a.held ? o.name::text THEN 'infinity' ELSE now() END \
                FROM owing o JOIN accepted a ON a.id = o.id ORDER BY a.scheduled_at, a.seq \
            ON CONFLICT (event_id, seq, handler) DO UPDATE SET attempts = 0, next_at = excluded.next_at \
                WHERE outbox_handler_deliveries.next_at = 'infinity' RETURNING event_id, handler) ";

/// The fence: the row is as it was fetched, and its shard's lease is still the worker's.
fn fence() -> &'static str {
    if fault_injection::is_off(ProtocolRule::FencedSettle) {
        return "$15 <> '00000000-0000-0000-0000-000000000000'";
    }
    "mine.updated_at = s.version AND l.epoch = s.epoch AND l.owner = $15"
}

fn parameters(owner: Uuid, events: &[FailureRecord]) -> Vec<Parameter> {
    fn column<T>(events: &[FailureRecord], of: impl Fn(&FailureRecord) -> T, kind: Type) -> Parameter
    where
        T: ToSql + Send + Sync + 'static,
    {
        (Box::new(events.iter().map(of).collect::<Vec<T>>()), kind)
    }
    let error = |event: &FailureRecord| event.error.as_deref().map(kept_error);
    let mut sets = Sets::default();
    let numbers: Vec<i32> = events.iter().map(|event| sets.number(&event.asked)).collect();
    vec![
        column(events, |event| event.id, Type::UUID_ARRAY),
        column(events, |event| event.seq, Type::INT8_ARRAY),
        column(events, |event| event.shard.lane.to_string(), Type::TEXT_ARRAY),
        column(events, |event| event.shard.number, Type::INT2_ARRAY),
        column(events, |event| event.epoch, Type::INT8_ARRAY),
        column(events, |event| event.fetched_retry_count, Type::INT4_ARRAY),
        column(events, |event| Time(event.fetched_updated_at), Type::TIMESTAMPTZ_ARRAY),
        column(events, |event| event.retry_count, Type::INT4_ARRAY),
        column(events, |event| event.status.as_str(), Type::TEXT_ARRAY),
        column(events, |event| i64::try_from(event.delay.as_micros()).unwrap_or(i64::MAX), Type::INT8_ARRAY),
        column(events, error, Type::TEXT_ARRAY),
        column(events, |event| error(event).as_deref().map(error_entry), Type::TEXT_ARRAY),
        column(events, |event| event.published, Type::BOOL_ARRAY),
        column(events, |event| event.pending_handlers.as_ref().map(|names| json!(names)), Type::JSONB_ARRAY),
        (Box::new(owner), Type::UUID),
        (Box::new(numbers), Type::INT4_ARRAY),
        column(events, |event| json!(event.left), Type::JSONB_ARRAY),
        (Box::new(json!(sets.0)), Type::JSONB),
        column(events, |event| event.holds_for_handlers, Type::BOOL_ARRAY),
    ]
}

/// A time as PostgreSQL stores it: microseconds since 2000; the lowest and the highest number mean infinity.
#[derive(Debug)]
struct Time(i64);

impl ToSql for Time {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&self.0.to_be_bytes());
        Ok(IsNull::No)
    }

    accepts!(TIMESTAMPTZ);
    to_sql_checked!();
}

/// The most characters of an error that are stored.
const KEPT_ERROR_CHARS: usize = 2_000;

/// An error as the table stores it: shortened, and without the one character that PostgreSQL's text cannot hold.
pub(in crate::store::postgres) fn kept_error(error: &str) -> String {
    error.chars().filter(|c| *c != '\0').take(KEPT_ERROR_CHARS).collect()
}

/// One entry of the `errors` column; the database adds `at`, its own time.
fn error_entry(error: &str) -> String {
    json!({ "error": error }).to_string()
}

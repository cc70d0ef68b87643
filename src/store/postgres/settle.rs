//! Writing what became of events.

use diesel::data_types::PgTimestamp;
use diesel::dsl::sql;
use diesel::sql_types::{Array, BigInt, Bool, Integer, Jsonb, Nullable, SmallInt, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use futures_util::FutureExt;
use uuid::Uuid;

use super::statement::{Statement, Value};
use super::{PostgresStore, Result};
use crate::seams::{self, Rule};
use crate::store::{Reschedule, Shard};

/// One UPDATE for many events, over any other status: the backend has them, whatever a person did meanwhile.
pub(super) async fn published(store: &PostgresStore, events: &[(Uuid, i64)]) -> Result<()> {
    update(store, "record published events", PUBLISHED, events).await
}

pub(super) async fn sent_but_failed(store: &PostgresStore, sent: &[(Uuid, i64)]) -> Result<()> {
    update(store, "record what was sent", SENT_BUT_FAILED, sent).await
}

async fn update(
    store: &PostgresStore,
    operation: &'static str,
    statement: &'static str,
    events: &[(Uuid, i64)],
) -> Result<()> {
    let (ids, seqs) = events.iter().copied().unzip();
    // Not kept: which side of the join comes first is a matter of how many rows there are.
    let update = Statement::<()>::new(false, statement, [Value::Ids(ids), Value::Numbers(seqs)]);
    store.run(operation, |conn| update.execute(conn).map(|done| done.map(drop)).boxed()).await
}

/// `set_config` makes the commit durable for this statement alone, so a pooler or another setting cannot undo it.
macro_rules! durable_update {
    ($changes:literal, $which:literal) => {
        concat!(
            "WITH durable AS MATERIALIZED (SELECT set_config('synchronous_commit', 'on', true)) \
             UPDATE outbox_events e SET ",
            $changes,
            " FROM unnest(?, ?) AS s(id, seq), durable WHERE e.id = s.id AND e.seq = s.seq AND ",
            $which
        )
    };
}

const PUBLISHED: &str = durable_update!(
    "status = 'published', pending_handlers = NULL, updated_at = now(), published_at = coalesce(e.published_at, now())",
    "(e.status <> 'published' OR e.published_at IS NULL)"
);
const SENT_BUT_FAILED: &str =
    durable_update!("published_at = now(), updated_at = now()", "e.status = 'failed' AND e.published_at IS NULL");

/// Retries and failures, each under the lease it was dispatched with. The same statement again finds its own work done
/// and says so, so a lost answer is followed by the same call.
pub(super) async fn rescheduled(store: &PostgresStore, owner: Uuid, events: &[Reschedule]) -> Result<Vec<Uuid>> {
    let column = |of: fn(&Reschedule) -> i64| events.iter().map(of).collect::<Vec<i64>>();
    let numbers = |of: fn(&Reschedule) -> i32| events.iter().map(of).collect::<Vec<i32>>();
    let ids: Vec<Uuid> = events.iter().map(|event| event.id).collect();
    let lanes: Vec<&str> = events.iter().map(|event| event.shard.lane.as_ref()).collect();
    let shards: Vec<i16> = events.iter().map(|event| event.shard.number).collect();
    let statuses: Vec<&str> = events.iter().map(|event| event.status.as_str()).collect();
    let delays = column(|event| i64::try_from(event.delay.as_micros()).unwrap_or(i64::MAX));
    let texts: Vec<Option<String>> = events.iter().map(|event| event.error.as_deref().map(kept_error)).collect();
    let errors: Vec<Option<String>> = texts.iter().map(|text| text.as_deref().map(error_entry)).collect();
    let published: Vec<bool> = events.iter().map(|event| event.published).collect();
    let handlers: Vec<Option<serde_json::Value>> =
        events.iter().map(|event| event.pending_handlers.as_ref().map(|names| serde_json::json!(names))).collect();
    let (seqs, epochs) = (column(|event| event.seq), column(|event| event.epoch));
    let versions: Vec<PgTimestamp> = events.iter().map(|event| PgTimestamp(event.fetched_updated_at)).collect();
    let (fetched, counts) = (numbers(|event| event.fetched_retry_count), numbers(|event| event.retry_count));
    store
        .run("record retries and failures", |conn| {
            sql::<SqlUuid>(
                "WITH durable AS MATERIALIZED (SELECT set_config('synchronous_commit', 'on', true)), \
                 s AS MATERIALIZED (SELECT * FROM unnest(",
            )
            .bind::<Array<SqlUuid>, _>(ids)
            .sql(", ")
            .bind::<Array<BigInt>, _>(seqs)
            .sql(", ")
            .bind::<Array<Text>, _>(lanes)
            .sql(", ")
            .bind::<Array<SmallInt>, _>(shards)
            .sql(", ")
            .bind::<Array<BigInt>, _>(epochs)
            .sql(", ")
            .bind::<Array<Integer>, _>(fetched)
            .sql(", ")
            .bind::<Array<Timestamptz>, _>(versions)
            .sql(", ")
            .bind::<Array<Integer>, _>(counts)
            .sql(", ")
            .bind::<Array<Text>, _>(statuses)
            .sql(", ")
            .bind::<Array<BigInt>, _>(delays)
            .sql(", ")
            .bind::<Array<Nullable<Text>>, _>(texts)
            .sql(", ")
            .bind::<Array<Nullable<Text>>, _>(errors)
            .sql(", ")
            .bind::<Array<Bool>, _>(published)
            .sql(", ")
            .bind::<Array<Nullable<Jsonb>>, _>(handlers)
            .sql(
                ") AS s(id, seq, lane, shard, epoch, fetched, version, retries, status, delay, error, entry, published, handlers)), \
                 written AS (UPDATE outbox_events e SET status = s.status, retry_count = s.retries, updated_at = now(), \
                    retry_at = CASE s.status WHEN 'retry' THEN now() + s.delay * interval '1 microsecond' END, \
                    published_at = CASE WHEN s.published THEN coalesce(e.published_at, now()) ELSE e.published_at END, \
                    pending_handlers = s.handlers, last_error = coalesce(s.error, e.last_error), \
                    errors = CASE WHEN s.entry IS NULL THEN e.errors ELSE (\
                        SELECT jsonb_agg(o.entry ORDER BY o.n) FROM (\
                            SELECT a.entry, a.n FROM jsonb_array_elements(CASE WHEN jsonb_typeof(e.errors) = 'array' \
                                THEN e.errors ELSE '[]' END || jsonb_build_array(s.entry::jsonb || \
                                jsonb_build_object('at', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')))) \
                                WITH ORDINALITY AS a(entry, n) ORDER BY a.n DESC LIMIT 10) o) END \
                 FROM s, outbox_leases l, durable \
                 WHERE e.id = s.id AND e.seq = s.seq AND e.status IN ('pending', 'retry') AND e.retry_count = s.fetched \
                    AND l.backend = s.lane AND l.shard = s.shard AND ",
            )
            .sql(fence())
            .bind::<SqlUuid, _>(owner)
            .sql(
                " RETURNING e.id) \
                 SELECT id FROM written UNION \
                 SELECT s.id FROM s JOIN outbox_events e ON e.id = s.id AND e.seq = s.seq \
                    AND e.status = s.status AND e.retry_count = s.retries \
                    AND e.pending_handlers IS NOT DISTINCT FROM s.handlers AND e.updated_at <> s.version",
            )
            .load::<Uuid>(conn)
            .boxed()
        })
        .await
}

/// The row is as it was fetched, and its shard's lease as well; the worker's id follows.
fn fence() -> &'static str {
    if seams::is_off(Rule::FencedSettle) {
        return "'00000000-0000-0000-0000-000000000000' <> ";
    }
    "e.updated_at = s.version AND l.epoch = s.epoch AND l.owner = "
}

/// Characters of an error that are kept.
const KEPT_ERROR_CHARS: usize = 2_000;

/// An error as the table keeps it: bounded, and without the one character that Postgres' text cannot hold.
fn kept_error(error: &str) -> String {
    error.chars().filter(|c| *c != '\0').take(KEPT_ERROR_CHARS).collect()
}

/// One entry of the `errors` column; the database adds `at`, its own time.
fn error_entry(error: &str) -> String {
    serde_json::json!({ "error": error }).to_string()
}

/// Where a restored database lags behind what stands in Redis.
pub(super) async fn raise_epoch(
    store: &PostgresStore,
    owner: Uuid,
    shard: &Shard,
    epoch: i64,
    above: i64,
) -> Result<bool> {
    store
        .run("raise a lease's epoch", |conn| {
            diesel::sql_query(
                "WITH durable AS MATERIALIZED (SELECT set_config('synchronous_commit', 'on', true)) \
                 UPDATE outbox_leases l SET epoch = greatest(l.epoch, $1) + 1 FROM durable \
                 WHERE l.backend = $2 AND l.shard = $3 AND l.owner = $4 AND l.epoch = $5 \
                    AND l.expires_at > clock_timestamp()",
            )
            .bind::<BigInt, _>(above)
            .bind::<Text, _>(shard.lane.as_ref())
            .bind::<SmallInt, _>(shard.number)
            .bind::<SqlUuid, _>(owner)
            .bind::<BigInt, _>(epoch)
            .execute(conn)
            .map(|done| done.map(|rows| rows == 1))
            .boxed()
        })
        .await
}

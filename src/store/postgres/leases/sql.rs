//! SQL texts of the statements: the simple protocol has no parameters.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use uuid::Uuid;

use crate::store::postgres::SHARDS;
use crate::store::{Heartbeat, LaneName, NO_OWNER, Notification, PROTOCOL, Shard};

/// Makes the commit durable for one statement, even if the database's default is off.
const DURABLE: &str = "durable AS MATERIALIZED (SELECT set_config('synchronous_commit', 'on', true))";

/// The protocol in force, for statements that write a lease's end. Such a statement waits for the lock under which the
/// protocol changes before it takes its snapshot.
const RULES: &str = "rules AS MATERIALIZED (SELECT protocol FROM outbox_meta)";

/// The owner and the end of a lease that is free.
fn free_values() -> String {
    format!(
        "owner = CASE WHEN rules.protocol >= 2 THEN '{NO_OWNER}'::uuid END, \
         expires_at = CASE WHEN rules.protocol >= 2 THEN 'infinity' ELSE clock_timestamp() END"
    )
}

fn end_after(lease: Duration) -> String {
    let span = interval(lease);
    format!("expires_at = CASE WHEN rules.protocol >= 2 THEN 'infinity' ELSE clock_timestamp() + {span} END")
}

/// Only inserts: a late execution changes nothing in an existing row. Returns a row if it inserted one.
pub(super) fn register(beat: &Heartbeat, number: i64) -> String {
    format!(
        "WITH {DURABLE}, worker AS (INSERT INTO outbox_workers (id, name, version, backends, handlers, protocol) \
            SELECT '{id}', {name}, '{version}', {backends}, {handlers}, {PROTOCOL} FROM durable ON CONFLICT (id) DO NOTHING) \
         INSERT INTO outbox_heartbeats (worker, beat, heartbeat_at, ends_at) \
         SELECT '{id}', {number}, clock_timestamp(), clock_timestamp() + {span} FROM durable \
         ON CONFLICT (worker) DO NOTHING RETURNING beat",
        id = beat.worker,
        name = quote(&beat.name),
        version = env!("CARGO_PKG_VERSION"),
        backends = quote(&beat.backends),
        handlers = quote(&beat.handlers),
        span = interval(if beat.extends { beat.lease } else { Duration::ZERO }),
    )
}

pub(super) fn read_beat(worker: Uuid) -> String {
    format!("SELECT beat, ctid FROM outbox_heartbeats WHERE worker = '{worker}'")
}

/// Records the heartbeat after `last`. The row is found by its location, which costs the same however many old versions
/// exist; without a location, by its key.
pub(super) fn beat(beat: &Heartbeat, last: i64, place: Option<&str>) -> String {
    let at = place.map(|place| format!(" AND h.ctid = '{place}'")).unwrap_or_default();
    let ends_at =
        if beat.extends { format!("clock_timestamp() + {}", interval(beat.lease)) } else { "h.ends_at".to_owned() };
    format!(
        "WITH {DURABLE}, mine AS MATERIALIZED (SELECT h.worker FROM outbox_heartbeats h, durable \
            WHERE h.worker = '{id}' AND h.beat = {last}{at} FOR NO KEY UPDATE OF h SKIP LOCKED) \
         UPDATE outbox_heartbeats h SET beat = {next}, heartbeat_at = clock_timestamp(), ends_at = {ends_at} \
         FROM mine WHERE h.worker = '{id}' AND h.beat = {last}{at} RETURNING h.ctid",
        id = beat.worker,
        next = last.wrapping_add(1),
    )
}

pub(super) fn report(beat: &Heartbeat) -> String {
    format!(
        "UPDATE outbox_workers SET backends = {}, handlers = {}, protocol = {PROTOCOL}, heartbeat_at = clock_timestamp() \
         WHERE id = '{}'",
        quote(&beat.backends),
        quote(&beat.handlers),
        beat.worker,
    )
}

pub(super) fn renew(beat: &Heartbeat) -> String {
    let worker = beat.worker;
    format!(
        "WITH {DURABLE}, {RULES}, mine AS MATERIALIZED (\
            SELECT backend, shard FROM outbox_leases l, durable WHERE owner = '{worker}' AND {} \
            FOR UPDATE OF l SKIP LOCKED) \
         UPDATE outbox_leases l SET {} \
         FROM mine, rules WHERE l.backend = mine.backend AND l.shard = mine.shard AND l.owner = '{worker}' \
         RETURNING l.backend, l.shard, l.epoch",
        is_one_of(&beat.held),
        end_after(beat.lease),
    )
}

/// The leases of these lanes, and all that name the worker, together for each owner. Runs after the heartbeat was answered: an
/// earlier snapshot cannot tell which leases are its own.
pub(super) fn read_leases(worker: Uuid, lanes: &[LaneName]) -> String {
    format!(
        "SELECT backend, owner, string_agg(shard || ':' || epoch, ','), greatest((extract(epoch FROM \
                least(expires_at, clock_timestamp() + interval '1 day') - clock_timestamp()) * 1000000)::bigint, 0), \
            (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, (SELECT protocol FROM outbox_meta), \
            (SELECT jsonb_agg(jsonb_build_object('backend', p.backend, 'host', p.host, 'since', to_char(p.paused_at AT TIME ZONE 'UTC', \
                'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), 'by', p.paused_by, 'reason', p.reason))::text \
             FROM outbox_pauses p) \
         FROM outbox_leases WHERE {} OR owner = '{worker}' GROUP BY backend, owner, expires_at",
        is_of(lanes)
    )
}

pub(super) fn read_workers() -> String {
    "SELECT id, backends, handlers, (extract(epoch FROM started_at) * 1000000)::bigint, \
        greatest((extract(epoch FROM clock_timestamp() - heartbeat_at) * 1000000)::bigint, 0), coalesce(protocol, 1) \
     FROM outbox_workers"
        .to_owned()
}

/// Each worker's heartbeat, from its last known location on. There the worker is compared as text, for which no index
/// exists: an index plan would read every old version.
pub(super) fn read_ends(workers: &[Uuid], places: &BTreeMap<Uuid, String>) -> String {
    let one = |worker: &Uuid| {
        let which = match places.get(worker) {
            Some(place) => format!("worker::text = '{worker}' AND ctid >= '{place}'"),
            None => format!("worker = '{worker}'"),
        };
        format!(
            "SELECT worker, ctid, greatest((extract(epoch FROM clock_timestamp() - heartbeat_at) * 1000000)::bigint, 0), \
                greatest((extract(epoch FROM ends_at - clock_timestamp()) * 1000000)::bigint, 0) \
             FROM outbox_heartbeats WHERE {which}"
        )
    };
    let all: Vec<String> = workers.iter().map(one).collect();
    if all.is_empty() { "SELECT WHERE false".to_owned() } else { all.join(" UNION ALL ") }
}

pub(super) fn free(lanes: &[LaneName]) -> String {
    format!(
        "SELECT 1 FROM outbox_leases l, outbox_meta m WHERE {} AND (l.owner IS NULL OR l.owner = '{NO_OWNER}' \
            OR m.protocol < 2 AND l.expires_at <= clock_timestamp()) LIMIT 1",
        is_of(lanes)
    )
}

/// Acquires free leases, and those of workers that have expired. Such a worker's row is locked first and its end checked
/// again under the lock, so a heartbeat of its own comes either before, or after and finds that the lease is another's.
pub(super) fn acquire(
    worker: Uuid,
    lane: &LaneName,
    want: usize,
    lease: Duration,
    ended: &BTreeSet<Uuid>,
    absent: &BTreeSet<Uuid>,
) -> String {
    format!(
        "WITH {DURABLE}, {RULES}, ended AS MATERIALIZED (SELECT h.worker FROM outbox_heartbeats h, durable \
            WHERE h.worker IN ({ended}) AND h.ends_at <= clock_timestamp() FOR SHARE OF h SKIP LOCKED), \
         free AS MATERIALIZED (SELECT l.backend, l.shard FROM outbox_leases l, durable, rules WHERE l.backend = {lane} \
            AND (l.owner IS NULL OR CASE WHEN rules.protocol < 2 THEN l.expires_at <= clock_timestamp() \
                ELSE l.owner = '{NO_OWNER}' OR l.owner IN (SELECT worker FROM ended) OR l.owner IN ({absent}) \
                    AND NOT EXISTS (SELECT FROM outbox_heartbeats h WHERE h.worker = l.owner) END) \
            ORDER BY random() LIMIT {want} FOR UPDATE OF l SKIP LOCKED) \
         UPDATE outbox_leases l SET owner = '{worker}', epoch = l.epoch + 1, {end} \
         FROM free, rules WHERE l.backend = free.backend AND l.shard = free.shard RETURNING l.backend, l.shard, l.epoch",
        ended = ids(ended),
        absent = ids(absent),
        lane = quote(lane),
        end = end_after(lease),
    )
}

pub(super) fn release(worker: Uuid, leases: &[(Shard, i64)]) -> String {
    format!(
        "WITH {DURABLE}, {RULES}, mine AS MATERIALIZED (\
            SELECT backend, shard FROM outbox_leases l, durable WHERE owner = '{worker}' AND {} \
            FOR UPDATE OF l SKIP LOCKED) \
         UPDATE outbox_leases l SET {} \
         FROM mine, rules WHERE l.backend = mine.backend AND l.shard = mine.shard",
        is_one_of(leases),
        free_values(),
    )
}

/// Notifies other workers, in a transaction of its own: a commit with a notification holds a lock of the whole server.
pub(super) fn notify_release(worker: Uuid) -> String {
    let payload = quote(&Notification::leases_released(worker));
    format!("SELECT pg_notify('outbox_' || replace(id::text, '-', ''), {payload}) FROM outbox_meta")
}

/// Deletes the worker's row and releases its leases. The epoch grows, so that a worker that comes back owns none of them.
pub(super) fn leave(worker: Uuid) -> String {
    format!(
        "WITH {DURABLE}, {RULES}, gone AS (DELETE FROM outbox_workers w USING durable WHERE w.id = '{worker}'), {}",
        free_leases_of(&format!("= '{worker}'"))
    )
}

/// Deletes workers that have been silent for long, and frees their leases.
pub(super) fn remove_dead_workers(after: Duration) -> String {
    format!(
        "WITH {DURABLE}, {RULES}, dead AS MATERIALIZED (SELECT w.id FROM outbox_workers w \
            LEFT JOIN outbox_heartbeats h ON h.worker = w.id, durable \
            WHERE coalesce(h.heartbeat_at, w.heartbeat_at) < clock_timestamp() - {} FOR UPDATE OF w SKIP LOCKED), \
         gone AS (DELETE FROM outbox_workers w USING dead WHERE w.id = dead.id), {}",
        interval(after),
        free_leases_of("IN (SELECT id FROM dead)")
    )
}

fn free_leases_of(owner: &str) -> String {
    format!(
        "named AS MATERIALIZED (SELECT backend, shard FROM outbox_leases l, durable WHERE owner {owner} \
            FOR UPDATE OF l SKIP LOCKED) \
         UPDATE outbox_leases l SET epoch = l.epoch + 1, {} \
         FROM named, rules WHERE l.backend = named.backend AND l.shard = named.shard",
        free_values()
    )
}

/// Raises the protocol in one transaction, unless a program that does not know it is alive or holds a lease. The lock comes
/// first: writes that such a program began are over, and later ones find no lease that it could take.
pub(super) fn raise_protocol(lease: Duration) -> String {
    format!(
        "BEGIN; SET LOCAL lock_timeout = '500ms'; SET LOCAL synchronous_commit = on; \
         LOCK TABLE outbox_leases, outbox_workers IN SHARE ROW EXCLUSIVE MODE; \
         WITH older AS (SELECT id FROM outbox_workers WHERE protocol IS NULL OR protocol < {PROTOCOL}), \
            known AS (SELECT id FROM outbox_workers WHERE protocol >= {PROTOCOL}), \
            raised AS (UPDATE outbox_meta SET protocol = {PROTOCOL} WHERE protocol < {PROTOCOL} \
                AND NOT EXISTS (SELECT FROM outbox_workers WHERE (protocol IS NULL OR protocol < {PROTOCOL}) \
                    AND heartbeat_at > clock_timestamp() - {span}) \
                AND NOT EXISTS (SELECT FROM outbox_leases WHERE owner NOT IN (SELECT id FROM known) \
                    AND expires_at > clock_timestamp()) RETURNING 1) \
         UPDATE outbox_leases l SET expires_at = 'infinity', \
            owner = CASE WHEN l.owner IN (SELECT id FROM known) AND l.expires_at > clock_timestamp() THEN l.owner \
                ELSE '{NO_OWNER}'::uuid END, \
            epoch = l.epoch + CASE WHEN l.owner IN (SELECT id FROM older) THEN 1 ELSE 0 END \
         FROM raised; COMMIT",
        span = interval(lease.saturating_mul(2)),
    )
}

pub(super) fn make_rows(lanes: &[LaneName]) -> String {
    let mut sql = String::new();
    for lane in lanes {
        let last = SHARDS - 1;
        let _ = write!(
            sql,
            "INSERT INTO outbox_leases (backend, shard) SELECT {lane}, n FROM generate_series(0, {last}) n \
             WHERE NOT EXISTS (SELECT FROM outbox_leases WHERE backend = {lane} AND shard = n) ON CONFLICT DO NOTHING;",
            lane = quote(lane),
        );
    }
    sql
}

fn is_of(lanes: &[LaneName]) -> String {
    match lanes {
        [] => "false".to_owned(),
        lanes => format!("backend IN ({})", lanes.iter().map(|lane| quote(lane)).collect::<Vec<_>>().join(", ")),
    }
}

/// A condition on leases; an empty list would not be valid SQL.
fn is_one_of(leases: &[(Shard, i64)]) -> String {
    let named: Vec<String> =
        leases.iter().map(|(shard, epoch)| format!("({}, {}, {epoch})", quote(&shard.lane), shard.number)).collect();
    format!("(backend, shard, epoch) IN ({})", named.join(", "))
}

fn ids(ids: &BTreeSet<Uuid>) -> String {
    match ids.len() {
        0 => "NULL".to_owned(),
        _ => ids.iter().map(|id| format!("'{id}'")).collect::<Vec<_>>().join(", "),
    }
}

/// Not as one text: PostgreSQL 14 reads no interval that is longer than 2,147 s if it is in microseconds.
fn interval(span: Duration) -> String {
    format!("({} * interval '1 microsecond')", span.as_micros())
}

/// A string literal that means the same under every `standard_conforming_strings`.
pub(in crate::store::postgres) fn quote(text: &str) -> String {
    let escaped = text.replace('\'', "''").replace('\\', "\\\\").replace('\0', "");
    format!("E'{escaped}'")
}

//! SQL texts of the statements: several statements in one text have no parameters.

use std::collections::BTreeSet;
use std::time::Duration;

use uuid::Uuid;

use crate::store::mysql::SHARDS;
use crate::store::mysql::clock::micros;
use crate::store::{Heartbeat, LaneName, PROTOCOL, Shard};

/// How many rows the statement before it has changed.
const CHANGED: &str = "SELECT ROW_COUNT()";

/// Only inserts: a late execution changes nothing in an existing row.
pub(super) fn register(beat: &Heartbeat, number: i64) -> String {
    format!(
        "INSERT INTO outbox_workers (id, name, version, backends, handlers, protocol) \
         SELECT '{id}', {name}, '{version}', {backends}, {handlers}, {PROTOCOL} FROM DUAL \
         WHERE NOT EXISTS (SELECT 1 FROM outbox_workers WHERE id = '{id}') ON DUPLICATE KEY UPDATE outbox_workers.id = outbox_workers.id; \
         INSERT INTO outbox_heartbeats (worker, beat, heartbeat_at, ends_at) \
         SELECT '{id}', {number}, SYSDATE(6), SYSDATE(6) + {span} FROM DUAL \
         WHERE NOT EXISTS (SELECT 1 FROM outbox_heartbeats WHERE worker = '{id}') \
         ON DUPLICATE KEY UPDATE outbox_heartbeats.worker = outbox_heartbeats.worker; {CHANGED}",
        id = id(beat.worker),
        name = quote(&beat.name),
        version = env!("CARGO_PKG_VERSION"),
        backends = quote(&beat.backends),
        handlers = quote(&beat.handlers),
        span = interval(if beat.extends { beat.lease } else { Duration::ZERO }),
    )
}

pub(super) fn read_beat(worker: Uuid) -> String {
    format!("SELECT beat FROM outbox_heartbeats WHERE worker = '{}'", id(worker))
}

/// Records the heartbeat after `last`.
pub(super) fn beat(beat: &Heartbeat, last: i64) -> String {
    let ends_at = if beat.extends { format!("SYSDATE(6) + {}", interval(beat.lease)) } else { "ends_at".to_owned() };
    format!(
        "UPDATE outbox_heartbeats SET beat = {}, heartbeat_at = SYSDATE(6), ends_at = {ends_at} \
         WHERE worker = '{}' AND beat = {last}; {CHANGED}",
        last.wrapping_add(1),
        id(beat.worker),
    )
}

pub(super) fn report(beat: &Heartbeat) -> String {
    format!(
        "UPDATE outbox_workers SET backends = {}, handlers = {}, heartbeat_at = SYSDATE(6) WHERE id = '{}'",
        quote(&beat.backends),
        quote(&beat.handlers),
        id(beat.worker),
    )
}

/// The leases of these lanes, and all that name the worker. Runs after the heartbeat was answered: an earlier snapshot cannot
/// tell which leases are its own.
pub(super) fn read_leases(worker: Uuid, lanes: &[LaneName]) -> String {
    const COLUMNS: &str = "SELECT backend, shard, CAST(owner AS char), epoch FROM outbox_leases";
    let mut sql = format!("{COLUMNS} WHERE owner = '{}'", id(worker));
    if !lanes.is_empty() {
        sql.push_str(&format!(" UNION {COLUMNS} WHERE backend IN ({})", quoted(lanes)));
    }
    sql
}

/// The workers, with the microseconds since their last heartbeat and until their end.
pub(super) fn read_workers() -> &'static str {
    concat!(
        "SELECT CAST(w.id AS char), w.backends, w.handlers, ",
        micros!("w.started_at"),
        ", TIMESTAMPDIFF(MICROSECOND, COALESCE(h.heartbeat_at, w.heartbeat_at), SYSDATE(6)), \
         TIMESTAMPDIFF(MICROSECOND, SYSDATE(6), h.ends_at) \
         FROM outbox_workers w LEFT JOIN outbox_heartbeats h ON h.worker = w.id ORDER BY w.started_at, w.id"
    )
}

pub(super) fn read_meta() -> &'static str {
    concat!("SELECT ", micros!("SYSDATE(6)"), ", protocol FROM outbox_meta")
}

pub(super) fn read_pauses() -> &'static str {
    concat!(
        "SELECT backend, host, ",
        micros!("paused_at"),
        ", paused_by, reason FROM outbox_pauses ORDER BY backend, host"
    )
}

pub(super) fn free(lanes: &[LaneName]) -> String {
    format!("SELECT 1 FROM outbox_leases WHERE backend IN ({}) AND owner IS NULL LIMIT 1", quoted(lanes))
}

/// Acquires free leases, and those of workers that have expired. Such a worker's row is locked first and its end checked
/// under the lock, so a heartbeat of its own comes either before, or after and finds that the lease is another's. The UPDATE
/// names the rows that it changes, because it would wait for any other.
pub(super) fn acquire(
    worker: Uuid,
    lane: &str,
    want: usize,
    ended: &BTreeSet<Uuid>,
    absent: &BTreeSet<Uuid>,
) -> String {
    format!(
        "START TRANSACTION; \
         SELECT GROUP_CONCAT(CAST(worker AS char)) INTO @outbox_ended FROM outbox_heartbeats \
            WHERE worker IN ({ended}) AND ends_at <= SYSDATE(6) FOR UPDATE SKIP LOCKED; \
         SELECT SUBSTRING_INDEX(GROUP_CONCAT(shard ORDER BY RAND()), ',', {want}) INTO @outbox_taken FROM outbox_leases l \
            WHERE l.backend = {lane} AND (l.owner IS NULL OR FIND_IN_SET(CAST(l.owner AS char), @outbox_ended) \
                OR l.owner IN ({absent}) AND NOT EXISTS (SELECT 1 FROM outbox_heartbeats h WHERE h.worker = l.owner)) \
            FOR UPDATE SKIP LOCKED; \
         SET @outbox_lane = {lane}, @outbox_take = CONCAT('UPDATE outbox_leases FORCE INDEX (PRIMARY) \
            SET owner = ''{id}'', epoch = epoch + 1 WHERE backend = ? AND shard IN (', COALESCE(@outbox_taken, '-1'), ')'); \
         PREPARE outbox_take FROM @outbox_take; EXECUTE outbox_take USING @outbox_lane; DEALLOCATE PREPARE outbox_take; \
         SELECT backend, shard, epoch FROM outbox_leases \
            WHERE backend = {lane} AND owner = '{id}' AND FIND_IN_SET(shard, @outbox_taken); \
         COMMIT",
        id = id(worker),
        lane = quote(lane),
        ended = ids(ended),
        absent = ids(absent),
    )
}

pub(super) fn release(worker: Uuid, leases: &[(Shard, i64)]) -> String {
    let named: Vec<String> =
        leases.iter().map(|(shard, epoch)| format!("({}, {}, {epoch})", quote(&shard.lane), shard.number)).collect();
    format!(
        "UPDATE outbox_leases FORCE INDEX (PRIMARY) SET owner = NULL WHERE owner = '{}' AND (backend, shard, epoch) IN ({})",
        id(worker),
        named.join(", ")
    )
}

/// Deletes the worker's row and releases its leases. The epoch grows, so that a worker that comes back owns none of them.
pub(super) fn leave(worker: Uuid) -> String {
    let id = id(worker);
    format!(
        "START TRANSACTION; {}; DELETE FROM outbox_workers WHERE id = '{id}'; COMMIT",
        free_leases_of(&format!("'{id}'"))
    )
}

/// Deletes the worker's row. Leases whose owner has no row are free.
pub(super) fn delete_worker(worker: Uuid) -> String {
    format!("DELETE FROM outbox_workers WHERE id = '{}'", id(worker))
}

/// Deletes workers that have been silent for long, and frees their leases. A worker is silent if its heartbeat's row is locked
/// here, and old; a row that is skipped is not a missing one. Without the row, the worker's own says when it began; the lock on
/// it keeps a new heartbeat's row out.
pub(super) fn remove_dead_workers(gone: &BTreeSet<Uuid>, after: Duration) -> String {
    format!(
        "START TRANSACTION; \
         SELECT GROUP_CONCAT(CAST(id AS char)) INTO @outbox_locked FROM outbox_workers \
            WHERE id IN ({ids}) AND heartbeat_at < SYSDATE(6) - {after} FOR UPDATE SKIP LOCKED; \
         SELECT GROUP_CONCAT(CAST(worker AS char)) INTO @outbox_silent FROM outbox_heartbeats \
            WHERE worker IN ({ids}) AND heartbeat_at < SYSDATE(6) - {after} FOR UPDATE SKIP LOCKED; \
         SELECT GROUP_CONCAT(CAST(w.id AS char)) INTO @outbox_dead FROM outbox_workers w \
            WHERE w.id IN ({ids}) AND FIND_IN_SET(CAST(w.id AS char), @outbox_locked) \
                AND (FIND_IN_SET(CAST(w.id AS char), @outbox_silent) \
                    OR NOT EXISTS (SELECT 1 FROM outbox_heartbeats h WHERE h.worker = w.id)); \
         {free} AND FIND_IN_SET(CAST(owner AS char), @outbox_dead); \
         DELETE FROM outbox_workers WHERE id IN ({ids}) AND FIND_IN_SET(CAST(id AS char), @outbox_dead); COMMIT",
        after = interval(after),
        free = free_leases_of(&ids(gone)),
        ids = ids(gone),
    )
}

fn free_leases_of(owners: &str) -> String {
    format!("UPDATE outbox_leases SET owner = NULL, epoch = epoch + 1 WHERE owner IN ({owners})")
}

/// Inserts the rows of a lane that do not exist.
pub(super) fn make_rows(lanes: &[LaneName]) -> String {
    let rows = |lane: &LaneName| {
        let lane = quote(lane);
        (0..SHARDS).map(|shard| format!("({lane}, {shard})")).collect::<Vec<_>>().join(", ")
    };
    format!(
        "INSERT INTO outbox_leases (backend, shard) VALUES {} ON DUPLICATE KEY UPDATE shard = outbox_leases.shard",
        lanes.iter().map(rows).collect::<Vec<_>>().join(", ")
    )
}

fn id(id: Uuid) -> String {
    crate::store::mysql::statement::id_text(id)
}

/// A list of ids; an empty one would not be valid SQL.
fn ids(ids: &BTreeSet<Uuid>) -> String {
    match ids.len() {
        0 => "NULL".to_owned(),
        _ => ids.iter().map(|worker| format!("'{}'", id(*worker))).collect::<Vec<_>>().join(", "),
    }
}

fn interval(span: Duration) -> String {
    format!("INTERVAL {} MICROSECOND", span.as_micros())
}

fn quoted(lanes: &[LaneName]) -> String {
    lanes.iter().map(|lane| quote(lane)).collect::<Vec<_>>().join(", ")
}

/// A string literal. The session's `sql_mode` leaves the backslash its meaning.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''").replace('\0', ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_quoted() {
        assert_eq!(quote(r"it's \ a"), r"'it''s \\ a'");
    }
}

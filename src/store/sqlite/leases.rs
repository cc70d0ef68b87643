//! Workers and leases. Each call is one short transaction: SQLite has one writer at a time, and a writer that stops in the
//! middle of a write is the only thing here that others must wait for.

use std::time::Duration;

use async_trait::async_trait;
use chrono::DateTime;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Binary, Bool, Nullable, SmallInt, Text};
use uuid::Uuid;

use super::clock::{micros, read_now};
use super::connection::Connection;
use super::{SHARD, pauses, uuid_of};
use crate::store::report::by_lane;
use crate::store::{
    Heartbeat, LaneName, LeaseRow, LeaseSnapshot, LeaseStore, LiveWorker, PROTOCOL, Result, Shard, forgotten_after,
};

pub(super) struct SqliteLeases(pub(super) Connection);

#[async_trait]
impl LeaseStore for SqliteLeases {
    async fn beat(&mut self, beat: &Heartbeat) -> Result<LeaseSnapshot> {
        let beat = beat.clone();
        self.0
            .run("record a heartbeat", move |connection| connection.immediate_transaction(|c| renew_and_read(c, &beat)))
            .await
    }

    async fn has_free(&mut self, lanes: &[LaneName]) -> Result<bool> {
        let lanes = lanes.to_vec();
        self.0
            .run("find free leases", move |connection| {
                let (now, protocol) = (read_now(connection)?, read_protocol(connection)?);
                for lane in &lanes {
                    if find_leases(connection, lane, now, protocol)?
                        .iter()
                        .any(|row| row.owner.is_none() || row.expired)
                    {
                        return Ok(true);
                    }
                }
                Ok(false)
            })
            .await
    }

    async fn acquire(
        &mut self,
        worker: Uuid,
        lane: &LaneName,
        want: usize,
        lease: Duration,
    ) -> Result<Vec<(Shard, i64)>> {
        if want == 0 {
            return Ok(Vec::new());
        }
        let lane = lane.clone();
        let epochs = self
            .0
            .run("acquire leases", {
                let lane = lane.clone();
                move |connection| connection.immediate_transaction(|c| take_lease(c, worker, &lane, lease))
            })
            .await?;
        Ok(epochs.into_iter().map(|epoch| (Shard { lane: lane.clone(), number: SHARD }, epoch)).collect())
    }

    async fn release(&mut self, worker: Uuid, leases: &[(Shard, i64)]) -> Result<()> {
        let leases = leases.to_vec();
        self.0
            .run("release leases", move |connection| {
                connection.immediate_transaction(|connection| {
                    leases.iter().try_for_each(|(shard, epoch)| release_lease(connection, worker, shard, *epoch))
                })
            })
            .await
    }

    async fn leave(&mut self, worker: Uuid) -> Result<()> {
        self.0
            .run("remove the worker", move |connection| connection.immediate_transaction(|c| forget_worker(c, worker)))
            .await
    }
}

fn renew_and_read(connection: &mut SqliteConnection, beat: &Heartbeat) -> QueryResult<LeaseSnapshot> {
    let now = read_now(connection)?;
    let known = write_heartbeat(connection, beat, now)?;
    write_worker(connection, beat, now)?;
    forget_dead_workers(connection, now - micros(forgotten_after(beat.lease)))?;
    raise_protocol(connection, beat.lease, now)?;
    let protocol = read_protocol(connection)?;
    let mut view = LeaseSnapshot {
        live_workers: find_peers(connection, now - micros(beat.lease))?,
        clock: DateTime::from_timestamp_micros(now),
        next_end: find_next_end(connection, beat.worker, now)?,
        protocol,
        pauses: pauses::read(connection)?,
        ..LeaseSnapshot::default()
    };
    for (shard, epoch) in beat.held.iter().filter(|_| known && beat.extends) {
        if renew_lease(connection, beat, shard, *epoch, now, protocol)? {
            view.renewed.push((shard.clone(), *epoch));
        }
    }
    for lane in &beat.lanes {
        make_lease_row(connection, lane)?;
        view.leases.extend(find_leases(connection, lane, now, protocol)?);
    }
    view.leases.sort_by(|one, other| one.shard.cmp(&other.shard));
    Ok(view)
}

fn read_protocol(connection: &mut SqliteConnection) -> QueryResult<i16> {
    sql::<SmallInt>("SELECT protocol FROM outbox_meta").get_result(connection)
}

/// Returns whether the worker's row existed; a deleted row is inserted again without leases.
fn write_heartbeat(connection: &mut SqliteConnection, beat: &Heartbeat, now: i64) -> QueryResult<bool> {
    let ends_at = now.saturating_add(if beat.extends { micros(beat.lease) } else { 0 });
    let updated = sql_query(
        "UPDATE outbox_heartbeats SET beat = beat + 1, heartbeat_at = ?, ends_at = CASE WHEN ? THEN ? ELSE ends_at END
         WHERE worker = ?",
    )
    .bind::<BigInt, _>(now)
    .bind::<Bool, _>(beat.extends)
    .bind::<BigInt, _>(ends_at)
    .bind::<Binary, _>(beat.worker.as_bytes().as_slice())
    .execute(connection)?;
    if updated == 0 {
        sql_query("INSERT INTO outbox_heartbeats (worker, beat, heartbeat_at, ends_at) VALUES (?, 0, ?, ?)")
            .bind::<Binary, _>(beat.worker.as_bytes().as_slice())
            .bind::<BigInt, _>(now)
            .bind::<BigInt, _>(ends_at)
            .execute(connection)?;
    }
    Ok(updated > 0)
}

/// Raises the protocol to the newest, unless a program that does not know it is alive or holds a lease.
fn raise_protocol(connection: &mut SqliteConnection, lease: Duration, now: i64) -> QueryResult<()> {
    let raised = sql_query(
        "UPDATE outbox_meta SET protocol = ? WHERE protocol < ?
           AND NOT EXISTS (SELECT 1 FROM outbox_workers WHERE coalesce(protocol, 1) < ? AND heartbeat_at > ?)
           AND NOT EXISTS (SELECT 1 FROM outbox_leases WHERE owner IS NOT NULL AND expires_at > ?
               AND owner NOT IN (SELECT id FROM outbox_workers WHERE protocol >= ?))",
    )
    .bind::<SmallInt, _>(PROTOCOL)
    .bind::<SmallInt, _>(PROTOCOL)
    .bind::<SmallInt, _>(PROTOCOL)
    .bind::<BigInt, _>(now.saturating_sub(2 * micros(lease)))
    .bind::<BigInt, _>(now)
    .bind::<SmallInt, _>(PROTOCOL)
    .execute(connection)?;
    if raised > 0 {
        sql_query(
            "UPDATE outbox_leases SET
               owner = CASE WHEN expires_at > ? AND owner IS NOT NULL THEN owner ELSE zeroblob(16) END,
               epoch = epoch + (owner IS NOT NULL AND expires_at <= ?), expires_at = 9223372036854775807",
        )
        .bind::<BigInt, _>(now)
        .bind::<BigInt, _>(now)
        .execute(connection)?;
    }
    Ok(())
}

fn write_worker(connection: &mut SqliteConnection, beat: &Heartbeat, now: i64) -> QueryResult<usize> {
    sql_query(
        "INSERT INTO outbox_workers (id, name, version, backends, handlers, started_at, heartbeat_at, protocol)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (id) DO UPDATE
         SET name = excluded.name, backends = excluded.backends, handlers = excluded.handlers,
             heartbeat_at = excluded.heartbeat_at, protocol = excluded.protocol",
    )
    .bind::<Binary, _>(beat.worker.as_bytes().as_slice())
    .bind::<Text, _>(&beat.name)
    .bind::<Text, _>(env!("CARGO_PKG_VERSION"))
    .bind::<Text, _>(&beat.backends)
    .bind::<Text, _>(&beat.handlers)
    .bind::<BigInt, _>(now)
    .bind::<BigInt, _>(now)
    .bind::<SmallInt, _>(PROTOCOL)
    .execute(connection)
}

/// The earliest end of another worker's lease, unless that worker extends it.
fn find_next_end(connection: &mut SqliteConnection, worker: Uuid, now: i64) -> QueryResult<Option<Duration>> {
    let next = sql::<Nullable<BigInt>>(
        "SELECT min(h.ends_at) FROM outbox_heartbeats h JOIN outbox_leases l ON l.owner = h.worker WHERE h.worker <> ",
    )
    .bind::<Binary, _>(worker.as_bytes().as_slice())
    .sql(" AND h.ends_at > ")
    .bind::<BigInt, _>(now)
    .get_result::<Option<i64>>(connection)?;
    Ok(next.map(|at| Duration::from_micros(at.saturating_sub(now).unsigned_abs())))
}

fn forget_dead_workers(connection: &mut SqliteConnection, dead_since: i64) -> QueryResult<usize> {
    sql_query(format!(
        "UPDATE outbox_leases SET epoch = epoch + 1, {FREE}
         WHERE owner IN (SELECT id FROM outbox_workers WHERE heartbeat_at < ?)"
    ))
    .bind::<BigInt, _>(dead_since)
    .execute(connection)?;
    sql_query("DELETE FROM outbox_workers WHERE heartbeat_at < ?").bind::<BigInt, _>(dead_since).execute(connection)
}

fn find_peers(connection: &mut SqliteConnection, alive_since: i64) -> QueryResult<Vec<LiveWorker>> {
    let rows = sql::<(Binary, Text, Text, BigInt)>(
        "SELECT id, backends, handlers, started_at FROM outbox_workers WHERE heartbeat_at > ",
    )
    .bind::<BigInt, _>(alive_since)
    .sql(" ORDER BY started_at, id")
    .load::<(Vec<u8>, String, String, i64)>(connection)?;
    rows.into_iter()
        .map(|(id, backends, handlers, started_at)| {
            Ok(LiveWorker { id: uuid_of(&id)?, backends: by_lane(&backends), handlers, started_at })
        })
        .collect()
}

fn make_lease_row(connection: &mut SqliteConnection, lane: &str) -> QueryResult<usize> {
    sql_query("INSERT INTO outbox_leases (backend, shard) VALUES (?, ?) ON CONFLICT DO NOTHING")
        .bind::<Text, _>(lane)
        .bind::<SmallInt, _>(SHARD)
        .execute(connection)
}

/// Renews a lease, even an expired one: as long as its row names this worker, no other worker took it.
fn renew_lease(
    connection: &mut SqliteConnection,
    beat: &Heartbeat,
    shard: &Shard,
    epoch: i64,
    now: i64,
    protocol: i16,
) -> QueryResult<bool> {
    let until = if protocol >= 2 { i64::MAX } else { now.saturating_add(micros(beat.lease)) };
    let changed = sql_query(
        "UPDATE outbox_leases SET expires_at = ? WHERE backend = ? AND shard = ? AND owner = ? AND epoch = ?",
    )
    .bind::<BigInt, _>(until)
    .bind::<Text, _>(&*shard.lane)
    .bind::<SmallInt, _>(shard.number)
    .bind::<Binary, _>(beat.worker.as_bytes().as_slice())
    .bind::<BigInt, _>(epoch)
    .execute(connection)?;
    Ok(changed > 0)
}

fn find_leases(
    connection: &mut SqliteConnection,
    lane: &LaneName,
    now: i64,
    protocol: i16,
) -> QueryResult<Vec<LeaseRow>> {
    let rows = sql::<(SmallInt, Nullable<Binary>, BigInt, Bool)>(
        "SELECT shard, nullif(owner, zeroblob(16)), epoch, CASE WHEN ",
    )
    .bind::<SmallInt, _>(protocol)
    .sql(" < 2 THEN expires_at <= ")
    .bind::<BigInt, _>(now)
    .sql(" ELSE NOT EXISTS (SELECT 1 FROM outbox_heartbeats h WHERE h.worker = owner AND h.ends_at > ")
    .bind::<BigInt, _>(now)
    .sql(") END FROM outbox_leases WHERE backend = ")
    .bind::<Text, _>(&**lane)
    .load::<(i16, Option<Vec<u8>>, i64, bool)>(connection)?;
    rows.into_iter()
        .map(|(number, owner, epoch, expired)| {
            let owner = owner.as_deref().map(uuid_of).transpose()?;
            Ok(LeaseRow { shard: Shard { lane: lane.clone(), number }, owner, epoch, expired })
        })
        .collect()
}

/// The columns of a free lease under the protocol in force.
const FREE: &str = "owner = CASE WHEN (SELECT protocol FROM outbox_meta) >= 2 THEN zeroblob(16) END,
    expires_at = CASE WHEN (SELECT protocol FROM outbox_meta) >= 2 THEN 9223372036854775807 ELSE 0 END";

fn take_lease(connection: &mut SqliteConnection, worker: Uuid, lane: &str, lease: Duration) -> QueryResult<Vec<i64>> {
    let (now, protocol) = (read_now(connection)?, read_protocol(connection)?);
    let until = if protocol >= 2 { i64::MAX } else { now.saturating_add(micros(lease)) };
    sql::<BigInt>("UPDATE outbox_leases SET epoch = epoch + 1, owner = ")
        .bind::<Binary, _>(worker.as_bytes().as_slice())
        .sql(", expires_at = ")
        .bind::<BigInt, _>(until)
        .sql(" WHERE backend = ")
        .bind::<Text, _>(lane)
        .sql(" AND (owner IS NULL OR CASE WHEN ")
        .bind::<SmallInt, _>(protocol)
        .sql(" < 2 THEN expires_at <= ")
        .bind::<BigInt, _>(now)
        .sql(" ELSE NOT EXISTS (SELECT 1 FROM outbox_heartbeats h WHERE h.worker = owner AND h.ends_at > ")
        .bind::<BigInt, _>(now)
        .sql(") END) RETURNING epoch")
        .load(connection)
}

fn release_lease(connection: &mut SqliteConnection, worker: Uuid, shard: &Shard, epoch: i64) -> QueryResult<()> {
    sql_query(format!("UPDATE outbox_leases SET {FREE} WHERE backend = ? AND shard = ? AND owner = ? AND epoch = ?"))
        .bind::<Text, _>(&*shard.lane)
        .bind::<SmallInt, _>(shard.number)
        .bind::<Binary, _>(worker.as_bytes().as_slice())
        .bind::<BigInt, _>(epoch)
        .execute(connection)?;
    Ok(())
}

fn forget_worker(connection: &mut SqliteConnection, worker: Uuid) -> QueryResult<()> {
    for statement in [
        &*format!("UPDATE outbox_leases SET epoch = epoch + 1, {FREE} WHERE owner = ?"),
        "DELETE FROM outbox_workers WHERE id = ?",
    ] {
        sql_query(statement).bind::<Binary, _>(worker.as_bytes().as_slice()).execute(connection)?;
    }
    Ok(())
}

/// Raises an epoch above the one that a backend remembers, if the lease is still this worker's.
pub(super) fn raise_epoch(
    connection: &mut SqliteConnection,
    owner: Uuid,
    shard: &Shard,
    epoch: i64,
    above: i64,
) -> QueryResult<bool> {
    let changed = sql_query(
        "UPDATE outbox_leases SET epoch = max(epoch, ?) + 1 WHERE backend = ? AND shard = ? AND owner = ? AND epoch = ?",
    )
    .bind::<BigInt, _>(above)
    .bind::<Text, _>(&*shard.lane)
    .bind::<SmallInt, _>(shard.number)
    .bind::<Binary, _>(owner.as_bytes().as_slice())
    .bind::<BigInt, _>(epoch)
    .execute(connection)?;
    Ok(changed > 0)
}

//! Workers and leases. Each call is one short transaction: SQLite has one writer at a time, and one that is stopped in
//! the middle of a write is the one thing here that others must wait for.

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
use super::{SHARD, uuid_of};
use crate::store::{Heartbeat, Lane, LeaseRow, LeaseStore, LeaseView, Peer, Result, Shard, forgotten_after};

pub(super) struct SqliteLeases(pub(super) Connection);

#[async_trait]
impl LeaseStore for SqliteLeases {
    async fn beat(&mut self, beat: &Heartbeat) -> Result<LeaseView> {
        let beat = beat.clone();
        self.0.run("beat", move |connection| connection.immediate_transaction(|c| renew_and_look(c, &beat))).await
    }

    async fn has_free(&mut self, lanes: &[Lane]) -> Result<bool> {
        let lanes = lanes.to_vec();
        self.0
            .run("look for free leases", move |connection| {
                let now = read_now(connection)?;
                for lane in &lanes {
                    if find_leases(connection, lane, now)?.iter().any(|row| row.owner.is_none() || row.expired) {
                        return Ok(true);
                    }
                }
                Ok(false)
            })
            .await
    }

    async fn acquire(&mut self, worker: Uuid, lane: &Lane, want: usize, lease: Duration) -> Result<Vec<(Shard, i64)>> {
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
        self.0.run("leave", move |connection| connection.immediate_transaction(|c| forget_worker(c, worker))).await
    }
}

fn renew_and_look(connection: &mut SqliteConnection, beat: &Heartbeat) -> QueryResult<LeaseView> {
    let now = read_now(connection)?;
    write_worker(connection, beat, now)?;
    forget_dead_workers(connection, now - micros(forgotten_after(beat.lease)))?;
    let mut view = LeaseView {
        peers: find_peers(connection, now - micros(beat.lease))?,
        clock: DateTime::from_timestamp_micros(now),
        ..LeaseView::default()
    };
    for (shard, epoch) in &beat.held {
        if renew_lease(connection, beat.worker, shard, *epoch, now.saturating_add(micros(beat.lease)))? {
            view.renewed.push((shard.clone(), *epoch));
        }
    }
    for lane in &beat.lanes {
        make_lease_row(connection, lane)?;
        view.leases.extend(find_leases(connection, lane, now)?);
    }
    Ok(view)
}

fn write_worker(connection: &mut SqliteConnection, beat: &Heartbeat, now: i64) -> QueryResult<usize> {
    sql_query(
        "INSERT INTO outbox_workers (id, name, version, backends, handlers, started_at, heartbeat_at)
         VALUES (?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (id) DO UPDATE
         SET name = excluded.name, backends = excluded.backends, handlers = excluded.handlers,
             heartbeat_at = excluded.heartbeat_at",
    )
    .bind::<Binary, _>(beat.worker.as_bytes().as_slice())
    .bind::<Text, _>(&beat.name)
    .bind::<Text, _>(env!("CARGO_PKG_VERSION"))
    .bind::<Text, _>(&beat.backends)
    .bind::<Text, _>(&beat.handlers)
    .bind::<BigInt, _>(now)
    .bind::<BigInt, _>(now)
    .execute(connection)
}

fn forget_dead_workers(connection: &mut SqliteConnection, dead_since: i64) -> QueryResult<usize> {
    sql_query("DELETE FROM outbox_workers WHERE heartbeat_at < ?").bind::<BigInt, _>(dead_since).execute(connection)
}

fn find_peers(connection: &mut SqliteConnection, alive_since: i64) -> QueryResult<Vec<Peer>> {
    let rows = sql::<(Binary, Text, Text, BigInt)>(
        "SELECT id, backends, handlers, started_at FROM outbox_workers WHERE heartbeat_at > ",
    )
    .bind::<BigInt, _>(alive_since)
    .sql(" ORDER BY started_at, id")
    .load::<(Vec<u8>, String, String, i64)>(connection)?;
    rows.into_iter()
        .map(|(id, backends, handlers, started_at)| Ok(Peer { id: uuid_of(&id)?, backends, handlers, started_at }))
        .collect()
}

fn make_lease_row(connection: &mut SqliteConnection, lane: &str) -> QueryResult<usize> {
    sql_query("INSERT INTO outbox_leases (backend, shard) VALUES (?, ?) ON CONFLICT DO NOTHING")
        .bind::<Text, _>(lane)
        .bind::<SmallInt, _>(SHARD)
        .execute(connection)
}

/// One that ran out is renewed too: as long as its row names this worker, nobody took it.
fn renew_lease(
    connection: &mut SqliteConnection,
    worker: Uuid,
    shard: &Shard,
    epoch: i64,
    until: i64,
) -> QueryResult<bool> {
    let changed = sql_query(
        "UPDATE outbox_leases SET expires_at = ? WHERE backend = ? AND shard = ? AND owner = ? AND epoch = ?",
    )
    .bind::<BigInt, _>(until)
    .bind::<Text, _>(&*shard.lane)
    .bind::<SmallInt, _>(shard.number)
    .bind::<Binary, _>(worker.as_bytes().as_slice())
    .bind::<BigInt, _>(epoch)
    .execute(connection)?;
    Ok(changed > 0)
}

fn find_leases(connection: &mut SqliteConnection, lane: &Lane, now: i64) -> QueryResult<Vec<LeaseRow>> {
    let rows = sql::<(SmallInt, Nullable<Binary>, BigInt, Bool)>("SELECT shard, owner, epoch, expires_at <= ")
        .bind::<BigInt, _>(now)
        .sql(" FROM outbox_leases WHERE backend = ")
        .bind::<Text, _>(&**lane)
        .load::<(i16, Option<Vec<u8>>, i64, bool)>(connection)?;
    rows.into_iter()
        .map(|(number, owner, epoch, expired)| {
            let owner = owner.as_deref().map(uuid_of).transpose()?;
            Ok(LeaseRow { shard: Shard { lane: lane.clone(), number }, owner, epoch, expired })
        })
        .collect()
}

fn take_lease(connection: &mut SqliteConnection, worker: Uuid, lane: &str, lease: Duration) -> QueryResult<Vec<i64>> {
    let now = read_now(connection)?;
    sql::<BigInt>("UPDATE outbox_leases SET epoch = epoch + 1, owner = ")
        .bind::<Binary, _>(worker.as_bytes().as_slice())
        .sql(", expires_at = ")
        .bind::<BigInt, _>(now.saturating_add(micros(lease)))
        .sql(" WHERE backend = ")
        .bind::<Text, _>(lane)
        .sql(" AND (owner IS NULL OR expires_at <= ")
        .bind::<BigInt, _>(now)
        .sql(") RETURNING epoch")
        .load(connection)
}

fn release_lease(connection: &mut SqliteConnection, worker: Uuid, shard: &Shard, epoch: i64) -> QueryResult<()> {
    sql_query(
        "UPDATE outbox_leases SET owner = NULL, expires_at = 0
         WHERE backend = ? AND shard = ? AND owner = ? AND epoch = ?",
    )
    .bind::<Text, _>(&*shard.lane)
    .bind::<SmallInt, _>(shard.number)
    .bind::<Binary, _>(worker.as_bytes().as_slice())
    .bind::<BigInt, _>(epoch)
    .execute(connection)?;
    Ok(())
}

fn forget_worker(connection: &mut SqliteConnection, worker: Uuid) -> QueryResult<()> {
    for statement in [
        "UPDATE outbox_leases SET owner = NULL, expires_at = 0 WHERE owner = ?",
        "DELETE FROM outbox_workers WHERE id = ?",
    ] {
        sql_query(statement).bind::<Binary, _>(worker.as_bytes().as_slice()).execute(connection)?;
    }
    Ok(())
}

/// Raises an epoch above one that a backend remembers, while the lease is still this worker's.
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

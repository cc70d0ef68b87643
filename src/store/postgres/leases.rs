//! Leases on a connection of their own.
//!
//! Each write is one simple-protocol statement: the server has all of it at once, so a worker that stops in its
//! middle leaves no lock behind. Rows that another holds are skipped, never waited for.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};
use uuid::Uuid;

use super::connect::Target;
use super::{Lane, LeaseStore, Result, SHARDS, STATEMENT_LIMIT, Shard};
use crate::error::StoreError;
use crate::store::{Heartbeat, LeaseRow, LeaseView, Peer, forgotten_after};

/// How long to wait for an answer that is only nice to have, or that a later beat can ask for again.
const SHORT_LIMIT: Duration = Duration::from_secs(1);

/// How long to wait for an answer that the leases hang on: a connection that has gone silent must be noticed while they
/// still run.
fn beat_limit(lease: Duration) -> Duration {
    (lease / 3).max(SHORT_LIMIT).min(STATEMENT_LIMIT)
}

pub(super) struct PostgresLeases {
    target: Arc<Target>,
    client: Option<Client>,
}

impl PostgresLeases {
    pub(super) fn new(target: Arc<Target>) -> Self {
        Self { target, client: None }
    }

    /// Sends one simple query. After an error the connection is made anew: its state is not known.
    async fn ask(&mut self, operation: &'static str, limit: Duration, sql: &str) -> Result<Vec<SimpleQueryRow>> {
        let client = match self.client.take() {
            Some(client) if !client.is_closed() => client,
            _ => self.target.connect().await?,
        };
        let answer = match tokio::time::timeout(limit, client.simple_query(sql)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(self.target.driver_error(operation, &error)),
            Err(_) => return Err(StoreError::Timeout { operation, limit }),
        };
        self.client = Some(client);
        Ok(answer
            .into_iter()
            .filter_map(|message| if let SimpleQueryMessage::Row(row) = message { Some(row) } else { None })
            .collect())
    }
}

/// Turns on durability for the one statement, also where the database's default is off.
const DURABLE: &str = "durable AS MATERIALIZED (SELECT set_config('synchronous_commit', 'on', true))";

#[async_trait]
impl LeaseStore for PostgresLeases {
    async fn beat(&mut self, beat: &Heartbeat) -> Result<LeaseView> {
        let limit = beat_limit(beat.lease);
        self.ask("announce the worker", limit, &announce(beat)).await?;
        let renewed = match beat.held.as_slice() {
            [] => Vec::new(),
            held => self.ask("renew leases", limit, &renew(beat.worker, held, beat.lease)).await?,
        };
        let leases = self.ask("read leases", limit, &read_leases(&beat.lanes)).await?;
        let peers = self.ask("read workers", limit, &read_peers(beat.lease)).await?;
        let mut view = LeaseView {
            renewed: renewed.iter().filter_map(taken).collect(),
            leases: leases.iter().filter_map(lease_row).collect(),
            peers: peers.iter().filter_map(peer).collect(),
            clock: peers.first().and_then(clock),
        };
        let expected = beat.lanes.len() * SHARDS.unsigned_abs() as usize;
        if view.leases.len() < expected {
            self.ask("make lease rows", limit, &make_rows(&beat.lanes)).await?;
            let leases = self.ask("read leases", limit, &read_leases(&beat.lanes)).await?;
            view.leases = leases.iter().filter_map(lease_row).collect();
        }
        Ok(view)
    }

    async fn has_free(&mut self, lanes: &[Lane]) -> Result<bool> {
        let lanes: Vec<String> = lanes.iter().map(|lane| quote(lane)).collect();
        let sql = format!(
            "SELECT 1 FROM outbox_leases WHERE backend IN ({}) AND (owner IS NULL OR expires_at <= clock_timestamp()) LIMIT 1",
            lanes.join(", ")
        );
        Ok(!self.ask("look for free leases", SHORT_LIMIT, &sql).await?.is_empty())
    }

    async fn acquire(&mut self, worker: Uuid, lane: &Lane, want: usize, lease: Duration) -> Result<Vec<(Shard, i64)>> {
        let sql = format!(
            "WITH {DURABLE}, free AS MATERIALIZED (\
                SELECT backend, shard FROM outbox_leases, durable \
                WHERE backend = {lane} AND (owner IS NULL OR expires_at <= clock_timestamp()) \
                ORDER BY random() LIMIT {want} FOR UPDATE OF outbox_leases SKIP LOCKED) \
             UPDATE outbox_leases l SET owner = '{worker}', epoch = l.epoch + 1, expires_at = clock_timestamp() + {span} \
             FROM free WHERE l.backend = free.backend AND l.shard = free.shard \
             RETURNING l.backend, l.shard, l.epoch",
            lane = quote(lane),
            span = interval(lease),
        );
        let rows = self.ask("take leases", beat_limit(lease), &sql).await?;
        Ok(rows.iter().filter_map(taken).collect())
    }

    async fn release(&mut self, worker: Uuid, leases: &[(Shard, i64)]) -> Result<()> {
        if leases.is_empty() {
            return Ok(());
        }
        let sql = release_where(worker, &format!("AND {}", is_one_of(leases)));
        self.ask("release leases", SHORT_LIMIT, &sql).await.map(drop)
    }

    async fn leave(&mut self, worker: Uuid) -> Result<()> {
        self.ask("release leases", SHORT_LIMIT, &release_where(worker, "")).await?;
        let forget = format!("DELETE FROM outbox_workers WHERE id = '{worker}'");
        self.ask("forget the worker", SHORT_LIMIT, &forget).await.map(drop)
    }
}

fn announce(beat: &Heartbeat) -> String {
    format!(
        "INSERT INTO outbox_workers AS w (id, name, version, backends, handlers) \
         VALUES ('{id}', {name}, '{version}', {backends}, {handlers}) \
         ON CONFLICT (id) DO UPDATE SET backends = excluded.backends, handlers = excluded.handlers, \
            heartbeat_at = clock_timestamp()",
        id = beat.worker,
        name = quote(&beat.name),
        version = env!("CARGO_PKG_VERSION"),
        backends = quote(&beat.backends),
        handlers = quote(&beat.handlers),
    )
}

fn renew(worker: Uuid, held: &[(Shard, i64)], lease: Duration) -> String {
    format!(
        "WITH {DURABLE}, mine AS MATERIALIZED (\
            SELECT backend, shard FROM outbox_leases, durable WHERE owner = '{worker}' AND {held} \
            FOR UPDATE OF outbox_leases SKIP LOCKED) \
         UPDATE outbox_leases l SET expires_at = clock_timestamp() + {span} \
         FROM mine WHERE l.backend = mine.backend AND l.shard = mine.shard AND l.owner = '{worker}' \
         RETURNING l.backend, l.shard, l.epoch",
        held = is_one_of(held),
        span = interval(lease),
    )
}

/// A condition; a list of none is no SQL.
fn is_one_of(leases: &[(Shard, i64)]) -> String {
    let named: Vec<String> =
        leases.iter().map(|(shard, epoch)| format!("({}, {}, {epoch})", quote(&shard.lane), shard.number)).collect();
    format!("(backend, shard, epoch) IN ({})", named.join(", "))
}

fn read_leases(lanes: &[Lane]) -> String {
    let lanes: Vec<String> = lanes.iter().map(|lane| quote(lane)).collect();
    format!(
        "SELECT backend, shard, epoch, owner, expires_at <= clock_timestamp() FROM outbox_leases WHERE backend IN ({})",
        lanes.join(", ")
    )
}

fn read_peers(lease: Duration) -> String {
    format!(
        "WITH forgotten AS (DELETE FROM outbox_workers WHERE id IN (\
            SELECT id FROM outbox_workers WHERE heartbeat_at < clock_timestamp() - {long} FOR UPDATE SKIP LOCKED)) \
         SELECT id, backends, handlers, (extract(epoch FROM started_at) * 1000000)::bigint, \
            (extract(epoch FROM clock_timestamp()) * 1000000)::bigint FROM outbox_workers \
         WHERE heartbeat_at > clock_timestamp() - {span}",
        long = interval(forgotten_after(lease)),
        span = interval(lease),
    )
}

fn make_rows(lanes: &[Lane]) -> String {
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

fn release_where(worker: Uuid, which: &str) -> String {
    format!(
        "WITH {DURABLE}, mine AS MATERIALIZED (\
            SELECT backend, shard FROM outbox_leases, durable WHERE owner = '{worker}' {which} \
            FOR UPDATE OF outbox_leases SKIP LOCKED) \
         UPDATE outbox_leases l SET owner = NULL, expires_at = clock_timestamp() \
         FROM mine WHERE l.backend = mine.backend AND l.shard = mine.shard"
    )
}

fn taken(row: &SimpleQueryRow) -> Option<(Shard, i64)> {
    Some((shard(row)?, row.get(2)?.parse().ok()?))
}

fn lease_row(row: &SimpleQueryRow) -> Option<LeaseRow> {
    let (shard, epoch) = taken(row)?;
    let owner = row.get(3).and_then(|text| text.parse().ok());
    Some(LeaseRow { shard, owner, epoch, expired: row.get(4)? == "t" })
}

fn shard(row: &SimpleQueryRow) -> Option<Shard> {
    Some(Shard { lane: row.get(0)?.into(), number: row.get(1)?.parse().ok()? })
}

fn peer(row: &SimpleQueryRow) -> Option<Peer> {
    Some(Peer {
        id: row.get(0)?.parse().ok()?,
        backends: row.get(1)?.to_owned(),
        handlers: row.get(2)?.to_owned(),
        started_at: row.get(3)?.parse().ok()?,
    })
}

/// The database's, as the statement that reads the workers says with each.
fn clock(row: &SimpleQueryRow) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_micros(row.get(4)?.parse().ok()?)
}

fn interval(span: Duration) -> String {
    format!("interval '{} microseconds'", span.as_micros())
}

/// A string literal that means the same whatever `standard_conforming_strings` says.
pub(super) fn quote(text: &str) -> String {
    let escaped = text.replace('\'', "''").replace('\\', "\\\\").replace('\0', "");
    format!("E'{escaped}'")
}

#[cfg(test)]
#[path = "leases_tests.rs"]
mod tests;

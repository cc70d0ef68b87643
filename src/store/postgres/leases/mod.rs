//! Leases on a connection of their own.
//!
//! Each write is one simple-protocol statement: the server receives all of it together, so a worker that stops in its middle
//! leaves no lock behind. Rows that another transaction has locked are skipped without waiting.

mod read;
mod sql;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono::DateTime;
use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};
use uuid::Uuid;

use self::read::{ReadLease, ReadLeases};
use super::connect::Target;
use super::connections::{Connection, Connections};
use super::{Result, SHARDS, STATEMENT_LIMIT};
use crate::error::StoreError;
use crate::store::report::by_lane;
use crate::store::{Heartbeat, LeaseRow, LeaseSnapshot, LiveWorker, PROTOCOL, forgotten_after};
use crate::store::{LaneName, LeaseStore, Shard};

/// The time limit for an optional reply, or for one that a later heartbeat can ask for again.
const SHORT_LIMIT: Duration = Duration::from_secs(1);

/// A worker's report is written when it changes, and again after this interval, for programs that know only that row and
/// remove workers that are silent for long. The interval is long because each write leaves an old row version.
const LONGEST_REPORT_INTERVAL: Duration = Duration::from_secs(600);

fn report_interval(lease: Duration) -> Duration {
    (forgotten_after(lease) / 6).min(LONGEST_REPORT_INTERVAL)
}

/// The pause after another transaction had locked the worker's row, usually to acquire its leases.
const SKIPPED_PAUSE: Duration = Duration::from_millis(50);

/// The time limit for a reply on which the leases depend: a silent connection must be noticed before they expire.
fn beat_limit(lease: Duration) -> Duration {
    (lease / 3).max(SHORT_LIMIT).min(STATEMENT_LIMIT)
}

pub(super) struct PostgresLeases {
    target: Arc<Target>,
    connections: Connections,
    connection: Option<Connection>,
    /// The last heartbeat that is known to be recorded.
    last: Option<Beat>,
    reported: Option<(WorkerReport, Instant)>,
    /// Where each worker's heartbeat was last read. Newer versions are on the same page or a later one, so the cost of a
    /// read from there does not depend on how many old versions vacuum has left.
    places: BTreeMap<Uuid, String>,
    /// Owners that had expired at the last snapshot, and owners without a row.
    ended: BTreeSet<Uuid>,
    absent: BTreeSet<Uuid>,
    protocol: i16,
    /// Whether a program that knows no newer protocol was alive.
    has_older: bool,
    /// Whether a worker was silent for so long that its rows may be deleted.
    has_gone: bool,
}

/// A recorded heartbeat: its number, and the location of its row.
#[derive(Debug, Clone)]
struct Beat {
    number: i64,
    place: String,
}

/// The backends and handlers of a worker, as JSON.
type WorkerReport = (String, String);

impl PostgresLeases {
    pub(super) fn new(target: Arc<Target>) -> Self {
        Self {
            connections: Connections::new(&target, 1),
            connection: None,
            target,
            last: None,
            reported: None,
            places: BTreeMap::new(),
            ended: BTreeSet::new(),
            absent: BTreeSet::new(),
            protocol: 1,
            has_older: false,
            has_gone: false,
        }
    }

    /// Sends one simple query. After an error the connection is replaced: its state is unknown. An unanswered query is
    /// cancelled with the connection, and no new connection is made before it has ended.
    async fn ask(&mut self, operation: &'static str, limit: Duration, sql: &str) -> Result<Vec<SimpleQueryRow>> {
        Ok(self.ask_each(operation, limit, sql).await?.into_iter().flatten().collect())
    }

    /// Sends a simple query of several statements; returns the rows of each.
    async fn ask_each(
        &mut self,
        operation: &'static str,
        limit: Duration,
        sql: &str,
    ) -> Result<Vec<Vec<SimpleQueryRow>>> {
        let mut connection = match self.connection.take() {
            Some(connection) if !connection.client.is_closed() => connection,
            _ => self.connect().await?,
        };
        connection.set_busy(true);
        let sent = Instant::now();
        let Ok(answer) =
            tokio::time::timeout(limit, connection.client.simple_query(&connection.schema.qualify(sql))).await
        else {
            return Err(StoreError::Timeout { operation, limit });
        };
        connection.set_busy(false);
        if !connection.client.is_closed() {
            self.target.pulse.note_statement(sent);
        }
        let answer = answer.map_err(|error| self.target.driver_error(operation, &error))?;
        self.connection = Some(connection);
        let (mut statements, mut rows) = (Vec::new(), Vec::new());
        for message in answer {
            match message {
                SimpleQueryMessage::Row(row) => rows.push(row),
                SimpleQueryMessage::CommandComplete(_) => statements.push(std::mem::take(&mut rows)),
                _ => {}
            }
        }
        Ok(statements)
    }

    async fn connect(&self) -> Result<Connection> {
        let mut connection = self.connections.connect().await?;
        connection.set_busy(true);
        self.target.identify(&connection.client).await?;
        connection.set_busy(false);
        Ok(connection)
    }

    /// Records the heartbeat. Returns whether the worker's row existed; a deleted row is inserted again.
    async fn record(&mut self, beat: &Heartbeat) -> Result<bool> {
        let limit = beat_limit(beat.lease);
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            let Some(last) = self.last.clone() else {
                let known = self.register(beat).await?;
                return Ok(known);
            };
            let mut rows =
                self.ask("record a heartbeat", limit, &sql::beat(beat, last.number, Some(&last.place))).await?;
            if rows.is_empty() {
                rows = self.ask("record a heartbeat", limit, &sql::beat(beat, last.number, None)).await?;
            }
            if let Some(place) = rows.first().and_then(|row| row.get(0)) {
                self.last = Some(Beat { number: last.number.wrapping_add(1), place: place.to_owned() });
                return Ok(true);
            }
            // The row was locked, recorded by an earlier execution, or deleted.
            let found = self.ask("read the worker's row", limit, &sql::read_beat(beat.worker)).await?;
            self.last = found.first().and_then(recorded_beat);
            tokio::time::sleep(SKIPPED_PAUSE).await;
        }
        Err(StoreError::Locked { operation: "record a heartbeat" })
    }

    /// Inserts the worker's rows, unless they exist: a replaced lease keeper leaves them to the next.
    async fn register(&mut self, beat: &Heartbeat) -> Result<bool> {
        let limit = beat_limit(beat.lease);
        let made = self.ask("register the worker", limit, &sql::register(beat, rand::random::<i64>() >> 1)).await?;
        let found = self.ask("read the worker's row", limit, &sql::read_beat(beat.worker)).await?;
        self.last = found.first().and_then(recorded_beat);
        self.reported = Some(((beat.backends.clone(), beat.handlers.clone()), Instant::now()));
        match self.last {
            Some(_) => Ok(made.is_empty()),
            None => Err(StoreError::Locked { operation: "register the worker" }),
        }
    }

    /// Writes the report, which changes rarely, to a row of its own.
    async fn report(&mut self, beat: &Heartbeat) -> Result<()> {
        let report = (beat.backends.clone(), beat.handlers.clone());
        let interval = report_interval(beat.lease);
        let fresh = self.protocol >= 2
            && self.reported.as_ref().is_some_and(|(known, at)| *known == report && at.elapsed() < interval);
        if !fresh {
            self.ask("report the worker's state", beat_limit(beat.lease), &sql::report(beat)).await?;
            self.reported = Some((report, Instant::now()));
        }
        Ok(())
    }

    async fn read_snapshot(&mut self, beat: &Heartbeat) -> Result<LeaseSnapshot> {
        let limit = beat_limit(beat.lease);
        let known: Vec<Uuid> = self.places.keys().copied().collect();
        let reads =
            [sql::read_leases(beat.worker, &beat.lanes), sql::read_workers(), sql::read_ends(&known, &self.places)];
        let mut read = self.ask_each("read leases", limit, &reads.join("; ")).await?.into_iter();
        let [leases, workers, mut ends] = [(); 3].map(|()| read.next().unwrap_or_default());
        let ids: Vec<Uuid> = workers.iter().filter_map(|row| row.get(0)?.parse().ok()).collect();
        let seen: Vec<Uuid> = ends.iter().filter_map(|row| row.get(0)?.parse().ok()).collect();
        let missed: Vec<Uuid> = ids.iter().filter(|id| !seen.contains(id)).copied().collect();
        if !missed.is_empty() {
            // New, deleted, or moved to an earlier page that vacuum had cleared.
            ends.extend(self.ask("read heartbeats", limit, &sql::read_ends(&missed, &BTreeMap::new())).await?);
        }
        let leases = ReadLeases::from_rows(&leases);
        let workers: Vec<WorkerState> = workers.iter().filter_map(|row| worker(row, &ends, beat.lease)).collect();
        self.remember(beat, &workers, &leases);
        Ok(self.view(beat, &workers, leases))
    }
}

impl PostgresLeases {
    /// Remembers the owners from which leases can be acquired, and the protocol, until the next snapshot.
    fn remember(&mut self, beat: &Heartbeat, workers: &[WorkerState], leases: &ReadLeases) {
        self.places = workers.iter().filter_map(|worker| Some((worker.id, worker.place.clone()?))).collect();
        self.ended = workers.iter().filter(|worker| worker.has_ended()).map(|worker| worker.id).collect();
        self.ended.remove(&beat.worker);
        self.has_older = workers.iter().any(|worker| worker.protocol < PROTOCOL && worker.silent_for < 2 * beat.lease);
        self.has_gone = workers.iter().any(|worker| worker.silent_for > forgotten_after(beat.lease));
        let owners = leases.leases.iter().filter_map(|lease| lease.owner);
        self.absent = owners.filter(|owner| !self.places.contains_key(owner)).collect();
        self.protocol = leases.protocol.unwrap_or(self.protocol);
    }

    fn view(&self, beat: &Heartbeat, workers: &[WorkerState], read: ReadLeases) -> LeaseSnapshot {
        let next_end =
            if self.protocol >= 2 { next_end(beat, workers, &read) } else { next_end_of_each(beat, &read.leases) };
        let leases: Vec<LeaseRow> = read.leases.into_iter().map(|lease| self.lease_row(lease)).collect();
        let held: HashSet<(&Shard, i64)> = beat.held.iter().map(|(shard, epoch)| (shard, *epoch)).collect();
        let is_renewed = |row: &&LeaseRow| row.owner == Some(beat.worker) && held.contains(&(&row.shard, row.epoch));
        let renewed = leases.iter().filter(is_renewed).map(|row| (row.shard.clone(), row.epoch)).collect();
        LeaseSnapshot {
            live_workers: workers
                .iter()
                .filter(|worker| self.can_work(worker))
                .map(|worker| worker.live_worker.clone())
                .collect(),
            leases,
            renewed: if beat.extends { renewed } else { Vec::new() },
            clock: read.clock.and_then(DateTime::from_timestamp_micros),
            next_end,
            protocol: self.protocol,
            pauses: read.pauses,
        }
    }

    /// A worker that does not know the protocol in force can acquire nothing; no worker would serve a share left to it.
    fn can_work(&self, worker: &WorkerState) -> bool {
        worker.alive && worker.protocol >= self.protocol
    }

    fn lease_row(&self, ReadLease { shard, epoch, owner, left }: ReadLease) -> LeaseRow {
        let ended = owner.is_some_and(|owner| self.ended.contains(&owner) || self.absent.contains(&owner));
        let expired = if self.protocol >= 2 { ended } else { left.is_zero() };
        LeaseRow { shard, owner, epoch, expired }
    }

    /// Raises the protocol to the newest if every worker knows it.
    async fn raise_protocol(&mut self, beat: &Heartbeat) -> Result<()> {
        self.ask("raise the protocol", beat_limit(beat.lease), &sql::raise_protocol(beat.lease)).await.map(drop)
    }

    /// Notifies workers of released leases; without a notification they find them a little later.
    async fn notify_release(&mut self, worker: Uuid) {
        let told = self.ask("notify workers of free leases", SHORT_LIMIT, &sql::notify_release(worker)).await;
        if let Err(error) = told {
            tracing::debug!(%error, "other workers were not notified of released leases");
        }
    }

    async fn remove_dead_workers(&mut self, lease: Duration) -> Result<()> {
        self.ask("remove dead workers", SHORT_LIMIT, &sql::remove_dead_workers(forgotten_after(lease))).await.map(drop)
    }

    /// Renews the leases one by one: under protocol 1 each has an end of its own.
    async fn renew_each(&mut self, beat: &Heartbeat) -> Result<Vec<(Shard, i64)>> {
        if beat.held.is_empty() || !beat.extends {
            return Ok(Vec::new());
        }
        let renewed = self.ask("renew leases", beat_limit(beat.lease), &sql::renew(beat)).await?;
        Ok(renewed.iter().filter_map(taken).collect())
    }
}

#[async_trait]
impl LeaseStore for PostgresLeases {
    async fn beat(&mut self, beat: &Heartbeat) -> Result<LeaseSnapshot> {
        let known = self.record(beat).await?;
        self.report(beat).await?;
        let each = if self.protocol < 2 { Some(self.renew_each(beat).await?) } else { None };
        let mut view = self.read_snapshot(beat).await?;
        let missing = beat.lanes.iter().any(|lane| view.of_lane(lane).len() < SHARDS.unsigned_abs() as usize);
        if missing {
            self.ask("insert lease rows", beat_limit(beat.lease), &sql::make_rows(&beat.lanes)).await?;
            view = self.read_snapshot(beat).await?;
        }
        if self.protocol < PROTOCOL && !self.has_older {
            self.raise_protocol(beat).await?;
            view = self.read_snapshot(beat).await?;
        }
        if self.has_gone {
            self.remove_dead_workers(beat.lease).await?;
        }
        if let Some(each) = each {
            view.renewed.retain(|lease| each.contains(lease));
        }
        if !known {
            view.renewed.clear();
        }
        Ok(view)
    }

    async fn has_free(&mut self, lanes: &[LaneName]) -> Result<bool> {
        Ok(!self.ask("find free leases", SHORT_LIMIT, &sql::free(lanes)).await?.is_empty())
    }

    async fn acquire(
        &mut self,
        worker: Uuid,
        lane: &LaneName,
        want: usize,
        lease: Duration,
    ) -> Result<Vec<(Shard, i64)>> {
        let sql = sql::acquire(worker, lane, want, lease, &self.ended, &self.absent);
        let rows = self.ask("acquire leases", beat_limit(lease), &sql).await?;
        Ok(rows.iter().filter_map(taken).collect())
    }

    async fn release(&mut self, worker: Uuid, leases: &[(Shard, i64)]) -> Result<()> {
        if leases.is_empty() {
            return Ok(());
        }
        self.ask("release leases", SHORT_LIMIT, &sql::release(worker, leases)).await?;
        self.notify_release(worker).await;
        Ok(())
    }

    async fn leave(&mut self, worker: Uuid) -> Result<()> {
        self.last = None;
        self.ask("release leases", SHORT_LIMIT, &sql::leave(worker)).await?;
        self.notify_release(worker).await;
        Ok(())
    }
}

/// A worker's rows.
struct WorkerState {
    id: Uuid,
    live_worker: LiveWorker,
    /// Where its heartbeat was read; `None`: it has none, as under protocol 1.
    place: Option<String>,
    alive: bool,
    /// The time until its leases expire; zero: they have expired.
    left: Option<Duration>,
    silent_for: Duration,
    /// The newest protocol that it knows.
    protocol: i16,
}

impl WorkerState {
    fn has_ended(&self) -> bool {
        self.left.is_some_and(|left| left.is_zero())
    }
}

fn worker(row: &SimpleQueryRow, ends: &[SimpleQueryRow], lease: Duration) -> Option<WorkerState> {
    let id: Uuid = row.get(0)?.parse().ok()?;
    let end = ends.iter().find(|end| end.get(0) == row.get(0));
    let silent_for = span(end.map_or(row.get(4), |end| end.get(2)));
    let live_worker = LiveWorker {
        id,
        backends: by_lane(row.get(1)?),
        handlers: row.get(2)?.to_owned(),
        started_at: row.get(3)?.parse().ok()?,
    };
    Some(WorkerState {
        id,
        live_worker,
        place: end.and_then(|end| end.get(1)).map(str::to_owned),
        alive: silent_for < lease,
        left: end.map(|end| span(end.get(3))),
        silent_for,
        protocol: row.get(5)?.parse().ok()?,
    })
}

/// The earliest end of another worker's lease. Leases end with their owners' heartbeats.
fn next_end(beat: &Heartbeat, workers: &[WorkerState], read: &ReadLeases) -> Option<Duration> {
    let owners = read.leases.iter().filter_map(|lease| lease.owner);
    let others: BTreeSet<Uuid> = owners.filter(|id| *id != beat.worker).collect();
    let ends = workers.iter().filter(|worker| others.contains(&worker.id)).filter_map(|worker| worker.left);
    ends.filter(|left| !left.is_zero()).min()
}

/// The earliest end under protocol 1, where each lease has an end of its own.
fn next_end_of_each(beat: &Heartbeat, leases: &[ReadLease]) -> Option<Duration> {
    let others = leases.iter().filter(|lease| lease.owner.is_some_and(|owner| owner != beat.worker));
    others.map(|lease| lease.left).filter(|left| !left.is_zero()).min()
}

/// A duration from microseconds; zero if it is missing.
fn span(micros: Option<&str>) -> Duration {
    Duration::from_micros(micros.and_then(|micros| micros.parse().ok()).unwrap_or(0))
}

fn recorded_beat(row: &SimpleQueryRow) -> Option<Beat> {
    Some(Beat { number: row.get(0)?.parse().ok()?, place: row.get(1)?.to_owned() })
}

fn taken(row: &SimpleQueryRow) -> Option<(Shard, i64)> {
    Some((Shard { lane: row.get(0)?.into(), number: row.get(1)?.parse().ok()? }, row.get(2)?.parse().ok()?))
}

pub(super) use sql::quote;

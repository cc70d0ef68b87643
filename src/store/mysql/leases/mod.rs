//! Leases on a connection of their own.
//!
//! Each write is one text, of one statement or of a transaction: the server receives all of it together, so a worker that
//! stops in its middle leaves no lock behind. No statement waits longer than a second for a row that another transaction has
//! locked. A free lease has no owner: no program of this database follows an older protocol.

mod read;
mod sql;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono::DateTime;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use tokio::time::timeout;
use uuid::Uuid;

use self::read::{ReadLease, Rows, WorkerState, value};
use super::SHARDS;
use super::address::Address;
use super::error::{Failure, FailureKind};
use super::pool::{TRUSTED, open_for_leases};
use super::session::{ANSWER_LIMIT, Session};
use super::statement::{Statement, Value};
use crate::error::StoreError;
use crate::store::{
    Heartbeat, LaneName, LeaseRow, LeaseSnapshot, LeaseStore, PROTOCOL, Result, Shard, forgotten_after,
};

/// The time limit for an optional reply, or for one that a later heartbeat can ask for again. It is longer than the server
/// waits for a lock.
const SHORT_LIMIT: Duration = Duration::from_secs(2);

const SHORTEST_BEAT_LIMIT: Duration = Duration::from_secs(1);

/// The pause after another transaction had locked the worker's row, usually to acquire its leases.
const SKIPPED_PAUSE: Duration = Duration::from_millis(50);

/// The time limit for a reply on which the leases depend: a silent connection must be noticed before they expire.
fn beat_limit(lease: Duration) -> Duration {
    (lease / 3).max(SHORTEST_BEAT_LIMIT).min(ANSWER_LIMIT)
}

pub(super) struct MysqlLeases {
    address: Address,
    /// And when it was used last.
    connection: Option<(Conn, Instant)>,
    /// The number of the last heartbeat that is known to be recorded.
    last: Option<i64>,
    /// The backends and handlers that were reported last, as JSON.
    reported: Option<(String, String)>,
    /// Owners that had expired at the last snapshot, and owners without a row.
    ended: BTreeSet<Uuid>,
    absent: BTreeSet<Uuid>,
    /// Workers that were silent for so long that their rows may be deleted.
    gone: BTreeSet<Uuid>,
}

impl MysqlLeases {
    pub(super) fn new(address: Address) -> Self {
        Self {
            address,
            connection: None,
            last: None,
            reported: None,
            ended: BTreeSet::new(),
            absent: BTreeSet::new(),
            gone: BTreeSet::new(),
        }
    }

    /// Sends statements as one text; returns the results that have rows. If one of them fails, a transaction that the text
    /// began is rolled back; after a doubt the connection is replaced.
    async fn ask(&mut self, operation: &'static str, limit: Duration, sql: &str) -> Result<Vec<Rows>> {
        let mut connection = match self.connection.take() {
            Some((connection, used)) if used.elapsed() < TRUSTED => connection,
            _ => open_for_leases(&self.address).await?,
        };
        let Ok(answer) = timeout(limit, read_all(&mut connection, sql)).await else {
            return Err(StoreError::Timeout { operation, limit });
        };
        let failure = match answer {
            Ok(results) => {
                self.connection = Some((connection, Instant::now()));
                return Ok(results);
            }
            Err(error) => Failure::from(error),
        };
        if matches!(failure.kind, FailureKind::Server(_))
            && !failure.is_read_only()
            && timeout(SHORT_LIMIT, connection.query_drop("ROLLBACK")).await.is_ok_and(|ended| ended.is_ok())
        {
            self.connection = Some((connection, Instant::now()));
        }
        match failure.is_conflict() {
            true => Err(StoreError::Locked { operation }),
            false => Err(failure.into_store_error(&self.address.shown, operation)),
        }
    }

    /// Records the heartbeat. Returns whether the worker's row existed; a deleted row is inserted again.
    async fn record(&mut self, beat: &Heartbeat) -> Result<bool> {
        const OPERATION: &str = "record a heartbeat";
        let limit = beat_limit(beat.lease);
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            let Some(last) = self.last else { return self.register(beat).await };
            match self.ask(OPERATION, limit, &sql::beat(beat, last)).await {
                Ok(changed) if number(&changed) == Some(1) => {
                    self.last = Some(last.wrapping_add(1));
                    return Ok(true);
                }
                Ok(_) | Err(StoreError::Locked { .. }) => {}
                Err(error) => return Err(error),
            }
            // The row was locked, recorded by an earlier execution, or deleted.
            self.last = number(&self.ask("read the worker's row", limit, &sql::read_beat(beat.worker)).await?);
            tokio::time::sleep(SKIPPED_PAUSE).await;
        }
        Err(StoreError::Locked { operation: OPERATION })
    }

    /// Inserts the worker's rows, unless they exist: a replaced lease keeper leaves them to the next.
    async fn register(&mut self, beat: &Heartbeat) -> Result<bool> {
        const OPERATION: &str = "register the worker";
        let limit = beat_limit(beat.lease);
        let made = self.ask(OPERATION, limit, &sql::register(beat, rand::random::<i64>() >> 1)).await?;
        self.last = number(&self.ask("read the worker's row", limit, &sql::read_beat(beat.worker)).await?);
        self.reported = Some((beat.backends.clone(), beat.handlers.clone()));
        match self.last {
            Some(_) => Ok(number(&made) == Some(0)),
            None => Err(StoreError::Locked { operation: OPERATION }),
        }
    }

    /// Writes the report, which changes rarely, to a row of its own.
    async fn report(&mut self, beat: &Heartbeat) -> Result<()> {
        let report = (beat.backends.clone(), beat.handlers.clone());
        if self.reported.as_ref() != Some(&report) {
            match self.ask("report the worker's state", beat_limit(beat.lease), &sql::report(beat)).await {
                Ok(_) => self.reported = Some(report),
                // The next heartbeat reports it.
                Err(StoreError::Locked { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn read_snapshot(&mut self, beat: &Heartbeat) -> Result<LeaseSnapshot> {
        let leases = sql::read_leases(beat.worker, &beat.lanes);
        let reads = [&leases, sql::read_workers(), sql::read_meta(), sql::read_pauses()].join("; ");
        let mut read = self.ask("read leases", beat_limit(beat.lease), &reads).await?.into_iter();
        let [leases, workers, meta, pauses] = [(); 4].map(|()| read.next().unwrap_or_default());
        let mut leases: Vec<ReadLease> = leases.iter().filter_map(ReadLease::from_row).collect();
        leases.sort_unstable_by(|one, other| one.shard.cmp(&other.shard));
        let workers: Vec<WorkerState> = workers.iter().filter_map(WorkerState::from_row).collect();
        self.remember(beat, &workers, &leases);
        let mut view = self.view(beat, workers, leases);
        if let Some(meta) = meta.first() {
            view.clock = value(meta, 0).and_then(DateTime::from_timestamp_micros);
            view.protocol = value(meta, 1).unwrap_or(PROTOCOL);
        }
        view.pauses = pauses.iter().filter_map(read::pause).collect();
        Ok(view)
    }

    /// Remembers the owners from which leases can be acquired until the next snapshot.
    fn remember(&mut self, beat: &Heartbeat, workers: &[WorkerState], leases: &[ReadLease]) {
        let ids = |is: &dyn Fn(&WorkerState) -> bool| -> BTreeSet<Uuid> {
            workers.iter().filter(|worker| is(worker)).map(|worker| worker.id).collect()
        };
        self.ended = ids(&|worker| worker.has_ended() && worker.id != beat.worker);
        self.gone = ids(&|worker| worker.silent_for > forgotten_after(beat.lease));
        let present = ids(&WorkerState::has_heartbeat);
        self.absent = leases.iter().filter_map(|lease| lease.owner).filter(|owner| !present.contains(owner)).collect();
    }

    fn view(&self, beat: &Heartbeat, workers: Vec<WorkerState>, leases: Vec<ReadLease>) -> LeaseSnapshot {
        let next_end = read::next_end(beat, &workers, &leases);
        let has_ended = |owner: &Uuid| {
            self.absent.contains(owner) || workers.iter().any(|worker| worker.id == *owner && worker.has_ended())
        };
        let leases: Vec<LeaseRow> = leases
            .into_iter()
            .map(|ReadLease { shard, owner, epoch }| LeaseRow {
                shard,
                owner,
                epoch,
                expired: owner.as_ref().is_some_and(has_ended),
            })
            .collect();
        let held: HashSet<(&Shard, i64)> = beat.held.iter().map(|(shard, epoch)| (shard, *epoch)).collect();
        let is_renewed = |row: &&LeaseRow| row.owner == Some(beat.worker) && held.contains(&(&row.shard, row.epoch));
        let renewed = leases.iter().filter(is_renewed).map(|row| (row.shard.clone(), row.epoch)).collect();
        let alive = workers.into_iter().filter(|worker| worker.silent_for < beat.lease);
        LeaseSnapshot {
            live_workers: alive.map(|worker| worker.live_worker).collect(),
            leases,
            renewed: if beat.extends { renewed } else { Vec::new() },
            next_end,
            ..LeaseSnapshot::default()
        }
    }

    /// Inserts the lease rows that are missing. Another worker may be inserting them too.
    async fn make_rows(&mut self, beat: &Heartbeat, mut view: LeaseSnapshot) -> Result<LeaseSnapshot> {
        let limit = beat_limit(beat.lease);
        let deadline = Instant::now() + limit;
        let complete = usize::from(SHARDS.unsigned_abs());
        loop {
            let is_missing = |lane: &&LaneName| view.of_lane(lane).len() < complete;
            let missing: Vec<LaneName> = beat.lanes.iter().filter(is_missing).cloned().collect();
            if missing.is_empty() || Instant::now() > deadline {
                return Ok(view);
            }
            match self.ask("insert lease rows", limit, &sql::make_rows(&missing)).await {
                Ok(_) => {}
                Err(StoreError::Locked { .. }) => tokio::time::sleep(SKIPPED_PAUSE).await,
                Err(error) => return Err(error),
            }
            view = self.read_snapshot(beat).await?;
        }
    }
}

/// The driver keeps an error of a later statement until the end of the results is read.
async fn read_all(connection: &mut Conn, sql: &str) -> mysql_async::Result<Vec<Rows>> {
    let mut answer = connection.query_iter(sql).await?;
    let mut results = Vec::new();
    while !answer.is_empty() {
        let has_rows = !answer.columns_ref().is_empty();
        let rows: Vec<Row> = answer.collect().await?;
        if has_rows {
            results.push(rows);
        }
    }
    answer.drop_result().await?;
    Ok(results)
}

/// The only number of the only result.
fn number(results: &[Rows]) -> Option<i64> {
    value(results.first()?.first()?, 0)
}

/// Locked rows are left for the next heartbeat, which sees them.
fn unless_locked(answer: Result<Vec<Rows>>) -> Result<()> {
    match answer {
        Ok(_) | Err(StoreError::Locked { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

#[async_trait]
impl LeaseStore for MysqlLeases {
    async fn beat(&mut self, beat: &Heartbeat) -> Result<LeaseSnapshot> {
        let known = self.record(beat).await?;
        self.report(beat).await?;
        let view = self.read_snapshot(beat).await?;
        let mut view = self.make_rows(beat, view).await?;
        if !self.gone.is_empty() {
            let remove = sql::remove_dead_workers(&self.gone, forgotten_after(beat.lease));
            unless_locked(self.ask("remove dead workers", SHORT_LIMIT, &remove).await)?;
        }
        if !known {
            view.renewed.clear();
        }
        Ok(view)
    }

    async fn has_free(&mut self, lanes: &[LaneName]) -> Result<bool> {
        if lanes.is_empty() {
            return Ok(false);
        }
        Ok(number(&self.ask("find free leases", SHORT_LIMIT, &sql::free(lanes)).await?).is_some())
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
        let sql = sql::acquire(worker, lane, want, &self.ended, &self.absent);
        match self.ask("acquire leases", beat_limit(lease), &sql).await {
            Ok(results) => Ok(results.iter().flatten().filter_map(read::taken).collect()),
            Err(StoreError::Locked { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// If one of the rows is locked, the others are released one by one.
    async fn release(&mut self, worker: Uuid, leases: &[(Shard, i64)]) -> Result<()> {
        const OPERATION: &str = "release leases";
        if leases.is_empty() {
            return Ok(());
        }
        match self.ask(OPERATION, SHORT_LIMIT, &sql::release(worker, leases)).await {
            Err(StoreError::Locked { .. }) => {}
            released => return released.map(drop),
        }
        for lease in leases {
            unless_locked(self.ask(OPERATION, SHORT_LIMIT, &sql::release(worker, std::slice::from_ref(lease))).await)?;
        }
        Ok(())
    }

    /// If one of its leases is locked, the worker's row is deleted alone, which frees them too.
    async fn leave(&mut self, worker: Uuid) -> Result<()> {
        const OPERATION: &str = "remove the worker";
        self.last = None;
        match self.ask(OPERATION, SHORT_LIMIT, &sql::leave(worker)).await {
            Err(StoreError::Locked { .. }) => {
                self.ask(OPERATION, SHORT_LIMIT, &sql::delete_worker(worker)).await.map(drop)
            }
            left => left.map(drop),
        }
    }
}

/// Raises an epoch above the one that a backend remembers, if the lease is still this worker's.
pub(super) async fn raise_epoch(
    session: &mut Session<'_>,
    owner: Uuid,
    shard: &Shard,
    epoch: i64,
    above: i64,
) -> Result<bool, Failure> {
    const RAISE: &str = "UPDATE outbox_leases SET epoch = GREATEST(epoch, ?) + 1 \
        WHERE backend = ? AND shard = ? AND owner = ? AND epoch = ?";
    let lease = [shard.lane.as_ref().into(), i64::from(shard.number).into(), owner.into(), epoch.into()];
    let values: Vec<Value> = [above.into()].into_iter().chain(lease).collect();
    Ok(session.execute(Statement::<()>::new(RAISE, values)).await? == 1)
}

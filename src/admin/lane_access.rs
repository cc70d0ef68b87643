//! Sole access to a lane, for changes that no worker may race with.
//!
//! The command becomes the owner of all leases of the lane, as a worker that sends nothing: the other workers see its claim in
//! its heartbeat, and leave it the lane. Then it fences earlier sessions of the backend and reads what they sent. So while it
//! holds the leases, the events in the table that no journal names have not been sent, and no worker can send them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::{AdminError, OutboxAdmin, Result};
use crate::backend::BackendError;
use crate::store::{Heartbeat, LaneClaim, LaneHealth, LaneName, LeaseSnapshot, LeaseStore, LiveWorker, Shard, Store};

/// How long to wait for a backend.
const BACKEND_LIMIT: Duration = Duration::from_secs(15);

/// How much longer than two lease times to wait until the workers have released the lane.
const PATIENCE: Duration = Duration::from_secs(10);

const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Events in one query.
const PAGE: usize = 1_000;

/// All leases of a lane, and what had been sent before they were taken.
pub(super) struct LaneAccess {
    store: Arc<dyn Store>,
    leases: Box<dyn LeaseStore>,
    beat: Heartbeat,
    beaten: Instant,
    pub(super) lane: LaneName,
    /// Events that the backend has and the database does not have as sent.
    unrecorded: HashSet<Uuid>,
}

impl LaneAccess {
    /// Waits until the workers have released the lane.
    pub(super) async fn open(admin: &OutboxAdmin, lane: &str, name: &str) -> Result<Self, AdminError> {
        let outbox = admin.store.outbox_id().await?;
        let lane = LaneName::from(lane);
        let beat = Heartbeat {
            worker: Uuid::now_v7(),
            name: name.to_owned(),
            backends: serde_json::json!(BTreeMap::from([(&*lane, LaneHealth::claim())])).to_string(),
            handlers: "[]".to_owned(),
            lanes: vec![lane.clone()],
            held: Vec::new(),
            extends: true,
            lease: admin.settings.worker.lease,
        };
        let (store, leases) = (Arc::clone(&admin.store), admin.store.leases());
        let mut access = Self { store, leases, beat, beaten: Instant::now(), lane, unrecorded: HashSet::new() };
        match access.take(admin, outbox).await {
            Ok(()) => Ok(access),
            Err(error) => {
                access.close().await;
                Err(error)
            }
        }
    }

    async fn take(&mut self, admin: &OutboxAdmin, outbox: Uuid) -> Result<(), AdminError> {
        self.take_leases().await?;
        self.find_unrecorded(admin, outbox).await
    }

    async fn take_leases(&mut self) -> Result<(), AdminError> {
        let deadline = Instant::now() + 2 * self.beat.lease + PATIENCE;
        loop {
            let snapshot = self.beat().await?;
            if is_claimed_earlier(self.beat.worker, &self.lane, &snapshot) {
                return Err(self.unavailable("another command is changing its events; try again when that has ended"));
            }
            if snapshot.protocol < 2 {
                return Err(self.unavailable("a worker of an older version is alive, which does not release it"));
            }
            let all = self.shards();
            let missing = all - self.beat.held.len();
            let taken = self.leases.acquire(self.beat.worker, &self.lane, missing, self.beat.lease).await?;
            self.beat.held.extend(taken);
            if self.beat.held.len() == all {
                return Ok(());
            }
            if Instant::now() > deadline {
                let owners = self.owners().await?;
                return Err(self.unavailable(&format!("still in use by {}; stop it, or try again", owners.join(", "))));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    fn shards(&self) -> usize {
        usize::from(self.store.shards().unsigned_abs())
    }

    /// The workers that hold leases of the lane.
    async fn owners(&self) -> Result<Vec<String>, AdminError> {
        let workers = self.store.workers().await?.into_iter().filter(|worker| worker.id != self.beat.worker);
        let owners = workers.filter(|worker| worker.shards.iter().any(|(lane, _)| *lane == self.lane));
        Ok(owners.map(|worker| format!("worker {}", worker.name)).collect())
    }

    async fn beat(&mut self) -> Result<LeaseSnapshot> {
        self.beaten = Instant::now();
        let snapshot = self.leases.beat(&self.beat).await?;
        self.beat.held.retain(|lease| snapshot.renewed.contains(lease));
        Ok(snapshot)
    }

    /// Keeps the leases; returns whether all are still held.
    pub(super) async fn renew(&mut self) -> Result<bool> {
        if self.beaten.elapsed() > self.beat.lease / 3 {
            self.beat().await?;
        }
        Ok(self.beat.held.len() == self.shards())
    }

    /// Fences earlier sessions, and asks what they sent. A backend without a journal cannot tell.
    async fn find_unrecorded(&mut self, admin: &OutboxAdmin, outbox: Uuid) -> Result<(), AdminError> {
        let serving =
            admin.settings.publishers.keys().find(|name| admin.settings.lanes_of(name).contains(&&*self.lane));
        match serving {
            Some(name) if admin.publishers_with_journal().any(|(other, _)| other == name) => {
                self.open_session(admin, name, outbox).await
            }
            Some(_) => Ok(()),
            // Other programs may serve it, with any of these backends.
            None => {
                for (name, _) in admin.publishers_with_journal() {
                    self.read_journal(admin, name, outbox).await?;
                }
                Ok(())
            }
        }
    }

    async fn open_session(&mut self, admin: &OutboxAdmin, name: &str, outbox: Uuid) -> Result<(), AdminError> {
        let mut session = admin.backends.session(name, &admin.settings.publishers[name], outbox)?();
        let opened = self.answered(session.open(&self.beat.held)).await?;
        if !opened.refused.is_empty() {
            return Err(self.unavailable("it has a newer session than the database; start a worker, then try again"));
        }
        let sent: Vec<(Uuid, i64)> = opened.sent.iter().map(|(_, id, seq)| (*id, *seq)).collect();
        let recorded = self.compare(&sent).await?;
        session.settled(&recorded);
        self.answered(session.flush()).await
    }

    async fn read_journal(&mut self, admin: &OutboxAdmin, name: &str, outbox: Uuid) -> Result<(), AdminError> {
        let mut session = admin.backends.session(name, &admin.settings.publishers[name], outbox)?();
        let entries = self.answered(session.entries()).await?;
        let own = entries.into_iter().filter(|entry| entry.outbox == outbox && entry.shard.lane == self.lane);
        let sent: Vec<(Uuid, i64)> = own.filter_map(|entry| entry.sent).flatten().collect();
        self.compare(&sent).await.map(drop)
    }

    /// Remembers which of the sent events the database does not have as sent; returns the others.
    async fn compare(&mut self, sent: &[(Uuid, i64)]) -> Result<Vec<(Uuid, i64)>, AdminError> {
        let mut unsettled: HashSet<(Uuid, i64)> = HashSet::new();
        for page in sent.chunks(PAGE) {
            self.store.mark_failed_as_sent(page).await?;
            let rows = self.store.find_unsettled(&self.lane, page).await?;
            unsettled.extend(rows.iter().map(|row| (row.id, row.position.seq)));
        }
        let recorded = sent.iter().filter(|event| !unsettled.contains(event)).copied().collect();
        self.unrecorded.extend(unsettled.into_iter().map(|(id, _)| id));
        Ok(recorded)
    }

    async fn answered<T>(&self, answer: impl Future<Output = Result<T, BackendError>>) -> Result<T, AdminError> {
        match tokio::time::timeout(BACKEND_LIMIT, answer).await {
            Ok(answer) => answer.map_err(|error| self.unavailable(&error.to_string())),
            Err(_) => Err(self.unavailable(&format!("no answer within {BACKEND_LIMIT:?}"))),
        }
    }

    fn unavailable(&self, reason: &str) -> AdminError {
        AdminError::LaneInUse { lane: self.lane.to_string(), reason: reason.to_owned() }
    }

    /// Whether the backend has the event although the database does not have it as sent.
    pub(super) fn is_unrecorded(&self, id: Uuid) -> bool {
        self.unrecorded.contains(&id)
    }

    pub(super) fn claim(&self) -> LaneClaim {
        let number = |(shard, epoch): &(Shard, i64)| (shard.number, *epoch);
        LaneClaim {
            lane: self.lane.clone(),
            owner: self.beat.worker,
            leases: self.beat.held.iter().map(number).collect(),
        }
    }

    /// Releases the leases. If that fails, they expire.
    pub(super) async fn close(mut self) {
        if let Err(error) = self.leases.leave(self.beat.worker).await {
            tracing::warn!(%error, "leases not released; they expire within the lease time");
        }
    }
}

/// Whether another command claimed the lane before: the later one gives way.
fn is_claimed_earlier(own: Uuid, lane: &str, snapshot: &LeaseSnapshot) -> bool {
    let claims = |worker: &LiveWorker| worker.backends.get(lane).is_some_and(|report| report.claims);
    // Ids of version 7 are in the order of time.
    snapshot.live_workers.iter().any(|worker| worker.id < own && claims(worker))
}

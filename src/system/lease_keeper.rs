//! `LeaseKeeper`: the heartbeat, on a thread and a connection of its own, so that nothing can starve it.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix::{Actor, Context, Handler, Message, ResponseFuture};
use tokio::sync::oneshot;

use super::clock::Moment;
use super::leases::{Share, fair_share, margin};
use super::messages::ActorKind;
use super::shared::{Lifeline, Shared, panics_on_demand};
use crate::error::StoreError;
use crate::store::{Heartbeat, Lane, LeaseStore, LeaseView, Shard};

/// How often the heartbeat looks whether shards are free or have run empty.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Owns the heartbeat's thread.
pub(crate) struct LeaseKeeper {
    shared: Arc<Shared>,
    control: Arc<Control>,
    _lifeline: Lifeline,
}

impl LeaseKeeper {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let lifeline = shared.lifeline(ActorKind::LeaseKeeper);
        Self { shared, control: Arc::default(), _lifeline: lifeline }
    }

    fn end(&self) {
        self.control.stop.store(true, Ordering::Release);
        self.shared.beat_now.notify_one();
    }
}

impl Actor for LeaseKeeper {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        let keeper = Keeper::new(Arc::clone(&self.shared), Arc::clone(&self.control));
        let started = std::thread::Builder::new().name("outbox-leases".to_owned()).spawn(move || keeper.run());
        if let Err(error) = started {
            tracing::error!(%error, "cannot start the heartbeat's thread; this worker takes no shards");
        }
    }
}

impl Drop for LeaseKeeper {
    fn drop(&mut self) {
        self.end();
    }
}

panics_on_demand!(LeaseKeeper);

/// Ends the heartbeat, gives every lease up and forgets the worker; answered when that is done or has failed.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Leave;

impl Handler<Leave> for LeaseKeeper {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Leave, _: &mut Self::Context) -> Self::Result {
        let (done, gone) = oneshot::channel();
        *self.control.leave.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
        self.end();
        // An error says that the thread is gone without having left: its leases run out by themselves.
        Box::pin(async move { gone.await.unwrap_or(()) })
    }
}

/// What the actor tells its thread.
#[derive(Default)]
struct Control {
    stop: AtomicBool,
    leave: Mutex<Option<oneshot::Sender<()>>>,
}

/// The heartbeat itself.
struct Keeper {
    shared: Arc<Shared>,
    control: Arc<Control>,
    said: BTreeMap<Lane, String>,
    reachable: bool,
}

impl Keeper {
    fn new(shared: Arc<Shared>, control: Arc<Control>) -> Self {
        Self { shared, control, said: BTreeMap::new(), reachable: true }
    }

    fn run(mut self) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(%error, "cannot start the heartbeat's runtime; this worker takes no shards");
                return;
            }
        };
        runtime.block_on(self.beat_until_stopped());
    }

    async fn beat_until_stopped(&mut self) {
        let lease = self.shared.settings.worker.lease;
        let mut leases = None;
        while !self.control.stop.load(Ordering::Acquire) {
            let began = Moment::now();
            if let Err(error) = self.round(&mut leases, began).await {
                self.say_unreachable(&error);
            } else if !self.reachable {
                self.reachable = true;
                tracing::info!("the database is back; leases are renewed");
            }
            self.wait(&mut leases, began.after(lease / 3)).await;
        }
        let leave = self.control.leave.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(done) = leave {
            self.leave(leases).await;
            // Nobody waits any more where the shutdown was given up.
            let _ = done.send(());
        }
    }

    async fn leave(&self, leases: Option<Box<dyn LeaseStore>>) {
        let left = match leases {
            Some(mut leases) => leases.leave(self.shared.worker).await,
            None => Ok(()),
        };
        if let Err(error) = left {
            tracing::warn!(%error, "leases could not be released; they run out within the lease time");
        }
    }

    fn say_unreachable(&mut self, error: &StoreError) {
        if std::mem::replace(&mut self.reachable, false) {
            tracing::warn!(%error, "leases cannot be renewed; this worker stops before they end and tries on");
        }
    }

    /// Waits for the next beat, releasing meanwhile what has run empty and waking early where something is free.
    async fn wait(&mut self, leases: &mut Option<Box<dyn LeaseStore>>, until: Moment) {
        while Moment::now() < until && !self.control.stop.load(Ordering::Acquire) {
            let woken = tokio::time::timeout(LOOK_INTERVAL, self.shared.beat_now.notified()).await.is_ok();
            let Some(store) = leases else { continue };
            if self.release_drained(store.as_mut()).await.is_err() {
                return;
            }
            if woken {
                return;
            }
            let short: Vec<Lane> = self.lanes_below_target();
            if !short.is_empty() && store.has_free(&short).await.unwrap_or(false) {
                return;
            }
        }
    }

    /// One heartbeat: renew, look around, take or give up.
    async fn round(&mut self, leases: &mut Option<Box<dyn LeaseStore>>, began: Moment) -> Result<(), StoreError> {
        if leases.is_none() {
            *leases = Some(self.shared.store.leases().await?);
        }
        let Some(store) = leases else { return Ok(()) };
        let lease = self.shared.settings.worker.lease;
        let deadline = began.after(lease.saturating_sub(margin(lease)));
        let beat = self.heartbeat();
        let view = store.beat(&beat).await?;
        self.shared.leases.renew(&view.renewed, deadline);
        for lane in &beat.lanes {
            if beat.stuck.contains(lane) {
                continue;
            }
            match fair_share(self.shared.worker, lane, &view, self.has_given_up(lane)) {
                Share::Target(target) => {
                    self.say_working(lane);
                    self.settle_share(store.as_mut(), lane, target, &view).await?;
                }
                Share::StandBy(reason) => {
                    self.say_standing_by(lane, reason);
                    self.give_up_above(lane, 0);
                }
            }
        }
        self.release_drained(store.as_mut()).await?;
        self.shared.wake.notify_one();
        Ok(())
    }

    fn heartbeat(&self) -> Heartbeat {
        let lanes: Vec<Lane> = self.shared.lanes().cloned().collect();
        // A loop that does not turn must not keep its shards from workers whose loops do: neither by renewing them nor by
        // counting among those who share.
        let stuck = self.shared.silent_for() > self.shared.settings.worker.lease;
        let backends: BTreeMap<&str, String> = self
            .shared
            .lines
            .values()
            .flat_map(|line| {
                let down = line.state().down.as_ref().map(|down| down.reason.clone());
                let health = down.unwrap_or_else(|| if stuck { "the worker's loop is stuck" } else { "ok" }.to_owned());
                line.flights.iter().map(move |flight| (flight.lane().as_ref(), health.clone()))
            })
            .collect();
        let handlers: Vec<String> =
            self.shared.subscriptions().iter().map(|handler| handler.name().to_owned()).collect();
        Heartbeat {
            worker: self.shared.worker,
            name: self.shared.name.clone(),
            backends: serde_json::json!(backends).to_string(),
            handlers: serde_json::json!(handlers).to_string(),
            stuck: if stuck { lanes.clone() } else { Vec::new() },
            lanes,
            lease: self.shared.settings.worker.lease,
        }
    }

    /// Whether a lane's backend has been away for a whole lease.
    fn has_given_up(&self, lane: &str) -> bool {
        let Some(line) = self.shared.line_of(lane) else { return false };
        let down_for = line.state().down.as_ref().map(|down| Moment::now().since(down.since));
        down_for.is_some_and(|span| span >= self.shared.settings.worker.lease)
    }

    async fn settle_share(
        &mut self,
        store: &mut dyn LeaseStore,
        lane: &Lane,
        target: usize,
        view: &LeaseView,
    ) -> Result<(), StoreError> {
        let held = self.held(lane);
        let free = view.leases.iter().any(|row| row.shard.lane == *lane && (row.owner.is_none() || row.expired));
        if held.len() < target && free {
            let lease = self.shared.settings.worker.lease;
            let began = Moment::now();
            let taken = store.acquire(self.shared.worker, lane, target - held.len(), lease).await?;
            if !taken.is_empty() {
                tracing::info!(backend = %lane, shards = taken.len(), "took shards");
            }
            self.shared.leases.add(&taken, began.after(lease.saturating_sub(margin(lease))));
        }
        self.give_up_above(lane, target);
        Ok(())
    }

    fn held(&self, lane: &Lane) -> Vec<Shard> {
        let mut held: Vec<Shard> =
            self.shared.leases.readable(lane, Moment::now()).into_iter().map(|(shard, _)| shard).collect();
        held.sort_unstable();
        held
    }

    fn give_up_above(&self, lane: &Lane, target: usize) {
        let held = self.held(lane);
        if let Some(surplus) = held.get(target..).filter(|surplus| !surplus.is_empty()) {
            tracing::info!(backend = %lane, shards = surplus.len(), "giving shards up to another worker");
            self.shared.leases.drain(surplus);
        }
    }

    /// Releases shards that are being given up and have nothing in flight any more.
    async fn release_drained(&mut self, store: &mut dyn LeaseStore) -> Result<(), StoreError> {
        let empty: Vec<Shard> = self
            .shared
            .leases
            .draining()
            .into_iter()
            .filter(|shard| {
                let line = self.shared.line_of(&shard.lane);
                line.and_then(|line| line.flight(&shard.lane)).is_none_or(|flight| !flight.is_busy(shard.number))
            })
            .collect();
        if empty.is_empty() {
            return Ok(());
        }
        // Forgotten before it is released: nothing may begin under it any more.
        self.shared.leases.remove(&empty);
        for shard in &empty {
            if let Some(flight) = self.shared.line_of(&shard.lane).and_then(|line| line.flight(&shard.lane)) {
                flight.close(shard.number);
            }
        }
        store.release(self.shared.worker, &empty).await
    }

    /// Lanes that this worker serves and holds not every shard of; a free one there is worth a beat.
    fn lanes_below_target(&self) -> Vec<Lane> {
        let counts = self.shared.leases.counts();
        let all = self.shared.store.shards().unsigned_abs() as usize;
        let waiting: HashSet<&Lane> = self.said.keys().collect();
        self.shared
            .lanes()
            .filter(|lane| counts.get(*lane).copied().unwrap_or(0) < all && !waiting.contains(lane))
            .cloned()
            .collect()
    }

    fn say_standing_by(&mut self, lane: &Lane, reason: String) {
        if self.said.get(lane) != Some(&reason) {
            tracing::warn!(backend = %lane, %reason, "standing by");
            let mut shown = self.shared.standing_by.lock().unwrap_or_else(PoisonError::into_inner);
            shown.insert(lane.to_string(), reason.clone());
            self.said.insert(lane.clone(), reason);
        }
    }

    fn say_working(&mut self, lane: &Lane) {
        if self.said.remove(lane).is_some() {
            tracing::info!(backend = %lane, "no longer standing by");
            let mut shown = self.shared.standing_by.lock().unwrap_or_else(PoisonError::into_inner);
            shown.remove(&**lane);
        }
    }
}

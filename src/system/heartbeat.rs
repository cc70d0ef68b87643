//! The heartbeat, on a thread and a connection of its own, so that nothing can starve it.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::Utc;

use super::context::SystemContext;
use super::in_flight::InFlight;
use super::lease_keeper::Control;
use super::leases::{Keeping, Share, fair_share, margin};
use super::publisher_state::PublisherState;
use super::reconnect::pause_after;
use crate::clock::BootInstant;
use crate::error::StoreError;
use crate::handlers::Subscription;
use crate::store::{
    BackendPause, Heartbeat, LaneHealth, LaneName, LeaseSnapshot, LeaseStore, Shard, Unrecorded, handler_lane,
    handler_of,
};

/// How often the heartbeat checks whether draining shards have run empty, and whether other shards are free if no worker
/// says that it has released some.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// How often it checks whether shards are free if workers announce what they release: a notification may be lost.
const UNHEARD_INTERVAL: Duration = Duration::from_secs(1);

/// The pause after a beat that the database refuses, which a repetition rarely changes.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// Beats on the calling thread until it is told to stop; waits first until a predecessor has ended.
pub(super) fn run(context: &SystemContext, control: &Control) {
    let heart = HeartbeatLoop::new(context, control);
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(heart.beat_until_stopped()),
        Err(error) => tracing::error!(%error, "heartbeat's runtime not started; retrying"),
    }
}

/// The most events that a report of unrecorded outcomes names; the metric counts them all.
const MOST_NAMED: usize = 20;

fn unrecorded(in_flight: &InFlight) -> Vec<Unrecorded> {
    let now = (Utc::now(), BootInstant::now());
    let since = |moment: BootInstant| now.0 - now.1.since(moment);
    let named = in_flight.unwritable(MOST_NAMED).into_iter();
    named.map(|(id, row)| Unrecorded { id, since: since(row.since), reason: row.reason }).collect()
}

/// A reason to end the heartbeat's wait early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Woken {
    Beat,
    LeasesReleased,
}

struct HeartbeatLoop<'a> {
    context: &'a SystemContext,
    control: &'a Control,
    leases: Keeping<'a>,
    store: Box<dyn LeaseStore>,
    reachable: bool,
    /// Until when the worker acts on leases, as the last answered beat extended them.
    deadline: BootInstant,
    /// When the first lease of another worker can have ended, as far as is known.
    next_end: Option<BootInstant>,
}

impl<'a> HeartbeatLoop<'a> {
    fn new(context: &'a SystemContext, control: &'a Control) -> Self {
        let leases = context.leases.keep();
        let (store, deadline) = (context.store.leases(), BootInstant::now());
        Self { context, control, leases, store, reachable: true, deadline, next_end: None }
    }

    async fn beat_until_stopped(mut self) {
        let mut failures = 0;
        while !self.control.is_stopped() {
            let mut next = BootInstant::now().after(self.lease() / 3);
            if let Err(error) = self.beat().await {
                self.say_unreachable(&error);
                self.release_if_skipped(&error).await;
                let pause = if error.is_transient() { pause_after(failures) } else { self.context.pace(REFUSED_PAUSE) };
                next = next.min(BootInstant::now().after(pause));
                failures = failures.saturating_add(1);
                // Only a beat that is answered says when the next lease ends.
                self.next_end = None;
            } else {
                failures = 0;
                if !std::mem::replace(&mut self.reachable, true) {
                    tracing::info!("database available again; leases renewed");
                }
            }
            self.wait(next).await;
        }
        if let Some(done) = self.control.take_leave() {
            self.leave().await;
            // Nothing waits for the answer if the shutdown was abandoned.
            let _ = done.send(());
        }
    }

    fn lease(&self) -> Duration {
        self.context.settings.worker.lease
    }

    /// Until when the worker acts on leases that a beat sent now extends.
    fn deadline_from_now(&self) -> BootInstant {
        let lease = self.lease();
        BootInstant::now().after(lease.saturating_sub(margin(lease)))
    }

    /// Renews leases, reads the lease table, and takes or drains shards.
    async fn beat(&mut self) -> Result<(), StoreError> {
        let deadline = self.deadline_from_now();
        // A poll loop that is stuck must not keep its shards from other workers: neither by renewing them nor by counting in
        // their fair share.
        let stuck = self.context.liveness.silent_for() > self.lease();
        let beat = self.announcement(stuck);
        let snapshot = self.store.beat(&beat).await?;
        self.context.liveness.note_beat();
        self.context.liveness.note_protocol(snapshot.protocol);
        if let Some(clock) = snapshot.clock {
            self.context.liveness.note_clock(clock, Utc::now());
        }
        self.deadline = deadline;
        self.next_end = snapshot.next_end.map(|left| BootInstant::now().after(left));
        self.leases.renew(&snapshot.renewed, deadline);
        self.note_paused_hosts(&snapshot);
        if !stuck {
            self.release_unknown_leases(&snapshot).await?;
            for lane in &beat.lanes {
                self.settle_share(lane, &snapshot).await?;
            }
        }
        self.release_drained().await?;
        self.context.wakeups.poller.notify_one();
        Ok(())
    }

    /// Releases leases that this worker may no longer act on, because its row is locked: while another transaction holds the
    /// row, it cannot extend its leases, and other workers cannot take them because they read that row, too. Repeated as
    /// needed.
    async fn release_if_skipped(&mut self, error: &StoreError) {
        if matches!(error, StoreError::Locked { .. }) && BootInstant::now() >= self.deadline {
            let released = self.release_idle(self.leases.all()).await;
            if let Err(error) = released {
                tracing::debug!(%error, "leases not released");
            }
        }
    }

    /// Waits for the next beat; meanwhile releases shards that have run empty, and wakes early if a shard is free.
    async fn wait(&mut self, until: BootInstant) {
        let mut next_look = self.next_look();
        while BootInstant::now() < until && !self.control.is_stopped() {
            // Only this task changes what is held, so a lane that has its target now has it until the next beat.
            let short = self.lanes_below_target();
            let next_end = self.next_end.filter(|_| !short.is_empty());
            if next_end.is_some_and(|end| BootInstant::now() >= end) {
                return;
            }
            let first = until.min(next_look).min(next_end.unwrap_or(until));
            let woken = self.woken_before(first).await;
            let released = self.release_drained().await;
            if released.is_err() || woken == Some(Woken::Beat) {
                return;
            }
            // A shard that was to leave may be wanted here again, and this worker does not hear of its own releases.
            let has_released = released.unwrap_or(false);
            if woken.is_none() && !has_released && BootInstant::now() < next_look {
                continue;
            }
            next_look = self.next_look();
            // What was released may be free for a lane that stands by: the next beat shows whether it still does.
            if woken == Some(Woken::LeasesReleased) && !self.standing_by().is_empty() {
                return;
            }
            // An error is the next beat's, too. After one that failed, nothing is asked before the next.
            if self.reachable && !short.is_empty() && self.store.has_free(&short).await.unwrap_or(true) {
                return;
            }
        }
    }

    fn next_look(&self) -> BootInstant {
        let is_notified = self.context.store.notify_store().is_some();
        BootInstant::now().after(if is_notified { self.context.pace(UNHEARD_INTERVAL) } else { CHECK_INTERVAL })
    }

    /// Waits until then or until something wakes the heartbeat. While shards drain, it does not wait for long.
    async fn woken_before(&self, until: BootInstant) -> Option<Woken> {
        let draining = !self.leases.draining().is_empty();
        let pause = until.since(BootInstant::now()).min(if draining { CHECK_INTERVAL } else { Duration::MAX });
        let woken = async {
            tokio::select! {
                biased;
                () = self.context.wakeups.heartbeat.notified() => Woken::Beat,
                () = self.context.wakeups.leases_released.notified() => Woken::LeasesReleased,
            }
        };
        tokio::time::timeout(pause, woken).await.ok()
    }

    async fn leave(&mut self) {
        // Before the rows are free: nothing may start under these leases any more.
        self.leases.remove_all();
        if let Err(error) = self.store.leave(self.context.worker).await {
            tracing::warn!(%error, "leases not released; they expire within the lease time");
        }
    }

    fn announcement(&self, stuck: bool) -> Heartbeat {
        let publishers = self.context.publishers.values();
        let of_publishers = publishers.flat_map(|publisher| {
            publisher
                .lanes
                .iter()
                .map(|in_flight| (in_flight.lane().to_string(), self.report(publisher, in_flight, stuck)))
        });
        // A handler whose actor has stopped is owed its events and takes no leases.
        let subscriptions = self.context.subscriptions();
        let living = subscriptions.iter().filter(|handler| handler.is_alive() && !stuck);
        let of_handlers = living.map(|handler| (handler_lane(handler.name()).to_string(), LaneHealth::ok()));
        let backends: BTreeMap<String, LaneHealth> = of_publishers.chain(of_handlers).collect();
        let alive = |handler: &&Arc<Subscription>| {
            !handler.is_unsubscribed() && (self.context.liveness.owes_handlers() || handler.is_alive())
        };
        let handlers: Vec<&str> = subscriptions.iter().filter(alive).map(|handler| handler.name()).collect();
        Heartbeat {
            worker: self.context.worker,
            name: self.context.name.clone(),
            backends: serde_json::json!(backends).to_string(),
            handlers: serde_json::json!(handlers).to_string(),
            lanes: self.context.lanes().cloned().chain(self.context.handler_lanes()).collect(),
            held: self.leases.all(),
            extends: !stuck,
            lease: self.lease(),
        }
    }

    fn report(&self, publisher: &PublisherState, in_flight: &InFlight, stuck: bool) -> LaneHealth {
        let since = |moment| Utc::now() - BootInstant::now().since(moment);
        let health = match (publisher.breaker().open(), self.context.unreadable()) {
            (Some(open), _) => LaneHealth { trying: open.probing, ..LaneHealth::down(&open.reason, since(open.since)) },
            (None, _) if stuck => LaneHealth::stuck(),
            (None, Some(unreadable)) => LaneHealth::down(&unreadable.reason, since(unreadable.since)),
            (None, None) => LaneHealth::ok(),
        };
        LaneHealth {
            standing_by: self.standing_by().get(&**in_flight.lane()).cloned(),
            per_second: publisher.rate_limit.map(|limit| limit.per_second),
            unrecorded: unrecorded(in_flight),
            ..health
        }
    }

    // The fair share.

    async fn settle_share(&mut self, lane: &LaneName, snapshot: &LeaseSnapshot) -> Result<(), StoreError> {
        let share = match self.pause_of(lane, snapshot) {
            Some(pause) => Share::StandBy(format!("its backend has been paused {pause}")),
            None => fair_share(self.context.worker, lane, snapshot, self.has_given_up(lane)),
        };
        match share {
            Share::Target(target) => {
                self.say_working(lane);
                self.take_up_to(target, lane, snapshot).await?;
                self.give_up_above(target, lane);
            }
            Share::StandBy(reason) => {
                if handler_of(lane).is_none() {
                    self.say_standing_by(lane, reason);
                }
                self.give_up_above(0, lane);
            }
        }
        Ok(())
    }

    /// An operator's pause of a lane's backend.
    fn pause_of<'s>(&self, lane: &str, snapshot: &'s LeaseSnapshot) -> Option<&'s BackendPause> {
        let publisher = self.context.publisher_of(lane)?;
        snapshot.pauses.iter().find(|pause| pause.backend == publisher.name && pause.is_whole())
    }

    fn note_paused_hosts(&self, snapshot: &LeaseSnapshot) {
        for publisher in self.context.publishers.values() {
            let of_publisher =
                snapshot.pauses.iter().filter(|pause| pause.backend == publisher.name && !pause.is_whole());
            publisher.set_paused_hosts(of_publisher.map(|pause| pause.host.clone()).collect());
        }
    }

    /// Whether a lane's backend has been unavailable, or its events unreadable, for a whole lease time, or the backend has
    /// refused an event after a successful health check.
    fn has_given_up(&self, lane: &str) -> bool {
        if self.context.unreadable().is_some() {
            return true;
        }
        let Some(publisher) = self.context.publisher_of(lane) else { return false };
        let breaker = publisher.breaker();
        let open_for = breaker.open().map(|open| BootInstant::now().since(open.since));
        breaker.is_disproved() || open_for.is_some_and(|span| span >= self.lease())
    }

    async fn take_up_to(&mut self, target: usize, lane: &LaneName, snapshot: &LeaseSnapshot) -> Result<(), StoreError> {
        let missing = target.saturating_sub(self.held(lane).len());
        let free = snapshot.of_lane(lane).iter().any(|row| row.owner.is_none() || row.expired);
        if missing == 0 || !free {
            return Ok(());
        }
        let taken = self.store.acquire(self.context.worker, lane, missing, self.lease()).await?;
        if !taken.is_empty() {
            tracing::info!(backend = %lane, shards = taken.len(), "took shards");
            self.count_take_overs(lane, &taken, snapshot);
        }
        // They expire together with this worker's other leases.
        self.leases.add(&taken, self.deadline);
        if !taken.is_empty() && handler_of(lane).is_some() {
            // No process was woken by what the handler was owed while the shards were free.
            self.context.wakeups.handler_poller.notify_one();
        }
        Ok(())
    }

    /// Counts the leases whose last owner let them expire.
    fn count_take_overs(&self, lane: &LaneName, taken: &[(Shard, i64)], snapshot: &LeaseSnapshot) {
        let anothers = |owner| owner != self.context.worker;
        let left = |shard: &Shard| {
            let mut rows = snapshot.of_lane(lane).iter().filter(|row| row.shard == *shard && row.expired);
            rows.any(|row| row.owner.is_some_and(anothers))
        };
        let count = taken.iter().filter(|(shard, _)| left(shard)).count();
        if let Some(publisher) = self.context.publisher_of(lane) {
            publisher.metrics.take_overs.increment(u64::try_from(count).unwrap_or(0));
        }
    }

    fn give_up_above(&self, target: usize, lane: &LaneName) {
        let held = self.held(lane);
        if let Some(surplus) = held.get(target..).filter(|surplus| !surplus.is_empty()) {
            tracing::info!(backend = %lane, shards = surplus.len(), "releasing shards to another worker");
            self.leases.drain(surplus);
        }
    }

    fn held(&self, lane: &LaneName) -> Vec<Shard> {
        let mut held: Vec<Shard> =
            self.context.leases.readable(lane, BootInstant::now()).into_iter().map(|(shard, _)| shard).collect();
        held.sort_unstable();
        held
    }

    /// Lanes that this worker serves without holding every shard; a free shard of them is worth a beat.
    fn lanes_below_target(&self) -> Vec<LaneName> {
        let counts = self.context.leases.counts();
        let all = self.context.store.shards().unsigned_abs() as usize;
        let waiting = self.standing_by();
        let lanes = self.context.lanes().cloned().chain(self.context.handler_lanes());
        lanes.filter(|lane| counts.get(lane).copied().unwrap_or(0) < all && !waiting.contains_key(&**lane)).collect()
    }

    // Releasing leases.

    /// Releases draining leases that have nothing in flight any more.
    /// Returns whether there were any.
    async fn release_drained(&mut self) -> Result<bool, StoreError> {
        self.release_idle(self.leases.draining()).await
    }

    /// Releases leases that this worker does not know to be its own, so that they can be taken again: under an epoch that no
    /// statement still on its way can name.
    async fn release_unknown_leases(&mut self, snapshot: &LeaseSnapshot) -> Result<(), StoreError> {
        self.release_idle(self.leases.unknown_leases(self.context.worker, snapshot)).await.map(drop)
    }

    /// Releases those of which nothing is in flight; returns whether there were any.
    async fn release_idle(&mut self, mut leases: Vec<(Shard, i64)>) -> Result<bool, StoreError> {
        leases.retain(|(shard, _)| !self.is_busy(shard));
        if leases.is_empty() {
            return Ok(false);
        }
        // Forgotten before it is released: nothing may start under it any more.
        self.leases.remove(&leases);
        for (shard, _) in &leases {
            if let Some(in_flight) = self.in_flight(&shard.lane) {
                in_flight.close(shard.number);
                in_flight.forget_unwritable(shard.number);
            }
        }
        self.store.release(self.context.worker, &leases).await.map(|()| true)
    }

    fn is_busy(&self, shard: &Shard) -> bool {
        match handler_of(&shard.lane) {
            Some(handler) => self.context.owed.uses(handler, shard.number),
            None => self.in_flight(&shard.lane).is_some_and(|in_flight| in_flight.is_busy(shard.number)),
        }
    }

    fn in_flight(&self, lane: &str) -> Option<&InFlight> {
        self.context.publisher_of(lane)?.in_flight(lane).map(Arc::as_ref)
    }

    // Logs and wake-ups.

    fn say_unreachable(&mut self, error: &StoreError) {
        if std::mem::replace(&mut self.reachable, false) {
            tracing::warn!(%error, "renewal of leases failed; this worker stops before they expire; retrying");
        }
    }

    fn say_standing_by(&self, lane: &LaneName, reason: String) {
        let mut standing_by = self.standing_by();
        if standing_by.get(&**lane) != Some(&reason) {
            tracing::warn!(backend = %lane, %reason, "standing by");
            standing_by.insert(lane.to_string(), reason);
            // The other workers learn of it with the next beat.
            self.context.wakeups.heartbeat.notify_one();
        }
    }

    fn say_working(&self, lane: &LaneName) {
        if self.standing_by().remove(&**lane).is_some() {
            tracing::info!(backend = %lane, "no longer standing by");
            self.context.wakeups.heartbeat.notify_one();
        }
    }

    fn standing_by(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.context.standing_by.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

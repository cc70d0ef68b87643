//! The shards that this worker holds, and its fair share. Pure except for the clock that is passed in.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use uuid::Uuid;

use crate::clock::BootInstant;
use crate::store::{LaneHealth, LaneName, LeaseSnapshot, LiveWorker, Shard};

/// A lease as this worker knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) epoch: i64,
    /// Nothing is started under the lease after this.
    pub(crate) deadline: BootInstant,
    /// It is draining: nothing new is read, and it is released once nothing is in flight.
    pub(crate) draining: bool,
}

/// The leases that this worker holds. Every actor reads them; changing them requires the right to, [`Keeping`].
#[derive(Debug, Default)]
pub(crate) struct Leases {
    held: Mutex<HeldByLane>,
    changing: Mutex<()>,
    /// Counts the changes of what is held; that a lease lasts longer is none.
    changes: AtomicU64,
}

/// The shards of each lane; no lane is without one.
type HeldByLane = HashMap<LaneName, BTreeMap<i16, Held>>;

impl Leases {
    fn lock(&self) -> MutexGuard<'_, HeldByLane> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the right to change what is held. A heartbeat has it for its lifetime: the queries of a heartbeat that is
    /// being replaced end before its successor starts any, so no result refers to leases that were released in the meantime.
    pub(crate) fn keep(&self) -> Keeping<'_> {
        Keeping { leases: self, _changing: self.changing.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    /// The number of changes so far.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// The shards of a lane that may be read now, with their epochs, by number.
    pub(crate) fn readable(&self, lane: &str, now: BootInstant) -> Vec<(Shard, i64)> {
        let all = self.lock();
        let Some((lane, held)) = all.get_key_value(lane) else { return Vec::new() };
        let readable = held.iter().filter(|(_, held)| now < held.deadline && !held.draining);
        readable.map(|(number, held)| (Shard { lane: lane.clone(), number: *number }, held.epoch)).collect()
    }

    /// Whether an event read under this epoch may still be sent. An event of a draining shard is left to the next owner,
    /// which would otherwise wait for everything that is queued before it.
    pub(crate) fn covers(&self, shard: &Shard, epoch: i64, now: BootInstant) -> bool {
        let all = self.lock();
        let held = all.get(&shard.lane).and_then(|held| held.get(&shard.number));
        held.is_some_and(|held| held.epoch == epoch && now < held.deadline && !held.draining)
    }

    /// How many shards of each lane are held.
    pub(crate) fn counts(&self) -> HashMap<LaneName, usize> {
        self.lock().iter().map(|(lane, held)| (lane.clone(), held.len())).collect()
    }
}

/// The right to change what is held; one heartbeat has it at a time.
pub(crate) struct Keeping<'a> {
    leases: &'a Leases,
    _changing: MutexGuard<'a, ()>,
}

impl Keeping<'_> {
    /// All leases that are held, also past their deadline: until another worker takes them they can be renewed.
    pub(crate) fn all(&self) -> Vec<(Shard, i64)> {
        self.filtered(|_| true)
    }

    pub(crate) fn draining(&self) -> Vec<(Shard, i64)> {
        self.filtered(|held| held.draining)
    }

    fn filtered(&self, is_wanted: impl Fn(&Held) -> bool) -> Vec<(Shard, i64)> {
        let all = self.leases.lock();
        let each = all.iter().flat_map(|(lane, held)| held.iter().map(move |(number, held)| (lane, number, held)));
        let wanted = each.filter(|(_, _, held)| is_wanted(held));
        wanted.map(|(lane, number, held)| (Shard { lane: lane.clone(), number: *number }, held.epoch)).collect()
    }

    /// Changes what is held.
    fn change(&self, change: impl FnOnce(&mut HeldByLane)) {
        let mut all = self.leases.lock();
        change(&mut all);
        all.retain(|_, held| !held.is_empty());
        self.leases.changes.fetch_add(1, Ordering::Release);
    }

    /// Extends renewed leases to the new deadline; a lease that was not renewed is no longer held.
    pub(crate) fn renew(&self, renewed: &[(Shard, i64)], deadline: BootInstant) {
        let renewed: HashSet<(&Shard, i64)> = renewed.iter().map(|(shard, epoch)| (shard, *epoch)).collect();
        let lost: Vec<(Shard, i64)> =
            self.all().into_iter().filter(|(shard, epoch)| !renewed.contains(&(shard, *epoch))).collect();
        if !lost.is_empty() {
            self.remove(&lost);
        }
        self.leases.lock().values_mut().flat_map(BTreeMap::values_mut).for_each(|held| held.deadline = deadline);
    }

    pub(crate) fn add(&self, taken: &[(Shard, i64)], deadline: BootInstant) {
        self.change(|all| {
            for (Shard { lane, number }, epoch) in taken {
                let held = Held { epoch: *epoch, deadline, draining: false };
                all.entry(lane.clone()).or_default().insert(*number, held);
            }
        });
    }

    /// Leases in the table that name this worker although it does not hold them: taken or raised by a statement whose answer
    /// was lost, or released by one that the database never received.
    pub(crate) fn unknown_leases(&self, worker: Uuid, snapshot: &LeaseSnapshot) -> Vec<(Shard, i64)> {
        let all = self.leases.lock();
        let is_held = |shard: &Shard| all.get(&shard.lane).is_some_and(|held| held.contains_key(&shard.number));
        let own = snapshot.leases.iter().filter(|row| row.owner == Some(worker) && !is_held(&row.shard));
        own.map(|row| (row.shard.clone(), row.epoch)).collect()
    }

    pub(crate) fn drain(&self, shards: &[Shard]) {
        self.change(|all| {
            for Shard { lane, number } in shards {
                if let Some(held) = all.get_mut(lane).and_then(|held| held.get_mut(number)) {
                    held.draining = true;
                }
            }
        });
    }

    pub(crate) fn remove(&self, leases: &[(Shard, i64)]) {
        self.change(|all| {
            for (Shard { lane, number }, _) in leases {
                all.get_mut(lane).and_then(|held| held.remove(number));
            }
        });
    }

    pub(crate) fn remove_all(&self) {
        self.change(HeldByLane::clear);
    }
}

/// How long before a lease ends a worker stops acting on it.
pub(crate) fn margin(lease: Duration) -> Duration {
    lease / 10
}

/// What a worker should hold of a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Share {
    /// Up to this many shards.
    Target(usize),
    /// None, for this reason.
    StandBy(String),
}

/// The fair share of a lane: `ceil(shards / workers)` among the live workers that announce the lane and deliver to its
/// backend; under protocol 1, those that have every handler that others have.
///
/// A worker whose backend has refused events and whose health check succeeds again gets one shard to try it with, which the
/// others leave to it; all shards if no worker delivers.
pub(crate) fn fair_share(worker: Uuid, lane: &str, snapshot: &LeaseSnapshot, given_up: bool) -> Share {
    let claims = |live_worker: &LiveWorker| report(live_worker, lane).is_some_and(|report| report.claims);
    if snapshot.live_workers.iter().any(claims) {
        return Share::StandBy("a command is changing its events".to_owned());
    }
    let serving: Vec<&LiveWorker> =
        snapshot.live_workers.iter().filter(|live_worker| report(live_worker, lane).is_some()).collect();
    let handlers: HashMap<Uuid, Vec<String>> =
        serving.iter().map(|live_worker| (live_worker.id, names(&live_worker.handlers))).collect();
    // Later protocols owe events to other processes if this one lacks a handler.
    let complete = |live_worker: &LiveWorker| {
        let mine = &handlers[&live_worker.id];
        snapshot.protocol >= 2 || handlers.values().flatten().all(|name| mine.contains(name))
    };
    let healthy = |live_worker: &LiveWorker| report(live_worker, lane).is_some_and(|report| report.is_ok());
    let trying = |live_worker: &LiveWorker| {
        complete(live_worker) && report(live_worker, lane).is_some_and(|report| report.trying)
    };
    let able = |live_worker: &&&LiveWorker| complete(live_worker) && healthy(live_worker);

    let delivering = serving.iter().filter(able).count();
    let tried = serving.iter().filter(|live_worker| trying(live_worker)).count();
    let eligible = if delivering > 0 { delivering } else { tried };
    let Some(me) = serving.iter().find(|live_worker| live_worker.id == worker) else {
        return Share::StandBy("its heartbeat is not in the database yet".to_owned());
    };
    if !complete(me) {
        let any_complete = serving.iter().any(|live_worker| complete(live_worker));
        // If no worker has every handler, the one that started last works: the newest deployment.
        let newest = serving
            .iter()
            .max_by_key(|live_worker| (live_worker.started_at, live_worker.id))
            .is_some_and(|live_worker| live_worker.id == worker);
        if any_complete || !newest {
            return Share::StandBy(format!(
                "another live worker has handlers that this one lacks: {}",
                missing(worker, &handlers)
            ));
        }
        return Share::Target(shards(snapshot, lane));
    }
    let shards = shards(snapshot, lane);
    if trying(me) {
        return Share::Target(if delivering > 0 { 1 } else { shards.div_ceil(tried) });
    }
    if given_up && eligible > 0 && !healthy(me) {
        return Share::StandBy(
            "its backend accepts no events from here, or they cannot be read, but another worker delivers".to_owned(),
        );
    }
    let left_to_tries = if delivering > 0 { tried.min(shards.saturating_sub(1)) } else { 0 };
    let workers = eligible + usize::from(!healthy(me));
    Share::Target((shards - left_to_tries).div_ceil(workers.max(1)))
}

fn shards(snapshot: &LeaseSnapshot, lane: &str) -> usize {
    snapshot.of_lane(lane).len()
}

/// A worker's report on a lane's backend; `None` if it does not serve the lane.
fn report<'a>(live_worker: &'a LiveWorker, lane: &str) -> Option<&'a LaneHealth> {
    live_worker.backends.get(lane)
}

fn names(json: &str) -> Vec<String> {
    serde_json::from_str(json).unwrap_or_default()
}

fn missing(worker: Uuid, handlers: &HashMap<Uuid, Vec<String>>) -> String {
    let mine = &handlers[&worker];
    let mut missing: Vec<&str> =
        handlers.values().flatten().filter(|name| !mine.contains(name)).map(String::as_str).collect();
    missing.sort_unstable();
    missing.dedup();
    missing.join(", ")
}

#[cfg(test)]
use crate::store::report::by_lane;

#[cfg(test)]
#[path = "leases_tests.rs"]
mod tests;

//! The deliveries in flight in one lane, and which of its shards are open: the memory behind rules R1, R2 and R3.
//!
//! Pure bookkeeping behind one lock. Actors hold [`Delivery`](super::delivery::Delivery)s; one that is dropped, also by a
//! panic, releases its event.

mod cleared;
#[cfg(test)]
mod cleared_tests;
mod entries;
mod fetch;
mod free;
#[cfg(test)]
mod free_tests;
#[cfg(all(test, feature = "postgres"))]
mod repeated_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) mod unsent_tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use self::cleared::ClearedKeys;
pub(crate) use self::entries::Unwritable;
use self::entries::{InFlightEntry, Inner};
pub(crate) use self::fetch::{Admitted, Fetch};
use crate::clock::BootInstant;
use crate::fault_injection::{self, ProtocolRule};
use crate::store::{ExceptedEvent, KeyStart, LaneName, Position, Shard, UnrecordedEvents};
use crate::system::retry_times::RetryTimes;

/// The session under which a shard is open. Fetches, deliveries and batches belong together if theirs is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SessionId {
    pub(crate) epoch: i64,
    /// The number of the open, so that two under one epoch differ.
    pub(crate) number: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeliveryState {
    /// On its way to the backend.
    Queued,
    /// The backend has accepted it.
    Accepted,
    /// A backend or a handler rejected it; blocks its key until that is recorded.
    Rejected,
    /// Recorded, and kept only until older fetches are over.
    Settled { blocks: bool },
}

/// The deliveries in flight in one lane.
pub(crate) struct InFlight {
    lane: LaneName,
    inner: Mutex<Inner>,
}

impl InFlight {
    pub(crate) fn new(lane: LaneName) -> Arc<Self> {
        Arc::new(Self { lane, inner: Mutex::default() })
    }

    pub(crate) fn lane(&self) -> &LaneName {
        &self.lane
    }

    /// Locks the bookkeeping. A panic elsewhere leaves it as it was: no critical section calls foreign code.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // Shards.

    /// Opens a shard after a session has answered for it: fetches that begin from now on count.
    pub(crate) fn open(&self, shard: i16, epoch: i64) {
        let mut inner = self.lock();
        inner.sessions += 1;
        let number = inner.sessions;
        inner.open.insert(shard, SessionId { epoch, number });
        // Those that came due while it was closed were not found.
        inner.retries.note(BootInstant::now());
        inner.free.forget();
    }

    pub(crate) fn close(&self, shard: i16) {
        self.lock().close(shard);
    }

    pub(crate) fn close_all(&self) {
        let mut inner = self.lock();
        inner.open.clear();
        inner.free.forget();
    }

    pub(crate) fn session(&self, shard: i16) -> Option<SessionId> {
        self.lock().open.get(&shard).copied()
    }

    /// Whether any delivery of a shard is unfinished. Outcomes that cannot be recorded are not waited for: the shard's next
    /// owner finds them in the journal.
    pub(crate) fn is_busy(&self, shard: i16) -> bool {
        self.lock().events.values().any(|entry| entry.shard == shard && entry.is_on_its_way())
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.lock().events.values().any(InFlightEntry::is_on_its_way)
    }

    /// Whether no event is in memory, and nothing was noted that a fetch must know.
    pub(crate) fn has_nothing_to_do(&self) -> bool {
        let inner = self.lock();
        let is_noted = !inner.keys_to_reread.is_empty() || !inner.rewinds.is_empty() || !inner.retries.is_empty();
        inner.events.is_empty() && !is_noted
    }

    /// The number of opens so far, and of open shards: both are the same only while no shard was opened or closed.
    pub(crate) fn opened(&self) -> (u64, usize) {
        let inner = self.lock();
        (inner.sessions, inner.open.len())
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().events.len()
    }

    /// The events in memory whose outcome can be recorded, as far as is known.
    pub(crate) fn on_their_way(&self) -> usize {
        let inner = self.lock();
        inner.events.len() - inner.unwritable
    }

    // Fetches.

    /// Registers a fetch (R2) and remembers which shards were open at its beginning (R1).
    pub(crate) fn begin_fetch(self: &Arc<Self>) -> Fetch {
        let mut inner = self.lock();
        let number = inner.next_fetch;
        inner.next_fetch += 1;
        inner.fetches.insert(number);
        Fetch {
            in_flight: Arc::clone(self),
            number,
            open: inner.open.clone(),
            asked: HashMap::new(),
            asked_at: BootInstant::now(),
            read_to: HashMap::new(),
            free: HashSet::new(),
            forgotten: inner.free.forgotten(),
            is_admitted: AtomicBool::new(false),
        }
    }

    pub(crate) fn ids(&self) -> Vec<Uuid> {
        self.lock().events.keys().copied().collect()
    }

    /// All events in flight, for fetches that may find any of them.
    pub(crate) fn excepted(&self) -> Vec<ExceptedEvent> {
        self.lock().events.iter().map(|(id, entry)| entry.excepted(*id)).collect()
    }

    /// Events in flight that were due retries: their rows still have the status `retry`.
    pub(crate) fn retrying(&self) -> Vec<ExceptedEvent> {
        let inner = self.lock();
        inner.events.iter().filter(|(_, entry)| entry.retry).map(|(id, entry)| entry.excepted(*id)).collect()
    }

    /// Notes when a retry comes due.
    pub(crate) fn note_retry(&self, at: BootInstant) {
        self.lock().retries.note(at);
    }

    /// When the noted retries come due.
    pub(in crate::system) fn take_retries(&self) -> RetryTimes {
        std::mem::take(&mut self.lock().retries)
    }

    /// Has a shard read again from a position, where an event was moved to.
    pub(crate) fn read_from(&self, shard: i16, position: Position) {
        let mut inner = self.lock();
        inner.rewind(shard, position);
        // It may be a retry.
        inner.retries.note(BootInstant::now());
        inner.free.forget();
    }

    /// Positions to read from again, because events behind the cursor were released unsent.
    pub(crate) fn take_rewinds(&self) -> HashMap<i16, Position> {
        std::mem::take(&mut self.lock().rewinds)
    }

    /// Keys whose events must be read from the start of their order, as far as it is not known to be clear.
    pub(crate) fn take_keys_to_reread(&self, most: usize) -> Vec<KeyStart> {
        let mut inner = self.lock();
        let keys: Vec<String> = inner.keys_to_reread.iter().take(most).cloned().collect();
        for key in &keys {
            inner.keys_to_reread.remove(key);
            inner.blocked_keys.remove(key);
        }
        keys.into_iter().map(|key| KeyStart { from: inner.cleared.place(&key), key }).collect()
    }

    /// Forgets the blocked keys of shards that are read from their start, or by another worker: they need no memory here.
    pub(crate) fn forget_blocked_keys(&self, shards: &[i16]) {
        if !shards.is_empty() {
            let mut inner = self.lock();
            inner.blocked_keys.retain(|_, shard| !shards.contains(shard));
            inner.heavy_keys.retain(|_, key| !shards.contains(&key.shard));
        }
    }

    /// The keys that a step of the sweep leaves out. Those of shards whose sweep begins with it are read from their start
    /// instead: whatever blocked them may be gone.
    pub(crate) fn take_heavy_keys(&self, begun: &[i16]) -> Vec<String> {
        let mut inner = self.lock();
        let Inner { heavy_keys, keys_to_reread, .. } = &mut *inner;
        for (name, key) in heavy_keys.iter_mut().filter(|(_, key)| begun.contains(&key.shard)) {
            key.begin_sweep();
            keys_to_reread.insert(name.clone());
        }
        heavy_keys.iter().filter(|(_, key)| key.is_left_out()).map(|(name, _)| name.clone()).collect()
    }

    /// Notes that a key has no due events.
    pub(crate) fn note_empty_key(&self, key: &str) {
        self.lock().heavy_keys.remove(key);
    }

    pub(crate) fn has_keys_to_reread(&self) -> bool {
        !self.lock().keys_to_reread.is_empty()
    }

    pub(crate) fn reread_key(&self, key: &str) {
        self.lock().keys_to_reread.insert(key.to_owned());
    }

    /// Forgets which keys are clear: the database may be another server from now on.
    pub(crate) fn forget_cleared(&self) {
        let mut inner = self.lock();
        inner.cleared = ClearedKeys::default();
        inner.free.forget();
    }

    // R3.

    /// Whether a rejected event precedes this one in its key's order, or did until a moment ago.
    pub(crate) fn is_blocked(&self, id: Uuid, key: &str, position: Position) -> bool {
        let inner = self.lock();
        inner.events.get(&id).is_some_and(|entry| entry.blocked) || inner.is_blocked(key, position)
    }

    // Events whose outcome cannot be recorded.

    pub(super) fn set_aside(&self, id: Uuid, reason: &str) {
        let mut inner = self.lock();
        let Some(entry) = inner.events.get_mut(&id) else { return };
        let since = entry.unwritable.as_ref().map_or_else(BootInstant::now, |unwritable| unwritable.since);
        let before = entry.unwritable.replace(Box::new(Unwritable { reason: reason.to_owned(), since }));
        if before.is_none() {
            inner.unwritable += 1;
            tracing::warn!(
                backend = %self.lane, event.id = %id, reason,
                "outcome of an event not recorded; retrying while the others continue"
            );
        }
    }

    pub(crate) fn unwritable_count(&self) -> usize {
        self.lock().unwritable
    }

    /// Some unwritable events, the oldest first.
    pub(crate) fn unwritable(&self, most: usize) -> Vec<(Uuid, Unwritable)> {
        let inner = self.lock();
        let mut found: Vec<(Uuid, Unwritable)> =
            inner.events.iter().filter_map(|(id, entry)| Some((*id, entry.unwritable.as_deref()?.clone()))).collect();
        found.sort_by_key(|(_, unwritable)| unwritable.since);
        found.truncate(most);
        found
    }

    /// Adds the events whose outcome the database has not recorded since before that time; returns whether all that are on
    /// their way are such events.
    pub(crate) fn add_unrecorded(&self, before: BootInstant, unrecorded: &mut UnrecordedEvents) -> bool {
        let inner = self.lock();
        for (id, entry) in &inner.events {
            match &entry.unwritable {
                Some(unwritable) if unwritable.since >= before => return false,
                Some(_) => if entry.blocks() { &mut unrecorded.blocking } else { &mut unrecorded.sent }.push(*id),
                None if entry.is_on_its_way() => return false,
                None => {}
            }
        }
        true
    }

    /// Forgets outcomes of a shard that another worker has now: it finds them in the journal.
    pub(crate) fn forget_unwritable(&self, shard: i16) {
        let mut inner = self.lock();
        let of_shard = |entry: &InFlightEntry| entry.shard == shard && entry.unwritable.is_some();
        let ids: Vec<Uuid> = inner.events.iter().filter(|(_, entry)| of_shard(entry)).map(|(id, _)| *id).collect();
        inner.free.forget();
        for id in ids {
            inner.remove(id);
        }
    }

    pub(super) fn contains(&self, id: Uuid) -> bool {
        self.lock().events.contains_key(&id)
    }

    // Delivery states.

    pub(super) fn set_state(&self, id: Uuid, state: DeliveryState) {
        let mut inner = self.lock();
        let Some(entry) = inner.events.get_mut(&id) else { return };
        entry.state = state;
        if state == DeliveryState::Rejected
            && let Some(key) = entry.key.clone()
        {
            inner.free.forget_key(&key);
        }
    }

    /// Notes that the outcome is in the database, and that it owes the event to handlers elsewhere.
    pub(super) fn note_owing(&self, id: Uuid, handlers: &[String]) {
        let mut inner = self.lock();
        let Some(entry) = inner.events.get(&id) else { return };
        let position = entry.position;
        if let Some(key) = entry.key.clone() {
            inner.note_owing(&key, position, handlers);
        }
    }

    /// Notes that the outcome is in the database. `blocks`: its key continues to wait (a retry, or a failed event that holds
    /// it). Returns the handlers elsewhere that may have waited for it.
    #[must_use]
    pub(super) fn settle(&self, id: Uuid, blocks: bool) -> BTreeSet<String> {
        let mut inner = self.lock();
        let Some(entry) = inner.events.get_mut(&id) else { return BTreeSet::new() };
        entry.state = DeliveryState::Settled { blocks };
        let was_unwritable = entry.unwritable.take().is_some();
        let (key, position, shard) = (entry.key.clone(), entry.position, entry.shard);
        inner.unwritable -= usize::from(was_unwritable);
        let mut owing = BTreeSet::new();
        if let Some(key) = key {
            if blocks {
                inner.free.forget_key(&key);
                inner.note_blocked_key(&key, shard);
                inner.block_followers(&key, position);
            } else {
                if inner.blocked_keys.contains_key(&*key) {
                    inner.keys_to_reread.insert(key.to_string());
                }
                owing = inner.take_owing(&key);
            }
        }
        let next = if fault_injection::is_off(ProtocolRule::Lingering) { 0 } else { inner.next_fetch };
        inner.awaiting_older_fetches.push_back((next, id));
        inner.drop_settled();
        owing
    }

    /// Releases an event that was not sent, or whose outcome is unknown until the next open.
    pub(super) fn release(&self, id: Uuid, close: bool) {
        let mut inner = self.lock();
        let Some(entry) = inner.remove(id) else { return };
        inner.rewind(entry.shard, entry.position);
        if entry.retry {
            inner.retries.note(BootInstant::now());
        }
        if let Some(key) = &entry.key {
            inner.free.forget_key(key);
        }
        let is_behind_a_refused = |key| entry.blocked || inner.is_blocked(key, entry.position);
        // A rejection that was not recorded: another owner may have sent it since, and only the journal shows that.
        let is_in_doubt = close || matches!(entry.state, DeliveryState::Accepted | DeliveryState::Rejected);
        // Events queued behind it, or being read because it was in flight, must not overtake it.
        if is_in_doubt || entry.key.as_deref().is_some_and(|key| !is_behind_a_refused(key)) {
            inner.close(entry.shard);
        } else if let Some(key) = &entry.key {
            // Events behind rejected ones stay blocked until those have failed finally; from then on they wait for this one.
            inner.block_followers(key, entry.position);
            inner.note_released(key, entry.position);
        }
    }
}

/// The full identity of a shard.
pub(crate) fn shard_of(in_flight: &InFlight, number: i16) -> Shard {
    Shard { lane: Arc::clone(&in_flight.lane), number }
}

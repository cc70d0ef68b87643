//! What is in flight in one lane, and which of its shards are open: the memory behind rules R1, R2 and R3.
//!
//! Pure bookkeeping behind one lock. Actors hold [`Delivery`](super::delivery::Delivery)s; one that is dropped, also by a panic, releases its
//! event.

mod cleared;
#[cfg(test)]
mod cleared_tests;
mod entries;
mod fetch;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) mod unsent_tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use self::cleared::ClearedKeys;
pub(crate) use self::entries::Unwritable;
use self::entries::{InFlightEntry, Inner};
pub(crate) use self::fetch::{Admitted, Fetch};
use super::clock::BootInstant;
use crate::fault_injection::{self, ProtocolRule};
use crate::store::{KeyStart, LaneName, Position, Shard};

/// The session under which a shard is open. Fetches, deliveries and batches belong together if theirs is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SessionId {
    pub(crate) epoch: i64,
    /// Counts opens, so that two under one epoch differ.
    pub(crate) number: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeliveryState {
    /// On its way to the backend.
    Queued,
    /// The backend has it.
    Accepted,
    /// A backend or a handler refused it; blocks its key until that is recorded.
    Rejected,
    /// Recorded, kept only until older fetches are over.
    Settled { blocks: bool },
}

/// What is in flight in one lane.
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

    /// A panic elsewhere leaves the bookkeeping as it was: no critical section calls foreign code.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // Shards.

    /// A session has answered for this shard: fetches that begin from now on count.
    pub(crate) fn open(&self, shard: i16, epoch: i64) {
        let mut inner = self.lock();
        inner.sessions += 1;
        let number = inner.sessions;
        inner.open.insert(shard, SessionId { epoch, number });
    }

    pub(crate) fn close(&self, shard: i16) {
        self.lock().open.remove(&shard);
    }

    pub(crate) fn close_all(&self) {
        self.lock().open.clear();
    }

    pub(crate) fn session(&self, shard: i16) -> Option<SessionId> {
        self.lock().open.get(&shard).copied()
    }

    /// Whether anything of a shard is still on its way. What cannot be recorded is not waited for: the shard's next owner
    /// finds it in the journal.
    pub(crate) fn is_busy(&self, shard: i16) -> bool {
        self.lock().events.values().any(|entry| entry.shard == shard && entry.is_on_its_way())
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.lock().events.values().any(InFlightEntry::is_on_its_way)
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().events.len()
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
        }
    }

    pub(crate) fn ids(&self) -> Vec<Uuid> {
        self.lock().events.keys().copied().collect()
    }

    /// Events in flight that were due retries: their rows still say so.
    pub(crate) fn retrying(&self) -> Vec<Uuid> {
        self.lock().events.iter().filter(|(_, entry)| entry.retry).map(|(id, _)| *id).collect()
    }

    /// A retry comes due then.
    pub(crate) fn note_retry(&self, at: BootInstant) {
        let mut inner = self.lock();
        inner.next_retry = Some(inner.next_retry.map_or(at, |next| next.min(at)));
    }

    /// When the first of the noted retries comes due.
    pub(crate) fn take_next_retry(&self) -> Option<BootInstant> {
        self.lock().next_retry.take()
    }

    /// Positions to read again from, because events behind the cursor came back unsent.
    pub(crate) fn take_rewinds(&self) -> HashMap<i16, Position> {
        std::mem::take(&mut self.lock().rewinds)
    }

    /// Keys whose events are to be read from the start of their order, as far as it is not known to be clear.
    pub(crate) fn take_keys_to_reread(&self, most: usize) -> Vec<KeyStart> {
        let mut inner = self.lock();
        let keys: Vec<String> = inner.keys_to_reread.iter().take(most).cloned().collect();
        for key in &keys {
            inner.keys_to_reread.remove(key);
            inner.blocked_keys.remove(key);
        }
        keys.into_iter().map(|key| KeyStart { from: inner.cleared.place(&key), key }).collect()
    }

    /// These shards are read from their start, or by another worker: what waits in them needs no memory here.
    pub(crate) fn forget_blocked_keys(&self, shards: &[i16]) {
        if !shards.is_empty() {
            self.lock().blocked_keys.retain(|_, shard| !shards.contains(shard));
        }
    }

    pub(crate) fn has_keys_to_reread(&self) -> bool {
        !self.lock().keys_to_reread.is_empty()
    }

    pub(crate) fn reread_key(&self, key: &str) {
        self.lock().keys_to_reread.insert(key.to_owned());
    }

    /// What the database showed may not be what it shows from now on: it may be another server.
    pub(crate) fn forget_cleared(&self) {
        self.lock().cleared = ClearedKeys::default();
    }

    // R3.

    /// Whether a refused event stands, or stood a moment ago, before this one in its key's order.
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
                "the outcome of an event cannot be recorded; it is tried again, and the others go on"
            );
        }
    }

    pub(crate) fn unwritable_count(&self) -> usize {
        self.lock().unwritable
    }

    /// Some of them, the oldest first.
    pub(crate) fn unwritable(&self, most: usize) -> Vec<(Uuid, Unwritable)> {
        let inner = self.lock();
        let mut found: Vec<(Uuid, Unwritable)> =
            inner.events.iter().filter_map(|(id, entry)| Some((*id, entry.unwritable.as_deref()?.clone()))).collect();
        found.sort_by_key(|(_, unwritable)| unwritable.since);
        found.truncate(most);
        found
    }

    /// The shard is another worker's: what could not be recorded is found by it.
    pub(crate) fn forget_unwritable(&self, shard: i16) {
        let mut inner = self.lock();
        let of_shard = |entry: &InFlightEntry| entry.shard == shard && entry.unwritable.is_some();
        let ids: Vec<Uuid> = inner.events.iter().filter(|(_, entry)| of_shard(entry)).map(|(id, _)| *id).collect();
        for id in ids {
            inner.remove(id);
        }
    }

    pub(super) fn contains(&self, id: Uuid) -> bool {
        self.lock().events.contains_key(&id)
    }

    // Stages, by deliveries.

    pub(super) fn set_state(&self, id: Uuid, state: DeliveryState) {
        if let Some(entry) = self.lock().events.get_mut(&id) {
            entry.state = state;
        }
    }

    /// The database has it. `blocks`: its key goes on waiting (a retry, or a failed event that holds).
    pub(super) fn settle(&self, id: Uuid, blocks: bool) {
        let mut inner = self.lock();
        let Some(entry) = inner.events.get_mut(&id) else { return };
        entry.state = DeliveryState::Settled { blocks };
        let was_unwritable = entry.unwritable.take().is_some();
        let (key, position, shard) = (entry.key.clone(), entry.position, entry.shard);
        inner.unwritable -= usize::from(was_unwritable);
        if let Some(key) = key {
            if blocks {
                inner.note_blocked_key(&key, shard);
                inner.block_followers(&key, position);
            } else if inner.blocked_keys.contains_key(&*key) {
                inner.keys_to_reread.insert(key.to_string());
            }
        }
        let next = if fault_injection::is_off(ProtocolRule::Lingering) { 0 } else { inner.next_fetch };
        inner.awaiting_older_fetches.push_back((next, id));
        inner.drop_settled();
    }

    /// It was not sent, or its fate is not known and the next open will tell.
    pub(super) fn release(&self, id: Uuid, close: bool) {
        let mut inner = self.lock();
        let Some(entry) = inner.remove(id) else { return };
        inner.rewind(entry.shard, entry.position);
        let is_behind_a_refused = |key| entry.blocked || inner.is_blocked(key, entry.position);
        // A rejection that was not recorded: another owner may have sent it since, and only the journal tells.
        let is_in_doubt = close || matches!(entry.state, DeliveryState::Accepted | DeliveryState::Rejected);
        // What is queued behind it, or is being read on the strength of its being in flight, must not go before it.
        if is_in_doubt || entry.key.as_deref().is_some_and(|key| !is_behind_a_refused(key)) {
            inner.open.remove(&entry.shard);
        } else if let Some(key) = &entry.key {
            // What refused events block is blocked until they have failed for good; from then on this one is to be waited for.
            inner.block_followers(key, entry.position);
            inner.note_released(key, entry.position);
        }
    }
}

/// A shard's full name.
pub(crate) fn shard_of(in_flight: &InFlight, number: i16) -> Shard {
    Shard { lane: Arc::clone(&in_flight.lane), number }
}

//! The bookkeeping behind the lock.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState;
use uuid::Uuid;

use super::cleared::ClearedKeys;
use super::free::FreeKeys;
use super::{DeliveryState, SessionId};
use crate::clock::BootInstant;
use crate::store::{ExceptedEvent, FetchedRow, Position};
use crate::system::retry_times::RetryTimes;

/// The most keys that are remembered because their events wait behind the cursor; more are left to the sweep.
const MAX_BLOCKED_KEYS: usize = 10_000;

/// A blocked key is heavy if one fetch read this many of its events for nothing.
const HEAVY: usize = 500;

const MAX_HEAVY_KEYS: usize = 32;

/// One sweep in this many reads the events of a heavy key, too.
const SWEEPS_OF_A_HEAVY_KEY: u32 = 100;

pub(super) struct InFlightEntry {
    pub(super) position: Position,
    pub(super) key: Option<Arc<str>>,
    pub(super) shard: i16,
    /// The open under which it was read; `None`: found in a journal.
    pub(super) session: Option<SessionId>,
    pub(super) state: DeliveryState,
    /// Whether its row was read with the status `retry`.
    pub(super) retry: bool,
    /// Whether an earlier event of its key was rejected while this one was in flight, or must still be handled.
    pub(super) blocked: bool,
    /// The position of the row that has its id by now, and another `seq`: a replay, or the same id published again. That one is
    /// read when this event leaves the memory.
    pub(super) repetition: Option<Repetition>,
    /// Why its outcome cannot be recorded.
    pub(super) unwritable: Option<Box<Unwritable>>,
}

/// A row whose outcome the database refuses to record, or that another transaction holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unwritable {
    pub(crate) reason: String,
    pub(crate) since: BootInstant,
}

impl InFlightEntry {
    pub(super) fn new(row: &FetchedRow, session: Option<SessionId>, state: DeliveryState) -> Self {
        let key = (!row.partition_key.is_empty()).then(|| Arc::from(row.partition_key.as_str()));
        Self {
            position: row.position,
            key,
            shard: row.shard,
            session,
            state,
            retry: row.retry,
            blocked: false,
            repetition: None,
            unwritable: None,
        }
    }

    pub(super) fn excepted(&self, id: Uuid) -> ExceptedEvent {
        ExceptedEvent { id, shard: self.shard, position: self.position, key: self.key.clone() }
    }

    /// Whether its delivery is not finished.
    pub(super) fn is_on_its_way(&self) -> bool {
        self.unwritable.is_none() && !matches!(self.state, DeliveryState::Settled { .. })
    }

    /// Whether later events of its key must wait.
    pub(super) fn blocks(&self) -> bool {
        self.blocked || matches!(self.state, DeliveryState::Rejected | DeliveryState::Settled { blocks: true })
    }
}

/// Events of a key that were released during a fetch, which may have treated them as in flight.
pub(super) struct Released {
    /// The position of the first of them.
    position: Position,
    /// The first fetch that began after all of them were released.
    known_to: u64,
}

/// A blocked key with very many events.
pub(super) struct HeavyKey {
    pub(super) shard: i16,
    /// Sweeps of its shard since it became heavy.
    sweeps: u32,
}

impl HeavyKey {
    pub(super) fn begin_sweep(&mut self) {
        self.sweeps = self.sweeps.wrapping_add(1);
    }

    /// Whether the current sweep leaves it out. Some read all of its events: a sweep finds whatever nothing else would.
    pub(super) fn is_left_out(&self) -> bool {
        self.sweeps % SWEEPS_OF_A_HEAVY_KEY != SWEEPS_OF_A_HEAVY_KEY - 1
    }
}

/// A row with the id of an event in memory that is another one, under whichever key; read again once that one has left.
pub(super) struct Repetition {
    pub(super) position: Position,
    pub(super) shard: i16,
    /// Empty: none.
    pub(super) key: Box<str>,
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) open: HashMap<i16, SessionId>,
    pub(super) sessions: u64,
    pub(super) events: HashMap<Uuid, InFlightEntry, RandomState>,
    pub(super) by_key: HashMap<Arc<str>, Vec<Uuid>, RandomState>,
    pub(super) next_fetch: u64,
    pub(super) fetches: BTreeSet<u64>,
    pub(super) awaiting_older_fetches: VecDeque<(u64, Uuid)>,
    pub(super) released: HashMap<Arc<str>, Released, RandomState>,
    pub(super) rewinds: HashMap<i16, Position>,
    pub(super) retries: RetryTimes,
    pub(super) blocked_keys: HashMap<String, i16>,
    pub(super) keys_to_reread: BTreeSet<String>,
    /// Blocked keys with very many events: most sweeps leave them out.
    pub(super) heavy_keys: BTreeMap<String, HeavyKey>,
    pub(super) cleared: ClearedKeys,
    pub(super) free: FreeKeys,
    /// How many of the events are unwritable.
    pub(super) unwritable: usize,
    /// Handlers elsewhere that are owed events of a key behind one that is not settled.
    pub(super) owing: HashMap<Arc<str>, BTreeSet<String>, RandomState>,
}

impl Inner {
    pub(super) fn close(&mut self, shard: i16) {
        self.open.remove(&shard);
        self.free.forget();
    }

    pub(super) fn insert(&mut self, id: Uuid, entry: InFlightEntry) {
        if let Some(key) = &entry.key {
            self.by_key.entry(Arc::clone(key)).or_default().push(id);
        }
        self.events.insert(id, entry);
    }

    pub(super) fn remove(&mut self, id: Uuid) -> Option<InFlightEntry> {
        let entry = self.events.remove(&id)?;
        self.unwritable -= usize::from(entry.unwritable.is_some());
        if let Some(key) = &entry.key
            && let Some(chain) = self.by_key.get_mut(key)
        {
            chain.retain(|other| *other != id);
            if chain.is_empty() {
                self.by_key.remove(key);
            }
        }
        match entry.repetition.as_ref() {
            Some(Repetition { key, position, shard }) if key.is_empty() => self.rewind(*shard, *position),
            Some(Repetition { key, .. }) => _ = self.keys_to_reread.insert(key.to_string()),
            None => {}
        }
        Some(entry)
    }

    /// Whether a row has the id of an event in memory, and is another one.
    pub(super) fn is_repetition(&self, id: Uuid, position: Position) -> bool {
        self.events.get(&id).is_some_and(|entry| entry.position.seq != position.seq)
    }

    /// Notes such a row. It is not admitted, and precedes later events of its key.
    pub(super) fn note_repetition(&mut self, id: Uuid, repetition: Repetition) {
        let is_another = |entry: &&mut InFlightEntry| entry.position.seq != repetition.position.seq;
        let Some(entry) = self.events.get_mut(&id).filter(is_another) else { return };
        let key = entry.key.clone();
        self.free.forget_key(&repetition.key);
        entry.repetition = Some(repetition);
        if let Some(key) = key {
            self.free.forget_key(&key);
        }
    }

    /// Drops settled events once every fetch that began before their settle is over (R2).
    pub(super) fn drop_settled(&mut self) {
        let oldest = self.fetches.first().copied().unwrap_or(u64::MAX);
        while let Some(&(began_before, id)) = self.awaiting_older_fetches.front() {
            if oldest < began_before {
                break;
            }
            self.awaiting_older_fetches.pop_front();
            self.remove(id);
        }
        self.released.retain(|_, released| oldest < released.known_to);
    }

    /// Remembers an event that was released while its shard stays open, until older fetches are over.
    pub(super) fn note_released(&mut self, key: &Arc<str>, position: Position) {
        if !self.fetches.is_empty() {
            let known_to = self.next_fetch;
            let first = self.released.get(key).map_or(position, |released| released.position.min(position));
            self.released.insert(Arc::clone(key), Released { position: first, known_to });
        }
    }

    /// Whether an earlier event of the key was released since a fetch began: the fetch may have treated it as in flight.
    pub(super) fn is_behind_a_released(&self, key: &str, position: Position, fetch: u64) -> bool {
        self.released.get(key).is_some_and(|released| fetch < released.known_to && released.position < position)
    }

    pub(super) fn rewind(&mut self, shard: i16, to: Position) {
        let place = self.rewinds.entry(shard).or_insert(to);
        *place = (*place).min(to);
    }

    pub(super) fn note_blocked_key(&mut self, key: &str, shard: i16) {
        if self.blocked_keys.len() < MAX_BLOCKED_KEYS {
            self.blocked_keys.insert(key.to_owned(), shard);
        }
    }

    /// Notes how many events of each blocked key a fetch has read.
    pub(super) fn note_blocked_rows(&mut self, counts: &HashMap<String, (i16, usize)>) {
        for (key, (shard, _)) in counts.iter().filter(|(_, (_, rows))| *rows >= HEAVY) {
            if self.heavy_keys.len() < MAX_HEAVY_KEYS {
                self.heavy_keys.entry(key.clone()).or_insert(HeavyKey { shard: *shard, sweeps: 0 });
            }
        }
    }

    /// Blocks the deliveries behind a rejected event, also after that event's own entry is removed.
    pub(super) fn block_followers(&mut self, key: &str, position: Position) {
        let ids = self.by_key.get(key).cloned().unwrap_or_default();
        for id in ids {
            if let Some(entry) = self.events.get_mut(&id)
                && entry.position > position
                && matches!(entry.state, DeliveryState::Queued | DeliveryState::Accepted)
            {
                entry.blocked = true;
            }
        }
    }

    /// Whether an earlier event of the key is still queued under an older open, whose session will not send it.
    pub(super) fn is_behind_another_session(&self, key: &str, position: Position, session: SessionId) -> bool {
        self.chain(key).any(|entry| {
            entry.position < position && entry.state == DeliveryState::Queued && entry.session != Some(session)
        })
    }

    pub(super) fn chain(&self, key: &str) -> impl Iterator<Item = &InFlightEntry> {
        self.by_key.get(key).into_iter().flatten().filter_map(|id| self.events.get(id))
    }

    /// Notes the handlers that are owed an event, if an earlier one of its key is not settled.
    pub(super) fn note_owing(&mut self, key: &Arc<str>, position: Position, handlers: &[String]) {
        let is_open = |entry: &InFlightEntry| !matches!(entry.state, DeliveryState::Settled { .. });
        let is_behind = self.chain(key).any(|entry| entry.position < position && is_open(entry));
        if !is_behind && !self.blocked_keys.contains_key(&**key) {
            return;
        }
        if self.owing.len() >= MAX_BLOCKED_KEYS {
            let Self { owing, by_key, blocked_keys, .. } = self;
            owing.retain(|key, _| by_key.contains_key(key) || blocked_keys.contains_key(&**key));
        }
        if self.owing.len() < MAX_BLOCKED_KEYS || self.owing.contains_key(key) {
            self.owing.entry(Arc::clone(key)).or_default().extend(handlers.iter().cloned());
        }
    }

    /// The handlers that may get an event of the key now that one is settled. They are noted until nothing of it is left.
    pub(super) fn take_owing(&mut self, key: &Arc<str>) -> BTreeSet<String> {
        let Some(handlers) = self.owing.get(key).cloned() else { return BTreeSet::new() };
        let is_open = |entry: &InFlightEntry| !matches!(entry.state, DeliveryState::Settled { .. });
        if !self.chain(key).any(is_open) && !self.blocked_keys.contains_key(&**key) {
            self.owing.remove(key);
        }
        handlers
    }

    pub(super) fn is_blocked(&self, key: &str, position: Position) -> bool {
        self.chain(key).any(|entry| entry.position < position && entry.blocks())
    }
}

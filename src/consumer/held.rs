//! The entries that a consumer has in memory: read, and not yet acknowledged. They bound what it reads, and they are what it
//! renews. Without I/O, behind one lock.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::backend::event_source::{EntryRef, Received, Renewal};
use crate::clock::BootInstant;

/// The most entries in memory that handlers may have, and the most that wait for another try or, with their events, for their key.
const MOST_ENTRIES: usize = 5_000;
const MOST_WAITING: usize = 5_000;

/// The most entries that wait for their key without their events, and for each second of `reclaim_after`: each is renewed, and
/// more would keep the server busy.
const MOST_PARKED: usize = 100_000;
const MOST_PARKED_PER_SECOND: u64 = 10_000;

/// Events of one key that are loaded together, at most.
const MOST_LOADED: usize = 100;

/// A consumer reads ahead as much as it has handled in this time.
const READ_AHEAD: Duration = Duration::from_millis(200);

/// The part of `reclaim_after` after which an entry is renewed, and the one after which it may be another consumer's.
const RENEWED_AFTER: u32 = 4;
const DOUBTFUL_AFTER: (u32, u32) = (2, 3);

/// Where an entry is on its way to the handlers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Handlers have it, or get it next.
    Active,
    /// It waits for another try.
    Waiting,
    /// It waits for an earlier one of its key.
    Behind,
    /// Likewise, and its event is not in memory.
    Parked,
}

/// Whether an entry may be given to handlers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    Ours,
    /// It was not renewed in time, so another consumer may have it.
    Doubtful,
    /// Its stream will be given to another consumer.
    GivenUp,
    Lost,
}

pub(super) struct Held {
    state: Mutex<State>,
    /// There may be room for more, for each of the tasks that read.
    room: [Notify; 2],
    /// What is read ahead at least: enough that no handler waits.
    least: usize,
    max_bytes: usize,
    max_parked: usize,
    reclaim_after: Duration,
}

#[derive(Default)]
struct State {
    entries: HashMap<EntryRef, HeldEntry>,
    /// How many there are of each stream.
    streams: BTreeMap<usize, usize>,
    active: Sum,
    /// These take no room from the active ones.
    waiting: Sum,
    behind: Sum,
    parked: Sum,
    /// When entries were done, in groups.
    done: VecDeque<(BootInstant, usize)>,
    done_count: usize,
}

/// How many entries, and how large.
#[derive(Default, Clone, Copy)]
struct Sum {
    entries: usize,
    bytes: usize,
}

struct HeldEntry {
    /// When a call began by which Redis has noted that this consumer has it.
    confirmed: BootInstant,
    deliveries: u32,
    bytes: usize,
    is_lost: bool,
    stage: Stage,
    /// Its lease says whose it is, so it needs no renewal.
    is_leased: bool,
}

impl Held {
    pub(super) fn new(concurrency: usize, max_bytes: usize, reclaim_after: Duration) -> Self {
        let least = concurrency.saturating_mul(2);
        let max_parked = MOST_PARKED_PER_SECOND.saturating_mul(reclaim_after.as_secs());
        let max_parked = usize::try_from(max_parked).unwrap_or(usize::MAX).min(MOST_PARKED);
        Self {
            state: Mutex::default(),
            room: [Notify::new(), Notify::new()],
            least,
            max_bytes,
            max_parked,
            reclaim_after,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an entry that a call that began at `asked` has read; `false` if it is here already.
    pub(super) fn add(&self, received: &Received, asked: BootInstant) -> bool {
        let mut state = self.state();
        if state.entries.contains_key(&received.entry) {
            return false;
        }
        let entry = HeldEntry {
            confirmed: asked,
            deliveries: received.deliveries,
            bytes: received.bytes,
            is_lost: false,
            stage: Stage::Active,
            is_leased: received.lease.is_some(),
        };
        state.active.add(received.bytes);
        *state.streams.entry(received.entry.stream).or_default() += 1;
        state.entries.insert(received.entry, entry);
        true
    }

    /// Removes an entry that is done, or that is left to others.
    pub(super) fn remove(&self, entries: impl IntoIterator<Item = EntryRef>, now: BootInstant) {
        let mut state = self.state();
        let mut count = 0;
        for entry in entries {
            if let Some(held) = state.entries.remove(&entry) {
                state.sum(held.stage).remove(held.bytes);
                count += 1;
                if let Some(of_stream) = state.streams.get_mut(&entry.stream) {
                    *of_stream -= 1;
                    if *of_stream == 0 {
                        state.streams.remove(&entry.stream);
                    }
                }
            }
        }
        state.done.push_back((now, count));
        state.done_count += count;
        drop(state);
        self.room.iter().for_each(Notify::notify_one);
    }

    /// Notes whether an entry waits for another try.
    pub(super) fn set_waiting(&self, entry: EntryRef, waits: bool) {
        self.state().set(entry, if waits { Stage::Waiting } else { Stage::Active });
        if waits {
            self.room.iter().for_each(Notify::notify_one);
        }
    }

    /// Notes that an entry waits for an earlier one of its key; returns whether there is room for its event. Otherwise it must be
    /// loaded again.
    pub(super) fn wait_behind(&self, entry: EntryRef) -> bool {
        let mut state = self.state();
        let bytes = state.entries.get(&entry).map_or(0, |held| held.bytes);
        let (entries, waiting_bytes) = state.waits();
        let has_room = entries < MOST_WAITING && waiting_bytes + bytes <= self.max_bytes;
        state.set(entry, if has_room { Stage::Behind } else { Stage::Parked });
        drop(state);
        self.room.iter().for_each(Notify::notify_one);
        has_room
    }

    /// How many parked entries of a key may be loaded: one that handlers get next, and more if there is room for them.
    pub(super) fn loadable(&self) -> usize {
        let (entries, bytes) = self.state().waits();
        if bytes < self.max_bytes { MOST_WAITING.saturating_sub(entries).clamp(1, MOST_LOADED) } else { 1 }
    }

    /// Notes that the event of a parked entry is in memory again.
    pub(super) fn loaded(&self, entry: EntryRef, bytes: usize) {
        let mut state = self.state();
        state.set(entry, Stage::Behind);
        let Some(held) = state.entries.get_mut(&entry) else { return };
        let before = std::mem::replace(&mut held.bytes, bytes);
        state.behind.remove(before);
        state.behind.add(bytes);
    }

    /// Notes that an entry's turn has come.
    pub(super) fn set_active(&self, entry: EntryRef) {
        self.state().set(entry, Stage::Active);
    }

    pub(super) fn clear(&self) {
        *self.state() = State::default();
    }

    pub(super) fn len(&self) -> usize {
        self.state().entries.len()
    }

    /// The streams of which there are entries.
    pub(super) fn streams(&self) -> BTreeSet<usize> {
        self.state().streams.keys().copied().collect()
    }

    /// How many entries may be read now: as many as were handled lately fit into memory, so that a slow consumer leaves
    /// entries to others. Entries that wait have bounds of their own, so that they do not keep others from being read until there
    /// are very many.
    pub(super) fn room(&self, now: BootInstant) -> usize {
        let mut state = self.state();
        while state.done.front().is_some_and(|(at, _)| now.since(*at) > READ_AHEAD) {
            let (_, count) = state.done.pop_front().unwrap_or((now, 0));
            state.done_count -= count;
        }
        let most = state.done_count.max(self.least).min(MOST_ENTRIES.max(self.least));
        let State { active, waiting, parked, .. } = *state;
        let has_bytes = (active.entries == 0 || active.bytes < self.max_bytes) && waiting.bytes <= self.max_bytes;
        let may_wait = MOST_WAITING.saturating_sub(waiting.entries).min(self.max_parked.saturating_sub(parked.entries));
        if has_bytes { most.saturating_sub(active.entries).min(may_wait) } else { 0 }
    }

    /// Waits until an entry was removed, for the task that reads shared streams or the one that reads leased ones.
    pub(super) async fn changed(&self, is_leased: bool) {
        self.room[usize::from(is_leased)].notified().await;
    }

    pub(super) fn hold(&self, entry: EntryRef, now: BootInstant) -> Hold {
        let state = self.state();
        let Some(held) = state.entries.get(&entry).filter(|held| !held.is_lost) else { return Hold::Lost };
        let (part, of) = DOUBTFUL_AFTER;
        if held.is_leased || now.since(held.confirmed) * of < self.reclaim_after * part {
            Hold::Ours
        } else {
            Hold::Doubtful
        }
    }

    /// Notes how often an entry was delivered.
    pub(super) fn count(&self, entry: EntryRef, deliveries: u32) {
        if let Some(held) = self.state().entries.get_mut(&entry) {
            held.deliveries = deliveries;
        }
    }

    /// Renewals of the entries that need one.
    pub(super) fn due(&self, now: BootInstant) -> Vec<Renewal> {
        let state = self.state();
        let is_due = |held: &HeldEntry| {
            !held.is_lost && !held.is_leased && now.since(held.confirmed) * RENEWED_AFTER >= self.reclaim_after
        };
        let due = state.entries.iter().filter(|(_, held)| is_due(held));
        due.map(|(entry, held)| Renewal { entry: *entry, deliveries: held.deliveries, idle: Duration::ZERO }).collect()
    }

    /// Notes the answer to renewals that a call that began at `asked` has made; returns how many were lost.
    pub(super) fn renewed(&self, renewals: &[Renewal], lost: &[EntryRef], asked: BootInstant) -> usize {
        let mut state = self.state();
        for renewal in renewals {
            if let Some(held) = state.entries.get_mut(&renewal.entry) {
                held.confirmed = asked;
            }
        }
        let mut count = 0;
        for entry in lost {
            if let Some(held) = state.entries.get_mut(entry) {
                count += usize::from(!held.is_lost);
                held.is_lost = true;
            }
        }
        count
    }
}

impl State {
    fn sum(&mut self, stage: Stage) -> &mut Sum {
        match stage {
            Stage::Active => &mut self.active,
            Stage::Waiting => &mut self.waiting,
            Stage::Behind => &mut self.behind,
            Stage::Parked => &mut self.parked,
        }
    }

    fn set(&mut self, entry: EntryRef, stage: Stage) {
        let Some(held) = self.entries.get_mut(&entry) else { return };
        let (before, bytes) = (std::mem::replace(&mut held.stage, stage), held.bytes);
        self.sum(before).remove(bytes);
        self.sum(stage).add(bytes);
    }

    /// The entries that wait with their events, and their bytes.
    fn waits(&self) -> (usize, usize) {
        (self.waiting.entries + self.behind.entries, self.waiting.bytes + self.behind.bytes)
    }
}

impl Sum {
    fn add(&mut self, bytes: usize) {
        self.entries += 1;
        self.bytes += bytes;
    }

    fn remove(&mut self, bytes: usize) {
        self.entries -= 1;
        self.bytes -= bytes;
    }
}

#[cfg(test)]
mod tests;

//! The entries that a consumer has in memory: read, and not yet acknowledged. They bound what it reads, and they are what it
//! renews. Without I/O, behind one lock.

mod sums;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use self::sums::{StageSums, Sums};
use crate::backend::event_source::{EntryRef, Received, Renewal};
use crate::clock::BootInstant;

/// The most entries in memory that handlers may have, and the most that wait for another try or, with their events, for their key.
const MOST_ENTRIES: usize = 5_000;
const MOST_WAITING: usize = 5_000;

/// The most entries that wait for their key without their events, and for each second of `reclaim_after`: each is renewed, and
/// more would keep the server busy.
const MOST_PARKED: usize = 100_000;
const MOST_PARKED_PER_SECOND: u64 = 10_000;

/// A stream that refuses calls is read until this many of its entries, or this part of `max_bytes`, wait.
const MOST_OF_A_REFUSING_STREAM: usize = 500;
const BYTES_OF_A_REFUSING_STREAM: usize = 10;

/// A consumer reads ahead as much as it has handled in this time.
const READ_AHEAD: Duration = Duration::from_millis(200);

/// The usual size of an entry is the average of about this many.
const SIZES: usize = 16;

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
    /// It waits until its stream answers calls again.
    Refused,
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
    /// There may be room for the event of a parked entry.
    freed: Notify,
    /// What is read ahead at least: enough that no handler waits.
    least: usize,
    max_bytes: usize,
    max_parked: usize,
    reclaim_after: Duration,
}

#[derive(Default)]
struct State {
    entries: HashMap<EntryRef, HeldEntry>,
    sums: Sums,
    /// When entries were done, in groups.
    done: VecDeque<(BootInstant, usize)>,
    done_count: usize,
    /// The usual size of entries that were read lately; 0 before the first.
    usual_bytes: usize,
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
            freed: Notify::new(),
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
        state.sums.add(received.entry.stream, Stage::Active, received.bytes);
        state.note_size(received.bytes);
        state.entries.insert(received.entry, entry);
        true
    }

    /// Removes an entry that is done, or that is left to others.
    pub(super) fn remove(&self, entries: impl IntoIterator<Item = EntryRef>, now: BootInstant) {
        let mut state = self.state();
        let mut count = 0;
        for entry in entries {
            if let Some(held) = state.entries.remove(&entry) {
                state.sums.remove(entry.stream, held.stage, held.bytes);
                count += 1;
            }
        }
        state.done.push_back((now, count));
        state.done_count += count;
        drop(state);
        self.notify();
    }

    /// Active entries have become fewer.
    fn notify(&self) {
        self.room.iter().for_each(Notify::notify_one);
        self.freed.notify_one();
    }

    /// Notes that an entry waits for another try.
    pub(super) fn set_waiting(&self, entry: EntryRef) {
        self.state().set(entry, Stage::Waiting);
        self.notify();
    }

    /// Notes that its stream refuses a call for an entry, which waits for the next one.
    pub(super) fn set_refused(&self, entry: EntryRef) {
        self.state().set(entry, Stage::Refused);
        self.notify();
    }

    /// Notes that an entry waits for an earlier one of its key; returns whether there is room for its event. Otherwise it must be
    /// loaded again.
    pub(super) fn wait_behind(&self, entry: EntryRef) -> bool {
        let mut state = self.state();
        let bytes = state.entries.get(&entry).map_or(0, |held| held.bytes);
        let waits = state.sums.all.waits();
        let has_room = waits.entries < MOST_WAITING && waits.bytes + bytes <= self.max_bytes;
        state.set(entry, if has_room { Stage::Behind } else { Stage::Parked });
        drop(state);
        self.notify();
        has_room
    }

    /// Notes that an entry, with its event, waits for an earlier one of its key.
    pub(super) fn set_behind(&self, entry: EntryRef) {
        self.state().set(entry, Stage::Behind);
    }

    /// Waits until there is room for the event of a parked entry whose turn has come, and takes it.
    pub(super) async fn make_room_for(&self, entry: EntryRef) {
        loop {
            let freed = self.freed.notified();
            if self.takes_room(entry) {
                return;
            }
            freed.await;
        }
    }

    /// The last one may be of any size.
    fn takes_room(&self, entry: EntryRef) -> bool {
        let mut state = self.state();
        let has_room = state.sums.all.active.bytes < self.max_bytes;
        if has_room {
            state.set(entry, Stage::Active);
            // There may be room for the next one, too.
            self.freed.notify_one();
        }
        has_room
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

    /// The bytes of the entries whose events are in memory.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let state = self.state();
        state.sums.all.active.bytes + state.sums.all.waits().bytes
    }

    /// The streams of which there are entries.
    pub(super) fn streams(&self) -> BTreeSet<usize> {
        self.state().sums.streams().collect()
    }

    /// The streams that refuse calls and of which enough entries wait: more of them must not be read.
    pub(super) fn refusing(&self) -> BTreeSet<usize> {
        let is_full = |sum: sums::Sum| {
            sum.entries >= MOST_OF_A_REFUSING_STREAM || sum.bytes > self.max_bytes / BYTES_OF_A_REFUSING_STREAM
        };
        let state = self.state();
        state.sums.refusing().filter(|(_, sum)| is_full(*sum)).map(|(stream, _)| stream).collect()
    }

    /// How many entries wait for another try.
    pub(super) fn waiting(&self) -> usize {
        self.state().sums.without_refusing().waiting.entries
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
        let StageSums { active, waiting, parked, .. } = state.sums.without_refusing();
        let has_bytes = (active.entries == 0 || active.bytes < self.max_bytes) && waiting.bytes <= self.max_bytes;
        let may_wait = MOST_WAITING.saturating_sub(waiting.entries).min(self.max_parked.saturating_sub(parked.entries));
        // The server counts entries, and not bytes.
        let fits = self.max_bytes.saturating_sub(active.bytes).div_ceil(state.usual_bytes.max(1)).max(1);
        if has_bytes { most.saturating_sub(active.entries).min(may_wait).min(fits) } else { 0 }
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
    fn note_size(&mut self, bytes: usize) {
        self.usual_bytes = match self.usual_bytes {
            0 => bytes,
            usual => usual.saturating_mul(SIZES - 1).saturating_add(bytes).div_ceil(SIZES),
        };
    }

    fn set(&mut self, entry: EntryRef, stage: Stage) {
        let Some(held) = self.entries.get_mut(&entry) else { return };
        let (before, bytes) = (std::mem::replace(&mut held.stage, stage), held.bytes);
        self.sums.remove(entry.stream, before, bytes);
        self.sums.add(entry.stream, stage, bytes);
    }
}

#[cfg(test)]
mod tests;

//! The entries that a consumer has in memory: read, and not yet acknowledged. They bound what it reads, and they are what it
//! renews. Without I/O, behind one lock.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::backend::event_source::{EntryRef, Received, Renewal};
use crate::clock::BootInstant;

/// The most entries in memory that handlers may have, and the most that wait for their key or for another try.
const MOST_ENTRIES: usize = 5_000;
const MOST_WAITING: usize = 5_000;

/// A consumer reads ahead as much as it has handled in this time.
const READ_AHEAD: Duration = Duration::from_millis(200);

/// The part of `reclaim_after` after which an entry is renewed, and the one after which it may be another consumer's.
const RENEWED_AFTER: u32 = 4;
const DOUBTFUL_AFTER: (u32, u32) = (2, 3);

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
    reclaim_after: Duration,
}

#[derive(Default)]
struct State {
    entries: HashMap<EntryRef, HeldEntry>,
    /// How many there are of each stream.
    streams: BTreeMap<usize, usize>,
    bytes: usize,
    /// The entries that wait for their key or for another try: they take no room from the others.
    waiting: usize,
    waiting_bytes: usize,
    /// When entries were done, in groups.
    done: VecDeque<(BootInstant, usize)>,
    done_count: usize,
}

struct HeldEntry {
    /// When a call began by which Redis has noted that this consumer has it.
    confirmed: BootInstant,
    deliveries: u32,
    bytes: usize,
    is_lost: bool,
    is_waiting: bool,
    /// Its lease says whose it is, so it needs no renewal.
    is_leased: bool,
}

impl Held {
    pub(super) fn new(concurrency: usize, max_bytes: usize, reclaim_after: Duration) -> Self {
        let least = concurrency.saturating_mul(2);
        Self { state: Mutex::default(), room: [Notify::new(), Notify::new()], least, max_bytes, reclaim_after }
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
        state.bytes += received.bytes;
        let entry = HeldEntry {
            confirmed: asked,
            deliveries: received.deliveries,
            bytes: received.bytes,
            is_lost: false,
            is_waiting: false,
            is_leased: received.lease.is_some(),
        };
        *state.streams.entry(received.entry.stream).or_default() += 1;
        state.entries.insert(received.entry, entry);
        true
    }

    /// Removes an entry that is done, or that is left to others.
    pub(super) fn remove(&self, entries: impl IntoIterator<Item = EntryRef>, now: BootInstant) {
        let mut state = self.state();
        let mut count = 0;
        for entry in entries {
            state.set_waiting(entry, false);
            if let Some(held) = state.entries.remove(&entry) {
                state.bytes -= held.bytes;
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

    /// Notes whether an entry waits for its key or for another try.
    pub(super) fn set_waiting(&self, entry: EntryRef, waits: bool) {
        self.state().set_waiting(entry, waits);
        if waits {
            self.room.iter().for_each(Notify::notify_one);
        }
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
    /// entries to others. Entries that wait have a bound of their own, so that one key stops the others only with very many.
    pub(super) fn room(&self, now: BootInstant) -> usize {
        let mut state = self.state();
        while state.done.front().is_some_and(|(at, _)| now.since(*at) > READ_AHEAD) {
            let (_, count) = state.done.pop_front().unwrap_or((now, 0));
            state.done_count -= count;
        }
        let most = state.done_count.max(self.least).min(MOST_ENTRIES.max(self.least));
        let (active, bytes) = (state.entries.len() - state.waiting, state.bytes - state.waiting_bytes);
        let has_bytes = (active == 0 || bytes < self.max_bytes) && state.waiting_bytes <= self.max_bytes;
        if has_bytes { most.saturating_sub(active).min(MOST_WAITING.saturating_sub(state.waiting)) } else { 0 }
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
    fn set_waiting(&mut self, entry: EntryRef, waits: bool) {
        let Some(held) = self.entries.get_mut(&entry).filter(|held| held.is_waiting != waits) else { return };
        held.is_waiting = waits;
        if waits {
            self.waiting += 1;
            self.waiting_bytes += held.bytes;
        } else {
            self.waiting -= 1;
            self.waiting_bytes -= held.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::event_source::{EntryId, LeaseId};

    const RECLAIM: Duration = Duration::from_secs(9);

    fn entry(number: u64) -> EntryRef {
        EntryRef { stream: 0, id: EntryId { millis: 1, number } }
    }

    fn received(number: u64, bytes: usize) -> Received {
        Received {
            entry: entry(number),
            deliveries: 1,
            is_claimed: false,
            lease: None,
            bytes,
            event: Err(String::new()),
        }
    }

    fn held(concurrency: usize, max_bytes: usize) -> (Held, BootInstant) {
        (Held::new(concurrency, max_bytes, RECLAIM), BootInstant::now())
    }

    #[test]
    fn a_consumer_reads_ahead_twice_its_concurrency_and_what_it_handled_lately() {
        let (held, now) = held(2, 1_000_000);
        assert_eq!(held.room(now), 4);
        for number in 0..4 {
            assert!(held.add(&received(number, 10), now));
        }
        assert_eq!(held.room(now), 0);
        held.remove((0..4).map(entry), now);
        assert_eq!(held.room(now), 4);
        for number in 10..110 {
            held.add(&received(number, 10), now);
        }
        held.remove((10..110).map(entry), now);
        assert_eq!(held.room(now), 104);
        assert_eq!(held.room(now.after(READ_AHEAD * 2)), 4);
    }

    #[test]
    fn bytes_stop_reading_but_one_entry_is_always_read() {
        let (held, now) = held(8, 100);
        held.add(&received(1, 500), now);
        assert_eq!(held.room(now), 0);
        held.remove([entry(1)], now);
        assert_eq!(held.room(now), 16);
    }

    #[test]
    fn entries_that_wait_take_no_room_until_there_are_very_many() {
        let (held, now) = held(2, 1_000_000);
        let most = u64::try_from(MOST_WAITING).unwrap();
        for number in 0..most - 1 {
            held.add(&received(number, 10), now);
            held.set_waiting(entry(number), true);
        }
        assert_eq!(held.room(now), 1);
        held.add(&received(most, 10), now);
        held.set_waiting(entry(most), true);
        assert_eq!(held.room(now), 0);
        held.set_waiting(entry(0), false);
        held.remove([entry(1)], now);
        assert_eq!(held.room(now), 2);
        held.remove((0..=most).map(entry), now.after(READ_AHEAD * 2));
        assert_eq!(held.room(now.after(READ_AHEAD * 5)), 4);
        held.add(&received(9_999, 2_000_000), now);
        held.set_waiting(entry(9_999), true);
        assert_eq!(held.room(now.after(READ_AHEAD * 5)), 0, "its bytes are too many");
    }

    #[test]
    fn an_entry_that_is_here_is_not_added_again() {
        let (held, now) = held(8, 100);
        assert!(held.add(&received(1, 1), now));
        assert!(!held.add(&received(1, 1), now));
        assert_eq!(held.len(), 1);
    }

    #[test]
    fn an_entry_of_a_leased_stream_is_not_renewed_and_its_stream_is_busy_until_it_is_removed() {
        let (held, now) = held(8, 100);
        held.add(&Received { lease: Some(LeaseId(1)), ..received(1, 1) }, now);
        let late = now.after(RECLAIM);
        assert!(held.due(late).is_empty());
        assert_eq!((held.hold(entry(1), late), held.streams()), (Hold::Ours, BTreeSet::from([0])));
        held.remove([entry(1)], now);
        assert_eq!((held.hold(entry(1), late), held.streams()), (Hold::Lost, BTreeSet::new()));
    }

    #[test]
    fn an_entry_is_renewed_before_it_is_doubtful_and_doubtful_before_others_may_take_it() {
        let (held, now) = held(8, 100);
        held.add(&received(1, 1), now);
        let at = |seconds| now.after(Duration::from_secs(seconds));
        assert!(held.due(at(2)).is_empty());
        let due = held.due(at(3));
        assert_eq!(due.len(), 1);
        assert_eq!((held.hold(entry(1), at(5)), held.hold(entry(1), at(6))), (Hold::Ours, Hold::Doubtful));
        assert_eq!(held.renewed(&due, &[], at(4)), 0);
        assert_eq!(held.hold(entry(1), at(9)), Hold::Ours);
        assert_eq!(held.renewed(&due, &[entry(1)], at(9)), 1);
        assert_eq!(held.hold(entry(1), at(9)), Hold::Lost);
        assert!(held.due(at(99)).is_empty());
        assert_eq!(held.hold(entry(2), now), Hold::Lost);
    }
}

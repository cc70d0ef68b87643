//! What is in flight in one lane, and which of its shards are open: the memory behind rules R1, R2 and R3.
//!
//! Pure bookkeeping behind one lock. Actors hold [`Ticket`]s; a ticket that is dropped, also by a panic, gives its event
//! back by itself.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::ticket::{Permit, Ticket};
use crate::store::{Blocker, Fetched, KeyQuestion, Lane, Position, Shard};

/// Keys remembered because events of theirs wait behind the cursor; more are left to the sweep.
const MAX_PARKED: usize = 10_000;

/// An open of a shard: what a fetch, a ticket and a session have in common when they belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opening {
    pub(crate) epoch: i64,
    /// Counts opens, so that two under one epoch differ.
    pub(crate) number: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// On its way to the backend.
    Queued,
    /// The backend has it.
    Accepted,
    /// A backend or a handler refused it; blocks its key until that is recorded.
    Rejected,
    /// Recorded, kept only until older fetches are over.
    Settled { blocks: bool },
}

struct Entry {
    position: Position,
    key: Option<Arc<str>>,
    shard: i16,
    /// Read under this open; `None`: found in a journal.
    opening: Option<Opening>,
    stage: Stage,
    /// Read from `retry`.
    retry: bool,
    /// One before it in its key's order was refused while this one was on its way.
    barred: bool,
}

impl Entry {
    fn new(row: &Fetched, opening: Option<Opening>, stage: Stage) -> Self {
        let key = (!row.partition_key.is_empty()).then(|| Arc::from(row.partition_key.as_str()));
        Self { position: row.position, key, shard: row.shard, opening, stage, retry: row.retry, barred: false }
    }

    /// Whether later events of its key have to wait.
    fn blocks(&self) -> bool {
        self.barred || matches!(self.stage, Stage::Rejected | Stage::Settled { blocks: true })
    }
}

#[derive(Default)]
struct Inner {
    open: HashMap<i16, Opening>,
    openings: u64,
    events: HashMap<Uuid, Entry>,
    chains: HashMap<Arc<str>, Vec<Uuid>>,
    next_fetch: u64,
    fetches: BTreeSet<u64>,
    lingering: VecDeque<(u64, Uuid)>,
    rewinds: HashMap<i16, Position>,
    parked: HashSet<String>,
    wanted: BTreeSet<String>,
}

/// One lane's flight.
pub(crate) struct Flight {
    lane: Lane,
    inner: Mutex<Inner>,
}

/// Events read by one fetch that may go, and those that cannot be read.
#[derive(Default)]
pub(crate) struct Admitted {
    pub(crate) tickets: Vec<Ticket>,
    /// Rows that are no events, with the reason.
    pub(crate) unreadable: Vec<(Ticket, String)>,
}

impl Flight {
    pub(crate) fn new(lane: Lane) -> Arc<Self> {
        Arc::new(Self { lane, inner: Mutex::default() })
    }

    pub(crate) fn lane(&self) -> &Lane {
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
        inner.openings += 1;
        let number = inner.openings;
        inner.open.insert(shard, Opening { epoch, number });
    }

    pub(crate) fn close(&self, shard: i16) {
        self.lock().open.remove(&shard);
    }

    pub(crate) fn close_all(&self) {
        self.lock().open.clear();
    }

    pub(crate) fn opening(&self, shard: i16) -> Option<Opening> {
        self.lock().open.get(&shard).copied()
    }

    /// Whether anything of a shard is still on its way.
    pub(crate) fn is_busy(&self, shard: i16) -> bool {
        self.lock().events.values().any(|entry| entry.shard == shard && !matches!(entry.stage, Stage::Settled { .. }))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().events.values().all(|entry| matches!(entry.stage, Stage::Settled { .. }))
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
        Fetch { flight: Arc::clone(self), number, open: inner.open.clone() }
    }

    pub(crate) fn ids(&self) -> Vec<Uuid> {
        self.lock().events.keys().copied().collect()
    }

    /// Events in flight that were due retries: their rows still say so.
    pub(crate) fn retrying(&self) -> Vec<Uuid> {
        self.lock().events.iter().filter(|(_, entry)| entry.retry).map(|(id, _)| *id).collect()
    }

    /// Positions to read again from, because events behind the cursor came back unsent.
    pub(crate) fn take_rewinds(&self) -> HashMap<i16, Position> {
        std::mem::take(&mut self.lock().rewinds)
    }

    /// Keys whose events are to be read from the start of their order.
    pub(crate) fn take_wanted(&self, most: usize) -> Vec<String> {
        let mut inner = self.lock();
        let keys: Vec<String> = inner.wanted.iter().take(most).cloned().collect();
        for key in &keys {
            inner.wanted.remove(key);
            inner.parked.remove(key);
        }
        keys
    }

    pub(crate) fn has_wanted(&self) -> bool {
        !self.lock().wanted.is_empty()
    }

    pub(crate) fn want(&self, key: &str) {
        self.lock().wanted.insert(key.to_owned());
    }

    // R3.

    /// For each key of the rows, what has to be asked about it: does anything stand before its last row?
    pub(crate) fn questions(&self, rows: &[Fetched]) -> Vec<KeyQuestion> {
        let inner = self.lock();
        let on_its_way = |id: &Uuid| inner.events.get(id).is_some_and(|entry| !entry.blocks());
        let mut questions: HashMap<&str, KeyQuestion> = HashMap::new();
        for row in rows.iter().filter(|row| !row.partition_key.is_empty() && !inner.events.contains_key(&row.id)) {
            let question = questions.entry(&row.partition_key).or_insert_with(|| KeyQuestion {
                key: row.partition_key.clone(),
                before: row.position,
                except: {
                    let chain = inner.chains.get(row.partition_key.as_str()).into_iter().flatten();
                    chain.copied().filter(on_its_way).collect()
                },
            });
            question.before = question.before.max(row.position);
            question.except.push(row.id);
        }
        questions.into_values().collect()
    }

    /// Whether a refused event stands, or stood a moment ago, before this one in its key's order.
    pub(crate) fn is_blocked(&self, id: Uuid, key: &str, position: Position) -> bool {
        let inner = self.lock();
        inner.events.get(&id).is_some_and(|entry| entry.barred) || inner.is_blocked(key, position)
    }

    // Stages, by tickets.

    pub(super) fn set_stage(&self, id: Uuid, stage: Stage) {
        if let Some(entry) = self.lock().events.get_mut(&id) {
            entry.stage = stage;
        }
    }

    /// The database has it. `blocks`: its key goes on waiting (a retry, or a failed event that holds).
    pub(super) fn settle(&self, id: Uuid, blocks: bool) {
        let mut inner = self.lock();
        let Some(entry) = inner.events.get_mut(&id) else { return };
        entry.stage = Stage::Settled { blocks };
        let (key, position) = (entry.key.clone(), entry.position);
        if let Some(key) = key {
            if blocks {
                inner.park(&key);
                inner.bar_followers(&key, position);
            } else if inner.parked.contains(&*key) {
                inner.wanted.insert(key.to_string());
            }
        }
        let next = inner.next_fetch;
        inner.lingering.push_back((next, id));
        inner.release();
    }

    /// It was not sent, or its fate is not known and the next open will tell.
    pub(super) fn give_back(&self, id: Uuid, close: bool) {
        let mut inner = self.lock();
        let Some(entry) = inner.remove(id) else { return };
        inner.rewind(entry.shard, entry.position);
        // What is queued behind it, or is being read on the strength of its being in flight, must not go before it.
        let key = entry.key.as_deref().unwrap_or("");
        let overtaken = !key.is_empty() && !entry.barred && !inner.is_blocked(key, entry.position);
        if close || entry.stage == Stage::Accepted || overtaken {
            inner.open.remove(&entry.shard);
        }
    }
}

impl Inner {
    fn insert(&mut self, id: Uuid, entry: Entry) {
        if let Some(key) = &entry.key {
            self.chains.entry(Arc::clone(key)).or_default().push(id);
        }
        self.events.insert(id, entry);
    }

    fn remove(&mut self, id: Uuid) -> Option<Entry> {
        let entry = self.events.remove(&id)?;
        if let Some(key) = &entry.key
            && let Some(chain) = self.chains.get_mut(key)
        {
            chain.retain(|other| *other != id);
            if chain.is_empty() {
                self.chains.remove(key);
            }
        }
        Some(entry)
    }

    /// Lets settled events go once every fetch that began before their settle is over (R2).
    fn release(&mut self) {
        let oldest = self.fetches.first().copied().unwrap_or(u64::MAX);
        while let Some(&(began_before, id)) = self.lingering.front() {
            if oldest < began_before {
                break;
            }
            self.lingering.pop_front();
            self.remove(id);
        }
    }

    fn rewind(&mut self, shard: i16, to: Position) {
        let place = self.rewinds.entry(shard).or_insert(to);
        *place = (*place).min(to);
    }

    fn park(&mut self, key: &str) {
        if self.parked.len() < MAX_PARKED {
            self.parked.insert(key.to_owned());
        }
    }

    /// What is on its way behind a refused event stays behind it, also once that one's own entry is gone.
    fn bar_followers(&mut self, key: &str, position: Position) {
        let ids = self.chains.get(key).cloned().unwrap_or_default();
        for id in ids {
            if let Some(entry) = self.events.get_mut(&id)
                && entry.position > position
                && matches!(entry.stage, Stage::Queued | Stage::Accepted)
            {
                entry.barred = true;
            }
        }
    }

    /// Whether an earlier event of the key is still queued under an older open, whose session will not send it.
    fn is_behind_another_session(&self, key: &str, position: Position, opening: Opening) -> bool {
        self.chain(key)
            .any(|entry| entry.position < position && entry.stage == Stage::Queued && entry.opening != Some(opening))
    }

    fn chain(&self, key: &str) -> impl Iterator<Item = &Entry> {
        self.chains.get(key).into_iter().flatten().filter_map(|id| self.events.get(id))
    }

    fn is_blocked(&self, key: &str, position: Position) -> bool {
        self.chain(key).any(|entry| entry.position < position && entry.blocks())
    }
}

/// A fetch that is under way; over when dropped.
pub(crate) struct Fetch {
    flight: Arc<Flight>,
    number: u64,
    open: HashMap<i16, Opening>,
}

impl Drop for Fetch {
    fn drop(&mut self) {
        let mut inner = self.flight.lock();
        inner.fetches.remove(&self.number);
        inner.release();
    }
}

impl Fetch {
    /// Takes those rows into flight that may go, and remembers the keys of those that wait.
    ///
    /// R1: only rows of shards that are open as they were when the fetch began. R2: none that is in flight, or was until
    /// a moment ago. R3: none behind an unsettled event of its key, other than those on their way.
    pub(crate) fn admit(
        &self,
        mut rows: Vec<Fetched>,
        blockers: &HashMap<String, Blocker>,
        permit: impl Fn(&Fetched) -> Permit,
    ) -> Admitted {
        let mut admitted = Admitted::default();
        // Stable, so rows without a key stay in the order of reading.
        rows.sort_by(|a, b| {
            (!a.partition_key.is_empty()).cmp(&!b.partition_key.is_empty()).then(a.position.cmp(&b.position))
        });
        let mut inner = self.flight.lock();
        for row in rows {
            let Some(opening) = self.still_open(&inner, row.shard) else {
                inner.rewind(row.shard, row.position);
                continue;
            };
            if inner.events.contains_key(&row.id) || self.waits(&mut inner, &row, opening, blockers) {
                continue;
            }
            inner.insert(row.id, Entry::new(&row, Some(opening), Stage::Queued));
            let ticket = Ticket::new(&self.flight, &row, opening, permit(&row));
            match row.event {
                Ok(_) => admitted.tickets.push(ticket),
                Err(reason) => {
                    // Blocks its key until the failure is recorded, like any other rejection.
                    if let Some(entry) = inner.events.get_mut(&row.id) {
                        entry.stage = Stage::Rejected;
                    }
                    admitted.unreadable.push((ticket, reason));
                }
            }
        }
        admitted
    }

    fn still_open(&self, inner: &Inner, shard: i16) -> Option<Opening> {
        let now = inner.open.get(&shard)?;
        (self.open.get(&shard) == Some(now)).then_some(*now)
    }

    fn waits(&self, inner: &mut Inner, row: &Fetched, opening: Opening, blockers: &HashMap<String, Blocker>) -> bool {
        let key = row.partition_key.as_str();
        if key.is_empty() {
            return false;
        }
        let blocker = blockers.get(key).filter(|blocker| blocker.position < row.position);
        let blocked =
            inner.is_blocked(key, row.position) || inner.is_behind_another_session(key, row.position, opening);
        if blocker.is_none() && !blocked {
            return false;
        }
        inner.park(key);
        if blocker.is_some_and(|blocker| blocker.due && !inner.events.contains_key(&blocker.id)) {
            inner.wanted.insert(key.to_owned());
        }
        true
    }

    /// Takes what an open found in the journal into flight as accepted; what is in flight already stays as it is.
    pub(crate) fn adopt(
        &self,
        rows: Vec<Fetched>,
        epochs: &HashMap<i16, i64>,
        permit: impl Fn(&Fetched) -> Permit,
    ) -> Vec<Ticket> {
        let mut inner = self.flight.lock();
        rows.into_iter()
            .filter_map(|row| {
                let epoch = *epochs.get(&row.shard)?;
                if row.event.is_err() {
                    return None;
                }
                if let Some(entry) = inner.events.get_mut(&row.id) {
                    // A session that was shut out sent it and may not have heard the answer.
                    if entry.stage == Stage::Queued {
                        entry.stage = Stage::Accepted;
                    }
                    return None;
                }
                inner.insert(row.id, Entry::new(&row, None, Stage::Accepted));
                let mut ticket = Ticket::new(&self.flight, &row, Opening { epoch, number: 0 }, permit(&row));
                ticket.accepted = true;
                Some(ticket)
            })
            .collect()
    }
}

/// A shard's full name.
pub(crate) fn shard_of(flight: &Flight, number: i16) -> Shard {
    Shard { lane: Arc::clone(&flight.lane), number }
}

#[cfg(test)]
#[path = "flight_tests.rs"]
mod tests;
#[cfg(test)]
#[path = "flight_unsent_tests.rs"]
pub(super) mod unsent_tests;

//! The events that one fetch may admit: rules R1 to R3.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use uuid::Uuid;

use super::entries::{InFlightEntry, Inner, Repetition};
use super::{DeliveryState, InFlight, SessionId};
use crate::clock::BootInstant;
use crate::fault_injection::{self, ProtocolRule};
use crate::store::{Blocker, Blockers, FetchedRow, Position, PredecessorQuery};
use crate::system::credit::CreditPermit;
use crate::system::delivery::Delivery;

/// Rows of one fetch: deliveries that can be sent, and those that cannot be read.
#[derive(Default)]
pub(crate) struct Admitted {
    pub(crate) deliveries: Vec<Delivery>,
    /// Rows that are not valid events, with the reason.
    pub(crate) unreadable: Vec<(Delivery, String)>,
}

impl Admitted {
    pub(crate) fn all(&self) -> impl Iterator<Item = &Delivery> {
        self.deliveries.iter().chain(self.unreadable.iter().map(|(delivery, _)| delivery))
    }

    pub(crate) fn all_mut(&mut self) -> impl Iterator<Item = &mut Delivery> {
        self.deliveries.iter_mut().chain(self.unreadable.iter_mut().map(|(delivery, _)| delivery))
    }
}

/// A fetch that is under way; over when dropped.
pub(crate) struct Fetch {
    pub(super) in_flight: Arc<InFlight>,
    pub(super) number: u64,
    pub(super) open: HashMap<i16, SessionId>,
    /// The range that was queried for each key.
    pub(super) asked: HashMap<String, AskedRange>,
    pub(super) asked_at: BootInstant,
    /// The position up to which the open range of each shard was read.
    pub(super) read_to: HashMap<i16, Position>,
    /// Keys that needed no query.
    pub(super) free: HashSet<String>,
    /// How often keys had ceased to count as free when the fetch began.
    pub(super) forgotten: u64,
    /// Whether its rows were admitted, or refused one by one.
    pub(super) is_admitted: AtomicBool,
}

/// The part of a key's order that was queried.
#[derive(Debug, Clone, Copy)]
pub(super) struct AskedRange {
    pub(super) from: Position,
    pub(super) to: Position,
    /// The last of the events for which it was queried.
    pub(super) last: Position,
    /// Everything before this position was counted; if nothing was found, nothing is there.
    pub(super) clear: Position,
    /// Whether it was the whole key, as far as its shard has been read.
    pub(super) is_whole: bool,
}

impl AskedRange {
    /// Whether more must be queried before the events can be sent.
    pub(super) fn is_cut(&self) -> bool {
        self.to < self.last
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        let mut inner = self.in_flight.lock();
        inner.fetches.remove(&self.number);
        inner.drop_settled();
        // Its rows are unsettled, and not in flight.
        if !*self.is_admitted.get_mut() {
            inner.free.forget();
        }
    }
}

impl Fetch {
    /// Notes the position up to which the open range of each shard was read: there the cursor will be.
    pub(crate) fn note_read_to(&mut self, read_to: HashMap<i16, Position>) {
        self.read_to = read_to;
    }

    /// The query for each key of the rows: does anything precede its last row? None for a key that was free a moment ago.
    ///
    /// For a key whose dead rows take long to scan, it covers only what is not known to be clear, and only a part of that if
    /// queries may be divided (`in_parts`).
    pub(crate) fn questions(&mut self, rows: &[FetchedRow], now: BootInstant, in_parts: bool) -> Vec<PredecessorQuery> {
        let inner = self.in_flight.lock();
        let on_its_way = |id: &Uuid| {
            let entry = inner.events.get(id).filter(|entry| !entry.blocks())?;
            Some((*id, entry.position.seq))
        };
        let mut questions: HashMap<&str, PredecessorQuery> = HashMap::new();
        let mut ends: HashMap<&str, Position> = HashMap::new();
        let is_new = |row: &&FetchedRow| !row.partition_key.is_empty() && !inner.events.contains_key(&row.id);
        self.free = rows.iter().filter(is_new).map(|row| row.partition_key.clone()).collect();
        for row in rows.iter().filter(is_new).filter(|row| !in_parts || !inner.free.has(row, now)) {
            self.free.remove(&row.partition_key);
        }
        for row in rows.iter().filter(|row| inner.is_repetition(row.id, row.position)) {
            self.free.remove(&row.partition_key);
        }
        for row in rows.iter().filter(is_new).filter(|row| !self.free.contains(&row.partition_key)) {
            let question = questions.entry(&row.partition_key).or_insert_with(|| PredecessorQuery {
                key: row.partition_key.clone(),
                from: row.position,
                before: row.position,
                except: {
                    let chain = inner.by_key.get(row.partition_key.as_str()).into_iter().flatten();
                    chain.filter_map(on_its_way).collect()
                },
            });
            question.from = question.from.min(row.position);
            question.before = question.before.max(row.position);
            question.except.push((row.id, row.position.seq));
            ends.extend(self.read_to.get(&row.shard).map(|end| (row.partition_key.as_str(), *end)));
        }
        self.asked.clear();
        for question in questions.values_mut() {
            let on_their_way = inner.chain(&question.key).map(|entry| entry.position);
            let clear = on_their_way.fold(question.from, Position::min);
            let (from, to) = match in_parts {
                true => inner.cleared.range(&question.key, question.before, now),
                false => (inner.cleared.place(&question.key), question.before),
            };
            let read_to = ends.get(question.key.as_str()).copied().filter(|_| to == question.before);
            let (to, clear) = (read_to.map_or(to, |end| end.max(to)), clear.min(to));
            let is_whole = from == Position::START && read_to.is_some();
            let asked = AskedRange { from, to, last: question.before, clear, is_whole };
            self.asked.insert(question.key.clone(), asked);
            (question.from, question.before) = (from, to);
        }
        self.asked_at = now;
        questions.into_values().collect()
    }

    /// Notes the result of the queries.
    pub(crate) fn note_answer(&self, blockers: &Blockers, now: BootInstant) {
        let mut inner = self.in_flight.lock();
        inner.cleared.note(&self.asked, blockers, now.since(self.asked_at), now);
        if let Some(snapshot) = blockers.snapshot {
            let is_free = |(key, asked): &(&String, &AskedRange)| asked.is_whole && !blockers.contains_key(*key);
            let free = self.asked.iter().filter(is_free).map(|(key, _)| key.clone());
            inner.free.note(free, snapshot, self.forgotten, self.asked_at);
        }
    }

    /// Notes that the queries exceeded the time limit.
    pub(crate) fn note_no_answer(&self, now: BootInstant) {
        self.in_flight.lock().cleared.note_late(&self.asked, now.since(self.asked_at), now);
    }

    /// Whether more must be queried for a key in which nothing was found.
    pub(crate) fn is_cut(&self, blockers: &HashMap<String, Blocker>) -> bool {
        self.asked.iter().any(|(key, asked)| asked.is_cut() && !blockers.contains_key(key))
    }

    /// Admits rows as deliveries in flight, and remembers the keys of those that wait.
    ///
    /// R1: only rows of shards that are open as they were when the fetch began. R2: no row that is in flight, or was until a
    /// moment ago. R3: no row behind an unsettled event of its key, except events in flight.
    pub(crate) fn admit(
        &self,
        mut rows: Vec<FetchedRow>,
        blockers: &HashMap<String, Blocker>,
        permit: impl Fn(&FetchedRow) -> CreditPermit,
    ) -> Admitted {
        self.is_admitted.store(true, Ordering::Relaxed);
        let mut admitted = Admitted { deliveries: Vec::with_capacity(rows.len()), unreadable: Vec::new() };
        // Stable, so rows without a key stay in the order in which they were read.
        rows.sort_by(|a, b| {
            (!a.partition_key.is_empty()).cmp(&!b.partition_key.is_empty()).then(a.position.cmp(&b.position))
        });
        let mut inner = self.in_flight.lock();
        let mut waiting: HashMap<String, (i16, usize)> = HashMap::new();
        for row in rows {
            let Some(session) = self.still_open(&inner, row.shard) else {
                inner.rewind(row.shard, row.position);
                if row.retry {
                    inner.retries.note(BootInstant::now());
                }
                inner.free.forget_key(&row.partition_key);
                continue;
            };
            if inner.events.contains_key(&row.id) {
                let key = row.partition_key.as_str().into();
                inner.note_repetition(row.id, Repetition { position: row.position, shard: row.shard, key });
                continue;
            }
            if self.waits(&mut inner, &row, session, blockers) {
                inner.free.forget_key(&row.partition_key);
                match waiting.get_mut(&row.partition_key) {
                    Some((_, rows)) => *rows += 1,
                    None => drop(waiting.insert(row.partition_key, (row.shard, 1))),
                }
                continue;
            }
            inner.heavy_keys.remove(&row.partition_key);
            inner.insert(row.id, InFlightEntry::new(&row, Some(session), DeliveryState::Queued));
            let delivery = Delivery::new(&self.in_flight, &row, session, permit(&row));
            match row.event {
                Ok(_) => admitted.deliveries.push(delivery),
                Err(reason) => {
                    // Blocks its key until the failure is recorded, like any other rejection.
                    if let Some(entry) = inner.events.get_mut(&row.id) {
                        entry.state = DeliveryState::Rejected;
                    }
                    admitted.unreadable.push((delivery, reason));
                }
            }
        }
        inner.note_blocked_rows(&waiting);
        admitted
    }

    fn still_open(&self, inner: &Inner, shard: i16) -> Option<SessionId> {
        let now = inner.open.get(&shard)?;
        (self.open.get(&shard) == Some(now) || fault_injection::is_off(ProtocolRule::Openings)).then_some(*now)
    }

    fn waits(
        &self,
        inner: &mut Inner,
        row: &FetchedRow,
        session: SessionId,
        blockers: &HashMap<String, Blocker>,
    ) -> bool {
        let key = row.partition_key.as_str();
        if key.is_empty() || fault_injection::is_off(ProtocolRule::KeyOrder) {
            return false;
        }
        let blocker = blockers.get(key).filter(|blocker| blocker.position < row.position);
        let asked = self.asked.get(key).filter(|asked| row.position <= asked.last);
        // In flight when the query was made, and released since, which causes a reread.
        if asked.is_none() && !self.free.contains(key) {
            return true;
        }
        if asked.is_some_and(|asked| asked.to < row.position) && blocker.is_none() {
            // The rest is queried with the next fetch. A retry comes due again by itself.
            if !row.retry {
                inner.rewind(row.shard, row.position);
            }
            return true;
        }
        let blocked =
            inner.is_blocked(key, row.position) || inner.is_behind_another_session(key, row.position, session);
        let overtakes = inner.is_behind_a_released(key, row.position, self.number);
        if blocker.is_none() && !blocked && !overtakes {
            return false;
        }
        inner.note_blocked_key(key, row.shard);
        if let Some(blocker) = blocker {
            let (position, shard) = (blocker.position, row.shard);
            inner.note_repetition(blocker.id, Repetition { position, shard, key: key.into() });
        }
        // One that was recorded since the query blocks no more, and nothing else would have the key read again.
        let is_in_flight = |blocker: &Blocker| {
            let entry = inner.events.get(&blocker.id);
            entry.is_some_and(|entry| entry.state != DeliveryState::Settled { blocks: false })
        };
        if overtakes || blocker.is_some_and(|blocker| blocker.due && !is_in_flight(blocker)) {
            inner.keys_to_reread.insert(key.to_owned());
        }
        true
    }

    /// Admits events that an open found in the journal, as accepted; an event that is in flight already stays as it is.
    /// Behind a blocker of its key an event is not passed to handlers: it is released to its place in the table.
    ///
    /// `None`: one of them is a replay, and the event that it replays is still in flight. That one was recorded by another
    /// worker, and will be here; until then the shards cannot be opened, because the replay has the same id in memory. Or
    /// its rejection was recorded, and it is remembered only until older fetches are over.
    pub(crate) fn adopt(
        &self,
        rows: Vec<FetchedRow>,
        epochs: &HashMap<i16, i64>,
        blockers: &HashMap<String, Blocker>,
        permit: impl Fn(&FetchedRow) -> CreditPermit,
    ) -> Option<Vec<Delivery>> {
        let mut inner = self.in_flight.lock();
        let is_taken = |row: &FetchedRow| {
            let is_another = |entry: &InFlightEntry| {
                entry.position.seq != row.position.seq || matches!(entry.state, DeliveryState::Settled { .. })
            };
            inner.events.get(&row.id).is_some_and(is_another)
        };
        if rows.iter().any(is_taken) {
            return None;
        }
        let adopted = rows
            .into_iter()
            .filter_map(|row| {
                let epoch = *epochs.get(&row.shard)?;
                if let Some(entry) = inner.events.get_mut(&row.id) {
                    // A fenced session sent it and may not have received the answer.
                    if entry.state == DeliveryState::Queued {
                        entry.state = DeliveryState::Accepted;
                    }
                    return None;
                }
                let mut entry = InFlightEntry::new(&row, None, DeliveryState::Accepted);
                entry.blocked = blockers.get(&row.partition_key).is_some_and(|blocker| blocker.position < row.position)
                    || inner.is_behind_a_released(&row.partition_key, row.position, self.number);
                inner.insert(row.id, entry);
                let mut delivery = Delivery::new(&self.in_flight, &row, SessionId { epoch, number: 0 }, permit(&row));
                delivery.accepted = true;
                Some(delivery)
            })
            .collect();
        Some(adopted)
    }
}

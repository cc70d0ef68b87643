//! What one fetch may take into flight: rules R1 to R3.

use std::collections::HashMap;
use std::sync::Arc;

use uuid::Uuid;

use super::entries::{InFlightEntry, Inner};
use super::{DeliveryState, InFlight, SessionId};
use crate::fault_injection::{self, ProtocolRule};
use crate::store::{Blocker, FetchedRow, Position, PredecessorQuery};
use crate::system::clock::BootInstant;
use crate::system::credit::CreditPermit;
use crate::system::delivery::Delivery;

/// Events read by one fetch that may go, and those that cannot be read.
#[derive(Default)]
pub(crate) struct Admitted {
    pub(crate) deliveries: Vec<Delivery>,
    /// Rows that are no events, with the reason.
    pub(crate) unreadable: Vec<(Delivery, String)>,
}

impl Admitted {
    pub(crate) fn all(&self) -> impl Iterator<Item = &Delivery> {
        self.deliveries.iter().chain(self.unreadable.iter().map(|(delivery, _)| delivery))
    }
}

/// A fetch that is under way; over when dropped.
pub(crate) struct Fetch {
    pub(super) in_flight: Arc<InFlight>,
    pub(super) number: u64,
    pub(super) open: HashMap<i16, SessionId>,
    /// What the database was asked about each key.
    pub(super) asked: HashMap<String, AskedRange>,
    pub(super) asked_at: BootInstant,
}

/// The part of a key's order that the database was asked about.
#[derive(Debug, Clone, Copy)]
pub(super) struct AskedRange {
    pub(super) from: Position,
    pub(super) to: Position,
    /// The last of the events for which it was asked.
    pub(super) last: Position,
    /// Before this place everything counted; where nothing was found, nothing is there.
    pub(super) clear: Position,
}

impl AskedRange {
    /// There is more to be asked before the events can go.
    pub(super) fn is_cut(&self) -> bool {
        self.to < self.last
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        let mut inner = self.in_flight.lock();
        inner.fetches.remove(&self.number);
        inner.drop_settled();
    }
}

impl Fetch {
    /// For each key of the rows, what has to be asked about it: does anything stand before its last row?
    ///
    /// Where a key's dead rows take long to walk over, only about what is not known to be clear, and about a part of it if the
    /// questions may be put in parts.
    pub(crate) fn questions(&mut self, rows: &[FetchedRow], now: BootInstant, in_parts: bool) -> Vec<PredecessorQuery> {
        let inner = self.in_flight.lock();
        let on_its_way = |id: &Uuid| inner.events.get(id).is_some_and(|entry| !entry.blocks());
        let mut questions: HashMap<&str, PredecessorQuery> = HashMap::new();
        for row in rows.iter().filter(|row| !row.partition_key.is_empty() && !inner.events.contains_key(&row.id)) {
            let question = questions.entry(&row.partition_key).or_insert_with(|| PredecessorQuery {
                key: row.partition_key.clone(),
                from: row.position,
                before: row.position,
                except: {
                    let chain = inner.by_key.get(row.partition_key.as_str()).into_iter().flatten();
                    chain.copied().filter(on_its_way).collect()
                },
            });
            question.from = question.from.min(row.position);
            question.before = question.before.max(row.position);
            question.except.push(row.id);
        }
        self.asked.clear();
        for question in questions.values_mut() {
            let on_their_way = inner.chain(&question.key).map(|entry| entry.position);
            let clear = on_their_way.fold(question.from, Position::min);
            let (from, to) = match in_parts {
                true => inner.cleared.range(&question.key, question.before, now),
                false => (inner.cleared.place(&question.key), question.before),
            };
            self.asked
                .insert(question.key.clone(), AskedRange { from, to, last: question.before, clear: clear.min(to) });
            (question.from, question.before) = (from, to);
        }
        self.asked_at = now;
        questions.into_values().collect()
    }

    /// The questions have been answered.
    pub(crate) fn note_answer(&self, blockers: &HashMap<String, Blocker>, now: BootInstant) {
        self.in_flight.lock().cleared.note(&self.asked, blockers, now.since(self.asked_at), now);
    }

    /// The questions were not answered in time.
    pub(crate) fn note_no_answer(&self, now: BootInstant) {
        self.in_flight.lock().cleared.note_late(&self.asked, now.since(self.asked_at), now);
    }

    /// Whether there is more to be asked about a key in which nothing was found.
    pub(crate) fn is_cut(&self, blockers: &HashMap<String, Blocker>) -> bool {
        self.asked.iter().any(|(key, asked)| asked.is_cut() && !blockers.contains_key(key))
    }

    /// Takes those rows into flight that may go, and remembers the keys of those that wait.
    ///
    /// R1: only rows of shards that are open as they were when the fetch began. R2: none that is in flight, or was until
    /// a moment ago. R3: none behind an unsettled event of its key, other than those on their way.
    pub(crate) fn admit(
        &self,
        mut rows: Vec<FetchedRow>,
        blockers: &HashMap<String, Blocker>,
        permit: impl Fn(&FetchedRow) -> CreditPermit,
    ) -> Admitted {
        let mut admitted = Admitted { deliveries: Vec::with_capacity(rows.len()), unreadable: Vec::new() };
        // Stable, so rows without a key stay in the order of reading.
        rows.sort_by(|a, b| {
            (!a.partition_key.is_empty()).cmp(&!b.partition_key.is_empty()).then(a.position.cmp(&b.position))
        });
        let mut inner = self.in_flight.lock();
        for row in rows {
            let Some(session) = self.still_open(&inner, row.shard) else {
                inner.rewind(row.shard, row.position);
                continue;
            };
            if inner.events.contains_key(&row.id) || self.waits(&mut inner, &row, session, blockers) {
                continue;
            }
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
        // In flight when the questions were put, and given back since, which has it read again.
        let Some(asked) = self.asked.get(key).filter(|asked| row.position <= asked.last) else { return true };
        if asked.to < row.position && blocker.is_none() {
            // The rest of the question is asked with the next fetch. A retry comes due again by itself.
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
        if overtakes || blocker.is_some_and(|blocker| blocker.due && !inner.events.contains_key(&blocker.id)) {
            inner.keys_to_reread.insert(key.to_owned());
        }
        true
    }

    /// Takes what an open found in the journal into flight as accepted; what is in flight already stays as it is. Behind a
    /// blocker of its key it is not given to handlers: it goes back to its place in the table.
    ///
    /// `None`: one of them is a replay, and what it replays is still in flight. It was recorded by another worker, and will
    /// be here; until then the shards cannot be opened, for the replay's own place in memory is taken. Or its rejection was
    /// recorded, and it is remembered only until older fetches are over.
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
                    // A session that was shut out sent it and may not have heard the answer.
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

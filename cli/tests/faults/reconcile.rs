//! The comparison of committed events with the stream.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use crate::writers::Committed;

/// The comparison's result, in numbers of events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reconciliation {
    pub(crate) committed: usize,
    pub(crate) in_stream: usize,
    /// Committed events that are not in the stream.
    pub(crate) lost: usize,
    /// Entries of an event after its first.
    pub(crate) duplicated: usize,
    /// Events that arrived after a later event of their key.
    pub(crate) disordered: usize,
    /// Entries of events that no writer committed.
    pub(crate) uncommitted: usize,
    /// Events that are lost, duplicated or not committed, explained by a server's own losses.
    pub(crate) explained: usize,
    /// Some of the problems, in words.
    pub(crate) examples: Vec<String>,
}

/// Acknowledged writes that a server lost, and their possible consequences.
#[derive(Debug, Clone, Default)]
pub(crate) struct Losses {
    /// Events that the server no longer has: they may be missing.
    gone: HashSet<Uuid>,
    /// Events that it no longer has as published: each may be sent once again for every such loss.
    unrecorded: Vec<Uuid>,
}

impl Losses {
    /// The old server's events that the new one lacks; each with whether it is recorded as published.
    pub(crate) fn between(old: &HashMap<Uuid, bool>, new: &HashMap<Uuid, bool>) -> Self {
        let gone = old.keys().filter(|id| !new.contains_key(id)).copied().collect();
        let is_unrecorded = |(id, published): &(&Uuid, &bool)| **published && new.get(id) == Some(&false);
        let unrecorded = old.iter().filter(is_unrecorded).map(|(id, _)| *id).collect();
        Self { gone, unrecorded }
    }

    /// Expects another entry of an event, which was replayed.
    pub(crate) fn expect_again(&mut self, id: Uuid) {
        self.unrecorded.push(id);
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.gone.extend(other.gone);
        self.unrecorded.extend(other.unrecorded);
    }
}

const EXAMPLES: usize = 10;

impl Reconciliation {
    /// `committed`: the events that each writer committed, in its order. `stream`: the entries' events, in the stream's
    /// order.
    pub(crate) fn of(committed: &[Vec<Committed>], stream: &[Uuid]) -> Self {
        Self::after(&Losses::default(), committed, stream)
    }

    /// Compares, if a server lost acknowledged writes.
    pub(crate) fn after(losses: &Losses, committed: &[Vec<Committed>], stream: &[Uuid]) -> Self {
        let mut again: HashMap<Uuid, usize> = HashMap::new();
        losses.unrecorded.iter().for_each(|id| *again.entry(*id).or_default() += 1);
        let mut places: HashMap<Uuid, usize> = HashMap::with_capacity(stream.len());
        let mut reconciliation = Self { in_stream: stream.len(), ..Self::default() };
        for (place, id) in stream.iter().enumerate() {
            if let Some(first) = places.get(id) {
                if let Some(times @ 1..) = again.get_mut(id) {
                    *times -= 1;
                    reconciliation.explained += 1;
                    continue;
                }
                reconciliation.duplicated += 1;
                reconciliation.note(|| format!("{id} arrived twice, at positions {first} and {place}"));
            } else {
                places.insert(*id, place);
            }
        }
        // The last position of each key so far.
        let mut latest: HashMap<&str, usize> = HashMap::new();
        for event in committed.iter().flatten() {
            reconciliation.committed += 1;
            let Some(place) = places.remove(&event.id) else {
                if losses.gone.contains(&event.id) {
                    reconciliation.explained += 1;
                    continue;
                }
                reconciliation.lost += 1;
                reconciliation.note(|| format!("{} is lost", event.id));
                continue;
            };
            if event.key.is_empty() {
                continue;
            }
            let last = latest.entry(&event.key).or_insert(place);
            if *last > place {
                reconciliation.disordered += 1;
                reconciliation.note(|| {
                    format!(
                        "{}, of {}, arrived at position {place}, a later one at position {last}",
                        event.id, event.key
                    )
                });
            }
            *last = place.max(*last);
        }
        let known = places.len();
        // Their writer got no answer, and queried the server that has lost them.
        places.retain(|id, _| !losses.gone.contains(id));
        reconciliation.explained += known - places.len();
        reconciliation.uncommitted = places.len();
        places.keys().for_each(|id| reconciliation.note(|| format!("{id} was not committed")));
        reconciliation
    }

    /// Adds the comparison of other events.
    pub(crate) fn add(&mut self, other: Self) {
        self.committed += other.committed;
        self.in_stream += other.in_stream;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.disordered += other.disordered;
        self.uncommitted += other.uncommitted;
        self.explained += other.explained;
        self.examples.extend(other.examples);
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES {
            self.examples.push(what());
        }
    }

    pub(crate) fn is_even(&self) -> bool {
        let Self { lost, duplicated, disordered, uncommitted, .. } = self;
        lost + duplicated + disordered + uncommitted == 0
    }
}

#[test]
fn a_ledger_tells_what_is_lost_duplicated_disordered_and_of_no_commit() {
    let event = |number: u128, key: &str| Committed { id: Uuid::from_u128(number), key: key.to_owned() };
    let committed =
        [vec![event(1, "a"), event(2, "a"), event(3, "b"), event(4, "b")], vec![event(5, ""), event(6, "c")]];
    let stream = [2, 1, 3, 5, 4, 4, 7].map(Uuid::from_u128);
    let reconciliation = Reconciliation::of(&committed, &stream);
    let expected = Reconciliation {
        committed: 6,
        in_stream: 7,
        lost: 1,
        duplicated: 1,
        disordered: 1,
        uncommitted: 1,
        ..reconciliation.clone()
    };
    assert_eq!(reconciliation, expected);
    assert_eq!((reconciliation.is_even(), reconciliation.examples.len()), (false, 4));
    assert!(Reconciliation::of(&committed, &[1, 3, 6, 2, 5, 4].map(Uuid::from_u128)).is_even());
}

#[test]
fn a_ledger_explains_what_a_server_lost_and_nothing_else() {
    let ids: Vec<Uuid> = (1..=6).map(Uuid::from_u128).collect();
    let table = |rows: &[(usize, bool)]| rows.iter().map(|(n, published)| (ids[*n], *published)).collect();
    let losses = Losses::between(
        &table(&[(0, true), (1, false), (2, true), (3, true), (4, false)]),
        &table(&[(0, false), (1, false), (2, true)]),
    );
    let committed = [[0, 1, 2, 3].map(|n| Committed { id: ids[n], key: String::new() }).to_vec()];
    let of = |stream: &[usize]| {
        let stream: Vec<Uuid> = stream.iter().map(|n| ids[*n]).collect();
        let reconciliation = Reconciliation::after(&losses, &committed, &stream);
        (reconciliation.explained, reconciliation.lost, reconciliation.duplicated, reconciliation.uncommitted)
    };
    assert_eq!(of(&[0, 1, 2, 3]), (0, 0, 0, 0));
    assert_eq!(of(&[0, 0, 1, 2, 4]), (3, 0, 0, 0), "sent again, missing, and missing without an answer");
    assert_eq!(of(&[0, 0, 0, 1, 1, 2, 2, 3]), (1, 0, 3, 0));
    assert_eq!(of(&[0, 3, 5]), (0, 2, 0, 1));
}

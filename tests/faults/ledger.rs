//! What was committed, compared with what the stream holds.

use std::collections::HashMap;

use uuid::Uuid;

use crate::writers::Committed;

/// The comparison's result, in numbers of events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Balance {
    pub(crate) committed: usize,
    pub(crate) in_stream: usize,
    /// Committed, and not in the stream.
    pub(crate) lost: usize,
    /// Entries beyond the first of an event.
    pub(crate) duplicated: usize,
    /// Events that came after a later one of their key.
    pub(crate) disordered: usize,
    /// Entries of events that nobody committed.
    pub(crate) uncommitted: usize,
    /// Some of those that are not as they should be.
    pub(crate) examples: Vec<String>,
}

const EXAMPLES: usize = 10;

impl Balance {
    /// `committed`: what each writer committed, in its order. `stream`: the entries' events, in theirs.
    pub(crate) fn of(committed: &[Vec<Committed>], stream: &[Uuid]) -> Self {
        let mut places: HashMap<Uuid, usize> = HashMap::with_capacity(stream.len());
        let mut balance = Self { in_stream: stream.len(), ..Self::default() };
        for (place, id) in stream.iter().enumerate() {
            if let Some(first) = places.get(id) {
                balance.duplicated += 1;
                balance.note(|| format!("{id} came twice, in places {first} and {place}"));
            } else {
                places.insert(*id, place);
            }
        }
        // The last place of each key so far.
        let mut latest: HashMap<&str, usize> = HashMap::new();
        for event in committed.iter().flatten() {
            balance.committed += 1;
            let Some(place) = places.remove(&event.id) else {
                balance.lost += 1;
                balance.note(|| format!("{} is lost", event.id));
                continue;
            };
            if event.key.is_empty() {
                continue;
            }
            let last = latest.entry(&event.key).or_insert(place);
            if *last > place {
                balance.disordered += 1;
                balance.note(|| {
                    format!("{}, of {}, came in place {place}, a later one in place {last}", event.id, event.key)
                });
            }
            *last = place.max(*last);
        }
        balance.uncommitted = places.len();
        places.keys().for_each(|id| balance.note(|| format!("{id} was not committed")));
        balance
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
    let balance = Balance::of(&committed, &stream);
    let expected = Balance {
        committed: 6,
        in_stream: 7,
        lost: 1,
        duplicated: 1,
        disordered: 1,
        uncommitted: 1,
        ..balance.clone()
    };
    assert_eq!(balance, expected);
    assert_eq!((balance.is_even(), balance.examples.len()), (false, 4));
    assert!(Balance::of(&committed, &[1, 3, 6, 2, 5, 4].map(Uuid::from_u128)).is_even());
}

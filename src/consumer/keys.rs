//! The keys of which an event is being delivered, with the entries that wait behind it.

use std::collections::{HashMap, VecDeque};

use crate::backend::event_source::{EntryRef, LeaseId, Received};

/// A key of one stream, whose events are handled one after the other, also those of retried dead letters.
pub(super) type Key = (usize, String);

/// An entry whose event is not in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parked {
    pub(super) entry: EntryRef,
    pub(super) deliveries: u32,
    pub(super) is_claimed: bool,
    pub(super) lease: Option<LeaseId>,
}

/// Parked entries of a key and a stream that are loaded together, at most.
const MOST_LOADED: usize = 100;

/// An entry that waits for an earlier one of its key.
#[derive(Debug)]
pub(super) enum Queued {
    Read(Received),
    Parked(Parked),
}

/// What comes next of a key.
#[derive(Debug)]
pub(super) enum Next {
    Entry(Received),
    /// The events of these must be loaded first.
    Parked(Vec<Parked>),
}

#[derive(Debug, Default)]
pub(super) struct Keys {
    busy: HashMap<Key, VecDeque<Queued>>,
}

pub(super) fn key_of(received: &Received) -> Option<Key> {
    let key = &received.event.as_ref().ok()?.partition_key;
    (!key.is_empty()).then(|| (received.entry.origin(), key.clone()))
}

impl From<&Received> for Parked {
    fn from(received: &Received) -> Self {
        let Received { entry, deliveries, is_claimed, lease, .. } = *received;
        Self { entry, deliveries, is_claimed, lease }
    }
}

impl Keys {
    /// Returns the entry if it can be delivered now. Otherwise it waits: `keeps` says whether its event remains in memory.
    pub(super) fn enter(
        &mut self,
        key: Option<&Key>,
        received: Received,
        keeps: impl FnOnce(EntryRef) -> bool,
    ) -> Option<Received> {
        let Some(key) = key else { return Some(received) };
        match self.busy.get_mut(key) {
            Some(waiting) if keeps(received.entry) => waiting.push_back(Queued::Read(received)),
            Some(waiting) => waiting.push_back(Queued::Parked(Parked::from(&received))),
            None => {
                self.busy.insert(key.clone(), VecDeque::new());
                return Some(received);
            }
        }
        None
    }

    /// Ends a key's delivery; returns what is next: an entry, or some that are parked.
    pub(super) fn leave(&mut self, key: &Key) -> Option<Next> {
        let waiting = self.busy.get_mut(key)?;
        match waiting.pop_front() {
            Some(Queued::Read(received)) => Some(Next::Entry(received)),
            Some(Queued::Parked(first)) => {
                let mut parked = vec![first];
                while parked.len() < MOST_LOADED
                    && let Some(Queued::Parked(next)) = waiting.front()
                    && next.entry.stream == first.entry.stream
                {
                    parked.push(*next);
                    waiting.pop_front();
                }
                Some(Next::Parked(parked))
            }
            None => {
                self.busy.remove(key);
                None
            }
        }
    }

    /// Puts entries that were loaded before all others of their key, and behind them those for which there was no room.
    pub(super) fn put_back(&mut self, key: &Key, loaded: Vec<Received>, parked: Vec<Parked>) {
        let waiting = self.busy.entry(key.clone()).or_default();
        parked.into_iter().rev().for_each(|parked| waiting.push_front(Queued::Parked(parked)));
        loaded.into_iter().rev().for_each(|received| waiting.push_front(Queued::Read(received)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::event_source::EntryId;

    fn received(number: u64) -> Received {
        let entry = EntryRef { stream: 0, id: EntryId { millis: 1, number } };
        Received { entry, deliveries: 1, is_claimed: false, lease: None, bytes: 1, event: Err(String::new()) }
    }

    fn key(name: &str) -> Key {
        (0, name.to_owned())
    }

    /// The numbers of what is next.
    fn next(keys: &mut Keys) -> Vec<u64> {
        match keys.leave(&key("a")) {
            Some(Next::Entry(received)) => vec![received.entry.id.number],
            Some(Next::Parked(parked)) => parked.iter().map(|parked| parked.entry.id.number).collect(),
            None => Vec::new(),
        }
    }

    #[test]
    fn the_entries_of_a_key_leave_one_by_one_and_in_order() {
        let mut keys = Keys::default();
        let keep = |_| true;
        assert!(keys.enter(Some(&key("a")), received(1), keep).is_some());
        assert!(keys.enter(Some(&key("a")), received(2), keep).is_none());
        assert!(keys.enter(Some(&key("a")), received(3), keep).is_none());
        assert!(keys.enter(Some(&key("b")), received(4), keep).is_some());
        assert!(keys.enter(None, received(5), keep).is_some());
        assert_eq!([next(&mut keys), next(&mut keys), next(&mut keys)], [vec![2], vec![3], vec![]]);
        assert!(keys.enter(Some(&key("a")), received(6), keep).is_some());
        assert_eq!(keys.busy.len(), 2);
    }

    #[test]
    fn parked_entries_keep_their_place_when_they_are_loaded() {
        let mut keys = Keys::default();
        for (number, keeps) in [(1, true), (2, true), (3, false), (4, false), (5, false), (6, true)] {
            keys.enter(Some(&key("a")), received(number), |_| keeps);
        }
        assert_eq!([next(&mut keys), next(&mut keys)], [vec![2], vec![3, 4, 5]]);
        keys.put_back(&key("a"), vec![received(3), received(4)], vec![Parked::from(&received(5))]);
        let order: Vec<Vec<u64>> = (0..5).map(|_| next(&mut keys)).collect();
        assert_eq!(order, [vec![3], vec![4], vec![5], vec![6], vec![]]);
    }

    #[test]
    fn a_retried_dead_letter_waits_for_its_key_and_is_loaded_from_its_own_stream() {
        let mut keys = Keys::default();
        for (number, stream) in [(1, 0), (2, 0), (3, 1), (4, 1), (5, 0)] {
            let mut received = received(number);
            received.entry.stream = stream;
            let key = (received.entry.origin(), "a".to_owned());
            assert_eq!(keys.enter(Some(&key), received, |_| false).is_some(), number == 1);
        }
        let order: Vec<Vec<u64>> = (0..4).map(|_| next(&mut keys)).collect();
        assert_eq!(order, [vec![2], vec![3, 4], vec![5], vec![]]);
    }
}

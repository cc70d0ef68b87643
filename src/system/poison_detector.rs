//! Finds the event that breaks the session whenever it is sent. Pure.
//!
//! An unavailable backend fails for every event. An event that fails alone, again and again, while others pass in between,
//! is itself the cause and is rejected.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

/// How often an event must fail alone, with others accepted in between, to be the cause.
const PROOF: u32 = 3;

/// The most suspects that are remembered.
const MOST: usize = 256;

#[derive(Debug, Default)]
struct Suspect {
    /// Whether another event was accepted since it last failed.
    others_passed: bool,
    proven: u32,
}

#[derive(Debug, Default)]
pub(super) struct PoisonDetector(HashMap<Uuid, Suspect>);

impl PoisonDetector {
    /// Notes that the session broke while this event was the only one in it. Without evidence that the event may be the
    /// cause (the backend named a state of its own), it is only sorted behind others.
    pub(super) fn failed_alone(&mut self, id: Uuid, is_evidence: bool) {
        if self.0.len() >= MOST && !self.0.contains_key(&id) {
            return;
        }
        let suspect = self.0.entry(id).or_default();
        if is_evidence && std::mem::take(&mut suspect.others_passed) {
            suspect.proven += 1;
        }
    }

    /// Notes that these events were accepted.
    pub(super) fn passed(&mut self, ids: impl Iterator<Item = Uuid>) {
        if self.0.is_empty() {
            return;
        }
        let mut any = false;
        for id in ids {
            any = true;
            self.0.remove(&id);
        }
        if any {
            self.0.values_mut().for_each(|suspect| suspect.others_passed = true);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn is_suspect(&self, id: Uuid) -> bool {
        self.0.contains_key(&id)
    }

    pub(super) fn is_proven(&self, id: Uuid) -> bool {
        self.0.get(&id).is_some_and(|suspect| suspect.proven >= PROOF)
    }

    pub(super) fn forget(&mut self, id: Uuid) {
        self.0.remove(&id);
    }

    /// Which of these events (id and key, in their order) go last, so that others can be accepted before them: the suspects,
    /// and events behind a suspect in its key's order.
    pub(super) fn sort_last<'a>(&self, events: impl Iterator<Item = (Uuid, &'a str)>) -> Vec<bool> {
        let mut keys = HashSet::new();
        events
            .map(|(id, key)| {
                let last = self.is_suspect(id) || keys.contains(key);
                if last && !key.is_empty() {
                    keys.insert(key);
                }
                last
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_the_cause_only_when_others_pass_between_its_failures() {
        let (bad, good) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut suspects = PoisonDetector::default();
        for _ in 0..100 {
            suspects.failed_alone(bad, true);
        }
        assert!(!suspects.is_proven(bad), "an outage proves nothing");
        for _ in 0..PROOF {
            suspects.passed([good].into_iter());
            suspects.failed_alone(bad, true);
        }
        assert!(suspects.is_proven(bad));
    }

    #[test]
    fn a_state_that_the_backend_names_is_no_evidence() {
        let (large, small) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut suspects = PoisonDetector::default();
        for _ in 0..100 {
            suspects.failed_alone(large, false);
            suspects.passed([small].into_iter());
        }
        assert!(suspects.is_suspect(large) && !suspects.is_proven(large));
    }

    #[test]
    fn what_stands_behind_a_suspect_in_its_keys_order_goes_last_with_it() {
        let mut suspects = PoisonDetector::default();
        suspects.failed_alone(Uuid::from_u128(2), true);
        suspects.failed_alone(Uuid::from_u128(5), true);
        let keys = ["a", "a", "b", "a", "", ""];
        let events = keys.iter().zip(1..).map(|(key, n)| (Uuid::from_u128(n), *key));
        assert_eq!(suspects.sort_last(events), [false, true, false, true, true, false]);
    }

    #[test]
    fn an_event_that_passes_is_no_suspect() {
        let id = Uuid::from_u128(1);
        let mut suspects = PoisonDetector::default();
        suspects.failed_alone(id, true);
        suspects.passed([id].into_iter());
        assert!(!suspects.is_suspect(id));
    }
}

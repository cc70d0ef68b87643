//! Handlers that were recently left an event of a key: they may be owed it before the database shows that. Pure except for
//! the clock that is passed in.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::clock::BootInstant;
use crate::store::LaneName;

pub(super) type Key = (LaneName, String);

/// How long a handler that was left an event of a key is left the later ones, too, whatever the database shows: longer than
/// a settle takes.
const LEFT_FOR: Duration = Duration::from_secs(60);

/// The most keys that are remembered one by one; beyond them a handler is left the events of every key.
const MOST_KEYS: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct RemainingHandlers {
    by_key: HashMap<Key, BTreeMap<String, BootInstant>>,
    of_every_key: BTreeMap<String, BootInstant>,
}

impl RemainingHandlers {
    /// Notes that these handlers were left an event of the key.
    pub(super) fn note(&mut self, key: &Key, names: &[String], now: BootInstant) {
        let until = now.after(LEFT_FOR);
        if !self.by_key.contains_key(key) && self.by_key.len() >= MOST_KEYS {
            self.forget(now);
        }
        if !self.by_key.contains_key(key) && self.by_key.len() >= MOST_KEYS {
            self.of_every_key.extend(names.iter().map(|name| (name.clone(), until)));
            return;
        }
        self.by_key.entry(key.clone()).or_default().extend(names.iter().map(|name| (name.clone(), until)));
    }

    pub(super) fn has(&self, key: &Key, name: &str, now: BootInstant) -> bool {
        let of_key = self.by_key.get(key).and_then(|names| names.get(name));
        [of_key, self.of_every_key.get(name)].into_iter().flatten().any(|until| *until > now)
    }

    fn forget(&mut self, now: BootInstant) {
        for names in self.by_key.values_mut() {
            names.retain(|_, until| *until > now);
        }
        self.by_key.retain(|_, names| !names.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: usize) -> Key {
        (LaneName::from(""), name.to_string())
    }

    #[test]
    fn what_was_left_to_a_handler_is_remembered_by_key_and_for_a_while() {
        let (mut left, now) = (RemainingHandlers::default(), BootInstant::now());
        left.note(&key(1), &["mail".to_owned()], now);
        assert!(left.has(&key(1), "mail", now));
        assert!(!left.has(&key(1), "audit", now) && !left.has(&key(2), "mail", now));
        assert!(!left.has(&key(1), "mail", now.after(LEFT_FOR)));
    }

    #[test]
    fn with_too_many_keys_a_handler_is_left_the_events_of_all() {
        let (mut left, now) = (RemainingHandlers::default(), BootInstant::now());
        for n in 0..=MOST_KEYS {
            left.note(&key(n), &["mail".to_owned()], now);
        }
        assert_eq!(left.by_key.len(), MOST_KEYS);
        assert!(left.has(&key(MOST_KEYS + 7), "mail", now));
        left.note(&key(MOST_KEYS + 1), &["mail".to_owned()], now.after(LEFT_FOR));
        assert_eq!(left.by_key.len(), 1, "expired entries are removed");
    }
}

//! The event that every tool carries.

use serde::{Deserialize, Serialize};

/// 60 bytes as JSON, for numbers of six digits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Event {
    pub(crate) n: u64,
    /// Empty: the event has no key.
    pub(crate) key: String,
    note: String,
}

impl Event {
    const FIRST: u64 = 100_000;
    const LENGTH: usize = 60;

    /// The event at this place; its key, if there are keys, is the remainder.
    fn new(place: u64, keys: u64) -> Self {
        let n = Self::FIRST + place;
        let key = if keys == 0 { String::new() } else { format!("key-{:04}", n % keys) };
        let length = format!(r#"{{"n":{n},"key":"{key}","note":""}}"#).len();
        Self { n, key, note: "x".repeat(Self::LENGTH.saturating_sub(length)) }
    }

    pub(crate) fn without_key(place: u64) -> Self {
        Self::new(place, 0)
    }

    pub(crate) fn key(&self) -> Option<&str> {
        Some(self.key.as_str()).filter(|key| !key.is_empty())
    }
}

/// This many events in the order of their numbers, in batches.
pub(crate) fn numbered(events: u64, keys: u64) -> impl Iterator<Item = Vec<Event>> {
    const BATCH: u64 = 1_000;
    (0..events)
        .step_by(BATCH as usize)
        .map(move |first| (first..events.min(first + BATCH)).map(|place| Event::new(place, keys)).collect())
}

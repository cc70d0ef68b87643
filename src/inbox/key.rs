//! What names an event in the inbox.

use std::fmt;

use super::error::InvalidKey;
use crate::handlers::{HandleEvent, HandleTyped};
use crate::store::inbox::Note;

/// The columns' limits, in characters.
const MAX_CONSUMER: usize = 100;
const MAX_TEXT: usize = 255;

/// An event as one consumer has handled it: the key of the inbox.
///
/// Made of a [`HandleEvent`] or [`HandleTyped`], whose consumer is the handler's name; or for a consumer of its own of
/// the values in the entry of a stream. Its limits are checked when it is used, so that nothing is cut.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InboxKey {
    consumer: String,
    source: String,
    event_id: String,
    seq: i64,
}

impl InboxKey {
    /// The key of an event that carries no `seq`.
    ///
    /// - `consumer` names who handles the event: 1 to 100 characters. Two handlers of one event need two names.
    /// - `source` and `event_id` are the CloudEvent's `source` and `id`, which name the event: 1 to 255 characters each.
    pub fn new(consumer: impl Into<String>, source: impl Into<String>, event_id: impl Into<String>) -> Self {
        Self { consumer: consumer.into(), source: source.into(), event_id: event_id.into(), seq: 0 }
    }

    /// The event's `seq`: an event that is published again on purpose carries another one, so it is handled again.
    #[must_use]
    pub fn seq(self, seq: i64) -> Self {
        Self { seq, ..self }
    }

    /// The columns, if they keep the limits.
    pub(super) fn into_note(self) -> Result<Note, InvalidKey> {
        check("consumer", &self.consumer, MAX_CONSUMER)?;
        check("source", &self.source, MAX_TEXT)?;
        check("event_id", &self.event_id, MAX_TEXT)?;
        Ok((self.consumer, self.source, self.event_id, self.seq))
    }

    fn of_handler(handler: &str, event: &crate::OutboxEvent) -> Self {
        let event_id = match event.cloud_event_id.as_str() {
            "" => event.id.to_string(),
            given => given.to_owned(),
        };
        Self::new(handler, event.source.as_str(), event_id).seq(event.seq)
    }
}

impl From<&HandleEvent> for InboxKey {
    fn from(message: &HandleEvent) -> Self {
        Self::of_handler(&message.handler, &message.event)
    }
}

impl<T> From<&HandleTyped<T>> for InboxKey {
    fn from(message: &HandleTyped<T>) -> Self {
        Self::of_handler(&message.handler, &message.event)
    }
}

impl From<&InboxKey> for InboxKey {
    fn from(key: &InboxKey) -> Self {
        key.clone()
    }
}

/// The columns of several keys.
pub(super) fn into_notes<K: Into<InboxKey>>(keys: impl IntoIterator<Item = K>) -> Result<Vec<Note>, InvalidKey> {
    keys.into_iter().map(|key| key.into().into_note()).collect()
}

fn check(field: &'static str, value: &str, max: usize) -> Result<(), InvalidKey> {
    let refuse = |problem: fmt::Arguments<'_>| Err(InvalidKey { field, problem: problem.to_string() });
    match value.chars().count() {
        0 => refuse(format_args!("is empty; it must have 1 to {max} characters")),
        length if length > max => refuse(format_args!("has {length} characters; it must have 1 to {max}")),
        _ if value.contains('\0') => refuse(format_args!("contains a NUL character, which PostgreSQL cannot store")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "testing")]
    #[test]
    fn a_message_is_the_handlers_event() {
        let event = crate::NewEvent::new("t", "tests");
        let named = event.clone().cloud_event_id("A-1").preview().unwrap();
        let key = InboxKey::from(&crate::testing::handle_event(crate::OutboxEvent { seq: 7, ..named }));
        assert_eq!(key, InboxKey::new("handler", "tests", "A-1").seq(7));
        let unnamed = event.preview().unwrap();
        let id = unnamed.id.to_string();
        let key = InboxKey::from(&crate::testing::handle_event(unnamed));
        assert_eq!(key, InboxKey::new("handler", "tests", id));
    }

    #[test]
    fn a_key_beyond_a_limit_is_refused_and_not_cut() {
        for (key, field) in [
            (InboxKey::new("", "s", "e"), "consumer"),
            (InboxKey::new("é".repeat(101), "s", "e"), "consumer"),
            (InboxKey::new("c", "", "e"), "source"),
            (InboxKey::new("c", "s".repeat(256), "e"), "source"),
            (InboxKey::new("c", "s", "e".repeat(256)), "event_id"),
            (InboxKey::new("c", "s", "e\0"), "event_id"),
        ] {
            assert_eq!(key.into_note().unwrap_err().field, field);
        }
        let longest = InboxKey::new("é".repeat(100), "é".repeat(255), "é".repeat(255)).seq(i64::MIN);
        assert_eq!(longest.into_note().unwrap().3, i64::MIN);
    }
}

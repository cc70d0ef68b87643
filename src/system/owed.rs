//! Deliveries to handlers of this process that are owed and in memory.
//!
//! A delivery that ended stays excluded until the fetch that started before is over: the fetch may have read it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use crate::clock::BootInstant;

/// An event as a handler is owed it.
pub(super) type Key = (Uuid, i64);

#[derive(Debug, Default)]
pub(crate) struct DeliveriesInFlight {
    handlers: Mutex<HashMap<String, OfHandler>>,
}

#[derive(Debug, Default)]
struct OfHandler {
    deliveries: HashMap<Key, InMemory>,
    is_fetching: bool,
}

#[derive(Debug)]
struct InMemory {
    /// The shard of the handler's lane.
    shard: i16,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The database has not recorded the handler's answer since then.
    Unwritable(BootInstant),
    Ended,
}

impl OfHandler {
    fn is_busy(&self) -> bool {
        self.deliveries.values().any(|delivery| delivery.state == State::Open)
    }

    /// The deliveries whose answer could not be recorded before that time.
    fn unwritable(&self, before: BootInstant) -> impl Iterator<Item = Key> {
        let is_meant = move |state| matches!(state, State::Unwritable(since) if since < before);
        self.deliveries.iter().filter(move |(_, delivery)| is_meant(delivery.state)).map(|(key, _)| *key)
    }
}

impl DeliveriesInFlight {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, OfHandler>> {
        self.handlers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a fetch; `None` if one is under way.
    pub(super) fn begin_fetch(self: &Arc<Self>, handler: &str) -> Option<FetchGuard> {
        let mut handlers = self.lock();
        let of_handler = handlers.entry(handler.to_owned()).or_default();
        if std::mem::replace(&mut of_handler.is_fetching, true) {
            return None;
        }
        let (except, began_busy) = (of_handler.deliveries.keys().copied().collect(), of_handler.is_busy());
        Some(FetchGuard { owed: Arc::clone(self), handler: handler.to_owned(), except, began_busy })
    }

    /// Adds a fetched delivery, unless it is in memory already.
    pub(super) fn take(self: &Arc<Self>, handler: &str, key: Key, shard: i16) -> Option<DeliveryGuard> {
        let mut handlers = self.lock();
        let deliveries = &mut handlers.entry(handler.to_owned()).or_default().deliveries;
        if deliveries.contains_key(&key) {
            return None;
        }
        deliveries.insert(key, InMemory { shard, state: State::Open });
        Some(DeliveryGuard { owed: Arc::clone(self), handler: handler.to_owned(), key })
    }

    fn end_fetch(&self, handler: &str) {
        if let Some(of_handler) = self.lock().get_mut(handler) {
            of_handler.is_fetching = false;
            of_handler.deliveries.retain(|_, delivery| delivery.state != State::Ended);
        }
    }

    fn end(&self, handler: &str, key: Key) {
        let mut handlers = self.lock();
        let Some(of_handler) = handlers.get_mut(handler) else { return };
        match of_handler.deliveries.get_mut(&key) {
            Some(delivery) if of_handler.is_fetching => delivery.state = State::Ended,
            _ => drop(of_handler.deliveries.remove(&key)),
        }
    }

    /// The deliveries, by handler, whose answer the database has not recorded since before that time; `None` if others are in
    /// memory.
    pub(super) fn only_unwritable(&self, before: BootInstant) -> Option<HashMap<String, Vec<Key>>> {
        let mut unwritable = HashMap::new();
        for (name, of_handler) in self.lock().iter() {
            let keys: Vec<Key> = of_handler.unwritable(before).collect();
            if of_handler.deliveries.values().filter(|delivery| delivery.state != State::Ended).count() > keys.len() {
                return None;
            }
            unwritable.insert(name.clone(), keys);
        }
        Some(unwritable)
    }

    /// Whether the lease of the shard is in use.
    pub(super) fn uses(&self, handler: &str, shard: i16) -> bool {
        self.lock()
            .get(handler)
            .is_some_and(|of_handler| of_handler.deliveries.values().any(|other| other.shard == shard))
    }

    /// Whether the handler is being asked, or its answers are being recorded.
    pub(super) fn is_busy(&self, handler: &str) -> bool {
        self.lock().get(handler).is_some_and(OfHandler::is_busy)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock()
            .values()
            .flat_map(|of_handler| of_handler.deliveries.values())
            .all(|delivery| delivery.state == State::Ended)
    }
}

/// A fetch of a handler's deliveries, which ends when it is dropped, also because its actor has died.
#[derive(Debug)]
pub(super) struct FetchGuard {
    owed: Arc<DeliveriesInFlight>,
    handler: String,
    /// The deliveries that it must leave out.
    pub(super) except: Vec<Key>,
    /// The handler had deliveries when it began.
    began_busy: bool,
}

impl FetchGuard {
    /// Whether the handler had deliveries in memory when the fetch began and has none now: the fetch left out what waited for
    /// them, and their end started no other.
    pub(super) fn outlived_others(&self) -> bool {
        self.began_busy && !self.owed.is_busy(&self.handler)
    }
}

impl Drop for FetchGuard {
    fn drop(&mut self) {
        self.owed.end_fetch(&self.handler);
    }
}

/// A delivery in memory; forgotten when dropped.
#[derive(Debug)]
pub(super) struct DeliveryGuard {
    owed: Arc<DeliveriesInFlight>,
    handler: String,
    key: Key,
}

impl DeliveryGuard {
    /// Notes that the handler's answer cannot be recorded for now.
    pub(super) fn set_aside(&self) {
        let mut handlers = self.owed.lock();
        let delivery = handlers.get_mut(&self.handler).and_then(|of_handler| of_handler.deliveries.get_mut(&self.key));
        if let Some(delivery) = delivery.filter(|delivery| delivery.state == State::Open) {
            delivery.state = State::Unwritable(BootInstant::now());
        }
    }
}

impl Drop for DeliveryGuard {
    fn drop(&mut self) {
        self.owed.end(&self.handler, self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_ended_delivery_stays_excluded_until_the_current_fetch_ends() {
        let owed = Arc::new(DeliveriesInFlight::default());
        let key = (Uuid::nil(), 7);
        let first = owed.begin_fetch("mail").unwrap();
        assert!(first.except.is_empty() && owed.begin_fetch("mail").is_none(), "one fetch at a time");
        let delivery = owed.take("mail", key, 3).unwrap();
        assert!(!first.outlived_others());
        drop(first);
        assert!(owed.uses("mail", 3) && !owed.uses("mail", 4) && !owed.uses("audit", 3));
        let second = owed.begin_fetch("mail").unwrap();
        assert_eq!(second.except, [key]);
        assert!(!second.outlived_others());
        drop(delivery);
        assert!(owed.take("mail", key, 3).is_none() && owed.is_empty() && second.outlived_others());
        drop(second);
        assert!(owed.take("mail", key, 3).is_some());
    }

    #[test]
    fn a_delivery_whose_answer_cannot_be_recorded_is_nothing_to_wait_for() {
        let owed = Arc::new(DeliveriesInFlight::default());
        let key = (Uuid::nil(), 7);
        let delivery = owed.take("mail", key, 3).unwrap();
        let (early, late) = (BootInstant::now(), BootInstant::now().after(Duration::from_secs(60)));
        assert!(owed.is_busy("mail") && !owed.is_busy("audit") && owed.only_unwritable(late).is_none());
        delivery.set_aside();
        assert!(!owed.is_busy("mail") && owed.uses("mail", 3) && !owed.is_empty());
        assert!(owed.only_unwritable(early).is_none());
        assert_eq!(owed.only_unwritable(late).unwrap()["mail"], [key]);
    }
}

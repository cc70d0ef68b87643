//! Deliveries to handlers of this process that are owed and in memory.
//!
//! A delivery that ended stays excluded until the fetch that started before is over: the fetch may have read it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

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
    /// The database does not record the handler's answer.
    Unwritable,
    Ended,
}

impl OfHandler {
    fn is_busy(&self) -> bool {
        self.deliveries.values().any(|delivery| delivery.state == State::Open)
    }
}

impl DeliveriesInFlight {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, OfHandler>> {
        self.handlers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keys that the next fetch must leave out; `None` if a fetch is under way.
    pub(super) fn begin_fetch(&self, handler: &str) -> Option<Vec<Key>> {
        let mut handlers = self.lock();
        let of_handler = handlers.entry(handler.to_owned()).or_default();
        if std::mem::replace(&mut of_handler.is_fetching, true) {
            return None;
        }
        Some(of_handler.deliveries.keys().copied().collect())
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

    pub(super) fn end_fetch(&self, handler: &str) {
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

    /// The deliveries to the handler that are in memory.
    pub(super) fn of(&self, handler: &str) -> Vec<Key> {
        let handlers = self.lock();
        let deliveries = handlers.get(handler).into_iter().flat_map(|of_handler| &of_handler.deliveries);
        deliveries.filter(|(_, delivery)| delivery.state != State::Ended).map(|(key, _)| *key).collect()
    }

    /// The events of which the database does not record an answer.
    pub(super) fn unwritable(&self) -> Vec<Uuid> {
        let handlers = self.lock();
        let deliveries = handlers.values().flat_map(|of_handler| &of_handler.deliveries);
        deliveries.filter(|(_, delivery)| delivery.state == State::Unwritable).map(|((id, _), _)| *id).collect()
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

    pub(super) fn is_idle(&self) -> bool {
        !self.lock().values().any(OfHandler::is_busy)
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
        if let Some(delivery) = delivery {
            delivery.state = State::Unwritable;
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
    use super::*;

    #[test]
    fn an_ended_delivery_stays_excluded_until_the_current_fetch_ends() {
        let owed = Arc::new(DeliveriesInFlight::default());
        let key = (Uuid::nil(), 7);
        assert_eq!(owed.begin_fetch("mail"), Some(vec![]));
        assert_eq!(owed.begin_fetch("mail"), None, "one fetch at a time");
        let delivery = owed.take("mail", key, 3).unwrap();
        owed.end_fetch("mail");
        assert!(owed.uses("mail", 3) && !owed.uses("mail", 4) && !owed.uses("audit", 3));
        assert_eq!(owed.begin_fetch("mail"), Some(vec![key]));
        drop(delivery);
        assert!(owed.take("mail", key, 3).is_none() && owed.is_idle());
        owed.end_fetch("mail");
        assert!(owed.take("mail", key, 3).is_some());
    }

    #[test]
    fn a_delivery_whose_answer_cannot_be_recorded_is_nothing_to_wait_for() {
        let owed = Arc::new(DeliveriesInFlight::default());
        let key = (Uuid::nil(), 7);
        let delivery = owed.take("mail", key, 3).unwrap();
        assert!(owed.is_busy("mail") && !owed.is_busy("audit") && !owed.is_idle());
        delivery.set_aside();
        assert!(!owed.is_busy("mail") && owed.is_idle() && owed.uses("mail", 3));
        assert_eq!((owed.of("mail"), owed.unwritable()), (vec![key], vec![key.0]));
    }
}

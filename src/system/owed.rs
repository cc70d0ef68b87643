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
    /// The deliveries, with the shard of the handler's lane.
    deliveries: HashMap<Key, i16>,
    is_fetching: bool,
    ended: Vec<Key>,
}

impl OfHandler {
    fn has_any(&self) -> bool {
        self.deliveries.len() > self.ended.len()
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
        deliveries.insert(key, shard);
        Some(DeliveryGuard { owed: Arc::clone(self), handler: handler.to_owned(), key })
    }

    pub(super) fn end_fetch(&self, handler: &str) {
        if let Some(of_handler) = self.lock().get_mut(handler) {
            of_handler.is_fetching = false;
            for key in std::mem::take(&mut of_handler.ended) {
                of_handler.deliveries.remove(&key);
            }
        }
    }

    fn end(&self, handler: &str, key: Key) {
        if let Some(of_handler) = self.lock().get_mut(handler) {
            match of_handler.is_fetching {
                true => of_handler.ended.push(key),
                false => drop(of_handler.deliveries.remove(&key)),
            }
        }
    }

    pub(super) fn is_busy(&self, handler: &str, shard: i16) -> bool {
        self.lock().get(handler).is_some_and(|of_handler| of_handler.deliveries.values().any(|other| *other == shard))
    }

    /// Whether deliveries to the handler are in memory.
    pub(super) fn has_any(&self, handler: &str) -> bool {
        self.lock().get(handler).is_some_and(OfHandler::has_any)
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.lock().values().any(OfHandler::has_any)
    }
}

/// A delivery in memory; forgotten when dropped.
#[derive(Debug)]
pub(super) struct DeliveryGuard {
    owed: Arc<DeliveriesInFlight>,
    handler: String,
    key: Key,
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
        assert!(owed.is_busy("mail", 3) && !owed.is_busy("mail", 4) && !owed.is_busy("audit", 3));
        assert_eq!(owed.begin_fetch("mail"), Some(vec![key]));
        drop(delivery);
        assert!(owed.take("mail", key, 3).is_none() && owed.is_empty());
        owed.end_fetch("mail");
        assert!(owed.take("mail", key, 3).is_some());
    }
}

//! How much a publisher may have in memory.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The events and bytes that a publisher may still load; taken when an event is read, returned when its delivery is dropped.
#[derive(Debug)]
pub(crate) struct Credit {
    pub(crate) most_events: usize,
    pub(crate) most_bytes: usize,
    events: AtomicI64,
    bytes: AtomicI64,
    /// Events returned since the poller was last notified.
    events_freed: AtomicI64,
    bytes_freed: AtomicI64,
    freed: Arc<Notify>,
    /// Reserved for the events in the journals of shards that wait for it.
    reserved: Mutex<Amount>,
}

/// The memory that events need.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

/// The poller is notified when this much credit has been returned, and when all of it has: one event's worth is no reason to
/// fetch.
const NOTIFY_STEP: i64 = 16;

impl Credit {
    pub(crate) fn new(most_events: usize, most_bytes: usize, freed: Arc<Notify>) -> Arc<Self> {
        let limit = |count: usize| AtomicI64::new(i64::try_from(count).unwrap_or(i64::MAX));
        let (events, bytes) = (limit(most_events), limit(most_bytes));
        let (events_freed, bytes_freed) = (AtomicI64::new(0), AtomicI64::new(0));
        let reserved = Mutex::default();
        Arc::new(Self { most_events, most_bytes, events, bytes, events_freed, bytes_freed, freed, reserved })
    }

    /// Whether nothing is in memory.
    pub(crate) fn is_whole(&self) -> bool {
        self.free().events == self.most_events
    }

    /// The number of events that may be read.
    pub(crate) fn events_left(&self) -> usize {
        self.free().events.saturating_sub(self.reserved().events)
    }

    pub(crate) fn bytes_left(&self) -> usize {
        self.free().bytes.saturating_sub(self.reserved().bytes)
    }

    /// The credit that nothing in memory uses.
    pub(crate) fn free(&self) -> Amount {
        let load = |left: &AtomicI64| usize::try_from(left.load(Ordering::Relaxed)).unwrap_or(0);
        Amount { events: load(&self.events), bytes: load(&self.bytes) }
    }

    pub(crate) fn has(&self, amount: Amount) -> bool {
        let free = self.free();
        self.is_whole() || (free.events >= amount.events && free.bytes >= amount.bytes)
    }

    /// Reserves this much of the credit, until it is free.
    pub(crate) fn reserve(&self, amount: Amount) {
        *self.reserved() = amount;
    }

    fn reserved(&self) -> MutexGuard<'_, Amount> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> CreditPermit {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.events.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        CreditPermit { credit: Arc::clone(self), bytes }
    }

    fn release(&self, bytes: i64) {
        self.events.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let events_freed = self.events_freed.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes_freed = self.bytes_freed.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let is_part = |freed: i64, most: usize| freed >= i64::try_from(most).unwrap_or(i64::MAX) / NOTIFY_STEP;
        if is_part(events_freed, self.most_events) || is_part(bytes_freed, self.most_bytes) || self.is_whole() {
            self.events_freed.store(0, Ordering::Relaxed);
            self.bytes_freed.store(0, Ordering::Relaxed);
            self.freed.notify_one();
        }
    }
}

/// One event's share of the credit.
#[derive(Debug)]
pub(crate) struct CreditPermit {
    credit: Arc<Credit>,
    bytes: i64,
}

impl Drop for CreditPermit {
    fn drop(&mut self) {
        self.credit.release(self.bytes);
    }
}

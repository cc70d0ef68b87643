//! How many events a worker may still deliver, if that is limited.
//!
//! A fetch reserves what it asks for, each delivery takes its part of that, and returns it unless its outcome is recorded.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The events that a worker may still deliver.
#[derive(Debug)]
pub(crate) struct Quota {
    most: usize,
    left: AtomicUsize,
    recorded: AtomicUsize,
}

/// The part of a quota that one fetch may use; dropped, it returns the rest.
#[derive(Debug)]
pub(super) struct Reservation {
    quota: Arc<Quota>,
    left: usize,
}

/// One delivery's part of a quota; dropped, it is returned.
#[derive(Debug)]
pub(crate) struct QuotaPermit(Option<Arc<Quota>>);

impl Quota {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, left: AtomicUsize::new(most), recorded: AtomicUsize::new(0) })
    }

    /// The events that a fetch may ask for.
    pub(super) fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }

    /// The deliveries whose outcome is recorded.
    pub(crate) fn recorded(&self) -> usize {
        self.recorded.load(Ordering::Relaxed)
    }

    pub(crate) fn is_used_up(&self) -> bool {
        self.recorded() >= self.most
    }

    /// Reserves this much, or what is left.
    pub(super) fn reserve(self: &Arc<Self>, events: usize) -> Reservation {
        let take = |left: usize| Some(left - left.min(events));
        let before = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).unwrap_or(0);
        Reservation { quota: Arc::clone(self), left: before.min(events) }
    }

    fn give_back(&self, events: usize) {
        self.left.fetch_add(events, Ordering::Relaxed);
    }
}

impl Reservation {
    pub(super) fn take(&mut self) -> Option<QuotaPermit> {
        self.left = self.left.checked_sub(1)?;
        Some(QuotaPermit(Some(Arc::clone(&self.quota))))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.quota.give_back(self.left);
    }
}

impl QuotaPermit {
    /// Notes that the delivery's outcome is recorded.
    pub(super) fn spend(mut self) {
        if let Some(quota) = self.0.take() {
            quota.recorded.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for QuotaPermit {
    fn drop(&mut self) {
        if let Some(quota) = &self.0 {
            quota.give_back(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_counts_when_its_outcome_is_recorded_and_otherwise_leaves_its_place_to_another() {
        let quota = Quota::new(3);
        let mut fetch = quota.reserve(2);
        let mut other = quota.reserve(2);
        assert_eq!((quota.left(), other.take().is_some(), other.take().is_none()), (0, true, true), "it is divided");
        drop(other);
        assert_eq!(quota.left(), 1, "what was dropped is returned");

        let [first, second] = [fetch.take().unwrap(), fetch.take().unwrap()];
        first.spend();
        drop((second, fetch));
        assert_eq!((quota.left(), quota.recorded(), quota.is_used_up()), (2, 1, false));
        let mut last = quota.reserve(10);
        last.take().unwrap().spend();
        last.take().unwrap().spend();
        assert!(last.take().is_none() && quota.is_used_up());
    }
}

//! How many entries a read asks for at most.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Fewer after each read whose answer was late: it is smaller then, and fits into the time limit of a slow connection.
#[derive(Debug)]
pub(super) struct ReadLimit(AtomicUsize);

impl Default for ReadLimit {
    fn default() -> Self {
        Self(AtomicUsize::new(usize::MAX))
    }
}

impl ReadLimit {
    /// The entries to ask for, of as many as there is room for.
    pub(super) fn of(&self, room: usize) -> usize {
        room.min(self.0.load(Ordering::Relaxed))
    }

    pub(super) fn was_late(&self, asked: usize) {
        self.0.store((asked / 2).max(1), Ordering::Relaxed);
    }

    /// Grows slowly, so that few further reads are late. A read without entries says nothing.
    pub(super) fn was_in_time(&self, read: usize) {
        let limit = self.0.load(Ordering::Relaxed);
        if read > 0 {
            self.0.store(limit.saturating_add(limit / 4 + 1), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_that_is_late_is_followed_by_smaller_ones_and_they_grow_again() {
        let limit = ReadLimit::default();
        assert_eq!(limit.of(5_000), 5_000);
        for fewer in [2_500, 1_250, 625] {
            limit.was_late(limit.of(5_000));
            assert_eq!(limit.of(5_000), fewer);
        }
        for _ in 0..20 {
            limit.was_late(limit.of(5_000));
        }
        assert_eq!(limit.of(5_000), 1);
        for more in [2, 3, 4, 6, 8] {
            limit.was_in_time(1);
            limit.was_in_time(0);
            assert_eq!(limit.of(5_000), more);
        }
        (0..40).for_each(|_| limit.was_in_time(1));
        assert_eq!(limit.of(5_000), 5_000);
    }
}

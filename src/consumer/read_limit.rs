//! How many entries a read asks for at most.

/// Fewer after each read that failed: an answer that is too large for the time limit of a slow connection is smaller then.
pub(super) struct ReadLimit(usize);

impl ReadLimit {
    pub(super) fn new() -> Self {
        Self(usize::MAX)
    }

    /// The entries to ask for, of as many as there is room for.
    pub(super) fn of(&self, room: usize) -> usize {
        room.min(self.0)
    }

    pub(super) fn failed(&mut self, asked: usize) {
        self.0 = (asked / 2).max(1);
    }

    /// Grows slowly, so that few further reads fail. A read without entries says nothing.
    pub(super) fn succeeded(&mut self, read: usize) {
        if read > 0 {
            self.0 = self.0.saturating_add(self.0 / 4 + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_that_fails_is_followed_by_smaller_ones_and_they_grow_again() {
        let mut limit = ReadLimit::new();
        assert_eq!(limit.of(5_000), 5_000);
        for fewer in [2_500, 1_250, 625] {
            limit.failed(limit.of(5_000));
            assert_eq!(limit.of(5_000), fewer);
        }
        for _ in 0..20 {
            limit.failed(limit.of(5_000));
        }
        assert_eq!(limit.of(5_000), 1);
        for more in [2, 3, 4, 6, 8] {
            limit.succeeded(1);
            limit.succeeded(0);
            assert_eq!(limit.of(5_000), more);
        }
        (0..40).for_each(|_| limit.succeeded(1));
        assert_eq!(limit.of(5_000), 5_000);
    }
}

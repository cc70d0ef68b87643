//! When a handler's deliveries are fetched.

use std::time::Duration;

use crate::clock::BootInstant;
use crate::system::reconnect::pause_after;
use crate::system::retry_times::RetryTimes;

/// A notification does not cause a fetch earlier than this after the last.
pub(super) const LEAST_INTERVAL: Duration = Duration::from_millis(20);

pub(super) struct Polls {
    last: BootInstant,
    next: BootInstant,
    failures: u32,
    /// The last notification.
    notified: Option<BootInstant>,
    /// The last fetch may have left out deliveries that wait for others in memory.
    left_some: bool,
    /// When deliveries that left the memory come due again.
    again: RetryTimes,
}

impl Polls {
    pub(super) fn new(now: BootInstant) -> Self {
        Self { last: now, next: now, failures: 0, notified: None, left_some: false, again: RetryTimes::default() }
    }

    /// Whether it is time for a fetch. `notified`: something may be new.
    pub(super) fn is_due(&mut self, now: BootInstant, notified: bool) -> bool {
        if notified || self.again.is_due(now) {
            self.again.pass(now);
            self.notified = Some(now);
            if self.failures == 0 {
                self.next = self.next.min(self.last.after(LEAST_INTERVAL));
            }
        }
        now >= self.next
    }

    /// Notes when a delivery that is not in memory any more comes due.
    pub(super) fn due_again_at(&mut self, at: BootInstant) {
        self.again.note(at);
    }

    pub(super) fn is_due_until(&self, time: BootInstant) -> bool {
        self.next <= time
    }

    /// There is nothing until then, unless a notification makes it earlier again.
    pub(super) fn put_off(&mut self, until: BootInstant) {
        self.next = until;
    }

    /// A fetch has ended that began then. It may have missed what was notified since.
    pub(super) fn fetched(&mut self, began: BootInstant, now: BootInstant, interval: Duration, found: Found) {
        let again = found.full || found.outlived_others || self.notified.is_some_and(|notified| notified >= began);
        let next = now.after(if again { LEAST_INTERVAL } else { interval });
        (self.last, self.next, self.failures, self.left_some) = (now, next, 0, found.left_some);
    }

    /// Returns whether it is the first failure of several.
    pub(super) fn failed(&mut self, now: BootInstant) -> bool {
        self.next = now.after(pause_after(self.failures));
        self.failures = self.failures.saturating_add(1);
        self.failures == 1
    }

    /// No delivery is in memory any more: what waited for them in the database is fetched.
    pub(super) fn ended(&mut self, now: BootInstant) {
        if self.left_some {
            self.notified = Some(now);
            if self.failures == 0 {
                self.next = self.next.min(now);
            }
        }
    }
}

/// How much a fetch found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    /// As much as it might.
    pub(super) full: bool,
    /// It may have left out deliveries that wait for others in memory.
    pub(super) left_some: bool,
    /// Deliveries were in memory when it began, and none when it ended: nothing else fetches what waited for them.
    pub(super) outlived_others: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(3_600);
    const LITTLE: Found = Found { full: false, left_some: false, outlived_others: false };

    /// Whether another fetch starts soon after one that found this, with a notification in it or not.
    fn goes_on(found: Found, notified: bool) -> bool {
        let began = BootInstant::now();
        let during = began.after(Duration::from_millis(50));
        let ended = began.after(Duration::from_millis(100));
        let mut polls = Polls::new(began);
        assert!(polls.is_due(began, true));
        let began = began.after(Duration::from_millis(1));
        if notified {
            polls.is_due(during, true);
        }
        polls.fetched(began, ended, INTERVAL, found);
        assert!(!polls.is_due(ended, false), "not immediately");
        polls.is_due(ended.after(LEAST_INTERVAL), false)
    }

    #[test]
    fn a_fetch_is_repeated_if_there_may_be_more_than_it_found() {
        assert!(!goes_on(LITTLE, false));
        assert!(goes_on(LITTLE, true), "it may have missed what was notified");
        assert!(goes_on(Found { full: true, ..LITTLE }, false), "it was limited");
        assert!(!goes_on(Found { left_some: true, ..LITTLE }, false), "the end of those in memory is waited for");
        let outlived = Found { left_some: true, outlived_others: true, ..LITTLE };
        assert!(goes_on(outlived, false), "those in memory ended before it did");
    }

    #[test]
    fn what_comes_due_again_is_fetched_then_whatever_is_asked_meanwhile() {
        let now = BootInstant::now();
        let mut polls = Polls::new(now);
        polls.fetched(now, now, INTERVAL, LITTLE);
        let due = now.after(Duration::from_secs(5));
        polls.due_again_at(due);
        polls.put_off(now.after(INTERVAL));
        assert!(!polls.is_due(now.after(Duration::from_secs(4)), false));
        let due = due.after(LEAST_INTERVAL);
        assert!(polls.is_due(due, false) && polls.is_due(due, false), "until it is fetched");
        polls.fetched(due, due, INTERVAL, LITTLE);
        assert!(
            polls.is_due(due.after(LEAST_INTERVAL), false),
            "a fetch that began in the same moment may have missed it"
        );
        let began = due.after(LEAST_INTERVAL);
        polls.fetched(began, began, INTERVAL, LITTLE);
        assert!(!polls.is_due(began.after(LEAST_INTERVAL), false), "once");
    }

    #[test]
    fn the_end_of_those_in_memory_starts_a_fetch_of_what_waited_for_them() {
        let now = BootInstant::now();
        for left_some in [true, false] {
            let mut polls = Polls::new(now);
            polls.fetched(now, now, INTERVAL, Found { left_some, ..LITTLE });
            polls.ended(now.after(LEAST_INTERVAL));
            assert_eq!(polls.is_due(now.after(LEAST_INTERVAL), false), left_some);
        }
    }
}

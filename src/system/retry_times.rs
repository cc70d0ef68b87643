//! When the retries that this worker has recorded come due. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::clock::BootInstant;

/// Retries that come due within this time are searched for together.
const TOGETHER: Duration = Duration::from_millis(20);

/// The most times that are kept.
const MOST: usize = 1_000;

#[derive(Debug, Default)]
pub(super) struct RetryTimes(BTreeSet<BootInstant>);

impl RetryTimes {
    /// Notes a time; the next one that is kept may be used in its place.
    pub(super) fn note(&mut self, at: BootInstant) {
        self.0.insert(at.rounded_up(TOGETHER));
        if self.0.len() > MOST
            && let Some(last) = self.0.pop_last()
        {
            self.0.pop_last();
            self.0.insert(last);
        }
    }

    pub(super) fn note_all(&mut self, other: Self) {
        other.0.into_iter().for_each(|at| self.note(at));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn is_due(&self, now: BootInstant) -> bool {
        self.0.first().is_some_and(|first| *first <= now)
    }

    /// Forgets the times that have passed.
    pub(super) fn pass(&mut self, now: BootInstant) {
        self.0.retain(|at| *at > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_comes_due_and_those_close_together_come_due_once() {
        let (mut times, now) = (RetryTimes::default(), BootInstant::now());
        for ms in [1_000, 1_001, 50, 1_400] {
            times.note(now.after(Duration::from_millis(ms)));
        }
        let mut due = Vec::new();
        for ms in (0..2_000).step_by(10) {
            let now = now.after(Duration::from_millis(ms));
            if times.is_due(now) {
                due.push(ms);
                times.pass(now);
            }
        }
        assert!(matches!(due[..], [50..=80, 1_000..=1_030, .., 1_400..=1_430]), "{due:?}");
        assert!(times.is_empty() && due.len() <= 4);
    }

    #[test]
    fn few_are_kept_and_the_last_one_comes_due() {
        let (mut times, now) = (RetryTimes::default(), BootInstant::now());
        for second in 0..5_000 {
            times.note(now.after(Duration::from_secs(second)));
        }
        assert_eq!(times.0.len(), MOST);
        times.pass(now.after(Duration::from_secs(4_998)));
        assert!(!times.is_empty() && times.is_due(now.after(Duration::from_secs(5_000))));
    }
}

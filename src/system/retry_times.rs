//! When the retries that this worker has recorded come due. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::clock::BootInstant;

/// Retries that come due within this time are searched for together; those of more times than are kept, within longer ones.
const TOGETHER: Duration = Duration::from_millis(20);

/// The most times that are kept.
const MOST: usize = 1_000;

#[derive(Debug, Clone)]
pub(super) struct RetryTimes {
    times: BTreeSet<BootInstant>,
    together: Duration,
}

impl Default for RetryTimes {
    fn default() -> Self {
        Self { times: BTreeSet::new(), together: TOGETHER }
    }
}

impl RetryTimes {
    /// Notes a time. It comes due a little late.
    pub(super) fn note(&mut self, at: BootInstant) {
        self.times.insert(at.rounded_up(self.together));
        while self.times.len() > MOST {
            self.together = self.together.saturating_mul(2);
            self.times = self.times.iter().map(|at| at.rounded_up(self.together)).collect();
        }
    }

    pub(super) fn note_all(&mut self, other: Self) {
        other.times.into_iter().for_each(|at| self.note(at));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    pub(super) fn is_due(&self, now: BootInstant) -> bool {
        self.times.first().is_some_and(|first| *first <= now)
    }

    /// Forgets the times that have passed.
    pub(super) fn pass(&mut self, now: BootInstant) {
        self.times.retain(|at| *at > now);
        if self.times.len() <= MOST / 2 {
            self.together = TOGETHER;
        }
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
    fn few_are_kept_and_each_comes_due_a_little_later() {
        let (mut times, now) = (RetryTimes::default(), BootInstant::now());
        for second in 0..5_000 {
            times.note(now.after(Duration::from_secs(second)));
        }
        assert!((MOST / 4..=MOST).contains(&times.times.len()), "{}", times.times.len());
        let late = times.together;
        assert!(late <= Duration::from_secs(20), "{late:?}");
        let mut dues = Vec::new();
        for second in 0..5_100 {
            let moment = Duration::from_secs(second);
            if times.is_due(now.after(moment)) {
                times.pass(now.after(moment));
                dues.push(moment);
            }
        }
        for second in 0..5_000 {
            let from = Duration::from_secs(second);
            let until = from + late + Duration::from_secs(1);
            assert!(dues.iter().any(|due| (from..=until).contains(due)), "the one after {second} s");
        }
        assert!(times.is_empty());
        times.note(now);
        assert!(times.is_due(now.after(TOGETHER)), "once there are few, none waits");
    }
}

//! When a rejected event is tried again, and when a server that is unavailable. Pure, except for chance.

use std::time::Duration;

use crate::settings::RetryBackoff;
use crate::settings::units::LONGEST;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The pause after this many earlier failures in a row: a random part of it, at least half. Otherwise workers that lost
/// their connections together would all retry together, and all miss the same moment.
pub(crate) fn pause_after(failures: u32) -> Duration {
    longest_after(failures).mul_f64(rand::random_range(0.5..=1.0))
}

fn longest_after(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.min(5)).min(LONGEST_PAUSE)
}

/// When a rejected event is tried again, as far as who rejected it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NextTry {
    /// As the settings say.
    ByBackoff,
    /// Not before this time has passed.
    After(Duration),
    /// No other try can succeed.
    Never,
}

impl NextTry {
    /// The time until the next try; `backoff` is what the settings say.
    pub(crate) fn delay(self, backoff: Duration) -> Duration {
        match self {
            Self::After(delay) => delay.min(LONGEST),
            Self::ByBackoff | Self::Never => backoff,
        }
    }

    /// Of several rejections of one event: no try is lost, and none comes too early.
    pub(crate) fn of_all(tries: impl IntoIterator<Item = Self>) -> Self {
        let later = |one: Self, other: Self| match (one, other) {
            (Self::Never, next) | (next, Self::Never) => next,
            (Self::After(one), Self::After(other)) => Self::After(one.max(other)),
            (Self::After(delay), Self::ByBackoff) | (Self::ByBackoff, Self::After(delay)) => Self::After(delay),
            (Self::ByBackoff, Self::ByBackoff) => Self::ByBackoff,
        };
        tries.into_iter().reduce(later).unwrap_or(Self::ByBackoff)
    }
}

impl RetryBackoff {
    /// The wait after the `failures`-th failure, `min(base · factor^failures, max)`, times a share between
    /// `1 - jitter` and 1 that `chance` (0 to 1) picks.
    #[must_use]
    pub fn delay(&self, failures: u32, chance: f64) -> Duration {
        let exponent = i32::try_from(failures).unwrap_or(i32::MAX);
        let longest = self.max.as_secs_f64();
        let full = (self.base.as_secs_f64() * self.factor.powi(exponent)).min(longest);
        let share = 1.0 - self.jitter.clamp(0.0, 1.0) * (1.0 - chance.clamp(0.0, 1.0));
        Duration::try_from_secs_f64(full * share).unwrap_or(self.max)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn of_several_rejections_the_last_try_that_one_of_them_wants_counts() {
        use NextTry::{After, ByBackoff, Never};
        let (short, long) = (After(Duration::from_secs(1)), After(Duration::from_secs(9)));
        for (tries, expected) in [
            (vec![Never], Never),
            (vec![Never, Never], Never),
            (vec![Never, ByBackoff], ByBackoff),
            (vec![short, Never, long], long),
            (vec![ByBackoff, short], short),
            (vec![], ByBackoff),
        ] {
            assert_eq!(NextTry::of_all(tries.clone()), expected, "{tries:?}");
        }
        assert_eq!(After(Duration::MAX).delay(Duration::ZERO), LONGEST);
    }

    #[test]
    fn pauses_double_up_to_a_second_and_differ() {
        for failures in [0, 1, 5, 6, 100, u32::MAX] {
            let longest = longest_after(failures);
            let pauses: HashSet<Duration> = (0..100).map(|_| pause_after(failures)).collect();
            assert!(pauses.iter().all(|pause| (longest / 2..=longest).contains(pause)), "{pauses:?} of {longest:?}");
            assert!(pauses.len() > 50, "{pauses:?}");
        }
        assert_eq!([0, 1, 4, 5].map(longest_after).map(|pause| pause.as_millis()), [50, 100, 800, 1_000]);
    }

    #[test]
    fn waits_grow_by_the_factor_up_to_the_longest() {
        let backoff = RetryBackoff { jitter: 0.0, ..RetryBackoff::default() };
        let minutes: Vec<u64> = (1..=7).map(|n| backoff.delay(n, 1.0).as_secs() / 60).collect();
        assert_eq!(minutes, [2, 4, 8, 16, 32, 60, 60]);
    }

    proptest! {
        #[test]
        fn no_wait_leaves_its_bounds(failures in 0u32.., chance in 0.0..=1.0f64, jitter in 0.0..=1.0f64, factor in 1.0..100.0f64) {
            let backoff = RetryBackoff { jitter, factor, ..RetryBackoff::default() };
            let longest = backoff.delay(failures, 1.0);
            let wait = backoff.delay(failures, chance);
            prop_assert!(wait <= longest && longest <= backoff.max);
            prop_assert!(wait.as_secs_f64() >= longest.as_secs_f64() * (1.0 - jitter) - 1e-6);
        }
    }
}

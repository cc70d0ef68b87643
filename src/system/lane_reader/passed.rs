//! Due retries that must wait, such as those behind a failed event that holds their key. They come first in every search for
//! retries, so a search that they fill is followed by one that passes them, until nothing is left behind them. Pure.

use std::time::Duration;

use crate::clock::BootInstant;
use uuid::Uuid;

/// The most retries that are passed together: each is named to the database.
const MOST: usize = 20_000;

/// After this time passed retries are read again, even if more are behind them: their blocker may be gone.
const LONGEST_ROUND: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct PassedRetries {
    ids: Vec<Uuid>,
    since: Option<BootInstant>,
}

impl PassedRetries {
    pub(super) fn ids(&self) -> Vec<Uuid> {
        self.ids.clone()
    }

    pub(super) fn note(&mut self, waiting: impl Iterator<Item = Uuid>, more: bool, now: BootInstant) {
        let since = *self.since.get_or_insert(now);
        if !more || now.since(since) >= LONGEST_ROUND {
            return *self = Self::default();
        }
        self.ids.extend(waiting.take(MOST.saturating_sub(self.ids.len())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(count: usize) -> impl Iterator<Item = Uuid> {
        (0..count).map(|_| Uuid::now_v7())
    }

    #[test]
    fn what_waits_is_passed_until_nothing_is_left_behind_it() {
        let (mut passed, now) = (PassedRetries::default(), BootInstant::now());
        passed.note(some(3), true, now);
        passed.note(some(2), true, now);
        assert_eq!(passed.ids().len(), 5);
        passed.note(some(1), false, now);
        assert_eq!(passed.ids().len(), 0);
    }

    #[test]
    fn it_is_looked_at_again_after_a_while_and_is_bounded() {
        let (mut passed, now) = (PassedRetries::default(), BootInstant::now());
        passed.note(some(MOST + 1), true, now);
        assert_eq!(passed.ids().len(), MOST);
        passed.note(some(1), true, now.after(LONGEST_ROUND));
        assert_eq!(passed.ids().len(), 0);
    }
}

//! Polling by a question that a worker asks for all its lanes together, in place of fetches and sweeps of each.

use super::*;
use crate::store::DueKind;

/// The pause before a lane is asked about again in which something is due that fetches do not return.
const ASK_AGAIN: Duration = Duration::from_secs(1);

impl LaneReader {
    /// Whether everything that was found or announced has been read, so that a question can replace this lane's polls.
    pub(crate) fn can_be_asked(&self, now: BootInstant) -> bool {
        self.has_caught_up() && now >= self.asked_after
    }

    fn has_caught_up(&self) -> bool {
        let is_read = |state: &ShardState| !state.full && !state.must_read;
        self.announced.is_none() && !self.shards.is_empty() && self.shards.values().all(is_read)
    }

    /// The shards that are being read.
    pub(crate) fn shard_numbers(&self) -> Vec<i16> {
        self.shards.keys().copied().collect()
    }

    /// Neither polls nor sweeps for a while: a question is under way, or will be soon.
    pub(crate) fn cover(&mut self, now: BootInstant, limit: Duration) {
        self.covered_until = Some(now.after(limit));
    }

    /// Notes the answer to a question that began `at`: nothing is due in the lane, whether before its cursors or behind them.
    /// Until the next answer is late, it neither polls nor sweeps.
    pub(crate) fn note_nothing_due(&mut self, at: BootInstant, now: BootInstant, limit: Duration) {
        self.was_due = false;
        match self.hurried_at.is_some_and(|hurried| hurried > at) {
            // It may have been read before the change that is swept for.
            true => self.uncover(),
            false => self.cover(now, limit),
        }
    }

    pub(crate) fn uncover(&mut self) {
        self.covered_until = None;
    }

    /// Fetches what a question that began `at` has found, and sweeps: it may be behind a cursor. If the last question found
    /// something, too, it may have to wait, and the lane polls by itself for a while.
    pub(crate) fn note_due(&mut self, kinds: &[DueKind], at: BootInstant, now: BootInstant) {
        self.uncover();
        if std::mem::replace(&mut self.was_due, true) {
            self.asked_after = now.after(ASK_AGAIN);
        }
        for kind in kinds {
            match kind {
                DueKind::Pending => self.schedule_fetch_at(at),
                DueKind::Retry => self.retries_at(at),
            }
        }
    }

    /// Schedules a fetch, unless the next question does.
    pub(crate) fn schedule_uncovered_fetch_at(&mut self, now: BootInstant) {
        if !self.is_covered(now) || !self.can_be_asked(now) {
            self.schedule_fetch_at(now);
        }
    }

    pub(super) fn is_covered(&self, now: BootInstant) -> bool {
        self.covered_until.is_some_and(|until| now < until)
    }

    pub(super) fn are_retries_due(&self, now: BootInstant) -> bool {
        let has_own = self.own_retries.is_due(now);
        has_own || now >= self.next_retries && !self.is_covered(now)
    }

    /// Whether the lane has nothing to do before the next question is answered, or something is announced.
    pub(crate) fn rests(&self, now: BootInstant) -> bool {
        self.is_covered(now) && self.has_caught_up() && !self.are_retries_due(now)
    }
}

#[cfg(test)]
#[path = "covered_tests.rs"]
mod tests;

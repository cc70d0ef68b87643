//! The read position: the cursor, the sweep behind it, and which kind is read next. Positions are those of events, from 1.

use super::Rules;

/// Which timers are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) poll: bool,
    pub(super) sweep: bool,
    pub(super) retries: bool,
}

impl Due {
    pub(super) fn any() -> impl Iterator<Item = Self> {
        (0..8).map(|bits| Self { poll: bits & 1 > 0, sweep: bits & 2 > 0, retries: bits & 4 > 0 })
    }
}

/// The query of the next fetch. Bounds are exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    Forward { from: i8 },
    Retries,
    Keys,
    Sweep { from: i8, to: i8 },
}

const KINDS: usize = 3;
const OVERLAP: i8 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Lane {
    pub(super) cursor: i8,
    full: bool,
    look: bool,
    sweep: i8,
    sweep_is_next: bool,
    /// The kind that was read last.
    kind: usize,
}

impl Lane {
    pub(super) fn new() -> Self {
        Self { cursor: 0, full: true, look: false, sweep: 0, sweep_is_next: false, kind: 0 }
    }

    pub(super) fn plan(&mut self, due: Due, keys: bool, rules: Rules) -> Option<Plan> {
        self.look |= due.poll;
        let fetch_first = self.look && !(self.sweep_is_next && rules.sweep_has_its_turn);
        self.sweep_is_next = due.sweep && fetch_first;
        if due.sweep && !fetch_first && rules.sweeps {
            if self.sweep >= self.cursor {
                self.sweep = 0;
            }
            if self.sweep < self.cursor {
                return Some(Plan::Sweep { from: self.sweep, to: self.cursor + 1 });
            }
        }
        let wanted = [self.look || self.full, due.retries, keys];
        let first = if rules.kinds_take_turns { 1 } else { KINDS - self.kind };
        let next = (first..first + KINDS).map(|step| (self.kind + step) % KINDS).find(|kind| wanted[*kind])?;
        self.kind = next;
        Some(match next {
            0 => {
                self.look = false;
                Plan::Forward { from: self.start(rules) }
            }
            1 => Plan::Retries,
            _ => Plan::Keys,
        })
    }

    fn start(&self, rules: Rules) -> i8 {
        let overlaps = !self.full && self.cursor > 0 && rules.overlaps;
        if overlaps { self.cursor - OVERLAP - 1 } else { self.cursor }
    }

    /// Whether an event that is committed at this position is found neither by reading on nor by the overlap.
    pub(super) fn has_passed(&self, position: i8) -> bool {
        let start = if self.full { self.cursor } else { self.cursor - OVERLAP - 1 };
        position <= start
    }

    /// Applies the result of a fetch: the position of its row.
    pub(super) fn advance(&mut self, plan: Plan, found: Option<i8>) {
        match plan {
            Plan::Forward { .. } => {
                // The fetch returns one event, so one fills its limit.
                self.full = found.is_some();
                self.cursor = self.cursor.max(found.unwrap_or(0));
            }
            Plan::Sweep { to, .. } => self.sweep = found.unwrap_or(to - 1),
            Plan::Retries | Plan::Keys => {}
        }
    }

    pub(super) fn note_failed_fetch(&mut self) {
        self.look = true;
    }

    pub(super) fn rewind(&mut self, position: i8) {
        if position <= self.cursor {
            (self.cursor, self.full) = (position - 1, true);
        }
    }
}

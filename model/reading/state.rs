//! The table, events in flight, and what must be reread.

use super::lane::{Due, Lane, Plan};
use super::{Faults, Rules};

/// Events, in their order.
pub(super) const COUNT: usize = 4;

/// The events of the key.
const KEYED: [usize; 2] = [0, 1];

/// More runs of the loop than there are states of the lane between two deliveries.
const MANY_TURNS: usize = 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Status {
    Uncommitted,
    Pending,
    Retry {
        due: bool,
    },
    /// Failed, and its key waits for an operator.
    Held,
    Settled,
}

impl Status {
    fn is_due(self) -> bool {
        matches!(self, Self::Pending | Self::Retry { due: true })
    }

    fn blocks(self) -> bool {
        matches!(self, Self::Pending | Self::Retry { .. } | Self::Held)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) rows: [Status; COUNT],
    pub(super) in_flight: [bool; COUNT],
    /// Rows in `retry`, in the order in which they come due.
    retries: Vec<usize>,
    /// Retries that were read and had to wait.
    waiting: [bool; COUNT],
    /// Whether events of the key wait for earlier ones.
    key_blocked: bool,
    /// Whether the key must be read from its start.
    reread_key: bool,
    lane: Lane,
    pub(super) faults: Faults,
    /// Not in memory: whether it was never read.
    unread: [bool; COUNT],
    /// Not in memory: reading passed its position before it was committed, so only a sweep finds it.
    pub(super) late: [bool; COUNT],
}

fn position(event: usize) -> i8 {
    event as i8 + 1
}

fn has_key(event: usize) -> bool {
    KEYED.contains(&event)
}

impl State {
    pub(super) fn new(faults: Faults) -> Self {
        Self {
            rows: [Status::Uncommitted; COUNT],
            in_flight: [false; COUNT],
            retries: Vec::new(),
            waiting: [false; COUNT],
            key_blocked: false,
            reread_key: false,
            lane: Lane::new(),
            faults,
            unread: [true; COUNT],
            late: [false; COUNT],
        }
    }

    pub(super) fn commit(&mut self, event: usize) {
        self.rows[event] = Status::Pending;
        self.note_late();
    }

    fn note_late(&mut self) {
        let passed = |event: usize| self.unread[event] && self.lane.has_passed(position(event));
        let committed = |event: usize| self.rows[event] == Status::Pending;
        let late: Vec<usize> = (0..COUNT).filter(|event| committed(*event) && passed(*event)).collect();
        late.into_iter().for_each(|event| self.late[event] = true);
    }

    pub(super) fn take_anew(&mut self) {
        self.lane = Lane::new();
        self.key_blocked = false;
        self.waiting = [false; COUNT];
        self.late = [false; COUNT];
    }

    // The poller's loop.

    pub(super) fn turn(&mut self, due: Due, fails: bool, rules: Rules) {
        if self.in_flight.contains(&true) {
            return;
        }
        let Some(plan) = self.lane.plan(due, self.reread_key, rules) else { return };
        self.note_late();
        let keys = plan == Plan::Keys;
        if keys {
            (self.reread_key, self.key_blocked) = (false, false);
        }
        if fails {
            self.faults.spend(|faults| &mut faults.failed_fetches);
            self.lane.note_failed_fetch();
            self.reread_key |= keys && rules.failed_fetch_keeps_keys;
            return;
        }
        let row = self.fetch(plan, rules);
        row.into_iter().for_each(|event| self.unread[event] = false);
        self.lane.advance(plan, row.map(position));
        let goes = row.is_some_and(|event| self.admit(event, rules));
        // The fetch has filled its limit, and the key may have more.
        self.reread_key |= keys && goes;
    }

    /// The one row that a fetch brings.
    fn fetch(&self, plan: Plan, rules: Rules) -> Option<usize> {
        let pending = |event: &usize| self.rows[*event] == Status::Pending;
        match plan {
            Plan::Forward { from } => (0..COUNT).filter(pending).find(|event| position(*event) > from),
            Plan::Sweep { from, to } => {
                (0..COUNT).filter(pending).find(|event| (from + 1..to).contains(&position(*event)))
            }
            Plan::Retries => {
                let excepted = |event: usize| self.waiting[event] && rules.excepts_waiting_retries;
                self.retries.iter().copied().find(|event| self.rows[*event].is_due() && !excepted(*event))
            }
            Plan::Keys => KEYED.into_iter().find(|event| self.rows[*event].is_due()),
        }
    }

    /// The event before it in its key's order.
    fn blocker(&self, event: usize) -> Option<usize> {
        (0..event).find(|before| has_key(event) && has_key(*before) && self.rows[*before].blocks())
    }

    /// Returns whether it can be sent.
    fn admit(&mut self, event: usize, rules: Rules) -> bool {
        let Some(blocker) = self.blocker(event) else {
            self.in_flight[event] = true;
            return true;
        };
        self.key_blocked = true;
        self.waiting[event] = matches!(self.rows[event], Status::Retry { .. });
        self.reread_key |= self.rows[blocker].is_due() && rules.fetches_blockers;
        false
    }

    // Outcomes of an event.

    pub(super) fn settle(&mut self, event: usize, status: Status, rules: Rules) {
        self.rows[event] = status;
        self.in_flight[event] = false;
        self.late[event] &= status == Status::Settled;
        self.retries.retain(|other| *other != event);
        if matches!(status, Status::Retry { .. }) {
            self.retries.push(event);
        }
        if !has_key(event) {
            return;
        }
        if status.blocks() {
            self.key_blocked = true;
        } else {
            self.reread_key |= self.key_blocked && rules.rereads_keys;
            self.waiting = [false; COUNT];
        }
    }

    pub(super) fn release(&mut self, event: usize, rules: Rules) {
        self.in_flight[event] = false;
        self.late[event] = false;
        if rules.rewinds {
            self.lane.rewind(position(event));
        }
    }

    // Properties.

    /// A later event of its key is read, and leads to it.
    fn is_found_without_a_sweep(&self, event: usize) -> bool {
        let leads = |later: usize| has_key(event) && has_key(later) && self.rows[later].is_due() && !self.late[later];
        !self.late[event] || (event + 1..COUNT).any(leads)
    }

    /// Whether runs of the loop lead to a delivery if any event can be sent and there is nothing else to wait for.
    pub(super) fn leads_to_a_delivery(&self, due: Due, rules: Rules) -> bool {
        let waits_for_others = |status: &Status| matches!(status, Status::Uncommitted | Status::Retry { due: false });
        let may_go = |event: usize| {
            self.rows[event].is_due()
                && self.blocker(event).is_none()
                && (due.sweep || self.is_found_without_a_sweep(event))
        };
        if self.in_flight.contains(&true) || self.rows.iter().any(waits_for_others) || !(0..COUNT).any(may_go) {
            return true;
        }
        let mut later = self.clone();
        (0..MANY_TURNS).any(|_| {
            later.turn(due, false, rules);
            later.in_flight.contains(&true)
        })
    }
}

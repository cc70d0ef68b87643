//! A model of reading: one shard, its cursor, its sweep, its retries and the keys that are reread. Nothing waits forever.
//!
//! # What is modelled
//!
//! Four events: two of one key, two without a key. They are committed in any order, so an event may appear behind the
//! cursor; they are delivered, released unsent, rejected, and come due again; a failed event may hold its key; a fetch may
//! fail; the shard may be opened under a new lease. A fetch returns one event.
//!
//! | here | the code |
//! |---|---|
//! | `lane.rs` | `src/system/lane_reader`: plan, advance, rewind; `src/system/lane_reader/budget.rs`: what is read next |
//! | `state.rs` | `src/system/poller.rs`, `src/system/in_flight`: the result of a fetch, what of it waits, what is reread |
//!
//! A run of the poller's loop (plan, fetch, queries, admission) is one step: what happens between its parts is the first
//! model's subject. It is a function of the state and of which timers are due, so the check is: from every state in which
//! nothing is in flight and everything is committed, the runs lead to a delivery, if any event can be sent. If all timers
//! are always due, each kind of reading has the most to compete with (`READ`). If the sweep is never due, everything that
//! did not appear far behind the cursor must be read all the same (`SOON`).
//!
//! A position is 20 ms, so the overlap is one position. Bounds of sweep steps are left out: they divide a sweep, and do not
//! change what it finds.

mod lane;
mod state;
#[cfg(test)]
mod tests;

use stateright::{Model, Property};

use self::lane::Due;
use self::state::{COUNT, State, Status};

/// The parts of reading that can be switched off, to show that the checker notices.
#[derive(Debug, Clone, Copy)]
struct Rules {
    /// A sweep from the start finds what appeared behind the cursor.
    sweeps: bool,
    /// A sweep that is due waits for one fetch, and not for every fetch.
    sweep_has_its_turn: bool,
    /// If the budget does not suffice for all, ranges, retries and keys are read by turns.
    kinds_take_turns: bool,
    /// Once a shard was read to its end, reading starts a little before the cursor.
    overlaps: bool,
    /// The cursor is set back to events that were released unsent.
    rewinds: bool,
    /// A key whose events wait is reread when the event that they wait for is settled.
    rereads_keys: bool,
    /// A key is read from its start if a due event that is not in flight precedes a row.
    fetches_blockers: bool,
    /// After a failed fetch its keys must still be reread.
    failed_fetch_keeps_keys: bool,
    /// Retries that were read and must wait are not read again until their key continues.
    excepts_waiting_retries: bool,
}

impl Rules {
    const ALL: Self = Self {
        sweeps: true,
        sweep_has_its_turn: true,
        kinds_take_turns: true,
        overlaps: true,
        rewinds: true,
        rereads_keys: true,
        fetches_blockers: true,
        failed_fetch_keeps_keys: true,
        excepts_waiting_retries: true,
    };
}

/// How often each fault may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Faults {
    /// How many in total.
    any: u8,
    rejections: u8,
    /// A rejection after which the event is failed and holds its key.
    holds: u8,
    /// An event is released unsent.
    releases: u8,
    failed_fetches: u8,
    /// The shard is opened under a new lease.
    takings: u8,
}

impl Faults {
    fn spend(&mut self, kind: impl Fn(&mut Self) -> &mut u8) {
        *kind(self) -= 1;
        self.any -= 1;
        let Self { any, rejections, holds, releases, failed_fetches, takings } = self;
        [rejections, holds, releases, failed_fetches, takings].into_iter().for_each(|left| *left = (*left).min(*any));
    }
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    rules: Rules,
    faults: Faults,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Commit(usize),
    Turn(Due),
    FailedTurn(Due),
    Deliver(usize),
    Reject(usize),
    Hold(usize),
    Release(usize),
    ComeDue(usize),
    TakeAnew,
}

const READ: &str = "every event that can be sent is read in the end";
const SOON: &str = "events that did not appear far behind the cursor are read without a sweep";
const LATE: &str = "an event appeared behind the cursor and is published";

impl Model for Reading {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self.faults)]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        let faults = state.faults;
        for event in 0..COUNT {
            match state.rows[event] {
                Status::Uncommitted => steps.push(Step::Commit(event)),
                Status::Retry { due: false } => steps.push(Step::ComeDue(event)),
                _ => {}
            }
            if state.in_flight[event] {
                steps.push(Step::Deliver(event));
                let faults = [
                    (faults.rejections, Step::Reject(event)),
                    (faults.holds, Step::Hold(event)),
                    (faults.releases, Step::Release(event)),
                ];
                steps.extend(faults.into_iter().filter(|(left, _)| *left > 0).map(|(_, step)| step));
            }
        }
        for due in Due::any() {
            steps.push(Step::Turn(due));
            steps.extend((faults.failed_fetches > 0).then_some(Step::FailedTurn(due)));
        }
        steps.extend((faults.takings > 0).then_some(Step::TakeAnew));
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = state.clone();
        match step {
            Step::Commit(event) => next.commit(event),
            Step::Turn(due) => next.turn(due, false, self.rules),
            Step::FailedTurn(due) => next.turn(due, true, self.rules),
            Step::Deliver(event) => next.settle(event, Status::Settled, self.rules),
            Step::Reject(event) => {
                next.faults.spend(|faults| &mut faults.rejections);
                next.settle(event, Status::Retry { due: false }, self.rules);
            }
            Step::Hold(event) => {
                next.faults.spend(|faults| &mut faults.holds);
                next.settle(event, Status::Held, self.rules);
            }
            Step::Release(event) => {
                next.faults.spend(|faults| &mut faults.releases);
                next.release(event, self.rules);
            }
            Step::ComeDue(event) => next.rows[event] = Status::Retry { due: true },
            Step::TakeAnew => {
                next.faults.spend(|faults| &mut faults.takings);
                next.take_anew();
            }
        }
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(READ, |reading, state: &State| {
                state.leads_to_a_delivery(Due { poll: true, sweep: true, retries: true }, reading.rules)
            }),
            Property::always(SOON, |reading, state: &State| {
                state.leads_to_a_delivery(Due { poll: true, sweep: false, retries: true }, reading.rules)
            }),
            Property::sometimes(LATE, |_, state: &State| {
                (0..COUNT).any(|event| state.late[event] && state.rows[event] == Status::Settled)
            }),
        ]
    }
}

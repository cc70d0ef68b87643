//! A model of routes: an event that names no backend is moved to the lane of its route and sent once, and a key's events are
//! sent there in their order.
//!
//! # What is modelled
//!
//! Two workers and two events of one key in the lane of events that name no backend. The first worker has a route for both
//! events and moves them; the second has other settings, as during a deployment, and sends them from this lane. A lease, a
//! session and a journal decide between the two, as in the first model. A fetch is two steps, what it reads and what it admits,
//! and all that it admits is moved by one statement, which may find rows locked, and may be executed late, after its worker
//! stopped waiting. A death or a take-over comes at any moment.
//!
//! Left out: how the new lane is read and sent, which is the subject of the first model: here it sends the first event of the
//! key that is not done, and records that in the same step.

mod state;
#[cfg(test)]
mod tests;

use stateright::{Model, Property};

use self::state::{Move, State};

/// The parts of the protocol that can be switched off, to show that the checker notices.
#[derive(Debug, Clone, Copy)]
struct Rules {
    /// The statement compares the lease's owner and epoch.
    fenced: bool,
    /// Only what a fetch reads after the journal was read is moved.
    reads_the_journal: bool,
    /// An event that is being moved blocks the later ones of its key.
    blocks_its_key: bool,
    /// In a statement, an event is moved only together with the earlier ones of its key.
    keeps_order: bool,
}

impl Rules {
    const ALL: Self = Self { fenced: true, reads_the_journal: true, blocks_its_key: true, keeps_order: true };
}

/// How often each fault may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Faults {
    /// The lease goes to the other worker.
    takeovers: u8,
    /// A worker dies and starts again.
    deaths: u8,
    /// The answer to a statement is lost before it is executed.
    late: u8,
    /// A statement finds a row locked.
    locks: u8,
    /// A worker polls for nothing.
    looks: u8,
}

#[derive(Debug, Clone, Copy)]
struct Routing {
    rules: Rules,
    faults: Faults,
}

/// The numbers are those of a worker, of an event, and of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Commit(usize),
    Open(usize),
    Read(usize),
    /// A read that finds nothing to admit when it begins.
    Look(usize),
    Admit(usize),
    BeginMove,
    /// With the event whose row is locked, if one is.
    Execute(Move, Option<usize>),
    SendFromHere(usize),
    Settle(usize, usize),
    SendThere,
    TakeOver,
    Die(usize),
    LoseAnswer(Move),
}

const ONCE: &str = "an event is sent once";
const IN_ORDER: &str = "a key's events are sent in their order in the new lane";
const DONE: &str = "every event is done in the end";
const MOVED: &str = "an event was sent in the new lane";
const BOTH: &str = "one event was sent from each lane";

impl Model for Routing {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(0, self.faults), State::new(1, self.faults)]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        state.steps(self.rules, steps);
        state.faults(self.rules, steps);
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = state.clone();
        next.take(step, self.rules);
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONCE, |_, state: &State| !state.twice),
            Property::always(IN_ORDER, |_, state: &State| !state.overtaken),
            Property::always(DONE, |routing, state: &State| state.is_done() || !state.is_at_rest(routing.rules)),
            Property::sometimes(MOVED, |_, state: &State| state.sent_there.contains(&true)),
            Property::sometimes(BOTH, |_, state: &State| {
                state.sent_there[1] && !state.sent_there[0] && state.is_done()
            }),
        ]
    }
}

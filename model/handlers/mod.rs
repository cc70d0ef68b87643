//! A model of handlers across processes: every handler that is registered when an event is committed receives it, whichever
//! process has the handler; once unless a process dies; in the key's order.
//!
//! # What is modelled
//!
//! Two processes, each with one handler and each able to deliver; two events of one key. A process that has delivered an
//! event runs its own handler, if it may, and settles: the first statement that records acceptance fixes what is owed, as
//! one delivery for each handler that is registered and has not answered. The other process takes its deliveries under a
//! lease that it alone holds (the subject of the second model) and answers each.
//!
//! A settle is two steps (registrations are read, then everything is written), and may be executed once more, late. An
//! answer is two steps as well: its snapshot, and its changes under the lock of the event's row.
//!
//! Left out: rejections and retries, which belong to one (event, handler) and affect no other; the types that a registration
//! covers; how long a service is owed; replay, which is a new event that ends the deliveries of the old one.

mod state;
#[cfg(test)]
mod tests;

use stateright::{Model, Property};

use self::state::{Late, State};

/// The parts of the protocol that can be switched off, to show that the checker notices.
#[derive(Debug, Clone, Copy)]
struct Rules {
    /// What is owed is determined with the settle, and not from a heartbeat's view.
    reads_announcements: bool,
    /// A registration outlives its process.
    announcements_outlive: bool,
    /// Only the first statement that records acceptance adds what is owed.
    first_fixes: bool,
    /// An answer removes its own name from the newest row version, and does not write what it has in memory.
    removes_its_own_name: bool,
    /// Whether anything is still owed is read after the row is locked.
    decides_under_the_lock: bool,
    /// A delivery for a name that is not registered counts as dropped.
    drops_late_deliveries: bool,
    /// A name that is registered again starts a new generation.
    generations: bool,
    /// A delivery is taken only if no earlier event of its key is owed to the handler or unsettled.
    taker_waits: bool,
    /// A handler runs where the event was delivered only if nothing earlier of its key is owed to it.
    deliverer_waits: bool,
}

impl Rules {
    const ALL: Self = Self {
        reads_announcements: true,
        announcements_outlive: true,
        first_fixes: true,
        removes_its_own_name: true,
        decides_under_the_lock: true,
        drops_late_deliveries: true,
        generations: true,
        taker_waits: true,
        deliverer_waits: true,
    };
}

/// How often each fault may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Faults {
    /// A settle is executed once more, late.
    late: u8,
    /// A process is killed and starts again.
    deaths: u8,
    /// An operator drops a handler's name; it is registered again if its process runs.
    drops: u8,
}

#[derive(Debug, Clone, Copy)]
struct Handlers {
    rules: Rules,
    faults: Faults,
}

/// The numbers are those of an event and of a process, which is also its handler's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Start(usize),
    Announce(usize),
    Beat(usize),
    Commit(usize),
    Deliver(usize, usize),
    RunHere(usize),
    ReadAnnouncements(usize),
    Settle(usize, bool),
    Take(usize, usize),
    Answer(usize),
    CleanUp,
    Kill(usize),
    Drop(usize),
    Arrive(Late),
}

const MET: &str = "a handler that was registered when an event was committed receives it";
const ONCE: &str = "a handler receives an event once, unless a process has died";
const IN_ORDER: &str = "a handler receives a key's events in their order";
const DONE: &str = "every event is done in the end";
const FINISHED: &str = "the last answer finishes its event";
const DROPPED: &str = "events owed to a name before it was dropped are not handled afterwards";
const ELSEWHERE: &str = "a handler received an event that another process had delivered";

impl Model for Handlers {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self.faults)]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        state.steps(self.rules, steps);
        state.faults(steps);
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
            Property::always(DROPPED, |_, state: &State| !state.inherited),
            Property::always(FINISHED, |_, state: &State| state.is_finished_where_nothing_is_owed()),
            Property::always(MET, |handlers, state: &State| state.has_met_all() || !state.is_at_rest(handlers.rules)),
            Property::always(DONE, |handlers, state: &State| state.is_done() || !state.is_at_rest(handlers.rules)),
            Property::sometimes(ELSEWHERE, |_, state: &State| state.met_elsewhere),
        ]
    }
}

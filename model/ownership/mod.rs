//! A model of ownership: which worker may work on a shard, and whether a worker that can deliver holds each shard in the
//! end.
//!
//! The end of a lease is in its owner's row of `outbox_workers`, so a beat writes one row, whatever the number of leases.
//!
//! # What is modelled
//!
//! Two or three workers, each of which can deliver, cannot reach its backend, or reaches one that answers health checks and
//! refuses writes; as many shards. A worker inserts its row, beats, reads the leases, takes, drains, releases, reports on
//! its backend, and leaves; it is killed, slow, stuck, or forgotten by the others while it lives.
//!
//! | here | what it models |
//! |---|---|
//! | `statements.rs` | the statements on `outbox_workers` and `outbox_leases` |
//! | `heartbeat.rs` | the heartbeat, the fair share, the pause of a backend |
//! | `steps.rs` | which steps are possible: ordinary ones, and the faults of `rules.rs`, each at any moment |
//! | `properties.rs` | what must hold |
//!
//! # Why it is a sound abstraction
//!
//! - **A statement is one step, except if its snapshot or its locks matter.** Taking a lease has three: snapshot, locks,
//!   commit. The deletion of a dead worker's row has two. A beat without the rule that reads come after it has two as well.
//! - **Clocks** are beats: a deadline is counted from before a beat was sent, and so is over before the end that the same
//!   beat gave the row. When a row ends by the database's clock, the deadlines of all beats up to the last that it knows are
//!   over (`Worker::over`).
//! - **Numbers** (beats, incarnations, epochs) matter by their order alone and are numbered again after each step. So a
//!   cyclic run is a cycle of states, which `check::endless_run` searches for: without faults everything comes to rest.
//! - **A beat or a release that would change nothing** is left out, also one that a lock would skip.
//! - **A pause is long from its start**: a worker releases its shards only after a whole lease without its backend, and what
//!   happens before that is what happens while it can deliver.
//! - **Not here**: the placeholder rules of a rolling upgrade, handler lanes (they obey the same rules), SQLite.

mod heartbeat;
mod properties;
mod rules;
mod state;
mod statements;
mod steps;
#[cfg(test)]
mod tests;

use stateright::{Model, Property};

use self::rules::{Faults, Rules};
use self::state::{Held, Lease, Life, Reach, Row, State, Worker};
use self::steps::Step;

/// The configuration that is checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ownership {
    rules: Rules,
    faults: Faults,
    shards: usize,
    /// The initial connection of each worker to its backend.
    workers: &'static [Reach],
    /// The last worker has not started yet.
    last_begins: bool,
}

impl Model for Ownership {
    type State = State;
    type Action = Step;

    /// The shards are divided among the workers that have started.
    fn init_states(&self) -> Vec<State> {
        let count = self.workers.len();
        let begun = count - usize::from(self.last_begins);
        let life = |w: usize| if w < begun { Life::Running } else { Life::Unstarted };
        let mut workers: Vec<Worker> =
            self.workers.iter().enumerate().map(|(w, reach)| Worker::new(self.shards, life(w), *reach)).collect();
        let owners = (0..self.shards).map(|shard| shard % begun);
        owners.clone().enumerate().for_each(|(shard, w)| {
            workers[w].held[shard] = Some(Held { epoch: 0, draining: false });
        });
        let row = Row { incarnation: 0, beat: 1, ended: false, well: true, locked: false };
        vec![State {
            rows: (0..count).map(|w| (w < begun).then_some(row)).collect(),
            leases: owners.map(|owner| Lease { owner: Some(owner), epoch: 0 }).collect(),
            workers,
            takings: Vec::new(),
            deleting: None,
            late: Vec::new(),
            faults: self.faults,
            revived: false,
            buried: vec![false; count],
            kept: false,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        let happening = state.steps(self.rules);
        state.fault_steps(self.rules, &happening, steps);
        steps.extend(happening);
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = state.clone();
        next.take(step, self);
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}

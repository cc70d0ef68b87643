//! A model of how events are handed over, every run of which is checked: no sequence of steps within the bounds loses an
//! event, doubles one, or brings a key out of order. Models of other parts of the protocol are in folders of their own:
//! `ownership`, `reading`, `handlers`.
//!
//! # What is modelled
//!
//! Two workers, two shards of one lane, two events of one key and one without a key, and a replay. A step is what one
//! function of the code does between two moments at which others can interfere, and has that function's name:
//!
//! | here | the code |
//! |---|---|
//! | `database.rs`, `leases.rs` | the statements of `src/store/postgres` |
//! | `redis.rs` | `open.lua`, `publish.lua` |
//! | `heartbeat.rs` | `src/system/{heartbeat,leases}.rs`: renew, acquire, drain, release |
//! | `poller.rs` | `src/system/poller.rs`: fetch, in its steps read, ask and admit |
//! | `in_flight.rs` | `src/system/in_flight`: admit, adopt, settle, give back; rules R1 to R3 |
//! | `publisher.rs` | `src/system/publisher`, `src/backend/redis_stream`: try_open, open, look_up, adopt, send, publish, flush |
//! | `settling.rs` | `src/system/{completer,retry}.rs`: settle_published, settle_rescheduled |
//!
//! `steps.rs` says which steps are possible: those that happen by themselves, and the misfortunes of `rules.rs`, each at any
//! moment. `properties.rs` says what must hold.
//!
//! # Why what is left out may be left out
//!
//! - **Stalls** need no step: a worker that does nothing for a while is one whose next step comes after those of others.
//! - **A lost answer** is a request that is executed when nobody waits for it any more, and before anything else happens.
//! - **A request and its answer** are one step where nothing but the worker's own death could come between: it can die after
//!   the step as well, and what it would have asked next is then on its way late (`Worker::on_its_way`).
//! - **A failover** leaves what was waited for, and everything that was committed before that; where a commit was not waited for,
//!   nothing of it and of what came after. Statements that were on their way are lost with their server. Only settles can be in
//!   doubt: any other write that is waited for would make them durable, so a run in which such a write fails too is no worse.
//! - **A settle tells for each event** whether it is recorded, skipped because of a lock, or refused for good. The parts of a
//!   divided batch are one step: each is a settle like any other.
//! - **Clocks**: a lease runs out at any moment, but under its holder only after the holder's own deadline. That order of
//!   the two is taken for granted; that an answer which comes late renews nothing follows from it.
//! - **Reading** brings all that is due, with the retries or without. A fetch that finds nothing when it begins is counted
//!   as a misfortune (`Look`), so that no run goes on for ever by polling. So where nothing goes wrong any more all comes to
//!   rest, and at rest everything must be settled.
//! - **Not here**: handlers, `on_failed = "hold"`, rows that cannot be read, the breaker, the rate limit, poison events,
//!   `wait_replicas`, SQLite's one shard, other lanes, leaving. An event that was failed once, or is replayed, has no place
//!   in its key's order any more.
//! - **Two events of a key** and one other. What takes three of a key is tested in `src/system/in_flight/tests.rs`.

#[cfg(test)]
mod check;
mod database;
mod events;
mod handlers;
mod heartbeat;
mod in_flight;
mod leases;
mod message;
mod ownership;
mod poller;
mod properties;
mod publisher;
mod reading;
mod redis;
mod rules;
mod settling;
mod state;
mod steps;
#[cfg(test)]
mod tests;
mod worker;

use stateright::{Model, Property};

use crate::rules::Outbox;
use crate::state::State;
use crate::steps::Step;

impl Model for Outbox {
    type State = State;
    type Action = Step;

    /// One worker has both shards, or each has one.
    fn init_states(&self) -> Vec<State> {
        vec![State::new([0, 0], self), State::new([0, 1], self)]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        let happening = state.steps(self);
        state.fault_steps(self, &happening, steps);
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

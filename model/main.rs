//! A model of delivery, every run of which is checked: no sequence of steps within the bounds loses an event, duplicates
//! one, or breaks the order of a key. Models of other parts of the protocol are in folders of their own: `ownership`,
//! `reading`, `handlers`, `routing`.
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
//! | `poller.rs` | `src/system/poller.rs`: fetch, in its steps read, query and admit |
//! | `in_flight.rs` | `src/system/in_flight`: admit, adopt, settle, release; rules R1 to R3 |
//! | `publisher.rs` | `src/system/publisher`, `src/backend/redis/stream`: try_open, open, look_up, adopt, send, publish, flush |
//! | `settling.rs` | `src/system/{completer,retry}.rs`: settle_published, settle_rescheduled |
//!
//! `steps.rs` says which steps are possible: ordinary ones, and the faults of `rules.rs`, each at any moment.
//! `properties.rs` says what must hold.
//!
//! # Why the omissions are sound
//!
//! - **Stalls** need no step: a worker that does nothing for a while is one whose next step comes after those of others.
//! - **A lost answer** is a request that is executed when its sender no longer waits, and before anything else happens.
//! - **A request and its answer** are one step if nothing but the worker's own death could come between: it can die after
//!   the step as well, and its next request is then on its way late (`Worker::on_its_way`).
//! - **A failover** keeps commits that were waited for, and everything that was committed before them; of a commit that was
//!   not waited for, and of later ones, it keeps nothing. Statements that were on their way are lost with their server. Only
//!   settles can be in doubt: any other write that is waited for would make them durable, so a run in which such a write
//!   fails too is no worse.
//! - **A settle reports for each event** whether it is recorded, skipped because of a lock, or refused permanently. The
//!   parts of a divided batch are one step: each is a settle like any other.
//! - **Clocks**: a lease expires at any moment, but under its holder only after the holder's own deadline. That order of the
//!   two is assumed; it implies that an answer that arrives late renews nothing.
//! - **Reading** returns all due events, with the retries or without. A fetch that finds nothing when it begins is counted
//!   as a fault (`Look`), so that no run continues forever by polling. So without further faults everything comes to rest,
//!   and at rest everything must be settled.
//! - **Not here**: handlers, `on_failed = "hold"`, rows that cannot be read, the breaker, the rate limit, poison events,
//!   `wait_replicas`, SQLite's one shard, other lanes, leaving. An event that was failed once, or is replayed, has no place
//!   in its key's order any more.
//! - **Two events of a key** and one other. Cases that need three of a key are tested in `src/system/in_flight/tests.rs`.

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
mod partitions;
mod poller;
mod properties;
mod publisher;
mod reading;
mod redis;
mod routing;
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

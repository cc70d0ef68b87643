//! A model of leased partitions: the entries of one partition are begun in their order, by one consumer at a time, and each of
//! them is handled in the end.
//!
//! # What is modelled
//!
//! Two consumers, one partition, two entries of one key. A consumer beats, claims what is pending, reads what is new,
//! handles, acknowledges, and releases the partition if it is to give it up. What Redis does and what its answer leads to
//! are two steps for beats and reads, so a lease may end in between. Reads, claims and releases may be executed late, after the
//! consumer has given up waiting for them.
//!
//! | here | the code |
//! |---|---|
//! | `redis.rs` | `src/backend/redis/source/leases`: the scripts |
//! | `state.rs` | `src/backend/redis/source/leases/table.rs`, `reading.rs`; `src/consumer/partitions.rs`: the loop; `delivery.rs` |
//!
//! A consumer's lease ends by its own clock before it ends in Redis: its clock counts from before the beat was sent.
//! Left out: shares (one partition has one taker), retries, dead letters, and acknowledgements that are lost, which are repeated.

mod redis;
mod state;
#[cfg(test)]
mod tests;

use stateright::{Model, Property};

use self::state::State;

/// The parts of the protocol that can be switched off, to show that the checker notices.
#[derive(Debug, Clone, Copy)]
struct Rules {
    /// Redis refuses reads and claims under a lease that another consumer has taken.
    fenced_reads: bool,
    /// Redis refuses reads that follow an earlier claim than the last one.
    numbered_claims: bool,
    /// Redis releases the lease that is named, and no later one.
    fenced_release: bool,
    /// What is pending is claimed before new entries are read.
    claims_first: bool,
    /// After a read whose answer is lost, what is pending is claimed again.
    claims_after_doubt: bool,
    /// No entry is begun after the lease has ended by the consumer's own clock.
    watches_the_clock: bool,
    /// A lease that has ended is another one when it is renewed.
    end_is_final: bool,
    /// A lease that is given up is not continued, also after it has ended and was renewed: its release may be under way.
    leaving_is_final: bool,
    /// A lease begins when the entries of the last one have left the memory.
    drains_first: bool,
    /// A partition is released when nothing of it is in memory.
    drains_last: bool,
}

impl Rules {
    const ALL: Self = Self {
        fenced_reads: true,
        numbered_claims: true,
        fenced_release: true,
        claims_first: true,
        claims_after_doubt: true,
        watches_the_clock: true,
        end_is_final: true,
        leaving_is_final: true,
        drains_first: true,
        drains_last: true,
    };
}

/// How often each fault may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Faults {
    /// An answer is lost, or a request is executed late.
    lost: u8,
    /// A lease ends.
    ends: u8,
    /// A consumer is to give the partition up.
    moves: u8,
    /// A consumer is killed and starts again.
    deaths: u8,
}

#[derive(Debug, Clone, Copy)]
struct Partitions {
    rules: Rules,
    faults: Faults,
}

/// What happens to a request of a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passing {
    Answered,
    AnswerLost,
    Late,
}

/// The numbers are those of consumers, and of late requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Append,
    Beat(usize),
    NoteBeat(usize),
    LoseBeat(usize),
    Read(usize, Passing),
    Add(usize),
    Begin(usize),
    Finish(usize),
    Acknowledge(usize),
    End(usize),
    Expire(usize),
    GiveUp(usize),
    Release(usize, Passing),
    Kill(usize),
    Start(usize),
    Arrive(usize),
}

const IN_ORDER: &str = "entries are begun in their order, repetitions left out";
const ONE: &str = "no entry is begun while another consumer, whose lease has not ended, handles one";
const ONCE: &str = "no entry is begun twice under one lease";
const DONE: &str = "every entry is handled in the end";
const MOVED: &str = "both consumers have handled entries";

impl Model for Partitions {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self.faults)]
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
            Property::always(IN_ORDER, |_, state: &State| !state.overtaken),
            Property::always(ONE, |_, state: &State| !state.together),
            Property::always(ONCE, |_, state: &State| !state.repeated),
            Property::always(DONE, |model, state: &State| state.is_done() || !state.is_at_rest(model.rules)),
            Property::sometimes(MOVED, |_, state: &State| state.is_done() && state.has_moved()),
        ]
    }
}

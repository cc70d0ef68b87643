//! Properties that must hold in every state, and those that must hold in some, or the model would show nothing.

use stateright::Property;

use super::Ownership;
use super::state::{Reach, State, Worker};

pub(crate) const LEASED: &str = "a lease that its holder considers valid is its holder's";
pub(crate) const ALONE: &str = "no two workers act on one shard";
pub(crate) const DELIVERED: &str = "without further faults, a worker that can deliver holds each shard";
pub(crate) const SHARED: &str = "without further faults, workers that can deliver hold no more than their share";
pub(crate) const BURIED: &str =
    "the row of a worker that has left, or was forgotten after its death, does not come back";
pub(crate) const NEWEST: &str = "no beat extends an end after a later beat has";
pub(crate) const KEPT: &str = "a worker was late, and kept leases that no other had taken";

pub(crate) fn all() -> Vec<Property<Ownership>> {
    vec![
        Property::always(LEASED, |_, state: &State| (0..state.leases.len()).all(|shard| is_holders(state, shard))),
        Property::always(ALONE, |_, state: &State| {
            (0..state.leases.len()).all(|shard| state.workers.iter().filter(|worker| worker.acts_on(shard)).count() < 2)
        }),
        Property::always(DELIVERED, |outbox, state: &State| {
            let delivered = |shard| state.workers.iter().any(|worker| worker.delivers(shard));
            let held = |shard| delivered(shard) || is_out_of_reach(state, shard);
            able(state).next().is_none() || (0..state.leases.len()).all(held) || !state.steps(outbox.rules).is_empty()
        }),
        Property::always(SHARED, |outbox, state: &State| {
            let share = state.leases.len().div_ceil(able(state).count().max(1));
            able(state).all(|worker| worker.keeps() <= share) || !state.steps(outbox.rules).is_empty()
        }),
        Property::always(BURIED, |_, state: &State| {
            !state.buried.iter().zip(&state.rows).any(|(buried, row)| *buried && row.is_some())
        }),
        Property::always(NEWEST, |_, state: &State| !state.revived),
        Property::sometimes(KEPT, |outbox, state: &State| state.kept || outbox.faults.expiries == 0),
    ]
}

fn is_holders(state: &State, shard: usize) -> bool {
    let lease = state.leases[shard];
    state.workers.iter().enumerate().filter(|(_, worker)| worker.acts_on(shard)).all(|(w, worker)| {
        let named = lease.owner == Some(w) && worker.held[shard].is_some_and(|held| held.epoch == lease.epoch);
        named && state.rows[w].is_some_and(|row| !row.ended)
    })
}

/// A session has locked the row of a dead owner: its leases cannot be taken for as long as the lock lasts.
fn is_out_of_reach(state: &State, shard: usize) -> bool {
    let owner = state.leases[shard].owner.filter(|owner| !state.workers[*owner].runs());
    owner.and_then(|owner| state.rows[owner]).is_some_and(|row| row.locked)
}

/// The workers that can deliver, and can report it: a locked row cannot be written.
fn able(state: &State) -> impl Iterator<Item = &Worker> {
    let writes = |w: usize| state.rows[w].is_some_and(|row| !row.locked);
    let workers = state.workers.iter().enumerate();
    workers.filter(move |(w, worker)| worker.runs() && worker.reach == Reach::Well && writes(*w)).map(|(_, w)| w)
}

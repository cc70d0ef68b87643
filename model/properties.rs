//! What must hold in every state.

use stateright::Property;

use crate::database::Status;
use crate::events::{Event, Publication};
use crate::rules::Outbox;
use crate::state::State;

pub(crate) const ONCE: &str = "no event is in the stream twice for one publication";
pub(crate) const IN_ORDER: &str = "a key's events are in the stream in their order";
pub(crate) const SENT: &str = "what is recorded as published is in the stream";
pub(crate) const TRIED: &str = "an event is failed only when it was refused as often as it may be";
pub(crate) const SETTLED: &str = "everything committed is settled once nothing goes wrong any more";
pub(crate) const CLEARED: &str = "the journal is empty once everything is settled";
pub(crate) const LEASED: &str = "a lease that its holder takes for valid is its holder's";

pub(crate) fn all() -> Vec<Property<Outbox>> {
    vec![
        Property::always(ONCE, |_, state: &State| !state.redis.stream.twice),
        Property::always(IN_ORDER, |_, state: &State| !state.redis.stream.overtaken),
        Property::always(SENT, |_, state: &State| {
            Event::ALL.into_iter().all(|event| is_sent_if_published(state, event))
        }),
        Property::always(TRIED, |outbox, state: &State| {
            let row = |event| state.database.row(event);
            let refused = |event| row(event).given_up || row(event).refusals >= outbox.max_retries;
            Event::ALL.into_iter().all(|event| row(event).status != Status::Failed || refused(event))
        }),
        Property::always(SETTLED, |outbox, state: &State| is_settled(state) || !state.steps(outbox).is_empty()),
        Property::always(CLEARED, |outbox, state: &State| {
            let empty = state.redis.places.iter().all(|place| place.sent.is_empty());
            empty || !is_settled(state) || !state.steps(outbox).is_empty()
        }),
        Property::always(LEASED, |_, state: &State| (0..2).all(|shard| is_valid_if_held(state, shard))),
    ]
}

fn is_sent_if_published(state: &State, event: Event) -> bool {
    let row = state.database.row(event);
    let publication = Publication { event, replay: row.replay };
    state.redis.stream.entries.contains(publication) || row.status != Status::Published && !row.published_at
}

fn is_settled(state: &State) -> bool {
    Event::ALL.into_iter().all(|event| state.database.row(event).is_done())
}

fn is_valid_if_held(state: &State, shard: usize) -> bool {
    let lease = state.database.leases[shard];
    let deluded = |worker: &crate::worker::Worker| {
        let valid = worker.held[shard].is_some_and(|held| !held.past);
        worker.alive && valid && (lease.owner != Some(worker.owner) || lease.expired)
    };
    !state.workers.iter().any(deluded)
}

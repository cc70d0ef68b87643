//! Properties that must hold in every state, and those that must hold in some, or the model would show nothing.

use stateright::Property;

use crate::database::Status;
use crate::events::{Event, Publication, Publications};
use crate::in_flight::DeliveryState;
use crate::rules::Outbox;
use crate::state::State;
use crate::worker::Worker;

pub(crate) const ONCE: &str = "no event is in the stream twice for one publication";
pub(crate) const IN_ORDER: &str = "a key's events are in the stream in their order";
pub(crate) const SENT: &str = "events recorded as published are in the stream";
pub(crate) const TRIED: &str = "an event is failed only when it was rejected as often as allowed";
pub(crate) const SETTLED: &str = "without further faults, every committed event is settled";
pub(crate) const CLEARED: &str = "once everything is settled, every journal entry is known as the next to be removed";
pub(crate) const LEASED: &str = "a lease that its holder considers valid is its holder's";

pub(crate) const TAKEN_OVER: &str = "events of an earlier session are found in the journal";
pub(crate) const REPLAYED: &str = "every event is published, and one is published again";

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
        Property::always(SETTLED, |outbox, state: &State| is_settled(state) || !state.is_at_rest(outbox)),
        Property::always(CLEARED, |outbox, state: &State| {
            let known = |worker: &Worker| worker.settled.and(worker.noted);
            let known = state.workers.iter().map(known).fold(Publications::default(), Publications::and);
            let known = known.and(unrecordable(state));
            let forgotten = state.redis.places.iter().any(|place| !place.sent.without(known).is_empty());
            !forgotten || !is_settled(state) || !state.is_at_rest(outbox)
        }),
        Property::sometimes(TAKEN_OVER, |_, state: &State| {
            let mut accepted =
                state.workers.iter().flat_map(|worker| worker.in_flight.in_stage(DeliveryState::Accepted));
            accepted.any(|(_, entry)| entry.session.is_none())
        }),
        Property::sometimes(REPLAYED, |_, state: &State| {
            let published = |event: Event| state.database.row(event).is_recorded();
            Event::ALL.into_iter().all(published)
                && Event::ALL.into_iter().any(|event| state.database.row(event).replay)
        }),
        Property::always(LEASED, |_, state: &State| (0..2).all(|shard| is_valid_if_held(state, shard))),
    ]
}

fn is_sent_if_published(state: &State, event: Event) -> bool {
    let row = state.database.row(event);
    is_sent(state, event) || !row.is_recorded() && !row.published_at
}

fn is_settled(state: &State) -> bool {
    let refuses = |event: Event| state.database.row(event).refuses;
    // A rejected event blocks its key until its rejection is recorded.
    let blocked = |event: Event| event.before().is_some_and(|before| refuses(before) && !is_sent(state, before));
    let settled = |event: Event| state.database.row(event).is_done() || refuses(event) || blocked(event);
    Event::ALL.into_iter().all(settled)
}

fn is_sent(state: &State, event: Event) -> bool {
    let publication = Publication { event, replay: state.database.row(event).replay };
    state.redis.stream.entries.contains(publication)
}

fn unrecordable(state: &State) -> Publications {
    let refuses = |event: &Event| state.database.row(*event).refuses;
    let publication = |event: Event| Publication { event, replay: state.database.row(event).replay };
    Event::ALL.into_iter().filter(refuses).map(publication).collect()
}

fn is_valid_if_held(state: &State, shard: usize) -> bool {
    let lease = state.database.leases[shard];
    let deluded = |worker: &Worker| {
        let valid = worker.held[shard].is_some_and(|held| !held.past);
        worker.alive && valid && (lease.owner != Some(worker.owner) || lease.expired)
    };
    !state.workers.iter().any(deluded)
}

//! Moves events that name no backend, and that a route leads to another publisher, to the lane of that publisher.
//!
//! They were admitted like events to send, so no journal names them and no unsent event of their key precedes them. While they
//! are moved, they count as rejected: the later events of their key wait, so none is moved past another.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

use uuid::Uuid;

use super::completer::wake_handlers;
use super::context::SystemContext;
use super::delivery::Delivery;
use super::reconnect::pause_after;
use crate::clock::BootInstant;
use crate::settings::Settings;
use crate::store::{LaneName, RoutedEvent, Settled};

/// The most events in one statement.
const MOST: usize = 500;

/// An event, and the lane to which it is moved.
pub(super) struct Routed {
    delivery: Delivery,
    to: LaneName,
}

impl Routed {
    fn request(&self) -> RoutedEvent {
        RoutedEvent {
            id: self.delivery.id,
            seq: self.delivery.position.seq,
            shard: self.delivery.shard.clone(),
            epoch: self.delivery.session.epoch,
            key: self.delivery.key().to_owned(),
            to: self.to.to_string(),
        }
    }
}

/// Takes the events that a route leads to another publisher; the others are left in `deliveries`.
pub(super) fn take_routed(settings: &Settings, deliveries: &mut Vec<Delivery>) -> Vec<Routed> {
    if settings.routes.is_empty() {
        return Vec::new();
    }
    let destination = |delivery: &Delivery| {
        // One that was sent already needs only its handlers.
        let event = delivery.event().filter(|event| event.published_at.is_none())?;
        settings.destination(event).map(LaneName::from)
    };
    let (mut routed, mut left) = (Vec::new(), Vec::with_capacity(deliveries.len()));
    for mut delivery in deliveries.drain(..) {
        match destination(&delivery) {
            Some(to) => {
                delivery.reject();
                delivery.count_in(None);
                routed.push(Routed { delivery, to });
            }
            None => left.push(delivery),
        }
    }
    *deliveries = left;
    routed
}

/// Moves events until all are moved, or are not this worker's any more. Those that are dropped are read again.
pub(super) async fn move_all(context: Arc<SystemContext>, mut waiting: Vec<Routed>) {
    let (mut mover, mut rounds) = (Mover { context: &context, most: MOST, named: HashSet::new() }, 0);
    loop {
        let now = BootInstant::now();
        waiting.retain(|Routed { delivery, .. }| context.leases.covers(&delivery.shard, delivery.session.epoch, now));
        if waiting.is_empty() || context.liveness.is_stopping() {
            return;
        }
        let round = mover.try_all(waiting).await;
        announce(&context, round.moved);
        waiting = round.waiting;
        if !waiting.is_empty() {
            tokio::time::sleep(pause_after(rounds)).await;
            rounds += 1;
        }
    }
}

struct Mover<'a> {
    context: &'a SystemContext,
    /// Events in one statement: half of them after one that failed.
    most: usize,
    /// Events of which it was logged that they are not moved.
    named: HashSet<Uuid>,
}

#[derive(Default)]
struct Round {
    moved: Vec<Routed>,
    /// To be tried again, in the order given.
    waiting: Vec<Routed>,
    /// Keys of the events that wait.
    stuck: HashSet<String>,
}

impl Round {
    fn wait(&mut self, routed: Routed) {
        if !routed.delivery.key().is_empty() {
            self.stuck.insert(routed.delivery.key().to_owned());
        }
        self.waiting.push(routed);
    }
}

impl Mover<'_> {
    /// Tries to move each event once. Behind one that waits, the others of its key wait too.
    async fn try_all(&mut self, given: Vec<Routed>) -> Round {
        let (mut round, mut given) = (Round::default(), VecDeque::from(given));
        while !given.is_empty() {
            let batch = given.drain(..given.len().min(self.most));
            let (behind, batch): (Vec<Routed>, Vec<Routed>) =
                batch.partition(|routed| round.stuck.contains(routed.delivery.key()));
            round.waiting.extend(behind);
            if batch.is_empty() {
                continue;
            }
            let requests: Vec<RoutedEvent> = batch.iter().map(Routed::request).collect();
            match self.context.store.route(self.context.worker, &requests).await {
                Ok(outcomes) => batch.into_iter().zip(outcomes).for_each(|(routed, outcome)| match outcome {
                    Settled::Recorded => round.moved.push(routed),
                    // An operator changed it, or another worker has its shard.
                    Settled::Superseded => {}
                    Settled::Refused(reason) => {
                        self.name(&routed, &reason);
                        round.wait(routed);
                    }
                    Settled::Locked | Settled::Untried => round.wait(routed),
                }),
                Err(error) => {
                    // A row that the database refuses is alone after some tries, and then holds up its key only.
                    self.most = (batch.len() / 2).max(1);
                    if let ([only], true) = (&batch[..], error.is_refusal()) {
                        self.name(only, &error.to_string());
                    }
                    batch.into_iter().for_each(|routed| round.wait(routed));
                    if !error.is_refusal() {
                        tracing::debug!(%error, "events not routed; retrying");
                        round.waiting.extend(given.drain(..));
                    }
                }
            }
        }
        round
    }

    fn name(&mut self, routed: &Routed, reason: &str) {
        let id = routed.delivery.id;
        if self.named.insert(id) {
            tracing::warn!(event.id = %id, to = %routed.to, reason, "event not routed; retrying while the others continue");
        }
    }
}

/// Has the events read in their new lanes. They may be behind the cursors there.
fn announce(context: &SystemContext, moved: Vec<Routed>) {
    if moved.is_empty() {
        return;
    }
    let (mut lanes, mut owing) = (BTreeSet::new(), BTreeSet::new());
    for Routed { delivery, to } in moved {
        if let Some(in_flight) = context.publisher_of(&to).and_then(|publisher| publisher.in_flight(&to)) {
            in_flight.read_from(delivery.shard.number, delivery.position);
        }
        owing.extend(delivery.settled(false));
        lanes.insert(to);
    }
    wake_handlers(context, &owing);
    context.announce_late(&lanes);
}

//! Recording outcomes: `src/system/{completer,retry}.rs`. No handler is subscribed, so accepted events are done.
//!
//! Both write until they are answered, so after a lost answer the same statement follows. It and its answer are one step,
//! like a script and its. A late execution of `settle_published` has two, because its repetition may meet its locks.
//!
//! With a synchronous standby a commit waits for the standby. If the wait is cancelled, what was committed is visible and
//! can be lost (`Fate::Doubted`); the repetition then changes no row, and so has nothing to wait for, unless it writes
//! something.

use crate::database::FailureRecord;
use crate::events::Publications;
use crate::in_flight::DeliveryState;
use crate::message::Message;
use crate::rules::{Outbox, Rules};
use crate::state::State;
use crate::steps::{Fate, Step};

impl State {
    pub(crate) fn settling_steps(&self, w: usize, outbox: &Outbox, steps: &mut Vec<Step>) {
        let worker = &self.workers[w];
        if !self.answered(worker.completing(), outbox.rules).is_empty() {
            steps.push(Step::SettlePublished(w, Fate::Answered));
        }
        let recordable = |settle: &FailureRecord| {
            let event = settle.publication.event;
            !self.is_locked(event) && !self.database.row(event).refuses
        };
        if worker.refusals(outbox.max_retries).next().as_ref().is_some_and(recordable) {
            steps.push(Step::SettleRescheduled(w, Fate::Answered));
        }
    }

    /// The events for which a settle reports an outcome: all that it does not skip. Undivided, a refused one fails all.
    fn answered(&self, events: Publications, rules: Rules) -> Publications {
        let skipped = if rules.skipped_is_repeated { self.settling } else { Publications::default() };
        let events = events.without(skipped);
        if rules.divides || self.database.refused(events).is_empty() { events } else { Publications::default() }
    }

    pub(crate) fn settle_published(&mut self, w: usize, fate: Fate, outbox: &Outbox) {
        let rules = outbox.rules;
        let events = self.workers[w].completing();
        if fate == Fate::GivenUp {
            return self.abandon(Message::SettlePublished(events));
        }
        let events = self.answered(events, rules);
        let refused = self.database.refused(events);
        self.database.settle_published(events.without(refused).without(self.settling));
        if fate == Fate::Doubted {
            return;
        }
        if rules.repetition_waits {
            self.durable = None;
        }
        let unrecorded = if rules.keeps_unrecorded { refused } else { Publications::default() };
        let (recorded, worker) = (events.without(unrecorded), &mut self.workers[w]);
        worker.noted = worker.noted.and(recorded);
        let until = worker.reading(rules);
        recorded.iter().for_each(|publication| worker.in_flight.settle(publication.event, false, until));
        unrecorded
            .iter()
            .for_each(|publication| worker.in_flight.set_stage(publication.event, DeliveryState::Unrecorded));
    }

    pub(crate) fn settle_rescheduled(&mut self, w: usize, fate: Fate, outbox: &Outbox) {
        let Some(settle) = self.workers[w].refusals(outbox.max_retries).next() else { return };
        if fate == Fate::GivenUp {
            return self.abandon(Message::SettleRescheduled(settle));
        }
        let recorded = self.database.settle_rescheduled(settle, outbox.rules);
        if fate == Fate::Doubted {
            return;
        }
        if outbox.rules.repetition_waits {
            self.durable = None;
        }
        let worker = &mut self.workers[w];
        let until = worker.reading(outbox.rules);
        if recorded {
            worker.noted.insert(settle.publication);
            worker.in_flight.settle(settle.publication.event, !settle.failed, until);
        } else {
            worker.drop_delivery(settle.publication.event, outbox.rules);
        }
    }
}

//! Recording what became of events: `src/system/{completer,retry}.rs`. No handler is subscribed, so what is accepted is done.
//!
//! Both write until they are answered, so an answer that is lost is followed by the same statement. It and its answer are one
//! step, like a script and its.

use crate::message::Message;
use crate::rules::Outbox;
use crate::state::State;
use crate::steps::{Fate, Step};

impl State {
    pub(crate) fn settling_steps(&self, w: usize, outbox: &Outbox, steps: &mut Vec<Step>) {
        let worker = &self.workers[w];
        if !worker.completing().is_empty() {
            steps.push(Step::SettlePublished(w, Fate::Answered));
        }
        if worker.refusals(outbox.max_retries).next().is_some() {
            steps.push(Step::SettleRescheduled(w, Fate::Answered));
        }
    }

    pub(crate) fn settle_published(&mut self, w: usize, fate: Fate, outbox: &Outbox) {
        let events = self.workers[w].completing();
        if fate == Fate::GivenUp {
            return self.give_up(Message::SettlePublished(events));
        }
        self.database.settle_published(events);
        let worker = &mut self.workers[w];
        worker.noted = worker.noted.and(events);
        let kept = worker.fetch.is_some() && outbox.rules.r2;
        events.iter().for_each(|publication| worker.flight.settle(publication.event, false, kept));
    }

    pub(crate) fn settle_rescheduled(&mut self, w: usize, fate: Fate, outbox: &Outbox) {
        let Some(settle) = self.workers[w].refusals(outbox.max_retries).next() else { return };
        if fate == Fate::GivenUp {
            return self.give_up(Message::SettleRescheduled(settle));
        }
        let recorded = self.database.settle_rescheduled(settle, outbox.rules);
        let worker = &mut self.workers[w];
        let kept = worker.fetch.is_some() && outbox.rules.r2;
        if recorded {
            worker.noted.insert(settle.publication);
            worker.flight.settle(settle.publication.event, !settle.failed, kept);
        } else {
            worker.drop_ticket(settle.publication.event);
        }
    }
}

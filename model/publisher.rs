//! Opening and delivering: `src/system/publisher`, with the session of `src/backend/redis/stream`.
//!
//! A script and its answer are one step: between the two the worker could only do what it can do before the script, or die,
//! and it can die after the answer too. Before the script, anything may happen.

use crate::database::FetchedRow;
use crate::events::Publications;
use crate::in_flight::{DeliveryState, Reading};
use crate::message::{Message, each};
use crate::redis::{Batch, PublishFault, Reply};
use crate::rules::{Outbox, Rules};
use crate::state::State;
use crate::steps::{Fate, Piece, Step};
use crate::worker::SenderState;

impl State {
    pub(crate) fn publisher_steps(&self, w: usize, steps: &mut Vec<Step>) {
        let worker = &self.workers[w];
        match worker.sender {
            SenderState::Opening(_) => steps.push(Step::Open(w, Fate::Answered)),
            SenderState::Recovering { .. } => steps.push(Step::LookUp(w, Fate::Answered)),
            SenderState::Adopting { .. } => steps.push(Step::Adopt(w)),
            SenderState::Sending(..) => steps.push(Step::Publish(w, None, Fate::Answered)),
            SenderState::Idle => {
                if worker.may_open() {
                    steps.push(Step::TryOpen(w));
                }
                if !worker.queue.is_empty() {
                    steps.push(Step::Send(w, Piece::All));
                }
                if worker.queue.len() > 1 {
                    steps.push(Step::Send(w, Piece::First));
                }
                let settled = worker.settled.and(worker.noted.within(worker.fields));
                if worker.sessions != [None; 2] && !settled.is_empty() {
                    steps.push(Step::Flush(w, Fate::Answered));
                }
            }
        }
    }

    /// Starts an open, which fences earlier sessions.
    pub(crate) fn try_open(&mut self, w: usize) {
        let worker = &mut self.workers[w];
        worker.counter += 1;
        worker.hindered_by = None;
        let counter = worker.counter;
        let tokens = worker.wanted().map(|epoch| epoch.map(|epoch| crate::redis::Token { epoch, counter }));
        worker.close(tokens);
        worker.note_settled();
        worker.sender = SenderState::Opening(tokens);
    }

    /// `open.lua`, and the session's reaction to its answer.
    pub(crate) fn open(&mut self, w: usize, fate: Fate, outbox: &Outbox) {
        let SenderState::Opening(tokens) = self.workers[w].sender else { return };
        let worker = &mut self.workers[w];
        if fate == Fate::GivenUp {
            worker.end();
            worker.sender = SenderState::Idle;
            return self.abandon(Message::Open(tokens));
        }
        let (mut sent, mut refused) = (Publications::default(), [None; 2]);
        for (shard, token) in each(tokens) {
            match self.redis.open(shard, token, outbox.rules) {
                Ok(journal) => {
                    worker.sessions[shard] = Some(token);
                    worker.fields = worker.fields.without(worker.fields.of_shard(shard)).and(journal);
                    sent = sent.and(journal);
                }
                Err(standing) => refused[shard] = Some(standing),
            }
        }
        worker.sender = SenderState::Recovering { tokens, sent, refused };
    }

    /// `raise_epochs` and `look_up`: what the database has of the events that earlier sessions sent.
    pub(crate) fn look_up(&mut self, w: usize, fate: Fate, rules: Rules) {
        let SenderState::Recovering { tokens, sent, refused } = self.workers[w].sender else { return };
        let worker = &mut self.workers[w];
        worker.sender = SenderState::Idle;
        for (shard, above) in each(refused) {
            let epoch = tokens[shard].map_or(0, |token| token.epoch);
            self.database.raise_epoch(worker.owner, shard, epoch, above);
            worker.refused = true;
        }
        self.database.mark_failed_as_sent(sent);
        if fate == Fate::Answered {
            let rows = self.database.find_unsettled(sent);
            worker.sender = SenderState::Adopting { tokens, sent, refused, rows };
            self.wait_for_what_was_found(sent, rows, rules.recovery_waits && rules.waits_where_it_read);
        }
    }

    /// Before a journal entry is removed because its row is found published, something is written, and the standby has it.
    fn wait_for_what_was_found(&mut self, sent: Publications, rows: [Option<FetchedRow>; 3], waits: bool) {
        let unknown: Publications = rows.iter().flatten().map(|row| row.publication).collect();
        if waits && sent != unknown {
            self.durable = None;
        }
    }

    /// `adopt`: events that earlier sessions sent are admitted, and entries that the database has may leave the journal;
    /// then the shards are open.
    pub(crate) fn adopt(&mut self, w: usize, outbox: &Outbox) {
        let SenderState::Adopting { tokens, sent, refused, rows } = self.workers[w].sender else { return };
        let rules = outbox.rules;
        self.wait_for_what_was_found(sent, rows, rules.recovery_waits && !rules.waits_where_it_read);
        let worker = &mut self.workers[w];
        worker.sender = SenderState::Idle;
        let rows = || rows.iter().flatten();
        let unknown: Publications = rows().map(|row: &FetchedRow| row.publication).collect();
        worker.settle_fields(sent.without(unknown));
        worker.hindered_by = rows().find_map(|row| worker.in_flight.obstacle_to(row, rules));
        if worker.hindered_by.is_none() {
            for row in rows() {
                if let Some(token) = tokens[row.publication.event.shard()] {
                    worker.in_flight.adopt(*row, token.epoch);
                }
            }
            for (shard, token) in each(tokens).filter(|(shard, _)| refused[*shard].is_none()) {
                worker.in_flight.open[shard] = Some(token);
            }
        }
        worker.in_flight.end_reading(Reading { fetch: false, look_up: true });
    }

    /// `deliver` up to the sending of one piece: events that cannot be sent are released, accepted ones are passed on.
    pub(crate) fn send(&mut self, w: usize, piece: Piece, outbox: &Outbox) {
        let worker = &mut self.workers[w];
        let mut going = Vec::new();
        for event in worker.queue.clone() {
            if !worker.may_go(event, outbox.rules) {
                worker.drop_delivery(event, outbox.rules);
            } else if worker.in_flight.entry(event).is_some_and(|entry| entry.row.published_at) {
                worker.queue.retain(|queued| *queued != event);
                worker.in_flight.set_stage(event, DeliveryState::Accepted);
            } else if going.is_empty() || piece == Piece::All {
                going.push(event);
            }
        }
        if going.is_empty() {
            return;
        }
        worker.queue.retain(|event| !going.contains(event));
        worker.note_settled();
        let mut batch = Batch { events: Publications::default(), tokens: [None; 2] };
        for event in &going {
            batch.tokens[event.shard()] = worker.sessions[event.shard()];
            worker.in_flight.entry(*event).into_iter().for_each(|entry| batch.events.insert(entry.row.publication));
        }
        if going.iter().any(|event| batch.tokens[event.shard()].is_none()) {
            going.iter().for_each(|event| worker.in_flight.open[event.shard()] = None);
            return going.into_iter().for_each(|event| worker.drop_delivery(event, outbox.rules));
        }
        worker.sender = SenderState::Sending(batch, std::mem::take(&mut worker.settled));
    }

    /// `publish.lua`, and the reaction of `send` to its answer.
    pub(crate) fn publish(&mut self, w: usize, fault: Option<PublishFault>, fate: Fate, outbox: &Outbox) {
        let SenderState::Sending(batch, settled) = self.workers[w].sender else { return };
        self.workers[w].sender = SenderState::Idle;
        if fate == Fate::GivenUp {
            self.abandon(Message::Publish(batch, settled));
            let worker = &mut self.workers[w];
            worker.end();
            worker.in_flight.open = [None; 2];
            return batch.events.iter().for_each(|publication| worker.drop_delivery(publication.event, outbox.rules));
        }
        self.meet(fault);
        let reply = self.redis.publish(&batch, settled, fault, outbox.rules, &self.database);
        let worker = &mut self.workers[w];
        let sent = match reply {
            Reply::Sent => batch.events,
            Reply::Stopped { sent } => sent,
            Reply::Closed => Publications::default(),
        };
        worker.fields = worker.fields.and(sent);
        if reply != Reply::Sent {
            worker.settled = worker.settled.and(settled);
            each(batch.tokens).for_each(|(shard, _)| worker.sessions[shard] = None);
            worker.close(batch.tokens);
            if matches!(fault, Some(PublishFault::Stopped(_))) && reply != Reply::Closed {
                worker.in_flight.open = [None; 2];
            }
        }
        for publication in batch.events.iter() {
            let event = publication.event;
            let refused = fault == Some(PublishFault::Refused(event)) && reply != Reply::Closed;
            match (sent.contains(publication), refused) {
                (true, _) => worker.in_flight.set_stage(event, DeliveryState::Accepted),
                (false, true) => worker.in_flight.set_stage(event, DeliveryState::Rejected),
                (false, false) => worker.drop_delivery(event, outbox.rules),
            }
        }
    }

    /// Counts a fault in Redis.
    pub(crate) fn meet(&mut self, fault: Option<PublishFault>) {
        match fault {
            Some(PublishFault::Refused(event)) => {
                self.faults.spend(|faults| &mut faults.refusals);
                self.database.row_mut(event).refusals += 1;
            }
            Some(PublishFault::Stopped(_)) => self.faults.spend(|faults| &mut faults.stops),
            None => {}
        }
    }

    pub(crate) fn flush(&mut self, w: usize, fate: Fate) {
        let worker = &mut self.workers[w];
        worker.note_settled();
        let settled = worker.settled;
        if fate == Fate::GivenUp {
            worker.end();
            worker.in_flight.open = [None; 2];
            return self.abandon(Message::Flush(settled));
        }
        worker.settled = Publications::default();
        self.redis.drop_settled(settled);
    }
}

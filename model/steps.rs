//! Every step, named as the function of the code that takes it: whether it is possible, and its result.

use crate::database::Status;
use crate::events::{Event, Publications};
use crate::leases::Owner;
use crate::message::Message;
use crate::redis::{Batch, PublishFault};
use crate::rules::{Faults, Outbox};
use crate::state::State;
use crate::worker::{SenderState, Worker};

/// The fate of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Answered,
    /// Its sender no longer waits. It is executed late, or never.
    GivenUp,
    /// Executed and visible; its wait for the standby was cancelled, and its sender does not know the outcome.
    Doubted,
}

/// The part of the queue that one batch takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    First,
    All,
}

/// The numbers are those of a worker and of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    // Steps of a worker.
    Renew(usize, Fate),
    Acquire(usize, usize, Fate),
    Release(usize, usize, Fate),
    TryOpen(usize),
    Open(usize, Fate),
    LookUp(usize, Fate),
    Adopt(usize),
    /// With the retries, if they are due.
    Fetch(usize, bool),
    Look(usize),
    Ask(usize),
    Admit(usize),
    Send(usize, Piece),
    Publish(usize, Option<PublishFault>, Fate),
    Flush(usize, Fate),
    SettlePublished(usize, Fate),
    SettleRescheduled(usize, Fate),
    // Writers and operators.
    Commit(Event),
    Replay(Event),
    Retry(Event),
    Fail(Event),
    // Time and faults.
    Expire(usize),
    Drain(usize, usize),
    DropTicket(usize, Event),
    Crash(usize),
    Restart(usize),
    Arrive(Message, Option<PublishFault>),
    /// A late settle locks its rows; then it commits, or is rolled back.
    Lock(Publications),
    CommitSettle,
    RollBack,
    FailOver,
    Refuse(Event),
    RestoreLeases,
}

impl State {
    /// Whether no ordinary step is left.
    pub(crate) fn is_at_rest(&self, outbox: &Outbox) -> bool {
        !self.workers.iter().any(|worker| worker.alive && worker.is_at_work()) && self.steps(outbox).is_empty()
    }

    /// Ordinary steps, which happen in some order without further faults.
    pub(crate) fn steps(&self, outbox: &Outbox) -> Vec<Step> {
        let mut steps = Vec::new();
        for (w, worker) in self.workers.iter().enumerate() {
            if worker.alive {
                self.heart_steps(w, outbox.rules, &mut steps);
                self.poller_steps(w, outbox, &mut steps);
                self.publisher_steps(w, &mut steps);
                self.settling_steps(w, outbox, &mut steps);
            } else {
                steps.push(Step::Restart(w));
            }
        }
        let uncommitted = |event: &Event| self.database.row(*event).status == Status::Uncommitted;
        steps.extend(Event::ALL.into_iter().filter(uncommitted).map(Step::Commit));
        if !self.settling.is_empty() {
            steps.push(Step::CommitSettle);
        }
        // Leases that no worker renews expire.
        let abandoned = |shard: &usize| !self.database.leases[*shard].is_free() && !self.is_kept(*shard);
        steps.extend((0..2).filter(abandoned).map(Step::Expire));
        steps
    }

    /// Adds the faults that may happen, as often as is left.
    pub(crate) fn fault_steps(&self, outbox: &Outbox, happening: &[Step], steps: &mut Vec<Step>) {
        let faults = self.faults;
        if faults.lost > 0 {
            steps.extend(happening.iter().filter_map(|step| step.with(Fate::GivenUp)));
        }
        if faults.doubts > 0 {
            steps.extend(happening.iter().filter_map(|step| step.doubted()));
        }
        if faults.failovers > 0 && self.durable.is_some() {
            steps.push(Step::FailOver);
        }
        if !self.settling.is_empty() {
            steps.push(Step::RollBack);
        }
        for (w, worker) in self.workers.iter().enumerate().filter(|(_, worker)| worker.alive) {
            if let SenderState::Sending(batch, _) = worker.sender {
                steps.extend(self.publish_faults(&batch).map(|fault| Step::Publish(w, Some(fault), Fate::Answered)));
            }
            if faults.looks > 0 {
                self.looks(w, outbox, steps);
            }
            if faults.drops > 0 {
                let deliveries = Event::ALL.into_iter().filter(|event| worker.has_delivery(*event));
                steps.extend(deliveries.map(|event| Step::DropTicket(w, event)));
            }
            if faults.crashes > 0 {
                steps.push(Step::Crash(w));
            }
            let given = |shard: &usize| faults.moves > 0 && worker.held[*shard].is_some_and(|held| !held.draining);
            steps.extend((0..2).filter(given).map(|shard| Step::Drain(w, shard)));
        }
        steps.extend((0..2).filter(|shard| faults.expiries > 0 && self.is_kept(*shard)).map(Step::Expire));
        for message in &self.late {
            if !self.is_hindered(message) {
                steps.push(Step::Arrive(*message, None));
            }
            if let Message::SettlePublished(events) = message
                && self.is_repeated(*events)
            {
                steps.push(Step::Lock(*events));
            }
            if let Message::Publish(batch, _) = message
                && self.redis.knows(batch)
            {
                steps.extend(self.publish_faults(batch).map(|fault| Step::Arrive(*message, Some(fault))));
            }
        }
        self.operator_actions(steps);
    }

    /// Whether a row that it would change is locked.
    fn is_hindered(&self, message: &Message) -> bool {
        match message {
            Message::SettlePublished(events) => events.iter().any(|publication| self.is_locked(publication.event)),
            Message::SettleRescheduled(settle) => self.is_locked(settle.publication.event),
            _ => false,
        }
    }

    /// Whether a repetition could meet the locks; one late settle has them at a time.
    fn is_repeated(&self, events: Publications) -> bool {
        let completing = |worker: &Worker| !worker.completing().within(events).is_empty();
        self.settling.is_empty() && self.workers.iter().any(completing)
    }

    fn publish_faults(&self, batch: &Batch) -> impl Iterator<Item = PublishFault> {
        let Faults { refusals, stops, .. } = self.faults;
        batch.events.iter().flat_map(move |publication| {
            let event = publication.event;
            let refused = (refusals > 0).then_some(PublishFault::Refused(event));
            refused.into_iter().chain((stops > 0).then_some(PublishFault::Stopped(event)))
        })
    }

    fn operator_actions(&self, steps: &mut Vec<Step>) {
        for event in Event::ALL {
            let row = self.database.row(event);
            if self.is_locked(event) || row.refuses {
                continue;
            }
            if self.faults.defects > 0 && row.is_unsettled() {
                steps.push(Step::Refuse(event));
            }
            if self.faults.replays > 0 && row.is_recorded() && !row.replay {
                steps.push(Step::Replay(event));
            }
            if self.faults.operator_actions > 0 && matches!(row.status, Status::Retry | Status::Failed) {
                steps.push(Step::Retry(event));
            }
            if self.faults.operator_actions > 0 && row.is_unsettled() {
                steps.push(Step::Fail(event));
            }
        }
        if self.faults.restores > 0 {
            steps.push(Step::RestoreLeases);
        }
    }

    pub(crate) fn take(&mut self, step: Step, outbox: &Outbox) {
        let before = self.database;
        self.change(step, outbox);
        if !matches!(step, Step::FailOver | Step::Expire(_)) {
            self.note_commit(before, step.doubted() != Some(step));
        }
        self.normalize(outbox);
    }

    fn change(&mut self, step: Step, outbox: &Outbox) {
        match step {
            Step::Renew(w, fate) => self.renew(w, fate, outbox),
            Step::Acquire(w, shard, fate) => self.acquire(w, shard, fate),
            Step::Release(w, shard, fate) => self.release(w, shard, fate, outbox),
            Step::TryOpen(w) => self.try_open(w),
            Step::Open(w, fate) => self.open(w, fate, outbox),
            Step::LookUp(w, fate) => {
                self.doubt(fate);
                if fate == Fate::GivenUp {
                    self.faults.spend(|faults| &mut faults.lost);
                }
                self.look_up(w, fate, outbox.rules);
            }
            Step::Adopt(w) => self.adopt(w, outbox),
            Step::Fetch(w, retries) => self.workers[w].fetch = Some(self.begin_fetch(w, retries)),
            Step::Look(w) => {
                self.faults.spend(|faults| &mut faults.looks);
                self.workers[w].fetch = Some(self.begin_fetch(w, true));
            }
            Step::Ask(w) => self.ask(w),
            Step::Admit(w) => self.admit(w, outbox),
            Step::Send(w, piece) => self.send(w, piece, outbox),
            Step::Publish(w, fault, fate) => self.publish(w, fault, fate, outbox),
            Step::Flush(w, fate) => self.flush(w, fate),
            Step::SettlePublished(w, fate) => {
                self.doubt(fate);
                self.settle_published(w, fate, outbox);
            }
            Step::SettleRescheduled(w, fate) => {
                self.doubt(fate);
                self.settle_rescheduled(w, fate, outbox);
            }
            Step::Commit(event) => self.database.row_mut(event).status = Status::Pending,
            Step::Replay(event) => {
                self.faults.spend(|faults| &mut faults.replays);
                self.database.replay(event);
            }
            Step::Retry(event) => {
                self.faults.spend(|faults| &mut faults.operator_actions);
                self.database.retry(event);
            }
            Step::Fail(event) => {
                self.faults.spend(|faults| &mut faults.operator_actions);
                self.database.fail(event);
            }
            Step::Expire(shard) => {
                if self.is_kept(shard) {
                    self.faults.spend(|faults| &mut faults.expiries);
                }
                self.expire(shard);
            }
            Step::Drain(w, shard) => {
                self.faults.spend(|faults| &mut faults.moves);
                self.workers[w].held[shard].iter_mut().for_each(|held| held.draining = true);
            }
            Step::DropTicket(w, event) => {
                self.faults.spend(|faults| &mut faults.drops);
                self.workers[w].drop_delivery(event, outbox.rules);
            }
            Step::Crash(w) => {
                self.faults.spend(|faults| &mut faults.crashes);
                self.stop(w, outbox);
            }
            Step::Restart(w) => {
                let Owner { worker, life } = self.workers[w].owner;
                self.workers[w] = Worker::new(Owner { worker, life: life + 1 });
            }
            Step::Arrive(message, fault) => {
                let place = self.late.iter().position(|late| *late == message);
                place.into_iter().for_each(|place| _ = self.late.remove(place));
                self.meet(fault);
                message.arrive(&mut self.database, &mut self.redis, fault, outbox.rules);
            }
            Step::Lock(events) => {
                let message = Message::SettlePublished(events);
                let place = self.late.iter().position(|late| *late == message);
                place.into_iter().for_each(|place| _ = self.late.remove(place));
                self.settling = events;
            }
            Step::CommitSettle => {
                let events = std::mem::take(&mut self.settling);
                self.database.settle_published(events);
            }
            Step::RollBack => self.settling = Publications::default(),
            Step::FailOver => {
                self.faults.spend(|faults| &mut faults.failovers);
                self.fail_over();
            }
            Step::Refuse(event) => {
                self.faults.spend(|faults| &mut faults.defects);
                self.database.row_mut(event).refuses = true;
            }
            Step::RestoreLeases => {
                self.faults.spend(|faults| &mut faults.restores);
                (0..2).for_each(|w| self.stop(w, outbox));
                self.database.restore_leases();
            }
        }
    }

    fn doubt(&mut self, fate: Fate) {
        if fate == Fate::Doubted {
            self.faults.spend(|faults| &mut faults.doubts);
        }
    }

    fn stop(&mut self, w: usize, outbox: &Outbox) {
        if self.workers[w].alive {
            self.late.extend(self.workers[w].on_its_way(outbox.max_retries));
            self.workers[w] = Worker { alive: false, ..Worker::new(self.workers[w].owner) };
        }
    }
}

impl Step {
    /// The same step with another fate, if it sends a server a request.
    fn with(self, fate: Fate) -> Option<Self> {
        Some(match self {
            Self::Renew(w, _) => Self::Renew(w, fate),
            Self::Acquire(w, shard, _) => Self::Acquire(w, shard, fate),
            Self::Release(w, shard, _) => Self::Release(w, shard, fate),
            Self::Open(w, _) => Self::Open(w, fate),
            Self::LookUp(w, _) => Self::LookUp(w, fate),
            Self::Publish(w, fault, _) => Self::Publish(w, fault, fate),
            Self::Flush(w, _) => Self::Flush(w, fate),
            Self::SettlePublished(w, _) => Self::SettlePublished(w, fate),
            Self::SettleRescheduled(w, _) => Self::SettleRescheduled(w, fate),
            _ => return None,
        })
    }

    /// The same step in doubt, if its write decides about the journal.
    fn doubted(self) -> Option<Self> {
        let settles = matches!(self, Self::LookUp(..) | Self::SettlePublished(..) | Self::SettleRescheduled(..));
        self.with(Fate::Doubted).filter(|_| settles)
    }
}

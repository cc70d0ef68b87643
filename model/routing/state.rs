//! The tables, the journal, the workers, and every step.

use super::{Faults, Rules, Step};

/// The worker with the route.
const ROUTES: usize = 0;

/// The worker with other settings.
const SENDS: usize = 1;

/// A row of `outbox_events`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Event {
    committed: bool,
    /// Whether it is in the lane of its route.
    moved: bool,
    done: bool,
}

/// A statement that moves events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Move {
    events: [bool; 2],
    epoch: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Worker {
    /// The epoch of the lease, as far as it knows.
    lease: Option<u8>,
    /// The epoch of the session in which the shard is open.
    open: Option<u8>,
    /// What the fetch that is under way has read.
    read: Option<[bool; 2]>,
    /// Admitted, and not yet sent or moved.
    queued: [bool; 2],
    /// Sent, or found in the journal, and not yet settled.
    accepted: [bool; 2],
    /// Was in flight after the read of the fetch that is under way.
    lingers: [bool; 2],
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    events: [Event; 2],
    owner: usize,
    epoch: u8,
    /// The epoch of the newest session, and what was sent from this lane and may not be recorded.
    token: u8,
    journal: [bool; 2],
    workers: [Worker; 2],
    /// The statements for which the first worker waits.
    moving: Vec<Move>,
    late: Vec<Move>,
    faults: Faults,
    // Not in any table.
    sent_here: [bool; 2],
    pub(super) sent_there: [bool; 2],
    pub(super) twice: bool,
    pub(super) overtaken: bool,
}

impl State {
    pub(super) fn new(owner: usize, faults: Faults) -> Self {
        let mut workers = [Worker::default(); 2];
        workers[owner].lease = Some(1);
        Self {
            events: [Event::default(); 2],
            owner,
            epoch: 1,
            token: 0,
            journal: [false; 2],
            workers,
            moving: Vec::new(),
            late: Vec::new(),
            faults,
            sent_here: [false; 2],
            sent_there: [false; 2],
            twice: false,
            overtaken: false,
        }
    }

    pub(super) fn steps(&self, rules: Rules, steps: &mut Vec<Step>) {
        steps.extend((0..2).find(|e| !self.events[*e].committed).map(Step::Commit));
        for (w, worker) in self.workers.iter().enumerate() {
            if worker.lease.is_some() && worker.open != worker.lease {
                steps.push(Step::Open(w));
            }
            if worker.read.is_some() {
                steps.push(Step::Admit(w));
            } else if self.may_read(w, rules) && (0..2).any(|e| self.is_due_here(e) && !self.waits(w, e, rules)) {
                steps.push(Step::Read(w));
            }
            steps.extend((0..2).filter(|e| worker.accepted[*e]).map(|e| Step::Settle(w, e)));
        }
        if self.workers[ROUTES].queued != [false; 2] {
            steps.push(Step::BeginMove);
        }
        steps.extend(self.moving.iter().chain(&self.late).map(|statement| Step::Execute(*statement, None)));
        steps.extend((0..2).find(|e| self.workers[SENDS].queued[*e]).map(Step::SendFromHere));
        if self.next_there().is_some() {
            steps.push(Step::SendThere);
        }
    }

    pub(super) fn faults(&self, rules: Rules, steps: &mut Vec<Step>) {
        // Polling that finds nothing to admit is counted, so that no run continues forever by it.
        let may_look = |w: &usize| self.workers[*w].read.is_none() && self.may_read(*w, rules);
        steps.extend((0..2).filter(|w| self.faults.looks > 0 && may_look(w)).map(Step::Look));
        steps.extend((self.faults.takeovers > 0).then_some(Step::TakeOver));
        steps.extend((0..2).filter(|_| self.faults.deaths > 0).map(Step::Die));
        for statement in self.moving.iter().copied() {
            steps.extend((self.faults.late > 0).then_some(Step::LoseAnswer(statement)));
            let given = (0..2).filter(|e| self.faults.locks > 0 && statement.events[*e]);
            steps.extend(given.map(|e| Step::Execute(statement, Some(e))));
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.events.iter().all(|event| event.done)
    }

    /// Whether nothing but a fault can happen.
    pub(super) fn is_at_rest(&self, rules: Rules) -> bool {
        let mut steps = Vec::new();
        self.steps(rules, &mut steps);
        steps.is_empty()
    }

    fn is_due_here(&self, e: usize) -> bool {
        let Event { committed, moved, done } = self.events[e];
        committed && !moved && !done
    }

    /// An event that is being moved is in flight as well.
    fn is_in_flight(&self, w: usize, e: usize) -> bool {
        let worker = &self.workers[w];
        worker.queued[e] || worker.accepted[e] || (w == ROUTES && self.is_moving(e))
    }

    fn may_read(&self, w: usize, rules: Rules) -> bool {
        let worker = &self.workers[w];
        worker.open.is_some() || (!rules.reads_the_journal && worker.lease.is_some())
    }

    /// R2: nothing that is in flight. R3: nothing behind an earlier event of the key, except in flight.
    fn waits(&self, w: usize, e: usize, rules: Rules) -> bool {
        let is_moving = rules.blocks_its_key && w == ROUTES && self.is_moving(0);
        let is_behind = (self.is_due_here(0) && !self.is_in_flight(w, 0)) || is_moving;
        self.is_in_flight(w, e) || (e == 1 && is_behind)
    }

    fn is_moving(&self, e: usize) -> bool {
        self.moving.iter().any(|statement| statement.events[e])
    }

    /// The event that the new lane sends next: R3.
    fn next_there(&self) -> Option<usize> {
        (0..2).find(|e| self.events[*e].moved && !self.events[*e].done)
    }

    pub(super) fn take(&mut self, step: Step, rules: Rules) {
        match step {
            Step::Commit(e) => self.events[e].committed = true,
            Step::Open(w) => self.open(w),
            Step::Read(w) | Step::Look(w) => {
                self.faults.looks -= u8::from(matches!(step, Step::Look(_)));
                self.workers[w].read = Some([0, 1].map(|e| self.is_due_here(e)));
                self.workers[w].lingers = [0, 1].map(|e| self.is_in_flight(w, e));
            }
            Step::Admit(w) => self.admit(w, rules),
            Step::BeginMove => {
                let worker = &mut self.workers[ROUTES];
                let epoch = worker.open.or(worker.lease).unwrap_or(0);
                self.moving.push(Move { events: std::mem::take(&mut worker.queued), epoch });
                self.moving.sort();
            }
            Step::Execute(statement, locked) => self.execute(statement, locked, rules),
            Step::SendFromHere(e) => self.send_from_here(e),
            Step::Settle(w, e) => {
                self.events[e].done = true;
                self.journal[e] = false;
                self.workers[w].accepted[e] = false;
            }
            Step::SendThere => self.send_there(),
            Step::TakeOver => {
                self.faults.takeovers -= 1;
                (self.owner, self.epoch) = (1 - self.owner, self.epoch + 1);
                self.workers[self.owner].lease = Some(self.epoch);
            }
            Step::Die(w) => {
                self.faults.deaths -= 1;
                let lease = (self.owner == w).then_some(self.epoch);
                self.workers[w] = Worker { lease, ..Worker::default() };
                if w == ROUTES {
                    self.late.append(&mut self.moving);
                    self.late.sort();
                }
            }
            Step::LoseAnswer(statement) => {
                self.faults.late -= 1;
                self.moving.retain(|other| *other != statement);
                self.late.push(statement);
                self.late.sort();
                // What is dropped closes the shard.
                self.close(ROUTES);
            }
        }
    }

    /// Fences earlier sessions, and takes what they sent. An older epoch is refused: the worker learns that it lost the lease.
    fn open(&mut self, w: usize) {
        let Some(epoch) = self.workers[w].lease else { return };
        if epoch < self.token || epoch < self.epoch {
            self.workers[w].lease = None;
            return self.close(w);
        }
        self.token = epoch;
        let worker = &mut self.workers[w];
        // What was admitted under an earlier session is released unsent.
        (worker.open, worker.read, worker.queued) = (Some(epoch), None, [false; 2]);
        for e in 0..2 {
            worker.accepted[e] |= self.journal[e];
        }
    }

    fn close(&mut self, w: usize) {
        let worker = &mut self.workers[w];
        (worker.open, worker.read, worker.queued) = (None, None, [false; 2]);
    }

    /// R1 is that a closed shard has no read. R2 also excludes what was in flight after the read. The query for blockers runs
    /// after the read, too.
    fn admit(&mut self, w: usize, rules: Rules) {
        let Some(read) = self.workers[w].read.take() else { return };
        // An event that is read together with an earlier one of its key is queued behind it.
        for e in (0..2).filter(|e| read[*e]) {
            if !self.workers[w].lingers[e] && !self.waits(w, e, rules) {
                self.workers[w].queued[e] = true;
            }
        }
    }

    fn execute(&mut self, statement: Move, locked: Option<usize>, rules: Rules) {
        let is_held = self.owner == ROUTES && self.epoch == statement.epoch;
        let mut stuck = false;
        for e in (0..2).filter(|e| statement.events[*e]) {
            let is_moved = self.events[e].moved;
            let fits = self.is_due_here(e) && locked != Some(e) && (is_held || !rules.fenced);
            if fits && !(stuck && rules.keeps_order) {
                self.events[e].moved = true;
            }
            stuck |= !fits && !is_moved;
        }
        match self.moving.iter().position(|moving| *moving == statement) {
            Some(place) => {
                self.moving.remove(place);
                self.answer(statement, locked);
            }
            None => {
                if let Some(place) = self.late.iter().position(|late| *late == statement) {
                    self.late.remove(place);
                }
            }
        }
    }

    /// What was moved is forgotten once fetches that began before are over. What was not is dropped, which closes the shard.
    fn answer(&mut self, statement: Move, locked: Option<usize>) {
        self.faults.locks -= u8::from(locked.is_some());
        let worker = &mut self.workers[ROUTES];
        for e in 0..2 {
            worker.lingers[e] |= statement.events[e];
        }
        if (0..2).any(|e| statement.events[e] && !self.events[e].moved) {
            self.close(ROUTES);
        }
    }

    fn send_from_here(&mut self, e: usize) {
        if self.workers[SENDS].open != Some(self.token) {
            return self.close(SENDS);
        }
        self.workers[SENDS].queued[e] = false;
        self.workers[SENDS].accepted[e] = true;
        self.journal[e] = true;
        self.twice |= self.sent_here[e] || self.sent_there[e];
        self.sent_here[e] = true;
    }

    fn send_there(&mut self) {
        let Some(e) = self.next_there() else { return };
        self.events[e].done = true;
        self.twice |= self.sent_here[e] || self.sent_there[e];
        self.overtaken |= e == 0 && self.sent_there[1];
        self.sent_there[e] = true;
    }
}

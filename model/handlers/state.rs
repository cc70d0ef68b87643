//! The tables, the processes, and every step.

use super::{Faults, Rules, Step};

type Names = [bool; 2];

/// A row of `outbox_events`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Event {
    committed: bool,
    /// Whether the backend has accepted it: `published_at`.
    accepted: bool,
    done: bool,
    /// For each handler that it is owed to, the generation of the registration.
    owed: [Option<u8>; 2],
}

/// An event that a process has delivered, until its settle is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Delivered {
    by: usize,
    /// Whether its own handler has answered.
    handled: bool,
    /// The registrations that the settle read.
    announced: Option<[Option<u8>; 2]>,
}

/// A settle that is executed once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Late {
    event: usize,
    handled: Names,
    announced: [Option<u8>; 2],
}

/// A handler has received an event; its answer is being executed, and has read what is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Answer {
    event: usize,
    seen: [Option<u8>; 2],
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    events: [Event; 2],
    /// The generation of each registered name.
    announced: [Option<u8>; 2],
    next_generation: [u8; 2],
    runs: Names,
    /// The registrations that each process' last heartbeat read.
    view: [[Option<u8>; 2]; 2],
    delivered: [Option<Delivered>; 2],
    answers: [Option<Answer>; 2],
    late: Vec<Late>,
    faults: Faults,
    // Not in any table.
    must_meet: [Names; 2],
    met: [Names; 2],
    /// The first event was committed before the second one was delivered.
    has_order: bool,
    has_died: bool,
    has_dropped: bool,
    pub(super) twice: bool,
    pub(super) overtaken: bool,
    pub(super) inherited: bool,
    pub(super) met_elsewhere: bool,
}

impl State {
    /// The second process has not started.
    pub(super) fn new(faults: Faults) -> Self {
        Self {
            events: [Event::default(); 2],
            announced: [Some(0), None],
            next_generation: [1, 0],
            runs: [true, false],
            view: [[Some(0), None]; 2],
            delivered: [None; 2],
            answers: [None; 2],
            late: Vec::new(),
            faults,
            must_meet: [[false; 2]; 2],
            met: [[false; 2]; 2],
            has_order: false,
            has_died: false,
            has_dropped: false,
            twice: false,
            overtaken: false,
            inherited: false,
            met_elsewhere: false,
        }
    }

    // Ordinary steps.

    pub(super) fn steps(&self, rules: Rules, steps: &mut Vec<Step>) {
        for p in 0..2 {
            if !self.runs[p] {
                steps.push(Step::Start(p));
                continue;
            }
            if self.announced[p].is_none() {
                steps.push(Step::Announce(p));
            }
            if self.view[p] != self.announced && !rules.reads_announcements {
                steps.push(Step::Beat(p));
            }
            match self.answers[p] {
                Some(_) => steps.push(Step::Answer(p)),
                None => steps.extend((0..2).filter(|e| self.may_take(*e, p, rules)).map(|e| Step::Take(e, p))),
            }
            steps.extend((0..2).filter(|e| self.may_deliver(*e, p)).map(|e| Step::Deliver(e, p)));
        }
        for e in 0..2 {
            if !self.events[e].committed {
                steps.push(Step::Commit(e));
            }
            match self.delivered[e] {
                Some(Delivered { announced: Some(_), .. }) => steps.push(Step::Settle(e, true)),
                Some(delivered) => {
                    if !delivered.handled && self.may_run_here(e, delivered.by, rules) {
                        steps.push(Step::RunHere(e));
                    }
                    steps.push(Step::ReadAnnouncements(e));
                }
                None => {}
            }
        }
        if rules.drops_late_deliveries && (0..2).any(|e| self.has_dropped_deliveries(e)) {
            steps.push(Step::CleanUp);
        }
    }

    pub(super) fn faults(&self, steps: &mut Vec<Step>) {
        if self.faults.late > 0 {
            let settling = |e: &usize| self.delivered[*e].is_some_and(|delivered| delivered.announced.is_some());
            steps.extend((0..2).filter(settling).map(|e| Step::Settle(e, false)));
        }
        for p in (0..2).filter(|p| self.runs[*p]) {
            steps.extend((self.faults.deaths > 0).then_some(Step::Kill(p)));
            steps.extend((self.faults.drops > 0 && self.announced[p].is_some()).then_some(Step::Drop(p)));
        }
        steps.extend(self.late.iter().copied().map(Step::Arrive));
    }

    /// The first event of the key is sent to the backend first; after that publishing waits for no handler.
    fn may_deliver(&self, e: usize, p: usize) -> bool {
        let event = self.events[e];
        let ahead = e == 0 || self.events[0].accepted || self.delivered[0].is_some_and(|other| other.by == p);
        event.committed && !event.accepted && self.delivered[e].is_none() && (ahead || !self.events[0].committed)
    }

    /// Whether no earlier event of the key is owed to the handler, or about to be.
    fn is_next(&self, e: usize, handler: usize) -> bool {
        let first = self.events[0];
        e == 0 || !first.committed || first.accepted && first.owed[handler].is_none()
    }

    fn may_run_here(&self, e: usize, p: usize, rules: Rules) -> bool {
        // Earlier in the same process: the local order, which is the registry's.
        let ahead = e == 1 && self.delivered[0].is_some_and(|first| first.by == p);
        let handled = ahead && self.delivered[0].is_some_and(|first| first.handled);
        self.announced[p].is_some() && (handled || !ahead && (self.is_next(e, p) || !rules.deliverer_waits))
    }

    fn may_take(&self, e: usize, p: usize, rules: Rules) -> bool {
        let current = |generation: u8| self.announced[p] == Some(generation) || !rules.generations;
        let owed = self.announced[p].is_some() && self.events[e].owed[p].is_some_and(current);
        owed && (self.is_next(e, p) || !rules.taker_waits)
    }

    fn has_dropped_deliveries(&self, e: usize) -> bool {
        let event = self.events[e];
        let dropped = (0..2).any(|p| event.owed[p].is_some() && event.owed[p] != self.announced[p]);
        dropped || event.accepted && !event.done && event.owed == [None; 2]
    }

    pub(super) fn take(&mut self, step: Step, rules: Rules) {
        match step {
            Step::Start(p) => {
                self.runs[p] = true;
                self.view[p] = self.announced;
            }
            Step::Announce(p) => {
                self.announced[p] = Some(self.next_generation[p]);
                self.next_generation[p] += 1;
            }
            Step::Beat(p) => self.view[p] = self.announced,
            Step::Commit(e) => {
                self.events[e].committed = true;
                self.must_meet[e] = self.announced.map(|announced| announced.is_some());
            }
            Step::Deliver(e, by) => {
                self.has_order |= e == 1 && self.events[0].committed;
                self.delivered[e] = Some(Delivered { by, handled: false, announced: None });
            }
            Step::RunHere(e) => {
                if let Some(delivered) = &mut self.delivered[e] {
                    delivered.handled = true;
                    let by = delivered.by;
                    self.meet(e, by);
                }
            }
            Step::ReadAnnouncements(e) => {
                if let Some(delivered) = &mut self.delivered[e] {
                    let announced = if rules.reads_announcements { self.announced } else { self.view[delivered.by] };
                    delivered.announced = Some(announced);
                }
            }
            Step::Settle(e, only_once) => {
                let Some(Delivered { by, handled, announced }) = self.delivered[e].take() else { return };
                let handled = [0, 1].map(|p| p == by && handled);
                let settle = Late { event: e, handled, announced: announced.unwrap_or_default() };
                self.settle(settle, rules);
                if !only_once {
                    self.faults.late -= 1;
                    self.late.push(settle);
                    self.late.sort_unstable();
                }
            }
            Step::Take(e, p) => {
                self.inherited |= self.events[e].owed[p] != self.announced[p];
                self.met_elsewhere = true;
                self.meet(e, p);
                self.answers[p] = Some(Answer { event: e, seen: self.events[e].owed });
            }
            Step::Answer(p) => self.answer(p, rules),
            Step::CleanUp => self.clean_up(),
            Step::Kill(p) => self.kill(p, rules),
            Step::Drop(p) => {
                self.faults.drops -= 1;
                self.has_dropped = true;
                self.announced[p] = None;
                (0..2).for_each(|e| {
                    self.must_meet[e][p] = false;
                    self.events[e].owed[p] = None;
                });
            }
            Step::Arrive(late) => {
                let place = self.late.iter().position(|other| *other == late);
                place.into_iter().for_each(|place| _ = self.late.remove(place));
                self.settle(late, rules);
            }
        }
    }

    fn meet(&mut self, e: usize, handler: usize) {
        self.twice |= self.met[e][handler] && !self.has_died;
        self.met[e][handler] = true;
        // Transactions that overlap have no order.
        self.overtaken |= e == 0 && self.met[1][handler] && self.has_order && !self.has_died;
    }

    /// Executes a settle under the lock of the event's row.
    fn settle(&mut self, Late { event, handled, announced }: Late, rules: Rules) {
        let event = &mut self.events[event];
        for p in 0..2 {
            if handled[p] {
                event.owed[p] = None;
            } else if !event.accepted || !rules.first_fixes {
                event.owed[p] = announced[p];
            }
        }
        event.accepted = true;
        event.done = event.owed == [None; 2];
    }

    fn answer(&mut self, p: usize, rules: Rules) {
        let Some(Answer { event, seen }) = self.answers[p].take() else { return };
        let event = &mut self.events[event];
        let without = |mut owed: [Option<u8>; 2]| {
            owed[p] = None;
            owed
        };
        event.owed = without(if rules.removes_its_own_name { event.owed } else { seen });
        let left = if rules.decides_under_the_lock { event.owed } else { without(seen) };
        event.done |= left == [None; 2];
    }

    /// The janitor: events owed to a name without registration were dropped, and events that are owed to no handler are
    /// done.
    fn clean_up(&mut self) {
        for e in 0..2 {
            if self.has_dropped_deliveries(e) {
                for p in 0..2 {
                    self.events[e].owed[p] = self.events[e].owed[p].filter(|owed| self.announced[p] == Some(*owed));
                }
                self.events[e].done = self.events[e].owed == [None; 2];
            }
        }
    }

    /// Kills a process. The next owner finds in the journal what it had delivered, and settles it.
    fn kill(&mut self, p: usize, rules: Rules) {
        self.faults.deaths -= 1;
        self.has_died = true;
        self.runs[p] = false;
        self.answers[p] = None;
        self.delivered.iter_mut().for_each(|delivered| *delivered = delivered.filter(|delivered| delivered.by != p));
        if !rules.announcements_outlive {
            self.announced[p] = None;
        }
    }

    // Properties.

    pub(super) fn is_at_rest(&self, rules: Rules) -> bool {
        let mut steps = Vec::new();
        self.steps(rules, &mut steps);
        steps.is_empty()
    }

    pub(super) fn has_met_all(&self) -> bool {
        (0..2).all(|e| (0..2).all(|p| self.met[e][p] || !self.must_meet[e][p]))
    }

    pub(super) fn is_done(&self) -> bool {
        self.events.iter().all(|event| event.done)
    }

    pub(super) fn is_finished_where_nothing_is_owed(&self) -> bool {
        let answering = |e: usize| self.answers.iter().flatten().any(|answer| answer.event == e);
        let stays = |e: usize| {
            let event = self.events[e];
            event.accepted && !event.done && event.owed == [None; 2] && !answering(e)
        };
        self.has_dropped || !(0..2).any(stays)
    }
}

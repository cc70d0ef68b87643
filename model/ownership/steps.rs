//! Every step: whether it is possible, and its result.

use super::Ownership;
use super::rules::Rules;
use super::state::{Heartbeat, Late, Life, Reach, State};

/// The numbers are those of a worker, of a shard, or of a place in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    // Steps of a worker; `bool`: whether it is answered.
    Start(usize),
    Insert(usize),
    Beat(usize, bool),
    BeatIsExecuted(usize),
    Read(usize, bool),
    BeginTaking(usize, usize),
    GoOnTaking(usize),
    Release(usize, usize, bool),
    Report(usize, bool),
    Try(usize),
    Probe(usize),
    BeginDeleting(usize),
    ExecuteDeleting,
    // Time and faults.
    Expire(usize),
    Crash(usize),
    Leave(usize, bool),
    LoseTaking(usize),
    Turn(usize, Reach),
    Stick(usize),
    Unstick(usize),
    Lock(usize),
    Burden(usize),
    Arrive(Late),
}

impl State {
    /// Ordinary steps, which happen in some order without further faults.
    pub(crate) fn steps(&self, rules: Rules) -> Vec<Step> {
        let mut steps = Vec::new();
        for (w, worker) in self.workers.iter().enumerate() {
            match worker.life {
                Life::Unstarted => steps.push(Step::Start(w)),
                Life::Running => self.running(w, rules, &mut steps),
                Life::Stuck | Life::Gone => {}
            }
            let Some(row) = self.rows[w] else { continue };
            if !row.ended && self.has_stopped(w, rules) {
                steps.push(Step::Expire(w));
            }
            let dead = row.ended && worker.life == Life::Gone;
            if dead && self.deleting.is_none() && !self.is_locked(w, rules) {
                steps.push(Step::BeginDeleting(w));
            }
        }
        steps.extend((0..self.takings.len()).map(Step::GoOnTaking));
        steps.extend(self.deleting.as_ref().map(|_| Step::ExecuteDeleting));
        steps
    }

    /// Whether a row's end is no longer extended.
    fn has_stopped(&self, w: usize, rules: Rules) -> bool {
        match self.workers[w].life {
            Life::Stuck if !rules.two_columns => false,
            Life::Running => self.rows[w].is_some_and(|row| row.locked),
            _ => true,
        }
    }

    fn running(&self, w: usize, rules: Rules, steps: &mut Vec<Step>) {
        let worker = &self.workers[w];
        match worker.heartbeat {
            Heartbeat::Idle if self.rows[w].is_none() => steps.push(Step::Insert(w)),
            Heartbeat::Idle if self.has_news(w, rules) => steps.push(Step::Beat(w, true)),
            Heartbeat::Idle => {}
            Heartbeat::Beating(_) => steps.push(Step::BeatIsExecuted(w)),
            Heartbeat::Reading { .. } => steps.push(Step::Read(w, true)),
        }
        let shards = || 0..self.leases.len();
        if worker.heartbeat == Heartbeat::Idle {
            steps.extend(shards().filter(|s| self.is_to_release(w, *s, rules)).map(|s| Step::Release(w, s, true)));
            if worker.want > 0 && !self.takings.iter().any(|taking| taking.by == w && taking.waited) {
                let free = shards().filter(|s| worker.held[*s].is_none() && self.is_takable(*s, w, rules));
                steps.extend(free.map(|s| Step::BeginTaking(w, s)));
            }
        }
        if self.is_to_report(w, rules) {
            steps.push(Step::Report(w, true));
        }
        if worker.can_try() && worker.tried() != worker.pause {
            steps.push(Step::Try(w));
        }
        if worker.can_probe() && worker.probed(rules) != worker.pause {
            steps.push(Step::Probe(w));
        }
    }

    /// Adds the faults that may happen, as often as is left.
    pub(crate) fn fault_steps(&self, rules: Rules, happening: &[Step], steps: &mut Vec<Step>) {
        let faults = self.faults;
        if faults.lost > 0 {
            steps.extend(happening.iter().filter_map(|step| step.unanswered()));
            let waited = |place: &usize| self.takings[*place].waited;
            steps.extend((0..self.takings.len()).filter(waited).map(Step::LoseTaking));
        }
        for (w, worker) in self.workers.iter().enumerate() {
            let runs = worker.runs();
            let mut may = |left: u8, step: Step| {
                if left > 0 {
                    steps.push(step);
                }
            };
            if worker.life == Life::Stuck {
                may(faults.sticks, Step::Unstick(w));
                may(faults.crashes, Step::Crash(w));
            }
            if !runs {
                continue;
            }
            may(faults.crashes, Step::Crash(w));
            may(faults.sticks, Step::Stick(w));
            if !self.is_locked(w, rules) {
                may(faults.leaves, Step::Leave(w, true));
                may(faults.leaves.min(faults.any.saturating_sub(1)).min(faults.lost), Step::Leave(w, false));
            }
            if !worker.burdened {
                may(faults.burdens, Step::Burden(w));
            }
            for reach in Reach::ALL.into_iter().filter(|reach| *reach != worker.reach) {
                may(faults.turns, Step::Turn(w, reach));
            }
            let Some(row) = self.rows[w].filter(|row| !row.locked) else { continue };
            may(faults.locks, Step::Lock(w));
            if row.ended && self.deleting.is_none() && !self.is_locked(w, rules) {
                may(faults.deletions, Step::BeginDeleting(w));
            }
            if !row.ended {
                may(faults.expiries, Step::Expire(w));
            }
        }
        let may_arrive = |late: &&Late| !matches!(late, Late::Leave { worker } if self.is_locked(*worker, rules));
        steps.extend(self.late.iter().filter(may_arrive).copied().map(Step::Arrive));
    }

    pub(crate) fn take(&mut self, step: Step, outbox: &Ownership) {
        let rules = outbox.rules;
        match step {
            Step::Start(w) => {
                self.workers[w].life = Life::Running;
                self.insert(w, Rules { comes_back_with_nothing: false, ..rules });
            }
            Step::Insert(w) => self.insert(w, rules),
            Step::Beat(w, true) if rules.reads_after_the_beat => self.beat(w, None, rules),
            Step::Beat(w, true) => self.workers[w].heartbeat = Heartbeat::Beating(self.leases.clone()),
            Step::Beat(w, false) => {
                self.faults.spend(|faults| &mut faults.lost);
                self.workers[w].sent += 1;
                let (incarnation, number) = (self.workers[w].incarnation, self.workers[w].sent);
                self.late.push(Late::Beat { worker: w, incarnation, number });
            }
            Step::BeatIsExecuted(w) => {
                if let Heartbeat::Beating(seen) = std::mem::replace(&mut self.workers[w].heartbeat, Heartbeat::Idle) {
                    self.beat(w, Some(seen), rules);
                }
            }
            Step::Read(w, answered) => {
                let heartbeat = std::mem::replace(&mut self.workers[w].heartbeat, Heartbeat::Idle);
                match heartbeat {
                    Heartbeat::Reading { beat, seen } if answered => {
                        let leases = seen.unwrap_or_else(|| self.leases.clone());
                        self.read(w, beat, &leases, rules);
                    }
                    _ => self.faults.spend(|faults| &mut faults.lost),
                }
            }
            Step::BeginTaking(w, shard) => self.begin_taking(w, shard),
            Step::GoOnTaking(place) => self.continue_taking(place, rules),
            Step::Release(w, shard, answered) => {
                if !answered {
                    self.faults.spend(|faults| &mut faults.lost);
                }
                self.release(w, shard, answered, rules);
            }
            Step::Report(w, answered) => {
                if !answered {
                    self.faults.spend(|faults| &mut faults.lost);
                }
                self.report(w, answered);
            }
            Step::Try(w) => self.workers[w].pause = self.workers[w].tried(),
            Step::Probe(w) => self.workers[w].pause = self.workers[w].probed(rules),
            Step::BeginDeleting(w) => {
                if self.workers[w].life != Life::Gone {
                    self.faults.spend(|faults| &mut faults.deletions);
                }
                self.begin_deleting(w);
            }
            Step::ExecuteDeleting => self.execute_deleting(rules),
            Step::Expire(w) => {
                if !self.has_stopped(w, rules) {
                    self.faults.spend(|faults| &mut faults.expiries);
                }
                self.expire(w);
            }
            Step::Crash(w) => {
                self.faults.spend(|faults| &mut faults.crashes);
                self.stop(w);
            }
            Step::Leave(w, answered) => {
                self.faults.spend(|faults| &mut faults.leaves);
                self.stop(w);
                if answered {
                    self.execute_leave(w, rules);
                } else {
                    self.faults.spend(|faults| &mut faults.lost);
                    self.late.push(Late::Leave { worker: w });
                }
            }
            Step::LoseTaking(place) => {
                self.faults.spend(|faults| &mut faults.lost);
                self.takings[place].waited = false;
                self.workers[self.takings[place].by].want = 0;
            }
            Step::Turn(w, reach) => {
                self.faults.spend(|faults| &mut faults.turns);
                self.workers[w].reach = reach;
            }
            Step::Stick(w) => {
                self.faults.spend(|faults| &mut faults.sticks);
                self.workers[w].life = Life::Stuck;
                self.workers[w].heartbeat = Heartbeat::Idle;
            }
            Step::Unstick(w) => {
                self.faults.spend(|faults| &mut faults.sticks);
                self.workers[w].life = Life::Running;
            }
            Step::Lock(w) => {
                self.faults.spend(|faults| &mut faults.locks);
                self.rows[w].as_mut().into_iter().for_each(|row| row.locked = true);
            }
            Step::Burden(w) => {
                self.faults.spend(|faults| &mut faults.burdens);
                self.workers[w].burdened = true;
            }
            Step::Arrive(late) => {
                let place = self.late.iter().position(|other| *other == late);
                place.into_iter().for_each(|place| _ = self.late.remove(place));
                self.arrive(late, rules);
            }
        }
        self.normalize(rules);
    }

    /// Ends a row by the database's clock; the worker's own deadline was before.
    fn expire(&mut self, w: usize) {
        if let Some(row) = &mut self.rows[w] {
            row.ended = true;
            self.workers[w].over = self.workers[w].over.max(row.beat);
        }
    }

    fn stop(&mut self, w: usize) {
        let worker = &mut self.workers[w];
        worker.life = Life::Gone;
        worker.heartbeat = Heartbeat::Idle;
        (worker.want, worker.pause, worker.burdened) = (0, None, false);
        worker.held.fill(None);
        worker.unknown_leases.fill(None);
        self.takings.iter_mut().filter(|taking| taking.by == w).for_each(|taking| taking.waited = false);
    }
}

impl Step {
    /// The same step without an answer, if it sends the database a request.
    fn unanswered(self) -> Option<Self> {
        Some(match self {
            Self::Beat(w, _) => Self::Beat(w, false),
            Self::Read(w, _) => Self::Read(w, false),
            Self::Release(w, shard, _) => Self::Release(w, shard, false),
            Self::Report(w, _) => Self::Report(w, false),
            _ => return None,
        })
    }
}

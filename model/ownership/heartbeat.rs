//! A worker's reaction to what it reads: the heartbeat, the fair share, and the pause of its backend.

use super::rules::{Probe, Rules};
use super::state::{Heartbeat, Held, Late, Lease, Life, Pause, Reach, State, Worker};
use super::statements::Beaten;

impl State {
    // The heartbeat.

    /// Whether a beat would have an effect; one without is left out.
    pub(crate) fn has_news(&self, w: usize, rules: Rules) -> bool {
        let worker = &self.workers[w];
        let Some(row) = &self.rows[w] else { return true };
        if self.is_locked(w, rules) {
            return row.locked && rules.beats_never_wait && self.must_release_all(w, rules);
        }
        row.ended || !worker.is_in_time() || worker.term != row.beat || self.read_changes(w, rules)
    }

    fn must_release_all(&self, w: usize, rules: Rules) -> bool {
        let named = self.leases.iter().any(|lease| lease.owner == Some(w));
        rules.releases_when_skipped && !self.workers[w].is_in_time() && named
    }

    fn read_changes(&self, w: usize, rules: Rules) -> bool {
        let mut next = self.clone();
        next.read(w, self.workers[w].term, &self.leases, rules);
        next.workers[w] != self.workers[w]
    }

    pub(crate) fn beat(&mut self, w: usize, seen: Option<Vec<Lease>>, rules: Rules) {
        let ended = self.rows[w].is_some_and(|row| row.ended);
        self.workers[w].sent += 1;
        let Worker { incarnation, sent, .. } = self.workers[w];
        self.workers[w].heartbeat = match self.execute_beat(w, incarnation, sent, rules) {
            Beaten::Extended => Heartbeat::Reading { beat: sent, seen },
            Beaten::Skipped | Beaten::Outdated | Beaten::NoRow => Heartbeat::Idle,
        };
        let extended = self.workers[w].heartbeat != Heartbeat::Idle;
        if extended && ended {
            let keeps = |(lease, held): (&Lease, &Option<Held>)| {
                held.is_some_and(|held| lease.owner == Some(w) && lease.epoch == held.epoch)
            };
            self.kept |= rules.extends_what_ended && self.leases.iter().zip(&self.workers[w].held).any(keeps);
            if !rules.extends_what_ended {
                self.workers[w].held.fill(None);
            }
        } else if !extended && self.rows[w].is_some() && self.must_release_all(w, rules) {
            self.release_all(w);
        }
    }

    /// Inserts the worker's row, which is missing; it comes back as another incarnation.
    pub(crate) fn insert(&mut self, w: usize, rules: Rules) {
        let worker = &mut self.workers[w];
        if rules.comes_back_with_nothing {
            worker.held.fill(None);
            worker.incarnation += 1;
        }
        worker.sent += 1;
        let Worker { incarnation, sent, pause, .. } = *worker;
        worker.reported = pause.is_none();
        worker.heartbeat = Heartbeat::Reading { beat: sent, seen: None };
        self.insert_row(w, incarnation, sent, pause.is_none());
    }

    /// Reads leases and workers, as a statement sees them that starts when the beat was answered: the leases that the beat
    /// extended, those that are not known to be held, and the fair share.
    pub(crate) fn read(&mut self, w: usize, beat: u8, leases: &[Lease], rules: Rules) {
        let target = self.target(w, rules);
        let takable = (0..leases.len()).filter(|shard| self.is_takable(*shard, w, rules)).count();
        let worker = &mut self.workers[w];
        worker.heartbeat = Heartbeat::Idle;
        worker.term = beat;
        if !rules.counts_from_the_sending {
            worker.over = worker.over.min(beat - 1);
        }
        for (shard, lease) in leases.iter().enumerate() {
            let named = lease.owner == Some(w);
            let held = worker.held[shard].filter(|held| named && held.epoch == lease.epoch);
            let adopted = Held { epoch: lease.epoch, draining: false };
            worker.held[shard] = held.or(Some(adopted).filter(|_| named && !rules.at_the_remembered_epoch));
            let stray = named && worker.held[shard].is_none() && rules.releases_unknown;
            let released = stray && (rules.releases_unknown_while_busy || !worker.burdened);
            worker.unknown_leases[shard] = released.then_some(lease.epoch);
        }
        let mut surplus = worker.keeps().saturating_sub(target);
        for held in worker.held.iter_mut().flatten().rev().filter(|held| !held.draining) {
            held.draining = surplus > 0;
            surplus = surplus.saturating_sub(1);
        }
        worker.want = target.saturating_sub(worker.keeps()).min(takable);
    }

    /// Whether taking the shard would succeed: locked rows are skipped.
    pub(crate) fn is_takable(&self, shard: usize, w: usize, rules: Rules) -> bool {
        let row = self.leases[shard].owner.and_then(|owner| self.rows[owner]);
        let locked = rules.locks_the_owner && row.is_some_and(|row| row.locked);
        self.is_free(shard, w, rules) && !locked && !self.takings.iter().any(|taking| taking.shard == shard)
    }

    /// Releases every lease that names the worker: its row can be neither extended nor locked by other workers.
    fn release_all(&mut self, w: usize) {
        let worker = &mut self.workers[w];
        worker.held.fill(None);
        for (lease, stray) in self.leases.iter().zip(&mut worker.unknown_leases) {
            *stray = (lease.owner == Some(w)).then_some(lease.epoch);
        }
    }

    // The fair share.

    /// The shards divided by the workers that are alive and report that they reach their backend.
    fn target(&self, w: usize, rules: Rules) -> usize {
        let live = || self.rows.iter().flatten().filter(|row| !row.ended);
        let well = live().filter(|row| row.well).count();
        let is_well = self.rows[w].is_some_and(|row| row.well && !row.ended);
        if self.workers[w].pause.is_some() && well > 0 && !is_well {
            return 0;
        }
        let all_share = rules.shared_where_none_is_well && well == 0;
        let sharing = if all_share { live().count() } else { well + usize::from(!is_well) };
        self.leases.len().div_ceil(sharing.max(1))
    }

    // Taking and releasing.

    /// Continues taking the shard at this place in the list.
    pub(crate) fn continue_taking(&mut self, place: usize, rules: Rules) {
        let taking = self.takings[place];
        if !taking.locked && self.can_lock(&taking, rules) {
            self.takings[place].locked = true;
            return;
        }
        self.takings.remove(place);
        let epoch = taking.locked.then(|| self.commit_taking(&taking));
        let worker = &mut self.workers[taking.by];
        if taking.waited {
            worker.want = epoch.map_or(0, |_| worker.want.saturating_sub(1));
            worker.held[taking.shard] = epoch.map(|epoch| Held { epoch, draining: false });
            if !rules.taken_until_the_beats_end {
                worker.over = worker.over.min(worker.term.saturating_sub(1));
            }
        }
    }

    /// Whether a worker may release a shard: a drained one, or one that names it though it does not hold it. A release that
    /// would be skipped is left out; a later beat repeats it.
    pub(crate) fn is_to_release(&self, w: usize, shard: usize, rules: Rules) -> bool {
        let worker = &self.workers[w];
        let idle = !worker.burdened || rules.hands_over_what_cannot_be_recorded;
        let due =
            worker.unknown_leases[shard].is_some() || worker.held[shard].is_some_and(|held| held.draining) && idle;
        due && !self.is_lease_locked(shard)
    }

    /// Forgotten before it is released.
    pub(crate) fn release(&mut self, w: usize, shard: usize, answered: bool, rules: Rules) {
        let worker = &mut self.workers[w];
        let draining = worker.held[shard].take_if(|held| held.draining).map(|held| held.epoch);
        let Some(epoch) = worker.unknown_leases[shard].take().or(draining) else { return };
        if answered {
            self.execute_release(w, shard, epoch, rules);
        } else {
            self.late.push(Late::Release { worker: w, shard, epoch });
        }
    }

    // The backend.

    /// Whether its view of its backend differs from its row; or from what it remembers to have written.
    pub(crate) fn is_to_report(&self, w: usize, rules: Rules) -> bool {
        let worker = &self.workers[w];
        let Some(row) = self.rows[w].filter(|row| row.incarnation == worker.incarnation && !row.locked) else {
            return false;
        };
        let said = if rules.reports_are_compared { row.well } else { worker.reported };
        said == worker.pause.is_some()
    }

    pub(crate) fn report(&mut self, w: usize, answered: bool) {
        let worker = &mut self.workers[w];
        let (well, incarnation) = (worker.pause.is_none(), worker.incarnation);
        if answered {
            worker.reported = well;
            self.execute_report(w, incarnation, well);
        } else {
            self.late.push(Late::Report { worker: w, incarnation, well });
        }
    }
}

impl Worker {
    /// The backend's answer if there is something to send.
    pub(crate) fn tried(&self) -> Option<Pause> {
        match self.reach {
            Reach::Well => None,
            Reach::Down => Some(Pause::Unreachable),
            Reach::PingOnly => Some(Pause::Refused),
        }
    }

    pub(crate) fn can_try(&self) -> bool {
        (0..self.held.len()).any(|shard| self.acts_on(shard) && self.held[shard].is_some_and(|held| !held.draining))
    }

    /// What is left of its pause when it checks the backend without anything to send.
    pub(crate) fn probed(&self, rules: Rules) -> Option<Pause> {
        match (self.pause, rules.probe) {
            (Some(Pause::Refused), Probe::Acceptance) => self.pause,
            (_, Probe::Write) => self.tried(),
            (pause, _) => pause.filter(|_| self.reach == Reach::Down),
        }
    }

    /// It checks only if it is paused and has nothing to try with.
    pub(crate) fn can_probe(&self) -> bool {
        matches!(self.life, Life::Running) && self.pause.is_some() && self.held.iter().all(Option::is_none)
    }
}

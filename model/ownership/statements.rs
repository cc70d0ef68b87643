//! The statements on `outbox_workers` and `outbox_leases`. Each is one step, except those whose snapshot and whose locks
//! matter.

use super::rules::Rules;
use super::state::{Deleting, Late, Lease, Row, State, Taking};

/// The result of a beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beaten {
    Extended,
    /// The row is locked.
    Skipped,
    /// The row knows a later beat, or is another incarnation's.
    Outdated,
    NoRow,
}

impl State {
    /// Whether the row is locked by a worker that takes a lease and reads the owner's end under the lock.
    pub(crate) fn is_share_locked(&self, worker: usize, rules: Rules) -> bool {
        let holds = |taking: &Taking| taking.locked && taking.owner == Some(worker) && taking.has_row;
        rules.locks_the_owner && self.takings.iter().any(holds)
    }

    pub(crate) fn is_locked(&self, worker: usize, rules: Rules) -> bool {
        self.rows[worker].is_some_and(|row| row.locked) || self.is_share_locked(worker, rules)
    }

    pub(crate) fn is_lease_locked(&self, shard: usize) -> bool {
        self.takings.iter().any(|taking| taking.locked && taking.shard == shard)
    }

    /// The one definition of a free lease.
    pub(crate) fn is_free(&self, shard: usize, reader: usize, rules: Rules) -> bool {
        self.leases[shard].owner.is_none_or(|owner| match self.rows[owner] {
            None => rules.rowless_is_free,
            Some(row) => row.ended || !rules.owners_end && owner != reader,
        })
    }

    // Beats.

    pub(crate) fn execute_beat(&mut self, worker: usize, incarnation: u8, number: u8, rules: Rules) -> Beaten {
        let locked = self.is_locked(worker, rules);
        let Some(row) = &mut self.rows[worker] else {
            if rules.beats_only_update {
                return Beaten::NoRow;
            }
            self.insert_row(worker, incarnation, number, true);
            return Beaten::Extended;
        };
        if locked {
            return Beaten::Skipped;
        }
        if rules.beats_name_the_incarnation && row.incarnation != incarnation
            || rules.numbered_beats && number <= row.beat
        {
            return Beaten::Outdated;
        }
        self.revived |= (incarnation, number) < (row.incarnation, row.beat);
        (row.beat, row.ended) = (row.beat.max(number), false);
        Beaten::Extended
    }

    pub(crate) fn insert_row(&mut self, worker: usize, incarnation: u8, beat: u8, well: bool) {
        self.rows[worker] = Some(Row { incarnation, beat, ended: false, well, locked: false });
    }

    pub(crate) fn execute_report(&mut self, worker: usize, incarnation: u8, well: bool) {
        let row = self.rows[worker].as_mut().filter(|row| row.incarnation == incarnation);
        row.into_iter().for_each(|row| row.well = well);
    }

    // Taking.

    pub(crate) fn begin_taking(&mut self, by: usize, shard: usize) {
        let Lease { owner, epoch } = self.leases[shard];
        let has_row = owner.is_some_and(|owner| self.rows[owner].is_some());
        self.takings.push(Taking { by, shard, owner, epoch, has_row, locked: false, waited: true });
    }

    /// Locks the lease and the owner's row, and reads both as they are by then; locked rows are skipped.
    pub(crate) fn can_lock(&self, taking: &Taking, rules: Rules) -> bool {
        let as_seen = self.leases[taking.shard] == Lease { owner: taking.owner, epoch: taking.epoch };
        let owner = taking.owner.filter(|_| taking.has_row).and_then(|owner| self.rows[owner]);
        let skipped = rules.locks_the_owner && owner.is_some_and(|row| row.locked);
        let free = !rules.checks_under_lock || self.is_free(taking.shard, taking.by, rules) || !taking.has_row;
        as_seen && free && !skipped && !self.is_lease_locked(taking.shard)
    }

    /// Returns the epoch.
    pub(crate) fn commit_taking(&mut self, taking: &Taking) -> u8 {
        let lease = &mut self.leases[taking.shard];
        *lease = Lease { owner: Some(taking.by), epoch: lease.epoch + 1 };
        lease.epoch
    }

    // Releasing and deleting.

    pub(crate) fn execute_release(&mut self, worker: usize, shard: usize, epoch: u8, rules: Rules) {
        let skipped = self.is_lease_locked(shard);
        let lease = &mut self.leases[shard];
        let named = lease.owner == Some(worker) && (lease.epoch == epoch || !rules.releases_name_the_epoch);
        if named && !skipped {
            lease.owner = None;
        }
    }

    pub(crate) fn execute_leave(&mut self, worker: usize, rules: Rules) {
        let seen = self.leases.iter().map(|lease| lease.owner == Some(worker)).collect();
        self.delete_row(worker, seen, rules);
    }

    pub(crate) fn begin_deleting(&mut self, worker: usize) {
        let Some(Row { beat, .. }) = self.rows[worker] else { return };
        let seen = self.leases.iter().map(|lease| lease.owner == Some(worker)).collect();
        self.deleting = Some(Deleting { worker, beat, seen });
    }

    /// Locks the row first, and deletes it only if its end was not extended meanwhile.
    pub(crate) fn execute_deleting(&mut self, rules: Rules) {
        let Some(Deleting { worker, beat, seen }) = self.deleting.take() else { return };
        let dead = self.rows[worker].is_some_and(|row| row.ended && row.beat == beat);
        if dead && !self.is_locked(worker, rules) {
            self.delete_row(worker, seen, rules);
        }
    }

    fn delete_row(&mut self, worker: usize, seen: Vec<bool>, rules: Rules) {
        self.rows[worker] = None;
        self.buried[worker] |= !self.workers[worker].runs();
        let named = self.leases.iter_mut().zip(seen).filter(|(lease, seen)| *seen && lease.owner == Some(worker));
        for (lease, _) in named.filter(|_| rules.deleting_frees) {
            *lease = Lease { owner: None, epoch: lease.epoch + 1 };
        }
    }

    // Late statements.

    pub(crate) fn arrive(&mut self, late: Late, rules: Rules) {
        match late {
            Late::Beat { worker, incarnation, number } => {
                let _ = self.execute_beat(worker, incarnation, number, rules);
            }
            Late::Report { worker, incarnation, well } => self.execute_report(worker, incarnation, well),
            Late::Release { worker, shard, epoch } => self.execute_release(worker, shard, epoch, rules),
            Late::Leave { worker } => self.execute_leave(worker, rules),
        }
    }

    /// Whether it can change nothing any more, now or later.
    fn is_spent(&self, late: Late, rules: Rules) -> bool {
        match late {
            Late::Beat { worker, incarnation, number } => self.rows[worker].is_some_and(|row| {
                rules.beats_name_the_incarnation && row.incarnation != incarnation
                    || rules.numbered_beats && row.beat >= number
            }),
            Late::Report { worker, incarnation, .. } => {
                self.rows[worker].is_some_and(|row| row.incarnation != incarnation)
            }
            Late::Release { worker, shard, epoch } => {
                let lease = self.leases[shard];
                rules.releases_name_the_epoch && (lease.owner != Some(worker) || lease.epoch != epoch)
            }
            Late::Leave { worker } => self.rows[worker].is_none() && !self.workers[worker].runs(),
        }
    }

    /// Normalizes the state, so that indistinguishable states are equal: numbers matter by their order alone.
    pub(crate) fn normalize(&mut self, rules: Rules) {
        let late = std::mem::take(&mut self.late);
        self.late = late.into_iter().filter(|late| !self.is_spent(*late, rules)).collect();
        self.late.sort_unstable();
        self.takings.sort_unstable();
        (0..self.workers.len()).for_each(|worker| renumber_beats(self, worker));
        (0..self.leases.len()).for_each(|shard| renumber_epochs(self, shard));
    }
}

fn renumber_beats(state: &mut State, of: usize) {
    let State { rows, workers, deleting, late, .. } = state;
    let worker = &mut workers[of];
    let mut beats = vec![&mut worker.sent, &mut worker.term, &mut worker.over];
    beats.extend(rows[of].as_mut().map(|row| &mut row.beat));
    if let super::state::Heartbeat::Reading { beat, .. } = &mut worker.heartbeat {
        beats.push(beat);
    }
    beats.extend(deleting.as_mut().filter(|deleting| deleting.worker == of).map(|deleting| &mut deleting.beat));
    for late in late.iter_mut() {
        if let Late::Beat { worker, number, .. } = late
            && *worker == of
        {
            beats.push(number);
        }
    }
    renumber(beats);
    let mut incarnations = vec![&mut worker.incarnation];
    incarnations.extend(rows[of].as_mut().map(|row| &mut row.incarnation));
    for late in late.iter_mut() {
        match late {
            Late::Beat { worker, incarnation, .. } | Late::Report { worker, incarnation, .. } if *worker == of => {
                incarnations.push(incarnation);
            }
            _ => {}
        }
    }
    renumber(incarnations);
}

fn renumber_epochs(state: &mut State, of: usize) {
    let State { leases, workers, takings, late, .. } = state;
    let mut epochs = vec![&mut leases[of].epoch];
    for worker in workers {
        epochs.extend(worker.held[of].as_mut().map(|held| &mut held.epoch));
        epochs.extend(worker.unknown_leases[of].as_mut());
        match &mut worker.heartbeat {
            super::state::Heartbeat::Beating(seen) | super::state::Heartbeat::Reading { seen: Some(seen), .. } => {
                epochs.push(&mut seen[of].epoch);
            }
            _ => {}
        }
    }
    epochs.extend(takings.iter_mut().filter(|taking| taking.shard == of).map(|taking| &mut taking.epoch));
    for late in late.iter_mut() {
        if let Late::Release { shard, epoch, .. } = late
            && *shard == of
        {
            epochs.push(epoch);
        }
    }
    renumber(epochs);
}

fn renumber(numbers: Vec<&mut u8>) {
    let mut sorted: Vec<u8> = numbers.iter().map(|number| **number).collect();
    sorted.sort_unstable();
    sorted.dedup();
    for number in numbers {
        *number = sorted.iter().take_while(|other| **other < *number).count() as u8;
    }
}

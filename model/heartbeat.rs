//! The heartbeat: `src/system/{heartbeat,leases}.rs`.
//!
//! A deadline is counted from before the renewal was sent, so an answer that arrives late renews nothing: request, execution
//! and answer are one step here, or the answer is lost. The size of a fair share is left open: a shard is drained at any
//! moment (counted as a fault), and a free one is taken by the first worker that tries.

use crate::message::{Message, each};
use crate::rules::{Outbox, Rules};
use crate::state::State;
use crate::steps::{Fate, Step};
use crate::worker::{Held, Worker};

impl State {
    pub(crate) fn heart_steps(&self, w: usize, rules: Rules, steps: &mut Vec<Step>) {
        let worker = &self.workers[w];
        // A beat without any effect is left out.
        let is_new =
            |(shard, held): (usize, Held)| held.past || worker.refused || !self.is_held_by(w, shard, held.epoch);
        if each(worker.held).any(is_new) {
            steps.push(Step::Renew(w, Fate::Answered));
        }
        for shard in 0..2 {
            let lease = self.database.leases[shard];
            let (stray, idle) = (lease.owner == Some(worker.owner), !worker.in_flight.is_busy(shard, rules));
            match worker.held[shard] {
                Some(held) if held.draining && idle => steps.push(Step::Release(w, shard, Fate::Answered)),
                None if stray && idle => steps.push(Step::Release(w, shard, Fate::Answered)),
                None if !stray && lease.is_free() => steps.push(Step::Acquire(w, shard, Fate::Answered)),
                _ => {}
            }
        }
    }

    fn is_held_by(&self, w: usize, shard: usize, epoch: u8) -> bool {
        let lease = self.database.leases[shard];
        lease.owner == Some(self.workers[w].owner) && lease.epoch == epoch
    }

    /// Extends the leases that a beat renewed; a lease that it did not renew is no longer this worker's.
    pub(crate) fn renew(&mut self, w: usize, fate: Fate, outbox: &Outbox) {
        let worker = &mut self.workers[w];
        let (owner, epochs) = (worker.owner, worker.held.map(|held| held.map(|held| held.epoch)));
        if fate == Fate::GivenUp {
            return self.abandon(Message::Renew(owner, epochs));
        }
        for (shard, epoch) in each(epochs) {
            let renewed = self.database.renew(owner, shard, epoch, outbox.rules);
            worker.held[shard] = worker.held[shard].filter(|_| renewed).map(|held| Held { past: false, ..held });
        }
        worker.refused = false;
    }

    pub(crate) fn acquire(&mut self, w: usize, shard: usize, fate: Fate) {
        let owner = self.workers[w].owner;
        if fate == Fate::GivenUp {
            return self.abandon(Message::Acquire(owner, shard));
        }
        let taken = self.database.acquire(owner, shard);
        self.workers[w].held[shard] = taken.map(|epoch| Held { epoch, past: false, draining: false });
    }

    /// `release_idle`, for draining leases and for leases that name this worker although it does not hold them. Forgotten
    /// before they are released.
    pub(crate) fn release(&mut self, w: usize, shard: usize, fate: Fate, outbox: &Outbox) {
        let worker = &mut self.workers[w];
        let epoch = worker.held[shard].take().map_or(self.database.leases[shard].epoch, |held| held.epoch);
        worker.in_flight.open[shard] = None;
        let owner = worker.owner;
        match fate {
            Fate::Answered => self.database.release(owner, shard, epoch, outbox.rules),
            Fate::GivenUp | Fate::Doubted => self.abandon(Message::Release(owner, shard, epoch)),
        }
    }

    /// Expires a lease by the database's clock; the holder's own deadline was before.
    pub(crate) fn expire(&mut self, shard: usize) {
        let databases = [Some(&mut self.database), self.durable.as_deref_mut()];
        databases.into_iter().flatten().for_each(|database| database.leases[shard].expired = true);
        let owner = self.database.leases[shard].owner;
        let holder = self.workers.iter_mut().find(|worker| Some(worker.owner) == owner);
        holder.and_then(|worker| worker.held[shard].as_mut()).into_iter().for_each(|held| held.past = true);
    }

    /// Whether the lease is valid and a worker acts on it, and so renews it.
    pub(crate) fn is_kept(&self, shard: usize) -> bool {
        let lease = self.database.leases[shard];
        let keeper =
            |worker: &Worker| worker.alive && lease.owner == Some(worker.owner) && worker.held[shard].is_some();
        !lease.is_free() && self.workers.iter().any(keeper)
    }
}

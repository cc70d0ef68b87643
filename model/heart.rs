//! The heartbeat, one shard at a time: `src/system/{heartbeat,leases}.rs`.
//!
//! A deadline is counted from before the renewal was sent, so an answer that comes late renews nothing: asking, executing
//! and hearing are one step here, or the answer is lost. How many shards are a fair share is left open: a shard is given up
//! at any moment (a fault, to be counted), and a free one taken by whoever comes first.

use crate::message::Message;
use crate::rules::Outbox;
use crate::state::State;
use crate::steps::{Fate, Step};
use crate::worker::Held;

impl State {
    pub(crate) fn heart_steps(&self, w: usize, steps: &mut Vec<Step>) {
        let worker = &self.workers[w];
        for shard in 0..2 {
            let lease = self.database.leases[shard];
            let ours = lease.owner == Some(worker.owner);
            let idle = !worker.flight.is_busy(shard);
            match worker.held[shard] {
                Some(held) => {
                    // A renewal that tells nothing new is left out.
                    if held.past || worker.refused || !ours || lease.epoch != held.epoch {
                        steps.push(Step::Renew(w, shard, Fate::Answered));
                    }
                    if held.draining && idle {
                        steps.push(Step::Release(w, shard, Fate::Answered));
                    }
                }
                None if ours && idle => steps.push(Step::Release(w, shard, Fate::Answered)),
                None if lease.is_free() => steps.push(Step::Acquire(w, shard, Fate::Answered)),
                None => {}
            }
        }
    }

    /// Of the beat, what concerns one lease.
    pub(crate) fn renew(&mut self, w: usize, shard: usize, fate: Fate, outbox: &Outbox) {
        let owner = self.workers[w].owner;
        let Some(held) = self.workers[w].held[shard] else { return };
        if fate == Fate::GivenUp {
            return self.give_up(Message::Renew(owner, shard, held.epoch));
        }
        let renewed = self.database.renew(owner, shard, held.epoch, outbox.rules);
        self.workers[w].held[shard] = renewed.then_some(Held { past: false, ..held });
        self.workers[w].refused = false;
    }

    pub(crate) fn acquire(&mut self, w: usize, shard: usize, fate: Fate) {
        let owner = self.workers[w].owner;
        if fate == Fate::GivenUp {
            return self.give_up(Message::Acquire(owner, shard));
        }
        let taken = self.database.acquire(owner, shard);
        self.workers[w].held[shard] = taken.map(|epoch| Held { epoch, past: false, draining: false });
    }

    /// `release_idle`: of what is being given up, or of what names this worker without its holding it. Forgotten before it
    /// is released.
    pub(crate) fn release(&mut self, w: usize, shard: usize, fate: Fate, outbox: &Outbox) {
        let worker = &mut self.workers[w];
        let epoch = worker.held[shard].take().map_or(self.database.leases[shard].epoch, |held| held.epoch);
        worker.flight.open[shard] = None;
        let owner = worker.owner;
        match fate {
            Fate::Answered => self.database.release(owner, shard, epoch, outbox.rules),
            Fate::GivenUp => self.give_up(Message::Release(owner, shard, epoch)),
        }
    }

    /// By the database's clock; the holder's own deadline was before.
    pub(crate) fn expire(&mut self, shard: usize) {
        let lease = &mut self.database.leases[shard];
        lease.expired = true;
        let (owner, epoch) = (lease.owner, lease.epoch);
        for worker in self.workers.iter_mut().filter(|worker| Some(worker.owner) == owner) {
            if let Some(held) = worker.held[shard].as_mut().filter(|held| held.epoch == epoch) {
                held.past = true;
            }
        }
    }

    /// Whether somebody renews it.
    pub(crate) fn is_kept(&self, shard: usize) -> bool {
        let lease = self.database.leases[shard];
        self.workers.iter().any(|worker| lease.owner == Some(worker.owner) && worker.holds(shard, lease.epoch))
    }
}

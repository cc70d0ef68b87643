//! The leases' table: `src/store/postgres/leases`, and `raise_epoch`. Each function is one statement, and so one step.

use crate::database::Database;
use crate::rules::Rules;

/// A process of a worker; it has a new identity after each start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Owner {
    pub(crate) worker: u8,
    pub(crate) life: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Lease {
    pub(crate) owner: Option<Owner>,
    pub(crate) epoch: u8,
    /// By the database's clock.
    pub(crate) expired: bool,
}

impl Lease {
    pub(crate) fn is_free(&self) -> bool {
        self.owner.is_none() || self.expired
    }
}

impl Database {
    /// Returns the new epoch.
    pub(crate) fn acquire(&mut self, owner: Owner, shard: usize) -> Option<u8> {
        let lease = &mut self.leases[shard];
        if !lease.is_free() {
            return None;
        }
        *lease = Lease { owner: Some(owner), epoch: lease.epoch + 1, expired: false };
        Some(lease.epoch)
    }

    fn named(&mut self, owner: Owner, shard: usize, epoch: u8, rules: Rules) -> Option<&mut Lease> {
        let lease = &mut self.leases[shard];
        let same = lease.owner == Some(owner) && (lease.epoch == epoch || !rules.fenced_leases);
        same.then_some(lease)
    }

    /// Returns whether it was renewed; also an expired lease that no worker has taken.
    pub(crate) fn renew(&mut self, owner: Owner, shard: usize, epoch: u8, rules: Rules) -> bool {
        let lease = self.named(owner, shard, epoch, rules);
        lease.is_some_and(|lease| {
            lease.expired = false;
            lease.epoch == epoch
        })
    }

    pub(crate) fn release(&mut self, owner: Owner, shard: usize, epoch: u8, rules: Rules) {
        if let Some(lease) = self.named(owner, shard, epoch, rules) {
            (lease.owner, lease.expired) = (None, true);
        }
    }

    pub(crate) fn raise_epoch(&mut self, owner: Owner, shard: usize, epoch: u8, above: u8) {
        let lease = &mut self.leases[shard];
        if lease.owner == Some(owner) && lease.epoch == epoch && !lease.expired {
            lease.epoch = lease.epoch.max(above) + 1;
        }
    }

    /// Restores the leases of an old backup, from before any worker held one.
    pub(crate) fn restore_leases(&mut self) {
        self.leases = [Lease { owner: None, epoch: 0, expired: true }; 2];
    }
}

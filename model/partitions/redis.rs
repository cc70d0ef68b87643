//! The lease and the entries in Redis. Each function is one script, and so one step.

use super::Rules;

/// Entries of the partition.
pub(super) const COUNT: u8 = 2;

/// A consumer; it has a new identity after each start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Owner {
    pub(super) consumer: usize,
    pub(super) life: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Lease {
    owner: Owner,
    pub(super) token: u8,
    claim: u8,
}

/// Under which lease something is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Fence {
    pub(super) owner: Owner,
    pub(super) token: u8,
    pub(super) claim: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Redis {
    pub(super) lease: Option<Lease>,
    /// The life of each consumer that is a member, and whether it was silent for too long.
    pub(super) members: [Option<(u8, bool)>; 2],
    tokens: u8,
    pub(super) appended: u8,
    /// How many the group has read.
    pub(super) read: u8,
    /// Who has the entries that are pending.
    pub(super) pending: [Option<usize>; COUNT as usize],
}

impl Redis {
    fn is_member(&self, owner: Owner) -> bool {
        self.members[owner.consumer].is_some_and(|(life, _)| life == owner.life)
    }

    /// Returns the token, if the partition is this owner's now. Nothing if it was removed.
    pub(super) fn beat(&mut self, owner: Owner) -> Option<Option<u8>> {
        if !self.is_member(owner) {
            return None;
        }
        self.members[owner.consumer] = Some((owner.life, false));
        for member in &mut self.members {
            *member = member.filter(|(_, is_silent)| !is_silent);
        }
        if !self.lease.is_some_and(|lease| self.is_member(lease.owner)) {
            self.tokens += 1;
            self.lease = Some(Lease { owner, token: self.tokens, claim: 0 });
        }
        Some(self.lease.filter(|lease| lease.owner == owner).map(|lease| lease.token))
    }

    fn held(&mut self, fence: Fence, rules: Rules) -> bool {
        let is_held = self.lease.is_some_and(|lease| lease.owner == fence.owner && lease.token == fence.token);
        is_held || !rules.fenced_reads
    }

    /// Takes the first pending entry from this one on. `None`: refused. `Err`: there is none, and this is the next new one.
    pub(super) fn claim(&mut self, fence: Fence, from: u8, rules: Rules) -> Option<Result<u8, u8>> {
        if !self.held(fence, rules)
            || self.lease.is_some_and(|lease| rules.numbered_claims && lease.claim > fence.claim)
        {
            return None;
        }
        if let Some(lease) = self.lease.as_mut().filter(|lease| lease.owner == fence.owner) {
            lease.claim = fence.claim;
        }
        let first = (from..self.read).find(|entry| self.pending[usize::from(*entry)].is_some());
        if let Some(entry) = first {
            self.pending[usize::from(entry)] = Some(fence.owner.consumer);
        }
        Some(first.ok_or(self.read))
    }

    /// Reads the next new entry. `None`: refused.
    pub(super) fn read(&mut self, fence: Fence, rules: Rules) -> Option<Option<u8>> {
        let is_late = self.lease.is_some_and(|lease| lease.claim != fence.claim);
        if !self.held(fence, rules) || (is_late && rules.numbered_claims && rules.fenced_reads) {
            return None;
        }
        if self.read == self.appended {
            return Some(None);
        }
        self.pending[usize::from(self.read)] = Some(fence.owner.consumer);
        self.read += 1;
        Some(Some(self.read - 1))
    }

    pub(super) fn release(&mut self, fence: Fence, rules: Rules) {
        let same = |lease: &Lease| lease.owner == fence.owner && (lease.token == fence.token || !rules.fenced_release);
        self.lease = self.lease.filter(|lease| !same(lease));
    }
}

//! The partitions that this process has, by its own clock. Without I/O.

use std::collections::{BTreeMap, BTreeSet};

use crate::backend::event_source::{EntryId, LeaseId, LeaseState};
use crate::clock::BootInstant;

/// A partition as Redis says who has it. `stream` is the number of the partition's stream; the next number is that of its retried
/// dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) stream: usize,
    pub(super) token: u64,
    /// Another consumer should get it.
    pub(super) is_excess: bool,
}

/// How far one stream of a partition has been read under a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Cursor {
    /// Entries up to this one are in memory, or done.
    pub(super) after: Option<EntryId>,
    /// Every entry that is pending behind it has been claimed, so new ones may be read.
    pub(super) is_claimed: bool,
}

/// The right to work on a partition. A stall that is longer than the lease makes it another one, even if Redis still names this
/// process: some entries of the first one may have been dropped already.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    pub(super) id: LeaseId,
    pub(super) token: u64,
    /// The number of its last claim. Redis refuses reads that follow an earlier one.
    pub(super) claim: u64,
    until: BootInstant,
    is_leaving: bool,
    is_over: bool,
    /// Nothing of an earlier lease is in memory.
    is_begun: bool,
    /// Of the partition, and of its retried dead letters.
    pub(super) cursors: [Cursor; 2],
}

impl Lease {
    fn check(&mut self, now: BootInstant) -> LeaseState {
        self.is_over |= now >= self.until;
        match (self.is_over, self.is_leaving) {
            (true, _) => LeaseState::Over,
            (false, true) => LeaseState::Leaving,
            (false, false) => LeaseState::Held,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct LeaseTable {
    /// By the number of the partition's stream.
    leases: BTreeMap<usize, Lease>,
    /// The last number that was given to a lease or to a claim.
    last: u64,
    /// All are given up.
    is_leaving: bool,
}

impl LeaseTable {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Notes what Redis has answered about these partitions; returns whether work has to begin or end.
    pub(super) fn renew(&mut self, of: &[usize], grants: &[Grant], until: BootInstant, now: BootInstant) -> bool {
        let mut is_changed = false;
        for stream in of {
            let grant = grants.iter().find(|grant| grant.stream == *stream);
            let Some(grant) = grant else {
                is_changed |= self.leases.remove(stream).is_some();
                continue;
            };
            let lease = self.leases.get_mut(stream).filter(|lease| lease.token == grant.token);
            // Its release may be under way, also after the lease has ended and was renewed.
            let was_leaving = lease.as_ref().is_some_and(|lease| lease.is_leaving);
            let lease = lease.and_then(|lease| (lease.check(now) != LeaseState::Over).then_some(lease));
            match lease {
                Some(lease) => lease.until = until,
                None => {
                    self.begin(grant, until);
                    is_changed = true;
                }
            }
            let is_leaving = self.is_leaving || was_leaving || grant.is_excess;
            if let Some(lease) = self.leases.get_mut(stream).filter(|lease| is_leaving && !lease.is_leaving) {
                lease.is_leaving = true;
                is_changed = true;
            }
        }
        is_changed
    }

    fn begin(&mut self, grant: &Grant, until: BootInstant) {
        let (id, claim) = (LeaseId(self.next()), self.next());
        let lease = Lease {
            id,
            token: grant.token,
            claim,
            until,
            is_leaving: false,
            is_over: false,
            is_begun: false,
            cursors: [Cursor::default(); 2],
        };
        self.leases.insert(grant.stream, lease);
    }

    /// The state of a lease. Once it is over, it remains so.
    pub(super) fn state(&mut self, id: LeaseId, now: BootInstant) -> LeaseState {
        let lease = self.leases.values_mut().find(|lease| lease.id == id);
        lease.map_or(LeaseState::Over, |lease| lease.check(now))
    }

    /// Ends leases that were not renewed in time; returns whether there are any.
    pub(super) fn expire(&mut self, now: BootInstant) -> bool {
        let check = |lease: &mut Lease| !lease.is_over && lease.check(now) == LeaseState::Over;
        self.leases.values_mut().map(check).fold(false, |any, is_over| any | is_over)
    }

    /// Ends a lease that Redis has refused.
    pub(super) fn refuse(&mut self, id: LeaseId) {
        self.leases.values_mut().filter(|lease| lease.id == id).for_each(|lease| lease.is_over = true);
    }

    /// Nothing is known any more of what is in memory.
    pub(super) fn restart(&mut self) {
        self.leases.values_mut().for_each(|lease| lease.is_over = true);
    }

    pub(super) fn give_up(&mut self) {
        self.is_leaving = true;
        self.leases.values_mut().for_each(|lease| lease.is_leaving = true);
    }

    /// The leases under which entries may be read, by their streams. `busy`: the streams of which entries are in memory. A lease
    /// does not begin before those of the last one have left it.
    pub(super) fn readable(&mut self, busy: &BTreeSet<usize>, now: BootInstant) -> Vec<(usize, Lease)> {
        for (stream, lease) in &mut self.leases {
            lease.is_begun |= !is_busy(busy, *stream);
        }
        self.begun(now)
    }

    /// The leases that have begun, by their streams.
    pub(super) fn begun(&mut self, now: BootInstant) -> Vec<(usize, Lease)> {
        let leases = self.leases.iter_mut();
        let begun = leases.filter_map(|(stream, lease)| {
            (lease.is_begun && lease.check(now) == LeaseState::Held).then(|| (*stream, lease.clone()))
        });
        begun.collect()
    }

    /// The partitions to release, with their tokens: nothing of them is in memory.
    pub(super) fn drained(&mut self, busy: &BTreeSet<usize>, now: BootInstant) -> Vec<(usize, u64)> {
        let leases = self.leases.iter_mut().filter(|(stream, _)| !is_busy(busy, **stream));
        let leaving = leases
            .filter_map(|(stream, lease)| (lease.check(now) == LeaseState::Leaving).then_some((*stream, lease.token)));
        leaving.collect()
    }

    pub(super) fn remove(&mut self, stream: usize, token: u64) {
        if self.leases.get(&stream).is_some_and(|lease| lease.token == token) {
            self.leases.remove(&stream);
        }
    }

    /// Notes how far a stream has been read.
    pub(super) fn advance(&mut self, id: LeaseId, part: usize, cursor: Cursor) {
        if let Some(lease) = self.leases.values_mut().find(|lease| lease.id == id) {
            lease.cursors[part] = cursor;
        }
    }

    /// It is not known what a call has read: what is pending is claimed again, from the first entry on if the group is another one.
    pub(super) fn doubt(&mut self, id: LeaseId, is_missing_group: bool) {
        let claim = self.next();
        if let Some(lease) = self.leases.values_mut().find(|lease| lease.id == id) {
            lease.claim = claim;
            for cursor in &mut lease.cursors {
                let after = cursor.after.filter(|_| !is_missing_group);
                *cursor = Cursor { after, is_claimed: false };
            }
        }
    }

    /// Whether a lease waits until entries have left the memory.
    pub(super) fn is_waiting(&self) -> bool {
        self.leases.values().any(|lease| lease.is_leaving || !lease.is_begun)
    }

    pub(super) fn token(&self, stream: usize) -> Option<u64> {
        self.leases.get(&stream).map(|lease| lease.token)
    }

    /// The partitions' streams.
    pub(super) fn held(&mut self, now: BootInstant) -> Vec<usize> {
        let leases = self.leases.iter_mut();
        leases.filter_map(|(stream, lease)| (lease.check(now) != LeaseState::Over).then_some(*stream)).collect()
    }

    /// All of them, with their tokens.
    pub(super) fn all(&self) -> Vec<(usize, u64)> {
        self.leases.iter().map(|(stream, lease)| (*stream, lease.token)).collect()
    }
}

fn is_busy(busy: &BTreeSet<usize>, stream: usize) -> bool {
    busy.contains(&stream) || busy.contains(&(stream + 1))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TERM: Duration = Duration::from_secs(5);

    fn grant(token: u64) -> Grant {
        Grant { stream: 0, token, is_excess: false }
    }

    /// A table with one partition, its lease, and when it was taken.
    fn one() -> (LeaseTable, LeaseId, BootInstant) {
        let (mut table, now) = (LeaseTable::default(), BootInstant::now());
        assert!(table.renew(&[0, 2], &[grant(1)], now.after(TERM), now));
        let id = table.readable(&BTreeSet::new(), now)[0].1.id;
        (table, id, now)
    }

    #[test]
    fn a_lease_that_ended_is_not_the_one_that_redis_renews_later() {
        let (mut table, id, now) = one();
        let (last, late) = (now.after(TERM - Duration::from_millis(1)), now.after(TERM));
        assert!(!table.renew(&[0], &[grant(1)], last.after(TERM), last));
        assert_eq!(table.state(id, late), LeaseState::Held);
        let late = last.after(TERM);
        assert!(table.renew(&[0], &[grant(1)], late.after(TERM), late));
        assert_eq!(table.state(id, late), LeaseState::Over);
        let next = table.readable(&BTreeSet::new(), late)[0].1.id;
        assert_eq!(table.state(next, late), LeaseState::Held);
    }

    #[test]
    fn a_lease_that_was_seen_to_end_stays_over_even_if_an_earlier_instant_is_asked_about() {
        let (mut table, id, now) = one();
        assert!(table.expire(now.after(TERM)) && !table.expire(now.after(TERM)));
        assert_eq!(table.state(id, now), LeaseState::Over);
        assert!(table.renew(&[0], &[grant(1)], now.after(TERM), now), "it is another one");
        assert_eq!(table.state(id, now), LeaseState::Over);
    }

    #[test]
    fn a_lease_begins_when_the_entries_of_the_last_one_have_left_the_memory() {
        let (mut table, _, now) = one();
        table.renew(&[0], &[grant(2)], now.after(TERM), now);
        for busy in [0, 1] {
            assert!(table.readable(&BTreeSet::from([busy]), now).is_empty());
        }
        assert!(table.is_waiting());
        assert_eq!(table.readable(&BTreeSet::from([2]), now).len(), 1);
        assert_eq!(table.readable(&BTreeSet::from([0]), now).len(), 1, "its own entries");
    }

    #[test]
    fn a_partition_is_given_up_when_nothing_of_it_is_in_memory() {
        let (mut table, id, now) = one();
        let excess = Grant { is_excess: true, ..grant(1) };
        assert!(table.renew(&[0], &[excess], now.after(TERM), now));
        assert!(!table.renew(&[0], &[grant(1)], now.after(TERM), now), "it is still given up");
        assert_eq!(table.state(id, now), LeaseState::Leaving);
        assert!(table.readable(&BTreeSet::new(), now).is_empty());
        assert_eq!(
            (table.drained(&BTreeSet::from([1]), now), table.drained(&BTreeSet::new(), now)),
            (vec![], vec![(0, 1)])
        );
        table.remove(0, 1);
        assert!(table.held(now).is_empty());
    }

    #[test]
    fn a_lease_that_is_given_up_does_not_begin_again_after_its_end() {
        let (mut table, _, now) = one();
        let late = now.after(TERM);
        table.renew(&[0], &[Grant { is_excess: true, ..grant(1) }], late, now);
        table.renew(&[0], &[grant(1)], late.after(TERM), late);
        assert!(table.readable(&BTreeSet::new(), late).is_empty());
        assert_eq!(table.drained(&BTreeSet::new(), late), [(0, 1)]);
        table.renew(&[0], &[grant(2)], late.after(TERM), late);
        assert_eq!(table.readable(&BTreeSet::new(), late).len(), 1, "it was taken again");
    }

    #[test]
    fn after_a_doubt_a_partition_is_claimed_again_behind_what_was_read() {
        let (mut table, id, now) = one();
        let after = Some(EntryId { millis: 7, number: 1 });
        table.advance(id, 0, Cursor { after, is_claimed: true });
        let before = table.readable(&BTreeSet::new(), now)[0].1.clone();
        table.doubt(id, false);
        let lease = table.readable(&BTreeSet::from([0]), now)[0].1.clone();
        assert_eq!((lease.id, lease.cursors[0]), (id, Cursor { after, is_claimed: false }));
        assert!(lease.claim > before.claim);
        table.doubt(id, true);
        assert_eq!(table.readable(&BTreeSet::from([0]), now)[0].1.cursors, [Cursor::default(); 2]);
    }

    #[test]
    fn what_redis_does_not_name_is_lost() {
        let (mut table, id, now) = one();
        assert!(table.renew(&[0], &[], now.after(TERM), now));
        assert_eq!(table.state(id, now), LeaseState::Over);
    }
}

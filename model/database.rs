//! The tables: `src/store/postgres/{fetch,settle,leases,change}.rs`. Each function is one statement, and so one step.

use crate::events::{Event, Publication, Publications};
use crate::rules::Rules;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Status {
    /// There is no such row.
    Absent,
    /// Its transaction is still running.
    Uncommitted,
    Pending,
    Retry,
    Published,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    pub(crate) status: Status,
    /// Which `seq` it has.
    pub(crate) replay: bool,
    pub(crate) retry_count: u8,
    pub(crate) published_at: bool,
    /// Not a column: how often a backend refused it since it was begun, by its writer or a person.
    pub(crate) refusals: u8,
    /// Not a column: it was failed once, so its key has gone on without it.
    pub(crate) was_failed: bool,
    /// Not a column: a person failed it.
    pub(crate) given_up: bool,
}

impl Row {
    fn new(status: Status) -> Self {
        let (refusals, was_failed, given_up) = (0, false, false);
        Self { status, replay: false, retry_count: 0, published_at: false, refusals, was_failed, given_up }
    }

    pub(crate) fn is_unsettled(&self) -> bool {
        matches!(self.status, Status::Pending | Status::Retry)
    }

    /// Nothing but a replay changes it any more.
    pub(crate) fn is_recorded(&self) -> bool {
        self.status == Status::Published
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self.status, Status::Absent | Status::Published | Status::Failed)
    }

    fn fail(&mut self) {
        (self.status, self.was_failed) = (Status::Failed, true);
    }
}

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

/// A row as a fetch or a look-up read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Fetched {
    pub(crate) publication: Publication,
    pub(crate) retry_count: u8,
    pub(crate) published_at: bool,
}

/// A settle that is not the final one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Reschedule {
    pub(crate) publication: Publication,
    pub(crate) owner: Owner,
    pub(crate) epoch: u8,
    pub(crate) fetched_retry_count: u8,
    /// `false`: another try follows.
    pub(crate) failed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Database {
    rows: [Row; 3],
    pub(crate) leases: [Lease; 2],
}

impl Database {
    /// All is committed but for the later event of the key.
    pub(crate) fn new(owners: [Owner; 2], events: &[Event]) -> Self {
        let leases = owners.map(|owner| Lease { owner: Some(owner), epoch: 1, expired: false });
        let rows = Event::ALL.map(|event| match event {
            _ if !events.contains(&event) => Row::new(Status::Absent),
            Event::Later => Row::new(Status::Uncommitted),
            _ => Row::new(Status::Pending),
        });
        Self { rows, leases }
    }

    pub(crate) fn row(&self, event: Event) -> &Row {
        &self.rows[event as usize]
    }

    pub(crate) fn row_mut(&mut self, event: Event) -> &mut Row {
        &mut self.rows[event as usize]
    }

    pub(crate) fn has(&self, publication: Publication) -> bool {
        self.row(publication.event).replay == publication.replay
    }

    /// What is due of these shards. A retry may have come due or not.
    pub(crate) fn fetch(&self, shards: [bool; 2], retries: bool) -> [Option<Fetched>; 3] {
        Event::ALL.map(|event| {
            let row = self.row(event);
            let due = row.status == Status::Pending || row.status == Status::Retry && retries;
            (due && shards[event.shard()]).then(|| self.read(event))
        })
    }

    fn read(&self, event: Event) -> Fetched {
        let row = self.row(event);
        let publication = Publication { event, replay: row.replay };
        Fetched { publication, retry_count: row.retry_count, published_at: row.published_at }
    }

    /// Whether something unsettled stands before an event, other than these.
    pub(crate) fn blockers(&self, event: Event, except: impl Fn(Event) -> bool) -> bool {
        event.before().is_some_and(|before| self.row(before).is_unsettled() && !except(before))
    }

    pub(crate) fn record_sent_but_failed(&mut self, sent: Publications) {
        for publication in sent.iter() {
            if self.has(publication) {
                let row = self.row_mut(publication.event);
                row.published_at |= row.status == Status::Failed;
            }
        }
    }

    /// What was sent and is not recorded as published, whatever its status.
    pub(crate) fn unrecorded(&self, sent: Publications) -> Vec<Fetched> {
        let unknown = |publication: &Publication| self.has(*publication) && !self.row(publication.event).published_at;
        sent.iter().filter(unknown).map(|publication| self.read(publication.event)).collect()
    }

    pub(crate) fn settle_published(&mut self, events: Publications) {
        for publication in events.iter() {
            if self.has(publication) {
                let row = self.row_mut(publication.event);
                (row.status, row.published_at) = (Status::Published, true);
            }
        }
    }

    /// Returns whether it is recorded, now or by an earlier call.
    pub(crate) fn settle_rescheduled(&mut self, settle: Reschedule, rules: Rules) -> bool {
        let lease = self.leases[settle.publication.event.shard()];
        let ours = lease.owner == Some(settle.owner) && lease.epoch == settle.epoch;
        let same_seq = self.has(settle.publication);
        let row = self.row_mut(settle.publication.event);
        let (status, count) =
            (if settle.failed { Status::Failed } else { Status::Retry }, settle.fetched_retry_count + 1);
        let fenced = !rules.fenced_settle || ours && row.retry_count == settle.fetched_retry_count;
        if same_seq && row.is_unsettled() && fenced {
            (row.status, row.retry_count) = (status, count);
            if settle.failed {
                row.fail();
            }
            return true;
        }
        same_seq && row.status == status && row.retry_count == count
    }

    // Leases.

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

    /// Returns whether it was renewed; also one that ran out and that nobody took.
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

    /// An old backup's, from before anybody had one.
    pub(crate) fn restore_leases(&mut self) {
        self.leases = [Lease { owner: None, epoch: 0, expired: true }; 2];
    }

    // People.

    /// Published again, as a new event of the old id.
    pub(crate) fn replay(&mut self, event: Event) {
        let was_failed = self.row(event).was_failed;
        *self.row_mut(event) = Row { replay: true, was_failed, ..Row::new(Status::Pending) };
    }

    /// Pending again, as if it had never been refused; in its old place.
    pub(crate) fn retry(&mut self, event: Event) {
        let row = self.row_mut(event);
        (row.status, row.retry_count, row.refusals, row.given_up) = (Status::Pending, 0, 0, false);
    }

    pub(crate) fn fail(&mut self, event: Event) {
        let row = self.row_mut(event);
        row.fail();
        row.given_up = true;
    }
}

//! The events' table: `src/store/postgres/{fetch,settle,change}.rs`. Each function is one statement, and so one step.

use crate::events::{Event, Publication, Publications};
use crate::leases::{Lease, Owner};
use crate::rules::Rules;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Status {
    /// There is no row.
    Absent,
    /// Its transaction is still running.
    Uncommitted,
    Pending,
    Retry,
    Published,
    /// It was done, and its row was deleted.
    Deleted,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    pub(crate) status: Status,
    /// Which `seq` it has.
    pub(crate) replay: bool,
    pub(crate) retry_count: u8,
    pub(crate) published_at: bool,
    /// How often an operator changed it: `updated_at` distinguishes the changes, and the count does not.
    pub(crate) changes: u8,
    /// Not a column: every change of it is refused.
    pub(crate) refuses: bool,
    /// Not a column: how often a backend rejected it since its writer or an operator last started it.
    pub(crate) refusals: u8,
    /// Not a column: it was failed once, so its key has continued without it.
    pub(crate) was_failed: bool,
    /// Not a column: an operator failed it.
    pub(crate) given_up: bool,
}

impl Row {
    fn new(status: Status) -> Self {
        Self {
            status,
            replay: false,
            retry_count: 0,
            published_at: false,
            changes: 0,
            refuses: false,
            refusals: 0,
            was_failed: false,
            given_up: false,
        }
    }

    pub(crate) fn is_unsettled(&self) -> bool {
        matches!(self.status, Status::Pending | Status::Retry)
    }

    /// Whether only a replay, or the same id published again, changes it from now on.
    pub(crate) fn is_recorded(&self) -> bool {
        matches!(self.status, Status::Published | Status::Deleted)
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self.status, Status::Absent | Status::Published | Status::Deleted | Status::Failed)
    }

    /// The row without what is not a column.
    fn columns(&self) -> Self {
        Self { refuses: false, refusals: 0, was_failed: false, given_up: false, ..*self }
    }

    fn fail(&mut self) {
        (self.status, self.was_failed) = (Status::Failed, true);
    }
}

/// A row as a fetch or a look-up read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FetchedRow {
    pub(crate) publication: Publication,
    pub(crate) retry_count: u8,
    pub(crate) changes: u8,
    pub(crate) published_at: bool,
}

/// A settle that is not the final one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FailureRecord {
    pub(crate) publication: Publication,
    pub(crate) owner: Owner,
    pub(crate) epoch: u8,
    pub(crate) fetched_retry_count: u8,
    pub(crate) fetched_changes: u8,
    /// `false`: it is retried.
    pub(crate) failed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Database {
    rows: [Row; 3],
    pub(crate) leases: [Lease; 2],
    /// Not in it: a settle deletes events that are done in place of recording them as published.
    deletes: bool,
}

impl Database {
    /// All events are committed except the later one of the key.
    pub(crate) fn new(owners: [Owner; 2], events: &[Event], deletes: bool) -> Self {
        let leases = owners.map(|owner| Lease { owner: Some(owner), epoch: 1, expired: false });
        let rows = Event::ALL.map(|event| match event {
            _ if !events.contains(&event) => Row::new(Status::Absent),
            Event::Later => Row::new(Status::Uncommitted),
            _ => Row::new(Status::Pending),
        });
        Self { rows, leases, deletes }
    }

    pub(crate) fn row(&self, event: Event) -> &Row {
        &self.rows[event as usize]
    }

    pub(crate) fn row_mut(&mut self, event: Event) -> &mut Row {
        &mut self.rows[event as usize]
    }

    pub(crate) fn has(&self, publication: Publication) -> bool {
        let row = self.row(publication.event);
        row.status != Status::Deleted && row.replay == publication.replay
    }

    /// Whether no statement can distinguish the two.
    pub(crate) fn is_as(&self, other: &Self) -> bool {
        self.leases == other.leases && self.rows.iter().zip(&other.rows).all(|(a, b)| a.columns() == b.columns())
    }

    /// Sets the columns to those of an earlier state; the rest, which has happened, stays.
    pub(crate) fn fall_back_to(&mut self, earlier: &Self) {
        self.leases = earlier.leases;
        for (row, earlier) in self.rows.iter_mut().zip(&earlier.rows) {
            let Row { refuses, refusals, was_failed, .. } = *row;
            *row = Row { refuses, refusals, was_failed, ..*earlier };
        }
    }

    /// The due rows of these shards. A retry may be due or not.
    pub(crate) fn fetch(&self, shards: [bool; 2], retries: bool) -> [Option<FetchedRow>; 3] {
        Event::ALL.map(|event| {
            let row = self.row(event);
            let due = row.status == Status::Pending || row.status == Status::Retry && retries;
            (due && shards[event.shard()]).then(|| self.read(event))
        })
    }

    fn read(&self, event: Event) -> FetchedRow {
        let row = self.row(event);
        let publication = Publication { event, replay: row.replay };
        FetchedRow { publication, retry_count: row.retry_count, changes: row.changes, published_at: row.published_at }
    }

    /// Whether an unsettled event, other than these, precedes an event.
    pub(crate) fn blockers(&self, event: Event, except: impl Fn(Event) -> bool) -> bool {
        event.before().is_some_and(|before| self.row(before).is_unsettled() && !except(before))
    }

    pub(crate) fn mark_failed_as_sent(&mut self, sent: Publications) {
        for publication in sent.iter() {
            if self.has(publication) && !self.row(publication.event).refuses {
                let row = self.row_mut(publication.event);
                row.published_at |= row.status == Status::Failed;
            }
        }
    }

    /// The rows of sent events that are not recorded as published, whatever their status.
    pub(crate) fn find_unsettled(&self, sent: Publications) -> [Option<FetchedRow>; 3] {
        Event::ALL.map(|event| {
            let row = self.read(event);
            (sent.contains(row.publication) && self.has(row.publication) && !row.published_at).then_some(row)
        })
    }

    /// The events whose rows are refused.
    pub(crate) fn refused(&self, events: Publications) -> Publications {
        events.iter().filter(|publication| self.has(*publication) && self.row(publication.event).refuses).collect()
    }

    /// Records all events, or none if one is refused.
    pub(crate) fn settle_published(&mut self, events: Publications) {
        if !self.refused(events).is_empty() {
            return;
        }
        for publication in events.iter() {
            if self.has(publication) {
                let outcome = if self.deletes { (Status::Deleted, false) } else { (Status::Published, true) };
                let row = self.row_mut(publication.event);
                (row.status, row.published_at) = outcome;
            }
        }
    }

    /// Returns whether it is recorded, now or by an earlier call.
    pub(crate) fn settle_rescheduled(&mut self, settle: FailureRecord, rules: Rules) -> bool {
        let lease = self.leases[settle.publication.event.shard()];
        let ours = lease.owner == Some(settle.owner) && lease.epoch == settle.epoch;
        let same_seq = self.has(settle.publication);
        let row = self.row_mut(settle.publication.event);
        let (status, count) =
            (if settle.failed { Status::Failed } else { Status::Retry }, settle.fetched_retry_count + 1);
        let as_read = row.retry_count == settle.fetched_retry_count
            && (row.changes == settle.fetched_changes || !rules.settled_as_read);
        let fenced = !rules.fenced_settle || ours && as_read;
        if same_seq && row.is_unsettled() && fenced && !row.refuses {
            (row.status, row.retry_count) = (status, count);
            if settle.failed {
                row.fail();
            }
            return true;
        }
        same_seq && row.status == status && row.retry_count == count
    }

    // Operators.

    /// Publishes it again, as a new event with the old id. Once a row is deleted, a writer does so.
    pub(crate) fn replay(&mut self, event: Event) {
        let Row { was_failed, changes, .. } = *self.row(event);
        *self.row_mut(event) = Row { replay: true, was_failed, changes: changes + 1, ..Row::new(Status::Pending) };
    }

    /// Makes it pending again, as if it had never been rejected; in its old place.
    pub(crate) fn retry(&mut self, event: Event) {
        let row = self.row_mut(event);
        (row.status, row.retry_count, row.refusals, row.given_up) = (Status::Pending, 0, 0, false);
        row.changes += 1;
    }

    pub(crate) fn fail(&mut self, event: Event) {
        let row = self.row_mut(event);
        row.fail();
        row.given_up = true;
        row.changes += 1;
    }
}

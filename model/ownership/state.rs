//! The whole state: workers' rows and leases, the workers themselves, and statements that are being executed or late.

use super::rules::Faults;

/// A worker's real connection to its backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Reach {
    /// It can deliver.
    Well,
    /// It cannot reach its backend.
    Down,
    /// Its backend answers health checks and refuses every write.
    PingOnly,
}

impl Reach {
    pub(crate) const ALL: [Self; 3] = [Self::Well, Self::Down, Self::PingOnly];
}

/// The state of a worker's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Life {
    Unstarted,
    Running,
    /// Its heartbeat runs and its poll loop does not.
    Stuck,
    /// Killed, or it has left.
    Gone,
}

/// Why a worker considers its backend unavailable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Pause {
    Unreachable,
    /// Writing failed.
    Refused,
}

/// A row of `outbox_workers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    pub(crate) incarnation: u8,
    /// The number of the last beat.
    pub(crate) beat: u8,
    /// Whether its end has passed by the database's clock.
    pub(crate) ended: bool,
    /// Its report on its backend.
    pub(crate) well: bool,
    /// Locked by a session that is not a worker's.
    pub(crate) locked: bool,
}

/// A row of `outbox_leases`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Lease {
    pub(crate) owner: Option<usize>,
    pub(crate) epoch: u8,
}

/// A lease as a worker knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Held {
    pub(crate) epoch: u8,
    pub(crate) draining: bool,
}

/// What a heartbeat waits for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Heartbeat {
    Idle,
    /// A beat is on its way that has read the leases already, as they were.
    Beating(Vec<Lease>),
    /// The beat was answered; the leases that it extended are read next, or were read already.
    Reading {
        beat: u8,
        seen: Option<Vec<Lease>>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Worker {
    pub(crate) life: Life,
    pub(crate) reach: Reach,
    pub(crate) pause: Option<Pause>,
    pub(crate) incarnation: u8,
    /// The number of the last beat that was sent.
    pub(crate) sent: u8,
    /// The beat from whose sending the deadline is counted.
    pub(crate) term: u8,
    /// The last beat whose deadline is over.
    pub(crate) over: u8,
    pub(crate) held: Vec<Option<Held>>,
    /// Leases that name it and are not held, each at the epoch that it read.
    pub(crate) unknown_leases: Vec<Option<u8>>,
    /// How many shards it wants to take.
    pub(crate) want: usize,
    /// What it remembers to have reported.
    pub(crate) reported: bool,
    /// Whether it has a delivery in flight that will never be recorded.
    pub(crate) burdened: bool,
    pub(crate) heartbeat: Heartbeat,
}

impl Worker {
    pub(crate) fn new(shards: usize, life: Life, reach: Reach) -> Self {
        Self {
            life,
            reach,
            pause: None,
            incarnation: 0,
            sent: 1,
            term: 1,
            over: 0,
            held: vec![None; shards],
            unknown_leases: vec![None; shards],
            want: 0,
            reported: true,
            burdened: false,
            heartbeat: Heartbeat::Idle,
        }
    }

    pub(crate) fn runs(&self) -> bool {
        self.life == Life::Running
    }

    /// Whether its deadline is still to come.
    pub(crate) fn is_in_time(&self) -> bool {
        self.term > self.over
    }

    /// Whether it acts on a lease.
    pub(crate) fn acts_on(&self, shard: usize) -> bool {
        self.runs() && self.is_in_time() && self.held[shard].is_some()
    }

    pub(crate) fn delivers(&self, shard: usize) -> bool {
        self.acts_on(shard) && self.reach == Reach::Well && self.held[shard].is_some_and(|held| !held.draining)
    }

    pub(crate) fn keeps(&self) -> usize {
        self.held.iter().flatten().filter(|held| !held.draining).count()
    }
}

/// A lease that is being taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Taking {
    pub(crate) by: usize,
    pub(crate) shard: usize,
    /// The lease as its snapshot has it.
    pub(crate) owner: Option<usize>,
    pub(crate) epoch: u8,
    /// Whether the owner's row existed, in that snapshot.
    pub(crate) has_row: bool,
    /// It has its locks, and only commits.
    pub(crate) locked: bool,
    /// Its worker waits for the answer.
    pub(crate) waited: bool,
}

/// The deletion of a dead worker's row, half done: the leases that name the worker in its snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Deleting {
    pub(crate) worker: usize,
    pub(crate) beat: u8,
    pub(crate) seen: Vec<bool>,
}

/// A statement that is executed when its sender no longer waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Late {
    Beat { worker: usize, incarnation: u8, number: u8 },
    Report { worker: usize, incarnation: u8, well: bool },
    Release { worker: usize, shard: usize, epoch: u8 },
    Leave { worker: usize },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) rows: Vec<Option<Row>>,
    pub(crate) leases: Vec<Lease>,
    pub(crate) workers: Vec<Worker>,
    pub(crate) takings: Vec<Taking>,
    pub(crate) deleting: Option<Deleting>,
    /// Sorted, because their order has no meaning.
    pub(crate) late: Vec<Late>,
    pub(crate) faults: Faults,
    /// Not a column: an older beat has extended an end after a later one.
    pub(crate) revived: bool,
    /// Not a column: a worker has left, or was forgotten after its death.
    pub(crate) buried: Vec<bool>,
    /// Not a column: an end that had passed was extended, and a lease kept.
    pub(crate) kept: bool,
}

//! What protects the leases, each part of which a test can switch off, and what may go wrong, and how often.

/// What ends the pause of a backend, for a worker that has no shard to try with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probe {
    /// A health check that is answered ends a pause, whatever began it.
    Answer,
    /// A health check ends a pause that began with a backend that could not be reached. Where it was writing that failed,
    /// only an event that is accepted ends the pause.
    Acceptance,
    /// Where it was writing that failed, the probe writes.
    Write,
}

/// The parts of the protocol that can be left out, to see that the checker notices.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// A taking locks the row of the lease's owner until it commits.
    pub(crate) locks_the_owner: bool,
    /// A taking looks at the owner's end under that lock, and not in its snapshot.
    pub(crate) checks_under_lock: bool,
    /// Which leases are a worker's own is read after its beat was answered, and not in the beat's own snapshot.
    pub(crate) reads_after_the_beat: bool,
    /// Of what names a worker, only what is at the epoch that it remembers is its own.
    pub(crate) at_the_remembered_epoch: bool,
    /// A deadline is counted from before the beat was sent.
    pub(crate) counts_from_the_sending: bool,
    /// What is taken is held until the deadline of the last beat, and not of the taking.
    pub(crate) taken_until_the_beats_end: bool,
    /// The end of a lease is the one that its owner announced, and not the reader's own lease time after the last beat.
    pub(crate) owners_end: bool,
    /// An end that has passed is put off like any other.
    pub(crate) extends_what_ended: bool,
    /// To be alive and to hold are two columns: a stuck worker's beat extends nothing.
    pub(crate) two_columns: bool,
    /// A beat that extends releases what names its worker and is not held.
    pub(crate) releases_strays: bool,
    /// Also of a shard of which something is still in flight.
    pub(crate) releases_strays_while_busy: bool,
    /// What is in flight and cannot be recorded does not keep a shard from being handed over.
    pub(crate) hands_over_what_cannot_be_recorded: bool,
    /// A beat extends only a row that knows no later beat.
    pub(crate) numbered_beats: bool,
    /// A beat extends only the row of its own incarnation.
    pub(crate) beats_name_the_incarnation: bool,
    /// A beat updates, and never inserts.
    pub(crate) beats_only_update: bool,
    /// A beat skips its row where it is locked.
    pub(crate) beats_never_wait: bool,
    /// A worker whose beats are skipped until its deadline is over releases what it held.
    pub(crate) releases_when_skipped: bool,
    /// A lease whose owner has no row is free.
    pub(crate) rowless_is_free: bool,
    /// A worker's row is deleted with its leases' ownership, in one statement.
    pub(crate) deleting_frees: bool,
    /// A row that was deleted comes back as another incarnation, which holds nothing.
    pub(crate) comes_back_with_nothing: bool,
    /// Releases name the epoch.
    pub(crate) releases_name_the_epoch: bool,
    /// A report is written where the row says something else, and not where the worker remembers to have written it.
    pub(crate) reports_are_compared: bool,
    pub(crate) probe: Probe,
    /// Where no worker is well they share the shards, so that each may try.
    pub(crate) shared_where_none_is_well: bool,
}

impl Rules {
    pub(crate) const ALL: Self = Self {
        locks_the_owner: true,
        checks_under_lock: true,
        reads_after_the_beat: true,
        at_the_remembered_epoch: true,
        counts_from_the_sending: true,
        taken_until_the_beats_end: true,
        owners_end: true,
        extends_what_ended: true,
        two_columns: true,
        releases_strays: true,
        releases_strays_while_busy: true,
        hands_over_what_cannot_be_recorded: true,
        numbered_beats: true,
        beats_name_the_incarnation: true,
        beats_only_update: true,
        beats_never_wait: true,
        releases_when_skipped: true,
        rowless_is_free: true,
        deleting_frees: true,
        comes_back_with_nothing: true,
        releases_name_the_epoch: true,
        reports_are_compared: true,
        probe: Probe::Write,
        shared_where_none_is_well: true,
    };
}

/// How often each thing may yet happen that cannot be ruled out. Each may come at any moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Faults {
    /// How many of them in all.
    pub(crate) any: u8,
    /// A worker is killed.
    pub(crate) crashes: u8,
    /// A worker leaves, as a shutdown does.
    pub(crate) leaves: u8,
    /// An answer is lost, or a statement is late: executed when its sender waits no longer.
    pub(crate) lost: u8,
    /// A worker is slow, so that its end passes before it beats again.
    pub(crate) expiries: u8,
    /// The row of a worker that is only slow is deleted as a dead one's.
    pub(crate) deletions: u8,
    /// A backend is reached, or takes writes, from a worker, or no longer.
    pub(crate) turns: u8,
    /// A worker's loop is stuck, or runs again.
    pub(crate) sticks: u8,
    /// A session locks a worker's row and keeps the lock.
    pub(crate) locks: u8,
    /// Something that a worker has in flight cannot be recorded.
    pub(crate) burdens: u8,
}

impl Faults {
    /// So many, of any kind.
    pub(crate) const fn of_any_kind(any: u8) -> Self {
        Self {
            any,
            crashes: any,
            leaves: any,
            lost: any,
            expiries: any,
            deletions: any,
            turns: any,
            sticks: any,
            locks: any,
            burdens: any,
        }
    }

    fn kinds(&mut self) -> [&mut u8; 9] {
        let Self { crashes, leaves, lost, expiries, deletions, turns, sticks, locks, burdens, .. } = self;
        [crashes, leaves, lost, expiries, deletions, turns, sticks, locks, burdens]
    }

    /// One of a kind has happened. No kind is left more often than all are, so that states which can do the same are the same.
    pub(crate) fn spend(&mut self, kind: impl Fn(&mut Self) -> &mut u8) {
        *kind(self) -= 1;
        self.any -= 1;
        let any = self.any;
        self.kinds().into_iter().for_each(|left| *left = (*left).min(any));
    }
}

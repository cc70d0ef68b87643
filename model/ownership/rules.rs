//! Rules that protect the leases, which a test can switch off one by one, and the faults, with their numbers.

/// The end of a pause, for a worker that has no shard to try with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probe {
    /// A health check that is answered ends a pause, whatever began it.
    Answer,
    /// A successful health check ends a pause that began because the backend could not be reached. If writing failed, only
    /// an accepted event ends the pause.
    Acceptance,
    /// If writing failed, the probe writes.
    Write,
}

/// The parts of the protocol that can be switched off, to show that the checker notices.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// A worker that takes a lease locks the row of the lease's owner until it commits.
    pub(crate) locks_the_owner: bool,
    /// It reads the owner's end under that lock, and not in its snapshot.
    pub(crate) checks_under_lock: bool,
    /// A worker reads its own leases after its beat was answered, and not in the beat's own snapshot.
    pub(crate) reads_after_the_beat: bool,
    /// Of the leases that name a worker, only those at the epoch that it remembers are its own.
    pub(crate) at_the_remembered_epoch: bool,
    /// A deadline is counted from before the beat was sent.
    pub(crate) counts_from_the_sending: bool,
    /// A lease that is taken is held until the deadline of the last beat, not until one counted from the taking.
    pub(crate) taken_until_the_beats_end: bool,
    /// The end of a lease is the one that its owner announced, not the reader's own lease time after the last beat.
    pub(crate) owners_end: bool,
    /// An end that has passed is extended like any other.
    pub(crate) extends_what_ended: bool,
    /// Alive and holding are two columns: a stuck worker's beat extends nothing.
    pub(crate) two_columns: bool,
    /// A beat that extends releases leases that name its worker and are not held.
    pub(crate) releases_unknown: bool,
    /// Also for a shard with deliveries in flight.
    pub(crate) releases_unknown_while_busy: bool,
    /// A delivery in flight that cannot be recorded does not keep a shard from being released.
    pub(crate) hands_over_what_cannot_be_recorded: bool,
    /// A beat extends only a row that knows no later beat.
    pub(crate) numbered_beats: bool,
    /// A beat extends only the row of its own incarnation.
    pub(crate) beats_name_the_incarnation: bool,
    /// A beat updates, and never inserts.
    pub(crate) beats_only_update: bool,
    /// A beat skips its row if it is locked.
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
    /// A report is written if the row differs, not if the worker remembers to have written something else.
    pub(crate) reports_are_compared: bool,
    pub(crate) probe: Probe,
    /// If no worker can deliver, they share the shards, so that each may try.
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
        releases_unknown: true,
        releases_unknown_while_busy: true,
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

/// How often each fault may still happen. Each may happen at any moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Faults {
    /// How many in total.
    pub(crate) any: u8,
    /// A worker is killed.
    pub(crate) crashes: u8,
    /// A worker leaves, as a shutdown does.
    pub(crate) leaves: u8,
    /// An answer is lost, or a statement is late: executed when its sender no longer waits.
    pub(crate) lost: u8,
    /// A worker is slow, so that its end passes before it beats again.
    pub(crate) expiries: u8,
    /// The row of a worker that is only slow is deleted as a dead one's.
    pub(crate) deletions: u8,
    /// A worker starts or stops reaching its backend, or writing to it.
    pub(crate) turns: u8,
    /// A worker's loop is stuck, or runs again.
    pub(crate) sticks: u8,
    /// A session locks a worker's row and keeps the lock.
    pub(crate) locks: u8,
    /// A delivery that a worker has in flight cannot be recorded.
    pub(crate) burdens: u8,
}

impl Faults {
    /// This many faults, of any kind.
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

    /// Counts one fault of a kind. No kind may happen more often than all may in total, so that states with the same
    /// possible steps are the same.
    pub(crate) fn spend(&mut self, kind: impl Fn(&mut Self) -> &mut u8) {
        *kind(self) -= 1;
        self.any -= 1;
        let any = self.any;
        self.kinds().into_iter().for_each(|left| *left = (*left).min(any));
    }
}

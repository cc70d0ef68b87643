//! Rules of the protocol, which a test can switch off one by one, and the faults, with their numbers.

use crate::events::Event;

/// The parts of the protocol that can be switched off, to show that the checker notices.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// `publish.lua` compares the tokens of its shards.
    pub(crate) fencing: bool,
    /// `open.lua` returns what earlier sessions sent.
    pub(crate) journal: bool,
    /// A fetch's rows count only under the open that it began with.
    pub(crate) r1: bool,
    /// A settled event stays in memory until the fetches that began before are over.
    pub(crate) r2: bool,
    /// An event with a key waits for the unsettled events before it.
    pub(crate) r3: bool,
    /// A replay in the journal is admitted only after the event that it replays has left memory.
    pub(crate) replays_wait: bool,
    /// So is an event in the journal whose settle is kept in memory, until the older fetches are over.
    pub(crate) settled_waits: bool,
    /// A rejection is recorded only over the row as it was read, and under the lease that it was read under.
    pub(crate) fenced_settle: bool,
    /// Part of that: the time of the row's last change is as it was read.
    pub(crate) settled_as_read: bool,
    /// A rejected event whose rejection is not recorded closes its shard: another worker may have sent it since.
    pub(crate) refused_closes: bool,
    /// Leases are renewed and released only at the named epoch.
    pub(crate) fenced_leases: bool,
    /// A settle that is repeated after a doubt writes and waits, although it changes nothing.
    pub(crate) repetition_waits: bool,
    /// Before a journal entry is removed because its row is found published, something is written and waited for.
    pub(crate) recovery_waits: bool,
    /// That happens on the connection that found the row, and so on the same server.
    pub(crate) waits_where_it_read: bool,
    /// A row that a settle skips, because it is locked, is settled again.
    pub(crate) skipped_is_repeated: bool,
    /// A batch that is refused because of one row is divided, and the other rows are recorded.
    pub(crate) divides: bool,
    /// An accepted event that cannot be recorded stays in memory and in the journal.
    pub(crate) keeps_unrecorded: bool,
    /// It does not keep its shard from being released.
    pub(crate) unrecorded_is_idle: bool,
}

impl Rules {
    pub(crate) const ALL: Self = Self {
        fencing: true,
        journal: true,
        r1: true,
        r2: true,
        r3: true,
        replays_wait: true,
        settled_waits: true,
        fenced_settle: true,
        settled_as_read: true,
        refused_closes: true,
        fenced_leases: true,
        repetition_waits: true,
        recovery_waits: true,
        waits_where_it_read: true,
        skipped_is_repeated: true,
        divides: true,
        keeps_unrecorded: true,
        unrecorded_is_idle: true,
    };
}

/// How often each fault may still happen. Each may happen at any moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Faults {
    /// How many in total.
    pub(crate) any: u8,
    /// A worker is killed. Its requests may still be executed.
    pub(crate) crashes: u8,
    /// An answer is lost, or a request is late: executed when its sender no longer waits, or never.
    pub(crate) lost: u8,
    /// A lease expires under a worker that is only slow or stopped.
    pub(crate) expiries: u8,
    /// Redis refuses an event because of the event.
    pub(crate) refusals: u8,
    /// Redis fails in the middle of a batch, for example because its memory is full.
    pub(crate) stops: u8,
    /// A shard is released to another worker.
    pub(crate) moves: u8,
    /// A fetch that finds nothing new when it begins: the poll's, the sweep's, a cursor's overlap.
    pub(crate) looks: u8,
    /// A delivery is dropped: an actor that died had it, or its mailbox was full.
    pub(crate) drops: u8,
    /// An operator publishes a published event again.
    pub(crate) replays: u8,
    /// An operator fails or retries an event.
    pub(crate) operator_actions: u8,
    /// A settle is visible, and its wait for the standby was cancelled: it can still be lost.
    pub(crate) doubts: u8,
    /// The standby takes over. Everything that was not yet waited for is lost.
    pub(crate) failovers: u8,
    /// A row can no longer be changed: for example, a trigger refuses it.
    pub(crate) defects: u8,
    /// The database's leases are an old backup's, restored while no worker runs.
    pub(crate) restores: u8,
}

impl Faults {
    fn kinds(&mut self) -> [&mut u8; 14] {
        let Self { crashes, lost, expiries, refusals, stops, moves, looks, drops, replays, operator_actions, .. } =
            self;
        let Self { doubts, failovers, defects, restores, .. } = self;
        [
            crashes,
            lost,
            expiries,
            refusals,
            stops,
            moves,
            looks,
            drops,
            replays,
            operator_actions,
            doubts,
            failovers,
            defects,
            restores,
        ]
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

/// The configuration that is checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outbox {
    pub(crate) rules: Rules,
    pub(crate) faults: Faults,
    /// The events that exist; with fewer of them a small question is answered sooner.
    pub(crate) events: &'static [Event],
    /// Rejections after which an event is failed.
    pub(crate) max_retries: u8,
    /// Events that are done are deleted.
    pub(crate) deletes: bool,
}

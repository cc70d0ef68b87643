//! What protects, each part of which a test can switch off, and what may go wrong, and how often.

use crate::events::Event;

/// The parts of the protocol that can be left out, to see that the checker notices.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// `publish.lua` compares the tokens of its shards.
    pub(crate) fencing: bool,
    /// `open.lua` returns what earlier sessions sent.
    pub(crate) journal: bool,
    /// A fetch's rows count only under the opening that it began with.
    pub(crate) r1: bool,
    /// What is settled stays in memory until the fetches that began before are over.
    pub(crate) r2: bool,
    /// An event with a key waits for what is unsettled before it.
    pub(crate) r3: bool,
    /// What the journal holds of a replay is taken into flight only after what it replays has left it.
    pub(crate) replays_wait: bool,
    /// So is what the journal holds of an event whose settle is kept in memory, until the older fetches are over.
    pub(crate) settled_waits: bool,
    /// A refusal is recorded only over the row as it was read, and under the lease that it was read under.
    pub(crate) fenced_settle: bool,
    /// Part of that: the time of the row's last change is as it was read.
    pub(crate) settled_as_read: bool,
    /// A refused event whose refusal is not recorded closes its shard: another worker may have sent it since.
    pub(crate) refused_closes: bool,
    /// Leases are renewed and released only at the epoch that is named.
    pub(crate) fenced_leases: bool,
    /// A settle that is repeated after a doubt writes and waits, although it changes nothing.
    pub(crate) repetition_waits: bool,
    /// Before a journal entry is dropped because its row is found published, something is written and waited for.
    pub(crate) recovery_waits: bool,
    /// That is done on the connection that found the row, and so on the same server.
    pub(crate) waits_where_it_read: bool,
    /// A row that a settle skips, because it is locked, is settled again.
    pub(crate) skipped_is_repeated: bool,
    /// A batch that is refused because of one row is divided, and the other rows are recorded.
    pub(crate) divides: bool,
    /// What was accepted and cannot be recorded stays in memory and in the journal.
    pub(crate) keeps_unrecorded: bool,
    /// It does not keep its shard from being handed over.
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

/// How often each thing may yet happen that nobody can rule out. Every one may come at any moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Faults {
    /// How many of them in all.
    pub(crate) any: u8,
    /// A worker is killed. What it has asked the servers may still be executed.
    pub(crate) crashes: u8,
    /// An answer is lost, or a request is late: executed when nobody waits for it any more, or never.
    pub(crate) lost: u8,
    /// A lease runs out under a worker that is only slow or stopped.
    pub(crate) expiries: u8,
    /// Redis refuses an event for the event's sake.
    pub(crate) refusals: u8,
    /// Redis fails in the middle of a batch: its memory is out, say.
    pub(crate) stops: u8,
    /// A shard is given up to another worker.
    pub(crate) moves: u8,
    /// A fetch that finds nothing new when it begins: the poll's, the sweep's, a cursor's overlap.
    pub(crate) looks: u8,
    /// A delivery is dropped: an actor that died had it, or its mailbox was full.
    pub(crate) drops: u8,
    /// A published event is published again, by a person.
    pub(crate) replays: u8,
    /// An event is failed, or tried again, by a person.
    pub(crate) operator_actions: u8,
    /// A settle is visible, and its wait for the standby was cancelled: it can still be lost.
    pub(crate) doubts: u8,
    /// The standby takes over. Everything that was not yet waited for is gone.
    pub(crate) failovers: u8,
    /// A row can be changed no longer: a trigger refuses it, say.
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

    /// One of a kind has happened. No kind is left more often than all are, so that states which can do the same are the same.
    pub(crate) fn spend(&mut self, kind: impl Fn(&mut Self) -> &mut u8) {
        *kind(self) -= 1;
        self.any -= 1;
        let any = self.any;
        self.kinds().into_iter().for_each(|left| *left = (*left).min(any));
    }
}

/// What is checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outbox {
    pub(crate) rules: Rules,
    pub(crate) faults: Faults,
    /// Those of the events that are there; the fewer, the sooner a small question is answered.
    pub(crate) events: &'static [Event],
    /// Refusals after which an event is failed.
    pub(crate) max_retries: u8,
}

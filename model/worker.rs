//! A worker: its memory, and the small operations of its actors.

use crate::database::{FailureRecord, FetchedRow};
use crate::events::{Event, Publication, Publications};
use crate::in_flight::{DeliveryState, Entry, Fetch, InFlight, Reading};
use crate::leases::Owner;
use crate::message::{Message, each};
use crate::redis::{Batch, Token};
use crate::rules::Rules;

/// A lease as the worker knows it: `src/system/leases.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Held {
    pub(crate) epoch: u8,
    /// Its deadline is over: nothing is started under it.
    pub(crate) past: bool,
    pub(crate) draining: bool,
}

/// The state of the publisher: `src/system/publisher`. It does one thing at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum SenderState {
    Idle,
    /// An open is on its way to Redis.
    Opening([Option<Token>; 2]),
    /// Redis has answered; the database is queried next.
    Recovering {
        tokens: [Option<Token>; 2],
        sent: Publications,
        /// The higher epochs that Redis has.
        refused: [Option<u8>; 2],
    },
    /// The database has answered; the sent events are admitted next.
    Adopting {
        tokens: [Option<Token>; 2],
        sent: Publications,
        refused: [Option<u8>; 2],
        rows: [Option<FetchedRow>; 3],
    },
    /// A batch is on its way to Redis, with the journal entries to remove.
    Sending(Batch, Publications),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Worker {
    pub(crate) owner: Owner,
    pub(crate) alive: bool,
    /// Number of opens of the process.
    pub(crate) counter: u8,
    pub(crate) held: [Option<Held>; 2],
    pub(crate) in_flight: InFlight,
    /// The poller's fetch under way.
    pub(crate) fetch: Option<Fetch>,
    pub(crate) sender: SenderState,
    /// Deliveries that wait for the sender, in the order in which they came.
    pub(crate) queue: Vec<Event>,
    /// The connection's sessions, by shard.
    pub(crate) sessions: [Option<Token>; 2],
    /// In the journal for this worker, and not known to be settled.
    pub(crate) fields: Publications,
    /// In the journal, and to be removed.
    pub(crate) settled: Publications,
    /// The `SettledQueue` between completer and sender.
    pub(crate) noted: Publications,
    /// An open found an event in the journal that waits until this one is no longer in flight; no open is worthwhile before.
    pub(crate) hindered_by: Option<Publication>,
    /// An open was refused; the next heartbeat shows why, and none is tried before.
    pub(crate) refused: bool,
}

impl Worker {
    pub(crate) fn new(owner: Owner) -> Self {
        Self {
            owner,
            alive: true,
            counter: 0,
            held: [None; 2],
            in_flight: InFlight::default(),
            fetch: None,
            sender: SenderState::Idle,
            queue: Vec::new(),
            sessions: [None; 2],
            fields: Publications::default(),
            settled: Publications::default(),
            noted: Publications::default(),
            hindered_by: None,
            refused: false,
        }
    }

    /// The epoch of a lease under which the worker may read and send.
    pub(crate) fn readable(&self, shard: usize) -> Option<u8> {
        self.held[shard].filter(|held| !held.past && !held.draining).map(|held| held.epoch)
    }

    pub(crate) fn may_open(&self) -> bool {
        let hindered = self.hindered_by.is_some_and(|publication| self.in_flight.has(publication));
        !self.refused && !hindered && self.wanted() != [None; 2]
    }

    /// Shards to open: leased, and not open under that lease.
    pub(crate) fn wanted(&self) -> [Option<u8>; 2] {
        [0, 1].map(|shard| {
            let epoch = self.readable(shard)?;
            (self.in_flight.open[shard].map(|opening| opening.epoch) != Some(epoch)).then_some(epoch)
        })
    }

    /// The shards that may be read: leased, and open under that lease.
    pub(crate) fn open_and_held(&self) -> [Option<Token>; 2] {
        [0, 1].map(|shard| self.in_flight.open[shard].filter(|opening| self.readable(shard) == Some(opening.epoch)))
    }

    /// R1 and R3 again, at the last moment.
    pub(crate) fn may_go(&self, event: Event, rules: Rules) -> bool {
        self.in_flight.entry(event).is_some_and(|entry| {
            let current = entry.session.is_some() && self.in_flight.open[event.shard()] == entry.session;
            (current || !rules.r1)
                && !(rules.r3 && self.in_flight.is_blocked(event))
                && self.readable(event.shard()) == Some(entry.epoch)
        })
    }

    /// Whether a delivery waits for the sender, for the completer or for `Retry`.
    pub(crate) fn has_delivery(&self, event: Event) -> bool {
        let in_hand = |entry: &Entry| matches!(entry.state, DeliveryState::Accepted | DeliveryState::Rejected);
        self.queue.contains(&event) || self.in_flight.entry(event).is_some_and(in_hand)
    }

    /// Drops a delivery before its end.
    pub(crate) fn drop_delivery(&mut self, event: Event, rules: Rules) {
        self.queue.retain(|queued| *queued != event);
        self.in_flight.release(event, rules);
    }

    /// Reads under way, which may be older than what is settled from now on (R2).
    pub(crate) fn reading(&self, rules: Rules) -> Reading {
        let look_up = matches!(self.sender, SenderState::Adopting { .. });
        if rules.r2 { Reading { fetch: self.fetch.is_some(), look_up } } else { Reading::default() }
    }

    pub(crate) fn is_at_work(&self) -> bool {
        self.sender != SenderState::Idle || self.fetch.is_some() || !self.queue.is_empty()
    }

    /// The deliveries of the completer: accepted, and no longer queued for the sender.
    pub(crate) fn completing(&self) -> Publications {
        let accepted = self.in_flight.in_stage(DeliveryState::Accepted);
        accepted.filter(|(event, _)| !self.queue.contains(event)).map(|(_, entry)| entry.row.publication).collect()
    }

    /// The deliveries of `Retry`.
    pub(crate) fn refusals(&self, max_retries: u8) -> impl Iterator<Item = FailureRecord> {
        self.in_flight.in_stage(DeliveryState::Rejected).map(move |(_, entry)| FailureRecord {
            publication: entry.row.publication,
            owner: self.owner,
            epoch: entry.epoch,
            fetched_retry_count: entry.row.retry_count,
            fetched_changes: entry.row.changes,
            failed: entry.row.retry_count + 1 >= max_retries,
        })
    }

    /// Requests that may be on their way to a server when the process ends.
    pub(crate) fn on_its_way(&self, max_retries: u8) -> Vec<Message> {
        let asked = match self.sender {
            SenderState::Opening(tokens) => Some(Message::Open(tokens)),
            SenderState::Sending(batch, settled) => Some(Message::Publish(batch, settled)),
            SenderState::Idle | SenderState::Recovering { .. } | SenderState::Adopting { .. } => None,
        };
        let published = Some(self.completing()).filter(|events| !events.is_empty()).map(Message::SettlePublished);
        let refused = self.refusals(max_retries).map(Message::SettleRescheduled);
        asked.into_iter().chain(published).chain(refused).collect()
    }

    // The session's journal: `src/backend/redis/stream/journal.rs`.

    pub(crate) fn note_settled(&mut self) {
        let noted = std::mem::take(&mut self.noted);
        self.settle_fields(noted);
    }

    pub(crate) fn settle_fields(&mut self, recorded: Publications) {
        self.settled = self.settled.and(self.fields.within(recorded));
        self.fields = self.fields.without(recorded);
    }

    /// Ends the connection: its shards must be opened again.
    pub(crate) fn end(&mut self) {
        self.sessions = [None; 2];
    }

    pub(crate) fn close(&mut self, tokens: [Option<Token>; 2]) {
        each(tokens).for_each(|(shard, _)| self.in_flight.open[shard] = None);
    }
}

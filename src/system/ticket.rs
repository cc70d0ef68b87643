//! One event's way through the system.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use uuid::Uuid;

use super::flight::{Flight, Opening, Stage, shard_of};
use crate::event::OutboxEvent;
use crate::store::{Fetched, Position, Shard};

/// What a publisher may still take into memory; taken when an event is read, given back when its ticket is gone.
#[derive(Debug)]
pub(crate) struct Credit {
    pub(crate) most_events: usize,
    pub(crate) most_bytes: usize,
    events: AtomicI64,
    bytes: AtomicI64,
    freed: Arc<Notify>,
}

impl Credit {
    pub(crate) fn new(most_events: usize, most_bytes: usize, freed: Arc<Notify>) -> Arc<Self> {
        let limit = |count: usize| AtomicI64::new(i64::try_from(count).unwrap_or(i64::MAX));
        Arc::new(Self { most_events, most_bytes, events: limit(most_events), bytes: limit(most_bytes), freed })
    }

    /// Nothing is in memory.
    pub(crate) fn is_whole(&self) -> bool {
        self.events_left() == self.most_events
    }

    pub(crate) fn events_left(&self) -> usize {
        usize::try_from(self.events.load(Ordering::Relaxed)).unwrap_or(0)
    }

    pub(crate) fn bytes_left(&self) -> usize {
        usize::try_from(self.bytes.load(Ordering::Relaxed)).unwrap_or(0)
    }

    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Permit {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.events.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        Permit { credit: Arc::clone(self), bytes }
    }
}

/// One event's share of the credit.
#[derive(Debug)]
pub(crate) struct Permit {
    credit: Arc<Credit>,
    bytes: i64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.credit.events.fetch_add(1, Ordering::Relaxed);
        self.credit.bytes.fetch_add(self.bytes, Ordering::Relaxed);
        self.credit.freed.notify_one();
    }
}

/// Events that the database has by now, for the channel that may still keep something about them.
#[derive(Debug, Default)]
pub(crate) struct SettledQueue(Mutex<Vec<(Uuid, i64)>>);

impl SettledQueue {
    pub(crate) fn push(&self, event: (Uuid, i64)) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    pub(crate) fn take(&self) -> Vec<(Uuid, i64)> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The right and the duty to bring one event to its end.
///
/// Dropped without an end, it gives the event back: one that was not accepted is read again; for one that was, its shard
/// is closed too, so that the next open finds in the journal what became of it.
pub(crate) struct Ticket {
    flight: Arc<Flight>,
    pub(crate) id: Uuid,
    pub(crate) shard: Shard,
    pub(crate) opening: Opening,
    pub(crate) position: Position,
    pub(crate) retry_count: i32,
    pub(crate) max_retries: i32,
    pub(crate) updated_at: i64,
    /// `None` for a row that is no event.
    event: Option<Arc<OutboxEvent>>,
    pub(super) accepted: bool,
    done: bool,
    _permit: Permit,
}

impl Ticket {
    pub(super) fn new(flight: &Arc<Flight>, row: &Fetched, opening: Opening, permit: Permit) -> Self {
        Self {
            flight: Arc::clone(flight),
            id: row.id,
            shard: shard_of(flight, row.shard),
            opening,
            position: row.position,
            retry_count: row.retry_count,
            max_retries: row.max_retries,
            updated_at: row.updated_at,
            event: row.event.as_ref().ok().cloned(),
            accepted: false,
            done: false,
            _permit: permit,
        }
    }

    /// The event; every ticket beyond the poller has one.
    pub(crate) fn event(&self) -> Option<&Arc<OutboxEvent>> {
        self.event.as_ref()
    }

    pub(crate) fn key(&self) -> &str {
        self.event.as_ref().map_or("", |event| event.partition_key.as_str())
    }

    /// Whether the backend has the event.
    pub(crate) fn is_accepted(&self) -> bool {
        self.accepted
    }

    /// Whether the session that this event was read under is still the one.
    pub(crate) fn is_current(&self) -> bool {
        self.flight.opening(self.shard.number) == Some(self.opening)
    }

    /// Whether a refused event of its key stands before it.
    pub(crate) fn is_blocked(&self) -> bool {
        !self.key().is_empty() && self.flight.is_blocked(self.id, self.key(), self.position)
    }

    /// The backend has it.
    pub(crate) fn accept(&mut self) {
        self.accepted = true;
        self.flight.set_stage(self.id, Stage::Accepted);
    }

    /// A backend or a handler refused it: its key waits until that is recorded.
    pub(crate) fn reject(&mut self) {
        self.flight.set_stage(self.id, Stage::Rejected);
    }

    /// The database has what became of it. `blocks`: its key goes on waiting.
    pub(crate) fn settled(mut self, blocks: bool) {
        self.done = true;
        self.flight.settle(self.id, blocks);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.done {
            self.flight.give_back(self.id, self.accepted);
        }
    }
}

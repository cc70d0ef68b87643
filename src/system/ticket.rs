//! One event's way through the system.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use uuid::Uuid;

use super::in_flight::{InFlight, Opening, Stage, shard_of};
use crate::event::OutboxEvent;
use crate::store::{Fetched, Position, Shard};

/// What a publisher may still take into memory; taken when an event is read, given back when its ticket is gone.
#[derive(Debug)]
pub(crate) struct Credit {
    pub(crate) most_events: usize,
    pub(crate) most_bytes: usize,
    events: AtomicI64,
    bytes: AtomicI64,
    /// Given back since the poller was last told.
    events_freed: AtomicI64,
    bytes_freed: AtomicI64,
    freed: Arc<Notify>,
    /// Kept free for what is to be found in the journals of shards that wait for it.
    reserved: Mutex<Room>,
}

/// What events need in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

/// The poller is told of credit that came back in parts of this size, and when all of it is back: one event's worth is
/// no reason to read.
const TOLD_IN_PARTS: i64 = 16;

impl Credit {
    pub(crate) fn new(most_events: usize, most_bytes: usize, freed: Arc<Notify>) -> Arc<Self> {
        let limit = |count: usize| AtomicI64::new(i64::try_from(count).unwrap_or(i64::MAX));
        let (events, bytes) = (limit(most_events), limit(most_bytes));
        let (events_freed, bytes_freed) = (AtomicI64::new(0), AtomicI64::new(0));
        let reserved = Mutex::default();
        Arc::new(Self { most_events, most_bytes, events, bytes, events_freed, bytes_freed, freed, reserved })
    }

    /// Nothing is in memory.
    pub(crate) fn is_whole(&self) -> bool {
        self.free().events == self.most_events
    }

    /// What may be read.
    pub(crate) fn events_left(&self) -> usize {
        self.free().events.saturating_sub(self.reserved().events)
    }

    pub(crate) fn bytes_left(&self) -> usize {
        self.free().bytes.saturating_sub(self.reserved().bytes)
    }

    /// What nothing in memory has.
    pub(crate) fn free(&self) -> Room {
        let load = |left: &AtomicI64| usize::try_from(left.load(Ordering::Relaxed)).unwrap_or(0);
        Room { events: load(&self.events), bytes: load(&self.bytes) }
    }

    pub(crate) fn has(&self, room: Room) -> bool {
        let free = self.free();
        self.is_whole() || (free.events >= room.events && free.bytes >= room.bytes)
    }

    /// Keeps so much from what may be read, until it is there.
    pub(crate) fn reserve(&self, room: Room) {
        *self.reserved() = room;
    }

    fn reserved(&self) -> MutexGuard<'_, Room> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Permit {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.events.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        Permit { credit: Arc::clone(self), bytes }
    }

    fn give_back(&self, bytes: i64) {
        self.events.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let events_freed = self.events_freed.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes_freed = self.bytes_freed.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let is_part = |freed: i64, most: usize| freed >= i64::try_from(most).unwrap_or(i64::MAX) / TOLD_IN_PARTS;
        if is_part(events_freed, self.most_events) || is_part(bytes_freed, self.most_bytes) || self.is_whole() {
            self.events_freed.store(0, Ordering::Relaxed);
            self.bytes_freed.store(0, Ordering::Relaxed);
            self.freed.notify_one();
        }
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
        self.credit.give_back(self.bytes);
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
pub(crate) struct Ticket(Box<Contents>);

/// Boxed, since a ticket is moved from list to list a dozen times.
pub(crate) struct Contents {
    in_flight: Arc<InFlight>,
    pub(crate) id: Uuid,
    pub(crate) shard: Shard,
    pub(crate) opening: Opening,
    pub(crate) position: Position,
    pub(crate) retry_count: i32,
    pub(crate) max_retries: i32,
    pub(crate) updated_at: i64,
    /// Handlers that were asked about the event here.
    pub(crate) asked: Arc<[String]>,
    /// Handlers of this or of an earlier process that have still to be asked, elsewhere or later.
    pub(crate) left: Vec<String>,
    /// Handlers that are owed an earlier event of its key.
    pub(crate) behind: Vec<String>,
    /// `None` for a row that is not a valid event, and once it is set aside.
    event: Option<Arc<OutboxEvent>>,
    pub(super) accepted: bool,
    done: bool,
    permit: Option<Permit>,
}

impl Deref for Ticket {
    type Target = Contents;

    fn deref(&self) -> &Contents {
        &self.0
    }
}

impl DerefMut for Ticket {
    fn deref_mut(&mut self) -> &mut Contents {
        &mut self.0
    }
}

impl Ticket {
    pub(super) fn new(in_flight: &Arc<InFlight>, row: &Fetched, opening: Opening, permit: Permit) -> Self {
        Self(Box::new(Contents {
            in_flight: Arc::clone(in_flight),
            id: row.id,
            shard: shard_of(in_flight, row.shard),
            opening,
            position: row.position,
            retry_count: row.retry_count,
            max_retries: row.max_retries,
            updated_at: row.updated_at,
            asked: Arc::default(),
            left: Vec::new(),
            behind: Vec::new(),
            event: row.event.as_ref().ok().cloned(),
            accepted: false,
            done: false,
            permit: Some(permit),
        }))
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
        self.in_flight.opening(self.shard.number) == Some(self.opening)
    }

    /// Whether a refused event of its key stands before it.
    pub(crate) fn is_blocked(&self) -> bool {
        !self.key().is_empty() && self.in_flight.is_blocked(self.id, self.key(), self.position)
    }

    /// The backend has it.
    pub(crate) fn accept(&mut self) {
        self.accepted = true;
        self.in_flight.set_stage(self.id, Stage::Accepted);
    }

    /// A backend or a handler refused it: its key waits until that is recorded.
    pub(crate) fn reject(&mut self) {
        self.in_flight.set_stage(self.id, Stage::Rejected);
    }

    /// Nothing is left to do but to record that it is done: the event itself is not needed any more.
    pub(crate) fn forget_event(&mut self) {
        self.event = None;
    }

    /// Its outcome cannot be recorded for now: it is remembered, without its event and without a share of the credit.
    pub(crate) fn set_aside(&mut self, reason: &str) {
        self.in_flight.set_aside(self.id, reason);
        self.event = None;
        self.permit = None;
    }

    /// Whether it is still remembered; what is set aside is forgotten with its shard.
    pub(crate) fn is_in_flight(&self) -> bool {
        self.in_flight.contains(self.id)
    }

    /// The database has what became of it. `blocks`: its key goes on waiting.
    pub(crate) fn settled(mut self, blocks: bool) {
        self.done = true;
        self.in_flight.settle(self.id, blocks);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.done {
            self.in_flight.give_back(self.id, self.accepted);
        }
    }
}

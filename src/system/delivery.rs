//! A delivery: one event from fetch to settle.

use std::collections::BTreeSet;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use uuid::Uuid;

use super::credit::CreditPermit;
use super::in_flight::{DeliveryState, InFlight, SessionId, shard_of};
use super::quota::QuotaPermit;
use crate::event::OutboxEvent;
use crate::store::{FetchedRow, Position, RowPlace, Shard};

/// One event on its way from fetch to settle.
///
/// If it is dropped before it is settled, it releases the event: an event that was not accepted is read again. If it was
/// accepted, its shard is closed too, so that the next session finds the event in the journal.
pub(crate) struct Delivery(Box<Contents>);

/// The contents, boxed because a delivery is moved from list to list a dozen times.
pub(crate) struct Contents {
    in_flight: Arc<InFlight>,
    pub(crate) id: Uuid,
    pub(crate) shard: Shard,
    pub(crate) session: SessionId,
    pub(crate) position: Position,
    pub(crate) retry_count: i32,
    pub(crate) max_retries: i32,
    pub(crate) updated_at: i64,
    pub(crate) place: Option<RowPlace>,
    /// Handlers in this process that received the event.
    pub(crate) asked: Arc<[String]>,
    /// Handlers of this or of an earlier process that must still receive it, in another process or later.
    pub(crate) left: Vec<String>,
    /// Handlers that are owed an earlier event of its key.
    pub(crate) behind: Vec<String>,
    /// `None` for a row that is not a valid event, and once it is set aside.
    event: Option<Arc<OutboxEvent>>,
    pub(super) accepted: bool,
    done: bool,
    permit: Option<CreditPermit>,
    quota: Option<QuotaPermit>,
}

impl Deref for Delivery {
    type Target = Contents;

    fn deref(&self) -> &Contents {
        &self.0
    }
}

impl DerefMut for Delivery {
    fn deref_mut(&mut self) -> &mut Contents {
        &mut self.0
    }
}

impl Delivery {
    pub(super) fn new(in_flight: &Arc<InFlight>, row: &FetchedRow, session: SessionId, permit: CreditPermit) -> Self {
        Self(Box::new(Contents {
            in_flight: Arc::clone(in_flight),
            id: row.id,
            shard: shard_of(in_flight, row.shard),
            session,
            position: row.position,
            retry_count: row.retry_count,
            max_retries: row.max_retries,
            updated_at: row.updated_at,
            place: row.place,
            asked: Arc::default(),
            left: Vec::new(),
            behind: Vec::new(),
            event: row.event.as_ref().ok().cloned(),
            accepted: false,
            done: false,
            permit: Some(permit),
            quota: None,
        }))
    }

    /// Counts it in the quota of a worker that delivers a limited number of events.
    pub(super) fn count_in(&mut self, quota: Option<QuotaPermit>) {
        self.quota = quota;
    }

    /// The event; every delivery has one once it has left the poller.
    pub(crate) fn event(&self) -> Option<&Arc<OutboxEvent>> {
        self.event.as_ref()
    }

    pub(crate) fn key(&self) -> &str {
        self.event.as_ref().map_or("", |event| event.partition_key.as_str())
    }

    /// Whether the backend has accepted the event.
    pub(crate) fn is_accepted(&self) -> bool {
        self.accepted
    }

    /// Whether the session that this event was read under is still current.
    pub(crate) fn is_current(&self) -> bool {
        self.in_flight.session(self.shard.number) == Some(self.session)
    }

    /// Whether a rejected event of its key precedes it.
    pub(crate) fn is_blocked(&self) -> bool {
        !self.key().is_empty() && self.in_flight.is_blocked(self.id, self.key(), self.position)
    }

    /// Notes that the backend has accepted it.
    pub(crate) fn accept(&mut self) {
        self.accepted = true;
        self.in_flight.set_state(self.id, DeliveryState::Accepted);
    }

    /// Notes that a backend or a handler rejected it: its key waits until that is recorded.
    pub(crate) fn reject(&mut self) {
        self.in_flight.set_state(self.id, DeliveryState::Rejected);
    }

    /// Drops the event: only the outcome has still to be recorded.
    pub(crate) fn forget_event(&mut self) {
        self.event = None;
    }

    /// Sets it aside because its outcome cannot be recorded for now: it is kept without its event and its share of the
    /// credit.
    pub(crate) fn set_aside(&mut self, reason: &str) {
        self.in_flight.set_aside(self.id, reason);
        self.event = None;
        self.permit = None;
    }

    /// Whether it is still tracked; a delivery that is set aside is forgotten with its shard.
    pub(crate) fn is_in_flight(&self) -> bool {
        self.in_flight.contains(self.id)
    }

    /// Notes that its outcome is in the database and owes it to handlers elsewhere.
    pub(crate) fn note_owing(&self, handlers: &[String]) {
        self.in_flight.note_owing(self.id, handlers);
    }

    /// Notes that its outcome is in the database. `blocks`: its key continues to wait. Returns the handlers elsewhere that may
    /// have waited for it: they must be woken.
    pub(crate) fn settled(mut self, blocks: bool) -> BTreeSet<String> {
        self.done = true;
        if let Some(quota) = self.quota.take() {
            quota.spend();
        }
        self.in_flight.settle(self.id, blocks)
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.done {
            self.in_flight.release(self.id, self.accepted);
        }
    }
}

//! What handlers in other processes are owed, and what they answer.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::{Position, Settled, Shard};
use crate::event::OutboxEvent;

/// An event that its backend has.
#[derive(Debug, Clone)]
pub(crate) struct Acceptance {
    pub(crate) id: Uuid,
    pub(crate) seq: i64,
    /// Handlers that this process has asked about the event, so that it is never owed to them.
    pub(crate) asked: Arc<[String]>,
    /// Handlers of `pending_handlers` that this process lacks or may not run yet: the event is owed to them, announced or not.
    pub(crate) left: Vec<String>,
}

/// The outcome of a settle that records acceptance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SettledEvent {
    pub(crate) outcome: Settled,
    /// Handlers that the event is owed to since this settle, sorted.
    pub(crate) owed: Vec<String>,
}

/// An outcome after which nothing new is owed.
impl From<Settled> for SettledEvent {
    fn from(outcome: Settled) -> Self {
        Self { outcome, owed: Vec::new() }
    }
}

/// A handler that a process has, and what it is owed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Announcement {
    pub(crate) name: String,
    /// `"*"`, exact types, or prefixes such as `"user.*"`.
    pub(crate) types: Vec<String>,
    /// New events are owed for so long after the handler was last seen in a live process.
    pub(crate) owed_for: Duration,
}

/// Asks for due deliveries of one handler.
#[derive(Debug, Clone)]
pub(crate) struct DeliveryRequest {
    pub(crate) handler: String,
    pub(crate) shards: Vec<i16>,
    /// Deliveries (id, seq) in flight: they are not fetched, and later ones of their keys wait for them.
    pub(crate) except: Vec<(Uuid, i64)>,
    pub(crate) max_events: usize,
    /// Reading stops, after at least one event, where the bytes read would pass this.
    pub(crate) max_bytes: usize,
    /// Events larger than this come back with a reason.
    pub(crate) max_event_bytes: usize,
}

/// An event that is owed to a handler and due.
#[derive(Debug, Clone)]
pub(crate) struct FetchedDelivery {
    pub(crate) handler: String,
    pub(crate) shard: i16,
    /// The event's lane, in which its key has an order.
    pub(crate) lane: super::LaneName,
    pub(crate) id: Uuid,
    pub(crate) seq: i64,
    pub(crate) attempts: i32,
    pub(crate) max_attempts: i32,
    pub(crate) position: Position,
    /// The event, or why it cannot be one. A delivery whose event is gone is dropped by the fetch that meets it.
    pub(crate) event: std::result::Result<Arc<OutboxEvent>, String>,
}

/// A handler's rejection, fenced by the lease of the handler's lane and by the attempt.
#[derive(Debug, Clone)]
pub(crate) struct RejectedDelivery {
    pub(crate) handler: String,
    pub(crate) id: Uuid,
    pub(crate) seq: i64,
    /// Of the lane `handler:NAME`.
    pub(crate) shard: Shard,
    pub(crate) epoch: i64,
    /// As it was fetched; the delivery must still have it.
    pub(crate) fetched_attempts: i32,
    pub(crate) attempts: i32,
    /// From the database's now until the next attempt.
    pub(crate) delay: Duration,
    pub(crate) error: String,
    /// The delivery ends, and the event fails. While handlers of the delivering process still have to answer, it is tried
    /// again instead.
    pub(crate) gives_up: bool,
    /// Where it gives up, later deliveries of the key to the handler wait until an operator decides about the event.
    pub(crate) holds: bool,
}

/// A handler that is announced or owed something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwedHandler {
    pub(crate) name: String,
    /// Empty where the handler is not announced.
    pub(crate) types: Vec<String>,
    /// Events owed, counted up to [`MOST_COUNTED`].
    pub(crate) owed: i64,
    /// There may be more: counting ended at [`MOST_COUNTED`].
    pub(crate) more_owed: bool,
    /// Those of the counted ones whose types no process with the handler has taken so far.
    pub(crate) not_covered: i64,
    /// How long the oldest of those that were counted has been owed.
    pub(crate) oldest: Option<Duration>,
    /// Since the handler was last seen in a live process; `None`: it is not announced.
    pub(crate) seen_for: Option<Duration>,
    pub(crate) owed_for: Duration,
    /// New events are owed no more.
    pub(crate) expired: bool,
}

/// The error of a delivery that is put off because the process that has the handler does not take the event's type.
pub(crate) const NOT_COVERED: &str = "the handler does not take events of this type any more";

/// How many events owed to one handler are counted, at most.
pub(crate) const MOST_COUNTED: i64 = 100_000;

const LANE_OF_HANDLER: &str = "handler:";

/// The handler whose leases a lane is for; `None` for a lane of events, whose name has no colon.
pub(crate) fn handler_of(lane: &str) -> Option<&str> {
    lane.strip_prefix(LANE_OF_HANDLER)
}

/// The lane of a handler's leases.
pub(crate) fn handler_lane(handler: &str) -> super::LaneName {
    Arc::from(format!("{LANE_OF_HANDLER}{handler}"))
}

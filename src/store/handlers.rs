//! The role of a store for handlers: deliveries that are owed to handlers in other processes, and the handlers' answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::{Care, Position, Result, RowPlace, Settled, Shard};
use crate::event::OutboxEvent;

/// An event that its backend has accepted.
#[derive(Debug, Clone)]
pub(crate) struct Acceptance {
    pub(crate) id: Uuid,
    pub(crate) seq: i64,
    /// Where its row was when it was read. The row may have changed since.
    #[cfg_attr(not(feature = "postgres"), allow(dead_code, reason = "SQLite finds rows by their ids"))]
    pub(crate) place: Option<RowPlace>,
    /// Handlers that this process has asked about the event, so that it is never owed to them.
    pub(crate) asked: Arc<[String]>,
    /// Handlers of `pending_handlers` that this process lacks or may not run yet: the event is owed to them, announced or
    /// not.
    pub(crate) left: Vec<String>,
    /// The row is deleted in place of becoming published, if it may be deleted.
    pub(crate) deletes: bool,
}

/// A handler's answer that it has handled an event.
#[derive(Debug, Clone)]
pub(crate) struct HandledDelivery {
    pub(crate) handler: String,
    pub(crate) id: Uuid,
    pub(crate) seq: i64,
    /// As in [`Acceptance`], if this is the last answer.
    pub(crate) deletes: bool,
}

impl HandledDelivery {
    /// An answer after which the row stays.
    pub(crate) fn kept(handler: impl Into<String>, id: Uuid, seq: i64) -> Self {
        Self { handler: handler.into(), id, seq, deletes: false }
    }
}

/// The outcome of a settle that records acceptance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SettledEvent {
    pub(crate) outcome: Settled,
    /// Handlers to which this settle made the event owed, sorted.
    pub(crate) owed: Vec<String>,
}

/// The outcome of a settle after which nothing new is owed.
impl From<Settled> for SettledEvent {
    fn from(outcome: Settled) -> Self {
        Self { outcome, owed: Vec::new() }
    }
}

/// A handler of a process, with the events that are owed to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Announcement {
    pub(crate) name: String,
    /// `"*"`, exact types, or prefixes such as `"user.*"`.
    pub(crate) types: Vec<String>,
    /// New events are owed for this long after the handler was last seen in a live process.
    pub(crate) owed_for: Duration,
}

/// A request for due deliveries of one handler.
#[derive(Debug, Clone)]
pub(crate) struct DeliveryRequest {
    pub(crate) handler: String,
    pub(crate) shards: Vec<i16>,
    /// Deliveries (id, seq) in flight: they are not fetched, and later ones of their keys wait for them.
    pub(crate) except: Vec<(Uuid, i64)>,
    pub(crate) max_events: usize,
    /// Reading stops, after at least one event, before the bytes read exceed this.
    pub(crate) max_bytes: usize,
    /// Larger events are returned with a reason instead.
    pub(crate) max_event_bytes: usize,
}

/// An event that is owed to a handler and due.
#[derive(Debug, Clone)]
pub(crate) struct FetchedDelivery {
    pub(crate) handler: String,
    pub(crate) shard: i16,
    /// The event's lane, in which its key is ordered.
    pub(crate) lane: super::LaneName,
    pub(crate) id: Uuid,
    pub(crate) seq: i64,
    pub(crate) attempts: i32,
    pub(crate) max_attempts: i32,
    pub(crate) position: Position,
    /// The event, or why the row is not a valid one. A fetch drops a delivery whose event was deleted.
    pub(crate) event: std::result::Result<Arc<OutboxEvent>, String>,
}

impl FetchedDelivery {
    /// The bytes that it takes in memory.
    pub(crate) fn size(&self) -> usize {
        self.event.as_ref().map_or(0, |event| event.size())
    }
}

/// A handler's rejection, fenced by the lease of the handler's lane and by the attempt.
#[derive(Debug, Clone)]
pub(crate) struct RejectedDelivery {
    pub(crate) handler: String,
    pub(crate) id: Uuid,
    pub(crate) seq: i64,
    /// A shard of the lane `handler:NAME`.
    pub(crate) shard: Shard,
    pub(crate) epoch: i64,
    /// The attempts as fetched; the delivery must still have the same number.
    pub(crate) fetched_attempts: i32,
    pub(crate) attempts: i32,
    /// The delay until the next attempt, from the database's current time.
    pub(crate) delay: Duration,
    pub(crate) error: String,
    /// The delivery ends, and the event fails. If handlers of the delivering process still have to answer, the delivery is
    /// retried instead.
    pub(crate) gives_up: bool,
    /// If the handler gives up, later deliveries of the key to it wait until an operator decides about the event.
    pub(crate) holds: bool,
}

/// A handler that is announced or owed something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwedHandler {
    pub(crate) name: String,
    /// Empty if the handler is not announced.
    pub(crate) types: Vec<String>,
    /// Events owed, counted up to [`MOST_COUNTED`].
    pub(crate) owed: i64,
    /// Counting ended at [`MOST_COUNTED`], so there may be more.
    pub(crate) more_owed: bool,
    /// Those of the counted events whose types no process with the handler has accepted so far.
    pub(crate) not_covered: i64,
    /// The age of the oldest of the counted deliveries.
    pub(crate) oldest: Option<Duration>,
    /// The time since the handler was last seen in a live process; `None`: it is not announced.
    pub(crate) seen_for: Option<Duration>,
    pub(crate) owed_for: Duration,
    /// New events are no longer owed.
    pub(crate) expired: bool,
}

/// The error of a delivery that is postponed because the process with the handler does not accept the event's type.
pub(crate) const NOT_COVERED: &str = "the handler does not take events of this type any more";

/// The most events owed to one handler that are counted.
pub(crate) const MOST_COUNTED: i64 = 100_000;

const LANE_OF_HANDLER: &str = "handler:";

/// The handler to whose leases a lane belongs; `None` for a lane of events, whose name has no colon.
pub(crate) fn handler_of(lane: &str) -> Option<&str> {
    lane.strip_prefix(LANE_OF_HANDLER)
}

/// The lane of a handler's leases.
pub(crate) fn handler_lane(handler: &str) -> super::LaneName {
    Arc::from(format!("{LANE_OF_HANDLER}{handler}"))
}

/// What is owed to handlers, in whichever process they run.
#[async_trait]
pub(crate) trait HandlerStore: Send + Sync {
    /// Announces handlers, durably: events that commit after the reply are owed to them.
    async fn announce(&self, handlers: &[Announcement]) -> Result<()>;

    /// Records that a live process has these handlers.
    async fn see_handlers(&self, names: &[String]) -> Result<()>;

    /// Ends a handler's announcement and its deliveries, in batches; returns how many deliveries ended. If the handler is
    /// announced again, it inherits nothing.
    async fn drop_handler(&self, name: &str) -> Result<usize>;

    /// Reads a handler's due deliveries in the order of their events. One with a key is returned only if, in one snapshot,
    /// no earlier event of the key is unsettled or owed to the handler, except those before it in the same result.
    async fn fetch_deliveries(&self, request: &DeliveryRequest) -> Result<Vec<FetchedDelivery>>;

    /// Records handlers' answers, from any process; the last one publishes the event. As durable and as repeatable as
    /// `settle_published`.
    async fn settle_handled(&self, handled: &[HandledDelivery], care: Care) -> Result<Vec<Settled>>;

    /// Records rejections by handlers, each only if the lease of its handler's lane is still `owner`'s.
    async fn settle_rejected_deliveries(&self, owner: Uuid, rejected: &[RejectedDelivery]) -> Result<Vec<Settled>>;

    /// Whether a delivery to these handlers is due, even if an earlier one blocks it.
    async fn has_due_deliveries(&self, handlers: &[String]) -> Result<bool>;

    /// For each of these keys, the handlers to which an event of it is owed.
    async fn owed_before(&self, lane: &str, keys: &[String]) -> Result<HashMap<String, Vec<String>>>;

    /// The handlers that are announced or to which something is owed, by name.
    async fn owed(&self) -> Result<Vec<OwedHandler>>;
}

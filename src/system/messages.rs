//! Messages between actors, in the order in which an event passes them; and those that applications send to the system.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actix::{Message, Recipient};

use super::delivery::Delivery;
use super::publisher_state::OpenUnderWay;
use super::recipient::EventRecipient;
use crate::backoff::NextTry;
use crate::error::SystemError;
use crate::event::OutboxEvent;
use crate::store::Shard;

/// Poller → publisher: shards that are leased and not open.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct OpenShards(pub(crate) Vec<(Shard, i64)>, pub(crate) OpenUnderWay);

/// Poller → publisher: events that are due, in order.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Deliver(pub(crate) Vec<Delivery>);

/// Supervisor → publisher, at the end: remove settled events from the journal.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Flush;

/// Publisher → registry: events that the backend accepted.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Accepted(pub(crate) Vec<Delivery>);

/// Registry → completer: events that are done.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Complete(pub(crate) Vec<Delivery>);

/// Publisher, registry → retry: events that failed.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Failed(pub(crate) Vec<Failure>);

/// An event that could not be finished.
pub(crate) struct Failure {
    pub(crate) delivery: Delivery,
    pub(crate) cause: Cause,
}

/// Why an event could not be finished.
#[derive(Debug, Clone)]
pub(crate) enum Cause {
    /// The backend rejected it; a retry may succeed.
    Rejected(String, NextTry),
    /// The part of the backend that it is for is unavailable for this time: it waits, and no retry is spent.
    Deferred(String, Duration),
    /// No retry can succeed.
    Invalid(String),
    /// The backend accepted it; these handlers did not answer Ok.
    Handlers { pending: Vec<String>, error: String, next_try: NextTry },
    /// The backend accepted it; these handlers did not start it: it waits, and no retry is spent.
    NotStarted { pending: Vec<String> },
    /// The backend accepted it, but an event before it failed: its handlers must wait. Not a failure of this event.
    BlockedByEarlier { pending: Vec<String> },
}

/// An event for a local handler. If the handler answers `Ok(())`, the event is done for this handler; after an error it is
/// retried, as [`HandlerError`] says.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), HandlerError>")]
#[non_exhaustive]
pub struct HandleEvent {
    /// The event, as it was in the outbox when it was read.
    pub event: Arc<OutboxEvent>,
    /// The name under which the handler is subscribed.
    pub handler: Arc<str>,
    /// The handler's span, which makes its work part of the event's trace: `message.span.in_scope(…)`, or
    /// `future.instrument(message.span)`. A disabled span if the event is not traced.
    pub span: tracing::Span,
}

/// Why a handler could not handle an event, and when it is worth another try. The reason is stored in the event's
/// `last_error`; it is for operators, without secrets or payload.
///
/// Any error or text converts into it with `?` or `into()`, and is retried as [`retry`](Self::retry) is.
///
/// ```
/// use std::time::Duration;
///
/// use actix_outbox::HandlerError;
///
/// fn charge(answer: u16) -> Result<(), HandlerError> {
///     match answer {
///         200 => Ok(()),
///         404 => Err(HandlerError::permanent("the customer does not exist")),
///         429 => Err(HandlerError::after(Duration::from_secs(60), "too many requests")),
///         _ => Err("the bank is unavailable")?,
///     }
/// }
/// # assert!(charge(200).is_ok() && charge(500).is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandlerError {
    pub(super) reason: String,
    pub(super) next_try: NextTry,
}

impl HandlerError {
    /// The event is retried after the time that `retry_backoff` gives, until its retries are spent.
    pub fn retry(reason: impl fmt::Display) -> Self {
        Self { reason: reason.to_string(), next_try: NextTry::ByBackoff }
    }

    /// The event is retried after this time, ten years at most, instead of the backoff's. It spends a retry, too.
    pub fn after(delay: Duration, reason: impl fmt::Display) -> Self {
        Self { reason: reason.to_string(), next_try: NextTry::After(delay) }
    }

    /// Why the event was not handled.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Whether no other try can help.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.next_try == NextTry::Never
    }

    /// The time after which the handler wants the event again, if it said so.
    #[must_use]
    pub fn delay(&self) -> Option<Duration> {
        match self.next_try {
            NextTry::After(delay) => Some(delay),
            NextTry::ByBackoff | NextTry::Never => None,
        }
    }

    /// No other try can help: the event becomes `failed` now, unless another handler of it wants to be asked again.
    pub fn permanent(reason: impl fmt::Display) -> Self {
        Self { reason: reason.to_string(), next_try: NextTry::Never }
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self::retry(error.into())
    }
}

/// The event types that a handler subscribes to.
///
/// Made of one type, or of several: `"user.created"`, `["user.created", "order.*"]`. A `*` at the end matches any rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventTypes {
    /// Every event.
    All,
    /// Events whose CloudEvents type is one of these, or starts with one that ends in `*`.
    OneOf(Vec<String>),
}

impl EventTypes {
    /// The patterns under which a handler is registered: `*` for all, a trailing `*` for a prefix.
    pub(crate) fn patterns(&self) -> Vec<String> {
        match self {
            Self::All => vec!["*".to_owned()],
            Self::OneOf(wanted) => wanted.clone(),
        }
    }

    pub(crate) fn contain(&self, event_type: &str) -> bool {
        let matches = |wanted: &String| match wanted.strip_suffix('*') {
            Some(prefix) => event_type.starts_with(prefix),
            None => wanted == event_type,
        };
        match self {
            Self::All => true,
            Self::OneOf(wanted) => wanted.iter().any(matches),
        }
    }
}

impl From<&str> for EventTypes {
    fn from(event_type: &str) -> Self {
        Self::OneOf(vec![event_type.to_owned()])
    }
}

impl From<String> for EventTypes {
    fn from(event_type: String) -> Self {
        Self::OneOf(vec![event_type])
    }
}

impl<T: Into<String>, const N: usize> From<[T; N]> for EventTypes {
    fn from(event_types: [T; N]) -> Self {
        event_types.into_iter().collect()
    }
}

impl<T: Into<String>> From<Vec<T>> for EventTypes {
    fn from(event_types: Vec<T>) -> Self {
        event_types.into_iter().collect()
    }
}

impl<T: Into<String>> FromIterator<T> for EventTypes {
    fn from_iter<I: IntoIterator<Item = T>>(event_types: I) -> Self {
        Self::OneOf(event_types.into_iter().map(Into::into).collect())
    }
}

/// Subscribes a handler actor under a name that stays the same between starts and belongs to one handler alone.
///
/// Subscribing again under the name replaces a handler that has stopped, or one for the same events. A running handler for
/// other events stays, and the call fails with [`SystemError::HandlerNameTaken`].
#[derive(Message)]
#[rtype(result = "Result<(), SystemError>")]
pub struct Subscribe {
    /// Names the handler in `pending_handlers` and for other workers.
    pub name: String,
    /// The events that it subscribes to.
    pub events: EventTypes,
    /// The actor.
    pub(crate) recipient: Arc<dyn EventRecipient>,
}

impl fmt::Debug for Subscribe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscribe").field("name", &self.name).field("events", &self.events).finish_non_exhaustive()
    }
}

impl Subscribe {
    /// A handler for events of one type, of several, or for all ([`EventTypes::All`]).
    pub fn new(name: impl Into<String>, events: impl Into<EventTypes>, recipient: Recipient<HandleEvent>) -> Self {
        Self { name: name.into(), events: events.into(), recipient: Arc::new(recipient) }
    }
}

/// Finishes what is in flight, releases the leases and stops every actor.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), SystemError>")]
pub struct Shutdown;

/// The actors, by name, for supervision and its tests.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ActorKind {
    /// Accepts what applications send.
    OutboxSystem,
    /// Starts the others, and restarts those that die.
    Supervisor,
    /// Renews and takes leases.
    LeaseKeeper,
    /// Fetches due events.
    Poller,
    /// Sends events to one named backend.
    Publisher(String),
    /// Runs handlers.
    Registry,
    /// Records successes.
    Completer,
    /// Records failures.
    Retry,
    /// Passes owed events to the handlers of this process.
    HandlerPoller,
    /// Deletes old events.
    Janitor,
    /// Wakes workers of other processes, and is woken by them.
    Notifier,
}

/// Reports that an actor has died.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Died(pub(crate) ActorKind);

/// Reports that a handler was subscribed: a process that only published needs leases now.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Subscribed;

/// Makes an actor panic; sent to [`OutboxSystem`](crate::OutboxSystem), which passes it on.
#[cfg(feature = "fault-injection")]
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct Panic(pub ActorKind);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_types_and_prefixes_are_wanted() {
        let wanted = EventTypes::from(["user.created", "order.*"]);
        for event_type in ["user.created", "order.paid", "order."] {
            assert!(wanted.contain(event_type), "{event_type}");
        }
        for event_type in ["user.deleted", "user.created.twice", "order", "orders.paid", "*"] {
            assert!(!wanted.contain(event_type), "{event_type}");
        }
        assert!(EventTypes::from("*").contain("anything") && EventTypes::All.contain("anything"));
        assert!(!EventTypes::from(Vec::<String>::new()).contain("anything"));
    }
}

//! Messages between actors, in the order in which an event passes them; and those that applications send to the system.

use std::time::Duration;

use actix::Message;

use super::delivery::Delivery;
use super::publisher_state::OpenUnderWay;
use crate::backoff::NextTry;
use crate::error::SystemError;
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

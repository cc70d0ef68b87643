//! The actors, one file each, in the order in which an event passes them: [`outbox_system`] and its queue ([`intake`]),
//! [`supervisor`], [`lease_keeper`], [`poller`], [`publisher`], [`registry`], [`handler_poller`], [`completer`], [`retry`],
//! [`janitor`], [`notifier`].
//!
//! They share a [`context`] with [`wakeups`], [`liveness`] and [`addresses`], [`heartbeat`] (the thread of the lease keeper), [`leases`] (the shards that are held), [`lane_reader`]
//! (cursors, the sweep, fetch sizes), [`in_flight`] (deliveries in flight, rules R1 to R3), [`delivery`] (one event),
//! [`starting`] (what a builder starts), [`pending`] (a worker for one call, with its [`quota`]),
//! [`publisher_state`] (what a publisher's lanes share). Messages flow in that one direction; credit and wake-ups flow back.

mod addresses;
mod backends;
mod builder;
mod circuit_breaker;
mod completer;
mod context;
pub(crate) mod credit;
mod death_watch;
mod debounce;
pub(crate) mod delivery;
mod draining;
mod due_question;
mod fetching;
mod gauges;
mod handle;
mod handler_poller;
mod health;
mod heartbeat;
pub(crate) mod in_flight;
mod intake;
mod janitor;
mod lane;
pub(crate) mod lane_reader;
mod lease_keeper;
mod leases;
mod left;
mod limiter;
mod liveness;
mod messages;
mod notifier;
mod outbox_system;
mod owed;
mod pending;
mod pending_wakeups;
mod poison_detector;
mod poller;
mod predecessors;
mod publisher;
mod publisher_state;
mod quota;
mod reconnect;
mod refusals;
mod registry;
mod retry;
mod retry_times;
mod routing;
mod settle_queue;
mod starting;
mod subscribing;
mod supervisor;
mod unserved;
mod wakeups;

pub(crate) use backends::Backends;
pub use builder::Builder;
pub use draining::Drained;
#[cfg(feature = "bench-api")]
pub(crate) use fetching::MAX_FETCH;
pub use handle::Outbox;
pub use health::{Health, HealthReport};
#[cfg(feature = "fault-injection")]
pub use messages::Panic;
pub use messages::{ActorKind, Shutdown};
pub use outbox_system::OutboxSystem;

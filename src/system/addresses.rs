//! The addresses of the actors, by the messages that they accept; each restart puts new ones here.

use std::collections::HashMap;

use actix::{Addr, Recipient};

use super::messages::{Accepted, Complete, Deliver, Died, Failed, Flush, OpenShards, Shutdown, Subscribed};
#[cfg(feature = "fault-injection")]
use super::messages::{ActorKind, Panic};
use super::outbox_system::OutboxSystem;

#[derive(Default)]
pub(crate) struct Addresses {
    /// For applications.
    pub(crate) system: Option<Addr<OutboxSystem>>,
    pub(crate) supervisor: Option<SupervisorAddress>,
    pub(crate) publishers: HashMap<String, PublisherAddress>,
    pub(crate) registry: Option<Recipient<Accepted>>,
    pub(crate) completer: Option<Recipient<Complete>>,
    pub(crate) retry: Option<Recipient<Failed>>,
    #[cfg(feature = "fault-injection")]
    pub(crate) panics: HashMap<ActorKind, Recipient<Panic>>,
}

#[derive(Clone)]
pub(crate) struct SupervisorAddress {
    pub(crate) deaths: Recipient<Died>,
    pub(crate) subscriptions: Recipient<Subscribed>,
    pub(crate) shutdown: Recipient<Shutdown>,
    #[cfg(feature = "fault-injection")]
    pub(crate) panics: Recipient<Panic>,
}

#[derive(Clone)]
pub(crate) struct PublisherAddress {
    pub(crate) openings: Recipient<OpenShards>,
    pub(crate) deliveries: Recipient<Deliver>,
    pub(crate) flushes: Recipient<Flush>,
}

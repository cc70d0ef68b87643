//! `Supervisor`: owns the other actors, restarts them when they die, and shuts them down.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, Message, ResponseFuture};
use futures_util::future::join_all;

use super::clock::BootInstant;
use super::completer::Completer;
use super::handler_poller::HandlerPoller;
use super::janitor::{Janitor, write_history};
use super::lease_keeper::{LeaseKeeper, Leave};
#[cfg(feature = "fault-injection")]
use super::messages::Panic;
use super::messages::{ActorKind, Flush, HealthReport, Shutdown};
use super::notifier::Notifier;
use super::outbox_system::OutboxSystem;
use super::poller::Poller;
use super::publisher::Publisher;
use super::registry::Registry;
use super::retry::Retry;
use super::shared::{DeathWatch, Shared};
use super::subscription::Subscription;
use crate::error::SystemError;
use crate::store::handler_of;

/// How much longer than `shutdown_timeout` a shutdown may take, for the last flush and the release of the leases. If a
/// server does not answer, the leases expire, and other workers clear the journals.
const FAREWELL_LIMIT: Duration = Duration::from_secs(5);

/// The part of it in which the last journal entries are removed.
const JOURNAL_LIMIT: Duration = Duration::from_secs(2);

/// The part of it in which other processes are notified and the history is written.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// How often the shutdown checks whether everything is settled.
const CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// The supervisor. It handles no message that waits for the database, so it answers whatever hangs.
pub(crate) struct Supervisor {
    shared: Arc<Shared>,
    children: Children,
    _death_watch: DeathWatch,
}

/// The actors that no other actor addresses.
#[derive(Default)]
struct Children {
    lease_keeper: Option<Addr<LeaseKeeper>>,
    poller: Option<Addr<Poller>>,
    handler_poller: Option<Addr<HandlerPoller>>,
    janitor: Option<Addr<Janitor>>,
    notifier: Option<Addr<Notifier>>,
}

/// Reports that an actor has died.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Died(pub(crate) ActorKind);

impl Supervisor {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let death_watch = shared.death_watch(ActorKind::Supervisor);
        Self { shared, children: Children::default(), _death_watch: death_watch }
    }

    /// Starts one actor. Downstream actors are started first, so that none misses an address.
    fn start_child(&mut self, kind: &ActorKind) {
        let shared = Arc::clone(&self.shared);
        match kind {
            ActorKind::Retry => self.shared.addresses().retry = Some(Retry::new(shared).start()),
            ActorKind::Completer => self.shared.addresses().completer = Some(Completer::new(shared).start()),
            ActorKind::Registry => self.shared.addresses().registry = Some(Registry::new(shared).start()),
            ActorKind::Publisher(name) => {
                let Some(publisher) = self.shared.publishers.get(name).cloned() else { return };
                let publisher = Publisher::new(shared, publisher).start();
                self.shared.addresses().publishers.insert(name.clone(), publisher);
            }
            ActorKind::Poller => self.children.poller = Some(Poller::new(shared).start()),
            ActorKind::LeaseKeeper => self.children.lease_keeper = Some(LeaseKeeper::new(shared).start()),
            ActorKind::HandlerPoller => self.children.handler_poller = Some(HandlerPoller::new(shared).start()),
            ActorKind::Janitor => self.children.janitor = Some(Janitor::new(shared).start()),
            ActorKind::Notifier => self.children.notifier = Some(Notifier::new(shared).start()),
            ActorKind::OutboxSystem => self.shared.addresses().system = Some(OutboxSystem::new(shared).start()),
            ActorKind::Supervisor => {}
        }
    }

    fn is_alive(&self, kind: &ActorKind) -> bool {
        fn connected<A: Actor>(address: Option<&Addr<A>>) -> bool {
            address.is_some_and(Addr::connected)
        }
        let addresses = self.shared.addresses();
        match kind {
            ActorKind::Retry => connected(addresses.retry.as_ref()),
            ActorKind::Completer => connected(addresses.completer.as_ref()),
            ActorKind::Registry => connected(addresses.registry.as_ref()),
            ActorKind::Publisher(name) => connected(addresses.publishers.get(name)),
            ActorKind::Poller => connected(self.children.poller.as_ref()),
            ActorKind::LeaseKeeper => connected(self.children.lease_keeper.as_ref()),
            ActorKind::HandlerPoller => connected(self.children.handler_poller.as_ref()),
            ActorKind::Janitor => connected(self.children.janitor.as_ref()),
            ActorKind::Notifier => connected(self.children.notifier.as_ref()),
            ActorKind::OutboxSystem => connected(addresses.system.as_ref()),
            ActorKind::Supervisor => true,
        }
    }

    fn all_children(&self) -> Vec<ActorKind> {
        if self.shared.publishers.is_empty() {
            let always = [ActorKind::OutboxSystem, ActorKind::Notifier];
            let for_handlers = [ActorKind::HandlerPoller, ActorKind::LeaseKeeper];
            let has_handlers = !self.shared.subscriptions().is_empty();
            return always.into_iter().chain(for_handlers.into_iter().filter(|_| has_handlers)).collect();
        }
        let publishers = self.shared.publishers.keys().cloned().map(ActorKind::Publisher);
        [ActorKind::Retry, ActorKind::Completer, ActorKind::Registry]
            .into_iter()
            .chain(publishers)
            .chain([ActorKind::OutboxSystem, ActorKind::HandlerPoller, ActorKind::Poller, ActorKind::LeaseKeeper])
            .chain([ActorKind::Janitor, ActorKind::Notifier])
            .collect()
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        // If this supervisor replaces another, actors with an address of their own may still be running.
        for kind in self.all_children() {
            if !self.is_alive(&kind) {
                self.start_child(&kind);
            }
        }
    }
}

impl Handler<Died> for Supervisor {
    type Result = ();

    fn handle(&mut self, Died(kind): Died, _: &mut Self::Context) {
        // A report about an actor that was replaced in the meantime, such as a predecessor's child, is outdated.
        if !self.shared.is_stopping() && !self.is_alive(&kind) {
            tracing::error!(actor = ?kind, "actor died; starting a new one");
            self.start_child(&kind);
        }
    }
}

/// Reports the health of the system; queries the database.
pub(crate) async fn report(shared: Arc<Shared>) -> HealthReport {
    let store = Arc::clone(&shared.store);
    let asked = shared.runtime.spawn(async move { store.outbox_id().await });
    let database = match asked.await {
        Ok(Ok(_)) => shared.unreadable().map_or(Ok(()), |unreadable| Err(unreadable.reason)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let (now, lease) = (BootInstant::now(), shared.settings.worker.lease);
    let backends: BTreeMap<String, Result<(), String>> =
        shared.publishers.iter().map(|(name, publisher)| (name.clone(), publisher.health(now, lease))).collect();
    HealthReport {
        database,
        backends,
        shards: shards(&shared),
        standing_by: shared.standing_by.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        leases: shared.lease_health(),
        handlers: handlers(&shared),
        in_flight: shared
            .publishers
            .values()
            .flat_map(|publisher| &publisher.lanes)
            .map(|in_flight| in_flight.len())
            .sum(),
    }
}

/// The shards by lane of events; handlers have leases, too.
fn shards(shared: &Shared) -> BTreeMap<String, usize> {
    let counts = shared.leases.counts().into_iter().filter(|(lane, _)| handler_of(lane).is_none());
    counts.map(|(lane, count)| (lane.to_string(), count)).collect()
}

fn handlers(shared: &Shared) -> BTreeMap<String, Result<(), String>> {
    let stopped = || "its actor has stopped; its events wait until it subscribes again".to_owned();
    let subscriptions = shared.subscriptions();
    let health = |handler: &Arc<Subscription>| if handler.is_alive() { Ok(()) } else { Err(stopped()) };
    subscriptions.iter().map(|handler| (handler.name().to_owned(), health(handler))).collect()
}

/// Reports that a handler was subscribed: a process that only published needs leases now.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Subscribed;

impl Handler<Subscribed> for Supervisor {
    type Result = ();

    fn handle(&mut self, _: Subscribed, _: &mut Self::Context) {
        for kind in self.all_children() {
            if !self.is_alive(&kind) {
                self.start_child(&kind);
            }
        }
    }
}

impl Handler<Shutdown> for Supervisor {
    type Result = ResponseFuture<Result<(), SystemError>>;

    fn handle(&mut self, _: Shutdown, ctx: &mut Self::Context) -> Self::Result {
        let shared = Arc::clone(&self.shared);
        let keeper = self.children.lease_keeper.clone();
        shared.stop();
        let system = ctx.address();
        Box::pin(async move {
            let limit = shared.settings.worker.shutdown_timeout;
            let until = BootInstant::now().after(limit);
            while !shared.is_idle() && BootInstant::now() < until {
                tokio::time::sleep(CHECK_INTERVAL).await;
            }
            let settled = shared.is_idle();
            let _ = tokio::time::timeout(FAREWELL_LIMIT, finish_shutdown(&shared, keeper)).await;
            let _ = system.send(Stop).await;
            if settled { Ok(()) } else { Err(SystemError::ShutdownTimeout(limit)) }
        })
    }
}

async fn finish_shutdown(shared: &Arc<Shared>, keeper: Option<Addr<LeaseKeeper>>) {
    let _ = tokio::time::timeout(FLUSH_LIMIT, announce_the_rest(shared)).await;
    flush_journals(shared).await;
    if let Some(keeper) = keeper {
        let _ = keeper.send(Leave).await;
    }
    let history = shared.runtime.spawn({
        let shared = Arc::clone(shared);
        async move { write_history(&shared).await }
    });
    let _ = tokio::time::timeout(FLUSH_LIMIT, history).await;
}

/// Sends the last wake-ups: a process that only publishes may end right after, and no other process would wake the workers.
async fn announce_the_rest(shared: &Shared) {
    while !shared.has_announced_all() {
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
}

/// Removes settled events from the journals. If this fails, the worker that opens the shards next does it.
async fn flush_journals(shared: &Shared) {
    let publishers: Vec<_> = shared.addresses().publishers.values().cloned().collect();
    let flushed = join_all(publishers.iter().map(|publisher| publisher.send(Flush)));
    let _ = tokio::time::timeout(JOURNAL_LIMIT, flushed).await;
}

/// The last message.
#[derive(Message)]
#[rtype(result = "()")]
struct Stop;

impl Handler<Stop> for Supervisor {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        self.children = Children::default();
        self.shared.end();
        ctx.stop();
    }
}

/// Forwards the message to the actor that it names.
#[cfg(feature = "fault-injection")]
impl Handler<Panic> for Supervisor {
    type Result = ();

    fn handle(&mut self, message: Panic, _: &mut Self::Context) {
        fn pass<A: Handler<Panic>>(address: Option<&Addr<A>>, message: Panic)
        where
            A::Context: actix::dev::ToEnvelope<A, Panic>,
        {
            // An actor that is being replaced has panicked already.
            let _ = address.map(|address| address.try_send(message));
        }
        let addresses = self.shared.addresses();
        match &message.0 {
            ActorKind::Supervisor => {
                drop(addresses);
                panic!("asked to: {:?}", message.0);
            }
            ActorKind::OutboxSystem => pass(addresses.system.as_ref(), message),
            ActorKind::Retry => pass(addresses.retry.as_ref(), message),
            ActorKind::Completer => pass(addresses.completer.as_ref(), message),
            ActorKind::Registry => pass(addresses.registry.as_ref(), message),
            ActorKind::Publisher(name) => pass(addresses.publishers.get(name), message.clone()),
            ActorKind::Poller => pass(self.children.poller.as_ref(), message),
            ActorKind::LeaseKeeper => pass(self.children.lease_keeper.as_ref(), message),
            ActorKind::HandlerPoller => pass(self.children.handler_poller.as_ref(), message),
            ActorKind::Janitor => pass(self.children.janitor.as_ref(), message),
            ActorKind::Notifier => pass(self.children.notifier.as_ref(), message),
        }
    }
}

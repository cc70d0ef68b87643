//! `Supervisor`: owns the other actors, restarts them when they die, and shuts them down.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, Message, Recipient, ResponseFuture};
use futures_util::future::join_all;

use super::addresses::{Addresses, PublisherAddress, SupervisorAddress};
use super::completer::Completer;
use super::context::SystemContext;
use super::death_watch::DeathWatch;
use super::handler_poller::HandlerPoller;
use super::health::HealthReport;
use super::janitor::{Janitor, write_history};
use super::lease_keeper::{LeaseKeeper, Leave};
#[cfg(feature = "fault-injection")]
use super::messages::Panic;
use super::messages::{ActorKind, Died, Flush, Shutdown, Subscribed};
use super::notifier::Notifier;
use super::outbox_system::OutboxSystem;
use super::poller::Poller;
use super::publisher::Publisher;
use super::registry::Registry;
use super::retry::Retry;
use crate::clock::BootInstant;
use crate::error::SystemError;
use crate::handlers::Subscription;
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

/// The supervisor. It handles no message that waits for the database, so it answers even if something else hangs.
pub(crate) struct Supervisor {
    context: Arc<SystemContext>,
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

impl Supervisor {
    pub(crate) fn new(context: Arc<SystemContext>) -> Self {
        let death_watch = context.death_watch(ActorKind::Supervisor);
        Self { context, children: Children::default(), _death_watch: death_watch }
    }

    /// Starts one actor. Downstream actors are started first, so that none misses an address.
    fn start_child(&mut self, kind: &ActorKind) {
        let context = Arc::clone(&self.context);
        match kind {
            ActorKind::Retry => self.context.addresses().set_retry(&Retry::new(context).start()),
            ActorKind::Completer => self.context.addresses().set_completer(&Completer::new(context).start()),
            ActorKind::Registry => self.context.addresses().set_registry(&Registry::new(context).start()),
            ActorKind::Publisher(name) => {
                let Some(publisher) = self.context.publishers.get(name).cloned() else { return };
                let publisher = Publisher::new(context, publisher).start();
                self.context.addresses().set_publisher(name, &publisher);
            }
            ActorKind::Poller => self.children.poller = Some(Poller::new(context).start()),
            ActorKind::LeaseKeeper => self.children.lease_keeper = Some(LeaseKeeper::new(context).start()),
            ActorKind::HandlerPoller => self.children.handler_poller = Some(HandlerPoller::new(context).start()),
            ActorKind::Janitor => self.children.janitor = Some(Janitor::new(context).start()),
            ActorKind::Notifier => self.children.notifier = Some(Notifier::new(context).start()),
            ActorKind::OutboxSystem => self.context.addresses().system = Some(OutboxSystem::new(context).start()),
            ActorKind::Supervisor => {}
        }
    }

    fn is_alive(&self, kind: &ActorKind) -> bool {
        fn connected<A: Actor>(address: Option<&Addr<A>>) -> bool {
            address.is_some_and(Addr::connected)
        }
        let addresses = self.context.addresses();
        match kind {
            ActorKind::Retry => addresses.retry.as_ref().is_some_and(Recipient::connected),
            ActorKind::Completer => addresses.completer.as_ref().is_some_and(Recipient::connected),
            ActorKind::Registry => addresses.registry.as_ref().is_some_and(Recipient::connected),
            ActorKind::Publisher(name) => {
                addresses.publishers.get(name).is_some_and(|publisher| publisher.deliveries.connected())
            }
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
        if self.context.publishers.is_empty() {
            let always = [ActorKind::OutboxSystem, ActorKind::Notifier];
            let for_handlers = [ActorKind::HandlerPoller, ActorKind::LeaseKeeper];
            let has_handlers = !self.context.subscriptions().is_empty();
            return always.into_iter().chain(for_handlers.into_iter().filter(|_| has_handlers)).collect();
        }
        let publishers = self.context.publishers.keys().cloned().map(ActorKind::Publisher);
        [ActorKind::Retry, ActorKind::Completer, ActorKind::Registry]
            .into_iter()
            .chain(publishers)
            .chain([ActorKind::OutboxSystem, ActorKind::HandlerPoller, ActorKind::Poller, ActorKind::LeaseKeeper])
            .chain([ActorKind::Janitor, ActorKind::Notifier])
            .collect()
    }
}

/// Where each actor is found, by the messages that others send it.
impl Addresses {
    fn set_retry(&mut self, retry: &Addr<Retry>) {
        self.retry = Some(retry.clone().recipient());
        #[cfg(feature = "fault-injection")]
        self.panics.insert(ActorKind::Retry, retry.clone().recipient());
    }

    fn set_completer(&mut self, completer: &Addr<Completer>) {
        self.completer = Some(completer.clone().recipient());
        #[cfg(feature = "fault-injection")]
        self.panics.insert(ActorKind::Completer, completer.clone().recipient());
    }

    fn set_registry(&mut self, registry: &Addr<Registry>) {
        self.registry = Some(registry.clone().recipient());
        #[cfg(feature = "fault-injection")]
        self.panics.insert(ActorKind::Registry, registry.clone().recipient());
    }

    fn set_publisher(&mut self, name: &str, publisher: &Addr<Publisher>) {
        let address = PublisherAddress {
            openings: publisher.clone().recipient(),
            deliveries: publisher.clone().recipient(),
            flushes: publisher.clone().recipient(),
        };
        self.publishers.insert(name.to_owned(), address);
        #[cfg(feature = "fault-injection")]
        self.panics.insert(ActorKind::Publisher(name.to_owned()), publisher.clone().recipient());
    }

    pub(super) fn set_supervisor(&mut self, supervisor: &Addr<Supervisor>) {
        self.supervisor = Some(SupervisorAddress {
            deaths: supervisor.clone().recipient(),
            subscriptions: supervisor.clone().recipient(),
            shutdown: supervisor.clone().recipient(),
            #[cfg(feature = "fault-injection")]
            panics: supervisor.clone().recipient(),
        });
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
        if !self.context.liveness.is_stopping() && !self.is_alive(&kind) {
            tracing::error!(actor = ?kind, "actor died; starting a new one");
            self.start_child(&kind);
        }
    }
}

/// Reports the health of the system; queries the database.
pub(crate) async fn report(context: Arc<SystemContext>) -> HealthReport {
    let store = Arc::clone(&context.store);
    let asked = context.runtime.spawn(async move { store.outbox_id().await });
    let database = match asked.await {
        Ok(Ok(_)) => context.unreadable().map_or(Ok(()), |unreadable| Err(unreadable.reason)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let (now, lease) = (BootInstant::now(), context.settings.worker.lease);
    let backends: BTreeMap<String, Result<(), String>> =
        context.publishers.iter().map(|(name, publisher)| (name.clone(), publisher.health(now, lease))).collect();
    HealthReport {
        database,
        backends,
        shards: shards(&context),
        standing_by: context.standing_by.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        leases: context.lease_health(),
        handlers: handlers(&context),
        in_flight: context
            .publishers
            .values()
            .flat_map(|publisher| &publisher.lanes)
            .map(|in_flight| in_flight.len())
            .sum(),
    }
}

/// The shards by lane of events; handlers have leases, too.
fn shards(context: &SystemContext) -> BTreeMap<String, usize> {
    let counts = context.leases.counts().into_iter().filter(|(lane, _)| handler_of(lane).is_none());
    counts.map(|(lane, count)| (lane.to_string(), count)).collect()
}

fn handlers(context: &SystemContext) -> BTreeMap<String, Result<(), String>> {
    let stopped = || "its actor has stopped; its events wait until it subscribes again".to_owned();
    let subscriptions = context.subscriptions();
    let health = |handler: &Arc<Subscription>| if handler.is_alive() { Ok(()) } else { Err(stopped()) };
    let subscribed = subscriptions.iter().filter(|handler| !handler.is_unsubscribed());
    subscribed.map(|handler| (handler.name().to_owned(), health(handler))).collect()
}

impl Handler<Subscribed> for Supervisor {
    type Result = ();

    fn handle(&mut self, _: Subscribed, _: &mut Self::Context) {
        for kind in self.all_children() {
            if !self.is_alive(&kind) {
                self.start_child(&kind);
            }
        }
        // One that is being replaced begins with the handlers that there are.
        let _ = self.children.notifier.as_ref().map(|notifier| notifier.try_send(Subscribed));
    }
}

impl Handler<Shutdown> for Supervisor {
    type Result = ResponseFuture<Result<(), SystemError>>;

    fn handle(&mut self, _: Shutdown, ctx: &mut Self::Context) -> Self::Result {
        let context = Arc::clone(&self.context);
        let keeper = self.children.lease_keeper.clone();
        context.stop();
        let system = ctx.address();
        Box::pin(async move {
            let limit = context.settings.worker.shutdown_timeout;
            let until = BootInstant::now().after(limit);
            let is_idle = || context.is_idle() && context.has_no_calls();
            while !is_idle() && BootInstant::now() < until {
                tokio::time::sleep(CHECK_INTERVAL).await;
            }
            let settled = is_idle();
            let _ = tokio::time::timeout(FAREWELL_LIMIT, finish_shutdown(&context, keeper)).await;
            let _ = system.send(Stop).await;
            if settled { Ok(()) } else { Err(SystemError::ShutdownTimeout(limit)) }
        })
    }
}

async fn finish_shutdown(context: &Arc<SystemContext>, keeper: Option<Addr<LeaseKeeper>>) {
    let _ = tokio::time::timeout(FLUSH_LIMIT, announce_the_rest(context)).await;
    flush_journals(context).await;
    if let Some(keeper) = keeper {
        let _ = keeper.send(Leave).await;
    }
    let history = context.runtime.spawn({
        let context = Arc::clone(context);
        async move { write_history(&context).await }
    });
    let _ = tokio::time::timeout(FLUSH_LIMIT, history).await;
}

/// Sends the last wake-ups: a process that only publishes may end right after, and no other process would wake the workers.
async fn announce_the_rest(context: &SystemContext) {
    while !context.wakeups.has_announced_all() {
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
}

/// Removes settled events from the journals. If this fails, the worker that opens the shards next does it.
async fn flush_journals(context: &SystemContext) {
    let publishers: Vec<_> = context.addresses().publishers.values().cloned().collect();
    let flushed = join_all(publishers.iter().map(|publisher| publisher.flushes.send(Flush)));
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
        self.context.end();
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
        let addresses = self.context.addresses();
        match &message.0 {
            ActorKind::Supervisor => {
                drop(addresses);
                panic!("asked to: {:?}", message.0);
            }
            ActorKind::OutboxSystem => pass(addresses.system.as_ref(), message),
            kind @ (ActorKind::Retry | ActorKind::Completer | ActorKind::Registry | ActorKind::Publisher(_)) => {
                let _ = addresses.panics.get(kind).map(|actor| actor.try_send(message.clone()));
            }
            ActorKind::Poller => pass(self.children.poller.as_ref(), message),
            ActorKind::LeaseKeeper => pass(self.children.lease_keeper.as_ref(), message),
            ActorKind::HandlerPoller => pass(self.children.handler_poller.as_ref(), message),
            ActorKind::Janitor => pass(self.children.janitor.as_ref(), message),
            ActorKind::Notifier => pass(self.children.notifier.as_ref(), message),
        }
    }
}

//! `OutboxSystem`: owns the other actors, starts them anew when they die, and takes in what applications say.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, ResponseFuture, WrapFuture,
};
use futures_util::future::join_all;
use tokio::sync::oneshot;

use super::clock::Moment;
use super::completer::Completer;
use super::herald::Herald;
use super::janitor::{Janitor, write_history};
use super::lease_keeper::{LeaseKeeper, Leave};
#[cfg(feature = "fault-injection")]
use super::messages::Panic;
use super::messages::{ActorKind, Flush, Health, HealthReport, Shutdown, Subscribe};
use super::poller::Poller;
use super::publisher::Publisher;
use super::registry::Registry;
use super::retry::Retry;
use super::shared::{Lifeline, Shared};
use crate::error::{PublishError, SystemError};
use crate::event::OutboxEvent;
use crate::publish::{NewEvent, Stored, the_only};

/// Events that share one INSERT, at most.
const MOST: usize = 1_000;

/// How long a shutdown may go beyond `shutdown_timeout`, for the last flush and for giving the leases up. Where a server
/// has gone silent, the leases run out, and others clear the journals.
const FAREWELL_LIMIT: Duration = Duration::from_secs(5);

/// How long the last journal entries may take of that to be dropped.
const JOURNAL_LIMIT: Duration = Duration::from_secs(2);

/// How long telling other processes may take of that, and writing the history.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// How often the shutdown looks whether everything is settled.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// The supervisor of an outbox, and its address for messages. Made by [`OutboxSystem::builder`](crate::OutboxSystem::builder).
pub struct OutboxSystem {
    shared: Arc<Shared>,
    children: Children,
    /// Events to be written, with who waits for each.
    waiting: Vec<(NewEvent, Answer)>,
    writing: bool,
    _lifeline: Lifeline,
}

type Answer = oneshot::Sender<Result<OutboxEvent, PublishError>>;

/// Those that nobody else addresses.
#[derive(Default)]
struct Children {
    lease_keeper: Option<Addr<LeaseKeeper>>,
    poller: Option<Addr<Poller>>,
    janitor: Option<Addr<Janitor>>,
    herald: Option<Addr<Herald>>,
}

/// An actor has died.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Died(pub(crate) ActorKind);

impl OutboxSystem {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let lifeline = shared.lifeline(ActorKind::OutboxSystem);
        Self { shared, children: Children::default(), waiting: Vec::new(), writing: false, _lifeline: lifeline }
    }

    /// Starts one actor. Downstream actors come first, so that nobody meets a missing address.
    fn start_child(&mut self, kind: &ActorKind) {
        let shared = Arc::clone(&self.shared);
        match kind {
            ActorKind::Retry => self.shared.addresses().retry = Some(Retry::new(shared).start()),
            ActorKind::Completer => self.shared.addresses().completer = Some(Completer::new(shared).start()),
            ActorKind::Registry => self.shared.addresses().registry = Some(Registry::new(shared).start()),
            ActorKind::Publisher(name) => {
                let Some(line) = self.shared.lines.get(name).cloned() else { return };
                let publisher = Publisher::new(shared, line).start();
                self.shared.addresses().publishers.insert(name.clone(), publisher);
            }
            ActorKind::Poller => self.children.poller = Some(Poller::new(shared).start()),
            ActorKind::LeaseKeeper => self.children.lease_keeper = Some(LeaseKeeper::new(shared).start()),
            ActorKind::Janitor => self.children.janitor = Some(Janitor::new(shared).start()),
            ActorKind::Herald => self.children.herald = Some(Herald::new(shared).start()),
            ActorKind::OutboxSystem => {}
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
            ActorKind::Janitor => connected(self.children.janitor.as_ref()),
            ActorKind::Herald => connected(self.children.herald.as_ref()),
            ActorKind::OutboxSystem => true,
        }
    }

    fn all_children(&self) -> Vec<ActorKind> {
        if self.shared.lines.is_empty() {
            return vec![ActorKind::Herald];
        }
        let publishers = self.shared.lines.keys().cloned().map(ActorKind::Publisher);
        [ActorKind::Retry, ActorKind::Completer, ActorKind::Registry]
            .into_iter()
            .chain(publishers)
            .chain([ActorKind::Poller, ActorKind::LeaseKeeper, ActorKind::Janitor, ActorKind::Herald])
            .collect()
    }

    /// Writes what waits. What comes meanwhile waits for the next time, and so shares its INSERT.
    fn write(&mut self, ctx: &mut Context<Self>) {
        if self.writing || self.waiting.is_empty() {
            return;
        }
        self.writing = true;
        let rest = self.waiting.split_off(self.waiting.len().min(MOST));
        let events = std::mem::replace(&mut self.waiting, rest);
        let work = self.shared.runtime.spawn(insert(Arc::clone(&self.shared), events));
        ctx.spawn(work.into_actor(self).map(|_, system, ctx| {
            system.writing = false;
            system.write(ctx);
        }));
    }
}

/// Writes events together, and one by one where that fails for a reason of one of them.
async fn insert(shared: Arc<Shared>, waiting: Vec<(NewEvent, Answer)>) {
    let (events, answers): (Vec<NewEvent>, Vec<Answer>) = waiting.into_iter().unzip();
    match shared.store.insert_each(events.clone()).await {
        Ok(stored) => answer_each(&shared, answers.into_iter().zip(stored)),
        Err(PublishError::Store(error)) if error.is_transient() => {
            for answer in answers {
                let _ = answer.send(Err(error.clone().into()));
            }
        }
        Err(_) => {
            for (event, answer) in events.into_iter().zip(answers) {
                let stored = shared.store.insert_each(vec![event]).await.and_then(the_only);
                answer_each(&shared, [(answer, stored)]);
            }
        }
    }
}

fn answer_each(shared: &Shared, stored: impl IntoIterator<Item = (Answer, Stored)>) {
    let stored: Vec<_> = stored.into_iter().collect();
    let written = stored.iter().filter_map(|(_, stored)| stored.as_ref().ok());
    shared.announce_news(written.map(|event| event.publisher_backend.as_str()).collect());
    for (answer, stored) in stored {
        // A sender that went away has its event in the outbox all the same.
        let _ = answer.send(stored);
    }
}

impl Actor for OutboxSystem {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        // Where this one replaces another, those with an address of their own may live on.
        for kind in self.all_children() {
            if !self.is_alive(&kind) {
                self.start_child(&kind);
            }
        }
    }
}

impl Handler<Died> for OutboxSystem {
    type Result = ();

    fn handle(&mut self, Died(kind): Died, _: &mut Self::Context) {
        // News of one that was replaced in the meantime, such as a predecessor's child, is old.
        if !self.shared.is_stopping() && !self.is_alive(&kind) {
            tracing::error!(actor = ?kind, "an actor died; a new one takes its place");
            self.start_child(&kind);
        }
    }
}

impl Handler<NewEvent> for OutboxSystem {
    type Result = ResponseFuture<Result<OutboxEvent, PublishError>>;

    fn handle(&mut self, event: NewEvent, ctx: &mut Self::Context) -> Self::Result {
        let worker = &self.shared.settings.worker;
        let event = event.or_defaults(worker.max_retries, worker.max_event_bytes);
        if let Err(error) = event.check() {
            return Box::pin(async move { Err(error.into()) });
        }
        if self.shared.is_stopping() {
            return Box::pin(async { Err(PublishError::Stopped) });
        }
        let (answer, stored) = oneshot::channel();
        self.waiting.push((event, answer));
        self.write(ctx);
        Box::pin(async move { stored.await.unwrap_or(Err(PublishError::Stopped)) })
    }
}

impl Handler<Subscribe> for OutboxSystem {
    type Result = ();

    fn handle(&mut self, subscription: Subscribe, _: &mut Self::Context) {
        self.shared.subscribe(subscription);
        self.shared.beat_now.notify_one();
    }
}

impl Handler<Health> for OutboxSystem {
    type Result = ResponseFuture<HealthReport>;

    fn handle(&mut self, _: Health, _: &mut Self::Context) -> Self::Result {
        let shared = Arc::clone(&self.shared);
        let asked = self.shared.runtime.spawn({
            let shared = Arc::clone(&shared);
            async move { shared.store.outbox_id().await }
        });
        Box::pin(async move {
            let database = match asked.await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            report(&shared, database)
        })
    }
}

fn report(shared: &Shared, database: Result<(), String>) -> HealthReport {
    let (now, lease) = (Moment::now(), shared.settings.worker.lease);
    let backends: BTreeMap<String, Result<(), String>> =
        shared.lines.iter().map(|(name, line)| (name.clone(), line.health(now, lease))).collect();
    HealthReport {
        database,
        backends,
        shards: shared.leases.counts().into_iter().map(|(lane, count)| (lane.to_string(), count)).collect(),
        standing_by: shared.standing_by.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        leases: shared.lease_health(),
        in_flight: shared.lines.values().flat_map(|line| &line.flights).map(|flight| flight.len()).sum(),
    }
}

impl Handler<Shutdown> for OutboxSystem {
    type Result = ResponseFuture<Result<(), SystemError>>;

    fn handle(&mut self, _: Shutdown, ctx: &mut Self::Context) -> Self::Result {
        let shared = Arc::clone(&self.shared);
        let keeper = self.children.lease_keeper.clone();
        shared.stop();
        let system = ctx.address();
        Box::pin(async move {
            let limit = shared.settings.worker.shutdown_timeout;
            let until = Moment::now().after(limit);
            while !shared.is_idle() && Moment::now() < until {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
            let settled = shared.is_idle();
            let _ = tokio::time::timeout(FAREWELL_LIMIT, say_farewell(&shared, keeper)).await;
            let _ = system.send(Stop).await;
            if settled { Ok(()) } else { Err(SystemError::ShutdownTimeout(limit)) }
        })
    }
}

async fn say_farewell(shared: &Arc<Shared>, keeper: Option<Addr<LeaseKeeper>>) {
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

/// Who only publishes may end right after: nobody else would wake the workers.
async fn announce_the_rest(shared: &Shared) {
    while !shared.has_announced_all() {
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// What is settled needs no journal any more. Where this fails, whoever opens the shards next does it.
async fn flush_journals(shared: &Shared) {
    let publishers: Vec<_> = shared.addresses().publishers.values().cloned().collect();
    let flushed = join_all(publishers.iter().map(|publisher| publisher.send(Flush)));
    let _ = tokio::time::timeout(JOURNAL_LIMIT, flushed).await;
}

/// The last message.
#[derive(Message)]
#[rtype(result = "()")]
struct Stop;

impl Handler<Stop> for OutboxSystem {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        self.children = Children::default();
        *self.shared.addresses() = super::shared::Addresses::default();
        ctx.stop();
    }
}

/// Passed on to the actor that is meant.
#[cfg(feature = "fault-injection")]
impl Handler<Panic> for OutboxSystem {
    type Result = ();

    fn handle(&mut self, message: Panic, _: &mut Self::Context) {
        fn pass<A: Handler<Panic>>(address: Option<&Addr<A>>, message: Panic)
        where
            A::Context: actix::dev::ToEnvelope<A, Panic>,
        {
            // One that is being replaced has panicked already.
            let _ = address.map(|address| address.try_send(message));
        }
        let addresses = self.shared.addresses();
        match &message.0 {
            ActorKind::OutboxSystem => {
                drop(addresses);
                panic!("asked to: {:?}", message.0);
            }
            ActorKind::Retry => pass(addresses.retry.as_ref(), message),
            ActorKind::Completer => pass(addresses.completer.as_ref(), message),
            ActorKind::Registry => pass(addresses.registry.as_ref(), message),
            ActorKind::Publisher(name) => pass(addresses.publishers.get(name), message.clone()),
            ActorKind::Poller => pass(self.children.poller.as_ref(), message),
            ActorKind::LeaseKeeper => pass(self.children.lease_keeper.as_ref(), message),
            ActorKind::Janitor => pass(self.children.janitor.as_ref(), message),
            ActorKind::Herald => pass(self.children.herald.as_ref(), message),
        }
    }
}

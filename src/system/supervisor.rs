//! `OutboxSystem`: owns the other actors, starts them anew when they die, and takes in what applications say.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, ResponseFuture, WrapFuture,
};
use tokio::sync::oneshot;

use super::clock::Moment;
use super::completer::Completer;
use super::janitor::Janitor;
use super::lease_keeper::{LeaseKeeper, Leave};
use super::messages::{ActorKind, Health, HealthReport, Shutdown, Subscribe};
use super::poller::Poller;
use super::publisher::Publisher;
use super::registry::Registry;
use super::retry::Retry;
use super::shared::{Lifeline, Shared, panics_on_demand};
use crate::error::{PublishError, SystemError};
use crate::event::OutboxEvent;
use crate::publish::NewEvent;

/// Events that share one INSERT, at most.
const MOST: usize = 1_000;

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
            ActorKind::OutboxSystem => {}
        }
    }

    fn all_children(&self) -> Vec<ActorKind> {
        let publishers = self.shared.lines.keys().cloned().map(ActorKind::Publisher);
        [ActorKind::Retry, ActorKind::Completer, ActorKind::Registry]
            .into_iter()
            .chain(publishers)
            .chain([ActorKind::Poller, ActorKind::LeaseKeeper, ActorKind::Janitor])
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
    match shared.store.insert(events.clone()).await {
        Ok(stored) => {
            shared.announce_news();
            for (answer, event) in answers.into_iter().zip(stored) {
                // A sender that went away has its event in the outbox all the same.
                let _ = answer.send(Ok(event));
            }
        }
        Err(_) => {
            for (event, answer) in events.into_iter().zip(answers) {
                let stored = shared
                    .store
                    .insert(vec![event])
                    .await
                    .and_then(|stored| stored.into_iter().next().ok_or(PublishError::Stopped));
                shared.announce_news();
                let _ = answer.send(stored.map_err(single));
            }
        }
    }
}

/// An error about a batch of one is one about the event.
fn single(error: PublishError) -> PublishError {
    match error {
        PublishError::InvalidInBatch { error, .. } => PublishError::Invalid(error),
        other => other,
    }
}

impl Actor for OutboxSystem {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.shared.addresses().system = Some(ctx.address());
        // A predecessor's children without an address of their own die with it, or end when they see that they were replaced.
        for kind in self.all_children() {
            let alive = match &kind {
                ActorKind::Poller | ActorKind::LeaseKeeper | ActorKind::Janitor => false,
                _ => self.shared.is_alive(&kind),
            };
            if !alive {
                self.start_child(&kind);
            }
        }
    }
}

impl Handler<Died> for OutboxSystem {
    type Result = ();

    fn handle(&mut self, Died(kind): Died, _: &mut Self::Context) {
        // A new supervisor may have started one already.
        if !self.shared.is_stopping() && !self.shared.is_alive(&kind) {
            tracing::error!(actor = ?kind, "an actor died; a new one takes its place");
            self.start_child(&kind);
        }
    }
}

impl Handler<NewEvent> for OutboxSystem {
    type Result = ResponseFuture<Result<OutboxEvent, PublishError>>;

    fn handle(&mut self, event: NewEvent, ctx: &mut Self::Context) -> Self::Result {
        let worker = &self.shared.settings.worker;
        // An id of its own from here on, so that an INSERT after a lost answer finds the event rather than writes it twice.
        let event = event.or_defaults(worker.max_retries, worker.max_event_bytes).with_fixed_id();
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
    let backends: BTreeMap<String, Result<(), String>> = shared
        .lines
        .iter()
        .map(|(name, line)| (name.clone(), line.state().down.as_ref().map_or(Ok(()), |down| Err(down.reason.clone()))))
        .collect();
    HealthReport {
        database,
        backends,
        shards: shared.leases.counts().into_iter().map(|(lane, count)| (lane.to_string(), count)).collect(),
        standing_by: shared.standing_by.lock().unwrap_or_else(PoisonError::into_inner).clone(),
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
            if let Some(keeper) = keeper {
                // Leaving is bounded too: the database may be away.
                let _ = tokio::time::timeout(limit.min(Duration::from_secs(10)), keeper.send(Leave)).await;
            }
            let _ = system.send(Stop).await;
            if settled { Ok(()) } else { Err(SystemError::ShutdownTimeout(limit)) }
        })
    }
}

/// The last message.
#[derive(Message)]
#[rtype(result = "()")]
struct Stop;

impl Handler<Stop> for OutboxSystem {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        self.shared.retire_all();
        self.children = Children::default();
        *self.shared.addresses() = super::shared::Addresses::default();
        ctx.stop();
    }
}

panics_on_demand!(OutboxSystem);
